//! Attention over tensors.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

use super::{count, made, to_vec, values};
use crate::cpu::attention::{CrossAttention, Heads, KeyValueSum};

/// Tokens in one chunk of the transformer's sums.
const CHUNK: usize = 64;

/// The transformer's linear self-attention: queries, keys and values `[sequences * tokens, heads * width]` to the same
/// shape.
#[derive(Clone, Copy, Debug)]
pub struct TokenAttention {
    /// Sequences; each attends to itself.
    pub sequences: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub width: usize,
}

impl CustomOp3 for TokenAttention {
    fn name(&self) -> &'static str {
        "linear-attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, channels) = l1.shape().dims2()?;
        let fits = channels == self.heads * self.width && rows.is_multiple_of(self.sequences);
        if !fits || l2.dims() != l1.dims() || l3.dims() != l1.dims() {
            bail!("linear-attention: shapes {:?}, {:?}, {:?} do not fit", l1.dims(), l2.dims(), l3.dims());
        }
        let name = self.name();
        let (queries, keys, vals) = (values(name, s1, l1)?, values(name, s2, l2)?, values(name, s3, l3)?);
        let tokens = rows / self.sequences;
        let length = tokens * channels;
        let mut out = vec![0.0; rows * channels];
        for (sequence, out) in out.chunks_exact_mut(length).enumerate() {
            let part = sequence * length..(sequence + 1) * length;
            let [queries, keys, vals] = [queries, keys, vals].map(|all| Heads {
                data: &all[part.clone()],
                stride: channels,
                group: self.width,
                offset: 0,
            });
            let mut sums = KeyValueSum::new(self.heads, self.width);
            sums.add(tokens, CHUNK, keys, vals);
            sums.attend(tokens, queries, out, channels, 0);
        }
        made(out, (rows, channels))
    }
}

/// Keys and values of one text, ready for cross-attention.
#[derive(Debug)]
pub struct CrossText {
    packed: CrossAttention,
}

impl CrossText {
    /// `keys` and `values` are `[tokens, heads * width]`, without padding.
    pub fn new(keys: &Tensor, values: &Tensor, heads: usize, width: usize) -> Result<Self> {
        Ok(Self { packed: CrossAttention::new(&to_vec(keys)?, &to_vec(values)?, heads, width) })
    }
}

/// Cross-attention of latent tokens, each sequence to its own text: queries `[sequences * tokens, heads * width]` to
/// the same shape.
#[derive(Debug)]
pub struct CrossTexts<'a> {
    /// One for each sequence.
    pub texts: &'a [&'a CrossText],
}

impl CustomOp1 for CrossTexts<'_> {
    fn name(&self) -> &'static str {
        "cross-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let queries = values(self.name(), storage, layout)?;
        let mut out = vec![0.0; queries.len()];
        let length = queries.len() / self.texts.len();
        let parts = queries.chunks_exact(length).zip(out.chunks_exact_mut(length));
        for (text, (queries, out)) in self.texts.iter().zip(parts) {
            text.packed.attend(queries, out);
        }
        made(out, layout.shape().clone())
    }
}

/// DC-AE's linear attention over a whole picture whose rows arrive one after the other: first all keys and
/// values are added, then the queries attend.
///
/// Keys and values are `[rows, width, scales * 2 c]`: for each scale and group its keys, then its values.
/// Queries and results are `[rows, width, scales * c]`.
#[derive(Debug)]
pub struct ScaleSums {
    channels: usize,
    width: usize,
    scales: Vec<KeyValueSum>,
}

impl ScaleSums {
    /// For `scales` scales of `channels` channels in groups of `width`.
    pub fn new(scales: usize, channels: usize, width: usize) -> Self {
        Self { channels, width, scales: vec![KeyValueSum::new(channels / width, width); scales] }
    }

    /// Adds rows of keys and values.
    pub fn add(&mut self, rows: &Tensor) -> Result<()> {
        let (height, width, channels) = rows.dims3()?;
        if channels != self.scales.len() * 2 * self.channels {
            bail!("linear-attention: {channels} channels of keys and values do not fit");
        }
        let (storage, layout) = rows.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            bail!("linear-attention: the tensor is not on the CPU")
        };
        let data = values("linear-attention", storage, layout)?;
        count::add(height * width * self.scales.len() * self.channels, self.width + 1);
        for (scale, sums) in self.scales.iter_mut().enumerate() {
            let keys =
                Heads { data, stride: channels, group: 2 * self.width, offset: scale * 2 * self.channels };
            let vals = Heads { offset: keys.offset + self.width, ..keys };
            // One chunk for each row of the picture: the same sums in bands of any height.
            sums.add(height * width, width, keys, vals);
        }
        Ok(())
    }
}

impl CustomOp1 for ScaleSums {
    fn name(&self) -> &'static str {
        "linear-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let data = values(self.name(), storage, layout)?;
        let (rows, width, channels) = layout.shape().dims3()?;
        if channels != self.scales.len() * self.channels {
            bail!("linear-attention: {channels} channels of queries do not fit");
        }
        count::add(rows * width * channels, self.width + 1);
        let mut out = vec![0.0; data.len()];
        for (scale, sums) in self.scales.iter().enumerate() {
            let queries = Heads { data, stride: channels, group: self.width, offset: scale * self.channels };
            sums.attend(rows * width, queries, &mut out, channels, scale * self.channels);
        }
        made(out, (rows, width, channels))
    }
}
