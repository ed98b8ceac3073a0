//! Tools of every type: namespaces, free-form tools, and those that this server does not run.

use ossmith_server::Config;
use ossmith_server::stub::Script;
use serde_json::{Value, json};

use crate::common::{Site, config, request, tokens};

/// A turn that calls a tool with these arguments.
fn call(recipient: &str, arguments: &str) -> String {
    format!(
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to={recipient}<|channel|>commentary <|constrain|>json<|message|>{arguments}<|call|>"
    )
}

fn crm() -> Value {
    let order =
        json!({"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]});
    json!({"type": "namespace", "name": "crm", "description": "Customers.", "tools": [
        {"type": "function", "name": "order", "description": "An order.", "parameters": order},
        {"type": "custom", "name": "note"},
    ]})
}

fn patch(format: Value) -> Value {
    json!({"type": "custom", "name": "patch", "description": "Edits files.", "format": format})
}

fn respond(more: Value) -> Value {
    let mut body = json!({"model": "model", "input": "Hi"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The text that a Responses request becomes.
async fn prompt_of(body: Value) -> String {
    let (sender, receiver) = std::sync::mpsc::channel();
    let turn = tokens(crate::common::TURN);
    let site = Site::with(config(), move |request| {
        let text = ossmith_harmony::decode(&request.engine_request.prompt).unwrap();
        sender.send(text).unwrap();
        Script { tokens: turn.clone(), ..Script::default() }
    });
    let (status, answer) = site.post("/v1/responses", &body).await;
    assert_eq!(status, 200, "{answer}");
    receiver.try_recv().unwrap()
}

#[tokio::test]
async fn a_function_of_a_namespace_is_called_by_its_full_name() {
    let prompt = prompt_of(respond(json!({"tools": [crm()]}))).await;
    assert!(prompt.contains("## crm\n\n// Customers.\nnamespace crm {\n\n// An order.\ntype order = (_: {\nid: string,\n}) => any;\n\n"), "{prompt}");
    let site = Site::writing(&call("crm.order", r#"{"id":"7"}"#));
    let (_, answer) = site.post("/v1/responses", &respond(json!({"tools": [crm()]}))).await;
    let item = &answer["output"][1];
    assert_eq!(item["type"], "function_call", "{answer}");
    assert_eq!((&item["namespace"], &item["name"]), (&json!("crm"), &json!("order")));
    assert_eq!(item["arguments"], r#"{"id":"7"}"#);
    // The call and its result come back as they went.
    let result =
        json!({"type": "function_call_output", "call_id": item["call_id"], "output": "sent"});
    let prompt = prompt_of(
        json!({"model": "model", "tools": [crm()], "input": [{"role": "user", "content": "x"}, item, result]}),
    )
    .await;
    let want = "<|start|>assistant to=crm.order<|channel|>commentary <|constrain|>json<|message|>{\"id\":\"7\"}<|call|><|start|>crm.order to=assistant<|channel|>commentary<|message|>sent<|end|>";
    assert!(prompt.contains(want), "{prompt}");
}

#[tokio::test]
async fn a_tool_may_have_a_name_of_another_namespace() {
    let tools = json!([crm(), {"type": "function", "name": "order"}]);
    for (recipient, namespace) in [("crm.order", json!("crm")), ("functions.order", Value::Null)] {
        let site = Site::writing(&call(recipient, r#"{"id":"7"}"#));
        let (_, answer) = site.post("/v1/responses", &respond(json!({"tools": tools}))).await;
        assert_eq!(answer["output"][1]["namespace"], namespace, "{answer}");
    }
    let site = Site::writing(crate::common::TURN);
    let twice = json!({"tools": [crm(), crm()]});
    let (status, answer) = site.post("/v1/responses", &respond(twice)).await;
    assert_eq!(status, 400);
    assert_eq!(answer["error"]["message"], "`tools` has two tools named `crm.order`");
}

#[tokio::test]
async fn a_free_form_tool_is_a_function_with_one_string() {
    let prompt = prompt_of(respond(json!({"tools": [
        patch(json!({"type": "grammar", "syntax": "regex", "definition": "a+\\n"})),
    ]})))
    .await;
    assert!(prompt.contains("// Edits files.\n// \n// `input` matches this regular expression:\n// a+\\n\ntype patch = (_: {\ninput: string,\n}) => any;"), "{prompt}");

    let written = r#"{"input":"*** Begin\n+\"x\" \ud83d\ude42"}"#;
    let input = "*** Begin\n+\"x\" 🙂";
    let site = Site::writing(&call("functions.patch", written));
    let body = respond(json!({"tools": [patch(Value::Null)]}));
    let (_, answer) = site.post("/v1/responses", &body).await;
    let item = answer["output"][1].clone();
    assert_eq!(item["type"], "custom_tool_call", "{answer}");
    assert_eq!((&item["name"], &item["input"]), (&json!("patch"), &json!(input)));

    let events = site.events("/v1/responses", &body).await;
    let of = |kind: &str| events.iter().filter(|e| e["type"] == kind).collect::<Vec<_>>();
    let deltas = of("response.custom_tool_call_input.delta");
    let text: String = deltas.iter().map(|event| event["delta"].as_str().unwrap()).collect();
    assert_eq!(text, input);
    assert_eq!(of("response.custom_tool_call_input.done")[0]["input"], input);
    assert!(of("response.function_call_arguments.delta").is_empty());

    let result = json!({"type": "custom_tool_call_output", "call_id": item["call_id"], "output": [{"type": "input_text", "text": "Done."}]});
    let history = json!([{"role": "user", "content": "x"}, item, result]);
    let prompt = prompt_of(json!({"model": "model", "input": history})).await;
    let want = r#"to=functions.patch<|channel|>commentary <|constrain|>json<|message|>{"input":"*** Begin\n+\"x\" 🙂"}<|call|><|start|>functions.patch to=assistant<|channel|>commentary<|message|>Done.<|end|>"#;
    assert!(prompt.contains(want), "{prompt}");
}

#[tokio::test]
async fn chat_has_free_form_tools_too() {
    let site = Site::writing(&call("functions.patch", r#"{"input":"a\nb"}"#));
    let tool = json!({"type": "custom", "custom": {"name": "patch", "format": {"type": "text"}}});
    let choice = json!({"type": "custom", "custom": {"name": "patch"}});
    for more in [json!({"tools": [tool]}), json!({"tools": [tool], "tool_choice": choice})] {
        let body = crate::common::chat(more);
        let (_, answer) = site.post("/v1/chat/completions", &body).await;
        let called = &answer["choices"][0]["message"]["tool_calls"][0];
        assert_eq!(called["type"], "custom", "{answer}");
        assert_eq!(called["custom"], json!({"name": "patch", "input": "a\nb"}));
        assert!(called["index"].is_null() && called["function"].is_null(), "{answer}");
        let chunks = site.events("/v1/chat/completions", &body).await;
        let calls = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0]);
        let text: String = calls.filter_map(|call| call["custom"]["input"].as_str()).collect();
        assert_eq!(text, "a\nb");
    }
    let history = json!([
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "function": null, "custom": {"name": "patch", "input": "a\nb"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "Done."},
    ]);
    let prompt = site.prompt(&json!({"messages": history})).await;
    assert!(prompt.contains(r#"<|message|>{"input":"a\nb"}<|call|>"#), "{prompt}");
}

#[tokio::test]
async fn tools_that_this_server_does_not_run_are_left_out_and_named() {
    let hosted = json!([
        {"type": "web_search", "external_web_access": false},
        {"type": "function", "name": "f"},
        {"type": "image_generation"}, {"type": "brand new"}, {"type": "web_search"},
    ]);
    let site = Site::writing(crate::common::TURN);
    let bodies = [
        ("/v1/responses", respond(json!({"tools": hosted}))),
        ("/v1/responses", respond(json!({"tools": hosted, "stream": true}))),
        ("/v1/responses", respond(json!({"tools": hosted, "background": true}))),
        ("/v1/chat/completions", crate::common::chat(json!({"tools": hosted}))),
    ];
    for (path, body) in &bodies {
        let (status, headers, text) = site.send(request("POST", path, &body.to_string())).await;
        assert_eq!(status, 200, "{text}");
        assert_eq!(headers["x-ossmith-ignored-tools"], "web_search, image_generation, brand?new");
    }
    let (_, headers, _) = site
        .send(request("POST", "/v1/responses", &respond(json!({"tools": [crm()]})).to_string()))
        .await;
    assert!(!headers.contains_key("x-ossmith-ignored-tools"));
    // What a request demands is not passed over.
    for choice in [json!({"type": "web_search"}), json!("required")] {
        let body = respond(json!({"tools": [{"type": "web_search"}], "tool_choice": choice}));
        let (status, answer) = site.post("/v1/responses", &body).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("tool_choice")), "{answer}");
    }
    let strict = Site::with(Config { strict_tools: true, ..config() }, |_| Script::default());
    for (path, body) in &bodies {
        let (status, answer) = strict.post(path, body).await;
        assert_eq!(status, 400);
        assert_eq!(answer["error"]["param"], "tools[0].type", "{answer}");
        assert_eq!(answer["error"]["code"], "unsupported_value");
    }
}

#[tokio::test]
async fn a_choice_may_name_any_tool() {
    let tools = json!([crm(), patch(Value::Null), {"type": "function", "name": "f"}, {"type": "mcp", "server_label": "x"}]);
    for (choice, kept) in [
        (json!({"type": "custom", "name": "patch"}), &["functions.patch"][..]),
        (json!({"type": "function", "name": "order", "namespace": "crm"}), &["crm.order"]),
        (
            json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace", "name": "crm"}, {"type": "mcp", "server_label": "x"}]}),
            &["crm.order", "crm.note"],
        ),
        (
            json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}),
            &["functions.f"],
        ),
    ] {
        let body = respond(json!({"tools": tools, "tool_choice": choice}));
        let prompt = prompt_of(body).await;
        for name in ["functions.patch", "functions.f", "crm.order", "crm.note"] {
            let short = name.split_once('.').unwrap().1;
            let shown = prompt.contains(&format!("type {short} = "));
            assert_eq!(shown, kept.contains(&name), "{choice}: {name} in {prompt}");
        }
    }
    let site = Site::writing(crate::common::TURN);
    for choice in [
        json!({"type": "custom", "name": "other"}),
        json!({"type": "function", "name": "order", "namespace": "other"}),
        json!({"type": "allowed_tools", "tools": [{"type": "web_search"}]}),
    ] {
        let body = respond(json!({"tools": tools, "tool_choice": choice}));
        let (status, answer) = site.post("/v1/responses", &body).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("tool_choice")), "{answer}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_tool_is_named() {
    let site = Site::writing(crate::common::TURN);
    for (tool, param) in [
        (json!({"type": "custom"}), "tools[0].name"),
        (json!({"type": "custom", "name": "a b"}), "tools[0].name"),
        (patch(json!({"type": "odd"})), "tools[0].format.type"),
        (
            patch(json!({"type": "grammar", "syntax": "yacc", "definition": "x"})),
            "tools[0].format.syntax",
        ),
        (patch(json!({"type": "grammar", "syntax": "regex"})), "tools[0].format.definition"),
        (
            patch(json!({"type": "grammar", "syntax": "regex", "definition": "("})),
            "tools[0].format",
        ),
        (json!({"type": "namespace", "tools": []}), "tools[0].name"),
        (
            json!({"type": "namespace", "name": "n", "tools": [{"type": "mcp"}]}),
            "tools[0].tools[0].type",
        ),
        (
            json!({"type": "namespace", "name": "n", "tools": [{"type": "function"}]}),
            "tools[0].tools[0].name",
        ),
    ] {
        let (status, answer) = site.post("/v1/responses", &respond(json!({"tools": [tool]}))).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{tool}: {answer}");
    }
}

/// What the rules of a request allow next: after these texts, whether the tokens of each may come, one after another.
fn allows(source: &dyn ossmith::MaskSource, text: &str) -> bool {
    let (mut mask, mut words) = (source.start(0), vec![0_u32; 201_088_usize.div_ceil(32)]);
    let all = tokens(text);
    (0..all.len()).all(|at| {
        words.fill(0);
        let allowed = mask.fill(&all[..at], &mut words).unwrap();
        let token = all[at];
        allowed == ossmith::Allowed::All || words[token as usize / 32] >> (token % 32) & 1 == 1
    })
}

#[tokio::test]
async fn a_lark_grammar_of_a_free_form_tool_is_enforced() {
    let grammar = json!({"type": "grammar", "syntax": "lark", "definition": "start: LINE+\nLINE: \"+\" /[a-z \"]+/ \"\\n\""});
    let good = call("functions.patch", r#"{"input":"+ab \"c\"\n+d\n"}"#);
    let bad = [
        call("functions.patch", r#"{"input":"+AB\n"}"#),
        call("functions.patch", r#"{"input":"+ab"}"#),
        call("functions.patch", r#"{"input":""}"#),
        call("functions.patch", r#"{"other":"+ab\n"}"#),
    ];
    let (sender, receiver) = std::sync::mpsc::channel();
    let turn = tokens(&good);
    let site = Site::with(config(), move |request| {
        let mask = request.engine_request.mask.clone().unwrap();
        sender.send((allows(&*mask, &good), bad.iter().any(|bad| allows(&*mask, bad)))).unwrap();
        Script { tokens: turn.clone(), ..Script::default() }
    });
    let chat = json!({"type": "custom", "custom": {"name": "patch", "format": {"type": "grammar", "grammar": {
        "syntax": grammar["syntax"], "definition": grammar["definition"],
    }}}});
    for stream in [false, true] {
        let responses = respond(json!({"tools": [patch(grammar.clone())], "stream": stream}));
        let chat = crate::common::chat(json!({"tools": [chat], "stream": stream}));
        for (path, body) in [("/v1/responses", responses), ("/v1/chat/completions", chat)] {
            let (status, _, text) = site.send(request("POST", path, &body.to_string())).await;
            assert_eq!(status, 200, "{text}");
            assert_eq!(receiver.try_recv().unwrap(), (true, false), "{path}");
        }
    }
    // What cannot be enforced is refused, as for every other grammar.
    for definition in ["start: nowhere", "start: (", &":".repeat(3000)] {
        let format = json!({"type": "grammar", "syntax": "lark", "definition": definition});
        let body = respond(json!({"tools": [patch(format)]}));
        let (status, answer) = site.post("/v1/responses", &body).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("tools[0].format")));
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("the grammar of `patch` cannot be enforced: "), "{message}");
    }
}
