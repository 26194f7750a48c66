// Selective scan, backward: a thread is a channel; states are recomputed, sums over channels are made within warps.
//
// A block walks one path of one image backwards, chunk by chunk from the states that the forward pass saved. Of a chunk
// it recomputes the states before every STRETCH steps into shared memory, then takes one stretch after another, last
// first: recomputes its states into registers and sweeps back over them. Sums over channels (of rows' gradients) leave
// one part per block, sums over steps (of parameters' gradients) one per image; the caller adds parts in a fixed order.
#include "cuda_common.cuh"

using Gradient = TypeOf<DX_WIDE ? 0 : DTYPE>::type;  // of x: float32 where several directions' are added up
enum { ONE_DIRECTION = 1, THEIR_SUM };  // what GATED's z multiplies: dz is written, or the outputs that the sum is of
constexpr int LOW = R ? R : 1;  // dt columns, where an array may not be empty
constexpr int STRETCH = N > 8 ? 4 : 8;
constexpr int WARPS = BLOCK / 32;
constexpr bool W_SHARED = R > 16;  // registers would not hold the projection's weights and their gradients as well

// Stride in floats between the lanes' rows of values to be summed, such that eight lanes that write 16 bytes each use
// different banks.
constexpr int SPREAD = ROW % 8 ? ROW : ROW + 4;

struct Room {
    alignas(16) float rows[CHUNK * ROW];
    int tokens[CHUNK];
    float saved[CHUNK / STRETCH][N][BLOCK];
    float pre[STRETCH][BLOCK];  // of a thread's own steps, before softplus
    alignas(16) float values[WARPS][32][SPREAD];
    float sums[2][WARPS][STRETCH][COLUMNS];  // double-buffered: one stretch is summed while the next one is swept
    float w[W_SHARED ? R : 1][BLOCK], sum_w[W_SHARED ? R : 1][BLOCK];
};
static_assert(sizeof(Room) == SHARED_BYTES, "backward_shared in vimzoo/ops/scan/cuda_scans.py computes the same");

__host__ __device__ constexpr int power_of_two(int size) { return size <= 1 ? 1 : 2 * power_of_two((size + 1) / 2); }

// Sums over the warp's lanes of what each put into its row of `values`: column by column, a lane (or, where columns are
// fewer than lanes, several lanes) adding up a column. Takes a third of the instructions of a butterfly of shuffles.
template <int begin = 0>
__device__ __forceinline__ void sum_columns(const float (&values)[32][SPREAD], float* to) {
    constexpr int P = COLUMNS - begin >= 32 ? 32 : power_of_two(COLUMNS - begin), SHARERS = 32 / P;
    const int lane = threadIdx.x % 32, column = begin + lane % P;
    const int read = column < COLUMNS ? column : begin;
    float sum[4] = {};
#pragma unroll
    for (int i = 0; i < P; i++) sum[i % 4] += values[i * SHARERS + lane / P][read];
    float total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
#pragma unroll
    for (int distance = 16; distance >= P; distance /= 2) total += __shfl_xor_sync(~0u, total, distance);
    if (lane < P && column < COLUMNS) to[column] = total;
    if constexpr (begin + P < COLUMNS) sum_columns<begin + P>(values, to);
}

template <class T>
__device__ __forceinline__ void add_or_put(T* to, float v) {  // a table may come back to a token
    put(*to, TABLE ? widened(*to) + v : v);
}

// The gradient of value j of a token's row, of this block's channels.
__device__ __forceinline__ float* row_gradient(const Arguments& a, const Place& at, int token, int j) {
    if (R)
        return at_token(address<float>(a.d_dt) + at.part * a.d_dt_part + at.b * a.d_dt_b + at.k * a.d_dt_k + j, token,
                        a.d_dt_l);
    const i64 part = at.part * a.dB_part;
    if (j < N) return at_token(address<float>(a.dB) + part + at.b * a.dB_b + at.g * a.dB_g + j * a.dB_n, token, a.dB_l);
    return at_token(address<float>(a.dC) + part + at.b * a.dC_b + at.g * a.dC_g + (j - N) * a.dC_n, token, a.dC_l);
}

// Gradients of the rows of a stretch, whose first step is `first`: sums over the block's warps. Where a table may come
// back to a token, a column's values all go through one thread, one after the other.
__device__ __forceinline__ void write_rows(
    const Arguments& a, const Place& at, const Path& path, int first, const int* tokens,
    const float (&sums)[WARPS][STRETCH][COLUMNS]
) {
    for (int e = threadIdx.x; e < (TABLE ? COLUMNS : STRETCH * COLUMNS); e += BLOCK) {
        const int t = TABLE ? 0 : step_of<STRETCH>(e), j = TABLE ? e : column_of<STRETCH>(e);
        for (int i = t; i < (TABLE ? STRETCH : t + 1); i++) {
            if (!path.visits(first + i, tokens[i])) continue;
            float sum = 0.0f;
#pragma unroll
            for (int warp = 0; warp < WARPS; warp++) sum += sums[warp][i][j];
            add_or_put(row_gradient(a, at, tokens[i], j), sum);
        }
    }
}

// What the sweep needs of a stretch's steps.
struct Stretch {
    float h[STRETCH + 1][N], u[STRETCH], delta[STRETCH], dy[STRETCH], gate[GATED ? STRETCH : 1];
};

// Gradients that a thread gathers over all steps.
struct Totals {
    float A[N] = {}, w[W_SHARED ? 1 : LOW] = {}, bias = 0.0f, skip = 0.0f;
};

// Grid and inputs as scan_forward; the blocks' threads are whole warps.
extern "C" __global__ void __launch_bounds__(BLOCK) scan_backward(const __grid_constant__ Arguments a) {
    DYNAMIC_SHARED(Room, room);
    const Place at(a);
    const Path path(a, at.k);
    const Inputs in(a, at);
    const Parameters p(a, at);
    const int thread = threadIdx.x, warp = thread / 32;
    const Value* grad = address<const Value>(a.grad) + at.b * a.grad_b + at.k * a.grad_k + at.channel * a.grad_d;
    const float* states = address<const float>(a.states) + at.state(a);
    float* total = address<float>(a.total) + at.b * a.total_b + at.k * a.total_k + at.channel;
    Value* dz = address<Value>(a.dz) + at.b * a.dz_b + at.channel * a.dz_d;
    Value* d_delta_at = address<Value>(a.d_dt) + at.b * a.d_dt_b + at.channel * a.d_dt_d;  // without R
    Gradient* dx = address<Gradient>(a.dx) + at.b * a.dx_b + at.k * a.dx_k + at.channel * a.dx_d;
    float w[W_SHARED ? 1 : LOW], dh[N];
#pragma unroll
    for (int r = 0; r < R; r++) {
        const float weight = projection_weight(a, at, r);
        if (W_SHARED) {
            room.w[W_SHARED ? r : 0][thread] = weight;
            room.sum_w[W_SHARED ? r : 0][thread] = 0.0f;
        } else {
            w[W_SHARED ? 0 : r] = weight;
        }
    }
    auto weight = [&](int r) { return W_SHARED ? room.w[W_SHARED ? r : 0][thread] : w[W_SHARED ? 0 : r]; };
    auto before_softplus = [&](const float* row, float delta) {
        float pre = p.offset + delta;
#pragma unroll
        for (int r = 0; r < R; r++) pre += weight(r) * row[r];
        return pre;
    };
#pragma unroll
    for (int n = 0; n < N; n++)
        dh[n] = a.grad_last && at.exists
                    ? address<const float>(a.grad_last)[(at.b * a.channels + at.channel) * N + n]
                    : 0.0f;
    Totals totals;
    int turn = 0;

    for (int chunk = (path.steps + CHUNK - 1) / CHUNK - 1; chunk >= 0; chunk--) {
        const int begin = chunk * CHUNK, count = path.steps - begin < CHUNK ? path.steps - begin : CHUNK;
        __syncthreads();  // the last chunk's tokens and rows are no longer read
        if (thread < CHUNK) room.tokens[thread] = path[begin + thread];
        __syncthreads();
        for (int e = thread; e < CHUNK * COLUMNS; e += BLOCK) {
            const int t = step_of<CHUNK>(e), j = column_of<CHUNK>(e), token = room.tokens[t];
            room.rows[t * ROW + j] = widened(in.of_row(a, token, j));
        }
        __syncthreads();

        const int stretches = (count + STRETCH - 1) / STRETCH;
        float h[N];
#pragma unroll
        for (int n = 0; n < N; n++) h[n] = at.exists ? states[(i64)(chunk * N + n) * a.channels] : 0.0f;
        for (int s = 0; s < stretches; s++) {
#pragma unroll
            for (int n = 0; n < N; n++) room.saved[s][n][thread] = h[n];
            if (s + 1 == stretches) break;
#pragma unroll
            for (int i = 0; i < STRETCH; i++) {
                const int t = s * STRETCH + i;
                const float* row = room.rows + t * ROW;
                const int token = room.tokens[t];
                const float delta = step_size(before_softplus(row, widened(in.delta_at(a, token))));
                p.advance(h, delta, widened(in.x_at(a, token)), row);
            }
        }

        for (int s = stretches - 1; s >= 0; s--) {
            const int* tokens = room.tokens + s * STRETCH;
            Stretch of;
#pragma unroll
            for (int i = 0; i < STRETCH; i++) {
                const int step = begin + s * STRETCH + i, token = tokens[i];
                const bool seen = at.exists && path.visits(step, token);
                of.u[i] = widened(in.x_at(a, token));
                if (GATED) of.gate[GATED ? i : 0] = widened(in.z_at(a, token));
                // without a gradient a channel or step that is not there adds nothing to any sum
                of.dy[i] = seen ? widened(*at_token(grad, OUTPUT == BY_STEP ? step : token, a.grad_l)) : 0.0f;
            }
#pragma unroll
            for (int n = 0; n < N; n++) of.h[0][n] = room.saved[s][n][thread];
#pragma unroll
            for (int i = 0; i < STRETCH; i++) {
                const float* row = room.rows + (s * STRETCH + i) * ROW;
                const float pre = before_softplus(row, widened(in.delta_at(a, tokens[i])));
                room.pre[i][thread] = pre;
                // a step past the end has no size and leaves the state as it is
                of.delta[i] = s * STRETCH + i < count ? step_size(pre) : 0.0f;
#pragma unroll
                for (int n = 0; n < N; n++) of.h[i + 1][n] = of.h[i][n];
                p.advance(of.h[i + 1], of.delta[i], of.u[i], row);
            }
#pragma unroll
            for (int i = STRETCH - 1; i >= 0; i--) {
                const float* row = room.rows + (s * STRETCH + i) * ROW;
                const float *B = row + R, *C = row + R + N, u = of.u[i], delta = of.delta[i];
                const int token = tokens[i];
                const bool seen = at.exists && path.visits(begin + s * STRETCH + i, token);
                float dy = of.dy[i];
                if (GATED) {
                    const float gate = of.gate[GATED ? i : 0], s_gate = sigmoid(gate);
                    float y = p.skip * u;
#pragma unroll
                    for (int n = 0; n < N; n++) y += of.h[i + 1][n] * C[n];
                    if (GATED == ONE_DIRECTION && seen)
                        put(*at_token(dz, token, a.dz_l), dy * y * s_gate * (1.0f + gate * (1.0f - s_gate)));
                    if (GATED == THEIR_SUM && seen)
                        add_or_put(at_token(total, token, a.total_l), y);
                    dy *= gate * s_gate;
                }
                float* values = room.values[warp][thread % 32];
                __syncwarp();  // the last step's values have been summed
                float to_B[N], to_C[N], input = delta * u, d_input = 0.0f, d_delta = 0.0f;
#pragma unroll
                for (int n = 0; n < N; n++) {
                    const float full = dh[n] + dy * C[n];
                    to_B[n] = full * input;
                    to_C[n] = dy * of.h[i + 1][n];
                    if (n % 4 == 3 || n + 1 == N)  // four at a time, for which there is one instruction
#pragma unroll
                        for (int m = n / 4 * 4; m <= n; m++) values[R + m] = to_B[m], values[R + N + m] = to_C[m];
                    d_input += full * B[n];
                    dh[n] = full * exp2_of(delta * p.A2[n]);
                    const float through = dh[n] * of.h[i][n];
                    d_delta += through * p.A2[n];
                    totals.A[n] += through * delta;
                }
                float d_pre = d_delta * LN2 + d_input * u;
                if (SOFTPLUS) d_pre *= sigmoid(room.pre[i][thread]);
                d_pre = s * STRETCH + i < count ? d_pre : 0.0f;
                totals.bias += d_pre;
                totals.skip += dy * u;
                if (seen) {
                    const float du = d_input * delta + dy * p.skip;
                    add_or_put(at_token(dx, token, a.dx_l), du);
                    if (!R) put(*at_token(d_delta_at, token, a.d_dt_l), d_pre);
                }
#pragma unroll
                for (int r = 0; r < R; r++) {
                    values[r] = weight(r) * d_pre;
                    if (W_SHARED)
                        room.sum_w[W_SHARED ? r : 0][thread] += d_pre * row[r];
                    else
                        totals.w[W_SHARED ? 0 : r] += d_pre * row[r];
                }
                __syncwarp();
                sum_columns(room.values[warp], room.sums[turn][warp][i]);
            }
            __syncthreads();
            write_rows(a, at, path, begin + s * STRETCH, tokens, room.sums[turn]);
            turn ^= 1;
        }
    }

    if (!at.exists) return;
    const i64 to = at.parameter(a);
#pragma unroll
    for (int n = 0; n < N; n++) address<float>(a.dA)[to * N + n] = totals.A[n];
#pragma unroll
    for (int r = 0; r < R; r++)
        address<float>(a.dW)[to * R + r] = W_SHARED ? room.sum_w[W_SHARED ? r : 0][thread] : totals.w[W_SHARED ? 0 : r];
    if (a.bias) address<float>(a.dbias)[to] = totals.bias;
    if (a.D) address<float>(a.dD)[to] = totals.skip;
}
