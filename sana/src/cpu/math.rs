//! Activations, with an exponential that the compiler can make vectors of.

use rayon::prelude::*;

use super::vectorized;

/// `e^x` within 2 units in the last place; 0 below -87.3, largest finite power above 88.3.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Cody-Waite reduction to |r| <= ln(2)/2, then the polynomial of Cephes' expf.
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.3);
    let n = (x * LOG2_E + ROUND) - ROUND;
    let r = x - n * LN2_HI - n * LN2_LO;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let y = p * r * r + r + 1.0;
    // SAFETY of the cast: n is an integer within -126..=127.
    y * f32::from_bits((((n as i32) + 127) as u32) << 23)
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `tanh x`, within 2e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// GELU in its tanh form, as `gelu_pytorch_tanh`.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + tanh(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}

/// What is applied to every value of a layer's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + e^-x)`.
    Silu,
    /// GELU, tanh form.
    GeluTanh,
}

impl Activation {
    /// Applies it in place.
    pub fn apply(self, values: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Relu => relu_all(values),
            Self::Silu => silu_all(values),
            Self::GeluTanh => gelu_tanh_all(values),
        }
    }
}

vectorized! {
    fn relu_all(values: &mut [f32]) {
        for value in values {
            // Not `max`, which would hide a NaN.
            *value = if *value < 0.0 { 0.0 } else { *value };
        }
    }
}

vectorized! {
    fn silu_all(values: &mut [f32]) {
        for value in values {
            *value = silu(*value);
        }
    }
}

vectorized! {
    fn gelu_tanh_all(values: &mut [f32]) {
        for value in values {
            *value = gelu_tanh(*value);
        }
    }
}

vectorized! {
    fn gelu_product_all(gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = gelu_tanh(*gate) * up;
        }
    }
}

/// `gelu_tanh(gate) * up`, into `gate`.
pub fn gelu_product(gate: &mut [f32], up: &[f32]) {
    const CHUNK: usize = 1 << 14;
    gate.par_chunks_mut(CHUNK).zip(up.par_chunks(CHUNK)).for_each(|(gate, up)| gelu_product_all(gate, up));
}

vectorized! {
    /// Scores as `cap * tanh(score * scale / cap)`.
    pub fn soften(scores: &mut [f32], scale: f32, cap: f32) {
        for score in scores {
            *score = tanh(*score * scale / cap) * cap;
        }
    }
}

vectorized! {
    /// Scores to `e^(score - max)`.
    pub fn exp_below(scores: &mut [f32], max: f32) {
        for score in scores {
            *score = exp(*score - max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units() {
        for i in -870_000..=880_000 {
            let x = i as f32 / 10_000.0;
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 2.4e-7, "exp({x}): relative error {error}");
        }
        assert!(exp(-1e30) < 1e-37 && exp(1e30).is_finite());
    }

    #[test]
    fn activations_follow_their_definitions() {
        for i in -4000..=4000 {
            let x = i as f32 / 200.0;
            let d = f64::from(x);
            assert!((f64::from(tanh(x)) - d.tanh()).abs() < 2e-7);
            assert!((f64::from(silu(x)) - d / (1.0 + (-d).exp())).abs() < 2e-6);
            let inner = 0.797_884_560_802_865_4 * (d + 0.044715 * d * d * d);
            assert!((f64::from(gelu_tanh(x)) - 0.5 * d * (1.0 + inner.tanh())).abs() < 3e-6);
        }
    }

    #[test]
    fn vectors_and_scalars_agree() {
        let values: Vec<f32> = (0..1003).map(|i| (i as f32 - 500.0) / 37.0).collect();
        let mut got = values.clone();
        Activation::Silu.apply(&mut got);
        assert_eq!(got, values.iter().map(|&x| silu(x)).collect::<Vec<_>>());
    }
}
