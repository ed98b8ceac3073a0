//! What `/metrics` shows: vLLM's names, so that boards and load generators made for it work, and a few of our own.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::EngineStats;
use crate::histogram::{Histogram, head, single, write_counts};

const FIRST: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const LATENCY: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
/// vLLM's start at 0.01, which hides a fast decoder.
const BETWEEN: &[f64] = &[
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
    0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0,
    50000.0, 100000.0,
];
const CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// How a generation ended, as `finished_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Stop,
    Length,
    Abort,
    Error,
}

const ENDS: [&str; 4] = ["stop", "length", "abort", "error"];

/// All that the server counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) generation_tokens: AtomicU64,
    pub(crate) cached_tokens: AtomicU64,
    ended: [AtomicU64; 4],
    pub(crate) first_token: Histogram,
    pub(crate) between_tokens: Histogram,
    pub(crate) per_token: Histogram,
    pub(crate) whole: Histogram,
    pub(crate) queued: Histogram,
    pub(crate) prefill: Histogram,
    pub(crate) decode: Histogram,
    pub(crate) inference: Histogram,
    pub(crate) prompt_sizes: Histogram,
    pub(crate) answer_sizes: Histogram,
    pub(crate) choices: Histogram,
    pub(crate) most_tokens: Histogram,
    repairs: Mutex<BTreeMap<&'static str, u64>>,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        Metrics {
            prompt_tokens: AtomicU64::new(0),
            generation_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            ended: Default::default(),
            first_token: Histogram::new(FIRST),
            between_tokens: Histogram::new(BETWEEN),
            per_token: Histogram::new(BETWEEN),
            whole: Histogram::new(LATENCY),
            queued: Histogram::new(LATENCY),
            prefill: Histogram::new(LATENCY),
            decode: Histogram::new(LATENCY),
            inference: Histogram::new(LATENCY),
            prompt_sizes: Histogram::new(TOKENS),
            answer_sizes: Histogram::new(TOKENS),
            choices: Histogram::new(CHOICES),
            most_tokens: Histogram::new(TOKENS),
            repairs: Mutex::new(BTreeMap::new()),
        }
    }

    pub(crate) fn end(&self, end: End) {
        self.ended[end as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// What had to be mended in a model's headers.
    pub(crate) fn repaired<'a>(
        &self,
        kinds: impl IntoIterator<Item = (&'a &'static str, &'a u64)>,
    ) {
        let mut all = self.repairs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (kind, count) in kinds {
            *all.entry(kind).or_default() += count;
        }
    }

    /// The whole text. `startup` has the seconds of each phase of starting.
    pub(crate) fn text(
        &self,
        model: &str,
        stats: &EngineStats,
        startup: &[(String, f64)],
    ) -> String {
        let label = format!("model_name=\"{}\"", model.replace('\\', "\\\\").replace('"', "\\\""));
        let mut out = String::with_capacity(16 << 10);
        self.gauges(&mut out, &label, stats);
        self.counters(&mut out, &label, stats);
        self.histograms(&mut out, &label);
        let steps = &stats.step_tokens;
        let name = "vllm:iteration_tokens_total";
        write_counts(
            &mut out,
            (name, "Tokens of a step."),
            &label,
            steps.bounds,
            &steps.counts,
            steps.sum,
        );
        own(&mut out, &label, startup);
        let repairs = self.repairs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        head(
            &mut out,
            "ossmith:harmony_repairs_total",
            "Repairs of what the model wrote.",
            "counter",
        );
        for (kind, count) in repairs.iter() {
            let _ =
                writeln!(out, "ossmith:harmony_repairs_total{{{label},kind=\"{kind}\"}} {count}");
        }
        out
    }

    fn gauges(&self, out: &mut String, label: &str, stats: &EngineStats) {
        for (name, help, value) in [
            ("vllm:num_requests_running", "Requests under way.", stats.running as f64),
            ("vllm:num_requests_waiting", "Requests that wait.", stats.waiting as f64),
            ("vllm:kv_cache_usage_perc", "Share of the cache in use; 1 is all.", stats.cache_usage),
        ] {
            single(out, name, help, "gauge", label, value);
        }
        let (size, count) = (stats.page_tokens, stats.pages);
        let labels = format!("{label},block_size=\"{size}\",num_gpu_blocks=\"{count}\"");
        single(out, "vllm:cache_config_info", "The cache.", "gauge", &labels, 1.0);
    }

    fn counters(&self, out: &mut String, label: &str, stats: &EngineStats) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [drafts, drafted, accepted] = stats.drafts;
        for (name, help, value) in [
            (
                "vllm:prompt_tokens_total",
                "Prompt tokens of finished generations.",
                load(&self.prompt_tokens),
            ),
            ("vllm:generation_tokens_total", "Generated tokens.", load(&self.generation_tokens)),
            (
                "vllm:prompt_tokens_cached_total",
                "Prompt tokens found in the cache.",
                load(&self.cached_tokens),
            ),
            (
                "vllm:num_preemptions_total",
                "Requests that lost their place for a while.",
                stats.preemptions,
            ),
            (
                "vllm:prefix_cache_queries_total",
                "Tokens looked up in the prefix cache.",
                stats.prefix_queries,
            ),
            (
                "vllm:prefix_cache_hits_total",
                "Tokens found in the prefix cache.",
                stats.prefix_hits,
            ),
            ("vllm:spec_decode_num_drafts_total", "Drafts.", drafts),
            ("vllm:spec_decode_num_draft_tokens_total", "Drafted tokens.", drafted),
            ("vllm:spec_decode_num_accepted_tokens_total", "Accepted tokens.", accepted),
        ] {
            single(out, name, help, "counter", label, value as f64);
        }
        head(out, "vllm:request_success_total", "Finished generations.", "counter");
        for (name, count) in ENDS.iter().zip(&self.ended) {
            let count = load(count);
            let _ = writeln!(
                out,
                "vllm:request_success_total{{{label},finished_reason=\"{name}\"}} {count}"
            );
        }
        let name = "vllm:spec_decode_num_accepted_tokens_per_pos_total";
        head(out, name, "Accepted tokens by their place in the draft.", "counter");
        for (place, count) in stats.accepted_by_place.iter().enumerate() {
            let _ = writeln!(out, "{name}{{{label},position=\"{place}\"}} {count}");
        }
    }

    fn histograms(&self, out: &mut String, label: &str) {
        for (name, help, histogram) in [
            (
                "vllm:time_to_first_token_seconds",
                "From arrival to the first token.",
                &self.first_token,
            ),
            ("vllm:inter_token_latency_seconds", "Between two tokens.", &self.between_tokens),
            (
                "vllm:request_time_per_output_token_seconds",
                "Mean time a token after the first.",
                &self.per_token,
            ),
            ("vllm:e2e_request_latency_seconds", "From arrival to the end.", &self.whole),
            ("vllm:request_queue_time_seconds", "Waiting for a place.", &self.queued),
            (
                "vllm:request_prefill_time_seconds",
                "From a place to the first token.",
                &self.prefill,
            ),
            ("vllm:request_decode_time_seconds", "From the first token to the last.", &self.decode),
            (
                "vllm:request_inference_time_seconds",
                "From a place to the last token.",
                &self.inference,
            ),
            ("vllm:request_prompt_tokens", "Prompt tokens.", &self.prompt_sizes),
            ("vllm:request_generation_tokens", "Generated tokens.", &self.answer_sizes),
            ("vllm:request_params_n", "Alternatives asked for.", &self.choices),
            ("vllm:request_params_max_tokens", "Most tokens asked for.", &self.most_tokens),
        ] {
            histogram.write(out, name, help, label);
        }
    }
}

fn own(out: &mut String, label: &str, startup: &[(String, f64)]) {
    head(out, "ossmith:startup_seconds", "Seconds that each phase of starting took.", "gauge");
    for (phase, seconds) in startup {
        let _ = writeln!(out, "ossmith:startup_seconds{{{label},phase=\"{phase}\"}} {seconds}");
    }
}
