//! The kernels of `sana/kernels` and what they take.

/// A kernel and a letter for each of its parameters, in order.
///
/// `s` values in the model's precision, `f` f32, `d` f64, `B` bytes, `U` 32-bit integers; a capital is written to. `i` is
/// an integer, `r` a number. A test compares the letters with those that the compiler reads from the sources, and every
/// launch compares its arguments with them.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub name: &'static str,
    pub parameters: &'static str,
}

macro_rules! kernels {
    ($($constant:ident $name:literal $parameters:literal;)*) => {
        $(pub(crate) static $constant: Kernel = Kernel { name: $name, parameters: $parameters };)*

        /// All of them.
        #[cfg(test)]
        pub(crate) static ALL: &[&Kernel] = &[$(&$constant),*];
    };
}

kernels! {
    RMS_NORM "rms_norm" "sffsSiiri";
    LAYER_NORM_MODULATED "layer_norm_modulated" "sfSiiiiiir";
    ADD_GATED "add_gated" "Ssfiiiii";
    BIAS_ACTIVATION "bias_activation" "Sfiii";
    GELU_PRODUCT "gelu_product" "ssSi";
    DEPTHWISE_3 "depthwise3" "ssffSiiiiii";
    DEPTHWISE_5 "depthwise5" "ssffSiiiiii";
    GATED_DEPTHWISE_3 "gated_depthwise3" "ssffSiiiiii";
    IM2COL "im2col" "ssSiiiiiiiiiiiii";
    SHUFFLE "shuffle" "Ssfssiiiiiiiiiii";
    KEY_VALUE_SUMS "key_value_sums" "ssFiiiiiii";
    ADD_SUMS "add_sums" "Dfii";
    LINEAR_ATTEND "linear_attend" "sdSiiii";
    GROUP_LINEAR "group_linear" "sfssSiiiiiii";
    SOFTMAX "softmax" "Siir";
    CAUSAL_SOFTMAX "causal_softmax" "Siirri";
    ROPE "rope" "sffSiii";
    TO_RGB8 "to_rgb8" "sBiiii";
    FIRST_NOT_FINITE "first_not_finite" "Usi";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sana_kernels_host::{Scalar, kernels};

    use super::ALL;

    #[test]
    fn parameters_are_those_of_the_sources() {
        let here: BTreeMap<_, _> = ALL.iter().map(|kernel| (kernel.name, kernel.parameters)).collect();
        assert_eq!(here, kernels(Scalar::Bf16).collect());
    }
}
