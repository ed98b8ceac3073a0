//! Requests, slots and pages: who waits, who runs, and what becomes of each. It knows no backend: `schedule` gives a
//! [`Plan`], `submitted` hears that the backend took it, and `postprocess` takes its output back. Several plans may be
//! under way at once; they come back in order, and a backend runs them in order, so a page or a slot that one plan is
//! the last to use may be given to a later plan at once.
//!
//! [`super::schedule`] holds the policy of a step, [`super::results`] what its output means.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::Policy;
use super::accept::Accepted;
use super::metrics::Metrics;
use super::pages::{PageCache, Parent};
use super::plan::{Plan, TailCopy};
use super::request::{FinishReason, RequestId, TokenEvent};
use super::sample::{Key, Sample, Samples};
use crate::Limits;
use crate::backend::PAGE_TOKENS;

/// Ends of pages at which a prompt's tail is kept: every so many pages, and every so many for longer.
const TAIL_PAGES: usize = 2;
const ANCHOR_PAGES: usize = 16;

/// All samples and what they hold.
#[derive(Debug)]
pub(super) struct Scheduler {
    pub(super) samples: Samples,
    pub(super) waiting: BTreeSet<Key>,
    pub(super) running: BTreeSet<Key>,
    /// Samples of each request.
    requests: HashMap<RequestId, Vec<Key>>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    pub(super) free_slots: Vec<usize>,
    pub(super) pages: PageCache,
    pub(super) step_tokens: usize,
    pub(super) max_append: usize,
    pub(super) draft_tokens: usize,
    pub(super) vocab: usize,
    pub(super) metrics: Metrics,
}

impl Scheduler {
    /// For a backend with these limits; `max_append` bounds one sequence's share of a step, `tails` is what
    /// [`PageCache::new`] takes.
    pub(super) fn new(
        limits: &Limits,
        max_append: usize,
        vocab: usize,
        policy: &Policy,
        tails: Option<usize>,
    ) -> Scheduler {
        Scheduler {
            samples: Samples::default(),
            waiting: BTreeSet::new(),
            running: BTreeSet::new(),
            requests: HashMap::new(),
            deadlines: BTreeSet::new(),
            free_slots: (0..limits.max_sequences).rev().collect(),
            pages: PageCache::new(limits.pages, policy.prefix_cache, tails),
            step_tokens: limits.max_step_tokens,
            max_append,
            draft_tokens: policy.draft_tokens,
            vocab,
            metrics: Metrics::new(limits.pages),
        }
    }

    /// Queues a request that was checked against the limits.
    pub(super) fn push(&mut self, request: Accepted) {
        self.metrics.requests += 1;
        self.metrics.request_prompt_tokens.add(request.prompt.len() as f64);
        if let Some(deadline) = request.deadline {
            self.deadlines.insert((deadline, request.id));
        }
        let request = Arc::new(request);
        let mut keys = Vec::with_capacity(request.params.n);
        for index in 0..request.params.n {
            let sample = Sample::new(&request, index, self.vocab);
            keys.push(sample.key);
            self.waiting.insert(sample.key);
            self.samples.insert(sample.key, sample);
        }
        self.requests.insert(request.id, keys);
    }

    /// Whether nothing waits or runs.
    pub(super) fn idle(&self) -> bool {
        self.samples.is_empty()
    }

    /// Whether every sample waits for its reader.
    pub(super) fn all_held(&self) -> bool {
        self.samples.values().all(|sample| sample.held)
    }

    /// Forgets a request; no event of it comes any more. Unknown and finished ones are ignored.
    pub(super) fn cancel(&mut self, id: RequestId) {
        for key in self.requests.get(&id).cloned().unwrap_or_default() {
            self.remove(key, &FinishReason::Cancelled);
        }
    }

    /// Holds a request, or goes on with it.
    pub(super) fn set_held(&mut self, id: RequestId, held: bool) {
        for key in self.requests.get(&id).into_iter().flatten() {
            if let Some(sample) = self.samples.get_mut(key) {
                sample.held = held;
            }
        }
    }

    /// The next moment at which a request ends by itself.
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

    /// Ends every sample: no step can run any more.
    pub(super) fn fail_all(&mut self, why: &Arc<str>) -> Vec<TokenEvent> {
        let mut keys: Vec<Key> = self.samples.keys().copied().collect();
        keys.sort_unstable();
        let failed = |key| self.end(key, FinishReason::Failed(why.clone()));
        keys.into_iter().filter_map(failed).collect()
    }

    /// Ends one sample without a token.
    pub(super) fn end(&mut self, key: Key, why: FinishReason) -> Option<TokenEvent> {
        let event = self.samples.get_mut(&key)?.end(why.clone());
        self.remove(key, &why);
        Some(event)
    }

    /// Frees what a sample holds and forgets it.
    pub(super) fn remove(&mut self, key: Key, why: &FinishReason) {
        self.give_up(key);
        self.waiting.remove(&key);
        let Some(sample) = self.samples.remove(&key) else { return };
        sample.count_end(why, Instant::now(), &mut self.metrics);
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

    /// Takes a sample's slot and pages; nothing of it is planned any more.
    pub(super) fn give_up(&mut self, key: Key) {
        let Some(sample) = self.samples.get_mut(&key) else { return };
        for (index, page) in sample.pages.drain(..).enumerate().rev() {
            if index < sample.nodes { self.pages.release(page) } else { self.pages.give(page) }
        }
        (sample.nodes, sample.planned, sample.parted, sample.rolling) = (0, 0, 0, None);
        sample.epoch += 1;
        if let Some(slot) = sample.slot.take() {
            self.free_slots.push(slot);
            self.running.remove(&key);
        }
    }

    /// Sends a running sample back to wait; it will compute again what its pages held, as far as no prefix spares it.
    pub(super) fn preempt(&mut self, key: Key) {
        self.give_up(key);
        self.waiting.insert(key);
        self.metrics.preemptions += 1;
    }

    /// Notes that the backend took a plan: full pages with known tokens become nodes. Gives the tails to save.
    pub(super) fn submitted(&mut self, plan: &Plan) -> Vec<TailCopy> {
        let mut saves = Vec::new();
        for entry in &plan.entries {
            // Else no page was filled.
            if (entry.start + entry.tokens) / PAGE_TOKENS > entry.start / PAGE_TOKENS {
                self.publish(entry.key, &mut saves);
            }
        }
        saves
    }

    /// Makes nodes of a sample's full pages whose tokens are known and planned.
    pub(super) fn publish(&mut self, key: Key, saves: &mut Vec<TailCopy>) {
        let Scheduler { samples, pages, .. } = self;
        let Some(sample) = samples.get_mut(&key).filter(|_| pages.keeps()) else { return };
        let Some(slot) = sample.slot else { return };
        let full = sample.planned.min(sample.tokens.len()) / PAGE_TOKENS;
        while sample.nodes < full {
            let at = sample.nodes;
            let parent = match at.checked_sub(1) {
                None => Parent::Root(sample.request.salt),
                Some(before) => Parent::Page(sample.pages[before]),
            };
            let tokens = &sample.tokens[at * PAGE_TOKENS..(at + 1) * PAGE_TOKENS];
            let page = pages.publish(parent, tokens, sample.pages[at]);
            sample.pages[at] = page;
            sample.nodes += 1;
            if let Some(tail) = keep_tail(sample, pages, page) {
                saves.push(TailCopy { tail, slot, end: sample.nodes * PAGE_TOKENS });
            }
        }
    }

    /// Brings the gauges up to date.
    pub(super) fn gauge(&mut self) {
        let metrics = &mut self.metrics;
        (metrics.waiting, metrics.running) = (self.waiting.len(), self.running.len());
        metrics.pages_cached = self.pages.cached();
        metrics.pages_used = metrics.pages_total - self.pages.available();
    }
}

/// The tail to save at the end of a sample's last node, if it is worth one.
fn keep_tail(sample: &mut Sample, pages: &mut PageCache, page: u32) -> Option<usize> {
    let (end, prompt) = (sample.nodes, sample.request.prompt.len());
    if end > prompt / PAGE_TOKENS {
        // While decoding only the latest end is wanted, by whoever goes on with the conversation.
        if let Some(old) = sample.rolling.replace(page) {
            pages.drop_passing_tail(old);
        }
        return pages.keep_tail(page, false);
    }
    let last = end == prompt / PAGE_TOKENS || end == (prompt - 1) / PAGE_TOKENS;
    let anchor = last || end == sample.parted || end.is_multiple_of(ANCHOR_PAGES);
    let kept = anchor || end.is_multiple_of(TAIL_PAGES);
    if kept { pages.keep_tail(page, anchor) } else { None }
}
