//! A response that runs in the background, as the store and its readers see it: its state so far, its events, and whether
//! it is to be cancelled. What runs it is in `responses`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use super::JsonText;
use super::event_log::{EventLog, SharedLog};

#[derive(Debug)]
struct State {
    response: Value,
    /// Items that the response shows; none while it is queued.
    items: Option<usize>,
    events: SharedLog,
    /// It was cancelled or has ended, so it cannot be cancelled any more.
    settled: bool,
    /// The whole conversation, once the last event is there.
    context: Option<JsonText>,
}

/// A response that runs in the background.
#[derive(Debug)]
pub(crate) struct BackgroundJob {
    state: Mutex<State>,
    /// The number of events.
    event_count: watch::Sender<usize>,
    cancelled: Notify,
}

/// The events of a job from some event on.
#[derive(Debug)]
pub(crate) struct EventsFrom {
    pub(crate) bytes: Bytes,
    /// The event after them.
    pub(crate) next: usize,
    pub(crate) follows: Follows,
}

/// What follows some events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    /// More events are there already.
    More,
    /// More may come.
    Later,
    /// They were the last.
    Nothing,
}

impl BackgroundJob {
    /// A job that is queued, with its first events.
    pub(crate) fn new(response: Value, mut first: EventLog) -> Arc<BackgroundJob> {
        let mut events = SharedLog::default();
        events.append(&mut first);
        let state = State { response, items: None, events, settled: false, context: None };
        let (event_count, _) = watch::channel(0);
        Arc::new(BackgroundJob { state: Mutex::new(state), event_count, cancelled: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the job is to be cancelled.
    pub(crate) async fn cancelled(&self) {
        self.cancelled.notified().await;
    }

    /// Adds events. `response` is only called where it shows more items than before.
    pub(crate) fn publish(
        &self,
        events: &mut EventLog,
        items: usize,
        response: impl FnOnce() -> Value,
    ) {
        let count = {
            let mut state = self.lock();
            state.events.append(events);
            if !state.settled && state.items != Some(items) {
                state.items = Some(items);
                state.response = response();
            }
            state.events.len()
        };
        self.event_count.send_replace(count);
    }

    /// From now on the job cannot be cancelled. True if it was cancelled before.
    pub(crate) fn settle(&self) -> bool {
        std::mem::replace(&mut self.lock().settled, true)
    }

    /// Adds the last events and the final response.
    pub(crate) fn finish(&self, events: &mut EventLog, response: Value, context: JsonText) {
        let count = {
            let mut state = self.lock();
            state.events.append(events);
            state.response = response;
            state.context = Some(context);
            state.events.len()
        };
        self.event_count.send_replace(count);
    }

    /// The response as it is now.
    pub(crate) fn response(&self) -> Value {
        self.lock().response.clone()
    }

    pub(super) fn context(&self) -> Option<JsonText> {
        self.lock().context.clone()
    }

    /// The bytes that it takes, roughly: its events hold all that the response does.
    pub(super) fn bytes(&self) -> usize {
        let state = self.lock();
        2 * state.events.bytes() + state.context.as_ref().map_or(0, |context| context.len())
    }

    /// Cancels it. Returns the cancelled response, or none if it has ended already.
    pub(crate) fn cancel(&self) -> Option<Value> {
        let response = {
            let mut state = self.lock();
            if std::mem::replace(&mut state.settled, true) {
                return None;
            }
            state.response["status"] = "cancelled".into();
            state.response.clone()
        };
        self.cancelled.notify_one();
        Some(response)
    }

    /// Some events from this one on.
    pub(crate) fn events_from(&self, from: usize) -> EventsFrom {
        let state = self.lock();
        let (bytes, next) = state.events.from(from);
        let follows = match state.context {
            _ if next < state.events.len() => Follows::More,
            None => Follows::Later,
            Some(_) => Follows::Nothing,
        };
        EventsFrom { bytes, next, follows }
    }

    /// Frees most of the events before this one, where nobody will read them again.
    pub(crate) fn forget_before(&self, event: usize) {
        self.lock().events.forget_before(event);
    }

    /// Bytes of the events that are kept.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.lock().events.bytes()
    }

    /// Tells when there are more events.
    pub(crate) fn subscribe(&self) -> watch::Receiver<usize> {
        self.event_count.subscribe()
    }
}
