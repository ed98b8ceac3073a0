//! Server-sent events: a body that writes what a generation yields as it comes, keeps the line alive while nothing does,
//! and gives the generation's places back when the client goes away (the body is dropped then).

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_core::Stream;
use tokio::time::{Instant, Interval, Sleep, interval_at, sleep};

use crate::engine::Update;
use crate::error::ApiError;
use crate::generation::Generation;

/// Quiet time after which a comment keeps proxies from closing the connection.
const QUIET: Duration = Duration::from_secs(15);
/// Updates written as one frame, if they are there already.
const MOST_UPDATES: usize = 64;

/// What an update means for its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// More may come.
    GoOn,
    /// Its choice ends, though the engine would go on.
    EndChoice,
    /// The last event was written, whatever other choices would have.
    EndStream,
}

/// Turns updates into events.
pub(crate) trait Writer: Send + 'static {
    /// Before any update.
    fn begin(&mut self, out: &mut Vec<u8>);
    /// An update of a choice.
    fn update(&mut self, choice: usize, update: Update, out: &mut Vec<u8>) -> Then;
    /// After the last update.
    fn end(&mut self, out: &mut Vec<u8>);
    /// Instead of going on.
    fn fail(&mut self, error: ApiError, out: &mut Vec<u8>) {
        data(out, &error.body());
        done(out);
    }
}

/// A response whose body is written by `writer`.
pub(crate) fn response(
    generation: Generation,
    writer: impl Writer + Unpin,
    timeout: Option<Duration>,
) -> Response {
    let body = Events {
        generation: Some(generation),
        writer,
        begun: false,
        quiet: interval_at(Instant::now() + QUIET, QUIET),
        wrote: false,
        deadline: timeout.map(|timeout| (timeout, Box::pin(sleep(timeout)))),
    };
    raw(Body::from_stream(body))
}

/// A response with the headers of an event stream.
pub(crate) fn raw(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Appends `data: JSON` and the empty line.
pub(crate) fn data(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    out.extend_from_slice(b"data: ");
    // Our own types always serialise, and a vector takes all that is written.
    let _ = serde_json::to_writer(&mut *out, value);
    out.extend_from_slice(b"\n\n");
}

/// Appends what tells OpenAI's SDKs that a stream has ended.
pub(crate) fn done(out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: [DONE]\n\n");
}

struct Events<W> {
    generation: Option<Generation>,
    writer: W,
    begun: bool,
    quiet: Interval,
    /// Since the last tick.
    wrote: bool,
    deadline: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl<W: Writer + Unpin> Events<W> {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        let Some(generation) = &mut self.generation else { return Poll::Ready(None) };
        let mut out = Vec::new();
        if !self.begun {
            self.begun = true;
            self.writer.begin(&mut out);
        }
        let mut waiting = false;
        for _ in 0..MOST_UPDATES {
            match generation.poll(context) {
                Poll::Ready(Some((choice, update))) => {
                    match self.writer.update(choice, update, &mut out) {
                        Then::GoOn => {}
                        Then::EndChoice => generation.stop(choice),
                        Then::EndStream => {
                            self.generation = None;
                            return Poll::Ready(Some(out));
                        }
                    }
                }
                Poll::Ready(None) => {
                    self.writer.end(&mut out);
                    self.generation = None;
                    return Poll::Ready(Some(out));
                }
                Poll::Pending => {
                    waiting = true;
                    break;
                }
            }
        }
        if !out.is_empty() {
            self.wrote = true;
            return Poll::Ready(Some(out));
        }
        if !waiting {
            // More is there already; an empty frame is asked for again.
            return Poll::Ready(Some(out));
        }
        if let Some((limit, deadline)) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            self.writer.fail(ApiError::timed_out(limit.as_secs()), &mut out);
            self.generation = None;
            return Poll::Ready(Some(out));
        }
        while self.quiet.poll_tick(context).is_ready() {
            if !std::mem::take(&mut self.wrote) {
                return Poll::Ready(Some(b": keep-alive\n\n".to_vec()));
            }
        }
        Poll::Pending
    }
}

impl<W: Writer + Unpin> Stream for Events<W> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let this = self.get_mut();
        loop {
            return match this.poll_frame(context) {
                Poll::Ready(Some(frame)) if frame.is_empty() => continue,
                Poll::Ready(frame) => Poll::Ready(frame.map(|frame| Ok(Bytes::from(frame)))),
                Poll::Pending => Poll::Pending,
            };
        }
    }
}
