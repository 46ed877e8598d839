//! Norms over the channels of each pixel or token.

use rayon::prelude::*;

use super::vectorized;

/// Rows handed to one task.
const ROWS: usize = 64;
/// Sums run in this many lanes, which are added up in a fixed order at the end.
const LANES: usize = 16;

/// `x / sqrt(mean(x^2) + eps) * weight + bias + residual` for each row of `weight.len()` values; empty
/// `bias` or `residual` adds nothing.
pub fn rms_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, residual: &[f32], out: &mut [f32]) {
    let chunk = ROWS * weight.len();
    out.par_chunks_mut(chunk).enumerate().for_each(|(index, out)| {
        let start = index * chunk;
        let residual = if residual.is_empty() { residual } else { &residual[start..][..out.len()] };
        rms_norm_rows(&x[start..][..out.len()], weight, bias, eps, residual, out);
    });
}

/// `(x - mean) / sqrt(variance + eps) * (1 + scale) + shift` for each row of `scale.len()` values.
pub fn layer_norm_modulated(x: &[f32], scale: &[f32], shift: &[f32], eps: f32, out: &mut [f32]) {
    let chunk = ROWS * scale.len();
    out.par_chunks_mut(chunk).enumerate().for_each(|(index, out)| {
        layer_norm_rows(&x[index * chunk..][..out.len()], scale, shift, eps, out);
    });
}

/// `x + gate * y` for each row of `gate.len()` values, into `x`.
pub fn add_gated(x: &mut [f32], gate: &[f32], y: &[f32]) {
    let chunk = ROWS * gate.len();
    x.par_chunks_mut(chunk).enumerate().for_each(|(index, x)| {
        add_gated_rows(x, gate, &y[index * chunk..][..x.len()]);
    });
}

/// `x + y`, into `x`.
pub fn add(x: &mut [f32], y: &[f32]) {
    const CHUNK: usize = 1 << 14;
    x.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(x, y)| add_all(x, y));
}

#[inline(always)]
fn sum_of(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    if let Ok(values) = <&[f32; LANES / 2]>::try_from(values) {
        // The narrowest stage of a decoder: no loop over lanes that stay empty.
        let [a, b, c, d, e, f, g, h] = values.map(term);
        return ((a + e) + (c + g)) + ((b + f) + (d + h));
    }
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += term(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += term(*value);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

vectorized! {
    fn rms_norm_rows(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, residual: &[f32], out: &mut [f32]) {
        let n = weight.len();
        // Roots and divisions of a block of rows at once: of one row they would take longer than all the rest.
        let mut factors = [0.0_f32; ROWS];
        for (factor, x) in factors.iter_mut().zip(x.chunks_exact(n)) {
            *factor = sum_of(x, |value| value * value);
        }
        for factor in &mut factors {
            *factor = 1.0 / (*factor / n as f32 + eps).sqrt();
        }
        for (row, (x, out)) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)).enumerate() {
            let factor = factors[row];
            for ((out, value), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = value * factor * weight;
            }
            if !bias.is_empty() {
                for (out, bias) in out.iter_mut().zip(bias) {
                    *out += bias;
                }
            }
            if !residual.is_empty() {
                for (out, residual) in out.iter_mut().zip(&residual[row * n..][..n]) {
                    *out += residual;
                }
            }
        }
    }
}

vectorized! {
    fn layer_norm_rows(x: &[f32], scale: &[f32], shift: &[f32], eps: f32, out: &mut [f32]) {
        let n = scale.len();
        for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            let mean = sum_of(x, |value| value) / n as f32;
            let variance = sum_of(x, |value| (value - mean) * (value - mean)) / n as f32;
            let factor = 1.0 / (variance + eps).sqrt();
            for (((out, value), scale), shift) in out.iter_mut().zip(x).zip(scale).zip(shift) {
                *out = (value - mean) * factor * (1.0 + scale) + shift;
            }
        }
    }
}

vectorized! {
    fn add_all(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

vectorized! {
    fn add_gated_rows(x: &mut [f32], gate: &[f32], y: &[f32]) {
        let n = gate.len();
        for (x, y) in x.chunks_exact_mut(n).zip(y.chunks_exact(n)) {
            for ((x, gate), y) in x.iter_mut().zip(gate).zip(y) {
                *x += gate * y;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_follow_their_definitions() {
        for n in [1, 7, 16, 100] {
            let x: Vec<f32> = (0..5 * n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 20.0).collect();
            let weight: Vec<f32> = (0..n).map(|i| 1.0 + i as f32 / 50.0).collect();
            let bias: Vec<f32> = (0..n).map(|i| i as f32 / 70.0).collect();
            let mut rms = vec![f32::NAN; x.len()];
            rms_norm(&x, &weight, &bias, 1e-5, &x, &mut rms);
            let mut ln = vec![f32::NAN; x.len()];
            layer_norm_modulated(&x, &weight, &bias, 1e-6, &mut ln);
            for (row, values) in x.chunks(n).enumerate() {
                let d: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
                let square = d.iter().map(|v| v * v).sum::<f64>() / n as f64;
                let mean = d.iter().sum::<f64>() / n as f64;
                let variance = d.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n as f64;
                for (i, v) in d.iter().enumerate() {
                    let (w, b) = (f64::from(weight[i]), f64::from(bias[i]));
                    let want = v / (square + 1e-5).sqrt() * w + b + v;
                    assert!((f64::from(rms[row * n + i]) - want).abs() < 1e-5);
                    let want = (v - mean) / (variance + 1e-6).sqrt() * (1.0 + w) + b;
                    assert!((f64::from(ln[row * n + i]) - want).abs() < 1e-5);
                }
            }
        }
    }
}
