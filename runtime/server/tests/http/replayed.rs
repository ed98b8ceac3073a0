//! What clients send back: reasoning that they keep sealed, summaries, and items of tools that others ran.

use ossmith_server::Config;
use ossmith_server::stub::Script;
use serde_json::{Value, json};

use crate::common::{Site, TURN, config, request, tokens};

/// A model that writes `TURN` and tells what it read.
struct Reader {
    site: Site,
    prompts: std::sync::mpsc::Receiver<String>,
}

impl Reader {
    fn new(config: Config) -> Reader {
        let (sender, prompts) = std::sync::mpsc::channel();
        let turn = tokens(TURN);
        let site = Site::with(config, move |request| {
            let text = ossmith_harmony::decode(&request.engine_request.prompt).unwrap();
            sender.send(text).unwrap();
            Script { tokens: turn.clone(), ..Script::default() }
        });
        Reader { site, prompts }
    }

    async fn respond(&self, body: Value) -> (Value, String) {
        let (status, answer) = self.site.post("/v1/responses", &body).await;
        assert_eq!(status, 200, "{body}: {answer}");
        (answer, self.prompts.try_recv().unwrap())
    }
}

#[tokio::test]
async fn a_summary_is_the_reasoning_if_one_is_wanted() {
    let site = Site::writing(TURN);
    let text = "Think 🙂.";
    for (wanted, shown) in [("auto", true), ("concise", true), ("detailed", true), ("none", false)]
    {
        let body = json!({"model": "model", "input": "Hi", "reasoning": {"summary": wanted}});
        let (_, answer) = site.post("/v1/responses", &body).await;
        let want = if shown { json!([{"type": "summary_text", "text": text}]) } else { json!([]) };
        assert_eq!(answer["output"][0]["summary"], want, "{wanted}");
        assert_eq!(answer["output"][0]["content"][0]["text"], text);
        let events = site.events("/v1/responses", &body).await;
        let about = |event: &&Value| event["type"].as_str().unwrap().contains("summary");
        let about: Vec<&Value> = events.iter().filter(about).collect();
        if !shown {
            assert!(about.is_empty(), "{about:?}");
            continue;
        }
        let kinds: Vec<&str> = about.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(kinds.first(), Some(&"response.reasoning_summary_part.added"));
        let ends = ["response.reasoning_summary_text.done", "response.reasoning_summary_part.done"];
        assert_eq!(kinds[kinds.len() - 2..], ends);
        let deltas: String = about.iter().filter_map(|event| event["delta"].as_str()).collect();
        assert_eq!(deltas, text);
        assert!(
            about.iter().all(|event| event["summary_index"] == 0 && event["item_id"].is_string())
        );
        let place = |kind: &str| events.iter().position(|event| event["type"] == kind).unwrap();
        assert!(place("response.output_item.added") < place(kinds[0]));
        assert!(place("response.reasoning_summary_part.done") < place("response.output_item.done"));
    }
    let odd = json!({"model": "model", "input": "Hi", "reasoning": {"summary": "long"}});
    let (status, answer) = site.post("/v1/responses", &odd).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("reasoning.summary")));
}

#[tokio::test]
async fn sealed_reasoning_comes_back() {
    let keyed = || Config { seal_key: Some("secret".to_owned()), ..config() };
    let (first, second) = (Reader::new(keyed()), Reader::new(keyed()));
    let include = json!(["reasoning.encrypted_content"]);
    let ask = json!({"model": "model", "input": "Hi", "store": false, "include": include});
    let (answer, _) = first.respond(ask).await;
    let sealed = answer["output"][0]["encrypted_content"].as_str().unwrap();
    assert!(!sealed.contains("Think"), "{sealed}");
    let (plain, _) = first.respond(json!({"model": "model", "input": "Hi"})).await;
    assert!(plain["output"][0]["encrypted_content"].is_null());

    // A client keeps the string alone, and a replica with the same key reads it.
    let kept =
        json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed});
    let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
    let result = json!({"type": "function_call_output", "call_id": "c", "output": "7"});
    let input = json!([{"role": "user", "content": "Hi"}, kept, call, result]);
    for reader in [&first, &second] {
        let (_, prompt) = reader.respond(json!({"model": "model", "input": input})).await;
        assert!(prompt.contains("<|channel|>analysis<|message|>Think 🙂.<|end|>"), "{prompt}");
    }
    let other = Reader::new(config());
    let changed = json!({"type": "reasoning", "encrypted_content": "AQabc"});
    for (reader, item) in [(&other, &kept), (&first, &changed)] {
        let body = json!({"model": "model", "input": [{"role": "user", "content": "Hi"}, item]});
        let (status, answer) = reader.site.post("/v1/responses", &body).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("invalid_encrypted_content")));
        assert_eq!(answer["error"]["param"], "input[1].encrypted_content");
    }
}

#[tokio::test]
async fn items_of_other_tools_are_calls_and_results() {
    let reader = Reader::new(config());
    for (items, want) in [
        (
            json!([
                {"type": "local_shell_call", "id": "lsh_1", "call_id": "c1", "status": "completed", "action": {"type": "exec", "command": ["ls"], "env": {}}},
                {"type": "local_shell_call_output", "id": "lsh_1", "output": "a.rs"},
            ]),
            &[
                r#"to=functions.local_shell<|channel|>commentary <|constrain|>json<|message|>{"type":"exec","command":["ls"],"env":{}}<|call|>"#,
                "<|start|>functions.local_shell to=assistant<|channel|>commentary<|message|>a.rs<|end|>",
            ][..],
        ),
        (
            json!([
                {"type": "shell_call", "call_id": "c1", "action": {"commands": ["ls"]}},
                {"type": "shell_call_output", "call_id": "c1", "output": [{"stdout": "a.rs", "stderr": ""}]},
            ]),
            &[
                r#"functions.shell to=assistant<|channel|>commentary<|message|>[{"stdout":"a.rs","stderr":""}]<|end|>"#,
            ],
        ),
        (
            json!([{"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}}]),
            &[
                r#"functions.web_search<|channel|>commentary <|constrain|>json<|message|>{"type":"search","query":"x"}<|call|>"#,
                "functions.web_search to=assistant<|channel|>commentary<|message|>completed<|end|>",
            ],
        ),
        (
            json!([{"type": "mcp_list_tools", "server_label": "docs", "tools": []}, {"type": "mcp_call", "id": "mcp_1", "server_label": "docs", "name": "find", "arguments": "{\"a\":1}", "output": "here"}]),
            &[
                r#"to=docs.find<|channel|>commentary <|constrain|>json<|message|>{"a":1}<|call|><|start|>docs.find to=assistant<|channel|>commentary<|message|>here<|end|>"#,
            ],
        ),
        (
            json!([{"type": "code_interpreter_call", "id": "ci", "code": "1+1", "outputs": [{"type": "logs", "logs": "2"}]}]),
            &[r#"{"code":"1+1"}<|call|>"#, r#"[{"type":"logs","logs":"2"}]<|end|>"#],
        ),
        (
            json!([{"type": "apply_patch_call", "call_id": "p", "operation": {"type": "delete_file", "path": "a"}}, {"type": "apply_patch_call_output", "call_id": "p", "status": "completed", "output": "ok"}]),
            &[
                r#"functions.apply_patch<|channel|>commentary <|constrain|>json<|message|>{"type":"delete_file","path":"a"}<|call|>"#,
                "<|message|>ok<|end|>",
            ],
        ),
        (
            json!([{"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "x"}]),
            &[r#"{"input":"x"}<|call|>"#],
        ),
        (
            json!([{"type": "function_call", "call_id": "i", "name": "see", "arguments": "{}"}, {"type": "function_call_output", "call_id": "i", "output": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}]),
            &["<|message|>[a result of the type image was left out: this model reads text]<|end|>"],
        ),
        (
            json!([{"type": "computer_call", "call_id": "c", "action": {"type": "wait"}}, {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": "data:image/png;base64,AAAA"}}]),
            &[
                "<|message|>[a result of the type screenshot was left out: this model reads text]<|end|>",
            ],
        ),
    ] {
        let mut input = vec![json!({"role": "user", "content": "before"})];
        input.extend(items.as_array().unwrap().clone());
        input.push(json!({"role": "user", "content": "after"}));
        let (_, prompt) = reader.respond(json!({"model": "model", "input": input})).await;
        for want in want {
            assert!(prompt.contains(want), "{want} is not in {prompt}");
        }
        assert!(prompt.ends_with("after<|end|><|start|>assistant"), "{prompt}");
    }
}

#[tokio::test]
async fn items_without_a_type_that_have_only_an_id_are_references() {
    let reader = Reader::new(config());
    let (answer, _) = reader.respond(json!({"model": "model", "input": "Hi"})).await;
    let id = &answer["output"][1]["id"];
    for reference in [
        json!({"id": id}),
        json!({"id": id, "type": null}),
        json!({"id": id, "type": "item_reference"}),
    ] {
        let input =
            json!([{"role": "user", "content": "x"}, reference, {"role": "user", "content": "y"}]);
        let (_, prompt) = reader.respond(json!({"model": "model", "input": input})).await;
        assert!(prompt.contains("<|channel|>final<|message|>Hello, wörld!<|end|>"), "{prompt}");
    }
}

#[tokio::test]
async fn unknown_items_are_left_out_and_named() {
    let body = json!({"model": "model", "input": [{"role": "user", "content": "Hi"}, {"type": "brand_new", "x": 1}]});
    let site = Site::writing(TURN);
    let (status, headers, _) = site.send(request("POST", "/v1/responses", &body.to_string())).await;
    assert_eq!(status, 200);
    assert_eq!(headers["x-ossmith-ignored-items"], "brand_new");
    let strict = Site::with(Config { strict_tools: true, ..config() }, |_| Script::default());
    let (status, answer) = strict.post("/v1/responses", &body).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("input[1].type")));
}
