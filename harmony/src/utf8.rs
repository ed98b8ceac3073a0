//! Decoding bytes that arrive in pieces, without ever splitting a character.
//!
//! [`TextDecoder`] gives text out as soon as it is certain. [`LaggingDecoder`] gives it out when the reference library does, which
//! after invalid bytes is one piece later; it is used for parity only.

use std::str::from_utf8;

/// Decodes UTF-8 incrementally; holds back at most the three bytes of a character that has begun.
///
/// ```
/// use ossmith_harmony::TextDecoder;
/// let mut decoder = TextDecoder::default();
/// let mut text = String::new();
/// assert_eq!(decoder.push(b"caf\xc3", &mut text), 0);
/// assert_eq!(text, "caf");
/// assert_eq!(decoder.push(b"\xa9\xff!", &mut text), 1); // one invalid sequence
/// assert_eq!(text, "café\u{fffd}!");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextDecoder {
    held: [u8; 3],
    held_len: usize,
}

impl TextDecoder {
    /// Appends to `out` all text that is certain now, U+FFFD for each invalid sequence, and returns the number of those.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut String) -> usize {
        let mut invalid = 0;
        while self.held_len > 0 && !bytes.is_empty() {
            let mut joined = [0; 4];
            joined[..self.held_len].copy_from_slice(&self.held[..self.held_len]);
            joined[self.held_len] = bytes[0];
            let joined = &joined[..self.held_len + 1];
            match from_utf8(joined) {
                Ok(character) => {
                    out.push_str(character);
                    self.held_len = 0;
                    bytes = &bytes[1..];
                }
                Err(e) if e.error_len().is_none() => {
                    self.held[self.held_len] = bytes[0];
                    self.held_len += 1;
                    bytes = &bytes[1..];
                }
                // The new byte does not continue the character: what was held is invalid, the byte starts afresh.
                Err(_) => {
                    out.push(char::REPLACEMENT_CHARACTER);
                    invalid += 1;
                    self.held_len = 0;
                }
            }
        }
        loop {
            match from_utf8(bytes) {
                Ok(text) => {
                    out.push_str(text);
                    return invalid;
                }
                Err(e) => {
                    let (valid, rest) = bytes.split_at(e.valid_up_to());
                    out.push_str(from_utf8(valid).unwrap_or_default());
                    match e.error_len() {
                        Some(len) => {
                            out.push(char::REPLACEMENT_CHARACTER);
                            invalid += 1;
                            bytes = &rest[len..];
                        }
                        None => {
                            self.held[..rest.len()].copy_from_slice(rest);
                            self.held_len = rest.len();
                            return invalid;
                        }
                    }
                }
            }
        }
    }

    /// Ends the text: a character that has only begun becomes U+FFFD. True if there was one.
    pub fn finish(&mut self, out: &mut String) -> bool {
        let pending = self.held_len > 0;
        if pending {
            out.push(char::REPLACEMENT_CHARACTER);
        }
        self.held_len = 0;
        pending
    }
}

/// The reference's way: each piece yields the valid text up to the first invalid sequence, and U+FFFD for that; what follows
/// waits for the next piece. An unknown id blocks it until the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct LaggingDecoder {
    held: Vec<u8>,
    /// Bytes at the start of `held` that were given out already.
    given: usize,
    blocked: bool,
}

impl LaggingDecoder {
    /// The tokens from here on have no text, until the end.
    pub(crate) fn block(&mut self) {
        self.blocked = true;
    }

    /// Appends what this piece adds to the text.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut String) {
        if self.blocked {
            return;
        }
        if self.held.is_empty()
            && let Ok(text) = from_utf8(bytes)
        {
            out.push_str(text);
            return;
        }
        self.held.extend_from_slice(bytes);
        match from_utf8(&self.held[self.given..]) {
            Ok(text) => {
                out.push_str(text);
                self.clear();
            }
            Err(e) => {
                let valid_end = self.given + e.valid_up_to();
                out.push_str(from_utf8(&self.held[self.given..valid_end]).unwrap_or_default());
                self.given = valid_end;
                if let Some(len) = e.error_len() {
                    out.push(char::REPLACEMENT_CHARACTER);
                    self.given += len;
                }
            }
        }
        // Moving the rest to the front only when most is used up keeps each step's cost constant on average.
        if self.given == self.held.len() {
            self.clear();
        } else if self.given > 256 && self.given * 2 > self.held.len() {
            self.held.drain(..self.given);
            self.given = 0;
        }
    }

    /// Appends what was held back and starts anew.
    pub(crate) fn finish(&mut self, out: &mut String) {
        if self.blocked {
            out.push(char::REPLACEMENT_CHARACTER);
        }
        out.push_str(&String::from_utf8_lossy(&self.held[self.given..]));
        self.clear();
        self.blocked = false;
    }

    fn clear(&mut self) {
        self.held.clear();
        self.given = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_cutting_gives_the_lossy_text(bytes: Vec<u8>, cuts in proptest::collection::vec(0usize..8, 0..40)) {
            let (mut decoder, mut text, mut at) = (TextDecoder::default(), String::new(), 0);
            for cut in cuts {
                let end = (at + cut).min(bytes.len());
                decoder.push(&bytes[at..end], &mut text);
                at = end;
            }
            decoder.push(&bytes[at..], &mut text);
            decoder.finish(&mut text);
            proptest::prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn the_reference_lags_after_invalid_bytes() {
        let (mut decoder, mut text) = (LaggingDecoder::default(), String::new());
        decoder.push(b"a\xff\xfeb", &mut text);
        assert_eq!(text, "a\u{fffd}");
        decoder.push(b"c", &mut text);
        assert_eq!(text, "a\u{fffd}\u{fffd}");
        decoder.finish(&mut text);
        assert_eq!(text, "a\u{fffd}\u{fffd}bc");
    }
}
