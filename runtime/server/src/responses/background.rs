//! Responses in the background: they run without a connection, and clients can follow their events.

use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;

use super::object::Status;
use super::writer::ItemWriter;
use crate::generation::Generation;
use crate::sse;
use crate::store::{BackgroundJob, TenantStore, text_of};

/// Starts a response in the background and stores it.
pub(super) fn start(
    mut writer: ItemWriter,
    generation: Generation,
    store: TenantStore<'_>,
) -> Arc<BackgroundJob> {
    let events = std::mem::take(writer.events());
    let job = BackgroundJob::new(writer.queued(), events);
    store.put_job(&writer.request.id, Arc::clone(&job), &writer.request.input);
    tokio::spawn(run(Arc::clone(&job), writer, generation));
    job
}

async fn run(job: Arc<BackgroundJob>, mut writer: ItemWriter, generation: Generation) {
    let read = |_, event| {
        let ended = writer.read(event);
        let mut events = std::mem::take(writer.events());
        job.publish(&mut events, writer.items(), || writer.response());
        Ok(ended)
    };
    tokio::select! {
        biased;
        () = job.cancelled() => {}
        // The engine holds the time limit, and a failure is an event that the writer reads.
        _ = generation.read_to_end(None, read) => {}
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
pub(super) fn follow(job: Arc<BackgroundJob>, from: usize) -> Response {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        let (mut event_count, mut next) = (job.subscribe(), from);
        loop {
            let events = job.events_from(next);
            next = next.max(events.count);
            if !events.bytes.is_empty() && sender.send(events.bytes).await.is_err() {
                return;
            }
            if events.ended {
                return;
            }
            tokio::select! {
                changed = event_count.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
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
