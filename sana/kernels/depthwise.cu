// Depthwise convolutions: every channel by itself. A thread has one channel of a strip of pixels in one row.
#include "common.cuh"

// Pixels in a strip: `STRIP` in sana/src/cuda/depthwise.rs.
#define STRIP 8

// Values of channel `c` at the strip from `first` on of the row `y`. The taps are weight[tap][channel].
template <int SIZE>
DEVICE void convolve(const scalar *kept, int kept_rows, const scalar *rows, int count, const float *weight,
                     const float *bias, int width, int channels, int y, int first, int c, float *sums) {
    for (int i = 0; i < STRIP; i++)
        sums[i] = bias ? bias[c] : 0.0f;
#pragma unroll
    for (int ky = 0; ky < SIZE; ky++) {
        const scalar *row = row_at(kept, kept_rows, rows, count, (Index)width * channels, y + ky);
        if (!row)
            continue;
        float line[STRIP + SIZE - 1];
#pragma unroll
        for (int i = 0; i < STRIP + SIZE - 1; i++) {
            int x = first + i - SIZE / 2;
            line[i] = x >= 0 && x < width ? widen(row[(Index)x * channels + c]) : 0.0f;
        }
#pragma unroll
        for (int kx = 0; kx < SIZE; kx++) {
            float tap = weight[(ky * SIZE + kx) * channels + c];
#pragma unroll
            for (int i = 0; i < STRIP; i++)
                sums[i] += line[i + kx] * tap;
        }
    }
}

// Row `y` of the result has its window's first row at `y - shift` of the two pieces; rows outside are zero. With `GATED` the
// result is the first half of the channels times the SiLU of the second half.
template <int SIZE, bool GATED>
DEVICE void depthwise(const scalar *kept, const scalar *rows, const float *weight, const float *bias, scalar *out,
                      int kept_rows, int count, int width, int channels, int shift, int out_rows) {
    int strips = (width + STRIP - 1) / STRIP;
    int y = blockIdx.x / strips;
    int first = blockIdx.x % strips * STRIP;
    int outputs = GATED ? channels / 2 : channels;
    int c = blockIdx.y * blockDim.x + threadIdx.x;
    if (c >= outputs)
        return;
    // Pictures one after the other; they have no kept rows.
    rows += (Index)blockIdx.z * count * width * channels;
    out += (Index)blockIdx.z * out_rows * width * outputs;
    float sums[STRIP], gates[STRIP];
    convolve<SIZE>(kept, kept_rows, rows, count, weight, bias, width, channels, y - shift, first, c, sums);
    if (GATED)
        convolve<SIZE>(kept, kept_rows, rows, count, weight, bias, width, channels, y - shift, first, outputs + c, gates);
    for (int i = 0; i < STRIP && first + i < width; i++) {
        float value = GATED ? sums[i] * activate(gates[i], 2) : sums[i];
        out[((Index)y * width + first + i) * outputs + c] = narrow(value);
    }
}

// All of them: block (channels of a block), grid (rows times strips, blocks of channels, pictures).
KERNEL depthwise3(const scalar *kept, const scalar *rows, const float *weight, const float *bias, scalar *out,
                  int kept_rows, int count, int width, int channels, int shift, int out_rows) {
    depthwise<3, false>(kept, rows, weight, bias, out, kept_rows, count, width, channels, shift, out_rows);
}

KERNEL depthwise5(const scalar *kept, const scalar *rows, const float *weight, const float *bias, scalar *out,
                  int kept_rows, int count, int width, int channels, int shift, int out_rows) {
    depthwise<5, false>(kept, rows, weight, bias, out, kept_rows, count, width, channels, shift, out_rows);
}

KERNEL gated_depthwise3(const scalar *kept, const scalar *rows, const float *weight, const float *bias, scalar *out,
                        int kept_rows, int count, int width, int channels, int shift, int out_rows) {
    depthwise<3, true>(kept, rows, weight, bias, out, kept_rows, count, width, channels, shift, out_rows);
}
