//! The LoRA adapters of a server, with vLLM's flags: which there are, how many, and whether they come and go.

use ossmith::{AdapterSupport, MAX_RANK, ModelSpec};
use ossmith_server::{AdapterLimits, AdapterRefusal, Adapters, Config};

use crate::failure::fail;
use crate::model::NamedFolder;

/// Adapters that requests name as their model. `--lora` merges one into the weights instead.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Adapters")]
pub(crate) struct AdapterArgs {
    /// LoRA adapter, as peft saves it, that requests name as their model, in any mixture. Several may be given. On a CUDA device only those of attention's projections.
    #[arg(long, value_name = "NAME=FOLDER", num_args = 1..)]
    lora_modules: Vec<NamedFolder>,

    /// Adapters at a time.
    #[arg(long, default_value_t = AdapterLimits::default().count as u16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    max_loras: u16,

    /// The largest rank of an adapter.
    #[arg(long, default_value_t = AdapterLimits::default().rank as u16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_RANK as i64))]
    max_lora_rank: u16,

    /// Memory of all adapters together, in bytes.
    #[arg(long, default_value_t = AdapterLimits::default().bytes as u64, value_name = "BYTES")]
    max_lora_bytes: u64,

    /// Also answer /v1/load_lora_adapter and /v1/unload_lora_adapter, which read folders of this machine: for the operator's key.
    #[arg(long)]
    allow_runtime_lora: bool,
}

impl AdapterArgs {
    /// The adapters that are named, loaded. `support`: those that the engine applies to single requests.
    pub(crate) fn load(
        &self,
        spec: &ModelSpec,
        support: AdapterSupport,
        config: &Config,
    ) -> anyhow::Result<Adapters> {
        let none = support == AdapterSupport::None;
        if none && (self.allow_runtime_lora || !self.lora_modules.is_empty()) {
            return Err(fail(
                "several ranks apply no adapters to single requests",
                "merge one adapter into the weights with --lora NAME=FOLDER, or run with one rank",
            ));
        }
        let limits = AdapterLimits {
            count: self.max_loras.into(),
            rank: self.max_lora_rank.into(),
            bytes: self.max_lora_bytes.try_into().unwrap_or(usize::MAX),
        };
        let adapters = Adapters::new(spec, support, limits, self.allow_runtime_lora);
        for NamedFolder { name, folder } in &self.lora_modules {
            if config.serves_itself(name) {
                return Err(fail(
                    format!("--lora-modules {name}: the model itself has this name"),
                    "choose another name, or set --served-model-name and --model-alias",
                ));
            }
            adapters.load(name, folder, false).map_err(|refusal| match refusal {
                AdapterRefusal::NameTaken(name) => fail(
                    format!("--lora-modules names {name} twice"),
                    "give each a name of its own",
                ),
                AdapterRefusal::Unusable(why) => fail(
                    format!("adapter {name} cannot be loaded: {why}"),
                    "see docs/CHECKPOINTS.md",
                ),
            })?;
        }
        Ok(adapters)
    }
}
