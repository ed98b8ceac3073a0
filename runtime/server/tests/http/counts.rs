//! What `/metrics` shows after a few requests.

use std::time::Duration;

use ossmith_server::stub::Script;
use serde_json::json;

use crate::common::{Site, TURN, chat, config, tokens};

impl Site {
    /// The value of a metric that has no label but the model's name.
    async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let start = format!("{name}{{model_name=\"model\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&start));
        value.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
    }
}

#[tokio::test]
async fn queue_time_ends_with_the_first_step_and_not_with_the_first_token() {
    let words = tokens(TURN);
    let site = Site::with(config(), move |_| Script {
        tokens: words.clone(),
        pause: Some(Duration::from_millis(10)),
        failure: None,
    });
    assert_eq!(site.post("/v1/chat/completions", &chat(json!({}))).await.0, 200);
    // The backend reports no time in the queue, however late its first event comes.
    assert_eq!(site.metric("vllm:request_queue_time_seconds_sum").await, 0.0);
    let prefill = site.metric("vllm:request_prefill_time_seconds_sum").await;
    assert!(prefill >= 0.010, "{prefill}");
    let first = site.metric("vllm:time_to_first_token_seconds_sum").await;
    assert!((first - prefill).abs() < 1e-6, "{first} and {prefill}");
    let decode = site.metric("vllm:request_decode_time_seconds_sum").await;
    let inference = site.metric("vllm:request_inference_time_seconds_sum").await;
    assert!((inference - prefill - decode).abs() < 1e-6, "{inference}, {prefill}, {decode}");
}

#[tokio::test]
async fn refused_requests_are_not_counted() {
    let site = Site::writing(TURN);
    let many = json!({"prompt": "Hi", "n": 65, "max_tokens": 5});
    // More choices than the queue has places can never be served.
    let (status, refused) = site.post("/v1/completions", &many).await;
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("n")), "{refused}");
    assert_eq!(site.stub.running(), 0);
    for name in [
        "vllm:prompt_tokens_total",
        "vllm:request_params_n_count",
        "vllm:request_params_max_tokens_count",
    ] {
        assert_eq!(site.metric(name).await, 0.0, "{name}");
    }
    let (_, text) = site.get("/metrics").await;
    assert!(text.contains("finished_reason=\"abort\"} 0\n"), "{text}");
}
