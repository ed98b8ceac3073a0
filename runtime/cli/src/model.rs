//! The values of `--model`, and the model and weights that each names.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context;
use clap::builder::{OsStringValueParser, TypedValueParser};
use ossmith::{Adapter, Checkpoint, CheckpointOptions, ExpertStorage, Gguf};
use ossmith_plan::Model;

use crate::failure::fail;
use crate::gguf;
use crate::hub::{self, Repository};
use crate::output::note;

/// A value of `--model`: a name, or a path, which need not be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelName(OsString);

impl ModelName {
    /// How it is read from the command line.
    pub(crate) fn parser() -> impl TypedValueParser<Value = ModelName> {
        OsStringValueParser::new().map(ModelName)
    }

    /// The name or path of the shape, if random weights are wanted.
    fn synthetic(&self) -> Option<&OsStr> {
        self.0.as_bytes().strip_prefix(b"synthetic:").map(OsStr::from_bytes)
    }

    /// The same for random weights that count.
    fn counting(&self) -> Option<&OsStr> {
        self.0.as_bytes().strip_prefix(b"counting:").map(OsStr::from_bytes)
    }

    /// The repository of the hub that it may name.
    fn repository(&self) -> Option<Repository> {
        self.0.to_str().filter(|name| name.contains(['/', '@'])).and_then(Repository::parse)
    }
}

impl From<&str> for ModelName {
    fn from(name: &str) -> ModelName {
        ModelName(name.into())
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl serde::Serialize for ModelName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The built-in model of a name.
fn built_in(name: &OsStr) -> Option<&'static Model> {
    name.to_str().and_then(ossmith_models::find)
}

/// The form of experts, as the command line spells it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ExpertsForm(ExpertStorage);

impl FromStr for ExpertsForm {
    type Err = String;

    fn from_str(text: &str) -> Result<ExpertsForm, String> {
        match text {
            "mxfp4" => Ok(ExpertsForm(ExpertStorage::Mxfp4)),
            "bf16" => Ok(ExpertsForm(ExpertStorage::Bf16)),
            _ => Err("expected mxfp4 or bf16".to_owned()),
        }
    }
}

/// A folder and what it is called: NAME=FOLDER.
#[derive(Clone, Debug)]
pub(crate) struct NamedFolder {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
}

impl FromStr for NamedFolder {
    type Err = String;

    fn from_str(text: &str) -> Result<NamedFolder, String> {
        match text.split_once('=') {
            Some((name, folder)) if !name.is_empty() && !folder.is_empty() => {
                Ok(NamedFolder { name: name.to_owned(), folder: folder.into() })
            }
            _ => Err("expected NAME=FOLDER".to_owned()),
        }
    }
}

/// Which model to run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// A built-in name, a checkpoint folder, or random weights.
    ///
    /// Built-in names are nano, gpt-oss-20b and gpt-oss-120b (also written openai/gpt-oss-20b). nano's weights are
    /// embedded; those of the others, and of OWNER/MODEL or OWNER/MODEL@REVISION, are taken from the local Hugging Face cache, or downloaded
    /// into it. A folder holds config.json and safetensors files in Hugging Face or OpenAI layout; a file is a GGUF file
    /// (the first part of several) of llama.cpp's architecture gpt-oss. `synthetic:NAME`
    /// and `synthetic:FOLDER` make seeded random weights of that shape; with `counting:NAME` the likeliest token after
    /// any is the next in the vocabulary, for measuring drafts.
    #[arg(long, short, default_value = "nano", value_name = "NAME|FOLDER|FILE.gguf|synthetic:…", value_parser = ModelName::parser())]
    pub(crate) model: ModelName,

    /// The form of experts that the checkpoint does not store in MXFP4: quantised, or kept in bf16 (on the CPU).
    #[arg(long, default_value = "mxfp4", value_name = "mxfp4|bf16")]
    pub(crate) experts: ExpertsForm,

    /// A LoRA adapter, as peft saves it, that is added to the weights while they are loaded; several may be given.
    #[arg(long, value_name = "NAME=FOLDER")]
    pub(crate) lora: Vec<NamedFolder>,

    /// Seed of random weights.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) weights_seed: u64,
}

/// A model with its weights, not loaded onto a device yet.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) model: &'static Model,
    pub(crate) checkpoint: Arc<Checkpoint>,
    is_random: bool,
}

impl Chosen {
    /// Whether the weights are random, with adapters added to them or not, so that answers mean nothing.
    pub(crate) fn is_random(&self) -> bool {
        self.is_random
    }

    /// Prints a warning on standard error if the weights are random.
    pub(crate) fn warn_if_random(&self) {
        if self.is_random() {
            let name = self.model.spec.name;
            note!("{name} has random weights here, so its answers are random tokens");
        }
    }
}

impl ModelArgs {
    /// The model of a name, read as it is by default.
    pub(crate) fn named(name: &str, weights_seed: u64) -> ModelArgs {
        ModelArgs::of(name.into(), weights_seed)
    }

    /// The same of a value of `--model`.
    pub(crate) fn of(model: ModelName, weights_seed: u64) -> ModelArgs {
        ModelArgs { model, experts: ExpertsForm::default(), lora: Vec::new(), weights_seed }
    }

    /// Finds the model and opens its weights.
    pub(crate) fn choose(&self) -> anyhow::Result<Chosen> {
        let (model, checkpoint) = self.open()?;
        let is_random = checkpoint.synthetic_seed().is_some();
        let checkpoint = self.merge(model, checkpoint)?;
        for sentence in checkpoint.notes() {
            note!("{}: {sentence}", self.model);
        }
        Ok(Chosen { model, checkpoint: Arc::new(checkpoint), is_random })
    }

    /// The model alone, for commands that need no weights.
    pub(crate) fn shape(&self) -> anyhow::Result<&'static Model> {
        let random = self.model.synthetic().or_else(|| self.model.counting());
        let name = random.unwrap_or(&self.model.0);
        let path = Path::new(name);
        match built_in(name) {
            Some(model) => Ok(model),
            None if Gguf::is_named(path) && path.is_file() => gguf::model(&Gguf::open(path)?, path),
            None => foreign(path),
        }
    }

    /// The folder that `--model` names, or into which a repository of the hub was downloaded.
    fn folder(&self) -> anyhow::Result<PathBuf> {
        let path = PathBuf::from(&self.model.0);
        match self.model.repository() {
            Some(repository) if !path.exists() => hub::snapshot(&repository),
            _ => Ok(path),
        }
    }

    /// The folder of files that the model's configuration is in, if it is in one: not that of a GGUF file or of an embedded model.
    pub(crate) fn configured_folder(&self) -> anyhow::Result<Option<PathBuf>> {
        let name = self.model.synthetic().or_else(|| self.model.counting());
        let name = name.unwrap_or(&self.model.0);
        match built_in(name) {
            Some(model) if model.spec.name == "nano" || name != self.model.0 => Ok(None),
            Some(model) => {
                Repository::parse(model.spec.name).map(|name| hub::snapshot(&name)).transpose()
            }
            None if name != self.model.0 => Ok(Some(PathBuf::from(name))),
            None => self.folder().map(|folder| folder.is_dir().then_some(folder)),
        }
    }

    /// The GGUF file that `--model` names, if it is one.
    pub(crate) fn gguf_file(&self) -> anyhow::Result<Option<PathBuf>> {
        let path = self.folder()?;
        Ok((Gguf::is_named(&path) && path.is_file()).then_some(path))
    }

    fn options(&self) -> CheckpointOptions {
        // Experts are rounded once, after the adapters were added.
        let experts = if self.lora.is_empty() { self.experts.0 } else { ExpertStorage::Bf16 };
        CheckpointOptions::default().with_experts(experts)
    }

    /// The weights with the adapters of `--lora`.
    fn merge(&self, model: &'static Model, weights: Checkpoint) -> anyhow::Result<Checkpoint> {
        if self.lora.is_empty() {
            return Ok(weights);
        }
        let open = |lora: &NamedFolder| {
            let adapter = Adapter::open(&lora.name, &lora.folder, &model.spec)?;
            note!("adapter {} of rank {} is added to the weights", lora.name, adapter.rank());
            Ok(Arc::new(adapter))
        };
        let adapters = self.lora.iter().map(open).collect::<anyhow::Result<_>>()?;
        Ok(weights.with_adapters(model, adapters, self.experts.0)?)
    }

    fn open(&self) -> anyhow::Result<(&'static Model, Checkpoint)> {
        if self.model.synthetic().is_some() {
            let model = self.shape()?;
            return Ok((model, Checkpoint::synthetic(model, self.weights_seed)));
        }
        if self.model.counting().is_some() {
            let model = self.shape()?;
            return Ok((model, Checkpoint::counting(model, self.weights_seed)));
        }
        match built_in(&self.model.0) {
            Some(model) if model.spec.name == "nano" => Ok((model, embedded_nano(model)?)),
            Some(model) => {
                let folder = Repository::parse(model.spec.name).map(|name| hub::snapshot(&name));
                let folder = folder.unwrap_or_else(|| Err(unknown(&self.model)))?;
                Ok((model, Checkpoint::open_with(&folder, model, self.options())?))
            }
            None => {
                let folder = self.folder()?;
                if Gguf::is_named(&folder) && folder.is_file() {
                    if self.experts.0 == ExpertStorage::Bf16 {
                        return Err(fail(
                            "experts of a GGUF file run in MXFP4; --experts bf16 is for safetensors",
                            "leave --experts out, or give a folder of safetensors",
                        ));
                    }
                    return gguf::open(&folder);
                }
                let model = foreign(&folder)?;
                Ok((model, Checkpoint::open_with(&folder, model, self.options())?))
            }
        }
    }
}

/// nano's embedded weights.
fn embedded_nano(model: &'static Model) -> anyhow::Result<Checkpoint> {
    let file = ossmith_models::nano_checkpoint().context("cannot unpack nano's weights")?;
    Ok(Checkpoint::from_bytes("nano's embedded weights", file, model)?)
}

/// Names of the models that are built in.
pub(crate) fn names() -> Vec<&'static str> {
    ossmith_models::ALL.iter().map(|model| model.spec.name).collect()
}

fn unknown(name: impl fmt::Display) -> anyhow::Error {
    fail(
        format!("there is no model `{name}`, neither built in nor as a folder"),
        format!(
            "built-in models are {}; or give a folder with config.json and safetensors files, or OWNER/MODEL on the hub",
            names().join(", ")
        ),
    )
}

/// The model that a folder's config.json describes.
fn foreign(folder: &Path) -> anyhow::Result<&'static Model> {
    let refused = |what: &str| {
        fail(
            format!("`{}` {what}", folder.display()),
            "give the folder that holds config.json and the safetensors files, or a file whose name ends in .gguf",
        )
    };
    if !folder.exists() {
        return Err(unknown(folder.display()));
    }
    if folder.is_file() {
        return Err(refused("is a file"));
    }
    if !folder.join("config.json").is_file() {
        return Err(refused("has no config.json"));
    }
    Ok(ossmith_models::from_folder(folder)?)
}
