//! Metrics in Prometheus' text format.

use std::fmt::Write;

use ossmith::Histogram;

/// What a metric is: its value type, its name and its help text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric<'a> {
    pub(super) kind: &'static str,
    pub(super) name: &'a str,
    pub(super) help: &'a str,
}

pub(super) const fn counter<'a>(name: &'a str, help: &'a str) -> Metric<'a> {
    Metric { kind: "counter", name, help }
}

pub(super) const fn gauge<'a>(name: &'a str, help: &'a str) -> Metric<'a> {
    Metric { kind: "gauge", name, help }
}

/// The text so far, and the labels that every line carries.
#[derive(Debug)]
pub(super) struct Exposition {
    text: String,
    labels: String,
}

impl Exposition {
    /// Starts a text whose lines carry the label `model_name`.
    pub(super) fn new(model: &str) -> Exposition {
        let model = model.replace('\\', "\\\\").replace('"', "\\\"");
        let labels = format!("model_name=\"{model}\"");
        Exposition { text: String::with_capacity(16 << 10), labels }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// A metric with one value.
    pub(super) fn value(&mut self, metric: Metric<'_>, value: f64) {
        self.head(metric);
        self.line(metric.name, value);
    }

    /// A metric with one value for each value of a label.
    pub(super) fn labelled<'a>(
        &mut self,
        metric: Metric<'_>,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) {
        self.head(metric);
        for (of, value) in values {
            let (name, labels) = (metric.name, &self.labels);
            let _ = writeln!(self.text, "{name}{{{labels},{label}=\"{of}\"}} {value}");
        }
    }

    /// A metric with one value for each of these sets of labels, of which one may be empty.
    pub(super) fn with_labels(
        &mut self,
        metric: Metric<'_>,
        values: impl IntoIterator<Item = (String, f64)>,
    ) {
        self.head(metric);
        for (of, value) in values {
            let (name, labels) = (metric.name, &self.labels);
            let comma = if of.is_empty() { "" } else { "," };
            let _ = writeln!(self.text, "{name}{{{labels}{comma}{of}}} {value}");
        }
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.histograms(name, help, [(String::new(), histogram)]);
    }

    /// A histogram for each of these sets of labels.
    pub(super) fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        histograms: impl IntoIterator<Item = (String, &'a Histogram)>,
    ) {
        self.head(Metric { kind: "histogram", name, help });
        for (more, histogram) in histograms {
            let comma = if more.is_empty() { "" } else { "," };
            let labels = format!("{}{comma}{more}", self.labels);
            let text = &mut self.text;
            let mut total = 0;
            for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
                total += count;
                let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound:?}\"}} {total}");
            }
            total += histogram.counts.get(histogram.bounds.len()).copied().unwrap_or(0);
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {total}");
            let _ = writeln!(text, "{name}_count{{{labels}}} {total}");
            let _ = writeln!(text, "{name}_sum{{{labels}}} {}", histogram.sum);
        }
    }

    /// The two lines that come before a metric's values.
    fn head(&mut self, Metric { kind, name, help }: Metric<'_>) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, value: f64) {
        let _ = writeln!(self.text, "{name}{{{}}} {value}", self.labels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_include_their_bound() {
        let mut histogram = Histogram::new(&[1.0, 2.5]);
        [0.5, 1.0, 2.0, 9.0].into_iter().for_each(|value| histogram.add(value));
        let mut exposition = Exposition::new("a \"b\"");
        exposition.histogram("x", "help", &histogram);
        exposition.labelled(counter("y", "help"), "kind", [("z", 2.0)]);
        let text = exposition.into_text();
        for line in [
            "# TYPE x histogram",
            "x_bucket{model_name=\"a \\\"b\\\"\",le=\"1.0\"} 2",
            "x_bucket{model_name=\"a \\\"b\\\"\",le=\"2.5\"} 3",
            "x_bucket{model_name=\"a \\\"b\\\"\",le=\"+Inf\"} 4",
            "x_count{model_name=\"a \\\"b\\\"\"} 4",
            "x_sum{model_name=\"a \\\"b\\\"\"} 12.5",
            "# TYPE y counter",
            "y{model_name=\"a \\\"b\\\"\",kind=\"z\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
