//! Between scheduler and backend: a plan is submitted with its snapshots, masks are computed beside it, and the oldest
//! step is collected. Whatever the backend does, an error or a panic, becomes a [`StepFailure`] and never leaves the
//! engine in an undefined state.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::Engine;
use super::mask::Allowed;
use super::request::{FinishReason, TokenEvent};
use super::sample::{Key, MaskState};
use super::step_plan::{SampleOn, SnapshotCopy, StepPlan};
use crate::backend::{Step, StepOutput, StepTime};
use crate::{Error, Result};

/// A step that was collected.
#[derive(Debug)]
pub(super) struct CollectedStep {
    plan: StepPlan,
    output: StepOutput,
}

/// A step that failed.
#[derive(Debug)]
pub(super) struct StepFailure {
    /// The plan, if it was refused before anything ran: the engine can then continue.
    refused: Option<StepPlan>,
    reason: String,
}

/// What [`Engine::run`] did.
#[derive(Debug, Default)]
pub(super) struct RunOutcome {
    collected: Option<CollectedStep>,
    /// Time inside the backend.
    backend_time: Duration,
}

impl Engine {
    /// Submits a plan, if it holds any work, and collects the oldest step once enough of them are in flight.
    pub(super) fn run(&mut self, plan: StepPlan) -> std::result::Result<RunOutcome, StepFailure> {
        let begin = Instant::now();
        let nothing_new = plan.entries.is_empty();
        if !nothing_new {
            self.warn_host_sampling(&plan);
            let mut masks = self.take_masks(&plan);
            let submitted = self.submit_plan(&plan, &mut masks);
            self.put_masks(masks);
            match submitted {
                Ok(()) => {}
                Err(Error::InvalidStep { problem }) => {
                    return Err(StepFailure { refused: Some(plan), reason: problem });
                }
                Err(error) => return Err(StepFailure::fatal(&error)),
            }
            self.scheduler.metrics.steps += 1;
            self.scheduler.metrics.step_tokens.add(plan.tokens() as f64);
            let saves = self.scheduler.submitted(&plan);
            self.in_flight.push_back(plan);
            self.save_snapshots(&saves)?;
        }
        let mut outcome = RunOutcome::default();
        if (self.in_flight.len() > self.pipeline_depth || nothing_new)
            && let Some(plan) = self.in_flight.pop_front()
        {
            let output = catch_panic(|| self.backend.collect());
            let output = output.map_err(|error| StepFailure::fatal(&error))?;
            outcome.collected = Some(CollectedStep { plan, output });
        }
        outcome.backend_time = begin.elapsed();
        Ok(outcome)
    }

    /// Logs once that some samples wait for each of their tokens to be sampled on the host.
    fn warn_host_sampling(&mut self, plan: &StepPlan) {
        let on_host = plan.entries.iter().any(|entry| entry.sample_on == SampleOn::Host);
        if on_host && self.pipeline_depth > 0 && !self.warned_host_sampling {
            self.warned_host_sampling = true;
            tracing::info!(
                "penalties, bias, masks, logprobs, min_tokens and drafts need sampling on the host; \
                 the samples that use them run at most in every other step"
            );
        }
    }

    /// Loads snapshots and submits the step, while masks are computed on other threads.
    fn submit_plan(&mut self, plan: &StepPlan, masks: &mut [(Key, MaskState)]) -> Result<()> {
        let Engine { backend, scheduler, .. } = self;
        let mut submit = || {
            catch_panic(|| {
                for load in &plan.loads {
                    backend
                        .load_snapshot(load.snapshot, load.seq_slot, load.end)
                        .map_err(escalate)?;
                }
                let sequences = scheduler.sequences(plan);
                backend.submit(&Step { sequences: &sequences, capture_activations: false })
            })
        };
        if masks.is_empty() {
            return submit();
        }
        let tokens = |key: &Key| {
            let sample = scheduler.samples.get(key);
            sample.map_or(&[][..], |sample| &sample.tokens[sample.request.prompt.len()..])
        };
        std::thread::scope(|scope| {
            let masked = scope.spawn(|| {
                masks.par_iter_mut().for_each(|(key, state)| fill_mask(state, tokens(key)));
            });
            let submitted = submit();
            let _ = masked.join();
            submitted
        })
    }

    fn take_masks(&mut self, plan: &StepPlan) -> Vec<(Key, MaskState)> {
        let on_host = plan.entries.iter().filter(|entry| entry.sample_on == SampleOn::Host);
        let samples = &mut self.scheduler.samples;
        let take = |key: Key| Some((key, samples.get_mut(&key)?.mask.take()?));
        on_host.map(|entry| entry.key).filter_map(take).collect()
    }

    fn put_masks(&mut self, masks: Vec<(Key, MaskState)>) {
        for (key, state) in masks {
            if let Some(sample) = self.scheduler.samples.get_mut(&key) {
                sample.mask = Some(state);
            }
        }
    }

    fn save_snapshots(&mut self, saves: &[SnapshotCopy]) -> std::result::Result<(), StepFailure> {
        let backend = &mut self.backend;
        let save = || {
            saves
                .iter()
                .try_for_each(|copy| backend.save_snapshot(copy.snapshot, copy.seq_slot, copy.end))
        };
        catch_panic(save).map_err(|error| StepFailure::fatal(&error))
    }

    /// Turns a step's output into events.
    pub(super) fn postprocess(&mut self, outcome: RunOutcome, begin: Instant) -> Vec<TokenEvent> {
        let now = Instant::now();
        let RunOutcome { collected, backend_time } = outcome;
        let Some(CollectedStep { plan, output }) = collected else { return Vec::new() };
        let last = self.last_results.replace(now);
        let step = now.saturating_duration_since(last.unwrap_or(begin)).as_secs_f64();
        self.count_step(step, backend_time, last.is_some());
        let events = match self.scheduler.postprocess(&plan, output, now) {
            Ok((events, saves)) => match self.save_snapshots(&saves) {
                Ok(()) => events,
                Err(failure) => events.into_iter().chain(self.fail(failure)).collect(),
            },
            Err(error) => self.fail(StepFailure::fatal(&error)),
        };
        if self.in_flight.is_empty() && self.scheduler.is_idle() {
            self.last_results = None;
        }
        let host = begin.elapsed().saturating_sub(backend_time);
        self.scheduler.metrics.host_seconds.add(host.as_secs_f64());
        events
    }

    /// Counts a step that took so many seconds since the results before it. `follows`: the engine had work since then.
    fn count_step(&mut self, seconds: f64, backend_time: Duration, follows: bool) {
        let metrics = &mut self.scheduler.metrics;
        metrics.step_seconds.add(seconds);
        // A backend that works inside `submit` computes while it is called, and waits for the host otherwise.
        let of_calls = || {
            let busy = backend_time.as_secs_f64();
            StepTime { busy, idle: (seconds - busy).max(0.0) }
        };
        let time = self.backend.step_time().or_else(|| (self.pipeline_depth == 0).then(of_calls));
        let Some(time) = time else { return };
        metrics.device_busy_seconds += time.busy;
        metrics.device_idle_seconds += if follows { time.idle } else { 0.0 };
    }

    /// Ends the samples that a failure concerns.
    pub(super) fn fail(&mut self, failure: StepFailure) -> Vec<TokenEvent> {
        let reason: Arc<str> = failure.reason.into();
        if let Some(plan) = failure.refused {
            tracing::error!(%reason, "the backend refused a step; its samples end");
            let ended = |key| self.scheduler.end(key, FinishReason::Failed(reason.clone()));
            let keys: Vec<Key> = plan.entries.iter().map(|entry| entry.key).collect();
            return keys.into_iter().filter_map(ended).collect();
        }
        tracing::error!(%reason, "the engine stops");
        self.in_flight.clear();
        self.failure = Some(reason.clone());
        self.scheduler.fail_all(&reason)
    }
}

impl StepFailure {
    /// A failure after which the engine stops.
    fn fatal(error: &Error) -> StepFailure {
        StepFailure { refused: None, reason: error.to_string() }
    }
}

/// Turns a refusal into a failure, because the backend is no longer as it was.
fn escalate(error: Error) -> Error {
    match error {
        Error::InvalidStep { problem } => Error::Internal(problem),
        other => other,
    }
}

/// Turns a panic into an error.
fn catch_panic<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(Error::Internal(format!("a step panicked: {}", panic_message(&*panic))))
    })
}

/// The message of a panic.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Lets a mask list what may follow `generated`.
fn fill_mask(state: &mut MaskState, generated: &[u32]) {
    let MaskState { mask, words, listed } = state;
    words.fill(0);
    let mask = mask.get_mut().unwrap_or_else(PoisonError::into_inner);
    let filled = catch_unwind(AssertUnwindSafe(|| mask.fill(generated, words)));
    *listed = match filled {
        Ok(Ok(allowed)) => Ok(allowed == Allowed::Listed),
        Ok(Err(reason)) => Err(reason),
        Err(panic) => Err(format!("the mask panicked: {}", panic_message(&*panic))),
    };
}
