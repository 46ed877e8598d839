// Softmax over rows of scores, in place, in f32. One warp works on one row.
#include "common.cuh"

DEVICE float bend(float score, float scale, float cap) {
    score *= scale;
    return cap > 0.0f ? tanhf(score / cap) * cap : score;
}

// Scores from `first` up to `last` are scaled, bent by the cap if there is one, and normalised; the others become 0.
DEVICE void normalise(scalar *row, int columns, int first, int last, float scale, float cap) {
    float largest = -3.402823466e38f;
    for (int i = first + threadIdx.x; i < last; i += 32)
        largest = fmaxf(largest, bend(widen(row[i]), scale, cap));
    largest = warp_max(largest);
    float sum = 0.0f;
    for (int i = first + threadIdx.x; i < last; i += 32)
        sum += expf(bend(widen(row[i]), scale, cap) - largest);
    float factor = 1.0f / warp_sum(sum);
    for (int i = threadIdx.x; i < columns; i += 32) {
        bool seen = i >= first && i < last;
        row[i] = narrow(seen ? expf(bend(widen(row[i]), scale, cap) - largest) * factor : 0.0f);
    }
}

// Of all columns. Block (32, rows of a block), grid (blocks of rows).
KERNEL softmax(scalar *scores, int rows, int columns, float scale) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row < rows)
        normalise(scores + (Index)row * columns, columns, 0, columns, scale, 0.0f);
}

// Row i is of token i % tokens, which sees itself and the tokens before it, at most `window` of them unless that is 0. A `cap`
// of 0 is none. Block (32, rows of a block), grid (blocks of rows).
KERNEL causal_softmax(scalar *scores, int rows, int tokens, float scale, float cap, int window) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows)
        return;
    int last = row % tokens + 1;
    int first = window > 0 && last > window ? last - window : 0;
    normalise(scores + (Index)row * tokens, tokens, first, last, scale, cap);
}
