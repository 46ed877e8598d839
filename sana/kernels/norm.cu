// Norms over the channels of each pixel or token, and the gated sum around them. One warp works on one row.
#include "common.cuh"

// out = activation(x / sqrt(mean(x^2) + eps) * weight + bias + residual); bias and residual may be absent.
// Block (32, rows of a block), grid (blocks of rows).
KERNEL rms_norm(const scalar *x, const float *weight, const float *bias, const scalar *residual, scalar *out,
                int rows, int n, float eps, int activation) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows)
        return; // The whole warp.
    Index first = (Index)row * n;
    float sum = 0.0f;
    for (int c = threadIdx.x; c < n; c += 32) {
        float value = widen(x[first + c]);
        sum += value * value;
    }
    float factor = 1.0f / sqrtf(warp_sum(sum) / (float)n + eps);
    for (int c = threadIdx.x; c < n; c += 32) {
        float value = widen(x[first + c]) * factor * weight[c];
        if (bias)
            value += bias[c];
        if (residual)
            value += widen(residual[first + c]);
        out[first + c] = narrow(activate(value, activation));
    }
}

// out = (x - mean) / sqrt(variance + eps) * (1 + scale) + shift. Each `tokens` rows are a sequence with its own row of
// `modulation`, `stride` values, in which its scale and its shift begin at `scale` and `shift`.
// Block (32, rows of a block), grid (blocks of rows).
KERNEL layer_norm_modulated(const scalar *x, const float *modulation, scalar *out, int rows, int tokens, int n,
                            int stride, int scale, int shift, float eps) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows)
        return;
    Index first = (Index)row * n;
    const float *of_sequence = modulation + (Index)(row / tokens) * stride;
    float sum = 0.0f;
    for (int c = threadIdx.x; c < n; c += 32)
        sum += widen(x[first + c]);
    float mean = warp_sum(sum) / (float)n;
    float square = 0.0f;
    for (int c = threadIdx.x; c < n; c += 32) {
        float value = widen(x[first + c]) - mean;
        square += value * value;
    }
    float factor = 1.0f / sqrtf(warp_sum(square) / (float)n + eps);
    for (int c = threadIdx.x; c < n; c += 32) {
        float value = (widen(x[first + c]) - mean) * factor;
        out[first + c] = narrow(value * (1.0f + of_sequence[scale + c]) + of_sequence[shift + c]);
    }
}

// x += gate * y for rows of n values, with the sequence's gate as above; without modulation a plain sum. Block (256), grid
// (blocks of 256 * EACH values).
KERNEL add_gated(scalar *x, const scalar *y, const float *modulation, int rows, int tokens, int n, int stride, int gate) {
    Index all = (Index)rows * n;
    Index first = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * EACH;
    if (first >= all)
        return;
    int count = all - first < EACH ? (int)(all - first) : EACH;
    int row = (int)(first / n), c = (int)(first % n);
    float values[EACH], added[EACH];
    load(x + first, count, values);
    load(y + first, count, added);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        // A block's last values may lie beyond the last row.
        float factor = modulation && i < count ? modulation[(Index)(row / tokens) * stride + gate + c] : 1.0f;
        values[i] += factor * added[i];
        if (++c == n) {
            c = 0;
            row++;
        }
    }
    store(x + first, count, values);
}
