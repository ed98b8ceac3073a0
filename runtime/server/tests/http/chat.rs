//! Chat answers, whole and streamed, of well-formed and of malformed turns.

use ossmith::FinishReason;
use ossmith_server::stub::Script;
use ossmith_server::{Config, GenerationRequest};
use serde_json::{Value, json};

use crate::common::{Site, TURN, chat, config, request, tokens};

const TOOLS: &str = r#"[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}]"#;

/// The message that the deltas of a stream add up to.
fn assembled(events: &[Value]) -> Value {
    let (mut content, mut reasoning, mut calls, mut reason) =
        (String::new(), String::new(), Vec::new(), Value::Null);
    for choice in events.iter().filter_map(|event| event["choices"].get(0)) {
        let delta = &choice["delta"];
        content += delta["content"].as_str().unwrap_or_default();
        reasoning += delta["reasoning"].as_str().unwrap_or_default();
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            if index == calls.len() {
                assert!(call["id"].is_string() && call["type"] == "function");
                calls.push((call["function"]["name"].as_str().unwrap().to_owned(), String::new()));
            }
            calls[index].1 += call["function"]["arguments"].as_str().unwrap();
        }
        if !choice["finish_reason"].is_null() {
            assert!(reason.is_null(), "one reason");
            reason = choice["finish_reason"].clone();
        }
    }
    json!({"content": content, "reasoning": reasoning, "calls": calls, "reason": reason})
}

/// The message of a whole answer in the same form.
fn whole(answer: &Value) -> Value {
    let choice = &answer["choices"][0];
    let message = &choice["message"];
    let calls: Vec<(Value, Value)> = message["tool_calls"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|call| (call["function"]["name"].clone(), call["function"]["arguments"].clone()))
        .collect();
    json!({
        "content": message["content"].as_str().unwrap_or_default(),
        "reasoning": message["reasoning"].as_str().unwrap_or_default(),
        "calls": calls,
        "reason": choice["finish_reason"],
    })
}

#[tokio::test]
async fn streamed_and_whole_answers_are_the_same() {
    let call = " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{\"a\":1}<|call|>";
    let next = "<|end|><|start|>assistant";
    for (turn, content, reasoning, calls, reason) in [
        (TURN.to_owned(), "Hello, wörld!", "Think 🙂.", json!([]), "stop"),
        (call.to_owned(), "", "", json!([["f", "{\"a\":1}"]]), "tool_calls"),
        (
            format!("<|channel|>commentary<|message|>I look.{next}{call}"),
            "I look.",
            "",
            json!([["f", "{\"a\":1}"]]),
            "tool_calls",
        ),
        // Several calls: all but the last end with the mark of a turn that goes on.
        (
            format!(
                "<|channel|>analysis<|message|>Two.{next}{}{next}{call}",
                &call[..call.len() - 8]
            ),
            "",
            "Two.",
            json!([["f", "{\"a\":1}"], ["f", "{\"a\":1}"]]),
            "tool_calls",
        ),
        (
            format!(
                "<|channel|>analysis<|message|>a{next}<|channel|>analysis<|message|>b{next}<|channel|>final<|message|>c<|return|>"
            ),
            "c",
            "a\nb",
            json!([]),
            "stop",
        ),
        // Malformed turns that real models write at times.
        (
            "<|channel|>commentary to=functions.f<|constrain|>json<|message|>{\"a\"<|call|>"
                .to_owned(),
            "",
            "",
            json!([["f", "{\"a\""]]),
            "tool_calls",
        ),
        ("<|channel|>thoughts<|message|>odd<|return|>".to_owned(), "odd", "", json!([]), "stop"),
        (
            " to=python<|channel|>analysis<|message|>1+1<|call|>".to_owned(),
            "",
            "1+1",
            json!([]),
            "stop",
        ),
        (
            " to=functions.unknown<|channel|>commentary<|message|>{}<|call|>".to_owned(),
            "",
            "{}",
            json!([]),
            "stop",
        ),
        (
            "<|constrain|><|constrain|><|reserved_200014|>so<|message|><|message|>what<|return|>"
                .to_owned(),
            "what",
            "",
            json!([]),
            "stop",
        ),
        // Another role's messages are no part of the answer.
        (
            format!(
                "<|channel|>analysis<|message|>a<|end|><|start|>developer<|message|>b{next}<|channel|>final<|message|>c<|end|><|start|>user<|channel|>final<|message|>d<|return|>"
            ),
            "c",
            "a\nb\nd",
            json!([]),
            "stop",
        ),
        ("no header<|return|>".to_owned(), "no header", "", json!([]), "stop"),
        ("<|return|>".to_owned(), "", "", json!([]), "stop"),
    ] {
        let site = Site::writing(&turn);
        let body = chat(json!({"tools": serde_json::from_str::<Value>(TOOLS).unwrap()}));
        let (status, answer) = site.post("/v1/chat/completions", &body).await;
        assert_eq!(status, 200, "{answer}");
        let want =
            json!({"content": content, "reasoning": reasoning, "calls": calls, "reason": reason});
        assert_eq!(whole(&answer), want, "{turn}");
        let events = site.events("/v1/chat/completions", &body).await;
        assert_eq!(assembled(&events), want, "{turn}");
        assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    }
}

#[tokio::test]
async fn a_stream_has_a_chunk_per_token_and_usage_at_the_end() {
    let site = Site::writing(TURN);
    let body = chat(json!({"stream_options": {"include_usage": true}, "return_token_ids": true}));
    let events = site.events("/v1/chat/completions", &body).await;
    let usage = &events.last().unwrap()["usage"];
    let sent = tokens(TURN);
    assert_eq!(usage["completion_tokens"], sent.len());
    assert!(usage["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap() >= 3);
    let ids: Vec<Value> = events
        .iter()
        .filter_map(|event| event["choices"].get(0)?["token_ids"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(json!(ids), json!(sent), "every token is sent once");
    assert_eq!(
        events[0]["prompt_token_ids"].as_array().unwrap().len() as u64,
        usage["prompt_tokens"].as_u64().unwrap()
    );
    let wide = site.events("/v1/chat/completions", &chat(json!({"stream_interval": 100}))).await;
    assert!(wide.len() < events.len() && assembled(&wide) == assembled(&events));
}

#[tokio::test]
async fn an_answer_that_is_cut_off_reports_length() {
    let call =
        " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{\"a\": 12345}<|call|>";
    let site = Site::writing(call);
    let tools: Value = serde_json::from_str(TOOLS).unwrap();
    let (_, answer) =
        site.post("/v1/chat/completions", &chat(json!({"tools": tools, "max_tokens": 11}))).await;
    assert_eq!(
        whole(&answer),
        json!({"content": "", "reasoning": "", "calls": [], "reason": "length"})
    );
    assert_eq!(answer["choices"][0]["message"]["content"], Value::Null);
}

#[tokio::test]
async fn the_model_s_own_limit_holds_where_a_request_names_none() {
    let limited = Config { max_new_tokens: Some(5), ..config() };
    let words = tokens(TURN);
    let site = Site::with(limited, move |_| Script { tokens: words.clone(), ..Script::default() });
    for (asked, want) in
        [(json!({}), 5), (json!({"max_tokens": 7}), 7), (json!({"min_tokens": 6}), 6)]
    {
        let (_, answer) = site.post("/v1/chat/completions", &chat(asked)).await;
        assert_eq!(answer["usage"]["completion_tokens"], want, "{answer}");
        assert_eq!(answer["choices"][0]["finish_reason"], "length", "{answer}");
    }
}

#[tokio::test]
async fn stop_strings_end_the_visible_text_only() {
    let site = Site::writing(TURN);
    for stop in [json!(", w"), json!(["zzz", ", w"])] {
        let (_, answer) = site.post("/v1/chat/completions", &chat(json!({"stop": stop}))).await;
        assert_eq!(answer["choices"][0]["message"]["content"], "Hello");
        assert_eq!(answer["choices"][0]["stop_reason"], ", w");
        let events = site.events("/v1/chat/completions", &chat(json!({"stop": stop}))).await;
        assert_eq!(assembled(&events)["content"], "Hello");
    }
    let (_, answer) = site.post("/v1/chat/completions", &chat(json!({"stop": "Think"}))).await;
    assert_eq!(answer["choices"][0]["message"]["reasoning"], "Think 🙂.");
    assert_eq!(site.stub.running(), 0);
}

#[tokio::test]
async fn reasoning_can_be_left_out() {
    let site = Site::writing(TURN);
    let (_, answer) =
        site.post("/v1/chat/completions", &chat(json!({"include_reasoning": false}))).await;
    assert!(answer["choices"][0]["message"].get("reasoning").is_none());
    assert_eq!(answer["choices"][0]["message"]["content"], "Hello, wörld!");
}

#[tokio::test]
async fn a_history_is_rendered_the_way_the_model_wrote_it() {
    let site = Site::writing(TURN);
    let history = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": null, "reasoning_content": "Look.", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]);
    let prompt = site.prompt(&json!({"messages": history})).await;
    let want = "# Instructions\n\nBe brief.<|end|><|start|>user<|message|>Weather?<|end|><|start|>assistant<|channel|>analysis<|message|>Look.<|end|><|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>{\"a\":1}<|call|><|start|>functions.f to=assistant<|channel|>commentary<|message|>sunny<|end|><|start|>assistant";
    assert!(prompt.ends_with(want), "{prompt}");
    assert!(prompt.contains("Current date: 2026-01-31"), "{prompt}");
}

#[tokio::test]
async fn results_of_several_calls_come_in_the_order_of_the_calls() {
    let site = Site::writing(TURN);
    let call = |id: &str, a: u8| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": format!("{{\"a\":{a}}}")}});
    let result =
        |id: &str, text: &str| json!({"role": "tool", "tool_call_id": id, "content": text});
    let said = |a: u8| {
        format!(
            "<|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>{{\"a\":{a}}}<|call|>"
        )
    };
    let told = |text: &str| {
        format!("<|start|>functions.f to=assistant<|channel|>commentary<|message|>{text}<|end|>")
    };
    let want = [said(1), said(2), told("one"), told("two"), said(3), told("three")].concat();
    for results in [["x", "y"], ["y", "x"]] {
        let text = |id: &str| if id == "x" { "one" } else { "two" };
        let messages = json!([
            {"role": "user", "content": "Go."},
            {"role": "assistant", "tool_calls": [call("x", 1), call("y", 2)]},
            result(results[0], text(results[0])),
            result(results[1], text(results[1])),
            {"role": "assistant", "content": null, "tool_calls": [call("z", 3)]},
            result("z", "three"),
        ]);
        let prompt = site.prompt(&json!({"messages": messages})).await;
        assert!(prompt.ends_with(&format!("{want}<|start|>assistant")), "{prompt}");
    }
}

#[tokio::test]
async fn one_choice_that_fails_ends_its_stream_for_all() {
    let one_fails = |request: &GenerationRequest| {
        let fails = request.choice == 0;
        Script {
            tokens: tokens(&"word ".repeat(if fails { 20 } else { 300 })),
            failure: fails.then(|| FinishReason::Failed("the device is gone".into())),
            pause: None,
        }
    };
    let site = Site::with(config(), one_fails);
    let raw = json!({"prompt": "Hi", "n": 2, "max_tokens": 400, "stream": true});
    let sampling = json!({"n": 2, "max_tokens": 400});
    for (path, body) in [
        ("/v1/chat/completions", chat(json!({"n": 2, "stream": true}))),
        ("/v1/completions", raw),
        (
            "/inference/v1/generate",
            json!({"token_ids": [1], "sampling_params": sampling, "stream": true}),
        ),
    ] {
        let (_, _, text) = site.send(request("POST", path, &body.to_string())).await;
        let data: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let [.., error, done] = data.as_slice() else { panic!("{path}: {text}") };
        assert!(error.contains("the device is gone") && *done == "data: [DONE]", "{path}: {text}");
        assert_eq!(text.matches("[DONE]").count(), 1, "{path}");
        assert_eq!(site.stub.running(), 0, "{path}");
    }
}

#[tokio::test]
async fn the_engine_s_failure_ends_a_stream_with_an_error() {
    let failing = |_: &GenerationRequest| Script {
        tokens: tokens("<|channel|>final<|message|>so far"),
        failure: Some(FinishReason::Failed("the device is gone".into())),
        pause: None,
    };
    let site = Site::with(config(), failing);
    let (status, body) = site.post("/v1/chat/completions", &chat(json!({}))).await;
    assert_eq!((status, &body["error"]["message"]), (500, &json!("the device is gone")));
    let events = site.events("/v1/chat/completions", &chat(json!({}))).await;
    assert_eq!(events.last().unwrap()["error"]["code"], "server_error");
    let events = site.events("/v1/responses", &json!({"input": "Hi"})).await;
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["response"]["status"]),
        (&json!("response.failed"), &json!("failed"))
    );
    assert_eq!(last["response"]["error"]["code"], "server_error");
}
