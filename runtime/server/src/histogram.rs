//! Histograms and counters that many threads may add to at once, and their text in Prometheus' format.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts values by bucket.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    /// One more than there are bounds.
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(bounds: &'static [f64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum: AtomicU64::new(0.0f64.to_bits()) }
    }

    pub(crate) fn add(&self, value: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let add = |bits: u64| Some((f64::from_bits(bits) + value).to_bits());
        // The closure always gives a value, so this cannot fail.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Appends the histogram's lines; `labels` as `model_name="x"`.
    pub(crate) fn write(&self, out: &mut String, name: &str, help: &str, labels: &str) {
        let counts: Vec<u64> =
            self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let sum = f64::from_bits(self.sum.load(Ordering::Relaxed));
        write_counts(out, (name, help), labels, self.bounds, &counts, sum);
    }
}

/// The lines of a histogram that someone else has counted: a count a bound, and one for what is above all of them.
pub(crate) fn write_counts(
    out: &mut String,
    (name, help): (&str, &str),
    labels: &str,
    bounds: &[f64],
    counts: &[u64],
    sum: f64,
) {
    head(out, name, help, "histogram");
    let mut total = 0;
    for (bound, count) in bounds.iter().zip(counts) {
        total += count;
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound:?}\"}} {total}");
    }
    total += counts.get(bounds.len()).copied().unwrap_or(0);
    let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {total}");
    let _ = writeln!(out, "{name}_count{{{labels}}} {total}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}");
}

/// The two lines that come before a metric's values.
pub(crate) fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A metric with one value.
pub(crate) fn single(
    out: &mut String,
    name: &str,
    help: &str,
    kind: &str,
    labels: &str,
    value: f64,
) {
    head(out, name, help, kind);
    let _ = writeln!(out, "{name}{{{labels}}} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_hold_their_bound() {
        let histogram = Histogram::new(&[1.0, 2.5]);
        [0.5, 1.0, 2.0, 9.0].into_iter().for_each(|value| histogram.add(value));
        let mut text = String::new();
        histogram.write(&mut text, "x", "help", "m=\"n\"");
        for line in [
            "# TYPE x histogram",
            "x_bucket{m=\"n\",le=\"1.0\"} 2",
            "x_bucket{m=\"n\",le=\"2.5\"} 3",
            "x_bucket{m=\"n\",le=\"+Inf\"} 4",
            "x_count{m=\"n\"} 4",
            "x_sum{m=\"n\"} 12.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
