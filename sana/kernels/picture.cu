// From decoded rows to bytes.
#include "common.cuh"

// Columns from `first` on of rows [rows][width][3], from -1..1 to 0..255, clamped, halves to even: out [rows][columns][3].
// As in the reference, the first step is rounded to the decoder's own precision. Block (256), grid (blocks of bytes).
KERNEL to_rgb8(const scalar *x, unsigned char *out, int rows, int width, int first, int columns) {
    Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    Index line = (Index)columns * 3;
    if (i >= rows * line)
        return;
    float value = widen(x[i / line * width * 3 + (Index)first * 3 + i % line]);
    value = widen(narrow(value * 0.5f + 0.5f));
    value = fminf(fmaxf(value, 0.0f), 1.0f);
    out[i] = (unsigned char)rintf(value * 255.0f);
}

// Lowers *first to the place of the first value that is not finite. Block (256), grid (blocks of values).
KERNEL first_not_finite(unsigned int *first, const scalar *x, int count) {
    Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < (Index)count && !(fabsf(widen(x[i])) <= 3.402823466e38f))
        atomicMin(first, (unsigned int)i);
}
