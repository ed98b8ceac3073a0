//! Samples with a mask, between steps: their next mask is requested as soon as their tokens are known, what it forces is
//! appended without a step of its own (*jump forward*), and a mask that the backend has already is not given again. A
//! sample whose mask is not there yet is left out of the steps, or of the sampling of one whose layers were submitted, and
//! the others run.
//!
//! A token is forced if its mask leaves no other, so an answer is the same with and without: whatever the logits, the
//! sample from one token is that token. [`super::mask_threads`] computes masks.

use std::time::{Duration, Instant};

use super::constraint::{Constraint, Progress};
use super::mask_threads::{MaskResult, SampleMask};
use super::request::{FinishReason, TokenEvent};
use super::sample::{Key, Sample};
use super::scheduler::Scheduler;
use super::step_plan::{SampleOn, SnapshotCopy, StepPlan};
use crate::backend::PAGE_TOKENS;

/// Tokens that one mask may force, which bounds the time that it takes.
const MAX_FORCED: usize = 256;

impl Sample {
    /// Most tokens that the mask of its next token may force. None where a forced token would change what the next one
    /// depends on besides the cache, or has to be reported.
    pub(super) fn max_forced(&self) -> usize {
        let params = &self.request.params;
        let reports = params.logprobs.is_some() || params.prompt_logprobs.is_some();
        let forbids = self.generated() < params.min_tokens || !self.request.biases.is_empty();
        if reports || forbids || params.penalties().is_some() { 0 } else { MAX_FORCED }
    }

    /// Whether it generates: only its last tokens, those that were forced among them, are not scheduled.
    pub(super) fn generates(&self) -> bool {
        self.unscheduled() <= 1 + self.mask.as_ref().map_or(0, |mask| mask.forced)
    }

    /// Whether the next token may be sampled as far as its mask is concerned.
    pub(super) fn mask_is_known(&self) -> bool {
        self.mask.as_ref().is_none_or(Constraint::is_known)
    }
}

impl Scheduler {
    /// Requests the mask of a sample's next token, if it has one.
    pub(super) fn request_mask(&mut self, key: Key) {
        let mask = self.samples.get_mut(&key).and_then(|sample| sample.mask.as_mut());
        if let Some(mask) = mask.filter(|mask| mask.progress == Progress::Outdated) {
            mask.progress = Progress::Requested;
            self.unmasked.push(key);
        }
    }

    /// Records that a token of a sample became known, so that it needs another mask.
    pub(super) fn renew_mask(&mut self, key: Key) {
        if let Some(mask) = self.samples.get_mut(&key).and_then(|sample| sample.mask.as_mut()) {
            mask.progress = Progress::Outdated;
            self.request_mask(key);
        }
    }

    /// The masks that are not ready.
    pub(super) fn late_masks(&self) -> Vec<SampleMask> {
        let mask =
            |(key, _): &(Key, Instant)| Some(self.samples.get(key)?.mask.as_ref()?.mask.clone());
        self.masking.iter().filter_map(mask).filter(|mask| !mask.is_ready()).collect()
    }

    /// The masks that are not ready and are worth a wait of this long, and when the first of them was requested: they were
    /// requested within it, and the masks before them took no longer. A grammar whose masks take longer would hold up every
    /// step of the others without effect.
    pub(super) fn imminent_masks(
        &self,
        now: Instant,
        wait: Duration,
    ) -> (Vec<SampleMask>, Option<Instant>) {
        let recent = |at: Instant| now.saturating_duration_since(at) <= wait;
        let mask = |&(key, at): &(Key, Instant)| {
            let mask = &self.samples.get(&key)?.mask.as_ref()?.mask;
            let imminent = recent(at) && !mask.is_ready() && mask.is_likely_within(wait);
            imminent.then(|| (mask.clone(), at))
        };
        let (masks, requested): (Vec<_>, Vec<_>) = self.masking.iter().filter_map(mask).unzip();
        (masks, requested.into_iter().min())
    }

    /// Takes over the masks that are ready, and appends the tokens that they force. Those that took longer than `limit`
    /// do not keep up.
    pub(super) fn take_masks(&mut self, now: Instant, limit: Duration) -> Vec<TokenEvent> {
        let mut events = Vec::new();
        for (key, at) in std::mem::take(&mut self.masking) {
            let Some(sample) = self.samples.get_mut(&key) else { continue };
            let Some(constraint) = &mut sample.mask else { continue };
            if !constraint.mask.is_ready() {
                self.masking.push((key, at));
                continue;
            }
            match constraint.mask.result() {
                MaskResult::Failed(reason) => {
                    events.extend(self.end(key, FinishReason::Failed(reason.into())));
                }
                // An answer does not begin before its sample has started.
                MaskResult::Ready(forced) if !forced.is_empty() && sample.started_at.is_none() => {
                    self.masking.push((key, at));
                }
                MaskResult::Ready(forced) => {
                    constraint.progress = Progress::Known;
                    constraint.keeps_up = now.saturating_duration_since(at) <= limit;
                    self.append_forced(key, &forced, now, &mut events);
                }
            }
        }
        events
    }

    /// Gives the entries of a step whose layers were submitted the masks that are known by now, and leaves the others out
    /// of its sampling: where tokens are forced, they run next; where a mask is late, the last token runs again once it is
    /// there. Returns the snapshots to save after the sampling.
    pub(super) fn resolve_masks(&mut self, plan: &mut StepPlan) -> Vec<SnapshotCopy> {
        let mut saves = Vec::new();
        for entry in &mut plan.entries {
            self.note_change(entry.key);
            let Some(sample) = self.samples.get_mut(&entry.key) else {
                entry.sample_on = SampleOn::None;
                continue;
            };
            let Some(constraint) = sample.mask.as_mut().filter(|_| entry.awaits_mask) else {
                // The backend was given it before the layers.
                entry.mask = entry.mask.map(|(mask, _)| (mask, false));
                continue;
            };
            (entry.awaits_mask, sample.may_rerun) = (false, false);
            if constraint.is_known() && constraint.forced == 0 {
                entry.mask = constraint.mask.place();
            } else {
                entry.sample_on = SampleOn::None;
                sample.pending -= 1;
                if !constraint.is_known() {
                    constraint.keeps_up = false;
                    sample.scheduled -= 1;
                    self.metrics.late_masks += 1;
                }
            }
            if (entry.start + entry.tokens).is_multiple_of(PAGE_TOKENS) {
                self.cache_blocks(entry.key, &mut saves);
            }
        }
        saves
    }

    /// Appends tokens to a sample that no step samples.
    fn append_forced(
        &mut self,
        key: Key,
        forced: &[u32],
        now: Instant,
        events: &mut Vec<TokenEvent>,
    ) {
        self.note_change(key);
        for &token in forced {
            let Some(sample) = self.samples.get_mut(&key) else { return };
            self.metrics.forced_tokens += 1;
            let event = sample.record(token, None, now, &mut self.metrics);
            if let Some(mask) = &mut sample.mask {
                mask.forced += 1;
            }
            let finish = event.finish.clone();
            events.push(event);
            if let Some(reason) = finish {
                self.remove(key, &reason);
            }
        }
    }
}
