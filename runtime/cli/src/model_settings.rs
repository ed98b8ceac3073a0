//! What a server and a batch have in common: how much memory is reserved for requests, the names of the model, and the
//! date. What only a server has is in `commands/serve.rs`.

use ossmith::{Device, Limits, MemoryBudget, PAGE_TOKENS, Policy};
use ossmith_plan::{Model, ModelSpec};
use ossmith_server::Config;

use crate::again;
use crate::load::{EngineSetup, default_context};
use crate::model::ModelArgs;
use crate::today;

/// Sizes for which memory is reserved.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct EngineLimitArgs {
    /// Tokens of prompt and answer together [default: the model's context, on the CPU at most 32768].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) max_model_len: Option<u32>,

    /// Requests that run at once; others wait [default: on a CUDA device up to 256, as its memory allows; 16 on the CPU].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    max_num_seqs: Option<u16>,

    /// Tokens of one step [default: on a CUDA device up to 2048, as its memory allows; 512 on the CPU].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_num_batched_tokens: Option<u32>,

    /// Tokens that the cache holds in all [default: on a CUDA device what fits into 90 % of its free memory; twice
    /// --max-model-len on the CPU].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(64..))]
    kv_cache_tokens: Option<u32>,
}

/// Requests and tokens of a step on a CUDA device, of which the first fit that leave room for two whole contexts. A step of
/// 256 sequences costs each of them least, and chunks of 2048 tokens read a prompt nearly as fast as any larger ones.
const DEVICE_LIMITS: [(usize, usize); 5] =
    [(256, 2048), (128, 2048), (64, 2048), (32, 1024), (16, 512)];
/// The same on the CPU.
const CPU_LIMITS: (usize, usize) = (16, 512);
/// The part of a device's free memory that is taken by default.
const MEMORY_SHARE: f64 = 0.9;

impl EngineLimitArgs {
    /// The flags, and these numbers of sequences and of a step's tokens where there are none.
    fn filled(&self, (sequences, step_tokens): (usize, usize), context: usize) -> Limits {
        let tokens = self.kv_cache_tokens.map_or(2 * context, |tokens| tokens as usize);
        Limits::default()
            .with_max_sequences(self.max_num_seqs.map_or(sequences, usize::from))
            .with_max_step_tokens(self.max_num_batched_tokens.map_or(step_tokens, |n| n as usize))
            .with_pages(tokens.div_ceil(PAGE_TOKENS))
    }

    /// The first limits that fit a device's memory, or the last if none do, which are then refused with the numbers.
    fn on_device(
        &self,
        context: usize,
        mut budget_of: impl FnMut(Limits) -> anyhow::Result<MemoryBudget>,
    ) -> anyhow::Result<Limits> {
        let mut limits = Limits::default();
        for candidate in DEVICE_LIMITS {
            limits = self.filled(candidate, context);
            let fitting = budget_of(limits)?.pages_that_fit(MEMORY_SHARE);
            if fitting >= limits.pages {
                let most = limits.max_sequences * context.div_ceil(PAGE_TOKENS);
                return Ok(match self.kv_cache_tokens {
                    Some(_) => limits,
                    None => limits.with_pages(fitting.min(most).max(limits.pages)),
                });
            }
        }
        Ok(limits)
    }
}

/// What a server and a batch say about their model in the same way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelSettings<'a> {
    pub(crate) model: &'a ModelArgs,
    pub(crate) setup: &'a EngineSetup,
    pub(crate) limits: &'a EngineLimitArgs,
    pub(crate) names: &'a [String],
    pub(crate) date: Option<&'a str>,
}

impl ModelSettings<'_> {
    fn context(&self, spec: &ModelSpec) -> usize {
        let default = default_context(spec, self.setup.device());
        self.limits.max_model_len.map_or(default, |tokens| spec.context.min(tokens as usize))
    }

    /// What each engine makes room for: what the flags say, and for the rest what suits the first one's device; the log says
    /// it once.
    pub(crate) fn engine_limits(&self, model: &'static Model) -> anyhow::Result<Limits> {
        let context = self.context(&model.spec);
        if !matches!(self.setup.device(), Device::Cuda(_)) {
            return Ok(self.limits.filled(CPU_LIMITS, context));
        }
        let budget_of = |limits| self.setup.memory(model, limits, Policy::default());
        let limits = self.limits.on_device(context, budget_of)?;
        let Limits { max_sequences, max_step_tokens, pages, .. } = limits;
        tracing::info!(
            "{max_sequences} sequences at once, {max_step_tokens} tokens per step and {} tokens in the cache; \
             --max-num-seqs, --max-num-batched-tokens and --kv-cache-tokens set them",
            pages * PAGE_TOKENS
        );
        Ok(limits)
    }

    /// What requests are answered by: the model's names, its limits and the date, with defaults for the rest. `pages` are
    /// those of the engine's limits.
    pub(crate) fn config(&self, model: &Model, pages: usize) -> Config {
        let spec = &model.spec;
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
            ranks: self.setup.ranks(),
            engines: self.setup.count(),
            ..Config::new(spec.name, context, spec.vocab)
        }
    }
}

#[cfg(test)]
mod tests {
    use ossmith::unstable::cuda::memory_budget_without_device;
    use ossmith_models::{GPT_OSS_20B, GPT_OSS_120B};

    use super::*;

    fn flags() -> EngineLimitArgs {
        let (max_num_seqs, max_num_batched_tokens) = (None, None);
        EngineLimitArgs {
            max_model_len: None,
            max_num_seqs,
            max_num_batched_tokens,
            kv_cache_tokens: None,
        }
    }

    fn chosen(flags: &EngineLimitArgs, model: &'static Model, free: u64) -> Limits {
        let budget_of = |limits| {
            let mut budget = memory_budget_without_device(model, &limits, (9, 0))?;
            budget.available_bytes = Some(free);
            Ok(budget)
        };
        flags.on_device(model.spec.context, budget_of).expect("budgets")
    }

    #[test]
    fn a_device_gets_the_limits_that_its_memory_allows() {
        let gb = 1_000_000_000;
        for (model, free, sequences, step_tokens) in [
            (GPT_OSS_20B, 139 * gb, 256, 2048),
            (GPT_OSS_20B, 84 * gb, 256, 2048),
            (GPT_OSS_120B, 139 * gb, 256, 2048),
            (GPT_OSS_120B, 84 * gb, 16, 512),
        ] {
            let limits = chosen(&flags(), model, free);
            let named = format!("{} in {free} bytes: {limits:?}", model.spec.name);
            assert_eq!(
                (limits.max_sequences, limits.max_step_tokens),
                (sequences, step_tokens),
                "{named}"
            );
            assert!(limits.pages >= 2 * model.spec.context / PAGE_TOKENS, "{named}");
            let budget = memory_budget_without_device(model, &limits, (9, 0)).expect("a budget");
            assert!(budget.total_bytes() <= free, "{named}: {budget}");
        }
    }

    #[test]
    fn flags_stand_whatever_the_memory() {
        let flags = EngineLimitArgs {
            max_num_seqs: Some(3),
            max_num_batched_tokens: Some(700),
            kv_cache_tokens: Some(6400),
            ..flags()
        };
        for free in [1, 139_000_000_000] {
            let limits = chosen(&flags, GPT_OSS_20B, free);
            assert_eq!((limits.max_sequences, limits.max_step_tokens, limits.pages), (3, 700, 100));
        }
        assert_eq!(flags.filled(CPU_LIMITS, 4096).max_sequences, 3);
    }
}
