//! `ossmith fit`: whether a model will run on a kind of card, what it takes there and how fast it will be, without
//! weights and without a GPU.

use std::io::Write;
use std::path::Path;

use ossmith::unstable::cuda::memory_budget_without_device;
use ossmith::{Limits, MemoryBudget, PAGE_TOKENS};
use ossmith_plan::{Arch, Model, Schedule, StepShape};
use ossmith_report::predict::{Load, Predictor};
use serde_json::{Value, json};

use super::kernels::arch;
use super::table;
use crate::failure::fail;
use crate::model::ModelArgs;

/// Say whether a model will run on a kind of card, and how fast, without weights or a GPU.
///
/// Prints the memory that it takes (weights, cache, workspace), the kernels that it gets and those that it does without,
/// with the reason, and predicted milliseconds of a decode step and of a prompt. Predictions are calibrated on the results
/// that the repository keeps of this kind of card; their error is that of recorded results, each predicted from all
/// others. With --json, one object.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A config.json, a folder that holds one, or a built-in name.
    #[arg(value_name = "CONFIG|FOLDER|NAME")]
    model: String,

    /// Kind of card, of those that Ossmith knows.
    #[arg(long, default_value = "h100", value_name = "NAME", value_parser = arch)]
    profile: Arch,

    /// Sequences at once.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    batch: u32,

    /// Tokens of each sequence: the prompt's length, and the keys that a decode step sees.
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    context: u32,

    /// Tokens of one step at most, which prompts are divided into.
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    chunk: u32,

    /// Memory that is free on the card, in GB [default: that of the kind of card].
    #[arg(long, value_name = "GB", value_parser = gigabytes)]
    memory: Option<f64>,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn gigabytes(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && *value > 0.0);
    value.ok_or_else(|| "give GB above 0, such as 80".to_owned())
}

/// What a card of a profile has free once a context is open, in GB, rounded down: an H100 of 80 GB and an H200 of 141 GB.
fn card_gb(profile: &Arch) -> Option<f64> {
    [("h100", 84.0), ("h200", 149.0)]
        .into_iter()
        .find(|(name, _)| *name == profile.name)
        .map(|(_, gb)| gb)
}

/// A prediction with the error of its kind.
struct Prediction {
    ms: f64,
    regime: &'static str,
    /// Mean and largest error of recorded results, absolute and relative.
    error: Option<(f64, f64)>,
}

impl Prediction {
    fn of(predictor: &Predictor, load: &Load) -> Prediction {
        let regime = load.parts.first().map_or("decode", |part| part.0);
        Prediction { ms: predictor.ms(load), regime, error: predictor.error(regime) }
    }

    fn json(&self) -> Value {
        let (mean, largest) = self.error.unzip();
        json!({ "ms": self.ms, "regime": self.regime, "mean_error": mean, "largest_error": largest })
    }

    /// The error as a sentence.
    fn sentence(&self, profile: &Arch) -> String {
        match self.error {
            Some((mean, largest)) => format!(
                "recorded {} steps on the {} are predicted to within {:.1} % on average and {:.1} % at worst",
                self.regime,
                profile.name,
                100.0 * mean,
                100.0 * largest
            ),
            None => format!(
                "no results of the {} profile are recorded, so this is the data sheet's rate times what is usual",
                profile.name
            ),
        }
    }
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let base = shape(&self.model)?;
        let model: &'static Model = Box::leak(Box::new(base.on(self.profile.compute)));
        let (batch, context, chunk) =
            (self.batch as usize, self.context as usize, self.chunk as usize);
        if context > model.spec.context {
            let message = format!(
                "--context is {context}, and {} has {} positions",
                model.spec.name, model.spec.context
            );
            return Err(fail(message, "give a smaller --context"));
        }
        let runs = model.cannot_run();
        let limits = Limits::default()
            .with_max_sequences(batch)
            .with_max_step_tokens(chunk.min(context).max(batch))
            .with_pages(batch * context.div_ceil(PAGE_TOKENS));
        let available = self.memory.or_else(|| card_gb(&self.profile)).map(|gb| (gb * 1e9) as u64);
        let mut budget = memory_budget_without_device(model, &limits, self.profile.compute)?;
        budget.available_bytes = available;
        let predictor = Predictor::of(self.profile)?;
        let predictions = runs.is_none().then(|| {
            let step = Load::decode(model, &self.profile, batch, context);
            let prompt = Load::prompt(model, &self.profile, context, chunk);
            [Prediction::of(&predictor, &step), Prediction::of(&predictor, &prompt)]
        });
        let mut out = std::io::stdout().lock();
        if self.json {
            let object = self.object(base, model, runs.as_deref(), &budget, predictions.as_ref());
            writeln!(out, "{object}")?;
            return Ok(());
        }
        for line in self.lines(base, model, runs.as_deref(), &budget, predictions.as_ref()) {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }

    fn verdict(
        &self,
        model: &Model,
        cannot: Option<&str>,
        budget: &MemoryBudget,
    ) -> (bool, String) {
        let (name, card) = (model.spec.name, self.profile.name);
        if let Some(why) = cannot {
            return (false, format!("{name} cannot run on {card}: {why}; it runs on the CPU"));
        }
        match (budget.available_bytes, budget.check()) {
            (None, _) => (
                true,
                format!(
                    "{name} runs on {card} if {:.1} GB are free (give --memory)",
                    gb(budget.total_bytes())
                ),
            ),
            (Some(free), Ok(())) => (
                true,
                format!(
                    "{name} runs on {card}: {:.1} of {:.1} GB",
                    gb(budget.total_bytes()),
                    gb(free)
                ),
            ),
            (Some(_), Err(why)) => (false, format!("{name} does not run on {card}: {why}")),
        }
    }

    /// What this card does without, one sentence each: schedules of other architectures, and what the model's shape rules
    /// out.
    fn losses(&self, base: &Model, model: &Model) -> Vec<String> {
        let other_family = |schedule: &&Schedule| !schedule.family.runs_on(self.profile.compute);
        let elsewhere = base.schedules.iter().filter(other_family).map(|schedule| {
            let (regime, family) = (schedule.regime.name(), schedule.family.name());
            let names: Vec<&str> = schedule.infos().iter().map(|info| info.name).collect();
            let own: Vec<&str> = names.into_iter().filter(|name| !runs(model, name)).collect();
            format!(
                "the {regime} schedule for {}: {} are made for {family}",
                up_to(schedule),
                own.join(" ")
            )
        });
        elsewhere.chain(model.losses.iter().map(|loss| loss.what.to_owned())).collect()
    }

    fn lines(
        &self,
        base: &Model,
        model: &Model,
        cannot: Option<&str>,
        budget: &MemoryBudget,
        predictions: Option<&[Prediction; 2]>,
    ) -> Vec<String> {
        let mut lines = vec![self.verdict(model, cannot, budget).1];
        lines.push(format!(
            "for {} at once, {} tokens each, in steps of up to {} tokens",
            if self.batch == 1 {
                "1 sequence".to_owned()
            } else {
                format!("{} sequences", self.batch)
            },
            self.context,
            self.chunk.min(self.context).max(self.batch)
        ));
        let rows: Vec<Vec<String>> = memory_items(budget)
            .into_iter()
            .map(|(name, bytes)| vec![name.to_owned(), format!("{:.2}", gb(bytes))])
            .collect();
        lines.extend(table::lines(&["memory", "GB"], &rows, &[1]));
        if budget.available_bytes.is_some() && cannot.is_none() {
            let tokens = budget.pages_that_fit(1.0) * PAGE_TOKENS;
            lines.push(format!("room for {tokens} tokens of cache in all"));
        }
        if let Some([step, prompt]) = predictions {
            lines.push(format!(
                "a decode step: {:.3} ms, {:.0} tokens/s ({})",
                step.ms,
                f64::from(self.batch) * 1e3 / step.ms,
                step.sentence(&self.profile)
            ));
            lines.push(format!(
                "a prompt of {} tokens: {:.2} ms, {:.0} tokens/s ({})",
                self.context,
                prompt.ms,
                f64::from(self.context) * 1e3 / prompt.ms,
                prompt.sentence(&self.profile)
            ));
        }
        for schedule in model.schedules {
            let names: Vec<&str> = schedule.infos().iter().map(|info| info.name).collect();
            let (regime, family) = (schedule.regime.name(), schedule.family.name());
            lines.push(format!("{} ({regime}, {family}): {}", up_to(schedule), names.join(" ")));
        }
        let losses = self.losses(base, model);
        if losses.is_empty() {
            lines.push("it has every kernel that there is".to_owned());
        }
        lines.extend(losses.into_iter().map(|loss| format!("does without: {loss}")));
        lines
    }

    fn object(
        &self,
        base: &Model,
        model: &Model,
        cannot: Option<&str>,
        budget: &MemoryBudget,
        predictions: Option<&[Prediction; 2]>,
    ) -> Value {
        let memory: serde_json::Map<String, Value> = memory_items(budget)
            .into_iter()
            .map(|(name, bytes)| (name.replace(' ', "_"), bytes.into()))
            .collect();
        let schedules: Vec<Value> = model
            .schedules
            .iter()
            .map(|schedule| {
                let names: Vec<&str> = schedule.infos().iter().map(|info| info.name).collect();
                let most = (schedule.max_tokens != usize::MAX).then_some(schedule.max_tokens);
                json!({ "regime": schedule.regime.name(), "max_tokens": most, "family": schedule.family.name(), "kernels": names })
            })
            .collect();
        let losses = self.losses(base, model);
        let (runs, why) = self.verdict(model, cannot, budget);
        let shape = StepShape::decode(model, self.batch as usize, self.context as usize);
        json!({
            "model": model.spec.name,
            "profile": self.profile.name,
            "batch": self.batch,
            "context": self.context,
            "chunk": self.chunk,
            "runs": runs,
            "why": why,
            "memory_bytes": memory,
            "available_bytes": budget.available_bytes,
            "cache_tokens_that_fit": budget.available_bytes.map(|_| budget.pages_that_fit(1.0) * PAGE_TOKENS),
            "distinct_experts": shape.distinct_experts,
            "step": predictions.map(|[step, _]| step.json()),
            "prompt": predictions.map(|[_, prompt]| prompt.json()),
            "schedules": schedules,
            "losses": losses,
        })
    }
}

/// Whether a schedule of the model launches a kernel of this name.
fn runs(model: &Model, name: &str) -> bool {
    model.schedules.iter().flat_map(Schedule::infos).any(|info| info.name == name)
}

/// The steps that a schedule takes.
fn up_to(schedule: &Schedule) -> String {
    match schedule.max_tokens {
        usize::MAX => "larger steps".to_owned(),
        1 => "steps of 1 token".to_owned(),
        most => format!("steps of up to {most} tokens"),
    }
}

fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

fn memory_items(budget: &MemoryBudget) -> [(&'static str, u64); 10] {
    [
        ("weights", budget.weight_bytes),
        ("dense weights in 8 bits", budget.dense_q8_bytes),
        ("shadow head", budget.shadow_bytes),
        ("pages", budget.page_bytes),
        ("rings", budget.ring_bytes),
        ("snapshots", budget.snapshot_bytes),
        ("workspace", budget.workspace_bytes),
        ("sampling", budget.sampling_bytes),
        ("kernels and graphs", budget.graph_bytes),
        ("total", budget.total_bytes()),
    ]
}

/// The model of a name, a folder, or a config.json by itself.
fn shape(name: &str) -> anyhow::Result<&'static Model> {
    let path = Path::new(name);
    if path.is_file() && path.extension().is_some_and(|end| end == "json") {
        return Ok(ossmith_models::from_config(path)?);
    }
    ModelArgs::named(name, 0).shape()
}
