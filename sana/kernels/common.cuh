// What all kernels share. The text of this file and of every .cu file is one program: NVRTC compiles it at start
// (sana/src/cuda/driver.rs), nvcc in kernels/check, and the host's own compiler in kernels/host for the tests.
//
// Tensors are contiguous, channels last. One of SCALAR_F32, SCALAR_BF16 and SCALAR_F16 says how their values are stored;
// all arithmetic is in f32. No CUDA header is needed, so none has to be installed where a picture is rendered.
#ifndef SANA_COMMON
#define SANA_COMMON

#ifndef SANA_HOST
#define KERNEL extern "C" __global__ void
#define DEVICE __device__ __forceinline__
#endif

typedef unsigned long long Index;

#if defined(SCALAR_F32)
typedef float scalar;
DEVICE float widen(scalar x) { return x; }
DEVICE scalar narrow(float x) { return x; }
#elif defined(SCALAR_BF16)
struct scalar {
    unsigned short bits;
};
DEVICE float widen(scalar x) { return __uint_as_float((unsigned)x.bits << 16); }
// Rounds to nearest, halves to even.
DEVICE scalar narrow(float x) {
    unsigned bits = __float_as_uint(x);
    scalar out;
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        out.bits = (unsigned short)((bits >> 16) | 0x40u); // Rounding could make an infinity of this NaN.
    else
        out.bits = (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    return out;
}
#elif defined(SCALAR_F16)
struct scalar {
    unsigned short bits;
};
#ifdef SANA_HOST
DEVICE float widen(scalar x) { return host_half_to_float(x.bits); }
DEVICE scalar narrow(float x) {
    scalar out = {host_float_to_half(x)};
    return out;
}
#else
DEVICE float widen(scalar x) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
    return out;
}
DEVICE scalar narrow(float x) {
    scalar out;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
    return out;
}
#endif
#else
#error "define SCALAR_F32, SCALAR_BF16 or SCALAR_F16"
#endif

// The numbers are those of `code` in sana/src/cuda/mod.rs.
DEVICE float activate(float x, int activation) {
    switch (activation) {
    case 1: // ReLU; a NaN stays one.
        return x < 0.0f ? 0.0f : x;
    case 2: // SiLU
        return x / (1.0f + expf(-x));
    case 3: // GELU, tanh form
        return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    default:
        return x;
    }
}

// Sum over the 32 threads of a warp, which must all call it; each gets the same bits.
DEVICE float warp_sum(float x) {
    for (int lane = 16; lane > 0; lane /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

DEVICE float warp_max(float x) {
    for (int lane = 16; lane > 0; lane /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

// Consecutive values that a thread of an elementwise kernel works on, `EACH` in sana/src/cuda/mod.rs: enough loads under way
// to keep the memory busy.
#define EACH 8

// What one instruction loads or stores.
struct alignas(16) Words {
    unsigned a, b, c, d;
};

// A thread's values as they are stored.
union Pack {
    Words words[EACH * sizeof(scalar) / sizeof(Words)];
    scalar values[EACH];
};

// Whether all of a thread's values are there and lie where whole words can be taken.
DEVICE bool whole(const scalar *at, int count) { return count == EACH && (Index)at % sizeof(Words) == 0; }

// The `count` values from `from` on.
DEVICE void load(const scalar *from, int count, float *values) {
    Pack pack;
    if (whole(from, count)) {
        const Words *words = (const Words *)from;
#pragma unroll
        for (int i = 0; i < (int)(sizeof(Pack) / sizeof(Words)); i++)
            pack.words[i] = words[i];
#pragma unroll
        for (int i = 0; i < EACH; i++)
            values[i] = widen(pack.values[i]);
        return;
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
        values[i] = i < count ? widen(from[i]) : 0.0f;
}

DEVICE void store(scalar *to, int count, const float *values) {
    Pack pack;
#pragma unroll
    for (int i = 0; i < EACH; i++)
        pack.values[i] = narrow(values[i]);
    if (whole(to, count)) {
        Words *words = (Words *)to;
#pragma unroll
        for (int i = 0; i < (int)(sizeof(Pack) / sizeof(Words)); i++)
            words[i] = pack.words[i];
        return;
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (i < count)
            to[i] = pack.values[i];
}

DEVICE int least(int a, int b) { return a < b ? a : b; }

// Rows of `line` values in two pieces, those kept from the band before and the new ones below them. The row at `y`, or
// nothing outside of both.
DEVICE const scalar *row_at(const scalar *kept, int kept_rows, const scalar *rows, int count, Index line, int y) {
    if (y < 0 || y >= kept_rows + count)
        return nullptr;
    return y < kept_rows ? kept + y * line : rows + (y - kept_rows) * line;
}

#endif
