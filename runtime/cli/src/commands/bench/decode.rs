//! `ossmith bench decode`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use ossmith::unstable::SamplerConfig;
use ossmith::unstable::cuda::bench::{DecodeSampling, PhaseTime, StepTimes, TimingStats};
use ossmith::{Limits, MAX_RANK, PAGE_TOKENS};
use ossmith_plan::StepShape;
use serde_json::{Value, json};

use super::super::table;
use super::{Loaded, check_context, count, load_ranks, picture, trace};
use crate::load::RankArgs;
use crate::model::ModelArgs;
use crate::output;
use crate::schedule::ScheduleArgs;

/// Prints per batch and context: median step time, tokens/s, GB/s, share of the roofline (a flat read of the same
/// bytes in the same run), and each phase's bytes, time alone and
/// time in the chain. With --json, one object.
#[derive(Debug, clap::Args)]
pub(super) struct Decode {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// Sequences; several are timed one after another.
    #[arg(long, default_value = "1", value_delimiter = ',', value_name = "N,…", value_parser = count(1 << 20))]
    batch: Vec<usize>,
    /// Keys that each token sees: exactly in phases, on average in steps.
    #[arg(long, default_value = "1024", value_delimiter = ',', value_name = "N,…", value_parser = count(1 << 24))]
    context: Vec<usize>,
    /// How tokens are sampled: temperature (1 if it is not named), top_k, top_p, min_p, repetition_penalty,
    /// presence_penalty, frequency_penalty, logit_bias (a number of tokens), logprobs (a number of tokens) and mask (1 for
    /// a new mask before each token).
    #[arg(long, default_value = "temperature=1", value_name = "SETTING=VALUE,…", value_parser = sampling)]
    sampling: DecodeSampling,
    /// LoRA adapters of attention with random values, which the sequences have in turns; on one device.
    #[arg(long, default_value_t = 0, value_name = "N")]
    adapters: usize,
    /// The rank of these adapters.
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = count(MAX_RANK as u64))]
    adapter_rank: usize,
    #[command(flatten)]
    ranks: RankArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Also trace the first of these steps: which phase ran on which SM from when to when, block by block, in Chrome's trace
    /// format, which ui.perfetto.dev and `ossmith report` open. The kernels are compiled again with time stamps.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Also draw where the first of these steps spends its time, against the roofline, as an SVG picture.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Decode {
    pub(super) fn run(self) -> anyhow::Result<()> {
        if self.trace.is_some() {
            self.ranks.only_device("`bench decode --trace`")?;
        }
        for file in self.svg.iter().chain(&self.trace) {
            output::check(file)?;
        }
        let pairs: Vec<(usize, usize)> = self
            .batch
            .iter()
            .flat_map(|&batch| self.context.iter().map(move |&context| (batch, context)))
            .collect();
        // A token needs a place after the keys that it sees.
        let longest = self.context.iter().copied().max().unwrap_or(1) + 1;
        check_context(&self.model.shape()?.spec, longest, "--context and the new token")?;
        let pages = |&(batch, context): &(usize, usize)| {
            batch * (context + PAGE_TOKENS).div_ceil(PAGE_TOKENS)
        };
        let batch = self.batch.iter().copied().max().unwrap_or(1);
        let limits = Limits::default()
            .with_max_sequences(batch)
            .with_max_step_tokens(batch)
            .with_pages(pairs.iter().map(pages).max().unwrap_or(1));
        let (mut backend, load_s) = load_ranks(&self.model, &self.schedule, limits, &self.ranks)?;
        if self.adapters > 0 {
            self.ranks.only_device("`bench decode --adapters`")?;
            if let Loaded::One(backend) = &mut backend {
                backend.give_random_adapters(self.adapters, self.adapter_rank)?;
            }
        }
        let mut all = Vec::new();
        for (batch, context) in pairs {
            all.push(backend.time_decode(batch, context, &self.sampling)?);
        }
        if let (Some(path), Some(times)) = (&self.svg, all.first()) {
            let title = format!("{} on {}", self.model.model, backend.device().name);
            std::fs::write(path, picture::roofline(&title, times))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if let (Some(path), Some(times), Loaded::One(backend)) =
            (&self.trace, all.first(), &mut backend)
        {
            trace::write(
                backend,
                &self.model.model.to_string(),
                &times.shape,
                &self.sampling,
                path,
            )?;
        }
        let mut out = std::io::stdout().lock();
        if self.json {
            let json =
                decode_json(&backend, &self.model.model.to_string(), load_s, &self.sampling, &all);
            writeln!(out, "{json}")?;
            return Ok(());
        }
        writeln!(
            out,
            "{} on {}, ready in {load_s:.2} s",
            self.model.model,
            backend.backend().describe()
        )?;
        let settings: Vec<String> = settings(&self.sampling)
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        writeln!(out, "sampled with {}", settings.join(", "))?;
        if self.adapters > 0 {
            let (count, rank) = (self.adapters, self.adapter_rank);
            writeln!(out, "adapters {count}, of attention, rank {rank}; phases are those without")?;
        }
        for times in &all {
            let StepShape { tokens, keys, .. } = times.shape;
            for line in step_lines(times, &format!("batch {tokens} context {keys}")) {
                writeln!(out, "{line}")?;
            }
        }
        Ok(())
    }
}

/// Settings as `top_p=0.95,top_k=50`.
fn sampling(text: &str) -> Result<DecodeSampling, String> {
    let plain = SamplerConfig { temperature: 1.0, ..SamplerConfig::GREEDY };
    let mut sampling = DecodeSampling::from(plain);
    let DecodeSampling { config, penalties, biases, logprobs, mask } = &mut sampling;
    for setting in text.split(',') {
        let Some((name, value)) = setting.split_once('=') else {
            return Err(format!("`{setting}` is no setting: write name=value, as in top_p=0.95"));
        };
        let number = || value.parse().map_err(|_| format!("{name} is `{value}`, not a number"));
        let whole = || {
            value
                .parse()
                .map_err(|_| format!("{name} is `{value}`; it must be a whole number from 0"))
        };
        match name {
            "temperature" => config.temperature = number()?,
            "top_p" => config.top_p = number()?,
            "min_p" => config.min_p = number()?,
            "top_k" => config.top_k = whole()?,
            "repetition_penalty" => penalties.repetition = number()?,
            "presence_penalty" => penalties.presence = number()?,
            "frequency_penalty" => penalties.frequency = number()?,
            "logit_bias" => *biases = whole()? as usize,
            "logprobs" => *logprobs = Some(whole()?),
            "mask" => *mask = whole()? > 0,
            _ => {
                return Err(format!(
                    "there is no setting `{name}`; there are temperature, top_k, top_p, min_p, \
                     repetition_penalty, presence_penalty, frequency_penalty, logit_bias, logprobs and mask"
                ));
            }
        }
    }
    config.check().map_err(|error| error.to_string())?;
    if !(penalties.repetition > 0.0 && penalties.repetition.is_finite()) {
        return Err(format!("repetition_penalty is {}; it must be above 0", penalties.repetition));
    }
    Ok(sampling)
}

/// The settings by name.
fn settings(sampling: &DecodeSampling) -> Vec<(String, Value)> {
    let DecodeSampling { config, penalties, biases, logprobs, mask } = sampling;
    let all = [
        ("temperature", json!(config.temperature)),
        ("top_k", json!(config.top_k)),
        ("top_p", json!(config.top_p)),
        ("min_p", json!(config.min_p)),
        ("repetition_penalty", json!(penalties.repetition)),
        ("presence_penalty", json!(penalties.presence)),
        ("frequency_penalty", json!(penalties.frequency)),
        ("logit_bias", json!(biases)),
        ("logprobs", json!(logprobs)),
        ("mask", json!(mask)),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A step's phases, for JSON.
pub(super) fn phases_json(times: &StepTimes) -> Vec<Value> {
    let phase = |phase: &PhaseTime| {
        json!({
            "name": phase.name,
            "bytes": phase.cost.bytes(),
            "flops": phase.cost.flops,
            "alone": stats(&phase.alone),
            "gb_per_s": phase.cost.bytes() / phase.alone.median_ms / 1e6,
            "tflops": phase.cost.flops / phase.alone.median_ms / 1e9,
            "in_chain_ms": phase.in_chain_ms,
            "predicted_ms": phase.predicted.us() / 1e3,
            "bound": phase.predicted.bound(),
            "roofline_share": phase_share(times, phase),
        })
    };
    times.phases.iter().map(phase).collect()
}

pub(super) fn stats(times: &TimingStats) -> Value {
    json!({ "median_ms": times.median_ms, "min_ms": times.min_ms, "max_ms": times.max_ms })
}

fn decode_json(
    backend: &Loaded,
    model: &str,
    load_s: f64,
    sampling: &DecodeSampling,
    all: &[StepTimes],
) -> Value {
    let device = backend.device();
    let (text_hash, misses) = backend.kernels();
    let runs: Vec<Value> = all
        .iter()
        .map(|times| {
            let phases = phases_json(times);
            json!({
                "batch": times.shape.tokens,
                "context": times.shape.keys,
                "distinct_experts": times.shape.distinct_experts,
                "regime": times.regime,
                "bytes": times.bytes,
                "flops": times.flops,
                "step": stats(&times.step),
                "tokens_per_s": times.shape.tokens as f64 * 1e3 / times.step.median_ms,
                "gb_per_s": times.bytes / times.step.median_ms / 1e6,
                "roofline": stats(&times.roofline),
                "roofline_share": times.roofline.median_ms / times.step.median_ms,
                "phases": phases,
            })
        })
        .collect();
    json!({
        "bench": "decode",
        "version": env!("CARGO_PKG_VERSION"),
        "model": model,
        "device": device.name,
        "backend": backend.backend().describe(),
        "driver": device.driver,
        "sm_clock_mhz": device.sm_clock_mhz,
        "memory_clock_mhz": device.memory_clock_mhz,
        "kernels": text_hash,
        "load_s": load_s,
        "sampling": Value::Object(settings(sampling).into_iter().collect()),
        "kernels_compiled": misses,
        "runs": runs,
    })
}

/// A phase's share of the roofline in the chain: the time its bytes would take at the flat read's rate over the time
/// that the step spends on it.
fn phase_share(times: &StepTimes, phase: &PhaseTime) -> f64 {
    times.roofline.median_ms * phase.cost.bytes() / times.bytes / phase.in_chain_ms
}

/// A step in a line, and a table of its phases; `keys` says what it sees.
pub(super) fn step_lines(times: &StepTimes, keys: &str) -> Vec<String> {
    let step = times.step.median_ms;
    let mut lines = vec![format!(
        "{keys} ({}): {step:.3} ms per step ({:.3} to {:.3}), {:.0} tokens/s, {:.0} GB/s, {:.1} TFLOP/s, \
         {:.1} % of the roofline of {:.3} ms",
        times.regime,
        times.step.min_ms,
        times.step.max_ms,
        times.shape.tokens as f64 * 1e3 / step,
        times.bytes / step / 1e6,
        times.flops / step / 1e9,
        100.0 * times.roofline.median_ms / step,
        times.roofline.median_ms
    )];
    let rows: Vec<Vec<String>> = times
        .phases
        .iter()
        .map(|phase| {
            vec![
                phase.name.clone(),
                format!("{:.2}", phase.cost.bytes() / 1e6),
                format!("{:.1}", phase.alone.median_ms * 1e3),
                format!("{:.1}", phase.in_chain_ms * 1e3),
                format!("{:.0}", 100.0 * phase_share(times, phase)),
                format!("{:.1}", phase.cost.flops / phase.alone.median_ms / 1e9),
                format!("{:.1}", phase.predicted.us()),
                format!("{:+.0}", 100.0 * (phase.predicted.us() / phase.in_chain_ms / 1e3 - 1.0)),
                phase.predicted.bound().to_owned(),
            ]
        })
        .collect();
    lines.extend(table::lines(
        &[
            "phase",
            "MB",
            "alone, µs",
            "in the chain, µs",
            "% of roofline",
            "TFLOP/s",
            "predicted, µs",
            "error, %",
            "bound by",
        ],
        &rows,
        &[1, 2, 3, 4, 5, 6, 7],
    ));
    lines
}

#[cfg(test)]
mod tests {
    use ossmith::unstable::Penalties;

    use super::*;

    #[test]
    fn sampling_settings_are_read_by_name() {
        let plain = SamplerConfig { temperature: 1.0, ..SamplerConfig::GREEDY };
        assert_eq!(sampling("top_p=0.95"), Ok(SamplerConfig { top_p: 0.95, ..plain }.into()));
        let config = SamplerConfig { temperature: 0.5, top_k: 50, top_p: 0.9, min_p: 0.1, seed: 0 };
        let penalties = Penalties { repetition: 1.1, presence: 0.5, frequency: 0.25 };
        let all = DecodeSampling { config, penalties, biases: 300, logprobs: Some(5), mask: true };
        let filters = "temperature=0.5,top_k=50,min_p=0.1,top_p=0.9";
        let penalties = "repetition_penalty=1.1,presence_penalty=0.5,frequency_penalty=0.25";
        let text = format!("{filters},{penalties},logit_bias=300,logprobs=5,mask=1");
        assert_eq!(sampling(&text), Ok(all));
        for (text, problem) in [
            ("top_p", "name=value"),
            ("top_p=x", "not a number"),
            ("top_k=1.5", "whole number"),
            ("seed=1", "no setting `seed`"),
            ("top_p=2", "top_p is 2"),
            ("repetition_penalty=0", "repetition_penalty is 0"),
        ] {
            let error = sampling(text).expect_err(text);
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
