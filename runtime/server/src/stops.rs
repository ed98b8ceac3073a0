//! Stop strings in a text that comes in pieces: what might still become one is held back.

/// Looks for stop strings. Hands on text that can no longer be part of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopFilter {
    stops: Vec<String>,
    /// Whether a stop string that is found stays in the text.
    keep: bool,
    held: String,
    found: Option<String>,
}

impl StopFilter {
    pub(crate) fn new(stops: &[String], keep: bool) -> StopFilter {
        StopFilter { stops: stops.to_vec(), keep, held: String::new(), found: None }
    }

    /// The stop string that was found, after which no text comes any more.
    pub(crate) fn found(&self) -> Option<&str> {
        self.found.as_deref()
    }

    /// Appends to `out` what is certain now.
    pub(crate) fn push(&mut self, text: &str, out: &mut String) {
        if self.stops.is_empty() {
            return out.push_str(text);
        }
        if self.found.is_some() {
            return;
        }
        self.held.push_str(text);
        if let Some((at, stop)) = self.first() {
            let end = if self.keep { at + stop.len() } else { at };
            out.push_str(&self.held[..end]);
            self.held.clear();
            self.found = Some(stop);
            return;
        }
        let keep_from = self.possible_start();
        out.push_str(&self.held[..keep_from]);
        self.held.drain(..keep_from);
    }

    /// The text ends here (a message does; stop strings do not reach over its end).
    pub(crate) fn flush(&mut self, out: &mut String) {
        if self.found.is_none() {
            out.push_str(&self.held);
        }
        self.held.clear();
    }

    /// The stop string that ends first, and where it starts.
    fn first(&self) -> Option<(usize, String)> {
        let mut hits = Vec::new();
        for stop in &self.stops {
            hits.extend(self.held.find(stop.as_str()).map(|at| (at + stop.len(), at, stop)));
        }
        hits.into_iter().min().map(|(_, at, stop)| (at, stop.clone()))
    }

    /// Where the longest end of the held text starts that is the beginning of a stop string.
    fn possible_start(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = (self.held.len() + 1).saturating_sub(longest);
        let starts = |at: usize| {
            self.held.is_char_boundary(at)
                && self.stops.iter().any(|stop| stop.starts_with(&self.held[at..]))
        };
        (from..self.held.len()).find(|&at| starts(at)).unwrap_or(self.held.len())
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
