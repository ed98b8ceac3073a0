//! Guides driven by a blind writer that samples any allowed token: what comes out is always what was requested.

use std::sync::Arc;

use ossmith_harmony::{Message, Role, parse_lenient, special};
use serde_json::{Value, json};

use super::constraint::Constraint;
use super::*;

pub(super) const WORDS: usize = vocabulary::VOCABULARY.div_ceil(32);

/// Samples allowed tokens until the turn ends or `most` are written. It favours what ends things, so that texts end.
fn write(rules: Rules, prefill: &[u32], seed: u64, most: usize) -> Vec<u32> {
    let mut guide = Guide::new(Arc::new(rules), prefill);
    let (mut mask, mut tokens, mut random) = (vec![0; WORDS], prefill.to_vec(), seed);
    for _ in 0..most {
        assert!(may(&mut guide, &mut mask), "everything is allowed after {tokens:?}");
        let allowed: Vec<u32> =
            (0..vocabulary::VOCABULARY as u32).filter(|&id| bits::get(&mask, id)).collect();
        assert!(!allowed.is_empty(), "nothing is allowed after {tokens:?}");
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pick = |from: &[u32]| from[(random >> 33) as usize % from.len()];
        let closing: Vec<u32> = allowed
            .iter()
            .copied()
            .filter(|&id| {
                special::is_special(id)
                    || ossmith_harmony::token_bytes(id)
                        .is_some_and(|b| matches!(b, b"\"" | b"}" | b"]" | b":" | b","))
            })
            .collect();
        let token =
            if !closing.is_empty() && random >> 62 != 0 { pick(&closing) } else { pick(&allowed) };
        tokens.push(token);
        guide.accept(token);
        if token == special::RETURN || token == special::CALL {
            return tokens;
        }
    }
    tokens
}

fn messages(tokens: &[u32]) -> Vec<Message> {
    let parsed = parse_lenient(tokens, Some(Role::Assistant));
    assert!(parsed.repairs.is_empty(), "{:?}", parsed.repairs);
    parsed.messages
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": false
    })
}

/// Compiles on a thread with the stack that it needs.
fn compile(constraint: &Constraint) -> Result<Compiled, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(grammar::STACK_BYTES);
        let compiling = thread
            .spawn_scoped(scope, || grammar::compile_on_this_thread(constraint))
            .expect("a thread");
        compiling.join().expect("no panic")
    })
}

fn schema_of(schema: Value) -> Compiled {
    compile(&Constraint::Schema { schema, lenient: false }).expect("a good schema")
}

pub(super) fn shared() -> Option<Arc<Compiled>> {
    Some(Arc::new(formed()))
}

fn formed() -> Compiled {
    schema_of(schema())
}

pub(super) fn may(guide: &mut Guide, mask: &mut [u32]) -> bool {
    guide.mask(mask).expect("a form that can be followed")
}

fn check(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|why| panic!("{text}: {why}"));
    assert!(value["city"] == "Paris" || value["city"] == "Rome", "{text}");
    assert!((1..10).contains(&value["days"].as_i64().unwrap_or(0)), "{text}");
}

#[test]
fn a_blind_writer_calls_as_asked() {
    for seed in 0..6 {
        let call = CallRule {
            recipient: "functions.trip".to_owned(),
            arguments: shared(),
            built_in: false,
        };
        let rules =
            Rules { thinking: Some(8), calls: vec![call], must_call: true, ..Rules::default() };
        let tokens = write(rules, &[], seed, 400);
        assert_eq!(tokens.last(), Some(&special::CALL), "seed {seed}");
        let messages = messages(&tokens);
        let last = messages.last().expect("a message");
        assert_eq!(last.recipient.as_deref(), Some("functions.trip"), "seed {seed}");
        check(&last.text());
    }
}

#[test]
fn several_calls_come_only_where_they_may() {
    for (several_calls, seed) in (0..12).map(|seed| (seed % 2 == 0, seed)) {
        let call = CallRule {
            recipient: "functions.trip".to_owned(),
            arguments: shared(),
            built_in: false,
        };
        let calls = vec![call];
        let rules = Rules { calls, must_call: true, several_calls, ..Rules::default() };
        let tokens = write(rules, &begin_call("functions.trip"), seed, 2000);
        assert_eq!(tokens.last(), Some(&special::CALL), "seed {seed}");
        let messages = messages(&tokens);
        for message in &messages {
            assert_eq!(message.recipient.as_deref(), Some("functions.trip"), "seed {seed}");
            check(&message.text());
        }
        assert!(several_calls || messages.len() == 1, "seed {seed}");
        // The blind writer takes either end as soon as it may.
        let ends = tokens.iter().filter(|token| **token == special::END).count();
        assert_eq!(ends, messages.len() - 1, "seed {seed}");
    }
}

#[test]
fn another_call_needs_leave() {
    for several_calls in [true, false] {
        let call = CallRule {
            recipient: "functions.trip".to_owned(),
            arguments: shared(),
            built_in: false,
        };
        let rules = Rules { calls: vec![call], several_calls, ..Rules::default() };
        let mut guide = Guide::new(Arc::new(rules), &begin_call("functions.trip"));
        encode(r#"{"city":"Rome","days":2}"#).into_iter().for_each(|token| guide.accept(token));
        let mut mask = vec![0; WORDS];
        assert!(may(&mut guide, &mut mask) && bits::get(&mask, special::CALL));
        assert_eq!(bits::get(&mask, special::END), several_calls);
        if several_calls {
            std::iter::once(special::END).chain(next_message()).for_each(|t| guide.accept(t));
            assert!(may(&mut guide, &mut mask) && !bits::get(&mask, special::RETURN));
            for token in begin_call("functions.trip") {
                assert!(may(&mut guide, &mut mask) && bits::get(&mask, token), "{token}");
                guide.accept(token);
            }
        }
    }
}

#[test]
fn a_blind_writer_answers_in_form() {
    for seed in 0..6 {
        let rules = Rules { thinking: Some(5), answer: shared(), ..Rules::default() };
        let tokens = write(rules, &begin_channel("analysis"), seed, 400);
        assert_eq!(tokens.last(), Some(&special::RETURN), "seed {seed}");
        let messages = messages(&tokens);
        assert_eq!(messages[0].channel.as_deref(), Some("analysis"));
        let last = messages.last().expect("a message");
        assert_eq!(last.channel.as_deref(), Some("final"), "seed {seed}");
        check(&last.text());
    }
}

#[test]
fn a_text_is_never_forced_shut() {
    let schema = json!({
        "type": "object",
        "description": "long ".repeat(800),
        "properties": {"rows": {"type": "string"}},
        "required": ["rows"]
    });
    let rules =
        Rules { thinking: Some(0), answer: Some(Arc::new(schema_of(schema))), ..Rules::default() };
    let mut guide = Guide::new(Arc::new(rules), &begin_channel("final"));
    let text = json!({"rows": "<tr><td>1</td></tr>".repeat(40)}).to_string();
    let mut mask = vec![0; WORDS];
    for token in encode(&text) {
        assert!(may(&mut guide, &mut mask) && bits::get(&mask, token), "{token}");
        guide.accept(token);
    }
    assert!(may(&mut guide, &mut mask) && bits::get(&mask, special::RETURN));
}

#[test]
fn what_can_no_longer_be_followed_is_an_error() {
    let mut text = formed();
    text.accept(encode("x")[0]);
    let mut mask = vec![0; WORDS];
    assert!(text.mask(ANSWER, &mut mask).is_err());
}

#[test]
fn a_thousand_optional_properties_can_be_followed() {
    let properties: Value =
        (0..1000).map(|n| (format!("p{n}"), json!({"type": "string", "maxLength": 100}))).collect();
    let mut text = schema_of(json!({
        "type": "object", "properties": properties, "additionalProperties": false
    }));
    let mut mask = vec![0; WORDS];
    for token in encode(r#"{"p309":"x","p999":"y"}"#) {
        assert!(text.mask(ANSWER, &mut mask).is_ok() && bits::get(&mask, token), "{token}");
        text.accept(token);
    }
    assert!(text.mask(ANSWER, &mut mask).is_ok() && bits::get(&mask, special::RETURN));
}

/// Whether a text is allowed from its first token to its end.
fn allows(mut text: Compiled, written: &str) -> bool {
    let mut mask = vec![0; WORDS];
    for token in encode(written) {
        if text.mask(ANSWER, &mut mask).is_err() || !bits::get(&mask, token) {
            return false;
        }
        text.accept(token);
    }
    text.mask(ANSWER, &mut mask).is_ok() && bits::get(&mask, special::RETURN)
}

#[test]
fn answers_have_no_runs_of_white_space_and_arguments_may_be_indented() {
    let constraint = |answer: bool| match (schema(), answer) {
        (schema, true) => Constraint::Schema { schema, lenient: false },
        (schema, false) => Constraint::Arguments { schema: Arc::new(schema), lenient: false },
    };
    for (written, in_answer) in [
        (r#"{"city":"Rome","days":2}"#, true),
        (r#"{"city": "Rome", "days": 2}"#, true),
        (r#"{ "city" : "Rome" , "days" : 2 }"#, true),
        (r#"{"city":  "Rome","days":2}"#, false),
        ("{\n  \"city\": \"Rome\",\n  \"days\": 2\n}", false),
    ] {
        let compiled = |answer| compile(&constraint(answer)).expect("a good schema");
        assert_eq!(allows(compiled(true), written), in_answer, "{written}");
        assert!(allows(compiled(false), written), "{written}");
    }
}

/// Which of these texts a schema allows, in strict and in lenient form.
fn check_texts(schema: &Value, texts: &[(&str, bool)]) {
    for lenient in [false, true] {
        for (text, want) in texts {
            let constraint = Constraint::Schema { schema: schema.clone(), lenient };
            let compiled = compile(&constraint).unwrap_or_else(|why| panic!("{schema}: {why}"));
            assert_eq!(allows(compiled, text), *want, "{schema} {text} {lenient}");
        }
    }
}

#[test]
fn nullable_allows_null_wherever_it_stands() {
    let of = |schema: Value| {
        json!({"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": false,
            "$defs": {"s": {"type": "string", "maxLength": 2}, "n": {"type": "string", "nullable": true}}})
    };
    let (null, text) = (r#"{"a":null}"#, r#"{"a":"x"}"#);
    for (schema, allows_null) in [
        (json!({"type": "string", "nullable": true}), true),
        (json!({"type": "string", "nullable": false}), false),
        (json!({"type": ["string", "null"], "nullable": true}), true),
        (json!({"type": "string", "enum": ["x"], "nullable": true}), true),
        (json!({"const": "x", "nullable": true}), true),
        (json!({"$ref": "#/$defs/s", "nullable": true}), true),
        (json!({"$ref": "#/$defs/n"}), true),
        (json!({"anyOf": [{"type": "string"}, {"type": "integer"}], "nullable": true}), true),
        (json!({"oneOf": [{"type": "string", "maxLength": 3}], "nullable": true}), true),
        (json!({"type": "string"}), false),
    ] {
        check_texts(&of(schema), &[(text, true), (null, allows_null), (r#"{"a":[]}"#, false)]);
    }
    // A property of this name is no keyword.
    let named = json!({"type": "object", "properties": {"nullable": {"const": true}}, "required": ["nullable"], "additionalProperties": false});
    check_texts(&named, &[(r#"{"nullable":true}"#, true), (r#"{"nullable":null}"#, false)]);
    let root = json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/s"}}, "required": ["a"],
        "additionalProperties": false, "allOf": [{"type": "object"}], "nullable": true, "$defs": {"s": {"type": "string"}}});
    check_texts(&root, &[("null", true), (text, true), ("1", false)]);
}

#[test]
fn bounds_of_the_older_draft_are_exclusive_or_not() {
    for (exclusive, edge) in [(true, false), (false, true)] {
        let schema = json!({"type": "integer", "minimum": 3, "exclusiveMinimum": exclusive, "maximum": 7, "exclusiveMaximum": exclusive});
        check_texts(&schema, &[("3", edge), ("4", true), ("6", true), ("7", edge), ("8", false)]);
    }
    let schema = json!({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 7});
    check_texts(&schema, &[("3", false), ("4", true), ("7", false)]);
}

#[test]
fn numbers_that_no_float_holds_are_refused_or_left_out() {
    let edge = json!({"type": "integer", "minimum": 0, "maximum": 9_007_199_254_740_992_u64});
    check_texts(&edge, &[("9007199254740992", true), ("9007199254740993", false), ("0", true)]);
    for (schema, key) in [
        (json!({"type": "integer", "minimum": 9_007_199_254_740_993_u64}), "minimum"),
        (json!({"type": "integer", "maximum": 9_223_372_036_854_775_807_u64}), "maximum"),
        (json!({"type": "integer", "exclusiveMaximum": 1e20}), "exclusiveMaximum"),
        (json!({"type": "number", "exclusiveMinimum": -1e20}), "exclusiveMinimum"),
        (json!({"enum": [1, 9_007_199_254_740_993_u64]}), "enum"),
        (json!({"const": {"a": [18_446_744_073_709_551_615_u64]}}), "const"),
    ] {
        let nested = json!({"type": "object", "properties": {"a": schema}, "required": ["a"]});
        let strict = Constraint::Schema { schema: nested.clone(), lenient: false };
        let why = compile(&strict).map(drop).expect_err("a refusal");
        assert!(why.starts_with(&format!("`{key}` has ")) && why.contains("2^53"), "{why}");
        let lenient = Constraint::Schema { schema: nested, lenient: true };
        let compiled = compile(&lenient).expect("left out");
        assert!(allows(compiled, r#"{"a":9007199254740993}"#), "{schema}");
    }
}

#[test]
fn digits_and_words_of_expressions_are_ascii() {
    for (regex, texts) in [
        (r"\d+", [("12", true), ("١٢", false)]),
        (r"[\d.]+", [("1.2", true), ("١", false)]),
        (r"\w+", [("a_1", true), ("é", false)]),
        (r"\D", [("é", true), ("1", false)]),
        (r"a/b\\d", [(r"a/b\d", true), ("a/b1", false)]),
    ] {
        let pattern = json!({"type": "string", "pattern": format!("^(?:{regex})$")});
        for (text, want) in texts {
            let compiled = compile(&Constraint::Regex(regex.to_owned())).expect("a good one");
            assert_eq!(allows(compiled, text), want, "{regex} {text}");
            check_texts(&pattern, &[(&Value::from(text).to_string(), want)]);
        }
    }
}

#[test]
fn formats_that_are_notes_are_notes_everywhere() {
    let note = json!({"type": "string", "format": "password"});
    for schema in [
        note.clone(),
        json!({"type": "object", "properties": {"default": note.clone(), "enum": note.clone()}}),
        json!({"type": "object", "properties": {"a": {"anyOf": [note.clone(), {"type": "null"}]}}}),
        json!({"$ref": "#/$defs/const", "$defs": {"const": note}}),
        json!({"type": "object", "const": {"format": "password"}}),
    ] {
        schema_of(schema);
    }
}

#[test]
fn without_a_budget_reasoning_is_free_and_headers_are_not() {
    let call = CallRule { recipient: "functions.f".to_owned(), arguments: None, built_in: false };
    let rules = Rules { calls: vec![call], ..Rules::default() };
    let mut guide = Guide::new(Arc::new(rules), &begin_channel("analysis"));
    let mut mask = vec![0; WORDS];
    assert!(!may(&mut guide, &mut mask), "reasoning is free");
    guide.accept(special::END);
    for token in next_message() {
        assert!(may(&mut guide, &mut mask) && bits::get(&mask, token));
        guide.accept(token);
    }
    assert!(may(&mut guide, &mut mask) && bits::get(&mask, special::CHANNEL));
    assert!(!bits::get(&mask, special::RETURN));
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    for (constraint, want) in [
        (Constraint::Schema { schema: json!({"type": "nonsense"}), lenient: false }, "nonsense"),
        (Constraint::Schema { schema: json!({"$ref": "#/nowhere"}), lenient: false }, "nowhere"),
        (Constraint::Schema { schema: json!([1]), lenient: false }, "object"),
        (
            Constraint::Schema {
                schema: json!({"type": "array", "uniqueItems": true}),
                lenient: false,
            },
            "uniqueItems",
        ),
        (
            Constraint::Schema {
                schema: json!({"type": "object", "minProperties": 3, "maxProperties": 4, "additionalProperties": {"type": "integer"}}),
                lenient: false,
            },
            "minProperties",
        ),
        (Constraint::Regex("(".to_owned()), ""),
        (Constraint::Grammar("start: nowhere".to_owned()), "nowhere"),
    ] {
        let why = compile(&constraint).map(drop).expect_err("a refusal");
        assert!(why.contains(want), "{constraint:?}: {why}");
    }
}

/// A schema of this many definitions, each of which has the next inside.
fn chained(length: usize, inside: fn(Value) -> Value) -> Value {
    let mut defs: serde_json::Map<String, Value> = (0..length)
        .map(|n| (format!("d{n}"), inside(json!({"$ref": format!("#/$defs/d{}", n + 1)}))))
        .collect();
    defs.insert(format!("d{length}"), json!({"type": "null"}));
    json!({"$ref": "#/$defs/d0", "$defs": defs})
}

/// Follows a grammar for some tokens on a thread with a small stack, as the engine's threads have.
fn follow(mut text: Compiled) {
    let write = move || {
        let mut mask = vec![0; WORDS];
        for _ in 0..20 {
            // A limit of llguidance is an end like any other here.
            if text.mask(ANSWER, &mut mask).is_err() {
                return;
            }
            let allowed = (0..vocabulary::VOCABULARY as u32).find(|&id| bits::get(&mask, id));
            match allowed {
                Some(token) if token != special::RETURN => text.accept(token),
                _ => return,
            }
        }
    };
    let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(write);
    thread.expect("a thread").join().expect("a small stack is enough");
}

#[test]
fn the_longest_chains_of_references_end_in_a_grammar_or_a_refusal() {
    let schemas: [fn(Value) -> Value; 5] = [
        |next| next,
        |next| json!({"type": "object", "properties": {"a": next}, "required": ["a"]}),
        |next| json!({"anyOf": [next, {"type": "null"}]}),
        |next| json!({"allOf": [next, {"type": ["object", "null"]}]}),
        |next| json!({"type": "array", "items": next}),
    ];
    for inside in schemas {
        for (length, fits) in [(300, true), (680, true), (3000, false)] {
            let schema = chained(length, inside);
            match (compile(&Constraint::Schema { schema, lenient: false }), fits) {
                (Ok(text), true) => follow(text),
                (Err(why), false) if why.contains("4096") => {}
                (other, _) => panic!("{length} of {}: {other:?}", inside(json!({}))),
            }
        }
    }
}

#[test]
fn the_longest_chains_of_rules_end_in_a_grammar_or_a_refusal() {
    for (length, fits) in [(1000, true), (2040, true), (5000, false)] {
        let chain = |link: &dyn Fn(usize) -> String| (0..length).map(link).collect::<String>();
        for text in [
            format!("start: a0\n{}a{length}: \"z\"", chain(&|n| format!("a{n}: a{}\n", n + 1))),
            format!("start: A0\n{}A{length}: \"z\"", chain(&|n| format!("A{n}: A{}\n", n + 1))),
            format!(
                "start: a0\n{}a{length}: \"z\"",
                chain(&|n| format!("a{n}: \"x\" a{} | \"y\"\n", n + 1))
            ),
        ] {
            match (compile(&Constraint::Grammar(text)), fits) {
                (Ok(text), true) => follow(text),
                (Err(why), false) if why.contains("at most") => {}
                (other, _) => panic!("{length}: {other:?}"),
            }
        }
    }
}

#[test]
fn the_deepest_nesting_ends_in_a_grammar_or_a_refusal() {
    let nested = |open: &str, inner: &str, close: &str, levels: usize| {
        format!("{}{inner}{}", open.repeat(levels), close.repeat(levels))
    };
    for (open, close, levels) in [
        ("(", ")", 32_000),
        ("[", "]", 32_000),
        ("~(", ")", 21_000),
        ("a{", "}", 21_000),
        ("%lark { start: ", "}", 4000),
    ] {
        let text = format!("start: {}", nested(open, "\"x\"", close, levels));
        compile(&Constraint::Grammar(text)).map(drop).expect_err(open);
    }
    let condition = nested("not(", "true", ")", 13_000);
    let text = format!("start: a::0\na::_: \"x\" a::incr(_) %if {condition} | \"y\"");
    let _ = compile(&Constraint::Grammar(text)).map(follow);
    for (open, close, levels) in [("(", ")", 32_000), ("(a|", ")", 16_000), ("(?i:", ")*", 10_000)]
    {
        compile(&Constraint::Regex(nested(open, "a", close, levels))).map(drop).expect_err(open);
    }
}

/// What Codex and other agents give as the format of their patches.
const PATCH: &str = r#"start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?
hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?
filename: /(.+)/
add_line: "+" /(.*)/ LF -> line
change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF
%import common.LF
"#;

fn input(grammar: &str) -> Compiled {
    compile(&Constraint::Input(grammar.to_owned())).unwrap_or_else(|why| panic!("{grammar}: {why}"))
}

#[test]
fn the_input_of_a_free_form_tool_follows_its_grammar_inside_a_json_string() {
    let patch = "*** Begin Patch\n*** Update File: a b.rs\n@@ fn f() {\n-\tlet s = \"\\u{e4}\\\\n\";\n+\tlet s = 'ä🙂'; // \u{7f}\u{1b}\n*** End Patch";
    let digits = "start: sum\nsum: NUMBER (\"+\" NUMBER)*\nNUMBER: /[0-9]+/\n%ignore /[ \\n]+/";
    for (grammar, text, fits) in [
        (PATCH, patch, true),
        (PATCH, &format!("{patch}\n"), true),
        (PATCH, &format!("{patch}\n\n"), false),
        (PATCH, &patch[1..], false),
        (PATCH, "*** Begin Patch\n*** End Patch", false),
        (PATCH, "*** Begin Patch\n*** Delete File: x\n*** End Patc", false),
        (digits, "1 +\n2+34", true),
        (digits, "1 + 2 +", false),
        (digits, "", false),
        ("start: /(?s:.*)/", "any \"text\"\n\\ at all /", true),
        ("start: /.*/", "one line\n", false),
        // What is escaped may be the end of a token, or the first character of one.
        ("start: \"f();\\n\\n\\tg();\\n\"", "f();\n\n\tg();\n", true),
        ("start: \"\\\"\\\\\"", "\"\\", true),
        ("start: A\nA: ~/(?s:.*)b(?s:.*)/", "ac", true),
    ] {
        for object in [
            json!({ "input": text }).to_string(),
            json!({ "input": text }).to_string().replace(':', ": "),
            format!("{{\n  \"input\": {}\n}}", Value::from(text)),
        ] {
            // A colon in the text has a space behind it now.
            if serde_json::from_str::<Value>(&object).expect("JSON")["input"] == text {
                assert_eq!(allows(input(grammar), &object), fits, "{object} of {grammar}");
            }
        }
        let plain = compile(&Constraint::Grammar(grammar.to_owned())).expect("a good grammar");
        assert_eq!(allows(plain, text), fits, "{text} of {grammar}");
    }
}

#[test]
fn a_blind_writer_gives_a_free_form_tool_what_it_takes() {
    let grammar = "start: (ITEM \";\\n\")+\nITEM: /[a-c\"\\\\ä]{1,4}/";
    for seed in 0..6 {
        let arguments = Some(Arc::new(input(grammar)));
        let call = CallRule { recipient: "functions.list".to_owned(), arguments, built_in: false };
        let rules = Rules { calls: vec![call], must_call: true, ..Rules::default() };
        let tokens = write(rules, &begin_call("functions.list"), seed, 2000);
        assert_eq!(tokens.last(), Some(&special::CALL), "seed {seed}");
        let object: Value = serde_json::from_str(&messages(&tokens)[0].text()).expect("JSON");
        assert_eq!(object.as_object().map(serde_json::Map::len), Some(1), "{object}");
        let text = object["input"].as_str().expect("a text");
        let plain = compile(&Constraint::Grammar(grammar.to_owned())).expect("a good grammar");
        assert!(allows(plain, text), "seed {seed}: {text}");
    }
}

#[test]
fn a_grammar_of_an_input_that_cannot_be_followed_is_refused() {
    for (grammar, want) in
        [("start: nowhere", "nowhere"), ("begin: \"a\"", "start"), ("start: A\nA: /[^\\s\\S]/", "")]
    {
        let refused = compile(&Constraint::Input(grammar.to_owned())).map(drop);
        let why = refused.expect_err(grammar);
        assert!(why.contains(want), "{grammar}: {why}");
    }
    let mut text = input(PATCH);
    encode(r#"{"input":"*** Begin"#).into_iter().for_each(|token| text.accept(token));
    text.accept(encode("x")[0]);
    assert!(text.mask(ANSWER, &mut vec![0; WORDS]).is_err());
}

#[test]
fn a_constraint_of_each_kind_is_compiled_to_get_ready() {
    assert_eq!(super::warm_up(), Ok(()));
}
