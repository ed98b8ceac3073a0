//! From values to kernels that could run: compiled, and refused with a reason if they do not fit, spill, or should be
//! slower beyond doubt.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ossmith::unstable::cuda::CubinCache;
use ossmith::unstable::cuda::nvrtc::Resources;
use ossmith::unstable::cuda::replay::ReplayedStep;
use ossmith_models::codegen::{Overrides, compile_with};
use ossmith_plan::{
    Arch, Axis, KernelInfo, Model, PhaseKernel, PhaseTotal, Prediction, Rates, StepShape, Unit,
};

use super::descent::Score;

/// A candidate that should take this much longer than the present values, by the cost model, is not timed. The model is
/// wrong by a quarter at times, so this is far off.
const SLOWER_BEYOND_DOUBT: f64 = 1.5;

/// Shared memory of an SM that each block takes beside its own.
const RESERVED_BYTES: usize = 1024;

/// One set of values.
pub(super) struct Candidate {
    pub(super) overrides: Overrides,
    /// Its model, on the device's profile; none if it was refused before.
    pub(super) model: Option<&'static Model>,
    /// What its kernel should take in each step, in µs.
    pub(super) predicted_us: Vec<f64>,
    pub(super) resources: Option<Resources>,
    /// Why it was not timed, or not taken.
    pub(super) refused: Option<String>,
    /// Its time in each step as a share of what the search began with.
    pub(super) ratios: Vec<f64>,
    /// Whether it agrees with the CPU executor, if it was asked.
    pub(super) checked: Option<bool>,
}

impl Candidate {
    /// The geometric mean of its ratios.
    pub(super) fn score(&self) -> Option<Score> {
        if self.refused.is_some() || self.ratios.is_empty() {
            return None;
        }
        let logs: f64 = self.ratios.iter().map(|ratio| ratio.ln()).sum();
        Some((logs / self.ratios.len() as f64).exp())
    }

    fn refuse(&mut self, why: impl Into<String>) {
        self.refused.get_or_insert(why.into());
    }
}

/// What has been compiled.
#[derive(Default)]
pub(super) struct Compiler {
    models: HashMap<String, &'static Model>,
    resources: HashMap<&'static str, Resources>,
}

impl Compiler {
    /// The model with these values. Each set of values is compiled once: a model lives as long as the program.
    pub(super) fn model(
        &mut self,
        model: &'static Model,
        arch: &Arch,
        overrides: &Overrides,
    ) -> anyhow::Result<&'static Model> {
        let key = serde_json::to_string(overrides)?;
        if let Some(model) = self.models.get(&key) {
            return Ok(model);
        }
        let compiled = compile_with(model.spec, arch, overrides)?;
        self.models.insert(key, compiled);
        Ok(compiled)
    }

    /// Candidates for a kernel, the first of which is what there is: that one is never refused.
    pub(super) fn candidates(
        &mut self,
        model: &'static Model,
        arch: &Arch,
        rates: &Rates,
        kernel: &str,
        steps: &[ReplayedStep],
        overrides: &[Overrides],
    ) -> anyhow::Result<Vec<Candidate>> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for overrides in overrides {
            let mut candidate = Candidate {
                overrides: overrides.clone(),
                model: None,
                predicted_us: Vec::new(),
                resources: None,
                refused: None,
                ratios: Vec::new(),
                checked: None,
            };
            match self.model(model, arch, overrides) {
                Ok(model) => candidate.model = Some(model),
                Err(why) => candidate.refuse(why.to_string()),
            }
            candidates.push(candidate);
        }
        let Some(present) = candidates.first().and_then(|first| first.model) else {
            anyhow::bail!("the present values do not compile");
        };
        // Texts that came before, by which a candidate that means the same is found.
        let mut texts: Vec<Vec<&'static str>> = vec![Vec::new()];
        let mut changed_units: Vec<(&'static Model, &'static Unit)> = Vec::new();
        for (i, candidate) in candidates.iter_mut().enumerate() {
            let Some(model) = candidate.model else { continue };
            let on = model.on(arch.compute);
            candidate.predicted_us =
                steps.iter().map(|step| predicted(&on, step, rates, kernel)).collect();
            if i == 0 {
                continue;
            }
            if let Some(info) = info_of(&on, kernel) {
                if let Some(why) = does_not_fit(&info, arch) {
                    candidate.refuse(why);
                }
            } else {
                candidate.refuse("its steps would run by other kernels");
            }
            let units = on.launched();
            let own = |unit: &&&'static Unit| present.units.iter().all(|u| u.source != unit.source);
            let changed: Vec<&'static Unit> = units.iter().filter(own).copied().collect();
            let sources: Vec<&'static str> = changed.iter().map(|unit| unit.source).collect();
            if texts.contains(&sources) {
                candidate.refuse("the same kernel as another candidate");
            }
            texts.push(sources);
            if candidate.refused.is_none() {
                changed_units.extend(changed.into_iter().map(|unit| (model, unit)));
            }
        }
        refuse_slow(&mut candidates);
        let wanted = |model: &&'static Model, candidates: &[Candidate]| {
            candidates
                .iter()
                .any(|it| it.refused.is_none() && it.model.is_some_and(|m| std::ptr::eq(m, *model)))
        };
        changed_units.retain(|(model, unit)| {
            wanted(model, &candidates) && !self.resources.contains_key(unit.source)
        });
        let compiled = compile(&changed_units, arch);
        let mut failures: HashMap<&'static str, String> = HashMap::new();
        for ((_, unit), result) in changed_units.iter().zip(compiled) {
            match result {
                Ok(resources) => drop(self.resources.insert(unit.source, resources)),
                Err(why) => drop(failures.insert(unit.source, why)),
            }
        }
        for candidate in candidates.iter_mut().skip(1).filter(|it| it.refused.is_none()) {
            let Some(model) = candidate.model else { continue };
            for unit in model.on(arch.compute).launched() {
                if let Some(why) = failures.get(unit.source) {
                    candidate.refuse(why.clone());
                }
                let Some(resources) = self.resources.get(unit.source) else { continue };
                if unit.name == kernel {
                    candidate.resources = Some(*resources);
                }
                let Resources { registers, spill_bytes, stack_bytes, .. } = *resources;
                if spill_bytes + stack_bytes > 0 {
                    candidate.refuse(format!("{} spills {spill_bytes} bytes", unit.name));
                } else if registers > unit.max_registers {
                    candidate.refuse(format!(
                        "{} takes {registers} registers, and {} leave room for its blocks",
                        unit.name, unit.max_registers
                    ));
                }
            }
        }
        Ok(candidates)
    }
}

/// Refuses candidates that should be slower beyond doubt than the first.
fn refuse_slow(candidates: &mut [Candidate]) {
    let sum = |candidate: &Candidate| candidate.predicted_us.iter().sum::<f64>();
    let Some(present) = candidates.first().map(sum) else { return };
    for candidate in candidates.iter_mut().skip(1) {
        let us = sum(candidate);
        if us > present * SLOWER_BEYOND_DOUBT {
            candidate.refuse(format!(
                "{us:.0} µs by the cost model, {present:.0} by the present values"
            ));
        }
    }
}

/// Why blocks cannot share an SM as planned, if they cannot.
fn does_not_fit(info: &KernelInfo, arch: &Arch) -> Option<String> {
    let Axis::PerSm(blocks) = info.grid.x else { return None };
    let needed = blocks as usize * (info.shared_bytes as usize + RESERVED_BYTES);
    (needed > arch.shared_bytes_per_sm).then(|| {
        format!(
            "{blocks} blocks take {needed} bytes of shared memory, and an SM has {}",
            arch.shared_bytes_per_sm
        )
    })
}

/// Compiles units on all cores, through the cache.
fn compile(
    units: &[(&'static Model, &'static Unit)],
    arch: &Arch,
) -> Vec<Result<Resources, String>> {
    let results: Vec<Mutex<Result<Resources, String>>> =
        units.iter().map(|_| Mutex::new(Err("it was not compiled".to_owned()))).collect();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(units.len());
    let work = || {
        while let Some((model, unit)) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
            let place = units.iter().position(|(_, other)| std::ptr::eq(*other, *unit));
            let compiled = CubinCache::of_user()
                .and_then(|cache| cache.some(model, &[unit], arch.compute, &mut |_| {}))
                .map_err(|why| why.to_string())
                .and_then(|(cubins, _)| {
                    let first = cubins.first().map(|cubin| cubin.resources);
                    first.ok_or_else(|| "it was not compiled".to_owned())
                });
            let result = place.and_then(|place| results.get(place));
            if let Some(Ok(mut result)) = result.map(Mutex::lock) {
                *result = compiled;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let taken = |result: Mutex<Result<Resources, String>>| {
        result.into_inner().unwrap_or_else(|_| Err("its compilation panicked".to_owned()))
    };
    results.into_iter().map(taken).collect()
}

fn info_of(model: &Model, kernel: &str) -> Option<KernelInfo> {
    let infos = model.schedules.iter().flat_map(|schedule| schedule.infos());
    infos.into_iter().find(|info| info.name == kernel)
}

/// A step's shape if its tokens are routed evenly.
pub(super) fn shape_of(model: &Model, step: &ReplayedStep) -> StepShape {
    match *step {
        ReplayedStep::Decode { batch, context } => StepShape::decode(model, batch, context),
        ReplayedStep::Prompt { tokens } => StepShape::prompt(model, tokens, 0),
    }
}

/// The phases of a step with what they should take.
pub(super) fn predictions(
    model: &Model,
    step: &ReplayedStep,
    rates: &Rates,
) -> Vec<(PhaseTotal, Prediction)> {
    let shape = shape_of(model, step);
    model.predictions(model.schedule(step.tokens()), &shape, rates)
}

/// The kernels that a step launches for a phase. Its unembedding is that of the schedule for as many rows.
pub(super) fn launched(
    model: &Model,
    step: &ReplayedStep,
    total: &PhaseTotal,
) -> Vec<&'static str> {
    let rows = step.sequences().0;
    let name = |kernel: &PhaseKernel| match kernel {
        PhaseKernel::Unembed(_) | PhaseKernel::UnembedDecode(_) => {
            model.schedule(rows).unembed().map_or("", |kernel| kernel.info().name)
        }
        kernel => kernel.info().name,
    };
    let schedule = model.schedule(step.tokens());
    let of_classes = schedule.layers.iter().filter_map(|phases| phases.get(total.index));
    let mut names: Vec<&'static str> = match total.section {
        ossmith_plan::Section::Layer => {
            of_classes.flat_map(|phase| phase.kernels).map(name).collect()
        }
        _ => total.phase.kernels.iter().map(name).collect(),
    };
    names.sort_unstable();
    names.dedup();
    names
}

/// What a kernel's phases should take in a step.
fn predicted(model: &Model, step: &ReplayedStep, rates: &Rates, kernel: &str) -> f64 {
    let all = predictions(model, step, rates);
    let of_kernel = all.iter().filter(|(total, _)| launched(model, step, total).contains(&kernel));
    of_kernel.map(|(_, prediction)| prediction.us()).sum()
}
