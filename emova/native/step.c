// One decoding step of a LLaMA on the CPU: one new position for each of B sequences, in float32 arithmetic.
//
// Weights lie in panels (matrix.h) and are what a step has to read, so half the bytes are twice the speed. So are the keys
// and values of a long sequence: float32 or float16. A sequence's result does not depend on the others or on the number of
// threads.
//
// Names: B sequences, D width, H heads, K key-value heads, C head width, F feed-forward width, P positions of a cache.
#include <math.h>
#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif
#include "eight.h"
#include "matrix.h"

enum { ROWS = 4 };      // positions of a cache at once
enum { GROUP = 4 };     // queries at once of those that share a key-value head
enum { AHEAD = 4096 };  // bytes of a cache that are fetched before their turn

typedef struct {
    Matrix qkv, out, gate, up, down;  // query and key rows have their rotary pairs side by side
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

// Of ROWS keys or values [ROWS, n], each loaded once for all of the G queries: their scores `to` [G, stride], and
// their part, by weights `w` [G, stride], of what is mixed [G, n].
#define CACHED(NAME, TYPE, WIDE)                                                                                  \
    INLINE void NAME##_scores(const TYPE *k, const float *q, int64_t n, const int G, float *to, int64_t stride) { \
        Eight sums[GROUP][ROWS], rows[ROWS];                                                                      \
        UNROLL for (int g = 0; g < G; g++) UNROLL for (int r = 0; r < ROWS; r++) sums[g][r] = eight(0);           \
        for (int64_t i = 0; i < n; i += EIGHT) {                                                                  \
            UNROLL for (int r = 0; r < ROWS; r++) rows[r] = WIDE(k + r * n + i);                                  \
            UNROLL for (int g = 0; g < G; g++) {                                                                  \
                Eight x = eight_floats(q + g * n + i);                                                            \
                UNROLL for (int r = 0; r < ROWS; r++) sums[g][r] = fused_eight(rows[r], x, sums[g][r]);           \
            }                                                                                                     \
        }                                                                                                         \
        UNROLL for (int g = 0; g < G; g++)                                                                        \
            put_sums(to + g * stride, sums[g][0], sums[g][1], sums[g][2], sums[g][3]);                            \
    }                                                                                                             \
    INLINE void NAME##_mix(const TYPE *v, const float *w, int64_t n, const int G, float *mixed, int64_t stride) { \
        Eight weights[GROUP][ROWS], rows[ROWS];                                                                   \
        UNROLL for (int g = 0; g < G; g++)                                                                        \
            UNROLL for (int r = 0; r < ROWS; r++) weights[g][r] = eight(w[g * stride + r]);                       \
        for (int64_t i = 0; i < n; i += EIGHT) {                                                                  \
            UNROLL for (int r = 0; r < ROWS; r++) rows[r] = WIDE(v + r * n + i);                                  \
            UNROLL for (int g = 0; g < G; g++) {                                                                  \
                Eight sum = eight_floats(mixed + g * n + i);                                                      \
                UNROLL for (int r = 0; r < ROWS; r++) sum = fused_eight(weights[g][r], rows[r], sum);             \
                put_eight(mixed + g * n + i, sum);                                                                \
            }                                                                                                     \
        }                                                                                                         \
    }
CACHED(float, float, eight_floats)
CACHED(half, _Float16, eight_halves)

// y [B, O] = x [B, I] times the matrix, or y += where `add`; shared out among the threads of a parallel region. `words` is
// a thread's own scratch.
static void multiply(const Matrix *m, int64_t B, const float *x, float *y, int add, int32_t *words) {
    Input input = input_of(m, B, x, words);  // each thread for itself, rather than that threads meet once more
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < panels_of(m); panel++) {
        float sums[MOST][LANES];
        products(m, panel, B, &input, sums);
        int64_t row = panel * LANES, left = m->rows - row < LANES ? m->rows - row : LANES;
        for (int64_t b = 0; b < B; b++) {
            float *to = y + b * m->rows + row;
            for (int64_t r = 0; r < left; r++) to[r] = add ? to[r] + sums[b][r] : sums[b][r];
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
    if (half) half_scores(rows, query, C, N, to, stride); \
    else float_scores(rows, query, C, N, to, stride)
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
    if (half) half_mix(rows, weight, C, N, to, stride); \
    else float_mix(rows, weight, C, N, to, stride)
            WITH_KNOWN(G - g, MIX)
        }
    }
}

// The most words that a position takes as the input of one of the matrices.
static int64_t most_words(const Model *model) {
    int64_t heads = model->heads * model->head_width, most = model->width > heads ? model->width : heads;
    return words_of(most > model->ffn ? most : model->ffn);
}

// How many floats of scratch a step needs; `positions` of the longest sequence, the new one included.
int64_t scratch_size(const Model *model, int64_t B, int64_t positions) {
    int64_t projected = (model->heads + 2 * model->kv_heads) * model->head_width;
    return B * (model->threads * (model->width + most_words(model)) + projected + model->heads * model->head_width +
                model->ffn + model->heads * padded(positions));
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
    int64_t own = B * (D + most_words(model));  // a thread's
    float *qkv = scratch + model->threads * own, *mixed = qkv + B * projected, *active = mixed + B * H * C,
          *weights = active + B * F;
#pragma omp parallel num_threads((int)model->threads)
    {
        // Threads meet six times a layer; what is little work, each does for itself.
        float *normed = scratch + THREAD * own;
        int32_t *words = (int32_t *)(normed + B * D);
        for (int64_t l = 0; l < model->layers; l++) {
            const Layer *layer = &model->layer[l];
            for (int64_t b = 0; b < B; b++)
                normalise(x + b * D, layer->before_attention, D, model->eps, normed + b * D);
            multiply(&layer->qkv, B, normed, qkv, 0, words);
#pragma omp for schedule(static)
            for (int64_t each = 0; each < B * K; each++)
                store_head(model, &caches[each / K], l, each % K, qkv + each / K * projected);
#pragma omp for schedule(static)
            for (int64_t each = 0; each < B * K; each++) {
                int64_t b = each / K, head = each % K, h = b * H + head * (H / K);
                attend_head(model, &caches[b], l, head, qkv + b * projected, weights + h * padded(positions), mixed + h * C);
            }
            multiply(&layer->out, B, mixed, x, 1, words);
            for (int64_t b = 0; b < B; b++) normalise(x + b * D, layer->before_mlp, D, model->eps, normed + b * D);
            Input input = input_of(&layer->gate, B, normed, words);
#pragma omp for schedule(static)
            for (int64_t panel = 0; panel < panels_of(&layer->gate); panel++) {
                float gates[MOST][LANES], ups[MOST][LANES];
                products(&layer->gate, panel, B, &input, gates);
                products(&layer->up, panel, B, &input, ups);
                int64_t row = panel * LANES, left = F - row < LANES ? F - row : LANES;
                for (int64_t b = 0; b < B; b++)
                    for (int64_t r = 0; r < left; r++)
                        active[b * F + row + r] = gates[b][r] / (1.0f + exponential(-gates[b][r])) * ups[b][r];
            }
            multiply(&layer->down, B, active, x, 1, words);
            if (middle && l + 1 == middle_layers) {
#pragma omp for schedule(static)
                for (int64_t i = 0; i < B * D; i++) middle[i] = x[i];
            }
        }
#pragma omp for schedule(static)
        for (int64_t b = 0; b < B; b++) normalise(x + b * D, model->norm, D, model->eps, hidden + b * D);
    }
}

// y [B, rows] = x [B, I] times rows of a matrix, from `start` on: the head, or a run of it. `words`, of all threads
// [threads, B, words_of(I)], is scratch.
void product(const Matrix *m, int64_t threads, int64_t start, int64_t rows, int64_t B, const float *x, float *y,
             int32_t *words) {
#pragma omp parallel num_threads((int)threads)
    {
        Input input = input_of(m, B, x, words + THREAD * B * words_of(m->columns));
#pragma omp for schedule(static)
        for (int64_t panel = start / LANES; panel < (start + rows + LANES - 1) / LANES; panel++) {
            float sums[MOST][LANES];
            products(m, panel, B, &input, sums);
            int64_t row = panel * LANES - start;  // of y
            int64_t from = row < 0 ? -row : 0, to = rows - row < LANES ? rows - row : LANES;
            for (int64_t b = 0; b < B; b++)
                for (int64_t r = from; r < to; r++) y[b * rows + row + r] = sums[b][r];
        }
    }
}

// How many words of scratch `product` takes.
int64_t product_words(const Matrix *m, int64_t threads, int64_t B) { return threads * B * words_of(m->columns); }
