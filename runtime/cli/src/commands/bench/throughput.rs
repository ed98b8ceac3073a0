//! `ossmith bench throughput`: how many tokens per second the engine serves when all requests are there from the start.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use ossmith::{
    Engine, EngineMetrics, EnginePool, Error, FinishReason, MemoryBudget, Request, SamplingParams,
};
use ossmith_harmony::encode;
use ossmith_plan::ModelSpec;
use serde::Deserialize;
use serde_json::{Value, json};

use super::load::{EngineArgs, tokens, write_json};
use crate::commands::random::Random;
use crate::failure::fail;
use crate::load::EngineCountArgs;
use crate::output;

/// Time many requests at once through the engine.
///
/// Lengths are fixed (--input-len, --output-len), chosen at random around these (--random-range-ratio), or read from a file of
/// JSON lines (--dataset-path). Stop tokens are ignored, so every answer has its full length.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "A line of --dataset-path is an object: \"prompt\" (text) or \"input_len\", and \
\"output_len\".

JSON (--output-json to a file, --json to the terminal), one object:
  elapsed_time, num_requests, total_num_tokens, requests_per_second, tokens_per_second
  and besides: output_tokens_per_second, model, backend, engines, metrics (of all engines), memory (of one)
Memory:
  weights, shadow_head, pages, rings, snapshots, workspace, sampling, graphs, total
                                    the budget before loading, in bytes
  available, taken                  what was free then, and how much less was free after the run
Metrics:
  steps, mean_step_s, mean_host_s   steps, and how long one and the host's work for it took
  device_busy_s, device_idle_s      time in and between the steps' kernels, by the device's clock (by the calls of
                                    the CPU backend)
  device_idle_share                 idle / (busy + idle)
  host_sampled_tokens               tokens sampled on the host, from logits that the device returns and waits for
  mean_first_token_s, preemptions, cached_tokens, draft_tokens, accepted_tokens, forced_tokens"
)]
pub(super) struct Args {
    #[command(flatten)]
    engine: EngineArgs,

    #[command(flatten)]
    engines: EngineCountArgs,

    /// Where lengths come from.
    #[arg(long, default_value = "random", value_parser = ["random", "custom"])]
    dataset_name: String,

    /// A file of JSON lines with lengths or prompts.
    #[arg(long, value_name = "FILE")]
    dataset_path: Option<PathBuf>,

    /// Tokens of a prompt.
    #[arg(long, alias = "random-input-len", default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    input_len: u32,

    /// Tokens of an answer.
    #[arg(long, alias = "random-output-len", default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    output_len: u32,

    /// Tokens that all prompts begin with, besides --input-len.
    #[arg(long, alias = "random-prefix-len", default_value_t = 0, value_name = "N")]
    prefix_len: usize,

    /// Choose lengths from LEN * (1 - R) to LEN * (1 + R).
    #[arg(long, default_value_t = 0.0, value_name = "R")]
    random_range_ratio: f64,

    /// Requests.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    num_prompts: u32,

    /// Samples of each prompt.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=128))]
    n: u16,

    /// Seed of lengths and prompts.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,

    /// Sampling temperature.
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    temperature: f32,

    /// Write the result to this file.
    #[arg(long, value_name = "FILE")]
    output_json: Option<PathBuf>,

    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// A line of a dataset.
#[derive(Debug, Deserialize)]
struct Line {
    prompt: Option<String>,
    input_len: Option<usize>,
    output_len: Option<usize>,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        if !(0.0..1.0).contains(&self.random_range_ratio) {
            let got = self.random_range_ratio;
            return Err(fail(
                format!("--random-range-ratio is {got}"),
                "give a number from 0 to below 1",
            ));
        }
        self.output_json.as_deref().map_or(Ok(()), output::check)?;
        let chosen = self.engine.model.choose()?;
        let spec = &chosen.model.spec;
        let requests = self.requests(spec)?;
        let length = |(prompt, output): &(Vec<u32>, usize)| prompt.len() + output;
        let longest = requests.iter().map(length).max().unwrap_or(1);
        let setup = self.engine.setup(&chosen, self.engines.count())?;
        let planned = self.engine.memory(&chosen, &setup, longest)?;
        let mut engine = match setup.count() {
            1 => Tested::Engine(Box::new(self.engine.engine(&chosen, &setup, longest)?)),
            _ => Tested::Pool(self.engine.pool(&chosen, &setup, longest)?),
        };
        // Kernels, graphs and threads are warm after one short round.
        let at_once = self.engine.max_num_seqs as usize * setup.count();
        let warm = requests.iter().take(at_once).cloned();
        let short = warm.map(|(prompt, output)| (prompt, output.min(4))).collect();
        engine.serve(self.engine_requests(short))?;
        engine.reset_prefix_cache();

        let prompt_tokens: usize = requests.iter().map(|(prompt, _)| prompt.len()).sum();
        let count = requests.len();
        let before = engine.metrics();
        let begin = Instant::now();
        let output_tokens = engine.serve(self.engine_requests(requests))?;
        let elapsed = begin.elapsed().as_secs_f64();
        let total = prompt_tokens + output_tokens;
        let result = json!({
            "elapsed_time": elapsed,
            "num_requests": count,
            "total_num_tokens": total,
            "requests_per_second": count as f64 / elapsed,
            "tokens_per_second": total as f64 / elapsed,
            "output_tokens_per_second": output_tokens as f64 / elapsed,
            "model": self.engine.model.model,
            "backend": engine.describe(),
            "engines": setup.count(),
            "metrics": metrics(&engine.metrics(), &before),
            "memory": memory(&planned, self.engine.memory(&chosen, &setup, longest)?.available_bytes),
        });
        if let Some(file) = &self.output_json {
            write_json(file, &result)?;
        }
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{result}")?;
            return Ok(());
        }
        writeln!(
            out,
            "Throughput: {:.2} requests/s, {:.2} total tokens/s, {:.2} output tokens/s",
            count as f64 / elapsed,
            total as f64 / elapsed,
            output_tokens as f64 / elapsed
        )?;
        writeln!(out, "Total num prompt tokens:  {prompt_tokens}")?;
        writeln!(out, "Total num output tokens:  {output_tokens}")?;
        writeln!(out, "Engine: {}", result["metrics"])?;
        writeln!(out, "Memory: {planned}; taken: {} bytes", result["memory"]["taken"])?;
        Ok(())
    }

    fn engine_requests(&self, requests: Vec<(Vec<u32>, usize)>) -> Vec<Request> {
        let request = |(index, (prompt, output)): (usize, (Vec<u32>, usize))| {
            let params = SamplingParams::default()
                .with_temperature(self.temperature)
                .with_n(self.n.into())
                .with_seed(self.seed.wrapping_add(index as u64 * u64::from(self.n)));
            self.engine.request(prompt, output, params)
        };
        requests.into_iter().enumerate().map(request).collect()
    }

    /// Prompts and lengths of answers.
    fn requests(&self, spec: &ModelSpec) -> anyhow::Result<Vec<(Vec<u32>, usize)>> {
        let (mut random, output) = (Random(self.seed), self.output_len as usize);
        let prefix = tokens(&mut random, self.prefix_len, spec);
        let prompt =
            |random: &mut Random, length| [&prefix[..], &tokens(random, length, spec)].concat();
        if let Some(file) = &self.dataset_path {
            let lines = lines(file)?;
            let request = |line: &Line| match (&line.prompt, line.input_len) {
                (Some(text), _) => Ok((encode(text), line.output_len.unwrap_or(output))),
                (None, Some(length)) => {
                    Ok((prompt(&mut random, length), line.output_len.unwrap_or(output)))
                }
                (None, None) => Err(fail(
                    format!(
                        "a line of {} has neither \"prompt\" nor \"input_len\"",
                        file.display()
                    ),
                    "write lines like {\"input_len\": 100, \"output_len\": 50}",
                )),
            };
            return lines.iter().cycle().take(self.num_prompts as usize).map(request).collect();
        }
        if self.dataset_name != "random" {
            return Err(fail("--dataset-name custom needs a file", "give it with --dataset-path"));
        }
        let near = |random: &mut Random, length: u32| {
            let reach = (f64::from(length) * self.random_range_ratio) as usize;
            (length as usize - reach + random.below(2 * reach + 1)).max(1)
        };
        Ok((0..self.num_prompts)
            .map(|_| {
                let length = near(&mut random, self.input_len);
                (prompt(&mut random, length), near(&mut random, self.output_len))
            })
            .collect())
    }
}

fn lines(file: &Path) -> anyhow::Result<Vec<Line>> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let lines: Vec<Line> = lines
        .map(|(at, line)| {
            serde_json::from_str(line).with_context(|| format!("{name}, line {}", at + 1))
        })
        .collect::<anyhow::Result<_>>()?;
    if lines.is_empty() {
        return Err(fail(format!("{name} has no lines"), "give a file of JSON lines"));
    }
    Ok(lines)
}

/// What serves the requests.
enum Tested {
    Engine(Box<Engine>),
    Pool(EnginePool),
}

impl Tested {
    /// Serves all requests; gives the number of tokens generated.
    fn serve(&mut self, requests: Vec<Request>) -> anyhow::Result<usize> {
        let mut tokens = 0;
        match self {
            Tested::Engine(engine) => {
                for event in engine.stream_requests(requests)? {
                    let (_, event) = event?;
                    tokens += usize::from(event.token.is_some());
                }
            }
            Tested::Pool(pool) => {
                let submitted = requests.into_iter().map(|request| pool.submit(request));
                let all = submitted.collect::<ossmith::Result<Vec<_>>>()?;
                for event in all.into_iter().flatten() {
                    if let Some(FinishReason::Failed(reason)) = event.finish {
                        return Err(Error::RequestFailed { reason: reason.to_string() }.into());
                    }
                    tokens += usize::from(event.token.is_some());
                }
            }
        }
        Ok(tokens)
    }

    fn metrics(&self) -> EngineMetrics {
        match self {
            Tested::Engine(engine) => engine.metrics().clone(),
            Tested::Pool(pool) => pool.metrics(),
        }
    }

    fn reset_prefix_cache(&mut self) {
        match self {
            Tested::Engine(engine) => engine.reset_prefix_cache(),
            Tested::Pool(pool) => pool.reset_prefix_cache(),
        }
    }

    fn describe(&self) -> String {
        match self {
            Tested::Engine(engine) => engine.describe(),
            Tested::Pool(pool) => pool.describe(),
        }
    }
}

/// What was counted since `before`.
fn metrics(now: &EngineMetrics, before: &EngineMetrics) -> Value {
    let mean = |now: &ossmith::Histogram, before: &ossmith::Histogram| {
        (now.sum - before.sum) / (now.count - before.count).max(1) as f64
    };
    let (busy, idle) = (
        now.device_busy_seconds - before.device_busy_seconds,
        now.device_idle_seconds - before.device_idle_seconds,
    );
    json!({
        "steps": now.steps - before.steps,
        "mean_step_s": mean(&now.step_seconds, &before.step_seconds),
        "mean_host_s": mean(&now.host_seconds, &before.host_seconds),
        "device_busy_s": busy,
        "device_idle_s": idle,
        "device_idle_share": if busy > 0.0 { Some(idle / (busy + idle)) } else { None },
        "host_sampled_tokens": now.host_sampled_tokens - before.host_sampled_tokens,
        "mean_first_token_s": mean(&now.first_token_seconds, &before.first_token_seconds),
        "preemptions": now.preemptions - before.preemptions,
        "cached_tokens": now.cached_tokens - before.cached_tokens,
        "draft_tokens": now.draft_tokens - before.draft_tokens,
        "accepted_tokens": now.accepted_tokens - before.accepted_tokens,
        "forced_tokens": now.forced_tokens - before.forced_tokens,
    })
}

/// The memory budget, and how much less memory is free now than when it was made.
fn memory(budget: &MemoryBudget, free_now: Option<u64>) -> Value {
    let taken =
        budget.available_bytes.zip(free_now).map(|(before, now)| before as i64 - now as i64);
    json!({
        "weights": budget.weight_bytes,
        "dense_q8": budget.dense_q8_bytes,
        "shadow_head": budget.shadow_bytes,
        "pages": budget.page_bytes,
        "rings": budget.ring_bytes,
        "snapshots": budget.snapshot_bytes,
        "workspace": budget.workspace_bytes,
        "sampling": budget.sampling_bytes,
        "graphs": budget.graph_bytes,
        "total": budget.total_bytes(),
        "available": budget.available_bytes,
        "taken": taken,
    })
}
