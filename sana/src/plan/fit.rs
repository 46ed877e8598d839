//! How a model is made to fit: what is in memory at once, and what is given up when that was too much.

use super::{Model, Plan, Request};
use crate::autoencoder::Tiling;
use crate::{Error, Memory};

/// Tokens in a call of the transformer from which on a device gains nothing more from a larger batch: one picture of
/// 4096x4096 with guidance.
const TOKENS_A_CALL: u64 = 1 << 15;

/// How pictures of one size are rendered within the memory of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Which parts of the model stay in memory.
    pub memory: Memory,
    /// Pictures that are denoised at once.
    pub batch: usize,
    /// How latents are decoded whose recipe asks for [`crate::DecodeMode::Exact`].
    pub tiling: Tiling,
    /// Exact ways to decode that need less, from the most to the least.
    pub smaller: Vec<Tiling>,
}

impl Default for Fit {
    /// One picture at a time, with the whole model in memory.
    fn default() -> Self {
        Self { memory: Memory::Resident, batch: 1, tiling: Tiling::Bands(None), smaller: Vec::new() }
    }
}

impl Fit {
    /// The best one by plan; [`Request::pictures`] bounds the batch, and its mode is of no account. Where nothing fits by plan
    /// it is the smallest, which may still do: a plan is no measurement.
    pub fn of(model: &Model, request: &Request) -> Result<Self, Error> {
        let resident = Plan::of(model, &Request { mode: Memory::Resident, ..*request })?;
        let (memory, plan) = match resident.fits {
            true => (Memory::Resident, resident),
            false => {
                (Memory::Sequential, Plan::of(model, &Request { mode: Memory::Sequential, ..*request })?)
            }
        };
        let tokens = plan.sequences as u64 * plan.latent;
        let most = (TOKENS_A_CALL / tokens.max(1)).min(request.pictures as u64);
        let now = plan.decodes.iter().find(|decode| decode.tiling == plan.decode);
        let mut smaller: Vec<_> = plan
            .decodes
            .iter()
            .filter(|decode| now.is_some_and(|now| decode.activations < now.activations))
            .collect();
        smaller.sort_by_key(|decode| std::cmp::Reverse(decode.activations));
        Ok(Self {
            memory,
            batch: plan.pictures_a_call.min(most).max(1) as usize,
            tiling: plan.decode,
            smaller: smaller.into_iter().map(|decode| decode.tiling).collect(),
        })
    }

    /// What to try when it was too much: half the batch, then smaller tiles, then one part of the model at a time. `None`
    /// when there is nothing left to give up.
    pub fn step_down(&self) -> Option<Self> {
        if self.batch > 1 {
            return Some(Self { batch: self.batch / 2, ..self.clone() });
        }
        if let Some((tiling, smaller)) = self.smaller.split_first() {
            return Some(Self { tiling: *tiling, smaller: smaller.to_vec(), ..self.clone() });
        }
        let next = Self { memory: Memory::Sequential, ..self.clone() };
        (self.memory == Memory::Resident).then_some(next)
    }
}

impl std::fmt::Display for Fit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = match self.memory {
            Memory::Resident => "the whole model",
            Memory::Sequential => "one part of the model",
        };
        write!(f, "{parts} in memory, {} at once, decoded in ", self.batch)?;
        match self.tiling {
            Tiling::Whole => f.write_str("one piece"),
            Tiling::Bands(None) => f.write_str("bands"),
            Tiling::Bands(Some(rows)) => write!(f, "bands of {rows} rows"),
            Tiling::Tiles(side) => write!(f, "tiles of {side} pixels"),
            Tiling::Blend { tile, stride } => write!(f, "blended tiles of {tile} pixels every {stride}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;

    fn fit(model: &str, side: u32, memory: u64) -> Fit {
        let (precision, mode) = (Precision::Bf16, Memory::Resident);
        let request = Request {
            size: (side, side),
            precision,
            mode,
            tokens: 300,
            pictures: 16,
            memory,
            reserve: 1 << 29,
        };
        Fit::of(&Model::named(model).unwrap(), &request).unwrap()
    }

    #[test]
    fn memory_decides_how_much_is_done_at_once() {
        let large = fit("Sana_1600M_1024px", 1024, 80_000_000_000);
        assert_eq!((large.memory, large.batch, large.tiling), (Memory::Resident, 16, Tiling::Bands(None)));
        // What a picture of 4096x4096 takes fills a device by itself.
        assert_eq!(fit("Sana_1600M_4Kpx_BF16", 4096, 80_000_000_000).batch, 1);
        let small = fit("Sana_1600M_4Kpx_BF16", 4096, 8_000_000_000);
        assert_eq!((small.memory, small.batch), (Memory::Sequential, 1));
        let middle = fit("Sana_1600M_1024px", 1024, 10_500_000_000);
        assert_eq!(middle.memory, Memory::Resident);
        assert!(middle.batch < 16, "{middle}");
    }

    #[test]
    fn less_and_less_is_tried_to_the_end() {
        let mut now = fit("Sana_1600M_1024px", 1024, 80_000_000_000);
        let mut seen = vec![now.clone()];
        while let Some(next) = now.step_down() {
            let (batch, tiling, memory) =
                (next.batch != now.batch, next.tiling != now.tiling, next.memory != now.memory);
            assert_eq!(
                [batch, tiling, memory].iter().filter(|changed| **changed).count(),
                1,
                "{now}; {next}"
            );
            // The batch first, the whole model last.
            assert!(!tiling || now.batch == 1);
            assert!(!memory || now.smaller.is_empty());
            seen.push(next.clone());
            now = next;
        }
        assert_eq!((now.memory, now.batch), (Memory::Sequential, 1));
        assert_eq!(seen.iter().map(|fit| fit.batch).take(5).collect::<Vec<_>>(), [16, 8, 4, 2, 1]);
        assert!(seen.len() >= 6, "{seen:?}");
    }
}
