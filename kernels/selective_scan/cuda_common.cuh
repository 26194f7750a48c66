// What the CUDA kernels of the scan share. They are compiled by NVRTC, at run time and for the sizes at hand, so sizes
// are macros and no header of the CUDA toolkit is needed:
//   STATES, RANK   N and R; RANK 0 means that the step size comes ready made (selective_scan), not as rows [dt | B | C]
//   BLOCK          channels, and threads, of a block
//   DTYPE          of activations: 0 float32, 1 bfloat16, 2 float16; ROW_DTYPE of rows, or of B and C
//   SOFTPLUS       whether the step size passes it; GATED: whether there is a z; TABLE: whether paths come as one
//   OUTPUT         of the forward pass, and the gradient's order in the backward pass: see below; DX_WIDE
// "arguments.h" lists the fields of the one struct that all these kernels take, 64-bit integers and addresses.
#pragma once
#include "arguments.h"

constexpr int N = STATES, R = RANK;
constexpr int COLUMNS = R + 2 * N;           // of a row; without R, of B and C together
constexpr int ROW = (COLUMNS + 3) / 4 * 4;   // floats of a row in shared memory: rows start at multiples of 16 bytes
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

enum {
    NOTHING,      // only states are wanted
    BY_DIRECTION, // float32 (B, K, L, D), to be added up
    BY_TOKEN,     // finished, in the order of the tokens
    BY_STEP,      // finished, in the order of the path
    PAIR          // finished, of a path and its reverse, which share a block
};
constexpr bool PAIRED = OUTPUT == PAIR;

// Which of a direction's BLOCK threads this is.
__device__ __forceinline__ int thread_of_direction() { return PAIRED ? threadIdx.x % BLOCK : threadIdx.x; }


struct bf16 {
    unsigned short bits;
};
struct f16 {
    unsigned short bits;
};

#ifndef VIMZOO_ON_CPU
#define SHARED(type, name) __shared__ type name
#define DYNAMIC_SHARED(type, name)                     \
    extern __shared__ __align__(16) char dynamic_shared[]; \
    type& name = *reinterpret_cast<type*>(dynamic_shared)

__device__ __forceinline__ float exp2_of(float v) {  // relative error 2^-22
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(v));
    return result;
}

__device__ __forceinline__ float reciprocal(float v) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(v));
    return result;
}

__device__ __forceinline__ float from_half(unsigned short bits) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(bits));
    return result;
}

__device__ __forceinline__ unsigned short to_half(float v) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
    return bits;
}
#endif

template <int dtype>
struct TypeOf;
template <>
struct TypeOf<0> {
    using type = float;
};
template <>
struct TypeOf<1> {
    using type = bf16;
};
template <>
struct TypeOf<2> {
    using type = f16;
};
using Value = TypeOf<DTYPE>::type;
using RowValue = TypeOf<ROW_DTYPE>::type;

__device__ __forceinline__ float widened(float v) { return v; }
__device__ __forceinline__ float widened(bf16 v) { return __uint_as_float((unsigned)v.bits << 16); }
__device__ __forceinline__ float widened(f16 v) { return from_half(v.bits); }

__device__ __forceinline__ void put(float& to, float v) { to = v; }
__device__ __forceinline__ void put(f16& to, float v) { to.bits = to_half(v); }
__device__ __forceinline__ void put(bf16& to, float v) {  // to nearest, ties to even; NaN stays one
    const unsigned bits = __float_as_uint(v);
    to.bits = v == v ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : 0x7fff;
}

template <class T>
__device__ __forceinline__ T* address(i64 of) {
    return reinterpret_cast<T*>(of);
}

__device__ __forceinline__ float sigmoid(float v) { return reciprocal(1.0f + exp2_of(-LOG2E * v)); }

// max(v, 0) + log(1 + e^-|v|); log(1 + t) is t (1 + t q(t)) on [0, 1], relative error 3.4e-8: taken literally it would
// lose the digits of a small step size.
__device__ __forceinline__ float softplus(float v) {
    const float t = exp2_of(-LOG2E * fabsf(v));
    float q = 5.364816601e-3f * t - 3.006576312e-2f;
    q = q * t + 7.920449105e-2f;
    q = q * t - 1.375379883e-1f;
    q = q * t + 1.915365342e-1f;
    q = q * t - 2.485716332e-1f;
    q = q * t + 3.332132258e-1f;
    q = q * t - 4.999964796e-1f;
    return fmaxf(v, 0.0f) + t * (1.0f + t * q);
}

__device__ __forceinline__ float step_size(float pre) { return SOFTPLUS ? softplus(pre) : pre; }

// Where an item lies `token` strides away: one multiply-add, for strides of less than 4 GB.
template <class T>
__device__ __forceinline__ T* at_token(T* base, int token, i64 stride) {
    return (T*)((char*)base + (unsigned long long)(unsigned)token * (unsigned)(stride * (i64)sizeof(T)));
}

// Which token a direction visits at a step. A table's pads are -1, and so are its steps past the end; a closed form stays
// at the last token there, so that what is loaded exists and need not be masked.
struct Path {
    const int* table;
    int steps, height, width, code;

    __device__ __forceinline__ Path(const Arguments& a, int k)
        : table(address<const int>(a.table) + k * a.steps), steps(a.steps), height(a.height), width(a.width),
          code((a.codes >> (4 * k)) & 15) {}

    __device__ __forceinline__ int operator[](int step) const {
        if (TABLE) return step < steps ? table[step] : -1;
        step = step < steps ? step : steps - 1;
        const int index = code & 1 ? height * width - 1 - step : step;
        return code >= PATH_COLUMN ? index % height * width + index / height : index;  // rows, or columns
    }

    // Whether there is such a step, and its token is not a pad.
    __device__ __forceinline__ bool visits(int step, int token) const { return TABLE ? token >= 0 : step < steps; }
};

// What a thread works on: an image, a direction, a channel of a group; the group's first where there is none left.
struct Place {
    i64 b, g;
    int k, part, channel;
    bool exists;

    __device__ __forceinline__ explicit Place(const Arguments& a) {
        const int parts = (a.per_group + BLOCK - 1) / BLOCK, blocks = a.channels / a.per_group * parts;
        const int block = blockIdx.x % blocks, inside = block % parts * BLOCK + thread_of_direction();
        b = blockIdx.x / blocks;
        g = block / parts;
        k = PAIRED ? threadIdx.x / BLOCK : blockIdx.y;
        part = block % parts;
        exists = inside < a.per_group;
        channel = g * a.per_group + (exists ? inside : 0);
    }

    // Of (B, K, D), the place of this channel.
    __device__ __forceinline__ i64 parameter(const Arguments& a) const {
        return (b * a.directions + k) * a.channels + channel;
    }

    // Of the states (B, K, chunks, N, D), the first one of this channel.
    __device__ __forceinline__ i64 state(const Arguments& a) const {
        return (b * a.directions + k) * ((a.steps + CHUNK - 1) / CHUNK) * N * a.channels + channel;
    }
};

// A log2(e), bias and skip of a channel; zero where there is none.
struct Parameters {
    float A2[N], offset, skip;

    __device__ __forceinline__ Parameters(const Arguments& a, const Place& at) {
        const float* A = address<const float>(a.A) + at.k * a.A_k + at.channel * a.A_d;
#pragma unroll
        for (int n = 0; n < N; n++) A2[n] = at.exists ? A[n * a.A_n] * LOG2E : 0.0f;
        offset = at.exists && a.bias ? address<const float>(a.bias)[at.k * a.bias_k + at.channel] : 0.0f;
        skip = at.exists && a.D ? address<const float>(a.D)[at.k * a.D_k + at.channel] : 0.0f;
    }

    // h = exp(delta A) h + delta u B
    __device__ __forceinline__ void advance(float (&h)[N], float delta, float u, const float* row) const {
        const float input = delta * u;
#pragma unroll
        for (int n = 0; n < N; n++) h[n] = exp2_of(delta * A2[n]) * h[n] + input * row[R + n];
    }
};

__device__ __forceinline__ float projection_weight(const Arguments& a, const Place& at, int r) {
    return at.exists ? address<const float>(a.W)[at.k * a.W_k + at.channel * a.W_d + r * a.W_r] : 0.0f;
}

// Where the inputs of an image, direction and channel lie at token 0.
struct Inputs {
    const Value *x, *delta, *z;
    const RowValue *rows, *B, *C;

    __device__ __forceinline__ Inputs(const Arguments& a, const Place& at) {
        x = address<const Value>(a.x) + at.b * a.x_b + at.k * a.x_k + at.channel * a.x_d;
        z = GATED ? address<const Value>(a.z) + at.b * a.z_b + at.channel * a.z_d : nullptr;
        const i64 dt = at.b * a.dt_b + at.k * a.dt_k;
        delta = R ? nullptr : address<const Value>(a.dt) + dt + at.channel * a.dt_d;
        rows = R ? address<const RowValue>(a.dt) + dt : nullptr;
        B = R ? nullptr : address<const RowValue>(a.B) + at.b * a.B_b + at.g * a.B_g;
        C = R ? nullptr : address<const RowValue>(a.C) + at.b * a.C_b + at.g * a.C_g;
    }

    // A token's values; a pad's are zero.
    __device__ __forceinline__ Value x_at(const Arguments& a, int token) const { return value(x, token, a.x_l); }
    __device__ __forceinline__ Value delta_at(const Arguments& a, int token) const {
        return R ? Value{} : value(delta, token, a.dt_l);
    }
    __device__ __forceinline__ Value z_at(const Arguments& a, int token) const {
        return GATED ? value(z, token, a.z_l) : Value{};
    }

    // Value j of a token's row.
    __device__ __forceinline__ RowValue of_row(const Arguments& a, int token, int j) const {
        if (R) return value(rows + j, token, a.dt_l);
        return j < N ? value(B + j * a.B_n, token, a.B_l) : value(C + (j - N) * a.C_n, token, a.C_l);
    }

    template <class T>
    static __device__ __forceinline__ T value(const T* base, int token, i64 stride) {
        return TABLE && token < 0 ? T{} : *at_token(base, token, stride);
    }
};

// Of element e among COLUMNS values of each of `steps` steps: the step and the column, so that neighbouring threads read
// neighbouring memory, along a row or, where B and C are (N, L), along the sequence.
template <int steps>
__device__ __forceinline__ int step_of(int e) {
    return R ? e / COLUMNS : e % steps;
}
template <int steps>
__device__ __forceinline__ int column_of(int e) {
    return R ? e % COLUMNS : e / steps;
}
