//! A run: a server, its clients, and what each of them knows it has stored.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, BodyDataStream, to_bytes};
use axum::http::{Request, header};
use futures_core::Stream;
use ossmith::FinishReason;
use ossmith_harmony::{SpecialSet, encode_with_special};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Plant, Tally};
use crate::clock;
use crate::config::Config;
use crate::router;
use crate::state::AppState;
use crate::store::{Store, StoreLimits};
use crate::stub::{Script, Stub};
use crate::tenant::{Keys, Tenant};

const KEYS: [&str; 3] = ["a", "b", "c"];
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A plain stream of random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((mixed ^ (mixed >> 31)) >> 33) % bound as u64) as usize
    }

    fn once_in(&mut self, odds: usize) -> bool {
        self.below(odds) == 0
    }
}

/// A response that a client knows to be stored.
struct Known {
    key: usize,
    id: String,
    /// What it says, unless it failed or was cancelled.
    text: String,
    fails: bool,
    background: bool,
    cancelled: bool,
    used: Instant,
}

/// A stream whose end has not been read.
struct Open {
    key: usize,
    body: BodyDataStream,
    read: String,
    text: String,
    fails: bool,
    store: bool,
    /// When the frame with its end was read, and so when it was stored.
    ended: Option<Instant>,
}

pub(super) struct World {
    random: Random,
    plant: Option<Plant>,
    lifetime: Duration,
    scripts: Arc<Mutex<VecDeque<Script>>>,
    app: Arc<AppState>,
    stub: Arc<Stub>,
    router: Router,
    known: Vec<Known>,
    open: Vec<Open>,
    /// Generations that were started in this server.
    started: u64,
    tally: Tally,
}

impl World {
    pub(super) fn new(seed: u64, plant: Option<Plant>) -> World {
        let mut random = Random(seed);
        let lifetime = Duration::from_secs([30, 100_000][random.below(2)]);
        let config = Config {
            keys: KEYS.map(str::to_owned).to_vec(),
            timeout: Some(TIMEOUT),
            date: Some("2026-01-31".to_owned()),
            store: StoreLimits { entries: 10_000, bytes: usize::MAX, lifetime },
            ..Config::new("model", 4096, 201_088)
        };
        let store = Arc::new(Store::new(config.store, None));
        let keys = Arc::new(Keys::new(&config.keys, false, None));
        let scripts = Arc::default();
        let (app, stub) = start(store, keys, config, &scripts);
        World {
            random,
            plant,
            lifetime,
            scripts,
            router: router::with_state(Arc::clone(&app)),
            app,
            stub,
            known: Vec::new(),
            open: Vec::new(),
            started: 0,
            tally: Tally::default(),
        }
    }

    pub(super) async fn run(mut self) -> Result<Tally, String> {
        for _ in 0..40 {
            match self.random.below(14) {
                0..2 => self.whole().await?,
                2..4 => self.begin_stream().await?,
                4..6 => self.begin_background().await?,
                6 => self.delete().await?,
                7 => self.cancel().await?,
                8 if self.random.once_in(3) => self.restart().await?,
                9 => {
                    let pause = Duration::from_millis(self.random.below(9000) as u64);
                    tokio::time::sleep(pause).await;
                }
                10 => self.get_any().await?,
                11 if !self.open.is_empty() => {
                    // The reader leaves.
                    let at = self.random.below(self.open.len());
                    self.open.swap_remove(at);
                    self.tally.left += 1;
                }
                _ => self.read_some().await?,
            }
            if self.stub.running() > self.open.len() + self.jobs() {
                // A generation ends as soon as its reader has left, but not before its task has run.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let (running, open, jobs) = (self.stub.running(), self.open.len(), self.jobs());
            if running > open + jobs {
                return Err(format!(
                    "{running} generations run for {open} streams and {jobs} jobs"
                ));
            }
        }
        self.restart().await?;
        Ok(self.tally)
    }

    /// Jobs that may still run.
    fn jobs(&self) -> usize {
        self.known.iter().filter(|one| one.background).count()
    }

    /// Decides what the model will write; returns its text, whether it fails, and whether it takes too long.
    fn script(&mut self) -> (String, bool, bool) {
        let words = 1 + self.random.below(12);
        let text: Vec<String> = (0..words).map(|_| format!("w{}", self.random.below(90))).collect();
        let text = text.join(" ");
        let turn = format!(
            "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>final<|message|>{text}<|return|>"
        );
        let tokens = encode_with_special(&turn, &SpecialSet::All, &SpecialSet::NONE);
        let mut tokens = tokens.unwrap_or_default();
        let failure =
            self.random.once_in(8).then(|| FinishReason::Failed("a scripted fault".into()));
        if failure.is_some() {
            tokens.truncate(tokens.len() / 2);
        }
        let pauses = [None, Some(Duration::from_millis(50)), Some(Duration::from_millis(2100))];
        let pause = pauses[self.random.below(3)];
        let events = tokens.len() + usize::from(failure.is_some());
        let late = pause.is_some_and(|pause| pause * events as u32 >= TIMEOUT);
        let fails = failure.is_some();
        self.scripts.lock().unwrap().push_back(Script { tokens, pause, failure });
        self.started += 1;
        (text, fails, late)
    }

    async fn call(
        &self,
        key: usize,
        method: &str,
        path: &str,
        body: &Value,
    ) -> axum::response::Response {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {}", KEYS[key]))
            .body(Body::from(body))
            .unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn json(&self, key: usize, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let response = self.call(key, method, path, body).await;
        let status = response.status().as_u16();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// A key, and a request's fields: half of them continue something that is stored.
    fn ask(&mut self) -> (usize, Value, bool) {
        let (key, store) = (self.random.below(3), !self.random.once_in(4));
        let mut body = json!({"input": "Hi", "store": store});
        let now = clock::now();
        let lifetime = self.lifetime;
        let own: Vec<usize> = (0..self.known.len())
            .filter(|&at| {
                let one = &self.known[at];
                let whole = !one.background && !one.fails && !one.cancelled;
                one.key == key && whole && now - one.used < lifetime
            })
            .collect();
        if !own.is_empty() && self.random.once_in(2) {
            let at = own[self.random.below(own.len())];
            body["previous_response_id"] = self.known[at].id.clone().into();
            self.known[at].used = now;
            self.tally.continued += 1;
        }
        (key, body, store)
    }

    fn remember(
        &mut self,
        key: usize,
        response: &Value,
        text: String,
        fails: bool,
        background: bool,
    ) {
        let id = response["id"].as_str().unwrap_or_default().to_owned();
        if self.plant == Some(Plant::StoredForAnother) && !background {
            let tenants: Vec<Tenant> = self.app.keys.tenants().map(|(_, tenant)| tenant).collect();
            let (from, to) =
                (self.app.store.of(tenants[key]), self.app.store.of(tenants[(key + 1) % 3]));
            let moved = from.remove(&id).and_then(|_| to.put(&id, response, &[], &[]));
            moved.expect("a store in memory");
        }
        let used = clock::now();
        self.known.push(Known { key, id, text, fails, background, cancelled: false, used });
    }

    async fn whole(&mut self) -> Result<(), String> {
        let (key, body, store) = self.ask();
        let (text, fails, late) = self.script();
        let (status, answer) = self.json(key, "POST", "/v1/responses", &body).await;
        self.tally.whole += 1;
        self.tally.late += u64::from(late);
        self.tally.failed += u64::from(fails && !late);
        let want = match (late, fails) {
            (true, _) => 408,
            (false, true) => 500,
            (false, false) => 200,
        };
        if status != want {
            return Err(format!("a whole response came with {status}, not {want}: {answer}"));
        }
        if status == 200 {
            check_text(&answer, &text)?;
            if store {
                self.remember(key, &answer, text, false, false);
            }
        }
        Ok(())
    }

    async fn begin_stream(&mut self) -> Result<(), String> {
        let (key, mut body, store) = self.ask();
        let (text, fails, late) = self.script();
        body["stream"] = true.into();
        let response = self.call(key, "POST", "/v1/responses", &body).await;
        if response.status() != 200 {
            return Err(format!("a stream began with {}", response.status()));
        }
        self.tally.streamed += 1;
        let body = response.into_body().into_data_stream();
        self.open.push(Open {
            key,
            body,
            read: String::new(),
            text,
            fails: fails || late,
            store,
            ended: None,
        });
        Ok(())
    }

    /// A reader reads a frame, or to the end.
    async fn read_some(&mut self) -> Result<(), String> {
        if self.open.is_empty() {
            return Ok(());
        }
        let at = self.random.below(self.open.len());
        let frames = if self.random.once_in(3) { usize::MAX } else { 1 + self.random.below(4) };
        self.read(at, frames).await
    }

    async fn read(&mut self, at: usize, frames: usize) -> Result<(), String> {
        for _ in 0..frames {
            let open = &mut self.open[at];
            let next =
                std::future::poll_fn(|context| Pin::new(&mut open.body).poll_next(context)).await;
            match next {
                Some(Ok(frame)) => {
                    let frame = String::from_utf8_lossy(&frame);
                    if frame.contains("response.completed") {
                        open.ended.get_or_insert_with(clock::now);
                    }
                    open.read.push_str(&frame);
                }
                Some(Err(why)) => return Err(format!("a stream broke off: {why}")),
                None => {
                    let open = self.open.swap_remove(at);
                    return self.check_stream(open);
                }
            }
        }
        Ok(())
    }

    /// A stream has exactly one end, which is right.
    fn check_stream(&mut self, open: Open) -> Result<(), String> {
        let data = open.read.lines().filter_map(|line| line.strip_prefix("data: "));
        let events: Vec<Value> = data.filter_map(|data| serde_json::from_str(data).ok()).collect();
        let ends = ["response.completed", "response.failed", "response.incomplete", "error"];
        let ended: Vec<&Value> = events
            .iter()
            .filter(|event| ends.contains(&event["type"].as_str().unwrap_or_default()))
            .collect();
        let [end] = ended.as_slice() else {
            return Err(format!("a stream has {} ends: {}", ended.len(), open.read));
        };
        let completed = end["type"] == "response.completed";
        if completed == open.fails {
            return Err(format!("a stream whose model fails: {} ended with {end}", open.fails));
        }
        if completed {
            check_text(&end["response"], &open.text)?;
            if open.store {
                let response = end["response"].clone();
                self.remember(open.key, &response, open.text, false, false);
                if let (Some(stored), Some(ended)) = (self.known.last_mut(), open.ended) {
                    stored.used = ended;
                }
            }
        }
        self.tally.failed += u64::from(open.fails);
        Ok(())
    }

    async fn begin_background(&mut self) -> Result<(), String> {
        let (key, mut body, _) = self.ask();
        let (text, fails, late) = self.script();
        (body["background"], body["store"]) = (true.into(), true.into());
        let (status, queued) = self.json(key, "POST", "/v1/responses", &body).await;
        if status != 200 {
            return Err(format!("a response in the background began with {status}: {queued}"));
        }
        self.tally.background += 1;
        self.remember(key, &queued, text, fails || late, true);
        Ok(())
    }

    async fn get_any(&mut self) -> Result<(), String> {
        if self.known.is_empty() {
            return Ok(());
        }
        let at = self.random.below(self.known.len());
        self.check_stored(at).await.map(drop)
    }

    /// A stored response is there for its key and no other, and says what it said. Returns whether it is still there.
    async fn check_stored(&mut self, at: usize) -> Result<bool, String> {
        let one = &self.known[at];
        let path = format!("/v1/responses/{}", one.id);
        let (other, _) = self.json((one.key + 1) % 3, "GET", &path, &Value::Null).await;
        if other != 404 {
            return Err(format!("another key gets {other} for a stored response"));
        }
        let live = clock::now() - one.used < self.lifetime;
        let (status, answer) = self.json(one.key, "GET", &path, &Value::Null).await;
        if status != if live { 200 } else { 404 } {
            return Err(format!(
                "a stored response is a {status}, though live is {live}: {answer}"
            ));
        }
        if !live {
            self.tally.expired += 1;
            self.known.swap_remove(at);
            return Ok(false);
        }
        let state = answer["status"].as_str().unwrap_or_default().to_owned();
        let right = match &state[..] {
            "completed" => !one.fails && !one.cancelled,
            "failed" => one.fails,
            "cancelled" => one.cancelled,
            "queued" | "in_progress" => one.background,
            _ => false,
        };
        if !right {
            return Err(format!("a stored response is {state}: {answer}"));
        }
        if state == "completed" {
            check_text(&answer, &one.text)?;
        }
        self.known[at].used = clock::now();
        Ok(true)
    }

    async fn delete(&mut self) -> Result<(), String> {
        if self.known.is_empty() {
            return Ok(());
        }
        let at = self.random.below(self.known.len());
        if !self.check_stored(at).await? {
            return Ok(());
        }
        let one = self.known.swap_remove(at);
        let path = format!("/v1/responses/{}", one.id);
        for want in [200, 404] {
            let (status, answer) = self.json(one.key, "DELETE", &path, &Value::Null).await;
            if status != want {
                return Err(format!(
                    "deleting a stored response is a {status}, not {want}: {answer}"
                ));
            }
        }
        self.tally.deleted += 1;
        Ok(())
    }

    async fn cancel(&mut self) -> Result<(), String> {
        let of = |one: &Known| one.background && clock::now() - one.used < self.lifetime;
        let Some(at) = self.known.iter().rposition(of) else { return Ok(()) };
        let path = format!("/v1/responses/{}/cancel", self.known[at].id);
        let (status, answer) = self.json(self.known[at].key, "POST", &path, &Value::Null).await;
        self.known[at].used = clock::now();
        match status {
            200 if answer["status"] == "cancelled" => {
                self.known[at].cancelled = true;
                self.tally.cancelled += 1;
                Ok(())
            }
            // It had ended.
            400 => Ok(()),
            _ => Err(format!("cancelling a stored response is a {status}: {answer}")),
        }
    }

    /// The server finishes what runs, as it does on SIGTERM, and another one starts over the same store.
    async fn restart(&mut self) -> Result<(), String> {
        self.app.stop();
        let (refused, answer) =
            self.json(0, "POST", "/v1/responses", &json!({"input": "Hi"})).await;
        if refused != 503 {
            return Err(format!("a server that stops answers {refused}: {answer}"));
        }
        while !self.open.is_empty() {
            self.read(0, usize::MAX).await?;
        }
        tokio::time::sleep(TIMEOUT + Duration::from_secs(1)).await;
        if self.stub.running() != 0 {
            return Err(format!("{} generations run after the time limit", self.stub.running()));
        }
        self.check_counts().await?;
        if self.plant == Some(Plant::StoredLost)
            && let Some(last) = self.known.last()
        {
            let tenants: Vec<Tenant> = self.app.keys.tenants().map(|(_, tenant)| tenant).collect();
            let removed = self.app.store.of(tenants[last.key]).remove(&last.id);
            removed.map_err(|why| why.message)?;
        }
        let (store, keys) = (Arc::clone(&self.app.store), Arc::clone(&self.app.keys));
        (self.app, self.stub) = start(store, keys, self.app.config.clone(), &self.scripts);
        self.router = router::with_state(Arc::clone(&self.app));
        self.started = 0;
        self.tally.restarts += 1;
        for at in (0..self.known.len()).rev() {
            let survived = self.check_stored(at).await?;
            self.tally.survived += u64::from(survived);
            if survived && self.known[at].background {
                // Nothing runs any more, so it has ended.
                let path = format!("/v1/responses/{}", self.known[at].id);
                let (_, answer) = self.json(self.known[at].key, "GET", &path, &Value::Null).await;
                if ["queued", "in_progress"].iter().any(|state| answer["status"] == *state) {
                    return Err(format!("a stored response never ends: {answer}"));
                }
                self.known[at].background = false;
            }
        }
        Ok(())
    }

    /// Each generation that was started has ended once, by the metrics.
    async fn check_counts(&self) -> Result<(), String> {
        let response = self.call(0, "GET", "/metrics", &Value::Null).await;
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let ended: f64 = text
            .lines()
            .filter(|line| line.starts_with("vllm:request_success_total{"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        match ended as u64 == self.started {
            true => Ok(()),
            false => Err(format!("{ended} of {} generations are counted as ended", self.started)),
        }
    }
}

/// The text of a response's message.
fn check_text(response: &Value, want: &str) -> Result<(), String> {
    let output = response["output"].as_array().cloned().unwrap_or_default();
    let message = output.iter().find(|item| item["type"] == "message");
    let text = message.map(|item| item["content"][0]["text"].clone()).unwrap_or_default();
    if text == want { Ok(()) } else { Err(format!("`{text}` is not `{want}`: {response}")) }
}

fn start(
    store: Arc<Store>,
    keys: Arc<Keys>,
    config: Config,
    scripts: &Arc<Mutex<VecDeque<Script>>>,
) -> (Arc<AppState>, Arc<Stub>) {
    let scripts = Arc::clone(scripts);
    let next = move |_: &_| scripts.lock().unwrap().pop_front().unwrap_or_default();
    let stub = Arc::new(Stub::new(10_000, next));
    let backend = Arc::clone(&stub);
    (AppState::over(store, keys, config, backend), stub)
}
