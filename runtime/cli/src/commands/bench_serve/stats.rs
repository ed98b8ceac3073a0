//! From times to figures, under vLLM's names.

use serde_json::{Map, Value, json};

use super::client::Timed;
use crate::commands::statistics::{mean_and_deviation, percentile};
use crate::failure::fail;

/// A bound in ms that a good request keeps.
pub(super) type Bound = (String, f64);

/// Reads `ttft:200` and the like.
pub(super) fn bounds(texts: &[String]) -> anyhow::Result<Vec<Bound>> {
    let bound = |text: &String| {
        let parsed =
            text.split_once(':').and_then(|(name, ms)| Some((name, ms.parse::<f64>().ok()?)));
        match parsed {
            Some((name @ ("ttft" | "tpot" | "e2el"), ms)) if ms >= 0.0 => Ok((name.to_owned(), ms)),
            _ => Err(fail(format!("`{text}` is not a bound"), "write ttft:MS, tpot:MS or e2el:MS")),
        }
    };
    texts.iter().map(bound).collect()
}

/// A percentile as the command line gives it: from 0 to 100.
pub(super) fn parse_percentile(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| (0.0..=100.0).contains(value));
    value.ok_or_else(|| "not a number from 0 to 100".to_owned())
}

/// `p99`, `p99.9`.
pub(super) fn percentile_name(percentile: f64) -> String {
    format!("p{percentile}")
}

/// Time per token after the first, for answers of more than one token.
fn per_token(run: &Timed) -> Option<f64> {
    (run.output_tokens > 1).then(|| (run.whole - run.first) / (run.output_tokens - 1) as f64)
}

/// All figures.
pub(super) fn report(
    runs: &[Timed],
    duration: f64,
    percentiles: &[f64],
    bounds: &[Bound],
) -> Value {
    let good: Vec<&Timed> = runs.iter().filter(|run| run.error.is_none()).collect();
    let input: usize = good.iter().map(|run| run.input_tokens).sum();
    let output: usize = good.iter().map(|run| run.output_tokens).sum();
    let kept = good.iter().filter(|run| keeps(run, bounds)).count();
    let errors: Vec<&str> = runs.iter().filter_map(|run| run.error.as_deref()).take(10).collect();
    let mut report = Map::new();
    for (key, value) in [
        ("duration", json!(duration)),
        ("completed", json!(good.len())),
        ("failed", json!(runs.len() - good.len())),
        ("total_input_tokens", json!(input)),
        ("total_output_tokens", json!(output)),
        ("request_throughput", json!(good.len() as f64 / duration)),
        (
            "request_goodput",
            if bounds.is_empty() { Value::Null } else { json!(kept as f64 / duration) },
        ),
        ("output_throughput", json!(output as f64 / duration)),
        ("total_token_throughput", json!((input + output) as f64 / duration)),
        ("errors", json!(errors)),
    ] {
        report.insert(key.to_owned(), value);
    }
    let times: [(&str, Vec<f64>); 4] = [
        ("ttft", good.iter().map(|run| run.first).collect()),
        ("tpot", good.iter().filter_map(|run| per_token(run)).collect()),
        ("itl", good.iter().flat_map(|run| run.gaps.iter().copied()).collect()),
        ("e2el", good.iter().map(|run| run.whole).collect()),
    ];
    for (name, seconds) in times {
        report.extend(summary(name, seconds, percentiles));
    }
    Value::Object(report)
}

/// Whether an answer was as fast as all bounds ask.
fn keeps(run: &Timed, bounds: &[Bound]) -> bool {
    bounds.iter().all(|(name, ms)| {
        let seconds = match name.as_str() {
            "ttft" => run.first,
            "tpot" => per_token(run).unwrap_or(0.0),
            _ => run.whole,
        };
        seconds * 1e3 <= *ms
    })
}

/// Mean, median, deviation and percentiles of one time, in milliseconds; null where nothing was timed.
fn summary(name: &str, mut seconds: Vec<f64>, percentiles: &[f64]) -> Vec<(String, Value)> {
    seconds.sort_by(f64::total_cmp);
    let ms = |value: Option<f64>| value.map_or(Value::Null, |value| json!(value * 1e3));
    let (mean, deviation) = mean_and_deviation(&seconds).unzip();
    let mut figures = vec![
        (format!("mean_{name}_ms"), ms(mean)),
        (format!("median_{name}_ms"), ms(percentile(&seconds, 50.0))),
        (format!("std_{name}_ms"), ms(deviation)),
    ];
    figures.extend(percentiles.iter().map(|&percent| {
        (format!("{}_{name}_ms", percentile_name(percent)), ms(percentile(&seconds, percent)))
    }));
    figures
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn figures_match_their_names() {
        let run = |first: f64, gap: f64, tokens: usize| Timed {
            input_tokens: 10,
            output_tokens: tokens,
            first,
            whole: first + gap * (tokens - 1) as f64,
            gaps: vec![gap; tokens - 1],
            error: None,
        };
        let lost = Timed { error: Some("gone".to_owned()), ..Timed::default() };
        let runs = [run(0.1, 0.01, 11), run(0.3, 0.03, 11), lost];
        let report = report(&runs, 2.0, &[50.0, 99.0], &bounds(&["ttft:200".to_owned()]).unwrap());
        let figure = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key}"));
        for (key, value) in [
            ("completed", 2.0),
            ("failed", 1.0),
            ("total_input_tokens", 20.0),
            ("total_output_tokens", 22.0),
            ("request_throughput", 1.0),
            ("request_goodput", 0.5),
            ("output_throughput", 11.0),
            ("mean_ttft_ms", 200.0),
            ("median_ttft_ms", 200.0),
            ("std_ttft_ms", 100.0),
            ("p99_ttft_ms", 298.0),
            ("mean_tpot_ms", 20.0),
            ("median_itl_ms", 20.0),
            ("mean_e2el_ms", 400.0),
        ] {
            assert!((figure(key) - value).abs() < 1e-6, "{key}: {}", report[key]);
        }
        assert!(bounds(&["itl:3".to_owned()]).is_err() && bounds(&["ttft".to_owned()]).is_err());
    }
}
