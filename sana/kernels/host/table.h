// All kernels in one precision. The letters of their parameters come from the compiler, not from a list.

namespace KERNELS {

#include "../attention.cu"
#include "../conv.cu"
#include "../depthwise.cu"
#include "../linear.cu"
#include "../multi_scale.cu"
#include "../norm.cu"
#include "../picture.cu"
#include "../rope.cu"
#include "../softmax.cu"

template <typename T> struct Letter;
#define LETTER(type, letter)                                                                                           \
    template <> struct Letter<type> {                                                                                  \
        static const char value = letter;                                                                              \
    }
#ifndef SCALAR_F32
LETTER(const scalar *, 's');
LETTER(scalar *, 'S');
#endif
LETTER(const float *, 'f');
LETTER(float *, 'F');
LETTER(const double *, 'd');
LETTER(double *, 'D');
LETTER(unsigned char *, 'B');
LETTER(unsigned *, 'U');
LETTER(int, 'i');
LETTER(float, 'r');
#undef LETTER

template <auto kernel> struct Bound;
template <typename... T, void (*kernel)(T...)> struct Bound<kernel> {
    static constexpr char parameters[] = {Letter<T>::value..., 0};
    template <size_t... I> static void apply(void **arguments, std::index_sequence<I...>) {
        kernel(*(T *)arguments[I]...);
    }
    static void call(void **arguments) { apply(arguments, std::index_sequence_for<T...>()); }
};

#define ALONE(name)                                                                                                    \
    { #name, Bound<name>::parameters, Bound<name>::call, 0 }
#define TOGETHER(name)                                                                                                 \
    { #name, Bound<name>::parameters, Bound<name>::call, 1 }
static const Entry entries[] = {
    ALONE(add_gated),        ALONE(add_sums),      ALONE(bias_activation),
    TOGETHER(causal_softmax), ALONE(depthwise3),   ALONE(depthwise5),
    ALONE(first_not_finite), ALONE(gated_depthwise3), ALONE(gelu_product),
    TOGETHER(group_linear),  ALONE(im2col),        TOGETHER(key_value_sums),
    TOGETHER(layer_norm_modulated), TOGETHER(linear_attend), TOGETHER(rms_norm),
    ALONE(rope),             ALONE(shuffle),       TOGETHER(softmax),
    ALONE(to_rgb8),
};

} // namespace KERNELS

extern "C" const Entry *ENTRIES(size_t *count) {
    *count = sizeof(KERNELS::entries) / sizeof(Entry);
    return KERNELS::entries;
}
