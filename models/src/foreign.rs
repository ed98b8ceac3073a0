//! Models that are not built in, from a checkpoint's own configuration.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ossmith_codegen::{
    CompileError, Overrides, TuningRecord, compile, compile_rank, compile_with, spec,
};
use ossmith_plan::{Arch, Model, ModelSpec, Shard};

/// What stops a folder from being a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that is missing or cannot be read.
    #[error("cannot read {}: {source}; give the folder of a checkpoint, with its config.json", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A configuration that no kernel supports.
    #[error("{}: {source}", folder.display())]
    Spec {
        /// The checkpoint's folder.
        folder: PathBuf,
        /// Which field.
        source: spec::SpecError,
    },
    /// A model that no kernels compute.
    #[error("{}: {source}", folder.display())]
    Compile {
        /// The checkpoint's folder.
        folder: PathBuf,
        /// Why.
        source: CompileError,
    },
}

/// The model of a checkpoint folder: a built-in one if the folder's `config.json` and `generation_config.json` say
/// the same, else one compiled now, named like the folder. A model lives as long as the process, so call this once
/// for each checkpoint.
///
/// # Errors
/// [`Error::Read`] if `config.json` is missing or a file cannot be read, [`Error::Spec`] if a value is unsupported,
/// [`Error::Compile`] if no kernels compute its layers.
pub fn from_folder(folder: &Path) -> Result<&'static Model, Error> {
    from_config(&folder.join("config.json"))
}

/// As [`from_folder`], of a configuration by itself: a file in the form of `config.json`, of any name. The model is named
/// like its folder.
///
/// # Errors
/// As [`from_folder`].
pub fn from_config(config: &Path) -> Result<&'static Model, Error> {
    let folder = match config.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let text = std::fs::read_to_string(config)
        .map_err(|source| Error::Read { file: config.to_path_buf(), source })?;
    let generation = folder.join("generation_config.json");
    let generation = match std::fs::read_to_string(&generation) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(source) => return Err(Error::Read { file: generation, source }),
    };
    from_text(&name_of(folder), folder, &text, generation.as_deref())
}

/// As [`from_folder`], of the text of a configuration that is in no file of its own: the metadata of a GGUF file at
/// `origin`, which errors name.
///
/// # Errors
/// [`Error::Spec`] and [`Error::Compile`], as [`from_folder`].
pub fn from_text(
    name: &str,
    origin: &Path,
    config: &str,
    generation: Option<&str>,
) -> Result<&'static Model, Error> {
    let spec = spec::parse(name, config, generation)
        .map_err(|source| Error::Spec { folder: origin.to_path_buf(), source })?;
    let same = |model: &&Model| ModelSpec { name: model.spec.name, ..spec } == model.spec;
    match crate::ALL.into_iter().find(same) {
        Some(model) => Ok(model),
        None => {
            compile(spec).map_err(|source| Error::Compile { folder: origin.to_path_buf(), source })
        }
    }
}

/// The committed tuning records, as text: what the build embeds into the built-in models.
const RECORDS: [&str; 2] = [include_str!("../tuned/h100.toml"), include_str!("../tuned/h200.toml")];

/// The values that a profile's tuning record has for a model, as far as they fit; none if there is no record.
///
/// # Errors
/// [`CompileError`] of the model itself.
pub fn tuned_values(spec: &ModelSpec, arch: &Arch) -> Result<Overrides, CompileError> {
    let records = RECORDS.iter().filter_map(|text| TuningRecord::parse(text).ok());
    let mut fitting = Overrides::default();
    for record in records.filter(|record| record.profile == arch.name) {
        fitting = fitting.with(&record.fit(spec)?.0);
    }
    Ok(fitting)
}

/// A model with some tunables chosen otherwise than the profile's tuning record and schedules do.
///
/// # Errors
/// [`CompileError`] for a value that is illegal, with what is legal, or names nothing, with what there is.
pub fn scheduled(
    model: &Model,
    arch: &Arch,
    overrides: &Overrides,
) -> Result<&'static Model, CompileError> {
    let values = tuned_values(&model.spec, arch)?.with(overrides);
    compile_with(model.spec, arch, &values)
}

/// What each of `of` ranks computes of a model on devices of a profile, in the order of the ranks. It lives as long as the
/// process, so call this once for each model.
///
/// # Errors
/// [`CompileError`] if so many ranks cannot share the model.
pub fn ranks(
    model: &Model,
    of: usize,
    arch: &Arch,
) -> Result<&'static [&'static Model], CompileError> {
    let ranks = Shard::all(of).map(|shard| compile_rank(model.spec, shard, arch));
    Ok(ranks.collect::<Result<Vec<_>, _>>()?.leak())
}

/// The folder's own name; `.` and the like are looked up first.
fn name_of(folder: &Path) -> String {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    full.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned())
}
