//! The values of `--model`, and the model and weights that each names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use ossmith::Checkpoint;
use ossmith_plan::Model;

use crate::failure::fail;
use crate::hub::{self, Repository};

/// Which model to run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// A built-in name, a checkpoint folder, or random weights.
    ///
    /// Built-in names are nano, gpt-oss-20b and gpt-oss-120b (also written openai/gpt-oss-20b). nano's weights are
    /// embedded; those of the others, and of OWNER/MODEL, are taken from the local Hugging Face cache, or downloaded
    /// into it. A folder holds config.json and safetensors files in Hugging Face or OpenAI layout. `synthetic:NAME`
    /// and `synthetic:FOLDER` make seeded random weights of that shape.
    #[arg(long, short, default_value = "nano", value_name = "NAME|FOLDER|synthetic:…")]
    pub(crate) model: String,

    /// Seed of random weights.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) weights_seed: u64,
}

/// A model with its weights, not loaded onto a device yet.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) model: &'static Model,
    pub(crate) checkpoint: Arc<Checkpoint>,
}

impl Chosen {
    /// Whether the weights are random, so that answers mean nothing.
    pub(crate) fn is_random(&self) -> bool {
        self.checkpoint.synthetic_seed().is_some()
    }

    /// Prints a warning on standard error if the weights are random.
    pub(crate) fn warn_if_random(&self) {
        if self.is_random() {
            let name = self.model.spec.name;
            eprintln!("{name} has random weights here, so its answers are random tokens");
        }
    }
}

impl ModelArgs {
    /// Finds the model and opens its weights.
    pub(crate) fn choose(&self) -> anyhow::Result<Chosen> {
        let (model, checkpoint) = self.open()?;
        Ok(Chosen { model, checkpoint: Arc::new(checkpoint) })
    }

    /// The model alone, for commands that need no weights.
    pub(crate) fn shape(&self) -> anyhow::Result<&'static Model> {
        let name = self.model.strip_prefix("synthetic:").unwrap_or(&self.model);
        ossmith_models::find(name).map_or_else(|| foreign(name), Ok)
    }

    /// The folder that `--model` names, or into which a repository of the hub was downloaded.
    fn folder(&self) -> anyhow::Result<PathBuf> {
        let path = PathBuf::from(&self.model);
        let repository = Repository::parse(&self.model).filter(|_| self.model.contains('/'));
        match repository {
            Some(repository) if !path.exists() => hub::snapshot(&repository),
            _ => Ok(path),
        }
    }

    fn open(&self) -> anyhow::Result<(&'static Model, Checkpoint)> {
        if self.model.starts_with("synthetic:") {
            let model = self.shape()?;
            return Ok((model, Checkpoint::synthetic(model, self.weights_seed)));
        }
        match ossmith_models::find(&self.model) {
            Some(model) if model.spec.name == "nano" => Ok((model, embedded_nano(model)?)),
            Some(model) => {
                let folder = Repository::parse(model.spec.name).map(|name| hub::snapshot(&name));
                let folder = folder.unwrap_or_else(|| Err(unknown(&self.model)))?;
                Ok((model, Checkpoint::open(&folder, model)?))
            }
            None => {
                let folder = self.folder()?;
                let model = foreign(&folder.to_string_lossy())?;
                Ok((model, Checkpoint::open(&folder, model)?))
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

fn unknown(name: &str) -> anyhow::Error {
    fail(
        format!("there is no model `{name}`, neither built in nor as a folder"),
        format!(
            "built-in models are {}; or give a folder with config.json and safetensors files, or OWNER/MODEL on the hub",
            names().join(", ")
        ),
    )
}

/// The model that a folder's config.json describes.
fn foreign(folder: &str) -> anyhow::Result<&'static Model> {
    let path = Path::new(folder);
    if !path.exists() {
        return Err(unknown(folder));
    }
    if path.is_file() {
        return Err(fail(
            format!("`{folder}` is a file"),
            "give the folder that holds config.json and the safetensors files",
        ));
    }
    if !path.join("config.json").is_file() {
        return Err(fail(
            format!("`{folder}` has no config.json"),
            "give the folder that holds config.json and the safetensors files",
        ));
    }
    Ok(ossmith_models::from_folder(path)?)
}
