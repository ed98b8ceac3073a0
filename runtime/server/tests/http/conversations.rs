//! Stored conversations, token counts and compaction.

use axum::http::header;
use ossmith_server::Config;
use ossmith_server::stub::Script;
use serde_json::{Value, json};

use crate::common::{Site, TURN, config, request, tokens};

async fn send(site: &Site, method: &str, path: &str, body: Value) -> (u16, Value) {
    let (status, _, text) = site.send(request(method, path, &body.to_string())).await;
    (status.as_u16(), serde_json::from_str(&text).unwrap_or_else(|why| panic!("{why}: {text}")))
}

fn texts(list: &Value) -> Vec<&str> {
    let items = list["data"].as_array().unwrap().iter();
    items.map(|item| item["content"][0]["text"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_conversation_is_made_changed_and_deleted() {
    let site = Site::writing(TURN);
    let body = json!({
        "metadata": {"topic": "x"},
        "items": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}],
    });
    let (status, made) = send(&site, "POST", "/v1/conversations", body).await;
    assert_eq!(status, 200, "{made}");
    let id = made["id"].as_str().unwrap();
    assert!(id.starts_with("conv_") && made["created_at"].is_u64());
    assert_eq!(
        (&made["object"], &made["metadata"]),
        (&json!("conversation"), &json!({"topic": "x"}))
    );
    let path = format!("/v1/conversations/{id}");
    assert_eq!(send(&site, "GET", &path, json!({})).await, (200, made.clone()));

    let (_, changed) = send(&site, "POST", &path, json!({"metadata": {"topic": "y"}})).await;
    assert_eq!(changed["metadata"], json!({"topic": "y"}));
    assert_eq!(changed["created_at"], made["created_at"]);

    let items = format!("{path}/items");
    let more = json!({"items": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "three"}]}]});
    let (status, added) = send(&site, "POST", &items, more).await;
    assert_eq!((status, texts(&added)), (200, vec!["three"]), "{added}");
    let (_, all) = send(&site, "GET", &format!("{items}?order=asc"), json!({})).await;
    assert_eq!(texts(&all), ["one", "two", "three"]);
    assert_eq!(all["data"][1]["content"][0]["type"], "output_text");
    let (_, newest) = send(&site, "GET", &format!("{items}?limit=2"), json!({})).await;
    assert_eq!((texts(&newest), &newest["has_more"]), (vec!["three", "two"], &json!(true)));
    let after = format!("{items}?after={}", newest["last_id"].as_str().unwrap());
    assert_eq!(texts(&send(&site, "GET", &after, json!({})).await.1), ["one"]);
    let (status, lost) = send(&site, "GET", &format!("{items}?after=msg_gone"), json!({})).await;
    assert_eq!((status, &lost["error"]["param"]), (400, &json!("after")), "{lost}");

    let one = format!("{items}/{}", all["data"][0]["id"].as_str().unwrap());
    assert_eq!(send(&site, "GET", &one, json!({})).await, (200, all["data"][0].clone()));
    assert_eq!(send(&site, "DELETE", &one, json!({})).await, (200, changed));
    assert_eq!(send(&site, "GET", &one, json!({})).await.0, 404);
    assert_eq!(send(&site, "DELETE", &one, json!({})).await.0, 404);
    let (_, left) = send(&site, "GET", &format!("{items}?order=asc"), json!({})).await;
    assert_eq!(texts(&left), ["two", "three"]);

    let gone = json!({"id": id, "object": "conversation.deleted", "deleted": true});
    assert_eq!(send(&site, "DELETE", &path, json!({})).await, (200, gone));
    for (method, path) in [("GET", &path), ("POST", &path), ("DELETE", &path), ("GET", &items)] {
        assert_eq!(send(&site, method, path, json!({})).await.0, 404, "{method} {path}");
    }
}

#[tokio::test]
async fn responses_continue_a_conversation() {
    let (sender, prompts) = std::sync::mpsc::channel();
    let turn = tokens(TURN);
    let site = Site::with(config(), move |request| {
        sender.send(ossmith_harmony::decode(&request.engine_request.prompt).unwrap()).unwrap();
        Script { tokens: turn.clone(), ..Script::default() }
    });
    let (_, made) = send(&site, "POST", "/v1/conversations", json!({})).await;
    let id = made["id"].as_str().unwrap();
    for (question, conversation, stream) in
        [("one", json!(id), false), ("two", json!({"id": id}), true), ("three", json!(id), false)]
    {
        let body = json!({"input": question, "conversation": conversation, "store": false});
        let answer = match stream {
            true => site.events("/v1/responses", &body).await.pop().unwrap()["response"].clone(),
            false => site.post("/v1/responses", &body).await.1,
        };
        assert_eq!(answer["conversation"], json!({"id": id}), "{answer}");
    }
    let last = prompts.try_iter().last().unwrap();
    let at = |text: &str| last.find(text).unwrap_or_else(|| panic!("{text} is not in {last}"));
    assert!(at("user<|message|>one") < at("final<|message|>Hello, wörld!"));
    assert!(at("Hello") < at("<|message|>two") && at("<|message|>two") < at("<|message|>three"));
    let path = format!("/v1/conversations/{id}/items?order=asc&limit=100");
    let (_, items) = send(&site, "GET", &path, json!({})).await;
    let kinds: Vec<&str> = items["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["message", "reasoning", "message"].repeat(3));

    for (body, status, param) in [
        (json!({"input": "x", "conversation": "conv_none"}), 404, "conversation"),
        (json!({"input": "x", "conversation": 5}), 400, "conversation"),
        (json!({"input": "x", "conversation": {}}), 400, "conversation.id"),
        (
            json!({"input": "x", "conversation": id, "previous_response_id": "r"}),
            400,
            "conversation",
        ),
        (json!({"input": "x", "previous_response_id": id}), 404, "previous_response_id"),
    ] {
        let (found, answer) = site.post("/v1/responses", &body).await;
        assert_eq!((found, &answer["error"]["param"]), (status, &json!(param)), "{body}");
    }
    // A conversation is no response.
    assert_eq!(site.get(&format!("/v1/responses/{id}")).await.0, 404);
}

#[tokio::test]
async fn what_a_conversation_cannot_hold_is_refused() {
    let site = Site::writing(TURN);
    let many = vec![json!({"role": "user", "content": "x"}); 21];
    let pairs: Value = (0..17).map(|n| (n.to_string(), json!("x"))).collect();
    for (body, param) in [
        (json!({"items": many}), "items"),
        (json!({"items": "x"}), "items"),
        (json!({"items": [5]}), "items[0]"),
        (json!({"items": [{"type": "brand_new"}]}), "items"),
        (json!({"items": [{"type": "function_call"}]}), "items[0]"),
        (
            json!({"items": [{"type": "compaction", "encrypted_content": "x"}]}),
            "items[0].encrypted_content",
        ),
        (json!({"metadata": pairs}), "metadata"),
        (json!({"metadata": 5}), "metadata"),
    ] {
        let (status, answer) = send(&site, "POST", "/v1/conversations", body.clone()).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{body}: {answer}");
    }
    let (_, made) = send(&site, "POST", "/v1/conversations", json!({})).await;
    let path = format!("/v1/conversations/{}/items", made["id"].as_str().unwrap());
    assert_eq!(send(&site, "POST", &path, json!({})).await.0, 400);
}

#[tokio::test]
async fn a_conversation_belongs_to_the_key_that_made_it() {
    let keys = vec!["a".to_owned(), "b".to_owned()];
    let site = Site::with(Config { keys, ..config() }, |_| Script::default());
    let send = async |key: &str, method: &str, path: &str, body: &str| {
        let mut request = request(method, path, body);
        let value = format!("Bearer {key}").parse().unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, value);
        let (status, _, text) = site.send(request).await;
        (status.as_u16(), serde_json::from_str::<Value>(&text).unwrap())
    };
    let (_, made) = send("a", "POST", "/v1/conversations", "{}").await;
    let path = format!("/v1/conversations/{}", made["id"].as_str().unwrap());
    assert_eq!(send("a", "GET", &path, "").await.0, 200);
    for (method, path) in
        [("GET", path.clone()), ("DELETE", path.clone()), ("GET", format!("{path}/items"))]
    {
        assert_eq!(send("b", method, &path, "").await.0, 404, "{method} {path}");
    }
    let body = json!({"input": "x", "conversation": made["id"]}).to_string();
    assert_eq!(send("b", "POST", "/v1/responses", &body).await.0, 404);
}

#[tokio::test]
async fn tokens_of_a_prompt_are_counted() {
    let site = Site::writing(TURN);
    let tool = json!({"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}});
    for more in [
        json!({"input": "Hi"}),
        json!({"input": "Hi", "instructions": "Be brief.", "tools": [tool]}),
        json!({"input": "Hi", "reasoning": {"effort": "none"}}),
    ] {
        let (_, answer) = site.post("/v1/responses", &more).await;
        let (status, count) = site.post("/v1/responses/input_tokens", &more).await;
        let want = json!({"object": "response.input_tokens", "input_tokens": answer["usage"]["input_tokens"]});
        assert_eq!((status, count), (200, want), "{more}");
    }
    let (_, made) = site.post("/v1/responses", &json!({"input": "Hi"})).await;
    let body = json!({"previous_response_id": made["id"]});
    assert_eq!(site.post("/v1/responses/input_tokens", &body).await.0, 200);
    // What does not fit is counted, too.
    let long = json!({"input": "word ".repeat(6000)});
    let (status, count) = site.post("/v1/responses/input_tokens", &long).await;
    assert!(status == 200 && count["input_tokens"].as_u64().unwrap() > 6000, "{count}");
}

#[tokio::test]
async fn a_compacted_conversation_can_be_continued() {
    let (sender, prompts) = std::sync::mpsc::channel();
    let turn = tokens(TURN);
    let site = Site::with(config(), move |request| {
        sender.send(ossmith_harmony::decode(&request.engine_request.prompt).unwrap()).unwrap();
        Script { tokens: turn.clone(), ..Script::default() }
    });
    let input = json!([
        {"role": "user", "content": "Plant it."},
        {"type": "function_call", "call_id": "c", "name": "dig", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "a hole"},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "Water it."},
    ]);
    let tools = json!([{"type": "function", "name": "dig"}]);
    let body = json!({"model": "model", "input": input, "tools": tools});
    let (status, compacted) = site.post("/v1/responses/compact", &body).await;
    assert_eq!((status, &compacted["object"]), (200, &json!("response.compaction")), "{compacted}");
    let prompt = prompts.try_recv().unwrap();
    assert!(
        prompt.contains("a hole") && prompt.contains("summary of this conversation"),
        "{prompt}"
    );
    assert!(!prompt.contains("type dig"), "there is nothing to call: {prompt}");
    let output = compacted["output"].as_array().unwrap();
    let kinds: Vec<&str> = output.iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message", "message", "compaction"]);
    assert!(compacted["usage"]["output_tokens"].as_u64().unwrap() > 0);

    let mut next = output.clone();
    next.push(json!({"role": "user", "content": "And now?"}));
    let (status, answer) = site.post("/v1/responses", &json!({"input": next})).await;
    assert_eq!(status, 200, "{answer}");
    let prompt = prompts.try_recv().unwrap();
    assert!(prompt.contains("Plant it.") && prompt.contains("Water it."), "{prompt}");
    // The summary is what the model wrote as its answer.
    assert!(prompt.contains("summary of it:\n\nHello, wörld!<|end|>"), "{prompt}");
    assert!(!prompt.contains("a hole") && prompt.ends_with("And now?<|end|><|start|>assistant"));
    let odd = json!({"input": [{"role": "user", "content": "x"}, {"type": "compaction", "encrypted_content": "x"}]});
    let (status, answer) = site.post("/v1/responses", &odd).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("invalid_encrypted_content")));
}

#[tokio::test]
async fn a_conversation_without_a_summary_is_continued_without_one() {
    let (sender, prompts) = std::sync::mpsc::channel();
    let turn = tokens("<|channel|>analysis<|message|>Hm.<|end|>");
    let site = Site::with(config(), move |request| {
        sender.send(ossmith_harmony::decode(&request.engine_request.prompt).unwrap()).unwrap();
        Script { tokens: turn.clone(), ..Script::default() }
    });
    let input = json!([
        {"role": "user", "content": "Plant it."},
        {"role": "assistant", "content": "Done."},
    ]);
    let (status, compacted) = site.post("/v1/responses/compact", &json!({"input": input})).await;
    assert_eq!(status, 200, "{compacted}");
    prompts.try_recv().unwrap();
    let output = compacted["output"].as_array().unwrap();
    let kinds: Vec<&str> = output.iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message", "compaction"]);
    let (status, answer) = site.post("/v1/responses", &json!({"input": output})).await;
    assert_eq!(status, 200, "{answer}");
    let prompt = prompts.try_recv().unwrap();
    assert!(prompt.contains("Plant it.") && prompt.contains("there is no summary of it."));
    assert!(!prompt.contains("Done.") && !prompt.contains("replaced by this summary"), "{prompt}");
}

#[tokio::test]
async fn a_conversation_grows_no_longer_than_a_body() {
    let site = Site::with(Config { body_bytes: 4000, ..config() }, |_| Script::default());
    let (_, made) = send(&site, "POST", "/v1/conversations", json!({})).await;
    let items = format!("/v1/conversations/{}/items", made["id"].as_str().unwrap());
    let more = json!({"items": [{"role": "user", "content": "x".repeat(1500)}]});
    for _ in 0..2 {
        assert_eq!(send(&site, "POST", &items, more.clone()).await.0, 200);
    }
    let (status, refused) = send(&site, "POST", &items, more.clone()).await;
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("items")), "{refused}");
    assert!(refused["error"]["message"].as_str().unwrap().contains("at most 4000"), "{refused}");
    let (_, kept) = send(&site, "GET", &items, json!({})).await;
    assert_eq!(kept["data"].as_array().unwrap().len(), 2);
    // Nor by responses that continue it.
    let body = json!({"input": "x".repeat(1500), "conversation": made["id"]});
    let (status, refused) = site.post("/v1/responses", &body).await;
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("input")), "{refused}");
    // Nor by several that are added at once.
    let (_, made) = send(&site, "POST", "/v1/conversations", json!({})).await;
    let items = format!("/v1/conversations/{}/items", made["id"].as_str().unwrap());
    let add = || async { send(&site, "POST", &items, more.clone()).await.0 };
    let (a, b, c, d) = tokio::join!(add(), add(), add(), add());
    let mut statuses = [a, b, c, d];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 400, 400]);
}

#[tokio::test]
async fn metadata_is_short_texts() {
    let site = Site::writing(TURN);
    for (metadata, status) in [
        (json!({"a": "x".repeat(512)}), 200),
        (json!({"a": "x".repeat(513)}), 400),
        (json!({"a".repeat(64): ""}), 200),
        (json!({"a".repeat(65): ""}), 400),
        (json!({"a": 1}), 400),
    ] {
        let (got, answer) =
            send(&site, "POST", "/v1/conversations", json!({"metadata": metadata})).await;
        assert_eq!(got, status, "{answer}");
        let body = json!({"input": "Hi", "metadata": metadata});
        assert_eq!(site.post("/v1/responses", &body).await.0, status, "{body}");
    }
}
