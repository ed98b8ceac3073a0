//! What the engines count. Where there are several, each value has the label `engine`, as vLLM writes it, and a sum over the
//! label is the server's.

use ossmith::{EngineMetrics, PAGE_TOKENS};

use super::OUTCOMES;
use super::prometheus::{Exposition, Metric, counter, gauge};
use crate::backend::EngineState;

/// A name, a help text, and where the value is.
type Row = (&'static str, &'static str, fn(&EngineMetrics) -> f64);

const GAUGES: [Row; 3] = [
    ("vllm:num_requests_running", "Requests that run.", |engine| engine.running as f64),
    ("vllm:num_requests_waiting", "Requests that wait.", |engine| engine.waiting as f64),
    ("vllm:kv_cache_usage_perc", "Share of the cache in use; 1 is all.", |engine| {
        engine.pages_used as f64 / engine.pages_total.max(1) as f64
    }),
];

const COUNTERS: [Row; 15] = [
    (
        "vllm:num_preemptions_total",
        "Requests that gave their cache pages up for a while.",
        |engine| engine.preemptions as f64,
    ),
    ("vllm:prefix_cache_queries_total", "Tokens looked up in the prefix cache.", |engine| {
        engine.prefix_queries as f64
    }),
    ("vllm:prefix_cache_hits_total", "Tokens found in the prefix cache.", |engine| {
        engine.cached_tokens as f64
    }),
    ("vllm:spec_decode_num_drafts_total", "Drafts.", |engine| engine.drafts as f64),
    ("vllm:spec_decode_num_draft_tokens_total", "Drafted tokens.", |engine| {
        engine.draft_tokens as f64
    }),
    ("vllm:spec_decode_num_accepted_tokens_total", "Accepted tokens.", |engine| {
        engine.accepted_tokens as f64
    }),
    ("ossmith:steps_total", "Steps.", |engine| engine.steps as f64),
    (
        "ossmith:forced_tokens_total",
        "Tokens that no step sampled, because a grammar left no other.",
        |engine| engine.forced_tokens as f64,
    ),
    (
        "ossmith:late_masks_total",
        "Tokens that ran again, because a grammar took longer than their step.",
        |engine| engine.late_masks as f64,
    ),
    ("ossmith:host_sampled_tokens_total", "Tokens that were sampled on the host.", |engine| {
        engine.host_sampled_tokens as f64
    }),
    ("ossmith:device_busy_seconds_total", "Time that the device computed.", |engine| {
        engine.device_busy_seconds
    }),
    ("ossmith:device_idle_seconds_total", "Time that the device waited between steps.", |engine| {
        engine.device_idle_seconds
    }),
    ("ossmith:engine_requests_total", "Requests that the engine took.", |engine| {
        engine.requests as f64
    }),
    ("ossmith:engine_prompt_tokens_total", "Prompt tokens of samples that started.", |engine| {
        engine.prompt_tokens as f64
    }),
    (
        "ossmith:engine_generated_tokens_total",
        "Tokens that the engine generated, read or not.",
        |engine| engine.generated_tokens as f64,
    ),
];

/// Writes all of it.
pub(super) fn write(out: &mut Exposition, engines: &[EngineState]) {
    let all = Engines(engines);
    for (name, help, value) in GAUGES {
        out.with_labels(gauge(name, help), all.each(|engine| value(&engine.metrics)));
    }
    let help = "1 while the engine runs, 0 once it has failed.";
    let runs = |engine: &EngineState| f64::from(u8::from(engine.failure.is_none()));
    out.with_labels(gauge("ossmith:engine_up", help), all.each(runs));
    let help = "Pages of the cache: used by requests, kept for prefixes, and free.";
    all.labelled(out, gauge("ossmith:pages", help), "state", |engine| {
        let (used, cached) = (engine.pages_used, engine.pages_cached);
        let free = engine.pages_total.saturating_sub(used + cached);
        [("used", used), ("cached", cached), ("free", free)]
            .map(|(state, count)| (state.to_owned(), count as f64))
            .into()
    });
    let info = |engine: &EngineState| {
        let pages = engine.metrics.pages_total;
        format!("block_size=\"{PAGE_TOKENS}\",num_gpu_blocks=\"{pages}\"")
    };
    let infos =
        all.0.iter().zip(all.labels()).map(|(engine, label)| (join(&label, &info(engine)), 1.0));
    out.with_labels(gauge("vllm:cache_config_info", "The cache."), infos);
    for (name, help, value) in COUNTERS {
        out.with_labels(counter(name, help), all.each(|engine| value(&engine.metrics)));
    }
    let metric = counter("ossmith:engine_finished_total", "Samples that ended in the engine.");
    all.labelled(out, metric, "reason", |engine| {
        let counts = OUTCOMES.into_iter().zip(&engine.finished);
        counts.map(|(reason, &count)| (reason.to_owned(), count as f64)).collect()
    });
    let name = "vllm:spec_decode_num_accepted_tokens_per_pos_total";
    let metric = counter(name, "Accepted tokens by their position in the draft.");
    all.labelled(out, metric, "position", |engine| {
        let counts = engine.accepted_by_position.iter().enumerate();
        counts.map(|(position, &count)| (position.to_string(), count as f64)).collect()
    });
    let steps = all.0.iter().map(|engine| &engine.metrics.step_tokens);
    out.histograms("vllm:iteration_tokens_total", "Tokens per step.", all.labels().zip(steps));
    let Some(first) = engines.first() else { return };
    for (at, (name, help, _)) in first.metrics.histograms().into_iter().enumerate() {
        let of_each = all.0.iter().map(|engine| engine.metrics.histograms()[at].2);
        out.histograms(&format!("ossmith:engine_{name}"), help, all.labels().zip(of_each));
    }
}

struct Engines<'a>(&'a [EngineState]);

impl Engines<'_> {
    /// The label of each engine; empty for the only one.
    fn labels(&self) -> impl Iterator<Item = String> + use<> {
        let count = self.0.len();
        (0..count).map(move |at| match count {
            1 => String::new(),
            _ => format!("engine=\"{at}\""),
        })
    }

    /// A value of each engine.
    fn each(&self, value: impl Fn(&EngineState) -> f64) -> impl Iterator<Item = (String, f64)> {
        self.labels().zip(self.0.iter().map(value))
    }

    /// Writes several values of each engine, told apart by a label.
    fn labelled(
        &self,
        out: &mut Exposition,
        metric: Metric<'_>,
        label: &str,
        values: impl Fn(&EngineMetrics) -> Vec<(String, f64)>,
    ) {
        let all = self.0.iter().zip(self.labels()).flat_map(|(engine, own)| {
            let labels = move |of: String| join(&own, &format!("{label}=\"{of}\""));
            values(&engine.metrics).into_iter().map(move |(of, value)| (labels(of), value))
        });
        out.with_labels(metric, all);
    }
}

/// Labels after others, of which there may be none.
fn join(labels: &str, more: &str) -> String {
    if labels.is_empty() { more.to_owned() } else { format!("{labels},{more}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(running: &[usize]) -> String {
        let state = |&running: &usize| {
            let mut metrics = EngineMetrics::new(10);
            metrics.running = running;
            metrics.step_tokens.add(4.0);
            let failure = (running == 0).then(|| "a reason".to_owned());
            EngineState { metrics, failure }
        };
        let mut out = Exposition::new("nano");
        write(&mut out, &running.iter().map(state).collect::<Vec<_>>());
        out.into_text()
    }

    fn holds(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn several_engines_have_a_label_and_one_has_none() {
        let one = text(&[3]);
        holds(
            &one,
            &[
                "vllm:num_requests_running{model_name=\"nano\"} 3",
                "ossmith:pages{model_name=\"nano\",state=\"free\"} 10",
                "ossmith:engine_up{model_name=\"nano\"} 1",
                "ossmith:engine_step_tokens_count{model_name=\"nano\"} 1",
                "vllm:cache_config_info{model_name=\"nano\",block_size=\"64\",num_gpu_blocks=\"10\"} 1",
            ],
        );
        let two = text(&[3, 0]);
        holds(
            &two,
            &[
                "vllm:num_requests_running{model_name=\"nano\",engine=\"0\"} 3",
                "vllm:num_requests_running{model_name=\"nano\",engine=\"1\"} 0",
                "ossmith:engine_up{model_name=\"nano\",engine=\"1\"} 0",
                "ossmith:pages{model_name=\"nano\",engine=\"1\",state=\"free\"} 10",
                "ossmith:engine_finished_total{model_name=\"nano\",engine=\"0\",reason=\"stop\"} 0",
                "vllm:iteration_tokens_total_count{model_name=\"nano\",engine=\"1\"} 1",
                "ossmith:engine_step_tokens_bucket{model_name=\"nano\",engine=\"1\",le=\"5.0\"} 1",
            ],
        );
        let heads = two.lines().filter(|line| line.starts_with("# HELP ossmith:pages ")).count();
        assert_eq!(heads, 1);
    }
}
