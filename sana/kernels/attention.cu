// Linear attention with a ReLU kernel: the sum over keys and values, and its use.
#include "common.cuh"

// Channels of a group at most: `MAX_WIDTH` in sana/src/cuda/attention.rs.
#define MAX_WIDTH 32
// Tokens in shared memory at a time.
#define TILE 32

// partial[sequence][chunk][group][key][value and 1] = sum over the chunk's tokens of relu(key) * value, in f32.
// Token t of a sequence of `tokens` has group g at (t * stride + g * group), its keys and values at their offsets from there.
// Block (256), grid (chunks, groups, sequences).
KERNEL key_value_sums(const scalar *keys, const scalar *values, float *partial, int tokens, int chunk, int stride, int group,
                      int key_offset, int value_offset, int width) {
    __shared__ float key[TILE][MAX_WIDTH];
    __shared__ float value[TILE][MAX_WIDTH + 1];
    Index base = (Index)blockIdx.z * tokens * stride + (Index)blockIdx.y * group;
    int first = blockIdx.x * chunk, last = least(first + chunk, tokens);
    // Eight threads share a key and divide its values among them.
    int k = threadIdx.x / 8, v = threadIdx.x % 8;
    float sums[MAX_WIDTH / 8 + 1];
#pragma unroll
    for (int i = 0; i <= MAX_WIDTH / 8; i++)
        sums[i] = 0.0f;
    for (int start = first; start < last; start += TILE) {
        int here = least(TILE, last - start);
        for (int i = threadIdx.x; i < here * width; i += blockDim.x) {
            int t = i / width, c = i % width;
            Index at = base + (Index)(start + t) * stride + c;
            key[t][c] = activate(widen(keys[at + key_offset]), 1);
            value[t][c] = widen(values[at + value_offset]);
        }
        for (int t = threadIdx.x; t < here; t += blockDim.x)
            value[t][width] = 1.0f;
        __syncthreads();
        if (k < width)
            for (int t = 0; t < here; t++) {
                float factor = key[t][k];
#pragma unroll
                for (int i = 0; i <= MAX_WIDTH / 8; i++)
                    if (v + 8 * i <= width)
                        sums[i] += factor * value[t][v + 8 * i];
            }
        __syncthreads();
    }
    if (k >= width)
        return;
    Index at = (((Index)blockIdx.z * gridDim.x + blockIdx.x) * gridDim.y + blockIdx.y) * width + k;
#pragma unroll
    for (int i = 0; i <= MAX_WIDTH / 8; i++)
        if (v + 8 * i <= width)
            partial[at * (width + 1) + v + 8 * i] = sums[i];
}

// total[sequence][i] += the chunks' parts in their order. Block (256), grid (blocks of `size`, sequences).
KERNEL add_sums(double *total, const float *partial, int chunks, int size) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size)
        return;
    Index sequence = blockIdx.y;
    double sum = total[sequence * size + i];
    for (int chunk = 0; chunk < chunks; chunk++)
        sum += (double)partial[(sequence * chunks + chunk) * size + i];
    total[sequence * size + i] = sum;
}

// out = (relu(q) S)[0..width] / ((relu(q) S)[width] + 1e-15) for each token and group, with S of the token's sequence. Queries
// lie as the keys above; token t writes group g at t * groups * width + g * width.
// Block (32, 8), grid (blocks of 64 tokens, groups, sequences).
KERNEL linear_attend(const scalar *queries, const double *total, scalar *out, int tokens, int stride, int group, int width) {
    __shared__ float sums[MAX_WIDTH][MAX_WIDTH + 1];
    __shared__ float query[8][MAX_WIDTH];
    int groups = gridDim.y;
    const double *of_group = total + ((Index)blockIdx.z * groups + blockIdx.y) * width * (width + 1);
    for (int i = threadIdx.y * 32 + threadIdx.x; i < width * (width + 1); i += 256)
        sums[i / (width + 1)][i % (width + 1)] = (float)of_group[i];
    int c = threadIdx.x;
    for (int tile = 0; tile < 8; tile++) {
        int token = (blockIdx.x * 8 + tile) * 8 + threadIdx.y;
        bool here = token < tokens && c < width;
        Index at = (Index)blockIdx.z * tokens + token;
        if (here)
            query[threadIdx.y][c] = activate(widen(queries[at * stride + (Index)blockIdx.y * group + c]), 1);
        __syncthreads();
        if (here) {
            float value = 0.0f, norm = 0.0f;
            for (int k = 0; k < width; k++) {
                value += query[threadIdx.y][k] * sums[k][c];
                norm += query[threadIdx.y][k] * sums[k][width];
            }
            out[(at * groups + blockIdx.y) * width + c] = narrow(value / (norm + 1e-15f));
        }
        __syncthreads();
    }
}
