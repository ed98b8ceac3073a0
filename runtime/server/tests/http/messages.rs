//! Anthropic's Messages: what a request becomes, how an answer looks whole and streamed, and what is refused.

use axum::http::Request;
use ossmith::FinishReason;
use ossmith_server::stub::Script;
use serde_json::{Value, json};

use crate::common::{Site, TURN, config, request, tokens};

const CALL: &str = "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant to=functions.weather<|channel|>commentary <|constrain|>json<|message|>{\"city\":\"Paris\"}<|call|>";

fn body(more: Value) -> Value {
    let mut body = json!({
        "model": "model", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}],
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn weather() -> Value {
    json!([{"name": "weather", "description": "The weather.", "input_schema": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
    }}])
}

/// The prompt of a request, as text with special tokens by name.
async fn prompt(more: Value) -> String {
    let (sender, receiver) = std::sync::mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let site = Site::with(config(), move |request| {
        sender.lock().unwrap().send(request.engine_request.prompt.clone()).unwrap();
        Script { tokens: tokens(TURN), ..Script::default() }
    });
    let (status, answer) = site.post("/v1/messages", &body(more)).await;
    assert_eq!(status, 200, "{answer}");
    ossmith_harmony::decode(&receiver.recv().unwrap()).unwrap()
}

/// The events of a stream: their names agree with their types.
async fn stream(site: &Site, more: Value) -> Vec<Value> {
    let mut more = more;
    more["stream"] = json!(true);
    let (status, headers, text) =
        site.send(request("POST", "/v1/messages", &body(more).to_string())).await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(headers["content-type"], "text/event-stream; charset=utf-8");
    let event = |frame: &str| {
        let (name, data) = frame.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        data
    };
    text.split("\n\n").filter(|frame| !frame.is_empty()).map(event).collect()
}

/// The message that a client puts together from a stream.
fn collect(events: &[Value]) -> Value {
    let mut message = events[0]["message"].clone();
    let mut partial = String::new();
    for event in &events[1..] {
        let index = event["index"].as_u64().unwrap_or_default() as usize;
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                let content = message["content"].as_array_mut().unwrap();
                assert_eq!(index, content.len());
                content.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                let block = &mut message["content"][index];
                let delta = &event["delta"];
                for (kind, field) in [
                    ("text_delta", "text"),
                    ("thinking_delta", "thinking"),
                    ("signature_delta", "signature"),
                ] {
                    if delta["type"] == kind {
                        let more = delta[field].as_str().unwrap();
                        block[field] = format!("{}{more}", block[field].as_str().unwrap()).into();
                    }
                }
                partial.push_str(delta["partial_json"].as_str().unwrap_or_default());
            }
            "content_block_stop" if message["content"][index]["type"] == "tool_use" => {
                let input = std::mem::take(&mut partial);
                message["content"][index]["input"] = serde_json::from_str(&input).unwrap();
            }
            "message_delta" => {
                for field in ["stop_reason", "stop_sequence"] {
                    message[field] = event["delta"][field].clone();
                }
                message["usage"] = event["usage"].clone();
            }
            _ => {}
        }
    }
    assert_eq!(events.last().unwrap()["type"], "message_stop");
    message
}

/// A message without what differs from request to request.
fn settled(mut message: Value) -> Value {
    assert!(message["id"].as_str().unwrap().starts_with("msg_"));
    message["id"] = Value::Null;
    for block in message["content"].as_array_mut().unwrap() {
        if let Some(id) = block.get("id") {
            assert!(id.as_str().unwrap().starts_with("toolu_"));
            block["id"] = Value::Null;
        }
    }
    message
}

#[tokio::test]
async fn a_whole_answer_and_a_stream_are_the_same_message() {
    let thinking = json!({"type": "adaptive"});
    let preamble = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant";
    for (turn, fields, kinds, stop) in [
        (TURN.to_owned(), json!({}), &["text"][..], "end_turn"),
        (TURN.to_owned(), json!({"thinking": thinking}), &["thinking", "text"], "end_turn"),
        (CALL.to_owned(), json!({"tools": weather()}), &["tool_use"], "tool_use"),
        (
            format!("{preamble}{CALL}"),
            json!({"tools": weather(), "thinking": thinking}),
            &["text", "thinking", "tool_use"],
            "tool_use",
        ),
        (TURN.to_owned(), json!({"stop_sequences": ["wör"]}), &["text"], "stop_sequence"),
        (TURN.to_owned(), json!({"max_tokens": 16}), &["text"], "max_tokens"),
        (TURN.to_owned(), json!({"max_tokens": 3}), &[], "max_tokens"),
    ] {
        let site = Site::writing(&turn);
        let (status, whole) = site.post("/v1/messages", &body(fields.clone())).await;
        assert_eq!(status, 200, "{whole}");
        let events = stream(&site, fields.clone()).await;
        assert_eq!(events[0]["message"]["content"], json!([]));
        assert_eq!(settled(collect(&events)), settled(whole.clone()), "{fields}");
        let blocks = whole["content"].as_array().unwrap();
        assert_eq!(blocks.iter().map(|block| &block["type"]).collect::<Vec<_>>(), kinds, "{whole}");
        assert_eq!(whole["stop_reason"], stop, "{whole}");
        for block in blocks {
            match block["type"].as_str().unwrap() {
                "thinking" => assert_eq!(block["signature"].as_str().unwrap().len(), 64),
                "tool_use" => assert_eq!(block["input"], json!({"city": "Paris"})),
                _ => {}
            }
        }
        if stop == "stop_sequence" {
            assert_eq!(
                (&whole["stop_sequence"], &blocks[0]["text"]),
                (&json!("wör"), &json!("Hello, "))
            );
        }
    }
}

#[tokio::test]
async fn a_history_becomes_the_prompt_that_chat_completions_makes_of_it() {
    let site = Site::writing(TURN);
    let anthropic = json!({
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=abc;"},
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Be kind."},
        ],
        "tools": weather(),
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Weather?", "cache_control": {"type": "ephemeral"}}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Both.", "signature": "whatever"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Paris"}},
                {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "b", "content": "no city", "is_error": true},
                {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "sunny"}]},
                {"type": "text", "text": "And now?"},
                {"type": "document", "title": "Notes", "source": {"type": "text", "media_type": "text/plain", "data": "Rain."}},
            ]},
        ],
    });
    let schema = weather()[0]["input_schema"].clone();
    let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "weather", "arguments": arguments}});
    let chat = json!({
        "tools": [{"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": schema}}],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "reasoning": "Both.", "content": "I look.",
             "tool_calls": [call("a", "{\"city\":\"Paris\"}"), call("b", "{}")]},
            {"role": "tool", "tool_call_id": "b", "content": "Error: no city"},
            {"role": "tool", "tool_call_id": "a", "content": "sunny"},
            {"role": "user", "content": "And now?\nNotes\nRain."},
        ],
    });
    let (_, want) = site.post("/tokenize", &chat).await;
    let (_, want) = site.post("/detokenize", &json!({"tokens": want["tokens"]})).await;
    assert_eq!(prompt(anthropic.clone()).await, want["prompt"].as_str().unwrap());
    let (_, count) = site.post("/v1/messages/count_tokens", &body(anthropic)).await;
    let (_, tokens) = site.post("/tokenize", &chat).await;
    assert_eq!(count, json!({"input_tokens": tokens["count"]}));
}

#[tokio::test]
async fn thinking_and_effort_reach_the_prompt_and_the_rules() {
    for (fields, effort, end) in [
        (json!({}), "medium", "<|start|>assistant"),
        (json!({"thinking": {"type": "adaptive"}}), "medium", "<|start|>assistant"),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 50}}),
            "medium",
            "<|start|>assistant<|channel|>analysis<|message|>",
        ),
        (
            json!({"thinking": {"type": "disabled"}}),
            "medium",
            "<|start|>assistant<|channel|>final<|message|>",
        ),
        (json!({"output_config": {"effort": "high"}}), "high", "<|start|>assistant"),
    ] {
        let prompt = prompt(fields.clone()).await;
        assert!(prompt.contains(&format!("Reasoning: {effort}\n")), "{fields}: {prompt}");
        assert!(prompt.ends_with(end), "{fields}: {prompt}");
    }
}

#[tokio::test]
async fn tool_choices_are_those_of_the_other_apis() {
    for (choice, declared, end) in [
        (json!({"type": "auto"}), true, "<|start|>assistant"),
        (json!({"type": "none"}), false, "<|start|>assistant"),
        (json!({"type": "any"}), true, "<|start|>assistant"),
        (json!({"type": "tool", "name": "weather"}), true, "<|start|>assistant"),
        (json!({"type": "auto", "disable_parallel_tool_use": true}), true, "<|start|>assistant"),
    ] {
        let prompt = prompt(json!({"tools": weather(), "tool_choice": choice})).await;
        assert_eq!(prompt.contains("type weather ="), declared, "{choice}: {prompt}");
        assert!(prompt.ends_with(end), "{choice}: {prompt}");
    }
}

#[tokio::test]
async fn the_answer_names_the_model_that_is_served() {
    let mut config = config();
    config.aliases = vec!["claude-*".to_owned()];
    let site = Site::with(config, |_| Script { tokens: tokens(TURN), ..Script::default() });
    let (status, answer) =
        site.post("/v1/messages?beta=true", &body(json!({"model": "claude-sonnet-4-5"}))).await;
    assert_eq!((status, &answer["model"]), (200, &json!("model")));
    let (status, answer) = site.post("/v1/messages", &body(json!({"model": "gpt-4"}))).await;
    assert_eq!((status, &answer["error"]["type"]), (404, &json!("not_found_error")));
}

#[tokio::test]
async fn refusals_have_anthropic_s_form_and_name_the_field() {
    let site = Site::writing(TURN);
    let said = |block: Value| json!({"messages": [{"role": "user", "content": [block]}]});
    let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}});
    for (fields, names) in [
        (json!({"max_tokens": null}), "`max_tokens` is missing"),
        (json!({"max_tokens": 0}), "`max_tokens`"),
        (json!({"messages": []}), "`messages` is empty"),
        (json!({"messages": [{"role": "user"}]}), "`messages[0].content` is missing"),
        (json!({"messages": [{"role": "robot", "content": "x"}]}), "`messages[0].role` is `robot`"),
        (
            json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "{"}]}),
            "`messages[1]` is the assistant's",
        ),
        (said(image), "`messages[0].content[0].type` is `image`"),
        (
            said(json!({"type": "tool_result", "tool_use_id": "x"})),
            "`messages[0]` has the result of \"x\"",
        ),
        (
            said(json!({"type": "document", "source": {"type": "url", "url": "x"}})),
            "only plain text",
        ),
        (said(json!({"type": "container_upload"})), "`container_upload`"),
        (json!({"system": 3}), "`system` is a number"),
        (json!({"metadata": 3}), "`metadata`"),
        (
            json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
            "`tools[0].type`",
        ),
        (json!({"tools": [{"name": "f"}]}), "`tools[0].input_schema` is missing"),
        (
            json!({"tools": [{"type": "computer_20250124", "name": "computer"}]}),
            "`tools[0].type` is `computer_20250124`, whose results are images",
        ),
        (json!({"tools": [{"type": "function", "name": "f"}]}), "`tools[0].type` is `function`"),
        (
            json!({"tools": [weather()[0], {"type": "web_search_20250305", "name": "web_search"}],
                "tool_choice": {"type": "tool", "name": "web_search"}}),
            "`web_search`",
        ),
        (json!({"tools": weather(), "tool_choice": {"type": "tool", "name": "g"}}), "`g`"),
        (json!({"tool_choice": {"type": "any"}}), "no `tools`"),
        (json!({"tool_choice": {"type": "some"}}), "`tool_choice.type` is `some`"),
        (json!({"thinking": {"type": "on"}}), "`thinking.type` is `on`"),
        (json!({"output_config": {"effort": "huge"}}), "`output_config.effort` is `huge`"),
        (
            json!({"output_config": {"format": {"type": "xml"}}}),
            "`output_config.format.type` is `xml`",
        ),
        (json!({"stop_sequences": [""]}), "`stop_sequences` has an empty string"),
        (json!({"temperature": 3}), "`temperature` is 3"),
        (json!({"mcp_servers": [{"type": "url"}]}), "`mcp_servers` is not supported"),
    ] {
        for path in ["/v1/messages", "/v1/messages/count_tokens"] {
            let (status, answer) = site.post(path, &body(fields.clone())).await;
            let limits = ["max_tokens", "stop_sequences", "temperature", "metadata"];
            if path.ends_with("count_tokens")
                && limits.iter().any(|name| fields.get(name).is_some())
            {
                assert_eq!(status, 200, "{fields}: {answer}");
                continue;
            }
            assert_eq!(status, 400, "{fields}: {answer}");
            assert_eq!(answer["type"], "error");
            assert_eq!(answer["error"]["type"], "invalid_request_error");
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(message.contains(names), "{fields}: {message}");
        }
    }
    // By this code the SDKs know that they have to send the whole history.
    let thread = json!({"thread": {"type": "create"}});
    let (status, answer) = site.post("/v1/messages", &body(thread)).await;
    let code = &answer["error"]["details"]["error_code"];
    assert_eq!((status, code), (400, &json!("thread_unsupported_request")));
    let (status, headers, text) = site.send(request("POST", "/v1/messages", "{")).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status.as_u16(), &answer["type"]), (400, &json!("error")));
    assert_eq!(answer["request_id"], headers["request-id"].to_str().unwrap());
    let (status, answer) = site.post("/v1/messages/batches", &json!({})).await;
    assert_eq!((status, &answer["error"]["type"]), (404, &json!("not_found_error")));
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_refused_in_words_that_clients_look_for() {
    let site = Site::writing(TURN);
    let long = json!({"messages": [{"role": "user", "content": "word ".repeat(5000)}]});
    let (status, answer) = site.post("/v1/messages", &body(long.clone())).await;
    let message = answer["error"]["message"].as_str().unwrap();
    assert_eq!(status, 400);
    assert!(message.starts_with("prompt is too long: "), "{message}");
    assert!(message.contains("tokens > 4095 maximum"), "{message}");
    let (status, count) = site.post("/v1/messages/count_tokens", &body(long)).await;
    assert!(status == 200 && count["input_tokens"].as_u64() > Some(5000), "{count}");
}

#[tokio::test]
async fn a_failure_in_a_stream_is_an_error_event() {
    let site = Site::with(config(), |_| Script {
        tokens: tokens("<|channel|>final<|message|>Yes"),
        failure: Some(FinishReason::Failed("it broke".into())),
        ..Script::default()
    });
    let mut fields = body(json!({}));
    fields["stream"] = json!(true);
    let (_, _, text) = site.send(request("POST", "/v1/messages", &fields.to_string())).await;
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    let (name, data) = last.split_once('\n').unwrap();
    let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!((name, &data["error"]["type"]), ("event: error", &json!("api_error")));
    let (status, answer) = site.post("/v1/messages", &body(json!({}))).await;
    assert_eq!((status, &answer["error"]["message"]), (500, &json!("it broke")));
}

#[tokio::test]
async fn a_key_is_taken_from_either_header() {
    let mut config = config();
    config.keys = vec!["secret".to_owned()];
    let site = Site::with(config, |_| Script { tokens: tokens(TURN), ..Script::default() });
    for (name, value, status) in [
        ("x-api-key", "secret", 200),
        ("authorization", "Bearer secret", 200),
        ("x-api-key", "other", 401),
        ("x-other", "secret", 401),
    ] {
        let request = Request::builder()
            .method("POST")
            .uri("/v1/messages")
            .header(name, value)
            .header("anthropic-version", "2023-06-01")
            .body(body(json!({})).to_string().into())
            .unwrap();
        let (got, _, text) = site.send(request).await;
        assert_eq!(got.as_u16(), status, "{name}: {text}");
        if status == 401 {
            let answer: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(answer["error"]["type"], "authentication_error");
        }
    }
}

#[tokio::test]
async fn an_answer_may_have_to_follow_a_schema() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "schema": schema});
    for fields in [json!({"output_config": {"format": format}}), json!({"output_format": format})] {
        let prompt = prompt(fields.clone()).await;
        assert!(prompt.contains("# Response Formats\n\n## answer"), "{fields}: {prompt}");
    }
}

#[tokio::test]
async fn reasoning_that_is_omitted_is_sealed_in_its_signature_and_comes_back() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let turn = tokens(&CALL.replace("Look.", "A secret thought."));
    let site = Site::with(config(), move |request| {
        let text = ossmith_harmony::decode(&request.engine_request.prompt).unwrap();
        sender.send(text).unwrap();
        Script { tokens: turn.clone(), ..Script::default() }
    });
    let fields =
        json!({"tools": weather(), "thinking": {"type": "adaptive", "display": "omitted"}});
    let (status, whole) = site.post("/v1/messages", &body(fields.clone())).await;
    assert_eq!(status, 200, "{whole}");
    let events = stream(&site, fields.clone()).await;
    for message in [whole, collect(&events)] {
        let block = &message["content"][0];
        assert_eq!((&block["type"], &block["thinking"]), (&json!("thinking"), &json!("")));
        assert!(!message.to_string().contains("secret"), "{message}");
        let id = &message["content"][1]["id"];
        let history = json!([
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": message["content"]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "sunny"}]},
        ]);
        let mut fields = fields.clone();
        fields["messages"] = history;
        while receiver.try_recv().is_ok() {}
        let (status, answer) = site.post("/v1/messages", &body(fields.clone())).await;
        assert_eq!(status, 200, "{answer}");
        let prompt = receiver.try_recv().unwrap();
        assert!(prompt.contains("analysis<|message|>A secret thought.<|end|>"), "{prompt}");
        // What another server sealed is passed over.
        fields["messages"][1]["content"][0]["signature"] = json!("EqQBCgIYAhIM");
        site.post("/v1/messages", &body(fields)).await;
        assert!(!receiver.try_recv().unwrap().contains("secret"));
    }
    assert!(events.iter().all(|event| event["delta"]["type"] != "thinking_delta"));
    // Without a request for reasoning there is nothing to omit.
    let off = json!({"tools": weather(), "thinking": {"type": "disabled", "display": "omitted"}});
    let (_, whole) = site.post("/v1/messages", &body(off)).await;
    assert!(!whole.to_string().contains("\"thinking\""), "{whole}");
}

#[tokio::test]
async fn tools_that_anthropic_defines_and_the_client_runs_are_functions() {
    for (kind, name, shown) in [
        ("bash_20250124", "bash", "command?: string,"),
        ("text_editor_20250728", "str_replace_based_edit_tool", "\"str_replace\""),
        ("memory_20250818", "memory", "\"rename\""),
    ] {
        let fields = json!({"tools": [{"type": kind, "name": name}]});
        let prompt = prompt(fields.clone()).await;
        assert!(prompt.contains(&format!("type {name} = ")) && prompt.contains(shown), "{prompt}");
        let call = CALL
            .replace("weather", name)
            .replace(r#"{"city":"Paris"}"#, r#"{"command":"view","path":"/a"}"#);
        let (_, message) = Site::writing(&call).post("/v1/messages", &body(fields)).await;
        assert_eq!(message["stop_reason"], "tool_use", "{message}");
        assert_eq!(message["content"][0]["name"], name);
        assert_eq!(message["content"][0]["input"]["command"], "view");
    }
}

#[tokio::test]
async fn tools_that_anthropic_s_servers_run_are_left_out_and_named_unless_there_is_nothing_else() {
    let search = json!({"type": "web_search_20250305", "name": "web_search", "max_uses": 8});
    let both = body(
        json!({"tools": [search, weather()[0], {"type": "code_execution_20250825", "name": "code_execution"}]}),
    );
    let site = Site::writing(TURN);
    for stream in [false, true] {
        let mut both = both.clone();
        both["stream"] = json!(stream);
        let (status, headers, text) =
            site.send(request("POST", "/v1/messages", &both.to_string())).await;
        assert_eq!(status, 200, "{text}");
        assert_eq!(
            headers["x-ossmith-ignored-tools"],
            "web_search_20250305, code_execution_20250825"
        );
    }
    let alone = body(json!({"tools": [search]}));
    let strict = ossmith_server::Config { strict_tools: true, ..config() };
    let strict = Site::with(strict, |_| Script::default());
    for (site, body) in [(&site, &alone), (&strict, &both), (&strict, &alone)] {
        let (status, answer) = site.post("/v1/messages", body).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert_eq!(status, 400, "{answer}");
        assert!(
            message.starts_with(
                "`tools[0].type` is `web_search_20250305`, a tool that Anthropic's servers run"
            ),
            "{message}"
        );
    }
}

#[tokio::test]
async fn tools_that_another_server_ran_stay_in_the_history() {
    let prompt = prompt(json!({"messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [
            {"type": "text", "text": "I search."},
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "ossmith"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [
                {"type": "web_search_result", "title": "Ossmith", "url": "https://example.com", "encrypted_content": "Eqg"},
            ]},
            {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "echo", "server_name": "s", "input": {}},
            {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "is_error": false, "content": [{"type": "text", "text": "Hello"}]},
            {"type": "text", "text": "Found."},
        ]},
        {"role": "user", "content": "And?"},
    ]}))
    .await;
    for part in [
        "{\"query\":\"ossmith\"}<|call|>",
        "\"url\":\"https://example.com\"",
        "<|message|>Hello<|end|>",
        "Found.",
    ] {
        assert!(prompt.contains(part), "{part} in {prompt}");
    }
    assert!(!prompt.contains("Eqg"), "{prompt}");
}
