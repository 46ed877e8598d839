// Rotary positions.
#include "common.cuh"

// x [tokens][heads][dim], its two halves turned by the token's angles (cos and sin are [tokens][dim / 2]), to
// out [heads][tokens][dim]. Block (128), grid (tokens).
KERNEL rope(const scalar *x, const float *cosines, const float *sines, scalar *out, int tokens, int heads, int dim) {
    int token = blockIdx.x, half = dim / 2;
    for (int i = threadIdx.x; i < heads * half; i += blockDim.x) {
        int head = i / half, c = i % half;
        const scalar *from = x + ((Index)token * heads + head) * dim;
        scalar *to = out + ((Index)head * tokens + token) * dim;
        float first = widen(from[c]), second = widen(from[half + c]);
        float cosine = cosines[(Index)token * half + c], sine = sines[(Index)token * half + c];
        to[c] = narrow(first * cosine - second * sine);
        to[half + c] = narrow(second * cosine + first * sine);
    }
}
