//! What was answered: requests by route, method and status, and how long they took. Every label is from a fixed list, so that no
//! client can make the counts grow.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use ossmith::Histogram;

use super::prometheus::{Exposition, counter};

/// From arrival to the head of the answer: bounds in seconds.
const BOUNDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];
/// The label of a path that no route has.
pub(crate) const NO_ROUTE: &str = "none";

/// A route, a method and a status.
type Key = (String, &'static str, u16);

/// The counts.
#[derive(Debug, Default)]
pub(crate) struct HttpCounts {
    answered: BTreeMap<Key, u64>,
    seconds: BTreeMap<String, Histogram>,
}

impl HttpCounts {
    /// Counts an answer. `route` is the router's own pattern.
    pub(crate) fn count(&mut self, route: &str, method: &Method, status: StatusCode, seconds: f64) {
        let key = (route.to_owned(), method_name(method), status.as_u16());
        *self.answered.entry(key).or_default() += 1;
        let histogram = self.seconds.entry(route.to_owned());
        histogram.or_insert_with(|| Histogram::new(BOUNDS)).add(seconds);
    }

    pub(super) fn write(&self, out: &mut Exposition) {
        let help = "Requests by route, method and status of the answer.";
        let answered = self.answered.iter().map(|((route, method, status), count)| {
            let labels = format!("route=\"{route}\",method=\"{method}\",status=\"{status}\"");
            (labels, *count as f64)
        });
        out.with_labels(counter("ossmith:http_requests_total", help), answered);
        let help = "From arrival to the head of the answer.";
        let seconds = self.seconds.iter().map(|(route, of)| (format!("route=\"{route}\""), of));
        out.histograms("ossmith:http_request_seconds", help, seconds);
    }
}

/// A method as a label.
fn method_name(method: &Method) -> &'static str {
    let known = ["GET", "POST", "DELETE", "OPTIONS", "HEAD", "PUT", "PATCH"];
    known.into_iter().find(|name| *name == method.as_str()).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_route_method_and_status() {
        let mut counts = HttpCounts::default();
        let unusual = Method::from_bytes(b"BREW").expect("a method");
        for (route, method, status) in [
            ("/v1/responses/{id}", &Method::GET, StatusCode::OK),
            ("/v1/responses/{id}", &Method::GET, StatusCode::NOT_FOUND),
            ("/v1/responses/{id}", &Method::GET, StatusCode::OK),
            (NO_ROUTE, &unusual, StatusCode::NOT_FOUND),
        ] {
            counts.count(route, method, status, 0.003);
        }
        let mut out = Exposition::new("m");
        counts.write(&mut out);
        let text = out.into_text();
        for line in [
            "# TYPE ossmith:http_requests_total counter",
            "ossmith:http_requests_total{model_name=\"m\",route=\"/v1/responses/{id}\",method=\"GET\",status=\"200\"} 2",
            "ossmith:http_requests_total{model_name=\"m\",route=\"/v1/responses/{id}\",method=\"GET\",status=\"404\"} 1",
            "ossmith:http_requests_total{model_name=\"m\",route=\"none\",method=\"other\",status=\"404\"} 1",
            "ossmith:http_request_seconds_bucket{model_name=\"m\",route=\"/v1/responses/{id}\",le=\"0.005\"} 3",
            "ossmith:http_request_seconds_count{model_name=\"m\",route=\"none\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("# TYPE ossmith:http_request_seconds histogram").count(), 1);
    }
}
