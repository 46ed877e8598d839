//! One safetensors file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorInfo};

use crate::Error;

/// Headers of real checkpoints are below 1 MB; the format's own limit is 100 MB.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes read at a time: small beside a tensor, large beside a system call. A multiple of 8.
const CHUNK: usize = 1 << 20;

/// Where and how a tensor is stored.
#[derive(Debug)]
pub(super) struct Entry {
    dtype: Dtype,
    pub(super) shape: Vec<usize>,
    start: u64,
    bytes: u64,
}

/// An open file whose header was checked.
#[derive(Debug)]
pub(super) struct WeightFile {
    /// Seek and read belong together, so readers take turns.
    file: Mutex<File>,
    bytes: u64,
}

impl WeightFile {
    /// Reads the header and checks it against the length of the file.
    pub(super) fn open(path: &Path) -> Result<(Self, BTreeMap<String, Entry>), Error> {
        let broken = |what: String| {
            Error::Model(format!("weights file {} is broken: {what}; download it again", path.display()))
        };
        let mut file = super::open_file(path)?;
        let bytes = file.metadata().map_err(|e| broken(e.to_string()))?.len();
        if bytes < 8 {
            return Err(broken(format!("{bytes} bytes are too short for a safetensors file")));
        }
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(|e| broken(e.to_string()))?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > MAX_HEADER || header_bytes > bytes - 8 {
            return Err(broken(format!("its header should have {header_bytes} bytes, the file has {bytes}")));
        }
        let mut header = Vec::new();
        file.by_ref().take(header_bytes).read_to_end(&mut header).map_err(|e| broken(e.to_string()))?;
        let mut header: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&header).map_err(|e| broken(format!("read header: {e}")))?;
        header.remove("__metadata__");

        let data = bytes - 8 - header_bytes;
        let mut entries = BTreeMap::new();
        let mut needed = 0;
        for (name, value) in header {
            let info: TensorInfo =
                serde_json::from_value(value).map_err(|e| broken(format!("tensor {name}: {e}")))?;
            let (start, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
            let bits =
                info.shape.iter().try_fold(info.dtype.bitsize() as u64, |n, &d| n.checked_mul(d as u64));
            if start > end || bits != (end - start).checked_mul(8) {
                return Err(broken(format!(
                    "tensor {name} of shape {:?} and type {:?} does not fit bytes {start}..{end}",
                    info.shape, info.dtype
                )));
            }
            needed = needed.max(end);
            let start = 8 + header_bytes + start;
            let bytes = end - info.data_offsets.0 as u64;
            entries.insert(name, Entry { dtype: info.dtype, shape: info.shape, start, bytes });
        }
        if needed != data {
            return Err(broken(format!(
                "its tensors need {needed} bytes, the file has {data} after the header"
            )));
        }
        Ok((Self { file: Mutex::new(file), bytes }, entries))
    }

    /// Length of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The values of a tensor. Besides the result it needs only one chunk of memory.
    pub(super) fn read_f32(&self, path: &Path, name: &str, entry: &Entry) -> Result<Vec<f32>, Error> {
        let convert: fn(&[u8], &mut Vec<f32>) = match entry.dtype {
            Dtype::F32 => |raw, out| extend(raw, out, f32::from_le_bytes),
            Dtype::BF16 => |raw, out| extend(raw, out, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F16 => |raw, out| extend(raw, out, |b| f16::from_le_bytes(b).to_f32()),
            // The nearest f32; no released checkpoint needs more.
            Dtype::F64 => |raw, out| extend(raw, out, |b| f64::from_le_bytes(b) as f32),
            // The list of types is open and none of the others holds weights.
            other => {
                return Err(Error::Model(format!(
                    "tensor {name} in {} has type {other:?}; f32, f16, bf16 and f64 can be read",
                    path.display()
                )));
            }
        };
        let failed = |e: std::io::Error| {
            Error::Model(format!("read tensor {name} from weights file {}: {e}", path.display()))
        };
        // A panic cannot leave the file in a state that the next seek does not mend.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(entry.start)).map_err(failed)?;
        let mut values = Vec::with_capacity(entry.shape.iter().product());
        let mut chunk = vec![0; CHUNK.min(entry.bytes as usize)];
        let mut left = entry.bytes as usize;
        while left > 0 {
            let part = &mut chunk[..left.min(CHUNK)];
            file.read_exact(part).map_err(failed)?;
            convert(part, &mut values);
            left -= part.len();
        }
        Ok(values)
    }
}

fn extend<const N: usize>(raw: &[u8], out: &mut Vec<f32>, value: impl Fn([u8; N]) -> f32) {
    let (words, _) = raw.as_chunks::<N>();
    out.extend(words.iter().map(|word| value(*word)));
}
