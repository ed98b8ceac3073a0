//! The header of one GGUF file (version 2 or 3, little-endian): metadata and the positions of tensors, every length and
//! offset checked against the file. Nothing is allocated for a count that the file only claims.
//!
//! The format is described in ggml's documents.

use std::collections::BTreeMap;
use std::ops::Range;

use super::types::{self, BlockType};

/// A header is never longer; the published files' take 12 MB, nearly all of it the tokenizer.
const MAX_HEADER_BYTES: usize = 256 << 20;
/// Entries of each kind; published files have 50 and 700.
const MAX_ENTRIES: u64 = 1 << 16;
/// Axes of a tensor (`GGML_MAX_DIMS`).
const MAX_AXES: u32 = 4;
/// ggml's own limit on a tensor's name is 64; on a key, 65,535.
const MAX_NAME_BYTES: usize = 65_535;
const DEFAULT_ALIGNMENT: u64 = 32;
const ALIGNMENT: &str = "general.alignment";

/// What is wrong with a file, to follow its name.
type Parsed<T> = std::result::Result<T, String>;

/// The header of a file; ranges are of the whole file.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    /// The bytes of a string, which should be UTF-8.
    Text(Range<usize>),
    /// Elements of one kind.
    Array {
        kind: Kind,
        count: usize,
        bytes: Range<usize>,
    },
}

/// The kind of a value that is not an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    U64,
    I64,
    F64,
}

const ARRAY: u32 = 9;

/// A tensor's type, shape and place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorInfo {
    pub(super) block: BlockType,
    /// Outermost first, as Ossmith writes shapes; the file has them the other way round.
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Range<usize>,
}

/// Reads the header of a whole file.
pub(super) fn read(file: &[u8]) -> Parsed<Header> {
    let mut cursor = Cursor { file, at: 0, end: file.len().min(MAX_HEADER_BYTES) };
    if cursor.take(4).ok() != Some(b"GGUF") {
        return Err("does not begin with GGUF: not a GGUF file, or truncated".to_owned());
    }
    match cursor.u32()? {
        2 | 3 => {}
        1 => return Err("has GGUF version 1; convert the model anew with llama.cpp".to_owned()),
        version if matches!(version.swap_bytes(), 1..=3) => {
            return Err("is big-endian; llama.cpp's gguf_convert_endian.py converts it".to_owned());
        }
        version => return Err(format!("has GGUF version {version}; expected 2 or 3")),
    }
    let tensors = cursor.count("tensors")?;
    let keys = cursor.count("metadata keys")?;
    let mut metadata = BTreeMap::new();
    for _ in 0..keys {
        let key = cursor.name("a metadata key")?;
        let value = cursor.value().map_err(|problem| format!("metadata {key}: {problem}"))?;
        if metadata.contains_key(&key) {
            return Err(format!("metadata {key}: stored twice"));
        }
        metadata.insert(key, value);
    }
    let alignment = match metadata.get(ALIGNMENT) {
        None => DEFAULT_ALIGNMENT,
        Some(&Value::Unsigned(bytes)) if bytes.is_power_of_two() && bytes <= 1 << 20 => bytes,
        Some(_) => {
            return Err(format!("{ALIGNMENT} is not a power of two of at most 1 MiB"));
        }
    };
    let mut claimed = Vec::new();
    for _ in 0..tensors {
        let name = cursor.name("a tensor's name")?;
        let tensor =
            cursor.tensor(alignment).map_err(|problem| format!("tensor {name}: {problem}"))?;
        claimed.push((name, tensor));
    }
    let start = cursor.at.next_multiple_of(alignment as usize).min(file.len());
    Ok(Header { metadata, tensors: place(claimed, start, file.len())? })
}

/// A tensor before its place is known to be in the file.
struct Claim {
    block: BlockType,
    shape: Vec<usize>,
    offset: u64,
    bytes: usize,
}

/// Puts tensors where they claim to be, if that is inside the file and no two overlap.
fn place(
    claims: Vec<(String, Claim)>,
    start: usize,
    file_bytes: usize,
) -> Parsed<BTreeMap<String, TensorInfo>> {
    let data_bytes = file_bytes - start;
    let mut tensors = BTreeMap::new();
    for (name, Claim { block, shape, offset, bytes }) in claims {
        let end = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(bytes));
        let Some(end) = end.filter(|&end| end <= data_bytes) else {
            return Err(format!(
                "tensor {name}: {bytes} bytes at offset {offset} of the data, but the file holds {data_bytes}: truncated or corrupt"
            ));
        };
        let bytes = start + end - bytes..start + end;
        if tensors.insert(name.clone(), TensorInfo { block, shape, bytes }).is_some() {
            return Err(format!("tensor {name}: stored twice"));
        }
    }
    let mut in_order: Vec<_> =
        tensors.iter().filter(|(_, tensor)| !tensor.bytes.is_empty()).collect();
    in_order.sort_by_key(|(_, tensor)| tensor.bytes.start);
    for pair in in_order.windows(2) {
        let ((first, a), (second, b)) = (pair[0], pair[1]);
        if b.bytes.start < a.bytes.end {
            return Err(format!(
                "tensor {second}: begins at byte {} of the file, inside tensor {first}, which ends at {}",
                b.bytes.start, a.bytes.end
            ));
        }
    }
    Ok(tensors)
}

/// Reads forward through the header.
struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, bytes: usize) -> Parsed<&'a [u8]> {
        let range = self.skip(bytes)?;
        Ok(&self.file[range])
    }

    fn skip(&mut self, bytes: usize) -> Parsed<Range<usize>> {
        match self.at.checked_add(bytes).filter(|&end| end <= self.end) {
            Some(end) => {
                let range = self.at..end;
                self.at = end;
                Ok(range)
            }
            None if self.end < self.file.len() => {
                Err(format!("its header is longer than {MAX_HEADER_BYTES} bytes: corrupt"))
            }
            None => Err(format!(
                "its header continues after the file's {} bytes: truncated or corrupt",
                self.file.len()
            )),
        }
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Parsed<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Parsed<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self, what: &str) -> Parsed<u64> {
        match self.u64()? {
            count if count <= MAX_ENTRIES => Ok(count),
            count => Err(format!("claims {count} {what}; at most {MAX_ENTRIES} are read")),
        }
    }

    fn text(&mut self) -> Parsed<Range<usize>> {
        let bytes = self.u64()?;
        // A length that no address can hold is after the file's end as well.
        self.skip(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    fn name(&mut self, what: &str) -> Parsed<String> {
        let range = self.text()?;
        if range.len() > MAX_NAME_BYTES {
            return Err(format!("{what} has {} bytes; at most {MAX_NAME_BYTES}", range.len()));
        }
        let name = std::str::from_utf8(&self.file[range]);
        name.map(str::to_owned).map_err(|_| format!("{what} is not UTF-8"))
    }

    fn value(&mut self) -> Parsed<Value> {
        match self.u32()? {
            ARRAY => self.values(),
            number => {
                let kind = Kind::numbered(number)?;
                let at = self.at;
                kind.skip(self)?;
                Ok(kind.value(self.file, at..self.at))
            }
        }
    }

    fn values(&mut self) -> Parsed<Value> {
        let number = self.u32()?;
        if number == ARRAY {
            return Err("an array of arrays, which no GGUF key of gpt-oss is".to_owned());
        }
        let (kind, count) = (Kind::numbered(number)?, self.u64()?);
        let at = self.at;
        match kind.bytes() {
            Some(each) => {
                let bytes = count.checked_mul(each as u64).and_then(|b| usize::try_from(b).ok());
                self.skip(bytes.unwrap_or(usize::MAX))?;
            }
            None => {
                // Each string takes eight bytes or more, so a count that lies soon meets the end.
                for _ in 0..count {
                    self.text()?;
                }
            }
        }
        // The elements are in the file, so there are fewer of them than bytes.
        Ok(Value::Array { kind, count: count as usize, bytes: at..self.at })
    }

    fn tensor(&mut self, alignment: u64) -> Parsed<Claim> {
        let axes = self.u32()?;
        if axes > MAX_AXES {
            return Err(format!("has {axes} axes; at most {MAX_AXES} are possible"));
        }
        let mut shape = Vec::new();
        for _ in 0..axes {
            let axis = self.u64()?;
            let axis = usize::try_from(axis).map_err(|_| format!("an axis of {axis} elements"))?;
            shape.insert(0, axis);
        }
        let number = self.u32()?;
        let Some(block) = types::find(number) else {
            return Err(format!("has type {number}, which is no type of ggml's known here"));
        };
        let offset = self.u64()?;
        if !offset.is_multiple_of(alignment) {
            return Err(format!("its offset {offset} is not a multiple of {alignment}"));
        }
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(block.elements) {
            return Err(format!(
                "rows of {row} elements, but {} has blocks of {}",
                block.name, block.elements
            ));
        }
        let elements = shape.iter().try_fold(1_usize, |all, &axis| all.checked_mul(axis));
        let bytes = elements.and_then(|all| (all / block.elements).checked_mul(block.bytes));
        let bytes = bytes.ok_or_else(|| format!("its shape {shape:?} overflows"))?;
        Ok(Claim { block, shape, offset, bytes })
    }
}

impl Kind {
    fn numbered(number: u32) -> Parsed<Kind> {
        Ok(match number {
            0 => Kind::U8,
            1 => Kind::I8,
            2 => Kind::U16,
            3 => Kind::I16,
            4 => Kind::U32,
            5 => Kind::I32,
            6 => Kind::F32,
            7 => Kind::Bool,
            8 => Kind::Text,
            10 => Kind::U64,
            11 => Kind::I64,
            12 => Kind::F64,
            _ => return Err(format!("has type {number}, which no GGUF value has")),
        })
    }

    /// Bytes of a value; `None` for strings.
    fn bytes(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::Text => None,
        }
    }

    fn skip(self, cursor: &mut Cursor<'_>) -> Parsed<()> {
        match self.bytes() {
            Some(bytes) => cursor.skip(bytes).map(|_| ()),
            None => cursor.text().map(|_| ()),
        }
    }

    /// The value in `bytes`, which [`Kind::skip`] has passed.
    fn value(self, file: &[u8], bytes: Range<usize>) -> Value {
        let mut wide = [0; 8];
        let number = &file[bytes.clone()];
        if self != Kind::Text {
            wide[..number.len()].copy_from_slice(number);
        }
        let unsigned = u64::from_le_bytes(wide);
        match self {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => Value::Unsigned(unsigned),
            Kind::I8 => Value::Signed(i64::from(unsigned as u8 as i8)),
            Kind::I16 => Value::Signed(i64::from(unsigned as u16 as i16)),
            Kind::I32 => Value::Signed(i64::from(unsigned as u32 as i32)),
            Kind::I64 => Value::Signed(unsigned as i64),
            Kind::F32 => Value::F32(f32::from_bits(unsigned as u32)),
            Kind::F64 => Value::F64(f64::from_bits(unsigned)),
            Kind::Bool => Value::Bool(unsigned != 0),
            // The length is no part of the string.
            Kind::Text => Value::Text(bytes.start + 8..bytes.end),
        }
    }
}

/// The elements of an array, in order.
pub(super) fn elements<'a>(file: &'a [u8], array: &Value) -> impl Iterator<Item = Value> + use<'a> {
    let (kind, count, bytes) = match array {
        Value::Array { kind, count, bytes } => (*kind, *count, bytes.clone()),
        _ => (Kind::U8, 0, 0..0),
    };
    let mut cursor = Cursor { file, at: bytes.start, end: bytes.end };
    (0..count).map_while(move |_| {
        let at = cursor.at;
        kind.skip(&mut cursor).ok()?;
        Some(kind.value(file, at..cursor.at))
    })
}
