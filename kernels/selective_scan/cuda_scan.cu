// Selective scan, forward: a thread is a channel, its N states are registers, and no thread needs another's values.
//
// A block walks one path of one image for BLOCK channels, TILE steps at a time. The rows [dt | B | C] of a tile, which
// all channels share, go through shared memory as float32; the next tile's are on their way while this one's are used.
// Tokens are worked out once a tile, so a closed form and a table cost the same.
//
// A path and its reverse (Vim) share a block, half of its threads each: of the two that come to a token the first leaves
// its output in memory, the second adds its own and finishes. In the middle, where both come within one tile, they meet
// in shared memory.
#include "cuda_common.cuh"

constexpr int TILE = 8;
constexpr int SHARE = (TILE * COLUMNS + BLOCK - 1) / BLOCK;  // row values that a thread brings
constexpr int RING = 4;  // tiles of tokens: one being written, one fetched from, one in use, and one that slow warps read

struct Tiles {
    alignas(16) float rows[2][TILE * ROW];
    int tokens[RING][TILE];
};

struct Shared {
    Tiles of[PAIRED ? 2 : 1];
    float meeting[PAIRED ? 2 : 1][PAIRED ? TILE : 1][PAIRED ? BLOCK : 1];
};

// Whether some token of a tile is visited by the other one of a pair in the same tile, or in an earlier one. Step s of
// one is step last - s of the other.
__device__ __forceinline__ bool meets_or_follows(int first, int last) { return last <= 2 * first + 2 * (TILE - 1); }

// A tile on its way from memory: what the block shares and what is a thread's own.
struct Pending {
    RowValue rows[SHARE];
    Value x[TILE], delta[R ? 1 : TILE], z[GATED ? TILE : 1];

    __device__ __forceinline__ void fetch(const Arguments& a, const Inputs& in, const int* tokens, int first) {
#pragma unroll
        for (int i = 0; i < SHARE; i++) {
            const int e = thread_of_direction() + i * BLOCK;
            if (in_tile(i)) rows[i] = in.of_row(a, tokens[step_of<TILE>(e)], column_of<TILE>(e));
        }
#pragma unroll
        for (int t = 0; t < TILE; t++) {
            const int token = tokens[t];
            x[t] = in.x_at(a, token);
            if (!R) delta[R ? 0 : t] = in.delta_at(a, token);
            if (GATED && (!PAIRED || meets_or_follows(first, a.steps - 1))) z[GATED ? t : 0] = in.z_at(a, token);
        }
    }

    __device__ __forceinline__ void share(float* to) const {
#pragma unroll
        for (int i = 0; i < SHARE; i++) {
            const int e = thread_of_direction() + i * BLOCK;
            if (in_tile(i)) to[step_of<TILE>(e) * ROW + column_of<TILE>(e)] = widened(rows[i]);
        }
    }

    static __device__ __forceinline__ bool in_tile(int i) {
        return (i + 1) * BLOCK <= TILE * COLUMNS ||
               thread_of_direction() + i * BLOCK < TILE * COLUMNS;
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
        if (OUTPUT == BY_TOKEN || OUTPUT == BY_STEP || PAIRED)
            put(*at_token(out, OUTPUT == BY_STEP ? step : token, a.out_l), y);
    }
};

// Outputs `y` of a tile of one of a pair. For the first of the two to come to a token they stay in `total`; the second
// adds them to its own; what they visit in the same tile the first direction's threads finish.
__device__ __forceinline__ void pair_up(
    const Arguments& a, const Output& output, Shared& block, int k, bool exists, int first, const int* tokens,
    const float (&y)[TILE], const Value* z
) {
    const int last = a.steps - 1, thread = thread_of_direction();
    if (!meets_or_follows(first, last)) {
#pragma unroll
        for (int t = 0; t < TILE; t++)
            if (exists) *at_token(output.total, tokens[t], a.total_l) = y[t];
        return;
    }
    float others[TILE];  // of the other direction
#pragma unroll
    for (int t = 0; t < TILE; t++)
        others[t] = exists && first + t <= last && last - first - t < first
                        ? *at_token(output.total, tokens[t], a.total_l) : 0.0f;
    const bool middle = 2 * first <= last;
    if (middle) {  // of the whole path, in all threads alike
#pragma unroll
        for (int t = 0; t < TILE; t++) {
            block.meeting[k][t][thread] = y[t];
            if (exists && first + t <= last && last - first - t >= first + TILE)
                *at_token(output.total, tokens[t], a.total_l) = y[t];
        }
        __syncthreads();
    }
#pragma unroll
    for (int t = 0; t < TILE; t++) {
        const int there = last - first - t - first;  // the token's place in the same tile of the other direction
        if (!exists || first + t > last || there >= (k ? 0 : TILE)) continue;
        const float other = there < 0 ? others[t] : block.meeting[1][there][thread];
        output.put_at(a, first + t, tokens[t], y[t] + other, GATED ? widened(z[GATED ? t : 0]) : 0.0f);
    }
}

// Grid (images x groups x blocks of channels, directions, or 1 where they share a block).
extern "C" __global__ void __launch_bounds__(PAIRED ? 2 * BLOCK : BLOCK)
    scan_forward(const __grid_constant__ Arguments a) {
    SHARED(Shared, block);
    const Place at(a);
    const Path path(a, at.k);
    const Inputs in(a, at);
    const Parameters p(a, at);
    const Output output(a, at);
    Tiles& shared = block.of[PAIRED ? at.k : 0];
    float w[R ? R : 1], h[N] = {};
#pragma unroll
    for (int r = 0; r < R; r++) w[r] = projection_weight(a, at, r);
    float* state = address<float>(a.states) + at.state(a);

    const int thread = thread_of_direction(), last = path.steps - 1;
    if (thread < TILE) shared.tokens[0][thread] = path[thread];
    __syncthreads();
    Pending next;
    next.fetch(a, in, shared.tokens[0], 0);
    for (int first = 0, tile = 0; first < path.steps; first += TILE, tile++) {
        const Pending now = next;
        float* rows = shared.rows[tile % 2];
        now.share(rows);
        int* after = shared.tokens[(tile + 1) % RING];
        if (thread < TILE) after[thread] = path[first + TILE + thread];
        __syncthreads();
        next.fetch(a, in, after, first + TILE);

        if (a.states && first % CHUNK == 0) {
#pragma unroll
            for (int n = 0; n < N; n++)
                if (at.exists) state[n * a.channels] = h[n];
            state += N * a.channels;
        }
        const int* tokens = shared.tokens[tile % RING];
        float y[TILE];
#pragma unroll
        for (int t = 0; t < TILE; t++) {
            const int step = first + t;
            if (a.last && step > last) break;  // else what happens past the end is not seen
            const float* row = rows + t * ROW;
            const float u = widened(now.x[t]);
            float pre = p.offset + (R ? 0.0f : widened(now.delta[R ? 0 : t]));
#pragma unroll
            for (int r = 0; r < R; r++) pre += w[r] * row[r];
            p.advance(h, step_size(pre), u, row);
            float sums[2] = {p.skip * u, 0.0f};  // two, so that each waits half as often for itself
#pragma unroll
            for (int n = 0; n < N; n++) sums[n % 2] += h[n] * row[R + N + n];
            y[t] = sums[0] + sums[1];
        }
        if constexpr (PAIRED) {
            pair_up(a, output, block, at.k, at.exists, first, tokens, y, now.z);
        } else {
#pragma unroll
            for (int t = 0; t < TILE; t++) {
                const int step = first + t;
                const bool seen = OUTPUT == BY_STEP ? step <= last : path.visits(step, tokens[t]);
                if (at.exists && seen)
                    output.put_at(a, step, tokens[t], y[t], GATED ? widened(now.z[GATED ? t : 0]) : 0.0f);
            }
        }
    }
    if (a.last && at.exists)
#pragma unroll
        for (int n = 0; n < N; n++) address<float>(a.last)[(at.b * a.channels + at.channel) * N + n] = h[n];
}
