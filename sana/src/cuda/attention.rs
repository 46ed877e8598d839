//! Linear attention and softmax cross-attention.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::table::{ADD_SUMS, KEY_VALUE_SUMS, LINEAR_ATTEND, SOFTMAX};
use super::{Launch, WARP};

/// Channels of a group at most: `MAX_WIDTH` in `attention.cu`.
const MAX_WIDTH: usize = 32;
/// Threads of a block that adds up.
const THREADS: usize = 256;
/// Tokens of a block that attends: eight times eight.
const TOKENS: usize = 64;
/// Tokens in one chunk of the transformer's sums.
const CHUNK: usize = 64;

/// The sums over tokens of `v' k^T` with a 1 appended to `v`, for each sequence and group. A chunk's sum runs in f32, the
/// total in f64.
#[derive(Debug)]
pub(crate) struct Sums {
    /// `[sequences, groups * width * (width + 1)]`.
    total: Tensor,
    groups: usize,
    width: usize,
}

impl Sums {
    /// Empty sums.
    pub fn new(sequences: usize, groups: usize, width: usize, device: &Device) -> Result<Self> {
        if width == 0 || width > MAX_WIDTH {
            bail!("linear attention: heads of {width} channels; CUDA kernels take at most {MAX_WIDTH}");
        }
        let total = Tensor::zeros((sequences, groups * width * (width + 1)), DType::F64, device)?;
        Ok(Self { total, groups, width })
    }

    /// Adds tokens in chunks of `chunk`. Row `t` of `keys` and `values` (`[sequences * tokens, channels]`, equal shapes)
    /// has group `g` at `g * group`, its keys and its values at the offsets from there.
    pub fn add(
        &self,
        (keys, values): (&Tensor, &Tensor),
        chunk: usize,
        group: usize,
        (key_offset, value_offset): (usize, usize),
    ) -> Result<()> {
        let (rows, stride) = keys.dims2()?;
        let (sequences, size) = self.total.dims2()?;
        let last = (self.groups - 1) * group + key_offset.max(value_offset) + self.width;
        if values.dims() != keys.dims() || !rows.is_multiple_of(sequences) || last > stride || chunk == 0 {
            bail!("linear attention: keys {:?} and values {:?} do not fit", keys.dims(), values.dims());
        }
        let tokens = rows / sequences;
        let chunks = tokens.div_ceil(chunk);
        let partial =
            Launch::new(&KEY_VALUE_SUMS, keys.dtype(), [chunks, self.groups, sequences], [THREADS, 1])
                .tensor(keys)
                .tensor(values)
                .target()
                .ints([tokens, chunk, stride, group, key_offset, value_offset, self.width])
                .make((sequences, chunks, size), DType::F32)?;
        Launch::new(&ADD_SUMS, keys.dtype(), [size.div_ceil(THREADS), sequences, 1], [THREADS, 1])
            .target()
            .tensor(&partial)
            .ints([chunks, size])
            .change(&self.total)
    }

    /// Attention of queries `[sequences * tokens, channels]`, groups at `g * width`, to the same shape.
    pub fn attend(&self, queries: &Tensor) -> Result<Tensor> {
        let (rows, stride) = queries.dims2()?;
        let sequences = self.total.dim(0)?;
        if stride != self.groups * self.width || !rows.is_multiple_of(sequences) {
            bail!("linear attention: queries {:?} do not fit", queries.dims());
        }
        let tokens = rows / sequences;
        let grid = [tokens.div_ceil(TOKENS), self.groups, sequences];
        Launch::new(&LINEAR_ATTEND, queries.dtype(), grid, [WARP, 8])
            .tensor(queries)
            .tensor(&self.total)
            .target()
            .ints([tokens, stride, self.width, self.width])
            .make(queries.shape(), queries.dtype())
    }
}

/// Linear self-attention of each sequence: `[sequences * tokens, heads * width]` each, to the same shape.
pub(crate) fn token_attention(
    [queries, keys, values]: [&Tensor; 3],
    sequences: usize,
    heads: usize,
    width: usize,
) -> Result<Tensor> {
    let sums = Sums::new(sequences, heads, width, queries.device())?;
    sums.add((keys, values), CHUNK, width, (0, 0))?;
    sums.attend(queries)
}

/// Keys and values of one text for one block's cross-attention.
#[derive(Debug)]
pub(crate) struct CrossText {
    /// `[heads, tokens, width]`.
    keys: Tensor,
    values: Tensor,
}

impl CrossText {
    /// `keys` and `values` are `[tokens, heads * width]`, without padding.
    pub fn new(keys: &Tensor, values: &Tensor, heads: usize, width: usize) -> Result<Self> {
        Ok(Self { keys: by_head(keys, heads, width)?, values: by_head(values, heads, width)? })
    }

    /// `softmax(q k^T / sqrt(width)) v` for each head; `queries` is `[n, heads * width]`, as is the result.
    pub fn attend(&self, queries: &Tensor) -> Result<Tensor> {
        let (heads, tokens, width) = self.keys.dims3()?;
        let (count, channels) = queries.dims2()?;
        if channels != heads * width {
            bail!("cross-attention: queries {:?} do not fit {heads} heads of {width}", queries.dims());
        }
        let scores = by_head(queries, heads, width)?.matmul(&self.keys.t()?)?;
        let rows = heads * count;
        Launch::over_rows(&SOFTMAX, scores.dtype(), rows)
            .target()
            .ints([rows, tokens])
            .float((width as f32).powf(-0.5))
            .change(&scores)?;
        scores.matmul(&self.values)?.transpose(0, 1)?.contiguous()?.reshape((count, channels))
    }
}

/// `[n, heads * width]` as `[heads, n, width]`.
fn by_head(x: &Tensor, heads: usize, width: usize) -> Result<Tensor> {
    x.reshape(((), heads, width))?.transpose(0, 1)?.contiguous()
}
