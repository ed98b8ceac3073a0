//! Which tensors the published layout has, and in which file each is.

use std::ops::Range;

use ossmith_plan::{Graph, ModelSpec, Weight, WeightInfo};
use safetensors::Dtype;
use serde_json::{Map, json};

use super::super::mxfp4::BLOCK;
use super::super::names::{Arrangement, Layout, forms};

/// A tensor as it is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TensorLayout {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    bytes: usize,
}

impl TensorLayout {
    /// The format of its values, for people.
    pub(super) fn format(&self) -> &'static str {
        if self.dtype == Dtype::U8 { "MXFP4" } else { "bf16" }
    }
}

/// What of a weight a tensor has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// These bytes of its bf16 elements.
    Bytes(Range<usize>),
    /// The codes of MXFP4.
    Blocks,
    /// The scales of MXFP4.
    Scales,
}

/// A weight and its tensors, which are written together.
#[derive(Clone, Debug)]
pub(super) struct ExportWeight {
    pub(super) info: &'static WeightInfo,
    pub(super) layer: usize,
    pub(super) tensors: Vec<(TensorLayout, Part)>,
}

impl ExportWeight {
    /// Bytes of all its tensors.
    pub(super) fn bytes(&self) -> u64 {
        self.tensors.iter().map(|(tensor, _)| tensor.bytes as u64).sum()
    }
}

/// A file of weights.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    pub(super) name: String,
    pub(super) weights: Vec<ExportWeight>,
}

impl Shard {
    /// Its tensors, in the order of their bytes.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &TensorLayout> {
        self.weights.iter().flat_map(|weight| weight.tensors.iter().map(|(tensor, _)| tensor))
    }

    /// Bytes of all its tensors.
    pub(super) fn data_bytes(&self) -> u64 {
        self.weights.iter().map(ExportWeight::bytes).sum()
    }

    /// Bytes of the whole file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.data_bytes() + self.header().len() as u64
    }

    /// What stands before the tensors, its own length included.
    pub(super) fn header(&self) -> Vec<u8> {
        let mut entries = Map::new();
        entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
        let mut start = 0;
        for tensor in self.tensors() {
            let TensorLayout { name, dtype, shape, bytes } = tensor;
            let end = start + bytes;
            let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
            entries.insert(name.clone(), entry);
            start = end;
        }
        let mut text = serde_json::Value::Object(entries).to_string();
        // Tensors start at a multiple of 8.
        text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }
}

/// All weights of a model, layer by layer.
pub(super) fn weights(spec: &ModelSpec, graph: &'static Graph) -> Vec<ExportWeight> {
    let layers = 0..spec.layers.len();
    let of_layer =
        |layer| Weight::ALL.into_iter().filter(|w| w.per_layer()).map(move |w| (w, layer));
    let all = std::iter::once((Weight::Embedding, 0))
        .chain(layers.flat_map(of_layer))
        .chain([(Weight::FinalNorm, 0), (Weight::Unembedding, 0)]);
    all.filter_map(|(weight, layer)| {
        let form = forms(Layout::HuggingFace, spec, graph, weight, layer).into_iter().next()?;
        let mut at = 0;
        let mut of_bf16 = |name: String, shape: Vec<usize>| {
            let bytes = 2 * shape.iter().product::<usize>();
            at += bytes;
            let tensor = TensorLayout { name, dtype: Dtype::BF16, shape, bytes };
            (tensor, Part::Bytes(at - bytes..at))
        };
        let of_bytes = |name: String, shape: Vec<usize>| {
            let bytes = shape.iter().product();
            TensorLayout { name, dtype: Dtype::U8, shape, bytes }
        };
        let mut tensors = Vec::new();
        for (place, piece) in form.pieces.into_iter().enumerate() {
            if form.arrangement != Arrangement::BlocksAndScales {
                tensors.push(of_bf16(piece.name, piece.shape));
                continue;
            }
            let mut shape = piece.shape;
            if let Some(k) = shape.last_mut() {
                *k /= BLOCK;
            }
            tensors.push(match place {
                0 => {
                    shape.push(BLOCK / 2);
                    (of_bytes(piece.name, shape), Part::Blocks)
                }
                _ => (of_bytes(piece.name, shape), Part::Scales),
            });
        }
        Some(ExportWeight { info: graph.weight(weight, layer), layer, tensors })
    })
    .collect()
}

/// Files of at most so many bytes each, in the order of the weights.
pub(super) fn shards(weights: Vec<ExportWeight>, shard_bytes: u64) -> Vec<Shard> {
    let mut shards: Vec<Vec<ExportWeight>> = Vec::new();
    let mut bytes = 0;
    for weight in weights {
        bytes += weight.bytes();
        match shards.last_mut() {
            Some(shard) if bytes <= shard_bytes => shard.push(weight),
            _ => {
                bytes = weight.bytes();
                shards.push(vec![weight]);
            }
        }
    }
    let count = shards.len();
    let named = |(place, weights): (usize, Vec<ExportWeight>)| Shard {
        name: format!("model-{:05}-of-{count:05}.safetensors", place + 1),
        weights,
    };
    shards.into_iter().enumerate().map(named).collect()
}
