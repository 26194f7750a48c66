/* What the C and CUDA kernels are told, and the numbers that they share with Python: the one list of both.
 *
 * C and CUDA make their structs of these macros; `vimzoo/ops/runtime/abi.py` reads this file and packs values in the same
 * order. Every field takes 64 bits. A C library exports the names (see ARGUMENTS in task.h), so that one built from older
 * sources is noticed when it is loaded. Strides are in items; a stride of 0 over directions shares a tensor.
 */
#ifndef VIMZOO_ARGUMENTS_H
#define VIMZOO_ARGUMENTS_H

#define CHUNK 32     /* steps between saved states */
#define MOST_TAPS 16 /* of a causal convolution */
#define FEW_ROWS 4   /* with more rows packing the weight for products of bytes pays */
#define GRAIN 100000 /* nanoseconds of work on one core that justify waking another thread */

/* Orders with a closed form; a direction with another order is described by a table. */
enum path_code { PATH_ROW, PATH_ROW_REVERSED, PATH_COLUMN, PATH_COLUMN_REVERSED, PATH_TABLE };

#define SCAN_PATHS_FIELDS(F)                                                                                            \
    F(int64_t, batch) F(int64_t, length) F(int64_t, channels) F(int64_t, directions) F(int64_t, states)                 \
    F(int64_t, rank) F(int64_t, steps) F(int64_t, height) F(int64_t, width) F(int64_t, merge) F(int64_t, dtype)         \
    F(int64_t, threads) F(int64_t, batch_groups) F(int64_t, parts)                                                      \
    /* directions of x and of x_dbl: K, or 1 if shared */                                                               \
    F(int64_t, x_directions) F(int64_t, row_directions)                                                                 \
    F(const char *, x) F(const char *, x_dbl) F(const char *, z)                                                        \
    F(int64_t, x_b) F(int64_t, x_l) F(int64_t, x_k) F(int64_t, r_b) F(int64_t, r_l) F(int64_t, r_k)                     \
    F(int64_t, z_b) F(int64_t, z_l)                                                                                     \
    F(const float *, A) F(const float *, dt_weight) F(const float *, dt_bias) F(const float *, D)                       \
    F(int64_t, A_k) F(int64_t, w_k) F(int64_t, bias_k) F(int64_t, D_k)                                                  \
    F(const int64_t *, codes) F(const int32_t *, table)                                                                 \
    F(char *, out)   /* (B, L, D) merged, or (B, K, T, D) */                                                            \
    F(float *, kept) /* (B, K, chunks, N, D) states before each chunk, or NULL */                                       \
    F(int64_t, without_C)      /* rows are [dt | B], C is 1: the output is the states */                                \
    F(const float *, initial)  /* (B, K, D, N) states before the first step; zero if NULL */                            \
    F(float *, last)           /* (B, K, D, N) states after the last step, zeroed, or NULL */                           \
    F(const float *, d_last) F(float *, d_initial) /* backward: their gradients, the second zeroed, or NULL */          \
    /* backward from here: gradient of out */                                                                           \
    F(const char *, dy) F(int64_t, dy_b) F(int64_t, dy_l) F(int64_t, dy_k)                                              \
    F(char *, dx)      /* (B, L, K or none, D): in dtype if each item is written once, else float32 */                  \
    F(float *, dx_dbl) /* (parts, B, L, row_directions, width of a row); both zeroed for paths that are tables */          \
    F(char *, dz)      /* (B, L, D) in dtype */                                                                         \
    F(float *, dA) F(float *, dW) F(float *, dbias) F(float *, dD) /* (batch_groups, K, D, ...), zeroed */

#define SELECTIVE_SCAN_FIELDS(F)                                                                                        \
    F(int64_t, batch) F(int64_t, channels) F(int64_t, length) F(int64_t, states) F(int64_t, groups) F(int64_t, dtype)   \
    F(int64_t, bc_dtype) F(int64_t, softplus) F(int64_t, threads) F(int64_t, batch_groups) F(int64_t, parts)            \
    F(const char *, u) F(const char *, delta) F(const char *, z)                                                        \
    F(int64_t, u_b) F(int64_t, u_d) F(int64_t, u_l) F(int64_t, delta_b) F(int64_t, delta_d) F(int64_t, delta_l)         \
    F(int64_t, z_b) F(int64_t, z_d) F(int64_t, z_l)                                                                     \
    F(const char *, B) F(const char *, C)                                                                               \
    F(int64_t, B_b) F(int64_t, B_g) F(int64_t, B_n) F(int64_t, B_l)                                                     \
    F(int64_t, C_b) F(int64_t, C_g) F(int64_t, C_n) F(int64_t, C_l)                                                     \
    F(const float *, A) F(const float *, D) F(const float *, delta_bias) /* (D, N), (D), (D) */                         \
    F(char *, out)                              /* (B, D, L) dense */                                                   \
    F(float *, last_state) F(float *, kept)     /* (B, D, N); (B, chunks, N, D) or NULL */                              \
    F(const char *, dy) /* backward from here */                                                                        \
    F(int64_t, dy_b) F(int64_t, dy_d) F(int64_t, dy_l)                                                                  \
    F(const float *, d_last)                    /* (B, D, N) or NULL */                                                 \
    F(char *, du) F(char *, ddelta) F(char *, dz)     /* (B, D, L) dense, in dtype */                                   \
    F(float *, dB) F(float *, dC)                     /* (parts, B, G, N, L) */                                         \
    F(float *, dA) F(float *, dD) F(float *, dbias)   /* (batch_groups, D, ...), zeroed */

#define CAUSAL_CONV1D_FIELDS(F)                                                                                         \
    F(int64_t, batch) F(int64_t, length) F(int64_t, channels) F(int64_t, directions) F(int64_t, taps) F(int64_t, silu)  \
    F(int64_t, dtype) F(int64_t, threads) F(int64_t, batch_groups)                                                      \
    F(const char *, x) F(int64_t, x_b) F(int64_t, x_l)                                                                  \
    F(const float *, weight) F(const float *, bias) /* (K, D, W), (K, D) or NULL */                                     \
    F(const int64_t *, reverse)                                                                                         \
    F(char *, out) /* (K, B, L, D) */                                                                                   \
    F(const char *, dy) F(int64_t, dy_b) F(int64_t, dy_l) F(int64_t, dy_k)                                              \
    /* (B, L, D), (batch_groups, K, D, W), (batch_groups, K, D), zeroed */                                              \
    F(float *, dx) F(float *, dweight) F(float *, dbias)

/* Rows are dense. */
#define ADD_NORM_FIELDS(F)                                                                                              \
    F(int64_t, rows) F(int64_t, channels) F(int64_t, rms) F(int64_t, threads) F(int64_t, row_groups)                    \
    F(int64_t, x_dtype) F(int64_t, residual_dtype) F(int64_t, kept_dtype)                                               \
    F(const char *, x) F(const char *, residual) F(const float *, weight) F(const float *, bias) F(double, eps)         \
    F(char *, out) F(char *, kept)               /* the norm in x's dtype; the stream or NULL */                               \
    F(const char *, dout) F(const char *, dkept) /* gradients of both, the second or NULL */                            \
    F(char *, dx) F(char *, dresidual)                                                                                  \
    F(float *, dweight) F(float *, dbias)        /* (row_groups, D), zeroed */                                          \
    /* forward only: out is multiplied by silu(gate), rows or NULL; GELU of out */                                      \
    F(const char *, gate) F(int64_t, gate_row) F(int64_t, gelu)

/* Maps (B, H, W, C); x has strides, its channels are dense; weight (C, 3, 3), bias (C) or NULL; out is dense. */
#define DEPTHWISE_FIELDS(F)                                                                                             \
    F(int64_t, batch) F(int64_t, height) F(int64_t, width) F(int64_t, channels) F(int64_t, silu) F(int64_t, dtype)      \
    F(int64_t, threads) F(int64_t, dilation)                                                                            \
    F(const char *, x) F(int64_t, x_b) F(int64_t, x_h) F(int64_t, x_w)                                                  \
    F(const float *, weight) F(const float *, bias) F(char *, out)

/* Gradients of its weight and bias from that of out, grad, which is dense. */
#define DEPTHWISE_GRADIENT_FIELDS(F)                                                                                    \
    F(int64_t, batch) F(int64_t, height) F(int64_t, width) F(int64_t, channels) F(int64_t, dtype) F(int64_t, threads)   \
    F(int64_t, dilation) F(int64_t, row_groups)                                                                         \
    F(const char *, x) F(int64_t, x_b) F(int64_t, x_h) F(int64_t, x_w) F(const char *, grad)                            \
    F(float *, dweight) F(float *, dbias) /* (row_groups, C, 9), (row_groups, C), zeroed */

/* Weights of 8 bits, signed, or 4 bits, unsigned, in rows that are padded to whole blocks of 32; scale and offset, or NULL,
 * (outputs, padded / group). `task`: 0 product with x as it is, 1 with x in 8 bits, 2 the weights themselves as out.
 * Of task 1, for blocks in one call: act(factor x weight^T + bias) + add with GELU if `gelu`; a factor of 0 means 1. */
#define QUANTIZED_LINEAR_FIELDS(F)                                                                                      \
    F(int64_t, rows) F(int64_t, inputs) F(int64_t, outputs) F(int64_t, padded) F(int64_t, bits) F(int64_t, group)       \
    F(int64_t, task) F(int64_t, dtype) F(int64_t, threads)                                                              \
    F(const char *, x) F(int64_t, x_row) F(const char *, values) F(const float *, scale) F(const float *, offset)       \
    F(const float *, bias) F(char *, out) F(int64_t, gelu) F(double, factor) F(const char *, add)

/* y = act(scale x weight^T + bias) + add: x (rows, depth), weight (columns, depth) dense, y and add (rows, columns). */
#define PRODUCT_FIELDS(F)                                                                                               \
    F(int64_t, rows) F(int64_t, depth) F(int64_t, columns) F(int64_t, dtype) F(int64_t, gelu) F(int64_t, threads)       \
    F(const char *, x) F(int64_t, x_row) F(const char *, weight) F(const char *, bias) F(double, scale)                 \
    F(const char *, add) F(int64_t, add_row) F(char *, out) F(int64_t, out_row)

/* Gradient of a product's weight, out = grad^T x, and of its bias or NULL: sums over the rows of grad (rows, outputs) and
 * x (rows, inputs), whose columns are dense; out (outputs, inputs) and bias (outputs) are dense. */
#define WEIGHT_GRADIENT_FIELDS(F)                                                                                       \
    F(int64_t, rows) F(int64_t, outputs) F(int64_t, inputs) F(int64_t, threads)                                         \
    F(const float *, grad) F(int64_t, grad_row) F(const float *, x) F(int64_t, x_row) F(float *, out) F(float *, bias)

/* act(n weight1^T + bias1) weight2^T + bias2 + add with GELU: weights (hidden, depth) and (columns, hidden), n is x or a norm
 * of it, an RMSNorm if first_rms. Weights of 8 or 4 bits are the fields of quantized_linear that describe them instead, here
 * and below. */
#define MLP_FIELDS(F)                                                                                                   \
    F(int64_t, rows) F(int64_t, depth) F(int64_t, hidden) F(int64_t, columns) F(int64_t, dtype) F(int64_t, threads)     \
    F(const char *, x) F(const char *, weight1) F(const char *, bias1) F(const char *, weight2) F(const char *, bias2)  \
    F(const char *, first_weight) F(const char *, first_bias) F(double, first_eps) F(int64_t, first_rms)                \
    F(const char *, add) F(char *, out) F(const char *, quantized1) F(const char *, quantized2)

/* A mixer: [residual and norm,] projection, convolution and SiLU, scan, norm, gate, projection [, addition].
 * x, residual, kept, add and out are (B, H W, dim), dense. Parameters are in dtype, A_log in A_dtype; strides of 0 over
 * directions share a parameter. What is NULL is left out: norms, biases, residual, kept (the stream x + residual), add. */
#define MIXER_FIELDS(F)                                                                                                 \
    F(int64_t, batch) F(int64_t, height) F(int64_t, width) F(int64_t, dim) F(int64_t, inner) F(int64_t, states)         \
    F(int64_t, rank) F(int64_t, directions) F(int64_t, dtype) F(int64_t, A_dtype) F(int64_t, threads)                   \
    F(int64_t, gated)        /* a second half of the first projection gates the output of the scan, or of the norm */   \
    F(int64_t, taps)         /* of causal convolutions of a sequence; 0 for a 3 x 3 one of a map */                     \
    F(int64_t, convolutions) /* causal ones: one, or one for each direction */                                          \
    F(int64_t, projections)  /* of each token to [dt | B | C]: one, or one for each direction */                        \
    F(const char *, x) F(const char *, in_weight) F(const char *, in_bias)                                              \
    F(const char *, conv_weight) F(const char *, conv_bias) F(const int64_t *, reverse) F(const char *, x_proj)         \
    F(const char *, A_log) F(const char *, dt_weight) F(const char *, dt_bias) F(const char *, D)                       \
    F(int64_t, A_k) F(int64_t, w_k) F(int64_t, bias_k) F(int64_t, D_k) F(int64_t, p_k) F(const int64_t *, codes)        \
    F(const char *, norm_weight) F(const char *, norm_bias) F(double, eps)                                              \
    F(const char *, out_weight) F(const char *, out_bias) F(double, scale) F(const char *, add) F(char *, out)          \
    /* the norm before it, an RMSNorm if first_rms */                                                                   \
    F(const char *, first_weight) F(const char *, first_bias) F(double, first_eps) F(int64_t, first_rms)                \
    F(const char *, residual) F(int64_t, residual_dtype) F(char *, kept) F(int64_t, kept_dtype)                         \
    F(const char *, in_quantized) F(const char *, out_quantized)

/* All CUDA kernels of the scan have one struct; addresses are 64-bit numbers there. */
#define CUDA_SCAN_FIELDS(F)                                                                                             \
    F(i64, batch) F(i64, length) F(i64, channels) F(i64, per_group) F(i64, directions) F(i64, steps) F(i64, height)     \
    F(i64, width) F(i64, codes)                                                                                         \
    F(i64, A) F(i64, W) F(i64, bias) F(i64, D) F(i64, table) F(i64, states) F(i64, last) F(i64, grad_last)              \
    F(i64, dA) F(i64, dW) F(i64, dbias) F(i64, dD)                                                                      \
    F(i64, A_k) F(i64, A_d) F(i64, A_n) F(i64, W_k) F(i64, W_d) F(i64, W_r) F(i64, bias_k) F(i64, D_k)                  \
    F(i64, d_dt_part) F(i64, dB_part)                                                                                   \
    F(i64, x) F(i64, x_b) F(i64, x_l) F(i64, x_k) F(i64, x_d)                                                           \
    F(i64, dt) F(i64, dt_b) F(i64, dt_l) F(i64, dt_k) F(i64, dt_d)                                                      \
    F(i64, B) F(i64, B_b) F(i64, B_l) F(i64, B_k) F(i64, B_g) F(i64, B_n)                                               \
    F(i64, C) F(i64, C_b) F(i64, C_l) F(i64, C_k) F(i64, C_g) F(i64, C_n)                                               \
    F(i64, z) F(i64, z_b) F(i64, z_l) F(i64, z_k) F(i64, z_d)                                                           \
    F(i64, out) F(i64, out_b) F(i64, out_l) F(i64, out_k) F(i64, out_d)                                                 \
    F(i64, total) F(i64, total_b) F(i64, total_l) F(i64, total_k) F(i64, total_d)                                       \
    F(i64, grad) F(i64, grad_b) F(i64, grad_l) F(i64, grad_k) F(i64, grad_d)                                            \
    F(i64, dx) F(i64, dx_b) F(i64, dx_l) F(i64, dx_k) F(i64, dx_d)                                                      \
    F(i64, d_dt) F(i64, d_dt_b) F(i64, d_dt_l) F(i64, d_dt_k) F(i64, d_dt_d)                                            \
    F(i64, dB) F(i64, dB_b) F(i64, dB_l) F(i64, dB_k) F(i64, dB_g) F(i64, dB_n)                                         \
    F(i64, dC) F(i64, dC_b) F(i64, dC_l) F(i64, dC_k) F(i64, dC_g) F(i64, dC_n)                                         \
    F(i64, dz) F(i64, dz_b) F(i64, dz_l) F(i64, dz_k) F(i64, dz_d)

#define STRUCT_FIELD(type, name) type name;
#ifdef __cplusplus
using i64 = long long;
struct Arguments {
    CUDA_SCAN_FIELDS(STRUCT_FIELD)
};
#endif

#endif
