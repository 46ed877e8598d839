//! Matrix product with packed weights: the heart of every linear layer and of every 3x3 convolution.
//!
//! Each value of the result is one chain of fused multiply-adds over the inner dimension, from the bias
//! on and in the order of the weights. The chain does not depend on how the rows are cut into
//! blocks, tiles, batches or threads, so a picture's bytes do not either.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::Isa;
use super::math::Activation;
use super::tile;

/// Inner length of one block: a panel's part of this length stays in the first-level cache.
const BLOCK_K: usize = 128;
/// Bytes of left rows that should stay in the second-level cache while all panels pass.
const BLOCK_BYTES: usize = 1 << 20;
/// Rows that are packed at a time: a cache line of a column.
const PACK_ROWS: usize = 16;
/// Left rows in one block at most.
const BLOCK_ROWS: usize = 240;

/// A weight matrix `[k, n]` in panels of columns: panel by panel, row by row, as the tile kernels read it.
#[derive(Debug)]
pub struct Packed {
    k: usize,
    n: usize,
    isa: Isa,
    data: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Packed {
    /// Packs `weight(k, n)`; `bias` has `n` values.
    pub fn new(
        k: usize,
        n: usize,
        bias: Option<Vec<f32>>,
        weight: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Self {
        let isa = Isa::detect();
        let panel = isa.panel();
        let padded = n.div_ceil(isa.lanes()) * isa.lanes();
        let mut data = vec![0.0; k * padded];
        data.par_chunks_mut(k * panel).enumerate().for_each(|(index, chunk)| {
            let first = index * panel;
            let width = chunk.len() / k;
            // A few rows of a column at a time: weights are stored with the rows of a column together.
            for (part, rows) in chunk.chunks_mut(PACK_ROWS * width).enumerate() {
                for column in 0..width.min(n - first) {
                    for (row, values) in rows.chunks_exact_mut(width).enumerate() {
                        values[column] = weight(part * PACK_ROWS + row, first + column);
                    }
                }
            }
        });
        Self { k, n, isa, data, bias }
    }

    /// Columns: values in a row of the result.
    pub fn columns(&self) -> usize {
        self.n
    }

    /// Inner length.
    pub fn inner(&self) -> usize {
        self.k
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.len() * 4
    }

    /// Columns with those that fill up the last vector.
    pub fn padded(&self) -> usize {
        self.n.div_ceil(self.isa.lanes()) * self.isa.lanes()
    }

    /// The panels: width with filling, first column, columns that count.
    pub fn panels(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let (panel, padded, n) = (self.isa.panel(), self.padded(), self.n);
        (0..padded).step_by(panel).map(move |first| (panel.min(padded - first), first, panel.min(n - first)))
    }

    /// `left` (`count` rows of `inner` values) times the matrix, without its bias, on this thread. The result comes
    /// panel by panel: `[panel][row][width of the panel]`.
    pub fn multiply(&self, left: &[f32], count: usize, sums: &mut [f32]) {
        assert_eq!(sums.len(), count * self.padded(), "the result has another size");
        sums.fill(0.0);
        for (width, first, _) in self.panels() {
            let sums = &mut sums[first * count..][..width * count];
            let weights = &self.data[first * self.k..][..width * self.k];
            for start in (0..self.k).step_by(BLOCK_K) {
                let depth = BLOCK_K.min(self.k - start);
                let left = tile::Left { data: &left[start..], stride: self.k, count, depth };
                tile::accumulate(self.isa, left, &weights[start * width..][..depth * width], width, sums);
            }
        }
    }
}

/// The left matrix: row `m` is the concatenation, over the segments, of `length` values
/// from `data[offset + m * stride]` on. Rows may overlap: this is how a convolution reads its picture.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The values.
    pub data: &'a [f32],
    /// Rows.
    pub count: usize,
    /// Distance of one row to the next.
    pub stride: usize,
    /// Where each segment begins in row 0; at most 3.
    pub segments: &'a [usize],
    /// Values in each segment.
    pub length: usize,
}

/// Where the rows of the result go. They come in lines of `frame` rows, of which the first `kept` count: row `i` of
/// line `y` is written at `offset + y * line + i * step`.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Result rows in a line.
    pub frame: usize,
    /// Those of them that are written.
    pub kept: usize,
    /// Distance of one line to the next in the output.
    pub line: usize,
    /// Distance of one row to the next in the output.
    pub step: usize,
    /// Where the first row goes.
    pub offset: usize,
}

impl Place {
    /// Row after row.
    pub fn rows(step: usize, offset: usize) -> Self {
        Self { frame: usize::MAX, kept: usize::MAX, line: 0, step, offset }
    }
}

/// Writes `activation(rows * packed + bias)`; `place` must give every row its own range of
/// `packed.columns()` values in `out`.
pub fn gemm(rows: Rows<'_>, packed: &Packed, activation: Activation, place: Place, out: &mut [f32]) {
    let Rows { data, count, stride, segments, length } = rows;
    assert_eq!(segments.len() * length, packed.k, "inner lengths differ");
    if count == 0 {
        return;
    }
    let last = segments.iter().max().expect("a left row has a segment") + (count - 1) * stride + length;
    assert!(last <= data.len(), "left rows lie outside their data");

    let distinct = stride.min(packed.k) * segments.len() * 4;
    let block = (BLOCK_BYTES / distinct.max(1)).clamp(48, BLOCK_ROWS).min(count);
    let blocks = count.div_ceil(block);
    let panels = packed.n.div_ceil(packed.isa.panel());
    // Enough tasks for every thread: by rows first, then by panels.
    let wanted = rayon::current_num_threads() * 4;
    let groups = if rayon::current_num_threads() == 1 { 1 } else { wanted.div_ceil(blocks).clamp(1, panels) };
    let group = panels.div_ceil(groups);

    let target = Target::new(out);
    (0..blocks * groups).into_par_iter().for_each_init(Vec::new, |scratch, task| {
        let (first_row, first_panel) = ((task % blocks) * block, (task / blocks) * group);
        let task = Task {
            rows,
            first: first_row,
            count: block.min(count - first_row),
            packed,
            activation,
            place,
            target: &target,
        };
        for panel in first_panel..(first_panel + group).min(panels) {
            task.run(panel, scratch);
        }
    });
}

/// The output, shared by tasks that write disjoint ranges of it.
pub(super) struct Target<'a> {
    out: *mut f32,
    len: usize,
    _borrowed: PhantomData<&'a mut [f32]>,
}

impl<'a> Target<'a> {
    pub fn new(out: &'a mut [f32]) -> Self {
        Self { out: out.as_mut_ptr(), len: out.len(), _borrowed: PhantomData }
    }

    /// Writes `values` from `offset` on.
    ///
    /// # Safety
    ///
    /// No other task may write or read this range as long as the target lives.
    pub unsafe fn write(&self, offset: usize, values: &[f32]) {
        assert!(offset + values.len() <= self.len, "the range lies outside the output");
        // SAFETY: in bounds by the assertion, and the caller's alone.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.out.add(offset), values.len()) };
    }
}

// SAFETY: the pointer is used by `write` alone, whose callers write disjoint ranges.
unsafe impl Sync for Target<'_> {}

/// A block of left rows.
struct Task<'a> {
    rows: Rows<'a>,
    first: usize,
    count: usize,
    packed: &'a Packed,
    activation: Activation,
    place: Place,
    target: &'a Target<'a>,
}

impl Task<'_> {
    /// All of the block's rows times one panel.
    fn run(&self, panel: usize, scratch: &mut Vec<f32>) {
        let Rows { data, stride, segments, length, .. } = self.rows;
        let isa = self.packed.isa;
        let k = self.packed.k;
        let first_column = panel * isa.panel();
        let columns = (self.packed.n - first_column).min(isa.panel());
        let width = columns.div_ceil(isa.lanes()) * isa.lanes();
        let weights = &self.packed.data[first_column * k..][..k * width];

        // The running sums, from the bias on.
        scratch.clear();
        scratch.resize(self.count * width, 0.0);
        if let Some(bias) = &self.packed.bias {
            for sums in scratch.chunks_exact_mut(width) {
                sums[..columns].copy_from_slice(&bias[first_column..][..columns]);
            }
        }
        let mut inner = 0;
        for &segment in segments {
            let mut start = 0;
            while start < length {
                let depth = BLOCK_K.min(length - start);
                let left = &data[segment + self.first * stride + start..];
                tile::accumulate(
                    isa,
                    tile::Left { data: left, stride, count: self.count, depth },
                    &weights[inner * width..][..depth * width],
                    width,
                    scratch,
                );
                start += depth;
                inner += depth;
            }
        }
        if columns < width {
            // Without the lanes that only fill up the last vector.
            for row in 1..self.count {
                scratch.copy_within(row * width..row * width + columns, row * columns);
            }
            scratch.truncate(self.count * columns);
        }
        self.activation.apply(scratch);
        let place = self.place;
        let (mut line, mut at) = (self.first / place.frame, self.first % place.frame);
        for sums in scratch.chunks_exact(columns) {
            let (y, x) = (line, at);
            at += 1;
            if at == place.frame {
                (line, at) = (line + 1, 0);
            }
            if x >= place.kept {
                continue;
            }
            let offset = place.offset + y * place.line + x * place.step + first_column;
            // SAFETY: `place` gives each row its own range, each panel its own columns, and each (row, panel) is
            // visited by one task.
            unsafe { self.target.write(offset, sums) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(i: usize) -> f32 {
        ((i * 7919 % 1013) as f32 - 506.0) / 300.0
    }

    fn product(m: usize, k: usize, n: usize, isa: Isa) -> Vec<f32> {
        let left: Vec<f32> = (0..m * k).map(value).collect();
        let mut packed =
            isa.scoped(|| Packed::new(k, n, Some((0..n).map(value).collect()), |i, j| value(i * n + j + 3)));
        packed.isa = isa;
        let mut out = vec![f32::NAN; m * n];
        let rows = Rows { data: &left, count: m, stride: k, segments: &[0], length: k };
        gemm(rows, &packed, Activation::None, Place::rows(n, 0), &mut out);
        out
    }

    #[test]
    fn equals_a_plain_product() {
        for (m, k, n) in [(1, 1, 1), (5, 130, 17), (13, 257, 100), (250, 300, 64), (7, 64, 3), (29, 128, 145)]
        {
            let got = product(m, k, n, Isa::detect());
            for i in 0..m {
                for j in 0..n {
                    let want = (0..k).fold(f64::from(value(j)), |sum, l| {
                        sum + f64::from(value(i * k + l)) * f64::from(value(l * n + j + 3))
                    });
                    // A chain of k roundings of sums of this size.
                    let bound = 1e-6 * (k as f64).sqrt() * 4.0;
                    assert!((f64::from(got[i * n + j]) - want).abs() < bound, "{m} {k} {n} at {i},{j}");
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for (m, k, n) in [(13, 257, 100), (29, 128, 145), (6, 40, 8)] {
            let want = product(m, k, n, Isa::detect());
            for isa in Isa::available() {
                assert_eq!(product(m, k, n, isa), want, "{isa:?}");
            }
        }
    }

    #[test]
    fn rows_do_not_depend_on_their_neighbours() {
        let (k, n) = (200, 70);
        let whole = product(101, k, n, Isa::detect());
        for m in 1..40 {
            assert_eq!(product(m, k, n, Isa::detect()), whole[..m * n]);
        }
    }
}
