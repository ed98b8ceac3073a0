//! From a turn's tokens to its messages as the APIs show them: thoughts, texts, calls, each with a start and an end, whole
//! characters only, stop strings taken out. Streamed and whole answers both come from here, so they cannot differ.

use std::collections::HashMap;
use std::sync::Arc;

use ossmith_harmony::{Event, Header, LenientOptions, Role, Route, Stop, StreamParser, special};

use crate::stops::StopFilter;

/// What a message is to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Thoughts, and calls of what nobody offered.
    Reasoning,
    /// A text before calls.
    Preamble,
    /// The answer.
    Answer,
    /// A call of an offered function.
    Call(String),
}

/// A step of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A message begins.
    Start(Kind),
    /// More of its text, never empty.
    Text(String),
    /// It ends; whole unless the turn was cut inside it.
    End { whole: bool },
}

/// The names of functions that may be called.
pub(crate) type Offered = Arc<[String]>;

/// Reads one turn.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    parser: StreamParser,
    reader: Reader,
    /// Whether the header being read has a channel or a format.
    marked: bool,
}

#[derive(Clone, Debug)]
struct Reader {
    offered: Offered,
    stops: StopFilter,
    /// The message being read.
    open: Option<Kind>,
    pieces: Vec<Piece>,
    /// Tokens of thoughts.
    reasoning_tokens: usize,
    repairs: HashMap<&'static str, u64>,
}

impl Turn {
    /// A turn that goes on after `<|start|>assistant` and these tokens, which the prompt already has.
    pub(crate) fn new(offered: Offered, stops: StopFilter, begun: &[u32]) -> Turn {
        let parser = StreamParser::new(Some(Role::Assistant), LenientOptions::default());
        let reader = Reader {
            offered,
            stops,
            open: None,
            pieces: Vec::new(),
            reasoning_tokens: 0,
            repairs: HashMap::new(),
        };
        let mut turn = Turn { parser, reader, marked: false };
        begun.iter().for_each(|&token| turn.take(token));
        turn
    }

    /// What the prompt already has of the turn.
    pub(crate) fn begun(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.reader.pieces)
    }

    /// Takes a token and gives what became certain by it.
    pub(crate) fn push(&mut self, token: u32) -> Vec<Piece> {
        let was_reasoning = self.reader.open == Some(Kind::Reasoning);
        self.take(token);
        let is_reasoning = self.reader.open == Some(Kind::Reasoning);
        self.reader.reasoning_tokens += usize::from(was_reasoning || is_reasoning);
        std::mem::take(&mut self.reader.pieces)
    }

    fn take(&mut self, token: u32) {
        self.parser.push(token, |event| self.reader.hear(event));
        let mark = matches!(token, special::CHANNEL | special::CONSTRAIN);
        self.marked = self.parser.in_header() && (self.marked || mark);
    }

    /// Ends the turn where it is. A header that was being written is left out; words without any mark of one are a text.
    pub(crate) fn finish(&mut self) -> Vec<Piece> {
        let in_header = self.parser.in_header();
        self.parser.finish(|event| self.reader.hear(event));
        let pieces = std::mem::take(&mut self.reader.pieces);
        let recipient = pieces.iter().any(|piece| match piece {
            Piece::Text(text) => text.starts_with(" to=") || " to=".starts_with(text.as_str()),
            _ => false,
        });
        if in_header && (self.marked || recipient) { Vec::new() } else { pieces }
    }

    /// The stop string that ended the turn.
    pub(crate) fn stopped(&self) -> Option<&str> {
        self.reader.stops.found()
    }

    /// Tokens of thoughts so far.
    pub(crate) fn reasoning_tokens(&self) -> usize {
        self.reader.reasoning_tokens
    }

    /// What had to be mended in what the model wrote, by kind.
    pub(crate) fn repairs(&self) -> &HashMap<&'static str, u64> {
        &self.reader.repairs
    }
}

impl Reader {
    fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::MessageStart(header) => {
                let kind = self.kind(header);
                self.open = Some(kind.clone());
                self.pieces.push(Piece::Start(kind));
            }
            Event::Text(text) | Event::Arguments(text) => {
                let mut certain = String::new();
                match self.open {
                    Some(Kind::Answer | Kind::Preamble) => self.stops.push(text, &mut certain),
                    _ => certain.push_str(text),
                }
                self.say(certain);
            }
            Event::MessageEnd(stop) => {
                let mut rest = String::new();
                self.stops.flush(&mut rest);
                self.say(rest);
                self.open = None;
                self.pieces.push(Piece::End { whole: stop != Stop::Cut });
            }
            Event::Repaired(repair) => *self.repairs.entry(repair.kind.name()).or_default() += 1,
        }
    }

    fn say(&mut self, text: String) {
        if !text.is_empty() {
            self.pieces.push(Piece::Text(text));
        }
    }

    fn kind(&self, header: &Header) -> Kind {
        match header.route() {
            Route::Reasoning => Kind::Reasoning,
            Route::Preamble => Kind::Preamble,
            Route::Answer => Kind::Answer,
            Route::Call(name) if self.offered.iter().any(|offered| offered == name) => {
                Kind::Call(name.to_owned())
            }
            Route::Call(_) => Kind::Reasoning,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use ossmith_harmony::{SpecialSet, encode_with_special};

    use super::*;

    fn tokens(text: &str) -> Vec<u32> {
        encode_with_special(text, &SpecialSet::All, &SpecialSet::NONE).unwrap()
    }

    /// A turn as `kind: text` lines, `…` after one that was cut.
    fn read(begun: &str, turn: &str, stops: &[&str]) -> Vec<String> {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let offered: Offered = Arc::from(vec!["f".to_owned()]);
        let mut reader = Turn::new(offered, StopFilter::new(&stops, false), &tokens(begun));
        let mut pieces: Vec<Piece> = Vec::new();
        for token in tokens(turn) {
            pieces.extend(reader.push(token));
        }
        pieces.extend(reader.finish());
        let mut lines: Vec<String> = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Start(Kind::Call(name)) => lines.push(format!("{name}: ")),
                Piece::Start(kind) => lines.push(format!("{kind:?}: ")),
                Piece::Text(text) => lines.last_mut().unwrap().push_str(&text),
                Piece::End { whole } => {
                    lines.last_mut().unwrap().push_str(if whole { "" } else { "…" })
                }
            }
        }
        lines
    }

    #[test]
    fn turns_become_messages() {
        let thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant";
        let call =
            " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{\"a\":1}<|call|>";
        for (begun, turn, stops, want) in [
            (
                "",
                format!("{thought}<|channel|>final<|message|>Yes.<|return|>"),
                &[][..],
                &["Reasoning: Hm.", "Answer: Yes."][..],
            ),
            ("", format!("{thought}{call}"), &[], &["Reasoning: Hm.", "f: {\"a\":1}"]),
            ("", call.replace("functions.f", "functions.g"), &[], &["Reasoning: {\"a\":1}"]),
            ("", call.replace("functions.f", "python"), &[], &["Reasoning: {\"a\":1}"]),
            (
                "",
                format!("<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{call}"),
                &[],
                &["Preamble: I look.", "f: {\"a\":1}"],
            ),
            (
                "",
                "<|channel|>final<|message|>one STOP two".to_owned(),
                &["STOP"],
                &["Answer: one …"],
            ),
            (
                "<|channel|>analysis<|message|>",
                "thinking STOP".to_owned(),
                &["STOP"],
                &["Reasoning: thinking STOP…"],
            ),
            ("<|channel|>final<|message|>", "cut".to_owned(), &[], &["Answer: cut…"]),
            ("", "no header at all".to_owned(), &[], &["Answer: no header at all…"]),
            ("", format!("{thought} to"), &[], &["Reasoning: Hm."]),
            ("", format!("{thought} to=functions.f"), &[], &["Reasoning: Hm."]),
            ("", format!("{thought} to=functions.f<|channel|>comment"), &[], &["Reasoning: Hm."]),
            (
                "",
                format!("{thought}<|channel|>commentary <|constrain|>json"),
                &[],
                &["Reasoning: Hm."],
            ),
        ] {
            assert_eq!(read(begun, &turn, stops), want, "{turn}");
        }
    }
}
