// One decoding step of a LLaMA on the CPU: one new position for each of B sequences, in float32 arithmetic.
//
// Weights are float32, float16 or int8 with a scale a row, row by row [O, I]; they are what a step has to read, so
// half the bytes are twice the speed. So are the keys and values of a long sequence: float32 or float16. A sequence's
// result does not depend on the others or on the number of threads.
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

#define INLINE static inline __attribute__((always_inline))

enum { FLOAT32, FLOAT16, INT8 };
enum { ROWS = 4 };   // rows of a matrix, positions of a cache at once
enum { MOST = 16 };  // positions in a step
enum { GROUP = 4 };  // queries at once of those that share a key-value head
enum { AHEAD = 4096 };  // bytes of a cache that are fetched before their turn
enum { LANES = 8 };  // head widths are multiples of it

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
    void *keys, *values;  // [layers, K, P, C], float32 or float16
    int64_t half, positions, start;
    int64_t hole, hole_end;  // positions from the one up to the other are not seen; multiples of ROWS
} Cache;

#if defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)
// Compilers widen float16 one number at a time here, and sum lanes through memory; so it is written out.
static __m256 wide_float(const float *w) { return _mm256_loadu_ps(w); }
static __m256 wide_half(const _Float16 *w) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)w)); }
static __m256 wide_int8(const int8_t *w) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)w)));
}
static __m128 sums8(__m256 a, __m256 b, __m256 c, __m256 d) {
    __m256 both = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
}
// Two sums hide the additions' latency.
#define DOT(NAME, TYPE, WIDE)                                                             \
    static float NAME(const TYPE *restrict w, const float *restrict x, int64_t n) {       \
        __m256 a = _mm256_setzero_ps(), b = a;                                            \
        int64_t i = 0;                                                                    \
        for (; i + 16 <= n; i += 16) {                                                    \
            a = _mm256_fmadd_ps(WIDE(w + i), _mm256_loadu_ps(x + i), a);                  \
            b = _mm256_fmadd_ps(WIDE(w + i + 8), _mm256_loadu_ps(x + i + 8), b);          \
        }                                                                                 \
        a = _mm256_add_ps(a, b);                                                          \
        float sum = _mm_cvtss_f32(sums8(a, a, a, a));                                     \
        for (; i < n; i++) sum += (float)w[i] * x[i];                                     \
        return sum;                                                                       \
    }
// Two rows of weights with two inputs: each number is loaded, and widened, once for both. Added up as above.
#define BLOCK(NAME, TYPE, WIDE)                                                                                     \
    static void NAME##_block(const TYPE *restrict w, const float *restrict x, int64_t n, float sums[2][2]) {        \
        __m256 a[2][2], b[2][2];                                                                                    \
        for (int j = 0; j < 2; j++)                                                                                 \
            for (int r = 0; r < 2; r++) a[j][r] = b[j][r] = _mm256_setzero_ps();                                    \
        int64_t i = 0;                                                                                              \
        for (; i + 16 <= n; i += 16) {                                                                              \
            __m256 low[2] = {WIDE(w + i), WIDE(w + n + i)}, high[2] = {WIDE(w + i + 8), WIDE(w + n + i + 8)};       \
            for (int j = 0; j < 2; j++) {                                                                           \
                __m256 first = _mm256_loadu_ps(x + j * n + i), second = _mm256_loadu_ps(x + j * n + i + 8);         \
                for (int r = 0; r < 2; r++) {                                                                       \
                    a[j][r] = _mm256_fmadd_ps(low[r], first, a[j][r]);                                              \
                    b[j][r] = _mm256_fmadd_ps(high[r], second, b[j][r]);                                            \
                }                                                                                                   \
            }                                                                                                       \
        }                                                                                                           \
        for (int j = 0; j < 2; j++)                                                                                 \
            for (int r = 0; r < 2; r++) {                                                                           \
                __m256 both = _mm256_add_ps(a[j][r], b[j][r]);                                                      \
                sums[j][r] = _mm_cvtss_f32(sums8(both, both, both, both));                                          \
                for (int64_t k = i; k < n; k++) sums[j][r] += (float)w[r * n + k] * x[j * n + k];                   \
            }                                                                                                       \
    }
// Of ROWS keys or values [ROWS, n], each loaded once for all of the G queries: their scores `to` [G, stride], and
// their part, by weights `w` [G, stride], of what is mixed [G, n].
#define CACHED(NAME, TYPE, WIDE)                                                                                  \
    INLINE void NAME##_scores(const TYPE *k, const float *q, int64_t n, const int G, float *to, int64_t stride) { \
        __m256 sums[GROUP][ROWS], rows[ROWS];                                                                     \
        for (int g = 0; g < G; g++)                                                                               \
            for (int r = 0; r < ROWS; r++) sums[g][r] = _mm256_setzero_ps();                                      \
        for (int64_t i = 0; i < n; i += LANES) {                                                                  \
            for (int r = 0; r < ROWS; r++) rows[r] = WIDE(k + r * n + i);                                         \
            for (int g = 0; g < G; g++) {                                                                         \
                __m256 x = _mm256_loadu_ps(q + g * n + i);                                                        \
                for (int r = 0; r < ROWS; r++) sums[g][r] = _mm256_fmadd_ps(rows[r], x, sums[g][r]);              \
            }                                                                                                     \
        }                                                                                                         \
        for (int g = 0; g < G; g++)                                                                               \
            _mm_storeu_ps(to + g * stride, sums8(sums[g][0], sums[g][1], sums[g][2], sums[g][3]));                \
    }                                                                                                             \
    INLINE void NAME##_mix(const TYPE *v, const float *w, int64_t n, const int G, float *mixed, int64_t stride) { \
        __m256 weights[GROUP][ROWS], rows[ROWS];                                                                  \
        for (int g = 0; g < G; g++)                                                                               \
            for (int r = 0; r < ROWS; r++) weights[g][r] = _mm256_set1_ps(w[g * stride + r]);                     \
        for (int64_t i = 0; i < n; i += LANES) {                                                                  \
            for (int r = 0; r < ROWS; r++) rows[r] = WIDE(v + r * n + i);                                         \
            for (int g = 0; g < G; g++) {                                                                         \
                __m256 sum = _mm256_loadu_ps(mixed + g * n + i);                                                  \
                for (int r = 0; r < ROWS; r++) sum = _mm256_fmadd_ps(weights[g][r], rows[r], sum);                \
                _mm256_storeu_ps(mixed + g * n + i, sum);                                                         \
            }                                                                                                     \
        }                                                                                                         \
    }
#else
#define BLOCK(NAME, TYPE, WIDE)                                                                              \
    static void NAME##_block(const TYPE *restrict w, const float *restrict x, int64_t n, float sums[2][2]) { \
        for (int j = 0; j < 2; j++)                                                                          \
            for (int r = 0; r < 2; r++) sums[j][r] = NAME(w + r * n, x + j * n, n);                          \
    }
#define DOT(NAME, TYPE, WIDE)                                                                         \
    static float NAME(const TYPE *restrict w, const float *restrict x, int64_t n) {                   \
        float a = 0;                                                                                  \
        _Pragma("omp simd reduction(+ : a)") for (int64_t i = 0; i < n; i++) a += (float)w[i] * x[i]; \
        return a;                                                                                     \
    }
#define CACHED(NAME, TYPE, WIDE)                                                                                  \
    INLINE void NAME##_scores(const TYPE *k, const float *q, int64_t n, const int G, float *to, int64_t stride) { \
        for (int g = 0; g < G; g++)                                                                               \
            for (int r = 0; r < ROWS; r++) to[g * stride + r] = NAME(k + r * n, q + g * n, n);                    \
    }                                                                                                             \
    INLINE void NAME##_mix(const TYPE *v, const float *w, int64_t n, const int G, float *mixed, int64_t stride) { \
        for (int g = 0; g < G; g++)                                                                               \
            for (int r = 0; r < ROWS; r++)                                                                        \
                for (int64_t i = 0; i < n; i++) mixed[g * n + i] += w[g * stride + r] * (float)v[r * n + i];      \
    }
#endif

DOT(dot_float, float, wide_float)
DOT(dot_half, _Float16, wide_half)
DOT(dot_int8, int8_t, wide_int8)
BLOCK(dot_float, float, wide_float)
BLOCK(dot_half, _Float16, wide_half)
BLOCK(dot_int8, int8_t, wide_int8)
CACHED(dot_float, float, wide_float)
CACHED(dot_half, _Float16, wide_half)

// Up to ROWS products of rows `row`, ... with each of x [B, I]: sums [B, ROWS]. A sum is the same whatever B is.
static void products(const Matrix *m, int64_t row, int64_t B, const float *x, float *sums) {
    int64_t n = m->columns, left = m->rows - row < ROWS ? m->rows - row : ROWS, b = 0;
    if (left == ROWS)
        for (; b + 2 <= B; b += 2)
            for (int64_t r = 0; r < ROWS; r += 2) {
                int64_t at = (row + r) * n;
                float pair[2][2];
                if (m->kind == FLOAT32) dot_float_block((const float *)m->weight + at, x + b * n, n, pair);
                else if (m->kind == FLOAT16) dot_half_block((const _Float16 *)m->weight + at, x + b * n, n, pair);
                else dot_int8_block((const int8_t *)m->weight + at, x + b * n, n, pair);
                for (int64_t j = 0; j < 2; j++)
                    for (int64_t k = 0; k < 2; k++) {
                        float scale = m->kind == INT8 ? m->scale[row + r + k] : 1.0f;
                        sums[(b + j) * ROWS + r + k] = pair[j][k] * scale;
                    }
            }
    for (; b < B; b++)
        for (int64_t r = 0; r < left; r++) {
            int64_t at = (row + r) * n;
            float *sum = sums + b * ROWS + r;
            if (m->kind == FLOAT32) *sum = dot_float((const float *)m->weight + at, x + b * n, n);
            else if (m->kind == FLOAT16) *sum = dot_half((const _Float16 *)m->weight + at, x + b * n, n);
            else *sum = dot_int8((const int8_t *)m->weight + at, x + b * n, n) * m->scale[row + r];
        }
}

// y [B, O] = x [B, I] times the matrix, or y += where `add`; shared out among the threads of a parallel region.
static void multiply(const Matrix *m, int64_t B, const float *x, float *y, int add) {
#pragma omp for schedule(static)
    for (int64_t row = 0; row < m->rows; row += ROWS) {
        float sums[MOST * ROWS];
        int64_t left = m->rows - row < ROWS ? m->rows - row : ROWS;
        products(m, row, B, x, sums);
        for (int64_t b = 0; b < B; b++) {
            float *to = y + b * m->rows + row;
            for (int64_t r = 0; r < left; r++) to[r] = add ? to[r] + sums[b * ROWS + r] : sums[b * ROWS + r];
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

// exp in plain arithmetic, which compilers vectorise: 2^k times the Taylor series of the rest, |rest| <= ln(2) / 2.
static float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;  // a NaN stays one
    float k = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // to the nearest whole number
    float rest = x - k * 0.693359375f + k * 2.12194440e-4f, sum = 1.0f / 5040;
    sum = sum * rest + 1.0f / 720;
    sum = sum * rest + 1.0f / 120;
    sum = sum * rest + 1.0f / 24;
    sum = sum * rest + 1.0f / 6;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    union { uint32_t bits; float value; } power = {((uint32_t)(int32_t)k + 127) << 23};
    return sum * power.value;
}

// So many positions, rounded up to whole ROWS.
static int64_t padded(int64_t positions) { return (positions + ROWS - 1) / ROWS * ROWS; }

// Rows from position `p` on of a cache's head [count, C]: where they lie, or followed by zeros in `last` [ROWS, C].
static const void *rows_at(const void *head, int64_t p, int64_t count, int64_t row_bytes, void *last) {
    const char *rows = (const char *)head + p * row_bytes;
    // Past the end of a cache it does nothing.
    for (int64_t i = 0; i < ROWS * row_bytes; i += 64) __builtin_prefetch(rows + AHEAD + i);
    if (count - p >= ROWS) return rows;
    memset(last, 0, (size_t)(ROWS * row_bytes));
    return memcpy(last, rows, (size_t)((count - p) * row_bytes));
}

// CALL with a number of queries that compilers know, up to GROUP, so that they unroll what it does.
#define WITH_KNOWN(NUMBER, CALL) \
    switch (NUMBER) {            \
        case 1: CALL(1); break;  \
        case 2: CALL(2); break;  \
        case 3: CALL(3); break;  \
        default: CALL(GROUP);    \
    }

// The queries [G, C] of one key-value head against the positions that the cache's newest one sees; `weights`
// [G, padded(those)] is scratch.
static void attend(const float *q, const void *keys, const void *values, const Cache *cache, int64_t G, int64_t C,
                   float *weights, float *mixed) {
    int half = (int)cache->half;
    int64_t all = cache->start + 1, left_out = cache->hole_end - cache->hole, count = all - left_out;
    int64_t stride = padded(count), row_bytes = C * (half ? 2 : 4);
    float scale = 1.0f / sqrtf((float)C), last[ROWS * C];
    for (int64_t p = 0; p < count; p += ROWS) {
        const void *rows = rows_at(keys, p < cache->hole ? p : p + left_out, all, row_bytes, last);
        for (int64_t g = 0; g < G; g += GROUP) {
            const float *query = q + g * C;
            float *to = weights + g * stride + p;
#define SCORES(N)                                             \
    if (half) dot_half_scores(rows, query, C, N, to, stride); \
    else dot_float_scores(rows, query, C, N, to, stride)
            WITH_KNOWN(G - g, SCORES)
        }
    }
    for (int64_t g = 0; g < G; g++) {
        float *to = weights + g * stride, highest = -INFINITY, total = 0;
#pragma omp simd reduction(max : highest)
        for (int64_t p = 0; p < count; p++) highest = to[p] > highest ? to[p] : highest;
#pragma omp simd reduction(+ : total)
        for (int64_t p = 0; p < count; p++) {
            to[p] = exponential((to[p] - highest) * scale);  // a NaN goes on to the scores
            total += to[p];
        }
        float share = 1.0f / total;
        for (int64_t p = 0; p < count; p++) to[p] *= share;
        for (int64_t p = count; p < stride; p++) to[p] = 0;
    }
    memset(mixed, 0, (size_t)(G * C) * sizeof(float));
    for (int64_t p = 0; p < count; p += ROWS) {
        const void *rows = rows_at(values, p < cache->hole ? p : p + left_out, all, row_bytes, last);
        for (int64_t g = 0; g < G; g += GROUP) {
            const float *weight = weights + g * stride + p;
            float *to = mixed + g * C;
#define MIX(N)                                              \
    if (half) dot_half_mix(rows, weight, C, N, to, stride); \
    else dot_float_mix(rows, weight, C, N, to, stride)
            WITH_KNOWN(G - g, MIX)
        }
    }
}

// How many floats of scratch a step needs; `positions` of the longest sequence, the new one included.
int64_t scratch_size(const Model *model, int64_t B, int64_t positions) {
    int64_t projected = (model->heads + 2 * model->kv_heads) * model->head_width;
    return B * (model->threads * model->width + projected + model->heads * model->head_width + model->ffn +
                model->heads * padded(positions));
}

// Where a layer's key-value head begins in a cache, in numbers.
static int64_t head_at(const Model *model, const Cache *cache, int64_t layer, int64_t head) {
    return (layer * model->kv_heads + head) * cache->positions * model->head_width;
}

// One key-value head of one position: the new key and value go to the cache.
static void store_head(const Model *model, const Cache *cache, int64_t layer, int64_t head, float *qkv) {
    int64_t H = model->heads, K = model->kv_heads, C = model->head_width;
    int64_t to = head_at(model, cache, layer, head) + cache->start * C;
    float *key = qkv + (H + head) * C, *value = key + K * C;
    rotate(key, model->rotation + cache->start * C, C);
    for (int64_t i = 0; i < C; i++) {
        if (cache->half) {
            ((_Float16 *)cache->keys)[to + i] = (_Float16)key[i];
            ((_Float16 *)cache->values)[to + i] = (_Float16)value[i];
        } else {
            ((float *)cache->keys)[to + i] = key[i];
            ((float *)cache->values)[to + i] = value[i];
        }
    }
}

// The queries that share a key-value head attend to the positions up to theirs.
static void attend_head(const Model *model, const Cache *cache, int64_t layer, int64_t head, float *qkv, float *weights,
                        float *mixed) {
    int64_t C = model->head_width, G = model->heads / model->kv_heads, size = cache->half ? 2 : 4;
    int64_t first = head_at(model, cache, layer, head) * size;
    float *query = qkv + head * G * C;
    for (int64_t g = 0; g < G; g++) rotate(query + g * C, model->rotation + cache->start * C, C);
    attend(query, (char *)cache->keys + first, (char *)cache->values + first, cache, G, C, weights, mixed);
}

// x [B, D] embeddings, read into the caches; `hidden` [B, D] is the normalised state that the head takes. Several rows may
// be positions of one cache, one behind another: all keys and values are stored before any query looks. `middle` [B, D], if
// there is one, takes the state after the first `middle_layers` layers.
void step(const Model *model, int64_t B, const Cache *caches, float *x, float *hidden, float *middle,
          int64_t middle_layers, float *scratch, int64_t positions) {
    int64_t D = model->width, H = model->heads, K = model->kv_heads, C = model->head_width, F = model->ffn;
    int64_t projected = (H + 2 * K) * C;
    float *qkv = scratch + model->threads * B * D, *mixed = qkv + B * projected, *active = mixed + B * H * C,
          *weights = active + B * F;
#pragma omp parallel num_threads((int)model->threads)
    {
        // Threads meet six times a layer; what is little work, each does for itself.
        float *normed = scratch + THREAD * B * D;
        for (int64_t l = 0; l < model->layers; l++) {
            const Layer *layer = &model->layer[l];
            for (int64_t b = 0; b < B; b++)
                normalise(x + b * D, layer->before_attention, D, model->eps, normed + b * D);
            multiply(&layer->qkv, B, normed, qkv, 0);
#pragma omp for schedule(static)
            for (int64_t each = 0; each < B * K; each++)
                store_head(model, &caches[each / K], l, each % K, qkv + each / K * projected);
#pragma omp for schedule(static)
            for (int64_t each = 0; each < B * K; each++) {
                int64_t b = each / K, head = each % K, h = b * H + head * (H / K);
                attend_head(model, &caches[b], l, head, qkv + b * projected, weights + h * padded(positions), mixed + h * C);
            }
            multiply(&layer->out, B, mixed, x, 1);
            for (int64_t b = 0; b < B; b++) normalise(x + b * D, layer->before_mlp, D, model->eps, normed + b * D);
#pragma omp for schedule(static)
            for (int64_t row = 0; row < F; row += ROWS) {
                float gates[MOST * ROWS], ups[MOST * ROWS];
                products(&layer->gate_up, row, B, normed, gates);
                products(&layer->gate_up, F + row, B, normed, ups);
                for (int64_t b = 0; b < B; b++)
                    for (int64_t r = 0; r < ROWS && row + r < F; r++) {
                        float gate = gates[b * ROWS + r];
                        active[b * F + row + r] = gate / (1.0f + exponential(-gate)) * ups[b * ROWS + r];
                    }
            }
            multiply(&layer->down, B, active, x, 1);
            if (middle && l + 1 == middle_layers) {
#pragma omp for schedule(static)
                for (int64_t i = 0; i < B * D; i++) middle[i] = x[i];
            }
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
