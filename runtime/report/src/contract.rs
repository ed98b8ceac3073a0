//! Speed as a contract: the share of the roofline that each headline case must reach on a kind of card, in
//! `benches/contract.toml`, held against results.
//!
//! For a decode step the roofline is the flat read that was measured with it. A prompt has none of its own: its roofline
//! is what the data sheet's rates allow, reading or multiplying, whichever takes longer in each of its steps.

use ossmith_plan::{Arch, Model, StepShape};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::history::{Build, rank};
use crate::records::{Content, Record};

/// `benches/contract.toml`.
const CONTRACT: &str = include_str!("../../../benches/contract.toml");

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Bench {
    /// A decode step.
    Decode {
        /// Sequences.
        batch: usize,
        /// Keys that each token sees.
        context: usize,
    },
    /// A prompt.
    Prefill {
        /// Its tokens.
        tokens: usize,
        /// Tokens of a step at most.
        chunk: usize,
    },
}

impl std::fmt::Display for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bench::Decode { batch, context } => write!(f, "decode, batch {batch}, {context} keys"),
            Bench::Prefill { tokens, chunk } => {
                write!(f, "prompt of {tokens}, chunks of {}", chunk.min(tokens))
            }
        }
    }
}

/// One headline case.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Profile of the card.
    pub profile: String,
    /// Model.
    pub model: String,
    /// What is measured.
    pub bench: Bench,
    /// Share of the roofline that it must reach.
    pub min_share: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    case: Vec<Case>,
}

/// The repository's contract.
///
/// # Errors
/// As [`parse`].
pub fn of_repository() -> Result<Vec<Case>> {
    parse("benches/contract.toml", CONTRACT)
}

/// Reads a contract.
///
/// # Errors
/// [`Error::Content`] for a text that is no contract, a profile or model that is not known, a share that is not between 0
/// and 1, and a case that is there twice.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>> {
    let cases =
        toml::from_str::<File>(text).map_err(|why| Error::content(file, why.to_string()))?.case;
    for (at, case) in cases.iter().enumerate() {
        let name = format!("{} on {}, {}", case.model, case.profile, case.bench);
        let problem = if Arch::named(&case.profile).is_none() {
            Some("has a profile that is not known")
        } else if ossmith_models::find(&case.model).is_none() {
            Some("has a model that is not built in")
        } else if !(0.0..=1.0).contains(&case.min_share) {
            Some("has a min_share that is not between 0 and 1")
        } else {
            let same = |other: &Case| {
                (&other.profile, &other.model, other.bench)
                    == (&case.profile, &case.model, case.bench)
            };
            cases[..at].iter().any(same).then_some("is there twice")
        };
        if let Some(problem) = problem {
            return Err(Error::content(file, format!("the case {name} {problem}")));
        }
    }
    Ok(cases)
}

/// What a case took, and which share of the roofline that is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reached {
    /// Milliseconds of the step or the prompt.
    pub ms: f64,
    /// Share of the roofline.
    pub share: f64,
}

/// The share of the data sheet's roofline that a prompt reaches in `ms` milliseconds.
#[must_use]
pub fn prompt_share(model: &Model, arch: &Arch, tokens: usize, chunk: usize, ms: f64) -> f64 {
    let us = |start: usize| {
        let count = chunk.min(tokens - start);
        let rows = usize::from(start + count == tokens);
        let shape =
            StepShape { rows, ..StepShape::decode(model, count, start + count.div_ceil(2)) };
        let cost = model.step_cost(model.schedule(count), &shape);
        let read = cost.weight_bytes / f64::from(arch.memory_gb_per_s) / 1e3;
        read.max(cost.flops / f64::from(arch.bf16_tflops) / 1e6)
    };
    (0..tokens).step_by(chunk.max(1)).map(us).sum::<f64>() / 1e3 / ms
}

/// What a record says of a case, if it has it.
#[must_use]
pub fn reached(case: &Case, record: &Record) -> Option<Reached> {
    if record.profile() != Some(case.profile.as_str()) || record.model != case.model {
        return None;
    }
    match (case.bench, &record.content) {
        (Bench::Decode { batch, context }, Content::Decode(runs)) => {
            let run = runs.iter().find(|run| (run.batch, run.context) == (batch, context))?;
            Some(Reached { ms: run.step.median_ms, share: run.roofline_share })
        }
        (Bench::Prefill { tokens, chunk }, Content::Prefill { chunk: recorded, runs }) => {
            if chunk.min(tokens) != (*recorded).min(tokens) {
                return None;
            }
            let run = runs.iter().find(|run| run.tokens == tokens)?;
            let arch = Arch::named(&case.profile)?;
            let model = &ossmith_models::find(&case.model)?.on(arch.compute);
            let share = prompt_share(model, &arch, tokens, chunk, run.median_ms);
            Some(Reached { ms: run.median_ms, share })
        }
        _ => None,
    }
}

/// A case with every build that has it, oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The case.
    pub case: Case,
    /// Builds and what they reached.
    pub reached: Vec<(String, Reached)>,
}

impl Kept {
    /// What the newest build reached; none if no record has the case.
    #[must_use]
    pub fn newest(&self) -> Option<Reached> {
        self.reached.last().map(|(_, reached)| *reached)
    }

    /// Whether the newest build keeps the contract.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.newest().is_some_and(|newest| newest.share >= self.case.min_share)
    }

    /// How the newest build's time changed from the build before: 0.02 for 2 % more.
    #[must_use]
    pub fn change(&self) -> Option<f64> {
        let [.., (_, before), (_, newest)] = &self.reached[..] else { return None };
        Some(newest.ms / before.ms - 1.0)
    }
}

/// Holds records against the cases, build by build. Where several files of a build have a case, the first one counts.
#[must_use]
pub fn compare(cases: &[Case], records: &[Record], builds: &[Build]) -> Vec<Kept> {
    let of_case = |case: &Case| {
        let mut found: Vec<(String, Reached)> = Vec::new();
        for record in records {
            let Some(reached) = reached(case, record) else { continue };
            if found.iter().all(|(build, _)| *build != record.build) {
                found.push((record.build.clone(), reached));
            }
        }
        found.sort_by_key(|(build, _)| rank(builds, build));
        Kept { case: case.clone(), reached: found }
    };
    cases.iter().map(of_case).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{history, records};

    /// The newest recorded build of each profile keeps the contract, and no case asks for less than nine tenths of it.
    #[test]
    fn recorded_results_keep_the_contract() {
        let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/results");
        let records = records::read(&[results]).expect("results");
        let builds = history::builds().expect("builds");
        let mut offences = Vec::new();
        for kept in compare(&of_repository().expect("a contract"), &records, &builds) {
            let newest = kept.newest().unwrap_or_else(|| panic!("no result of {:?}", kept.case));
            if !kept.is_kept() || kept.case.min_share < 0.9 * newest.share {
                offences.push(format!("{:.4} of {:?}", newest.share, kept.case));
            }
        }
        assert!(
            offences.is_empty(),
            "the contract and recorded shares differ:\n{}",
            offences.join("\n")
        );
    }

    #[test]
    fn the_newest_build_keeps_the_contract_or_breaks_it() {
        let case = of_repository().expect("a contract").remove(0);
        let at = |share| ("build".to_owned(), Reached { ms: 1.0, share });
        let (less, enough) = (at(case.min_share - 1e-3), at(case.min_share));
        for (reached, is_kept) in [
            (vec![], false),
            (vec![less.clone()], false),
            (vec![enough.clone()], true),
            (vec![enough.clone(), less.clone()], false),
            (vec![less, enough], true),
        ] {
            let kept = Kept { case: case.clone(), reached };
            assert_eq!(kept.is_kept(), is_kept, "{kept:?}");
        }
    }

    #[test]
    fn a_contract_that_cannot_be_meant_is_refused() {
        let case = |profile: &str, model: &str, share: f64| {
            format!(
                "[[case]]\nprofile = \"{profile}\"\nmodel = \"{model}\"\nmin_share = {share:?}\n\
                 bench.decode = {{ batch = 1, context = 1024 }}\n"
            )
        };
        let good = case("h200", "gpt-oss-20b", 0.5);
        assert_eq!(parse("c.toml", &good).expect("a contract").len(), 1);
        for (text, problem) in [
            (case("b300", "gpt-oss-20b", 0.5), "a profile that is not known"),
            (case("h200", "gpt-oss-21b", 0.5), "a model that is not built in"),
            (case("h200", "gpt-oss-20b", 1.5), "not between 0 and 1"),
            (good.clone() + &good, "is there twice"),
            (good.replace("batch", "batches"), "available keys: batch, context"),
        ] {
            let error = parse("c.toml", &text).expect_err(problem).to_string();
            assert!(error.starts_with("c.toml: ") && error.contains(problem), "{error}");
        }
    }

    /// Work by hand: a prompt of 2,048 tokens of gpt-oss-20b computes 14.7 TFLOP, which are 15 ms at 989 TFLOP/s.
    #[test]
    fn the_roofline_of_a_prompt_is_what_the_data_sheet_allows() {
        let model = &ossmith_models::GPT_OSS_20B.on(Arch::H100.compute);
        let spec = &model.spec;
        let widths = spec.q_width() * 2 + 2 * spec.kv_width();
        let experts = 4 * 3 * spec.inter * spec.hidden;
        let of_layer = 2 * (widths * spec.hidden + experts + spec.hidden * 32);
        let flops = 2048.0 * (24 * of_layer) as f64;
        let attention = 2048.0 * 4.0 * 4096.0 * (12 * 1024 + 12 * 128) as f64;
        let head = (2 * spec.vocab * spec.hidden) as f64;
        let ms = (flops + attention + head) / 989e9;
        let share = prompt_share(model, &Arch::H100, 2048, 8192, ms);
        assert!((share - 1.0).abs() < 0.01, "{share}");
    }
}
