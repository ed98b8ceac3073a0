//! Refused requests: the status, the form of the error, and the name of the field at fault.

use axum::http::{Request, header};
use serde_json::{Value, json};

use crate::common::{Site, TURN, chat, config, request};

fn check(body: &Value, param: &str, case: &str) {
    let error = body["error"].as_object().unwrap_or_else(|| panic!("{case}: {body}"));
    let keys: Vec<&str> = error.keys().map(String::as_str).collect();
    assert_eq!(keys, ["message", "type", "param", "code"], "{case}");
    assert_eq!(
        error["param"],
        if param.is_empty() { Value::Null } else { json!(param) },
        "{case}: {body}"
    );
}

#[tokio::test]
async fn invalid_fields_are_named() {
    let site = Site::writing(TURN);
    let tool = json!({"type": "function", "function": {"name": "f"}});
    for (fields, param) in [
        (json!({"temperature": 2.5}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": -0.1}), "top_p"),
        (json!({"top_p": 1.1}), "top_p"),
        (json!({"top_k": -2}), "top_k"),
        (json!({"min_p": 1.5}), "min_p"),
        (json!({"presence_penalty": -3}), "presence_penalty"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        // Logits divided by these would overflow.
        (json!({"repetition_penalty": 1e-7}), "repetition_penalty"),
        (json!({"repetition_penalty": 1e-40}), "repetition_penalty"),
        (json!({"repetition_penalty": 1e30}), "repetition_penalty"),
        (json!({"temperature": 1e40}), "temperature"),
        (json!({"logit_bias": {"5": -1e39}}), "logit_bias.5"),
        (json!({"presence_penalty": 1e300}), "presence_penalty"),
        (json!({"min_p": 1e39}), "min_p"),
        (json!({"n": 1e30}), "n"),
        (json!({"priority": 1e12}), "priority"),
        (json!({"stream_interval": 1e18}), "stream_interval"),
        (json!({"stop_token_ids": [1e30]}), "stop_token_ids"),
        (json!({"min_tokens": 1e30}), "min_tokens"),
        (json!({"messages": [{"role": "user"}]}), "messages"),
        (json!({"messages": [{"role": "user", "content": null}]}), "messages"),
        (json!({"n": 0}), "n"),
        (json!({"n": 129}), "n"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": 1.5}), "max_tokens"),
        (json!({"min_tokens": 9, "max_tokens": 8}), "min_tokens"),
        (json!({"min_tokens": 5000}), "min_tokens"),
        (json!({"min_tokens": 2, "tools": [tool]}), "min_tokens"),
        (json!({"min_tokens": 2, "response_format": {"type": "json_object"}}), "min_tokens"),
        (json!({"ignore_eos": true, "tools": [tool]}), "ignore_eos"),
        (json!({"ignore_eos": true, "tools": [tool], "tool_choice": "required"}), "ignore_eos"),
        (json!({"ignore_eos": true, "response_format": {"type": "json_object"}}), "ignore_eos"),
        (json!({"ignore_eos": true, "reasoning_effort": "none"}), "ignore_eos"),
        (json!({"ignore_eos": true, "thinking_token_budget": 9}), "ignore_eos"),
        (json!({"top_logprobs": 3}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias"),
        (json!({"logit_bias": {"5": 101}}), "logit_bias.5"),
        (json!({"stop": [""]}), "stop"),
        (json!({"stop": 5}), "stop"),
        (json!({"stop_token_ids": [999_999]}), "stop_token_ids"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tools": [tool], "tool_choice": "sometimes"}), "tool_choice"),
        (
            json!({"tools": [tool], "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "tool_choice",
        ),
        (json!({"tools": [tool, tool]}), "tools"),
        (json!({"tools": [{"name": "f"}]}), "tools[0].type"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "two words"}}]}),
            "tools[0].function.name",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": 3}}]}),
            "tools[0].function.parameters",
        ),
        (json!({"reasoning_effort": "extreme"}), "reasoning_effort"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": {"type": "nonsense"}}}}),
            "response_format.json_schema.schema",
        ),
        (json!({"structured_outputs": {"regex": "("}}), "structured_outputs"),
        (
            json!({"structured_outputs": {"structural_tag": "{}"}}),
            "structured_outputs.structural_tag",
        ),
        (json!({"response_format": {"type": "structural_tag"}}), "response_format.type"),
        (json!({"seed": 1.5}), "seed"),
        (json!({"top_logprobs": -1, "logprobs": true}), "top_logprobs"),
        (json!({"logit_bias": {"201088": 1}}), "logit_bias"),
        (json!({"parallel_tool_calls": "yes"}), "parallel_tool_calls"),
        (json!({"tools": {}}), "tools"),
        (json!({"tools": [null]}), "tools[0]"),
        (json!({"functions": [{"name": "f"}]}), "functions"),
        (json!({"modalities": ["text", "audio"]}), "modalities"),
        (json!({"use_beam_search": true}), "use_beam_search"),
        (json!({"messages": null}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": "Hi"}), "messages"),
        (json!({"messages": [{"content": "no role"}]}), "messages[0]"),
        (json!({"messages": [{"role": "robot", "content": "Hi"}]}), "messages"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
            "messages",
        ),
        (
            json!({"messages": [{"role": "tool", "tool_call_id": "none", "content": "x"}]}),
            "messages",
        ),
    ] {
        for stream in [false, true] {
            let mut body = chat(fields.clone());
            if stream && fields.get("stream_options").is_none() {
                body["stream"] = json!(true);
            }
            let (status, answer) = site.post("/v1/chat/completions", &body).await;
            assert_eq!(status, 400, "{fields}: {answer}");
            check(&answer, param, &fields.to_string());
        }
    }
    // None of them has disturbed the server.
    assert_eq!(site.post("/v1/chat/completions", &chat(json!({}))).await.0, 200);
    assert_eq!(site.stub.running(), 0);
}

#[tokio::test]
async fn null_and_unknown_fields_count_as_absent() {
    let site = Site::writing(TURN);
    let body = chat(json!({
        "temperature": null, "tools": null, "tool_choice": null, "stop": null, "n": null, "stream": null,
        "response_format": null, "logprobs": null, "max_tokens": null, "functions": null, "made_up": {"x": 1},
        "user": "me", "metadata": {"a": "b"}, "store": true, "service_tier": "auto",
    }));
    let (status, answer) = site.post("/v1/chat/completions", &body).await;
    assert_eq!(status, 200, "{answer}");
}

/// Schemas that clients send, and whether they can be enforced where the request requires it. Where it does not, as in agents that
/// pass on tools from elsewhere, every one is taken.
#[tokio::test]
async fn schemas_that_cannot_be_enforced_are_refused_only_where_they_must_be() {
    let site = Site::writing(TURN);
    let property =
        |schema: Value| json!({"type": "object", "properties": {"a": schema}, "required": ["a"]});
    let node = json!({"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}}});
    for (schema, enforced) in [
        (property(json!({"type": "string", "pattern": "^[A-Z]{3}-\\d{2}$"})), true),
        (property(json!({"type": "string", "pattern": "^(?=.*x).+$"})), false),
        (property(json!({"type": "string", "pattern": "(("})), false),
        (property(json!({"type": "string", "format": "date"})), true),
        // Formats that JSON Schema has be notes.
        (property(json!({"type": "string", "format": "password"})), true),
        (property(json!({"enum": [{"format": "password"}]})), true),
        // Names of properties are not keywords.
        (
            json!({"type": "object", "properties": {"default": {"type": "string", "format": "password"}}}),
            true,
        ),
        (
            json!({"$ref": "#/$defs/enum", "$defs": {"enum": {"type": "string", "format": "path"}}}),
            true,
        ),
        (property(json!({"type": ["string", "null"]})), true),
        (property(json!({"const": 5})), true),
        (property(json!({"enum": []})), false),
        (property(json!({"not": {"type": "string"}})), false),
        (property(json!({"$ref": "#/nowhere"})), false),
        (property(json!({"type": "integer", "minimum": 5, "maximum": 1})), false),
        (json!({"$ref": "#/$defs/N", "$defs": {"N": node}}), true),
        (json!({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}), false),
        (json!({"$ref": "http://example.com/schema.json"}), false),
        (
            json!({"anyOf": [property(json!({"type": "integer"})), property(json!({"type": "boolean"}))]}),
            true,
        ),
        (json!({"type": "object", "properties": {}, "required": ["other"]}), true),
        (json!({"type": "object", "properties": []}), false),
        (json!({}), true),
    ] {
        let function = |strict: bool| json!([{"type": "function", "function": {"name": "f", "strict": strict, "parameters": schema}}]);
        let format = |strict: Value| json!({"type": "json_schema", "json_schema": {"name": "x", "strict": strict, "schema": schema}});
        let refused = if enforced { 200 } else { 400 };
        for (fields, want) in [
            (json!({"tools": function(false)}), 200),
            (json!({"tools": function(true)}), refused),
            (json!({"tools": function(false), "tool_choice": "required"}), refused),
            (json!({"response_format": format(json!(true))}), refused),
            (json!({"response_format": format(json!(false))}), 200),
            (json!({"response_format": format(json!(null))}), 200),
            (json!({"structured_outputs": {"json": schema}}), refused),
        ] {
            let (status, answer) = site.post("/v1/chat/completions", &chat(fields.clone())).await;
            assert_eq!(status, want, "{fields}: {answer}");
        }
    }
}

#[tokio::test]
async fn unusual_values_with_a_meaning_are_accepted() {
    let site = Site::writing(TURN);
    for fields in [
        json!({"seed": -5}),
        json!({"seed": 1e30}),
        json!({"max_tokens": 1e30}),
        json!({"max_completion_tokens": u64::MAX}),
        json!({"top_k": 1e18}),
        json!({"temperature": 1}),
        json!({"temperature": 1e-46}),
        json!({"top_p": 0}),
        json!({"top_p": 1e-46}),
        json!({"repetition_penalty": 1e-6}),
        json!({"stop": ["a1", "b1", "c1", "d1"]}),
        json!({"structured_outputs": {"json_object": true}}),
        json!({"structured_outputs": {}}),
        json!({"messages": [{"role": "user", "content": ""}]}),
        json!({"messages": [{"role": "user", "content": []}]}),
        json!({"messages": [{"role": "system", "content": "Be brief."}]}),
        json!({"messages": [{"role": "user", "content": "<|start|>system<|message|>x<|end|>\u{0}"}]}),
        json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}]}),
    ] {
        let (status, answer) = site.post("/v1/chat/completions", &chat(fields.clone())).await;
        assert_eq!(status, 200, "{fields}: {answer}");
    }
}

#[tokio::test]
async fn errors_have_the_same_form_on_all_routes() {
    let site = Site::writing(TURN);
    for (path, body, status, param) in [
        ("/v1/completions", json!({}), 400, "prompt"),
        ("/v1/completions", json!({"prompt": []}), 400, "prompt"),
        ("/v1/completions", json!({"prompt": ""}), 400, "prompt"),
        ("/v1/completions", json!({"prompt": [1, 201_088]}), 400, "prompt"),
        ("/v1/completions", json!({"prompt": ["a", 5]}), 400, "prompt[1]"),
        ("/v1/completions", json!({"prompt": "a", "suffix": "b"}), 400, "suffix"),
        ("/v1/completions", json!({"prompt": "a", "best_of": 3}), 400, "best_of"),
        ("/v1/completions", json!({"prompt": "a", "max_tokens": 0}), 400, "max_tokens"),
        ("/v1/completions", json!({"prompt": "a", "model": "b"}), 404, "model"),
        (
            "/v1/completions",
            json!({"prompt": "a", "thinking_token_budget": 5}),
            400,
            "thinking_token_budget",
        ),
        ("/v1/responses", json!({}), 400, "input"),
        ("/v1/responses", json!({"input": "a", "return_token_ids": true}), 400, "return_token_ids"),
        ("/v1/responses", json!({"input": "a", "stream_interval": 4}), 400, "stream_interval"),
        ("/v1/responses", json!({"input": []}), 400, "input"),
        ("/v1/responses", json!({"input": [{"role": "user"}]}), 400, "input"),
        ("/v1/responses", json!({"input": [{"role": "user", "content": null}]}), 400, "input"),
        ("/v1/responses", json!({"input": "a", "instructions": [5]}), 400, "instructions"),
        ("/v1/responses", json!({"input": "a", "instructions": 5}), 400, "instructions"),
        ("/v1/responses", json!({"input": [{"type": "unheard_of"}]}), 400, "input"),
        ("/v1/responses", json!({"input": [{"type": "custom_tool_call"}]}), 400, "input[0]"),
        (
            "/v1/responses",
            json!({"input": [{"type": "item_reference", "id": "x"}]}),
            404,
            "input[0]",
        ),
        (
            "/v1/responses",
            json!({"input": [{"type": "item_reference", "id": "x"}, {"type": "item_reference", "id": "x"}]}),
            400,
            "input[1]",
        ),
        (
            "/v1/responses",
            json!({"input": "a", "previous_response_id": "x"}),
            404,
            "previous_response_id",
        ),
        (
            "/v1/responses",
            json!({"input": "a", "background": true, "store": false}),
            400,
            "background",
        ),
        (
            "/v1/responses",
            json!({"input": "a", "tools": [{"type": "function"}]}),
            400,
            "tools[0].name",
        ),
        (
            "/v1/responses",
            json!({"input": "a", "text": {"format": {"type": "x"}}}),
            400,
            "text.format.type",
        ),
        ("/v1/responses", json!({"input": "a", "truncation": "sideways"}), 400, "truncation"),
        ("/tokenize", json!({}), 400, "prompt"),
        ("/detokenize", json!({"tokens": [-1]}), 400, "tokens"),
        (
            "/inference/v1/generate",
            json!({"token_ids": [1], "sampling_params": {"top_p": 7}}),
            400,
            "sampling_params.top_p",
        ),
        (
            "/inference/v1/generate",
            json!({"token_ids": [1], "sampling_params": {"thinking_token_budget": 5}}),
            400,
            "sampling_params.thinking_token_budget",
        ),
    ] {
        let (found, answer) = site.post(path, &body).await;
        assert_eq!(found, status, "{path} {body}: {answer}");
        check(&answer, param, &format!("{path} {body}"));
    }
    for body in ["", "{", "[]", "\"x\"", "\u{0}"] {
        let (status, _, text) = site.send(request("POST", "/v1/chat/completions", body)).await;
        assert_eq!(status, 400, "{body}");
        check(&serde_json::from_str(&text).unwrap(), "", body);
    }
    for (method, path, status) in [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/models/other/model", 404),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/v1/responses/none", 404),
        ("GET", "/v1/responses/%ff", 400),
        ("DELETE", "/v1/responses/none", 404),
        ("POST", "/v1/responses/none/cancel", 404),
        ("GET", "/v1/responses/none/input_items", 404),
    ] {
        let (found, _, text) = site.send(request(method, path, "")).await;
        assert_eq!(found, status, "{method} {path}");
        assert!(serde_json::from_str::<Value>(&text).unwrap()["error"]["message"].is_string());
    }
}

#[tokio::test]
async fn the_error_for_a_long_prompt_states_its_length_and_the_limit() {
    let site = Site::writing(TURN);
    let long = json!([{"role": "user", "content": "word ".repeat(5000)}]);
    for stream in [false, true] {
        let body = chat(json!({"messages": long, "stream": stream}));
        let (status, answer) = site.post("/v1/chat/completions", &body).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("context_length_exceeded")));
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains("4096") && message.contains("50"), "{message}");
    }
    // More tokens than fit are cut to what does.
    let (status, _) =
        site.post("/v1/chat/completions", &chat(json!({"max_tokens": 1_000_000}))).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn bodies_and_origins_have_limits() {
    let small = ossmith_server::Config {
        body_bytes: 200,
        origins: vec!["http://good".to_owned()],
        ..config()
    };
    let site = Site::with(small, |_| ossmith_server::stub::Script::default());
    let big = chat(json!({"user": "x".repeat(300)}));
    let (status, answer) = site.post("/v1/chat/completions", &big).await;
    assert_eq!(status, 413);
    check(&answer, "", "a large body");
    for (origin, allowed) in [("http://good", true), ("http://bad", false)] {
        let preflight = Request::builder()
            .method("OPTIONS")
            .uri("/v1/chat/completions")
            .header(header::ORIGIN, origin)
            .body(axum::body::Body::empty())
            .unwrap();
        let (status, headers, _) = site.send(preflight).await;
        assert_eq!(status, 204);
        assert_eq!(headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), allowed, "{origin}");
        let mut call = crate::common::request("GET", "/v1/models", "");
        call.headers_mut().insert(header::ORIGIN, origin.parse().unwrap());
        let (status, _, text) = site.send(call).await;
        assert_eq!(status, if allowed { 200 } else { 403 }, "{text}");
    }
    let mut zipped = crate::common::request("POST", "/v1/chat/completions", "\u{1f}");
    zipped.headers_mut().insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
    let (status, _, text) = site.send(zipped).await;
    assert_eq!(status, 415);
    check(&serde_json::from_str(&text).unwrap(), "Content-Encoding", "a compressed body");
}
