//! A batch that a client has started: its lines are checked, run and written to files, while its object in the store tells how far it
//! is. Whoever can reach the store can cancel it, by the status there.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::line::{BatchLine, Names, content_of, requests, unrun_line};
use super::runner::{BatchCounts, Running};
use crate::clock;
use crate::error::{ApiError, Result};
use crate::extract::aside;
use crate::files::{Files, NewFile};
use crate::ids::unix_seconds;
use crate::state::AppState;
use crate::tenant::Tenant;
use crate::tenant_slots::TenantSlot;

/// Lines of a batch.
const MAX_LINES: usize = 50_000;
/// Errors of lines that a batch lists.
const MAX_ERRORS: usize = 100;
/// Lines of one batch that run at a time.
const LINES_AT_A_TIME: usize = 8;
/// Lines of a batch that ends early for which results are written at a time.
const UNRUN_AT_A_TIME: usize = 1000;
/// How often the object in the store is read and written.
const REPORT: Duration = Duration::from_millis(500);

/// What runs a batch.
pub(super) struct Job {
    pub(super) app: Arc<AppState>,
    pub(super) files: Files,
    pub(super) tenant: Tenant,
    pub(super) id: String,
    pub(super) endpoint: String,
    /// The file with its lines.
    pub(super) input: PathBuf,
    /// When its time is over, in seconds since 1970.
    pub(super) expires: u64,
}

/// Why a batch ends before its last line.
enum Cut {
    Cancelled,
    Expired,
    Stopped,
}

/// A file of results, which is made with its first line. The disk may take its time, which nobody else waits for.
struct Results {
    files: Files,
    tenant: Tenant,
    file: Option<(NewFile, BufWriter<File>)>,
}

fn unwritable(why: &io::Error) -> ApiError {
    tracing::error!(%why, "the results of a batch cannot be written");
    ApiError::internal("the server cannot write the results of the batch")
}

impl Results {
    fn new(job: &Job) -> Results {
        Results { files: job.files.clone(), tenant: job.tenant, file: None }
    }

    async fn write(&mut self, lines: Vec<String>) -> Result<()> {
        let (files, tenant, file) = (self.files.clone(), self.tenant, self.file.take());
        let write = move || {
            let mut file = file;
            let written = append(&files, tenant, &mut file, &lines);
            (file, written)
        };
        let (file, written) = aside(write).await?;
        self.file = file;
        written
    }

    /// Keeps the file, if there is one. Returns its id.
    async fn keep(self, job: &Job, kind: &str) -> Result<Option<String>> {
        let Results { files, file, .. } = self;
        let Some((file, mut out)) = file else { return Ok(None) };
        let name = format!("{}_{kind}.jsonl", job.id);
        let keep = move || {
            let flushed = out.flush().map_err(|why| unwritable(&why));
            drop(out);
            flushed.and_then(|()| files.keep(file, &name, "batch_output", None))
        };
        let kept = aside(keep).await??;
        Ok(kept["id"].as_str().map(str::to_owned))
    }
}

fn append(
    files: &Files,
    tenant: Tenant,
    file: &mut Option<(NewFile, BufWriter<File>)>,
    lines: &[String],
) -> Result<()> {
    let failed = |why: io::Error| unwritable(&why);
    for line in lines {
        if file.is_none() {
            let new = files.create(tenant)?;
            let out = BufWriter::new(File::create(&new.path).map_err(failed)?);
            *file = Some((new, out));
        }
        let Some((file, out)) = file else { continue };
        file.claim(line.len() as u64 + 1)?;
        writeln!(out, "{line}").map_err(failed)?;
    }
    Ok(())
}

impl Job {
    /// Runs the batch to its end, whatever that is.
    pub(super) async fn run(self) {
        let mut counts = BatchCounts::default();
        let (mut output, mut errors) = (Results::new(&self), Results::new(&self));
        let (_slot, outcome) = match self.place().await {
            Err(cut) => (None, Ok(Some(cut))),
            Ok(slot) => {
                counts.total = match self.check().await {
                    Ok(total) => total,
                    Err(errors) => return self.fail(errors),
                };
                self.update(|batch: &mut Value| {
                    if batch["status"] == "validating" {
                        batch["status"] = "in_progress".into();
                        batch["in_progress_at"] = unix_seconds().into();
                    }
                    batch["request_counts"] = counts_json(counts);
                });
                (Some(slot), self.run_lines(&mut counts, &mut output, &mut errors).await)
            }
        };
        let (status, stamp, failure) = match outcome {
            Ok(None) => ("completed", "completed_at", None),
            Ok(Some(Cut::Cancelled)) => ("cancelled", "cancelled_at", None),
            Ok(Some(Cut::Expired)) => ("expired", "expired_at", None),
            Ok(Some(Cut::Stopped)) => {
                ("failed", "failed_at", Some("the server has stopped".to_owned()))
            }
            Err(why) => ("failed", "failed_at", Some(why.message)),
        };
        self.update(|batch: &mut Value| {
            if status == "completed" {
                batch["finalizing_at"] = unix_seconds().into();
            }
        });
        let output = output.keep(&self, "output").await;
        let errors = errors.keep(&self, "errors").await;
        // A batch whose results are lost is not completed.
        let (status, stamp, failure) = match output.as_ref().err().or(errors.as_ref().err()) {
            Some(why) => ("failed", "failed_at", Some(why.message.clone())),
            None => (status, stamp, failure),
        };
        let (output, errors) = (output.ok().flatten(), errors.ok().flatten());
        self.update(|batch: &mut Value| {
            batch["status"] = status.into();
            batch[stamp] = unix_seconds().into();
            batch["output_file_id"] = output.clone().into();
            batch["error_file_id"] = errors.clone().into();
            batch["request_counts"] = counts_json(counts);
            if let Some(why) = &failure {
                batch["errors"] = json!({"object": "list", "data": [error(why)]});
            }
        });
    }

    /// Waits for a place to run in. One that has to end meanwhile has been neither checked nor run.
    async fn place(&self) -> std::result::Result<TenantSlot, Cut> {
        let mut place = pin!(self.app.batches.running.acquire(self.tenant));
        let mut ticks = tokio::time::interval(REPORT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                place = &mut place => return place.map_err(|_| Cut::Stopped),
                _ = ticks.tick() => {
                    if let Some(cut) = self.report(BatchCounts::default()) {
                        return Err(cut);
                    }
                }
            }
        }
    }

    /// The number of its lines, or what is wrong with them.
    async fn check(&self) -> std::result::Result<usize, Vec<Value>> {
        let (input, endpoint) = (self.input.clone(), self.endpoint.clone());
        let most_bytes = self.app.config.body_bytes;
        let checked = aside(move || check(&input, &endpoint, most_bytes)).await;
        checked.unwrap_or_else(|_| Err(vec![error("the batch could not be read")]))
    }

    async fn run_lines(
        &self,
        counts: &mut BatchCounts,
        output: &mut Results,
        errors: &mut Results,
    ) -> Result<Option<Cut>> {
        let unreadable = |why: io::Error| {
            tracing::error!(%why, "the input of a batch cannot be read");
            ApiError::internal("the server cannot read the input of the batch")
        };
        let mut running = Running::new(Arc::clone(&self.app), self.tenant, LINES_AT_A_TIME);
        let (input, endpoint) = (self.input.clone(), self.endpoint.clone());
        let open = move || {
            let lines = BufReader::new(File::open(&input)?).lines();
            Ok(requests(lines, Some(endpoint)))
        };
        let mut requests = aside(open).await?.map_err(unreadable)?;
        let mut reported = clock::now();
        let mut ticks = tokio::time::interval(REPORT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ahead = running.ahead();
            if !ahead.is_empty() {
                let read = move || (ahead.read(&mut requests), requests);
                let (lines, rest) = aside(read).await?;
                running.start(lines.map_err(unreadable)?);
                requests = rest;
            }
            let result = tokio::select! {
                biased;
                result = running.next() => result.map(Some),
                _ = ticks.tick() => Some(None),
            };
            match result {
                None => return Ok(None),
                Some(Some(result)) if result.status == StatusCode::OK => {
                    counts.completed += 1;
                    output.write(vec![result.text]).await?;
                }
                Some(Some(result)) => {
                    counts.failed += 1;
                    errors.write(vec![result.text]).await?;
                }
                Some(None) => {}
            }
            if clock::since(reported) < REPORT {
                continue;
            }
            reported = clock::now();
            let Some(cut) = self.report(*counts) else { continue };
            let (code, why) = match cut {
                Cut::Cancelled => {
                    ("batch_cancelled", "the batch was cancelled before this request was done")
                }
                Cut::Expired => {
                    ("batch_expired", "the batch's time was over before this request was done")
                }
                Cut::Stopped => {
                    ("server_stopped", "the server stopped before this request was done")
                }
            };
            let unrun = |name: &str| unrun_line(name, code, why);
            errors.write(running.give_up().iter().map(|name| unrun(name)).collect()).await?;
            loop {
                let read = move || {
                    let some = requests.by_ref().take(UNRUN_AT_A_TIME);
                    let names = some.map(|line| line.map(|line| line.custom_id)).collect();
                    (names, requests)
                };
                let (names, rest): (io::Result<Vec<String>>, _) = aside(read).await?;
                let names = names.map_err(unreadable)?;
                if names.is_empty() {
                    return Ok(Some(cut));
                }
                errors.write(names.iter().map(|name| unrun(name)).collect()).await?;
                requests = rest;
            }
        }
    }

    /// Writes the counts to the store. Returns why the batch has to end, if it has.
    fn report(&self, counts: BatchCounts) -> Option<Cut> {
        let batch = self.update(|batch: &mut Value| batch["request_counts"] = counts_json(counts));
        match batch {
            // It is in the store no more, so nobody can read its results.
            None => Some(Cut::Cancelled),
            Some(batch) if batch["status"] == "cancelling" => Some(Cut::Cancelled),
            Some(_) if unix_seconds() >= self.expires => Some(Cut::Expired),
            Some(_) if !self.app.is_running() => Some(Cut::Stopped),
            Some(_) => None,
        }
    }

    /// Changes the object in the store, and returns it.
    fn update(&self, change: impl Fn(&mut Value)) -> Option<Value> {
        let store = self.app.store.of(self.tenant);
        // Where the store cannot be reached, the next report tells more.
        let entry = store.update(&self.id, |batch: &mut Value, _: &mut Vec<Value>| {
            change(batch);
            Ok(())
        });
        let Ok(Some(entry)) = entry else { return entry.is_err().then(|| json!({})) };
        serde_json::from_str(&entry.response()).ok()
    }

    fn fail(&self, errors: Vec<Value>) {
        self.update(|batch: &mut Value| {
            batch["status"] = "failed".into();
            batch["failed_at"] = unix_seconds().into();
            batch["errors"] = json!({"object": "list", "data": errors.clone()});
        });
    }
}

fn counts_json(counts: BatchCounts) -> Value {
    json!({"total": counts.total, "completed": counts.completed, "failed": counts.failed})
}

/// An error of a batch as a whole.
pub(super) fn error(message: &str) -> Value {
    json!({"code": "batch_failed", "line": null, "message": message, "param": null})
}

/// The number of lines, or what is wrong with them. A line has at most the bytes of a request's body, because its JSON takes
/// many times as much memory.
fn check(
    input: &Path,
    endpoint: &str,
    most_bytes: usize,
) -> std::result::Result<usize, Vec<Value>> {
    let file = File::open(input).map_err(|_| vec![error("the input file is gone")])?;
    let (mut names, mut count, mut errors) = (Names::default(), 0, Vec::new());
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let Ok(line) = line else {
            errors.push(error("the input file is not UTF-8"));
            break;
        };
        let Some(text) = content_of(&line) else { continue };
        count += 1;
        if text.len() > most_bytes {
            errors.push(json!({
                "code": "line_too_long", "line": index + 1, "param": null,
                "message": format!("the line has over {most_bytes} bytes, this server's limit"),
            }));
        } else if let Err(why) = BatchLine::read(text, Some(endpoint), &mut names) {
            errors.push(json!({
                "code": why.code, "line": index + 1, "message": why.message, "param": why.param,
            }));
        }
        if errors.len() == MAX_ERRORS {
            break;
        }
    }
    if count == 0 {
        errors.push(error("the input file has no requests"));
    }
    if count > MAX_LINES {
        errors.push(error(&format!("the input file has over {MAX_LINES} requests")));
    }
    if errors.is_empty() { Ok(count) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_no_longer_than_a_body() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let line = json!({"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "Hi"}});
        let line = line.to_string();
        std::fs::write(file.path(), &line).expect("a file");
        assert_eq!(check(file.path(), "/v1/completions", line.len()), Ok(1));
        let errors = check(file.path(), "/v1/completions", line.len() - 1).expect_err("too long");
        assert_eq!((&errors[0]["code"], &errors[0]["line"]), (&json!("line_too_long"), &json!(1)));
    }
}
