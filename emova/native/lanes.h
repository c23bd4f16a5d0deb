// Sixteen lanes at once, in the instructions of the processor that this is compiled for.
//
// F is sixteen float32, I sixteen int32; a lane is a row of a matrix. What a matrix product needs of a processor is here
// and nowhere else: widening of stored numbers, multiply-add, and dot products of four bytes a lane.
//
// Bytes of weights are unsigned (stored + OFFSET). The other factor is a whole number of 16 bits, four of them in two
// words (`encode`), so that a product is exact whatever the instructions: either as two digits of 8 bits, x = 256 high +
// low, or as pairs of 16 bits.
#ifndef LANES_H
#define LANES_H
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
enum { LANES = 16 };

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define SUMS 4  // of a product of floats, side by side: they hide the additions' latency
#define TILE 4  // positions that share a widened weight
typedef __m512 F;
typedef __m512i I;
typedef __m512i Bytes;
INLINE F zero(void) { return _mm512_setzero_ps(); }
INLINE F all(float x) { return _mm512_set1_ps(x); }
INLINE void put(float *to, F x) { _mm512_storeu_ps(to, x); }
INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
INLINE F fused(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
INLINE F wide_float(const float *w) { return _mm512_loadu_ps(w); }
INLINE F wide_half(const _Float16 *w) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)w)); }
INLINE F wide_even(const uint16_t *w) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(w), 16)); }
INLINE F wide_odd(const uint16_t *w) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(w), _mm512_set1_epi32((int)0xffff0000)));
}
INLINE Bytes bytes(const uint8_t *w) { return _mm512_loadu_si512(w); }
INLINE Bytes low_nibbles(Bytes w) { return _mm512_and_si512(w, _mm512_set1_epi8(15)); }
INLINE Bytes high_nibbles(Bytes w) { return low_nibbles(_mm512_srli_epi16(w, 4)); }
INLINE I all_int(int32_t x) { return _mm512_set1_epi32(x); }
INLINE I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
INLINE I times_256(I a) { return _mm512_slli_epi32(a, 8); }
INLINE F to_float(I a) { return _mm512_cvtepi32_ps(a); }
#ifdef __AVX512VNNI__
#define DIGITS 1
INLINE I dot4(I sum, Bytes w, int32_t x) { return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x)); }
#else
INLINE I dot_even(I sum, Bytes w, int32_t x) {
    return add_int(sum, _mm512_madd_epi16(_mm512_and_si512(w, _mm512_set1_epi16(255)), _mm512_set1_epi32(x)));
}
INLINE I dot_odd(I sum, Bytes w, int32_t x) {
    return add_int(sum, _mm512_madd_epi16(_mm512_srli_epi16(w, 8), _mm512_set1_epi32(x)));
}
#endif
#ifdef __AVX512BF16__
#define BFLOAT_PAIRS 1
INLINE F dot2(F sum, const uint16_t *w, uint32_t x) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(w), (__m512bh)_mm512_set1_epi32((int32_t)x));
}
#endif

#elif defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)
#include <immintrin.h>
#define SUMS 2
#define TILE 2
typedef struct { __m256 a, b; } F;
typedef struct { __m256i a, b; } I;
typedef I Bytes;
#define BOTH(TYPE, A, B) ((TYPE){A, B})
INLINE F zero(void) { return BOTH(F, _mm256_setzero_ps(), _mm256_setzero_ps()); }
INLINE F all(float x) { return BOTH(F, _mm256_set1_ps(x), _mm256_set1_ps(x)); }
INLINE void put(float *to, F x) { _mm256_storeu_ps(to, x.a), _mm256_storeu_ps(to + 8, x.b); }
INLINE F add(F a, F b) { return BOTH(F, _mm256_add_ps(a.a, b.a), _mm256_add_ps(a.b, b.b)); }
INLINE F fused(F a, F b, F c) { return BOTH(F, _mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b)); }
INLINE F wide_float(const float *w) { return BOTH(F, _mm256_loadu_ps(w), _mm256_loadu_ps(w + 8)); }
INLINE F wide_half(const _Float16 *w) {
    const __m128i *from = (const __m128i *)w;
    return BOTH(F, _mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from + 1)));
}
INLINE Bytes bytes(const uint8_t *w) {
    const __m256i *from = (const __m256i *)w;
    return BOTH(I, _mm256_loadu_si256(from), _mm256_loadu_si256(from + 1));
}
INLINE F as_floats(I x) { return BOTH(F, _mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)); }
INLINE F wide_even(const uint16_t *w) {
    I x = bytes((const uint8_t *)w);
    return as_floats(BOTH(I, _mm256_slli_epi32(x.a, 16), _mm256_slli_epi32(x.b, 16)));
}
INLINE I and_int(I x, __m256i mask) { return BOTH(I, _mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)); }
INLINE F wide_odd(const uint16_t *w) {
    return as_floats(and_int(bytes((const uint8_t *)w), _mm256_set1_epi32((int)0xffff0000)));
}
INLINE Bytes low_nibbles(Bytes w) { return and_int(w, _mm256_set1_epi8(15)); }
INLINE Bytes high_nibbles(Bytes w) {
    return low_nibbles(BOTH(I, _mm256_srli_epi16(w.a, 4), _mm256_srli_epi16(w.b, 4)));
}
INLINE I all_int(int32_t x) { return BOTH(I, _mm256_set1_epi32(x), _mm256_set1_epi32(x)); }
INLINE I add_int(I a, I b) { return BOTH(I, _mm256_add_epi32(a.a, b.a), _mm256_add_epi32(a.b, b.b)); }
INLINE I times_256(I x) { return BOTH(I, _mm256_slli_epi32(x.a, 8), _mm256_slli_epi32(x.b, 8)); }
INLINE F to_float(I x) { return BOTH(F, _mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)); }
#if defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))
#define DIGITS 1
INLINE I dot4(I sum, Bytes w, int32_t x) {
    __m256i four = _mm256_set1_epi32(x);
    return BOTH(I, _mm256_dpbusd_epi32(sum.a, w.a, four), _mm256_dpbusd_epi32(sum.b, w.b, four));
}
#else
INLINE I dot_even(I sum, Bytes w, int32_t x) {
    __m256i two = _mm256_set1_epi32(x);
    w = and_int(w, _mm256_set1_epi16(255));
    return add_int(sum, BOTH(I, _mm256_madd_epi16(w.a, two), _mm256_madd_epi16(w.b, two)));
}
INLINE I dot_odd(I sum, Bytes w, int32_t x) {
    __m256i two = _mm256_set1_epi32(x);
    w = BOTH(I, _mm256_srli_epi16(w.a, 8), _mm256_srli_epi16(w.b, 8));
    return add_int(sum, BOTH(I, _mm256_madd_epi16(w.a, two), _mm256_madd_epi16(w.b, two)));
}
#endif

#elif defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#define SUMS 2
#define TILE 2
typedef float32x4x4_t F;
typedef int32x4x4_t I;
typedef uint8x16x4_t Bytes;
#define EACH _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)
INLINE F all(float x) { return (F){{vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)}}; }
INLINE F zero(void) { return all(0); }
INLINE void put(float *to, F x) { EACH vst1q_f32(to + 4 * i, x.val[i]); }
INLINE F add(F a, F b) { EACH a.val[i] = vaddq_f32(a.val[i], b.val[i]); return a; }
INLINE F fused(F a, F b, F c) { EACH c.val[i] = vfmaq_f32(c.val[i], a.val[i], b.val[i]); return c; }
INLINE F wide_float(const float *w) { F x; EACH x.val[i] = vld1q_f32(w + 4 * i); return x; }
INLINE F wide_half(const _Float16 *w) {
    F x;
    EACH x.val[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)w + 4 * i)));
    return x;
}
INLINE F wide_even(const uint16_t *w) {
    F x;
    EACH x.val[i] = vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u16(vld1q_u16(w + 8 * i)), 16));
    return x;
}
INLINE F wide_odd(const uint16_t *w) {
    F x;
    EACH x.val[i] = vreinterpretq_f32_u32(
        vandq_u32(vreinterpretq_u32_u16(vld1q_u16(w + 8 * i)), vdupq_n_u32(0xffff0000u)));
    return x;
}
INLINE Bytes bytes(const uint8_t *w) { Bytes x; EACH x.val[i] = vld1q_u8(w + 16 * i); return x; }
INLINE Bytes low_nibbles(Bytes w) { EACH w.val[i] = vandq_u8(w.val[i], vdupq_n_u8(15)); return w; }
INLINE Bytes high_nibbles(Bytes w) { EACH w.val[i] = vshrq_n_u8(w.val[i], 4); return w; }
INLINE I all_int(int32_t x) { return (I){{vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x)}}; }
INLINE I add_int(I a, I b) { EACH a.val[i] = vaddq_s32(a.val[i], b.val[i]); return a; }
INLINE I times_256(I x) { EACH x.val[i] = vshlq_n_s32(x.val[i], 8); return x; }
INLINE F to_float(I x) { F y; EACH y.val[i] = vcvtq_f32_s32(x.val[i]); return y; }
#ifdef __ARM_FEATURE_DOTPROD
#define DIGITS 1
#define OFFSET 0  // its dot products are of signed bytes
INLINE Bytes bytes_of_int8(const uint8_t *w) {
    Bytes x;
    EACH x.val[i] = veorq_u8(vld1q_u8(w + 16 * i), vdupq_n_u8(128));
    return x;
}
INLINE I dot4(I sum, Bytes w, int32_t x) {
    int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(x));
    EACH sum.val[i] = vdotq_s32(sum.val[i], vreinterpretq_s8_u8(w.val[i]), four);
    return sum;
}
#else
INLINE int32x4_t pairs(int32x4_t sum, uint16x8_t w, int32_t x) {
    int16x8_t a = vreinterpretq_s16_u16(w), b = vreinterpretq_s16_s32(vdupq_n_s32(x));
    return vaddq_s32(sum, vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b)));
}
INLINE I dot_even(I sum, Bytes w, int32_t x) {
    EACH sum.val[i] = pairs(sum.val[i], vandq_u16(vreinterpretq_u16_u8(w.val[i]), vdupq_n_u16(255)), x);
    return sum;
}
INLINE I dot_odd(I sum, Bytes w, int32_t x) {
    EACH sum.val[i] = pairs(sum.val[i], vshrq_n_u16(vreinterpretq_u16_u8(w.val[i]), 8), x);
    return sum;
}
#endif

#else  // any processor
#define SUMS 1
#define TILE 1
#define EACH for (int i = 0; i < LANES; i++)
typedef struct { float of[LANES]; } F;
typedef struct { int32_t of[LANES]; } I;
typedef struct { uint8_t of[4 * LANES]; } Bytes;
INLINE F all(float x) { F y; EACH y.of[i] = x; return y; }
INLINE F zero(void) { return all(0); }
INLINE void put(float *to, F x) { memcpy(to, x.of, sizeof x.of); }
INLINE F add(F a, F b) { EACH a.of[i] += b.of[i]; return a; }
INLINE F fused(F a, F b, F c) { EACH c.of[i] += a.of[i] * b.of[i]; return c; }
INLINE F wide_float(const float *w) { F x; EACH x.of[i] = w[i]; return x; }
INLINE F wide_half(const _Float16 *w) { F x; EACH x.of[i] = (float)w[i]; return x; }
INLINE float of_bits(uint16_t high) { union { uint32_t bits; float value; } x = {(uint32_t)high << 16}; return x.value; }
INLINE F wide_even(const uint16_t *w) { F x; EACH x.of[i] = of_bits(w[2 * i]); return x; }
INLINE F wide_odd(const uint16_t *w) { F x; EACH x.of[i] = of_bits(w[2 * i + 1]); return x; }
INLINE Bytes bytes(const uint8_t *w) { Bytes x; memcpy(x.of, w, sizeof x.of); return x; }
INLINE Bytes low_nibbles(Bytes w) { for (int i = 0; i < 4 * LANES; i++) w.of[i] &= 15; return w; }
INLINE Bytes high_nibbles(Bytes w) { for (int i = 0; i < 4 * LANES; i++) w.of[i] >>= 4; return w; }
INLINE I all_int(int32_t x) { I y; EACH y.of[i] = x; return y; }
INLINE I add_int(I a, I b) { EACH a.of[i] += b.of[i]; return a; }
INLINE I times_256(I x) { EACH x.of[i] *= 256; return x; }
INLINE F to_float(I x) { F y; EACH y.of[i] = (float)x.of[i]; return y; }
INLINE I dot_even(I sum, Bytes w, int32_t x) {
    EACH sum.of[i] += w.of[4 * i] * (int16_t)x + w.of[4 * i + 2] * (int16_t)(x >> 16);
    return sum;
}
INLINE I dot_odd(I sum, Bytes w, int32_t x) {
    EACH sum.of[i] += w.of[4 * i + 1] * (int16_t)x + w.of[4 * i + 3] * (int16_t)(x >> 16);
    return sum;
}
#endif

#ifndef OFFSET
#define OFFSET 128
#define bytes_of_int8 bytes
#endif

// The largest whole number that two digits of -128 to 127 write, and that is written so with its sign turned.
enum { LARGEST = 127 * 256 + 127 };

enum { AT_ONCE = 32 };

// Whole numbers as the words that `dot8` takes, one of each array for four of them.
INLINE void encode(const int32_t x[AT_ONCE], int32_t *one, int32_t *other) {
#ifdef DIGITS
    int8_t high[AT_ONCE], low[AT_ONCE];
    for (int i = 0; i < AT_ONCE; i++) {
        int32_t upper = (x[i] + 128) >> 8;  // to the nearest
        high[i] = (int8_t)upper, low[i] = (int8_t)(x[i] - 256 * upper);
    }
#else
    int16_t high[AT_ONCE / 2], low[AT_ONCE / 2];
    for (int i = 0; i < AT_ONCE / 2; i++) high[i] = (int16_t)x[2 * i], low[i] = (int16_t)x[2 * i + 1];
#endif
    memcpy(one, high, sizeof high);
    memcpy(other, low, sizeof low);
}

// Four bytes of each lane with four whole numbers: two sums, which `whole` makes one.
typedef struct { I one, other; } Sum;
INLINE Sum dot8(Sum sum, Bytes w, int32_t one, int32_t other) {
#ifdef DIGITS
    return (Sum){dot4(sum.one, w, one), dot4(sum.other, w, other)};
#else
    return (Sum){dot_even(sum.one, w, one), dot_odd(sum.other, w, other)};
#endif
}
INLINE I whole(Sum sum) {
#ifdef DIGITS
    return add_int(times_256(sum.one), sum.other);
#else
    return add_int(sum.one, sum.other);
#endif
}
#endif
