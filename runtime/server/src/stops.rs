//! Where a text ends for the client: stop strings, and how its ending is told. Which of several stop strings counts, and what is
//! held back because it might become one, is [`TextStream`]'s matter.

use std::sync::Arc;

use ossmith::engine::TextStream;
use serde_json::Value;

use crate::engine::Finish;

/// Looks for stop strings. Hands on text that can no longer be part of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopFilter {
    stops: Arc<[String]>,
    text: TextStream,
    found: Option<usize>,
}

impl StopFilter {
    /// `keep` leaves a stop string that is found in the text.
    pub(crate) fn new(stops: &[String], keep: bool) -> StopFilter {
        let stops: Arc<[String]> = stops.into();
        StopFilter { text: TextStream::new(Arc::clone(&stops), keep), stops, found: None }
    }

    /// The stop string that was found, after which no text comes any more.
    pub(crate) fn found(&self) -> Option<&str> {
        self.found.map(|stop| self.stops[stop].as_str())
    }

    /// Appends to `out` what is certain now.
    pub(crate) fn push(&mut self, text: &str, out: &mut String) {
        if self.found.is_none() {
            self.found = self.text.push(Some(text.as_bytes()), true, out);
        }
    }

    /// The text ends here (a message does; stop strings do not reach over its end).
    pub(crate) fn flush(&mut self, out: &mut String) {
        self.text.finish(out);
    }
}

/// Why a text ended with this token, as the APIs say it, and the stop string or the token that the client had `asked` for;
/// none if it goes on.
pub(crate) fn ending(
    stopped: Option<&str>,
    finish: Option<Finish>,
    token: u32,
    asked: &[u32],
) -> Option<(&'static str, Value)> {
    if let Some(stop) = stopped {
        return Some(("stop", stop.into()));
    }
    match finish? {
        Finish::Length => Some(("length", Value::Null)),
        Finish::Stop if asked.contains(&token) => Some(("stop", token.into())),
        Finish::Stop => Some(("stop", Value::Null)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that comes out for each piece, and the stop string found.
    fn run(stops: &[&str], keep: bool, pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut filter = StopFilter::new(&stops, keep);
        let mut texts: Vec<String> = Vec::new();
        for piece in pieces {
            let mut out = String::new();
            filter.push(piece, &mut out);
            texts.push(out);
        }
        let mut rest = String::new();
        filter.flush(&mut rest);
        texts.push(rest);
        (texts, filter.found().map(str::to_owned))
    }

    #[test]
    fn what_may_be_a_stop_is_held_back() {
        for (stops, keep, pieces, texts, found) in [
            (&[][..], false, &["a", "b"][..], &["a", "b", ""][..], None),
            (&["END"], false, &["xE", "N", "x"], &["x", "", "ENx", ""], None),
            (&["END"], false, &["xE", "ND", "y"], &["x", "", "", ""], Some("END")),
            (&["END"], true, &["xE", "NDz"], &["x", "END", ""], Some("END")),
            (&["END"], false, &["xE"], &["x", "E"], None),
            (&["aab"], false, &["aa", "ab!"], &["", "a", ""], Some("aab")),
            (&["long stop", "st"], false, &["long ", "st"], &["", "long ", ""], Some("st")),
            (&["é!"], false, &["caf", "é", "s"], &["caf", "", "és", ""], None),
            (&["\n\n"], false, &["a\n", "b\n", "\nc"], &["a", "\nb", "", ""], Some("\n\n")),
        ] {
            let got = run(stops, keep, pieces);
            assert_eq!(
                got,
                (texts.iter().map(|&t| t.to_owned()).collect(), found.map(str::to_owned)),
                "{pieces:?}"
            );
        }
    }
}
