// Around the scan: the sum over directions and the gate, forward and backward, element by element.
#include "cuda_common.cuh"

// Sum of total (B, K, L, D) over K, in the order of the directions.
__device__ __forceinline__ float merged(const Arguments& a, i64 b, i64 token, i64 channel) {
    const float* total = address<const float>(a.total) + (b * a.directions * a.length + token) * a.channels + channel;
    float y = 0.0f;
    for (int k = 0; k < a.directions; k++) y += total[k * a.length * a.channels];
    return y;
}

__device__ __forceinline__ float gate_at(const Arguments& a, i64 b, i64 token, i64 channel) {
    return widened(address<const Value>(a.z)[b * a.z_b + token * a.z_l + channel * a.z_d]);
}

// out (B, L, D); grid (images x tokens, blocks of channels).
extern "C" __global__ void __launch_bounds__(BLOCK) finish_merged(const __grid_constant__ Arguments a) {
    const i64 b = blockIdx.x / a.length, token = blockIdx.x % a.length, c = blockIdx.y * BLOCK + threadIdx.x;
    if (c >= a.channels) return;
    float y = merged(a, b, token, c);
    if (GATED) {
        const float gate = gate_at(a, b, token, c);
        y *= gate * sigmoid(gate);
    }
    put(address<Value>(a.out)[(b * a.length + token) * a.channels + c], y);
}

// dz (B, L, D) of the gate over that sum; the same grid.
extern "C" __global__ void __launch_bounds__(BLOCK) gate_backward(const __grid_constant__ Arguments a) {
    const i64 b = blockIdx.x / a.length, token = blockIdx.x % a.length, c = blockIdx.y * BLOCK + threadIdx.x;
    if (c >= a.channels) return;
    const float gate = gate_at(a, b, token, c), s = sigmoid(gate);
    const float dy = widened(address<const Value>(a.grad)[b * a.grad_b + token * a.grad_l + c * a.grad_d]);
    const float d_gate = dy * merged(a, b, token, c) * s * (1.0f + gate * (1.0f - s));
    put(address<Value>(a.dz)[(b * a.length + token) * a.channels + c], d_gate);
}
