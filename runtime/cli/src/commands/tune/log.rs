//! The decisions of a search as lines of JSON, and what a file of them already knows.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use ossmith::unstable::cuda::replay::ReplayedStep;
use ossmith_models::codegen::Overrides;
use serde_json::{Value, json};

use super::candidate::Candidate;
use super::descent::Values;
use crate::failure::fail;
use crate::output;

/// A step as the log names it.
pub(super) fn step_name(step: &ReplayedStep) -> String {
    match step {
        ReplayedStep::Decode { batch, context } => format!("batch {batch} context {context}"),
        ReplayedStep::Prompt { tokens } => format!("prompt {tokens}"),
    }
}

/// Ratios by values and step, and the file that keeps them.
#[derive(Default)]
pub(super) struct Log {
    file: Option<File>,
    model: String,
    profile: String,
    ratios: HashMap<(String, String), f64>,
}

/// A decision that was made.
pub(super) struct Tried<'a> {
    pub(super) kernel: &'a str,
    pub(super) tunable: &'a str,
    /// What all values were before.
    pub(super) base: &'a Overrides,
    pub(super) steps: &'a [ReplayedStep],
    pub(super) values: &'a [Values],
    pub(super) candidates: &'a [Candidate],
    /// The candidate that was taken; 0 is what there was.
    pub(super) chosen: usize,
    pub(super) seconds: f64,
}

impl Log {
    /// Opens a file to go on with, or makes it.
    pub(super) fn open(path: &Path, model: &str, profile: &str) -> anyhow::Result<Log> {
        output::check(path)?;
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(why) => return Err(why).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut log =
            Log { model: model.to_owned(), profile: profile.to_owned(), ..Log::default() };
        for (number, line) in (1..).zip(text.lines()) {
            let of_line = log.read(line);
            // A run that was stopped may have left half a line at the end.
            if of_line.is_none() && number < text.lines().count() {
                return Err(fail(
                    format!("{}:{number} is no decision of a tuning run", path.display()),
                    "name another file with --log, or remove this one",
                ));
            }
        }
        let cannot_write = || format!("cannot write {}", path.display());
        let mut file =
            File::options().create(true).append(true).open(path).with_context(cannot_write)?;
        if !text.is_empty() && !text.ends_with('\n') {
            writeln!(file).with_context(cannot_write)?;
        }
        log.file = Some(file);
        Ok(log)
    }

    /// Learns from a line; `None` if it is none.
    fn read(&mut self, line: &str) -> Option<()> {
        if line.is_empty() {
            return Some(());
        }
        let line: Value = serde_json::from_str(line).ok()?;
        let steps: Vec<String> = serde_json::from_value(line.get("steps")?.clone()).ok()?;
        let same = line.get("model")? == &json!(self.model)
            && line.get("profile")? == &json!(self.profile);
        for candidate in line.get("candidates")?.as_array()?.iter().filter(|_| same) {
            let key = candidate.get("overrides")?.to_string();
            let ratios = candidate.get("ratios")?.as_array()?;
            for (step, ratio) in
                steps.iter().zip(ratios).filter_map(|(s, r)| Some((s, r.as_f64()?)))
            {
                self.ratios.insert((key.clone(), step.clone()), ratio);
            }
        }
        Some(())
    }

    /// How many times it knows.
    pub(super) fn known(&self) -> usize {
        self.ratios.len()
    }

    fn key(overrides: &Overrides, step: &ReplayedStep) -> (String, String) {
        // A map of strings and numbers always has a JSON text.
        (json!(overrides).to_string(), step_name(step))
    }

    /// What is known of these values in a step.
    pub(super) fn ratio(&self, overrides: &Overrides, step: &ReplayedStep) -> Option<f64> {
        self.ratios.get(&Log::key(overrides, step)).copied()
    }

    /// Keeps a ratio.
    pub(super) fn learn(&mut self, overrides: &Overrides, step: &ReplayedStep, ratio: f64) -> f64 {
        self.ratios.insert(Log::key(overrides, step), ratio);
        ratio
    }

    /// Writes a decision.
    pub(super) fn write(&mut self, tried: &Tried<'_>) -> anyhow::Result<()> {
        let candidates: Vec<Value> = tried
            .values
            .iter()
            .zip(tried.candidates)
            .map(|(values, candidate)| {
                json!({
                    "values": values,
                    "overrides": candidate.overrides,
                    "predicted_us": candidate.predicted_us,
                    "registers": candidate.resources.map(|resources| resources.registers),
                    "ratios": candidate.ratios,
                    "score": candidate.score(),
                    "checked": candidate.checked,
                    "refused": candidate.refused,
                })
            })
            .collect();
        let steps: Vec<String> = tried.steps.iter().map(step_name).collect();
        let line = json!({
            "model": self.model,
            "profile": self.profile,
            "kernel": tried.kernel,
            "tunable": tried.tunable,
            "base": tried.base,
            "steps": steps,
            "candidates": candidates,
            "chosen": tried.chosen,
            "seconds": tried.seconds,
        });
        match &mut self.file {
            Some(file) => writeln!(file, "{line}").context("cannot write the log of decisions"),
            None => Ok(()),
        }
    }
}

impl Tried<'_> {
    /// The decision in one line.
    pub(super) fn line(&self) -> String {
        let timed = self.candidates.iter().filter(|it| it.score().is_some()).count();
        let refused = self.candidates.iter().filter(|it| it.refused.is_some()).count();
        let of = |i: usize| -> String {
            match (self.tunable, self.values.get(i)) {
                (_, None) => String::new(),
                ("restart", Some(values)) => {
                    let pairs = values.iter().map(|(name, value)| format!("{name} {value}"));
                    pairs.collect::<Vec<_>>().join(", ")
                }
                (name, Some(values)) => values.get(name).map_or(String::new(), ToString::to_string),
            }
        };
        let score = |i: usize| self.candidates.get(i).and_then(Candidate::score);
        let gain = match (score(0), score(self.chosen)) {
            (Some(present), Some(chosen)) if self.chosen > 0 => {
                format!(
                    " → {}, {:+.2} % of the step",
                    of(self.chosen),
                    100.0 * (chosen / present - 1.0)
                )
            }
            _ => " stays".to_owned(),
        };
        format!(
            "{} {}: {}{gain} ({timed} timed, {refused} refused, {:.1} s)",
            self.kernel,
            self.tunable,
            of(0),
            self.seconds
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(overrides: &Overrides, ratio: f64) -> Candidate {
        Candidate {
            overrides: overrides.clone(),
            model: None,
            predicted_us: vec![8.0],
            resources: None,
            refused: None,
            ratios: vec![ratio],
            checked: None,
        }
    }

    #[test]
    fn a_log_that_was_cut_off_is_gone_on_with() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("log.jsonl");
        let step = ReplayedStep::Decode { batch: 8, context: 1024 };
        let (old, new) = (Overrides::default(), Overrides::one("k", "stages", 2));
        let values = |stages| Values::from([("stages".to_owned(), stages)]);
        let tried = Tried {
            kernel: "k",
            tunable: "stages",
            base: &old,
            steps: &[step],
            values: &[values(1), values(2)],
            candidates: &[candidate(&old, 1.0), candidate(&new, 0.97)],
            chosen: 1,
            seconds: 0.5,
        };
        assert_eq!(
            tried.line(),
            "k stages: 1 → 2, -3.00 % of the step (2 timed, 0 refused, 0.5 s)"
        );
        let mut log = Log::open(&path, "m", "h200").expect("made");
        assert_eq!(log.known(), 0);
        log.write(&tried).expect("written");
        drop(log);
        let whole = std::fs::read_to_string(&path).expect("a file");
        std::fs::write(&path, format!("{whole}{{\"kernel\": \"k")).expect("written");
        let log = Log::open(&path, "m", "h200").expect("half a line at the end is no error");
        assert_eq!(log.known(), 2);
        assert_eq!(log.ratio(&new, &step), Some(0.97));
        assert_eq!(log.ratio(&new, &ReplayedStep::Prompt { tokens: 512 }), None);
        drop(log);
        std::fs::write(&path, &whole).expect("written");
        assert_eq!(Log::open(&path, "other", "h200").expect("opened").known(), 0);
        std::fs::write(&path, format!("not a decision\n{whole}")).expect("written");
        let error = Log::open(&path, "m", "h200").map(|log| log.known()).expect_err("refused");
        assert!(error.to_string().contains("log.jsonl:1 is no decision"), "{error}");
    }
}
