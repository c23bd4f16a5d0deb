// Convolutions over time on the CPU, in float32: `convolve`, and the ConvNeXt block of layers.py, `conv_block`.
//
// A channel is a row of frames, and a vector holds frames that follow each other, so that normalising over channels and
// multiplying by weights need no other order of the numbers. An output is added up in the same order wherever its frame
// lies in a chunk, whatever the number of threads.
//
// Names: F frames, I input channels, O output channels, H hidden channels, K taps, V vectors of frames in a tile.
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__FMA__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

#define INLINE static inline __attribute__((always_inline))

// A compiler may round a product and a sum at once in one copy of a loop and not in another (GCC does where it tunes for
// AMD's Zen), and a frame would depend on its chunk. So they are rounded at once where `fused` says so, and nowhere else.
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

// A tile's sums stay in registers: AVX-512 has 32 of 16 numbers, AVX2 16 of 8.
#ifdef __AVX512F__
enum { LANES = 16, OUTPUTS = 8 };
#else
enum { LANES = 8, OUTPUTS = 6 };
#endif
enum { WIDEST = 2 };             // vectors of a tile
enum { TILE = WIDEST * LANES };  // frames of a tile, and the length of a row of scratch

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t Whole __attribute__((vector_size(LANES * 4)));
typedef uint32_t Bits __attribute__((vector_size(LANES * 4)));

// x [I, row]; a frame sees K frames of it, `dilation` apart.
typedef struct {
    const float *x;
    int64_t row, I, K, dilation;
} Input;

typedef struct {
    int64_t channels, hidden, K, dilation, left;  // left: taps before the centre, in frames
    double eps;
    const float *depthwise, *depthwise_bias;  // [C, K], [C]
    const float *gain, *bias;                 // [C]
    const float *widen, *widen_bias;          // [H, C], [H]
    const float *narrow, *narrow_bias;        // [C, H], [C]
    const float *scale;                       // [C]
} Block;

INLINE Vector load(const float *from) { return *(const Vector *)from; }

// weight * x + sum.
INLINE Vector fused(float weight, Vector x, Vector sum) {
#if defined(__AVX512F__)
    return (Vector)_mm512_fmadd_ps(_mm512_set1_ps(weight), (__m512)x, (__m512)sum);
#elif defined(__FMA__)
    return (Vector)_mm256_fmadd_ps(_mm256_set1_ps(weight), (__m256)x, (__m256)sum);
#elif defined(__ARM_NEON) && defined(__aarch64__)
    float32x4_t parts[2], others[2];
    memcpy(parts, &x, sizeof x), memcpy(others, &sum, sizeof sum);
    for (int i = 0; i < 2; i++) others[i] = vfmaq_n_f32(others[i], parts[i], weight);
    memcpy(&sum, others, sizeof sum);
    return sum;
#else
    return weight * x + sum;
#endif
}

// `yes` where a comparison holds, else `no`.
INLINE Vector either(Whole holds, Vector yes, Vector no) {
    return (Vector)(((Whole)yes & holds) | ((Whole)no & ~holds));
}

// R outputs of V vectors of frames, added up over the input's channels and taps.
INLINE void products(const Input *in, const float *weight, const int R, const int V, Vector sums[OUTPUTS][WIDEST]) {
    int64_t columns = in->I * in->K;
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sums[r][v] = (Vector){0};
    for (int64_t i = 0; i < in->I; i++)
        for (int64_t k = 0; k < in->K; k++) {
            const float *x = in->x + i * in->row + k * in->dilation, *w = weight + i * in->K + k;
            Vector frames[WIDEST];
            for (int v = 0; v < V; v++) frames[v] = load(x + v * LANES);
            for (int r = 0; r < R; r++)
                for (int v = 0; v < V; v++) sums[r][v] = fused(w[r * columns], frames[v], sums[r][v]);
        }
}

// ACTION(r, v) for each of O outputs of weights [O, I, K]; `sums` holds the product, `o` is the first output.
#define FOR_PRODUCTS(IN, WEIGHT, O, V, ACTION)                                    \
    for (int64_t o = 0; o < (O); o += OUTPUTS) {                                  \
        Vector sums[OUTPUTS][WIDEST];                                             \
        int64_t left = (O) - o;                                                   \
        const float *rows = (WEIGHT) + o * (IN)->I * (IN)->K;                     \
        if (left >= OUTPUTS) products(IN, rows, OUTPUTS, V, sums);                \
        else                                                                      \
            for (int64_t r = 0; r < left; r++) {                                  \
                Vector one[OUTPUTS][WIDEST];                                      \
                products(IN, rows + r * (IN)->I * (IN)->K, 1, V, one);            \
                for (int v = 0; v < V; v++) sums[r][v] = one[0][v];               \
            }                                                                     \
        for (int64_t r = 0; r < (left < OUTPUTS ? left : OUTPUTS); r++)           \
            for (int v = 0; v < V; v++) ACTION                                    \
    }

INLINE void store(float *to, Vector value, int64_t count) {
    if (count >= LANES) *(Vector *)to = value;
    else if (count > 0) memcpy(to, &value, (size_t)count * sizeof(float));
}

// 2^k times the Taylor series of the rest, |rest| <= ln(2) / 2.
INLINE Vector exponential(Vector x) {
    x = either(x < -87.0f, (Vector){0} - 87.0f, x);  // a NaN stays one
    Vector k = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // to the nearest whole number
    Vector rest = x - k * 0.693359375f + k * 2.12194440e-4f, sum = rest * (1.0f / 5040) + 1.0f / 720;
    sum = sum * rest + 1.0f / 120;
    sum = sum * rest + 1.0f / 24;
    sum = sum * rest + 1.0f / 6;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    Bits power = ((Bits)__builtin_convertvector(k, Whole) + 127) << 23;
    return sum * (Vector)power;
}

// x (1 + erf(x / sqrt(2))) / 2; erf by Abramowitz and Stegun, 7.1.26, within 1.5e-7.
INLINE Vector gelu(Vector x) {
    Vector size = either(x < 0.0f, -x, x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * size);
    Vector sum = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    Vector tail = sum * exponential(-size * size);  // 1 - erf(|x| / sqrt(2))
    return 0.5f * x * either(x < 0.0f, tail, 2.0f - tail);
}

// The input of a tile: where it lies, or, near its end, copied and followed by zeros.
static Input tile_of(const Input *in, int64_t first, int64_t frames, float *copy) {
    int64_t reach = (in->K - 1) * in->dilation, width = TILE + reach;
    Input tile = *in;
    if (first + TILE <= frames) {
        tile.x = in->x + first;
        return tile;
    }
    size_t kept = (size_t)(frames - first + reach) * sizeof(float);
    for (int64_t i = 0; i < in->I; i++) {
        memcpy(copy + i * width, in->x + i * in->row + first, kept);
        memset((char *)(copy + i * width) + kept, 0, (size_t)width * sizeof(float) - kept);
    }
    tile.x = copy, tile.row = width;
    return tile;
}

INLINE void convolve_tile(const Input *in, const float *weight, const float *bias, int64_t O, float *y, int64_t y_row,
                          int64_t count, const int V) {
    FOR_PRODUCTS(in, weight, O, V,
                 store(y + (o + r) * y_row + v * LANES, sums[r][v] + bias[o + r], count - v * LANES);)
}

INLINE void block_tile(const Block *b, const Input *in, float *y, int64_t y_row, int64_t count, float *scratch,
                       const int V) {
    int64_t C = b->channels;
    float *normed = scratch, *hidden = normed + C * TILE;
    Vector mean[WIDEST] = {0}, spread[WIDEST] = {0};
    for (int64_t c = 0; c < C; c++) {
        const float *x = in->x + c * in->row, *w = b->depthwise + c * b->K;
        for (int v = 0; v < V; v++) {
            Vector sum = (Vector){0} + b->depthwise_bias[c];
            for (int64_t k = 0; k < b->K; k++) sum = fused(w[k], load(x + v * LANES + k * b->dilation), sum);
            *(Vector *)(normed + c * TILE + v * LANES) = sum;
            mean[v] += sum;
        }
    }
    for (int v = 0; v < V; v++) mean[v] /= (float)C;
    for (int64_t c = 0; c < C; c++)
        for (int v = 0; v < V; v++) {
            Vector off = load(normed + c * TILE + v * LANES) - mean[v];
            spread[v] += off * off;
        }
    for (int v = 0; v < V; v++)
        for (int i = 0; i < LANES; i++) spread[v][i] = 1.0f / sqrtf(spread[v][i] / (float)C + (float)b->eps);
    for (int64_t c = 0; c < C; c++)
        for (int v = 0; v < V; v++) {
            Vector *to = (Vector *)(normed + c * TILE + v * LANES);
            *to = (*to - mean[v]) * spread[v] * b->gain[c] + b->bias[c];
        }
    Input wide = {normed, TILE, C, 1, 1}, back = {hidden, TILE, b->hidden, 1, 1};
    FOR_PRODUCTS(&wide, b->widen, b->hidden, V,
                 *(Vector *)(hidden + (o + r) * TILE + v * LANES) = gelu(sums[r][v] + b->widen_bias[o + r]);)
    FOR_PRODUCTS(&back, b->narrow, C, V, {
        Vector same = load(in->x + (o + r) * in->row + v * LANES + b->left);
        store(y + (o + r) * y_row + v * LANES, same + b->scale[o + r] * (sums[r][v] + b->narrow_bias[o + r]),
              count - v * LANES);
    })
}

// CALL(first, V) for the tiles of `frames` frames, shared out among the threads by vectors.
#define FOR_TILES(CALL)                                                               \
    int64_t vectors = (frames + LANES - 1) / LANES;                                   \
    int64_t team = threads < vectors ? threads : vectors;                             \
    _Pragma("omp parallel num_threads((int)team)") {                                  \
        float *own = scratch + THREAD * size;                                         \
        _Pragma("omp for schedule(static)") for (int64_t part = 0; part < team; part++) { \
            int64_t end = (part + 1) * vectors / team;                                \
            for (int64_t at = part * vectors / team; at < end; at += WIDEST) {        \
                int64_t first = at * LANES;                                           \
                if (end - at >= WIDEST) CALL(WIDEST)                                  \
                else CALL(1)                                                          \
            }                                                                         \
        }                                                                             \
    }

// Floats of scratch of one thread.
int64_t convolve_scratch(int64_t I, int64_t K, int64_t dilation) { return I * (TILE + (K - 1) * dilation); }
int64_t block_scratch(const Block *b) {
    return (b->channels + b->hidden) * TILE + convolve_scratch(b->channels, b->K, b->dilation);
}

// x [I, x_row], of which frames + (K - 1) dilation count, to y [O, y_row], of which `frames` are written.
void convolve(int64_t threads, int64_t frames, const float *x, int64_t x_row, int64_t I, int64_t K, int64_t dilation,
              const float *weight, const float *bias, int64_t O, float *y, int64_t y_row, float *scratch) {
    Input in = {x, x_row, I, K, dilation};
    int64_t size = convolve_scratch(I, K, dilation);
#define CONVOLVE(V)                                                                                \
    {                                                                                              \
        Input tile = tile_of(&in, first, frames, own);                                             \
        convolve_tile(&tile, weight, bias, O, y + first, y_row, frames - first, V);                \
    }
    FOR_TILES(CONVOLVE)
}

// The same shapes; y has as many channels as x.
void conv_block(const Block *b, int64_t threads, int64_t frames, const float *x, int64_t x_row, float *y, int64_t y_row,
                float *scratch) {
    Input in = {x, x_row, b->channels, b->K, b->dilation};
    int64_t size = block_scratch(b);
#define BLOCK(V)                                                                                             \
    {                                                                                                        \
        Input tile = tile_of(&in, first, frames, own + (b->channels + b->hidden) * TILE);                    \
        block_tile(b, &tile, y + first, y_row, frames - first, own, V);                                      \
    }
    FOR_TILES(BLOCK)
}
