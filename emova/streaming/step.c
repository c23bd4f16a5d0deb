// One decoding step of a LLaMA on the CPU: one new position for each of B sequences, in float32 arithmetic.
//
// Weights are float32, float16 or int8 with a scale a row, row by row [O, I]; they are what a step has to read, so
// half the bytes are twice the speed. A sequence's result does not depend on the others or on the number of threads.
//
// Names: B sequences, D width, H heads, K key-value heads, C head width, F feed-forward width, P positions of a cache.
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif
#if defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)
#include <immintrin.h>
#endif

enum { FLOAT32, FLOAT16, INT8 };
enum { ROWS = 4 };  // rows at once: one load of the input serves all of them

typedef struct {
    const void *weight;
    const float *scale;  // [O], of int8 weights
    int64_t kind, rows, columns;
} Matrix;

typedef struct {
    Matrix qkv, out, gate_up, down;  // query and key rows have their rotary pairs side by side
    const float *before_attention, *before_mlp;
} Layer;

typedef struct {
    int64_t layers, width, heads, kv_heads, head_width, ffn, threads;
    double eps;
    const Layer *layer;
    const float *norm;      // [D]
    const float *rotation;  // [positions, C / 2, 2], cosine and sine
} Model;

typedef struct {
    float *keys, *values;  // [layers, K, P, C]
    int64_t positions, start;
} Cache;

#define DOTS(NAME, TYPE)                                                                                  \
    static void NAME(const TYPE *restrict w, const float *restrict x, int64_t n, float *restrict sums) { \
        float a = 0, b = 0, c = 0, d = 0;                                                                 \
        _Pragma("omp simd reduction(+ : a, b, c, d)") for (int64_t i = 0; i < n; i++) {                   \
            a += (float)w[i] * x[i];                                                                      \
            b += (float)w[n + i] * x[i];                                                                  \
            c += (float)w[2 * n + i] * x[i];                                                              \
            d += (float)w[3 * n + i] * x[i];                                                              \
        }                                                                                                 \
        sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;                                               \
    }                                                                                                     \
    static float NAME##_one(const TYPE *restrict w, const float *restrict x, int64_t n) {                 \
        float a = 0;                                                                                      \
        _Pragma("omp simd reduction(+ : a)") for (int64_t i = 0; i < n; i++) a += (float)w[i] * x[i];     \
        return a;                                                                                         \
    }
DOTS(dots_float, float)
#if defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)
// Compilers widen float16 one number at a time here, so it is written out; two sums hide the additions' latency.
static float sum8(__m256 v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
static __m256 wide_half(const _Float16 *w) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)w)); }
static __m256 wide_int8(const int8_t *w) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)w)));
}
#define WIDE_DOTS(NAME, TYPE, WIDE)                                                              \
    static float NAME##_one(const TYPE *restrict w, const float *restrict x, int64_t n) {        \
        __m256 a = _mm256_setzero_ps(), b = a;                                                   \
        int64_t i = 0;                                                                           \
        for (; i + 16 <= n; i += 16) {                                                           \
            a = _mm256_fmadd_ps(WIDE(w + i), _mm256_loadu_ps(x + i), a);                         \
            b = _mm256_fmadd_ps(WIDE(w + i + 8), _mm256_loadu_ps(x + i + 8), b);                 \
        }                                                                                        \
        float sum = sum8(_mm256_add_ps(a, b));                                                   \
        for (; i < n; i++) sum += (float)w[i] * x[i];                                            \
        return sum;                                                                              \
    }                                                                                            \
    static void NAME(const TYPE *restrict w, const float *restrict x, int64_t n, float *sums) {  \
        for (int64_t r = 0; r < ROWS; r++) sums[r] = NAME##_one(w + r * n, x, n);                \
    }
WIDE_DOTS(dots_half, _Float16, wide_half)
WIDE_DOTS(dots_int8, int8_t, wide_int8)
#else
DOTS(dots_half, _Float16)
DOTS(dots_int8, int8_t)
#endif

// Up to ROWS products of rows `row`, ... with x [I].
static void products(const Matrix *m, int64_t row, const float *x, float *sums) {
    int64_t n = m->columns, left = m->rows - row < ROWS ? m->rows - row : ROWS;
#define KIND(NAME, TYPE)                                                                  \
    {                                                                                     \
        const TYPE *w = (const TYPE *)m->weight + row * n;                                \
        if (left == ROWS) NAME(w, x, n, sums);                                            \
        else for (int64_t r = 0; r < left; r++) sums[r] = NAME##_one(w + r * n, x, n);    \
    }
    if (m->kind == FLOAT32) KIND(dots_float, float)
    else if (m->kind == FLOAT16) KIND(dots_half, _Float16)
    else KIND(dots_int8, int8_t)
    if (m->scale) for (int64_t r = 0; r < left; r++) sums[r] *= m->scale[row + r];
}

// y [B, O] = x [B, I] times the matrix, or y += where `add`; shared out among the threads of a parallel region.
static void multiply(const Matrix *m, int64_t B, const float *x, float *y, int add) {
#pragma omp for schedule(static)
    for (int64_t row = 0; row < m->rows; row += ROWS) {
        float sums[ROWS];
        int64_t left = m->rows - row < ROWS ? m->rows - row : ROWS;
        for (int64_t b = 0; b < B; b++) {
            products(m, row, x + b * m->columns, sums);
            float *to = y + b * m->rows + row;
            for (int64_t r = 0; r < left; r++) to[r] = add ? to[r] + sums[r] : sums[r];
        }
    }
}

static void normalise(const float *x, const float *weight, int64_t n, double eps, float *y) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    float factor = (float)(1.0 / sqrt((double)sum / (double)n + eps));
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * factor * weight[i];
}

static void rotate(float *x, const float *turn, int64_t width) {
    for (int64_t i = 0; i < width; i += 2) {
        float real = x[i] * turn[i] - x[i + 1] * turn[i + 1];
        x[i + 1] = x[i] * turn[i + 1] + x[i + 1] * turn[i];
        x[i] = real;
    }
}

// One head's query [C] against `count` positions; `weights` [count] is scratch.
static void attend(const float *q, const float *k, const float *v, int64_t count, int64_t width, float *weights,
                   float *mixed) {
    float scale = 1.0f / sqrtf((float)width), highest = -INFINITY, total = 0;
    for (int64_t p = 0; p < count; p++) {
        weights[p] = dots_float_one(k + p * width, q, width) * scale;
        if (!(weights[p] <= highest)) highest = weights[p];  // a NaN goes on to the scores
    }
    memset(mixed, 0, (size_t)width * sizeof(float));
    for (int64_t p = 0; p < count; p++) {
        float weight = expf(weights[p] - highest);
        total += weight;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) mixed[i] += weight * v[p * width + i];
    }
    for (int64_t i = 0; i < width; i++) mixed[i] /= total;
}

// How many floats of scratch a step needs.
int64_t scratch_size(const Model *model, int64_t B, int64_t positions) {
    int64_t projected = (model->heads + 2 * model->kv_heads) * model->head_width;
    return B * (model->threads * model->width + projected + model->heads * model->head_width + model->ffn +
                model->heads * positions);
}

// One key-value head of one sequence: the new key and value go to the cache, the queries that share them attend.
static void attend_head(const Model *model, const Cache *cache, int64_t layer, int64_t head, float *qkv, float *weights,
                        int64_t positions, float *mixed) {
    int64_t H = model->heads, K = model->kv_heads, C = model->head_width, G = H / K, at = cache->start * C;
    const float *turn = model->rotation + at;
    float *key = qkv + (H + head) * C, *value = key + K * C;
    float *keys = cache->keys + (layer * K + head) * cache->positions * C;
    float *values = cache->values + (layer * K + head) * cache->positions * C;
    rotate(key, turn, C);
    memcpy(keys + at, key, (size_t)C * sizeof(float));
    memcpy(values + at, value, (size_t)C * sizeof(float));
    for (int64_t h = head * G; h < (head + 1) * G; h++) {
        rotate(qkv + h * C, turn, C);
        attend(qkv + h * C, keys, values, cache->start + 1, C, weights + h * positions, mixed + h * C);
    }
}

// x [B, D] embeddings, read into the caches; `hidden` [B, D] is the normalised state that the head takes.
void step(const Model *model, int64_t B, const Cache *caches, float *x, float *hidden, float *scratch,
          int64_t positions) {
    int64_t D = model->width, H = model->heads, K = model->kv_heads, C = model->head_width, F = model->ffn;
    int64_t projected = (H + 2 * K) * C;
    float *qkv = scratch + model->threads * B * D, *mixed = qkv + B * projected, *active = mixed + B * H * C,
          *weights = active + B * F;
#pragma omp parallel num_threads((int)model->threads)
    {
        // Threads meet five times a layer; what is little work, each does for itself.
        float *normed = scratch + THREAD * B * D;
        for (int64_t l = 0; l < model->layers; l++) {
            const Layer *layer = &model->layer[l];
            for (int64_t b = 0; b < B; b++)
                normalise(x + b * D, layer->before_attention, D, model->eps, normed + b * D);
            multiply(&layer->qkv, B, normed, qkv, 0);
#pragma omp for schedule(static)
            for (int64_t each = 0; each < B * K; each++) {
                int64_t b = each / K;
                attend_head(model, &caches[b], l, each % K, qkv + b * projected, weights + b * H * positions, positions,
                            mixed + b * H * C);
            }
            multiply(&layer->out, B, mixed, x, 1);
            for (int64_t b = 0; b < B; b++) normalise(x + b * D, layer->before_mlp, D, model->eps, normed + b * D);
#pragma omp for schedule(static)
            for (int64_t row = 0; row < F; row += ROWS) {
                float gates[ROWS], ups[ROWS];
                for (int64_t b = 0; b < B; b++) {
                    products(&layer->gate_up, row, normed + b * D, gates);
                    products(&layer->gate_up, F + row, normed + b * D, ups);
                    for (int64_t r = 0; r < ROWS && row + r < F; r++)
                        active[b * F + row + r] = gates[r] / (1.0f + expf(-gates[r])) * ups[r];
                }
            }
            multiply(&layer->down, B, active, x, 1);
        }
#pragma omp for schedule(static)
        for (int64_t b = 0; b < B; b++) normalise(x + b * D, model->norm, D, model->eps, hidden + b * D);
    }
}

// y [B, O] = x [B, I] times a matrix: the head, or a run of its rows.
void product(const Matrix *matrix, int64_t threads, int64_t B, const float *x, float *y) {
#pragma omp parallel num_threads((int)threads)
    multiply(matrix, B, x, y, 0);
}
