//! A device that fails under three streams: what their clients read, and what is left for the operator.

use std::fmt::{Debug, Write};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ossmith::unstable::{Backend, RowSampling, Step, StepOutput, TokenHistory};
use ossmith::{Engine, EngineHandle, Error, Limits, Policy, Result};
use ossmith_server::{EngineBackend, router};
use serde_json::{Value, json};
use tower::ServiceExt;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::common::{config, request};

/// Samples the same token always, waits before its first step, and fails at the second that three sequences share.
struct Failing {
    go: Option<Receiver<()>>,
    shared: usize,
    done: Vec<Result<StepOutput>>,
}

impl Backend for Failing {
    fn describe(&self) -> String {
        "failing".to_owned()
    }

    fn limits(&self) -> Limits {
        Limits::default().with_max_sequences(8).with_max_step_tokens(256).with_pages(400)
    }

    fn reserve_snapshots(&mut self, _count: usize) -> Result<()> {
        Ok(())
    }

    fn save_snapshot(&mut self, _snapshot: usize, _seq_slot: usize, _end: usize) -> Result<()> {
        Ok(())
    }

    fn load_snapshot(&mut self, _snapshot: usize, _seq_slot: usize, _end: usize) -> Result<()> {
        Ok(())
    }

    fn set_history(&mut self, _: usize, _: &TokenHistory) -> Result<()> {
        Ok(())
    }

    fn set_mask(&mut self, _: usize, _: usize, _: &[u32]) -> Result<()> {
        Ok(())
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<()> {
        if let Some(go) = self.go.take() {
            go.recv().map_err(|why| Error::Internal(why.to_string()))?;
        }
        self.shared += usize::from(step.sequences.len() == 3);
        let mut output = StepOutput::default();
        for sequence in step.sequences {
            output.sampled.extend(sequence.sample.map(|_| Some(1000)));
            output.logits.push(Vec::new());
        }
        let failure = || Err(Error::Internal("the device has fallen off the bus".to_owned()));
        self.done.push(if self.shared < 2 { Ok(output) } else { failure() });
        Ok(())
    }

    // Only steps with masks are sampled apart from their layers, and no request has one.
    fn submit_layers(&mut self, _: &Step<'_>) -> Result<()> {
        Err(Error::Internal("a step without masks was divided".to_owned()))
    }

    fn sample(&mut self, _: &[Option<RowSampling<'_>>]) -> Result<()> {
        Err(Error::Internal("a step without masks was divided".to_owned()))
    }

    fn collect(&mut self) -> Result<StepOutput> {
        self.done.remove(0)
    }
}

/// The log's errors, as lines in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

/// Writes an event's fields as `name=value`, and its message alone.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let name = if field.name() == "message" { "" } else { field.name() };
        let equals = if name.is_empty() { "" } else { "=" };
        let _ = write!(self.0, " {name}{equals}{value:?}");
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Waits until it holds.
async fn eventually(holds: impl Fn() -> bool) {
    for _ in 0..12_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never holds");
}

#[tokio::test]
async fn the_log_names_the_step_that_failed_and_who_took_part() {
    let log = Log::default();
    // The engine logs on a thread of its own. Other tests' lines come here too.
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let spec = &ossmith_models::GPT_OSS_20B.spec;
    let (go, gone) = channel();
    let backend = Box::new(Failing { go: Some(gone), shared: 0, done: Vec::new() });
    let engine = Engine::with_backend(spec, backend, 1, Policy::default()).unwrap();
    let handle = EngineHandle::start(engine).unwrap();
    let router = router(config(), Arc::new(EngineBackend::new(handle.clone())));
    let body = json!({"prompt": [5, 6, 7], "max_tokens": 2000, "ignore_eos": true, "stream": true});
    let ask = || {
        let (router, sent) =
            (router.clone(), request("POST", "/v1/completions", &body.to_string()));
        tokio::spawn(async move {
            let answer = router.oneshot(sent).await.unwrap();
            assert_eq!(answer.status(), 200);
            let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
            String::from_utf8(bytes.to_vec()).unwrap()
        })
    };
    let asked = [ask(), ask(), ask()];
    eventually(|| handle.metrics().waiting >= 3).await;
    go.send(()).unwrap();
    for answer in asked {
        let text = answer.await.unwrap();
        let events: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        let [.., failure, "[DONE]"] = events.as_slice() else { panic!("{text}") };
        let failure: Value = serde_json::from_str(failure).unwrap();
        assert_eq!(failure["error"]["type"], "server_error", "{failure}");
    }
    let get = async |path: &str| {
        let answer = router.clone().oneshot(request("GET", path, "")).await.unwrap();
        let status = answer.status().as_u16();
        let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    };
    // The thread ends a moment after its last event.
    eventually(|| handle.closed().is_some()).await;
    assert_eq!(get("/health").await.0, 503);
    let (status, text) = get("/debug/steps?count=512").await;
    let steps: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status, 200);
    assert!(steps["failure"].as_str().unwrap().contains("fallen off the bus"), "{text}");

    let log = log.0.lock().unwrap().join("\n");
    let bus =
        |line: &&str| line.contains("the engine stops") && line.contains("fallen off the bus");
    assert_eq!(log.lines().filter(bus).count(), 1, "{log}");
    let records = |message: &str| -> Vec<Value> {
        let ours = log.lines().filter(|line| line.contains(message));
        ours.map(|line| serde_json::from_str(line.split_once("record=").unwrap().1).unwrap())
            .collect()
    };
    let (failed, before) = (records("a step that failed"), records("a step before the failure"));
    // The one that failed names the reason and all three; the next was in flight with it.
    let who = |record: &Value| -> Vec<u64> {
        let entries = record["entries"].as_array().unwrap();
        entries.iter().map(|entry| entry["request"].as_u64().unwrap()).collect()
    };
    assert!(failed[0]["failure"].as_str().unwrap().contains("fallen off the bus"), "{log}");
    assert_eq!(who(&failed[0]), [0, 1, 2], "{log}");
    assert!(
        failed[1..].iter().all(|record| record["failure"] == "in flight when the engine stopped")
    );
    // Steps count up to it, and /debug/steps has the same records.
    let number = |record: &Value| record["step"].as_u64().unwrap();
    let numbers: Vec<u64> = before.iter().chain(&failed).map(number).collect();
    let first = numbers[0];
    assert_eq!(numbers, (first..first + numbers.len() as u64).collect::<Vec<_>>());
    assert!(!before.is_empty() && before.len() <= 8, "{log}");
    let kept = steps["data"].as_array().unwrap();
    assert!(failed.iter().all(|record| kept.contains(record)), "{text}");
}
