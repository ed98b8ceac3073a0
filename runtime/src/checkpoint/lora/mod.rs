//! Low-rank adapters (LoRA) as peft writes them: a folder with `adapter_config.json` and `adapter_model.safetensors`.
//!
//! [`config`] reads the configuration and refuses what other methods than plain LoRA add, [`names`] says which weight a tensor
//! adapts, and [`merged`] adds adapters to the weights of a checkpoint. A backend that applies an adapter beside a matrix
//! reads its [`AdapterPart`]s.

mod config;
mod merged;
mod names;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use ossmith_plan::{ModelSpec, Weight};
use safetensors::Dtype;

use super::lookup::decode_floats;
use super::safetensors_file::TensorFile;
use crate::{Error, Result};
use config::AdapterConfig;
pub(super) use merged::MergedWeights;
use names::{Kind, Site, Which};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// The largest rank of an adapter.
pub const MAX_RANK: usize = 512;

/// Bytes of a configuration. Those that peft writes have a few thousand, and two million if they name each expert.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// What an adapter may be, which is known before its matrices are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterBounds {
    /// The largest rank of its matrices.
    pub rank: usize,
    /// Bytes of its matrices in memory.
    pub bytes: usize,
}

impl Default for AdapterBounds {
    fn default() -> AdapterBounds {
        AdapterBounds { rank: MAX_RANK, bytes: usize::MAX }
    }
}

/// Which adapters an engine applies to single requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdapterSupport {
    /// None: several ranks.
    #[default]
    None,
    /// Those that change attention's projections alone: a CUDA device.
    Attention,
    /// All of them: the CPU.
    All,
}

impl AdapterSupport {
    /// Why an adapter is not applied to single requests, if it is not, and what to do.
    #[must_use]
    pub fn refusal(self, adapter: &Adapter) -> Option<String> {
        const WAY_OUT: &str = "merge it into the weights (--lora NAME=FOLDER), or run on the CPU with one rank (--backend cpu)";
        let name = &adapter.name;
        let other = adapter.parts.keys().find_map(|(weight, layer)| match weight {
            Weight::Qkv | Weight::AttnOut => None,
            Weight::Router => Some(format!("mlp.router of layer {layer}")),
            Weight::GateUp => Some(format!("mlp.experts.gate_up_proj of layer {layer}")),
            Weight::Down => Some(format!("mlp.experts.down_proj of layer {layer}")),
            other => Some(format!("{other:?} of layer {layer}")),
        });
        match (self, other) {
            (AdapterSupport::All, _) | (AdapterSupport::Attention, None) => None,
            (AdapterSupport::None, _) => Some(format!(
                "adapter {name} was requested, and several ranks apply none to single requests: {WAY_OUT}"
            )),
            (AdapterSupport::Attention, Some(other)) => Some(format!(
                "adapter {name} adapts {other}, and on a CUDA device those of single requests adapt attention alone (q_proj, k_proj, \
                 v_proj, o_proj): {WAY_OUT}"
            )),
        }
    }
}

/// What an adapter adds to some rows of a matrix `w`: `w + b a`, or `b (a x)` to `w x`.
#[derive(Debug)]
pub(crate) struct AdapterPart {
    /// Which matrix of the weight: an expert, or 0.
    pub(crate) matrix: usize,
    /// Row of the matrix to which the first row of `b` is added.
    pub(crate) first_row: usize,
    /// Rows of `a`.
    pub(crate) rank: usize,
    /// `[rank, k]`.
    pub(crate) a: Vec<f32>,
    /// `[rows, rank]`, times the adapter's scale.
    pub(crate) b: Vec<f32>,
}

impl AdapterPart {
    /// Rows of the matrix to which it adds.
    pub(crate) fn rows(&self) -> usize {
        self.b.len() / self.rank
    }

    /// Adds what the part adds to `w x` to `out`, a row of the matrix's results.
    pub(crate) fn apply(&self, x: &[f32], out: &mut [f32]) {
        let inner: Vec<f32> = self.a.chunks_exact(x.len()).map(|row| dot(row, x)).collect();
        let out = &mut out[self.first_row..self.first_row + self.rows()];
        for (out, row) in out.iter_mut().zip(self.b.chunks_exact(self.rank)) {
            *out += dot(row, &inner);
        }
    }

    /// Adds row `row` of `b a` to `out`, a row of the matrix.
    fn add_to_row(&self, row: usize, out: &mut [f32]) {
        let Some(row) = row.checked_sub(self.first_row).filter(|&row| row < self.rows()) else {
            return;
        };
        let factors = &self.b[row * self.rank..(row + 1) * self.rank];
        for (&factor, line) in factors.iter().zip(self.a.chunks_exact(out.len())) {
            for (out, &value) in out.iter_mut().zip(line) {
                *out += factor * value;
            }
        }
    }
}

/// The scalar sum `a b`, in an order that depends on the length alone.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 8];
    let (a, rest_a) = a.as_chunks::<8>();
    let (b, rest_b) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        for (sum, (&a, &b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest: f32 = rest_a.iter().zip(rest_b).map(|(&a, &b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// A low-rank adapter for one model, checked against its shapes.
#[derive(Debug)]
pub struct Adapter {
    name: String,
    folder: PathBuf,
    /// Its configuration, which has the scales, and its matrices.
    files: [PathBuf; 2],
    /// Distinguishes it from every other adapter of this process.
    id: u64,
    spec: ModelSpec,
    base: Option<String>,
    rank: usize,
    /// By weight and layer, ascending by matrix and first row.
    parts: BTreeMap<(Weight, usize), Vec<AdapterPart>>,
    notes: Vec<String>,
}

impl Adapter {
    /// Reads a folder that peft wrote, for a model of these shapes.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the file, the field or the tensor, what was expected and what was found;
    /// [`Error::File`] for a file that cannot be read.
    pub fn open(name: &str, folder: &Path, spec: &ModelSpec) -> Result<Adapter> {
        Adapter::open_within(name, folder, spec, AdapterBounds::default())
    }

    /// The same, of an adapter that may be no larger than this. One that is larger is refused before its matrices are read.
    ///
    /// # Errors
    /// As [`Adapter::open`], with the bound and what the adapter has.
    pub fn open_within(
        name: &str,
        folder: &Path,
        spec: &ModelSpec,
        bounds: AdapterBounds,
    ) -> Result<Adapter> {
        let refused = |problem: String| Error::Checkpoint { path: folder.to_owned(), problem };
        let (config, weights) = (folder.join(CONFIG), folder.join(WEIGHTS));
        if !config.is_file() {
            return Err(refused(format!(
                "has no {CONFIG}; give the folder of an adapter as peft saves it"
            )));
        }
        let text = read_config(&config)?;
        if !weights.is_file() {
            let hint = match folder.join("adapter_model.bin").is_file() {
                true => {
                    "; adapter_model.bin is a pickle, which can run code and is not read: save it again with safe_serialization"
                }
                false => "",
            };
            return Err(refused(format!("has no {WEIGHTS}{hint}")));
        }
        let file = TensorFile::open(&weights)?;
        Adapter::of_files(name, folder, &config, &text, &file, spec, bounds)
    }

    /// Reads the two files from memory; errors show `name` as their folder.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], as for [`Adapter::open`].
    pub fn from_bytes(
        name: &str,
        config: &[u8],
        weights: Vec<u8>,
        spec: &ModelSpec,
    ) -> Result<Adapter> {
        let folder = Path::new(name);
        let file = TensorFile::from_bytes(&folder.join(WEIGHTS), weights)?;
        let bounds = AdapterBounds::default();
        Adapter::of_files(name, folder, &folder.join(CONFIG), config, &file, spec, bounds)
    }

    fn of_files(
        name: &str,
        folder: &Path,
        config_path: &Path,
        text: &[u8],
        file: &TensorFile,
        spec: &ModelSpec,
        bounds: AdapterBounds,
    ) -> Result<Adapter> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let config = AdapterConfig::parse(text)
            .map_err(|problem| Error::Checkpoint { path: config_path.to_owned(), problem })?;
        let refused = |problem| Error::Checkpoint { path: file.path.clone(), problem };
        let mut adapter = Adapter {
            name: name.to_owned(),
            folder: folder.to_owned(),
            files: [config_path.to_owned(), file.path.clone()],
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            spec: *spec,
            base: config.base.clone(),
            rank: 0,
            parts: BTreeMap::new(),
            notes: config.notes.clone(),
        };
        let pairs = names::pairs(file.tensors.keys().map(String::as_str), spec).map_err(refused)?;
        let sites =
            pairs.iter().map(|(site, pair)| SiteShape::new(file, &config, spec, site, pair));
        let sites = sites.collect::<std::result::Result<Vec<_>, _>>().map_err(refused)?;
        check_bounds(&sites, bounds).map_err(refused)?;
        for (site, pair) in sites.into_iter().zip(pairs.values()) {
            adapter.add(file, site, pair).map_err(refused)?;
        }
        for parts in adapter.parts.values_mut() {
            parts.sort_by_key(|part| (part.matrix, part.first_row));
        }
        Ok(adapter)
    }

    /// An adapter of attention's projections with these values, which are rounded to bf16: for checks and timings of kernels.
    #[cfg(feature = "cuda")]
    pub(crate) fn of_attention(
        name: &str,
        spec: &ModelSpec,
        rank: usize,
        value: &mut dyn FnMut() -> f32,
    ) -> Adapter {
        static NEXT: AtomicU64 = AtomicU64::new(1 << 32);
        let mut some = |count: usize, scale: f32| -> Vec<f32> {
            (0..count).map(|_| half::bf16::from_f32(value() * scale).to_f32()).collect()
        };
        let (q, kv) = (spec.q_width(), spec.kv_width());
        let mut part = |first_row: usize, rows: usize, k: usize| AdapterPart {
            matrix: 0,
            first_row,
            rank,
            a: some(rank * k, 1.0 / (k as f32).sqrt()),
            b: some(rows * rank, 1.0 / (rank as f32).sqrt()),
        };
        let mut parts = BTreeMap::new();
        for layer in 0..spec.layers.len() {
            let of_qkv = [(0, q), (q, kv), (q + kv, kv)];
            let of_qkv = of_qkv.map(|(first_row, rows)| part(first_row, rows, spec.hidden));
            parts.insert((Weight::Qkv, layer), of_qkv.into());
            parts.insert((Weight::AttnOut, layer), vec![part(0, spec.hidden, q)]);
        }
        Adapter {
            name: name.to_owned(),
            folder: PathBuf::new(),
            files: [PathBuf::new(), PathBuf::new()],
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            spec: *spec,
            base: None,
            rank,
            parts,
            notes: Vec::new(),
        }
    }

    /// Reads the two tensors of one module or parameter.
    fn add(
        &mut self,
        file: &TensorFile,
        site: SiteShape,
        pair: &[String; 2],
    ) -> std::result::Result<(), String> {
        let SiteShape { kind, layer, rank, scale } = site;
        let Kind { weight, matrices, first_row, rows, k, .. } = kind;
        let experts = matrices.len();
        let (a, b) = (values(file, &pair[0])?, values(file, &pair[1])?);
        self.rank = self.rank.max(rank);
        let parts = self.parts.entry((weight, layer)).or_default();
        for (place, matrix) in matrices.enumerate() {
            // peft has the columns of `b` by rank, and those of a rank by expert.
            let column = |row: usize, r: usize| b[row * rank * experts + r * experts + place];
            let of_row = |row| (0..rank).map(move |r| scale * column(row, r));
            parts.push(AdapterPart {
                matrix,
                first_row,
                rank,
                a: a[place * rank * k..(place + 1) * rank * k].to_vec(),
                b: (0..rows).flat_map(of_row).collect(),
            });
        }
        Ok(())
    }

    /// The name that it was opened with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The model that its configuration names as the one that it was trained on.
    #[must_use]
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// The largest rank of its matrices.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Bytes of its matrices in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let all = self.parts.values().flatten();
        all.map(|part| size_of::<f32>() * (part.a.len() + part.b.len())).sum()
    }

    /// A number that no other adapter of this process has.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The scope of cached prefixes of requests that have this salt and this adapter.
    pub(crate) fn cache_salt(&self, salt: u64) -> u64 {
        let mixed = |number: u64| {
            let number = (number ^ number >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (number ^ number >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        };
        mixed(mixed(salt) ^ self.id)
    }

    /// Whether it was opened for a model of these shapes.
    pub(crate) fn fits(&self, spec: &ModelSpec) -> bool {
        self.spec == *spec
    }

    /// What it adds to a weight of a layer, ascending by matrix.
    pub(crate) fn parts(&self, weight: Weight, layer: usize) -> &[AdapterPart] {
        self.parts.get(&(weight, layer)).map_or(&[], Vec::as_slice)
    }

    /// The same of one of the weight's matrices.
    pub(crate) fn parts_of(&self, weight: Weight, layer: usize, matrix: usize) -> &[AdapterPart] {
        let parts = self.parts(weight, layer);
        let start = parts.partition_point(|part| part.matrix < matrix);
        let end = parts.partition_point(|part| part.matrix <= matrix);
        &parts[start..end]
    }
}

/// What the two tensors of one module or parameter adapt, from their shapes alone.
struct SiteShape {
    kind: Kind,
    layer: usize,
    rank: usize,
    scale: f32,
}

impl SiteShape {
    fn new(
        file: &TensorFile,
        config: &AdapterConfig,
        spec: &ModelSpec,
        site: &Site,
        pair: &[String; 2],
    ) -> std::result::Result<SiteShape, String> {
        let shape = |name: &String| match file.tensors[name].shape[..] {
            [rows, columns] => Ok([rows, columns]),
            ref other => Err(format!("tensor {name}: has shape {other:?}; expected two axes")),
        };
        let (a_shape, b_shape) = (shape(&pair[0])?, shape(&pair[1])?);
        let kind = site.kind(spec, b_shape[0], &config.target_parameters)?;
        if config.fan_in_fan_out && site.which == Which::Experts {
            return Err(format!(
                "tensor {}: fan_in_fan_out is true, which has no meaning for parameters of experts; set it to false",
                pair[0]
            ));
        }
        let module = format!("model.layers.{}.{}", site.layer, kind.path);
        let (rank, scale) = config.rank_and_scale(&module)?;
        if rank > MAX_RANK {
            return Err(format!("{module} has rank {rank}; at most {MAX_RANK} is computed"));
        }
        let experts = kind.matrices.len();
        let (a_expected, b_expected) = ([rank * experts, kind.k], [kind.rows, rank * experts]);
        for (name, found, expected) in
            [(&pair[0], a_shape, a_expected), (&pair[1], b_shape, b_expected)]
        {
            if found != expected {
                return Err(format!(
                    "tensor {name}: expected {expected:?} for rank {rank} of {module}, found {found:?}"
                ));
            }
        }
        Ok(SiteShape { kind, layer: site.layer, rank, scale })
    }

    fn bytes(&self) -> usize {
        let Kind { matrices, rows, k, .. } = &self.kind;
        size_of::<f32>() * matrices.len() * self.rank * (rows + k)
    }
}

/// Refuses what is larger than it may be.
fn check_bounds(sites: &[SiteShape], bounds: AdapterBounds) -> std::result::Result<(), String> {
    let rank = sites.iter().map(|site| site.rank).max().unwrap_or(0);
    if rank > bounds.rank {
        return Err(format!(
            "has rank {rank}; ranks up to {} are taken here: raise the bound (--max-lora-rank)",
            bounds.rank
        ));
    }
    let bytes = sites.iter().fold(0_usize, |sum, site| sum.saturating_add(site.bytes()));
    if bytes > bounds.bytes {
        return Err(format!(
            "takes {bytes} bytes of memory, and there is room for {}: unload another one, or raise the bound (--max-lora-bytes)",
            bounds.bytes
        ));
    }
    Ok(())
}

/// The text of a configuration, which may be anything, and of any length.
fn read_config(path: &Path) -> Result<Vec<u8>> {
    let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        let problem = format!("has over {MAX_CONFIG_BYTES} bytes, which no configuration needs");
        return Err(Error::Checkpoint { path: path.to_owned(), problem });
    }
    Ok(text)
}

/// A tensor of plain floats.
fn values(file: &TensorFile, name: &str) -> std::result::Result<Vec<f32>, String> {
    let info = &file.tensors[name];
    if !matches!(info.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32) {
        return Err(format!("tensor {name}: is {:?}; expected BF16, F16 or F32", info.dtype));
    }
    let mut values = vec![0.0; info.shape.iter().product()];
    decode_floats(info.dtype, file.bytes(file.range(info)), 0, &mut values);
    match values.iter().find(|value| !value.is_finite()) {
        None => Ok(values),
        Some(bad) => Err(format!("tensor {name}: holds {bad}, which is no weight")),
    }
}
