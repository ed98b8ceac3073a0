//! The flight recorder: what the last steps did and who took part in them, always on, in a ring that uses its memory again
//! once it is full. Operators read it while the engine runs and after it has failed; a failure also writes its end to the log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;

use super::step_plan::{PlanEntry, StepPlan};
use crate::backend::{StepForm, StepTime};

/// Steps that are kept.
const KEPT_STEPS: usize = 512;
/// Steps that a failure writes to the log.
const LOGGED_STEPS: usize = 8;

/// What one sample did in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StepEntry {
    /// The number of its request ([`super::RequestId`]).
    pub request: u64,
    /// Which of the request's samples it is.
    pub sample: u32,
    /// Position of its first token in the step.
    pub start: u32,
    /// Its tokens in the step.
    pub tokens: u32,
    /// Of these, draft tokens.
    pub drafted: u32,
}

/// What one step did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StepRecord {
    /// The number of the step, from 1.
    pub step: u64,
    /// When its results arrived, in seconds since the engine was made.
    pub at_seconds: f64,
    /// Its tokens.
    pub tokens: usize,
    /// `decode`, `batched` or `prefill` on a device that has regimes.
    pub regime: Option<&'static str>,
    /// Whether it was replayed as a graph; otherwise its kernels were launched one by one.
    pub graph: bool,
    /// Seconds since the results before it.
    pub step_seconds: f64,
    /// Seconds that the host spent outside the backend.
    pub host_seconds: f64,
    /// Seconds that the device computed and waited, where that is known.
    pub busy_seconds: Option<f64>,
    /// Seconds that the device waited before it.
    pub idle_seconds: Option<f64>,
    /// Samples that were preempted when it was made.
    pub preemptions: u64,
    /// Samples that waited and ran after it.
    pub waiting: usize,
    /// Samples that ran after it.
    pub running: usize,
    /// Pages of the cache that were in use after it.
    pub pages_used: usize,
    /// Tokens that became known with it.
    pub generated: usize,
    /// Why it failed.
    pub failure: Option<String>,
    /// Who took part.
    pub entries: Vec<StepEntry>,
}

/// What is known of a step when its results have arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StepCounts {
    pub(super) step_seconds: f64,
    pub(super) host_seconds: f64,
    pub(super) device: Option<StepTime>,
    pub(super) waiting: usize,
    pub(super) running: usize,
    pub(super) pages_used: usize,
    pub(super) generated: usize,
}

/// The ring. Clones read the same one.
#[derive(Clone, Debug)]
pub(super) struct FlightRecorder {
    begin: Instant,
    /// Steps that it keeps: none if it is off.
    kept: usize,
    ring: Arc<Mutex<VecDeque<StepRecord>>>,
}

impl FlightRecorder {
    /// An empty ring; times are counted from `begin`.
    pub(super) fn new(begin: Instant) -> FlightRecorder {
        FlightRecorder { begin, kept: KEPT_STEPS, ring: Arc::default() }
    }

    /// One that keeps nothing, to measure what a ring costs.
    pub(super) fn off(begin: Instant) -> FlightRecorder {
        FlightRecorder { kept: 0, ..FlightRecorder::new(begin) }
    }

    /// Whether it keeps steps.
    pub(super) fn is_on(&self) -> bool {
        self.kept > 0
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<StepRecord>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last `count` steps, oldest first.
    pub(super) fn recent(&self, count: usize) -> Vec<StepRecord> {
        let ring = self.lock();
        ring.iter().skip(ring.len().saturating_sub(count)).cloned().collect()
    }

    /// Records a step whose results have arrived.
    pub(super) fn record(&self, plan: &StepPlan, counts: StepCounts, now: Instant) {
        self.push(plan, counts, now, None);
    }

    /// Records the steps that a failure ended: the one that failed, and those that were in flight with it. Writes them to
    /// the log, after the steps before them.
    pub(super) fn record_failure<'a>(
        &self,
        plans: impl Iterator<Item = &'a StepPlan>,
        now: Instant,
        reason: &str,
    ) {
        let mut failed = 0;
        for plan in plans {
            let why = if failed == 0 { reason } else { "in flight when the engine stopped" };
            self.push(plan, StepCounts::default(), now, Some(why.to_owned()));
            failed += 1;
        }
        for record in self.recent(LOGGED_STEPS + failed) {
            // A record is numbers and our own names, which always serialise.
            let line = serde_json::to_string(&record).unwrap_or_default();
            match record.failure {
                Some(_) => {
                    tracing::error!(step = record.step, record = %line, "a step that failed")
                }
                None => {
                    tracing::error!(step = record.step, record = %line, "a step before the failure")
                }
            }
        }
    }

    fn push(&self, plan: &StepPlan, counts: StepCounts, now: Instant, failure: Option<String>) {
        if !self.is_on() {
            return;
        }
        let mut ring = self.lock();
        // The memory of the oldest record is used again.
        let mut entries = if ring.len() < self.kept {
            Vec::with_capacity(plan.entries.len())
        } else {
            ring.pop_front().unwrap_or_default().entries
        };
        entries.clear();
        entries.extend(plan.entries.iter().map(StepEntry::of));
        let StepForm { regime, graph } = plan.form;
        ring.push_back(StepRecord {
            step: plan.number,
            at_seconds: now.saturating_duration_since(self.begin).as_secs_f64(),
            tokens: plan.tokens(),
            regime,
            graph,
            step_seconds: counts.step_seconds,
            host_seconds: counts.host_seconds,
            busy_seconds: counts.device.map(|time| time.busy),
            idle_seconds: counts.device.map(|time| time.idle),
            preemptions: plan.preemptions,
            waiting: counts.waiting,
            running: counts.running,
            pages_used: counts.pages_used,
            generated: counts.generated,
            failure,
            entries,
        });
    }
}

impl StepEntry {
    fn of(entry: &PlanEntry) -> StepEntry {
        StepEntry {
            request: entry.key.request,
            sample: entry.key.index as u32,
            start: entry.start as u32,
            tokens: entry.tokens as u32,
            drafted: entry.draft.len().saturating_sub(1) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_last_steps_and_no_more() {
        let begin = Instant::now();
        let recorder = FlightRecorder::new(begin);
        for number in 1..=2 * KEPT_STEPS as u64 {
            let plan = StepPlan { number, ..StepPlan::default() };
            recorder.record(&plan, StepCounts::default(), begin);
        }
        let kept = recorder.recent(usize::MAX);
        assert_eq!(kept.len(), KEPT_STEPS);
        assert_eq!((kept[0].step, kept[KEPT_STEPS - 1].step), (513, 1024));
        let steps: Vec<u64> = recorder.recent(2).iter().map(|record| record.step).collect();
        assert_eq!(steps, [1023, 1024]);
    }
}
