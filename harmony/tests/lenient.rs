//! What the lenient parser makes of malformed input: a line a rule.

use ossmith_harmony::{
    Event, LenientOptions, RepairKind, Role, SpecialSet, Stop, StreamParser, Strictness,
    decode_lossy, encode_with_special, parse, parse_lenient, special,
};

fn tokens(text: &str) -> Vec<u32> {
    encode_with_special(text, &SpecialSet::All, &SpecialSet::NONE).expect("nothing is disallowed")
}

/// Messages as `role[:name]|channel|recipient|type|text`, and the repairs' names.
fn read(text: &str, role: Option<Role>) -> (Vec<String>, Vec<&'static str>) {
    let parsed = parse_lenient(&tokens(text), role);
    let or_dash = |field: &Option<String>| field.clone().unwrap_or_else(|| "-".to_owned());
    let messages = parsed.messages.iter().map(|m| {
        let name = m.name.as_ref().map(|n| format!(":{n}")).unwrap_or_default();
        let header =
            [or_dash(&m.channel), or_dash(&m.recipient), or_dash(&m.content_type)].join("|");
        format!("{}{name}|{header}|{}", m.role.as_str(), m.text())
    });
    (messages.collect(), parsed.repairs.iter().map(|r| r.kind.name()).collect())
}

#[test]
fn rules_for_an_assistants_answer() {
    for (text, messages, repairs) in [
        ("<|channel|>final<|message|>Hi<|return|>", vec!["assistant|final|-|-|Hi"], vec![]),
        (
            "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Hi<|return|>",
            vec!["assistant|analysis|-|-|Hm", "assistant|final|-|-|Hi"],
            vec![],
        ),
        (
            "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
            vec!["assistant|commentary|functions.f|<|constrain|>json|{}"],
            vec![],
        ),
        (
            " to=functions.f<|channel|>commentary json<|message|>{}<|call|>",
            vec!["assistant|commentary|functions.f|json|{}"],
            vec![],
        ),
        // Several calls in one turn.
        (
            " to=functions.f<|channel|>commentary<|message|>{}<|call|><|start|>assistant to=functions.g<|channel|>commentary<|message|>{}<|call|>",
            vec!["assistant|commentary|functions.f|-|{}", "assistant|commentary|functions.g|-|{}"],
            vec![],
        ),
        // The recipient after the format, or cut at the constrain mark.
        (
            "<|channel|>commentary<|constrain|>json to=functions.f<|message|>{}<|call|>",
            vec!["assistant|commentary|functions.f|<|constrain|>json|{}"],
            vec![],
        ),
        (
            "<|channel|>commentary to=functions.f<|constrain|>json<|message|>{}<|call|>",
            vec!["assistant|commentary|functions.f|<|constrain|>json|{}"],
            vec![],
        ),
        ("<|message|>Hi<|return|>", vec!["assistant|final|-|-|Hi"], vec!["missing_channel"]),
        (
            " to=python<|message|>1<|call|>",
            vec!["assistant|commentary|python|-|1"],
            vec!["missing_channel"],
        ),
        (
            "<|channel|>thoughts<|message|>x<|end|>",
            vec!["assistant|commentary|-|-|x"],
            vec!["unknown_channel"],
        ),
        (
            "<|channel|>commentary functions.f <|constrain|>json<|message|>{}<|call|>",
            vec!["assistant|commentary|functions.f|<|constrain|>json|{}"],
            vec!["bare_recipient"],
        ),
        (
            "<|channel|>commentaryto=functions.f<|message|>{}<|call|>",
            vec!["assistant|commentary|functions.f|-|{}"],
            vec!["glued_words"],
        ),
        (
            "<|channel|>commentary to=functions.f to=functions.g code x<|message|>{}<|call|>",
            vec!["assistant|commentary|functions.f|code|{}"],
            vec!["extra_words"],
        ),
        (
            "<|channel|>analysis<|channel|>final<|message|>x<|end|>",
            vec!["assistant|analysis|-|final|x"],
            vec!["repeated_mark"],
        ),
        // Ends and starts that are missing.
        (
            "<|channel|>analysis<|message|>a<|channel|>final<|message|>b<|return|>",
            vec!["assistant|analysis|-|-|a", "assistant|final|-|-|b"],
            vec!["missing_end", "missing_start"],
        ),
        (
            "<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b<|return|>",
            vec!["assistant|analysis|-|-|a", "assistant|final|-|-|b"],
            vec!["missing_end"],
        ),
        (
            "<|channel|>analysis<|message|>a<|end|>assistant<|channel|>final<|message|>b<|return|>",
            vec!["assistant|analysis|-|-|a", "assistant|final|-|-|b"],
            vec!["missing_start"],
        ),
        (
            "<|channel|>final<|message|>a<|return|> and more",
            vec!["assistant|final|-|-|a", "assistant|final|-|-| and more"],
            vec!["missing_start", "header_without_message", "missing_channel"],
        ),
        (
            "<|channel|>final hello there<|return|>",
            vec!["assistant|final|-|-| hello there"],
            vec!["header_without_message"],
        ),
        (
            "<|channel|>final<|message|>a<|message|>b<|return|>",
            vec!["assistant|final|-|-|ab"],
            vec!["stray_token"],
        ),
        (
            "<|channel|>final<|message|>a<|reserved_200014|>b",
            vec!["assistant|final|-|-|ab"],
            vec!["stray_token"],
        ),
        ("<|channel|>final<|message|>a<|endoftext|>", vec!["assistant|final|-|-|a"], vec![]),
        ("", vec![], vec!["header_without_message"]),
    ] {
        let (got, found) = read(text, Some(Role::Assistant));
        assert_eq!(
            (got, found),
            (messages.iter().map(|m| (*m).to_owned()).collect(), repairs),
            "{text}"
        );
    }
}

#[test]
fn rules_for_whole_conversations() {
    for (text, messages, repairs) in [
        ("<|start|>user:bob<|message|>x<|end|>", vec!["user:bob|-|-|-|x"], vec![]),
        (
            "<|start|>functions.f to=assistant<|channel|>commentary<|message|>x<|end|>",
            vec!["tool:functions.f|commentary|assistant|-|x"],
            vec![],
        ),
        ("<|start|>functions.f<|message|>x<|end|>", vec!["tool:functions.f|-|-|-|x"], vec![]),
        (
            "<|start|><|channel|>final<|message|>x",
            vec!["assistant|final|-|-|x"],
            vec!["missing_role"],
        ),
        ("<|channel|>final<|message|>x", vec!["assistant|final|-|-|x"], vec!["missing_start"]),
        ("<|end|><|end|>", vec![], vec![]),
    ] {
        let (got, found) = read(text, None);
        assert_eq!(
            (got, found),
            (messages.iter().map(|m| (*m).to_owned()).collect(), repairs),
            "{text}"
        );
    }
}

#[test]
fn unknown_ids_and_bad_bytes_do_not_swallow_what_follows() {
    let mut input = tokens("<|channel|>final<|message|>ab");
    let bad = ossmith_harmony::encode("𒀀")[0]; // the first byte of a character
    input.extend([300_000, bad]);
    input.extend(tokens("cd<|return|>"));
    let parsed = parse_lenient(&input, Some(Role::Assistant));
    assert_eq!(parsed.messages[0].text(), "ab\u{fffd}cd");
    assert_eq!(parsed.stop, Some(Stop::Return));
    let kinds: Vec<_> = parsed.repairs.iter().map(|r| (r.position, r.kind.clone())).collect();
    assert_eq!(kinds, [(4, RepairKind::UnknownToken(300_000)), (6, RepairKind::InvalidUtf8)]);
}

#[test]
fn a_header_that_never_ends_becomes_content() {
    let text = "word ".repeat(1000);
    let parsed = parse_lenient(&ossmith_harmony::encode(&text), Some(Role::Assistant));
    assert_eq!(parsed.messages.len(), 1);
    assert_eq!(parsed.messages[0].text(), text);
    assert_eq!(parsed.repairs[0].kind, RepairKind::HeaderTooLong);
}

#[test]
fn a_cut_answer_is_delivered() {
    let parsed = parse_lenient(&tokens("<|channel|>final<|message|>Hel"), Some(Role::Assistant));
    assert_eq!((parsed.messages[0].text().as_str(), parsed.stop), ("Hel", Some(Stop::Cut)));
    assert!(decode_lossy(&[special::CALL]).is_ok());
}

#[test]
fn the_role_of_an_unfinished_header_is_no_content() {
    let unfinished = ["header_without_message", "missing_channel"];
    for (text, role, message) in [
        ("<|start|>assistant I see<|end|>", None, "assistant|final|-|-| I see"),
        ("<|start|>user I see<|end|>", None, "user|-|-|-| I see"),
        ("assistant I see<|end|>", Some(Role::Assistant), "assistant|final|-|-| I see"),
        ("user I see<|end|>", Some(Role::Assistant), "assistant|final|-|-|user I see"),
        ("I see<|end|>", Some(Role::Assistant), "assistant|final|-|-|I see"),
        // A word that only begins like the role.
        ("assistants agree<|end|>", Some(Role::Assistant), "assistant|final|-|-|assistants agree"),
    ] {
        let (messages, repairs) = read(text, role);
        assert_eq!(messages, [message], "{text}");
        assert_eq!(repairs, unfinished[..repairs.len()], "{text}");
    }
    // The reference takes the role's word away too, and no other.
    for (text, content) in [
        ("assistant I see<|end|>", "I see"),
        ("user I see<|end|>", "user I see"),
        ("I see assistant<|end|>", "I see assistant"),
    ] {
        let strictness = Strictness::KeepUnfinishedHeaders;
        let messages = parse(&tokens(text), Some(Role::Assistant), strictness);
        let messages = messages.expect("the role is known");
        assert_eq!((messages.len(), messages[0].text().as_str()), (1, content), "{text}");
        assert_eq!(messages[0].role, Role::Assistant);
    }
}

#[test]
fn only_what_an_assistant_sends_to_a_recipient_is_a_call() {
    let text = "<|start|>functions.f to=assistant<|channel|>commentary<|message|>5<|end|>\
                <|start|>user to=assistant<|message|>6<|end|>\
                <|start|>assistant<|channel|>final<|message|>7<|end|>\
                <|start|>assistant to=all<|channel|>final<|message|>8<|end|>\
                <|start|>assistant to=python<|channel|>commentary<|message|>9<|call|>\
                <|start|>assistant to=functions.g<|channel|>commentary<|message|>{}<|call|>";
    let mut parser = StreamParser::new(None, LenientOptions::default());
    let (mut read, mut functions) = (Vec::new(), Vec::new());
    parser.push_all(&tokens(text), |event| match event {
        Event::MessageStart(header) => functions.push(header.function().map(str::to_owned)),
        Event::Text(text) => read.push(format!("text {text}")),
        Event::Arguments(text) => read.push(format!("arguments {text}")),
        Event::MessageEnd(_) | Event::Repaired(_) => {}
    });
    assert_eq!(read, ["text 5", "text 6", "text 7", "text 8", "arguments 9", "arguments {}"]);
    assert_eq!(functions[..5], [const { None }; 5]);
    assert_eq!(functions[5].as_deref(), Some("g"));
}
