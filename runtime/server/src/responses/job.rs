//! A response in the background: it goes on without a connection, keeps its events for whoever wants to follow, and can be
//! cancelled.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use super::events::EventLog;
use super::object::Status;
use super::store::{Store, Text, text_of};
use super::teller::Teller;
use crate::generation::Generation;
use crate::sse;

#[derive(Debug)]
struct State {
    response: Value,
    /// Items that the response shows; none while it is queued.
    items: Option<usize>,
    events: EventLog,
    /// It was cancelled or has ended, so it cannot be cancelled any more.
    settled: bool,
    /// Everything said, once its last event is.
    context: Option<Text>,
}

/// One such response.
#[derive(Debug)]
pub(crate) struct Job {
    state: Mutex<State>,
    /// Events so far.
    news: watch::Sender<usize>,
    stop: Notify,
}

impl Job {
    /// Starts it and puts it into the store.
    pub(super) fn start(mut teller: Teller, generation: Generation, store: &Store) -> Arc<Job> {
        let (news, _) = watch::channel(0);
        let events = std::mem::take(teller.events());
        let response = teller.queued();
        let state = State { response, items: None, events, settled: false, context: None };
        let job = Arc::new(Job { state: Mutex::new(state), news, stop: Notify::new() });
        store.put_job(&teller.request.id, Arc::clone(&job), &teller.request.input);
        tokio::spawn(Arc::clone(&job).run(teller, generation));
        job
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Job>, mut teller: Teller, mut generation: Generation) {
        loop {
            let update = tokio::select! {
                biased;
                () = self.stop.notified() => break,
                update = generation.next() => update,
            };
            let Some((_, update)) = update else { break };
            if teller.take(update) {
                generation.stop(0);
            }
            self.tell(&mut teller);
        }
        drop(generation);
        self.conclude(teller);
    }

    fn tell(&self, teller: &mut Teller) {
        let count = {
            let mut state = self.lock();
            state.events.append(teller.events());
            if !state.settled && state.items != Some(teller.items()) {
                state.items = Some(teller.items());
                state.response = teller.response();
            }
            state.events.len()
        };
        self.news.send_replace(count);
    }

    /// Says its last event. Who cancelled it was told so already, whatever has come since.
    fn conclude(&self, mut teller: Teller) {
        let cancelled = std::mem::replace(&mut self.lock().settled, true);
        if cancelled {
            teller.end(Status::Cancelled);
        }
        let response = teller.conclude();
        let count = {
            let mut state = self.lock();
            state.events.append(teller.events());
            state.response = response;
            state.context = Some(text_of(&teller.context()));
            state.events.len()
        };
        self.news.send_replace(count);
    }

    pub(super) fn response(&self) -> Value {
        self.lock().response.clone()
    }

    pub(super) fn context(&self) -> Option<Text> {
        self.lock().context.clone()
    }

    /// What it takes, roughly: its events say all that the response does.
    pub(super) fn bytes(&self) -> usize {
        let state = self.lock();
        2 * state.events.bytes() + state.context.as_ref().map_or(0, |context| context.len())
    }

    /// Stops it; the cancelled response, or none if it had ended.
    pub(super) fn cancel(&self) -> Option<Value> {
        let response = {
            let mut state = self.lock();
            if std::mem::replace(&mut state.settled, true) {
                return None;
            }
            state.response["status"] = "cancelled".into();
            state.response.clone()
        };
        self.stop.notify_one();
        Some(response)
    }

    /// Events from this one on, how many there are in all, and whether there will be no more.
    fn events_from(&self, from: usize) -> (Bytes, usize, bool) {
        let state = self.lock();
        let over = state.context.is_some();
        (Bytes::copy_from_slice(state.events.from(from)), state.events.len(), over)
    }
}

/// A stream of a job's events, from this number on.
pub(super) fn follow(job: Arc<Job>, from: usize) -> Response {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        let (mut news, mut next) = (job.news.subscribe(), from);
        loop {
            let (events, count, over) = job.events_from(next);
            next = next.max(count);
            if !events.is_empty() && sender.send(events).await.is_err() {
                return;
            }
            if over {
                return;
            }
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    });
    sse::raw(Body::from_stream(Frames(receiver)))
}

struct Frames(tokio::sync::mpsc::Receiver<Bytes>);

impl futures_core::Stream for Frames {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}
