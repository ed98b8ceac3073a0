//! Requests, sequence slots and pages: who waits, who runs, and what becomes of each. This module knows no backend.
//! `schedule` makes a [`StepPlan`], `submitted` records that the backend took it, and `postprocess` takes its output.
//! Several plans may be in flight at once; they come back in order, and a backend runs them in order, so a page or a
//! sequence slot whose last use is in one plan may be allocated to a later plan at once.
//!
//! [`super::batch`] holds the policy of a step, [`super::fairness`] who goes first in it, [`super::results`] what its output means.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::clock::Clock;
use super::constraint::Constraint;
use super::mask_threads::SampleMask;
use super::metrics::EngineMetrics;
use super::options::Policy;
use super::pages::{PageCache, Parent};
use super::prompt_pace::PromptPace;
use super::request::{FinishReason, RequestId, TokenEvent};
use super::sample::{Key, Sample, Samples};
use super::step_plan::{SnapshotCopy, StepPlan};
use super::validate::ValidatedRequest;
use super::waiting::WaitingQueue;
use crate::backend::{Backend, PAGE_TOKENS, max_revised_tokens};

/// A prompt's snapshot is saved at the end of every this many pages.
const SNAPSHOT_INTERVAL_PAGES: usize = 2;
/// At the end of every this many pages it is an anchor, which is kept for longer.
const ANCHOR_INTERVAL_PAGES: usize = 16;

/// How many prompt tokens a tenant got while it read prompts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PromptShare {
    pub(super) tokens: u64,
    /// Of these, while there was a choice: to the first in order, and to the group with the fewest left.
    pub(super) in_order: u64,
    pub(super) shortest: u64,
}

/// All samples and what they use.
#[derive(Debug)]
pub(super) struct Scheduler {
    pub(super) samples: Samples,
    pub(super) waiting: WaitingQueue,
    /// Samples of which something has changed that decides whether they, or those that share their prompt, may start.
    changed: Vec<Key>,
    pub(super) running: BTreeSet<Key>,
    /// Whether waiting samples may start.
    pub(super) admits: bool,
    /// How many samples wait for their reader.
    pub(super) held: usize,
    /// Samples of each request.
    requests: HashMap<RequestId, Vec<Key>>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    pub(super) free_seq_slots: Vec<usize>,
    pub(super) pages: PageCache,
    pub(super) step_tokens: usize,
    pub(super) max_append: usize,
    pub(super) max_sampled_rows: usize,
    pub(super) max_revised_tokens: usize,
    pub(super) draft_tokens: usize,
    pub(super) vocab: usize,
    pub(super) metrics: EngineMetrics,
    /// Of the tenants that read prompts.
    pub(super) prompt_shares: BTreeMap<u64, PromptShare>,
    pub(super) prompt_pace: PromptPace,
    /// Whether the layers of a token may run before its mask is known: steps are sampled apart from their layers.
    pub(super) samples_apart: bool,
    /// Samples that need a mask which was not requested yet.
    pub(super) unmasked: Vec<Key>,
    /// Samples whose mask was requested, and when.
    pub(super) masking: Vec<(Key, Instant)>,
    /// Masks of samples that have ended, which are yet to be freed.
    pub(super) ended_masks: Vec<SampleMask>,
    pub(super) clock: Clock,
}

impl Scheduler {
    /// For a backend. `snapshots` is what [`PageCache::new`] takes.
    pub(super) fn new(
        backend: &dyn Backend,
        vocab: usize,
        policy: &Policy,
        snapshots: Option<usize>,
        clock: Clock,
    ) -> Scheduler {
        let limits = backend.limits();
        Scheduler {
            samples: Samples::default(),
            waiting: WaitingQueue::default(),
            changed: Vec::new(),
            held: 0,
            running: BTreeSet::new(),
            admits: true,
            requests: HashMap::new(),
            deadlines: BTreeSet::new(),
            free_seq_slots: (0..limits.max_sequences).rev().collect(),
            pages: PageCache::new(limits.pages, policy.prefix_cache, snapshots),
            step_tokens: limits.max_step_tokens,
            max_append: backend.max_append(),
            max_sampled_rows: backend.max_sampled_rows(),
            max_revised_tokens: max_revised_tokens(&limits),
            draft_tokens: policy.draft_tokens,
            vocab,
            metrics: EngineMetrics::new(limits.pages),
            prompt_shares: BTreeMap::new(),
            prompt_pace: PromptPace::new(policy, |tokens| backend.expected_prompt_time(tokens)),
            samples_apart: false,
            unmasked: Vec::new(),
            masking: Vec::new(),
            ended_masks: Vec::new(),
            clock,
        }
    }

    /// Queues a request.
    pub(super) fn push(&mut self, request: ValidatedRequest) {
        self.metrics.requests += 1;
        self.metrics.request_prompt_tokens.add(request.prompt.len() as f64);
        if let Some(deadline) = request.deadline {
            self.deadlines.insert((deadline, request.id));
        }
        let request = Arc::new(request);
        let mut keys = Vec::with_capacity(request.params.n);
        for index in 0..request.params.n {
            let sample = Sample::new(&request, index, self.vocab, self.metrics.steps);
            keys.push(sample.key);
            self.waiting.insert(sample.key, request.claimant, request.priority);
            self.samples.insert(sample.key, sample);
        }
        // Those that will start soon; the masks of others would be in the way of samples that run.
        let starting = self.free_seq_slots.len().saturating_sub(self.waiting.len() - keys.len());
        keys.iter().take(starting).for_each(|&key| self.request_mask(key));
        self.changed.extend(keys.first());
        self.requests.insert(request.id, keys);
    }

    /// Records that something is about to change that decides whether a sample or those that share its prompt may start:
    /// tokens in flight, or the first token.
    pub(super) fn note_change(&mut self, key: Key) {
        let Some(sample) = self.samples.get(&key) else { return };
        let is_first = key.index == 0 && sample.request.params.n > 1 && sample.generated() == 0;
        if is_first || sample.seq_slot.is_none() {
            self.changed.push(key);
        }
    }

    /// Has the waiting queue know which samples may start.
    pub(super) fn settle_changes(&mut self) {
        let Scheduler { samples, waiting, requests, pages, changed, .. } = self;
        for key in changed.drain(..) {
            let request = requests.get(&RequestId(key.request)).map_or(&[][..], Vec::as_slice);
            // The first sample's prompt is that of the others.
            let concerned = if key.index == 0 { request } else { &[key] };
            for &key in concerned {
                waiting.set_may_start(key, may_start(samples, pages.shares_prefixes(), key));
            }
        }
    }

    /// Whether no sample waits or runs.
    pub(super) fn is_idle(&self) -> bool {
        self.samples.is_empty()
    }

    /// Whether a sample is to run that does not wait for its reader.
    pub(super) fn can_run(&self) -> bool {
        match self.admits {
            true => self.held < self.samples.len(),
            false => self.running.iter().any(|key| !self.samples[key].held),
        }
    }

    /// Removes a request, which yields no further event. Unknown and finished requests are ignored.
    pub(super) fn cancel(&mut self, id: RequestId) {
        for key in self.requests.get(&id).cloned().unwrap_or_default() {
            self.remove(key, &FinishReason::Cancelled);
        }
    }

    /// Holds a request, or resumes it.
    pub(super) fn set_held(&mut self, id: RequestId, held: bool) {
        for key in self.requests.get(&id).into_iter().flatten() {
            let Some(sample) = self.samples.get_mut(key) else { continue };
            if std::mem::replace(&mut sample.held, held) != held {
                self.held = if held { self.held + 1 } else { self.held - 1 };
                self.changed.push(*key);
            }
        }
    }

    /// The earliest deadline of a request.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Ends the requests whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<TokenEvent> {
        let mut events = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first().filter(|(end, _)| *end <= now) {
            self.deadlines.remove(&(deadline, id));
            for key in self.requests.get(&id).cloned().unwrap_or_default() {
                events.extend(self.end(key, FinishReason::Deadline));
            }
        }
        events
    }

    /// Ends every sample without a further token.
    pub(super) fn end_all(&mut self, reason: &FinishReason) -> Vec<TokenEvent> {
        let mut keys: Vec<Key> = self.samples.keys().copied().collect();
        keys.sort_unstable();
        keys.into_iter().filter_map(|key| self.end(key, reason.clone())).collect()
    }

    /// Ends one sample without a token.
    pub(super) fn end(&mut self, key: Key, reason: FinishReason) -> Option<TokenEvent> {
        let event = self.samples.get_mut(&key)?.end(reason.clone());
        self.remove(key, &reason);
        Some(event)
    }

    /// Releases what a sample uses and removes it.
    pub(super) fn remove(&mut self, key: Key, reason: &FinishReason) {
        self.release_resources(key);
        self.waiting.remove(key);
        let Some(mut sample) = self.samples.remove(&key) else { return };
        self.held -= usize::from(sample.held);
        if key.index == 0 {
            self.changed.push(key);
        }
        self.ended_masks.extend(sample.mask.take().map(|constraint| constraint.mask));
        sample.count_end(reason, self.clock.now(), &mut self.metrics);
        let id = sample.request.id;
        if let Some(keys) = self.requests.get_mut(&id) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.requests.remove(&id);
                if let Some(deadline) = sample.request.deadline {
                    self.deadlines.remove(&(deadline, id));
                }
            }
        }
    }

    /// Releases a sample's sequence slot and pages. Nothing of it is scheduled any more.
    fn release_resources(&mut self, key: Key) {
        let Some(sample) = self.samples.get_mut(&key) else { return };
        for (index, page) in sample.pages.drain(..).enumerate().rev() {
            if index < sample.cached_blocks {
                self.pages.release(page);
            } else {
                self.pages.free(page);
            }
        }
        (sample.cached_blocks, sample.scheduled, sample.may_rerun) = (0, 0, false);
        (sample.divergence, sample.tail_page) = (0, None);
        sample.mask.as_mut().into_iter().for_each(Constraint::leave_slot);
        sample.epoch += 1;
        sample.history_on_device = false;
        if let Some(seq_slot) = sample.seq_slot.take() {
            self.free_seq_slots.push(seq_slot);
            self.running.remove(&key);
            self.waiting.remove_running(sample.request.claimant);
        }
    }

    /// Sends a running sample back to the waiting ones. It will compute again what its pages held, except for what a
    /// cached prefix spares it.
    pub(super) fn preempt(&mut self, key: Key) {
        self.release_resources(key);
        if let Some(sample) = self.samples.get(&key) {
            self.waiting.insert(key, sample.request.claimant, sample.request.priority);
            self.changed.push(key);
        }
        self.metrics.preemptions += 1;
    }

    /// Records that the backend took a plan: full pages with known tokens become cached blocks. Returns the snapshots to
    /// save.
    pub(super) fn submitted(&mut self, plan: &StepPlan) -> Vec<SnapshotCopy> {
        let mut saves = Vec::new();
        for entry in &plan.entries {
            // Otherwise the entry filled no page.
            if (entry.start + entry.tokens) / PAGE_TOKENS > entry.start / PAGE_TOKENS {
                self.cache_blocks(entry.key, &mut saves);
            }
        }
        saves
    }

    /// Turns a sample's full pages whose tokens are known and scheduled into cached blocks.
    pub(super) fn cache_blocks(&mut self, key: Key, saves: &mut Vec<SnapshotCopy>) {
        let Scheduler { samples, pages, .. } = self;
        let Some(sample) = samples.get_mut(&key).filter(|_| pages.shares_prefixes()) else {
            return;
        };
        let Some(seq_slot) = sample.seq_slot else { return };
        // What may run again is written once more, which no other sample may see.
        let settled = sample.scheduled - usize::from(sample.may_rerun);
        let full = settled.min(sample.tokens.len()) / PAGE_TOKENS;
        while sample.cached_blocks < full {
            let at = sample.cached_blocks;
            let parent = match at.checked_sub(1) {
                None => Parent::Root(sample.request.salt),
                Some(before) => Parent::Page(sample.pages[before]),
            };
            let tokens = &sample.tokens[at * PAGE_TOKENS..(at + 1) * PAGE_TOKENS];
            let page = pages.insert(parent, tokens, sample.pages[at]);
            sample.pages[at] = page;
            sample.cached_blocks += 1;
            if let Some(snapshot) = allocate_snapshot(sample, pages, page) {
                let end = sample.cached_blocks * PAGE_TOKENS;
                saves.push(SnapshotCopy { snapshot, seq_slot, end });
            }
        }
    }

    /// Updates the gauges of the metrics.
    pub(super) fn update_gauges(&mut self) {
        let metrics = &mut self.metrics;
        (metrics.waiting, metrics.running) = (self.waiting.len(), self.running.len());
        metrics.pages_cached = self.pages.cached();
        metrics.pages_used = metrics.pages_total - self.pages.available();
    }
}

/// Whether a waiting sample may start: not while a token of it is in flight or its reader is slow, and not before the
/// request's first sample has read the prompt that they share.
pub(super) fn may_start(samples: &Samples, shares_prefixes: bool, key: Key) -> bool {
    let ready = samples.get(&key).is_some_and(|sample| !sample.held && sample.pending == 0);
    let first = samples.get(&Key { index: 0, ..key });
    let reading = key.index > 0
        && first.is_some_and(|first| first.generated() + first.pending == 0 && !first.held);
    ready && !(reading && shares_prefixes)
}

/// The snapshot to save at the end of a sample's last cached block, if that place is worth one.
fn allocate_snapshot(sample: &mut Sample, pages: &mut PageCache, page: u32) -> Option<usize> {
    let (end, prompt) = (sample.cached_blocks, sample.request.prompt.len());
    if end > prompt / PAGE_TOKENS {
        // While decoding only the latest end is useful, to a request that continues the conversation.
        if let Some(old) = sample.tail_page.replace(page) {
            pages.free_snapshot_unless_anchor(old);
        }
        return pages.allocate_snapshot(page, false);
    }
    let last = end == prompt / PAGE_TOKENS || end == (prompt - 1) / PAGE_TOKENS;
    let anchor = last || end == sample.divergence || end.is_multiple_of(ANCHOR_INTERVAL_PAGES);
    let saved = anchor || end.is_multiple_of(SNAPSHOT_INTERVAL_PAGES);
    if saved { pages.allocate_snapshot(page, anchor) } else { None }
}
