// What follows a matrix product.
#include "common.cuh"

// x = activation(x + bias), in place, for rows of n values; bias may be absent. Block (256), grid (blocks of 256 * EACH
// values).
KERNEL bias_activation(scalar *x, const float *bias, int rows, int n, int activation) {
    Index all = (Index)rows * n;
    Index first = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * EACH;
    if (first >= all)
        return;
    int count = all - first < EACH ? (int)(all - first) : EACH;
    int c = (int)(first % n);
    float values[EACH];
    load(x + first, count, values);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        if (bias)
            values[i] += bias[c];
        values[i] = activate(values[i], activation);
        c = c + 1 == n ? 0 : c + 1;
    }
    store(x + first, count, values);
}

// out = gelu(gate) * up. Block (256), grid (blocks of 256 * EACH values).
KERNEL gelu_product(const scalar *gate, const scalar *up, scalar *out, int values_in_all) {
    Index all = (Index)values_in_all;
    Index first = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * EACH;
    if (first >= all)
        return;
    int count = all - first < EACH ? (int)(all - first) : EACH;
    float gates[EACH], values[EACH];
    load(gate + first, count, gates);
    load(up + first, count, values);
#pragma unroll
    for (int i = 0; i < EACH; i++)
        values[i] *= activate(gates[i], 3);
    store(out + first, count, values);
}
