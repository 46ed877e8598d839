// What a kernel sees of CUDA, on the host: blocks run one after the other, the threads of a block as fibers.
#ifndef SANA_HOST_SHIM
#define SANA_HOST_SHIM

#include <cmath>
#include <cstddef>
#include <cstring>
#include <utility>

#define SANA_HOST
#define KERNEL static void
#define DEVICE static inline
// One block runs at a time on a thread of the host.
#define __shared__ static thread_local
#define __align__(bytes) __attribute__((aligned(bytes)))

struct Place {
    unsigned x, y, z;
};
extern __thread Place threadIdx, blockIdx, blockDim, gridDim;

// Ends the process when a kernel breaks a rule of CUDA: there is no way back from inside of a fiber.
[[noreturn]] void host_fail(const char *what);
void host_barrier();
float host_shuffle_xor(float value, int mask);

#define __syncthreads() host_barrier()

inline float __shfl_xor_sync(unsigned threads, float value, int mask) {
    if (threads != 0xffffffffu)
        host_fail("only whole warps are known");
    return host_shuffle_xor(value, mask);
}

// Fibers take turns only where they wait, so this is atomic.
inline unsigned atomicMin(unsigned *place, unsigned value) {
    unsigned before = *place;
    if (value < before)
        *place = value;
    return before;
}

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

inline float host_half_to_float(unsigned short half) {
    unsigned sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 0x3ffu;
    if (exponent == 31)
        return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) {
        float small = std::ldexp((float)fraction, -24);
        return sign ? -small : small;
    }
    return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
}

inline unsigned short host_float_to_half(float x) {
    unsigned sign = (__float_as_uint(x) >> 16) & 0x8000u;
    float size = std::fabs(x);
    if (std::isnan(size))
        return (unsigned short)(sign | 0x7e00u);
    if (size >= 65520.0f)
        return (unsigned short)(sign | 0x7c00u);
    if (size < 6.103515625e-5f) // Below the smallest normal number, in steps of 2^-24.
        return (unsigned short)(sign | (unsigned)std::nearbyint(std::ldexp(size, 24)));
    unsigned bits = __float_as_uint(size);
    bits += 0xfffu + ((bits >> 13) & 1u);
    return (unsigned short)(sign | ((bits >> 13) - (112u << 10)));
}

// A kernel as the host can call it, with the same array of pointers to arguments that cuLaunchKernel takes.
struct Entry {
    const char *name;
    // One letter for each parameter, from its type in the source: see `Kernel` in sana/src/cuda/table.rs.
    const char *parameters;
    void (*call)(void **arguments);
    // Whether its threads wait for each other.
    int together;
};

#endif
