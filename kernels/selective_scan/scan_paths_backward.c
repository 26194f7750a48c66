/* Gradients of scan_paths: chunks from the last to the first, each recomputed from the states before it.
 *
 * Channel blocks are inside the chunk loop, so that sums over channels are collected per chunk and written once.
 */
#include "paths.h"

/* Each gradient of x is written once, so nothing needs to be added up. */
INLINE int owns_dx(const scan_paths_args *a) { return covers(a) && a->x_directions == a->directions; }

/* Up to so many channels, a chunk's rows of all tensors stay in the second-level cache beside the next one's. */
enum { NARROW = 256 };

/* Scratch memory of a backward task: what each channel block carries from chunk to chunk. */
typedef struct {
    parameters params;
    vf *dh, *dA, *dw, *dbias, *dD;
    int64_t width;            /* channels of this task */
    float *rows, *acc;        /* the chunk's rows [dt | B | C]; gradients of them */
    float *sums, *d_dt;       /* gradients of B and C as tile_backward adds them up; those of dt by column */
} backward_scratch;

static void read_tokens(const chunk *c, vf *tile, const char *base, int64_t stride, int dtype, int lanes) {
    SPECIALISE(dtype, lanes, {
        for (int64_t t = 0; t < c->steps; t++) {
            tile[t] = read_token(c, t, base, stride, dtype_, lanes_);
            ask_later(c, t, base, stride, item_size(dtype_));
        }
    });
}

/* dw += <gradient before softplus, dt columns>, over the steps; several columns at once, as each is a chain of sums. */
static void weight_gradients(const chunk *c, const vf *pre, vf *dw, int64_t rank) {
    int64_t r = 0;
#define COLUMNS(count)                                                                                  \
    for (; r + count <= rank; r += count) {                                                             \
        vf sum[count];                                                                                  \
        for (int j = 0; j < count; j++) sum[j] = dw[r + j];                                             \
        for (int64_t t = 0; t < c->steps; t++)                                                          \
            for (int j = 0; j < count; j++) sum[j] += pre[t] * c->rows[t * c->columns + r + j];         \
        for (int j = 0; j < count; j++) dw[r + j] = sum[j];                                             \
    }
    COLUMNS(6) COLUMNS(1)
#undef COLUMNS
}

/* d_dt += <gradient before softplus, weights>, over the channels of a block: with steps as lanes after a transposition,
 * sums over channels stay in a lane. weight: `lanes` rows of `rank`; d_dt: CHUNK steps for each dt column. */
static void rank_gradients(const vf *pre, const float *weight, int64_t rank, int lanes, float *d_dt) {
    for (int t = 0; t < CHUNK; t += VL) {
        vf by_channel[VL];
        for (int i = 0; i < VL; i++) by_channel[i] = pre[t + i];
        transpose_vf(by_channel);
        int64_t r = 0;
#define COLUMNS(count)                                                                                  \
    for (; r + count <= rank; r += count) {                                                             \
        vf sum[count];                                                                                  \
        for (int j = 0; j < count; j++) sum[j] = load_floats(d_dt + (r + j) * CHUNK + t, VL);           \
        for (int i = 0; i < lanes; i++)                                                                 \
            for (int j = 0; j < count; j++) sum[j] += by_channel[i] * weight[i * rank + r + j];         \
        for (int j = 0; j < count; j++) store_row((char *)(d_dt + (r + j) * CHUNK + t), F32, VL, sum[j]); \
    }
        COLUMNS(6) COLUMNS(1)
#undef COLUMNS
    }
}

static void backward_block(const scan_paths_args *a, const chunk *c, const backward_scratch *s, int64_t i,
                           int64_t channel, int lanes, float *sum_y) {
    const int size = item_size(a->dtype);
    const int64_t N = a->states, columns = c->columns;
    vf u[CHUNK], pre[CHUNK], dt[CHUNK], dtu[CHUNK], g[CHUNK], y[CHUNK], d_dtu[CHUNK], d_decay[CHUNK], h[N];
    read_tokens(c, u, a->x + (c->b * a->x_b + c->k * a->x_k + channel) * size, a->x_l, a->dtype, lanes);
    const vf bias = load_floats(a->dt_bias + c->k * a->bias_k + channel, lanes);
    for (int64_t t = 0; t < c->steps; t += AT_ONCE) project_dt(c, t, &s->params, i, a->rank, bias, pre + t);
    if (a->merge)
        read_tokens(c, g, a->dy + (c->b * a->dy_b + channel) * size, a->dy_l, a->dtype, lanes);
    else
        load_tile(g, a->dy + (c->b * a->dy_b + c->k * a->dy_k + c->begin * a->dy_l + channel) * size, a->dtype,
                  a->dy_l, 1, (int)c->steps, lanes);
    const vf skip = a->D ? load_floats(a->D + c->k * a->D_k + channel, lanes) : splat(0.0f);
    for (int64_t t = 0; t < c->steps; t++) {
        if (c->token[t] < 0) g[t] = splat(0.0f);
        else if (a->z) {
            const char *z = a->z + (c->b * a->z_b + channel) * size;
            g[t] *= silu_vf(read_token(c, t, z, a->z_l, a->dtype, lanes), 0);
            ask_later(c, t, z, a->z_l, size);
        }
        dt[t] = softplus_vf(pre[t], 0);
        dtu[t] = dt[t] * u[t];
        if (sum_y) y[t] = skip * u[t];
    }
    for (int64_t n = 0; n < N; n++) {
        const float *kept = kept_at(a, c, channel) + n * a->channels;
        h[n] = load_row((const char *)kept, F32, lanes);
        ask_for(kept + (c->side ? VL : -N * a->channels));
    }
    const sweep sw = {.dt = dt, .dtu = dtu, .g = g, .B = c->rows + a->rank, .C = c->rows + a->rank + N, .ld = columns,
                      .y = sum_y ? y : NULL, .d_dtu = d_dtu, .d_decay = d_decay,
                      .sums = s->sums};
    tile_backward((int)N, (int)c->steps, h, s->params.A2 + i * N, &sw, s->dh + i * N, s->dA + i * N);

    const int own_dx = owns_dx(a);
    const int64_t row = c->b * a->length * a->x_directions + (a->x_directions > 1 ? c->k : 0);
    char *dx = a->dx + (row * a->channels + channel) * (own_dx ? size : (int)sizeof(float));
    vf dbias = s->dbias[i], dD = s->dD[i];
    for (int64_t t = 0; t < c->steps; t++) {
        const vf d_dt = d_dtu[t] * u[t] + d_decay[t] * LN2, du = d_dtu[t] * dt[t] + g[t] * skip;
        pre[t] = d_dt * sigmoid_vf(pre[t]); /* now the gradient before softplus */
        dbias += pre[t];
        dD += g[t] * u[t];
        if (c->token[t] < 0) continue;
        const int64_t token = c->token[t] * a->x_directions * a->channels;
        if (own_dx) store_row(dx + token * size, a->dtype, lanes, du);
        else if (covers(a) && c->k == 0) store_row(dx + token * sizeof(float), F32, lanes, du);
        else add_floats((float *)dx + token, du, lanes);
        ask_later(c, t, dx, a->x_directions * a->channels, own_dx ? size : (int)sizeof(float));
        if (sum_y) add_floats(sum_y + c->token[t] * s->width + i * VL, y[t], lanes);
    }
    s->dbias[i] = dbias;
    s->dD[i] = dD;
    for (int64_t t = c->steps; t < CHUNK; t++) pre[t] = splat(0.0f);
    weight_gradients(c, pre, s->dw + i * a->rank, a->rank);
    const float *weight = a->dt_weight + c->k * a->w_k + channel * a->rank;
    rank_gradients(pre, weight, a->rank, lanes, s->d_dt);
}

/* first: nothing was added to the row before. */
static void add_row(float *to, const float *from, int64_t columns, int first) {
    const int64_t wide = in_vectors(columns);
    if (first) EACH_VECTOR(wide, store_row((char *)(to + c), F32, lanes, load_floats(from + c, lanes)));
    else EACH_VECTOR(wide, add_floats(to + c, load_floats(from + c, lanes), lanes));
    for (int64_t c = wide; c < columns; c++) to[c] = first ? from[c] : to[c] + from[c];
}

/* Gradient of the row of x_dbl that a step reads. */
static float *row_gradient(const scan_paths_args *a, const chunk *c, int64_t part, int64_t t) {
    const int64_t at = (part * a->batch + c->b) * a->length + c->token[t];
    return a->dx_dbl + (at * a->row_directions + (a->row_directions > 1 ? c->k : 0)) * row_width(a);
}

static void backward_image(const scan_paths_args *a, chunk *c, const backward_scratch *s, int64_t first, int64_t last,
                           int64_t part, float *sum_y) {
    const int64_t blocks = ceil_div(last - first, VL);
    const int first_visit = covers(a) && (c->k == 0 || a->row_directions > 1);
    for (c->begin = (ceil_div(a->steps, CHUNK) - 1) * CHUNK; c->begin >= 0; c->begin -= CHUNK) {
        c->steps = min_of(CHUNK, a->steps - c->begin);
        read_chunk(a, c);
        memset(s->sums, 0, SUMS(a->states) * sizeof(float));
        memset(s->d_dt, 0, CHUNK * a->rank * sizeof(float));
        for (int64_t t = 0; t < c->steps; t++)
            for (int64_t i = 0; i < row_width(a); i += 64 / (int)sizeof(float)) ask_for(row_gradient(a, c, part, t) + i);
        for (int64_t i = 0; i < blocks; i++) {
            const int64_t channel = first + i * VL;
            backward_block(a, c, s, i, channel, (int)min_of(VL, last - channel), sum_y);
        }
        for (int64_t r = 0; r < a->rank; r += VL) { /* back to a row for each step, beside those of B and C */
            const int width = (int)min_of(VL, a->rank - r);
            vf steps[CHUNK];
            load_columns(steps, s->d_dt + r * CHUNK, CHUNK, width, 1.0f);
            for (int64_t t = 0; t < c->steps; t++)
                store_row((char *)(s->acc + t * c->columns + r), F32, width, steps[t]);
        }
        float *dB = s->acc + a->rank;
        read_sums((int)a->states, (int)c->steps, s->sums, dB, dB + a->states, c->columns);
        for (int64_t t = 0; t < c->steps; t++) {
            if (c->token[t] < 0) continue;
            add_row(row_gradient(a, c, part, t), s->acc + t * c->columns, row_width(a), first_visit);
        }
    }
}

/* dz = dy * y * silu'(z), with y summed over directions. */
static void gate_gradient(const scan_paths_args *a, int64_t b, const float *sum_y, int64_t first, int64_t last) {
    const int size = item_size(a->dtype);
    for (int64_t token = 0; token < a->length; token++)
        for (int64_t c = first; c < last; c += VL) {
            const int lanes = (int)min_of(VL, last - c);
            const vf z = load_row(a->z + (b * a->z_b + token * a->z_l + c) * size, a->dtype, lanes);
            const vf dy = load_row(a->dy + (b * a->dy_b + token * a->dy_l + c) * size, a->dtype, lanes);
            const vf y = load_floats(sum_y + token * (last - first) + c - first, lanes);
            const vf s = sigmoid_vf(z);
            store_row(a->dz + ((b * a->length + token) * a->channels + c) * size, a->dtype, lanes,
                      dy * y * s * (1.0f + z * (1.0f - s)));
        }
}

static void backward_task(const scan_paths_args *a, int64_t group, int64_t part, int64_t first, int64_t last) {
    const int64_t width = last - first, blocks = ceil_div(width, VL), N = a->states, R = a->rank, columns = R + 2 * N;
    const int64_t per_block = 3 * N + 2 * R + 2;
    arena scratch = arena_new(per_block * blocks * sizeof(vf) + 3 * CHUNK * columns * 4 + SUMS(N) * 4 + 2048 +
                              (a->z ? a->length * width * sizeof(float) : 0));
    if (!scratch.base) return;
    backward_scratch s = {.width = width};
    s.params.A2 = arena_take(&scratch, blocks * N * sizeof(vf));
    s.dh = arena_take(&scratch, blocks * N * sizeof(vf));
    s.dA = arena_take(&scratch, blocks * N * sizeof(vf));
    s.params.w = arena_take(&scratch, blocks * R * sizeof(vf));
    s.dw = arena_take(&scratch, blocks * R * sizeof(vf));
    s.dbias = arena_take(&scratch, blocks * sizeof(vf));
    s.dD = arena_take(&scratch, blocks * sizeof(vf));
    s.rows = arena_take(&scratch, CHUNK * columns * sizeof(float));
    s.acc = arena_take(&scratch, CHUNK * columns * sizeof(float));
    s.sums = arena_take(&scratch, SUMS(N) * sizeof(float));
    s.d_dt = arena_take(&scratch, CHUNK * R * sizeof(float));
    chunk c = {.rows = s.rows, .columns = columns, .ahead = -CHUNK, .side = width > NARROW ? VL : 0};
    float *sum_y = a->z ? arena_take(&scratch, a->length * width * sizeof(float)) : NULL;

    for (c.b = a->batch * group / a->batch_groups; c.b < a->batch * (group + 1) / a->batch_groups; c.b++) {
        if (sum_y) memset(sum_y, 0, a->length * width * sizeof(float));
        for (c.k = 0; c.k < a->directions; c.k++) {
            read_parameters(a, c.k, first, last, &s.params);
            memset(s.dh, 0, blocks * N * sizeof(vf));
            load_blocks(s.dh, a->d_last, states_at(a, c.b, c.k), N, first, last);
            memset(s.dA, 0, blocks * N * sizeof(vf));
            memset(s.dw, 0, blocks * R * sizeof(vf));
            memset(s.dbias, 0, blocks * sizeof(vf));
            memset(s.dD, 0, blocks * sizeof(vf));
            backward_image(a, &c, &s, first, last, part, sum_y);
            add_blocks(a->d_initial, states_at(a, c.b, c.k), s.dh, N, first, last);
            for (int64_t i = 0; i < blocks; i++) {
                const int64_t channel = first + i * VL, at = (group * a->directions + c.k) * a->channels + channel;
                const int lanes = (int)min_of(VL, last - channel);
                add_columns(a->dA + at * N, s.dA + i * N, N, lanes, 1.0f);
                add_columns(a->dW + at * R, s.dw + i * R, R, lanes, 1.0f);
                add_floats(a->dbias + at, s.dbias[i], lanes);
                if (a->dD) add_floats(a->dD + at, s.dD[i], lanes);
            }
        }
        if (a->z) gate_gradient(a, c.b, sum_y, first, last);
    }
    free(scratch.base);
}

/* The split into batch_groups x parts depends on shapes alone, so results do not depend on the number of threads. */
static void backward_tasks(const void *arguments, int64_t begin, int64_t end) {
    const scan_paths_args *a = arguments;
    const int64_t blocks = ceil_div(a->channels, VL);
    for (int64_t task = begin; task < end; task++) {
        const int64_t part = task % a->parts;
        const int64_t first = blocks * part / a->parts * VL, last = blocks * (part + 1) / a->parts * VL;
        if (first < a->channels)
            backward_task(a, task / a->parts, part, first, min_of(last, a->channels));
    }
}
EXPORT int vimzoo_scan_paths_backward(const scan_paths_args *a) {
    vimzoo_parallel(a->threads, a->batch_groups * a->parts, backward_tasks, a);
    return memory_short;
}
