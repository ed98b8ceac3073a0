//! What an answer must look like and when it is right: the rules of `tools/nano-training/score.py`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The parts of a well-formed completion: the text after `<|start|>assistant`, special tokens by name.
#[derive(Debug, PartialEq)]
pub(super) struct Parts<'a> {
    pub(super) analysis: &'a str,
    end: End<'a>,
}

#[derive(Debug, PartialEq)]
enum End<'a> {
    Final(&'a str),
    Call { name: &'a str, arguments: &'a str },
}

impl<'a> Parts<'a> {
    /// An analysis, then either a final answer that returns or a JSON call; anything else is not well-formed.
    pub(super) fn parse(completion: &'a str) -> Option<Parts<'a>> {
        let rest = completion.strip_prefix("<|channel|>analysis<|message|>")?;
        let (analysis, rest) = text(rest)?;
        let rest = rest.strip_prefix("<|end|><|start|>assistant<|channel|>")?;
        if let Some(rest) = rest.strip_prefix("final<|message|>") {
            let (answer, rest) = text(rest)?;
            return (rest == "<|return|>").then_some(Parts { analysis, end: End::Final(answer) });
        }
        let rest = rest.strip_prefix("commentary to=")?;
        let length = rest.find(|c: char| !(c.is_alphanumeric() || "_.-".contains(c)))?;
        let (name, rest) = rest.split_at(length);
        let (arguments, rest) = text(rest.strip_prefix(" <|constrain|>json<|message|>")?)?;
        let ends = rest == "<|call|>" && !name.is_empty();
        ends.then_some(Parts { analysis, end: End::Call { name, arguments } })
    }
}

/// The text before the next special token, and the rest from there.
fn text(rest: &str) -> Option<(&str, &str)> {
    Some(rest.split_at(rest.find("<|")?))
}

/// When an answer is right: all of this holds.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Rule {
    /// It is this call; the other rules then do not apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<Call>,
    /// It is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    equals: Option<Vec<String>>,
    /// It holds all of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    contains: Vec<String>,
    /// It holds none of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    excludes: Vec<String>,
    /// The last number in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<i64>,
    /// It has no small letter.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    upper: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Call {
    name: String,
    arguments: Value,
}

impl Rule {
    /// As written in the set.
    pub(super) fn json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    pub(super) fn met(&self, parts: &Parts<'_>) -> bool {
        match (&self.call, &parts.end) {
            (Some(call), End::Call { name, arguments }) => {
                call.name == *name
                    && serde_json::from_str(arguments).is_ok_and(|got| same(&got, &call.arguments))
            }
            (None, End::Final(answer)) => self.met_by_text(answer.trim()),
            _ => false,
        }
    }

    fn met_by_text(&self, answer: &str) -> bool {
        let equals = |texts: &Vec<String>| texts.iter().any(|text| text == answer);
        self.equals.as_ref().is_none_or(equals)
            && self.contains.iter().all(|part| answer.contains(part))
            && !self.excludes.iter().any(|part| answer.contains(part))
            && self.number.is_none_or(|number| last_number(answer) == Some(number))
            && (!self.upper || answer == answer.to_uppercase())
    }
}

/// JSON values are the same if their numbers have the same value, however written (`2` and `2.0`).
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        _ => a == b,
    }
}

/// The last run of digits, with the minus sign right before it.
fn last_number(text: &str) -> Option<i64> {
    let last = text.rfind(|c: char| c.is_ascii_digit())?;
    let digits = text[..=last].trim_end_matches(|c: char| c.is_ascii_digit());
    let start = digits.strip_suffix('-').unwrap_or(digits).len();
    text[start..=last].parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::json;

    use super::*;

    const FINAL: &str = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>A<|return|>";
    const CALL: &str = "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>";

    #[test]
    fn two_forms_are_well_formed() {
        let answer = Parts { analysis: "Hm.", end: End::Final("A") };
        let call = Parts { analysis: "", end: End::Call { name: "functions.f", arguments: "{}" } };
        assert_eq!(Parts::parse(FINAL), Some(answer));
        assert_eq!(Parts::parse(CALL), Some(call));
    }

    #[test]
    fn anything_else_is_not() {
        for (good, from, to) in [
            (FINAL, "<|return|>", ""),
            (FINAL, "<|return|>", "<|return|> "),
            (FINAL, "<|return|>", "<|end|>"),
            (FINAL, "A", "A<|message|>"),
            (FINAL, "Hm.<|end|>", "Hm."),
            (FINAL, "analysis", "commentary"),
            (FINAL, "final", " final"),
            (CALL, "functions.f", ""),
            (CALL, "functions.f", "functions f"),
            (CALL, "<|constrain|>", ""),
            (CALL, "<|call|>", "<|return|>"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good);
            assert_eq!(Parts::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn rules_are_met_or_not() {
        for (rule, answer, want) in [
            (json!({}), "anything", true),
            (json!({"equals": ["a", "b"]}), " b\n", true),
            (json!({"equals": ["a", "b"]}), "ab", false),
            (json!({"contains": ["x", "y"]}), "yx", true),
            (json!({"contains": ["x", "y"]}), "y", false),
            (json!({"excludes": ["sorry"]}), "so", true),
            (json!({"excludes": ["sorry"]}), "I am sorry.", false),
            (json!({"number": 42}), "17 + 25 = 42.", true),
            (json!({"number": 42}), "42, not 43", false),
            (json!({"number": -3}), "2 - 5 = -3.", true),
            (json!({"number": 3}), "2-3", false),
            (json!({"number": 3}), "none", false),
            (json!({"upper": true}), "IT IS 5.", true),
            (json!({"upper": true}), "It is 5.", false),
            (json!({"number": 5, "upper": true}), "FIVE", false),
            (json!({"call": {"name": "f", "arguments": {}}}), "f", false),
        ] {
            let parts = Parts { analysis: "", end: End::Final(answer) };
            let got = serde_json::from_value::<Rule>(rule.clone()).unwrap().met(&parts);
            assert_eq!(got, want, "{rule} {answer}");
        }
    }

    #[test]
    fn calls_are_compared_as_json() {
        let rule = json!({"call": {"name": "f", "arguments": {"a": 2, "b": ["x"]}}});
        let rule: Rule = serde_json::from_value(rule).unwrap();
        for (name, arguments, want) in [
            ("f", r#"{"b": ["x"], "a": 2.0}"#, true),
            ("g", r#"{"a":2,"b":["x"]}"#, false),
            ("f", r#"{"a":"2","b":["x"]}"#, false),
            ("f", r#"{"a":2,"b":["x"],"c":1}"#, false),
            ("f", r#"{"a":2,"b":["x"]"#, false),
        ] {
            let parts = Parts { analysis: "", end: End::Call { name, arguments } };
            assert_eq!(rule.met(&parts), want, "{name} {arguments}");
        }
        assert!(!rule.met(&Parts { analysis: "", end: End::Final("f") }));
    }
}
