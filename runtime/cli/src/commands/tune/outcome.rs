//! What a search has gained: old and new steps in turns, each kernel's part of it, and the tuning record.

use std::path::Path;

use anyhow::Context;
use ossmith::unstable::cuda::nvrtc;
use ossmith::unstable::cuda::replay::ReplayedStep;
use ossmith_models::codegen::record::bodies;
use ossmith_models::codegen::{Overrides, TuningRecord};
use serde_json::{Value, json};

use super::Session;
use super::device::{Device, median};
use super::log::step_name;
use crate::commands::table;
use crate::failure::fail;

/// Rounds of the last comparison.
const ROUNDS: usize = 15;

/// Milliseconds of a step before and after.
pub(super) struct StepGain {
    step: ReplayedStep,
    old_ms: f64,
    new_ms: f64,
    /// Median of the rounds' ratios.
    ratio: f64,
}

/// What a kernel's values change in the tuned step, by step: the share by which it is longer with the old ones.
pub(super) struct KernelGain {
    kernel: String,
    values: Value,
    gain_us: Vec<f64>,
}

/// The result.
pub(super) struct Outcome {
    steps: Vec<StepGain>,
    kernels: Vec<KernelGain>,
}

/// Times old and new in turns, and the new one with each kernel's old values.
pub(super) fn measure(
    session: &Session,
    device: &mut Device,
    witnesses: &[ReplayedStep],
) -> anyhow::Result<Outcome> {
    let model = |overrides: &Overrides| {
        ossmith_models::codegen::compile_with(session.model.spec, &session.arch, overrides)
    };
    let new = model(&session.chosen)?;
    let values_of = |of: &Overrides, kernel: &str| of.0.get(kernel).cloned();
    let changed = session
        .own
        .keys()
        .filter(|kernel| values_of(&session.chosen, kernel) != values_of(&session.present, kernel));
    let (mut kernels, mut reverted) = (Vec::new(), Vec::new());
    for kernel in changed {
        let mut values = session.chosen.clone();
        values.0.remove(*kernel);
        let old = values_of(&session.present, kernel);
        values.0.extend(old.map(|old| ((*kernel).to_owned(), old)));
        reverted.push(model(&values)?);
        kernels.push(KernelGain {
            kernel: (*kernel).to_owned(),
            values: json!(values_of(&session.chosen, kernel)),
            gain_us: Vec::new(),
        });
    }
    let mut steps = Vec::new();
    for (step, is_witness) in session
        .steps
        .iter()
        .map(|step| (step, false))
        .chain(witnesses.iter().map(|step| (step, true)))
    {
        let models = if is_witness { vec![new] } else { [vec![new], reverted.clone()].concat() };
        let times = device.turns(*step, &models, ROUNDS)?;
        let ratios = times[1].iter().zip(&times[0]).map(|(new, old)| new / old).collect();
        steps.push(StepGain {
            step: *step,
            old_ms: median(times[0].clone()),
            new_ms: median(times[1].clone()),
            ratio: median(ratios),
        });
        for (kernel, times_of) in kernels.iter_mut().zip(times.iter().skip(2)) {
            let gains =
                times_of.iter().zip(&times[1]).map(|(without, with)| (without - with) * 1e3);
            kernel.gain_us.push(median(gains.collect()));
        }
    }
    Ok(Outcome { steps, kernels })
}

impl Outcome {
    /// The kernels whose new values gain less than `share` of every step: they were luck, and are not recorded.
    pub(super) fn lucky(&self, share: f64) -> Vec<&str> {
        let tuned: Vec<f64> = self.steps.iter().map(|it| it.new_ms * 1e3 * share).collect();
        let lucky =
            |it: &&KernelGain| it.gain_us.iter().zip(&tuned).all(|(gain, least)| gain < least);
        self.kernels.iter().filter(lucky).map(|it| it.kernel.as_str()).collect()
    }

    pub(super) fn steps_json(&self) -> Vec<Value> {
        let step = |it: &StepGain| {
            json!({
                "step": step_name(&it.step),
                "old_ms": it.old_ms,
                "new_ms": it.new_ms,
                "ratio": it.ratio,
            })
        };
        self.steps.iter().map(step).collect()
    }

    pub(super) fn kernels_json(&self) -> Vec<Value> {
        let kernel = |it: &KernelGain| json!({ "kernel": it.kernel, "values": it.values, "gain_us": it.gain_us });
        self.kernels.iter().map(kernel).collect()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let rows: Vec<Vec<String>> = self
            .steps
            .iter()
            .map(|it| {
                vec![
                    step_name(&it.step),
                    format!("{:.4}", it.old_ms),
                    format!("{:.4}", it.new_ms),
                    format!("{:+.2}", 100.0 * (it.ratio - 1.0)),
                ]
            })
            .collect();
        let mut lines = table::lines(&["step", "old, ms", "new, ms", "%"], &rows, &[1, 2, 3]);
        let rows: Vec<Vec<String>> = self
            .kernels
            .iter()
            .map(|it| {
                let gains: Vec<String> = it.gain_us.iter().map(|us| format!("{us:.1}")).collect();
                vec![it.kernel.clone(), it.values.to_string(), gains.join(", ")]
            })
            .collect();
        if !rows.is_empty() {
            lines.extend(table::lines(&["kernel", "values", "µs gained, by step"], &rows, &[]));
        }
        lines
    }
}

/// Writes the values to a tuning record, beside those that it has of other models and kernels.
pub(super) fn write_record(path: &Path, session: &Session, device: &Device) -> anyhow::Result<()> {
    let mut record = match std::fs::read_to_string(path) {
        Ok(text) => TuningRecord::parse(&text).map_err(|why| {
            fail(format!("{}: {why}", path.display()), "name another file with --out")
        })?,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => TuningRecord::default(),
        Err(why) => return Err(why).with_context(|| format!("cannot read {}", path.display())),
    };
    if !record.profile.is_empty() && record.profile != session.arch.name {
        return Err(fail(
            format!("{} is the record of profile {}", path.display(), record.profile),
            format!("name another file with --out: this device's profile is {}", session.arch.name),
        ));
    }
    record.profile = session.arch.name.to_owned();
    record.device = device.name.clone();
    record.gb_per_s = device.gb_per_s.round() as u32;
    record.driver = device.driver;
    record.nvrtc = nvrtc::version().map(|(major, minor)| format!("{major}.{minor}"))?;
    let all = bodies(&session.model.spec, &session.arch)?;
    for (file, hash) in session.chosen.0.keys().filter_map(|kernel| all.get(kernel.as_str())) {
        record.bodies.insert((*file).to_owned(), hash.clone());
    }
    record.models.insert(session.model.spec.name.to_owned(), session.chosen.clone());
    std::fs::write(path, record.to_toml())
        .with_context(|| format!("cannot write {}", path.display()))
}
