// Around the matrix products that make up a convolution. One warp works on one pixel.
#include "common.cuh"

struct __align__(16) Word {
    unsigned int part[4];
};

template <typename T>
DEVICE void gather(const scalar *kept, const scalar *rows, T *out, int kept_rows, int count, int width, int channels,
                   int y, int x, int taps_x, int taps, int words) {
    for (int i = threadIdx.x; i < taps * words; i += 32) {
        int tap = i / words;
        int column = x + tap % taps_x;
        const scalar *row =
            row_at(kept, kept_rows, rows, count, (Index)width * channels, y + tap / taps_x);
        T value = {};
        if (row && column >= 0 && column < width)
            value = ((const T *)(row + (Index)column * channels))[i % words];
        out[i] = value;
    }
}

// The windows of pixels, one below the other: out[pixel][tap][channel] for `pixels` pixels, from the row `first_row` of the
// result on, which has `out_width` pixels in a row. The pixel at (y, x) sees taps from (y * stride + dy, x * stride + dx) on;
// what lies outside is zero. `wide` says that the channels of a pixel are whole 16-byte words.
// Block (32, pixels of a block), grid (blocks of pixels).
KERNEL im2col(const scalar *kept, const scalar *rows, scalar *out, int kept_rows, int count, int width, int channels,
              int first_row, int pixels, int out_width, int taps_y, int taps_x, int dy, int dx, int stride, int wide) {
    int pixel = blockIdx.x * blockDim.y + threadIdx.y;
    if (pixel >= pixels)
        return;
    int y = (first_row + pixel / out_width) * stride + dy;
    int x = pixel % out_width * stride + dx;
    int taps = taps_y * taps_x;
    scalar *target = out + (Index)pixel * taps * channels;
    if (wide)
        gather(kept, rows, (Word *)target, kept_rows, count, width, channels, y, x, taps_x, taps,
               channels * (int)sizeof(scalar) / 16);
    else
        gather(kept, rows, target, kept_rows, count, width, channels, y, x, taps_x, taps, channels);
}

// Places values of low-resolution pixels at the corners of 2x2 pixels: out[2y + dy][2x + dx][c] = bias[c] +
// values[(y, x) * pixel_stride + c * channel_stride + corner * corner_stride], corner = 2 dy + dx from `first_corner` on.
// With `inputs` channels of input, its pixel at (y + first_row + 1, x) is added with every channel repeated
// 4 * channels / inputs times, then shuffled into the corners: DC-AE's shortcut.
// Block (32, pixels of a block), grid (blocks of pixels, corners).
KERNEL shuffle(scalar *out, const scalar *values, const float *bias, const scalar *kept, const scalar *rows, int kept_rows,
               int count, int width, int inputs, int channels, int first_row, int pixels, int first_corner,
               int pixel_stride, int channel_stride, int corner_stride) {
    int pixel = blockIdx.x * blockDim.y + threadIdx.y;
    if (pixel >= pixels)
        return;
    int y = pixel / width, x = pixel % width;
    int corner = first_corner + blockIdx.y;
    const scalar *from = values + (Index)pixel * pixel_stride + (Index)blockIdx.y * corner_stride;
    scalar *to = out + ((Index)(2 * y + corner / 2) * (2 * width) + 2 * x + corner % 2) * channels;
    const scalar *input = nullptr;
    if (inputs > 0)
        input = row_at(kept, kept_rows, rows, count, (Index)width * inputs, first_row + y + 1) + (Index)x * inputs;
    for (int c = threadIdx.x; c < channels; c += 32) {
        float value = widen(from[(Index)c * channel_stride]);
        if (bias)
            value += bias[c];
        if (input)
            value += widen(input[(int)((Index)(4 * c + corner) * inputs / (4 * channels))]);
        to[c] = narrow(value);
    }
}
