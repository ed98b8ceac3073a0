//! What a server and a batch have in common: how much memory is reserved for requests, the names of the model, and the
//! date. What only a server has is in `commands/serve.rs`.

use ossmith::{Device, Limits, PAGE_TOKENS};
use ossmith_plan::{Model, ModelSpec};
use ossmith_server::Config;

use crate::again;
use crate::load::{DeviceArgs, default_context};
use crate::model::ModelArgs;
use crate::today;

/// Sizes for which memory is reserved.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct EngineLimitArgs {
    /// Tokens of prompt and answer together [default: the model's context, on the CPU at most 32768].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) max_model_len: Option<u32>,

    /// Requests that run at once; others wait.
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_num_seqs: u16,

    /// Tokens of one step.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_num_batched_tokens: u32,

    /// Tokens that the cache holds in all [default: twice --max-model-len].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(64..))]
    kv_cache_tokens: Option<u32>,
}

/// What a server and a batch say about their model in the same way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelSettings<'a> {
    pub(crate) model: &'a ModelArgs,
    pub(crate) device: &'a DeviceArgs,
    pub(crate) limits: &'a EngineLimitArgs,
    pub(crate) names: &'a [String],
    pub(crate) date: Option<&'a str>,
}

impl ModelSettings<'_> {
    fn context(&self, spec: &ModelSpec) -> usize {
        let device = self.device.device().map_or(Device::Auto, |chosen| chosen.resolve().0);
        let default = default_context(spec, device);
        self.limits.max_model_len.map_or(default, |tokens| spec.context.min(tokens as usize))
    }

    pub(crate) fn engine_limits(&self, spec: &ModelSpec) -> Limits {
        let context = self.context(spec);
        let tokens = self.limits.kv_cache_tokens.map_or(2 * context, |tokens| tokens as usize);
        Limits::default()
            .with_max_sequences(self.limits.max_num_seqs.into())
            .with_max_step_tokens(self.limits.max_num_batched_tokens as usize)
            .with_pages(tokens.div_ceil(PAGE_TOKENS))
    }

    /// What requests are answered by: the model's names, its limits and the date, with defaults for the rest.
    pub(crate) fn config(&self, model: &Model) -> Config {
        let spec = &model.spec;
        let pages = self.engine_limits(spec).pages;
        let context = self.context(spec).min(pages * PAGE_TOKENS);
        let published = ["gpt-oss-20b", "gpt-oss-120b"].contains(&spec.name);
        let own = if published { format!("openai/{}", spec.name) } else { spec.name.to_owned() };
        let (names, aliases) = if self.names.is_empty() {
            // `gpt-oss:20b` is how Ollama writes gpt-oss-20b.
            let tagged = published.then(|| spec.name.replacen("oss-", "oss:", 1));
            let aliases =
                [spec.name.to_owned(), self.model.model.to_string()].into_iter().chain(tagged);
            (vec![own.clone()], aliases.collect())
        } else {
            (self.names.to_vec(), Vec::new())
        };
        let date = self.date.map(str::to_owned).or_else(|| std::env::var("SYSTEM_START_DATE").ok());
        Config {
            names,
            aliases,
            root: own,
            date: date.filter(|date| !date.is_empty()),
            today: today::date,
            grammar_helper: Some(again::grammar_helper()),
            max_new_tokens: spec.max_new_tokens,
            parameters: model.graph.all_weights().map(|(weight, _)| weight.elements() as u64).sum(),
            weight_bytes: model.graph.all_weights().map(|(weight, _)| weight.bytes() as u64).sum(),
            ..Config::new(spec.name, context, spec.vocab)
        }
    }
}
