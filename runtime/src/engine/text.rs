//! Tokens to text as they are generated: whole characters only, and nothing of a stop string. The bytes of a token are
//! the embedder's knowledge ([`Detokenizer`]).

use std::sync::Arc;

/// Turns tokens into bytes. A function from a token to its static bytes is one, such as `ossmith_harmony::token_bytes`.
pub trait Detokenizer: Send + Sync {
    /// The bytes of a token, which may be part of a character; `None` for a token that is not text. Such a token
    /// also separates what is before it from what is after it: no stop string spans it.
    fn token_bytes(&self, token: u32) -> Option<&[u8]>;
}

impl<F: for<'t> Fn(u32) -> Option<&'static [u8]> + Send + Sync> Detokenizer for F {
    fn token_bytes(&self, token: u32) -> Option<&[u8]> {
        self(token)
    }
}

/// Decodes the text of one sample, and finds its stop strings.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    stops: Arc<[String]>,
    include_stop: bool,
    /// The start of an incomplete character.
    bytes: Vec<u8>,
    /// Text that may be the start of a stop string.
    held: String,
}

impl TextStream {
    /// A stream that ends at the first of `stops`, none of them empty; `include_stop` leaves that one in the text.
    #[must_use]
    pub fn new(stops: Arc<[String]>, include_stop: bool) -> TextStream {
        TextStream { stops, include_stop, bytes: Vec::new(), held: String::new() }
    }

    /// Takes a token's bytes, appends to `out` the text that became certain, and returns the stop string that was found.
    /// Bytes that are not UTF-8 become U+FFFD, as with [`String::from_utf8_lossy`]. The stream ends with a stop string.
    ///
    /// With `stopping` false a whole stop string is passed on like any text.
    pub fn push(
        &mut self,
        bytes: Option<&[u8]>,
        stopping: bool,
        out: &mut String,
    ) -> Option<usize> {
        let Some(bytes) = bytes else {
            self.finish(out);
            return None;
        };
        self.decode(bytes);
        if stopping && let Some((at, stop)) = self.find() {
            let end = at + if self.include_stop { self.stops[stop].len() } else { 0 };
            out.push_str(&self.held[..end]);
            self.held.clear();
            self.bytes.clear();
            return Some(stop);
        }
        let certain = self.held.len() - self.undecided();
        out.push_str(&self.held[..certain]);
        self.held.drain(..certain);
        None
    }

    /// Appends what was held back, because the sample ends here.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
        if !self.bytes.is_empty() {
            self.bytes.clear();
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }

    /// Moves whole characters from the bytes to the held text.
    fn decode(&mut self, new: &[u8]) {
        if self.bytes.is_empty()
            && let Ok(text) = std::str::from_utf8(new)
        {
            self.held.push_str(text);
            return;
        }
        self.bytes.extend_from_slice(new);
        let mut done = 0;
        loop {
            match std::str::from_utf8(&self.bytes[done..]) {
                Ok(text) => {
                    self.held.push_str(text);
                    self.bytes.clear();
                    return;
                }
                Err(error) => {
                    let valid = done + error.valid_up_to();
                    self.held.push_str(&String::from_utf8_lossy(&self.bytes[done..valid]));
                    let Some(bad) = error.error_len() else {
                        self.bytes.drain(..valid);
                        return;
                    };
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    done = valid + bad;
                }
            }
        }
    }

    /// The stop string that ends first in the held text, and where it begins; among several the one that begins first.
    /// The result therefore does not depend on how the text was cut into pieces.
    fn find(&self) -> Option<(usize, usize)> {
        // Most tokens do not contain the first byte of a stop string, which is much faster to check than the string.
        let may_begin = |stop: &String| {
            stop.as_bytes().first().is_some_and(|first| self.held.as_bytes().contains(first))
        };
        let stops = self.stops.iter().enumerate().filter(|(_, stop)| may_begin(stop));
        let place = |(index, stop): (usize, &String)| {
            self.held.find(stop.as_str()).map(|at| (at + stop.len(), at, index))
        };
        stops.filter_map(place).min().map(|(_, at, index)| (at, index))
    }

    /// Length of the longest suffix of the held text with which a stop string begins.
    fn undecided(&self) -> usize {
        let suffix = |stop: &String| {
            let longest = self.held.len().min(stop.len() - 1);
            (1..=longest).rev().find(|&len| {
                let from = self.held.len() - len;
                self.held.as_bytes()[from..] == stop.as_bytes()[..len]
                    && self.held.is_char_boundary(from)
            })
        };
        self.stops.iter().filter_map(suffix).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The text of pieces, and the stop string that ended it.
    fn read(stops: &[&str], include: bool, pieces: &[&[u8]]) -> (String, Option<usize>) {
        let stops: Arc<[String]> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let (mut stream, mut text) = (TextStream::new(stops, include), String::new());
        for piece in pieces {
            if let Some(stop) = stream.push(Some(piece), true, &mut text) {
                return (text, Some(stop));
            }
        }
        stream.finish(&mut text);
        (text, None)
    }

    #[test]
    fn stop_strings_are_found_across_pieces() {
        for (stops, pieces, want, found) in [
            (&["END"][..], &["a E", "N", "D b"][..], "a ", Some(0)),
            (&["END"], &["a E", "N", "d b"], "a ENd b", None),
            (&["aab"], &["aaa", "ab"], "aa", Some(0)),
            (&["xyz", "yz"], &["wx", "yz"], "w", Some(0)),
            (&["z", "yz"], &["wx", "yz"], "wx", Some(1)),
            (&["abcd", "bc"], &["abcd"], "a", Some(1)),
            (&["\n\n"], &["one\n", "two\n", "\nthree"], "one\ntwo", Some(0)),
            (&["é"], &["caf", "é!"], "caf", Some(0)),
            (&["END"], &["the EN"], "the EN", None),
        ] {
            let bytes: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
            assert_eq!(read(stops, false, &bytes), (want.to_owned(), found), "{pieces:?}");
        }
        assert_eq!(read(&["END"], true, &[b"a E", b"ND b"]), ("a END".to_owned(), Some(0)));
    }

    #[test]
    fn characters_are_whole_and_invalid_bytes_are_marked() {
        let (mut stream, mut text) = (TextStream::default(), String::new());
        let lengths: Vec<usize> = "🧑🏽‍🚀é"
            .bytes()
            .map(|byte| {
                stream.push(Some(&[byte]), true, &mut text);
                text.chars().count()
            })
            .collect();
        assert_eq!(text, "🧑🏽‍🚀é");
        assert_eq!(lengths, [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5]);
        let cut: &[&[u8]] = &[b"a\xf0\x9f", b"b\xff\xe2\x82"];
        assert_eq!(read(&[], false, cut).0, String::from_utf8_lossy(b"a\xf0\x9fb\xff\xe2\x82"));
    }

    #[test]
    fn a_token_without_text_separates_what_is_around_it() {
        let mut stream = TextStream::new(["ab".to_owned()].into(), false);
        let mut text = String::new();
        for bytes in [Some(&b"xa"[..]), None, Some(b"b")] {
            assert_eq!(stream.push(bytes, true, &mut text), None);
        }
        assert_eq!(text, "xab");
    }

    proptest! {
        /// However text is cut into pieces, it ends where a plain search finds a stop string.
        #[test]
        fn pieces_do_not_matter(
            text in "[abé🙂]{0,40}",
            stops in prop::collection::vec("[abé🙂]{1,4}", 0..3),
            cuts in prop::collection::vec(0_usize..60, 0..12),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> =
                cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let (got, found) = read(&stops, false, &pieces);
            // The stop string that is complete first ends the text.
            let place = |(index, stop): (usize, &&str)| {
                text.find(stop).map(|at| (at + stop.len(), at, index))
            };
            match stops.iter().enumerate().filter_map(place).min() {
                None => prop_assert_eq!((got.as_str(), found), (text.as_str(), None)),
                Some((_, at, index)) => {
                    prop_assert_eq!((got.as_str(), found), (&text[..at], Some(index)));
                }
            }
        }
    }
}
