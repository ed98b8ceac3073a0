//! A text that has to match a Lark grammar while the model writes it as the only string of a JSON object: the input of a
//! free-form tool, `{"input": "…"}`. llguidance matches texts as they are, so its parser reads what the string says: each byte
//! that the model writes goes through [`step`], and the parser sees the byte that it stands for, if it stands for one. What such
//! a text is to clients is read by the server.

use std::panic::AssertUnwindSafe;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::earley::{BiasComputer, ParserRecognizer};
use llguidance::toktrie::recognizer::{FunctionalRecognizer, StackRecognizer};
use llguidance::toktrie::{Recognizer, SimpleVob, TokEnv, TokTrie};
use llguidance::{CancellationHandle, ParserFactory, TokenParser, panic_utils};
use ossmith_harmony::{special, token_bytes};

use super::bits;

/// What comes before the text; white space may stand before the parts that [`SPACED`] marks.
const HEAD: &[u8] = b"{\"input\":\"";
/// Places in [`HEAD`] before which there may be white space.
const SPACED: [usize; 3] = [1, 8, 9];
/// White space in one place: enough for any indentation, too little to go on for ever.
const MAX_SPACE: u8 = 24;

/// A token that the model has no use for. The grammar ends with it, so that the parser tells in the middle of a token whether the
/// text may end there: only then may the byte come with which the name of such a token begins.
const END: u32 = super::vocabulary::VOCABULARY as u32 - 1;
const END_BYTE: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// A place in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before this byte of [`HEAD`], after so much white space.
    Head {
        next: u8,
        space: u8,
    },
    Text,
    /// After a backslash.
    Escape,
    /// After `\u` and so many digits of a control character, whose value so far this is.
    Control {
        digits: u8,
        value: u8,
    },
    /// After the text, and so much white space.
    Tail {
        space: u8,
    },
    Done,
}

/// What a byte does to the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Nothing,
    /// The text goes on with this byte.
    Text(u8),
    /// An escape begins or goes on; it can only become one of these bytes.
    Becomes(&'static [u8]),
    /// The text ends.
    End,
}

/// The bytes that can be escaped.
const ESCAPED: &[u8] = b"\n\"\\\t\r/\x08\x0c";
/// Those that `\u` stands for: control characters, which have to be escaped. All others are written as they are.
const CONTROLS: &[u8] = b"\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\
    \x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f";

/// The place after a byte, and what the byte does; none if it cannot come here.
fn step(at: At, byte: u8) -> Option<(At, Effect)> {
    let is_space = matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    Some(match at {
        At::Head { next, space } => {
            let place = usize::from(next);
            if HEAD.get(place) == Some(&byte) {
                let after = At::Head { next: next + 1, space: 0 };
                (if place + 1 == HEAD.len() { At::Text } else { after }, Effect::Nothing)
            } else if is_space && SPACED.contains(&place) && space < MAX_SPACE {
                (At::Head { next, space: space + 1 }, Effect::Nothing)
            } else {
                return None;
            }
        }
        At::Text => match byte {
            b'"' => (At::Tail { space: 0 }, Effect::End),
            b'\\' => (At::Escape, Effect::Becomes(ESCAPED)),
            0..0x20 | END_BYTE => return None,
            byte => (At::Text, Effect::Text(byte)),
        },
        At::Escape => {
            let byte = match byte {
                b'u' => {
                    let at = At::Control { digits: 0, value: 0 };
                    return Some((at, Effect::Becomes(CONTROLS)));
                }
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'b' => 0x08,
                b'f' => 0x0c,
                b'"' | b'\\' | b'/' => byte,
                _ => return None,
            };
            (At::Text, Effect::Text(byte))
        }
        At::Control { digits, value } => {
            let digit = char::from(byte).to_digit(16)? as u8;
            let value = value << 4 | digit;
            let becomes = |bytes| Some((At::Control { digits: digits + 1, value }, bytes));
            match (digits, value) {
                (0 | 1, 0) => return becomes(Effect::Becomes(CONTROLS)),
                (2, 0) => return becomes(Effect::Becomes(&CONTROLS[..0x10])),
                (2, 1) => return becomes(Effect::Becomes(&CONTROLS[0x10..0x20])),
                (2, 7) => return becomes(Effect::Becomes(&CONTROLS[0x20..])),
                (3, 0..0x20 | 0x7f) => (At::Text, Effect::Text(value)),
                _ => return None,
            }
        }
        At::Tail { space } => match byte {
            b'}' => (At::Done, Effect::Nothing),
            _ if is_space && space < MAX_SPACE => (At::Tail { space: space + 1 }, Effect::Nothing),
            _ => return None,
        },
        At::Done => return None,
    })
}

/// Follows one object.
pub(crate) struct Quoted {
    parser: TokenParser,
    at: At,
    /// Why it cannot be followed any more.
    failure: Option<String>,
}

impl Quoted {
    /// Makes a Lark grammar ready.
    pub(crate) fn new(factory: &ParserFactory, grammar: &str) -> Result<Quoted, String> {
        let lark = |name: Option<&str>, text: String| GrammarWithLexer {
            name: name.map(str::to_owned),
            lark_grammar: Some(text),
            json_schema: None,
        };
        let grammars = vec![
            lark(None, format!("start: @input <[{END}]>")),
            lark(Some("input"), grammar.to_owned()),
        ];
        let mut parser = factory
            .create_parser(TopLevelGrammar { grammars, max_tokens: None })
            .map_err(|why| why.to_string())?;
        parser.enable_cancellation();
        parser.start_without_prompt();
        let mut quoted = Quoted { parser, at: At::Text, failure: None };
        // A grammar that nothing matches shows at its first mask.
        let first = quoted.allowed()?;
        if first.is_zero() {
            return Err("no text matches the grammar".to_owned());
        }
        quoted.at = At::Head { next: 0, space: 0 };
        Ok(quoted)
    }

    pub(crate) fn deep_clone(&self) -> Quoted {
        let failure = self.failure.clone();
        Quoted { parser: self.parser.deep_clone(), at: self.at, failure }
    }

    /// Cancels what is being computed, from another thread.
    pub(crate) fn cancellation_handle(&self) -> Option<CancellationHandle> {
        self.parser.cancellation_handle()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.parser.cancellation_handle().is_some_and(|handle| handle.is_cancelled())
    }

    /// Writes which tokens may come; `ends` may once the object has ended.
    pub(crate) fn mask(&mut self, ends: &[u32], mask: &mut [u32]) -> Result<(), String> {
        if let Some(why) = &self.failure {
            return Err(why.clone());
        }
        mask.fill(0);
        if self.at == At::Done {
            ends.iter().for_each(|&end| bits::set(mask, end));
            return Ok(());
        }
        let allowed = self.allowed()?;
        let words = allowed.as_slice();
        let count = mask.len().min(words.len());
        mask[..count].copy_from_slice(&words[..count]);
        // llguidance adds these where the text may end; here the quote and the brace come first.
        if self.at == At::Text && bits::get(mask, END) {
            let mut closing = StackRecognizer::from(Closing);
            let trie = self.parser.token_env.tok_trie();
            let mut tokens = trie.alloc_token_set();
            trie.add_bias(&mut closing, &mut tokens, &[]);
            mask.iter_mut().zip(tokens.as_slice()).for_each(|(word, more)| *word |= more);
        }
        bits::clear(mask, END);
        bits::clear(mask, special::RETURN);
        match mask.iter().all(|&word| word == 0) {
            true => Err("no token can follow".to_owned()),
            false => Ok(()),
        }
    }

    fn allowed(&mut self) -> Result<SimpleVob, String> {
        let walk = Walk { at: self.at, environment: self.parser.token_env.clone() };
        let parser = &mut self.parser.parser;
        // What was allowed before an escape is not what may follow it, though the parser is where it was.
        parser.invalidate_bias_cache();
        let computed = panic_utils::catch_unwind(AssertUnwindSafe(|| {
            Ok((parser.compute_bias(&walk, &[]), parser.get_error()))
        }));
        match computed.map_err(|why| why.to_string())? {
            (_, Some(why)) => Err(why.message()),
            (allowed, None) => Ok(allowed),
        }
    }

    /// Takes the token that was sampled. One that does not fit is a failure, which [`Quoted::mask`] reports.
    pub(crate) fn accept(&mut self, token: u32) {
        let mut text = Vec::new();
        for &byte in token_bytes(token).unwrap_or_default() {
            let Some((at, effect)) = step(self.at, byte) else {
                self.failure = Some("a token does not fit".to_owned());
                return;
            };
            self.at = at;
            if let Effect::Text(byte) = effect {
                text.push(byte);
            }
        }
        if text.is_empty() {
            return;
        }
        let parser = &mut self.parser.parser;
        let applied =
            panic_utils::catch_unwind(AssertUnwindSafe(|| parser.apply_token(&text, token)));
        if let Err(why) = applied {
            self.failure = Some(why.to_string());
        }
    }
}

/// Walks over the vocabulary from a place in the object.
struct Walk {
    at: At,
    environment: TokEnv,
}

impl BiasComputer for Walk {
    fn compute_bias(&self, parser: &mut ParserRecognizer<'_>, _: &[u8]) -> SimpleVob {
        let mut allowed = self.trie().alloc_token_set();
        let mut reader = Reader { parser, places: vec![(self.at, false)] };
        self.trie().add_bias(&mut reader, &mut allowed, &[]);
        allowed
    }

    fn trie(&self) -> &TokTrie {
        self.environment.tok_trie()
    }
}

/// Reads the bytes of tokens as bytes of the text.
struct Reader<'a, 'p> {
    parser: &'a mut ParserRecognizer<'p>,
    /// The place after each byte, and whether the parser has taken it.
    places: Vec<(At, bool)>,
}

impl Recognizer for Reader<'_, '_> {
    fn cancellation_enabled(&self) -> bool {
        self.parser.cancellation_enabled()
    }

    fn cancellation_requested(&self) -> bool {
        self.parser.cancellation_requested()
    }

    fn pop_bytes(&mut self, count: usize) {
        let kept = self.places.len().saturating_sub(count).max(1);
        let taken = self.places.drain(kept..).filter(|(_, taken)| *taken).count();
        self.parser.pop_bytes(taken);
    }

    fn collapse(&mut self) {}

    fn trie_started(&mut self, label: &str) {
        self.parser.trie_started(label);
    }

    fn trie_finished(&mut self) {
        self.parser.trie_finished();
    }

    fn try_push_byte(&mut self, byte: u8) -> bool {
        let Some((at, _)) = self.places.last() else { return false };
        let Some((at, effect)) = step(*at, byte) else { return false };
        let fits = match effect {
            Effect::Nothing => true,
            Effect::Text(byte) => self.parser.try_push_byte(byte),
            Effect::Becomes(bytes) => bytes.iter().any(|&byte| self.parser.byte_allowed(byte)),
            Effect::End => self.may_end(),
        };
        if fits {
            self.places.push((at, matches!(effect, Effect::Text(_))));
        }
        fits
    }

    fn get_error(&mut self) -> Option<String> {
        self.parser.get_error()
    }

    fn save_stats(&mut self, nodes_walked: usize) {
        self.parser.save_stats(nodes_walked);
    }
}

impl Reader<'_, '_> {
    /// Whether the text may end here. A complement (`~`) takes every byte: it would go on, and whether the text may end is only
    /// known before a token then.
    fn may_end(&mut self) -> bool {
        let begins = self.parser.try_push_byte(END_BYTE);
        let goes_on = begins && self.parser.byte_allowed(END_BYTE);
        if begins {
            self.parser.pop_bytes(1);
        }
        begins && !goes_on
    }
}

/// Reads tokens that end a text which may end before them.
struct Closing;

impl FunctionalRecognizer<At> for Closing {
    fn initial(&self) -> At {
        At::Text
    }

    fn try_append(&self, at: At, byte: u8) -> Option<At> {
        let (at, effect) = step(at, byte)?;
        matches!(effect, Effect::Nothing | Effect::End).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that is read out of an object, as far as it is one.
    fn read(object: &str) -> (At, Vec<u8>) {
        let (mut at, mut text) = (At::Head { next: 0, space: 0 }, Vec::new());
        for &byte in object.as_bytes() {
            let Some((next, effect)) = step(at, byte) else { break };
            at = next;
            if let Effect::Text(byte) = effect {
                text.push(byte);
            }
        }
        (at, text)
    }

    #[test]
    fn an_object_is_read_as_json_reads_it() {
        for text in ["", "a b", "ä\u{7f}🙂", "\"\\/\n\t\r\u{8}\u{c}", "\0\u{1}\u{f}\u{10}\u{1f}"]
        {
            let compact = serde_json::json!({ "input": text }).to_string();
            let spaced = compact.replacen(':', " :\n\t", 1).replacen('{', "{  ", 1);
            let escaped = compact.replace('\u{7f}', "\\u007F").replace("\\n", "\\u000a");
            for object in [&compact, &spaced, &escaped] {
                let parsed: serde_json::Value = serde_json::from_str(object).expect("JSON");
                assert_eq!(parsed["input"], text, "{object}");
                assert_eq!(read(object), (At::Done, text.as_bytes().to_vec()), "{object}");
            }
        }
        for object in [
            r#"{"other":"x"}"#,
            r#"{"input":1}"#,
            "{\"input\":\"a\nb\"}",
            r#"{"input":"\x"}"#,
            r#"{"input":"\u0041"}"#,
            r#"{"input":"\u002"}"#,
            r#"{"input":"a","more":1}"#,
        ] {
            assert_ne!(read(object).0, At::Done, "{object}");
        }
        let spaces = " ".repeat(usize::from(MAX_SPACE) + 1);
        assert_ne!(read(&format!("{{{spaces}\"input\":\"\"}}")).0, At::Done);
    }
}
