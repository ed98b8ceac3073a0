//! The policy of a step. Running samples come first, in order of [`Key`]: one token each for those that answer, with
//! guesses where drafts are on, then prompts in chunks, all within the budget of tokens. A sample that needs a page
//! when none is left takes those of a sample whose reader is slow, or of the last one in order, which waits and
//! computes again. What is left of the budget goes to waiting samples, in order, as far as slots and pages last.
//!
//! The first sample in order never gives way, so every request comes to its end.

use std::time::Instant;

use super::draft;
use super::pages::Hit;
use super::plan::{Drawer, Entry, Plan, TailCopy};
use super::sample::{Key, Sample};
use super::scheduler::Scheduler;
use crate::backend::{Input, LogitRows, PAGE_TOKENS, Sequence};

/// Tokens of a chunk whose rows all come back: bounds the memory of logits.
const REPORTED_CHUNK: usize = 32;

/// What a sample would run next.
struct Want {
    key: Key,
    tokens: usize,
    drafted: Vec<u32>,
}

impl Scheduler {
    /// What runs next: nothing if every running sample waits for results.
    pub(super) fn schedule(&mut self, now: Instant) -> Plan {
        let mut plan = Plan::default();
        self.make_way();
        let preempted = self.metrics.preemptions;
        let mut budget = self.step_tokens;
        let mut wants = self.wants(&mut budget);
        // Pages in order, so that whoever gives way has none planned yet; entries as they were wanted.
        let mut order: Vec<usize> = (0..wants.len()).collect();
        order.sort_unstable_by_key(|&at| wants[at].key);
        for at in order {
            self.secure(&mut wants[at]);
        }
        for want in wants {
            plan.entries.extend(self.enter(want));
        }
        if self.metrics.preemptions == preempted {
            self.admit(&mut plan, &mut budget, now);
        }
        plan
    }

    /// While the first waiting sample has no room, sends back those whose reader is slow and those of worse priority.
    fn make_way(&mut self) {
        while let Some(first) = self.waiting.first().copied().filter(|&key| self.may_begin(key))
            && let Some(sample) = self.samples.get(&first)
            && (self.free_slots.is_empty() || !self.fits(sample.tokens.len().div_ceil(PAGE_TOKENS)))
        {
            let held = |key: &&Key| self.samples.get(key).is_some_and(|sample| sample.held);
            let worse = |key: &&Key| key.priority > first.priority;
            let last = self.running.iter().rev();
            let Some(&victim) = last.clone().find(held).or(last.clone().next().filter(worse))
            else {
                return;
            };
            self.preempt(victim);
        }
    }

    /// Whether this many pages can be had beside what running samples were promised: those of prompts that are being
    /// read, and one soon for every few answers.
    fn fits(&self, needed: usize) -> bool {
        let unread = |key: &Key| {
            let sample = self.samples.get(key)?;
            Some(sample.tokens.len().div_ceil(PAGE_TOKENS).saturating_sub(sample.pages.len()))
        };
        let promised: usize = self.running.iter().filter_map(unread).sum();
        let spare = self.running.len().div_ceil(4);
        self.running.is_empty() || self.pages.available() >= needed + promised + spare
    }

    /// What running samples would do within the budget: answers first, then prompts.
    fn wants(&self, budget: &mut usize) -> Vec<Want> {
        let running = self.running.iter().filter_map(|key| self.samples.get(key));
        let ready: Vec<&Sample> =
            running.filter(|sample| !sample.held && self.is_ready(sample)).collect();
        let mut wants = Vec::new();
        for sample in ready.iter().filter(|sample| sample.unread() <= 1) {
            if *budget > 0 {
                wants.push(Want { key: sample.key, tokens: 1, drafted: Vec::new() });
                *budget -= 1;
            }
        }
        if self.draft_tokens > 0 {
            for want in &mut wants {
                want.drafted = self.draft(want.key, *budget);
                let guesses = want.drafted.len().saturating_sub(1);
                want.tokens += guesses;
                *budget -= guesses;
            }
        }
        for sample in ready.iter().filter(|sample| sample.unread() > 1) {
            let tokens = self.chunk(sample, *budget);
            if tokens > 0 {
                wants.push(Want { key: sample.key, tokens, drafted: Vec::new() });
                *budget -= tokens;
            }
        }
        wants
    }

    /// Whether a sample's next tokens can be planned now, though its last results may not be known.
    fn is_ready(&self, sample: &Sample) -> bool {
        if sample.pending == 0 || sample.guessed {
            return sample.pending == 0;
        }
        let planned = sample.generated() + sample.pending;
        // To guess, all that came before must be known, which is worth waiting for only while the text copies itself.
        let guesses = self.may_draft(sample, planned) && draft::copies(&sample.tokens);
        !guesses && !sample.needs_host() && planned < sample.request.max_tokens
    }

    /// Whether guesses are to be tried after `generated` tokens of a sample.
    fn may_draft(&self, sample: &Sample, generated: usize) -> bool {
        sample.mask.is_none() && sample.drafting.ahead(generated, self.draft_tokens) > 0
    }

    /// Tokens of a sample's next chunk.
    fn chunk(&self, sample: &Sample, budget: usize) -> usize {
        let most = if sample.reports_prompt() { REPORTED_CHUNK } else { usize::MAX };
        sample.unread().min(budget).min(self.max_append).min(most)
    }

    /// The last known token and guesses at those after it, or nothing.
    fn draft(&self, key: Key, budget: usize) -> Vec<u32> {
        let Some(sample) = self.samples.get(&key) else { return Vec::new() };
        let left = sample.request.max_tokens.saturating_sub(sample.generated() + 1);
        let most = sample.drafting.ahead(sample.generated(), self.draft_tokens);
        let most = most.min(left).min(budget).min(self.max_append - 1);
        if sample.mask.is_some() || sample.unread() != 1 || most == 0 {
            return Vec::new();
        }
        let guesses = draft::guess(&sample.tokens, most);
        if guesses.is_empty() {
            return guesses;
        }
        [&sample.tokens[sample.planned..], &guesses].concat()
    }

    /// Gets a sample the pages that it wants; if others must give way for mere guesses, it goes without these.
    fn secure(&mut self, want: &mut Want) {
        let missing = |scheduler: &Scheduler, tokens: usize| {
            let sample = scheduler.samples.get(&want.key).filter(|sample| sample.slot.is_some());
            sample.map(|sample| {
                (sample.planned + tokens).div_ceil(PAGE_TOKENS).saturating_sub(sample.pages.len())
            })
        };
        if !want.drafted.is_empty()
            && missing(self, want.tokens).is_some_and(|missing| missing > self.pages.available())
        {
            want.drafted.clear();
            want.tokens = 1;
        }
        // `None`: it had to give way itself; 0: most answers, most of the time.
        let Some(missing) = missing(self, want.tokens).filter(|&missing| missing > 0) else {
            return;
        };
        while self.pages.available() < missing {
            let victim = self.victim(want.key);
            self.preempt(victim);
            if victim == want.key {
                return;
            }
        }
        if let Some(sample) = self.samples.get_mut(&want.key) {
            sample.pages.extend((0..missing).filter_map(|_| self.pages.take()));
        }
    }

    /// Who gives way to `key`: the last whose reader is slow, else the last in order, which may be itself.
    fn victim(&self, key: Key) -> Key {
        let held = |other: &&Key| {
            **other != key && self.samples.get(other).is_some_and(|sample| sample.held)
        };
        let last = self.running.iter().rev().find(held).or(self.running.last());
        last.copied().unwrap_or(key)
    }

    /// Plans what a sample wants, if it still runs.
    fn enter(&mut self, want: Want) -> Option<Entry> {
        let sample = self.samples.get_mut(&want.key)?;
        let slot = sample.slot?;
        let last = want.tokens >= sample.unread();
        let engine = sample.needs_host() || !want.drafted.is_empty();
        let drawer = match (last, engine) {
            (false, _) => Drawer::Nobody,
            (true, true) => Drawer::Engine,
            (true, false) => Drawer::Backend,
        };
        let entry = Entry {
            key: want.key,
            epoch: sample.epoch,
            slot,
            start: sample.planned,
            tokens: want.tokens,
            drawer,
            reports_prompt: sample.reports_prompt(),
            drafted: want.drafted,
        };
        sample.planned += entry.tokens;
        sample.pending += usize::from(last);
        sample.guessed = !entry.drafted.is_empty();
        Some(entry)
    }

    /// Gives slots, pages and first chunks to waiting samples, in order.
    fn admit(&mut self, plan: &mut Plan, budget: &mut usize, now: Instant) {
        let waiting: Vec<Key> = if self.free_slots.is_empty() || *budget == 0 {
            Vec::new()
        } else {
            self.waiting.iter().copied().collect()
        };
        for key in waiting {
            if self.free_slots.is_empty() || *budget == 0 {
                return;
            }
            if !self.may_begin(key) {
                continue;
            }
            let Some(load) = self.begin(key, now) else { return };
            plan.loads.extend(load);
            let tokens = self.samples.get(&key).map_or(0, |sample| self.chunk(sample, *budget));
            let mut want = Want { key, tokens, drafted: Vec::new() };
            self.secure(&mut want);
            *budget -= tokens;
            plan.entries.extend(self.enter(want));
        }
    }

    /// Whether a waiting sample's turn may come: not while a draw of it is under way or its reader is slow, and not
    /// before the request's first sample has read the prompt that they share.
    fn may_begin(&self, key: Key) -> bool {
        let ready =
            self.samples.get(&key).is_some_and(|sample| !sample.held && sample.pending == 0);
        let first = self.samples.get(&Key { index: 0, ..key });
        let reading = key.index > 0
            && first.is_some_and(|first| first.generated() + first.pending == 0 && !first.held);
        ready && !(reading && self.pages.keeps())
    }

    /// Gives a waiting sample a slot, and what a cached prefix spares it: the tail to load. `None` if its known tokens
    /// would not fit beside those who run.
    #[allow(
        clippy::option_option,
        reason = "outer: whether it begins; inner: whether a tail is to be loaded"
    )]
    fn begin(&mut self, key: Key, now: Instant) -> Option<Option<TailCopy>> {
        let sample = self.samples.get(&key)?;
        // Logprobs of the prompt need all of it to run.
        let hit = if sample.reports_prompt() {
            Hit::default()
        } else {
            self.pages.lookup(&sample.tokens, sample.request.salt)
        };
        if !self.fits(sample.tokens.len().div_ceil(PAGE_TOKENS) - hit.pages.len()) {
            hit.pages.iter().rev().for_each(|&page| self.pages.release(page));
            return None;
        }
        let slot = self.free_slots.pop()?;
        self.waiting.remove(&key);
        self.running.insert(key);
        let Scheduler { samples, metrics, .. } = self;
        let sample = samples.get_mut(&key)?;
        let end = hit.pages.len() * PAGE_TOKENS;
        if sample.begun.is_none() {
            sample.begun = Some(now);
            sample.cached_tokens = end;
            metrics.prompt_tokens += sample.request.prompt.len() as u64;
            metrics.cached_tokens += end as u64;
            metrics.prefix_queries += sample.request.prompt.len() as u64;
            let waited = now.saturating_duration_since(sample.request.arrived);
            metrics.queue_seconds.add(waited.as_secs_f64());
        }
        (sample.nodes, sample.planned, sample.slot) = (hit.pages.len(), end, Some(slot));
        sample.parted = hit.matched;
        sample.pages = hit.pages;
        Some(hit.tail.map(|tail| TailCopy { tail, slot, end }))
    }

    /// The plan as the backend wants it.
    pub(super) fn sequences<'a>(&'a self, plan: &'a Plan) -> Vec<Sequence<'a>> {
        let sequence = |entry: &'a Entry| {
            let sample = self.samples.get(&entry.key)?;
            let end = entry.start + entry.tokens;
            let input = match sample.tokens.get(entry.start..end) {
                _ if !entry.drafted.is_empty() => Input::Tokens(&entry.drafted),
                Some(tokens) => Input::Tokens(tokens),
                None => Input::Sampled,
            };
            let sampling = || sample.request.params.sampling(entry.key.index);
            Some(Sequence {
                slot: entry.slot,
                start: entry.start,
                input,
                pages: &sample.pages[..end.div_ceil(PAGE_TOKENS)],
                sample: (entry.drawer == Drawer::Backend).then(sampling),
                logits: match entry.drawer {
                    _ if entry.reports_prompt => LogitRows::All,
                    Drawer::Engine if entry.drafted.is_empty() => LogitRows::Last,
                    Drawer::Engine => LogitRows::All,
                    Drawer::Nobody | Drawer::Backend => LogitRows::None,
                },
            })
        };
        plan.entries.iter().filter_map(sequence).collect()
    }
}
