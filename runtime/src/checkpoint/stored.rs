//! A checkpoint's safetensors files: finds every weight of a model, and checks its stored types and shapes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use ossmith_plan::{Graph, ModelSpec, Weight, WeightInfo};
use safetensors::tensor::TensorInfo;

use super::coding::{self, Coding};
use super::folder::{self, Files};
use super::lookup::{Place, Problem, Stored};
use super::names::{Arrangement, Form, Layout, forms};
use super::options::{CheckpointOptions, ExpertStorage};
use super::safetensors_file::TensorFile;
use super::source::{Made, WeightSource, file_identity};
use super::tensor::{OwnedTensor, Tensor};
use super::{convert, weight_index};
use crate::{Error, Result};

/// Files, and the pieces of every weight in them.
#[derive(Debug)]
pub(super) struct StoredWeights {
    files: Vec<TensorFile>,
    /// By [`weight_index`]; without pieces where a weight that exists once has no such layer.
    weights: Vec<Located>,
    layers: usize,
    options: CheckpointOptions,
    notes: Vec<String>,
}

/// Where a weight is; without pieces it is zero.
#[derive(Clone, Debug)]
struct Located {
    arrangement: Arrangement,
    pieces: Vec<LocatedPiece>,
}

/// One tensor, `[rows, k]` of the weight.
#[derive(Clone, Debug)]
struct LocatedPiece {
    rows: usize,
    k: usize,
    coding: Coding,
}

impl Located {
    fn is_mxfp4(&self) -> bool {
        self.pieces.iter().all(|piece| matches!(piece.coding, Coding::Mxfp4 { .. }))
    }
}

const ABSENT: Located = Located { arrangement: Arrangement::Rows, pieces: Vec::new() };

impl StoredWeights {
    pub(super) fn open(
        folder: &Path,
        spec: &ModelSpec,
        graph: &Graph,
        options: CheckpointOptions,
    ) -> Result<StoredWeights> {
        let Files { paths, indexed } = folder::find(folder)?;
        let files: Vec<TensorFile> =
            paths.iter().map(|path| TensorFile::open(path)).collect::<Result<_>>()?;
        check_index(&files, &indexed)?;
        StoredWeights::of_files(folder, files, spec, graph, options)
    }

    /// Reads one file that is not on disk; errors show `name` as its path.
    pub(super) fn from_bytes(
        name: &Path,
        bytes: Vec<u8>,
        spec: &ModelSpec,
        graph: &Graph,
    ) -> Result<StoredWeights> {
        let files = vec![TensorFile::from_bytes(name, bytes)?];
        StoredWeights::of_files(name, files, spec, graph, CheckpointOptions::default())
    }

    /// Reads the weights that a file holds, or those that the files of a folder hold together. All others have no pieces.
    pub(super) fn open_update(
        path: &Path,
        spec: &ModelSpec,
        graph: &Graph,
        options: CheckpointOptions,
    ) -> Result<StoredWeights> {
        let paths = if path.is_dir() { folder::list(path)? } else { vec![path.to_owned()] };
        let files: Vec<TensorFile> =
            paths.iter().map(|path| TensorFile::read(path)).collect::<Result<_>>()?;
        let all = merge(&files)?;
        let Some(first) = all.keys().next() else {
            return Err(refused(path, "no tensors; expected some of a model's weights".to_owned()));
        };
        let layout = Layout::of_tensor(first);
        let layers = spec.layers.len();
        let mut weights = vec![ABSENT; Weight::ALL.len() * layers];
        let mut finder = Finder { folder: path, files: &files, unused: all.clone(), all };
        for weight in Weight::ALL {
            for layer in 0..if weight.per_layer() { layers } else { 1 } {
                let forms = forms(layout, spec, graph, weight, layer);
                let names = forms.iter().flat_map(|form| &form.pieces).map(|piece| &piece.name);
                if names.into_iter().any(|name| finder.all.contains_key(name.as_str())) {
                    weights[weight_index(weight, layer, layers)] = finder.find(&forms)?;
                }
            }
        }
        if let Some((name, &(file, _))) = finder.unused.first_key_value() {
            let problem = format!("tensor {name}: {} has no such weight", spec.name);
            return Err(refused(&finder.files[file].path, problem));
        }
        Ok(StoredWeights { files, weights, layers, options, notes: Vec::new() })
    }

    /// Whether a weight is in the files.
    pub(super) fn has(&self, weight: Weight, layer: usize) -> bool {
        !self.located(weight, layer).pieces.is_empty()
    }

    fn of_files(
        folder: &Path,
        files: Vec<TensorFile>,
        spec: &ModelSpec,
        graph: &Graph,
        options: CheckpointOptions,
    ) -> Result<StoredWeights> {
        let all = merge(&files)?;
        let layout = layout(folder, &all)?;
        let layers = spec.layers.len();
        let mut weights = vec![ABSENT; Weight::ALL.len() * layers];
        let mut finder = Finder { folder, files: &files, unused: all.clone(), all };
        for weight in Weight::ALL {
            for layer in 0..if weight.per_layer() { layers } else { 1 } {
                let forms = forms(layout, spec, graph, weight, layer);
                if !forms.is_empty() {
                    weights[weight_index(weight, layer, layers)] = finder.find(&forms)?;
                }
            }
        }
        let notes = check_unused(&finder, layout, spec)?;
        Ok(StoredWeights { files, weights, layers, options, notes })
    }

    fn located(&self, weight: Weight, layer: usize) -> &Located {
        &self.weights[weight_index(weight, layer, self.layers)]
    }

    fn bytes(&self, place: &Place) -> &[u8] {
        self.files[place.file].bytes(place.range.clone())
    }
}

impl WeightSource for StoredWeights {
    fn stored(&self, weight: Weight, layer: usize) -> Option<Tensor<'_>> {
        let Located { arrangement, pieces } = self.located(weight, layer);
        let is_expert = matches!(weight, Weight::GateUp | Weight::Down);
        match (arrangement, &pieces[..]) {
            (_, [LocatedPiece { coding: Coding::Mxfp4 { blocks, scales }, .. }]) if is_expert => {
                Some(Tensor::Mxfp4 { blocks: self.bytes(blocks), scales: self.bytes(scales) })
            }
            (Arrangement::Rows, [_, ..]) if !is_expert || self.keeps_experts(pieces) => {
                let bf16 = |piece: &LocatedPiece| match &piece.coding {
                    Coding::Bf16(place) => Some(self.bytes(place)),
                    _ => None,
                };
                Some(Tensor::Bf16 { parts: pieces.iter().map(bf16).collect::<Option<_>>()? })
            }
            _ => None,
        }
    }

    fn make(&self, info: &WeightInfo, layer: usize) -> std::result::Result<Made, String> {
        let located = self.located(info.weight, layer);
        let is_expert = matches!(info.weight, Weight::GateUp | Weight::Down);
        let Some(first) = located.pieces.first() else {
            return Ok(Made::exact(OwnedTensor::Bf16(vec![0; 2 * info.elements()])));
        };
        if is_expert && let Some(tensor) = self.joined_mxfp4(located) {
            return Ok(Made::exact(tensor));
        }
        let values = Values { stored: self, located, dimensions: dimensions(info, located) };
        let quantised = self.options.experts == ExpertStorage::Mxfp4 || located.is_mxfp4();
        let made = match is_expert && quantised {
            true => convert::to_mxfp4(&values, values.dimensions),
            false => convert::to_bf16(&values, values.dimensions),
        };
        for place in located.pieces.iter().flat_map(|piece| piece.coding.places()) {
            self.files[place.file].release(place.range.clone());
        }
        let (tensor, error) = made?;
        // Exact where the same values come in another order or a wider type.
        let error = (error.squared_error > 0.0).then_some(error);
        Ok(Made { tensor, from: first.coding.name(), error })
    }

    fn identity(&self) -> Vec<String> {
        self.files.iter().map(|file| file_identity(&file.path)).collect()
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    #[cfg(feature = "cuda")]
    fn has_bf16_experts(&self) -> bool {
        self.options.experts == ExpertStorage::Bf16
            && (0..self.layers).any(|layer| {
                let both = [Weight::GateUp, Weight::Down];
                both.iter().any(|&weight| !self.located(weight, layer).is_mxfp4())
            })
    }
}

impl StoredWeights {
    /// Whether experts are read where they lie: as one tensor, if they are wanted in bf16.
    fn keeps_experts(&self, pieces: &[LocatedPiece]) -> bool {
        self.options.experts == ExpertStorage::Bf16 && pieces.len() == 1
    }

    /// MXFP4 tensors of single experts, put together.
    fn joined_mxfp4(&self, located: &Located) -> Option<OwnedTensor> {
        let mut joined = (Vec::new(), Vec::new());
        for piece in located.pieces.iter().filter(|_| located.arrangement == Arrangement::Rows) {
            let Coding::Mxfp4 { blocks, scales } = &piece.coding else { return None };
            joined.0.extend_from_slice(self.bytes(blocks));
            joined.1.extend_from_slice(self.bytes(scales));
        }
        let (blocks, scales) = joined;
        (!blocks.is_empty()).then_some(OwnedTensor::Mxfp4 { blocks, scales })
    }
}

/// `[matrices, rows, k]` for conversion. What has one row or one column is one matrix, and the biases of gates and ups are
/// matrices of one column, since their rows alternate.
fn dimensions(info: &WeightInfo, located: &Located) -> [usize; 3] {
    match (info.shape, located.arrangement) {
        (&[matrices, rows], Arrangement::GateUp) => [matrices, rows, 1],
        (&[matrices, rows, k], _) => [matrices, rows, k],
        _ => {
            let k = located.pieces.first().map_or(1, |piece| piece.k);
            [1, info.elements() / k, k]
        }
    }
}

/// A weight's values in its arrangement.
struct Values<'a> {
    stored: &'a StoredWeights,
    located: &'a Located,
    dimensions: [usize; 3],
}

impl Values<'_> {
    fn decode(&self, piece: &LocatedPiece, row: usize, out: &mut [f32]) {
        piece.coding.decode_run(&|place| self.stored.bytes(place), row * piece.k, out);
    }
}

impl convert::MatrixValues for Values<'_> {
    fn read(&self, matrix: usize, rows: Range<usize>, out: &mut [f32]) {
        let [_, matrix_rows, k] = self.dimensions;
        let pieces = &self.located.pieces;
        match self.located.arrangement {
            Arrangement::Columns => {
                let coding = &pieces[0].coding;
                let first = matrix * k * matrix_rows;
                let mut line = vec![0.0; rows.len()];
                for column in 0..k {
                    let start = first + column * matrix_rows + rows.start;
                    coding.decode_run(&|place| self.stored.bytes(place), start, &mut line);
                    for (&value, row) in line.iter().zip(out.chunks_exact_mut(k)) {
                        row[column] = value;
                    }
                }
            }
            Arrangement::GateUp => {
                for (row, out) in rows.zip(out.chunks_exact_mut(k)) {
                    self.decode(&pieces[2 * matrix + row % 2], row / 2, out);
                }
            }
            Arrangement::Rows | Arrangement::BlocksAndScales => {
                let (mut piece, mut row) = (0, matrix * matrix_rows + rows.start);
                for out in out.chunks_exact_mut(k) {
                    while row >= pieces[piece].rows {
                        row -= pieces[piece].rows;
                        piece += 1;
                    }
                    self.decode(&pieces[piece], row, out);
                    row += 1;
                }
            }
        }
    }
}

/// Tensors by name: file and header entry.
pub(super) type Tensors<'a> = BTreeMap<&'a str, (usize, &'a TensorInfo)>;

fn refused(path: &Path, problem: String) -> Error {
    Error::Checkpoint { path: path.to_owned(), problem }
}

fn merge(files: &[TensorFile]) -> Result<Tensors<'_>> {
    let mut all = Tensors::new();
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

fn layout(folder: &Path, tensors: &Tensors<'_>) -> Result<Layout> {
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

/// Looks for weights, and remembers which tensors none of them used.
struct Finder<'a> {
    folder: &'a Path,
    files: &'a [TensorFile],
    all: Tensors<'a>,
    unused: Tensors<'a>,
}

impl Finder<'_> {
    fn find(&mut self, forms: &[Form]) -> Result<Located> {
        let first_there = |form: &&Form| {
            form.pieces.first().is_some_and(|piece| self.all.contains_key(piece.name.as_str()))
        };
        let form = forms.iter().find(first_there).unwrap_or(&forms[0]);
        let stored =
            Stored { file: &|file| &self.files[file], find: &|name| self.all.get(name).copied() };
        if form.arrangement == Arrangement::BlocksAndScales {
            let [blocks, scales] = &form.pieces[..] else { return Ok(ABSENT) };
            let found =
                coding::blocks_and_scales(&stored, &blocks.name, &scales.name, &blocks.shape);
            let coding = found.map_err(|problem| self.refuse(problem))?;
            let k = blocks.shape.last().copied().unwrap_or(1);
            let rows = blocks.shape.iter().product::<usize>() / k;
            self.use_up(&coding.names);
            let pieces = vec![LocatedPiece { rows, k, coding: coding.coding }];
            return Ok(Located { arrangement: form.arrangement, pieces });
        }
        let mut pieces = Vec::with_capacity(form.pieces.len());
        for piece in &form.pieces {
            let found = coding::of_values(&stored, &piece.name, &piece.shape);
            let coding = found.map_err(|problem| self.refuse(problem))?;
            let (rows, k) = match (&piece.shape[..], form.arrangement) {
                // Vectors are columns, so that parts and alternating halves of them are rows.
                (&[rows], _) => (rows, 1),
                (shape, _) => {
                    let k = shape.last().copied().unwrap_or(1);
                    (shape.iter().product::<usize>() / k, k)
                }
            };
            pieces.push((LocatedPiece { rows, k, coding: coding.coding }, coding.names));
        }
        let arrangement = form.arrangement;
        let keep = |(piece, names): (LocatedPiece, Vec<String>)| {
            self.use_up(&names);
            piece
        };
        Ok(Located { arrangement, pieces: pieces.into_iter().map(keep).collect() })
    }

    fn use_up(&mut self, names: &[String]) {
        for name in names {
            self.unused.remove(name.as_str());
        }
    }

    /// The error of a problem, with the file that it is in, if it is one.
    fn refuse(&self, problem: Problem) -> Error {
        let path = match (problem.file, self.files) {
            (Some(file), _) => &self.files[file].path,
            (None, [only]) => &only.path,
            (None, _) => return refused(self.folder, problem.text),
        };
        refused(path, problem.text)
    }
}

/// Ignores unknown tensors, but refuses those of a layer that the model does not have, and says which ones change the
/// result in other programs.
fn check_unused(finder: &Finder<'_>, layout: Layout, spec: &ModelSpec) -> Result<Vec<String>> {
    for (name, (file, _)) in &finder.unused {
        if layout.layer_of(name).is_some_and(|layer| layer >= spec.layers.len()) {
            let layers = spec.layers.len();
            let problem = format!("tensor {name}: the model has {layers} layers, counted from 0");
            return Err(refused(&finder.files[*file].path, problem));
        }
    }
    let ending = |endings: &[&str]| {
        let mut names =
            finder.unused.keys().filter(|name| endings.iter().any(|e| name.ends_with(e)));
        names.next().map(|first| (1 + names.count(), *first))
    };
    let mut notes = Vec::new();
    if let Some((count, first)) =
        ending(&["input_scale", "output_scale", ".k_scale", ".v_scale", ".q_scale"])
    {
        notes.push(format!(
            "{count} scales of 8-bit activations or caches were passed over, such as {first}: both are kept in 16 bits or more here"
        ));
    }
    if !spec.attention_bias
        && let Some((count, first)) = ending(&["_proj.bias", "attn.qkv.bias", "attn.out.bias"])
    {
        notes.push(format!(
            "{count} biases of attention were passed over, such as {first}: config.json says `attention_bias` false"
        ));
    }
    if let Some(first) = finder.unused.keys().next() {
        tracing::debug!(count = finder.unused.len(), first, "tensors that the model does not use");
    }
    Ok(notes)
}
