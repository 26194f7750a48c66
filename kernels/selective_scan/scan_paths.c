/* scan_paths on channels-last tokens, forward: dt projection, softplus, the recurrence along K paths, skip, merge and gate.
 *
 * Tokens are read and written in place; a path is a sequence of token numbers, computed CHUNK steps at a time.
 * The chunk loop is outside the channel loop, so memory is streamed row by row whatever the path.
 */
#include "paths.h"

ARGUMENT_NAMES(scan_paths, SCAN_PATHS_FIELDS);

/* Where the outputs of one block of channels go. */
typedef struct {
    float *total;                            /* running sum over directions */
    char *out;
    const char *gate;                        /* or NULL */
    int64_t total_step, out_step, gate_step; /* items from token to token */
    int first, last;                         /* the first direction stores its sum, the last one writes the output */
} merger;

/* Adds a step's output to the running sum; the last direction gates it and writes the output. */
INLINE void merge_step(const merger *m, int64_t token, vf v, const int dtype, const int lanes) {
    const int size = item_size(dtype);
    if (token < 0) return;
    float *total = m->total + token * m->total_step;
    if (!m->first) v += load_floats(total, lanes);
    if (!m->last) {
        store_row((char *)total, F32, lanes, v);
        return;
    }
    if (m->gate) v *= silu_vf(load_row(m->gate + token * m->gate_step * size, dtype, lanes), dtype != F32);
    store_row(m->out + token * m->out_step * size, dtype, lanes, v);
}

INLINE void merge_tile(const chunk *c, const vf *y, const merger *to, const int dtype, const int lanes) {
    const merger m = *to;
    for (int64_t t = 0; t < c->steps; t++) {
        merge_step(&m, c->token[t], y[t], dtype, lanes);
        ask_later(c, t, m.total, m.total_step, sizeof *m.total);
    }
}

/* Paths that leave tokens out or visit them twice: gate and round what was summed. */
static void finish_merged(const scan_paths_args *a, int64_t b, const float *total, int64_t first, int64_t last) {
    const int dtype = (int)a->dtype, size = item_size(dtype);
    for (int64_t token = 0; token < a->length; token++)
        for (int64_t c = first; c < last; c += VL) {
            const int lanes = (int)min_of(VL, last - c);
            vf v = load_floats(total + token * (last - first) + c - first, lanes);
            if (a->z)
                v *= silu_vf(load_row(a->z + (b * a->z_b + token * a->z_l + c) * size, dtype, lanes), dtype != F32);
            store_row(a->out + ((b * a->length + token) * a->channels + c) * size, dtype, lanes, v);
        }
}

/* One block of channels of a direction. */
typedef struct {
    const parameters *params;
    int64_t index; /* of the block in `params` */
    vf bias, skip;
    const char *x; /* its first token, x_l items from one to the next */
    int64_t x_l, rank;
} inputs;

/* Step sizes, their products with the input, and the skip connection, of the steps of a chunk. */
INLINE void prepare(const chunk *c, const inputs *from, const int dtype, const int lanes, vf *restrict dt,
                    vf *restrict dtu, vf *restrict y) {
    const inputs in = *from;
    vf pre[CHUNK];
    for (int64_t t = 0; t < c->steps; t += AT_ONCE) project_dt(c, t, in.params, in.index, in.rank, in.bias, pre + t);
    for (int64_t t = 0; t < c->steps; t++) {
        const vf u = read_token(c, t, in.x, in.x_l, dtype, lanes);
        ask_later(c, t, in.x, in.x_l, item_size(dtype));
        dt[t] = softplus_vf(pre[t], dtype != F32);
        dtu[t] = dt[t] * u;
        y[t] = in.skip * u;
    }
}

/* All of a chunk for one state a channel: a step stays in registers from the projection to the merged output. */
INLINE void scan_one_state(const chunk *c, const inputs *from, vf *state, const merger *to, const int dtype,
                           const int lanes) {
    const inputs in = *from;
    const merger m = *to;
    const vf A2 = in.params->A2[in.index];
    vf h = *state;
    for (int64_t t = 0; t < c->steps; t += AT_ONCE) {
        vf pre[AT_ONCE];
        project_dt(c, t, in.params, in.index, in.rank, in.bias, pre);
#pragma GCC unroll 8
        for (int i = 0; i < AT_ONCE; i++) pre[i] = softplus_vf(pre[i], dtype != F32);
#pragma GCC unroll 8
        for (int i = 0; i < AT_ONCE; i++) {
            if (t + i == c->steps) break;
            const float *B = c->rows + (t + i) * c->columns + in.rank, *C = B + 1;
            const vf u = read_token(c, t + i, in.x, in.x_l, dtype, lanes);
            ask_for(in.x + (c->token[t + i] * in.x_l + VL) * item_size(dtype)); /* the next block's, which is cheaper to find */
            ask_for(m.total + c->token[t + i] * m.total_step + VL);
            h = exp2_vf(computed(pre[i] * A2), dtype != F32) * h + pre[i] * u * *B;
            merge_step(&m, c->token[t + i], h * *C + in.skip * u, dtype, lanes);
        }
    }
    *state = h;
}

/* One image and the channels [first, last): every direction, chunk after chunk. Blocks of VL channels are inside the
 * chunk loop, so that a chunk's rows [dt | B | C] are read once; the states of all blocks wait in `h` meanwhile. */
static void forward_task(const scan_paths_args *a, int64_t b, int64_t first, int64_t last) {
    const int64_t N = a->states, R = a->rank, width = last - first, blocks = ceil_div(width, VL), columns = R + 2 * N;
    const int dtype = (int)a->dtype, size = item_size(dtype);
    /* float32 outputs add up directions in the output itself, other dtypes in scratch memory */
    const int own_total = a->merge && (a->directions > 1 || !covers(a)) && !(dtype == F32 && covers(a));
    arena scratch = arena_new((2 * N + R + R / 2) * blocks * sizeof(vf) + CHUNK * columns * sizeof(float) + 512 +
                              (own_total ? a->length * width * sizeof(float) : 0));
    if (!scratch.base) return;
    parameters params = {.A2 = arena_take(&scratch, blocks * N * sizeof(vf)),
                         .w = arena_take(&scratch, blocks * R * sizeof(vf))};
    vf *h = arena_take(&scratch, blocks * N * sizeof(vf));
#if defined(PAIRS)
    if (dtype == BF16) params.pairs = arena_take(&scratch, blocks * (R / 2) * sizeof(vi));
#endif
    chunk c = {.b = b, .rows = arena_take(&scratch, CHUNK * columns * sizeof(float)), .columns = columns, .ahead = CHUNK};
    float *total = own_total ? arena_take(&scratch, a->length * width * sizeof(float)) : NULL;
    if (own_total && !covers(a)) memset(total, 0, a->length * width * sizeof(float));
    vf dt[CHUNK], dtu[CHUNK], y[CHUNK];

    for (c.k = 0; c.k < a->directions; c.k++) {
        read_parameters(a, c.k, first, last, &params);
        memset(h, 0, blocks * N * sizeof(vf));
        load_blocks(h, a->initial, states_at(a, b, c.k), N, first, last);
        for (c.begin = 0; c.begin < a->steps; c.begin += CHUNK) {
            c.steps = min_of(CHUNK, a->steps - c.begin);
            read_chunk(a, &c);
            for (int64_t i = 0; i < blocks; i++) {
                const int64_t channel = first + i * VL;
                const int lanes = (int)min_of(VL, last - channel);
                vf *state = h + i * N;
                if (a->kept)
                    for (int64_t n = 0; n < N; n++)
                        store_row((char *)(kept_at(a, &c, channel) + n * a->channels), F32, lanes, state[n]);
                const inputs in = {
                    .params = &params, .index = i, .rank = R, .x_l = a->x_l,
                    .x = a->x + (b * a->x_b + c.k * a->x_k + channel) * size,
                    .bias = load_floats(a->dt_bias + c.k * a->bias_k + channel, lanes),
                    .skip = load_floats(a->D ? a->D + c.k * a->D_k + channel : NULL, lanes)};
                char *out = a->out + (b * a->length * a->channels + channel) * size;
                const merger to = {
                    .total = own_total ? total + i * VL : (float *)out, .total_step = own_total ? width : a->channels,
                    .out = out, .out_step = a->channels,
                    .gate = a->z ? a->z + (b * a->z_b + channel) * size : NULL, .gate_step = a->z_l,
                    .first = covers(a) && c.k == 0, .last = covers(a) && c.k == a->directions - 1};
                if (N == 1 && a->merge && VL != 8) { /* AVX2 is faster with tiles */
                    SPECIALISE(dtype, lanes, scan_one_state(&c, &in, state, &to, dtype_, lanes_));
                    continue;
                }
                SPECIALISE(dtype, lanes, prepare(&c, &in, dtype_, lanes_, dt, dtu, y));
                tile_forward((int)N, (int)c.steps, state, params.A2 + i * N, dt, dtu, c.rows + R, c.rows + R + N, columns,
                             y, dtype != F32);
                if (a->merge) SPECIALISE(dtype, lanes, merge_tile(&c, y, &to, dtype_, lanes_));
                else
                    store_tile(a->out + (((b * a->directions + c.k) * a->steps + c.begin) * a->channels + channel) * size,
                               y, dtype, a->channels, 1, (int)c.steps, lanes);
            }
        }
        add_blocks(a->last, states_at(a, b, c.k), h, N, first, last);
    }
    if (a->merge && !covers(a)) finish_merged(a, b, total, first, last);
    free(scratch.base);
}

/* Parts into which the channels are cut for the threads. */
static int64_t forward_parts(const scan_paths_args *a) {
    return max_of(1, min_of(ceil_div(a->channels, VL), ceil_div(a->threads, max_of(a->batch, 1))));
}
static void forward_tasks(const void *arguments, int64_t begin, int64_t end) {
    const scan_paths_args *a = arguments;
    const int64_t blocks = ceil_div(a->channels, VL), parts = forward_parts(a);
    for (int64_t task = begin; task < end; task++) {
        const int64_t part = task % parts;
        const int64_t first = blocks * part / parts * VL, last = blocks * (part + 1) / parts * VL;
        forward_task(a, task / parts, first, min_of(last, a->channels));
    }
}
EXPORT int vimzoo_scan_paths_forward(const scan_paths_args *a) {
    vimzoo_parallel(a->threads, a->batch * forward_parts(a), forward_tasks, a);
    return memory_short;
}
