//! The header of a safetensors file: names, types, shapes and places of its tensors.

use std::collections::BTreeMap;
use std::fmt;

use safetensors::Dtype;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::error::short;

/// Where and how a tensor is stored.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// First byte, counted from the end of the header.
    pub(super) start: u64,
    /// Bytes.
    pub(super) bytes: u64,
}

/// Reads a header and checks that its tensors fill the `data` bytes behind it, each byte once.
pub(super) fn parse(json: &[u8], data: u64) -> Result<BTreeMap<String, Entry>, String> {
    let Header(infos) = serde_json::from_slice(json).map_err(|e| format!("read header: {}", short(e)))?;
    let mut entries = BTreeMap::new();
    let mut spans = Vec::with_capacity(infos.len());
    for (name, Info { dtype, shape, data_offsets: (start, end) }) in infos {
        let bytes = size(&shape, dtype);
        if bytes.is_none() || end.checked_sub(start) != bytes {
            return Err(format!(
                "tensor {} of shape {} and type {dtype:?} does not fit bytes {start}..{end}",
                short(&name),
                short(format!("{shape:?}")),
            ));
        }
        spans.push((start, end));
        entries.insert(name, Entry { dtype, shape, start, bytes: end - start });
    }
    spans.sort_unstable();
    let mut filled = 0;
    for (start, end) in spans {
        if start != filled {
            let what = if start < filled { "overlap" } else { "leave a gap" };
            return Err(format!("its tensors {what} at byte {start} of the data"));
        }
        filled = end;
    }
    if filled != data {
        return Err(format!("its tensors need {filled} bytes, the file has {data} after the header"));
    }
    Ok(entries)
}

/// Bytes of a tensor. Nothing when they or its element count cannot be told, also beside a dimension of 0, so that
/// products of dimensions need no care later.
fn size(shape: &[usize], dtype: Dtype) -> Option<u64> {
    let bits = dtype.bitsize() as u64;
    let most = shape.iter().try_fold(bits, |n, &d| n.checked_mul((d as u64).max(1)))?;
    let bits = if shape.contains(&0) { 0 } else { most };
    (bits % 8 == 0 && isize::try_from(most).is_ok()).then_some(bits / 8)
}

/// Tensors by name; a name that stands twice is an error.
struct Header(BTreeMap<String, Info>);

#[derive(serde::Deserialize)]
struct Info {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut infos = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let info = map
                .next_value()
                .map_err(|e| A::Error::custom(format!("tensor {}: {}", short(&name), short(e))))?;
            if infos.contains_key(&name) {
                return Err(A::Error::custom(format!("tensor {} stands in it twice", short(&name))));
            }
            infos.insert(name, info);
        }
        Ok(Header(infos))
    }
}
