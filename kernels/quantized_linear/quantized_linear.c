/* y = x W^T + bias with weights W = scale (q - offset) of 8 or 4 bits.
 *
 * Blocks of 32 weights: 8 bits in order, 4 bits with weight i in the low half of byte i and weight i + 16 in the high half.
 */
#include "../product/product.h"

ARGUMENTS(quantized_linear, QUANTIZED_LINEAR_FIELDS);

enum { BLOCK = 32, HALVES = BLOCK / VL };
enum { PRODUCT, PRODUCT_8_BITS, WEIGHTS };

typedef int8_t v8 __attribute__((vector_size(VL)));

INLINE int64_t row_bytes(const quantized_linear_args *a) { return a->padded * a->bits / 8; }

/* VL signed bytes as floats. */
INLINE vf floats_of(const char *p) {
#if VL == 16
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
#elif VL == 8
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
#else
    v8 bytes;
    memcpy(&bytes, p, sizeof bytes);
    return __builtin_convertvector(bytes, vf);
#endif
}

/* The whole numbers q of one block as floats. */
INLINE void load_block(vf *q, const char *row, int64_t block, const int bits) {
    if (bits == 8) {
#pragma GCC unroll 8
        for (int i = 0; i < HALVES; i++) q[i] = floats_of(row + block * BLOCK + i * VL);
        return;
    }
#pragma GCC unroll 4
    for (int i = 0; i < HALVES / 2; i++) {
        const char *p = row + block * (BLOCK / 2) + i * VL;
        v8 bytes;
        memcpy(&bytes, p, sizeof bytes);
#if VL == 16
        const vi wide = (vi)_mm512_cvtepu8_epi32((__m128i)bytes);
#elif VL == 8
        const vi wide = (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)&bytes));
#else
        const vi wide = __builtin_convertvector(bytes, vi) & 255;
#endif
        q[i] = __builtin_convertvector(wide & 15, vf);
        q[i + HALVES / 2] = __builtin_convertvector(wide >> 4, vf);
    }
}

/* A row in 8 bits, symmetric: the largest value, which becomes 127; NaN if a value is NaN or infinite. */
INLINE float largest_of(const quantized_linear_args *a, const char *from, const int dtype) {
    vf largest = {0}, strange = {0};
    EACH_VECTOR(a->inputs, {
        const vf v = load_row(from + c * item_size(dtype), dtype, lanes);
        largest = at_least((vf)((vi)v & 0x7fffffff), largest);
        strange += v * 0.0f; /* a maximum may lose NaN */
    });
    const float odd = sum_vf(strange);
#if VL == 16
    const float top = _mm512_reduce_max_ps((__m512)largest);
    return odd == 0.0f ? top : odd;
#else
    float top = odd;
    for (int i = 0; i < VL; i++) top = largest[i] > top ? largest[i] : top;
    return top;
#endif
}
/* To the nearest whole number, ties to even, for values up to 127. */
INLINE vf whole(vf v) {
#if VL == 16
    return (vf)_mm512_roundscale_ps((__m512)v, 0x08);
#elif VL == 8
    return (vf)_mm256_round_ps((__m256)v, 0x08);
#elif defined(NEON)
    return (vf)vrndnq_f32((float32x4_t)v);
#else
    const float magic = 12582912.0f; /* 1.5 * 2^23 */
    return (v + magic) - magic;
#endif
}

/* Rows of x as floats with zeros up to `padded`, rounded to 8 bits or not, their sums over groups and their scales. */
static void load_rows(const quantized_linear_args *a, int64_t row, int count, float *x, float *sums, float *scales) {
    const int64_t groups = a->padded / a->group;
    for (int r = 0; r < count; r++) {
        const char *from = a->x + (row + r) * a->x_row * item_size((int)a->dtype);
        float *to = x + r * a->padded;
        const float top = a->task == PRODUCT_8_BITS ? largest_of(a, from, (int)a->dtype) : 0.0f;
        const float factor = top > 0.0f ? 127.0f / top : 0.0f;
        scales[r] = a->task == PRODUCT_8_BITS ? top / 127.0f : 1.0f;
        for (int64_t k = 0; k < a->padded; k += VL) {
            const int lanes = (int)max_of(0, min_of(VL, a->inputs - k));
            const vf v = lanes ? load_row(from + k * item_size((int)a->dtype), (int)a->dtype, lanes) : splat(0.0f);
            *(vf_unaligned *)(to + k) = a->task == PRODUCT_8_BITS ? whole(v * factor) : v;
        }
        for (int64_t g = 0; g < groups; g++) {
            vf sum = {0};
            for (int64_t k = 0; k < a->group; k += VL) sum += *(vf_unaligned *)(to + g * a->group + k);
            sums[r * groups + g] = sum_vf(sum);
        }
    }
}

/* `width` outputs from `n` of `count` rows. */
INLINE void product(const quantized_linear_args *a, int64_t row, int64_t n, const float *x, const float *sums,
                    const float *scales, const int count, const int width, const int bits) {
    const int64_t groups = a->padded / a->group, blocks = a->group / BLOCK, bytes = row_bytes(a);
    vf total[4][4];
    float shift[4][4];
    for (int r = 0; r < count; r++)
        for (int j = 0; j < width; j++) total[r][j] = splat(0.0f), shift[r][j] = 0.0f;
    for (int64_t g = 0; g < groups; g++) {
        vf sum[4][4];
#pragma GCC unroll 4
        for (int r = 0; r < count; r++)
#pragma GCC unroll 4
            for (int j = 0; j < width; j++) sum[r][j] = splat(0.0f);
        for (int64_t b = g * blocks; b < (g + 1) * blocks; b++)
#pragma GCC unroll 4
            for (int j = 0; j < width; j++) {
                vf q[HALVES];
                load_block(q, a->values + (n + j) * bytes, b, bits);
#pragma GCC unroll 4
                for (int r = 0; r < count; r++)
#pragma GCC unroll 8
                    for (int i = 0; i < HALVES; i++)
                        sum[r][j] += q[i] * *(const vf_unaligned *)(x + r * a->padded + b * BLOCK + i * VL);
            }
        for (int j = 0; j < width; j++) {
            const int64_t at = (n + j) * groups + g;
            const float scale = a->scale[at], offset = a->offset ? a->offset[at] : bits == 8 ? 0.0f : 8.0f;
            for (int r = 0; r < count; r++) {
                total[r][j] += sum[r][j] * scale;
                shift[r][j] += scale * offset * sums[r * groups + g];
            }
        }
    }
    for (int r = 0; r < count; r++)
        for (int j = 0; j < width; j++)
            store_one(a->out + ((row + r) * a->outputs + n + j) * item_size((int)a->dtype), (int)a->dtype,
                      (sum_vf(total[r][j]) - shift[r][j]) * scales[r] + (a->bias ? a->bias[n + j] : 0.0f));
}

INLINE void product_rows(const quantized_linear_args *a, int64_t row, int64_t begin, int64_t end, const float *x,
                         const float *sums, const float *scales, const int count, const int bits) {
    int64_t n = begin;
    if (count == 1)
        for (; n + 4 <= end; n += 4) product(a, row, n, x, sums, scales, 1, 4, bits);
    else
        for (; n + 2 <= end; n += 2) product(a, row, n, x, sums, scales, 4, 2, bits);
    for (; n < end; n++) product(a, row, n, x, sums, scales, count, 1, bits);
}

/* Some rows, rounded, with their sums and scales. */
typedef struct {
    const quantized_linear_args *a;
    const float *x, *sums, *scales;
    int64_t row;
    int count;
} some_rows;

static void product_columns(const void *context, int64_t begin, int64_t end) {
    const some_rows *r = context;
    const quantized_linear_args *a = r->a;
    if (a->bits == 8 && r->count == 4) product_rows(a, r->row, begin, end, r->x, r->sums, r->scales, 4, 8);
    else if (a->bits == 8) product_rows(a, r->row, begin, end, r->x, r->sums, r->scales, 1, 8);
    else if (r->count == 4) product_rows(a, r->row, begin, end, r->x, r->sums, r->scales, 4, 4);
    else product_rows(a, r->row, begin, end, r->x, r->sums, r->scales, 1, 4);
}

static void products(const quantized_linear_args *a) {
    const int64_t groups = a->padded / a->group;
    arena scratch = arena_new(4 * (a->padded + groups) * sizeof(float) + 128);
    if (!scratch.base) return;
    float *x = arena_take(&scratch, 4 * a->padded * sizeof(float)), *sums = arena_take(&scratch, 4 * groups * sizeof(float));
    for (int64_t row = 0; row < a->rows;) {
        const int count = row + 4 <= a->rows ? 4 : 1;
        float scales[4];
        load_rows(a, row, count, x, sums, scales);
        const some_rows rows = {.a = a, .x = x, .sums = sums, .scales = scales, .row = row, .count = count};
        vimzoo_parallel(a->threads, a->outputs, product_columns, &rows);
        row += count;
    }
    free(scratch.base);
}

static void weights_of(const void *arguments, int64_t begin, int64_t end) {
    const quantized_linear_args *a = arguments;
    const int dtype = (int)a->dtype;
    const int64_t groups = a->padded / a->group;
    for (int64_t n = begin; n < end; n++)
        for (int64_t b = 0; b * BLOCK < a->inputs; b++) {
            const int64_t at = n * groups + b * BLOCK / a->group;
            const float scale = a->scale[at], offset = a->offset ? a->offset[at] : a->bits == 8 ? 0.0f : 8.0f;
            vf q[HALVES];
            load_block(q, a->values + n * row_bytes(a), b, (int)a->bits);
            for (int i = 0; i < HALVES; i++) {
                const int64_t k = b * BLOCK + i * VL;
                if (k >= a->inputs) break;
                store_row(a->out + (n * a->inputs + k) * item_size(dtype), dtype, (int)min_of(VL, a->inputs - k),
                          (q[i] - offset) * scale);
            }
        }
}
static void weights(const quantized_linear_args *a) { vimzoo_parallel(a->threads, a->outputs, weights_of, a); }

#if VL == 16
#include <cpuid.h>
#define DOT_TARGET __attribute__((target("avx512vnni")))
#define DOT(sum, unsigned_bytes, signed_bytes) \
    (vi)_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(unsigned_bytes), (__m512i)(signed_bytes))
enum { TILE_ROWS = 8 };
#elif VL == 8 && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#include <cpuid.h>
#define DOT_TARGET __attribute__((target("avxvnni")))
#define DOT(sum, unsigned_bytes, signed_bytes) \
    (vi)_mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(unsigned_bytes), (__m256i)(signed_bytes))
enum { TILE_ROWS = 4 };
#elif defined(NEON) && defined(__ARM_FEATURE_MATMUL_INT8)
#define DOT_TARGET
#define DOT(sum, unsigned_bytes, signed_bytes) \
    (vi)vusdotq_s32((int32x4_t)(sum), (uint8x16_t)(unsigned_bytes), (int8x16_t)(signed_bytes))
enum { TILE_ROWS = 8 };
#endif

#ifdef DOT
enum { WIDTH = 2 * VL, ROWS = 32 }; /* outputs of a tile; rows of a task */
typedef int32_t vi_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));

/* WIDTH rows of the weight, unsigned: 4 columns of all of them, then the next 4 columns. */
static void pack(const quantized_linear_args *a, int64_t n, vi *out) {
    for (int half = 0; half < 2; half++)
        for (int64_t k = 0; k < a->padded; k += 4 * VL) {
            const int some = (int)min_of(VL, (a->padded - k) / 4);
            vf block[VL];
            for (int i = 0; i < VL; i++) {
                const int64_t at = n + half * VL + i;
                block[i] = at < a->outputs ? load_row(a->values + at * a->padded + k, F32, some) : splat(0.0f);
            }
            transpose_vf(block);
            for (int i = 0; i < some; i++) out[(k / 4 + i) * 2 + half] = (vi)block[i] ^ (int32_t)0x80808080;
        }
}

/* Whole numbers as bytes. */
INLINE v8 bytes_of(vf v) {
#if VL == 16
    return (v8)_mm512_cvtepi32_epi8(_mm512_cvtps_epi32((__m512)v)); /* the compiler converts one by one */
#else
    return __builtin_convertvector(v, v8);
#endif
}

/* A row in 8 bits; returns its scale, and in `sum` 128 times the sum of its bytes. */
static float narrow_row(const quantized_linear_args *a, int64_t row, int8_t *bytes, int32_t *sum, const int dtype) {
    const char *from = a->x + row * a->x_row * item_size(dtype);
    const float top = largest_of(a, from, dtype), factor = top > 0.0f ? 127.0f / top : 0.0f;
    vf total = {0};
    memset(bytes + a->inputs, 0, a->padded - a->inputs);
    EACH_VECTOR(a->inputs, {
        const vf v = whole(load_row(from + c * item_size(dtype), dtype, lanes) * factor);
        const v8 narrow = bytes_of(v);
        memcpy(bytes + c, &narrow, lanes);
        total += v;
    });
    *sum = 128 * (int32_t)sum_vf(total);
    return top / 127.0f;
}

/* TILE_ROWS rows, of which the first `count` are wanted, by WIDTH outputs from `n`: bytes, scales and sums are the rows'. */
INLINE DOT_TARGET void tile(const quantized_linear_args *a, int64_t row, int64_t n, const vi *packed, const int8_t *bytes,
                      const float *scales, const int32_t *sums, const int count, const int dtype) {
    vi total[TILE_ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < TILE_ROWS; r++) total[r][0] = total[r][1] = (vi){0} - sums[r];
    for (int64_t k = 0; k < a->padded / 4; k++) {
        const vi left = packed[2 * k], right = packed[2 * k + 1];
#pragma GCC unroll 8
        for (int r = 0; r < TILE_ROWS; r++) {
            int32_t four;
            memcpy(&four, bytes + r * a->padded + 4 * k, 4);
            const vi all = (vi){0} + four;
            total[r][0] = DOT(total[r][0], left, all);
            total[r][1] = DOT(total[r][1], right, all);
        }
    }
    for (int half = 0; half < 2; half++) {
        const int64_t at = n + half * VL;
        if (at >= a->outputs) break;
        const int lanes = (int)min_of(VL, a->outputs - at);
        const vf scale = load_row((const char *)(a->scale + at), F32, lanes) * (a->factor == 0.0 ? 1.0f : (float)a->factor);
        const vf bias = a->bias ? load_row((const char *)(a->bias + at), F32, lanes) : splat(0.0f);
#pragma GCC unroll 8
        for (int r = 0; r < TILE_ROWS; r++) {
            if (r >= count) break;
            vf y = __builtin_convertvector(total[r][half], vf) * (scales[r] * scale) + bias;
            if (a->gelu) y = gelu_vf(y, dtype != F32);
            if (a->add) y += load_row(a->add + ((row + r) * a->outputs + at) * item_size(dtype), dtype, lanes);
            store_row(a->out + ((row + r) * a->outputs + at) * item_size(dtype), dtype, lanes, y);
        }
    }
}

INLINE DOT_TARGET void tiles(const quantized_linear_args *a, int64_t begin, int64_t end, const vi *packed, int8_t *bytes,
                       const int dtype) {
    float scales[ROWS];
    int32_t sums[ROWS] = {0};
    memset(bytes + (end - begin) * a->padded, 0, (ROWS - (end - begin)) * a->padded);
    for (int64_t row = begin; row < end; row++)
        scales[row - begin] = narrow_row(a, row, bytes + (row - begin) * a->padded, sums + (row - begin), dtype);
    for (int64_t n = 0; n < a->outputs; n += WIDTH, packed += a->padded / 2) {
        for (int64_t r = 0; r < end - begin; r += TILE_ROWS)
            tile(a, begin + r, n, packed, bytes + r * a->padded, scales + r, sums + r,
                 (int)min_of(TILE_ROWS, end - begin - r), dtype);
    }
}

static DOT_TARGET void tiles_of(const quantized_linear_args *a, int64_t begin, int64_t end, const vi *packed, int8_t *bytes) {
    if (a->dtype == F32) tiles(a, begin, end, packed, bytes, F32);
    else if (a->dtype == BF16) tiles(a, begin, end, packed, bytes, BF16);
    else tiles(a, begin, end, packed, bytes, F16);
}

typedef struct {
    const quantized_linear_args *a;
    vi *packed;
} packed_weight;

static void pack_widths(const void *context, int64_t begin, int64_t end) {
    const packed_weight *w = context;
    for (int64_t i = begin; i < end; i++) pack(w->a, i * WIDTH, w->packed + i * (w->a->padded / 2));
}
static void product_blocks(const void *context, int64_t begin, int64_t end) {
    const packed_weight *w = context;
    arena own = arena_new(ROWS * w->a->padded);
    if (!own.base) return;
    for (int64_t block = begin; block < end; block++)
        tiles_of(w->a, block * ROWS, min_of(w->a->rows, (block + 1) * ROWS), w->packed, (int8_t *)own.base);
    free(own.base);
}
static void products_8_bits(const quantized_linear_args *a) {
    const int64_t widths = ceil_div(a->outputs, WIDTH);
    arena scratch = arena_new(widths * WIDTH * a->padded);
    if (!scratch.base) return;
    const packed_weight w = {.a = a, .packed = arena_take(&scratch, widths * WIDTH * a->padded)};
    vimzoo_parallel(a->threads, widths, pack_widths, &w);
    vimzoo_parallel(a->threads, ceil_div(a->rows, ROWS), product_blocks, &w);
    free(scratch.base);
}
#else
static void products_8_bits(const quantized_linear_args *a) { (void)a; }
#endif

/* Whether this processor has instructions for products of bytes: of AVX-512, of 256 bits, or ARM's. */
EXPORT int vimzoo_has_int8(void) {
#if !defined(DOT)
    return 0;
#elif defined(NEON)
    return 1; /* every processor that this library is chosen for */
#else
    unsigned eax, ebx, ecx, edx;
    const unsigned leaf = VL == 16 ? 0 : 1;
    if (!__get_cpuid_count(7, leaf, &eax, &ebx, &ecx, &edx)) return 0;
    return VL == 16 ? ecx >> 11 & 1 : eax >> 4 & 1;
#endif
}

void vimzoo_product_with(const product_args *p, const char *weight) {
    if (!weight) {
        vimzoo_product_forward(p);
        return;
    }
    quantized_linear_args a = *(const quantized_linear_args *)weight;
    const int eight = a.task == PRODUCT_8_BITS, size = item_size((int)p->dtype);
    arena scratch = arena_new(p->columns * (eight ? (int64_t)sizeof(float) : p->depth * size));
    if (!scratch.base) return;
    a.dtype = p->dtype, a.threads = p->threads;
    if (eight) {
        a.rows = p->rows, a.x = p->x, a.x_row = p->x_row, a.out = p->out;
        a.gelu = p->gelu, a.factor = p->scale, a.add = p->add;
        if (p->bias) a.bias = as_floats(&scratch, p->bias, (int)p->dtype, p->columns);
        products_8_bits(&a);
    } else {
        product_args wide = *p;
        wide.weight = a.out = scratch.base;
        weights(&a);
        vimzoo_product_forward(&wide);
    }
    free(scratch.base);
}

EXPORT int vimzoo_quantized_linear_forward(const quantized_linear_args *a) {
    if (a->task == WEIGHTS) weights(a);
    else if (a->task == PRODUCT_8_BITS && a->rows > FEW_ROWS) products_8_bits(a);
    else products(a);
    return memory_short;
}
