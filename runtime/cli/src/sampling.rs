//! Sampling flags, shared by the commands that generate.

use std::hash::{BuildHasher, RandomState};

use ossmith::SamplingParams;

use crate::model::Chosen;

/// How tokens are sampled, and when to end.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Divides the logits; 0 always takes the most likely token.
    #[arg(long, short, default_value_t = 1.0, value_name = "X")]
    pub(crate) temperature: f32,

    /// Keep only the K most likely tokens; 0 keeps all.
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub(crate) top_k: u32,

    /// Keep the smallest set of most likely tokens with this much probability.
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    pub(crate) top_p: f32,

    /// Drop tokens less likely than this share of the most likely one.
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    pub(crate) min_p: f32,

    /// Seed of the sampling, for the same answer again [default: a new one each time].
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// The most tokens to generate [default: the model's max_new_tokens, else 4096; 64 with random weights].
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) max_tokens: Option<usize>,

    /// Also end at these token ids.
    #[arg(long, value_delimiter = ',', value_name = "ID,…")]
    pub(crate) stop_token_ids: Vec<u32>,

    /// Continue past the model's own stop tokens.
    #[arg(long)]
    pub(crate) ignore_eos: bool,
}

impl SamplingArgs {
    /// The engine's settings; a seed that was not given is chosen here, so that it can be reported.
    pub(crate) fn params(&self, chosen: &Chosen) -> SamplingParams {
        let default_max =
            if chosen.is_random() { 64 } else { chosen.model.spec.max_new_tokens.unwrap_or(4096) };
        // 32 bits: every JSON reader can hold them.
        let seed = self.seed.unwrap_or_else(|| RandomState::new().hash_one(0_u8) >> 32);
        SamplingParams::default()
            .with_temperature(self.temperature)
            .with_top_k(self.top_k)
            .with_top_p(self.top_p)
            .with_min_p(self.min_p)
            .with_seed(seed)
            .with_max_tokens(self.max_tokens.unwrap_or(default_max))
            .with_stop_token_ids(self.stop_token_ids.clone())
            .with_ignore_eos(self.ignore_eos)
    }
}
