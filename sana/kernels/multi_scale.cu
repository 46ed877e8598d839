// The end of DC-AE's second scale: a 1x1 convolution in groups, put behind the channels it came from.
#include "common.cuh"

// Channels of a group at most, as in attention.cu.
#define MAX_GROUP 32

// out[pixel] = [input | grouped], 2 * channels wide: `input` is the pixel of the two pieces `pad` rows further down, `grouped`
// is filtered[pixel][group] times weight[group][output][input]. Block (32, 8), grid (blocks of 64 pixels, groups).
KERNEL group_linear(const scalar *filtered, const float *weight, const scalar *kept, const scalar *rows, scalar *out,
                    int kept_rows, int count, int width, int channels, int group, int pad, int pixels) {
    __shared__ float weights[MAX_GROUP][MAX_GROUP + 1];
    __shared__ float values[8][MAX_GROUP];
    int first = blockIdx.y * group;
    for (int i = threadIdx.y * 32 + threadIdx.x; i < group * group; i += 256)
        weights[i / group][i % group] = weight[(Index)first * group + i];
    int c = threadIdx.x;
    for (int tile = 0; tile < 8; tile++) {
        int pixel = (blockIdx.x * 8 + tile) * 8 + threadIdx.y;
        bool here = pixel < pixels && c < group;
        if (here)
            values[threadIdx.y][c] = widen(filtered[(Index)pixel * channels + first + c]);
        __syncthreads();
        if (here) {
            float sum = 0.0f;
            for (int k = 0; k < group; k++)
                sum += values[threadIdx.y][k] * weights[c][k];
            const scalar *row =
                row_at(kept, kept_rows, rows, count, (Index)width * channels, pixel / width + pad);
            scalar *target = out + (Index)pixel * 2 * channels;
            target[first + c] = row[(Index)(pixel % width) * channels + first + c];
            target[channels + first + c] = narrow(sum);
        }
        __syncthreads();
    }
}
