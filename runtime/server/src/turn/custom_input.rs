//! The text of a call of a free-form tool, read out of `{"input": "…"}` while the model writes it.

use crate::options::call_target::INPUT;

/// Reads one call.
#[derive(Clone, Debug, Default)]
pub(super) struct CustomInput {
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// What comes before the text, as far as it was read.
    Head(String),
    Text,
    /// After a backslash.
    Escape,
    /// The digits of `\u`, and the first half of a pair of surrogates before it.
    Unicode {
        digits: String,
        high: Option<u16>,
    },
    /// After the first half of a pair of surrogates.
    High(u16),
    /// After that and a backslash.
    HighEscape(u16),
    /// The text has ended.
    Done,
    /// There is no JSON around the text.
    Plain,
}

impl Default for State {
    fn default() -> State {
        State::Head(String::new())
    }
}

impl CustomInput {
    /// Reads more of the call; appends the text in it to `out`.
    pub(super) fn push(&mut self, more: &str, out: &mut String) {
        more.chars().for_each(|c| self.read(c, out));
    }

    fn read(&mut self, c: char, out: &mut String) {
        match &mut self.state {
            State::Head(head) => {
                head.push(c);
                match opening(head) {
                    Opening::Whole => self.state = State::Text,
                    Opening::Part => {}
                    Opening::None => {
                        out.push_str(head);
                        self.state = State::Plain;
                    }
                }
            }
            State::Text => match c {
                '"' => self.state = State::Done,
                '\\' => self.state = State::Escape,
                other => out.push(other),
            },
            State::Escape => {
                self.state = State::Text;
                match c {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    'b' => out.push('\u{8}'),
                    'f' => out.push('\u{c}'),
                    'u' => self.state = State::Unicode { digits: String::new(), high: None },
                    other => out.push(other),
                }
            }
            State::Unicode { digits, high } => {
                digits.push(c);
                if digits.chars().count() < 4 {
                    return;
                }
                // What is no number is no character either.
                let unit = u16::from_str_radix(digits, 16).unwrap_or(0xdc00);
                let high = *high;
                self.state = State::Text;
                if high.is_none() && (0xd800..0xdc00).contains(&unit) {
                    self.state = State::High(unit);
                    return;
                }
                let units = high.into_iter().chain([unit]);
                let chars = char::decode_utf16(units);
                out.extend(chars.map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)));
            }
            State::High(high) if c == '\\' => self.state = State::HighEscape(*high),
            State::HighEscape(high) if c == 'u' => {
                self.state = State::Unicode { digits: String::new(), high: Some(*high) };
            }
            State::High(_) | State::HighEscape(_) => {
                let escaped = matches!(self.state, State::HighEscape(_));
                out.push(char::REPLACEMENT_CHARACTER);
                self.state = if escaped { State::Escape } else { State::Text };
                self.read(c, out);
            }
            State::Done => {}
            State::Plain => out.push(c),
        }
    }
}

/// How much of `{"input":"` a text is.
enum Opening {
    None,
    Part,
    Whole,
}

fn opening(head: &str) -> Opening {
    let mut rest = head;
    for part in ["{", "\"", INPUT, "\"", ":", "\""] {
        // White space may stand before everything but the name and the quote behind it.
        if part != INPUT && !rest.starts_with('"') {
            rest = rest.trim_start();
        }
        if rest.len() < part.len() {
            return if part.starts_with(rest) { Opening::Part } else { Opening::None };
        }
        match rest.strip_prefix(part) {
            Some(after) => rest = after,
            None => return Opening::None,
        }
    }
    Opening::Whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_same_however_it_is_cut() {
        for (call, want) in [
            (r#"{"input":"a b"}"#, "a b"),
            (" {\n  \"input\" : \"*** Begin\\n+\\\"x\\\\\\t\\u0041\"\n}", "*** Begin\n+\"x\\\tA"),
            (r#"{"input":"\ud83d\ude42!"}"#, "🙂!"),
            (r#"{"input":"\ud83d!\udc00\ud83d\n"}"#, "\u{fffd}!\u{fffd}\u{fffd}\n"),
            (r#"{"input":"cut"#, "cut"),
            (r#"{"input":""}"#, ""),
            (r#"{"inp"#, ""),
            ("*** Begin", "*** Begin"),
            (r#"{"other":"x"}"#, r#"{"other":"x"}"#),
            ("  plain", "  plain"),
        ] {
            for size in 1..6 {
                let (mut reader, mut text) = (CustomInput::default(), String::new());
                let chars: Vec<char> = call.chars().collect();
                for part in chars.chunks(size) {
                    reader.push(&part.iter().collect::<String>(), &mut text);
                }
                assert_eq!(text, want, "{call} by {size}");
            }
        }
    }
}
