//! The device: candidates as captured steps, timed in turns, and checked against the CPU executor.

use std::collections::HashMap;
use std::time::Instant;

use ossmith::unstable::cuda::CudaBackend;
use ossmith::unstable::cuda::check::{CheckOptions, Checker};
use ossmith::unstable::cuda::replay::{Replay, ReplayedStep, StagedStep};
use ossmith::{Limits, unstable::cuda};
use ossmith_models::codegen::Overrides;
use ossmith_plan::{Arch, Model};

use super::Session;
use super::candidate::Candidate;
use super::log::Log;
use crate::model::ModelArgs;
use crate::output::note;
use crate::progress::Bars;

/// Rounds of the first look, and of the second at what is near the best.
const FIRST_ROUNDS: usize = 3;
const MORE_ROUNDS: usize = 6;
/// Rounds of a candidate that would be taken, against the present values.
const CONFIRM_ROUNDS: usize = 9;
/// What is this much slower than the best is not looked at again.
const NEAR: f64 = 1.01;
/// Milliseconds that one replay is repeated for in a round.
const ROUND_MS: f64 = 10.0;

/// The profile of a device by its name.
pub(super) fn arch(ordinal: usize) -> anyhow::Result<Arch> {
    let info = cuda::probe(ordinal)?;
    Ok(Arch::of_device(&info.name, info.compute))
}

/// A loaded model, and what was captured of it.
pub(super) struct Device {
    backend: CudaBackend,
    checker: Option<Checker>,
    ordinal: usize,
    /// The step whose words are on the device.
    staged: Option<(ReplayedStep, StagedStep)>,
    /// The steps by the schedules that the search began with, and milliseconds of each.
    baselines: HashMap<ReplayedStep, (Replay, f64)>,
    baseline: &'static Model,
    /// The model with the smallest tiles, which needs the most room.
    roomy: &'static Model,
    pub(super) name: String,
    pub(super) driver: i32,
    pub(super) gb_per_s: f64,
    pub(super) load_s: f64,
}

impl Device {
    /// Loads the model with room for the steps.
    pub(super) fn load(
        model: &ModelArgs,
        session: &Session,
        steps: &[ReplayedStep],
        ordinal: usize,
    ) -> anyhow::Result<Device> {
        let begin = Instant::now();
        let chosen = model.choose()?;
        let (spec, arch) = (chosen.model.spec, &session.arch);
        let compile =
            |overrides: &Overrides| ossmith_models::codegen::compile_with(spec, arch, overrides);
        let baseline = compile(&session.present)?;
        let mut smallest = session.present.clone();
        for (kernel, tunables) in &session.own {
            let tile = tunables.iter().find(|it| it.name == "tile_tokens");
            if let Some(tile) = tile.filter(|_| kernel.starts_with("moe_permute")) {
                let least = tile.legal.values().into_iter().min().unwrap_or(tile.own);
                smallest = smallest.with(&Overrides::one(kernel, "tile_tokens", least));
            }
        }
        let roomy = compile(&smallest)?;
        let most = |of: fn(&ReplayedStep) -> usize| steps.iter().map(of).max().unwrap_or(1);
        let pages = most(|step| step.sequences().0 * step.sequences().1);
        let limits = Limits::default()
            .with_max_sequences(most(|step| step.sequences().0))
            .with_max_step_tokens(most(ReplayedStep::tokens))
            .with_pages(pages);
        let mut bars = Bars::new();
        let mut backend =
            CudaBackend::new(roomy, chosen.checkpoint, limits, ordinal, &mut |at| bars.show(at))?;
        bars.finish();
        let bytes = 2e9;
        let gb_per_s = bytes / backend.time_flat_read(bytes)?.median_ms / 1e6;
        backend.reschedule(baseline)?;
        let (name, driver) = (backend.device().name.clone(), backend.device().driver);
        let load_s = begin.elapsed().as_secs_f64();
        note!("{} loaded on {name} in {load_s:.1} s, {gb_per_s:.0} GB/s", spec.name);
        Ok(Device {
            backend,
            checker: None,
            ordinal,
            staged: None,
            baselines: HashMap::new(),
            baseline,
            roomy,
            name,
            driver,
            gb_per_s,
            load_s,
        })
    }

    /// Stages a step and captures it by the baseline, if that has not been done.
    fn stage(&mut self, step: ReplayedStep) -> anyhow::Result<StagedStep> {
        if let Some((_, staged)) = self.staged.filter(|(at, _)| *at == step) {
            return Ok(staged);
        }
        self.backend.reschedule(self.baseline)?;
        let staged = self.backend.stage_replays(step)?;
        self.staged = Some((step, staged));
        if !self.baselines.contains_key(&step) {
            let replay = self.backend.capture_replay(&staged)?;
            let times = self.backend.time_replays(&[&replay], 3, 2)?;
            let ms = median(times.into_iter().flatten().collect());
            self.baselines.insert(step, (replay, ms));
        }
        Ok(staged)
    }

    /// Milliseconds of a step by the baseline and by each of some models, in turns: by model, then by round. The first
    /// list is the baseline's.
    pub(super) fn turns(
        &mut self,
        step: ReplayedStep,
        models: &[&'static Model],
        rounds: usize,
    ) -> anyhow::Result<Vec<Vec<f64>>> {
        let staged = self.stage(step)?;
        let mut replays = Vec::new();
        for model in models {
            self.backend.reschedule(model)?;
            replays.push(self.backend.capture_replay(&staged)?);
        }
        let (baseline, ms) = &self.baselines[&step];
        let each = ((ROUND_MS / ms).round() as usize).clamp(2, 16);
        let all: Vec<&Replay> = std::iter::once(baseline).chain(&replays).collect();
        Ok(self.backend.time_replays(&all, rounds, each)?)
    }

    /// Gives every candidate that is not refused its ratios; what the log knows is not timed again.
    pub(super) fn time(
        &mut self,
        candidates: &mut [Candidate],
        steps: &[ReplayedStep],
        log: &mut Log,
    ) -> anyhow::Result<()> {
        for step in steps {
            let open = |candidates: &[Candidate]| -> Vec<usize> {
                let kept = candidates.iter().enumerate().filter(|(_, it)| it.refused.is_none());
                kept.map(|(i, _)| i).collect()
            };
            let unknown: Vec<usize> = open(candidates)
                .into_iter()
                .filter(|&i| log.ratio(&candidates[i].overrides, step).is_none())
                .collect();
            let mut ratios: HashMap<usize, Vec<f64>> = HashMap::new();
            let mut wanted = unknown;
            for rounds in [FIRST_ROUNDS, MORE_ROUNDS] {
                let models: Vec<&'static Model> =
                    wanted.iter().filter_map(|&i| candidates[i].model).collect();
                if models.is_empty() {
                    break;
                }
                let times = self.turns(*step, &models, rounds)?;
                for (&i, times_of) in wanted.iter().zip(&times[1..]) {
                    let of_rounds = times_of.iter().zip(&times[0]).map(|(new, old)| new / old);
                    ratios.entry(i).or_default().extend(of_rounds);
                }
                let known = open(candidates).into_iter();
                let known = known.filter_map(|i| log.ratio(&candidates[i].overrides, step));
                let seen = ratios.values().map(|ratios| median(ratios.clone()));
                let best = known.chain(seen).fold(f64::INFINITY, f64::min);
                wanted.retain(|i| *i == 0 || median(ratios[i].clone()) < best * NEAR);
            }
            for i in open(candidates) {
                let candidate = &mut candidates[i];
                let ratio = match ratios.remove(&i) {
                    Some(ratios) => log.learn(&candidate.overrides, step, median(ratios)),
                    None => log.ratio(&candidate.overrides, step).unwrap_or(f64::INFINITY),
                };
                candidate.ratios.push(ratio);
            }
        }
        Ok(())
    }

    /// Times the best candidate again if it is better than the first by `gain`, and checks it against the CPU executor; then
    /// the next one if that does not hold.
    pub(super) fn check_best(
        &mut self,
        candidates: &mut [Candidate],
        kernel: &str,
        steps: &[ReplayedStep],
        gain: f64,
    ) -> anyhow::Result<()> {
        let Some(present) = candidates.first().and_then(Candidate::score) else { return Ok(()) };
        loop {
            let scored = candidates.iter().enumerate().skip(1);
            let scored = scored.filter_map(|(i, it)| Some((i, it.score()?)));
            let best = scored.min_by(|a, b| a.1.total_cmp(&b.1));
            let Some((i, _)) = best.filter(|best| best.1 < present * (1.0 - gain)) else {
                return Ok(());
            };
            let (Some(model), Some(old)) = (candidates[i].model, candidates[0].model) else {
                return Ok(());
            };
            // The best of many is often the luckiest: it has to be better once more, against the present values alone.
            let mut logs = 0.0;
            for step in steps {
                let times = self.turns(*step, &[old, model], CONFIRM_ROUNDS)?;
                let ratios = times[2].iter().zip(&times[1]).map(|(new, old)| new / old).collect();
                logs += median(ratios).ln();
            }
            let again = (logs / steps.len() as f64).exp();
            if again > 1.0 - gain {
                let change = 100.0 * (again - 1.0);
                candidates[i].refused = Some(format!("{change:+.2} % when it was timed again"));
                continue;
            }
            let wrong = self.check(model, kernel, steps)?;
            candidates[i].checked = Some(wrong.is_none());
            match wrong {
                None => return Ok(()),
                Some(why) => candidates[i].refused = Some(why),
            }
        }
    }

    /// What a model's kernel does wrong, if it does.
    fn check(
        &mut self,
        model: &'static Model,
        kernel: &str,
        steps: &[ReplayedStep],
    ) -> anyhow::Result<Option<String>> {
        // Steps of the same schedules, whose last tiles do not fill; the executor takes long for many tokens.
        const MAX_TOKENS: usize = 520;
        let mut tokens: Vec<usize> =
            steps.iter().map(|step| step.tokens().min(MAX_TOKENS)).collect();
        let uneven: Vec<usize> =
            tokens.iter().filter(|&&tokens| tokens > 2).map(|tokens| tokens - 1).collect();
        tokens.extend(uneven);
        let starts = if kernel.starts_with("attention") { vec![120, 2000] } else { vec![120] };
        let options = CheckOptions {
            kernels: vec![kernel.to_owned()],
            tokens,
            starts,
            ..CheckOptions::default()
        };
        // Room for any kernel of these steps.
        let room = CheckOptions {
            tokens: vec![MAX_TOKENS],
            starts: vec![2000],
            ..CheckOptions::default()
        };
        if self.checker.is_none() {
            self.checker = Some(Checker::new(self.roomy, self.ordinal, 0, &room, &mut |_| {})?);
        }
        let Some(checker) = &mut self.checker else { return Ok(None) };
        checker.reschedule(model)?;
        let lines = checker.run(&options, &mut |_| {})?;
        let wrong = lines.iter().find(|line| !line.passed());
        Ok(wrong.map(|line| {
            format!(
                "{} differs from the CPU executor by {:.1e} with {}",
                line.kernel, line.worst.overall, line.at
            )
        }))
    }
}

/// The median; infinite for no times.
pub(super) fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::INFINITY)
}
