//! The parser for what a model really writes: it takes any tokens, never fails, and repairs by stated rules.
//!
//! It keeps no messages, only the header being written and the bytes of a character that has begun, so a step costs the same
//! however long the message is, and a clone (one for each of several answers to a prompt) is cheap. The rules are the variants of
//! [`RepairKind`]; how headers are read is in `lenient_header`.

use super::events::{Collector, Event, Header, Parsed, Stop};
use super::lenient_header::HeaderBuffer;
use super::repair::{Repair, RepairKind};
use crate::bpe;
use crate::special::{
    CALL, CHANNEL, CONSTRAIN, END, END_OF_TEXT, MESSAGE, RETURN, START, Token, is_special,
};
use crate::types::Role;
use crate::utf8::TextDecoder;

/// What the lenient parser takes as right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LenientOptions {
    /// The channels on offer; an assistant's message on another one counts as commentary. None listed: any channel is right.
    pub channels: Vec<String>,
}

impl Default for LenientOptions {
    /// gpt-oss's channels: analysis, commentary, final.
    fn default() -> Self {
        Self { channels: ["analysis", "commentary", "final"].map(str::to_owned).to_vec() }
    }
}

/// A parser of a stream of tokens that yields events.
///
/// ```
/// use ossmith_harmony::{Event, LenientOptions, Role, SpecialSet, StreamParser, encode_with_special};
/// let answer = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello.<|return|>";
/// let tokens = encode_with_special(answer, &SpecialSet::All, &SpecialSet::NONE)?;
/// let mut parser = StreamParser::new(Some(Role::Assistant), LenientOptions::default());
/// let mut shown = String::new();
/// let mut on_final = false;
/// for token in tokens {
///     parser.push(token, |event| match event {
///         Event::MessageStart(header) => on_final = header.channel.as_deref() == Some("final"),
///         Event::Text(delta) if on_final => shown.push_str(delta),
///         _ => {}
///     });
/// }
/// parser.finish(|_| {});
/// assert_eq!(shown, "Hello.");
/// # Ok::<(), ossmith_harmony::EncodeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct StreamParser {
    options: LenientOptions,
    state: State,
    decoder: TextDecoder,
    /// Tokens taken so far.
    position: usize,
    repairs: usize,
    scratch: String,
}

#[derive(Clone, Debug)]
enum State {
    Between,
    Header(HeaderBuffer),
    Content(Header),
}

impl StreamParser {
    /// A parser; with a role, the first message's `<|start|>` and role are not in the tokens.
    pub fn new(role: Option<Role>, options: LenientOptions) -> Self {
        let state = role.map_or(State::Between, |role| State::Header(HeaderBuffer::of(role)));
        Self {
            options,
            state,
            decoder: TextDecoder::default(),
            position: 0,
            repairs: 0,
            scratch: String::new(),
        }
    }

    /// The header of the message whose content is being read.
    pub fn header(&self) -> Option<&Header> {
        match &self.state {
            State::Content(header) => Some(header),
            _ => None,
        }
    }

    /// Whether a header is being written.
    pub fn in_header(&self) -> bool {
        matches!(self.state, State::Header(_))
    }

    /// Number of tokens taken.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Number of repairs made.
    pub fn repairs(&self) -> usize {
        self.repairs
    }

    /// Takes several tokens, as a step with speculative decoding yields them.
    pub fn push_all(&mut self, tokens: &[Token], mut sink: impl FnMut(Event<'_>)) {
        for &token in tokens {
            self.push(token, &mut sink);
        }
    }

    /// Takes the next token.
    pub fn push(&mut self, token: Token, mut sink: impl FnMut(Event<'_>)) {
        match bpe::token_bytes(token) {
            Some(bytes) => self.text(bytes, &mut sink),
            None => self.control(token, &mut sink),
        }
        self.position += 1;
    }

    /// Ends the input: what is unfinished is delivered as it is.
    pub fn finish(&mut self, mut sink: impl FnMut(Event<'_>)) {
        self.end_message(Stop::Cut, &mut sink);
    }

    fn text(&mut self, bytes: &[u8], sink: &mut impl FnMut(Event<'_>)) {
        match &mut self.state {
            State::Content(header) => {
                self.scratch.clear();
                let invalid = self.decoder.push(bytes, &mut self.scratch);
                emit(header, &self.scratch, sink);
                if invalid > 0 {
                    self.repair(RepairKind::InvalidUtf8, sink);
                }
            }
            State::Header(buffer) => {
                buffer.push(bytes);
                if buffer.is_too_long() {
                    self.repair(RepairKind::HeaderTooLong, sink);
                    self.open_unfinished(sink);
                }
            }
            State::Between => {
                self.repair(RepairKind::MissingStart, sink);
                let mut buffer = HeaderBuffer::default();
                buffer.push(bytes);
                self.state = State::Header(buffer);
            }
        }
    }

    fn control(&mut self, token: Token, sink: &mut impl FnMut(Event<'_>)) {
        match token {
            START => {
                if !matches!(self.state, State::Between) {
                    self.repair(RepairKind::MissingEnd, sink);
                }
                self.end_message(Stop::End, sink);
                self.state = State::Header(HeaderBuffer::started());
            }
            END => self.end_message(Stop::End, sink),
            RETURN | END_OF_TEXT => self.end_message(Stop::Return, sink),
            CALL => self.end_message(Stop::Call, sink),
            CHANNEL | CONSTRAIN | MESSAGE => self.mark(token, sink),
            _ if is_special(token) => self.repair(RepairKind::StrayToken(token), sink),
            _ => self.repair(RepairKind::UnknownToken(token), sink),
        }
    }

    /// A mark that belongs in a header.
    fn mark(&mut self, token: Token, sink: &mut impl FnMut(Event<'_>)) {
        match &mut self.state {
            State::Header(_) if token == MESSAGE => self.open_message(sink),
            State::Header(buffer) => {
                if !buffer.mark(token) {
                    self.repair(RepairKind::RepeatedMark(token), sink);
                }
            }
            // A channel begins a new message even in the middle of another one's content; the other marks do not.
            State::Content(_) if token != CHANNEL => {
                self.repair(RepairKind::StrayToken(token), sink)
            }
            State::Content(_) => {
                self.repair(RepairKind::MissingEnd, sink);
                self.end_message(Stop::End, sink);
                self.begin_without_start(token, sink);
            }
            State::Between => self.begin_without_start(token, sink),
        }
    }

    fn begin_without_start(&mut self, mark: Token, sink: &mut impl FnMut(Event<'_>)) {
        self.repair(RepairKind::MissingStart, sink);
        self.state = State::Header(HeaderBuffer::default());
        self.mark(mark, sink);
    }

    /// `<|message|>` ends the header.
    fn open_message(&mut self, sink: &mut impl FnMut(Event<'_>)) {
        let State::Header(buffer) = std::mem::replace(&mut self.state, State::Between) else {
            return;
        };
        let mut repairs = Vec::new();
        let header = buffer.read(&self.options.channels, |kind| repairs.push(kind));
        for kind in repairs {
            self.repair(kind, sink);
        }
        sink(Event::MessageStart(&header));
        self.state = State::Content(header);
    }

    /// The header's words turn out to be content, if there are any.
    fn open_unfinished(&mut self, sink: &mut impl FnMut(Event<'_>)) {
        let State::Header(buffer) = std::mem::replace(&mut self.state, State::Between) else {
            return;
        };
        let mut repairs = Vec::new();
        let unfinished = buffer.read_unfinished(&self.options.channels, |kind| repairs.push(kind));
        for kind in repairs {
            self.repair(kind, sink);
        }
        if let Some((header, text)) = unfinished {
            sink(Event::MessageStart(&header));
            emit(&header, &text, sink);
            self.state = State::Content(header);
        }
    }

    fn end_message(&mut self, stop: Stop, sink: &mut impl FnMut(Event<'_>)) {
        if let State::Header(_) = self.state {
            self.repair(RepairKind::HeaderWithoutMessage, sink);
            self.open_unfinished(sink);
        } else if matches!(self.state, State::Between) {
            return;
        }
        if let State::Content(header) = std::mem::replace(&mut self.state, State::Between) {
            self.scratch.clear();
            if self.decoder.finish(&mut self.scratch) {
                emit(&header, &self.scratch, sink);
                self.repair(RepairKind::InvalidUtf8, sink);
            }
            sink(Event::MessageEnd(stop));
        }
    }

    fn repair(&mut self, kind: RepairKind, sink: &mut impl FnMut(Event<'_>)) {
        self.repairs += 1;
        sink(Event::Repaired(&Repair { position: self.position, kind }));
    }
}

/// Parses complete tokens without ever failing; with a role, the first message's `<|start|>` and role are not in the tokens.
///
/// ```
/// use ossmith_harmony::{RepairKind, Role, encode_with_special, parse_lenient, SpecialSet};
/// // The recipient is where the model wrote it, and the channel is missing.
/// let text = " to=functions.f<|constrain|>json<|message|>{}<|call|>";
/// let tokens = encode_with_special(text, &SpecialSet::All, &SpecialSet::NONE)?;
/// let parsed = parse_lenient(&tokens, Some(Role::Assistant));
/// assert_eq!(parsed.messages[0].recipient.as_deref(), Some("functions.f"));
/// assert_eq!(parsed.messages[0].channel.as_deref(), Some("commentary"));
/// assert_eq!(parsed.repairs[0].kind, RepairKind::MissingChannel);
/// # Ok::<(), ossmith_harmony::EncodeError>(())
/// ```
pub fn parse_lenient(tokens: &[Token], role: Option<Role>) -> Parsed {
    let mut parser = StreamParser::new(role, LenientOptions::default());
    let mut collector = Collector::default();
    parser.push_all(tokens, |event| collector.add(event));
    parser.finish(|event| collector.add(event));
    collector.finish()
}

fn emit(header: &Header, text: &str, sink: &mut impl FnMut(Event<'_>)) {
    match (text.is_empty(), header.is_call()) {
        (true, _) => {}
        (false, true) => sink(Event::Arguments(text)),
        (false, false) => sink(Event::Text(text)),
    }
}
