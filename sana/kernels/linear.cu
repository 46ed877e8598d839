// What follows a matrix product.
#include "common.cuh"

// x = activation(x + bias), in place; bias may be absent. Block (32, rows of a block), grid (blocks of rows).
KERNEL bias_activation(scalar *x, const float *bias, int rows, int n, int activation) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows)
        return;
    Index first = (Index)row * n;
    for (int c = threadIdx.x; c < n; c += 32) {
        float value = widen(x[first + c]);
        if (bias)
            value += bias[c];
        x[first + c] = narrow(activate(value, activation));
    }
}

// out = gelu(gate) * up. Block (32, rows of a block), grid (blocks of rows).
KERNEL gelu_product(const scalar *gate, const scalar *up, scalar *out, int rows, int n) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows)
        return;
    Index first = (Index)row * n;
    for (int c = threadIdx.x; c < n; c += 32)
        out[first + c] = narrow(activate(widen(gate[first + c]), 3) * widen(up[first + c]));
}
