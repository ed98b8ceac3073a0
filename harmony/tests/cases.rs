//! The reference library's answers: every request of the case file has to be answered the same.
//!
//! A case is a line `{"id", "category", "request", "expected"}`; the protocol is that of `ossmith harmony`.

use serde_json::{Value, json};

const CASES: &str = include_str!("data/cases.jsonl");

/// A message with all optional fields there and a string content as a list.
fn normal_message(message: &Value) -> Value {
    let content = match &message["content"] {
        Value::String(text) => json!([{ "type": "text", "text": text }]),
        other => other.clone(),
    };
    json!({
        "role": message["role"], "name": message["name"], "recipient": message["recipient"],
        "channel": message["channel"], "content_type": message["content_type"], "content": content,
    })
}

fn normal_messages(answer: &Value) -> Value {
    answer["messages"]
        .as_array()
        .map(|list| list.iter().map(normal_message).collect())
        .unwrap_or_default()
}

/// The parts of an answer that have to be equal.
fn essence(op: &str, answer: &Value) -> Value {
    let failed = !answer["error"].is_null();
    match op {
        "stream" => json!([failed, answer["events"], normal_messages(answer), answer["content"]]),
        _ if failed => json!("error"),
        "parse" => normal_messages(answer),
        "decode" => answer["text"].clone(),
        "stop_tokens" => ["stop_tokens", "stop_tokens_for_assistant_actions"]
            .iter()
            .map(|key| {
                let mut list: Vec<u64> = answer[*key]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_u64)
                    .collect();
                list.sort_unstable();
                list
            })
            .collect(),
        _ => answer["tokens"].clone(),
    }
}

#[test]
fn answers_equal_the_references() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in CASES.lines() {
        let case: Value = serde_json::from_str(line).expect("a case is JSON");
        let mut request = case["request"].clone();
        request["id"] = case["id"].clone();
        let answer = ossmith_harmony::answer_line(request.to_string().as_bytes());
        assert_eq!(answer["id"], case["id"]);
        let op = case["request"]["op"].as_str().expect("a request has an op");
        if essence(op, &answer) != essence(op, &case["expected"]) {
            wrong.push(case["id"].to_string());
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{} of {count} answers differ: {wrong:?}", wrong.len());
    assert!(count > 300, "the case file is cut off: {count} cases");
}

#[test]
fn bad_requests_are_answered_with_an_error() {
    for request in [
        "nonsense",
        "[]",
        "{}",
        r#"{"id": 1}"#,
        r#"{"id": 1, "op": "fly"}"#,
        r#"{"id": 1, "op": "decode", "tokens": [-1]}"#,
        r#"{"id": 1, "op": "encode", "text": 3}"#,
        r#"{"id": 1, "op": "encode", "text": "x", "allowed_special": "some"}"#,
        r#"{"id": 1, "op": "render_for_completion", "conversation": {"messages": []}}"#,
        r#"{"id": 1, "op": "render", "conversation": {"messages": [{"role": "tool", "content": "x"}]}}"#,
    ] {
        let answer = ossmith_harmony::answer_line(request.as_bytes());
        assert!(answer["error"].is_string(), "{request} was answered with {answer}");
    }
}

#[test]
fn each_message_of_an_answer_makes_its_item() {
    use ossmith_harmony::{Message, OutputItem, response_items};
    let on = |channel: &str, text: &str| Message::assistant(text).on_channel(channel);
    let answer = [
        on("analysis", "Hm."),
        on("commentary", "I look it up."),
        Message::function_call("f", r#"{"a": 1}"#),
        // Nobody requested it.
        Message::tool_call("python", "1 + 1"),
        on("final", "Two."),
    ];
    let reasoning = |text: &str| OutputItem::Reasoning { text: text.to_owned() };
    let message = |text: &str, phase| OutputItem::Message { text: text.to_owned(), phase };
    let call =
        OutputItem::FunctionCall { name: "f".to_owned(), arguments: r#"{"a": 1}"#.to_owned() };
    let items = [
        reasoning("Hm."),
        message("I look it up.", "commentary"),
        call,
        reasoning("1 + 1"),
        message("Two.", "final_answer"),
    ];
    assert_eq!(response_items(&answer), items);
}
