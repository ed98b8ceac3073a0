//! One request's events on their way from the engine's thread to a reader: a bounded queue with plain locks, that a
//! blocking reader, an iterator and an async runtime can all read.
//!
//! Nothing is lost when the reader is slow: at `capacity` waiting events the request is *held* (it keeps its place,
//! and no further token of it is planned) until the reader has taken half of them. Others go on meanwhile.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::handle::Command;
use super::request::{FinishReason, RequestId, TokenEvent};

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<TokenEvent>,
    /// Samples that have not ended.
    unfinished: usize,
    /// Which samples have ended.
    ended: Vec<bool>,
    held: bool,
    waker: Option<Waker>,
}

/// The engine's end and the reader's end share it.
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

/// What an event that was handed over means for its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pushed {
    /// It is to be held from now on: its reader is slow.
    pub(super) hold: bool,
    /// All its samples have ended.
    pub(super) done: bool,
}

impl Sink {
    /// Hands an event to the reader.
    pub(super) fn push(&self, event: TokenEvent) -> Pushed {
        let mut state = self.0.lock();
        if event.finish.is_some() && !std::mem::replace(&mut state.ended[event.sample], true) {
            state.unfinished -= 1;
        }
        state.waiting.push_back(event);
        let hold = !state.held && state.waiting.len() >= self.0.capacity;
        state.held |= hold;
        let done = state.unfinished == 0;
        self.wake(state);
        Pushed { hold, done }
    }

    /// Ends every sample that has not ended.
    pub(super) fn close(&self, why: &FinishReason) {
        let mut state = self.0.lock();
        if state.unfinished == 0 {
            return;
        }
        for sample in 0..state.ended.len() {
            if !std::mem::replace(&mut state.ended[sample], true) {
                state.waiting.push_back(TokenEvent::end(self.0.id, sample, why.clone()));
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

/// A request's events. Read them by iterating (blocks), with a time limit, or from an async runtime by
/// [`Events::poll_next`]. Dropping it cancels what is unfinished.
#[derive(Debug)]
pub struct Events {
    queue: Arc<Queue>,
    commands: Sender<Command>,
}

impl Events {
    /// The request's name.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.queue.id
    }

    /// Ends the request within a step; its samples end with [`FinishReason::Cancelled`].
    pub fn cancel(&self) {
        // An engine that is gone has ended the request already.
        let _ = self.commands.send(Command::Cancel(self.queue.id));
    }

    /// The next event, if one is there; `Ready(None)` once every sample has ended. Else the context's waker is
    /// called when there is one, as `futures::Stream` has it.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<TokenEvent>> {
        let mut state = self.queue.lock();
        match self.pop(&mut state) {
            Some(event) => Poll::Ready(Some(event)),
            None if state.unfinished == 0 => Poll::Ready(None),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Waits for the next event, at most this long: `Pending` means that the time is up.
    pub fn next_within(&mut self, time: Duration) -> Poll<Option<TokenEvent>> {
        self.wait(Instant::now().checked_add(time))
    }

    /// Waits for the next event until then, or for as long as it takes.
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

    fn pop(&self, state: &mut State) -> Option<TokenEvent> {
        let event = state.waiting.pop_front()?;
        if state.held && state.waiting.len() <= self.queue.capacity / 2 {
            state.held = false;
            let _ = self.commands.send(Command::Resume(self.queue.id));
        }
        Some(event)
    }
}

impl Iterator for Events {
    type Item = TokenEvent;

    fn next(&mut self) -> Option<TokenEvent> {
        match self.wait(None) {
            Poll::Ready(event) => event,
            // Without an end there is no giving up.
            Poll::Pending => None,
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if self.queue.lock().unfinished > 0 {
            self.cancel();
        }
    }
}
