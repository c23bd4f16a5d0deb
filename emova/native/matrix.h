// Products with a matrix that lies in panels of sixteen rows: what a column holds of them lies side by side, so that a
// number of the input meets sixteen weights and no sum has to be taken across lanes.
//
// Kinds of weights, of a panel over the columns I:
//   FLOAT32   [I][16]
//   FLOAT16   [I][16]
//   BFLOAT16  [I / 2][16][2]
//   INT8      [I / 4][16][4] bytes, number + 128; a scale a row
//   INT4      [I / 32][4][16][4] bytes, of two numbers + 8 each: the low ones are columns 4 c, the high ones 4 (c + 4);
//             a float16 scale a row and 32 columns, [I / 32][16]
// INT8 and INT4 have their columns filled up to a multiple of 32, all have their rows filled up to one of 16. Their input
// becomes whole numbers of 16 bits with one scale a position: sums are exact but for that.
//
// A sum is the same whatever the number of positions and of threads.
#ifndef MATRIX_H
#define MATRIX_H
#include "lanes.h"

enum { FLOAT32, FLOAT16, BFLOAT16, INT8, INT4 };
enum { MOST = 16 };        // positions in a step
enum { CHUNK = 128 };      // columns of INT8 whose whole numbers are added up as such
enum { GROUP_COLUMNS = 32 };  // of INT4, that share a scale

typedef struct {
    const void *weight;  // on 64 bytes
    const void *scale;   // of INT8 float32, of INT4 float16
    int64_t kind, rows, columns;
} Matrix;

// Positions x [B, I] as a matrix of some kind takes them.
typedef struct {
    const float *x;
    int64_t stride;
    int32_t *words[MOST];  // of whole numbers: `one` [I / 4], `other` [I / 4], sums [I / 32]; of bfloat16: pairs
    float scale[MOST];
} Input;

INLINE int64_t filled(int64_t columns) { return (columns + AT_ONCE - 1) / AT_ONCE * AT_ONCE; }

// How many words of scratch a position takes.
INLINE int64_t words_of(int64_t columns) { return filled(columns) * 9 / 8; }

// The position's numbers as whole ones.
static float whole_numbers(const float *restrict x, int64_t n, int32_t *restrict words) {
    int64_t wide = filled(n);
    int32_t *one = words, *other = one + wide / 4, *sums = other + wide / 4;
    float most = 0, nothing = 0;
#pragma omp simd reduction(max : most) reduction(+ : nothing)
    for (int64_t i = 0; i < n; i++) {
        float size = x[i] < 0 ? -x[i] : x[i];
        most = size > most ? size : most;
        nothing += x[i] * 0.0f;  // but for a NaN or an infinity, which go on to the result
    }
    float inverse = most > 1e-30f ? (float)LARGEST / most : 0;
    for (int64_t from = 0; from < wide; from += AT_ONCE) {
        float part[AT_ONCE] = {0};
        int32_t whole[AT_ONCE], sum = 0;
        memcpy(part, x + from, (size_t)(n - from < AT_ONCE ? n - from : AT_ONCE) * sizeof(float));
        for (int i = 0; i < AT_ONCE; i++) {
            whole[i] = (int32_t)((part[i] * inverse + 12582912.0f) - 12582912.0f);  // to the nearest
            sum += whole[i];
        }
        encode(whole, one + from / 4, other + from / 4);
        sums[from / AT_ONCE] = sum;
    }
    return most / (float)LARGEST + nothing;
}

#ifdef BFLOAT_PAIRS
INLINE uint32_t high_half(float x) {
    union { float value; uint32_t bits; } all = {x};
    return (all.bits + 0x7fff + (all.bits >> 16 & 1)) & 0xffff0000u;  // to the nearest, as the processor would
}

// The position's numbers as sums of two bfloat16 numbers, which leave 2^-17 of them.
static void bfloat_pairs(const float *restrict x, int64_t n, int32_t *restrict words) {
    for (int64_t i = 0; i < n; i += 2) {
        uint32_t high[2], low[2];
        for (int64_t j = 0; j < 2; j++) {
            union { uint32_t bits; float value; } upper;
            high[j] = upper.bits = high_half(x[i + j]);
            low[j] = high_half(x[i + j] - upper.value);
        }
        words[i] = (int32_t)(high[0] >> 16 | high[1]), words[i + 1] = (int32_t)(low[0] >> 16 | low[1]);
    }
}
#endif

// What the matrix takes of x [B, I]; `words` [B, words_of(I)] is scratch.
static Input input_of(const Matrix *m, int64_t B, const float *x, int32_t *words) {
    Input input = {.x = x, .stride = m->columns};
    for (int64_t b = 0; b < B; b++) {
        input.words[b] = words + b * words_of(m->columns);
        if (m->kind >= INT8) input.scale[b] = whole_numbers(x + b * m->columns, m->columns, input.words[b]);
#ifdef BFLOAT_PAIRS
        else if (m->kind == BFLOAT16) bfloat_pairs(x + b * m->columns, m->columns, input.words[b]);
#endif
    }
    return input;
}


// `N` positions with a panel: `to` [N][16]. N is known to the compiler.
#define FLOATS(NAME, TYPE, WIDE)                                                                                     \
    INLINE void NAME(const TYPE *w, const float *x, int64_t stride, int64_t n, const int N, float (*to)[LANES]) {    \
        F sums[TILE][SUMS];                                                                                          \
        UNROLL for (int j = 0; j < N; j++) UNROLL for (int s = 0; s < SUMS; s++) sums[j][s] = zero();                \
        int64_t k = 0;                                                                                               \
        for (; k + SUMS <= n; k += SUMS)                                                                             \
            UNROLL for (int s = 0; s < SUMS; s++) {                                                                  \
                F wide = WIDE(w + (k + s) * LANES);                                                                  \
                UNROLL for (int j = 0; j < N; j++) sums[j][s] = fused(wide, all(x[j * stride + k + s]), sums[j][s]); \
            }                                                                                                        \
        for (; k < n; k++) {                                                                                         \
            F wide = WIDE(w + k * LANES);                                                                            \
            UNROLL for (int j = 0; j < N; j++) sums[j][0] = fused(wide, all(x[j * stride + k]), sums[j][0]);         \
        }                                                                                                            \
        UNROLL for (int j = 0; j < N; j++) {                                                                         \
            UNROLL for (int s = 1; s < SUMS; s++) sums[j][0] = add(sums[j][0], sums[j][s]);                          \
            put(to[j], sums[j][0]);                                                                                  \
        }                                                                                                            \
    }
FLOATS(float_tile, float, wide_float)
FLOATS(half_tile, _Float16, wide_half)

INLINE void bfloat_tile(const uint16_t *w, const Input *input, int64_t b, int64_t n, const int N, float (*to)[LANES]) {
    F sums[TILE][2];
    UNROLL for (int j = 0; j < N; j++) sums[j][0] = sums[j][1] = zero();
    for (int64_t k = 0; k < n; k += 2) {
        const uint16_t *pair = w + k * LANES;
#ifdef BFLOAT_PAIRS
        UNROLL for (int j = 0; j < N; j++) {
            const uint32_t *words = (const uint32_t *)input->words[b + j] + k;
            sums[j][0] = dot2(sums[j][0], pair, words[0]), sums[j][1] = dot2(sums[j][1], pair, words[1]);
        }
#else
        F even = wide_even(pair), odd = wide_odd(pair);
        UNROLL for (int j = 0; j < N; j++) {
            const float *x = input->x + (b + j) * input->stride + k;
            sums[j][0] = fused(even, all(x[0]), sums[j][0]), sums[j][1] = fused(odd, all(x[1]), sums[j][1]);
        }
#endif
    }
    UNROLL for (int j = 0; j < N; j++) put(to[j], add(sums[j][0], sums[j][1]));
}

INLINE void scaled(F sum, float by, float *to) {
    put(to, sum);
    for (int i = 0; i < LANES; i++) to[i] *= by;
}

INLINE void int8_tile(const uint8_t *w, const Input *input, int64_t b, int64_t n, const int N, float (*to)[LANES]) {
    int64_t wide = filled(n);
    F total[TILE];
    UNROLL for (int j = 0; j < N; j++) total[j] = zero();
    for (int64_t from = 0; from < wide; from += CHUNK) {
        int64_t end = from + CHUNK < wide ? from + CHUNK : wide;
        Sum sums[TILE];
        UNROLL for (int j = 0; j < N; j++) {
            const int32_t *counts = input->words[b + j] + wide / 2;
            int32_t count = 0;
            for (int64_t g = from / AT_ONCE; g < end / AT_ONCE; g++) count += counts[g];
            sums[j] = (Sum){all_int(0), all_int(-OFFSET * count)};
        }
        for (int64_t k = from / 4; k < end / 4; k++) {
            Bytes four = bytes_of_int8(w + k * 4 * LANES);
            UNROLL for (int j = 0; j < N; j++) {
                const int32_t *words = input->words[b + j] + k;
                sums[j] = dot8(sums[j], four, words[0], words[wide / 4]);
            }
        }
        UNROLL for (int j = 0; j < N; j++) total[j] = add(total[j], to_float(whole(sums[j])));
    }
    UNROLL for (int j = 0; j < N; j++) scaled(total[j], input->scale[b + j], to[j]);
}

INLINE void int4_tile(const uint8_t *w, const _Float16 *scale, const Input *input, int64_t b, int64_t n, const int N,
                      float (*to)[LANES]) {
    int64_t wide = filled(n);
    F total[TILE];
    UNROLL for (int j = 0; j < N; j++) total[j] = zero();
    for (int64_t g = 0; g < wide / GROUP_COLUMNS; g++) {
        Sum sums[TILE];
        UNROLL for (int j = 0; j < N; j++) sums[j] = (Sum){all_int(0), all_int(-8 * input->words[b + j][wide / 2 + g])};
        UNROLL for (int c = 0; c < 4; c++) {
            Bytes two = bytes(w + (g * 4 + c) * 4 * LANES), low = low_nibbles(two), high = high_nibbles(two);
            UNROLL for (int j = 0; j < N; j++) {
                const int32_t *one = input->words[b + j] + g * 8 + c, *other = one + wide / 4;
                sums[j] = dot8(dot8(sums[j], low, one[0], other[0]), high, one[4], other[4]);
            }
        }
        F scales = wide_half(scale + g * LANES);
        UNROLL for (int j = 0; j < N; j++) total[j] = fused(to_float(whole(sums[j])), scales, total[j]);
    }
    UNROLL for (int j = 0; j < N; j++) scaled(total[j], input->scale[b + j], to[j]);
}

// `N` positions from `b` on with one panel.
INLINE void tile(const Matrix *m, int64_t panel, const Input *input, int64_t b, const int N, float (*to)[LANES]) {
    int64_t n = m->columns, wide = filled(n);
    const float *x = input->x + b * input->stride;
    switch (m->kind) {
        case FLOAT32: float_tile((const float *)m->weight + panel * n * LANES, x, input->stride, n, N, to); break;
        case FLOAT16: half_tile((const _Float16 *)m->weight + panel * n * LANES, x, input->stride, n, N, to); break;
        case BFLOAT16: bfloat_tile((const uint16_t *)m->weight + panel * n * LANES, input, b, n, N, to); break;
        case INT8: {
            int8_tile((const uint8_t *)m->weight + panel * wide * LANES, input, b, n, N, to);
            const float *scale = (const float *)m->scale + panel * LANES;
            for (int j = 0; j < N; j++)
                for (int i = 0; i < LANES; i++) to[j][i] *= scale[i];
            break;
        }
        default:
            int4_tile((const uint8_t *)m->weight + panel * wide / 2 * LANES,
                      (const _Float16 *)m->scale + panel * (wide / GROUP_COLUMNS) * LANES, input, b, n, N, to);
    }
}

INLINE int64_t panels_of(const Matrix *m) { return (m->rows + LANES - 1) / LANES; }

// All B positions with one panel: `to` [B][16].
static void products(const Matrix *m, int64_t panel, int64_t B, const Input *input, float (*to)[LANES]) {
    int64_t b = 0;
    for (; b + TILE <= B; b += TILE) tile(m, panel, input, b, TILE, to + b);
#if TILE > 2
    for (; b + 2 <= B; b += 2) tile(m, panel, input, b, 2, to + b);
#endif
#if TILE > 1
    for (; b < B; b++) tile(m, panel, input, b, 1, to + b);
#endif
}
#endif
