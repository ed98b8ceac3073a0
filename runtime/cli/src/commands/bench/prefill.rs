//! `ossmith bench prefill`.

use std::io::Write;
use std::time::Instant;

use ossmith::unstable::cuda::CudaBackend;
use ossmith::unstable::{Backend, Input, LogitRows, SamplerConfig, Sequence, Step};
use ossmith::{Limits, PAGE_TOKENS};
use serde_json::json;

use super::decode::{phases_json, stats, step_lines};
use super::{check_context, count, load};
use crate::load::RankArgs;
use crate::model::ModelArgs;
use crate::schedule::ScheduleArgs;

/// Prints per prompt length: median time to the first token, tokens/s. With --json, one object.
#[derive(Debug, clap::Args)]
pub(super) struct Prefill {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// Prompt lengths.
    #[arg(long, default_value = "128,512,2048", value_delimiter = ',', value_name = "N,…", value_parser = count(1 << 24))]
    tokens: Vec<usize>,
    /// Tokens of one step at most.
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = count(1 << 24))]
    chunk: usize,
    /// Also time each phase of a prompt's one step, alone and in the chain; prompts longer than a chunk have none.
    #[arg(long)]
    phases: bool,
    #[command(flatten)]
    ranks: RankArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Prefill {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let device = self.ranks.only_device("`bench prefill`")?;
        let longest = self.tokens.iter().copied().max().unwrap_or(1);
        check_context(&self.model.shape()?.spec, longest, "--tokens")?;
        let chunk = self.chunk.min(longest);
        let pages = longest.div_ceil(PAGE_TOKENS);
        let limits = Limits::for_sequences(1, longest).with_max_step_tokens(chunk);
        let (mut backend, load_s) = load(&self.model, &self.schedule, limits, device)?;
        let vocab = self.model.shape()?.spec.vocab;
        let prompt = prompt(vocab, longest);
        let table: Vec<u32> = (0..pages as u32).collect();
        let mut out = std::io::stdout().lock();
        let mut runs = Vec::new();
        for &tokens in &self.tokens {
            let median = median_ms(&mut backend, &prompt[..tokens], &table, chunk)?;
            let step = match self.phases && tokens <= chunk {
                true => Some(backend.time_prompt(tokens)?),
                false => None,
            };
            runs.push(json!({
                "tokens": tokens,
                "median_ms": median,
                "tokens_per_s": tokens as f64 * 1e3 / median,
                "step": step.as_ref().map(|step| stats(&step.step)),
                "phases": step.as_ref().map(phases_json),
            }));
            if !self.json {
                writeln!(
                    out,
                    "{tokens} tokens: {median:.3} ms, {:.0} tokens/s",
                    tokens as f64 * 1e3 / median
                )?;
                let lines = step.map(|step| step_lines(&step, "its step on the device"));
                for line in lines.into_iter().flatten() {
                    writeln!(out, "{line}")?;
                }
            }
        }
        if self.json {
            let device = &backend.device().name;
            let all = json!({ "bench": "prefill", "model": self.model.model, "device": device, "load_s": load_s, "chunk": chunk, "runs": runs });
            writeln!(out, "{all}")?;
        }
        Ok(())
    }
}

/// A prompt of `length` tokens whose routing is as diverse as the weights make it.
pub(super) fn prompt(vocab: usize, length: usize) -> Vec<u32> {
    (0..length).map(|i| (i * 7919 % vocab) as u32).collect()
}

/// Median time of a prompt to its first token, in milliseconds; the first of seven is not counted.
pub(super) fn median_ms(
    backend: &mut CudaBackend,
    prompt: &[u32],
    pages: &[u32],
    chunk: usize,
) -> anyhow::Result<f64> {
    const REPEATS: usize = 7;
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        let begin = Instant::now();
        prefill(backend, prompt, pages, chunk)?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn prefill(
    backend: &mut CudaBackend,
    prompt: &[u32],
    pages: &[u32],
    chunk: usize,
) -> anyhow::Result<()> {
    for (index, tokens) in prompt.chunks(chunk).enumerate() {
        let last = (index + 1) * chunk >= prompt.len();
        let sequence = Sequence {
            seq_slot: 0,
            start: index * chunk,
            input: Input::Tokens(tokens),
            pages,
            sample: last.then_some(SamplerConfig::GREEDY.into()),
            prompt_report: None,
            logits: LogitRows::None,
        };
        backend.run(&Step { sequences: &[sequence], capture_activations: false })?;
    }
    Ok(())
}
