/* Reading and writing rows and tiles of float32, bfloat16 or float16 tensors as float32 vectors. */
#ifndef VIMZOO_IO_H
#define VIMZOO_IO_H

#include "vec.h"

/* Asks for memory that is read later, in an order that the processor does not foresee. */
INLINE void ask_for(const void *p) { __builtin_prefetch(p, 0, 2); }

INLINE int item_size(int dtype) { return dtype == F32 ? 4 : 2; }

INLINE float bf16_to_float(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}
INLINE uint16_t float_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0; /* NaN must not round to infinity */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
HELPER float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 31u, mantissa = half & 0x3ffu, bits;
    if (exponent == 31) bits = sign | 0x7f800000u | (mantissa << 13);
    else if (exponent) bits = sign | ((exponent + 112u) << 23) | (mantissa << 13);
    else { /* subnormal: mantissa * 2^-24 */
        float value = (float)mantissa * 5.9604645e-8f;
        memcpy(&bits, &value, 4);
        bits |= sign;
    }
    float out;
    memcpy(&out, &bits, 4);
    return out;
}
HELPER uint16_t float_to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return sign | 0x7e00;
    if (bits >= 0x477ff000u) return sign | 0x7c00; /* rounds to infinity */
    if (bits < 0x38800000u) {                      /* subnormal: let the float adder round at 2^-24 */
        float magnitude, magic = 0.5f;
        memcpy(&magnitude, &bits, 4);
        magnitude += magic;
        memcpy(&bits, &magnitude, 4);
        return sign | (uint16_t)(bits - 0x3f000000u);
    }
    return sign | (uint16_t)((bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13);
}

INLINE float load_one(const char *p, int dtype) {
    if (dtype == F32) {
        float value;
        memcpy(&value, p, 4);
        return value;
    }
    uint16_t bits;
    memcpy(&bits, p, 2);
    return dtype == BF16 ? bf16_to_float(bits) : half_to_float(bits);
}
INLINE void store_one(char *p, int dtype, float value) {
    if (dtype == F32) memcpy(p, &value, 4);
    else {
        uint16_t bits = dtype == BF16 ? float_to_bf16(value) : float_to_half(value);
        memcpy(p, &bits, 2);
    }
}

/* `lanes` consecutive items as one vector, the rest zero. */
INLINE vf load_row(const char *p, int dtype, int lanes) {
#if VL == 16
    __mmask16 mask = (__mmask16)((1u << lanes) - 1u);
    if (dtype == F32) return (vf)_mm512_maskz_loadu_ps(mask, p);
    if (dtype == BF16)
        return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16);
    return (vf)_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
#else
    if (lanes == VL) {
        if (dtype == F32) return *(const vf_unaligned *)p;
        if (dtype == BF16) {
            vs half;
            memcpy(&half, p, sizeof half);
            return (vf)(__builtin_convertvector(half, vu) << 16);
        }
#if VL == 8
        return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#elif defined(NEON)
        return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)p)));
#endif
    }
    vf out = {0};
    for (int i = 0; i < lanes; i++) out[i] = load_one(p + i * item_size(dtype), dtype);
    return out;
#endif
}

INLINE void store_row(char *p, int dtype, int lanes, vf value) {
#if VL == 16
    __mmask16 mask = (__mmask16)((1u << lanes) - 1u);
    if (dtype == F32) _mm512_mask_storeu_ps(p, mask, (__m512)value);
    else if (dtype == BF16) {
#if defined(__AVX512BF16__)
        _mm256_mask_storeu_epi16(p, mask, (__m256i)_mm512_cvtneps_pbh((__m512)value));
        return;
#endif
        __m512i bits = (__m512i)value;
        __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        bits = _mm512_srli_epi32(bits, 16);
        bits = _mm512_mask_mov_epi32(bits, _mm512_cmp_ps_mask((__m512)value, (__m512)value, _CMP_UNORD_Q),
                                     _mm512_set1_epi32(0x7fc0));
        _mm256_mask_storeu_epi16(p, mask, _mm512_cvtepi32_epi16(bits));
    } else
        _mm256_mask_storeu_epi16(p, mask, _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT));
#else
    if (lanes == VL && dtype == F32) {
        *(vf_unaligned *)p = value;
        return;
    }
#if defined(PAIRS)
    if (lanes == VL && dtype == BF16) {
        vst1_u16((uint16_t *)p, vreinterpret_u16_bf16(vcvt_bf16_f32((float32x4_t)value)));
        return;
    }
#endif
    if (lanes == VL && dtype == BF16) {
        const vu bits = (vu)value, nan = (vu)(value != value);
        const vu upper = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        const vs half = __builtin_convertvector((upper & ~nan) | (nan & 0x7fc0), vs);
        memcpy(p, &half, sizeof half);
        return;
    }
#if VL == 8
    if (lanes == VL) {
        _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
        return;
    }
#elif defined(NEON)
    if (lanes == VL) {
        vst1_u16((uint16_t *)p, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)value)));
        return;
    }
#endif
    for (int i = 0; i < lanes; i++) store_one(p + i * item_size(dtype), dtype, value[i]);
#endif
}

INLINE vf load_floats(const float *p, int lanes) { return p ? load_row((const char *)p, F32, lanes) : splat(0.0f); }
INLINE void add_floats(float *p, vf value, int lanes) {
    store_row((char *)p, F32, lanes, load_row((const char *)p, F32, lanes) + value);
}

/* Runs BODY with `lanes_` and `dtype_` known to the compiler where it pays: full vectors of each dtype. */
#define SPECIALISE(dtype, lanes, BODY)                                          \
    do {                                                                        \
        if ((lanes) == VL && (dtype) == F32) { enum { lanes_ = VL, dtype_ = F32 }; BODY; }        \
        else if ((lanes) == VL && (dtype) == BF16) { enum { lanes_ = VL, dtype_ = BF16 }; BODY; } \
        else { const int lanes_ = (lanes), dtype_ = (int)(dtype); BODY; }       \
    } while (0)

/* The value that would come back after storing it as `dtype`. */
INLINE vf rounded(vf value, int dtype) {
    if (dtype == F32) return value;
    char item[VL * 4] __attribute__((aligned(64)));
    store_row(item, dtype, VL, value);
    return load_row(item, dtype, VL);
}

/* A tile is `steps` vectors, one channel per lane. Strides are in items: `step_stride` from one step to the next,
 * `lane_stride` from one channel to the next. */
HELPER void load_tile(vf *tile, const char *p, int dtype, int64_t step_stride, int64_t lane_stride, int steps,
                      int lanes) {
    const int size = item_size(dtype);
    if (lane_stride == 1) {
        SPECIALISE(dtype, lanes, {
            for (int t = 0; t < steps; t++)
                tile[t] = load_row(p + t * step_stride * item_size(dtype_), dtype_, lanes_);
        });
        return;
    }
    int t = 0;
    if (step_stride == 1)
        for (; t + VL <= steps; t += VL) {
            vf rows[VL];
            for (int i = 0; i < VL; i++)
                rows[i] = i < lanes ? load_row(p + (i * lane_stride + t) * size, dtype, VL) : splat(0.0f);
            transpose_vf(rows);
            for (int i = 0; i < VL; i++) tile[t + i] = rows[i];
        }
    for (; t < steps; t++) {
        vf row = {0};
        for (int i = 0; i < lanes; i++) row[i] = load_one(p + (t * step_stride + i * lane_stride) * size, dtype);
        tile[t] = row;
    }
}

HELPER void store_tile(char *p, const vf *tile, int dtype, int64_t step_stride, int64_t lane_stride, int steps,
                       int lanes) {
    const int size = item_size(dtype);
    if (lane_stride == 1) {
        for (int t = 0; t < steps; t++) store_row(p + t * step_stride * size, dtype, lanes, tile[t]);
        return;
    }
    int t = 0;
    if (step_stride == 1)
        for (; t + VL <= steps; t += VL) {
            vf rows[VL];
            for (int i = 0; i < VL; i++) rows[i] = tile[t + i];
            transpose_vf(rows);
            for (int i = 0; i < lanes; i++) store_row(p + (i * lane_stride + t) * size, dtype, VL, rows[i]);
        }
    for (; t < steps; t++)
        for (int i = 0; i < lanes; i++)
            store_one(p + (t * step_stride + i * lane_stride) * size, dtype, tile[t][i]);
}

#endif
