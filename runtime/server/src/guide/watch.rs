//! Keeps JSON texts from going on for ever: a string that repeats itself is closed, and a text for which few tokens are
//! left is brought to its end. Both only choose among what the schema allows, so the text stays valid.

use std::sync::OnceLock;

use ossmith_harmony::{encode, token_bytes};

use super::bits;
use super::vocabulary::VOCABULARY;

/// Tokens that have to come again, and how often in all, until a string counts as a loop.
const REPEATED: usize = 6;
const TIMES: usize = 3;
/// A string is looked at from this many tokens on, and no further back than that many.
const FROM: usize = 40;
const BACK: usize = 1024;

/// Where a JSON text is.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    in_string: bool,
    escaped: bool,
    /// Tokens of the string at hand.
    string: Vec<u32>,
}

impl Watch {
    pub(super) fn accept(&mut self, token: u32) {
        let was_in_string = self.in_string;
        for &byte in token_bytes(token).unwrap_or_default() {
            match (self.in_string, self.escaped, byte) {
                (true, true, _) => self.escaped = false,
                (true, false, b'\\') => self.escaped = true,
                (_, false, b'"') => {
                    self.in_string = !self.in_string;
                    self.string.clear();
                }
                _ => {}
            }
        }
        if was_in_string && self.in_string {
            self.string.push(token);
        }
    }

    /// Whether the string at hand says the same again and again.
    pub(super) fn loops(&self) -> bool {
        let all = &self.string[self.string.len().saturating_sub(BACK)..];
        if all.len() < FROM || self.escaped {
            return false;
        }
        let tail = &all[all.len() - REPEATED..];
        all.windows(REPEATED).filter(|window| *window == tail).take(TIMES).count() == TIMES
    }

    /// Leaves only tokens that end the string, if there are any.
    pub(super) fn close_string(mask: &mut [u32]) {
        let quotes = quotes();
        if mask.iter().zip(quotes).any(|(allowed, quote)| allowed & quote != 0) {
            mask.iter_mut().zip(quotes).for_each(|(allowed, quote)| *allowed &= quote);
        }
    }

    /// Leaves only what leads to the text's end, if the schema allows it here.
    pub(super) fn close_text(&self, end: u32, mask: &mut [u32]) {
        if self.in_string {
            if !self.escaped {
                Watch::close_string(mask);
            }
            return;
        }
        let marks = ["}", "]", "\"", ","].map(|mark| encode(mark).first().copied());
        let wanted = std::iter::once(Some(end)).chain(marks).flatten();
        if let Some(token) = wanted.into_iter().find(|&token| bits::get(mask, token)) {
            bits::only(mask, token);
        }
    }
}

/// Tokens whose first byte is a quotation mark.
fn quotes() -> &'static [u32] {
    static QUOTES: OnceLock<Vec<u32>> = OnceLock::new();
    QUOTES.get_or_init(|| {
        let mut mask = vec![0; VOCABULARY.div_ceil(32)];
        let quote =
            |token: &u32| token_bytes(*token).is_some_and(|bytes| bytes.first() == Some(&b'"'));
        (0..VOCABULARY as u32).filter(quote).for_each(|token| bits::set(&mut mask, token));
        mask
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(text: &str) -> Watch {
        let mut watch = Watch::default();
        encode(text).into_iter().for_each(|token| watch.accept(token));
        watch
    }

    #[test]
    fn strings_that_repeat_themselves_are_seen() {
        let again = " The same thing once more.";
        for (text, loops) in [
            (format!("{{\"a\":\"{}", again.repeat(12)), true),
            (format!("{{\"a\":\"{}", again.repeat(2)), false),
            (format!("{{\"a\":\"{}\",\"b\":\"x", again.repeat(12)), false),
            (format!("[{}", "{\"name\":\"x\"},".repeat(40)), false),
            (format!("{{\"a\":\"{}", (0..300).map(|n| n.to_string()).collect::<String>()), false),
        ] {
            assert_eq!(watch(&text).loops(), loops, "{text}");
        }
    }

    #[test]
    fn escapes_do_not_end_strings() {
        assert!(watch(r#"{"a":"x\""#).in_string);
        assert!(!watch(r#"{"a":"x\\""#).in_string);
        assert!(watch(r#"{"a":"x\"#).escaped);
    }
}
