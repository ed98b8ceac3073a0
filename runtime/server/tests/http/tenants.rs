//! Two keys: what one stores is not there for the other, and they share no cached prefix.

use std::sync::{Arc, Mutex};

use axum::http::header;
use ossmith_server::Config;
use ossmith_server::stub::Script;
use serde_json::{Value, json};

use crate::common::{Site, TURN, chat, config, request, tokens};

fn keyed(one_tenant: bool) -> Config {
    let keys = ["a", "b"].map(str::to_owned).to_vec();
    Config { keys, one_tenant, ..config() }
}

async fn call(site: &Site, key: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut request = request(method, path, &body);
    let value = format!("Bearer {key}").parse().unwrap();
    request.headers_mut().insert(header::AUTHORIZATION, value);
    let (status, _, text) = site.send(request).await;
    (status.as_u16(), serde_json::from_str(&text).unwrap_or_default())
}

/// Every route that names something stored, and what it says to this key.
async fn statuses(site: &Site, key: &str, response: &Value) -> Vec<u16> {
    let id = response["id"].as_str().unwrap();
    let item = &response["output"][0]["id"];
    let mut all = Vec::new();
    for (method, path, body) in [
        ("GET", format!("/v1/responses/{id}"), Value::Null),
        ("GET", format!("/v1/responses/{id}?stream=true"), Value::Null),
        ("GET", format!("/v1/responses/{id}/input_items"), Value::Null),
        (
            "POST",
            "/v1/responses".into(),
            json!({"input": "And?", "previous_response_id": id, "store": false}),
        ),
        (
            "POST",
            "/v1/responses".into(),
            json!({"store": false, "input": [
                {"type": "item_reference", "id": item}, {"role": "user", "content": "And?"}]}),
        ),
        ("POST", format!("/v1/responses/{id}/cancel"), Value::Null),
        ("DELETE", format!("/v1/responses/{id}"), Value::Null),
    ] {
        all.push(call(site, key, method, &path, &body).await.0);
    }
    all
}

#[tokio::test]
async fn what_a_key_stores_is_not_there_for_another() {
    let turn = tokens(TURN);
    for background in [false, true] {
        for one_tenant in [false, true] {
            let turn = turn.clone();
            let script = move |_: &_| Script { tokens: turn.clone(), ..Script::default() };
            let site = Site::with(keyed(one_tenant), script);
            let ask = json!({"input": "My name is Alice.", "background": background});
            let (status, queued) = call(&site, "a", "POST", "/v1/responses", &ask).await;
            assert_eq!(status, 200);
            site.idle().await;
            let path = format!("/v1/responses/{}", queued["id"].as_str().unwrap());
            let (_, mut response) = call(&site, "a", "GET", &path, &Value::Null).await;
            while response["status"] != "completed" {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                response = call(&site, "a", "GET", &path, &Value::Null).await.1;
            }
            let seen = statuses(&site, "b", &response).await;
            if one_tenant {
                assert!(seen[0] == 200 && seen[6] == 200, "{seen:?}");
            } else {
                assert_eq!(seen, [404; 7], "background {background}");
                // For its owner it is all there, but for what only a response in the background can do.
                let stream = if background { 200 } else { 400 };
                let own = statuses(&site, "a", &response).await;
                assert_eq!(own, [200, stream, 200, 200, 200, 400, 200]);
            }
        }
    }
}

#[tokio::test]
async fn a_key_s_conversations_are_not_there_for_another() {
    let turn = tokens(TURN);
    let script = move |_: &_| Script { tokens: turn.clone(), ..Script::default() };
    let site = Site::with(keyed(false), script);
    let item = json!({"type": "message", "role": "user", "content": "My name is Alice."});
    let made = json!({"items": [item]});
    let (status, made) = call(&site, "a", "POST", "/v1/conversations", &made).await;
    assert_eq!(status, 200, "{made}");
    let path = format!("/v1/conversations/{}", made["id"].as_str().unwrap());
    let (_, items) = call(&site, "a", "GET", &format!("{path}/items"), &Value::Null).await;
    let one = format!("{path}/items/{}", items["data"][0]["id"].as_str().unwrap());
    let ask = json!({"input": "And?", "conversation": made["id"]});
    for key in ["b", "a"] {
        for (method, path, body) in [
            ("GET", path.clone(), Value::Null),
            ("POST", path.clone(), json!({"metadata": {"a": "b"}})),
            ("GET", format!("{path}/items"), Value::Null),
            ("POST", format!("{path}/items"), json!({"items": [item]})),
            ("GET", one.clone(), Value::Null),
            ("POST", "/v1/responses".to_owned(), ask.clone()),
            ("POST", "/v1/responses/input_tokens".to_owned(), ask.clone()),
            ("DELETE", one.clone(), Value::Null),
            ("DELETE", path.clone(), Value::Null),
        ] {
            let (status, answer) = call(&site, key, method, &path, &body).await;
            let want = if key == "a" { 200 } else { 404 };
            assert_eq!(status, want, "{key} {method} {path}: {answer}");
        }
    }
}

/// The salts that the engine gets of these requests: key, `cache_salt`.
async fn salts(config: Config, requests: &[(&str, Option<&str>)]) -> Vec<u64> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let salts = Arc::clone(&seen);
    let site = Site::with(config, move |request| {
        salts.lock().unwrap().push(request.engine_request.cache_salt);
        Script { tokens: tokens(TURN), ..Script::default() }
    });
    for (key, salt) in requests {
        for (path, mut body) in [
            ("/v1/chat/completions", chat(json!({}))),
            ("/v1/completions", json!({"prompt": "x"})),
            ("/v1/responses", json!({"input": "x"})),
            ("/inference/v1/generate", json!({"token_ids": [1], "sampling_params": {}})),
        ] {
            let fields = if path.starts_with("/inference") {
                &mut body["sampling_params"]
            } else {
                &mut body
            };
            fields["cache_salt"] = json!(salt);
            assert_eq!(call(&site, key, "POST", path, &body).await.0, 200, "{path}");
        }
    }
    let seen = seen.lock().unwrap();
    // Every route gives the same salt.
    assert!(seen.chunks(4).all(|of_routes| of_routes.iter().all(|salt| *salt == of_routes[0])));
    seen.iter().step_by(4).copied().collect()
}

#[tokio::test]
async fn prefixes_are_shared_within_a_key_and_a_salt() {
    let all = [
        ("a", None),
        ("b", None),
        ("a", Some("x")),
        ("b", Some("x")),
        ("a", None),
        ("a", Some("x")),
    ];
    let apart = salts(keyed(false), &all).await;
    assert_eq!((apart[0], apart[2]), (apart[4], apart[5]));
    let mut distinct = apart[..4].to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 4, "{apart:?}");
    let one = salts(keyed(true), &all).await;
    assert!(one[0] == one[1] && one[2] == one[3] && one[0] != one[2], "{one:?}");
    let site = Site::writing(TURN);
    let empty = chat(json!({"cache_salt": ""}));
    let (status, answer) = site.post("/v1/chat/completions", &empty).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("cache_salt")));
}
