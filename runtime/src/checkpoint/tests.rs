//! Checkpoints that the tests write themselves, in both layouts, valid and invalid.

mod adapters;
mod bad;
mod export;
mod good;
mod random;
mod shapes;
mod update;

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Checkpoint, CheckpointOptions, Tensor};
use crate::Result;
use shapes::{GRAPH, NAMES, SPEC};

/// A tensor to write.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Entry {
    /// Bytes that no other tensor of the checkpoint has.
    fn new(name: String, dtype: &'static str, shape: Vec<usize>) -> Entry {
        let width = if dtype == "U8" { 1 } else { 2 };
        let seed = name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31) ^ u32::from(byte));
        let count = shape.iter().product::<usize>() * width;
        let bytes = (0..count as u32).map(|i| ossmith_scalar::mix_word(seed ^ i) as u8).collect();
        Entry { name, dtype, shape, bytes }
    }
}

/// The tiny model's tensors as Hugging Face stores them.
fn hugging_face() -> Vec<Entry> {
    let mut entries = Vec::new();
    for row in NAMES {
        for layer in row.layers() {
            let pieces = row.hugging_face.iter().zip(row.pieces);
            entries.extend(pieces.map(|(name, shape)| {
                Entry::new(name.replace('N', &layer.to_string()), row.dtype, shape.to_vec())
            }));
        }
    }
    entries
}

/// The same values as OpenAI stores them: q, k and v in one tensor.
fn openai() -> Vec<Entry> {
    let theirs = hugging_face();
    let mut theirs = theirs.iter();
    let mut entries = Vec::new();
    for row in NAMES {
        for layer in row.layers() {
            let pieces: Vec<&Entry> = theirs.by_ref().take(row.hugging_face.len()).collect();
            let name = row.openai.replace('N', &layer.to_string());
            if let [only] = pieces[..] {
                entries.push(Entry { name, ..only.clone() });
                continue;
            }
            let mut shape = pieces[0].shape.clone();
            shape[0] = pieces.iter().map(|piece| piece.shape[0]).sum();
            let bytes = pieces.iter().flat_map(|piece| piece.bytes.clone()).collect();
            entries.push(Entry { name, dtype: row.dtype, shape, bytes });
        }
    }
    entries
}

/// A safetensors file's bytes.
fn file(entries: &[Entry]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    for entry in entries {
        let start = data.len();
        data.extend_from_slice(&entry.bytes);
        let info = json!({"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [start, data.len()]});
        header.insert(entry.name.clone(), info);
    }
    join(&Value::Object(header).to_string(), &data)
}

fn join(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn split(file: &[u8]) -> (Value, Vec<u8>) {
    let (length, rest) = file.split_first_chunk().expect("a length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    (serde_json::from_slice(header).expect("JSON"), data.to_vec())
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(folder.join(name), bytes).expect("the test's own folder is writable");
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn open(folder: &Path) -> Result<Checkpoint> {
    Checkpoint::open_shapes(folder, &SPEC, &GRAPH, CheckpointOptions::default())
}

/// A tensor's bytes with all parts joined, which are the same in both layouts.
fn joined(tensor: &Tensor<'_>) -> [Vec<u8>; 2] {
    match tensor {
        Tensor::Bf16 { parts } => [parts.concat(), Vec::new()],
        Tensor::Mxfp4 { blocks, scales } => [blocks.to_vec(), scales.to_vec()],
    }
}
