//! Shared by `bench throughput` and `bench latency`: the engine's limits and policy as flags, random prompts, and the
//! file with the result. Flags and keys are spelled as in vLLM's commands of the same names, so that one script plots both.

use std::path::Path;

use anyhow::Context;
use ossmith::{Engine, EnginePool, Limits, MemoryBudget, Policy, Request, SamplingParams};
use ossmith_harmony::token_bytes;
use ossmith_plan::ModelSpec;
use serde_json::Value;

use super::check_context;
use crate::commands::random::Random;
use crate::load::{DeviceArgs, EngineSetup};
use crate::model::{Chosen, ModelArgs};

/// What a context must have room for.
const LENGTHS: &str = "the lengths of prompt and answer together";

/// The engine under test.
#[derive(Debug, clap::Args)]
pub(super) struct EngineArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    #[command(flatten)]
    device: DeviceArgs,

    /// Samples in one step at most.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_num_seqs: u32,

    /// Tokens in one step at most.
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_num_batched_tokens: u32,

    /// Pages of the cache, 64 tokens each [default: as many as the largest batch of these lengths needs].
    #[arg(long, value_name = "N")]
    num_gpu_blocks_override: Option<usize>,

    /// Keep prefixes of prompts for requests that begin alike.
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    enable_prefix_caching: bool,

    /// Keep no prefixes, which is the default here.
    #[arg(long)]
    no_enable_prefix_caching: bool,

    /// Do not turn tokens into text.
    #[arg(long)]
    disable_detokenize: bool,
}

impl EngineArgs {
    /// Where so many engines run.
    pub(super) fn setup(&self, chosen: &Chosen, engines: usize) -> anyhow::Result<EngineSetup> {
        self.device.setup(chosen.model, engines)
    }

    /// Loads an engine with room for samples of at most `tokens` tokens.
    pub(super) fn engine(
        &self,
        chosen: &Chosen,
        setup: &EngineSetup,
        tokens: usize,
    ) -> anyhow::Result<Engine> {
        check_context(&chosen.model.spec, tokens, LENGTHS)?;
        let (limits, policy) = self.limits_and_policy(tokens);
        self.device.load_with(chosen, setup, limits, policy)
    }

    /// The same for all engines of a setup. No event is read before all requests are there, so none waits for its reader.
    pub(super) fn pool(
        &self,
        chosen: &Chosen,
        setup: &EngineSetup,
        tokens: usize,
    ) -> anyhow::Result<EnginePool> {
        check_context(&chosen.model.spec, tokens, LENGTHS)?;
        let (limits, policy) = self.limits_and_policy(tokens);
        self.device.load_pool(chosen, setup, limits, policy.with_event_capacity(usize::MAX))
    }

    /// The memory that one engine takes on its device; the available memory is as of now.
    pub(super) fn memory(
        &self,
        chosen: &Chosen,
        setup: &EngineSetup,
        tokens: usize,
    ) -> anyhow::Result<MemoryBudget> {
        let (limits, policy) = self.limits_and_policy(tokens);
        setup.memory(chosen.model, limits, policy)
    }

    fn limits_and_policy(&self, tokens: usize) -> (Limits, Policy) {
        let sequences = self.max_num_seqs as usize;
        let limits = Limits::for_sequences(sequences, tokens.max(1))
            .with_max_step_tokens((self.max_num_batched_tokens as usize).max(sequences));
        let limits = limits.with_pages(self.num_gpu_blocks_override.unwrap_or(limits.pages));
        let policy = Policy::default()
            .with_max_waiting(usize::MAX)
            .with_prefix_cache(self.enable_prefix_caching);
        (limits, policy)
    }

    /// A request for exactly `length` tokens, which are turned into text unless --disable-detokenize is given.
    pub(super) fn request(
        &self,
        prompt: Vec<u32>,
        length: usize,
        params: SamplingParams,
    ) -> Request {
        let request = Request::new(prompt, params.with_max_tokens(length).with_ignore_eos(true));
        if self.disable_detokenize { request } else { request.with_detokenizer(token_bytes) }
    }
}

/// Token ids that are text in every model's vocabulary of this size.
pub(super) fn tokens(random: &mut Random, count: usize, spec: &ModelSpec) -> Vec<u32> {
    (0..count).map(|_| random.below(spec.vocab.min(10_000)) as u32).collect()
}

/// Writes a result to a file.
pub(super) fn write_json(file: &Path, result: &Value) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(result)? + "\n";
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
