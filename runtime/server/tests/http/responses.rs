//! Responses: the order of events, state, background.

use std::collections::HashMap;
use std::time::Duration;

use ossmith_server::stub::Script;
use ossmith_server::{Config, StoreLimits};
use serde_json::{Value, json};

use crate::common::{Site, TURN, config, read_until, request, tokens};

const CALL: &str = "<|channel|>analysis<|message|>Call.<|end|><|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>{\"a\":1}<|call|>";

/// Two calls and a preamble in one turn.
const CALLS: &str = "<|channel|>commentary<|message|>Both.<|end|><|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>{\"a\":1}<|end|><|start|>assistant<|channel|>commentary to=functions.f<|constrain|>json<|message|>{\"a\":2}<|call|>";

fn tools() -> Value {
    json!([{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}])
}

/// The checks that SDKs make while they read a stream.
fn check_order(events: &[Value]) {
    let kind = |event: &Value| event["type"].as_str().unwrap().to_owned();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    assert_eq!([kind(&events[0]), kind(&events[1])], ["response.created", "response.in_progress"]);
    let (mut open, mut done, mut part): (Option<Value>, Vec<Value>, bool) =
        (None, Vec::new(), false);
    let mut texts: HashMap<u64, String> = HashMap::new();
    for event in &events[2..events.len() - 1] {
        let index = event["output_index"].as_u64().unwrap();
        assert_eq!(index as usize, done.len(), "{event}");
        match kind(event).as_str() {
            "response.output_item.added" => {
                assert!(open.is_none());
                open = Some(event["item"].clone());
            }
            "response.output_item.done" => {
                let added = open.take().unwrap();
                for key in ["id", "type", "call_id", "name"] {
                    assert_eq!(added[key], event["item"][key]);
                }
                assert!(!part, "the part is done first");
                done.push(event["item"].clone());
            }
            other => {
                assert_eq!(event["item_id"], open.as_ref().unwrap()["id"], "{event}");
                match other {
                    "response.content_part.added" => part = true,
                    "response.content_part.done" => part = false,
                    _ => assert!(part || other.contains("function_call")),
                }
                if let Some(delta) = event["delta"].as_str() {
                    texts.entry(index).or_default().push_str(delta);
                }
                for key in ["text", "arguments"] {
                    if let Some(whole) = event[key].as_str() {
                        assert_eq!(texts.get(&index).map_or("", String::as_str), whole);
                    }
                }
            }
        }
    }
    let last = events.last().unwrap();
    assert_eq!(last["response"]["output"], json!(done));
    assert_eq!(last["response"]["id"], events[0]["response"]["id"]);
}

#[tokio::test]
async fn events_come_in_the_order_that_sdks_require() {
    for (turn, most, last) in [
        (TURN, 1000, "response.completed"),
        (CALL, 1000, "response.completed"),
        (CALLS, 1000, "response.completed"),
        (CALL, 14, "response.incomplete"),
        (TURN, 2, "response.incomplete"),
        (TURN, 9, "response.incomplete"),
        ("<|channel|>final<|message|><|return|>", 1000, "response.completed"),
        (
            "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>x<|return|>",
            1000,
            "response.completed",
        ),
        ("<|return|>", 1000, "response.completed"),
    ] {
        let site = Site::writing(turn);
        let body = json!({"input": "Hi", "tools": tools(), "max_output_tokens": most});
        let events = site.events("/v1/responses", &body).await;
        check_order(&events);
        assert_eq!(events.last().unwrap()["type"], last, "{turn} {most}");
        let (_, plain) = site.post("/v1/responses", &body).await;
        let strip = |output: &Value| {
            let mut output = output.clone();
            for item in output.as_array_mut().unwrap() {
                for key in ["id", "call_id"] {
                    item.as_object_mut().unwrap().remove(key);
                }
            }
            output
        };
        assert_eq!(strip(&events.last().unwrap()["response"]["output"]), strip(&plain["output"]));
        assert!(
            plain["output"].as_array().unwrap().iter().all(|item| item["content"] != json!([]))
        );
    }
}

#[tokio::test]
async fn the_response_has_every_key() {
    let site = Site::writing(TURN);
    let (_, answer) =
        site.post("/v1/responses", &json!({"input": "Hi", "metadata": {"a": "b"}})).await;
    for key in [
        "id",
        "object",
        "created_at",
        "completed_at",
        "status",
        "error",
        "incomplete_details",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "model",
        "output",
        "parallel_tool_calls",
        "previous_response_id",
        "reasoning",
        "service_tier",
        "store",
        "background",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
        "usage",
    ] {
        assert!(answer.get(key).is_some(), "{key}");
    }
    assert_eq!(
        answer["usage"]["input_tokens_details"],
        json!({"cached_tokens": 0, "cache_write_tokens": 0})
    );
    assert_eq!(answer["metadata"], json!({"a": "b"}));
}

#[tokio::test]
async fn continuing_by_id_by_items_and_by_reference_makes_the_same_prompt() {
    let site = Site::writing(CALL);
    let question = json!([{"role": "user", "content": "Hi"}]);
    let (_, first) = site
        .post(
            "/v1/responses",
            &json!({"input": question, "tools": tools(), "instructions": "Be brief."}),
        )
        .await;
    let call = &first["output"][1];
    let result = json!({"type": "function_call_output", "call_id": call["call_id"], "output": "3"});
    let by_id = json!({"input": [result], "tools": tools(), "previous_response_id": first["id"]});
    let mut items = question.as_array().unwrap().clone();
    items.extend(first["output"].as_array().unwrap().clone());
    items.push(result.clone());
    let replayed = json!({"input": items, "tools": tools()});
    let by_reference = json!({"tools": tools(), "input": [
        question[0], {"type": "item_reference", "id": first["output"][0]["id"]},
        {"type": "item_reference", "id": call["id"]}, result,
    ]});
    let mut prompts = Vec::new();
    for body in [by_id, replayed, by_reference] {
        let (status, answer) = site.post("/v1/responses", &body).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["instructions"], Value::Null, "instructions are not carried over");
        prompts.push(answer["usage"]["input_tokens"].clone());
    }
    assert!(prompts.iter().all(|prompt| *prompt == prompts[0]), "{prompts:?}");
}

#[tokio::test]
async fn truncation_auto_leaves_out_the_oldest_items() {
    let site = Site::writing(TURN);
    let long = "word ".repeat(2500);
    let input = json!([
        {"role": "user", "content": long},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": long},
        {"role": "user", "content": "Hi"},
    ]);
    let body =
        |truncation: &str| json!({"input": input, "tools": tools(), "truncation": truncation});
    let (status, refused) = site.post("/v1/responses", &body("disabled")).await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("context_length_exceeded")));
    let (status, answer) = site.post("/v1/responses", &body("auto")).await;
    assert_eq!(status, 200, "{answer}");
    // Without the first message the rest fits.
    let tokens = answer["usage"]["input_tokens"].as_u64().unwrap();
    assert!((2500..2700).contains(&tokens), "{tokens}");
    let alone = json!({"input": "word ".repeat(5000), "truncation": "auto"});
    assert_eq!(site.post("/v1/responses", &alone).await.0, 400, "there is nothing to leave out");
}

#[tokio::test]
async fn stored_responses_can_be_retrieved_and_deleted() {
    let site = Site::writing(TURN);
    let (_, answer) = site.post("/v1/responses", &json!({"input": "Hi"})).await;
    let path = format!("/v1/responses/{}", answer["id"].as_str().unwrap());
    assert_eq!(serde_json::from_str::<Value>(&site.get(&path).await.1).unwrap(), answer);
    let items: Value =
        serde_json::from_str(&site.get(&format!("{path}/input_items")).await.1).unwrap();
    assert_eq!(items["data"][0]["content"][0]["text"], "Hi");
    assert_eq!(site.post(&format!("{path}/cancel"), &json!({})).await.0, 400);
    assert_eq!(site.get(&format!("{path}?stream=true")).await.0, 400);
    assert_eq!(site.send(request("DELETE", &path, "")).await.0, 200);
    assert_eq!(site.get(&path).await.0, 404);
    let (_, unstored) = site.post("/v1/responses", &json!({"input": "Hi", "store": false})).await;
    let path = format!("/v1/responses/{}", unstored["id"].as_str().unwrap());
    assert_eq!(site.get(&path).await.0, 404);
}

fn slow() -> Site {
    Site::with(config(), |_| Script {
        tokens: tokens(&format!("<|channel|>final<|message|>{}", "word ".repeat(100_000))),
        pause: Some(Duration::from_millis(2)),
        failure: None,
    })
}

#[tokio::test]
async fn background_responses_run_without_a_connection_and_can_be_cancelled() {
    let site = Site::writing(TURN);
    let body = json!({"input": "Hi", "background": true});
    let (_, queued) = site.post("/v1/responses", &body).await;
    assert_eq!(queued["status"], "queued");
    let path = format!("/v1/responses/{}", queued["id"].as_str().unwrap());
    // The whole stream can be read at any time.
    let (_, text) = site.get(&format!("{path}?stream=true")).await;
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    check_order(&events);
    let (_, rest) = site.get(&format!("{path}?stream=true&starting_after=3")).await;
    assert_eq!(rest.matches("sequence_number").count(), events.len() - 4);
    let done: Value = serde_json::from_str(&site.get(&path).await.1).unwrap();
    assert_eq!(
        (&done["status"], &done["output"]),
        (&json!("completed"), &events.last().unwrap()["response"]["output"])
    );
    assert_eq!(site.post(&format!("{path}/cancel"), &json!({})).await.0, 400);

    let site = slow();
    let (_, queued) = site.post("/v1/responses", &body).await;
    let path = format!("/v1/responses/{}", queued["id"].as_str().unwrap());
    let on_it = json!({"input": "And?", "previous_response_id": queued["id"]});
    assert_eq!(site.post("/v1/responses", &on_it).await.0, 400, "it has not ended");
    let (status, cancelled) = site.post(&format!("{path}/cancel"), &json!({})).await;
    assert_eq!((status, &cancelled["status"]), (200, &json!("cancelled")));
    assert_eq!(site.post(&format!("{path}/cancel"), &json!({})).await.0, 400, "once is enough");
    site.idle().await;
    let after: Value = serde_json::from_str(&site.get(&path).await.1).unwrap();
    assert_eq!(after["status"], "cancelled");
}

#[tokio::test]
async fn a_cancelled_response_keeps_its_output_so_far() {
    let site = slow();
    let (_, queued) = site.post("/v1/responses", &json!({"input": "Hi", "background": true})).await;
    let path = format!("/v1/responses/{}", queued["id"].as_str().unwrap());
    let stream = site.open(request("GET", &format!("{path}?stream=true"), "")).await;
    read_until(stream.into_body(), "output_text.delta", 4).await;
    assert_eq!(site.post(&format!("{path}/cancel"), &json!({})).await.0, 200);
    // A stream of it ends only once all is said.
    let (_, text) = site.get(&format!("{path}?stream=true")).await;
    let last = text.lines().rfind(|line| line.starts_with("data: ")).unwrap();
    let last: Value = serde_json::from_str(last.trim_start_matches("data: ")).unwrap();
    let after: Value = serde_json::from_str(&site.get(&path).await.1).unwrap();
    assert_eq!((&last["type"], &last["response"]), (&json!("response.failed"), &after));
    assert_eq!(after["status"], "cancelled");
    let said = after["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!(said.starts_with("word"), "{after}");
    assert_eq!(after["output"][0]["status"], "incomplete");
    assert!(after["usage"]["output_tokens"].as_u64().unwrap() > 3, "{after}");
}

#[tokio::test]
async fn a_repeated_request_id_hides_no_response() {
    let site = Site::writing(TURN);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut repeated = request("POST", "/v1/responses", r#"{"input": "Hi"}"#);
        repeated.headers_mut().insert("x-request-id", "mine".parse().unwrap());
        let (_, headers, text) = site.send(repeated).await;
        assert_eq!(headers["x-request-id"], "mine");
        ids.push(serde_json::from_str::<Value>(&text).unwrap()["id"].clone());
    }
    assert_ne!(ids[0], ids[1]);
    for id in ids {
        assert_eq!(site.get(&format!("/v1/responses/{}", id.as_str().unwrap())).await.0, 200);
    }
}

#[tokio::test]
async fn the_context_of_a_background_response_counts_as_stored() {
    let store = StoreLimits { bytes: 125_000, ..StoreLimits::default() };
    let words = tokens(TURN);
    let site = Site::with(Config { store, ..config() }, move |_| Script {
        tokens: words.clone(),
        ..Script::default()
    });
    // Its input takes 40,000 bytes, and stands there as input and as part of what was said.
    let (_, first) =
        site.post("/v1/responses", &json!({"input": "internationalization ".repeat(1900)})).await;
    let path = format!("/v1/responses/{}", first["id"].as_str().unwrap());
    let on_it = json!({"input": "Hi", "background": true, "previous_response_id": first["id"]});
    for stays in [true, false] {
        assert_eq!(site.get(&path).await.0, if stays { 200 } else { 404 });
        if stays {
            let (_, next) = site.post("/v1/responses", &on_it).await;
            let next = next["id"].as_str().unwrap();
            site.get(&format!("/v1/responses/{next}?stream=true")).await;
            site.post("/v1/responses", &json!({"input": "Hi"})).await;
        }
    }
}

#[tokio::test]
async fn the_response_repeats_the_requested_effort() {
    let site = Site::writing(TURN);
    for (fields, want) in [
        (json!({}), "medium"),
        (json!({"reasoning": {"effort": "low"}}), "low"),
        (json!({"reasoning_effort": "high"}), "high"),
        (json!({"reasoning_effort": "high", "reasoning": {"summary": "auto"}}), "high"),
        (json!({"reasoning_effort": "high", "reasoning": {"effort": "xhigh"}}), "xhigh"),
    ] {
        let mut body = json!({"input": "Hi"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let (_, answer) = site.post("/v1/responses", &body).await;
        assert_eq!(answer["reasoning"]["effort"], want, "{fields}");
    }
}
