//! Box and Muller's transform with the logarithm, sine and cosine of torch's vectorised builds.
//!
//! Those are the single-precision functions of the Cephes library, with multiplications and additions fused in
//! the places where torch's compiler fuses them. Written out, they give the same bits on every machine; the
//! functions of the system differ between machines in the last bit, and so would the pictures.

/// From 8 pairs of uniforms in [0, 1), `u[j]` with `u[j + 8]`, to 16 normals.
pub(super) fn box_muller(u: &mut [f32; 16]) {
    let (radii, angles) = u.split_at_mut(8);
    for (first, second) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * ln(1.0 - *first)).sqrt();
        let (sin, cos) = sin_cos(std::f32::consts::TAU * *second);
        *first = radius * cos;
        *second = radius * sin;
    }
}

/// For normal numbers above 0.
fn ln(x: f32) -> f32 {
    const LOG: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_84e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_4e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    /// The logarithm of 2 in two parts.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let bits = x.to_bits();
    let mut exponent = ((bits >> 23) as i32 - 126) as f32;
    // From 1/2 to 1, then around 0.
    let mut x = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    if x < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        x += x;
    }
    x -= 1.0;
    let square = x * x;
    let y = polynomial(&LOG, x) * x;
    let y = y.mul_add(square, exponent * LN_2.1);
    let y = (-square).mul_add(0.5, y);
    exponent.mul_add(LN_2.0, x + y)
}

/// For angles from 0 to 2 pi.
fn sin_cos(angle: f32) -> (f32, f32) {
    const SIN: [f32; 3] = [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1];
    const COS: [f32; 3] = [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2];
    /// A quarter of pi in three parts.
    const QUARTER: [f32; 3] = [-0.785_156_25, -2.418_756_5e-4, -3.774_895e-8];
    // The nearest even multiple of a quarter of pi is taken off.
    let octant = (angle * (4.0 / std::f32::consts::PI)) as i32;
    let octant = (octant + 1) & !1;
    let x = QUARTER.iter().fold(angle, |x, part| (octant as f32).mul_add(*part, x));
    let square = x * x;
    let cos = (polynomial(&COS, square) * square).mul_add(square, -(square * 0.5)) + 1.0;
    let sin = (polynomial(&SIN, square) * square).mul_add(x, x);
    let (sin, cos) = if octant & 2 == 0 { (sin, cos) } else { (cos, sin) };
    let sin = if octant & 4 == 0 { sin } else { -sin };
    let cos = if (octant - 2) & 4 == 0 { -cos } else { cos };
    (sin, cos)
}

/// Highest power first.
fn polynomial(coefficients: &[f32], x: f32) -> f32 {
    let mut terms = coefficients.iter();
    let first = terms.next().copied().unwrap_or_default();
    terms.fold(first, |sum, term| sum.mul_add(x, *term))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_are_those_of_mathematics() {
        let worst = (1..=100_000).map(|i| i as f32 / 100_000.0).fold(0.0_f64, |worst, u| {
            let angle = std::f32::consts::TAU * u;
            let (sin, cos) = sin_cos(angle);
            let (want_sin, want_cos) = f64::from(angle).sin_cos();
            let want_ln = f64::from(u).ln();
            worst
                .max((f64::from(ln(u)) - want_ln).abs() / want_ln.abs().max(1.0))
                .max((f64::from(sin) - want_sin).abs())
                .max((f64::from(cos) - want_cos).abs())
        });
        assert!(worst < 1.5e-7, "{worst:e}");
    }
}
