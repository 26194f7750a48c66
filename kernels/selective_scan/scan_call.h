/* A call of the scan from the operators of other runtimes (kernels/openvino, kernels/onnxruntime), in C++. */
#ifndef VIMZOO_SCAN_CALL_H
#define VIMZOO_SCAN_CALL_H

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "arguments.h"

struct scan_paths_args {
    SCAN_PATHS_FIELDS(STRUCT_FIELD)
};
extern "C" int vimzoo_scan_paths_forward(const scan_paths_args *);
extern "C" void vimzoo_forget_shortage();

namespace vimzoo {

/* Sizes of dense tensors: x (batch, length, own, channels), x_dbl (batch, length, rows, row_width), own and rows the number
 * of directions or 1; the first axis of each parameter is the number of directions or 1. */
struct Sizes {
    int64_t batch, length, own, channels, rows, row_width, states, rank, steps, height, width;
    int64_t of_A, of_dt_weight, of_dt_bias, of_D;
};

/* The arguments but for the pointers. */
inline scan_paths_args call_of(const Sizes &sizes, int64_t dtype, const std::vector<int64_t> &codes, bool merge) {
    scan_paths_args call;
    std::memset(&call, 0, sizeof call);
    const int64_t channels = sizes.channels;
    call.batch = sizes.batch, call.length = sizes.length, call.channels = channels;
    call.directions = int64_t(codes.size()), call.codes = codes.data();
    call.states = sizes.states, call.rank = sizes.rank, call.steps = sizes.steps;
    call.height = sizes.height, call.width = sizes.width;
    call.merge = merge, call.dtype = dtype, call.threads = 1;
    call.x_directions = sizes.own, call.row_directions = sizes.rows;
    call.x_k = sizes.own > 1 ? channels : 0, call.x_l = sizes.own * channels, call.x_b = sizes.length * call.x_l;
    call.r_k = sizes.rows > 1 ? sizes.row_width : 0, call.r_l = sizes.rows * sizes.row_width;
    call.r_b = sizes.length * call.r_l;
    call.z_l = channels, call.z_b = sizes.length * channels;
    call.A_k = sizes.of_A > 1 ? channels * sizes.states : 0;
    call.w_k = sizes.of_dt_weight > 1 ? channels * sizes.rank : 0;
    call.bias_k = sizes.of_dt_bias > 1 ? channels : 0;
    call.D_k = sizes.of_D > 1 ? channels : 0;
    return call;
}

constexpr int64_t VECTOR = 16;

/* Shares of less than 100 us do not pay; see vimzoo/ops/runtime/threads.py. */
inline int64_t most_threads(const scan_paths_args &call) {
    const double work = (0.6 + 0.08 * call.states) * call.batch * call.directions * call.steps * call.channels;
    return std::max<int64_t>(1, std::min<int64_t>(int64_t(work / 100000), call.batch * (call.channels / VECTOR)));
}

/* Whether there was memory for it. */
inline bool scan(const scan_paths_args &call) {
    if (!vimzoo_scan_paths_forward(&call)) return true;
    vimzoo_forget_shortage();
    return false;
}

/* A part of the channels of one image; whether there was memory for it. The kernel writes dense rows, so a part is written aside and copied. */
inline bool scan_image(const scan_paths_args &whole, int64_t image, int64_t part, int64_t parts) {
    const int64_t blocks = (whole.channels + VECTOR - 1) / VECTOR, item = whole.dtype ? 2 : 4;
    const int64_t first = blocks * part / parts * VECTOR;
    const int64_t width = std::min(blocks * (part + 1) / parts * VECTOR, whole.channels) - first;
    const int64_t lines = whole.merge ? whole.length : whole.directions * whole.steps;
    scan_paths_args call = whole;
    call.batch = 1, call.channels = width;
    call.x += (image * whole.x_b + first) * item;
    call.x_dbl += image * whole.r_b * item;
    if (whole.z) call.z += (image * whole.z_b + first) * item;
    call.A += first * whole.states;
    call.dt_weight += first * whole.rank;
    call.dt_bias += first;
    if (whole.D) call.D += first;
    char *out = whole.out + image * lines * whole.channels * item;
    if (parts == 1) {
        call.out = out;
        return scan(call);
    }
    const std::unique_ptr<char[]> own(new (std::nothrow) char[lines * width * item]);
    call.out = own.get();
    if (!own || !scan(call)) return false;
    for (int64_t line = 0; line < lines; line++)
        std::memcpy(out + (line * whole.channels + first) * item, own.get() + line * width * item, width * item);
    return true;
}

}  // namespace vimzoo

#endif
