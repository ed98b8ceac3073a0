//! What holds of every answer, whatever the model writes: reports that are the same in all APIs, streams that lose nothing, choices
//! that are each their own, and idle connections that stay open.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_core::Stream;
use ossmith::{EngineMetrics, Result, StepRecord, TokenLogprobs};
use ossmith_server::stub::{Script, Stub};
use ossmith_server::{GenerationBackend, GenerationRequest, GenerationStream, router};
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::ServiceExt;

use crate::common::{Site, TURN, chat, config, request, tokens};

/// A scripted backend that reports log-probabilities: of a token by its id.
struct Reporting(Stub);

/// What is reported of a token.
fn reported(token: u32) -> TokenLogprobs {
    let logprob = -((token % 97) as f32) / 8.0;
    TokenLogprobs { logprob, rank: 1, top: vec![(token, logprob), (token ^ 1, logprob - 1.0)] }
}

impl GenerationBackend for Reporting {
    fn submit(&self, request: GenerationRequest) -> Result<GenerationStream> {
        let mut inner = self.0.submit(request)?;
        Ok(Box::pin(Mapped(move |context: &mut std::task::Context<'_>| {
            inner.as_mut().poll_next(context).map(|event| {
                event.map(|mut event: ossmith::TokenEvent| {
                    event.logprobs = event.token.map(reported);
                    event
                })
            })
        })))
    }

    fn metrics(&self) -> EngineMetrics {
        self.0.metrics()
    }

    fn recent_steps(&self, engine: usize, count: usize) -> Vec<StepRecord> {
        self.0.recent_steps(engine, count)
    }

    fn failure(&self) -> Option<String> {
        None
    }

    fn reset_prefix_cache(&self) {}

    fn stop(&self) {}
}

/// A stream from a function.
struct Mapped<F>(F);

impl<T, F> Stream for Mapped<F>
where
    F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin,
{
    type Item = T;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        (self.0)(context)
    }
}

#[tokio::test]
async fn responses_report_the_logprobs_and_the_usage_that_chat_reports() {
    let words = tokens(TURN);
    let script = move |_: &_| Script { tokens: words.clone(), ..Script::default() };
    let router = router(config(), Arc::new(Reporting(Stub::new(64, script))));
    let post = async |path: &str, body: Value| -> Value {
        let sent = router.clone().oneshot(request("POST", path, &body.to_string())).await.unwrap();
        let bytes = axum::body::to_bytes(sent.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let asked = chat(json!({"logprobs": true, "top_logprobs": 2}));
    let of_chat = post("/v1/chat/completions", asked).await;
    let asked = json!({
        "input": [{"role": "user", "content": "Hi"}], "top_logprobs": 2,
        "include": ["message.output_text.logprobs"],
    });
    let of_responses = post("/v1/responses", asked).await;
    // Chat reports every token, Responses those of the message.
    let all = of_chat["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let message = &of_responses["output"].as_array().unwrap()[1]["content"][0];
    let some = message["logprobs"].as_array().unwrap();
    let visible = tokens("Hello, wörld!");
    let named = |one: &Value| {
        let tops = one["top_logprobs"].as_array().unwrap().iter();
        let tops: Vec<Value> =
            tops.map(|top| json!([top["token"], top["logprob"], top["bytes"]])).collect();
        json!([one["token"], one["logprob"], one["bytes"], tops])
    };
    let some: Vec<Value> = some.iter().map(named).collect();
    assert_eq!(some.len(), visible.len(), "{message}");
    let all: Vec<Value> = all.iter().map(named).collect();
    assert!(all.windows(some.len()).any(|run| run == some), "{all:?} has not {some:?}");
    for (one, &token) in some.iter().zip(&visible) {
        let want = reported(token);
        assert_eq!(one[1].as_f64().unwrap() as f32, want.logprob, "{one}");
        assert_eq!(one[3].as_array().unwrap().len(), 2, "{one}");
    }
    let (chat, responses) = (&of_chat["usage"], &of_responses["usage"]);
    for (name, other) in [
        ("prompt_tokens", "input_tokens"),
        ("completion_tokens", "output_tokens"),
        ("total_tokens", "total_tokens"),
    ] {
        assert!(
            chat[name].as_u64().unwrap() > 0 && chat[name] == responses[other],
            "{chat} {responses}"
        );
    }
    assert_eq!(chat["completion_tokens"], tokens(TURN).len());
    assert_eq!(
        chat["completion_tokens_details"]["reasoning_tokens"],
        responses["output_tokens_details"]["reasoning_tokens"]
    );
    assert_eq!(
        chat["prompt_tokens_details"]["cached_tokens"],
        responses["input_tokens_details"]["cached_tokens"]
    );
}

#[tokio::test]
async fn truncation_keeps_the_newest_items_one_by_one() {
    let (sender, prompts) = std::sync::mpsc::channel();
    let turn = tokens(TURN);
    let site = Site::with(config(), move |request| {
        sender.send(ossmith_harmony::decode(&request.engine_request.prompt).unwrap()).unwrap();
        Script { tokens: turn.clone(), ..Script::default() }
    });
    let mut numbers = Vec::new();
    for words in [100, 299, 300, 301, 700] {
        let item = |number: usize| json!({"role": "user", "content": format!("item{number}. {}", "word ".repeat(words))});
        let input: Vec<Value> = (0..45).map(item).collect();
        let body = json!({"input": input, "truncation": "auto", "max_output_tokens": 16});
        let (status, answer) = site.post("/v1/responses", &body).await;
        assert_eq!(status, 200, "{answer}");
        let prompt = prompts.try_recv().unwrap();
        let kept: Vec<usize> =
            (0..45).filter(|number| prompt.contains(&format!("item{number}. "))).collect();
        // All from some item on, ...
        let first = kept[0];
        assert_eq!(kept, (first..45).collect::<Vec<_>>(), "{words}");
        assert!(first > 0, "{words}");
        // ... and with the item before them they would not have fitted.
        let more = json!({"input": input[first - 1..], "max_output_tokens": 16});
        assert_eq!(site.post("/v1/responses", &more).await.0, 400, "{words}");
        let same = json!({"input": input[first..], "max_output_tokens": 16});
        assert_eq!(site.post("/v1/responses", &same).await.0, 200, "{words}");
        assert_eq!(prompts.try_recv().unwrap(), prompt, "{words}");
        numbers.push(kept.len());
    }
    assert!(numbers[0] > numbers[1] && numbers[3] > numbers[4], "{numbers:?}");
}

#[tokio::test]
async fn streams_lose_nothing_of_many_updates_that_are_ready_at_once() {
    let words: String = (0..700).map(|number| format!(" w{number}")).collect();
    let turn = tokens(&format!("<|channel|>final<|message|>{words}<|return|>"));
    for pause in [None, Some(Duration::ZERO)] {
        let turn = turn.clone();
        let site =
            Site::with(config(), move |_| Script { tokens: turn.clone(), pause, failure: None });
        let text = |events: &[Value], read: &dyn Fn(&Value) -> Option<String>| {
            events.iter().filter_map(read).collect::<String>()
        };
        let of = |value: &Value| value.as_str().map(str::to_owned);
        let events = site.events("/v1/chat/completions", &chat(json!({}))).await;
        let said = text(&events, &|event| of(&event["choices"][0]["delta"]["content"]));
        assert_eq!(said, words, "chat, {pause:?}");
        let events =
            site.events("/v1/completions", &json!({"prompt": "Hi", "max_tokens": 4000})).await;
        let said = text(&events, &|event| of(&event["choices"][0]["text"]));
        assert!(said.ends_with(&words), "completions, {pause:?}");
        for background in [false, true] {
            let body = json!({"input": "Hi", "background": background, "store": true});
            let events = site.events("/v1/responses", &body).await;
            let said = text(&events, &|event| {
                of(&event["delta"]).filter(|_| event["type"] == "response.output_text.delta")
            });
            assert_eq!(said, words, "responses, {pause:?}, {background}");
            for (number, event) in events.iter().enumerate() {
                assert_eq!(event["sequence_number"], number);
            }
            assert_eq!(events.last().unwrap()["type"], "response.completed");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn idle_streams_are_kept_open() {
    let turn = tokens("<|channel|>final<|message|>One two<|return|>");
    let count = turn.len();
    let site = Site::with(config(), move |_| Script {
        tokens: turn.clone(),
        pause: Some(Duration::from_secs(100)),
        failure: None,
    });
    let hi = json!([{"role": "user", "content": "Hi"}]);
    for (path, body) in [
        ("/v1/chat/completions", chat(json!({"stream": true}))),
        ("/v1/completions", json!({"prompt": "Hi", "stream": true})),
        ("/v1/responses", json!({"input": "Hi", "stream": true})),
        ("/v1/responses", json!({"input": "Hi", "stream": true, "background": true})),
        (
            "/v1/messages",
            json!({"model": "model", "max_tokens": 50, "messages": hi, "stream": true}),
        ),
    ] {
        let answer = site.open(request("POST", path, &body.to_string())).await;
        assert_eq!(answer.status(), 200, "{path}");
        let (begin, mut last, mut idle) = (Instant::now(), Instant::now(), 0);
        let mut frames = answer.into_body().into_data_stream();
        let mut text = String::new();
        while let Some(frame) =
            std::future::poll_fn(|context| std::pin::Pin::new(&mut frames).poll_next(context)).await
        {
            let frame = String::from_utf8_lossy(&frame.unwrap()).into_owned();
            // Nobody waits for two intervals.
            assert!(last.elapsed() <= Duration::from_secs(30), "{path}: {:?}", last.elapsed());
            last = Instant::now();
            idle += usize::from(frame == ": keep-alive\n\n" || frame.contains("event: ping"));
            text += &frame;
        }
        assert!(begin.elapsed() >= Duration::from_secs(100) * count as u32, "{path}");
        assert!(idle >= 5 * count, "{path}: {idle} comments in {:?}", begin.elapsed());
        assert!(text.contains("two"), "{path}: {text}");
    }
}

#[tokio::test]
async fn repairs_are_counted_by_kind() {
    // A message on a channel that does not exist.
    let turn = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>thoughts<|message|>Hi<|return|>";
    let site = Site::writing(turn);
    let counted = async || {
        let (_, text) = site.get("/metrics").await;
        let mut lines: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("ossmith:harmony_repairs_total{"))
            .map(|line| line.replace("model_name=\"model\",", ""))
            .collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(counted().await, Vec::<String>::new());
    for asked in 1..=3 {
        let path = ["/v1/chat/completions", "/v1/responses"][asked % 2];
        let mut body = chat(json!({"input": "Hi"}));
        if path == "/v1/responses" {
            body.as_object_mut().unwrap().remove("messages");
        }
        assert_eq!(site.post(path, &body).await.0, 200);
        assert_eq!(counted().await, [format!("kind=\"unknown_channel\"}} {asked}")]);
    }
}

#[tokio::test]
async fn choices_are_each_their_own() {
    let seeds = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&seeds);
    let site = Site::with(config(), move |request| {
        seen.lock().unwrap().push(request.engine_request.params.seed);
        let turn = format!(
            "<|channel|>analysis<|message|>Reason {0}.<|end|><|start|>assistant<|channel|>final<|message|>Choice {0}!<|return|>",
            request.choice
        );
        Script { tokens: tokens(&turn), pause: Some(Duration::ZERO), failure: None }
    });
    let body = chat(json!({"n": 5, "seed": 7}));
    let (_, answer) = site.post("/v1/chat/completions", &body).await;
    let events = site.events("/v1/chat/completions", &body).await;
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 5);
    for (number, one) in choices.iter().enumerate() {
        let (reason, said) = (format!("Reason {number}."), format!("Choice {number}!"));
        assert_eq!((&one["index"], &one["finish_reason"]), (&json!(number), &json!("stop")));
        assert_eq!(one["message"]["content"], said);
        assert_eq!(one["message"]["reasoning"], reason);
        let streamed = |name: &str| -> String {
            let own = events.iter().filter_map(|event| event["choices"].get(0));
            let own = own.filter(|choice| choice["index"] == number);
            own.filter_map(|choice| choice["delta"][name].as_str()).collect()
        };
        assert_eq!((streamed("content"), streamed("reasoning")), (said, reason));
    }
    // A seed names the first choice, and the others count up from it.
    let mut seeds = seeds.lock().unwrap().clone();
    assert_eq!(seeds.len(), 10);
    seeds.sort_unstable();
    assert_eq!(seeds, [7, 7, 8, 8, 9, 9, 10, 10, 11, 11]);
}
