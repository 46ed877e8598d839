//! One safetensors file, mapped into memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::{Mmap, MmapOptions};
use rayon::prelude::*;
use safetensors::Dtype;

use super::header::{self, Entry};
use crate::Error;
use crate::error::short;

/// Headers of real checkpoints are below 1 MB; what is read from one takes a few times its bytes.
const MAX_HEADER: u64 = 1 << 24;
/// Values that one thread converts at a time: large beside a system call, small beside the memory of the process.
const CHUNK: usize = 1 << 19;

/// An open file whose header was checked.
///
/// Pages of the map count as memory of the process while they are used, so they are given back after every
/// read; they stay in the system's cache. A read first asks the system to fetch its pages, which ends in an error
/// where the file no longer reaches. What is left is a file that is cut short while a chunk of it is converted:
/// that is a fatal signal, as with every map.
#[derive(Debug)]
pub(super) struct WeightFile {
    path: PathBuf,
    file: File,
    map: Mmap,
    /// Bytes before the tensors.
    header: usize,
}

impl WeightFile {
    /// Reads the header and checks it against the length of the file.
    pub(super) fn open(path: &Path) -> Result<(Self, BTreeMap<String, Entry>), Error> {
        let broken = |what: String| {
            Error::Model(format!("weights file {} is broken: {what}; download it again", path.display()))
        };
        let mut file = crate::files::open(path)
            .map_err(|e| Error::Model(format!("open weights file {}: {e}", path.display())))?;
        let bytes = file.metadata().map_err(|e| broken(e.to_string()))?.len();
        if bytes < 8 {
            return Err(broken(format!("{bytes} bytes are too short for a safetensors file")));
        }
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(|e| broken(e.to_string()))?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > bytes - 8 {
            return Err(broken(format!("its header should have {header_bytes} bytes, the file has {bytes}")));
        }
        if header_bytes > MAX_HEADER {
            return Err(broken(format!(
                "its header has {header_bytes} bytes, at most {MAX_HEADER} are read"
            )));
        }
        let mut json = Vec::new();
        file.by_ref().take(header_bytes).read_to_end(&mut json).map_err(|e| broken(e.to_string()))?;
        let entries = header::parse(&json, bytes - 8 - header_bytes).map_err(broken)?;
        let length = usize::try_from(bytes).map_err(|e| broken(e.to_string()))?;
        // SAFETY: the map is read-only. Its bytes are plain numbers of which any pattern is valid, and whoever
        // changes the file meanwhile gets other weights. For a file that shrinks see the type's description.
        let map = unsafe { MmapOptions::new().len(length).map(&file) }
            .map_err(|e| Error::Model(format!("map weights file {}: {e}", path.display())))?;
        Ok((Self { path: path.to_path_buf(), file, map, header: 8 + header_bytes as usize }, entries))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// Where the bytes of a tensor lie in the map; the header was checked to stay inside.
    pub(super) fn range(&self, entry: &Entry) -> Range<usize> {
        let start = self.header + entry.start as usize;
        start..start + entry.bytes as usize
    }

    /// Bytes of the map.
    pub(super) fn slice(&self, range: Range<usize>) -> &[u8] {
        &self.map[range]
    }

    /// The file still has the length that it was opened with.
    pub(super) fn check(&self) -> Result<(), Error> {
        let bytes = self.file.metadata().map_err(|e| self.failed(&e.to_string()))?.len();
        if bytes == self.bytes() {
            return Ok(());
        }
        Err(self.failed(&format!("it had {} bytes when it was opened and has {bytes} now", self.bytes())))
    }

    /// Fetches pages, so that using them cannot fail.
    pub(super) fn fetch(&self, range: &Range<usize>) -> Result<(), Error> {
        #[cfg(target_os = "linux")]
        if let Err(error) = self.map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len())
            // Before Linux 5.14, where using them fetches them.
            && error.raw_os_error() != Some(libc::EINVAL)
        {
            return Err(self.failed(&format!("fetch bytes {}..{}: {error}", range.start, range.end)));
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
        Ok(())
    }

    /// Gives pages back to the system; who uses them again fetches them again.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            // SAFETY: the map is a read-only one of a file, so that a page given back is read anew with the same bytes,
            // also for another thread that is reading it now.
            let given = unsafe {
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
            debug_assert!(given.is_ok(), "{given:?}");
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// The values of a tensor, converted on all threads when it is large.
    pub(super) fn read(&self, name: &str, entry: &Entry) -> Result<Vec<f32>, Error> {
        let kind = self.kind(name, entry)?;
        self.check()?;
        let start = self.range(entry).start;
        let mut values = vec![0.0; entry.bytes as usize / kind.bytes()];
        let convert = |(index, out): (usize, &mut [f32])| {
            let first = start + index * CHUNK * kind.bytes();
            let range = first..first + out.len() * kind.bytes();
            self.fetch(&range)?;
            kind.decode(&self.map[range.clone()], out);
            self.release(range);
            Ok::<_, Error>(())
        };
        if values.len() > CHUNK {
            values.par_chunks_mut(CHUNK).enumerate().try_for_each(convert)?;
        } else {
            convert((0, &mut values))?;
        }
        self.check()?;
        Ok(values)
    }

    /// How the values of a tensor are written.
    pub(super) fn kind(&self, name: &str, entry: &Entry) -> Result<Kind, Error> {
        match entry.dtype {
            Dtype::F32 => Ok(Kind::F32),
            Dtype::BF16 => Ok(Kind::BF16),
            Dtype::F16 => Ok(Kind::F16),
            // No released checkpoint needs more than f32.
            Dtype::F64 => Ok(Kind::F64),
            // The list of types is open and none of the others holds weights.
            other => Err(Error::Model(format!(
                "tensor {} in {} has type {other:?}; f32, f16, bf16 and f64 can be read",
                short(name),
                self.path.display()
            ))),
        }
    }

    fn failed(&self, what: &str) -> Error {
        Error::Model(format!(
            "read weights file {}: {what}; leave the files of a loaded model as they are",
            self.path.display()
        ))
    }
}

/// How a number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F16,
    BF16,
    F64,
}

impl Kind {
    /// Bytes of a value.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// The values of `raw` as f32; of an f64 the nearest.
    pub(super) fn decode(self, raw: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => each(raw, out, f32::from_le_bytes),
            Self::F16 => each(raw, out, |b| f16::from_le_bytes(b).to_f32()),
            Self::BF16 => each(raw, out, |b| bf16::from_le_bytes(b).to_f32()),
            Self::F64 => each(raw, out, |b| f64::from_le_bytes(b) as f32),
        }
    }
}

fn each<const N: usize>(raw: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    let (words, _) = raw.as_chunks::<N>();
    out.iter_mut().zip(words).for_each(|(out, word)| *out = value(*word));
}
