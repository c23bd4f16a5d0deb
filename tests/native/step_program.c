// step.c as a program: one call, its arguments from standard input and its results to standard output, so that code for
// another processor runs in an emulator. All lengths are in bytes, before what they are of.
#include <stdio.h>
#include <stdlib.h>
#include "step.c"

static int64_t number(void) {
    int64_t n;
    if (fread(&n, sizeof n, 1, stdin) != 1) exit(2);
    return n;
}

// Some bytes, on 64.
static void *given(int64_t *length) {
    int64_t n = number();
    void *all = n ? aligned_alloc(64, (size_t)(n + 63) / 64 * 64) : NULL;
    if (n && (!all || fread(all, 1, (size_t)n, stdin) != (size_t)n)) exit(2);
    if (length) *length = n;
    return all;
}

static Matrix matrix(void) {
    Matrix m = {.kind = number(), .rows = number(), .columns = number()};
    m.weight = given(NULL), m.scale = given(NULL);
    return m;
}

static void *room(int64_t floats) { return aligned_alloc(64, (size_t)(floats * 4 + 63) / 64 * 64); }
static void give(const void *all, int64_t n) { fwrite(all, 1, (size_t)n, stdout); }

static void a_product(void) {
    Matrix m = matrix();
    int64_t start = number(), rows = number(), B = number();
    float *x = given(NULL), *y = room(B * rows);
    product(&m, 1, start, rows, B, x, y, room(product_words(&m, 1, B)));
    give(y, B * rows * 4);
}

static void a_step(void) {
    Model model = {.layers = number(), .width = number(), .heads = number(), .kv_heads = number(),
                   .head_width = number(), .ffn = number(), .threads = 1};
    Layer *layers = calloc((size_t)model.layers, sizeof(Layer));
    model.eps = *(double *)given(NULL), model.layer = layers;
    for (int64_t l = 0; l < model.layers; l++) {
        layers[l].qkv = matrix(), layers[l].out = matrix(), layers[l].gate = matrix(), layers[l].up = matrix();
        layers[l].down = matrix();
        layers[l].before_attention = given(NULL), layers[l].before_mlp = given(NULL);
    }
    model.norm = given(NULL), model.rotation = given(NULL);
    int64_t B = number(), sequences = number(), longest = number(), middle_layers = number(), sizes[MOST];
    Cache caches[MOST], of[MOST];
    for (int64_t s = 0; s < sequences; s++) {
        of[s].keys = given(&sizes[s]), of[s].values = given(NULL);
        of[s].half = number(), of[s].positions = number();
    }
    for (int64_t b = 0; b < B; b++) {
        caches[b] = of[number()];
        caches[b].start = number(), caches[b].hole = number(), caches[b].hole_end = number();
    }
    int64_t size;
    float *x = given(&size), *hidden = room(size / 4), *middle = room(size / 4);
    step(&model, B, caches, x, hidden, middle, middle_layers, room(scratch_size(&model, B, longest)), longest);
    give(hidden, size), give(middle, size);
    for (int64_t s = 0; s < sequences; s++) give(of[s].keys, sizes[s]), give(of[s].values, sizes[s]);
}

int main(void) {
    if (number()) a_step();
    else a_product();
    return 0;
}
