//! A server over a scripted backend, called without a socket.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use futures_core::Stream;
use ossmith_harmony::{SpecialSet, encode_with_special};
use ossmith_server::stub::{Script, Stub};
use ossmith_server::{Config, GenerationRequest, router};
use serde_json::{Value, json};
use tower::ServiceExt;

/// What the scripted model writes where its turn does not matter.
pub(crate) const TURN: &str = "<|channel|>analysis<|message|>Think 🙂.<|end|><|start|>assistant<|channel|>final<|message|>Hello, wörld!<|return|>";

/// A server and the backend behind it.
pub(crate) struct Site {
    router: Router,
    pub(crate) stub: Arc<Stub>,
}

pub(crate) fn tokens(text: &str) -> Vec<u32> {
    encode_with_special(text, &SpecialSet::All, &SpecialSet::NONE).unwrap()
}

pub(crate) fn config() -> Config {
    Config { date: Some("2026-01-31".to_owned()), ..Config::new("model", 4096, 201_088) }
}

impl Site {
    /// A model that always writes this.
    pub(crate) fn writing(turn: &str) -> Site {
        let tokens = tokens(turn);
        Site::with(config(), move |_| Script { tokens: tokens.clone(), ..Script::default() })
    }

    pub(crate) fn with(
        config: Config,
        script: impl Fn(&GenerationRequest) -> Script + Send + Sync + 'static,
    ) -> Site {
        let stub = Arc::new(Stub::new(64, script));
        Site { router: router(config, stub.clone()), stub }
    }

    /// The response, its body unread.
    pub(crate) async fn open(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Waits until no generation runs.
    pub(crate) async fn idle(&self) {
        for _ in 0..12_000 {
            if self.stub.running() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} generations still run", self.stub.running());
    }

    /// Status, headers and body.
    pub(crate) async fn send(&self, request: Request<Body>) -> (StatusCode, HeaderMap, String) {
        let (parts, body) = self.open(request).await.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        (parts.status, parts.headers, String::from_utf8(bytes.to_vec()).unwrap())
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, _, text) = self.send(request("POST", path, &body.to_string())).await;
        (status.as_u16(), serde_json::from_str(&text).unwrap_or_else(|why| panic!("{why}: {text}")))
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let (status, _, text) = self.send(request("GET", path, "")).await;
        (status.as_u16(), text)
    }

    /// The prompt that a chat request makes, as text with special tokens by name.
    pub(crate) async fn prompt(&self, body: &Value) -> String {
        let (_, answer) = self.post("/tokenize", body).await;
        let (_, text) = self.post("/detokenize", &json!({"tokens": answer["tokens"]})).await;
        text["prompt"].as_str().unwrap_or_else(|| panic!("{answer} {text}")).to_owned()
    }

    /// The JSON of each event of a stream, `[DONE]` left out.
    pub(crate) async fn events(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut body = body.clone();
        body["stream"] = json!(true);
        let (status, headers, text) = self.send(request("POST", path, &body.to_string())).await;
        assert_eq!(status, 200, "{text}");
        assert_eq!(headers["content-type"], "text/event-stream; charset=utf-8");
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }
}

/// Reads a body until it has had this so many times, and leaves the rest.
pub(crate) async fn read_until(body: Body, what: &str, times: usize) -> String {
    let (mut stream, mut bytes) = (body.into_data_stream(), Vec::new());
    loop {
        let next = std::future::poll_fn(|context| Pin::new(&mut stream).poll_next(context)).await;
        let Some(chunk) = next else { panic!("it ended: {}", String::from_utf8_lossy(&bytes)) };
        bytes.extend_from_slice(&chunk.unwrap());
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if text.matches(what).count() >= times {
            return text;
        }
    }
}

pub(crate) fn request(method: &str, path: &str, body: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap()
}

/// A chat request with one question.
pub(crate) fn chat(more: Value) -> Value {
    let mut body = json!({"model": "model", "messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}
