//! The events of a request to a pool: those of its engine, and of another one's if the first fails before any of them was read.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_core::Stream;

use super::Shared;
use super::placement::{Chain, Prompt};
use crate::{Events, FinishReason, Request, RequestId, TokenEvent};

/// The events of a request. Dropping it cancels what is unfinished.
///
/// It is read as [`Events`] are: [`PoolEvents::next_blocking`] and a `for` loop wait for each event,
/// [`PoolEvents::next_within`] waits for a limited time, and an async runtime reads it as a `futures_core::Stream`.
#[derive(Debug)]
pub struct PoolEvents {
    shared: Arc<Shared>,
    engine: usize,
    inner: Events,
    prompt: Prompt,
    /// The tokens of each sample that has not ended.
    samples: Vec<Option<Chain>>,
    /// What is placed again if the engine fails; `None` once an event has been read.
    request: Option<Request>,
    /// It is not placed again, because nobody wants it any more.
    cancelled: AtomicBool,
}

impl PoolEvents {
    /// Of a request that was counted at an engine and that the engine has taken.
    pub(super) fn new(
        shared: Arc<Shared>,
        engine: usize,
        inner: Events,
        prompt: Prompt,
        request: Request,
    ) -> PoolEvents {
        let samples = vec![Some(prompt.chain.clone()); request.params.n];
        let cancelled = AtomicBool::new(false);
        PoolEvents { shared, engine, inner, prompt, samples, request: Some(request), cancelled }
    }

    /// Which engine has the request.
    #[must_use]
    pub fn engine(&self) -> usize {
        self.engine
    }

    /// The request's id, which only its engine's other ids differ from.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.inner.id()
    }

    /// Ends the request within a step; its samples end with [`FinishReason::Cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.inner.cancel();
    }

    /// The next event, as [`Events::poll_event`] gives it.
    pub fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<TokenEvent>> {
        loop {
            match self.inner.poll_event(context) {
                Poll::Ready(Some(event)) => {
                    if let Some(event) = self.read(event) {
                        return Poll::Ready(Some(event));
                    }
                }
                other => return other,
            }
        }
    }

    /// Waits for the next event; `None` once every sample has ended.
    pub fn next_blocking(&mut self) -> Option<TokenEvent> {
        loop {
            let event = self.inner.next_blocking()?;
            if let Some(event) = self.read(event) {
                return Some(event);
            }
        }
    }

    /// Waits for the next event for at most this long; `Pending` means that the time is up.
    pub fn next_within(&mut self, time: Duration) -> Poll<Option<TokenEvent>> {
        let begin = Instant::now();
        loop {
            match self.inner.next_within(time.saturating_sub(begin.elapsed())) {
                Poll::Ready(Some(event)) => {
                    if let Some(event) = self.read(event) {
                        return Poll::Ready(Some(event));
                    }
                }
                other => return other,
            }
        }
    }

    /// Counts an event on its way to the reader. `None` if the request was placed again instead.
    fn read(&mut self, mut event: TokenEvent) -> Option<TokenEvent> {
        if let Some(FinishReason::Failed(reason)) = &event.finish
            && self.shared.has_failed(self.engine)
        {
            if let Some(request) = self.request.take()
                && !self.cancelled.load(Ordering::Relaxed)
            {
                tracing::info!(
                    engine = self.engine,
                    "a request is placed again: its engine has failed"
                );
                match self.shared.clone().place(request, true) {
                    Ok(again) => {
                        *self = again;
                        return None;
                    }
                    Err(why) => tracing::warn!(%why, "no other engine takes the request"),
                }
            }
            let of = self.shared.engines.len();
            let reason = format!("engine {} of {of} has failed: {reason}", self.engine);
            event.finish = Some(FinishReason::Failed(reason.into()));
        }
        self.request = None;
        let sample = &mut self.samples[event.sample];
        if let (Some(token), Some(chain)) = (event.token, sample.as_mut())
            && let Some(block) = chain.push(token)
        {
            self.shared.loads().add_block(self.engine, block);
        }
        if event.finish.is_some() && sample.take().is_some() {
            self.shared.loads().end(self.engine, 1);
        }
        Some(event)
    }
}

impl Drop for PoolEvents {
    fn drop(&mut self) {
        let open = self.samples.iter().flatten().count();
        let mut loads = self.shared.loads();
        loads.end(self.engine, open);
        loads.end_prompt(self.engine, &self.prompt);
    }
}

impl Stream for PoolEvents {
    type Item = TokenEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<TokenEvent>> {
        self.get_mut().poll_event(context)
    }
}

impl IntoIterator for PoolEvents {
    type Item = TokenEvent;
    type IntoIter = BlockingPoolEvents;

    fn into_iter(self) -> BlockingPoolEvents {
        BlockingPoolEvents(self)
    }
}

/// Waits for each of a request's events; what [`PoolEvents`] turns into in a `for` loop. Dropping it cancels what is unfinished.
#[derive(Debug)]
pub struct BlockingPoolEvents(PoolEvents);

impl Iterator for BlockingPoolEvents {
    type Item = TokenEvent;

    fn next(&mut self) -> Option<TokenEvent> {
        self.0.next_blocking()
    }
}
