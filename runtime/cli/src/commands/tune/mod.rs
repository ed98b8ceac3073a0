//! `ossmith tune`: which values of tunables make a model's steps fastest on the device at hand.
//!
//! [`descent`] says what to try, [`candidate`] compiles it and refuses what cannot be good, [`device`] checks and times
//! what is left, [`log`] keeps every decision, so that a run that was interrupted goes on where it was.

mod candidate;
mod descent;
mod device;
mod log;
mod outcome;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use ossmith::unstable::cuda::replay::ReplayedStep;
use ossmith_models::codegen::{Overrides, Tunable, tunables};
use ossmith_plan::{Arch, Model, Rates};
use serde_json::json;

use self::candidate::{Candidate, Compiler};
use self::descent::{Decision, LEAST_GAIN, Score, Values};
use self::device::Device;
use self::log::{Log, Tried};
use super::bench::count;
use crate::failure::fail;
use crate::model::ModelArgs;
use crate::output::note;
use crate::schedule::ScheduleArgs;

/// Find the fastest schedules of a model's kernels on this device.
///
/// Tries other values of the tunables that `kernels space` lists, one after another and from random starts: leaves out
/// what does not fit, spills or should be slower by the cost model, times whole steps with the present and the new kernels
/// in turns, and checks what is faster against the CPU executor. Each decision is a line of JSON in the log; a log that is
/// there already is gone on with. The result is a tuning record, which the build embeds.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// Only these kernels.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    kernel: Vec<String>,
    /// Only the kernels of these phases.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    phase: Vec<String>,
    /// Which steps to tune.
    #[arg(long, value_enum, default_value_t = Steps::Decode)]
    regime: Steps,
    /// Seconds to search for, after loading.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    budget: u64,
    /// Sequences of the decode steps that are timed [default: 1,8 for decode, 32,128 for batched].
    #[arg(long, value_delimiter = ',', value_name = "N,…", value_parser = count(4096))]
    batch: Vec<usize>,
    /// Keys that each token of a decode step sees.
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = count(1 << 24))]
    context: usize,
    /// Lengths of the prompts that are timed for prefill.
    #[arg(long, default_value = "512,2048", value_delimiter = ',', value_name = "N,…", value_parser = count(1 << 20))]
    tokens: Vec<usize>,
    /// Random starts for each kernel after its descent.
    #[arg(long, default_value_t = 6, value_name = "N")]
    restarts: usize,
    /// File of the decisions [default: tune-MODEL-PROFILE-REGIME.jsonl].
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// The tuning record to write [default: PROFILE.toml in models/tuned, where there is such a folder, or here].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Enumerate, compile and predict, and time nothing: needs NVRTC but no GPU.
    #[arg(long)]
    dry_run: bool,
    /// Profile of a dry run.
    #[arg(long, default_value = "h200", value_name = "NAME", value_parser = super::kernels::arch, requires = "dry_run")]
    gpu: Arch,
    /// CUDA device.
    #[arg(long, default_value_t = 0, value_name = "N")]
    device: usize,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// The regime that is tuned, by the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Steps {
    /// Steps of 1 to 8 tokens.
    Decode,
    /// Batches of more sequences that decode.
    Batched,
    /// Prompts.
    Prefill,
}

impl Steps {
    const fn name(self) -> &'static str {
        match self {
            Steps::Decode => "decode",
            Steps::Batched => "batched",
            Steps::Prefill => "prefill",
        }
    }
}

impl Args {
    fn steps(&self) -> Vec<ReplayedStep> {
        let context = self.context;
        let decode = |own: &[usize]| {
            let batches = if self.batch.is_empty() { own } else { &self.batch };
            batches.iter().map(|&batch| ReplayedStep::Decode { batch, context }).collect()
        };
        match self.regime {
            Steps::Decode => decode(&[1, 8]),
            Steps::Batched => decode(&[32, 128]),
            Steps::Prefill => {
                self.tokens.iter().map(|&tokens| ReplayedStep::Prompt { tokens }).collect()
            }
        }
    }

    /// Steps of the same kernels that are timed before and after, to see what tuning for others did to them.
    fn witnesses(&self) -> Vec<ReplayedStep> {
        let context = self.context;
        match self.regime {
            Steps::Decode if self.batch.is_empty() => {
                [2, 4].map(|batch| ReplayedStep::Decode { batch, context }).into()
            }
            _ => Vec::new(),
        }
    }

    pub(crate) fn run(self) -> anyhow::Result<()> {
        let shape = self.model.shape()?;
        let arch = if self.dry_run { self.gpu } else { device::arch(self.device)? };
        let given = self.schedule.overrides()?;
        let present = ossmith_models::tuned_values(&shape.spec, &arch)?.with(&given);
        let steps = self.steps();
        let mut session = Session::new(shape, arch, present, steps.clone())?;
        let kernels = session.kernels(&self.kernel, &self.phase)?;
        let name = format!("tune-{}-{}-{}.jsonl", shape.spec.name, arch.name, self.regime.name());
        let log = self.log.clone().unwrap_or_else(|| PathBuf::from(name));
        session.log = Log::open(&log, shape.spec.name, arch.name)?;
        if session.log.known() > 0 {
            note!("{} times are known from {}", session.log.known(), log.display());
        }
        if !self.dry_run {
            let all: Vec<ReplayedStep> = steps.into_iter().chain(self.witnesses()).collect();
            let device = Device::load(&self.model, &session, &all, self.device)?;
            session.rates = session.rates.with_bandwidth(device.gb_per_s);
            session.device = Some(device);
        }
        let begin = Instant::now();
        session.deadline = Some(begin + Duration::from_secs(self.budget));
        session.search(&kernels, self.restarts)?;
        let searched_s = begin.elapsed().as_secs_f64();
        let Some(mut device) = session.device.take() else {
            note!("{} candidates, {} refused, none timed", session.tried, session.refused);
            return Ok(());
        };
        let outcome = outcome::measure(&session, &mut device, &self.witnesses())?;
        for kernel in outcome.lucky(LEAST_GAIN / 2.0) {
            note!("{kernel}: its new values gain nothing in the last turns, and are not recorded");
            session.revert(kernel);
        }
        let record = self.out.clone().unwrap_or_else(|| record_file(&arch));
        outcome::write_record(&record, &session, &device)?;
        let mut out = std::io::stdout().lock();
        if self.json {
            let all = json!({
                "tune": shape.spec.name,
                "regime": self.regime.name(),
                "profile": arch.name,
                "device": device.name,
                "driver": device.driver,
                "gb_per_s": device.gb_per_s,
                "load_s": device.load_s,
                "search_s": searched_s,
                "candidates": session.tried,
                "refused": session.refused,
                "values": session.chosen,
                "steps": outcome.steps_json(),
                "kernels": outcome.kernels_json(),
                "record": record.display().to_string(),
            });
            writeln!(out, "{all}")?;
        } else {
            for line in outcome.lines() {
                writeln!(out, "{line}")?;
            }
            writeln!(
                out,
                "{} candidates in {searched_s:.1} s ({:.1} s to load), {} of them refused; record {}, log {}",
                session.tried,
                device.load_s,
                session.refused,
                record.display(),
                log.display()
            )?;
        }
        Ok(())
    }
}

fn record_file(arch: &Arch) -> PathBuf {
    let folder = Path::new("models/tuned");
    let folder = if folder.is_dir() { folder } else { Path::new("") };
    folder.join(format!("{}.toml", arch.name))
}

/// A kernel to tune.
#[derive(Clone, Debug)]
struct Target {
    kernel: &'static str,
    tunables: Vec<Tunable>,
    /// The steps that launch it, by their place among the session's.
    steps: Vec<usize>,
    /// What it should take of them.
    predicted_us: f64,
}

/// What a search knows and has found.
pub(super) struct Session {
    model: &'static Model,
    arch: Arch,
    rates: Rates,
    steps: Vec<ReplayedStep>,
    /// Every tunable with what its schedule chooses by itself, by kernel.
    own: BTreeMap<&'static str, Vec<Tunable>>,
    /// The values that the search began with, and those that it has chosen.
    present: Overrides,
    chosen: Overrides,
    compiler: Compiler,
    log: Log,
    device: Option<Device>,
    deadline: Option<Instant>,
    tried: usize,
    refused: usize,
}

impl Session {
    fn new(
        model: &'static Model,
        arch: Arch,
        present: Overrides,
        steps: Vec<ReplayedStep>,
    ) -> anyhow::Result<Session> {
        let own = tunables(&model.spec, &arch, &Overrides::default())?.into_iter().collect();
        // Refuses values that are illegal or name nothing.
        crate::schedule::scheduled(model, &arch, &present)?;
        let mut session = Session {
            model,
            arch,
            rates: Rates::of(&arch),
            steps,
            own,
            present: Overrides::default(),
            chosen: Overrides::default(),
            compiler: Compiler::default(),
            log: Log::default(),
            device: None,
            deadline: None,
            tried: 0,
            refused: 0,
        };
        session.present = session.canonical(&present);
        session.chosen = session.present.clone();
        Ok(session)
    }

    /// Overrides without values that the schedule has by itself: one text for one meaning.
    fn canonical(&self, overrides: &Overrides) -> Overrides {
        let mut all = overrides.clone();
        for (kernel, values) in &mut all.0 {
            let own = self.own.get(kernel.as_str()).map_or(&[][..], |tunables| tunables);
            values.retain(|name, value| own.iter().any(|it| it.name == name && it.own != *value));
        }
        all.0.retain(|_, values| !values.is_empty());
        all
    }

    /// These with other values of one kernel.
    fn with_kernel(&self, kernel: &str, values: &Values) -> Overrides {
        let mut all = self.chosen.clone();
        all.0.insert(kernel.to_owned(), values.clone());
        self.canonical(&all)
    }

    /// Gives a kernel the values back that the search began with.
    fn revert(&mut self, kernel: &str) {
        self.chosen.0.remove(kernel);
        let old = self.present.0.get(kernel).cloned();
        self.chosen.0.extend(old.map(|old| (kernel.to_owned(), old)));
    }

    /// A kernel's values among the chosen ones.
    fn values_of(&self, target: &Target, overrides: &Overrides) -> Values {
        let over = overrides.0.get(target.kernel);
        let value = |it: &Tunable| over.and_then(|values| values.get(it.name)).copied();
        let each = target.tunables.iter();
        each.map(|it| (it.name.to_owned(), value(it).unwrap_or(it.own))).collect()
    }

    /// The kernels to tune, by descending time that they should take.
    fn kernels(&mut self, kernels: &[String], phases: &[String]) -> anyhow::Result<Vec<Target>> {
        let compiled = self.compiler.model(self.model, &self.arch, &self.chosen)?;
        let on = compiled.on(self.arch.compute);
        let mut targets: Vec<Target> = Vec::new();
        for (step, replayed) in self.steps.iter().enumerate() {
            for (total, prediction) in candidate::predictions(&on, replayed, &self.rates) {
                let phase_named = phases.iter().any(|name| name == total.phase.name);
                for kernel in candidate::launched(&on, replayed, &total) {
                    let named = phase_named || kernels.iter().any(|name| name == kernel);
                    let everything = kernels.is_empty() && phases.is_empty();
                    if !(named || everything && total.phase.auxiliary.is_none()) {
                        continue;
                    }
                    let us = prediction.us();
                    match targets.iter_mut().find(|target| target.kernel == kernel) {
                        Some(target) => {
                            target.predicted_us += us;
                            if !target.steps.contains(&step) {
                                target.steps.push(step);
                            }
                        }
                        None => targets.push(Target {
                            kernel,
                            tunables: self.own.get(kernel).cloned().unwrap_or_default(),
                            steps: vec![step],
                            predicted_us: us,
                        }),
                    }
                }
            }
        }
        let missing = |name: &&String| targets.iter().all(|target| target.kernel != name.as_str());
        if let Some(name) = kernels.iter().find(missing) {
            let known: Vec<&str> = targets.iter().map(|target| target.kernel).collect();
            return Err(fail(
                format!("no step that is tuned launches a kernel {name}"),
                format!(
                    "choose its --regime, --batch or --tokens; these steps launch {}",
                    known.join(", ")
                ),
            ));
        }
        if targets.is_empty() {
            return Err(fail(
                "there is nothing to tune in these steps",
                "`ossmith kernels plan` names the phases of a step",
            ));
        }
        targets.sort_by(|a, b| b.predicted_us.total_cmp(&a.predicted_us));
        Ok(targets)
    }

    /// Searches each kernel in turn, then those again whose neighbours have changed, until time is up or nothing changes.
    fn search(&mut self, targets: &[Target], restarts: usize) -> anyhow::Result<()> {
        let end = self.deadline;
        for round in 0.. {
            let before = self.chosen.clone();
            for (i, target) in targets.iter().enumerate() {
                // An equal part of what time is left, so that the last kernels are not left out.
                self.deadline = end.map(|end| {
                    let now = Instant::now();
                    now + end.saturating_duration_since(now) / (targets.len() - i) as u32
                });
                let start = self.values_of(target, &self.chosen);
                let restarts = if round == 0 { restarts } else { 0 };
                let mut try_all = |decision: &Decision| self.try_all(target, decision);
                let found = descent::search(&target.tunables, start, restarts, &mut try_all)?;
                self.chosen = self.with_kernel(target.kernel, &found);
            }
            let late = end.is_some_and(|end| Instant::now() >= end);
            if late || self.chosen == before || self.device.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Scores of a decision's candidates; `None` if time is up.
    fn try_all(
        &mut self,
        target: &Target,
        decision: &Decision,
    ) -> anyhow::Result<Option<Vec<Option<Score>>>> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(None);
        }
        let begin = Instant::now();
        let overrides: Vec<Overrides> = decision
            .candidates
            .iter()
            .map(|values| self.with_kernel(target.kernel, values))
            .collect();
        let steps: Vec<ReplayedStep> = target.steps.iter().map(|&step| self.steps[step]).collect();
        let mut candidates = self.compiler.candidates(
            self.model,
            &self.arch,
            &self.rates,
            target.kernel,
            &steps,
            &overrides,
        )?;
        if let Some(device) = &mut self.device {
            device.time(&mut candidates, &steps, &mut self.log)?;
            device.check_best(&mut candidates, target.kernel, &steps, LEAST_GAIN)?;
        }
        let scores: Vec<Option<Score>> = candidates.iter().map(Candidate::score).collect();
        self.tried += candidates.len() - 1;
        self.refused += candidates.iter().filter(|it| it.refused.is_some()).count();
        let best = |scores: &[Option<Score>]| {
            let scored = scores.iter().enumerate().filter_map(|(i, score)| Some((i, (*score)?)));
            scored.min_by(|a, b| a.1.total_cmp(&b.1))
        };
        let present = scores.first().copied().flatten();
        let chosen = match (best(&scores), present) {
            (Some((i, score)), Some(present)) if score < present * (1.0 - LEAST_GAIN) => i,
            _ => 0,
        };
        let tried = Tried {
            kernel: target.kernel,
            tunable: decision.tunable,
            base: &self.chosen,
            steps: &steps,
            values: &decision.candidates,
            candidates: &candidates,
            chosen,
            seconds: begin.elapsed().as_secs_f64(),
        };
        self.log.write(&tried)?;
        note!("{}", tried.line());
        Ok(Some(scores))
    }
}
