//! A checkpoint's files: finds every weight of a model, and checks its stored type and shape.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use ossmith_plan::{Graph, ModelSpec, Weight, WeightInfo};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use super::folder::{self, Files};
use super::names::{ExpectedTensor, Layout, expected};
use super::safetensors_file::TensorFile;
use super::source::{Made, WeightSource};
use super::tensor::Tensor;
use super::weight_index;
use crate::{Error, Result};

/// Files, and the pieces of every weight in them.
#[derive(Debug)]
pub(super) struct StoredWeights {
    files: Vec<TensorFile>,
    /// By [`weight_index`]; empty where a weight that exists once has no such layer.
    weights: Vec<Vec<Piece>>,
    layers: usize,
}

#[derive(Clone, Debug)]
struct Piece {
    file: usize,
    range: Range<usize>,
}

impl StoredWeights {
    pub(super) fn open(folder: &Path, spec: &ModelSpec, graph: &Graph) -> Result<StoredWeights> {
        let Files { paths, indexed } = folder::find(folder)?;
        let files: Vec<TensorFile> =
            paths.iter().map(|path| TensorFile::open(path)).collect::<Result<_>>()?;
        check_index(&files, &indexed)?;
        StoredWeights::of_files(folder, files, spec, graph)
    }

    /// Reads one file that is not on disk; errors show `name` as its path.
    pub(super) fn from_bytes(
        name: &Path,
        bytes: Vec<u8>,
        spec: &ModelSpec,
        graph: &Graph,
    ) -> Result<StoredWeights> {
        StoredWeights::of_files(name, vec![TensorFile::from_bytes(name, bytes)?], spec, graph)
    }

    fn of_files(
        folder: &Path,
        files: Vec<TensorFile>,
        spec: &ModelSpec,
        graph: &Graph,
    ) -> Result<StoredWeights> {
        let mut unused = merge(&files)?;
        let layout = layout(folder, &unused)?;
        let layers = spec.layers.len();
        let mut weights = vec![Vec::new(); Weight::ALL.len() * layers];
        for weight in Weight::ALL {
            for layer in 0..if weight.per_layer() { layers } else { 1 } {
                let pieces = expected(layout, spec, graph, weight, layer);
                weights[weight_index(weight, layer, layers)] = pieces
                    .iter()
                    .map(|piece| claim(folder, &files, &mut unused, piece))
                    .collect::<Result<_>>()?;
            }
        }
        check_unused(&files, &unused, layout, layers)?;
        Ok(StoredWeights { files, weights, layers })
    }
}

impl WeightSource for StoredWeights {
    fn stored(&self, weight: Weight, layer: usize) -> Option<Tensor<'_>> {
        let pieces = &self.weights[weight_index(weight, layer, self.layers)];
        let bytes = |piece: &Piece| self.files[piece.file].bytes(piece.range.clone());
        Some(match weight {
            Weight::GateUp | Weight::Down => {
                Tensor::Mxfp4 { blocks: bytes(&pieces[0]), scales: bytes(&pieces[1]) }
            }
            _ => Tensor::Bf16 { parts: pieces.iter().map(bytes).collect() },
        })
    }

    fn make(&self, info: &WeightInfo, _: usize) -> std::result::Result<Made, String> {
        Err(format!("{:?} is stored as it is, and nothing is to be made", info.dtype))
    }
}

/// Tensors not yet claimed by a weight: name to file and header entry.
type Unused<'a> = BTreeMap<&'a str, (usize, &'a TensorInfo)>;

fn refused(path: &Path, problem: String) -> Error {
    Error::Checkpoint { path: path.to_owned(), problem }
}

fn merge(files: &[TensorFile]) -> Result<Unused<'_>> {
    let mut all = Unused::new();
    for (position, file) in files.iter().enumerate() {
        for (name, info) in &file.tensors {
            if let Some((other, _)) = all.insert(name, (position, info)) {
                let other = files[other].path.display();
                let problem = format!("tensor {name}: also in {other}; expected in one file only");
                return Err(refused(&file.path, problem));
            }
        }
    }
    Ok(all)
}

/// Checks that each tensor is in the file that the index names.
fn check_index(files: &[TensorFile], indexed: &BTreeMap<String, usize>) -> Result<()> {
    for (name, &position) in indexed {
        let file = &files[position];
        if !file.tensors.contains_key(name) {
            let problem =
                format!("tensor {name}: missing, although the index lists it for this file");
            return Err(refused(&file.path, problem));
        }
    }
    Ok(())
}

fn layout(folder: &Path, tensors: &Unused<'_>) -> Result<Layout> {
    let (ours, theirs) = (Layout::HuggingFace, Layout::OpenAi);
    let has = |layout: Layout| tensors.contains_key(layout.marker());
    let problem = match (has(ours), has(theirs)) {
        (true, false) => return Ok(ours),
        (false, true) => return Ok(theirs),
        (true, true) => "tensors of both layouts",
        (false, false) => "no token embedding",
    };
    let (ours, theirs) = (ours.marker(), theirs.marker());
    let expected = format!("expected either {ours} (Hugging Face) or {theirs} (OpenAI)");
    Err(refused(folder, format!("holds {problem}; {expected}")))
}

/// Takes a tensor out of the unused ones, if its type and shape are as expected.
fn claim(
    folder: &Path,
    files: &[TensorFile],
    unused: &mut Unused<'_>,
    expected: &ExpectedTensor,
) -> Result<Piece> {
    let ExpectedTensor { name, dtype, shape } = expected;
    let expected = format!("expected {dtype:?} {shape:?}");
    let Some((file, info)) = unused.remove(name.as_str()) else {
        let path = if let [only] = files { &only.path } else { folder };
        let dequantised = name.strip_suffix("_blocks").filter(|base| unused.contains_key(base));
        let hint = match dequantised {
            Some(base) => {
                format!("; {base} is present, but de-quantised experts are not supported")
            }
            None => String::new(),
        };
        return Err(refused(path, format!("tensor {name}: missing; {expected}{hint}")));
    };
    if info.dtype != *dtype || info.shape != *shape {
        let hint = match (dtype, info.dtype) {
            (Dtype::BF16, Dtype::F32 | Dtype::F16) => "; convert the checkpoint to bf16",
            _ => "",
        };
        let found = format!("found {:?} {:?}", info.dtype, info.shape);
        return Err(refused(
            &files[file].path,
            format!("tensor {name}: {expected}, {found}{hint}"),
        ));
    }
    Ok(Piece { file, range: files[file].range(info) })
}

/// Ignores unknown tensors, but refuses those of a layer that the model does not have.
fn check_unused(
    files: &[TensorFile],
    unused: &Unused<'_>,
    layout: Layout,
    layers: usize,
) -> Result<()> {
    for (name, (file, _)) in unused {
        if layout.layer_of(name).is_some_and(|layer| layer >= layers) {
            let problem = format!("tensor {name}: the model has {layers} layers, counted from 0");
            return Err(refused(&files[*file].path, problem));
        }
    }
    if let Some(first) = unused.keys().next() {
        tracing::debug!(count = unused.len(), first, "tensors that the model does not use");
    }
    Ok(())
}
