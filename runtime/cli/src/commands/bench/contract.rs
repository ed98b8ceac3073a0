//! `ossmith bench contract`: whether a card, or recorded results, reach the shares of the roofline that
//! `benches/contract.toml` states.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use ossmith::unstable::SamplerConfig;
use ossmith::unstable::cuda::{CudaBackend, probe};
use ossmith::{Limits, PAGE_TOKENS};
use ossmith_plan::Arch;
use ossmith_report::contract::{self, Bench, Case, Kept, Reached};
use ossmith_report::{history, records};
use serde_json::{Value, json};

use super::super::kernels::arch;
use super::super::table;
use super::{load, prefill};
use crate::failure::fail;
use crate::load::RankArgs;
use crate::model::ModelArgs;
use crate::schedule::ScheduleArgs;

/// Hold the card at hand, or recorded results, against the contract of speeds.
///
/// Times each headline case of this kind of card with random weights, prints a table, and exits with 1 if one is missed.
/// With --from it needs no GPU: it compares recorded results build by build, and the newest build must keep the contract.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Recorded results to compare instead of timing: files, or folders such as benches/results.
    #[arg(long, num_args = 1.., value_name = "JSON")]
    from: Vec<PathBuf>,

    /// Contract to hold against [default: the repository's, benches/contract.toml].
    #[arg(long, value_name = "FILE")]
    contract: Option<PathBuf>,

    /// Only cases of this kind of card [default: that of the card; with --from, all].
    #[arg(long, value_name = "NAME", value_parser = arch)]
    profile: Option<Arch>,

    /// Only cases of this model.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    #[command(flatten)]
    ranks: RankArgs,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let cases = match &self.contract {
            None => contract::of_repository()?,
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                contract::parse(&file.to_string_lossy(), &text)?
            }
        };
        let kept = if self.from.is_empty() {
            self.time(&cases)?
        } else {
            let records = records::read(&self.from)?;
            let compared =
                contract::compare(&self.chosen(&cases, None), &records, &history::builds()?);
            // What nobody recorded is no breach.
            compared.into_iter().filter(|kept| !kept.reached.is_empty()).collect()
        };
        if kept.is_empty() {
            return Err(fail(
                "no case of the contract was measured",
                "see benches/contract.toml for the cases",
            ));
        }
        let missed = kept.iter().filter(|kept| !kept.is_kept()).count();
        let mut out = std::io::stdout().lock();
        if self.json {
            let cases: Vec<Value> = kept.iter().map(object).collect();
            writeln!(out, "{}", json!({ "bench": "contract", "missed": missed, "cases": cases }))?;
        } else {
            for line in lines(&kept) {
                writeln!(out, "{line}")?;
            }
        }
        if missed > 0 {
            let message =
                format!("{missed} of {} cases miss their share of the roofline", kept.len());
            return Err(fail(
                message,
                "find what became slower, or say in benches/contract.toml why less is right",
            ));
        }
        Ok(())
    }

    /// The cases that the flags leave, of this profile if there is one.
    fn chosen(&self, cases: &[Case], profile: Option<&str>) -> Vec<Case> {
        let profile = self.profile.map(|arch| arch.name).or(profile);
        let model = self.model.as_deref().map(|name| name.strip_prefix("openai/").unwrap_or(name));
        let wanted = |case: &&Case| {
            profile.is_none_or(|name| name == case.profile)
                && model.is_none_or(|name| name == case.model)
        };
        cases.iter().filter(wanted).cloned().collect()
    }

    /// Times the cases of the card at hand, model by model.
    fn time(&self, cases: &[Case]) -> anyhow::Result<Vec<Kept>> {
        let ordinal = self.ranks.only_device("`bench contract`")?;
        let device = probe(ordinal)?;
        let profile = Arch::of_device(&device.name, device.compute);
        let cases = self.chosen(cases, Some(profile.name));
        let mut models: Vec<&str> = Vec::new();
        for case in &cases {
            if !models.contains(&case.model.as_str()) {
                models.push(&case.model);
            }
        }
        let mut kept = Vec::new();
        for model in models {
            let of_model: Vec<&Case> = cases.iter().filter(|case| case.model == model).collect();
            let args = ModelArgs::named(&format!("synthetic:{model}"), 0);
            let (mut backend, _) =
                load(&args, &ScheduleArgs::default(), limits(&of_model), ordinal)?;
            for case in of_model {
                let reached = time(&mut backend, &args, case)?;
                eprintln!(
                    "{model}, {}: {:.3} ms, {:.1} %",
                    case.bench,
                    reached.ms,
                    100.0 * reached.share
                );
                kept.push(Kept {
                    case: case.clone(),
                    reached: vec![(device.name.clone(), reached)],
                });
            }
        }
        Ok(kept)
    }
}

/// Room for every case of a model.
fn limits(cases: &[&Case]) -> Limits {
    let mut limits = Limits::default().with_max_sequences(1).with_max_step_tokens(1).with_pages(1);
    for case in cases {
        let (sequences, step_tokens, pages) = match case.bench {
            Bench::Decode { batch, context } => {
                (batch, batch, batch * (context + PAGE_TOKENS).div_ceil(PAGE_TOKENS))
            }
            Bench::Prefill { tokens, chunk } => {
                (1, chunk.min(tokens), tokens.div_ceil(PAGE_TOKENS))
            }
        };
        limits = limits
            .with_max_sequences(limits.max_sequences.max(sequences))
            .with_max_step_tokens(limits.max_step_tokens.max(step_tokens))
            .with_pages(limits.pages.max(pages));
    }
    limits
}

fn time(backend: &mut CudaBackend, model: &ModelArgs, case: &Case) -> anyhow::Result<Reached> {
    match case.bench {
        Bench::Decode { batch, context } => {
            let sampling = SamplerConfig { temperature: 1.0, ..SamplerConfig::GREEDY };
            let times = backend.time_decode_step(batch, context, &sampling.into())?;
            let (step, roofline) = (times.step.median_ms, times.roofline.median_ms);
            Ok(Reached { ms: step, share: roofline / step })
        }
        Bench::Prefill { tokens, chunk } => {
            let shape = model.shape()?;
            let prompt = prefill::prompt(shape.spec.vocab, tokens);
            let pages: Vec<u32> = (0..tokens.div_ceil(PAGE_TOKENS) as u32).collect();
            let ms = prefill::median_ms(backend, &prompt, &pages, chunk)?;
            let device = backend.device();
            let profile = Arch::of_device(&device.name, device.compute);
            let on_device = shape.on(device.compute);
            let share = contract::prompt_share(&on_device, &profile, tokens, chunk, ms);
            Ok(Reached { ms, share })
        }
    }
}

fn object(kept: &Kept) -> Value {
    let reached: Vec<Value> = kept
        .reached
        .iter()
        .map(|(build, reached)| json!({ "build": build, "ms": reached.ms, "roofline_share": reached.share }))
        .collect();
    json!({
        "profile": kept.case.profile,
        "model": kept.case.model,
        "case": kept.case.bench.to_string(),
        "min_share": kept.case.min_share,
        "kept": kept.is_kept(),
        "change": kept.change(),
        "reached": reached,
    })
}

fn lines(kept: &[Kept]) -> Vec<String> {
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let rows: Vec<Vec<String>> = kept
        .iter()
        .map(|kept| {
            let newest = kept.newest();
            let builds: Vec<String> =
                kept.reached.iter().map(|(_, reached)| percent(reached.share)).collect();
            vec![
                kept.case.profile.clone(),
                kept.case.model.clone(),
                kept.case.bench.to_string(),
                newest.map_or_else(String::new, |newest| format!("{:.3}", newest.ms)),
                percent(kept.case.min_share),
                newest.map_or_else(String::new, |newest| percent(newest.share)),
                if kept.is_kept() { "kept" } else { "MISSED" }.to_owned(),
                kept.change()
                    .map_or_else(String::new, |change| format!("{:+.1} %", 100.0 * change)),
                builds.join(" → "),
            ]
        })
        .collect();
    let header = [
        "card",
        "model",
        "case",
        "ms",
        "least %",
        "reached %",
        "contract",
        "time since the build before",
        "% by build",
    ];
    table::lines(&header, &rows, &[3, 4, 5])
}
