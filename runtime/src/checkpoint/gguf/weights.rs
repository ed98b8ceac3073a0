//! A model's weights in GGUF files: the names that llama.cpp gives them (`llama-arch.cpp`), and how each is made from what
//! is stored. bf16 is read where it lies; MXFP4 is repacked bit for bit; all other types are decoded and rounded to bf16,
//! or quantised to MXFP4 where the model has experts in it.

use std::ops::Range;

use ossmith_plan::{DType, Graph, ModelSpec, Weight, WeightInfo};
use rayon::prelude::*;

use super::super::added_error::AddedError;
use super::super::convert::{MatrixValues, to_bf16, to_mxfp4};
use super::super::mxfp4::BLOCK;
use super::super::source::{Made, WeightSource, file_identity};
use super::super::tensor::{OwnedTensor, Tensor};
use super::super::weight_index;
use super::types::{self, BlockType, Coding};
use super::{Gguf, dequantise};
use crate::{Error, Result};

/// Bytes of the codes of an MXFP4 block.
const CODE_BYTES: usize = BLOCK / 2;

/// The weights of an opened model.
#[derive(Debug)]
pub(in super::super) struct GgufWeights {
    gguf: Gguf,
    /// By [`weight_index`]; empty where a weight that exists once has no such layer.
    weights: Vec<Vec<Piece>>,
    layers: usize,
}

/// One stored tensor of a weight.
#[derive(Clone, Debug)]
struct Piece {
    file: usize,
    bytes: Range<usize>,
    block: BlockType,
    coding: Coding,
}

/// A tensor that must be there.
struct Expected {
    name: String,
    shape: Vec<usize>,
}

impl GgufWeights {
    /// Finds every weight and checks its shape, and that its type is one that is decoded.
    pub(in super::super) fn new(
        gguf: Gguf,
        spec: &ModelSpec,
        graph: &Graph,
    ) -> Result<GgufWeights> {
        let layers = spec.layers.len();
        let mut weights = vec![Vec::new(); Weight::ALL.len() * layers];
        for weight in Weight::ALL {
            for layer in 0..if weight.per_layer() { layers } else { 1 } {
                let pieces = expected(&gguf, spec, graph.weight(weight, layer), layer);
                weights[weight_index(weight, layer, layers)] =
                    pieces.iter().map(|piece| claim(&gguf, piece)).collect::<Result<_>>()?;
            }
        }
        check_layers(&gguf, layers)?;
        Ok(GgufWeights { gguf, weights, layers })
    }

    fn pieces(&self, weight: Weight, layer: usize) -> &[Piece] {
        &self.weights[weight_index(weight, layer, self.layers)]
    }

    fn bytes(&self, piece: &Piece) -> &[u8] {
        &self.gguf.files[piece.file].content[piece.bytes.clone()]
    }

    fn stored_rows<'a>(&'a self, pieces: &'a [Piece], k: usize) -> Vec<StoredRows<'a>> {
        let rows = |piece| StoredRows { piece, bytes: self.bytes(piece), k };
        pieces.iter().map(rows).collect()
    }
}

impl WeightSource for GgufWeights {
    fn stored(&self, weight: Weight, layer: usize) -> Option<Tensor<'_>> {
        let pieces = self.pieces(weight, layer);
        let made = matches!(weight, Weight::GateUp | Weight::GateUpBias | Weight::Down);
        if made || pieces.iter().any(|piece| piece.coding != Coding::Bf16) {
            return None;
        }
        Some(Tensor::Bf16 { parts: pieces.iter().map(|piece| self.bytes(piece)).collect() })
    }

    fn merge_dtype(&self, info: &WeightInfo, layer: usize) -> DType {
        let pieces = self.pieces(info.weight, layer);
        let exact = pieces.iter().all(|piece| piece.coding == Coding::Mxfp4);
        if exact { info.dtype } else { DType::Bf16 }
    }

    fn identity(&self) -> Vec<String> {
        self.gguf.files.iter().map(|file| file_identity(&file.path)).collect()
    }

    fn q8_0(&self, weight: Weight, layer: usize) -> Option<Vec<&[u8]>> {
        let pieces = self.pieces(weight, layer);
        let all = pieces.iter().all(|piece| piece.coding == Coding::Q8_0);
        all.then(|| pieces.iter().map(|piece| self.bytes(piece)).collect())
    }

    fn make(&self, info: &WeightInfo, layer: usize) -> std::result::Result<Made, String> {
        let pieces = self.pieces(info.weight, layer);
        let from = pieces.first().map_or("", |piece| piece.block.name);
        let made = |(tensor, error): (OwnedTensor, AddedError)| Made {
            tensor,
            from,
            error: (error.squared_error > 0.0).then_some(error),
        };
        match *info.shape {
            [experts, rows, k] => {
                let stored = self.stored_rows(pieces, k);
                let exact = pieces.iter().all(|piece| piece.coding == Coding::Mxfp4);
                if info.dtype == DType::Mxfp4 && exact {
                    return Ok(Made::exact(repack(&stored, [experts, rows, k])));
                }
                let values = Experts { stored, rows };
                let shape = [experts, rows, k];
                match info.dtype {
                    DType::Mxfp4 => to_mxfp4(&values, shape).map(made),
                    _ => to_bf16(&values, shape).map(made),
                }
            }
            [rows, k] if info.weight != Weight::GateUpBias => {
                let stored = self.stored_rows(pieces, k);
                to_bf16(&Stacked(stored), [1, rows, k]).map(made)
            }
            _ => {
                let mut all: Vec<Vec<f32>> = Vec::new();
                for piece in pieces {
                    let bytes = self.bytes(piece);
                    let k = bytes.len() / piece.block.bytes * piece.block.elements;
                    let mut values = vec![0.0; k];
                    StoredRows { piece, bytes, k }.read(0, &mut values);
                    all.push(values);
                }
                let values = match (info.weight, &all[..]) {
                    (Weight::GateUpBias, [gate, up]) => {
                        gate.iter().zip(up).flat_map(|(&gate, &up)| [gate, up]).collect()
                    }
                    _ => all.concat(),
                };
                let elements = values.len();
                to_bf16(&Values(values), [1, 1, elements]).map(made)
            }
        }
    }
}

/// The tensors of a weight, in the order of its rows; gate and up are two.
fn expected(gguf: &Gguf, spec: &ModelSpec, info: &WeightInfo, layer: usize) -> Vec<Expected> {
    let shape = info.shape;
    let tensor = |name: &str, shape: &[usize]| Expected {
        name: if info.weight.per_layer() { format!("blk.{layer}.{name}") } else { name.to_owned() },
        shape: shape.to_vec(),
    };
    let one = |name: &str| vec![tensor(name, shape)];
    // Query, key and value in one tensor, or in three.
    let attention = |suffix: &str| {
        let fused = tensor(&format!("attn_qkv.{suffix}"), shape);
        if gguf.find(&fused.name).is_some() {
            return vec![fused];
        }
        let rows = [("q", spec.q_width()), ("k", spec.kv_width()), ("v", spec.kv_width())];
        let part = |(letter, rows): (&str, usize)| {
            let mut shape = shape.to_vec();
            shape[0] = rows;
            tensor(&format!("attn_{letter}.{suffix}"), &shape)
        };
        rows.into_iter().map(part).collect()
    };
    // Gate and up, each with half of the second axis.
    let gate_up = |suffix: &str| {
        let mut shape = shape.to_vec();
        shape[1] /= 2;
        ["gate", "up"].map(|part| tensor(&format!("ffn_{part}_exps.{suffix}"), &shape)).into()
    };
    match info.weight {
        Weight::Embedding => one("token_embd.weight"),
        Weight::AttnNorm => one("attn_norm.weight"),
        Weight::Qkv => attention("weight"),
        Weight::QkvBias => attention("bias"),
        Weight::Sinks => one("attn_sinks.weight"),
        Weight::AttnOut => one("attn_output.weight"),
        Weight::AttnOutBias => one("attn_output.bias"),
        Weight::MoeNorm => one("post_attention_norm.weight"),
        Weight::Router => one("ffn_gate_inp.weight"),
        Weight::RouterBias => one("ffn_gate_inp.bias"),
        Weight::GateUp => gate_up("weight"),
        Weight::GateUpBias => gate_up("bias"),
        Weight::Down => one("ffn_down_exps.weight"),
        Weight::DownBias => one("ffn_down_exps.bias"),
        Weight::FinalNorm => one("output_norm.weight"),
        Weight::Unembedding => one("output.weight"),
    }
}

fn claim(gguf: &Gguf, Expected { name, shape }: &Expected) -> Result<Piece> {
    let Some((file, info)) = gguf.find(name) else {
        return Err(gguf.refused(format!("tensor {name}: missing; expected {shape:?}")));
    };
    let refused = |problem| Error::Checkpoint { path: gguf.files[file].path.clone(), problem };
    // An axis of one element may be left out at the front, as ggml does.
    let trimmed = |shape: &[usize]| -> Vec<usize> {
        let ones = shape.iter().take_while(|&&axis| axis == 1).count();
        shape[ones.min(shape.len().saturating_sub(1))..].to_vec()
    };
    if trimmed(&info.shape) != trimmed(shape) {
        return Err(refused(format!(
            "tensor {name}: expected {shape:?}, found {:?} (outermost axis first)",
            info.shape
        )));
    }
    let Some(coding) = info.block.coding else {
        return Err(refused(format!(
            "tensor {name}: has type {}, which is not decoded here; types that are: {}",
            info.block.name,
            types::decoded_names()
        )));
    };
    Ok(Piece { file, bytes: info.bytes.clone(), block: info.block, coding })
}

/// Refuses tensors of a layer that the model does not have; other unknown tensors are ignored.
fn check_layers(gguf: &Gguf, layers: usize) -> Result<()> {
    for name in gguf.tensor_names() {
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
        if layer.is_some_and(|layer: usize| layer >= layers) {
            let problem = format!("tensor {name}: the model has {layers} layers, counted from 0");
            return Err(gguf.refused(problem));
        }
    }
    Ok(())
}

/// The rows of one stored tensor.
struct StoredRows<'a> {
    piece: &'a Piece,
    bytes: &'a [u8],
    k: usize,
}

impl StoredRows<'_> {
    fn rows(&self) -> usize {
        self.bytes.len() / self.row_bytes()
    }

    fn row_bytes(&self) -> usize {
        self.k / self.piece.block.elements * self.piece.block.bytes
    }

    /// Decodes one row.
    fn read(&self, row: usize, out: &mut [f32]) {
        let BlockType { elements, bytes, .. } = self.piece.block;
        let stored = &self.bytes[row * self.row_bytes()..(row + 1) * self.row_bytes()];
        for (stored, out) in stored.chunks_exact(bytes).zip(out.chunks_exact_mut(elements)) {
            dequantise::block(self.piece.coding, stored, out);
        }
    }
}

/// Tensors one below the other.
struct Stacked<'a>(Vec<StoredRows<'a>>);

impl MatrixValues for Stacked<'_> {
    fn read(&self, _: usize, rows: Range<usize>, out: &mut [f32]) {
        let Some(k) = self.0.first().map(|part| part.k) else { return };
        for (row, out) in rows.zip(out.chunks_exact_mut(k)) {
            let mut row = row;
            for part in &self.0 {
                if row < part.rows() {
                    part.read(row, out);
                    break;
                }
                row -= part.rows();
            }
        }
    }
}

/// The matrices of experts: of one tensor, or of a gate and an up whose rows alternate.
struct Experts<'a> {
    stored: Vec<StoredRows<'a>>,
    /// Rows of one expert's matrix.
    rows: usize,
}

impl MatrixValues for Experts<'_> {
    fn read(&self, matrix: usize, rows: Range<usize>, out: &mut [f32]) {
        let parts = self.stored.len().max(1);
        let Some(k) = self.stored.first().map(|part| part.k) else { return };
        for (row, out) in rows.zip(out.chunks_exact_mut(k)) {
            let each = self.rows / parts;
            self.stored[row % parts].read(matrix * each + row / parts, out);
        }
    }
}

/// Values that are decoded already.
struct Values(Vec<f32>);

impl MatrixValues for Values {
    fn read(&self, _: usize, _: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(&self.0);
    }
}

/// MXFP4 in ggml's order to Ossmith's, which is that of the published checkpoints: the same scales and the same codes. ggml
/// has a block's scale in front of its codes, and elements `j` and `j + 16` in byte `j`; the published order has
/// elements `2 j` and `2 j + 1` there. Rows of two tensors alternate.
fn repack(stored: &[StoredRows<'_>], [experts, rows, k]: [usize; 3]) -> OwnedTensor {
    let row_blocks = k / BLOCK;
    let mut blocks = vec![0; experts * rows * row_blocks * CODE_BYTES];
    let mut scales = vec![0; experts * rows * row_blocks];
    let parts = stored.len().max(1);
    let to_rows = blocks.par_chunks_exact_mut(row_blocks * CODE_BYTES);
    let to_rows = to_rows.zip(scales.par_chunks_exact_mut(row_blocks)).enumerate();
    to_rows.with_min_len(64).for_each(|(row, (blocks, scales))| {
        // Each part has `rows / parts` rows of each expert, so that alternating over all experts is the same.
        let part = &stored[row % parts];
        let from = &part.bytes[row / parts * part.row_bytes()..][..part.row_bytes()];
        let out = blocks.as_chunks_mut::<CODE_BYTES>().0.iter_mut().zip(scales);
        for (from, (codes, scale)) in from.as_chunks::<{ 1 + CODE_BYTES }>().0.iter().zip(out) {
            *scale = from[0];
            *codes = reorder(&from[1..]);
        }
    });
    OwnedTensor::Mxfp4 { blocks, scales }
}

fn reorder(ggml: &[u8]) -> [u8; CODE_BYTES] {
    let mut codes = [0; CODE_BYTES];
    let (low, high) = codes.split_at_mut(CODE_BYTES / 2);
    for ((pair, low), high) in ggml.chunks_exact(2).zip(low).zip(high) {
        *low = pair[0] & 15 | pair[1] << 4;
        *high = pair[0] >> 4 | pair[1] & 0xf0;
    }
    codes
}
