/* Calls of the kernels from the operators of other runtimes (kernels/openvino, kernels/onnxruntime), in C++. */
#ifndef VIMZOO_KERNEL_CALLS_H
#define VIMZOO_KERNEL_CALLS_H

#include <cstdint>
#include <cstring>
#include <vector>

#include "arguments.h"

struct scan_paths_args {
    SCAN_PATHS_FIELDS(STRUCT_FIELD)
};
struct causal_conv1d_args {
    CAUSAL_CONV1D_FIELDS(STRUCT_FIELD)
};
struct depthwise_args {
    DEPTHWISE_FIELDS(STRUCT_FIELD)
};
struct add_norm_args {
    ADD_NORM_FIELDS(STRUCT_FIELD)
};

namespace vimzoo {
using Part = void (*)(void *loop, int64_t part);
using Runner = void (*)(void *runtime, int64_t parts, Part part, void *loop);
}  // namespace vimzoo

extern "C" { /* each says whether memory was short */
int vimzoo_scan_paths_forward(const scan_paths_args *);
int vimzoo_causal_conv1d_forward(const causal_conv1d_args *);
int vimzoo_depthwise_forward(const depthwise_args *);
int vimzoo_add_norm_forward(const add_norm_args *);
void vimzoo_forget_shortage();
void vimzoo_borrow_threads(vimzoo::Runner, void *runtime);
}

namespace vimzoo {

enum { RUNTIME_GRAIN = 20000 }; /* nanoseconds of work that justify a runtime's thread, which looks for work between operators */

/* While it lives, the kernels that this thread calls run their loops on the threads of a runtime; see kernels/threads/pool.c. */
struct Borrowed {
    Borrowed(Runner run, void *runtime) { vimzoo_borrow_threads(run, runtime); }
    ~Borrowed() { vimzoo_borrow_threads(nullptr, nullptr); }
    Borrowed(const Borrowed &) = delete;
};

template <class Arguments> Arguments zeroed() {
    Arguments call;
    std::memset(&call, 0, sizeof call);
    call.threads = 1;
    return call;
}

/* Sizes of dense tensors: x (batch, length, own, channels), x_dbl (batch, length, rows, row_width), own and rows the number
 * of directions or 1, which with `planes` are the first axis of both; the first axis of each parameter is the number of directions or 1. */
struct Sizes {
    int64_t batch, length, own, channels, rows, row_width, states, rank, steps, height, width;
    int64_t of_A, of_dt_weight, of_dt_bias, of_D;
};

/* The arguments but for the pointers. */
inline scan_paths_args scan_of(const Sizes &sizes, int64_t dtype, const std::vector<int64_t> &codes, bool merge, bool planes) {
    auto call = zeroed<scan_paths_args>();
    const int64_t channels = sizes.channels;
    call.batch = sizes.batch, call.length = sizes.length, call.channels = channels;
    call.directions = int64_t(codes.size()), call.codes = codes.data();
    call.states = sizes.states, call.rank = sizes.rank, call.steps = sizes.steps;
    call.height = sizes.height, call.width = sizes.width;
    call.merge = merge, call.dtype = dtype;
    call.x_directions = sizes.own, call.row_directions = sizes.rows;
    call.x_k = sizes.own > 1 ? channels : 0, call.x_l = sizes.own * channels, call.x_b = sizes.length * call.x_l;
    call.r_k = sizes.rows > 1 ? sizes.row_width : 0, call.r_l = sizes.rows * sizes.row_width;
    call.r_b = sizes.length * call.r_l;
    if (planes) {
        call.x_l = channels, call.x_b = sizes.length * call.x_l, call.x_k = sizes.batch * call.x_b;
        call.r_l = sizes.row_width, call.r_b = sizes.length * call.r_l, call.r_k = sizes.batch * call.r_b;
    }
    call.z_l = channels, call.z_b = sizes.length * channels;
    call.A_k = sizes.of_A > 1 ? channels * sizes.states : 0;
    call.w_k = sizes.of_dt_weight > 1 ? channels * sizes.rank : 0;
    call.bias_k = sizes.of_dt_bias > 1 ? channels : 0;
    call.D_k = sizes.of_D > 1 ? channels : 0;
    return call;
}

/* About what calls take. */
inline double nanoseconds(const scan_paths_args &call) {
    return (0.6 + 0.08 * double(call.states)) * double(call.batch * call.directions * call.steps * call.channels);
}
inline double nanoseconds(const causal_conv1d_args &call) {
    return 0.15 * double(call.directions * call.batch * call.length * call.channels * call.taps);
}
inline double nanoseconds(const depthwise_args &call) {
    return 0.3 * double(call.batch * call.height * call.width * call.channels);
}
inline double nanoseconds(const add_norm_args &call) { return 0.5 * double(call.rows * call.channels); }

}  // namespace vimzoo

#endif
