/* selective_scan in mamba_ssm's layout: u, delta, z (B, D, L) with any strides, B and C (B, G, N, L), groups of channels.
 *
 * Forward: a block of VL channels runs along a segment of the sequence, so its VL rows stream; B and C of the segment are
 * turned into rows once for all blocks. Backward: chunks outside, blocks inside, so that dB and dC are summed over
 * channels in vectors and over lanes only once.
 */
#include "task.h"

#define SEGMENT (32 * CHUNK)

ARGUMENTS(selective_scan, SELECTIVE_SCAN_FIELDS);

/* B and C of steps [begin, begin + steps) as rows [B | C]. */
static void read_rows(const selective_scan_args *a, int64_t b, int64_t g, int64_t begin, int64_t steps, float *rows) {
    const int64_t N = a->states;
    const int size = item_size((int)a->bc_dtype);
    for (int half = 0; half < 2; half++) {
        const char *from = half ? a->C + (b * a->C_b + g * a->C_g + begin * a->C_l) * size
                                : a->B + (b * a->B_b + g * a->B_g + begin * a->B_l) * size;
        const int64_t stride_n = half ? a->C_n : a->B_n, stride_l = half ? a->C_l : a->B_l;
        for (int64_t n = 0; n < N; n++)
            for (int64_t t = 0; t < steps; t++)
                rows[t * 2 * N + half * N + n] = load_one(from + (n * stride_n + t * stride_l) * size, (int)a->bc_dtype);
    }
}

typedef struct {
    int64_t b, channel, begin;
    int steps, lanes;
    vf u[CHUNK], pre[CHUNK], dt[CHUNK], dtu[CHUNK], y[CHUNK];
} block;

/* Inputs of one block and chunk; `y` starts as the skip. */
static void read_block(const selective_scan_args *a, block *k, vf skip) {
    const int size = item_size((int)a->dtype), dtype = (int)a->dtype;
    load_tile(k->u, a->u + (k->b * a->u_b + k->channel * a->u_d + k->begin * a->u_l) * size, dtype, a->u_l, a->u_d,
              k->steps, k->lanes);
    load_tile(k->pre, a->delta + (k->b * a->delta_b + k->channel * a->delta_d + k->begin * a->delta_l) * size, dtype,
              a->delta_l, a->delta_d, k->steps, k->lanes);
    const vf bias = load_floats(a->delta_bias ? a->delta_bias + k->channel : NULL, k->lanes);
    for (int t = 0; t < k->steps; t++) {
        k->pre[t] += bias;
        k->dt[t] = a->softplus ? softplus_vf(k->pre[t], 0) : k->pre[t];
        k->dtu[t] = k->dt[t] * k->u[t];
        k->y[t] = skip * k->u[t];
    }
}

INLINE void read_z(const selective_scan_args *a, const block *k, vf *z) {
    load_tile(z, a->z + (k->b * a->z_b + k->channel * a->z_d + k->begin * a->z_l) * item_size((int)a->dtype),
              (int)a->dtype, a->z_l, a->z_d, k->steps, k->lanes);
}
/* silu(z) in z's dtype, as mamba_ssm defines it. */
INLINE vf gate(const selective_scan_args *a, vf z) { return rounded(z * sigmoid_vf(z), (int)a->dtype); }
INLINE char *dense(const selective_scan_args *a, char *base, const block *k) {
    return base + ((k->b * a->channels + k->channel) * a->length + k->begin) * item_size((int)a->dtype);
}
INLINE float *kept_at(const selective_scan_args *a, const block *k) {
    return a->kept + (k->b * ceil_div(a->length, CHUNK) + k->begin / CHUNK) * a->states * a->channels + k->channel;
}

static void forward_task(const selective_scan_args *a, int64_t b, int64_t g, int64_t first, int64_t last) {
    const int64_t N = a->states, blocks = ceil_div(last - first, VL);
    arena scratch = arena_new(2 * N * blocks * sizeof(vf) + min_of(SEGMENT, a->length) * 2 * N * sizeof(float) + 256);
    if (!scratch.base) return;
    vf *A2 = arena_take(&scratch, blocks * N * sizeof(vf));
    vf *h = arena_take(&scratch, blocks * N * sizeof(vf));
    float *rows = arena_take(&scratch, min_of(SEGMENT, a->length) * 2 * N * sizeof(float));
    memset(h, 0, blocks * N * sizeof(vf));
    for (int64_t i = 0; i < blocks; i++)
        load_rates(A2 + i * N, a->A + (first + i * VL) * N, N, (int)min_of(VL, last - first - i * VL));
    for (int64_t segment = 0; segment < a->length; segment += SEGMENT) {
        const int64_t end = min_of(segment + SEGMENT, a->length);
        read_rows(a, b, g, segment, end - segment, rows);
        for (int64_t i = 0; i < blocks; i++) {
            block k = {.b = b, .channel = first + i * VL, .lanes = (int)min_of(VL, last - first - i * VL)};
            const vf skip = load_floats(a->D ? a->D + k.channel : NULL, k.lanes);
            for (k.begin = segment; k.begin < end; k.begin += CHUNK) {
                k.steps = (int)min_of(CHUNK, end - k.begin);
                if (a->kept)
                    for (int64_t n = 0; n < N; n++)
                        store_row((char *)(kept_at(a, &k) + n * a->channels), F32, k.lanes, h[i * N + n]);
                read_block(a, &k, skip);
                const float *row = rows + (k.begin - segment) * 2 * N;
                tile_forward((int)N, k.steps, h + i * N, A2 + i * N, k.dt, k.dtu, row, row + N, 2 * N, k.y,
                             a->dtype != F32);
                if (a->z) {
                    vf z[CHUNK];
                    read_z(a, &k, z);
                    for (int t = 0; t < k.steps; t++) k.y[t] *= gate(a, z[t]);
                }
                store_tile(dense(a, a->out, &k), k.y, (int)a->dtype, 1, a->length, k.steps, k.lanes);
            }
        }
    }
    for (int64_t i = 0; i < blocks; i++)
        add_columns(a->last_state + (b * a->channels + first + i * VL) * N, h + i * N, N,
                    (int)min_of(VL, last - first - i * VL), 1.0f);
    free(scratch.base);
}

/* Parts into which the channels of a group are cut for the threads. */
static int64_t forward_parts(const selective_scan_args *a) {
    const int64_t blocks = ceil_div(a->channels / a->groups, VL);
    return max_of(1, min_of(blocks, ceil_div(a->threads, max_of(a->batch * a->groups, 1))));
}
static void forward_tasks(const void *arguments, int64_t begin, int64_t end) {
    const selective_scan_args *a = arguments;
    const int64_t width = a->channels / a->groups, blocks = ceil_div(width, VL), parts = forward_parts(a);
    for (int64_t task = begin; task < end; task++) {
        const int64_t part = task % parts, g = task / parts % a->groups, b = task / parts / a->groups;
        const int64_t first = blocks * part / parts * VL, last = min_of(blocks * (part + 1) / parts * VL, width);
        if (first < last) forward_task(a, b, g, g * width + first, g * width + last);
    }
}
EXPORT int vimzoo_selective_scan_forward(const selective_scan_args *a) {
    vimzoo_parallel(a->threads, a->batch * a->groups * forward_parts(a), forward_tasks, a);
    return memory_short;
}

typedef struct {
    vf *A2, *dh, *dA, *dbias, *dD;
    float *rows, *acc, *sums; /* rows [B | C] of a chunk, their gradients, and these as tile_backward adds them up */
} backward_scratch;

static void backward_block(const selective_scan_args *a, block *k, const backward_scratch *s, int64_t i) {
    const int64_t N = a->states;
    const int dtype = (int)a->dtype;
    const vf skip = load_floats(a->D ? a->D + k->channel : NULL, k->lanes);
    vf g[CHUNK], dy[CHUNK], z[CHUNK], d_dtu[CHUNK], d_decay[CHUNK], h[N];
    read_block(a, k, skip);
    load_tile(dy, a->dy + (k->b * a->dy_b + k->channel * a->dy_d + k->begin * a->dy_l) * item_size(dtype), dtype,
              a->dy_l, a->dy_d, k->steps, k->lanes);
    if (a->z) read_z(a, k, z);
    for (int t = 0; t < k->steps; t++) g[t] = a->z ? dy[t] * gate(a, z[t]) : dy[t];
    for (int64_t n = 0; n < N; n++)
        h[n] = load_row((const char *)(kept_at(a, k) + n * a->channels), F32, k->lanes);
    const sweep sw = {.dt = k->dt, .dtu = k->dtu, .g = g, .B = s->rows, .C = s->rows + N, .ld = 2 * N,
                      .y = a->z ? k->y : NULL, .d_dtu = d_dtu, .d_decay = d_decay,
                      .sums = s->sums};
    tile_backward((int)N, k->steps, h, s->A2 + i * N, &sw, s->dh + i * N, s->dA + i * N);
    vf dbias = s->dbias[i], dD = s->dD[i];
    for (int t = 0; t < k->steps; t++) {
        const vf d_dt = d_dtu[t] * k->u[t] + d_decay[t] * LN2;
        d_decay[t] = a->softplus ? d_dt * sigmoid_vf(k->pre[t]) : d_dt;
        dbias += d_decay[t];
        dD += g[t] * k->u[t];
        d_dtu[t] = d_dtu[t] * k->dt[t] + g[t] * skip;
        if (a->z) {
            const vf sig = sigmoid_vf(z[t]);
            z[t] = dy[t] * k->y[t] * sig * (1.0f + z[t] * (1.0f - sig));
        }
    }
    s->dbias[i] = dbias;
    s->dD[i] = dD;
    store_tile(dense(a, a->du, k), d_dtu, dtype, 1, a->length, k->steps, k->lanes);
    store_tile(dense(a, a->ddelta, k), d_decay, dtype, 1, a->length, k->steps, k->lanes);
    if (a->z) store_tile(dense(a, a->dz, k), z, dtype, 1, a->length, k->steps, k->lanes);
}

static void backward_image(const selective_scan_args *a, int64_t b, int64_t g, int64_t part, int64_t first,
                           int64_t last, const backward_scratch *s) {
    const int64_t N = a->states, blocks = ceil_div(last - first, VL);
    for (int64_t i = 0; i < blocks; i++) {
        const int lanes = (int)min_of(VL, last - first - i * VL);
        if (a->d_last)
            load_columns(s->dh + i * N, a->d_last + (b * a->channels + first + i * VL) * N, N, lanes, 1.0f);
        else
            memset(s->dh + i * N, 0, N * sizeof(vf));
    }
    block k = {.b = b};
    for (k.begin = (ceil_div(a->length, CHUNK) - 1) * CHUNK; k.begin >= 0; k.begin -= CHUNK) {
        k.steps = (int)min_of(CHUNK, a->length - k.begin);
        read_rows(a, b, g, k.begin, k.steps, s->rows);
        memset(s->sums, 0, SUMS(N) * sizeof(float));
        for (int64_t i = 0; i < blocks; i++) {
            k.channel = first + i * VL;
            k.lanes = (int)min_of(VL, last - k.channel);
            backward_block(a, &k, s, i);
        }
        read_sums((int)N, k.steps, s->sums, s->acc, s->acc + N, 2 * N);
        const int64_t at = ((part * a->batch + b) * a->groups + g) * N;
        for (int t = 0; t < k.steps; t++)
            for (int64_t n = 0; n < N; n++) {
                a->dB[(at + n) * a->length + k.begin + t] = s->acc[t * 2 * N + n];
                a->dC[(at + n) * a->length + k.begin + t] = s->acc[t * 2 * N + N + n];
            }
    }
}

static void backward_task(const selective_scan_args *a, int64_t group, int64_t g, int64_t part, int64_t first,
                          int64_t last) {
    const int64_t N = a->states, blocks = ceil_div(last - first, VL);
    arena scratch = arena_new(blocks * (3 * N + 2) * sizeof(vf) + (2 * CHUNK * 2 * N + SUMS(N)) * sizeof(float) + 1024);
    if (!scratch.base) return;
    const backward_scratch s = {
        .A2 = arena_take(&scratch, blocks * N * sizeof(vf)),
        .dh = arena_take(&scratch, blocks * N * sizeof(vf)),
        .dA = arena_take(&scratch, blocks * N * sizeof(vf)),
        .acc = arena_take(&scratch, CHUNK * 2 * N * sizeof(float)),
        .sums = arena_take(&scratch, SUMS(N) * sizeof(float)),
        .dbias = arena_take(&scratch, blocks * sizeof(vf)),
        .dD = arena_take(&scratch, blocks * sizeof(vf)),
        .rows = arena_take(&scratch, CHUNK * 2 * N * sizeof(float)),
    };
    memset(s.dA, 0, blocks * N * sizeof(vf));
    memset(s.dbias, 0, blocks * sizeof(vf));
    memset(s.dD, 0, blocks * sizeof(vf));
    for (int64_t i = 0; i < blocks; i++)
        load_rates(s.A2 + i * N, a->A + (first + i * VL) * N, N, (int)min_of(VL, last - first - i * VL));
    for (int64_t b = a->batch * group / a->batch_groups; b < a->batch * (group + 1) / a->batch_groups; b++)
        backward_image(a, b, g, part, first, last, &s);
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t channel = first + i * VL, at = group * a->channels + channel;
        const int lanes = (int)min_of(VL, last - channel);
        add_columns(a->dA + at * N, s.dA + i * N, N, lanes, 1.0f);
        add_floats(a->dbias + at, s.dbias[i], lanes);
        add_floats(a->dD + at, s.dD[i], lanes);
    }
    free(scratch.base);
}

/* The split depends on shapes alone, so gradients do not depend on the number of threads. */
static void backward_tasks(const void *arguments, int64_t begin, int64_t end) {
    const selective_scan_args *a = arguments;
    const int64_t width = a->channels / a->groups, blocks = ceil_div(width, VL);
    for (int64_t task = begin; task < end; task++) {
        const int64_t part = task % a->parts, g = task / a->parts % a->groups, group = task / a->parts / a->groups;
        const int64_t first = blocks * part / a->parts * VL;
        const int64_t last = min_of(blocks * (part + 1) / a->parts * VL, width);
        if (first < last) backward_task(a, group, g, part, g * width + first, g * width + last);
    }
}
EXPORT int vimzoo_selective_scan_backward(const selective_scan_args *a) {
    vimzoo_parallel(a->threads, a->batch_groups * a->groups * a->parts, backward_tasks, a);
    return memory_short;
}
