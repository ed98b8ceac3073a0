//! Responses in the background: they run without a connection, and clients can follow their events.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;

use super::object::Status;
use super::rounds::Rounds;
use super::writer::ItemWriter;
use crate::generation::Generation;
use crate::sse;
use crate::store::{BackgroundJob, TenantStore, text_of};

/// Idle time after which a comment is sent, so that proxies do not close the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Who follows a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// The connection that it runs for: the job ends with it.
    Owner,
    /// Anyone who knows its id.
    Guest,
}

/// Starts a response in the background and stores it.
pub(super) fn start(
    mut writer: ItemWriter,
    generation: Generation,
    rounds: Rounds,
    store: TenantStore<'_>,
) -> Arc<BackgroundJob> {
    let events = std::mem::take(writer.events());
    let job = BackgroundJob::new(writer.queued(), events);
    store.put_job(&writer.request.id, Arc::clone(&job), &writer.request.input);
    tokio::spawn(run(Arc::clone(&job), writer, generation, rounds));
    job
}

/// Starts a response that only the connection of its request follows, because its tools take their time between tokens.
pub(super) fn start_unstored(
    mut writer: ItemWriter,
    generation: Generation,
    rounds: Rounds,
) -> Arc<BackgroundJob> {
    let events = std::mem::take(writer.events());
    let job = BackgroundJob::new(writer.queued(), events);
    tokio::spawn(run(Arc::clone(&job), writer, generation, rounds));
    job
}

async fn run(
    job: Arc<BackgroundJob>,
    mut writer: ItemWriter,
    generation: Generation,
    rounds: Rounds,
) {
    let publish = |writer: &mut ItemWriter| {
        let mut events = std::mem::take(writer.events());
        job.publish(&mut events, writer.items(), || writer.response());
    };
    let cancelled = tokio::select! {
        biased;
        () = job.cancelled() => true,
        () = rounds.run(&mut writer, generation, publish) => false,
    };
    if cancelled && !writer.request.background {
        // Its only reader has left.
        return;
    }
    // A cancelled response stays cancelled, even if its last token came since.
    if job.settle() {
        writer.end(Status::Cancelled);
    }
    let response = writer.conclude();
    let context = text_of(&writer.context());
    job.finish(writer.events(), response, context);
}

/// A stream of a job's events, from this number on.
pub(super) fn follow(job: Arc<BackgroundJob>, from: usize, reader: Reader) -> Response {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        let (mut event_count, mut next) = (job.subscribe(), from);
        loop {
            let events = job.events_from(next);
            next = next.max(events.count);
            if !events.bytes.is_empty() && sender.send(events.bytes).await.is_err() {
                break;
            }
            if events.ended {
                return;
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
    sse::with_headers(Body::from_stream(Frames(receiver)))
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
