//! `ossmith eval`: how many questions of a set with known answers a model gets right.
//!
//! [`cases`] holds the set and renders it, [`score`] decides what is right; this file runs the model and reports.

mod cases;
mod score;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use ossmith::{Engine, Limits, Progress, SamplingParams};
use ossmith_harmony::decode_lossy;
use serde_json::{Value, json};

use super::table;
use crate::load::DeviceArgs;
use crate::model::ModelArgs;
use crate::output;
use crate::progress::Bars;
use cases::Case;
use score::Parts;

/// The most tokens of an answer, as when nano was trained.
const MAX_TOKENS: usize = 400;
/// Questions that are answered at the same time.
const SEQUENCES: usize = 32;
/// The most prompt tokens that one step processes.
const STEP_TOKENS: usize = 512;

/// Score a model on questions with known answers.
///
/// Each question is rendered in the harmony format and answered with the most likely token each time, so the score of
/// a model on a backend is always the same.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    set: Set,
}

#[derive(Debug, clap::Subcommand)]
enum Set {
    Nano(Nano),
}

/// What nano was trained to do: 558 questions of 23 skills, made apart from its training.
///
/// Prints one line per skill: how many answers are right, and how many are well-formed harmony (an analysis, then a
/// final answer or a call).
#[derive(Debug, clap::Args)]
#[command(after_long_help = "JSON output (--json), one object:
  model, backend    what ran
  skills            by name, and `all`: cases, right, well_formed, score (percent right)
  analysis_words    mean length of the analysis by reasoning effort
  failures          the answers that are not right: id, expect, completion
  seconds           time of the answers, loading not counted
  steps, draft_tokens, accepted_tokens   steps run, draft tokens, and draft tokens that were accepted")]
struct Nano {
    /// Ask only the first N questions of each skill.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Print the answers that are not right as well.
    #[arg(long)]
    failures: bool,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,

    /// Write the token ids of every answer to this file, one line of JSON each: id, tokens.
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.set {
            Set::Nano(args) => args.run(),
        }
    }
}

impl Nano {
    fn run(self) -> anyhow::Result<()> {
        self.tokens.as_deref().map_or(Ok(()), output::check)?;
        let cases = cases::nano(self.limit.map_or(usize::MAX, |limit| limit as usize))?;
        let prompts: Vec<Vec<u32>> = cases.iter().map(Case::prompt).collect::<Result<_, _>>()?;
        let chosen = self.model.choose()?;
        chosen.warn_if_random();
        let mut engine = self.device.load(&chosen, limits(&prompts))?;
        let start = Instant::now();
        let answers = answer(&mut engine, &prompts)?;
        let seconds = start.elapsed();
        if let Some(file) = &self.tokens {
            write_tokens(file, &cases, &answers)?;
        }
        let completions =
            answers.iter().map(|tokens| decode_lossy(tokens)).collect::<Result<_, _>>();
        let report = Report::new(&cases, completions?, seconds);
        let mut out = std::io::stdout().lock();
        let metrics = engine.metrics();
        if self.json {
            let mut object = report.json(chosen.model.spec.name, &engine.describe());
            object["steps"] = metrics.steps.into();
            object["draft_tokens"] = metrics.draft_tokens.into();
            object["accepted_tokens"] = metrics.accepted_tokens.into();
            writeln!(out, "{object}")?;
            return Ok(());
        }
        if metrics.draft_tokens > 0 {
            let (accepted, drafted) = (metrics.accepted_tokens, metrics.draft_tokens);
            writeln!(
                out,
                "{accepted} of {drafted} draft tokens were accepted; {} steps",
                metrics.steps
            )?;
        }
        for line in report.lines() {
            writeln!(out, "{line}")?;
        }
        for (case, completion) in report.failures.iter().filter(|_| self.failures) {
            writeln!(out, "\n{}: expected {}\n  {completion}", case.id, case.expect.json())?;
        }
        Ok(())
    }
}

fn limits(prompts: &[Vec<u32>]) -> Limits {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) + MAX_TOKENS;
    Limits::for_sequences(SEQUENCES, longest).with_max_step_tokens(STEP_TOKENS)
}

/// Writes the answer to each case.
fn write_tokens(file: &Path, cases: &[Case], answers: &[Vec<u32>]) -> anyhow::Result<()> {
    let line = |(case, tokens): (&Case, &Vec<u32>)| {
        format!("{}\n", json!({ "id": case.id, "tokens": tokens }))
    };
    let lines: String = cases.iter().zip(answers).map(line).collect();
    std::fs::write(file, lines).with_context(|| format!("cannot write {}", file.display()))
}

/// The tokens of each answer.
fn answer(engine: &mut Engine, prompts: &[Vec<u32>]) -> anyhow::Result<Vec<Vec<u32>>> {
    let params = SamplingParams::greedy().with_max_tokens(MAX_TOKENS);
    let (mut bars, mut done, total) = (Bars::new(), 0, prompts.len() as u64);
    let mut answers = vec![Vec::new(); prompts.len()];
    for event in engine.stream(prompts, &[params])? {
        let (prompt, event) = event?;
        answers[prompt].extend(event.token);
        if event.finish.is_some() {
            done += 1;
            bars.show(Progress { stage: "answer", done, total });
        }
    }
    bars.finish();
    Ok(answers)
}

/// How often answers of one kind were right.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    cases: u32,
    right: u32,
    well_formed: u32,
}

impl Tally {
    fn add(&mut self, right: bool, well_formed: bool) {
        self.cases += 1;
        self.right += u32::from(right);
        self.well_formed += u32::from(well_formed);
    }

    fn percent(&self, part: u32) -> f64 {
        (f64::from(part) / f64::from(self.cases.max(1)) * 1000.0).round() / 10.0
    }
}

struct Report<'a> {
    /// By skill.
    skills: BTreeMap<&'a str, Tally>,
    all: Tally,
    /// By effort: words of all analyses, and how many analyses.
    analysis: BTreeMap<&'static str, (usize, usize)>,
    failures: Vec<(&'a Case, String)>,
    time: Duration,
}

impl<'a> Report<'a> {
    fn new(cases: &'a [Case], completions: Vec<String>, time: Duration) -> Report<'a> {
        let mut report = Report {
            skills: BTreeMap::new(),
            all: Tally::default(),
            analysis: BTreeMap::new(),
            failures: Vec::new(),
            time,
        };
        for (case, completion) in cases.iter().zip(completions) {
            let parts = Parts::parse(&completion);
            let right = parts.as_ref().is_some_and(|parts| case.expect.met(parts));
            report.skills.entry(&case.skill).or_default().add(right, parts.is_some());
            report.all.add(right, parts.is_some());
            if let Some(parts) = parts {
                let (words, count) = report.analysis.entry(case.effort.name()).or_default();
                *words += parts.analysis.split_whitespace().count();
                *count += 1;
            }
            if !right {
                report.failures.push((case, completion));
            }
        }
        report
    }

    fn rows(&self) -> impl Iterator<Item = (&str, &Tally)> {
        self.skills.iter().map(|(&skill, tally)| (skill, tally)).chain([("all", &self.all)])
    }

    fn analysis_words(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.analysis.iter().map(|(&effort, &(words, count))| {
            (effort, (words as f64 / count as f64 * 10.0).round() / 10.0)
        })
    }

    fn lines(&self) -> Vec<String> {
        let row = |(skill, tally): (&str, &Tally)| {
            let percent = |part| format!("{:.1} %", tally.percent(part));
            vec![
                skill.to_owned(),
                tally.cases.to_string(),
                percent(tally.right),
                percent(tally.well_formed),
            ]
        };
        let rows: Vec<_> = self.rows().map(row).collect();
        let mut lines =
            table::lines(&["skill", "cases", "right", "well-formed"], &rows, &[1, 2, 3]);
        let words: Vec<_> =
            self.analysis_words().map(|(effort, mean)| format!("{effort} {mean}")).collect();
        lines.push(format!("words of analysis: {}", words.join(", ")));
        lines.push(format!("{:.1} s", self.time.as_secs_f64()));
        lines
    }

    fn json(&self, model: &str, backend: &str) -> Value {
        let skill = |(name, tally): (&str, &Tally)| {
            let Tally { cases, right, well_formed } = *tally;
            let score = tally.percent(right);
            let row =
                json!({"cases": cases, "right": right, "well_formed": well_formed, "score": score});
            (name.to_owned(), row)
        };
        let failure = |(case, completion): &(&Case, String)| json!({"id": case.id, "expect": case.expect.json(), "completion": completion});
        json!({
            "model": model,
            "backend": backend,
            "skills": self.rows().map(skill).collect::<serde_json::Map<_, _>>(),
            "analysis_words": self.analysis_words().collect::<BTreeMap<_, _>>(),
            "failures": self.failures.iter().map(failure).collect::<Vec<_>>(),
            "seconds": self.time.as_secs_f64(),
        })
    }
}
