//! What holds for any input: rendering parses back, and streams parse the same in any chunking.

use ossmith_harmony::{
    Collector, Content, Conversation, DropAnalysis, LenientOptions, Message, RecipientPlace,
    RenderOptions, Role, StreamParser, Strictness, decode, encode, parse, parse_lenient, render,
    special,
};
use proptest::prelude::*;

fn name() -> impl Strategy<Value = String> {
    "(functions\\.[a-z_]{1,8}|python|browser\\.search)"
}

/// Messages as a well-behaved conversation has them.
fn message() -> impl Strategy<Value = Message> {
    let text = prop_oneof!["[ -~]{0,60}", "\\PC{0,20}", "(<\\|[a-z]{3,7}\\|>| |\n|x){0,8}"];
    let channel = prop_oneof![Just("analysis"), Just("commentary"), Just("final")];
    (0..5u8, text, channel, name(), any::<bool>(), prop_oneof![Just("json"), Just("code")])
        .prop_map(|(kind, text, channel, tool, constrained, format)| match kind {
            0 => Message::user(text),
            1 => Message { name: Some("bob".to_owned()), ..Message::user(text) },
            2 => Message::assistant(text).on_channel(channel),
            3 => Message {
                recipient: Some(tool),
                content_type: constrained.then(|| format!("<|constrain|>{format}")),
                ..Message::assistant(text).on_channel(channel)
            },
            _ => Message::tool_result(tool, text),
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn rendering_parses_back(messages in prop::collection::vec(message(), 0..8), after in any::<bool>()) {
        let conversation = Conversation { messages };
        let options = RenderOptions {
            drop_analysis: DropAnalysis::Never,
            recipient: if after { RecipientPlace::AfterChannel } else { RecipientPlace::BeforeChannel },
            ..RenderOptions::default()
        };
        let tokens = render(&conversation, &options).expect("these messages render");
        let parsed = parse_lenient(&tokens, None);
        prop_assert_eq!(&parsed.messages, &conversation.messages);
        prop_assert!(parsed.repairs.is_empty(), "{:?}", parsed.repairs);
    }

    #[test]
    fn the_reference_parser_reads_it_too(messages in prop::collection::vec(message(), 0..8)) {
        let mut conversation = Conversation { messages };
        // Names of users are the one thing that it does not read back.
        for message in conversation.messages.iter_mut().filter(|m| m.role == Role::User) {
            message.name = None;
        }
        let options = RenderOptions { drop_analysis: DropAnalysis::Never, ..RenderOptions::default() };
        let tokens = render(&conversation, &options).expect("these messages render");
        prop_assert_eq!(parse(&tokens, None, Strictness::Strict).expect("strict parsing"), conversation.messages);
    }

    #[test]
    fn chunks_do_not_matter(tokens in any_tokens(), cuts in prop::collection::vec(1usize..6, 0..30), role in any::<bool>()) {
        let role = role.then_some(Role::Assistant);
        let whole = parse_lenient(&tokens, role);
        let mut parser = StreamParser::new(role, LenientOptions::default());
        let mut collector = Collector::default();
        let mut rest = &tokens[..];
        for cut in cuts {
            let (chunk, tail) = rest.split_at(cut.min(rest.len()));
            parser.push_all(chunk, |event| collector.add(event));
            parser = parser.clone();
            rest = tail;
        }
        parser.push_all(rest, |event| collector.add(event));
        parser.finish(|event| collector.add(event));
        prop_assert_eq!(parser.repairs(), whole.repairs.len());
        prop_assert_eq!(collector.finish(), whole);
    }

    #[test]
    fn content_is_never_lost(tokens in prop::collection::vec(0u32..199_998, 0..60)) {
        let mut input = vec![special::CHANNEL, encode("final")[0], special::MESSAGE];
        input.extend(&tokens);
        let parsed = parse_lenient(&input, Some(Role::Assistant));
        prop_assert_eq!(parsed.messages[0].text(), ossmith_harmony::decode_lossy(&tokens).expect("known ids"));
    }

    #[test]
    fn control_tokens_never_leak(tokens in any_tokens()) {
        for message in parse_lenient(&tokens, Some(Role::Assistant)).messages {
            for field in [&message.name, &message.channel, &message.recipient].into_iter().flatten() {
                prop_assert!(!field.contains("<|start|>") && !field.contains("<|channel|>"), "{field}");
            }
            for part in &message.content {
                if let Content::Text { text } = part {
                    prop_assert!(!text.contains("<|"), "{text}");
                }
            }
        }
    }

    #[test]
    fn text_survives_the_tokenizer(text in "\\PC{0,80}|[ \\t\\r\\n/a-zA-Z0-9'é]{0,80}") {
        prop_assert_eq!(decode(&encode(&text)).expect("own tokens decode"), text);
    }
}

/// Streams in which every kind of token is likely.
fn any_tokens() -> impl Strategy<Value = Vec<u32>> {
    let words: Vec<u32> = [
        "final",
        "analysis",
        "commentary",
        "assistant",
        " to",
        "=",
        "functions",
        ".f",
        " json",
        "{}",
    ]
    .iter()
    .flat_map(|word| encode(word))
    .collect();
    prop::collection::vec(
        prop_oneof![
            4 => prop::sample::select(vec![200_002u32, 200_003, 200_005, 200_006, 200_007, 200_008, 200_012]),
            4 => prop::sample::select(words),
            2 => 1_000u32..1_400,
            1 => 128u32..256,
            1 => 199_998u32..201_100,
        ],
        0..60,
    )
}
