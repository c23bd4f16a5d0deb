// Eight float32 side by side: channels of a key or a value, which heads have a multiple of.
#ifndef EIGHT_H
#define EIGHT_H
#include "lanes.h"
enum { EIGHT = 8 };

#if defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)
typedef __m256 Eight;
INLINE Eight eight(float x) { return _mm256_set1_ps(x); }
INLINE Eight eight_floats(const float *x) { return _mm256_loadu_ps(x); }
INLINE Eight eight_halves(const _Float16 *x) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x)); }
INLINE Eight fused_eight(Eight a, Eight b, Eight c) { return _mm256_fmadd_ps(a, b, c); }
INLINE void put_eight(float *to, Eight x) { _mm256_storeu_ps(to, x); }
INLINE void put_sums(float *to, Eight a, Eight b, Eight c, Eight d) {  // of each, its lanes' sum
    __m256 both = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1)));
}

#elif defined(__aarch64__) && defined(__ARM_NEON)
typedef float32x4x2_t Eight;
INLINE Eight eight(float x) { return (Eight){{vdupq_n_f32(x), vdupq_n_f32(x)}}; }
INLINE Eight eight_floats(const float *x) { return (Eight){{vld1q_f32(x), vld1q_f32(x + 4)}}; }
INLINE Eight eight_halves(const _Float16 *x) {
    float16x8_t all = vreinterpretq_f16_u16(vld1q_u16((const uint16_t *)x));
    return (Eight){{vcvt_f32_f16(vget_low_f16(all)), vcvt_high_f32_f16(all)}};
}
INLINE Eight fused_eight(Eight a, Eight b, Eight c) {
    return (Eight){{vfmaq_f32(c.val[0], a.val[0], b.val[0]), vfmaq_f32(c.val[1], a.val[1], b.val[1])}};
}
INLINE void put_eight(float *to, Eight x) { vst1q_f32(to, x.val[0]), vst1q_f32(to + 4, x.val[1]); }
INLINE void put_sums(float *to, Eight a, Eight b, Eight c, Eight d) {
    float32x4_t ab = vpaddq_f32(vaddq_f32(a.val[0], a.val[1]), vaddq_f32(b.val[0], b.val[1]));
    float32x4_t cd = vpaddq_f32(vaddq_f32(c.val[0], c.val[1]), vaddq_f32(d.val[0], d.val[1]));
    vst1q_f32(to, vpaddq_f32(ab, cd));
}

#else
typedef struct { float of[EIGHT]; } Eight;
INLINE Eight eight(float x) { Eight y; for (int i = 0; i < EIGHT; i++) y.of[i] = x; return y; }
INLINE Eight eight_floats(const float *x) { Eight y; memcpy(y.of, x, sizeof y.of); return y; }
INLINE Eight eight_halves(const _Float16 *x) {
    Eight y;
    for (int i = 0; i < EIGHT; i++) y.of[i] = (float)x[i];
    return y;
}
INLINE Eight fused_eight(Eight a, Eight b, Eight c) {
    for (int i = 0; i < EIGHT; i++) c.of[i] += a.of[i] * b.of[i];
    return c;
}
INLINE void put_eight(float *to, Eight x) { memcpy(to, x.of, sizeof x.of); }
INLINE float sum_of(Eight x) {
    return ((x.of[0] + x.of[1]) + (x.of[2] + x.of[3])) + ((x.of[4] + x.of[5]) + (x.of[6] + x.of[7]));
}
INLINE void put_sums(float *to, Eight a, Eight b, Eight c, Eight d) {
    to[0] = sum_of(a), to[1] = sum_of(b), to[2] = sum_of(c), to[3] = sum_of(d);
}
#endif
#endif
