//! From a turn's tokens to its messages as the APIs show them: reasoning, texts and calls, each with a start and an end. Text
//! comes in whole characters and without stop strings. Streamed and whole answers are both read here, so they cannot differ.

use std::collections::HashMap;
use std::sync::Arc;

use ossmith_harmony::{Event, Header, LenientOptions, Role, Route, Stop, StreamParser, special};

use super::custom_input::CustomInput;
use crate::options::call_target::{CallForm, CallTarget};
use crate::stop_strings::StopFilter;

/// What a message is to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MessageKind {
    /// Reasoning. Calls of anything but the request's functions count as reasoning, too.
    Reasoning,
    /// A text before calls.
    Preamble,
    /// The final answer.
    Final,
    /// A call of one of the request's tools.
    Call(Arc<CallTarget>),
}

/// A change in a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TurnEvent {
    /// A message begins.
    Start(MessageKind),
    /// More of its text, never empty.
    Text(String),
    /// The message ends. It is whole unless the turn was cut off inside it.
    End { whole: bool },
}

/// What the request's tools are called by.
pub(crate) type CallTargets = Arc<[Arc<CallTarget>]>;

/// Reads one turn.
#[derive(Clone, Debug)]
pub(crate) struct TurnParser {
    parser: StreamParser,
    reader: Reader,
    /// Whether the header being read has a channel or a format.
    marked: bool,
}

#[derive(Clone, Debug)]
struct Reader {
    targets: CallTargets,
    stops: StopFilter,
    /// The message being read.
    open: Option<MessageKind>,
    /// Where that is a call of a free-form tool.
    custom: Option<CustomInput>,
    /// Events that were not taken yet.
    events: Vec<TurnEvent>,
    reasoning_tokens: usize,
    repairs: HashMap<&'static str, u64>,
}

impl TurnParser {
    /// Reads a turn that continues after `<|start|>assistant` and the prefill, which are part of the prompt.
    pub(crate) fn new(targets: CallTargets, stops: StopFilter, prefill: &[u32]) -> TurnParser {
        let parser = StreamParser::new(Some(Role::Assistant), LenientOptions::default());
        let reader = Reader {
            targets,
            stops,
            open: None,
            custom: None,
            events: Vec::new(),
            reasoning_tokens: 0,
            repairs: HashMap::new(),
        };
        let mut turn = TurnParser { parser, reader, marked: false };
        prefill.iter().for_each(|&token| turn.read(token));
        turn
    }

    /// The events of the prefill.
    pub(crate) fn prefill_events(&mut self) -> Vec<TurnEvent> {
        std::mem::take(&mut self.reader.events)
    }

    /// Reads a token. Returns what became certain with it.
    pub(crate) fn push(&mut self, token: u32) -> Vec<TurnEvent> {
        let was_reasoning = self.reader.open == Some(MessageKind::Reasoning);
        self.read(token);
        let is_reasoning = self.reader.open == Some(MessageKind::Reasoning);
        self.reader.reasoning_tokens += usize::from(was_reasoning || is_reasoning);
        std::mem::take(&mut self.reader.events)
    }

    fn read(&mut self, token: u32) {
        self.parser.push(token, |event| self.reader.on_event(event));
        let mark = matches!(token, special::CHANNEL | special::CONSTRAIN);
        self.marked = self.parser.in_header() && (self.marked || mark);
    }

    /// Ends the turn where it is. An unfinished header is left out; words that have no mark of a header are a text.
    pub(crate) fn finish(&mut self) -> Vec<TurnEvent> {
        let in_header = self.parser.in_header();
        self.parser.finish(|event| self.reader.on_event(event));
        let events = std::mem::take(&mut self.reader.events);
        let recipient = events.iter().any(|event| match event {
            TurnEvent::Text(text) => text.starts_with(" to=") || " to=".starts_with(text.as_str()),
            _ => false,
        });
        if in_header && (self.marked || recipient) { Vec::new() } else { events }
    }

    /// The stop string that ended the turn.
    pub(crate) fn stopped(&self) -> Option<&str> {
        self.reader.stops.found()
    }

    /// Tokens of reasoning so far.
    pub(crate) fn reasoning_tokens(&self) -> usize {
        self.reader.reasoning_tokens
    }

    /// Repairs of what the model wrote, by kind.
    pub(crate) fn repairs(&self) -> &HashMap<&'static str, u64> {
        &self.reader.repairs
    }
}

impl Reader {
    fn on_event(&mut self, event: Event<'_>) {
        match event {
            Event::MessageStart(header) => {
                let kind = self.kind(header);
                self.custom = match &kind {
                    MessageKind::Call(target) if target.form == CallForm::Custom => {
                        Some(CustomInput::default())
                    }
                    _ => None,
                };
                self.open = Some(kind.clone());
                self.events.push(TurnEvent::Start(kind));
            }
            Event::Text(text) | Event::Arguments(text) => {
                let mut certain = String::new();
                match (&self.open, &mut self.custom) {
                    (Some(MessageKind::Final | MessageKind::Preamble), _) => {
                        self.stops.push(text, &mut certain)
                    }
                    (_, Some(input)) => input.push(text, &mut certain),
                    _ => certain.push_str(text),
                }
                self.emit(certain);
            }
            Event::MessageEnd(stop) => {
                let mut rest = String::new();
                self.stops.flush(&mut rest);
                self.emit(rest);
                self.open = None;
                self.events.push(TurnEvent::End { whole: stop != Stop::Cut });
            }
            Event::Repaired(repair) => *self.repairs.entry(repair.kind.name()).or_default() += 1,
        }
    }

    fn emit(&mut self, text: String) {
        if !text.is_empty() {
            self.events.push(TurnEvent::Text(text));
        }
    }

    fn kind(&self, header: &Header) -> MessageKind {
        // What a model writes in another role is no part of its answer.
        if header.role != Role::Assistant {
            return MessageKind::Reasoning;
        }
        if let Some(recipient) = &header.recipient {
            let called = self.targets.iter().find(|target| target.recipient == *recipient);
            return called
                .map_or(MessageKind::Reasoning, |target| MessageKind::Call(Arc::clone(target)));
        }
        match header.route() {
            Route::Preamble => MessageKind::Preamble,
            Route::Final => MessageKind::Final,
            Route::Reasoning | Route::Call(_) => MessageKind::Reasoning,
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

    /// A turn as `kind: text` lines, with `…` after a message that was cut off.
    fn read(prefill: &str, turn: &str, stops: &[&str]) -> Vec<String> {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let targets: CallTargets = [
            CallTarget::new(None, "f", CallForm::Function),
            CallTarget::new(None, "patch", CallForm::Custom),
            CallTarget::new(Some("crm"), "f", CallForm::Function),
        ]
        .map(Arc::new)
        .into();
        let mut reader = TurnParser::new(targets, StopFilter::new(&stops, false), &tokens(prefill));
        let mut events: Vec<TurnEvent> = Vec::new();
        for token in tokens(turn) {
            events.extend(reader.push(token));
        }
        events.extend(reader.finish());
        let mut lines: Vec<String> = Vec::new();
        for event in events {
            match event {
                TurnEvent::Start(MessageKind::Call(target)) => {
                    lines.push(format!("{}: ", target.recipient))
                }
                TurnEvent::Start(kind) => lines.push(format!("{kind:?}: ")),
                TurnEvent::Text(text) => lines.last_mut().unwrap().push_str(&text),
                TurnEvent::End { whole } => {
                    lines.last_mut().unwrap().push_str(if whole { "" } else { "…" })
                }
            }
        }
        lines
    }

    #[test]
    fn turns_become_messages() {
        let reasoning = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant";
        let call =
            " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{\"a\":1}<|call|>";
        for (prefill, turn, stops, want) in [
            (
                "",
                format!("{reasoning}<|channel|>final<|message|>Yes.<|return|>"),
                &[][..],
                &["Reasoning: Hm.", "Final: Yes."][..],
            ),
            ("", format!("{reasoning}{call}"), &[], &["Reasoning: Hm.", "functions.f: {\"a\":1}"]),
            ("", call.replace("functions.f", "functions.g"), &[], &["Reasoning: {\"a\":1}"]),
            ("", call.replace("functions.f", "crm.f"), &[], &["crm.f: {\"a\":1}"]),
            (
                "",
                call.replace("functions.f", "functions.patch").replace("\"a\":1", r#""input":"a\n""#),
                &[],
                &["functions.patch: a\n"],
            ),
            ("", call.replace("functions.f", "python"), &[], &["Reasoning: {\"a\":1}"]),
            (
                "",
                format!("<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{call}"),
                &[],
                &["Preamble: I look.", "functions.f: {\"a\":1}"],
            ),
            (
                "",
                "<|channel|>final<|message|>one STOP two".to_owned(),
                &["STOP"],
                &["Final: one …"],
            ),
            (
                "<|channel|>analysis<|message|>",
                "thinking STOP".to_owned(),
                &["STOP"],
                &["Reasoning: thinking STOP…"],
            ),
            ("<|channel|>final<|message|>", "cut".to_owned(), &[], &["Final: cut…"]),
            ("", "no header at all".to_owned(), &[], &["Final: no header at all…"]),
            (
                "",
                "<|channel|>final<|message|>Yes.<|end|><|start|>developer<|message|>No.<|end|><|start|>user<|channel|>final<|message|>Well?<|return|>"
                    .to_owned(),
                &[],
                &["Final: Yes.", "Reasoning: No.", "Reasoning: Well?"],
            ),
            (
                "",
                format!("{reasoning}<|end|><|start|>developer is not content.<|end|>"),
                &[],
                &["Reasoning: Hm.", "Reasoning:  is not content."],
            ),
            ("", format!("{reasoning} to"), &[], &["Reasoning: Hm."]),
            ("", format!("{reasoning} to=functions.f"), &[], &["Reasoning: Hm."]),
            ("", format!("{reasoning} to=functions.f<|channel|>comment"), &[], &["Reasoning: Hm."]),
            (
                "",
                format!("{reasoning}<|channel|>commentary <|constrain|>json"),
                &[],
                &["Reasoning: Hm."],
            ),
        ] {
            assert_eq!(read(prefill, &turn, stops), want, "{turn}");
        }
    }
}
