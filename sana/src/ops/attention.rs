//! Attention over tensors.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

use super::{by_kernels, count, made, to_vec, values};
use crate::cpu::attention::{CrossAttention, Heads, KeyValueSum};
use crate::cuda;

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

impl TokenAttention {
    /// Attention of the queries to the keys and values.
    pub fn forward(&self, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
        if by_kernels(queries) {
            return cuda::token_attention([queries, keys, values], self.sequences, self.heads, self.width);
        }
        queries.apply_op3_no_bwd(keys, values, self)
    }
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
pub struct CrossText(Keys);

#[derive(Debug)]
enum Keys {
    Cpu(CrossAttention),
    Device(cuda::CrossText),
}

impl CrossText {
    /// `keys` and `values` are `[tokens, heads * width]`, without padding.
    pub fn new(keys: &Tensor, values: &Tensor, heads: usize, width: usize) -> Result<Self> {
        Ok(Self(match by_kernels(keys) {
            true => Keys::Device(cuda::CrossText::new(keys, values, heads, width)?),
            false => Keys::Cpu(CrossAttention::new(&to_vec(keys)?, &to_vec(values)?, heads, width)),
        }))
    }
}

/// Cross-attention of latent tokens, each sequence to its own text: queries `[sequences * tokens, heads * width]` to
/// the same shape. There is one text for each sequence, all of them where the queries are.
pub fn cross_attention(queries: &Tensor, texts: &[&CrossText]) -> Result<Tensor> {
    let (rows, _) = queries.dims2()?;
    if texts.is_empty() || !rows.is_multiple_of(texts.len()) {
        bail!("cross-attention: {:?} are no tokens for {} texts", queries.dims(), texts.len());
    }
    if by_kernels(queries) {
        let tokens = rows / texts.len();
        let parts = texts.iter().enumerate().map(|(index, text)| match &text.0 {
            Keys::Device(text) => text.attend(&queries.narrow(0, index * tokens, tokens)?),
            Keys::Cpu(_) => bail!("cross-attention: the text is on the CPU, the queries are not"),
        });
        return Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0);
    }
    let texts = texts.iter().map(|text| match &text.0 {
        Keys::Cpu(text) => Ok(text),
        Keys::Device(_) => bail!("cross-attention: the text is on a device, the queries are not"),
    });
    queries.apply_op1_no_bwd(&CrossTexts(texts.collect::<Result<_>>()?))
}

/// On the CPU.
struct CrossTexts<'a>(Vec<&'a CrossAttention>);

impl CustomOp1 for CrossTexts<'_> {
    fn name(&self) -> &'static str {
        "cross-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let queries = values(self.name(), storage, layout)?;
        let mut out = vec![0.0; queries.len()];
        let length = queries.len() / self.0.len();
        let parts = queries.chunks_exact(length).zip(out.chunks_exact_mut(length));
        for (text, (queries, out)) in self.0.iter().zip(parts) {
            text.attend(queries, out);
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
    /// On a device: the same of all scales as one, from the first rows on.
    there: Option<cuda::Sums>,
}

impl ScaleSums {
    /// For `scales` scales of `channels` channels in groups of `width`.
    pub fn new(scales: usize, channels: usize, width: usize) -> Self {
        let scales = vec![KeyValueSum::new(channels / width, width); scales];
        Self { channels, width, scales, there: None }
    }

    /// Adds rows of keys and values.
    pub fn add(&mut self, rows: &Tensor) -> Result<()> {
        let (height, width, channels) = rows.dims3()?;
        if channels != self.scales.len() * 2 * self.channels {
            bail!("linear-attention: {channels} channels of keys and values do not fit");
        }
        if by_kernels(rows) {
            let groups = self.scales.len() * self.channels / self.width;
            let sums = match self.there.take() {
                Some(sums) => sums,
                None => cuda::Sums::new(1, groups, self.width, rows.device())?,
            };
            let pixels = rows.contiguous()?.flatten(0, 1)?;
            // A row of the picture is one chunk, as below.
            sums.add((&pixels, &pixels), width, 2 * self.width, (0, self.width))?;
            self.there = Some(sums);
            return Ok(());
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

    /// Attention of rows of queries to all that was added.
    pub fn attend(&self, queries: &Tensor) -> Result<Tensor> {
        match &self.there {
            Some(sums) => sums.attend(&queries.contiguous()?.flatten(0, 1)?)?.reshape(queries.shape()),
            None => queries.apply_op1_no_bwd(self),
        }
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
