//! Several engines behind one server: requests go to the pool, which places them.

use std::path::Path;

use ossmith::{
    AdapterSupport, EngineHandle, EngineMetrics, EnginePool, PauseMode, SleepLevel, StepRecord,
};

use super::{EngineControl, EngineState, GenerationBackend, GenerationRequest, GenerationStream};

/// Engines that share the requests.
#[derive(Clone, Debug)]
pub struct PoolBackend {
    pool: EnginePool,
}

impl PoolBackend {
    /// Serves with these engines.
    #[must_use]
    pub fn new(pool: EnginePool) -> PoolBackend {
        PoolBackend { pool }
    }
}

impl GenerationBackend for PoolBackend {
    fn submit(&self, request: GenerationRequest) -> ossmith::Result<GenerationStream> {
        Ok(Box::pin(self.pool.submit(request.engine_request)?))
    }

    fn metrics(&self) -> EngineMetrics {
        self.pool.metrics()
    }

    fn engines(&self) -> Vec<EngineState> {
        let state = |engine: &EngineHandle| EngineState {
            metrics: engine.metrics(),
            failure: engine.closed().map(|error| error.to_string()),
        };
        self.pool.engines().iter().map(state).collect()
    }

    fn recent_steps(&self, engine: usize, count: usize) -> Vec<StepRecord> {
        self.pool.engines().get(engine).map_or_else(Vec::new, |engine| engine.recent_steps(count))
    }

    fn failure(&self) -> Option<String> {
        self.pool.closed().map(|error| error.to_string())
    }

    fn adapter_support(&self) -> AdapterSupport {
        let of_engines = self.pool.engines().iter().map(EngineHandle::adapter_support);
        of_engines.min().unwrap_or_default()
    }

    fn reset_prefix_cache(&self) {
        self.pool.reset_prefix_cache();
    }

    fn control(&self) -> Option<&dyn EngineControl> {
        Some(self)
    }

    fn stop(&self) {
        self.pool.shutdown();
    }
}

impl EngineControl for PoolBackend {
    fn pause(&self, mode: PauseMode) -> ossmith::Result<()> {
        self.pool.pause(mode)
    }

    fn unpause(&self) -> ossmith::Result<()> {
        self.pool.unpause()
    }

    fn sleep(&self, level: SleepLevel, mode: PauseMode) -> ossmith::Result<()> {
        self.pool.sleep(level, mode)
    }

    fn wake(&self) -> ossmith::Result<()> {
        self.pool.wake()
    }

    fn is_asleep(&self) -> bool {
        self.pool.engines().iter().any(EngineHandle::is_asleep)
    }

    fn is_paused(&self) -> bool {
        self.pool.engines().iter().any(EngineHandle::is_paused)
    }

    fn update_weights(&self, path: &Path) -> ossmith::Result<usize> {
        self.pool.update_weights(path)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::fmt::Debug;
    use std::sync::{Arc, Mutex};
    use std::thread::{self, ThreadId};

    use axum::Router;
    use ossmith::unstable::{Backend, RowSampling, Step, StepOutput, TokenHistory};
    use ossmith::{Engine, Error, Limits, Policy, Result};
    use serde_json::{Value, json};
    use tower::ServiceExt;
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    use super::*;
    use crate::{Config, router};

    /// Samples the same token always, or fails at its first step.
    struct Constant {
        fails: bool,
        done: Vec<StepOutput>,
    }

    impl Backend for Constant {
        fn describe(&self) -> String {
            "constant".to_owned()
        }

        fn limits(&self) -> Limits {
            Limits::default().with_max_sequences(8).with_max_step_tokens(256).with_pages(400)
        }

        fn reserve_snapshots(&mut self, _: usize) -> Result<()> {
            Ok(())
        }

        fn save_snapshot(&mut self, _: usize, _: usize, _: usize) -> Result<()> {
            Ok(())
        }

        fn load_snapshot(&mut self, _: usize, _: usize, _: usize) -> Result<()> {
            Ok(())
        }

        fn set_history(&mut self, _: usize, _: &TokenHistory) -> Result<()> {
            Ok(())
        }

        fn set_mask(&mut self, _: usize, _: usize, _: &[u32]) -> Result<()> {
            Ok(())
        }

        fn submit(&mut self, step: &Step<'_>) -> Result<()> {
            let mut output = StepOutput::default();
            for sequence in step.sequences {
                output.sampled.extend(sequence.sample.map(|_| Some(1000)));
                output.logits.push(Vec::new());
            }
            self.done.push(output);
            Ok(())
        }

        fn submit_layers(&mut self, _: &Step<'_>) -> Result<()> {
            Err(Error::Internal("no request has a mask".to_owned()))
        }

        fn sample(&mut self, _: &[Option<RowSampling<'_>>]) -> Result<()> {
            Err(Error::Internal("no request has a mask".to_owned()))
        }

        fn collect(&mut self) -> Result<StepOutput> {
            if self.fails {
                return Err(Error::Internal("the device has been unplugged".to_owned()));
            }
            Ok(self.done.remove(0))
        }
    }

    /// A server over engines, of which some fail at their first step.
    fn site(fails: &[bool]) -> Router {
        let engine = |&fails: &bool| {
            let backend = Box::new(Constant { fails, done: Vec::new() });
            let spec = &ossmith_models::GPT_OSS_20B.spec;
            Engine::with_backend(spec, backend, 1, Policy::default()).unwrap()
        };
        let pool = EnginePool::start(fails.iter().map(engine).collect()).unwrap();
        let new = Config::new("model", 4096, 201_088);
        let config = Config { engines: fails.len(), development: true, ..new };
        router(config, Arc::new(PoolBackend::new(pool)))
    }

    async fn ask(site: &Router, method: &str, path: &str, body: &Value) -> (u16, String) {
        let request = axum::http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(axum::body::Body::from(body.to_string()))
            .unwrap();
        let answer = site.clone().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    fn prompt() -> Value {
        json!({"prompt": [5, 6, 7], "max_tokens": 20, "ignore_eos": true})
    }

    /// Errors that each thread logs. It is the process's subscriber: whether anything reads an event is kept for all threads,
    /// so that one which only this thread reads may be lost when another thread comes first.
    struct Log;

    static ERRORS: Mutex<Vec<(ThreadId, String)>> = Mutex::new(Vec::new());

    struct Message(String);

    impl Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            self.0 += &format!(" {}={value:?}", field.name());
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
            let mut message = Message(String::new());
            event.record(&mut message);
            ERRORS.lock().unwrap().push((thread::current().id(), message.0));
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[tokio::test]
    async fn a_server_goes_on_without_an_engine_that_has_failed() {
        tracing::subscriber::set_global_default(Log).unwrap();
        let site = site(&[true, false]);
        // The first goes to the engine that fails, and nobody notices.
        for _ in 0..5 {
            let (status, text) = ask(&site, "POST", "/v1/completions", &prompt()).await;
            assert_eq!(status, 200, "{text}");
            let answer: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(answer["usage"]["completion_tokens"], 20);
        }
        assert_eq!(ask(&site, "GET", "/health", &json!({})).await.0, 200);
        let (_, metrics) = ask(&site, "GET", "/metrics", &json!({})).await;
        for line in [
            "ossmith:engine_up{model_name=\"model\",engine=\"0\"} 0",
            "ossmith:engine_up{model_name=\"model\",engine=\"1\"} 1",
            "ossmith:engine_requests_total{model_name=\"model\",engine=\"0\"} 1",
            "ossmith:engine_requests_total{model_name=\"model\",engine=\"1\"} 5",
        ] {
            assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
        }
        let steps = async |path: &str| {
            let (status, text) = ask(&site, "GET", path, &json!({})).await;
            (status, serde_json::from_str::<Value>(&text).unwrap())
        };
        let (status, of_first) = steps("/debug/steps").await;
        let why = of_first["failure"].as_str().unwrap();
        assert!(status == 200 && why.contains("unplugged"), "{of_first}");
        let (_, of_second) = steps("/debug/steps?engine=1").await;
        assert_eq!((&of_second["engine"], &of_second["failure"]), (&json!(1), &Value::Null));
        assert!(!of_second["data"].as_array().unwrap().is_empty());
        assert_eq!(steps("/debug/steps?engine=2").await.0, 400);
        let (_, info) = ask(&site, "GET", "/server_info", &json!({})).await;
        let info: Value = serde_json::from_str(&info).unwrap();
        assert_eq!((&info["dp_size"], &info["max_total_num_tokens"]), (&json!(2), &json!(51_200)));
        let errors = ERRORS.lock().unwrap();
        let here = thread::current().id();
        let failures = errors.iter().filter(|(thread, message)| {
            *thread == here && message.contains("an engine of the pool has failed")
        });
        let failures: Vec<_> = failures.collect();
        assert!(failures.len() == 1 && failures[0].1.contains("engine=0"), "{errors:?}");
    }

    #[tokio::test]
    async fn engines_are_paused_and_keep_their_weights() {
        let site = site(&[false, false]);
        let is_paused = async || ask(&site, "GET", "/is_paused", &json!({})).await.1;
        assert_eq!(is_paused().await, r#"{"is_paused":false}"#);
        let (status, text) = ask(&site, "POST", "/pause?mode=now", &json!({})).await;
        assert!(status == 400 && text.contains("expected abort, wait or keep"), "{text}");
        for mode in ["?mode=keep", "?mode=wait", "?mode=abort", ""] {
            let (status, text) = ask(&site, "POST", &format!("/pause{mode}"), &json!({})).await;
            assert_eq!((status, &text[..]), (200, r#"{"status":"paused"}"#), "{mode}");
            assert_eq!(is_paused().await, r#"{"is_paused":true}"#);
        }
        for (path, part) in
            [("/sleep?level=3", "expected 1 or 2"), ("/sleep", "constant cannot sleep")]
        {
            let (status, text) = ask(&site, "POST", path, &json!({})).await;
            assert!(status == 400 && text.contains(part), "{path}: {text}");
        }
        let (_, text) = ask(&site, "GET", "/is_sleeping", &json!({})).await;
        assert_eq!(text, r#"{"is_sleeping":false}"#);
        assert_eq!(ask(&site, "POST", "/wake_up", &json!({})).await.0, 200);
        // It did not sleep, so the pause goes on.
        assert_eq!(is_paused().await, r#"{"is_paused":true}"#);
        let waiting = prompt();
        let waits = ask(&site, "POST", "/v1/completions", &waiting);
        let resumed = async {
            tokio::task::yield_now().await;
            ask(&site, "POST", "/resume", &json!({})).await
        };
        let ((status, text), (resumed, _)) = tokio::join!(waits, resumed);
        assert_eq!((status, resumed), (200, 200), "{text}");
        assert_eq!(is_paused().await, r#"{"is_paused":false}"#);
        for (body, part) in [
            (json!({}), "`update_info` is missing"),
            (json!({"update_info": {}}), "`update_info.path`"),
            (json!({"update_info": {"path": "/nowhere"}}), "those of constant cannot change"),
        ] {
            let (status, text) = ask(&site, "POST", "/update_weights", &body).await;
            assert!(status == 400 && text.contains(part), "{status} {text}");
        }
    }

    #[tokio::test]
    async fn a_server_whose_engines_have_all_failed_reports_it() {
        let site = site(&[true, true]);
        let (status, text) = ask(&site, "POST", "/v1/completions", &prompt()).await;
        assert!(status == 500 && text.contains("of 2 has failed"), "{status} {text}");
        let (status, text) = ask(&site, "GET", "/health", &json!({})).await;
        assert!(status == 503 && text.contains("unplugged"), "{status} {text}");
        let (status, text) = ask(&site, "POST", "/v1/completions", &prompt()).await;
        assert_eq!(status, 503, "{text}");
    }
}
