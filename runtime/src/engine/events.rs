//! The two directions between the engine's thread and everybody else: [`Command`]s to it, and a request's events from it.
//! The events of a request pass through a bounded queue with plain locks, which a blocking reader, an iterator and an
//! async runtime can all read.
//!
//! Nothing is lost when the reader is slow: at `capacity` queued events the request is *held* (it keeps its resources, and
//! no further token of it is scheduled) until the reader has taken half of them. Other requests go on meanwhile.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_core::Stream;

use super::pause::PauseMode;
use super::request::{FinishReason, RequestId, TokenEvent};
use super::validate::ValidatedRequest;
use crate::backend::SleepLevel;
use crate::{Checkpoint, Result};

/// What the engine's thread is to do.
#[derive(Debug)]
pub(super) enum Command {
    Submit(Box<ValidatedRequest>, Sink),
    Cancel(RequestId),
    Resume(RequestId),
    ResetPrefixCache,
    Logits(LogitsJob),
    /// Starts no further step; replies once the requests are as the mode asks and no step is in flight.
    Pause(PauseMode, Sender<()>),
    /// Starts steps again.
    Unpause(Sender<Result<()>>),
    /// Gives memory back; no step may start until it wakes.
    Sleep(SleepLevel, Sender<Result<()>>),
    Wake(Sender<Result<()>>),
    Weights(WeightsJob),
    Shutdown,
}

/// A prompt whose logits a caller waits for.
#[derive(Debug)]
pub(super) struct LogitsJob {
    pub(super) prompt: Vec<u32>,
    pub(super) reply: Sender<Result<Vec<f32>>>,
}

/// Weights that a caller waits for.
#[derive(Debug)]
pub(super) enum WeightsJob {
    /// All of them.
    Replace(Arc<Checkpoint>, Sender<Result<()>>),
    /// Those of a file or folder; the answer is how many they are.
    Update(PathBuf, Sender<Result<usize>>),
}

#[derive(Debug, Default)]
struct State {
    queued: VecDeque<TokenEvent>,
    /// Samples that have not ended.
    unfinished: usize,
    /// Which samples have ended.
    ended: Vec<bool>,
    held: bool,
    waker: Option<Waker>,
}

/// Shared by the engine's end and the reader's end.
#[derive(Debug)]
struct Queue {
    id: RequestId,
    capacity: usize,
    state: Mutex<State>,
    ready: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine's end.
#[derive(Debug)]
pub(super) struct Sink(Arc<Queue>);

/// Makes the two ends of a request's queue.
pub(super) fn queue(
    id: RequestId,
    samples: usize,
    capacity: usize,
    commands: Sender<Command>,
) -> (Sink, Events) {
    let state = State { unfinished: samples, ended: vec![false; samples], ..State::default() };
    let queue = Arc::new(Queue {
        id,
        capacity: capacity.max(1),
        state: Mutex::new(state),
        ready: Condvar::new(),
    });
    (Sink(queue.clone()), Events { queue, commands })
}

/// What a queued event means for its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pushed {
    /// The request is to be held from now on, because its reader is slow.
    pub(super) hold: bool,
    /// All samples of the request have ended.
    pub(super) done: bool,
}

impl Sink {
    /// Queues an event for the reader.
    pub(super) fn push(&self, event: TokenEvent) -> Pushed {
        let mut state = self.0.lock();
        if event.finish.is_some() && !std::mem::replace(&mut state.ended[event.sample], true) {
            state.unfinished -= 1;
        }
        state.queued.push_back(event);
        let hold = !state.held && state.queued.len() >= self.0.capacity;
        state.held |= hold;
        let done = state.unfinished == 0;
        self.wake(state);
        Pushed { hold, done }
    }

    /// Ends every sample that has not ended.
    pub(super) fn close(&self, reason: &FinishReason) {
        let mut state = self.0.lock();
        if state.unfinished == 0 {
            return;
        }
        for sample in 0..state.ended.len() {
            if !std::mem::replace(&mut state.ended[sample], true) {
                state.queued.push_back(TokenEvent::end(self.0.id, sample, reason.clone()));
            }
        }
        state.unfinished = 0;
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let waker = state.waker.take();
        drop(state);
        self.0.ready.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.close(&FinishReason::Failed("the engine is gone".into()));
    }
}

/// The events of a request. Dropping it cancels what is unfinished.
///
/// There are three ways to read it: a `for` loop or [`Events::next_blocking`] waits for each event,
/// [`Events::next_within`] waits for a limited time, and an async runtime reads it as a `futures_core::Stream`. It is not
/// an [`Iterator`] itself, so that `next` and the other names that both traits have stay unambiguous.
#[derive(Debug)]
pub struct Events {
    queue: Arc<Queue>,
    commands: Sender<Command>,
}

impl Events {
    /// The request's id.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.queue.id
    }

    /// Ends the request within a step; its samples end with [`FinishReason::Cancelled`].
    pub fn cancel(&self) {
        // An engine that is gone has ended the request already.
        let _ = self.commands.send(Command::Cancel(self.queue.id));
    }

    /// The next event, if there is one, and `Ready(None)` once every sample has ended. Otherwise the context's waker is
    /// called when an event arrives; only the waker of the last call is kept. This is `Stream::poll_next` without `Pin`,
    /// for callers that do not use the trait.
    pub fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<TokenEvent>> {
        let mut state = self.queue.lock();
        match self.pop(&mut state) {
            Some(event) => Poll::Ready(Some(event)),
            None if state.unfinished == 0 => Poll::Ready(None),
            None => {
                match &mut state.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    waker => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    /// Waits for the next event; `None` once every sample has ended.
    pub fn next_blocking(&mut self) -> Option<TokenEvent> {
        match self.wait(None) {
            Poll::Ready(event) => event,
            // Without an end of the wait this is never reached.
            Poll::Pending => None,
        }
    }

    /// Waits for the next event for at most this long; `Pending` means that the time is up.
    pub fn next_within(&mut self, time: Duration) -> Poll<Option<TokenEvent>> {
        self.wait(Instant::now().checked_add(time))
    }

    /// Waits for the next event until `end`, or without a limit.
    fn wait(&self, end: Option<Instant>) -> Poll<Option<TokenEvent>> {
        let ready = &self.queue.ready;
        let mut state = self.queue.lock();
        loop {
            if let Some(event) = self.pop(&mut state) {
                return Poll::Ready(Some(event));
            }
            if state.unfinished == 0 {
                return Poll::Ready(None);
            }
            state = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                None => ready.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Poll::Pending,
                Some(left) => {
                    ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Whether the request is held, and how many events wait.
    #[cfg(test)]
    pub(super) fn backlog(&self) -> (bool, usize) {
        let state = self.queue.lock();
        (state.held, state.queued.len())
    }

    /// Loses the last event, if it is an end. Shows that a simulation notices.
    #[cfg(test)]
    pub(super) fn lose_end(&self) {
        let mut state = self.queue.lock();
        if state.queued.back().is_some_and(|event| event.finish.is_some()) {
            state.queued.pop_back();
        }
    }

    fn pop(&self, state: &mut State) -> Option<TokenEvent> {
        let event = state.queued.pop_front()?;
        if state.held && state.queued.len() <= self.queue.capacity / 2 {
            state.held = false;
            let _ = self.commands.send(Command::Resume(self.queue.id));
        }
        Some(event)
    }
}

impl Stream for Events {
    type Item = TokenEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<TokenEvent>> {
        self.get_mut().poll_event(context)
    }
}

impl IntoIterator for Events {
    type Item = TokenEvent;
    type IntoIter = BlockingEvents;

    fn into_iter(self) -> BlockingEvents {
        BlockingEvents(self)
    }
}

/// Waits for each of a request's events; what [`Events`] turns into in a `for` loop. Dropping it cancels what is
/// unfinished.
#[derive(Debug)]
pub struct BlockingEvents(Events);

impl Iterator for BlockingEvents {
    type Item = TokenEvent;

    fn next(&mut self) -> Option<TokenEvent> {
        self.0.next_blocking()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if self.queue.lock().unfinished > 0 {
            self.cancel();
        }
    }
}
