//! What an operator sees: answers counted by route and status, the engine's histograms, its last steps, and arrivals.

use std::sync::{Arc, Mutex};

use axum::http::header;
use ossmith::EngineMetrics;
use ossmith_server::stub::Script;
use ossmith_server::{Arrival, ArrivalSink, Config};
use serde_json::json;

use crate::common::{Site, TURN, chat, config, request, tokens};

#[tokio::test]
async fn answers_are_counted_by_route_method_and_status() {
    let site = Site::writing(TURN);
    assert_eq!(site.post("/v1/chat/completions", &chat(json!({}))).await.0, 200);
    assert_eq!(site.post("/v1/chat/completions", &chat(json!({"n": 0}))).await.0, 400);
    for id in ["resp_a", "resp_b"] {
        assert_eq!(site.get(&format!("/v1/responses/{id}")).await.0, 404);
    }
    assert_eq!(site.get("/nowhere/at/all").await.0, 404);
    assert_eq!(site.get("/v1/chat/completions").await.0, 405);
    let (_, text) = site.get("/metrics").await;
    let counted = |route: &str, method: &str, status: u16| {
        let start = format!(
            "ossmith:http_requests_total{{model_name=\"model\",route=\"{route}\",method=\"{method}\",status=\"{status}\"}} "
        );
        text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or("none").to_owned()
    };
    assert_eq!(counted("/v1/chat/completions", "POST", 200), "1", "{text}");
    assert_eq!(counted("/v1/chat/completions", "POST", 400), "1");
    assert_eq!(counted("/v1/chat/completions", "GET", 405), "1");
    assert_eq!(counted("/v1/responses/{id}", "GET", 404), "2");
    assert_eq!(counted("none", "GET", 404), "1");
    // A path is a client's, and is not counted by.
    assert!(!text.contains("nowhere") && !text.contains("resp_a"));
}

#[tokio::test]
async fn every_histogram_of_the_engine_is_shown() {
    let (_, text) = Site::writing(TURN).get("/metrics").await;
    for (name, _, _) in EngineMetrics::new(0).histograms() {
        let head = format!("# TYPE ossmith:engine_{name} histogram");
        assert!(text.lines().any(|line| line == head), "{head} is not in\n{text}");
    }
    // Each metric has one head, and its values follow it.
    let heads: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let mut names: Vec<&str> = heads.iter().filter_map(|line| line.split(' ').nth(2)).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), heads.len());
}

#[tokio::test]
async fn the_last_steps_are_the_operators() {
    let keyed = Config { keys: vec!["a".to_owned()], ..config() };
    let site = Site::with(keyed, |_| Script::default());
    let ask = |path: &str, key: Option<&str>| {
        let mut request = request("GET", path, "");
        if let Some(key) = key {
            let value = format!("Bearer {key}").parse().unwrap();
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        site.send(request)
    };
    assert_eq!(ask("/debug/steps", None).await.0, 401);
    let (status, _, text) = ask("/debug/steps?count=5", Some("a")).await;
    assert_eq!(status, 200);
    let steps: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(steps, json!({"object": "list", "engine": 0, "data": [], "failure": null}));
    for count in ["0", "513", "x"] {
        let (status, _, text) = ask(&format!("/debug/steps?count={count}"), Some("a")).await;
        assert!(status == 400 && text.contains("from 1 to 512"), "{count}: {text}");
    }
    let (status, _, text) = ask("/debug/steps?engine=1", Some("a")).await;
    assert!(status == 400 && text.contains("from 0 to 0"), "{text}");
}

#[tokio::test]
async fn arrivals_have_lengths_and_no_words() {
    let seen = Arc::new(Mutex::new(Vec::<Arrival>::new()));
    let (writer, words) = (Arc::clone(&seen), tokens(TURN));
    let sink = ArrivalSink::new(move |arrival| writer.lock().unwrap().push(arrival.clone()));
    let recorded = Config { arrivals: Some(sink), ..config() };
    let length = words.len();
    let site = Site::with(recorded, move |_| Script { tokens: words.clone(), ..Script::default() });
    let body = json!({"prompt": [1000, 1001, 1002], "n": 2, "max_tokens": 500});
    assert_eq!(site.post("/v1/completions", &body).await.0, 200);
    // A refused request has no generation.
    assert_eq!(site.post("/v1/completions", &json!({"prompt": [], "n": 0})).await.0, 400);
    site.idle().await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2, "{seen:?}");
    for one in seen.iter() {
        assert_eq!((one.prompt_tokens, one.generated_tokens), (3, length));
        assert_eq!((one.max_tokens, &one.finish[..]), (Some(500), "stop"));
        assert!(one.at_seconds >= 0.0 && one.first_token_seconds.unwrap() <= one.seconds);
    }
}
