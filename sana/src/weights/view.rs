//! Tensors that are used where they lie, without a copy in f32.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use super::file::{Kind, WeightFile};
use super::header::Entry;
use crate::Error;
use crate::error::short;

/// A tensor as it is stored, straight from the mapped file.
///
/// Its pages are fetched when it is made and given back when it is dropped. A file that is cut short while a view is in
/// use is a fatal signal, so a view should live no longer than it takes to copy, pack or upload the tensor.
#[derive(Debug)]
pub struct TensorView<'a> {
    file: &'a WeightFile,
    entry: &'a Entry,
    kind: Kind,
}

impl<'a> TensorView<'a> {
    pub(super) fn new(file: &'a WeightFile, name: &str, entry: &'a Entry) -> Result<Self, Error> {
        let kind = file.kind(name, entry)?;
        file.check()?;
        file.fetch(&file.range(entry))?;
        Ok(Self { file, entry, kind })
    }

    /// The type that it is stored in: f32, f16, bf16 or f64.
    pub fn dtype(&self) -> DType {
        match self.kind {
            Kind::F32 => DType::F32,
            Kind::F16 => DType::F16,
            Kind::BF16 => DType::BF16,
            Kind::F64 => DType::F64,
        }
    }

    /// Its dimensions.
    pub fn shape(&self) -> &'a [usize] {
        &self.entry.shape
    }

    /// Its values row by row, each in little-endian bytes and at no particular alignment.
    pub fn bytes(&self) -> &[u8] {
        self.file.slice(self.file.range(self.entry))
    }

    /// Its values row by row.
    pub fn values(&self) -> Values<'_> {
        let bytes = self.bytes();
        Values(match self.kind {
            Kind::F32 => Words::F32(bytes.as_chunks().0),
            Kind::F16 => Words::F16(bytes.as_chunks().0),
            Kind::BF16 => Words::BF16(bytes.as_chunks().0),
            Kind::F64 => Words::F64(bytes.as_chunks().0),
        })
    }

    /// Whether the file is still whole. Ask after the last use: the bytes of a page that was cut read as zeros.
    pub fn check(&self) -> Result<(), Error> {
        self.file.check()
    }
}

impl Drop for TensorView<'_> {
    fn drop(&mut self) {
        self.file.release(self.file.range(self.entry));
    }
}

/// The values of a [`TensorView`].
#[derive(Clone, Copy, Debug)]
pub struct Values<'a>(Words<'a>);

#[derive(Clone, Copy, Debug)]
enum Words<'a> {
    F32(&'a [[u8; 4]]),
    F16(&'a [[u8; 2]]),
    BF16(&'a [[u8; 2]]),
    F64(&'a [[u8; 8]]),
}

impl Values<'_> {
    /// Value `index` of all, as f32; of an f64 the nearest. Panics behind the last.
    #[inline]
    pub fn get(&self, index: usize) -> f32 {
        match self.0 {
            Words::F32(words) => f32::from_le_bytes(words[index]),
            Words::F16(words) => f16::from_le_bytes(words[index]).to_f32(),
            Words::BF16(words) => bf16::from_le_bytes(words[index]).to_f32(),
            Words::F64(words) => f64::from_le_bytes(words[index]) as f32,
        }
    }
}

/// A matrix of which single rows are read from the file when they are asked for, such as a table of embeddings. Nothing
/// of it is held in memory; it keeps the file open.
#[derive(Debug)]
pub struct RowTable {
    file: Arc<WeightFile>,
    name: String,
    entry: Entry,
    kind: Kind,
    rows: usize,
    width: usize,
}

impl RowTable {
    /// `entry` is of the shape `[rows, width]`.
    pub(super) fn new(
        file: Arc<WeightFile>,
        name: &str,
        entry: &Entry,
        [rows, width]: [usize; 2],
    ) -> Result<Self, Error> {
        let kind = file.kind(name, entry)?;
        Ok(Self { name: name.to_owned(), entry: entry.clone(), kind, rows, width, file })
    }

    /// Rows of the table.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The rows of these numbers, `[numbers, width]` in f32 on the CPU.
    pub fn gather(&self, numbers: &[u32]) -> Result<Tensor, Error> {
        self.file.check()?;
        let all = self.file.range(&self.entry);
        let bytes = self.width * self.kind.bytes();
        let mut values = vec![0.0; numbers.len() * self.width];
        // A table without columns has no bytes to read.
        for (&number, out) in numbers.iter().zip(values.chunks_exact_mut(self.width.max(1))) {
            let number = number as usize;
            if number >= self.rows {
                return Err(Error::Model(format!(
                    "row {number} is outside the {} rows of tensor {} in {}",
                    self.rows,
                    short(&self.name),
                    self.file.path().display()
                )));
            }
            let first = all.start + number * bytes;
            self.file.fetch(&(first..first + bytes))?;
            self.kind.decode(self.file.slice(first..first + bytes), out);
        }
        self.file.release(all);
        self.file.check()?;
        Ok(Tensor::from_vec(values, (numbers.len(), self.width), &Device::Cpu)?)
    }
}
