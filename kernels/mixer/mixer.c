/* The mixers of Vim, VMamba and MambaIR in one call: projection, convolution, scan, norm, gate, projection.
 *
 * Each step is the kernel that the layers call one by one elsewhere. Images are worked off in groups of a few hundred
 * tokens, whose activations stay in the caches from one step to the next.
 */
#include "../norm/add_norm.h"
#include "../product/product.h"

ARGUMENTS(mixer, MIXER_FIELDS);
ARGUMENT_STRUCT(scan_paths, SCAN_PATHS_FIELDS);
ARGUMENT_STRUCT(causal_conv1d, CAUSAL_CONV1D_FIELDS);
ARGUMENT_STRUCT(depthwise, DEPTHWISE_FIELDS);
int vimzoo_scan_paths_forward(const scan_paths_args *a);
int vimzoo_causal_conv1d_forward(const causal_conv1d_args *a);
int vimzoo_depthwise_forward(const depthwise_args *a);

enum { TOKENS = 256, IN_CACHE = 2048 }; /* of a group of images; of a normalised part, which stays in the second-level cache */

/* Parameters as the kernels read them. */
typedef struct {
    const float *conv_weight, *conv_bias, *A, *dt_weight, *dt_bias, *D, *norm_weight, *norm_bias, *first_weight,
        *first_bias;
} floats;

/* A = -exp(A_log). */
static const float *decay_rates(arena *scratch, const char *p, int64_t dtype, int64_t count) {
    float *out = arena_take(scratch, count * sizeof(float));
    for (int64_t i = 0; i < count; i += VL) {
        const int lanes = (int)min_of(VL, count - i);
        store_row((char *)(out + i), F32, lanes, -exp2_vf(load_row(p + i * item_size(dtype), dtype, lanes) * LOG2E, 0));
    }
    return out;
}

static floats read_parameters(const mixer_args *a, arena *scratch) {
    const int64_t K = a->directions, D = a->inner, dtype = a->dtype, filters = a->taps ? a->convolutions : 1;
    return (floats){
        .conv_weight = as_floats(scratch, a->conv_weight, dtype, filters * D * (a->taps ? a->taps : 9)),
        .conv_bias = as_floats(scratch, a->conv_bias, dtype, filters * D),
        .A = decay_rates(scratch, a->A_log, a->A_dtype, (a->A_k ? K : 1) * D * a->states),
        .dt_weight = as_floats(scratch, a->dt_weight, dtype, (a->w_k ? K : 1) * D * a->rank),
        .dt_bias = as_floats(scratch, a->dt_bias, dtype, (a->bias_k ? K : 1) * D),
        .D = as_floats(scratch, a->D, dtype, (a->D_k ? K : 1) * D),
        .norm_weight = as_floats(scratch, a->norm_weight, dtype, D),
        .norm_bias = as_floats(scratch, a->norm_bias, dtype, D),
        .first_weight = as_floats(scratch, a->first_weight, dtype, a->dim),
        .first_bias = as_floats(scratch, a->first_bias, dtype, a->dim)};
}

static int threads_for(const mixer_args *a, double nanoseconds) {
    return (int)max_of(1, min_of(a->threads, (int64_t)(nanoseconds / GRAIN)));
}

/* A product, with p.weight or with a weight of 8 or 4 bits. */
static void multiply(const mixer_args *a, product_args p, const char *quantized) {
    p.dtype = a->dtype;
    p.out_row = p.add_row = p.columns;
    const double each = 0.016 * 16 / VL * item_size(a->dtype) / 4; /* nanoseconds of a multiply-add where they are slow */
    p.threads = threads_for(a, each * (double)(p.rows * p.depth * p.columns));
    vimzoo_product_with(&p, quantized);
}

/* The norm before the mixer of a group's tokens, which start `at` items after those of the first image -> normed. */
static void normalise(const mixer_args *a, const floats *f, int64_t tokens, int64_t at, char *normed) {
    const add_norm_args norm = {
        .rows = tokens, .channels = a->dim, .rms = a->first_rms, .x_dtype = a->dtype, .kept_dtype = a->kept_dtype,
        .residual_dtype = a->residual_dtype, .threads = threads_for(a, 0.5 * (double)(tokens * a->dim)),
        .x = a->x + at * item_size(a->dtype), .weight = f->first_weight, .bias = f->first_bias, .eps = a->first_eps,
        .residual = a->residual ? a->residual + at * item_size(a->residual_dtype) : NULL, .out = normed,
        .kept = a->kept ? a->kept + at * item_size(a->kept_dtype) : NULL};
    vimzoo_add_norm_forward(&norm);
}

/* Convolution and SiLU of the first `inner` columns of xz, (tokens, wide) -> u, (convolutions, tokens, inner). */
static void convolve(const mixer_args *a, const floats *f, int64_t images, const char *xz, int64_t wide, char *u) {
    const int64_t length = a->height * a->width, items = images * length * a->inner;
    if (a->taps) {
        const causal_conv1d_args conv = {
            .batch = images, .length = length, .channels = a->inner, .directions = a->convolutions, .taps = a->taps,
            .silu = 1, .dtype = a->dtype, .threads = threads_for(a, 0.15 * (double)(items * a->convolutions * a->taps)),
            .x = xz, .x_b = length * wide, .x_l = wide, .weight = f->conv_weight, .bias = f->conv_bias,
            .reverse = a->reverse, .out = u};
        vimzoo_causal_conv1d_forward(&conv);
    } else {
        const depthwise_args conv = {
            .batch = images, .height = a->height, .width = a->width, .channels = a->inner, .silu = 1, .dtype = a->dtype,
            .dilation = 1, .threads = threads_for(a, 0.3 * (double)items), .x = xz, .x_b = length * wide, .x_h = a->width * wide,
            .x_w = wide, .weight = f->conv_weight, .bias = f->conv_bias, .out = u};
        vimzoo_depthwise_forward(&conv);
    }
}

/* Scratch for one activation. Each has a block of its own: glibc takes larger ones from the system, with a fault per page. */
static char *room(int64_t bytes) { return arena_new(bytes).base; }

/* A group of images from `first` on. */
static void mix(const mixer_args *a, const floats *f, int64_t first, int64_t images) {
    const int64_t length = a->height * a->width, tokens = images * length, size = item_size(a->dtype);
    const int64_t wide = a->gated ? 2 * a->inner : a->inner, columns = a->rank + 2 * a->states;
    const int64_t separate = a->convolutions > 1, at = first * length * a->dim;
    char *normed = a->first_weight ? room(min_of(IN_CACHE, tokens) * a->dim * size) : NULL;
    char *xz = room(tokens * wide * size);
    char *u = room(tokens * a->inner * a->convolutions * size);
    char *rows = room(tokens * columns * a->projections * size);
    char *y = room(tokens * a->inner * size), *z = a->gated ? xz + a->inner * size : NULL;
    if (memory_short) goto end;

    for (int64_t t = 0; t < tokens; t += IN_CACHE) {
        const int64_t some = min_of(IN_CACHE, tokens - t), from = at + t * a->dim;
        if (normed) normalise(a, f, some, from, normed);
        multiply(a, (product_args){.rows = some, .depth = a->dim, .columns = wide, .x_row = a->dim,
                                   .x = normed ? normed : a->x + from * size,
                                   .weight = a->in_weight, .bias = a->in_bias, .scale = 1.0, .out = xz + t * wide * size}, a->in_quantized);
    }
    convolve(a, f, images, xz, wide, u);
    for (int64_t k = 0; k < a->convolutions; k++)
        multiply(a, (product_args){.rows = tokens, .depth = a->inner, .columns = separate ? columns : columns * a->projections,
                                   .x = u + k * tokens * a->inner * size, .x_row = a->inner,
                                   .weight = a->x_proj + k * a->p_k * size, .scale = 1.0,
                                   .out = rows + k * tokens * columns * size}, NULL);
    const int64_t r_l = separate ? columns : columns * a->projections;
    const scan_paths_args scan = {
        .batch = images, .length = length, .channels = a->inner, .directions = a->directions, .states = a->states,
        .rank = a->rank, .steps = length, .height = a->height, .width = a->width, .merge = 1, .dtype = a->dtype,
        .threads = threads_for(a, (0.6 + 0.08 * (double)a->states) * (double)(tokens * a->inner * a->directions)),
        .x_directions = a->convolutions, .row_directions = a->projections, .x = u, .x_dbl = rows,
        .z = a->norm_weight ? NULL : z, .x_b = length * a->inner, .x_l = a->inner,
        .x_k = separate ? tokens * a->inner : 0, .r_b = length * r_l, .r_l = r_l,
        .r_k = separate ? tokens * columns : a->projections > 1 ? columns : 0, .z_b = length * wide, .z_l = wide,
        .A = f->A, .dt_weight = f->dt_weight, .dt_bias = f->dt_bias, .D = f->D, .A_k = a->A_k, .w_k = a->w_k,
        .bias_k = a->bias_k, .D_k = a->D_k, .codes = a->codes, .out = y};
    vimzoo_scan_paths_forward(&scan);
    for (int64_t t = 0; t < tokens; t += IN_CACHE) {
        const int64_t some = min_of(IN_CACHE, tokens - t), to = at + t * a->dim;
        char *part = y + t * a->inner * size;
        if (a->norm_weight) {
            const add_norm_args norm = {.rows = some, .channels = a->inner, .x_dtype = a->dtype, .x = part, .out = part,
                                        .threads = threads_for(a, 0.5 * (double)(some * a->inner)),
                                        .weight = f->norm_weight, .bias = f->norm_bias, .eps = a->eps,
                                        .gate = z ? z + t * wide * size : NULL, .gate_row = wide};
            vimzoo_add_norm_forward(&norm);
        }
        multiply(a, (product_args){.rows = some, .depth = a->inner, .columns = a->dim, .x = part, .x_row = a->inner,
                                   .weight = a->out_weight, .bias = a->out_bias, .scale = a->scale,
                                   .add = a->add ? a->add + to * size : NULL, .out = a->out + to * size}, a->out_quantized);
    }
end:
    free(normed), free(xz), free(u), free(rows), free(y);
}

EXPORT int vimzoo_mixer_forward(const mixer_args *a) {
    const int64_t length = a->height * a->width, D = a->inner, K = a->directions;
    const int64_t group = min_of(a->batch, max_of(1, TOKENS / length));
    const int64_t numbers = K * D * (a->states + a->rank + a->taps + 15) + 2 * a->dim + 512;
    arena scratch = arena_new(numbers * sizeof(float) + 1024);
    if (!scratch.base) return memory_short;
    const floats f = read_parameters(a, &scratch);
    for (int64_t i = 0; i < a->batch; i += group) mix(a, &f, i, min_of(group, a->batch - i));
    free(scratch.base);
    return memory_short;
}
