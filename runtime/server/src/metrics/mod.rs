//! What `/metrics` shows: vLLM's names, so that dashboards and load generators made for it work, and a few of our own. The
//! server counts what it sees of each generation and of each HTTP request; what the engine counts comes from the engine.

mod engine;
mod http;
mod prometheus;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use ossmith::Histogram;

use crate::backend::EngineState;
use http::HttpCounts;
pub(crate) use http::NO_ROUTE;
use prometheus::{Exposition, counter, gauge};

const FIRST_TOKEN_BOUNDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const LATENCY_BOUNDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
/// vLLM's begin at 0.01, which cannot tell fast decoders apart.
const INTER_TOKEN_BOUNDS: &[f64] = &[
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
    0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const TOKEN_BOUNDS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0,
    50000.0, 100000.0,
];
const CHOICE_BOUNDS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// How a generation ended for its client, as the label `finished_reason` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Stop,
    Length,
    Abort,
    Error,
}

impl Outcome {
    /// The value of the label.
    pub(crate) fn name(self) -> &'static str {
        OUTCOMES[self as usize]
    }
}

const OUTCOMES: [&str; 4] = ["stop", "length", "abort", "error"];

/// All that the server counts.
#[derive(Debug)]
pub(crate) struct Metrics(Mutex<Counts>);

/// The counts behind the lock.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) prompt_tokens: u64,
    pub(crate) generation_tokens: u64,
    pub(crate) cached_tokens: u64,
    outcomes: [u64; 4],
    repairs: BTreeMap<&'static str, u64>,
    pub(crate) http: HttpCounts,
    /// From arrival to the first token.
    pub(crate) first_token_seconds: Histogram,
    pub(crate) inter_token_seconds: Histogram,
    /// Mean time per token after the first.
    pub(crate) per_token_seconds: Histogram,
    /// From arrival to the end.
    pub(crate) request_seconds: Histogram,
    pub(crate) queue_seconds: Histogram,
    pub(crate) prefill_seconds: Histogram,
    pub(crate) decode_seconds: Histogram,
    /// From the first step to the last token.
    pub(crate) inference_seconds: Histogram,
    pub(crate) request_prompt_tokens: Histogram,
    pub(crate) request_generation_tokens: Histogram,
    pub(crate) choices: Histogram,
    pub(crate) max_tokens: Histogram,
}

impl Counts {
    /// Counts a generation that has ended.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        self.outcomes[outcome as usize] += 1;
    }
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let latencies = || Histogram::new(LATENCY_BOUNDS);
        let inter_token = || Histogram::new(INTER_TOKEN_BOUNDS);
        let tokens = || Histogram::new(TOKEN_BOUNDS);
        Metrics(Mutex::new(Counts {
            prompt_tokens: 0,
            generation_tokens: 0,
            cached_tokens: 0,
            outcomes: [0; 4],
            repairs: BTreeMap::new(),
            http: HttpCounts::default(),
            first_token_seconds: Histogram::new(FIRST_TOKEN_BOUNDS),
            inter_token_seconds: inter_token(),
            per_token_seconds: inter_token(),
            request_seconds: latencies(),
            queue_seconds: latencies(),
            prefill_seconds: latencies(),
            decode_seconds: latencies(),
            inference_seconds: latencies(),
            request_prompt_tokens: tokens(),
            request_generation_tokens: tokens(),
            choices: Histogram::new(CHOICE_BOUNDS),
            max_tokens: tokens(),
        }))
    }

    /// Changes the counts.
    pub(crate) fn record<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts the repairs of what the model wrote, by kind.
    pub(crate) fn record_repairs(&self, kinds: &HashMap<&'static str, u64>) {
        self.record(|counts| {
            for (kind, count) in kinds {
                *counts.repairs.entry(kind).or_default() += count;
            }
        });
    }

    /// The whole text. `startup` has the seconds of each phase of starting, and `dropped_log_lines` is counted elsewhere.
    pub(crate) fn text(
        &self,
        model: &str,
        engines: &[EngineState],
        startup: &[(String, f64)],
        dropped_log_lines: u64,
    ) -> String {
        let mut out = Exposition::new(model);
        self.record(|counts| {
            engine::write(&mut out, engines);
            counters(&mut out, counts);
            histograms(&mut out, counts);
            counts.http.write(&mut out);
            let startup = startup.iter().map(|(phase, seconds)| (phase.as_str(), *seconds));
            let help = "Seconds that each phase of starting took.";
            out.labelled(gauge("ossmith:startup_seconds", help), "phase", startup);
            let help = "Lines of the log that could not be written.";
            out.value(counter("ossmith:log_lines_dropped_total", help), dropped_log_lines as f64);
            let repairs = counts.repairs.iter().map(|(kind, count)| (*kind, *count as f64));
            let help = "Repairs of what the model wrote.";
            out.labelled(counter("ossmith:harmony_repairs_total", help), "kind", repairs);
        });
        out.into_text()
    }
}

fn counters(out: &mut Exposition, counts: &Counts) {
    for (name, help, value) in [
        (
            "vllm:prompt_tokens_total",
            "Prompt tokens of finished generations.",
            counts.prompt_tokens,
        ),
        ("vllm:generation_tokens_total", "Generated tokens.", counts.generation_tokens),
        (
            "vllm:prompt_tokens_cached_total",
            "Prompt tokens found in the cache.",
            counts.cached_tokens,
        ),
    ] {
        out.value(counter(name, help), value as f64);
    }
    let outcomes = OUTCOMES.into_iter().zip(counts.outcomes.iter().map(|&count| count as f64));
    let success = counter("vllm:request_success_total", "Finished generations.");
    out.labelled(success, "finished_reason", outcomes);
}

fn histograms(out: &mut Exposition, counts: &Counts) {
    for (name, help, histogram) in [
        (
            "vllm:time_to_first_token_seconds",
            "From arrival to the first token.",
            &counts.first_token_seconds,
        ),
        ("vllm:inter_token_latency_seconds", "Between two tokens.", &counts.inter_token_seconds),
        (
            "vllm:request_time_per_output_token_seconds",
            "Mean time per token after the first.",
            &counts.per_token_seconds,
        ),
        ("vllm:e2e_request_latency_seconds", "From arrival to the end.", &counts.request_seconds),
        (
            "vllm:request_queue_time_seconds",
            "From arrival to the first step.",
            &counts.queue_seconds,
        ),
        (
            "vllm:request_prefill_time_seconds",
            "From the first step to the first token.",
            &counts.prefill_seconds,
        ),
        (
            "vllm:request_decode_time_seconds",
            "From the first token to the last.",
            &counts.decode_seconds,
        ),
        (
            "vllm:request_inference_time_seconds",
            "From the first step to the last token.",
            &counts.inference_seconds,
        ),
        ("vllm:request_prompt_tokens", "Prompt tokens.", &counts.request_prompt_tokens),
        ("vllm:request_generation_tokens", "Generated tokens.", &counts.request_generation_tokens),
        ("vllm:request_params_n", "Requested choices.", &counts.choices),
        ("vllm:request_params_max_tokens", "Limit of generated tokens.", &counts.max_tokens),
    ] {
        out.histogram(name, help, histogram);
    }
}
