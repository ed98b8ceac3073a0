//! An assistant's tokens as they come, sorted into messages. Harmony's lenient parser does the work; this decides
//! where the answer to a prompt begins, and collects its messages.

use ossmith_harmony::{
    Collector, Event, LenientOptions, Message, StreamParser, TextDecoder, special, token_bytes,
};

/// The answer so far.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Messages with headers; the first few belong to the prompt.
    Harmony { parser: Box<StreamParser>, collector: Collector, of_prompt: usize },
    /// Text without any structure.
    Plain { decoder: TextDecoder, text: String },
}

impl Answer {
    /// The answer continues where the prompt's tokens end: mostly in a header, after `<|start|>assistant`, or in
    /// plain text if the prompt has no headers.
    pub(crate) fn after(prompt: &[u32]) -> Answer {
        let Some(start) = prompt.iter().rposition(|&token| token == special::START) else {
            return Answer::Plain { decoder: TextDecoder::default(), text: String::new() };
        };
        let mut parser = Box::new(StreamParser::new(None, LenientOptions::default()));
        let (mut collector, mut of_prompt) = (Collector::default(), 0);
        parser.push_all(&prompt[start..], |event| {
            of_prompt += usize::from(matches!(event, Event::MessageEnd(_)));
            collector.add(event);
        });
        Answer::Harmony { parser, collector, of_prompt }
    }

    /// Takes the next token; `sink` gets the events that it completes.
    pub(crate) fn push(&mut self, token: u32, mut sink: impl FnMut(Event<'_>)) {
        match self {
            Answer::Harmony { parser, collector, .. } => parser.push(token, |event| {
                sink(event);
                collector.add(event);
            }),
            Answer::Plain { decoder, text } => {
                let before = text.len();
                decoder.push(token_bytes(token).unwrap_or_default(), text);
                if text.len() > before {
                    sink(Event::Text(&text[before..]));
                }
            }
        }
    }

    /// Ends the answer where it is, and gives its messages.
    pub(crate) fn finish(self, mut sink: impl FnMut(Event<'_>)) -> Vec<Message> {
        match self {
            Answer::Harmony { mut parser, mut collector, of_prompt } => {
                parser.finish(|event| {
                    sink(event);
                    collector.add(event);
                });
                collector.finish().messages.split_off(of_prompt)
            }
            Answer::Plain { mut decoder, mut text } => {
                let before = text.len();
                decoder.finish(&mut text);
                if text.len() > before {
                    sink(Event::Text(&text[before..]));
                }
                vec![Message::assistant(text)]
            }
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

    /// The messages of an answer as `channel/recipient: text`, after a check that the events gave the same text.
    fn read(prompt: &str, answer: &str) -> Vec<String> {
        let mut parser = Answer::after(&tokens(prompt));
        let mut seen = String::new();
        let mut on_event = |event: Event<'_>| {
            if let Event::Text(text) | Event::Arguments(text) = event {
                seen.push_str(text);
            }
        };
        tokens(answer).into_iter().for_each(|token| parser.push(token, &mut on_event));
        let messages = parser.finish(&mut on_event);
        assert_eq!(seen, messages.iter().map(Message::text).collect::<String>(), "{answer}");
        let name = |part: &Option<String>| part.clone().unwrap_or_default();
        let line =
            |m: &Message| format!("{}/{}: {}", name(&m.channel), name(&m.recipient), m.text());
        messages.iter().map(line).collect()
    }

    #[test]
    fn answers_become_messages() {
        let start = "<|start|>user<|message|>Hi<|end|><|start|>assistant";
        let two = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes 🙂<|return|>";
        let call = " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>";
        let next = "<|start|>assistant<|channel|>final<|message|>b";
        for (prompt, answer, want) in [
            (start, two, &["analysis/: Hm.", "final/: Yes 🙂"][..]),
            (start, call, &["commentary/functions.f: {}"]),
            (
                "<|start|>assistant<|channel|>final<|message|>",
                "straight on",
                &["final/: straight on"],
            ),
            ("<|start|>assistant<|channel|>final<|message|>a<|end|>", next, &["final/: b"]),
            (start, "<|channel|>analysis<|message|>cut", &["analysis/: cut"]),
            ("once upon", " a time 🙂", &["/:  a time 🙂"]),
        ] {
            assert_eq!(read(prompt, answer), want, "{answer}");
        }
    }

    #[test]
    fn characters_come_whole() {
        let mut answer = Answer::after(&[]);
        let ids = tokens("🧑🏽‍🚀 naïve 日本");
        let mut seen = Vec::new();
        for &id in &ids {
            answer.push(id, |event| {
                if let Event::Text(text) = event {
                    seen.push(text.to_owned());
                }
            });
        }
        assert_eq!(seen.concat(), "🧑🏽‍🚀 naïve 日本");
        assert!(seen.len() < ids.len(), "some of these characters take several tokens");
    }
}
