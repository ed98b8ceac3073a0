//! A backend that replays given tokens instead of running a model: for tests of everything around the engine, and to measure the
//! HTTP path alone.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_core::Stream;
use ossmith::{EngineMetrics, FinishReason, PromptInfo, RequestId, StepRecord, TokenEvent};
use tokio::sync::mpsc;

use crate::backend::{GenerationBackend, GenerationRequest, GenerationStream};

/// What one generation yields.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The tokens. Those beyond `max_tokens` are cut off.
    pub tokens: Vec<u32>,
    /// The time before each token. None yields all of them at once; zero yields them one by one without waiting.
    pub pause: Option<Duration>,
    /// The generation fails for this reason after the tokens.
    pub failure: Option<FinishReason>,
}

type Writer = dyn Fn(&GenerationRequest) -> Script + Send + Sync;

/// The backend.
pub struct Stub {
    writer: Box<Writer>,
    max_running: usize,
    running: Arc<AtomicUsize>,
    resets: AtomicUsize,
}

impl std::fmt::Debug for Stub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stub").field("max_running", &self.max_running).finish_non_exhaustive()
    }
}

impl Stub {
    /// Yields the script that `writer` gives for a request, for at most `max_running` generations at a time.
    pub fn new(
        max_running: usize,
        writer: impl Fn(&GenerationRequest) -> Script + Send + Sync + 'static,
    ) -> Stub {
        Stub {
            writer: Box::new(writer),
            max_running,
            running: Arc::default(),
            resets: AtomicUsize::new(0),
        }
    }

    /// Generations that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// How often the prefix cache was reset; there is none.
    #[must_use]
    pub fn resets(&self) -> usize {
        self.resets.load(Ordering::SeqCst)
    }
}

/// Counts a generation as running for as long as it lives.
struct RunningGuard(Arc<AtomicUsize>);

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl GenerationBackend for Stub {
    fn submit(&self, request: GenerationRequest) -> ossmith::Result<GenerationStream> {
        let running = self.running.fetch_add(1, Ordering::SeqCst);
        let guard = RunningGuard(Arc::clone(&self.running));
        if running >= self.max_running {
            let (limit, capacity) = (self.max_running, self.max_running);
            return Err(ossmith::Error::QueueFull { waiting: running, limit, capacity });
        }
        let script = (self.writer)(&request);
        let events = events(&request, script.tokens, script.failure);
        let deadline = request.engine_request.deadline;
        Ok(match script.pause {
            None => Box::pin(Ready { events, one_by_one: false, polls: 0, _guard: guard }),
            Some(Duration::ZERO) => {
                Box::pin(Ready { events, one_by_one: true, polls: 0, _guard: guard })
            }
            Some(pause) => Box::pin(Paced(paced(events, pause, deadline, guard))),
        })
    }

    fn metrics(&self) -> EngineMetrics {
        let mut metrics = EngineMetrics::new(0);
        metrics.running = self.running();
        metrics
    }

    /// There are none.
    fn recent_steps(&self, _engine: usize, _count: usize) -> Vec<StepRecord> {
        Vec::new()
    }

    fn failure(&self) -> Option<String> {
        None
    }

    fn reset_prefix_cache(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }

    fn stop(&self) {}
}

fn event(token: Option<u32>, finish: Option<FinishReason>) -> TokenEvent {
    TokenEvent {
        request: RequestId(0),
        sample: 0,
        token,
        text: String::new(),
        logprobs: None,
        prompt: None,
        finish,
    }
}

fn events(
    request: &GenerationRequest,
    tokens: Vec<u32>,
    failure: Option<FinishReason>,
) -> VecDeque<TokenEvent> {
    let limit = request.engine_request.params.max_tokens.unwrap_or(usize::MAX);
    let (count, cut) = (tokens.len().min(limit), tokens.len() >= limit);
    let mut events = VecDeque::with_capacity(count + 1);
    for (index, id) in tokens.into_iter().take(count).enumerate() {
        let last = index + 1 == count && failure.is_none();
        let stops = ossmith_harmony::special::stop_tokens_for_assistant_actions().contains(&id);
        let finish = match (last, stops, cut) {
            (false, ..) => None,
            (true, false, true) => Some(FinishReason::Length),
            (true, ..) => Some(FinishReason::Stop),
        };
        events.push_back(event(Some(id), finish));
    }
    events.extend(failure.map(|failure| event(None, Some(failure))));
    if let Some(first) = events.front_mut() {
        first.prompt = Some(Box::new(PromptInfo::default()));
    }
    events
}

struct Ready {
    events: VecDeque<TokenEvent>,
    /// Each event has to be waited for, if only for a moment, as an engine's has.
    one_by_one: bool,
    /// Polls without an event since the last one. It takes two: the first ends the frame, the second the connection's turn.
    polls: u8,
    _guard: RunningGuard,
}

impl Stream for Ready {
    type Item = TokenEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<TokenEvent>> {
        if self.one_by_one && self.polls < 2 {
            self.polls += 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.polls = 0;
        Poll::Ready(self.events.pop_front())
    }
}

struct Paced(mpsc::Receiver<TokenEvent>);

impl Stream for Paced {
    type Item = TokenEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<TokenEvent>> {
        self.0.poll_recv(context)
    }
}

/// Events that come one by one from a task of their own, which waits for a slow reader.
fn paced(
    events: VecDeque<TokenEvent>,
    pause: Duration,
    deadline: Option<Instant>,
    guard: RunningGuard,
) -> mpsc::Receiver<TokenEvent> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let send = async {
            for event in events {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = sender.closed() => return,
                }
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        };
        let in_time = match deadline {
            None => {
                send.await;
                true
            }
            Some(deadline) => tokio::time::timeout_at(deadline.into(), send).await.is_ok(),
        };
        drop(guard);
        if !in_time {
            // The reader may be gone.
            let _ = sender.send(event(None, Some(FinishReason::Deadline))).await;
        }
    });
    receiver
}
