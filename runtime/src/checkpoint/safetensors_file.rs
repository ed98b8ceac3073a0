//! One safetensors file, mapped or in memory: reads its header, and checks everything in the header against the file.
//!
//! The format's types come from the `safetensors` crate. Its whole-file reader is not used: it keeps the last
//! of two tensors of one name, and its errors contain neither the tensor's name nor the numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::content::{self, Content};
use crate::{Error, Result};

/// Bytes of the little-endian header length that a file starts with.
const LENGTH_BYTES: usize = 8;
/// The format's own bound on the header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A file and the positions of its tensors.
#[derive(Debug)]
pub(super) struct TensorFile {
    pub(super) path: PathBuf,
    content: Content,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    data_start: usize,
}

impl TensorFile {
    pub(super) fn open(path: &Path) -> Result<TensorFile> {
        TensorFile::with_content(path, content::map(path, "a safetensors file")?)
    }

    /// Reads a whole file, which may change afterwards.
    pub(super) fn read(path: &Path) -> Result<TensorFile> {
        TensorFile::with_content(path, content::read(path, "a safetensors file")?)
    }

    /// Reads a file that is not on disk; errors show `name` as its path.
    pub(super) fn from_bytes(name: &Path, bytes: Vec<u8>) -> Result<TensorFile> {
        TensorFile::with_content(name, Content::InMemory(bytes))
    }

    fn with_content(path: &Path, content: Content) -> Result<TensorFile> {
        let problem = |problem| Error::Checkpoint { path: path.to_owned(), problem };
        let (data_start, tensors) = read_header(&content).map_err(problem)?;
        Ok(TensorFile { path: path.to_owned(), content, tensors, data_start })
    }

    /// The position of a tensor in this file.
    pub(super) fn range(&self, info: &TensorInfo) -> Range<usize> {
        let (start, end) = info.data_offsets;
        self.data_start + start..self.data_start + end
    }

    /// Lets the system take back the memory of bytes that were read once.
    pub(super) fn release(&self, range: Range<usize>) {
        if let Content::Mapped(map) = &self.content {
            map.release(range);
        }
    }

    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.content[range]
    }
}

/// The header of a whole file: where the data section starts, and every tensor, with offsets into that section.
/// The error is reported after the file's name.
pub(super) fn read_header(
    file: &[u8],
) -> std::result::Result<(usize, BTreeMap<String, TensorInfo>), String> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!(
            "truncated: {} bytes, expected at least the {LENGTH_BYTES} of a safetensors header length",
            file.len()
        ));
    };
    let claimed = u64::from_le_bytes(*length);
    let header = usize::try_from(claimed).ok().filter(|_| claimed <= MAX_HEADER_BYTES);
    let Some((header, data)) = header.and_then(|header| rest.split_at_checked(header)) else {
        return Err(format!(
            "claims a header of {claimed} bytes, but {} follow: truncated, or not a safetensors file",
            rest.len()
        ));
    };
    let Header(tensors) = serde_json::from_slice(header)
        .map_err(|error| format!("its safetensors header cannot be read: {error}"))?;
    check_offsets(&tensors, data.len())?;
    Ok((LENGTH_BYTES + header.len(), tensors))
}

/// Checks that each tensor lies in the file and has the length of its shape, and that together they fill the data
/// section.
fn check_offsets(
    tensors: &BTreeMap<String, TensorInfo>,
    data_bytes: usize,
) -> std::result::Result<(), String> {
    let claims = |name: &str, info: &TensorInfo| {
        let (start, end) = info.data_offsets;
        format!("tensor {name}: claims bytes {start}..{end} of the data")
    };
    for (name, info) in tensors {
        let (start, end) = info.data_offsets;
        let claims = claims(name, info);
        if end > data_bytes {
            return Err(format!("{claims}, but the file holds {data_bytes}: truncated or corrupt"));
        }
        let expected = stored_bytes(info);
        if expected.is_none() || end.checked_sub(start) != expected {
            let bytes =
                expected.map_or("more than fits a number".to_owned(), |bytes| bytes.to_string());
            return Err(format!("{claims}, but {:?} {:?} takes {bytes}", info.dtype, info.shape));
        }
    }
    let mut in_order: Vec<_> = tensors.iter().collect();
    in_order.sort_by_key(|(_, info)| info.data_offsets);
    let (mut filled, mut previous) = (0, "the start of the data");
    for (name, info) in in_order {
        let (start, end) = info.data_offsets;
        if start != filled {
            let relation = if start < filled { "overlaps" } else { "leaves a gap behind" };
            let claims = claims(name, info);
            return Err(format!(
                "{claims}, which {relation} {previous} (expected start: {filled})"
            ));
        }
        (filled, previous) = (end, name);
    }
    if filled != data_bytes {
        return Err(format!(
            "holds {data_bytes} bytes of data, but its tensors end at {filled}: corrupt, or not one file"
        ));
    }
    Ok(())
}

/// Bytes that a tensor's shape and type take; `None` if that overflows or is not a whole number.
fn stored_bytes(info: &TensorInfo) -> Option<usize> {
    let elements =
        info.shape.iter().try_fold(1_usize, |elements, &axis| elements.checked_mul(axis))?;
    let bits = elements.checked_mul(info.dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// The header's tensors; two of the same name are an error.
struct Header(BTreeMap<String, TensorInfo>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value: serde_json::Value = map.next_value()?;
            let info = TensorInfo::deserialize(value)
                .map_err(|error| A::Error::custom(format!("tensor {name}: {error}")))?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(A::Error::custom(format!("tensor {name}: stored twice")));
            }
        }
        Ok(Header(tensors))
    }
}
