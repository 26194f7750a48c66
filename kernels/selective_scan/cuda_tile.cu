// SS2D's scan with all directions in one block: a map of LANES channels lies in shared memory, is read there along every
// path, and the directions' outputs are added up beside it. Each activation crosses memory once.
//
// A thread has one channel and SPAN steps of a path. What reaches its steps from earlier ones is found in two passes, as
// in any chunked scan: first the state after its own steps from an empty start, and how much a state decays over them;
// then, with the chunks before it combined, the steps once more, with outputs. That doubles the exponentials, so it pays
// for few states. Directions follow one another, in the order in which their outputs are to be added.
#include "cuda_common.cuh"

constexpr int CARRY = 1 + N;  // of a chunk: how far it goes (the sum of its step sizes), and its last state
constexpr int ROW_BYTES = COLUMNS * (int)sizeof(RowValue), WORDS = (ROW_BYTES + 3) / 4;

// A row in registers, loaded LOAD bytes at once; both its length and its place are multiples of these.
struct Row {
    unsigned words[WORDS];

    __device__ __forceinline__ void load(const RowValue* from) {
        if constexpr (LOAD == 16) {
#pragma unroll
            for (int i = 0; i < WORDS / 4; i++) {
                const uint4 four = reinterpret_cast<const uint4*>(from)[i];
                words[4 * i] = four.x, words[4 * i + 1] = four.y, words[4 * i + 2] = four.z, words[4 * i + 3] = four.w;
            }
        } else if constexpr (LOAD == 4) {
#pragma unroll
            for (int i = 0; i < WORDS; i++) words[i] = reinterpret_cast<const unsigned*>(from)[i];
        } else {
#pragma unroll
            for (int i = 0; i < WORDS; i++) words[i] = 0;
#pragma unroll
            for (int j = 0; j < COLUMNS; j++)
                words[j / 2] |= (unsigned)reinterpret_cast<const unsigned short*>(from)[j] << (16 * (j % 2));
        }
    }

    __device__ __forceinline__ float operator[](int j) const {
        if (sizeof(RowValue) == 4) return __uint_as_float(words[j < WORDS ? j : 0]);
        const unsigned short bits = words[j / 2] >> (16 * (j % 2));
        return DTYPE == 1 ? widened(bf16{bits}) : widened(f16{bits});
    }
};

// A walk along a closed form without a division for every step.
struct Walk {
    int token, inner, stride, count, turn;

    __device__ __forceinline__ Walk(const Path& path, int step) {
        const int sign = path.code & 1 ? -1 : 1, column = path.code >= PATH_COLUMN;
        stride = sign * (column ? path.width : 1);
        count = column ? path.height : path.steps;
        turn = sign * (column ? 1 - (path.height - 1) * path.width : 1);
        token = path[step];
        inner = step % count;
    }

    __device__ __forceinline__ void operator++() {
        const bool turns = ++inner == count;
        token += turns ? turn : stride;
        inner = turns ? 0 : inner;
    }
};

// Where in shared memory a token lies: chunks of a row-wise path start in different banks.
__device__ __forceinline__ int place(int token, int lane) { return (token + token / SPAN) * LANES + lane; }

// Grid (images x blocks of LANES channels, 1); BLOCK threads, of which LANES work on each chunk.
extern "C" __global__ void __launch_bounds__(BLOCK) scan_tile(const __grid_constant__ Arguments a) {
    DYNAMIC_SHARED(float, memory);
    const int thread = threadIdx.x, lane = thread % LANES, chunk = thread / LANES;
    const int chunks = (a.steps + SPAN - 1) / SPAN, items = (a.steps + chunks) * LANES;
    float *sum = &memory, *carries = sum + items;
    Value* x = reinterpret_cast<Value*>(carries + chunks * LANES * CARRY);

    const int blocks = (a.channels + LANES - 1) / LANES, first_channel = blockIdx.x % blocks * LANES;
    Place at(a);
    at.b = blockIdx.x / blocks;
    at.g = at.part = 0;
    at.exists = first_channel + lane < a.channels;
    at.channel = at.exists ? first_channel + lane : 0;
    const i64 image = at.b * a.x_b;
    for (int e = thread; e < a.length * LANES; e += BLOCK) {
        const int token = e / LANES, c = first_channel + e % LANES;
        if (c < a.channels)
            x[place(token, e % LANES)] = *at_token(address<const Value>(a.x) + image + c * a.x_d, token, a.x_l);
    }
    __syncthreads();

    const int begin = chunk * SPAN, end = begin + SPAN < a.steps ? begin + SPAN : a.steps;
    for (int k = 0; k < a.directions; k++) {
        at.k = k;
        const Path path(a, k);
        const Parameters p(a, at);
        const RowValue* rows = address<const RowValue>(a.dt) + at.b * a.dt_b + k * a.dt_k;
        float w[R], h[N] = {}, far = 0.0f;
#pragma unroll
        for (int r = 0; r < R; r++) w[r] = projection_weight(a, at, r);
        // Calls `each(step, place of the token, its row as floats, step size)` for this thread's steps.
        auto for_each_step = [&](auto each) {
            if (begin >= end || !at.exists) return;
            Walk next(path, begin);
            Row row;
            row.load(at_token(rows, next.token, a.dt_l));
            for (int step = begin; step < end; step++) {
                const int here = place(next.token, lane);
                float values[COLUMNS];
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) values[j] = row[j];
                ++next;  // past the end there may be no such token
                if (step + 1 < end) row.load(at_token(rows, next.token, a.dt_l));
                float pre = p.offset;
#pragma unroll
                for (int r = 0; r < R; r++) pre += w[r] * values[r];
                each(step, here, values, softplus(pre));
            }
        };

        // First pass: every chunk as if its states started at zero, all at the same time.
        for_each_step([&](int, int here, const float* values, float delta) {
            p.advance(h, delta, widened(x[here]), values);
            far += delta;
        });
        if (chunk < chunks) {
            float* carry = carries + thread * CARRY;
            carry[0] = far;
#pragma unroll
            for (int n = 0; n < N; n++) carry[1 + n] = h[n];
        }
        __syncthreads();
        // The states before this chunk: those that earlier chunks end with, each decayed by the steps of the chunks
        // after it. The product of exp(delta A) over a chunk is exp of the sum of its deltas.
#pragma unroll
        for (int n = 0; n < N; n++) h[n] = 0.0f;
        for (int before = 0; before < chunk && chunk < chunks; before++) {
            const float* carry = carries + (before * LANES + lane) * CARRY;
#pragma unroll
            for (int n = 0; n < N; n++) h[n] = exp2_of(carry[0] * p.A2[n]) * h[n] + carry[1 + n];
        }

        // Second pass: the same steps from the right states, now with outputs.
        float* state = address<float>(a.states) + at.state(a) + (i64)(begin / CHUNK) * N * a.channels;
        for_each_step([&](int step, int here, const float* values, float delta) {
            if (SAVING && step % CHUNK == 0) {
#pragma unroll
                for (int n = 0; n < N; n++) state[n * a.channels] = h[n];
                state += N * a.channels;
            }
            const float u = widened(x[here]);
            p.advance(h, delta, u, values);
            float y = p.skip * u;
#pragma unroll
            for (int n = 0; n < N; n++) y += h[n] * values[R + N + n];
            sum[here] = k ? sum[here] + y : y;
        });
        __syncthreads();
    }

    for (int e = thread; e < a.length * LANES; e += BLOCK) {
        const int token = e / LANES, c = first_channel + e % LANES;
        if (c >= a.channels) continue;
        float y = sum[place(token, e % LANES)];
        if (GATED) {
            const Value* z = address<const Value>(a.z) + at.b * a.z_b + c * a.z_d;
            const float gate = widened(*at_token(z, token, a.z_l));
            y *= gate * sigmoid(gate);
        }
        put(*at_token(address<Value>(a.out) + at.b * a.out_b + c * a.out_d, token, a.out_l), y);
    }
}
