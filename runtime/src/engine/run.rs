//! Between scheduler and backend: a plan is submitted with its snapshots and masks, and the oldest step is collected; the
//! masks that its results call for are computed meanwhile. Whatever the backend does, an error or a panic, becomes a
//! [`StepFailure`] and never leaves the engine in an undefined state.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Engine;
use super::flight_recorder::StepCounts;
use super::mask_threads::SampleMask;
use super::request::{FinishReason, TokenEvent};
use super::scheduler::Scheduler;
use super::step_plan::{SampleOn, SnapshotCopy, StepPlan};
use crate::backend::{Backend, MAX_EDITS, MAX_REPORTED, Step, StepOutput, StepTime};
use crate::error::panic_message;
use crate::{Error, Result};

/// Bounds of how long steps wait for a mask beyond the layers in flight: half of what a step takes, because a step for the
/// samples that are late would take nearly as long as one for all.
const MASK_GRACE: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(5)];
/// The longest time of layers in flight for which masks are waited for besides: a grammar that takes longer runs beside
/// the steps of others.
const MAX_BESIDE: Duration = Duration::from_millis(10);
/// How long the engine waits for a late mask where nothing else can run, before it looks at commands again.
const LATE_WAIT: Duration = Duration::from_millis(5);

/// A step that was collected.
#[derive(Debug)]
pub(super) struct CollectedStep {
    plan: StepPlan,
    output: StepOutput,
}

/// A step that failed.
#[derive(Debug)]
pub(super) struct StepFailure {
    /// The plan, if it was not in flight.
    plan: Option<Box<StepPlan>>,
    /// Whether it was refused before anything ran: the engine can then continue.
    refused: bool,
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
    pub(super) fn run(
        &mut self,
        mut plan: StepPlan,
    ) -> std::result::Result<RunOutcome, StepFailure> {
        let begin = self.clock.now();
        let nothing_new = plan.entries.is_empty();
        if nothing_new {
            // A sample may start without a token of this step.
            self.load_snapshots(&plan).map_err(|error| StepFailure::fatal(&error))?;
        } else {
            self.warn_host_sampling(&plan);
            plan.number = self.scheduler.metrics.steps + 1;
            plan.span = step_span(&plan);
            match self.submit_plan(&plan) {
                Ok(()) => {
                    plan.form = self.backend.step_form();
                    plan.unsampled = plan.awaits_masks();
                }
                Err(Error::InvalidStep { problem }) => {
                    return Err(StepFailure {
                        plan: Some(Box::new(plan)),
                        refused: true,
                        reason: problem,
                    });
                }
                Err(error) => {
                    return Err(StepFailure {
                        plan: Some(Box::new(plan)),
                        ..StepFailure::fatal(&error)
                    });
                }
            }
            self.scheduler.metrics.steps += 1;
            self.scheduler.metrics.step_tokens.add(plan.tokens() as f64);
            let saves = self.scheduler.submitted(&plan);
            self.in_flight.push_back(plan);
            self.save_snapshots(&saves)?;
        }
        let mut outcome = RunOutcome::default();
        if (self.in_flight.len() > self.pipeline_depth || nothing_new) && !self.in_flight.is_empty()
        {
            let output = catch_panic(|| self.backend.collect());
            // A step that fails is still in flight, so that its record is found.
            let output = output.map_err(|error| StepFailure::fatal(&error))?;
            let collected = |plan| CollectedStep { plan, output };
            outcome.collected = self.in_flight.pop_front().map(collected);
        }
        outcome.backend_time = self.clock.since(begin);
        Ok(outcome)
    }

    /// Logs once that some samples wait for each of their tokens to be sampled on the host.
    fn warn_host_sampling(&mut self, plan: &StepPlan) {
        let on_host = plan.entries.iter().any(|entry| entry.sample_on == SampleOn::Host);
        if on_host && self.pipeline_depth > 0 && !self.warned_host_sampling {
            self.warned_host_sampling = true;
            tracing::info!(
                "more than {MAX_REPORTED} logprobs and more than {MAX_EDITS} biases need sampling on the host; \
                 the samples that use them run at most in every other step"
            );
        }
    }

    fn load_snapshots(&mut self, plan: &StepPlan) -> Result<()> {
        catch_panic(|| {
            plan.loads.iter().try_for_each(|load| {
                self.backend.load_snapshot(load.snapshot, load.seq_slot, load.end).map_err(escalate)
            })
        })
    }

    /// Loads snapshots, writes histories, gives new masks and submits the step.
    fn submit_plan(&mut self, plan: &StepPlan) -> Result<()> {
        self.load_snapshots(plan)?;
        let Engine { backend, scheduler, slot_adapters, .. } = self;
        catch_panic(|| {
            give_adapters(&mut **backend, scheduler, plan, slot_adapters)?;
            for key in &plan.histories {
                if let Some(sample) = scheduler.samples.get(key)
                    && let Some(seq_slot) = sample.seq_slot
                {
                    backend.set_history(seq_slot, &sample.history)?;
                }
            }
            give_masks(&mut **backend, scheduler, plan)?;
            let sequences = scheduler.sequences(plan);
            let step = Step { sequences: &sequences, capture_activations: false };
            if plan.awaits_masks() { backend.submit_layers(&step) } else { backend.submit(&step) }
        })
    }

    /// Begins to compute the masks that samples need now, and to free those that none needs any more.
    pub(super) fn start_masks(&mut self) {
        let Engine { scheduler, masks, clock, .. } = self;
        masks.discard(std::mem::take(&mut scheduler.ended_masks));
        let now = clock.now();
        for key in std::mem::take(&mut scheduler.unmasked) {
            if let Some(sample) = scheduler.samples.get(&key)
                && let Some(constraint) = &sample.mask
            {
                let generated = &sample.tokens[sample.request.prompt.len()..];
                masks.compute(&constraint.mask, generated, sample.max_forced());
                scheduler.masking.push((key, now));
            }
        }
    }

    /// Takes over the masks that are ready, after a moment for those that were requested just now and are likely to be there
    /// soon: one that is nearly there costs its sample no step.
    pub(super) fn take_masks(&mut self) -> Vec<TokenEvent> {
        self.start_masks();
        #[cfg(test)]
        self.masks.tick();
        if self.scheduler.masking.is_empty() {
            return Vec::new();
        }
        let (now, limit) = (self.clock.now(), self.mask_limit());
        let (imminent, first) = self.scheduler.imminent_masks(now, limit);
        if let Some(first) = first {
            self.wait_for_masks(&imminent, now.saturating_duration_since(first));
        }
        self.scheduler.take_masks(self.clock.now(), limit)
    }

    /// How long steps wait for a mask after it was requested, at most.
    fn mask_limit(&self) -> Duration {
        self.layers_time() + self.mask_grace()
    }

    /// What the layers of a step that is in flight take anyway.
    fn layers_time(&self) -> Duration {
        if self.in_flight.is_empty() { Duration::ZERO } else { self.step_time.min(MAX_BESIDE) }
    }

    fn mask_grace(&self) -> Duration {
        (self.step_time / 2).clamp(MASK_GRACE[0], MASK_GRACE[1])
    }

    /// Waits for masks, the first of which was requested so long ago. Beyond the layers of the step in flight it waits for the
    /// masks that are missing then as much of a step as they are of its rows: rows that are left out cost as much.
    fn wait_for_masks(&self, masks: &[SampleMask], waited: Duration) {
        let Some(plan) = self.in_flight.back() else {
            return self.masks.wait(masks, true, self.mask_grace().saturating_sub(waited));
        };
        self.masks.wait(masks, true, self.layers_time().saturating_sub(waited));
        let missing = masks.iter().filter(|mask| !mask.is_ready()).count();
        if missing > 0 {
            let part = missing as f64 / plan.entries.len().max(missing) as f64;
            self.masks.wait(masks, true, self.step_time.mul_f64(part).min(MASK_GRACE[1]));
        }
    }

    /// Submits the sampling of the step whose layers were submitted last, if that is still to be done.
    pub(super) fn sample_in_flight(&mut self) -> std::result::Result<(), StepFailure> {
        let Engine { backend, scheduler, in_flight, .. } = self;
        let Some(plan) = in_flight.back_mut().filter(|plan| plan.unsampled) else {
            return Ok(());
        };
        plan.unsampled = false;
        let saves = scheduler.resolve_masks(plan);
        let sampled = catch_panic(|| {
            give_masks(&mut **backend, scheduler, plan)?;
            backend.sample(&scheduler.row_samplings(plan)).map_err(escalate)
        });
        sampled.map_err(|error| StepFailure::fatal(&error))?;
        self.save_snapshots(&saves)
    }

    /// Waits for a late mask, a few milliseconds at most, and takes it over.
    pub(super) fn wait_for_late_mask(&mut self) -> Vec<TokenEvent> {
        let late = self.scheduler.late_masks();
        if late.is_empty() {
            return Vec::new();
        }
        self.masks.wait(&late, false, LATE_WAIT);
        self.scheduler.take_masks(self.clock.now(), self.mask_limit())
    }

    /// Saves the snapshots of results, and returns their events.
    fn save_results(
        &mut self,
        results: Result<(Vec<TokenEvent>, Vec<SnapshotCopy>)>,
    ) -> std::result::Result<Vec<TokenEvent>, (Vec<TokenEvent>, StepFailure)> {
        match results {
            Ok((events, saves)) => match self.save_snapshots(&saves) {
                Ok(()) => Ok(events),
                Err(failure) => Err((events, failure)),
            },
            Err(error) => Err((Vec::new(), StepFailure::fatal(&error))),
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
        let now = self.clock.now();
        let RunOutcome { collected, backend_time } = outcome;
        let Some(CollectedStep { plan, output }) = collected else { return Vec::new() };
        let last = self.last_results.replace(now);
        let step_seconds = now.saturating_duration_since(last.unwrap_or(begin)).as_secs_f64();
        let device = self.count_step(&plan, step_seconds, backend_time, last.is_some());
        let results = self.scheduler.postprocess(&plan, output, now);
        let events = match self.save_results(results) {
            Ok(events) => events,
            Err((mut events, failure)) => {
                events.extend(self.fail(StepFailure { plan: Some(Box::new(plan)), ..failure }));
                return events;
            }
        };
        if self.in_flight.is_empty() && self.scheduler.is_idle() {
            self.last_results = None;
        }
        let host = self.clock.since(begin).saturating_sub(backend_time).as_secs_f64();
        self.scheduler.metrics.host_seconds.add(host);
        if !self.recorder.is_on() {
            return events;
        }
        let counts = StepCounts {
            step_seconds,
            host_seconds: host,
            device,
            waiting: self.scheduler.waiting.len(),
            running: self.scheduler.running.len(),
            pages_used: self.limits.pages - self.scheduler.pages.available(),
            generated: events.iter().filter(|event| event.token.is_some()).count(),
        };
        self.recorder.record(&plan, counts, now);
        events
    }

    /// Counts a step that took so many seconds since the results before it, and returns what is known of the device's time.
    /// `follows`: the engine had work since then.
    fn count_step(
        &mut self,
        plan: &StepPlan,
        seconds: f64,
        backend_time: Duration,
        follows: bool,
    ) -> Option<StepTime> {
        let metrics = &mut self.scheduler.metrics;
        metrics.step_seconds.add(seconds);
        // A backend that works inside `submit` computes while it is called, and waits for the host otherwise.
        let of_calls = || {
            let busy = backend_time.as_secs_f64();
            StepTime { busy, idle: (seconds - busy).max(0.0) }
        };
        let time =
            self.backend.step_time().or_else(|| (self.pipeline_depth == 0).then(of_calls))?;
        let time = StepTime { idle: if follows { time.idle } else { 0.0 }, ..time };
        self.step_time = Duration::from_secs_f64(time.busy.clamp(0.0, 1.0));
        self.scheduler.prompt_pace.measure(plan, time.busy);
        metrics.device_busy_seconds += time.busy;
        metrics.device_idle_seconds += time.idle;
        Some(time)
    }

    /// Ends the samples that a failure concerns.
    pub(super) fn fail(&mut self, failure: StepFailure) -> Vec<TokenEvent> {
        let StepFailure { plan, refused, reason } = failure;
        let reason: Arc<str> = reason.into();
        if refused {
            tracing::error!(%reason, "the backend refused a step; its samples end");
            let ended = |key| self.scheduler.end(key, FinishReason::Failed(reason.clone()));
            let entries = plan.map_or(Vec::new(), |plan| plan.entries);
            return entries.into_iter().map(|entry| entry.key).filter_map(ended).collect();
        }
        tracing::error!(%reason, "the engine stops");
        // A step that was being submitted failed, or the oldest one in flight.
        let plans = plan.iter().map(|plan| &**plan).chain(&self.in_flight);
        self.recorder.record_failure(plans, self.clock.now(), &reason);
        self.in_flight.clear();
        self.failure = Some(reason.clone());
        self.scheduler.end_all(&FinishReason::Failed(reason))
    }
}

/// Gives the slots of a plan the adapters of its samples, where they have others, and takes those of free slots, so that one
/// that was unloaded does not stay in memory.
fn give_adapters(
    backend: &mut dyn Backend,
    scheduler: &Scheduler,
    plan: &StepPlan,
    slots: &mut [u64],
) -> Result<()> {
    for &seq_slot in &scheduler.free_seq_slots {
        if let Some(known) = slots.get_mut(seq_slot).filter(|known| **known != 0) {
            backend.set_adapter(seq_slot, None)?;
            *known = 0;
        }
    }
    for entry in &plan.entries {
        let Some(sample) = scheduler.samples.get(&entry.key) else { continue };
        let adapter = &sample.request.adapter;
        let id = adapter.as_ref().map_or(0, |adapter| adapter.id());
        if let Some(known) = slots.get_mut(entry.seq_slot).filter(|known| **known != id) {
            backend.set_adapter(entry.seq_slot, adapter.clone())?;
            *known = id;
        }
    }
    Ok(())
}

/// Gives a backend the masks of a plan that it lacks.
fn give_masks(backend: &mut dyn Backend, scheduler: &Scheduler, plan: &StepPlan) -> Result<()> {
    for entry in plan.entries.iter().filter(|entry| entry.sample_on == SampleOn::Device) {
        if let Some((mask, true)) = entry.mask
            && let Some(sample) = scheduler.samples.get(&entry.key)
            && let Some(constraint) = &sample.mask
        {
            let give = |words: &[u32]| backend.set_mask(entry.seq_slot, mask, words);
            constraint.mask.give(mask, give).map_err(escalate)?;
        }
    }
    Ok(())
}

/// A span for whoever collects traces of steps, from the submission of a step to its results.
fn step_span(plan: &StepPlan) -> Option<tracing::Span> {
    let span = tracing::debug_span!(
        target: "ossmith::steps", "step",
        step = plan.number, tokens = plan.tokens(), samples = plan.entries.len(),
        preemptions = plan.preemptions,
    );
    (!span.is_disabled()).then_some(span)
}

impl StepFailure {
    /// A failure after which the engine stops.
    fn fatal(error: &Error) -> StepFailure {
        StepFailure { plan: None, refused: false, reason: error.to_string() }
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
