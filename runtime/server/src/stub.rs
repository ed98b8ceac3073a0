//! A source that replays given tokens instead of running a model: for tests of everything around the engine, and for
//! measuring the HTTP path alone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::engine::{Answer, Ask, EngineStats, Finish, Source, Update};
use crate::error::ApiError;
use crate::generation::within;

/// What one generation yields.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The tokens; what comes after `max_tokens` of them is cut off.
    pub tokens: Vec<u32>,
    /// Time before each token; none hands all of them over at once, zero hands them over one by one without waiting.
    pub pause: Option<Duration>,
    /// Fails after the tokens.
    pub failure: Option<ApiError>,
}

type Writer = dyn Fn(&Ask) -> Script + Send + Sync;

/// The source.
pub struct Stub {
    writer: Box<Writer>,
    most: usize,
    running: Arc<AtomicUsize>,
    resets: AtomicUsize,
}

impl std::fmt::Debug for Stub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stub").field("most", &self.most).finish_non_exhaustive()
    }
}

impl Stub {
    /// Yields what `writer` says, for at most `most` generations at a time.
    pub fn new(most: usize, writer: impl Fn(&Ask) -> Script + Send + Sync + 'static) -> Stub {
        Stub {
            writer: Box::new(writer),
            most,
            running: Arc::default(),
            resets: AtomicUsize::new(0),
        }
    }

    /// Generations under way.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// How often it was asked to forget cached prefixes; it has none.
    #[must_use]
    pub fn resets(&self) -> usize {
        self.resets.load(Ordering::SeqCst)
    }
}

/// Counts a generation for as long as it lives.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Source for Stub {
    fn submit(&self, ask: Ask) -> Result<Box<dyn Answer>, ApiError> {
        let running = self.running.fetch_add(1, Ordering::SeqCst);
        let place = Place(Arc::clone(&self.running));
        if running >= self.most {
            return Err(ApiError::overloaded(format!("{running} requests wait already")));
        }
        let script = (self.writer)(&ask);
        let updates = updates(&ask, script.tokens, script.failure);
        Ok(match script.pause {
            None => Box::new(Ready { updates, apart: false, waits: 0, _place: place }),
            Some(Duration::ZERO) => {
                Box::new(Ready { updates, apart: true, waits: 0, _place: place })
            }
            Some(pause) => Box::new(paced(updates, pause, ask.timeout, place)),
        })
    }

    fn stats(&self) -> EngineStats {
        EngineStats { running: self.running(), ..EngineStats::default() }
    }

    fn failure(&self) -> Option<String> {
        None
    }

    fn reset_prefix_cache(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }

    fn stop(&self) {}
}

fn updates(ask: &Ask, tokens: Vec<u32>, failure: Option<ApiError>) -> VecDeque<Update> {
    let most = ask.sampling.max_tokens.unwrap_or(usize::MAX);
    let (count, cut) = (tokens.len().min(most), tokens.len() >= most);
    let mut updates = VecDeque::from([Update::Prompt {
        cached: 0,
        queued: Duration::ZERO,
        logprobs: Vec::new(),
    }]);
    for (index, id) in tokens.into_iter().take(count).enumerate() {
        let last = index + 1 == count && failure.is_none();
        let stops = ossmith_harmony::special::stop_tokens_for_assistant_actions().contains(&id);
        let finish = match (last, stops, cut) {
            (false, ..) => None,
            (true, false, true) => Some(Finish::Length),
            (true, ..) => Some(Finish::Stop),
        };
        updates.push_back(Update::Token { id, logprobs: None, finish });
    }
    updates.extend(failure.map(Update::Failed));
    updates
}

struct Ready {
    updates: VecDeque<Update>,
    /// Each update is waited for, if only for a moment, as an engine's would be.
    apart: bool,
    /// Polls in vain since the last update. It takes two: one ends the frame at hand, the other the connection's turn.
    waits: u8,
    _place: Place,
}

impl Answer for Ready {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Update>> {
        if self.apart && self.waits < 2 {
            self.waits += 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.waits = 0;
        Poll::Ready(self.updates.pop_front())
    }
}

/// Updates that come one by one, from a task of their own, which waits for a slow reader.
fn paced(
    updates: VecDeque<Update>,
    pause: Duration,
    timeout: Option<Duration>,
    place: Place,
) -> mpsc::Receiver<Update> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let write = async {
            for update in updates {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = sender.closed() => return,
                }
                if sender.send(update).await.is_err() {
                    return;
                }
            }
        };
        let written = within(timeout, write).await;
        drop(place);
        if let Err(late) = written {
            // A reader that is gone does not miss it.
            let _ = sender.send(Update::Failed(late)).await;
        }
    });
    receiver
}
