//! Ollama's API: lines of JSON, the options that are honoured, and what is known about the model.

use ossmith_server::stub::Script;
use serde_json::{Value, json};

use crate::common::{Site, TURN, config, request, tokens};

const CALL: &str = "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant to=functions.weather<|channel|>commentary <|constrain|>json<|message|>{\"city\":\"Paris\"}<|call|>";

fn chat(more: Value) -> Value {
    let mut body = json!({"model": "model", "messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}},
    }}}])
}

async fn lines(site: &Site, path: &str, body: &Value) -> Vec<Value> {
    let (status, headers, text) = site.send(request("POST", path, &body.to_string())).await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(headers["content-type"], "application/x-ndjson");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn lines_add_up_to_the_whole_answer() {
    for (turn, fields) in [
        (TURN, json!({})),
        (TURN, json!({"think": true})),
        (TURN, json!({"think": "high"})),
        (TURN, json!({"logprobs": true, "top_logprobs": 1})),
        (TURN, json!({"options": {"num_predict": 12}})),
        (TURN, json!({"options": {"stop": ["wör"]}})),
        (CALL, json!({"tools": tools()})),
    ] {
        let site = Site::writing(turn);
        let lines = lines(&site, "/api/chat", &chat(fields.clone())).await;
        let mut body = chat(fields.clone());
        body["stream"] = json!(false);
        let (status, whole) = site.post("/api/chat", &body).await;
        assert_eq!(status, 200, "{whole}");
        let (last, rest) = lines.split_last().unwrap();
        assert!(rest.iter().all(|line| line["done"] == false && line["model"] == "model"));
        for field in ["content", "thinking"] {
            let text: String =
                lines.iter().filter_map(|line| line["message"][field].as_str()).collect();
            assert_eq!(text, whole["message"][field].as_str().unwrap_or_default(), "{fields}");
        }
        let calls = |lines: &[Value]| -> Vec<Value> {
            let of = |line: &Value| line["message"]["tool_calls"].as_array().cloned();
            let calls = lines.iter().filter_map(of).flatten();
            calls.map(|call| call["function"].clone()).collect()
        };
        assert_eq!(calls(&lines), calls(std::slice::from_ref(&whole)), "{fields}");
        for field in ["done", "done_reason", "prompt_eval_count", "eval_count"] {
            assert_eq!(last[field], whole[field], "{fields}");
        }
        assert!(whole["total_duration"].as_u64() >= whole["eval_duration"].as_u64());
        if turn == CALL {
            let function = json!({"index": 0, "name": "weather", "arguments": {"city": "Paris"}});
            assert_eq!(calls(&lines), [function]);
        }
    }
}

#[tokio::test]
async fn reasoning_is_sent_unless_it_is_not_wanted() {
    let site = Site::writing(TURN);
    for (fields, thinking) in [
        (json!({"stream": false}), json!("Think 🙂.")),
        (json!({"stream": false, "think": true}), json!("Think 🙂.")),
        (json!({"stream": false, "think": false}), Value::Null),
        (json!({"stream": false, "think": "low"}), json!("Think 🙂.")),
    ] {
        let (_, answer) = site.post("/api/chat", &chat(fields.clone())).await;
        assert_eq!(answer["message"]["thinking"], thinking, "{fields}: {answer}");
    }
    let body = json!({"model": "model", "prompt": "Hi", "system": "Be brief.", "stream": false});
    let (_, answer) = site.post("/api/generate", &body).await;
    assert_eq!(answer["response"], "Hello, wörld!", "{answer}");
    assert_eq!(answer["thinking"], "Think 🙂.");
}

#[tokio::test]
async fn options_reach_the_engine() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let site = Site::with(config(), move |request| {
        sender.lock().unwrap().send(request.engine_request.params.clone()).unwrap();
        Script { tokens: tokens(TURN), ..Script::default() }
    });
    let options = json!({
        "num_predict": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": 42, "repeat_penalty": 1.1,
        "presence_penalty": 0.2, "frequency_penalty": 0.3, "num_ctx": 8192, "num_gpu": 99, "mirostat": 0, "typical_p": 1.0,
    });
    let (status, answer) =
        site.post("/api/chat", &chat(json!({"stream": false, "options": options}))).await;
    assert_eq!(status, 200, "{answer}");
    let params = receiver.recv().unwrap();
    assert_eq!(
        (
            params.max_tokens,
            params.temperature,
            params.top_p,
            params.top_k,
            params.min_p,
            params.seed
        ),
        (Some(7), 0.5, 0.9, 40, 0.1, 42)
    );
    assert_eq!(
        (params.repetition_penalty, params.presence_penalty, params.frequency_penalty),
        (1.1, 0.2, 0.3)
    );
    let unlimited =
        json!({"num_predict": -1, "seed": -1, "repeat_penalty": 1.1, "repeat_last_n": 0});
    site.post("/api/chat", &chat(json!({"stream": false, "options": unlimited}))).await;
    let params = receiver.recv().unwrap();
    assert!(params.max_tokens > Some(3000) && params.seed != u64::MAX);
    assert_eq!(params.repetition_penalty, 1.0);
}

#[tokio::test]
async fn a_tool_round_is_the_prompt_that_chat_completions_makes() {
    let site = Site::writing(TURN);
    let call = json!({"function": {"name": "weather", "arguments": {"city": "Paris"}}});
    let history = chat(json!({"tools": tools(), "stream": false, "messages": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "thinking": "Look.", "tool_calls": [call]},
        {"role": "tool", "tool_name": "weather", "content": "sunny"},
    ]}));
    let (status, answer) = site.post("/api/chat", &history).await;
    assert_eq!(status, 200, "{answer}");
    let call = json!({"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Paris\"}"}});
    let (_, tokens) = site
        .post(
            "/tokenize",
            &json!({"tools": tools(), "messages": [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "reasoning": "Look.", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "a", "content": "sunny"},
            ]}),
        )
        .await;
    assert_eq!(answer["prompt_eval_count"], tokens["count"]);
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_by_name() {
    let site = Site::writing(TURN);
    for (path, fields, names) in [
        (
            "/api/chat",
            chat(json!({"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]})),
            "`messages[0].images`",
        ),
        (
            "/api/chat",
            chat(json!({"messages": [{"role": "user"}]})),
            "`messages[0].content` is missing",
        ),
        ("/api/chat", chat(json!({"options": {"mirostat": 2}})), "`options.mirostat`"),
        ("/api/chat", chat(json!({"options": {"temperature": 9}})), "`options.temperature`"),
        ("/api/chat", chat(json!({"format": "xml"})), "`format` is `xml`"),
        ("/api/chat", chat(json!({"think": "much"})), "`think` is `much`"),
        ("/api/chat", chat(json!({"think": 3})), "`think` is a number"),
        ("/api/chat", json!({"messages": []}), "`model` is missing"),
        ("/api/generate", json!({"model": "model", "prompt": "x", "raw": true}), "`raw`"),
        ("/api/generate", json!({"model": "model", "prompt": "x", "suffix": "y"}), "`suffix`"),
        ("/api/generate", json!({"model": "model", "prompt": "x", "context": [1]}), "`context`"),
    ] {
        let (status, answer) = site.post(path, &fields).await;
        assert_eq!(status, 400, "{fields}: {answer}");
        let message = answer["error"].as_str().unwrap();
        assert!(message.contains(names), "{fields}: {message}");
    }
    for path in ["/api/chat", "/api/show", "/api/pull"] {
        let (status, answer) = site.post(path, &json!({"model": "llama3"})).await;
        assert_eq!(status, 404);
        assert!(answer["error"].as_str().unwrap().contains("llama3"), "{answer}");
    }
    let (status, answer) = site.post("/api/embed", &json!({"model": "model"})).await;
    assert_eq!((status, answer["error"].is_string()), (404, true));
}

#[tokio::test]
async fn clients_find_the_model() {
    let mut config = config();
    config.names = vec!["openai/gpt-oss-20b".to_owned()];
    config.aliases = vec!["gpt-oss:20b".to_owned(), "claude-*".to_owned()];
    config.parameters = 20_914_757_184;
    config.weight_bytes = 13_761_300_984;
    let site = Site::with(config, |_| Script { tokens: tokens(TURN), ..Script::default() });
    let get =
        async |path: &str| -> Value { serde_json::from_str(&site.get(path).await.1).unwrap() };
    let tags = get("/api/tags").await;
    let names: Vec<&Value> =
        tags["models"].as_array().unwrap().iter().map(|m| &m["name"]).collect();
    assert_eq!(names, ["openai/gpt-oss-20b", "gpt-oss:20b"]);
    let card = &tags["models"][1];
    assert_eq!(
        (&card["size"], &card["details"]["parameter_size"]),
        (&json!(13_761_300_984_u64), &json!("20.9B"))
    );
    assert_eq!(get("/api/ps").await["models"][0]["context_length"], 4096);
    let version = get("/api/version").await["version"].as_str().unwrap().to_owned();
    let numbers: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
    assert!(numbers >= vec![0, 13, 4], "Codex refuses an older one");
    for name in ["gpt-oss:20b", "openai/gpt-oss-20b", "openai/gpt-oss-20b:latest"] {
        let (status, shown) = site.post("/api/show", &json!({"model": name})).await;
        assert_eq!((status, &shown["model_info"]["gptoss.context_length"]), (200, &json!(4096)));
        assert!(shown["capabilities"].as_array().unwrap().contains(&json!("tools")));
        let pulled = lines(&site, "/api/pull", &json!({"model": name})).await;
        assert_eq!(pulled.last(), Some(&json!({"status": "success"})));
    }
    let (_, answer) = site.post("/api/generate", &json!({"model": "gpt-oss:20b"})).await;
    assert_eq!((&answer["done_reason"], &answer["response"]), (&json!("load"), &json!("")));
    let empty = json!({"model": "gpt-oss:20b", "messages": [], "keep_alive": "0s"});
    assert_eq!(site.post("/api/chat", &empty).await.1["done_reason"], "unload");
}
