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

/// Lines that run, in their order. They are given up when this is dropped.
pub(super) struct Running {
    handles: VecDeque<(String, JoinHandle<Option<LineResult>>)>,
    app: Arc<AppState>,
    handlers: Router,
    tenant: Tenant,
    permits: Arc<Semaphore>,
    most: usize,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handles.iter().for_each(|(_, run)| run.abort());
    }
}

impl Running {
    pub(super) fn new(app: Arc<AppState>, tenant: Tenant, at_a_time: usize) -> Running {
        let permits = Arc::new(Semaphore::new(at_a_time));
        let (handlers, most) = (handlers(Arc::clone(&app)), at_a_time * AHEAD);
        Running { handles: VecDeque::new(), app, handlers, tenant, permits, most }
    }

    /// Starts lines until as many run as may, or there are no more.
    pub(super) fn fill(
        &mut self,
        lines: &mut impl Iterator<Item = io::Result<BatchLine>>,
    ) -> io::Result<()> {
        while self.handles.len() < self.most {
            let Some(line) = lines.next() else { break };
            self.push(line?);
        }
        Ok(())
    }

    fn push(&mut self, line: BatchLine) {
        let BatchLine { custom_id: name, url, mut body } = line;
        body.entry("priority").or_insert(PRIORITY.into());
        // While it waits it is text, which takes a fraction of the memory.
        let body = Value::Object(body).to_string();
        let own_name = name.clone();
        let (app, handlers, tenant) = (Arc::clone(&self.app), self.handlers.clone(), self.tenant);
        let permits = Arc::clone(&self.permits);
        let run = tokio::spawn(async move {
            let _permit = permits.acquire_owned().await.ok()?;
            Some(run_line(app, handlers, tenant, own_name, url, body).await)
        });
        self.handles.push_back((name, run));
    }

    /// The result of the first line; none if no line runs.
    pub(super) async fn next(&mut self) -> Option<LineResult> {
        let (_, first) = self.handles.front_mut()?;
        let result = first.await;
        let (name, _) = self.handles.pop_front()?;
        // A task that panicked is a bug, and it was logged; the others go on.
        Some(result.ok().flatten().unwrap_or_else(|| {
            let error = ApiError::internal("the request ended without a result, which is a bug");
            let text = result_line(&name, "", error.status.as_u16(), &error.body().to_string());
            LineResult { status: error.status, text }
        }))
    }

    /// Gives up all lines, and returns their names.
    pub(super) fn give_up(&mut self) -> Vec<String> {
        let handles = std::mem::take(&mut self.handles);
        let given_up = |(name, run): (String, JoinHandle<_>)| {
            run.abort();
            name
        };
        handles.into_iter().map(given_up).collect()
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
        running.fill(&mut lines)?;
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
