//! Recorded results as data: the JSON of `ossmith bench`, from `benches/results/` or from any other file.
//!
//! A record is one file. Its build is the folder that it lies in, `<date>-<gpu>/<name>`, as `benches/README.md` lays
//! results out. What a file holds besides is not read.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::trace::StepTrace;

/// Median and range of repeated timings.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Stats {
    /// Median.
    pub median_ms: f64,
    /// Fastest.
    pub min_ms: f64,
    /// Slowest.
    pub max_ms: f64,
}

/// One phase of a decode step, over all layers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PhaseRun {
    /// Phase name.
    pub name: String,
    /// Bytes that it must read.
    pub bytes: f64,
    /// Floating-point operations that it must do; results before 2026-11-30 have none.
    pub flops: Option<f64>,
    /// Time with nothing else between.
    pub alone: Stats,
    /// By how much a step without it is shorter; the first results have no such time.
    pub in_chain_ms: Option<f64>,
}

/// A decode step of one batch size and context.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DecodeRun {
    /// Sequences.
    pub batch: usize,
    /// Keys that each token sees.
    pub context: usize,
    /// Distinct experts per layer, on average.
    pub distinct_experts: f64,
    /// Regime of its schedule.
    pub regime: Option<String>,
    /// Bytes that the step must read.
    pub bytes: f64,
    /// Floating-point operations that it must do.
    pub flops: Option<f64>,
    /// Time from step to step.
    pub step: Stats,
    /// Time of a flat read of as many bytes.
    pub roofline: Stats,
    /// Roofline over step.
    pub roofline_share: f64,
    /// Its phases.
    #[serde(default)]
    pub phases: Vec<PhaseRun>,
}

/// A prompt to its first sampled token.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct PrefillRun {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Median time.
    pub median_ms: f64,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// `bench decode`.
    Decode(Vec<DecodeRun>),
    /// `bench prefill`.
    Prefill {
        /// Most tokens of one step.
        chunk: usize,
        /// One per length.
        runs: Vec<PrefillRun>,
    },
    /// `bench sweep`: one object per point, under vLLM's keys.
    Sweep(Vec<Value>),
    /// A trace of one step.
    Trace(StepTrace),
    /// Kernels with their resources, of `kernels list --json`.
    Kernels(Vec<Value>),
}

/// One recorded file.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Where it was read, for messages and notes.
    pub file: String,
    /// The folder that it lies in: `2026-11-30-h200/one-pipeline`.
    pub build: String,
    /// The model, without `synthetic:`.
    pub model: String,
    /// The device as it calls itself; empty where a file does not say.
    pub device: String,
    /// Hash of the kernels' text.
    pub kernels: Option<String>,
    /// What it holds.
    pub content: Content,
}

#[derive(Deserialize)]
struct Head {
    bench: Option<String>,
    model: Option<String>,
    device: Option<String>,
    kernels: Option<Value>,
    chunk: Option<usize>,
    runs: Option<Value>,
    points: Option<Vec<Value>>,
    #[serde(rename = "traceEvents")]
    trace: Option<Value>,
}

impl Record {
    /// Reads the text of a file. A text that is JSON but no result that this crate knows is `None`.
    ///
    /// # Errors
    /// [`Error::Content`] for a text that is not JSON, or a result whose fields are missing or of another kind.
    pub fn parse(file: &str, text: &str) -> Result<Option<Record>> {
        let wrong = |why: serde_json::Error| {
            Error::content(file, format!("it is not a result of `ossmith bench` ({why})"))
        };
        let whole: Value = serde_json::from_str(text).map_err(wrong)?;
        if !whole.is_object() {
            return Ok(None);
        }
        let head: Head = serde_json::from_value(whole.clone()).map_err(wrong)?;
        let content = if head.trace.is_some() {
            Content::Trace(StepTrace::from_chrome(file, &whole)?)
        } else {
            let runs = head.runs.unwrap_or(Value::Array(Vec::new()));
            match head.bench.as_deref() {
                Some("decode") => Content::Decode(serde_json::from_value(runs).map_err(wrong)?),
                Some("prefill") => Content::Prefill {
                    chunk: head.chunk.unwrap_or(2048),
                    runs: serde_json::from_value(runs).map_err(wrong)?,
                },
                Some("sweep") => Content::Sweep(head.points.unwrap_or_default()),
                Some("kernels") => match head.kernels {
                    Some(Value::Array(kernels)) => {
                        return Ok(Some(record(
                            file,
                            head.model,
                            head.device,
                            None,
                            Content::Kernels(kernels),
                        )));
                    }
                    _ => return Err(Error::content(file, "it has no list `kernels`")),
                },
                _ => return Ok(None),
            }
        };
        let kernels = head.kernels.as_ref().and_then(Value::as_str).map(str::to_owned);
        Ok(Some(record(file, head.model, head.device, kernels, content)))
    }

    /// The profile of its device, as far as one is known.
    #[must_use]
    pub fn profile(&self) -> Option<&'static str> {
        ["h100", "h200"].into_iter().find(|name| self.device.to_lowercase().contains(name))
    }
}

fn record(
    file: &str,
    model: Option<String>,
    device: Option<String>,
    kernels: Option<String>,
    content: Content,
) -> Record {
    let model = model.unwrap_or_default();
    let bare = model.strip_prefix("synthetic:").unwrap_or(&model);
    Record {
        file: file.to_owned(),
        build: build_of(file),
        model: bare.strip_prefix("openai/").unwrap_or(bare).to_owned(),
        device: device.unwrap_or_default(),
        kernels,
        content,
    }
}

/// The two folders above a file: `2026-11-30-h200/one-pipeline`; `this run` for a file that lies elsewhere.
fn build_of(file: &str) -> String {
    let parts: Vec<&str> = file.split('/').collect();
    let dated = |part: &str| {
        let bytes = part.as_bytes();
        bytes.len() > 11
            && bytes[..4].iter().all(u8::is_ascii_digit)
            && bytes[4] == b'-'
            && bytes[7] == b'-'
    };
    let at = parts.iter().position(|part| dated(part)).filter(|at| at + 2 < parts.len());
    at.map_or_else(|| "this run".to_owned(), |at| parts[at..=at + 1].join("/"))
}

/// Reads files, and every `.json` file in and below folders, folder by folder, short names first. Files that are no results are
/// left out where they were found in a folder, and refused where they were named.
///
/// # Errors
/// [`Error::Read`] for a path that cannot be read, [`Error::Content`] for a file that is no result.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut files = Vec::new();
            walk(path, &mut files)?;
            // Of names that begin alike the plain one first: `decode.json` before `decode-before.json`.
            files.sort_by_key(|file| {
                (file.parent().map(Path::to_owned), file.as_os_str().len(), file.clone())
            });
            for file in files {
                let text = text_of(&file)?;
                // Some files hold one object per line; none of those is a result that this crate reads.
                if serde_json::from_str::<IgnoredAny>(&text).is_ok() {
                    records.extend(Record::parse(&file.to_string_lossy(), &text)?);
                }
            }
        } else {
            let name = path.to_string_lossy();
            let record = Record::parse(&name, &text_of(path)?)?;
            records.push(record.ok_or_else(|| {
                let known =
                    "give the JSON of bench decode, prefill or sweep, of kernels list, or a trace";
                Error::content(&name, format!("it is no result that a report can show: {known}"))
            })?);
        }
    }
    Ok(records)
}

fn text_of(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |source| Error::Read { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // Forms that an experiment tried on its way are no builds.
        if path.is_dir() && path.file_name().is_none_or(|name| name != "on-the-way") {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|end| end == "json") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_the_folder_of_a_dated_result() {
        for (file, build) in [
            (
                "benches/results/2026-11-30-h200/one-pipeline/decode.json",
                "2026-11-30-h200/one-pipeline",
            ),
            ("2026-11-30-h200/decode.json", "this run"),
            ("decode.json", "this run"),
        ] {
            assert_eq!(build_of(file), build, "{file}");
        }
    }

    #[test]
    fn what_is_no_result_is_left_out_or_refused_by_name() {
        assert_eq!(Record::parse("a.json", r#"{"elapsed_time": 1}"#).expect("JSON"), None);
        assert_eq!(Record::parse("a.json", "[]").expect("JSON"), None);
        for (text, problem) in [
            ("{", "a.json: it is not a result"),
            (r#"{"bench": "decode", "runs": [{"batch": 1}]}"#, "missing field `context`"),
            (r#"{"bench": "kernels", "model": "m"}"#, "no list `kernels`"),
        ] {
            let error = Record::parse("a.json", text).expect_err(text).to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
