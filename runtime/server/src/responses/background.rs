//! Responses in the background: they run without a connection, and clients can follow their events.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};

use super::object::Status;
use super::rounds::Rounds;
use super::writer::ItemWriter;
use crate::alive::{Alive, keep_alive};
use crate::clock;
use crate::error::{ApiError, Result};
use crate::extract::aside;
use crate::generation::Generation;
use crate::sse;
use crate::state::AppState;
use crate::store::{BackgroundJob, Entry, Follows, text_of, values_of};
use crate::tenant::Tenant;

/// How long another process may take to cancel a response, and how often its state is read until then.
const CANCEL_TIME: Duration = Duration::from_secs(10);
const CANCEL_INTERVAL: Duration = Duration::from_millis(100);

/// Idle time after which a comment is sent, so that proxies do not close the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Bytes of events that the one reader of a stream may leave unread, besides those that it begins with: what a tool returns
/// comes at once.
const MAX_UNREAD_BYTES: usize = 4 << 20;

/// Who follows a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// The connection that it runs for: the job ends with it.
    Owner,
    /// Anyone who knows its id.
    Guest,
}

/// Starts a response in the background and stores it. Returns its job, and the response as it was queued: a short one may
/// have ended before its client is answered.
pub(super) fn start(
    mut writer: ItemWriter,
    generation: Generation,
    rounds: Rounds,
    app: Arc<AppState>,
    tenant: Tenant,
) -> Result<(Arc<BackgroundJob>, Value)> {
    let events = std::mem::take(writer.events());
    let queued = writer.queued();
    let job = BackgroundJob::new(queued.clone(), events);
    let id = writer.request.id.clone();
    let watched = Arc::clone(&job);
    let cancel = move || drop(watched.cancel());
    let alive = keep_alive(&app, tenant, id.clone(), cancel)?;
    app.store.of(tenant).put_job(&id, Arc::clone(&job), &values_of(&writer.request.input))?;
    let stored = Some(StoredJob { app, tenant, _alive: alive });
    tokio::spawn(run(Arc::clone(&job), writer, generation, rounds, stored));
    Ok((job, queued))
}

/// Starts a response that only the connection of its request follows, because its tools take their time between tokens.
pub(super) fn start_unstored(
    mut writer: ItemWriter,
    generation: Generation,
    rounds: Rounds,
) -> Arc<BackgroundJob> {
    let events = std::mem::take(writer.events());
    let job = BackgroundJob::new(writer.queued(), events);
    tokio::spawn(run(Arc::clone(&job), writer, generation, rounds, None));
    job
}

/// What stores a response in the background, and tells other servers that it runs.
struct StoredJob {
    app: Arc<AppState>,
    tenant: Tenant,
    /// Until the response has ended.
    _alive: Alive,
}

/// A stored response as it is now. One whose server is gone will not end, so it has failed.
pub(super) fn state(app: &AppState, tenant: Tenant, id: &str, entry: &Entry) -> Result<String> {
    if !entry.is_elsewhere() || app.store.of(tenant).is_alive(id)? {
        return Ok(entry.response());
    }
    let mut response: Value = serde_json::from_str(&entry.response()).unwrap_or_default();
    response["status"] = "failed".into();
    response["error"] =
        json!({"code": "server_error", "message": "the server that ran it is gone"});
    Ok(response.to_string())
}

/// Has another process cancel a response, and waits until it has. Returns the response.
pub(super) async fn cancel_elsewhere(app: &AppState, tenant: Tenant, id: &str) -> Result<String> {
    let store = app.store.of(tenant);
    store.request_cancel(id)?;
    let begin = clock::now();
    while clock::since(begin) < CANCEL_TIME {
        tokio::time::sleep(CANCEL_INTERVAL).await;
        let entry = store.get(id)?.ok_or_else(|| super::missing(id))?;
        if !entry.is_elsewhere() || !store.is_alive(id)? {
            return state(app, tenant, id, &entry);
        }
    }
    Err(ApiError::unavailable(
        "the server that runs the response has not cancelled it yet; try again",
    ))
}

async fn run(
    job: Arc<BackgroundJob>,
    mut writer: ItemWriter,
    generation: Generation,
    rounds: Rounds,
    stored: Option<StoredJob>,
) {
    // Of a stored response all events are kept, and count as its bytes.
    let most = match stored {
        Some(_) => usize::MAX,
        None => job.kept_bytes() + MAX_UNREAD_BYTES,
    };
    let mut is_unread = false;
    let publish = |writer: &mut ItemWriter| {
        let mut events = std::mem::take(writer.events());
        job.publish(&mut events, writer.items(), || writer.response());
        if !is_unread && job.kept_bytes() > most {
            is_unread = true;
            job.cancel();
        }
    };
    let cancelled = tokio::select! {
        biased;
        () = job.cancelled() => true,
        () = rounds.run(&mut writer, generation, publish) => false,
    };
    if cancelled && !writer.request.background && !is_unread {
        // Its only reader has left.
        return;
    }
    let end = move || {
        // A cancelled response stays cancelled, even if its last token came since.
        if job.settle() {
            writer.end(match is_unread {
                true => Status::Failed(ApiError::unavailable(
                    "the client left too much of its stream unread",
                )),
                false => Status::Cancelled,
            });
        }
        let response = writer.conclude();
        let context = writer.context();
        if let Some(StoredJob { app, tenant, .. }) = &stored
            && app.store.is_shared()
        {
            let (store, request) = (app.store.of(*tenant), &writer.request);
            // One that was deleted meanwhile stays so. Of a failure there is a line in the log.
            if let Ok(Some(_)) = store.get(&request.id) {
                let _ = store.put(&request.id, &response, &values_of(&request.input), &context);
            }
        }
        job.finish(writer.events(), response, text_of(&context));
    };
    // A panic is a bug, and was logged.
    let _ = aside(end).await;
}

/// A stream of a job's events, from this number on.
pub(super) fn follow(job: Arc<BackgroundJob>, from: usize, reader: Reader) -> Response {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        let (mut event_count, mut next) = (job.subscribe(), from);
        loop {
            let events = job.events_from(next);
            next = events.next;
            if !events.bytes.is_empty() && sender.send(events.bytes).await.is_err() {
                break;
            }
            if reader == Reader::Owner {
                job.forget_before(next);
            }
            match events.follows {
                Follows::Nothing => return,
                Follows::More => continue,
                Follows::Later => {}
            }
            let keep_alive = Bytes::from_static(sse::KEEP_ALIVE_COMMENT);
            tokio::select! {
                changed = event_count.changed() => if changed.is_err() { return },
                () = sender.closed() => break,
                () = tokio::time::sleep(KEEP_ALIVE) => {
                    if sender.send(keep_alive).await.is_err() {
                        break;
                    }
                }
            }
        }
        if reader == Reader::Owner {
            job.cancel();
        }
    });
    sse::with_headers(Body::from_stream(sse::Frames(receiver)))
}
