//! Histories: what of them reaches the prompt, and which call a result answers.

use serde_json::{Value, json};

use crate::common::{Site, TURN};

/// The prompt of a chat after its system message.
async fn prompt(site: &Site, messages: Value) -> String {
    let prompt = site.prompt(&json!({"messages": messages})).await;
    let system = prompt.find("<|end|>").unwrap() + "<|end|>".len();
    prompt[system..].to_owned()
}

/// The number of prompt tokens of a response.
async fn response_tokens(site: &Site, body: Value) -> u64 {
    let (status, answer) = site.post("/v1/responses", &body).await;
    assert_eq!(status, 200, "{body}: {answer}");
    answer["usage"]["input_tokens"].as_u64().unwrap()
}

/// The number of prompt tokens of a request to `/v1/messages`.
async fn message_tokens(site: &Site, messages: Value) -> u64 {
    let body = json!({"messages": messages});
    let (status, answer) = site.post("/v1/messages/count_tokens", &body).await;
    assert_eq!(status, 200, "{body}: {answer}");
    answer["input_tokens"].as_u64().unwrap()
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn function(name: &str) -> Value {
    json!({"name": name, "arguments": "{}"})
}

/// A call, with this id unless it is `"missing"`.
fn call(id: &Value, name: &str) -> Value {
    let call = json!({"type": "function", "function": function(name)});
    with(call, "id", id)
}

/// A result of the call with this id, unless that is `"missing"`.
fn result(id: &Value, text: &str) -> Value {
    with(json!({"role": "tool", "content": text}), "tool_call_id", id)
}

fn with(mut object: Value, field: &str, value: &Value) -> Value {
    if value != "missing" {
        object[field] = value.clone();
    }
    object
}

/// A result as the prompt has it.
fn shown(name: &str, text: &str) -> String {
    format!("<|start|>functions.{name} to=assistant<|channel|>commentary<|message|>{text}<|end|>")
}

#[tokio::test]
async fn results_of_calls_with_equal_empty_or_missing_ids_answer_the_calls_in_order() {
    let site = Site::writing(TURN);
    let both = shown("tide", "LOW") + &shown("moon", "FULL");
    for (tide, moon) in [
        (json!("a"), json!("b")),
        (json!("same"), json!("same")),
        (json!(""), json!("")),
        (json!(null), json!(null)),
        (json!("missing"), json!("missing")),
        (json!("a"), json!("")),
        (json!(""), json!("b")),
    ] {
        let calls =
            json!({"role": "assistant", "tool_calls": [call(&tide, "tide"), call(&moon, "moon")]});
        let messages = json!([user("Go."), calls, result(&tide, "LOW"), result(&moon, "FULL")]);
        let prompt = prompt(&site, messages).await;
        assert!(prompt.contains(&both), "{tide} {moon}: {prompt}");

        let item = |id: &Value, name: &str| {
            let item = json!({"type": "function_call", "name": name, "arguments": "{}"});
            with(item, "call_id", id)
        };
        let output = |id: &Value, text: &str| {
            with(json!({"type": "function_call_output", "output": text}), "call_id", id)
        };
        let input = |tide: &Value, moon: &Value| {
            json!({"input": [
                user("Go."), item(tide, "tide"), item(moon, "moon"),
                output(tide, "LOW"), output(moon, "FULL"),
            ]})
        };
        let want = response_tokens(&site, input(&json!("a"), &json!("b"))).await;
        assert_eq!(response_tokens(&site, input(&tide, &moon)).await, want, "{tide} {moon}");

        let used = |id: &Value, name: &str| {
            with(json!({"type": "tool_use", "name": name, "input": {}}), "id", id)
        };
        let found = |id: &Value, text: &str| {
            with(json!({"type": "tool_result", "content": text}), "tool_use_id", id)
        };
        let messages = |tide: &Value, moon: &Value| {
            json!([
                user("Go."),
                {"role": "assistant", "content": [used(tide, "tide"), used(moon, "moon")]},
                {"role": "user", "content": [found(tide, "LOW"), found(moon, "FULL")]},
            ])
        };
        let want = message_tokens(&site, messages(&json!("a"), &json!("b"))).await;
        assert_eq!(message_tokens(&site, messages(&tide, &moon)).await, want, "{tide} {moon}");
    }
}

#[tokio::test]
async fn an_image_that_a_tool_returns_does_not_end_the_conversation() {
    let site = Site::writing(TURN);
    let sentence = "[a result of the type image was left out: this model reads text]";
    let chat = |result: Value| {
        let calls = json!({"role": "assistant", "tool_calls": [call(&json!("a"), "look")]});
        json!([user("Go."), calls, {"role": "tool", "tool_call_id": "a", "content": result}])
    };
    let url = json!({"url": "data:image/png;base64,AAAA"});
    let parts = json!([{"type": "text", "text": "See: "}, {"type": "image_url", "image_url": url}]);
    let seen = prompt(&site, chat(parts)).await;
    assert!(seen.contains(&shown("look", &format!("See: {sentence}"))), "{seen}");

    let response = |output: Value| {
        json!({"input": [
            user("Go."),
            {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": output},
        ]})
    };
    let image = json!([{"type": "input_image", "image_url": url["url"]}]);
    let of_response = response_tokens(&site, response(image)).await;
    assert_eq!(of_response, response_tokens(&site, response(json!(sentence))).await);

    let message = |content: Value| {
        json!([
            user("Go."),
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "a", "name": "look", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": content},
            ]},
        ])
    };
    let source = json!({"type": "base64", "media_type": "image/png", "data": "AAAA"});
    let of_message = message_tokens(&site, message(json!([{"type": "image", "source": source}])));
    assert_eq!(of_message.await, message_tokens(&site, message(json!(sentence))).await);

    // What a user shows is still refused: nobody would know that the model has not seen it.
    let body = json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]});
    assert_eq!(site.post("/v1/chat/completions", &body).await.0, 400);
}

#[tokio::test]
async fn a_role_that_an_api_does_not_have_is_refused_with_those_it_has() {
    let site = Site::writing(TURN);
    for (path, body, has_tool) in [
        ("/v1/chat/completions", json!({"messages": [{"role": "robot", "content": "x"}]}), true),
        ("/v1/responses", json!({"input": [{"role": "tool", "content": "x"}]}), false),
    ] {
        let (status, answer) = site.post(path, &body).await;
        let said = answer["error"]["message"].as_str().unwrap().to_owned();
        let known = said.split_once("use ").unwrap().1.split(';').next().unwrap();
        assert_eq!((status, known.contains("tool")), (400, has_tool), "{said}");
    }
}

#[tokio::test]
async fn a_result_without_an_id_answers_the_call_of_its_name() {
    let site = Site::writing(TURN);
    let none = json!("missing");
    let named = |name: &str, text: &str| json!({"role": "tool", "name": name, "content": text});
    let calls = json!({"role": "assistant", "tool_calls": [
        call(&json!("a"), "tide"), call(&json!("b"), "moon"),
    ]});
    let both = shown("tide", "LOW") + &shown("moon", "FULL");
    for results in [
        [named("moon", "FULL"), named("tide", "LOW")],
        [named("moon", "FULL"), result(&none, "LOW")],
        [result(&json!("b"), "FULL"), result(&none, "LOW")],
        // A name that no call has does not matter.
        [named("Tide table", "LOW"), named("Moon phase", "FULL")],
    ] {
        let messages = json!([user("Go."), calls, results[0], results[1]]);
        let prompt = prompt(&site, messages).await;
        assert!(prompt.contains(&both), "{results:?}: {prompt}");
    }
}

#[tokio::test]
async fn an_id_that_is_used_again_names_the_call_of_the_latest_round() {
    let site = Site::writing(TURN);
    for id in [json!("c"), json!("")] {
        for first_is_answered in [true, false] {
            let round = |name: &str| json!({"role": "assistant", "tool_calls": [call(&id, name)]});
            let mut messages = vec![user("Go."), round("tide")];
            if first_is_answered {
                messages.push(result(&id, "LOW"));
            } else {
                messages.push(user("Never mind."));
            }
            messages.extend([round("moon"), result(&id, "FULL")]);
            let prompt = prompt(&site, json!(messages)).await;
            assert!(prompt.contains(&shown("moon", "FULL")), "{id}: {prompt}");
            assert_eq!(prompt.contains(&shown("tide", "LOW")), first_is_answered, "{prompt}");
        }
    }
}

#[tokio::test]
async fn a_result_that_answers_no_call_is_refused() {
    let site = Site::writing(TURN);
    let call = json!({"role": "assistant", "tool_calls": [call(&json!("a"), "tide")]});
    for messages in [
        json!([user("Go."), result(&json!("a"), "LOW")]),
        json!([user("Go."), result(&json!("missing"), "LOW")]),
        json!([user("Go."), call, result(&json!("b"), "LOW")]),
        json!([user("Go."), call, result(&json!("a"), "LOW"), result(&json!(""), "LOW")]),
    ] {
        let body = json!({"messages": messages});
        let (status, answer) = site.post("/v1/chat/completions", &body).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("messages")), "{messages}");
    }
}

#[tokio::test]
async fn the_older_form_of_a_call_is_read() {
    let site = Site::writing(TURN);
    let new = json!([
        user("Go."),
        {"role": "assistant", "content": "I look.", "tool_calls": [call(&json!("a"), "tide")]},
        result(&json!("a"), "LOW"),
    ]);
    let old = json!([
        user("Go."),
        {"role": "assistant", "content": "I look.", "function_call": function("tide")},
        {"role": "function", "name": "tide", "content": "LOW"},
    ]);
    assert_eq!(prompt(&site, old).await, prompt(&site, new).await);
}

#[tokio::test]
async fn empty_instructions_are_as_if_absent() {
    let site = Site::writing(TURN);
    let want = prompt(&site, json!([user("Hi")])).await;
    for content in [json!(""), json!(null), json!([]), json!([{"type": "text", "text": ""}])] {
        for role in ["system", "developer"] {
            let instruct = json!({"role": role, "content": content});
            for messages in [json!([instruct, user("Hi")]), json!([instruct, instruct, user("Hi")])]
            {
                assert_eq!(prompt(&site, messages.clone()).await, want, "{messages}");
            }
            let later = json!([user("Hi"), instruct, user("So?")]);
            let without = json!([user("Hi"), user("So?")]);
            assert_eq!(prompt(&site, later.clone()).await, prompt(&site, without).await, "{later}");
        }
    }
    let brief = response_tokens(&site, json!({"input": "Hi", "instructions": "Be brief."})).await;
    let none = response_tokens(&site, json!({"input": "Hi"})).await;
    for (instructions, want) in [
        (json!(""), none),
        (json!(null), none),
        (json!([]), none),
        (json!([{"type": "input_text", "text": ""}]), none),
        (json!([{"type": "input_text", "text": "Be brief."}]), brief),
        (json!([{"type": "input_text", "text": "Be "}, {"text": "brief."}]), brief),
    ] {
        let body = json!({"input": "Hi", "instructions": instructions});
        assert_eq!(response_tokens(&site, body).await, want, "{instructions}");
    }
    for content in [json!(""), json!(null), json!([])] {
        let input = json!([{"role": "developer", "content": content}, user("Hi")]);
        assert_eq!(response_tokens(&site, json!({"input": input})).await, none, "{content}");
    }
}

#[tokio::test]
async fn null_arguments_and_results_are_read_alike_by_both_apis() {
    let site = Site::writing(TURN);
    let chat = |arguments: &Value, output: &Value| {
        json!([
            user("Go."),
            {"role": "assistant", "tool_calls": [
                {"id": "a", "type": "function", "function": with(json!({"name": "f"}), "arguments", arguments)},
            ]},
            with(json!({"role": "tool", "tool_call_id": "a"}), "content", output),
        ])
    };
    let items = |arguments: &Value, output: &Value| {
        let call = json!({"type": "function_call", "call_id": "a", "name": "f"});
        let result = json!({"type": "function_call_output", "call_id": "a"});
        json!({"input": [
            user("Go."), with(call, "arguments", arguments), with(result, "output", output),
        ]})
    };
    // Some clients send the object itself.
    let (text, object) = (json!(r#"{"port":"Oslo"}"#), json!({"port": "Oslo"}));
    let out = json!("LOW");
    assert_eq!(prompt(&site, chat(&text, &out)).await, prompt(&site, chat(&object, &out)).await);
    let tokens = response_tokens(&site, items(&text, &out)).await;
    assert_eq!(response_tokens(&site, items(&object, &out)).await, tokens);
    let (status, answer) = site.post("/v1/responses", &items(&json!(3), &out)).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("input[1]")));
    assert!(answer["error"]["message"].as_str().unwrap().contains("arguments are neither"));

    let (empty, none) = (json!("{}"), json!(""));
    let want = prompt(&site, chat(&empty, &none)).await;
    let tokens = response_tokens(&site, items(&empty, &none)).await;
    for arguments in [json!(null), json!(""), json!("missing"), json!("{}")] {
        for output in [json!(null), json!(""), json!([]), json!("missing")] {
            assert_eq!(
                prompt(&site, chat(&arguments, &output)).await,
                want,
                "{arguments} {output}"
            );
            let found = response_tokens(&site, items(&arguments, &output)).await;
            assert_eq!(found, tokens, "{arguments} {output}");
        }
    }
}
