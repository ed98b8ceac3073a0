//! Stop strings in a text that is generated. Which of several counts, and what is held back because it may become one, is decided
//! by the engine's [`TextStream`].

use std::sync::Arc;

use ossmith::TextStream;

/// Looks for stop strings, and passes on the text that can no longer be part of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopFilter {
    stops: Arc<[String]>,
    include_stop: bool,
    text: TextStream,
    found: Option<usize>,
}

impl StopFilter {
    /// With `include_stop` the stop string that is found stays in the text.
    pub(crate) fn new(stops: &[String], include_stop: bool) -> StopFilter {
        let stops: Arc<[String]> = stops.into();
        let text = TextStream::new(Arc::clone(&stops), include_stop);
        StopFilter { stops, include_stop, text, found: None }
    }

    /// The stop string that was found. No text follows it.
    pub(crate) fn found(&self) -> Option<&str> {
        self.found.map(|stop| self.stops[stop].as_str())
    }

    /// Appends to `out` what is certain now.
    pub(crate) fn push(&mut self, text: &str, out: &mut String) {
        if self.found.is_none() {
            self.found = self.text.push(Some(text.as_bytes()), true, out);
        }
    }

    /// Reads a special token that is no part of the text. It counts as found if it is one of the stop strings.
    pub(crate) fn push_special(&mut self, name: &str, out: &mut String) {
        if self.found.is_some() {
            return;
        }
        self.text.finish(out);
        self.found = self.stops.iter().position(|stop| stop == name);
        if self.found.is_some() && self.include_stop {
            out.push_str(name);
        }
    }

    /// The text ends here. No stop string spans the end of a message.
    pub(crate) fn flush(&mut self, out: &mut String) {
        self.text.finish(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that is passed on for each piece, and the stop string found.
    fn run(stops: &[&str], include_stop: bool, pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut filter = StopFilter::new(&stops, include_stop);
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
    fn text_that_may_become_a_stop_string_is_held_back() {
        for (stops, include_stop, pieces, texts, found) in [
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
            let got = run(stops, include_stop, pieces);
            assert_eq!(
                got,
                (texts.iter().map(|&t| t.to_owned()).collect(), found.map(str::to_owned)),
                "{pieces:?}"
            );
        }
    }
}
