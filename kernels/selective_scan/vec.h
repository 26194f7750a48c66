/* Vectors of VIMZOO_VL float32 lanes and the elementary functions of the scan.
 *
 * GCC and Clang vector extensions; AVX-512 intrinsics where they save instructions. exp2 is a degree-5 polynomial
 * with p(0) = 1 exactly: decays close to 1 are multiplied up over a whole sequence, so an error there would add up.
 */
#ifndef VIMZOO_VEC_H
#define VIMZOO_VEC_H

#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef VIMZOO_VL
#define VIMZOO_VL 4
#endif
#define VL VIMZOO_VL
#if defined(__aarch64__) && VL == 4
#include <arm_neon.h>
#define NEON 1
#endif
#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))
#define HELPER static __attribute__((unused))

typedef float vf __attribute__((vector_size(VL * 4)));
typedef float vf_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef uint16_t vs __attribute__((vector_size(VL * 2)));

enum { F32 = 0, BF16 = 1, F16 = 2 };
static const float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;
static const float NARROW_C2 = 2.4212e-1f, NARROW_C3 = 5.549127e-2f; /* of 2^r between -1/2 and 1/2 */

INLINE vf splat(float value) { return (vf){0} + value; }
INLINE vf select_vf(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }
/* At least `low`; NaN stays NaN. */
INLINE vf at_least(vf low, vf v) {
#if VL == 16
    return (vf)_mm512_max_ps((__m512)low, (__m512)v);
#elif VL == 8
    return (vf)_mm256_max_ps((__m256)low, (__m256)v);
#elif defined(NEON)
    return (vf)vmaxq_f32((float32x4_t)low, (float32x4_t)v);
#else
    return select_vf(low > v, low, v);
#endif
}
/* At most `high`; NaN stays NaN. */
INLINE vf at_most(vf high, vf v) {
#if VL == 16
    return (vf)_mm512_min_ps((__m512)high, (__m512)v);
#elif VL == 8
    return (vf)_mm256_min_ps((__m256)high, (__m256)v);
#elif defined(NEON)
    return (vf)vminq_f32((float32x4_t)high, (float32x4_t)v);
#else
    return select_vf(high < v, high, v);
#endif
}

#if defined(__AVX512BF16__) || (defined(NEON) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC))
#define PAIRS 1
/* sum + the two products of bfloat16 numbers that share a lane. */
INLINE vf add_pairs(vf sum, vi a, vi b) {
#if VL == 16
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    return (vf)vbfdotq_f32((float32x4_t)sum, vreinterpretq_bf16_s32((int32x4_t)a), vreinterpretq_bf16_s32((int32x4_t)b));
#endif
}
#endif

/* v, once it is computed: GCC fuses a product with every sum that it enters, so it would multiply twice. On AVX-512 products
 * are what bounds the scan, and additions have units of their own. */
INLINE vf computed(vf v) {
#if VL == 16
    __asm__("" : "+v"(v));
#endif
    return v;
}

/* 2^x; underflows to 0 (AVX-512) or stays at 2^-126, overflows to infinity, keeps NaN. Relative error 1.7e-7; for values
 * that go into 8 or 11 bits, `narrow`, 2e-4, with 1 and ln 2 exact so that decays close to 1 stay right to 4e-4 of 1 - decay. */
INLINE vf exp2_vf(vf x, const int narrow) {
    const float c5 = 1.330026425e-3f, c4 = 9.669709019e-3f, c3 = 5.550559983e-2f, c2 = 2.402228117e-1f, c1 = LN2;
#if VL == 16
    vf r = (vf)_mm512_reduce_ps((__m512)x, 0x08);
    vf whole = x - r;
#else
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits */
    x = at_most(splat(128.0f), at_least(splat(-126.0f), x));
    vf shifted = x + magic;
    vf r = x - (shifted - magic);
#endif
    vf p;
    if (narrow) p = NARROW_C3 * r + NARROW_C2;
    else {
        p = c5 * r + c4;
        p = p * r + c3;
        p = p * r + c2;
    }
    p = p * r + c1;
    p = p * r + 1.0f;
#if VL == 16
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
    return (vf)((vi)p + ((vi)shifted << 23));
#endif
}

/* log(1 + t) for 0 <= t <= 1 as t (1 + t q(t)), q of degree 7: relative error 3.4e-8 before rounding. */
INLINE vf log1p_unit(vf t) {
    const float c1 = -4.999964796e-1f, c2 = 3.332132258e-1f, c3 = -2.485716332e-1f, c4 = 1.915365342e-1f,
                c5 = -1.375379883e-1f, c6 = 7.920449105e-2f, c7 = -3.006576312e-2f, c8 = 5.364816601e-3f;
    vf t2 = t * t, t4 = t2 * t2;
    vf low = (c1 + c2 * t) + t2 * (c3 + c4 * t);
    vf high = (c5 + c6 * t) + t2 * (c7 + c8 * t);
    return t + t2 * (low + t4 * high);
}

/* The same of degree 4: relative error 7e-5. */
INLINE vf log1p_unit_narrow(vf t) {
    const vf q = ((4.310614e-2f * t - 1.6136282e-1f) * t + 3.0922463e-1f) * t - 4.9777447e-1f;
    return t * t * q + t;
}

/* softplus(x) = max(x, 0) + log(1 + e^-|x|). */
INLINE vf softplus_vf(vf x, const int narrow) {
    const vf t = exp2_vf(computed((vf)((vi)x & 0x7fffffff) * -LOG2E), narrow);
    return at_least(splat(0.0f), x) + (narrow ? log1p_unit_narrow(t) : log1p_unit(t));
}

/* 1 / d for 1 <= d < 2^101: on AVX-512 an estimate and one Newton step (error 1 unit in the last place) beat division. */
INLINE vf reciprocal_vf(vf d) {
#if VL == 16
    vf r = (vf)_mm512_rcp14_ps((__m512)d);
    return r * (2.0f - d * r);
#else
    return 1.0f / d;
#endif
}

/* 1 / (1 + e^-x); the exponent is capped so that nothing overflows (2^-100 is as good as 0 against any x). */
INLINE vf logistic(vf x, const int narrow) {
    return reciprocal_vf(1.0f + exp2_vf(at_most(splat(100.0f), x * -LOG2E), narrow));
}
INLINE vf sigmoid_vf(vf x) { return logistic(x, 0); }
INLINE vf silu_vf(vf x, const int narrow) { return x * logistic(x, narrow); }

/* gelu(x) = x (1/2 + x r(x^2)) within some distance of zero, and x or zero beyond: r is a quotient of polynomials, error
 * 2e-8 before rounding; for values that go into 8 or 11 bits, `narrow`, a polynomial, error 4.5e-5, near zero relative to x. */
INLINE vf gelu_vf(vf x, const int narrow) {
    const float end = narrow ? 4.4f : 5.4f;
    const vf above = at_least(splat(-end), x), near = at_most(splat(end), above), square = near * near;
    if (narrow) {
        const float c[] = {3.569272019e-11f, -3.753930447e-9f, 1.740812930e-7f, -4.724822777e-6f, 8.429281654e-5f,
                           -1.054993806e-3f, 9.643044239e-3f, -6.607647903e-2f, 3.987616442e-1f};
        vf r = square * c[0] + c[1];
#pragma GCC unroll 7
        for (int i = 2; i < 9; i++) r = r * square + c[i];
        return above * (r * near + 0.5f);
    }
    const float over[] = {2.277693948e-8f, 6.490400752e-6f, 1.762664328e-4f, 4.722401003e-3f, 3.449208987e-2f, 3.989420544e-1f};
    const float under[] = {1.208663362e-6f, 7.651040663e-5f, 1.925492565e-3f, 2.902790821e-2f, 2.531231309e-1f, 1.0f};
    vf n = square * over[0] + over[1], d = square * under[0] + under[1];
#pragma GCC unroll 4
    for (int i = 2; i < 6; i++) {
        n = n * square + over[i];
        d = d * square + under[i];
    }
    return above * (n * near * reciprocal_vf(d) + 0.5f);
}

INLINE float sum_vf(vf v) {
#if VL == 16
    return _mm512_reduce_add_ps((__m512)v);
#else
    float total = 0.0f;
    for (int i = 0; i < VL; i++) total += v[i];
    return total;
#endif
}

/* Rounds of sums over lanes, from bit `first` of a lane's number to bit `last`. A round halves the number of vectors, which
 * was 2 `pairs` at first: lanes of the result whose number has that bit belong to the second of a pair, and each is added to
 * the lane whose number differs in it. */
INLINE void sum_rounds(vf *r, int pairs, const int first, const int last) {
    vi lane;
    for (int i = 0; i < VL; i++) lane[i] = i;
#pragma GCC unroll 4
    for (int bit = first; bit >= last; bit /= 2, pairs /= 2) {
        const vi second = (lane & bit) != 0;
#pragma GCC unroll 8
        for (int i = 0; i < pairs; i++) {
            const vf a = r[i], b = r[i + pairs];
#if defined(__clang__)
            for (int j = 0; j < VL; j++) r[i][j] = second[j] ? b[j] + b[j ^ bit] : a[j] + a[j ^ bit];
#else
            r[i] = __builtin_shuffle(a, b, lane + (second & VL)) + __builtin_shuffle(a, b, (lane ^ bit) + (second & VL));
#endif
        }
    }
}

/* Adds sums over lanes to `out`, VL of them at a time for VL - 1 blends, shuffles and additions. Vectors are pushed some
 * at once, a power of two: of the pushes that share VL sums, those of the first vector come first. */
typedef struct {
    vf pending[VL];
    int waiting; /* pushes */
    float *out;
} lane_sums;

/* Pushes of `count` vectors that share VL sums. */
#define PUSHES(count) ((count) < VL ? VL / (count) : 1)

INLINE void add_sums(lane_sums *s, vf sums) {
    *(vf_unaligned *)s->out += sums;
    s->out += VL;
}
/* The last pushes; what stands in place of missing ones is of no use. */
INLINE void flush_sums(lane_sums *s, const int count) {
    if (!s->waiting) return;
    sum_rounds(s->pending, PUSHES(count) / 2, PUSHES(count) / 2, 1);
    add_sums(s, s->pending[0]);
    s->waiting = 0;
}
INLINE void push_sums(lane_sums *s, vf *v, const int count) {
    for (int i = 0; i < count; i += VL) {
        sum_rounds(v + i, (count < VL ? count : VL) / 2, VL / 2, PUSHES(count));
        if (PUSHES(count) == 1) add_sums(s, v[i]);
        else s->pending[s->waiting++] = v[i];
    }
    if (s->waiting == PUSHES(count)) flush_sums(s, count);
}

/* Transposes VL vectors in place with log2(VL) rounds of two-register shuffles. */
INLINE void transpose_vf(vf *r) {
#if defined(__clang__)
    float t[VL][VL];
    for (int i = 0; i < VL; i++)
        for (int j = 0; j < VL; j++) t[j][i] = r[i][j];
    memcpy(r, t, sizeof t);
#else
    vi lane;
    for (int i = 0; i < VL; i++) lane[i] = i;
#pragma GCC unroll 4
    for (int s = 1; s < VL; s *= 2) {
        vi odd = (lane & s) != 0;
        vi low = (odd & (lane - s + VL)) | (~odd & lane);
        vi high = (odd & (lane + VL)) | (~odd & (lane + s));
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++)
            if (!(i & s)) {
                vf a = r[i], b = r[i + s];
                r[i] = __builtin_shuffle(a, b, low);
                r[i + s] = __builtin_shuffle(a, b, high);
            }
    }
#endif
}

#endif
