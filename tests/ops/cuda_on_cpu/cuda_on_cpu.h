// Runs a CUDA kernel on the CPU, for tests: every thread of a block is a fibre with a stack of its own, which runs until
// it waits at a barrier or is done. Blocks follow one another. Fibres can be run first to last or last to first: a
// kernel that lacks a barrier gives different results then. Shared memory is full of NaN when a block starts.
#pragma once
#define VIMZOO_ON_CPU
#include <math.h>
#include <setjmp.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(threads)
#define SHARED(type, name) type& name = cuda_on_cpu::shared<type>()
#define DYNAMIC_SHARED(type, name) type& name = *(type*)cuda_on_cpu::dynamic_memory
#define threadIdx (cuda_on_cpu::now->index)

struct uint3 {
    unsigned x, y, z;
};
struct uint4 {
    unsigned x, y, z, w;
};
static uint3 blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {
namespace {  // of this library alone: others in the process have kernels and types of the same names

constexpr int MOST_THREADS = 1024, STACK = 96 * 1024;
constexpr int DYNAMIC = 256 * 1024;

struct Barrier {
    int arrived, generation;
};

struct Fibre {
    uint3 index;
    bool started, done;
    ucontext_t start;
    jmp_buf here;
};

static Fibre fibres[MOST_THREADS], *now;
alignas(64) static char stacks[MOST_THREADS][STACK], dynamic_memory[DYNAMIC];
static Barrier block_barrier, warp_barriers[MOST_THREADS / 32];
static float exchanged[MOST_THREADS];
static jmp_buf scheduler;
static long progress;
static void (*clear_shared)();
static void (*body)(void*);
static void* closure;

template <class T>
inline T& shared() {
    alignas(64) static T memory;
    clear_shared = [] { memset((void*)&memory, 0xff, sizeof memory); };
    static int cleared_for = -1;  // the first block finds no `clear_shared` yet
    if (cleared_for < 0) clear_shared(), cleared_for = 0;
    return memory;
}

inline void wait(Barrier& barrier, int threads) {
    const int generation = barrier.generation;
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        barrier.generation++;
        progress++;
        return;
    }
    while (barrier.generation == generation)
        if (!_setjmp(now->here)) _longjmp(scheduler, 1);
}

inline float shuffled(float value, int lane_mask) {
    const int thread = now->index.x;
    exchanged[thread] = value;
    wait(warp_barriers[thread / 32], 32);
    const float other = exchanged[thread ^ lane_mask];
    wait(warp_barriers[thread / 32], 32);
    return other;
}

inline void whole_life() {
    body(closure);
    now->done = true;
    progress++;
    _longjmp(scheduler, 1);
}

inline void resume(Fibre* fibre) {
    now = fibre;
    if (_setjmp(scheduler)) return;
    if (fibre->started) _longjmp(fibre->here, 1);
    fibre->started = true;
    setcontext(&fibre->start);
}

// Whether every thread of the block came to its end; if not, some wait at a barrier that others never reach.
inline bool run_block(int threads, bool last_first) {
    block_barrier = {};
    memset((void*)warp_barriers, 0, sizeof warp_barriers);
    memset((void*)dynamic_memory, 0xff, sizeof dynamic_memory);
    if (clear_shared) clear_shared();
    for (int i = 0; i < threads; i++) {
        Fibre& fibre = fibres[i];
        fibre.index = {(unsigned)i, 0, 0};
        fibre.started = fibre.done = false;
        getcontext(&fibre.start);
        fibre.start.uc_stack.ss_sp = stacks[i];
        fibre.start.uc_stack.ss_size = STACK;
        makecontext(&fibre.start, whole_life, 0);
    }
    for (;;) {
        const long before = progress;
        int alive = 0;
        for (int i = 0; i < threads; i++) {
            Fibre* fibre = &fibres[last_first ? threads - 1 - i : i];
            if (!fibre->done) resume(fibre), alive++;
        }
        if (!alive) return true;
        if (progress == before) return false;
    }
}

// 0, or 1 if a block came to a standstill.
template <class F>
inline int run(F f, unsigned grid_x, unsigned grid_y, unsigned threads, bool last_first) {
    body = [](void* closure) { (*(F*)closure)(); };
    closure = &f;
    gridDim = {grid_x, grid_y, 1};
    blockDim = {threads, 1, 1};
    for (unsigned y = 0; y < grid_y; y++)
        for (unsigned x = 0; x < grid_x; x++) {
            blockIdx = {x, y, 0};
            if (!run_block(threads, last_first)) return 1;
        }
    return 0;
}

}  // namespace
}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::wait(cuda_on_cpu::block_barrier, blockDim.x); }
inline void __syncwarp() { cuda_on_cpu::wait(cuda_on_cpu::warp_barriers[threadIdx.x / 32], 32); }
inline float __shfl_xor_sync(unsigned, float value, int lane_mask) { return cuda_on_cpu::shuffled(value, lane_mask); }

template <class To, class From>
inline To with_bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline float __uint_as_float(unsigned bits) { return with_bits_of<float>(bits); }
inline unsigned __float_as_uint(float v) { return with_bits_of<unsigned>(v); }
inline float from_half(unsigned short bits) { return (float)with_bits_of<_Float16>(bits); }
inline unsigned short to_half(float v) { return with_bits_of<unsigned short>((_Float16)v); }
inline float exp2_of(float v) { return exp2f(v); }
inline float reciprocal(float v) { return 1.0f / v; }
