//! `ossmith bench latency`: how long one batch takes from its prompts to its last token.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use ossmith::SamplingParams;
use serde_json::{Map, Value, json};

use super::load::{EngineArgs, tokens, write_json};
use crate::commands::random::Random;
use crate::commands::statistics::{mean_and_deviation, percentile};
use crate::output;

/// Percentiles that are reported.
const PERCENTILES: [u8; 6] = [10, 25, 50, 75, 90, 99];

/// Time one batch of requests, again and again.
///
/// Every answer has its full length: stop tokens are ignored. Prefixes are not kept from one round to the next unless
/// --enable-prefix-caching is given.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "JSON (--output-json), one object:
  avg_latency, std_latency, latencies (seconds, one per round), percentiles (by name: 10, 25, 50, 75, 90, 99)
  and besides: model, backend, steps, draft_tokens, accepted_tokens (of the rounds that count), answer (tokens of the
  first request's last answer)")]
pub(super) struct Args {
    #[command(flatten)]
    engine: EngineArgs,

    /// Tokens of a prompt.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    input_len: u32,

    /// Tokens of an answer.
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    output_len: u32,

    /// Requests of the batch.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,

    /// Samples of each request.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=128))]
    n: u16,

    /// Rounds that are not counted.
    #[arg(long, default_value_t = 10, value_name = "N")]
    num_iters_warmup: u32,

    /// Rounds.
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    num_iters: u32,

    /// Seed of the prompts.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,

    /// Prompts that are copied: ascending tokens, then the first again. With weights that count (`--model counting:…`)
    /// the answer copies them, and greedily: for measuring --draft-tokens.
    #[arg(long)]
    copy: bool,

    /// Write the result to this file.
    #[arg(long, value_name = "FILE")]
    output_json: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        self.output_json.as_deref().map_or(Ok(()), output::check)?;
        let chosen = self.engine.model.choose()?;
        let (input, output) = (self.input_len as usize, self.output_len as usize);
        let setup = self.engine.setup(&chosen, 1)?;
        let mut engine = self.engine.engine(&chosen, &setup, input + output)?;
        let mut random = Random(self.seed);
        let mut prompt = || match self.copy {
            true => ascending(&mut random, input, chosen.model.spec.vocab),
            false => tokens(&mut random, input, &chosen.model.spec),
        };
        let prompts: Vec<Vec<u32>> = (0..self.batch_size).map(|_| prompt()).collect();
        let params = if self.copy { SamplingParams::greedy() } else { SamplingParams::default() };
        let params = params.with_n(self.n.into()).with_seed(self.seed);
        let request =
            |prompt: &Vec<u32>| self.engine.request(prompt.clone(), output, params.clone());
        let (mut latencies, mut before, mut answer) = (Vec::new(), None, Vec::new());
        for round in 0..self.num_iters_warmup + self.num_iters {
            if round == self.num_iters_warmup {
                before = Some(engine.metrics().clone());
            }
            let start = Instant::now();
            let answers = engine.complete(prompts.iter().map(request).collect())?;
            if round >= self.num_iters_warmup {
                latencies.push(start.elapsed().as_secs_f64());
            }
            answer = answers.into_iter().next().map_or_else(Vec::new, |answer| answer.tokens);
        }
        let (now, before) = (engine.metrics(), before.as_ref().unwrap_or(engine.metrics()));
        let (steps, drafted, accepted) = (
            now.steps - before.steps,
            now.draft_tokens - before.draft_tokens,
            now.accepted_tokens - before.accepted_tokens,
        );
        // There is at least one round.
        let (mean, deviation) = mean_and_deviation(&latencies).unwrap_or_default();
        let mut sorted = latencies.clone();
        sorted.sort_by(f64::total_cmp);
        let mut out = std::io::stdout().lock();
        writeln!(out, "Avg latency: {mean} seconds")?;
        writeln!(out, "Std latency: {deviation} seconds")?;
        writeln!(out, "Steps: {steps}; {accepted} of {drafted} draft tokens were accepted")?;
        let mut percentiles = Map::new();
        for percent in PERCENTILES {
            let value = percentile(&sorted, percent.into()).unwrap_or_default();
            writeln!(out, "{percent}% percentile latency: {value} seconds")?;
            percentiles.insert(percent.to_string(), value.into());
        }
        if let Some(file) = &self.output_json {
            let result: Value = json!({
                "avg_latency": mean,
                "std_latency": deviation,
                "latencies": latencies,
                "percentiles": percentiles,
                "steps": steps,
                "draft_tokens": drafted,
                "accepted_tokens": accepted,
                "answer": answer,
                "model": self.engine.model.model,
                "backend": engine.describe(),
            });
            write_json(file, &result)?;
        }
        Ok(())
    }
}

/// Ascending tokens, then the first again.
fn ascending(random: &mut Random, length: usize, vocab: usize) -> Vec<u32> {
    let first = random.below(vocab.saturating_sub(length).max(1)) as u32;
    let ids = first..first + length as u32 - 1;
    ids.chain([first]).collect()
}
