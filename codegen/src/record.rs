//! Tuning records: for each GPU, the values of tunables that were measured to be fastest on it. `ossmith tune` writes
//! them, the build embeds them. A record that no longer fits what it was measured with is reported, value by value.

use std::collections::BTreeMap;
use std::fmt::Write;

use ossmith_plan::{Arch, Model, ModelSpec, Tuned, Unit};
use serde::Deserialize;

use crate::assemble::{self, CompileError};
use crate::leak;
use crate::schedule::{KernelPlan, Overrides, Tunable};

/// The values for one kind of GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuningRecord {
    /// Name of the profile ([`Arch::named`]).
    pub profile: String,
    /// The device that it was measured on.
    pub device: String,
    /// Bandwidth that was measured on it by reading memory front to back, in GB/s.
    pub gb_per_s: u32,
    /// The driver's interface version: 13000 is CUDA 13.0.
    pub driver: i32,
    /// NVRTC's version.
    pub nvrtc: String,
    /// [`fingerprint`] of the body of each kernel that was tuned, by its file.
    #[serde(default)]
    pub bodies: BTreeMap<String, String>,
    /// Values by model.
    #[serde(default)]
    pub models: BTreeMap<String, Overrides>,
}

/// What stops a text from being a tuning record.
#[derive(Debug, thiserror::Error)]
#[error("it is no tuning record: {0}; `ossmith tune` writes one")]
pub struct RecordError(String);

impl TuningRecord {
    /// Reads a record's TOML.
    ///
    /// # Errors
    /// [`RecordError`], naming the place.
    pub fn parse(text: &str) -> Result<TuningRecord, RecordError> {
        let record: TuningRecord =
            toml::from_str(text).map_err(|why| RecordError(why.to_string().trim_end().into()))?;
        match Arch::named(&record.profile) {
            Some(_) => Ok(record),
            None => Err(RecordError(format!("there is no profile {}", record.profile))),
        }
    }

    /// The TOML that [`TuningRecord::parse`] reads.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let TuningRecord { profile, device, gb_per_s, driver, nvrtc, bodies, models } = self;
        let mut text = format!(
            "# What `ossmith tune` found fastest. The build embeds it: values of tunables by model and kernel, where they are\n\
             # others than the schedule's own. `ossmith kernels space` explains them.\n\
             profile = \"{profile}\"\ndevice = {device:?}\ngb_per_s = {gb_per_s}\ndriver = {driver}\nnvrtc = {nvrtc:?}\n\
             \n# Kernel bodies that were tuned; one that has changed since is reported.\n[bodies]\n"
        );
        // Writing to a string cannot fail.
        for (file, hash) in bodies {
            let _ = writeln!(text, "{file:?} = {hash:?}");
        }
        for (model, overrides) in models {
            for (kernel, values) in overrides.0.iter().filter(|(_, values)| !values.is_empty()) {
                let _ = write!(text, "\n[models.{model:?}.{kernel}]\n");
                for (tunable, value) in values {
                    let _ = writeln!(text, "{tunable} = {value}");
                }
            }
        }
        text
    }

    /// The values for a model that still fit its kernels, and a sentence for each thing that does not: a value that is
    /// left out, or a body that has changed since it was tuned (its values are used).
    ///
    /// # Errors
    /// [`CompileError`] of the model itself.
    pub fn fit(&self, spec: &ModelSpec) -> Result<(Overrides, Vec<String>), CompileError> {
        let arch = self.arch();
        let (mut fitting, mut problems) = (Overrides::default(), Vec::new());
        let Some(values) = self.models.get(spec.name) else { return Ok((fitting, problems)) };
        let plans = assemble::plans(spec, &arch, &Overrides::default())?;
        let mut report = |problem: String| {
            problems
                .push(format!("tuned schedule for {}: {problem}; run `ossmith tune`", arch.name));
        };
        for (kernel, tunables) in &values.0 {
            let Some(plan) = plans.iter().find(|plan| plan.info.name == kernel) else {
                report(format!("{} has no kernel {kernel}, so its values are not used", spec.name));
                continue;
            };
            let body = plan.body.file;
            if self.bodies.get(body).is_none_or(|tuned| *tuned != fingerprint(plan.body.text)) {
                report(format!("{body} has changed since {kernel} was tuned"));
            }
            for (name, &value) in tunables {
                match legal(plan, name, value) {
                    Ok(()) => fitting = fitting.with(&Overrides::one(kernel, name, value)),
                    Err(why) => report(format!("{kernel}: {why}, so the value is not used")),
                }
            }
        }
        if let Err(why) = assemble::assemble(*spec, &arch, &fitting) {
            report(format!("{why}, so no value is used"));
            fitting = Overrides::default();
        }
        Ok((fitting, problems))
    }

    /// The profile.
    ///
    /// # Panics
    /// For a profile that does not exist, which [`TuningRecord::parse`] refuses.
    #[must_use]
    pub fn arch(&self) -> Arch {
        Arch::named(&self.profile).expect("parsing has checked the profile")
    }
}

fn legal(plan: &KernelPlan, name: &str, value: usize) -> Result<(), String> {
    let tunable: &Tunable = plan
        .tunables
        .iter()
        .find(|tunable| tunable.name == name)
        .ok_or_else(|| format!("it has no tunable {name}"))?;
    match tunable.legal.allows(value) {
        true => Ok(()),
        false => Err(format!("{name} is {value}; legal: {}", tunable.legal)),
    }
}

/// A hash of a kernel body without its comments and indentation (64-bit FNV-1a), by which a record tells whether the body
/// is still the one that was tuned.
#[must_use]
pub fn fingerprint(body: &str) -> String {
    let lines = body.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    let hash = lines
        .filter(|line| !line.is_empty())
        .flat_map(|line| line.bytes().chain([b'\n']))
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
    format!("{hash:016x}")
}

/// Compiles a model for the built-in architecture, and beside it for those that there are tuning records of.
///
/// # Errors
/// [`CompileError`]. A record that does not fit is no error: [`Tuned::problems`] reports it.
pub fn assemble_tuned(spec: ModelSpec, records: &[TuningRecord]) -> Result<Model, CompileError> {
    let own = assemble::assemble(spec, &Arch::BUILT_IN, &Overrides::default())?;
    let mut tuned = Vec::new();
    for record in records.iter().filter(|record| record.models.contains_key(spec.name)) {
        let (values, problems) = record.fit(&spec)?;
        let model = assemble::assemble(spec, &record.arch(), &values)?;
        let changed = |unit: &&Unit| own.units.iter().all(|own| own.source != unit.source);
        tuned.push(Tuned {
            arch: model.arch,
            device: record.device.clone().leak(),
            driver: record.driver,
            schedules: model.schedules,
            units: leak(model.units.iter().filter(changed).copied().collect()),
            problems: leak(problems.into_iter().map(|problem| &*problem.leak()).collect()),
        });
    }
    Ok(Model { tuned: leak(tuned), ..own })
}

/// File and [`fingerprint`] of the body of each kernel of a model, by kernel: what a record keeps of those that it tunes.
///
/// # Errors
/// [`CompileError`] of the model.
pub fn bodies(
    spec: &ModelSpec,
    arch: &Arch,
) -> Result<BTreeMap<&'static str, (&'static str, String)>, CompileError> {
    let plans = assemble::plans(spec, arch, &Overrides::default())?;
    let body = |plan: &KernelPlan| (plan.info.name, (plan.body.file, fingerprint(plan.body.text)));
    Ok(plans.iter().map(body).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TINY;

    fn record(values: &str) -> TuningRecord {
        let plans = assemble::plans(&TINY, &Arch::H200, &Overrides::default()).expect("plans");
        let bodies = plans.iter().map(|plan| (plan.body.file.into(), fingerprint(plan.body.text)));
        TuningRecord {
            profile: "h200".into(),
            device: "NVIDIA H200".into(),
            gb_per_s: 4280,
            driver: 13_000,
            nvrtc: "13.0".into(),
            bodies: bodies.collect(),
            models: BTreeMap::from([("tiny".into(), Overrides::parse(values).expect("values"))]),
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let record = record("moe_up_swiglu_decode1.stages = 2\nunembed_decode8.pace = 3\n");
        assert_eq!(TuningRecord::parse(&record.to_toml()).expect("its own text"), record);
        let (values, problems) = record.fit(&TINY).expect("a model");
        assert_eq!((&values, &problems[..]), (&record.models["tiny"], &[][..]));
        let other = ModelSpec { name: "other", ..TINY };
        assert_eq!(record.fit(&other).expect("a model"), (Overrides::default(), Vec::new()));
        let unknown = TuningRecord { profile: "h300".into(), ..record };
        let error = TuningRecord::parse(&unknown.to_toml()).expect_err("refused").to_string();
        assert!(error.contains("there is no profile h300"), "{error}");
    }

    #[test]
    fn what_no_longer_fits_is_reported_and_not_used() {
        let mut record = record(
            "moe_up.stages = 2\n[moe_up_swiglu_decode1]\nstages = 99\ncolour = 1\npace = 2\n\
             [unembed_decode1]\nstages = 3\n",
        );
        record.bodies.insert("unembed_decode.cu".into(), "0".into());
        let (values, problems) = record.fit(&TINY).expect("a model");
        let expected = "moe_up_swiglu_decode1.pace = 2\nunembed_decode1.stages = 3\n";
        assert_eq!(values, Overrides::parse(expected).expect("values"));
        for (problem, part) in problems.iter().zip([
            "tiny has no kernel moe_up, so its values are not used",
            "it has no tunable colour, so the value is not used",
            "stages is 99; legal: 1 to 8, so the value is not used",
            "unembed_decode.cu has changed since unembed_decode1 was tuned",
        ]) {
            assert!(problem.contains(part) && problem.contains("run `ossmith tune`"), "{problem}");
        }
        assert_eq!(problems.len(), 4);
    }

    #[test]
    fn comments_and_indentation_do_not_change_a_body() {
        let body = "// why\nint x;\n  int y;  // more\n";
        assert_eq!(fingerprint(body), fingerprint("int x;\nint y;\n\n"));
        assert_ne!(fingerprint(body), fingerprint("int x;\nint z;\n"));
    }
}
