//! Cuts text into the pieces that are encoded one by one, as o200k's pattern does.
//!
//! The pattern, whose alternatives are tried in this order:
//!
//! 1. `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?`
//! 2. the same with `+` after the first class of letters and `*` after the second
//! 3. `\p{N}{1,3}`
//! 4. ` ?[^\s\p{L}\p{N}]+[\r\n/]*`
//! 5. `\s*[\r\n]+`
//! 6. `\s+(?!\S)`, then `\s+`
//!
//! It is written out by hand here, because each piece is decided by one pass over its characters: that is linear for any text
//! and much faster than a general engine.

use super::layout::class::{CASELESS, LOWER, MARK, NEWLINE, NUMBER, OTHER, SPACE, UPPER};
use super::tables::class_of;

/// The class and the length of the character at `at`, which has to be a character's first byte.
#[inline(always)]
fn class_at(text: &[u8], at: usize) -> (u8, usize) {
    let first = text[at];
    if first < 0x80 {
        return (class_of(u32::from(first)), 1);
    }
    let tail = |i: usize| u32::from(text.get(at + i).copied().unwrap_or(0) & 0x3F);
    match first {
        0..0xE0 => (class_of(u32::from(first & 0x1F) << 6 | tail(1)), 2),
        0xE0..0xF0 => (class_of(u32::from(first & 0x0F) << 12 | tail(1) << 6 | tail(2)), 3),
        _ => (
            class_of(
                (u32::from(first & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3))
                    .min(0x10_FFFF),
            ),
            4,
        ),
    }
}

/// Where the piece that starts at `start` ends; `start` lies before the end of the text.
#[inline]
pub(crate) fn piece_end(text: &[u8], start: usize) -> usize {
    let (class, len) = class_at(text, start);
    let after = start + len;
    match class {
        LOWER | UPPER | CASELESS => word(text, start).unwrap_or(after),
        NUMBER => number(text, after),
        NEWLINE => space(text, start),
        // A mark may be the character before a word or belong to the word itself, in this order.
        MARK => match lower_word(text, after).or_else(|| lower_word(text, start)) {
            Some(end) => contraction(text, end),
            None => after,
        },
        OTHER => word(text, after).unwrap_or_else(|| symbols(text, after)),
        _ => word(text, after).unwrap_or_else(|| {
            if text[start] == b' '
                && after < text.len()
                && matches!(class_at(text, after).0, OTHER | MARK)
            {
                symbols(text, after)
            } else {
                space(text, start)
            }
        }),
    }
}

/// Alternatives 1 and 2 after their first character.
#[inline(always)]
fn word(text: &[u8], start: usize) -> Option<usize> {
    lower_word(text, start).or_else(|| upper_word(text, start)).map(|end| contraction(text, end))
}

/// Alternative 1's letters: any run without lower case, then at least one letter without upper case.
#[inline(always)]
fn lower_word(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    let mut last_caseless = None;
    while at < text.len() {
        let (class, len) = class_at(text, at);
        match class {
            UPPER => at += len,
            CASELESS | MARK => {
                at += len;
                last_caseless = Some(at);
            }
            LOWER => return Some(lower_run(text, at + len)),
            _ => break,
        }
    }
    // The run gives back what follows its last letter that both classes have.
    last_caseless
}

#[inline(always)]
fn lower_run(text: &[u8], mut at: usize) -> usize {
    while at < text.len() {
        let (class, len) = class_at(text, at);
        if !matches!(class, LOWER | CASELESS | MARK) {
            break;
        }
        at += len;
    }
    at
}

/// Alternative 2's letters, where alternative 1 found none: only upper case is left.
#[inline(always)]
fn upper_word(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    while at < text.len() {
        let (class, len) = class_at(text, at);
        if class != UPPER {
            break;
        }
        at += len;
    }
    (at > start).then_some(at)
}

/// The optional end of alternatives 1 and 2. Without case, `s` is also the long s.
#[inline(always)]
fn contraction(text: &[u8], end: usize) -> usize {
    if text.get(end) != Some(&b'\'') {
        return end;
    }
    let byte = |i: usize| text.get(end + i).map(u8::to_ascii_lowercase);
    match (byte(1), byte(2)) {
        (Some(b's' | b't' | b'm' | b'd'), _) => end + 2,
        (Some(b'r' | b'v'), Some(b'e')) | (Some(b'l'), Some(b'l')) | (Some(0xC5), Some(0xBF)) => {
            end + 3
        }
        _ => end,
    }
}

/// Alternative 3 after its first digit.
fn number(text: &[u8], mut at: usize) -> usize {
    for _ in 0..2 {
        if at == text.len() {
            break;
        }
        let (class, len) = class_at(text, at);
        if class != NUMBER {
            break;
        }
        at += len;
    }
    at
}

/// Alternative 4 after its first character.
fn symbols(text: &[u8], mut at: usize) -> usize {
    while at < text.len() {
        let (class, len) = class_at(text, at);
        if !matches!(class, OTHER | MARK) {
            break;
        }
        at += len;
    }
    while at < text.len() && matches!(text[at], b'\r' | b'\n' | b'/') {
        at += 1;
    }
    at
}

/// Alternatives 5 and 6.
fn space(text: &[u8], start: usize) -> usize {
    let mut at = start;
    let mut last_start = start;
    let mut after_newline = None;
    while at < text.len() {
        let (class, len) = class_at(text, at);
        match class {
            SPACE => {}
            NEWLINE => after_newline = Some(at + len),
            _ => break,
        }
        last_start = at;
        at += len;
    }
    match after_newline {
        Some(end) => end,
        // The last white space before other text is left for that text's piece, unless it is the only one.
        None if at < text.len() && last_start > start => last_start,
        None => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<&str> {
        let mut pieces = Vec::new();
        let mut start = 0;
        while start < text.len() {
            let end = piece_end(text.as_bytes(), start);
            pieces.push(&text[start..end]);
            start = end;
        }
        pieces
    }

    #[test]
    fn pieces_follow_the_pattern() {
        for (text, want) in [
            ("Hello, world!", vec!["Hello", ",", " world", "!"]),
            (
                "we'll WE'LL can't o'clock it'ſ",
                vec!["we'll", " WE'LL", " can't", " o", "'clock", " it'ſ"],
            ),
            ("HTTPServer XMLHttp ABC", vec!["HTTPServer", " XMLHttp", " ABC"]),
            ("camelCase", vec!["camel", "Case"]),
            ("AB中CD! AB中CD中e", vec!["AB中", "CD", "!", " AB中CD中e"]),
            ("1234567", vec!["123", "456", "7"]),
            ("a  b   \n\n  c ", vec!["a", " ", " b", "   \n\n", " ", " c", " "]),
            ("x\t\ty\u{a0}z", vec!["x", "\t", "\ty", "\u{a0}z"]),
            ("foo();\n//x", vec!["foo", "();\n//", "x"]),
            (" !a !!a", vec![" !", "a", " !!", "a"]),
            ("\u{301}AB \u{301}ab", vec!["\u{301}", "AB", " \u{301}ab"]),
            ("\r\n \r\n.", vec!["\r\n \r\n", "."]),
            ("don\u{2019}t", vec!["don", "\u{2019}t"]),
        ] {
            assert_eq!(pieces(text), want);
        }
    }
}
