//! Runs lines through the handlers of their routes: a bounded number at a time, with the results in the order of the lines.

use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use axum::routing::post;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use super::line::{BatchLine, LineError, Names, content_of, requests, result_line};
use crate::backend::GenerationBackend;
use crate::config::Config;
use crate::error::ApiError;
use crate::ids::{RequestId, new_id};
use crate::state::AppState;
use crate::tenant::Tenant;
use crate::{chat, completions, responses};

/// Lines that are read ahead of the first that has not ended, for each that runs.
const AHEAD: usize = 4;
/// Bytes of the lines that run or wait above which no further one is read.
const AHEAD_BYTES: usize = 16 << 20;
/// Time until a line is tried again where there was no room for it.
const RETRY: Duration = Duration::from_millis(200);
/// Where a request in a batch names no priority, it lets others pass.
const PRIORITY: i64 = 1;

/// How the lines of a batch ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchCounts {
    /// All lines.
    pub total: usize,
    /// Lines that were answered with 200.
    pub completed: usize,
    /// All others.
    pub failed: usize,
}

/// Why a batch was not run to its end.
#[derive(Debug)]
pub enum BatchError {
    /// A line is not a request; nothing was run.
    Line {
        /// Its number, from 1 on.
        number: usize,
        /// What is wrong with it.
        message: String,
    },
    /// The input cannot be read or the output not be written.
    Io(io::Error),
}

impl std::fmt::Display for BatchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BatchError::Line { number, message } => write!(f, "line {number}: {message}"),
            BatchError::Io(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for BatchError {}

impl From<io::Error> for BatchError {
    fn from(why: io::Error) -> BatchError {
        BatchError::Io(why)
    }
}

/// The handlers behind the routes that a line may call.
fn handlers(app: Arc<AppState>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/responses", post(responses::create))
        .with_state(app)
}

/// How a line ended, and the line that is written about it.
pub(super) struct LineResult {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

/// Runs one line as a request of a tenant, and again while the server has no room for it.
async fn run_line(
    app: Arc<AppState>,
    handlers: Router,
    tenant: Tenant,
    name: String,
    url: String,
    body: String,
) -> LineResult {
    loop {
        let id = new_id();
        let response = call(&handlers, tenant, &id, &url, body.clone()).await;
        let status = response.status();
        if response.headers().contains_key(header::RETRY_AFTER) && app.is_running() {
            tokio::time::sleep(RETRY).await;
            continue;
        }
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
        // An answer that is not streamed is JSON on one line, so the other case is not reached.
        let body = match std::str::from_utf8(&bytes) {
            Ok(body) if !body.is_empty() && !body.contains('\n') => body.to_owned(),
            _ => ApiError::internal("the answer is not JSON").body().to_string(),
        };
        let text = result_line(&name, &id, status.as_u16(), &body);
        return LineResult { status, text };
    }
}

async fn call(handlers: &Router, tenant: Tenant, id: &str, url: &str, body: String) -> Response {
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = Method::POST;
    // It is one of a few constants.
    *request.uri_mut() = url.parse().unwrap_or_default();
    let extensions = request.extensions_mut();
    extensions.insert(RequestId(id.to_owned()));
    extensions.insert(tenant);
    let Ok(response) = handlers.clone().oneshot(request).await;
    response
}

/// A line whose request is text again, which takes a fraction of the memory while it waits.
pub(super) struct ReadyLine {
    name: String,
    url: String,
    body: String,
}

impl ReadyLine {
    fn new(line: BatchLine) -> ReadyLine {
        let BatchLine { custom_id: name, url, mut body } = line;
        body.entry("priority").or_insert(PRIORITY.into());
        ReadyLine { name, url, body: Value::Object(body).to_string() }
    }
}

/// How much more of a batch may be read now.
#[derive(Clone, Copy)]
pub(super) struct ReadAhead {
    lines: usize,
    bytes: usize,
}

impl ReadAhead {
    pub(super) fn is_empty(self) -> bool {
        self.lines == 0 || self.bytes == 0
    }

    /// The next lines of a batch, at least one if there are more. Reading takes as long as the disk and the JSON of long lines
    /// do.
    pub(super) fn read(
        self,
        lines: &mut impl Iterator<Item = io::Result<BatchLine>>,
    ) -> io::Result<Vec<ReadyLine>> {
        let (mut ready, mut bytes) = (Vec::new(), 0);
        while ready.len() < self.lines && bytes < self.bytes {
            let Some(line) = lines.next() else { break };
            let line = ReadyLine::new(line?);
            bytes += line.body.len();
            ready.push(line);
        }
        Ok(ready)
    }
}

/// A line that runs.
struct Run {
    name: String,
    bytes: usize,
    handle: JoinHandle<Option<LineResult>>,
}

/// Lines that run, in their order. They are given up when this is dropped.
pub(super) struct Running {
    runs: VecDeque<Run>,
    app: Arc<AppState>,
    handlers: Router,
    tenant: Tenant,
    permits: Arc<Semaphore>,
    most: usize,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.runs.iter().for_each(|run| run.handle.abort());
    }
}

impl Running {
    pub(super) fn new(app: Arc<AppState>, tenant: Tenant, at_a_time: usize) -> Running {
        let permits = Arc::new(Semaphore::new(at_a_time));
        let (handlers, most) = (handlers(Arc::clone(&app)), at_a_time * AHEAD);
        Running { runs: VecDeque::new(), app, handlers, tenant, permits, most }
    }

    /// What may be read ahead now.
    pub(super) fn ahead(&self) -> ReadAhead {
        let bytes = self.runs.iter().map(|run| run.bytes).sum();
        let lines = self.most.saturating_sub(self.runs.len());
        ReadAhead { lines, bytes: AHEAD_BYTES.saturating_sub(bytes) }
    }

    /// Starts lines.
    pub(super) fn start(&mut self, lines: Vec<ReadyLine>) {
        for ReadyLine { name, url, body } in lines {
            let (own_name, bytes) = (name.clone(), body.len());
            let (app, handlers) = (Arc::clone(&self.app), self.handlers.clone());
            let (tenant, permits) = (self.tenant, Arc::clone(&self.permits));
            let handle = tokio::spawn(async move {
                let _permit = permits.acquire_owned().await.ok()?;
                Some(run_line(app, handlers, tenant, own_name, url, body).await)
            });
            self.runs.push_back(Run { name, bytes, handle });
        }
    }

    /// The result of the first line; none if no line runs.
    pub(super) async fn next(&mut self) -> Option<LineResult> {
        let first = &mut self.runs.front_mut()?.handle;
        let result = first.await;
        let Run { name, .. } = self.runs.pop_front()?;
        // A task that panicked is a bug, and it was logged; the others go on.
        Some(result.ok().flatten().unwrap_or_else(|| {
            let error = ApiError::internal("the request ended without a result, which is a bug");
            let text = result_line(&name, "", error.status.as_u16(), &error.body().to_string());
            LineResult { status: error.status, text }
        }))
    }

    /// Gives up all lines, and returns their names.
    pub(super) fn give_up(&mut self) -> Vec<String> {
        let given_up = |run: Run| {
            run.handle.abort();
            run.name
        };
        std::mem::take(&mut self.runs).into_iter().map(given_up).collect()
    }
}

/// Checks every line of an input before any is run.
///
/// # Errors
/// The first line that is not a request, or the input cannot be read.
fn check(input: &mut impl BufRead) -> Result<usize, BatchError> {
    let (mut names, mut count) = (Names::default(), 0);
    for (index, line) in input.lines().enumerate() {
        let line = line?;
        let Some(text) = content_of(&line) else { continue };
        BatchLine::read(text, None, &mut names).map_err(|why| {
            let LineError { message, .. } = why;
            BatchError::Line { number: index + 1, message }
        })?;
        count += 1;
    }
    Ok(count)
}

/// Runs every line of an input and writes a line for each, in their order: `at_a_time` together. The input is opened twice,
/// because all of it is checked before anything is run. `progress` gets the counts after each line.
///
/// # Errors
/// A line is not a request, or the input cannot be read, or the output not be written.
pub async fn run_batch<R: BufRead>(
    config: Config,
    backend: Arc<dyn GenerationBackend>,
    open: impl Fn() -> io::Result<R>,
    mut output: impl Write,
    at_a_time: usize,
    mut progress: impl FnMut(BatchCounts),
) -> Result<BatchCounts, BatchError> {
    let mut counts = BatchCounts { total: check(&mut open()?)?, ..BatchCounts::default() };
    let app = AppState::new(config, Arc::clone(&backend));
    let mut running = Running::new(app, Tenant::ONLY, at_a_time.max(1));
    let mut lines = requests(open()?.lines(), None);
    loop {
        // Nobody else is served here.
        running.start(running.ahead().read(&mut lines)?);
        let Some(result) = running.next().await else { break };
        match result.status {
            StatusCode::OK => counts.completed += 1,
            _ => counts.failed += 1,
        }
        writeln!(output, "{}", result.text)?;
        progress(counts);
    }
    output.flush()?;
    backend.stop();
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn long_lines_are_not_read_far_ahead() {
        let line = |bytes: usize| -> io::Result<BatchLine> {
            let body = Map::from_iter([("prompt".to_owned(), json!("x".repeat(bytes)))]);
            Ok(BatchLine { custom_id: "a".to_owned(), url: "/v1/completions".to_owned(), body })
        };
        let ahead = ReadAhead { lines: 32, bytes: AHEAD_BYTES };
        for (bytes, want) in
            [(10, 32), (AHEAD_BYTES / 4, 4), (AHEAD_BYTES, 1), (2 * AHEAD_BYTES, 1)]
        {
            let mut lines = std::iter::repeat_with(|| line(bytes)).take(100);
            assert_eq!(ahead.read(&mut lines).expect("lines").len(), want, "{bytes} bytes");
        }
        let none = ReadAhead { bytes: 0, ..ahead };
        assert!(none.is_empty() && none.read(&mut [line(1)].into_iter()).expect("none").is_empty());
        let unreadable = || Err(io::Error::other("a disk"));
        assert!(ahead.read(&mut [line(1), unreadable()].into_iter()).is_err());
    }
}
