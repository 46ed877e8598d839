//! Timesteps and positions as vectors.

use candle_core::{Device, Result, Tensor, bail};

use super::Load;
use crate::Error;
use crate::ops::{Activation, Linear};

/// Width of a timestep's sinusoids.
const SINUSOIDS: usize = 256;

/// Two layers that make an embedding of sinusoids.
#[derive(Debug)]
struct Embedder {
    linear_1: Linear,
    linear_2: Linear,
}

impl Embedder {
    fn load(load: &mut Load<'_>, name: &str, width: usize) -> std::result::Result<Self, Error> {
        Ok(Self {
            linear_1: load
                .linear(&format!("{name}.linear_1"), &[width, SINUSOIDS], true)?
                .with(Activation::Silu),
            linear_2: load.linear(&format!("{name}.linear_2"), &[width, width], true)?,
        })
    }

    /// `[n, width]` of `n` numbers.
    fn forward(&self, numbers: &[f32]) -> Result<Tensor> {
        let sinusoids: Vec<f32> = numbers.iter().flat_map(|&number| sinusoids(number)).collect();
        let sinusoids = Tensor::from_vec(sinusoids, (numbers.len(), SINUSOIDS), &Device::Cpu)?;
        self.linear_2.forward(&self.linear_1.forward(&sinusoids)?)
    }
}

/// The embedding of timestep and guidance, and the modulation that all blocks share.
#[derive(Debug)]
pub struct TimeEmbed {
    timestep: Embedder,
    /// Only in Sprint.
    guidance: Option<Embedder>,
    linear: Linear,
}

impl TimeEmbed {
    pub(super) fn load(load: &mut Load<'_>, width: usize, guided: bool) -> std::result::Result<Self, Error> {
        let guidance =
            guided.then(|| Embedder::load(load, "time_embed.guidance_embedder", width)).transpose()?;
        let name = if guided { "time_embed.timestep_embedder" } else { "time_embed.emb.timestep_embedder" };
        Ok(Self {
            timestep: Embedder::load(load, name, width)?,
            guidance,
            linear: load.linear("time_embed.linear", &[6 * width, width], true)?,
        })
    }

    /// For each time its modulation `[n, 6 * width]` and its embedding `[n, width]`. There is a guidance for each time,
    /// or none for a model that takes none.
    pub fn forward(&self, times: &[f32], guidance: Option<&[f32]>) -> Result<(Tensor, Tensor)> {
        let mut embedded = self.timestep.forward(times)?;
        match (&self.guidance, guidance) {
            (None, None) => {}
            (Some(embedder), Some(guidance)) => embedded = (embedded + embedder.forward(guidance)?)?,
            (Some(_), None) => bail!("this model must be told the guidance of every sequence"),
            (None, Some(_)) => bail!("this model cannot be told the guidance"),
        }
        let modulation = self.linear.forward(&embedded.silu()?)?;
        Ok((modulation, embedded))
    }
}

/// `[cos(t f) | sin(t f)]` with `f_j = 10000^(-j / 128)`.
fn sinusoids(time: f32) -> impl Iterator<Item = f32> {
    let angle = move |j: usize| time * frequency(j);
    (0..SINUSOIDS / 2).map(move |j| angle(j).cos()).chain((0..SINUSOIDS / 2).map(move |j| angle(j).sin()))
}

/// `10000^(-j / 128)` in f32, as the reference library computes it.
fn frequency(j: usize) -> f32 {
    let frequency = (-(10000.0_f64.ln() as f32) * j as f32 / (SINUSOIDS / 2) as f32).exp();
    // Its exponential is one unit in the last place off here. At timestep 999 that turns an angle by 3e-5, which shows
    // in every block's modulation.
    match j {
        13 | 44 | 119 => f32::from_bits(frequency.to_bits() + 1),
        _ => frequency,
    }
}

/// The positional table of a `height` x `width` grid, `[height * width, channels]`: the grid is stretched to the
/// trained range of `base` positions over `scale`. Columns come first.
pub fn positions(channels: usize, (height, width): (usize, usize), base: usize, scale: f64) -> Vec<f32> {
    let quarter = channels / 4;
    let frequencies: Vec<f64> =
        (0..quarter).map(|k| 1.0 / 10000_f64.powf(k as f64 / (channels as f64 / 4.0))).collect();
    // f32 divisions in this order, as the reference does them.
    let line = |count: usize| -> Vec<Vec<f32>> {
        (0..count)
            .map(|index| {
                let place = index as f32 / (count as f32 / base as f32) / scale as f32;
                let angles = frequencies.iter().map(|frequency| f64::from(place) * frequency);
                let sines = angles.clone().map(|angle| angle.sin() as f32);
                sines.chain(angles.map(|angle| angle.cos() as f32)).collect()
            })
            .collect()
    };
    let (columns, rows) = (line(width), line(height));
    rows.iter()
        .flat_map(|row| columns.iter().flat_map(move |column| column.iter().chain(row).copied()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::frequency;

    #[test]
    fn frequencies_are_those_of_the_reference_library_to_the_bit() {
        // The sum of all 128 as integers, and some that show which one it is.
        let bits: Vec<u32> = (0..128).map(|j| frequency(j).to_bits()).collect();
        for (j, want) in
            [(0, 0x3f80_0000), (13, 0x3ec8_eb24), (44, 0x3d2c_ba16), (119, 0x3948_60c0), (127, 0x38e1_5c8e)]
        {
            assert_eq!(bits[j], want, "{j}");
        }
        assert_eq!(bits.iter().map(|&bits| u64::from(bits)).sum::<u64>(), 129_226_262_050);
    }
}
