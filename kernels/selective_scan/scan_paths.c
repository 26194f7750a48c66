/* scan_paths on channels-last tokens: dt projection, softplus, the recurrence along K paths, skip, merge and gate.
 *
 * Tokens are read and written in place; a path is a sequence of token numbers, computed CHUNK steps at a time.
 * The chunk loop is outside the channel loop, so memory is streamed row by row whatever the path.
 */
#include "task.h"

ARGUMENTS(scan_paths, SCAN_PATHS_FIELDS);

static int64_t token_at(const scan_paths_args *a, int64_t k, int64_t step) {
    const int64_t code = a->codes[k];
    if (a->table) { /* checked by the operator, but memory shared with NumPy can change afterwards */
        const int64_t token = a->table[k * a->steps + step];
        return token < a->length ? token : -1;
    }
    if (code & 1) step = a->length - 1 - step;
    return code >= PATH_COLUMN ? (step % a->height) * a->width + step / a->height : step;
}

/* Every path visits each token exactly once: outputs can be stored instead of added to zeros. */
INLINE int covers(const scan_paths_args *a) { return !a->table; }

typedef struct {
    int64_t k, b, begin, steps;   /* direction, image, first step, number of steps of this chunk */
    int64_t token[CHUNK];
    float *rows;                  /* CHUNK rows [dt | B | C] */
    int64_t columns;
} chunk;

static void read_chunk(const scan_paths_args *a, chunk *c) {
    for (int64_t t = 0; t < c->steps; t++) {
        const int64_t token = c->token[t] = token_at(a, c->k, c->begin + t);
        float *row = c->rows + t * c->columns;
        if (token < 0) {
            memset(row, 0, c->columns * sizeof(float));
            continue;
        }
        const char *from = a->x_dbl + (c->b * a->r_b + token * a->r_l + c->k * a->r_k) * item_size(a->dtype);
        if (a->dtype == F32) {
            memcpy(row, from, c->columns * sizeof(float));
            continue;
        }
        for (int64_t i = 0; i < c->columns; i += VL) {
            const int lanes = (int)min_of(VL, c->columns - i);
            store_row((char *)(row + i), F32, lanes, load_row(from + i * 2, a->dtype, lanes));
        }
    }
}

static void read_tokens(const chunk *c, vf *tile, const char *base, int64_t stride, int dtype, int lanes) {
    SPECIALISE(dtype, lanes, {
        for (int64_t t = 0; t < c->steps; t++)
            tile[t] = c->token[t] < 0 ? splat(0.0f)
                                      : load_row(base + c->token[t] * stride * item_size(dtype_), dtype_, lanes_);
    });
}

/* dt projection and bias: before softplus. */
static void project_dt(const chunk *c, const vf *w, vf bias, int64_t rank, vf *pre) {
    int64_t t = 0;
    for (; t + 4 <= c->steps; t += 4) {
        const float *row = c->rows + t * c->columns;
        vf p0 = bias, p1 = bias, p2 = bias, p3 = bias;
        for (int64_t r = 0; r < rank; r++) {
            const vf v = w[r];
            p0 += v * row[r];
            p1 += v * row[r + c->columns];
            p2 += v * row[r + 2 * c->columns];
            p3 += v * row[r + 3 * c->columns];
        }
        pre[t] = p0, pre[t + 1] = p1, pre[t + 2] = p2, pre[t + 3] = p3;
    }
    for (; t < c->steps; t++) {
        vf p = bias;
        for (int64_t r = 0; r < rank; r++) p += w[r] * c->rows[t * c->columns + r];
        pre[t] = p;
    }
}

/* One direction's parameters for the channel blocks of a task: per block N vectors A2, R vectors w. */
static void read_parameters(const scan_paths_args *a, int64_t k, int64_t first, int64_t last, vf *A2, vf *w) {
    for (int64_t c = first, i = 0; c < last; c += VL, i++) {
        const int lanes = (int)min_of(VL, last - c);
        load_columns(A2 + i * a->states, a->A + k * a->A_k + c * a->states, a->states, lanes, LOG2E);
        load_columns(w + i * a->rank, a->dt_weight + k * a->w_k + c * a->rank, a->rank, lanes, 1.0f);
    }
}

INLINE float *kept_at(const scan_paths_args *a, const chunk *c, int64_t channel) {
    const int64_t chunks = ceil_div(a->steps, CHUNK);
    return a->kept + (((c->b * a->directions + c->k) * chunks + c->begin / CHUNK) * a->states) * a->channels + channel;
}

/* Adds a tile to the running sum over directions; the last direction gates it and writes the output. */
INLINE void write_merged_as(const scan_paths_args *a, const chunk *c, const vf *y, char *total, const int total_dtype,
                            int64_t total_stride, int64_t channel, const int dtype, const int lanes) {
    const int size = item_size(dtype), total_size = item_size(total_dtype);
    const int first = covers(a) && c->k == 0, last = covers(a) && c->k == a->directions - 1;
    char *out = a->out + (c->b * a->length * a->channels + channel) * size;
    const char *gate = a->z ? a->z + (c->b * a->z_b + channel) * size : NULL;
    for (int64_t t = 0; t < c->steps; t++) {
        const int64_t token = c->token[t];
        if (token < 0) continue;
        char *to = total + token * total_stride * total_size;
        vf v = y[t];
        if (!first) v += load_row(to, total_dtype, lanes);
        if (!last) {
            store_row(to, total_dtype, lanes, v);
            continue;
        }
        if (gate) {
            const vf z = load_row(gate + token * a->z_l * size, dtype, lanes);
            v *= z * sigmoid_vf(z);
        }
        store_row(out + token * a->channels * size, dtype, lanes, v);
    }
}

static void write_merged(const scan_paths_args *a, const chunk *c, const vf *y, char *total, int total_dtype,
                         int64_t total_stride, int64_t channel, int lanes) {
    if (total_dtype == F32)
        SPECIALISE(a->dtype, lanes, write_merged_as(a, c, y, total, F32, total_stride, channel, dtype_, lanes_));
    else
        write_merged_as(a, c, y, total, total_dtype, total_stride, channel, (int)a->dtype, lanes);
}

/* Paths that leave tokens out or visit them twice: gate and round what was summed. */
static void finish_merged(const scan_paths_args *a, int64_t b, const float *total, int64_t first, int64_t last) {
    const int size = item_size(a->dtype);
    for (int64_t token = 0; token < a->length; token++)
        for (int64_t c = first; c < last; c += VL) {
            const int lanes = (int)min_of(VL, last - c);
            vf v = load_row((const char *)(total + token * (last - first) + c - first), F32, lanes);
            if (a->z) {
                const vf z = load_row(a->z + (b * a->z_b + token * a->z_l + c) * size, a->dtype, lanes);
                v *= z * sigmoid_vf(z);
            }
            store_row(a->out + ((b * a->length + token) * a->channels + c) * size, a->dtype, lanes, v);
        }
}

/* One image and the channels [first, last): every direction, chunk after chunk. Blocks of VL channels are inside the
 * chunk loop, so that a chunk's rows [dt | B | C] are read once; the states of all blocks wait in `h` meanwhile. */
static void forward_task(const scan_paths_args *a, int64_t b, int64_t first, int64_t last) {
    const int64_t width = last - first, blocks = ceil_div(width, VL), columns = a->rank + 2 * a->states;
    const int size = item_size(a->dtype), in_place = a->dtype == F32 && covers(a);
    /* float32 outputs add up directions in the output itself, other dtypes in scratch memory */
    const int own_total = a->merge && !in_place && (a->directions > 1 || !covers(a));
    arena scratch = arena_new((2 * a->states + a->rank) * blocks * sizeof(vf) + (columns * CHUNK + 16) * 4 + 512 +
                              (own_total ? a->length * width * sizeof(float) : 0));
    vf *A2 = arena_take(&scratch, blocks * a->states * sizeof(vf));
    vf *h = arena_take(&scratch, blocks * a->states * sizeof(vf));
    vf *w = arena_take(&scratch, blocks * a->rank * sizeof(vf));
    chunk c = {.b = b, .rows = arena_take(&scratch, columns * CHUNK * sizeof(float)), .columns = columns};
    float *total = own_total ? arena_take(&scratch, a->length * width * sizeof(float)) : NULL;
    if (own_total && !covers(a)) memset(total, 0, a->length * width * sizeof(float));
    vf u[CHUNK], dt[CHUNK], dtu[CHUNK], y[CHUNK];

    for (c.k = 0; c.k < a->directions; c.k++) {
        read_parameters(a, c.k, first, last, A2, w);
        memset(h, 0, blocks * a->states * sizeof(vf));
        for (c.begin = 0; c.begin < a->steps; c.begin += CHUNK) {
            c.steps = min_of(CHUNK, a->steps - c.begin);
            read_chunk(a, &c);
            for (int64_t i = 0; i < blocks; i++) {
                const int64_t channel = first + i * VL;
                const int lanes = (int)min_of(VL, last - channel);
                vf *state = h + i * a->states;
                if (a->kept)
                    for (int64_t n = 0; n < a->states; n++)
                        store_row((char *)(kept_at(a, &c, channel) + n * a->channels), F32, lanes, state[n]);
                read_tokens(&c, u, a->x + (b * a->x_b + c.k * a->x_k + channel) * size, a->x_l, a->dtype, lanes);
                const float *bias = a->dt_bias + c.k * a->bias_k + channel;
                project_dt(&c, w + i * a->rank, load_floats(bias, lanes), a->rank, dt);
                const vf skip = a->D ? load_floats(a->D + c.k * a->D_k + channel, lanes) : splat(0.0f);
                for (int64_t t = 0; t < c.steps; t++) {
                    dt[t] = softplus_vf(dt[t]);
                    dtu[t] = dt[t] * u[t];
                    y[t] = skip * u[t];
                }
                tile_forward((int)a->states, (int)c.steps, state, A2 + i * a->states, dt, dtu, c.rows + a->rank,
                             c.rows + a->rank + a->states, columns, y);
                if (!a->merge)
                    store_tile(a->out + (((b * a->directions + c.k) * a->steps + c.begin) * a->channels + channel) * size,
                               y, a->dtype, a->channels, 1, (int)c.steps, lanes);
                else if (own_total)
                    write_merged(a, &c, y, (char *)(total + i * VL), F32, width, channel, lanes);
                else
                    write_merged(a, &c, y, a->out + (b * a->length * a->channels + channel) * size, a->dtype,
                                 a->channels, channel, lanes);
            }
        }
    }
    if (a->merge && !covers(a)) finish_merged(a, b, total, first, last);
    free(scratch.base);
}

EXPORT void vimzoo_scan_paths_forward(const scan_paths_args *a) {
    const int threads = (int)a->threads;
    const int64_t blocks = ceil_div(a->channels, VL);
    const int64_t parts = max_of(1, min_of(blocks, ceil_div(threads, max_of(a->batch, 1))));
    PARALLEL_FOR(threads)
    for (int64_t task = 0; task < a->batch * parts; task++) {
        const int64_t part = task % parts;
        const int64_t first = blocks * part / parts * VL, last = blocks * (part + 1) / parts * VL;
        forward_task(a, task / parts, first, min_of(last, a->channels));
    }
}

/* Each gradient of x is written once, so nothing needs to be added up. */
INLINE int owns_dx(const scan_paths_args *a) { return covers(a) && a->x_directions == a->directions; }

/* Scratch memory of a backward task: what each channel block carries from chunk to chunk. */
typedef struct {
    vf *A2, *w, *dh, *dA, *dw, *dbias, *dD;
    int64_t width;            /* channels of this task */
    float *rows, *acc, *sums; /* inputs and gradients of the chunk's rows [dt | B | C]; scratch for lane sums */
} backward_scratch;

static void backward_block(const scan_paths_args *a, const chunk *c, const backward_scratch *s, int64_t i,
                           int64_t channel, int lanes, float *sum_y) {
    const int size = item_size(a->dtype);
    const int64_t N = a->states, columns = c->columns;
    vf u[CHUNK], pre[CHUNK], dt[CHUNK], dtu[CHUNK], g[CHUNK], y[CHUNK], d_dtu[CHUNK], d_decay[CHUNK], h[N];
    read_tokens(c, u, a->x + (c->b * a->x_b + c->k * a->x_k + channel) * size, a->x_l, a->dtype, lanes);
    project_dt(c, s->w + i * a->rank, load_floats(a->dt_bias + c->k * a->bias_k + channel, lanes), a->rank, pre);
    if (a->merge)
        read_tokens(c, g, a->dy + (c->b * a->dy_b + channel) * size, a->dy_l, a->dtype, lanes);
    else
        load_tile(g, a->dy + (c->b * a->dy_b + c->k * a->dy_k + c->begin * a->dy_l + channel) * size, a->dtype,
                  a->dy_l, 1, (int)c->steps, lanes);
    const vf skip = a->D ? load_floats(a->D + c->k * a->D_k + channel, lanes) : splat(0.0f);
    for (int64_t t = 0; t < c->steps; t++) {
        if (c->token[t] < 0) g[t] = splat(0.0f);
        else if (a->z) {
            const vf z = load_row(a->z + (c->b * a->z_b + c->token[t] * a->z_l + channel) * size, a->dtype, lanes);
            g[t] *= z * sigmoid_vf(z);
        }
        dt[t] = softplus_vf(pre[t]);
        dtu[t] = dt[t] * u[t];
        y[t] = skip * u[t];
        d_dtu[t] = d_decay[t] = splat(0.0f);
    }
    for (int64_t n = 0; n < N; n++)
        h[n] = load_row((const char *)(kept_at(a, c, channel) + n * a->channels), F32, lanes);
    const sweep sw = {.dt = dt, .dtu = dtu, .g = g, .B = c->rows + a->rank, .C = c->rows + a->rank + N, .ld = columns,
                      .y = sum_y ? y : NULL, .d_dtu = d_dtu, .d_decay = d_decay,
                      .dB = s->acc + a->rank, .dC = s->acc + a->rank + N, .acc_ld = columns};
    tile_backward((int)N, (int)c->steps, h, s->A2 + i * N, &sw, s->dh + i * N, s->dA + i * N);

    const int own_dx = owns_dx(a);
    vf dbias = s->dbias[i], dD = s->dD[i];
    for (int64_t t = 0; t < c->steps; t++) {
        const vf d_dt = d_dtu[t] * u[t] + d_decay[t] * LN2, du = d_dtu[t] * dt[t] + g[t] * skip;
        pre[t] = d_dt * sigmoid_vf(pre[t]); /* now the gradient before softplus */
        dbias += pre[t];
        dD += g[t] * u[t];
        if (c->token[t] < 0) continue;
        const int64_t dx_row = (c->b * a->length + c->token[t]) * a->x_directions + (a->x_directions > 1 ? c->k : 0);
        if (!own_dx) add_floats((float *)a->dx + dx_row * a->channels + channel, du, lanes);
        else store_row(a->dx + (dx_row * a->channels + channel) * size, a->dtype, lanes, du);
        if (sum_y) add_floats(sum_y + c->token[t] * s->width + i * VL, y[t], lanes);
    }
    s->dbias[i] = dbias;
    s->dD[i] = dD;
    for (int64_t r = 0; r < a->rank; r++) {
        vf dw = s->dw[i * a->rank + r];
        for (int64_t t = 0; t < c->steps; t++) dw += pre[t] * c->rows[t * columns + r];
        s->dw[i * a->rank + r] = dw;
    }
    lane_sums narrow = {.out = s->sums};
    for (int64_t t = 0; t < c->steps; t++)
        for (int64_t r = 0; r < a->rank; r++) push_sum(&narrow, pre[t] * s->w[i * a->rank + r]);
    flush_sums(&narrow);
    for (int64_t t = 0; t < c->steps; t++)
        for (int64_t r = 0; r < a->rank; r += VL) {
            const int width = (int)min_of(VL, a->rank - r);
            add_floats(s->acc + t * columns + r, load_floats(s->sums + t * a->rank + r, width), width);
        }
}

static void backward_image(const scan_paths_args *a, chunk *c, const backward_scratch *s, int64_t first, int64_t last,
                           int64_t part, float *sum_y) {
    const int64_t blocks = ceil_div(last - first, VL);
    for (c->begin = (ceil_div(a->steps, CHUNK) - 1) * CHUNK; c->begin >= 0; c->begin -= CHUNK) {
        c->steps = min_of(CHUNK, a->steps - c->begin);
        read_chunk(a, c);
        memset(s->acc, 0, c->steps * c->columns * sizeof(float));
        for (int64_t i = 0; i < blocks; i++) {
            const int64_t channel = first + i * VL;
            backward_block(a, c, s, i, channel, (int)min_of(VL, last - channel), sum_y);
        }
        for (int64_t t = 0; t < c->steps; t++) {
            if (c->token[t] < 0) continue;
            const int64_t at = (part * a->batch + c->b) * a->length + c->token[t];
            float *row = a->dx_dbl + (at * a->row_directions + (a->row_directions > 1 ? c->k : 0)) * c->columns;
            for (int64_t j = 0; j < c->columns; j++) row[j] += s->acc[t * c->columns + j];
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
    arena scratch = arena_new(per_block * blocks * sizeof(vf) + 3 * CHUNK * columns * 4 + 2048 +
                              (a->z ? a->length * width * sizeof(float) : 0));
    backward_scratch s = {.width = width};
    s.A2 = arena_take(&scratch, blocks * N * sizeof(vf));
    s.dh = arena_take(&scratch, blocks * N * sizeof(vf));
    s.dA = arena_take(&scratch, blocks * N * sizeof(vf));
    s.w = arena_take(&scratch, blocks * R * sizeof(vf));
    s.dw = arena_take(&scratch, blocks * R * sizeof(vf));
    s.dbias = arena_take(&scratch, blocks * sizeof(vf));
    s.dD = arena_take(&scratch, blocks * sizeof(vf));
    s.rows = arena_take(&scratch, CHUNK * columns * sizeof(float));
    s.acc = arena_take(&scratch, CHUNK * columns * sizeof(float));
    s.sums = arena_take(&scratch, (CHUNK * R + VL) * sizeof(float));
    chunk c = {.rows = s.rows, .columns = columns};
    float *sum_y = a->z ? arena_take(&scratch, a->length * width * sizeof(float)) : NULL;

    for (c.b = a->batch * group / a->batch_groups; c.b < a->batch * (group + 1) / a->batch_groups; c.b++) {
        if (sum_y) memset(sum_y, 0, a->length * width * sizeof(float));
        for (c.k = 0; c.k < a->directions; c.k++) {
            read_parameters(a, c.k, first, last, s.A2, s.w);
            memset(s.dh, 0, blocks * N * sizeof(vf));
            memset(s.dA, 0, blocks * N * sizeof(vf));
            memset(s.dw, 0, blocks * R * sizeof(vf));
            memset(s.dbias, 0, blocks * sizeof(vf));
            memset(s.dD, 0, blocks * sizeof(vf));
            backward_image(a, &c, &s, first, last, part, sum_y);
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
EXPORT void vimzoo_scan_paths_backward(const scan_paths_args *a) {
    const int threads = (int)a->threads;
    const int64_t blocks = ceil_div(a->channels, VL);
    PARALLEL_FOR(threads)
    for (int64_t task = 0; task < a->batch_groups * a->parts; task++) {
        const int64_t part = task % a->parts;
        const int64_t first = blocks * part / a->parts * VL, last = blocks * (part + 1) / a->parts * VL;
        if (first < a->channels)
            backward_task(a, task / a->parts, part, first, min_of(last, a->channels));
    }
}
