/* One forward or backward pass of scan_paths on made-up numbers, for instructions.py, which counts what it executes.
 *
 * Arguments: tokens, channels, states, rank, directions, dtype (0 float32, 1 bfloat16, 2 float16), backward (0 or 1).
 */
#include <stdint.h>
#include <stdlib.h>

#include "../../kernels/selective_scan/arguments.h"

typedef struct {
    SCAN_PATHS_FIELDS(STRUCT_FIELD)
} scan_paths_args;

void vimzoo_scan_paths_forward(const scan_paths_args *);
void vimzoo_scan_paths_backward(const scan_paths_args *);

static void *zeros(int64_t items) { return calloc(items + 64, 4); }
static void *constant(int64_t items, float value) {
    float *memory = zeros(items);
    for (int64_t i = 0; i < items; i++) memory[i] = value;
    return memory;
}

int main(int count, char **words) {
    if (count != 8) return 2;
    const int64_t L = atol(words[1]), D = atol(words[2]), N = atol(words[3]), R = atol(words[4]), K = atol(words[5]);
    const int64_t columns = R + 2 * N, chunks = (L + CHUNK - 1) / CHUNK;
    const int64_t codes[] = {PATH_ROW, PATH_ROW_REVERSED, PATH_COLUMN, PATH_COLUMN_REVERSED};
    scan_paths_args a = {.batch = 1, .length = L, .channels = D, .directions = K, .states = N, .rank = R, .steps = L};
    a.height = L / 8, a.width = 8, a.merge = 1, a.dtype = atol(words[6]), a.threads = 1, a.batch_groups = 1, a.parts = 1;
    a.x_directions = 1, a.row_directions = K;
    a.x = zeros(L * D), a.x_b = L * D, a.x_l = D;
    a.x_dbl = zeros(L * K * columns), a.r_b = L * K * columns, a.r_l = K * columns, a.r_k = columns;
    a.A = constant(K * D * N, -1.0f), a.A_k = D * N;
    a.dt_weight = constant(K * D * R, 0.125f), a.w_k = D * R;
    a.dt_bias = constant(K * D, -3.0f), a.bias_k = D;
    a.D = constant(K * D, 1.0f), a.D_k = D;
    a.codes = codes;
    a.out = zeros(L * D);
    const int backward = atoi(words[7]);
    if (backward) {
        a.kept = zeros(K * chunks * N * D);
        a.dy = zeros(L * D), a.dy_b = L * D, a.dy_l = D;
        a.dx = zeros(L * D), a.dx_dbl = zeros(L * K * columns);
        a.dA = zeros(K * D * N), a.dW = zeros(K * D * R), a.dbias = zeros(K * D), a.dD = zeros(K * D);
        vimzoo_scan_paths_backward(&a);
    } else {
        vimzoo_scan_paths_forward(&a);
    }
    return 0;
}
