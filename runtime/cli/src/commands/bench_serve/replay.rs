//! Load that a server recorded (`ossmith serve --record-arrivals`): when each request came, and how long prompt and answer were.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use ossmith_server::Arrival;
use serde_json::{Value, json};

use crate::failure::fail;

/// One request to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// When, since the load begins.
    pub(super) due: Duration,
    pub(super) input_tokens: u32,
    pub(super) output_tokens: u32,
}

/// The requests of a recording, in the order in which they came; the first is due at once.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Planned>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the recording {}", path.display()))?;
    planned(&text).map_err(|why| why.context(format!("the recording {}", path.display())))
}

fn planned(text: &str) -> anyhow::Result<Vec<Planned>> {
    let mut arrivals = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let arrival: Arrival = serde_json::from_str(line).map_err(|why| {
            fail(
                format!("line {number} is not an arrival: {why}"),
                "give a file that `ossmith serve --record-arrivals` has written",
            )
        })?;
        if !arrival.at_seconds.is_finite() || !(0.0..1e9).contains(&arrival.at_seconds) {
            return Err(fail(
                format!("line {number} comes at {} s", arrival.at_seconds),
                "an arrival comes at 0 or more seconds",
            ));
        }
        arrivals.push(arrival);
    }
    // They were written as they ended.
    arrivals.sort_by(|one, other| one.at_seconds.total_cmp(&other.at_seconds));
    let Some(first) = arrivals.first().map(|arrival| arrival.at_seconds) else {
        return Err(fail("it has no requests", "record a server that gets some"));
    };
    // No request can ask for no token, so one that ended before its first asks for one.
    let tokens = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).max(1);
    let plan = |arrival: &Arrival| Planned {
        due: Duration::from_secs_f64(arrival.at_seconds - first),
        input_tokens: tokens(arrival.prompt_tokens),
        output_tokens: tokens(arrival.generated_tokens),
    };
    Ok(arrivals.iter().map(plan).collect())
}

/// How well the schedule was kept: `late` has for each request how long after its time it was sent.
pub(super) fn report(file: &Path, late: &[Duration]) -> Value {
    let ms = |late: Duration| late.as_secs_f64() * 1e3;
    let mean = late.iter().copied().map(ms).sum::<f64>() / late.len().max(1) as f64;
    let most = late.iter().copied().max().map_or(0.0, ms);
    json!({"file": file.display().to_string(), "mean_late_ms": mean, "max_late_ms": most})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at_seconds: f64, prompt_tokens: usize, generated_tokens: usize) -> String {
        let arrival = Arrival { at_seconds, prompt_tokens, generated_tokens, ..Arrival::default() };
        serde_json::to_string(&arrival).expect("JSON") + "\n"
    }

    #[test]
    fn requests_come_in_their_order_with_their_lengths() {
        let text = [line(2.5, 30, 4), line(2.0, 10, 7), "\n".to_owned(), line(4.0, 5, 0)].concat();
        let ms = Duration::from_millis;
        let want = [(ms(0), 10, 7), (ms(500), 30, 4), (ms(2000), 5, 1)];
        let plan = planned(&text).expect("a plan");
        let got: Vec<_> =
            plan.iter().map(|one| (one.due, one.input_tokens, one.output_tokens)).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn what_is_no_recording_is_refused_by_its_line() {
        for (text, want) in [
            ("", "no requests"),
            ("{\"at_seconds\": 1}\n", "line 1"),
            (&(line(1.0, 1, 1) + "x\n"), "line 2"),
            (&line(-1.0, 1, 1), "comes at -1 s"),
        ] {
            let why = format!("{:#}", planned(text).expect_err("a refusal"));
            assert!(why.contains(want), "{why}");
        }
    }
}
