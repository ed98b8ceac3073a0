//! Server-sent events: a body that is written while the generation runs. It keeps an idle connection open with comments, and
//! cancels the generation when the client disconnects, because the body is dropped then.

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
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, Sleep, interval_at, sleep};

use crate::error::ApiError;
use crate::generation::{Generation, GenerationEvent};

/// Idle time after which a comment is sent, so that proxies do not close the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A comment, which readers of events pass over.
pub(crate) const KEEP_ALIVE_COMMENT: &[u8] = b": keep-alive\n\n";
/// The media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";
/// Most generation events that are written as one frame, if they are ready at once.
const MAX_EVENTS_PER_FRAME: usize = 64;

/// How a stream continues after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// More may come.
    Continue,
    /// The event's choice ends, even where the engine would go on.
    EndChoice,
    /// The stream ends for all choices; its last frame has been written.
    EndStream,
}

/// Writes the events of a generation as frames of a stream.
pub(crate) trait StreamWriter: Send + Unpin + 'static {
    /// Before any event.
    fn begin(&mut self, out: &mut Vec<u8>);
    /// An event of a choice.
    fn on_event(&mut self, choice: usize, event: GenerationEvent, out: &mut Vec<u8>) -> Flow;
    /// Whether the end takes long, as storing a long answer does: then it is written where it holds up nobody.
    fn ends_slowly(&self) -> bool {
        false
    }
    /// After the last event.
    fn end(&mut self, out: &mut Vec<u8>);
    /// The stream ends early with this error.
    fn fail(&mut self, error: ApiError, out: &mut Vec<u8>) {
        data(out, &error.body());
        done(out);
    }
    /// Something that clients pass over, on a connection that is idle.
    fn keep_alive(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(KEEP_ALIVE_COMMENT);
    }
    /// The media type of the body.
    fn content_type(&self) -> &'static str {
        EVENT_STREAM
    }
}

/// A response whose body `writer` writes.
pub(crate) fn response(
    generation: Generation,
    writer: impl StreamWriter,
    timeout: Option<Duration>,
) -> Response {
    let content_type = writer.content_type();
    let body = EventBody {
        generation: Some(generation),
        writer: Some(writer),
        ending: None,
        started: false,
        keep_alive: interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE),
        wrote: false,
        deadline: timeout.map(|timeout| (timeout, Box::pin(sleep(timeout)))),
    };
    stream_of(Body::from_stream(body), content_type)
}

/// A response with the headers of an event stream.
pub(crate) fn with_headers(body: Body) -> Response {
    stream_of(body, EVENT_STREAM)
}

fn stream_of(body: Body, content_type: &'static str) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Appends an event's line `data: JSON` and the empty line after it.
pub(crate) fn data(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    out.extend_from_slice(b"data: ");
    // Our own types always serialise, and writing to a vector cannot fail.
    let _ = serde_json::to_writer(&mut *out, value);
    out.extend_from_slice(b"\n\n");
}

/// Appends an event with a name of its own: `event: NAME`, `data: JSON`, an empty line.
pub(crate) fn named(out: &mut Vec<u8>, name: &str, value: &impl serde::Serialize) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    data(out, value);
}

/// Appends the line by which OpenAI's SDKs recognise the end of a stream.
pub(crate) fn done(out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: [DONE]\n\n");
}

struct EventBody<W> {
    generation: Option<Generation>,
    /// Until the end is written.
    writer: Option<W>,
    /// The last frame, where writing it takes long.
    ending: Option<JoinHandle<Vec<u8>>>,
    started: bool,
    keep_alive: Interval,
    /// Something was written since the last tick.
    wrote: bool,
    deadline: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl<W: StreamWriter> EventBody<W> {
    /// Ends the generation and has the end written after `out`. Returns the frame, or nothing where it comes later.
    fn finish(
        &mut self,
        mut out: Vec<u8>,
        end: impl FnOnce(&mut W, &mut Vec<u8>) + Send + 'static,
    ) -> Vec<u8> {
        self.generation = None;
        let Some(mut writer) = self.writer.take() else { return out };
        let slowly = writer.ends_slowly();
        let write = move || {
            end(&mut writer, &mut out);
            out
        };
        if !slowly {
            return write();
        }
        self.ending = Some(tokio::task::spawn_blocking(write));
        Vec::new()
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        if let Some(ending) = &mut self.ending {
            let last = std::task::ready!(Pin::new(ending).poll(context));
            self.ending = None;
            // After a panic, which is a bug and was logged, the stream just ends.
            return Poll::Ready(Some(last.unwrap_or_default()));
        }
        let (Some(generation), Some(writer)) = (&mut self.generation, &mut self.writer) else {
            return Poll::Ready(None);
        };
        let mut out = Vec::new();
        if !self.started {
            self.started = true;
            writer.begin(&mut out);
        }
        let mut waiting = false;
        for _ in 0..MAX_EVENTS_PER_FRAME {
            match generation.poll(context) {
                Poll::Ready(Some((choice, event))) => {
                    match writer.on_event(choice, event, &mut out) {
                        Flow::Continue => {}
                        Flow::EndChoice => generation.stop(choice),
                        Flow::EndStream => {
                            self.generation = None;
                            return Poll::Ready(Some(out));
                        }
                    }
                }
                Poll::Ready(None) => {
                    return Poll::Ready(Some(self.finish(out, W::end)));
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
            // More events are ready, so the caller polls again.
            return Poll::Ready(Some(out));
        }
        if let Some((limit, deadline)) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            let error = ApiError::timed_out(*limit);
            let fail = |writer: &mut W, out: &mut Vec<u8>| writer.fail(error, out);
            return Poll::Ready(Some(self.finish(out, fail)));
        }
        while self.keep_alive.poll_tick(context).is_ready() {
            if !std::mem::take(&mut self.wrote) {
                writer.keep_alive(&mut out);
                return Poll::Ready(Some(out));
            }
        }
        Poll::Pending
    }
}

impl<W: StreamWriter> Stream for EventBody<W> {
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

/// Bytes from a channel, as a body.
pub(crate) struct Frames(pub(crate) tokio::sync::mpsc::Receiver<Bytes>);

impl futures_core::Stream for Frames {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}
