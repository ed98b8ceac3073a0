//! Between scheduler and backend: a plan is submitted with its tails, masks are worked out beside it, the oldest step is
//! collected. Whatever the backend does, an error or a panic, becomes a [`Failed`] and never leaves the engine half done.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::mask::Allowed;
use super::plan::{Drawer, Plan, TailCopy};
use super::sample::{Key, MaskState};
use super::{Engine, FinishReason, TokenEvent};
use crate::backend::{Output, Step, StepTime};
use crate::{Error, Result};

/// A step that came back.
#[derive(Debug)]
pub(super) struct Done {
    plan: Plan,
    output: Output,
}

/// A step that went wrong.
#[derive(Debug)]
pub(super) struct Failed {
    /// The plan, if it was refused before anything ran: then the engine can go on.
    refused: Option<Plan>,
    why: String,
}

/// What [`Engine::run`] did.
#[derive(Debug, Default)]
pub(super) struct Ran {
    done: Option<Done>,
    /// Time inside the backend.
    backend: Duration,
}

impl Engine {
    /// Submits a plan, if it holds any work, and collects the oldest step once enough of them are under way.
    pub(super) fn run(&mut self, plan: Plan) -> std::result::Result<Ran, Failed> {
        let begin = Instant::now();
        let nothing_new = plan.entries.is_empty();
        if !nothing_new {
            self.tell(&plan);
            let mut masks = self.take_masks(&plan);
            let submitted = self.submit_plan(&plan, &mut masks);
            self.put_masks(masks);
            match submitted {
                Ok(()) => {}
                Err(Error::Request(why)) => return Err(Failed { refused: Some(plan), why }),
                Err(error) => return Err(Failed { refused: None, why: error.to_string() }),
            }
            self.scheduler.metrics.steps += 1;
            self.scheduler.metrics.step_tokens.add(plan.tokens() as f64);
            let saves = self.scheduler.submitted(&plan);
            self.under_way.push_back(plan);
            self.save(&saves)?;
        }
        let mut ran = Ran::default();
        if (self.under_way.len() > self.ahead || nothing_new)
            && let Some(plan) = self.under_way.pop_front()
        {
            let output = guarded(|| self.backend.collect()).map_err(Failed::stop)?;
            ran.done = Some(Done { plan, output });
        }
        ran.backend = begin.elapsed();
        Ok(ran)
    }

    /// Says once that some samples wait for each of their tokens to be drawn on the host.
    fn tell(&mut self, plan: &Plan) {
        let drawn = plan.entries.iter().any(|entry| entry.drawer == Drawer::Engine);
        if drawn && self.ahead > 0 && !self.told {
            self.told = true;
            tracing::info!(
                "penalties, bias, masks, logprobs, min_tokens and drafts are drawn on the host; \
                 the samples that ask for them run at most every other step"
            );
        }
    }

    /// Loads tails and submits, while masks are worked out on other threads.
    fn submit_plan(&mut self, plan: &Plan, masks: &mut [(Key, MaskState)]) -> Result<()> {
        let Engine { backend, scheduler, .. } = self;
        let mut work = || {
            guarded(|| {
                for load in &plan.loads {
                    backend.load_tail(load.tail, load.slot, load.end).map_err(harder)?;
                }
                let sequences = scheduler.sequences(plan);
                backend.submit(&Step { sequences: &sequences, taps: false })
            })
        };
        if masks.is_empty() {
            return work();
        }
        let tokens = |key: &Key| {
            let sample = scheduler.samples.get(key);
            sample.map_or(&[][..], |sample| &sample.tokens[sample.request.prompt.len()..])
        };
        std::thread::scope(|scope| {
            let masked = scope.spawn(|| {
                masks.par_iter_mut().for_each(|(key, state)| fill(state, tokens(key)));
            });
            let submitted = work();
            let _ = masked.join();
            submitted
        })
    }

    fn take_masks(&mut self, plan: &Plan) -> Vec<(Key, MaskState)> {
        let drawn = plan.entries.iter().filter(|entry| entry.drawer == Drawer::Engine);
        let samples = &mut self.scheduler.samples;
        let take = |key: Key| Some((key, samples.get_mut(&key)?.mask.take()?));
        drawn.map(|entry| entry.key).filter_map(take).collect()
    }

    fn put_masks(&mut self, masks: Vec<(Key, MaskState)>) {
        for (key, state) in masks {
            if let Some(sample) = self.scheduler.samples.get_mut(&key) {
                sample.mask = Some(state);
            }
        }
    }

    fn save(&mut self, saves: &[TailCopy]) -> std::result::Result<(), Failed> {
        let backend = &mut self.backend;
        let save = || saves.iter().try_for_each(|s| backend.save_tail(s.tail, s.slot, s.end));
        guarded(save).map_err(Failed::stop)
    }

    /// Turns a step's output into events.
    pub(super) fn postprocess(&mut self, ran: Ran, begin: Instant) -> Vec<TokenEvent> {
        let now = Instant::now();
        let Some(Done { plan, output }) = ran.done else { return Vec::new() };
        let last = self.last_results.replace(now);
        let step = now.saturating_duration_since(last.unwrap_or(begin)).as_secs_f64();
        self.count_step(step, ran.backend, last.is_some());
        let events = match self.scheduler.postprocess(&plan, output, now) {
            Ok((events, saves)) => match self.save(&saves) {
                Ok(()) => events,
                Err(failed) => events.into_iter().chain(self.fail(failed)).collect(),
            },
            Err(error) => self.fail(Failed::stop(error)),
        };
        if self.under_way.is_empty() && self.scheduler.idle() {
            self.last_results = None;
        }
        let host = begin.elapsed().saturating_sub(ran.backend);
        self.scheduler.metrics.host_seconds.add(host.as_secs_f64());
        events
    }

    /// Counts a step of so many seconds from the results before; `follows`: the engine had work since then.
    fn count_step(&mut self, seconds: f64, backend: Duration, follows: bool) {
        let metrics = &mut self.scheduler.metrics;
        metrics.step_seconds.add(seconds);
        // A backend that works inside `submit` computes while it is called, and waits for the host otherwise.
        let of_calls = || {
            let busy = backend.as_secs_f64();
            StepTime { busy, idle: (seconds - busy).max(0.0) }
        };
        let Some(time) = self.backend.step_time().or_else(|| (self.ahead == 0).then(of_calls))
        else {
            return;
        };
        metrics.device_busy_seconds += time.busy;
        metrics.device_idle_seconds += if follows { time.idle } else { 0.0 };
    }

    /// Ends what a failure took with it.
    pub(super) fn fail(&mut self, failed: Failed) -> Vec<TokenEvent> {
        let why: Arc<str> = failed.why.into();
        if let Some(plan) = failed.refused {
            tracing::error!(%why, "a step was refused");
            let ended = |key| self.scheduler.end(key, FinishReason::Failed(why.clone()));
            let keys: Vec<Key> = plan.entries.iter().map(|entry| entry.key).collect();
            return keys.into_iter().filter_map(ended).collect();
        }
        tracing::error!(%why, "the engine stops");
        self.under_way.clear();
        self.failure = Some(why.clone());
        self.scheduler.fail_all(&why)
    }
}

impl Failed {
    fn stop(error: Error) -> Failed {
        Failed { refused: None, why: error.to_string() }
    }
}

/// A refusal after which the backend is not as it was.
fn harder(error: Error) -> Error {
    match error {
        Error::Request(why) => Error::Internal(why),
        other => other,
    }
}

/// A panic as an error.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Error::Internal(format!("a step panicked: {}", said(&*panic)))))
}

/// What a panic said.
pub(super) fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Asks a mask for what may follow `generated`.
fn fill(state: &mut MaskState, generated: &[u32]) {
    let MaskState { mask, words, said: answer } = state;
    words.fill(0);
    let mask = mask.get_mut().unwrap_or_else(PoisonError::into_inner);
    let asked = catch_unwind(AssertUnwindSafe(|| mask.fill(generated, words)));
    *answer = match asked {
        Ok(Ok(allowed)) => Ok(allowed == Allowed::Listed),
        Ok(Err(why)) => Err(why),
        Err(panic) => Err(format!("the mask panicked: {}", said(&*panic))),
    };
}
