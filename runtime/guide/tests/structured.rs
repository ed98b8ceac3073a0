//! The example, with each kind of constraint: what nano writes is what was requested.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use ossmith_guide::{Constraint, compile};
use serde_json::{Value, json};

#[path = "../examples/structured.rs"]
#[allow(dead_code, reason = "its main function prints")]
mod structured;

const QUESTION: &str = "What is 17 + 25?";

#[test]
fn answers_have_the_requested_form() {
    let schema = json!({
        "type": "object",
        "properties": {"sum": {"type": "integer"}, "sure": {"type": "boolean"}},
        "required": ["sum", "sure"],
        "additionalProperties": false,
    });
    let text =
        structured::answer(QUESTION, &Constraint::Schema { schema, lenient: false }).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert!(value["sum"].is_i64() && value["sure"].is_boolean(), "{text}");

    let text = structured::answer(QUESTION, &Constraint::Regex("[0-9]{2} marbles".into())).unwrap();
    assert!(text.len() == 10 && text.ends_with(" marbles"), "{text}");

    let choices = vec!["less than forty".to_owned(), "more than forty".to_owned()];
    let text = structured::answer(QUESTION, &Constraint::Choice(choices.clone())).unwrap();
    assert!(choices.contains(&text), "{text}");

    let lark = "start: DIGITS \" and \" DIGITS\nDIGITS: /[0-9]{1,3}/".to_owned();
    let text = structured::answer(QUESTION, &Constraint::Grammar(lark)).unwrap();
    assert!(text.contains(" and "), "{text}");
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    for constraint in [
        Constraint::Schema { schema: json!([]), lenient: false },
        Constraint::Schema { schema: json!({"$ref": "#/$defs/nothing"}), lenient: false },
        Constraint::Regex("(".to_owned()),
        Constraint::Grammar("start: nothing".to_owned()),
        Constraint::Choice(Vec::new()),
    ] {
        let refused = compile(&constraint).unwrap_err().to_string();
        assert!(refused.starts_with("the constraint cannot be enforced: "), "{refused}");
    }
}
