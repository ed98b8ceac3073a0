//! A decode step block by block: which phase ran on which SM from when to when, as Chrome's trace format, which Perfetto
//! and `chrome://tracing` open.
//!
//! A file has one process for the SMs, with as many threads per SM as blocks share it at once, and one process with a
//! thread per phase. An event is a block, from its first instruction to its last; inside it lies a second event while the
//! block waits for the kernel before. Numbers that the events do not carry are in `otherData`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// One kernel launch of the step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Kernel name.
    pub kernel: String,
    /// Phase name.
    pub phase: String,
    /// Layer; none outside layers.
    pub layer: Option<usize>,
    /// Launch grid.
    pub grid: [u32; 3],
}

/// One block of a launch. Times are microseconds from the step's first block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    /// Index into [`StepTrace::launches`].
    pub launch: usize,
    /// Linear index in the grid.
    pub block: u32,
    /// SM.
    pub sm: u32,
    /// First instruction.
    pub start_us: f64,
    /// The kernels before have finished; the start where a block left without waiting.
    pub ready_us: f64,
    /// Last instruction of its last warp.
    pub end_us: f64,
}

/// A traced step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepTrace {
    /// Model, as the command line named it.
    pub model: String,
    /// The device's name.
    pub device: String,
    /// Sequences.
    pub batch: usize,
    /// Keys that each token sees.
    pub context: usize,
    /// Median time of the step by the same kernels without stamps, where it was measured.
    pub plain_us: Option<f64>,
    /// Smallest step of the clock that stamps were taken from.
    pub clock_us: f64,
    /// Launches in their order.
    pub launches: Vec<Launch>,
    /// Blocks, by launch.
    pub blocks: Vec<Block>,
}

/// Process of the SMs in a file.
const SM_PROCESS: u64 = 1;
/// Process of the phases.
const PHASE_PROCESS: u64 = 2;
/// Threads that a file has room for per SM: as many blocks share one at most.
const SM_THREADS: u64 = 64;

impl StepTrace {
    /// From the first block's start to the last one's end.
    #[must_use]
    pub fn length_us(&self) -> f64 {
        self.blocks.iter().map(|block| block.end_us).fold(0.0, f64::max)
    }

    /// Phases in the order of their first launches.
    #[must_use]
    pub fn phases(&self) -> Vec<&str> {
        let mut phases: Vec<&str> = Vec::new();
        for launch in &self.launches {
            if !phases.contains(&launch.phase.as_str()) {
                phases.push(&launch.phase);
            }
        }
        phases
    }

    /// SMs that ran a block.
    #[must_use]
    pub fn sms(&self) -> usize {
        self.blocks.iter().map(|block| block.sm as usize + 1).max().unwrap_or(0)
    }

    /// Of each launch: when its first block was ready, and when its last one ended.
    #[must_use]
    pub fn spans(&self) -> Vec<(f64, f64)> {
        let mut spans = vec![(f64::INFINITY, 0.0_f64); self.launches.len()];
        for block in &self.blocks {
            let span = &mut spans[block.launch];
            *span = (span.0.min(block.ready_us), span.1.max(block.end_us));
        }
        spans
            .into_iter()
            .map(|(from, to)| if from <= to { (from, to) } else { (0.0, 0.0) })
            .collect()
    }

    /// The file's content.
    #[must_use]
    pub fn to_chrome(&self) -> Value {
        let mut events = Vec::new();
        let mut name = |process: u64, thread: Option<u64>, text: &str| {
            let (what, thread) = match thread {
                None => ("process_name", 0),
                Some(thread) => ("thread_name", thread),
            };
            events.push(json!({"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": text}}));
        };
        name(SM_PROCESS, None, "SMs");
        name(PHASE_PROCESS, None, "phases");
        let phases = self.phases();
        for (thread, phase) in phases.iter().enumerate() {
            name(PHASE_PROCESS, Some(thread as u64), phase);
        }
        let threads = self.threads();
        let used: BTreeMap<u64, u32> =
            threads.iter().zip(&self.blocks).map(|(&thread, block)| (thread, block.sm)).collect();
        for (thread, sm) in used {
            name(SM_PROCESS, Some(thread), &format!("SM {sm:03}.{}", thread % SM_THREADS));
        }
        for (index, (launch, (from, to))) in self.launches.iter().zip(self.spans()).enumerate() {
            let thread = phases.iter().position(|phase| *phase == launch.phase).unwrap_or(0);
            let name = launch
                .layer
                .map_or(launch.phase.clone(), |layer| format!("{} {layer}", launch.phase));
            events.push(json!({
                "ph": "X", "cat": "launch", "name": name, "pid": PHASE_PROCESS, "tid": thread,
                "ts": from, "dur": to - from, "args": {"launch": index, "kernel": launch.kernel},
            }));
        }
        for (block, thread) in self.blocks.iter().zip(threads) {
            let phase = &self.launches[block.launch].phase;
            events.push(json!({
                "ph": "X", "cat": "block", "name": phase, "pid": SM_PROCESS, "tid": thread,
                "ts": block.start_us, "dur": block.end_us - block.start_us,
                "args": {"launch": block.launch, "block": block.block, "sm": block.sm},
            }));
            if block.ready_us > block.start_us {
                events.push(json!({
                    "ph": "X", "cat": "wait", "name": "wait", "pid": SM_PROCESS, "tid": thread,
                    "ts": block.start_us, "dur": block.ready_us - block.start_us,
                }));
            }
        }
        let launches: Vec<Value> = self
            .launches
            .iter()
            .map(|launch| json!([launch.kernel, launch.phase, launch.layer, launch.grid]))
            .collect();
        json!({
            "displayTimeUnit": "ns",
            "otherData": {
                "producer": "ossmith", "model": self.model, "device": self.device,
                "batch": self.batch, "context": self.context,
                "plain_us": self.plain_us, "clock_us": self.clock_us, "launches": launches,
            },
            "traceEvents": events,
        })
    }

    /// A thread of the file for each block: of its SM, the first on which nothing runs any more.
    fn threads(&self) -> Vec<u64> {
        let mut order: Vec<usize> = (0..self.blocks.len()).collect();
        order.sort_by(|&a, &b| self.blocks[a].start_us.total_cmp(&self.blocks[b].start_us));
        let mut free_from: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        let mut threads = vec![0; self.blocks.len()];
        for index in order {
            let block = &self.blocks[index];
            let ends = free_from.entry(block.sm).or_default();
            let free = ends.iter().position(|end| *end <= block.start_us);
            let thread = free.unwrap_or_else(|| {
                ends.push(0.0);
                ends.len() - 1
            });
            ends[thread] = block.end_us;
            threads[index] = u64::from(block.sm) * SM_THREADS + thread as u64;
        }
        threads
    }

    /// Reads a file that [`StepTrace::to_chrome`] wrote.
    ///
    /// # Errors
    /// [`Error::Content`] for another file, also for a trace of another program.
    pub fn from_chrome(file: &str, whole: &Value) -> Result<StepTrace> {
        check(whole).map_err(|problem| Error::content(file, problem))?;
        let other = &whole["otherData"];
        let missing = |what: &str| {
            Error::content(
                file,
                format!(
                    "its otherData has no {what}: it is no trace of `ossmith bench decode --trace`"
                ),
            )
        };
        let text = |key: &str| other[key].as_str().map(str::to_owned).ok_or_else(|| missing(key));
        let count = |key: &str| other[key].as_u64().map(|n| n as usize).ok_or_else(|| missing(key));
        let mut launches = Vec::new();
        for launch in other["launches"].as_array().ok_or_else(|| missing("launches"))? {
            let name = |at: usize| {
                launch[at].as_str().map(str::to_owned).ok_or_else(|| missing("names of launches"))
            };
            let axis =
                |at: usize| launch[3][at].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
            let layer = launch[2].as_u64().map(|layer| layer as usize);
            launches.push(Launch {
                kernel: name(0)?,
                phase: name(1)?,
                layer,
                grid: [axis(0), axis(1), axis(2)],
            });
        }
        let mut blocks: Vec<Block> = Vec::new();
        let mut waits: BTreeMap<(u64, u64), f64> = BTreeMap::new();
        let mut places = Vec::new();
        for event in whole["traceEvents"].as_array().into_iter().flatten() {
            let number = |key: &str| event[key].as_f64().unwrap_or_default();
            let place = (event["tid"].as_u64().unwrap_or_default(), number("ts").to_bits());
            match event["cat"].as_str() {
                Some("wait") => {
                    waits.insert(place, number("ts") + number("dur"));
                }
                Some("block") => {
                    let arg = |key: &str| event["args"][key].as_u64().unwrap_or_default();
                    let launch = arg("launch") as usize;
                    if launch >= launches.len() {
                        return Err(Error::content(
                            file,
                            format!(
                                "a block belongs to launch {launch}, and there are {}",
                                launches.len()
                            ),
                        ));
                    }
                    let start_us = number("ts");
                    blocks.push(Block {
                        launch,
                        block: arg("block") as u32,
                        sm: arg("sm") as u32,
                        start_us,
                        ready_us: start_us,
                        end_us: start_us + number("dur"),
                    });
                    places.push(place);
                }
                _ => {}
            }
        }
        for (block, place) in blocks.iter_mut().zip(places) {
            block.ready_us = waits.get(&place).copied().unwrap_or(block.start_us);
        }
        Ok(StepTrace {
            model: text("model")?,
            device: text("device")?,
            batch: count("batch")?,
            context: count("context")?,
            plain_us: other["plain_us"].as_f64(),
            clock_us: other["clock_us"].as_f64().unwrap_or_default(),
            launches,
            blocks,
        })
    }
}

/// Checks a file against the Trace Event Format ("JSON Object Format", complete and metadata events), as Perfetto's
/// importer reads it: what every event must have, and that events of one thread lie inside each other or apart.
///
/// # Errors
/// One sentence that names the first event that is wrong.
pub fn check(whole: &Value) -> std::result::Result<(), String> {
    let events = whole["traceEvents"].as_array().ok_or("it has no list traceEvents")?;
    if let Some(unit) = whole.get("displayTimeUnit").filter(|unit| **unit != "ns" && **unit != "ms")
    {
        return Err(format!("displayTimeUnit is {unit}, not ms or ns"));
    }
    let mut threads: BTreeMap<(u64, u64), Vec<(f64, f64)>> = BTreeMap::new();
    for (at, event) in events.iter().enumerate() {
        let wrong = |what: &str| format!("event {at} {what}: {event}");
        let (Some(process), Some(thread)) = (event["pid"].as_u64(), event["tid"].as_u64()) else {
            return Err(wrong("has no pid or no tid"));
        };
        if event["name"].as_str().is_none_or(str::is_empty) {
            return Err(wrong("has no name"));
        }
        match event["ph"].as_str() {
            Some("X") => {
                let time =
                    |key: &str| event[key].as_f64().filter(|time| time.is_finite() && *time >= 0.0);
                let (Some(start), Some(length)) = (time("ts"), time("dur")) else {
                    return Err(wrong("has no ts or no dur from 0 on"));
                };
                threads.entry((process, thread)).or_default().push((start, start + length));
            }
            Some("M") => {
                let known = ["process_name", "thread_name"]
                    .contains(&event["name"].as_str().unwrap_or_default());
                if !known || event["args"]["name"].as_str().is_none() {
                    return Err(wrong("is metadata that viewers do not know"));
                }
            }
            _ => return Err(wrong("is neither complete (X) nor metadata (M)")),
        }
    }
    // Times pass through decimal text, so ends may differ in their last digit.
    const SLACK_US: f64 = 1e-6;
    for ((process, thread), mut spans) in threads {
        spans.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        let mut open: Vec<f64> = Vec::new();
        for (start, end) in spans {
            while open.last().is_some_and(|last| *last <= start + SLACK_US) {
                open.pop();
            }
            if open.last().is_some_and(|last| end > last + SLACK_US) {
                return Err(format!(
                    "thread {thread} of process {process} has events that overlap in part at {start} µs"
                ));
            }
            open.push(end);
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two launches on two SMs: the second one's blocks start before the first one's end, and wait.
    pub(crate) fn small() -> StepTrace {
        let launch = |kernel: &str, phase: &str, layer| Launch {
            kernel: kernel.into(),
            phase: phase.into(),
            layer,
            grid: [2, 2, 1],
        };
        let block = |launch, block, sm, start_us, ready_us, end_us| Block {
            launch,
            block,
            sm,
            start_us,
            ready_us,
            end_us,
        };
        StepTrace {
            model: "nano".into(),
            device: "a card".into(),
            batch: 1,
            context: 64,
            plain_us: Some(12.5),
            clock_us: 0.032,
            launches: vec![launch("embed", "embed", None), launch("qkv_decode1", "qkv", Some(0))],
            blocks: vec![
                block(0, 0, 0, 0.0, 0.0, 4.0),
                block(0, 1, 1, 0.25, 0.25, 5.0),
                block(1, 0, 0, 1.0, 5.25, 9.0),
                block(1, 1, 1, 5.5, 6.0, 9.5),
            ],
        }
    }

    #[test]
    fn a_trace_reads_back_and_keeps_the_format() {
        let trace = small();
        let text = trace.to_chrome().to_string();
        let whole: Value = serde_json::from_str(&text).expect("JSON");
        check(&whole).expect("the format");
        assert_eq!(StepTrace::from_chrome("t.json", &whole).expect("a trace"), trace);
        let events = whole["traceEvents"].as_array().expect("events");
        let of = |category: &str| events.iter().filter(|event| event["cat"] == category).count();
        assert_eq!((of("launch"), of("block"), of("wait")), (2, 4, 2));
        // Blocks that share SM 0 have threads of their own; those of SM 1 follow each other on one.
        let threads: Vec<u64> = events
            .iter()
            .filter(|e| e["cat"] == "block")
            .filter_map(|e| e["tid"].as_u64())
            .collect();
        assert_eq!(threads, [0, SM_THREADS, 1, SM_THREADS]);
        assert_eq!(trace.spans(), [(0.0, 5.0), (5.25, 9.5)]);
    }

    #[test]
    fn what_viewers_refuse_is_named() {
        let event = |change: &dyn Fn(&mut Value)| {
            let mut whole = small().to_chrome();
            change(&mut whole);
            check(&whole).expect_err("a refusal")
        };
        for (path, value, problem) in [
            ("/traceEvents", json!(3), "no list traceEvents"),
            ("/displayTimeUnit", json!("us"), "displayTimeUnit"),
            ("/traceEvents/0/pid", json!("one"), "event 0 has no pid"),
            ("/traceEvents/0/name", json!(""), "event 0 has no name"),
            ("/traceEvents/0/ph", json!("B"), "neither complete (X) nor metadata"),
            ("/traceEvents/0/args", json!({}), "metadata that viewers do not know"),
            ("/traceEvents/10/dur", json!(-1.0), "event 10 has no ts or no dur"),
            ("/traceEvents/12/tid", json!(0), "overlap in part"),
        ] {
            let error = event(&|whole| {
                *whole.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value.clone()
            });
            assert!(error.contains(problem), "{path}: {error}");
        }
        let other = json!({"traceEvents": []});
        let error =
            StepTrace::from_chrome("t.json", &other).expect_err("no trace of ours").to_string();
        assert!(error.contains("t.json: its otherData has no launches"), "{error}");
    }
}
