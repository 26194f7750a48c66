// Selective scan, forward: a thread is a channel, its N states are registers, and no thread needs another's values.
//
// A block walks one path of one image for BLOCK channels, TILE steps at a time. The rows [dt | B | C] of a tile, which
// all channels share, go through shared memory as float32; the next tile's are on their way while this one's are used.
// Tokens are worked out once a tile, so a closed form and a table cost the same.
#include "cuda_common.cuh"

constexpr int TILE = 8;
constexpr int SHARE = (TILE * COLUMNS + BLOCK - 1) / BLOCK;  // row values that a thread brings
constexpr int RING = 4;  // tiles of tokens: one being written, one fetched from, one in use, and one that slow warps read

struct Tiles {
    alignas(16) float rows[2][TILE * ROW];
    int tokens[RING][TILE];
};

// A tile on its way from memory: what the block shares and what is a thread's own.
struct Pending {
    RowValue rows[SHARE];
    Value x[TILE], delta[R ? 1 : TILE], z[GATED ? TILE : 1];

    __device__ __forceinline__ void fetch(const Arguments& a, const Inputs& in, const int* tokens) {
#pragma unroll
        for (int i = 0; i < SHARE; i++) {
            const int e = threadIdx.x + i * BLOCK;
            if (in_tile(i)) rows[i] = in.of_row(a, tokens[step_of<TILE>(e)], column_of<TILE>(e));
        }
#pragma unroll
        for (int t = 0; t < TILE; t++) {
            const int token = tokens[t];
            x[t] = in.x_at(a, token);
            if (!R) delta[R ? 0 : t] = in.delta_at(a, token);
            if (GATED) z[GATED ? t : 0] = in.z_at(a, token);
        }
    }

    __device__ __forceinline__ void share(float* to) const {
#pragma unroll
        for (int i = 0; i < SHARE; i++) {
            const int e = threadIdx.x + i * BLOCK;
            if (in_tile(i)) to[step_of<TILE>(e) * ROW + column_of<TILE>(e)] = widened(rows[i]);
        }
    }

    static __device__ __forceinline__ bool in_tile(int i) {
        return (i + 1) * BLOCK <= TILE * COLUMNS || threadIdx.x + i * BLOCK < TILE * COLUMNS;
    }
};

// Where outputs of an image, direction and channel go.
struct Output {
    float* total;
    Value* out;

    __device__ __forceinline__ Output(const Arguments& a, const Place& at)
        : total(address<float>(a.total) + at.b * a.total_b + at.k * a.total_k + at.channel),
          out(address<Value>(a.out) + at.b * a.out_b + at.k * a.out_k + at.channel * a.out_d) {}

    __device__ __forceinline__ void put_at(const Arguments& a, int step, int token, float y, float gate) const {
        if (OUTPUT == BY_DIRECTION) {
            float* to = at_token(total, token, a.total_l);
            *to = TABLE ? *to + y : y;  // a table may come back to a token; then memory was zeroed
        }
        if (GATED) y *= gate * sigmoid(gate);
        if (OUTPUT == BY_TOKEN || OUTPUT == BY_STEP) put(*at_token(out, OUTPUT == BY_STEP ? step : token, a.out_l), y);
    }
};

// Grid (images x groups x blocks of channels, directions). With `guard` nothing happens where that float is zero.
extern "C" __global__ void __launch_bounds__(BLOCK) scan_forward(const __grid_constant__ Arguments a) {
    if (a.guard && *address<const float>(a.guard) == 0.0f) return;
    SHARED(Tiles, shared);
    const Place at(a);
    const Path path(a, at.k);
    const Inputs in(a, at);
    const Parameters p(a, at);
    const Output output(a, at);
    float w[R ? R : 1], h[N] = {};
#pragma unroll
    for (int r = 0; r < R; r++) w[r] = projection_weight(a, at, r);
    float* state = address<float>(a.states) + at.state(a);

    const int thread = threadIdx.x;
    if (thread < TILE) shared.tokens[0][thread] = path[thread];
    __syncthreads();
    Pending next;
    next.fetch(a, in, shared.tokens[0]);
    for (int first = 0, tile = 0; first < path.steps; first += TILE, tile++) {
        const Pending now = next;
        float* rows = shared.rows[tile % 2];
        now.share(rows);
        int* after = shared.tokens[(tile + 1) % RING];
        if (thread < TILE) after[thread] = path[first + TILE + thread];
        __syncthreads();
        next.fetch(a, in, after);

        if (a.states && first % CHUNK == 0) {
#pragma unroll
            for (int n = 0; n < N; n++)
                if (at.exists) state[n * a.channels] = h[n];
            state += N * a.channels;
        }
        const int* tokens = shared.tokens[tile % RING];
#pragma unroll
        for (int t = 0; t < TILE; t++) {
            if (a.last && first + t >= path.steps) break;  // else what happens past the end is not seen
            const float* row = rows + t * ROW;
            const float u = widened(now.x[t]);
            float pre = p.offset + (R ? 0.0f : widened(now.delta[R ? 0 : t]));
#pragma unroll
            for (int r = 0; r < R; r++) pre += w[r] * row[r];
            p.advance(h, step_size(pre), u, row);
            float y[2] = {p.skip * u, 0.0f};  // two sums, so that each waits half as often for itself
#pragma unroll
            for (int n = 0; n < N; n++) y[n % 2] += h[n] * row[R + N + n];
            const float gate = GATED ? widened(now.z[GATED ? t : 0]) : 0.0f;
            const bool seen = OUTPUT == BY_STEP ? first + t < path.steps : path.visits(first + t, tokens[t]);
            if (at.exists && seen) output.put_at(a, first + t, tokens[t], y[0] + y[1], gate);
        }
    }
    if (a.last && at.exists)
#pragma unroll
        for (int n = 0; n < N; n++) address<float>(a.last)[(at.b * a.channels + at.channel) * N + n] = h[n];
}
