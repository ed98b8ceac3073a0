//! The policy of a step: which tokens make up the next batch. Each running sample that generates has one token, with
//! draft tokens where drafts are on. Then waiting samples start, as far as sequence slots and pages last, and what is left
//! of the budget of tokens goes to chunks of prompts. [`super::fairness`] decides who starts and how the prompts share the
//! budget, [`super::prompt_pace`] how large it is where others generate. A sample that needs a page when none is left
//! preempts a sample whose reader is slow, or the last one in order of [`Key`], which goes back to wait and computes again.
//!
//! The first sample in order is never preempted for pages, nor the only one of its request for a slot, so every request
//! comes to its end.

use std::time::Instant;

use super::constraint::Constraint;
use super::draft;
use super::pages::PrefixHit;
use super::sample::{Key, Sample};
use super::scheduler::Scheduler;
use super::step_plan::{PlanEntry, SampleOn, SnapshotCopy, StepPlan};
use crate::backend::{Input, LogitRows, PAGE_TOKENS, RowSampling, Sequence};

/// Tokens of a chunk whose rows are all returned: bounds the memory of logits.
const REPORTED_CHUNK: usize = 32;

/// Waiting samples that a step passes over, at most, because another one is about to read a prefix that they share. So a
/// step looks at few samples however many of them wait for the same prefix.
const MAX_PASSED_OVER: usize = 256;

/// What a sample would run next.
struct Candidate {
    key: Key,
    tokens: usize,
    draft: Vec<u32>,
}

impl Scheduler {
    /// The next step. It is empty if every running sample waits for results.
    pub(super) fn schedule(&mut self, now: Instant) -> StepPlan {
        let mut plan = StepPlan::default();
        let before = self.metrics.preemptions;
        self.preempt_for_waiting();
        let preempted = self.metrics.preemptions;
        let mut budget = self.step_tokens;
        let mut candidates = self.generating(&mut budget);
        if self.some_generate() {
            budget = budget.min(self.prompt_pace.most_tokens(self.prompt_context()));
        }
        for candidate in &mut candidates {
            self.allocate_pages(candidate);
        }
        let mut started = Vec::new();
        if self.metrics.preemptions == preempted && budget > 0 {
            started = self.admit(&mut plan, now);
        }
        for (key, tokens) in self.share_prompt_tokens(&started, budget) {
            let mut candidate = Candidate { key, tokens, draft: Vec::new() };
            self.allocate_pages(&mut candidate);
            candidates.push(candidate);
        }
        // A candidate that was preempted for another yields no entry.
        for candidate in candidates {
            let Some(entry) = self.add_entry(candidate) else { continue };
            if self.lacks_history(&entry) {
                plan.histories.push(entry.key);
            }
            plan.entries.push(entry);
        }
        plan.preemptions = self.metrics.preemptions - before;
        plan
    }

    /// The most tokens that a prompt which is being read has before those that it reads next.
    fn prompt_context(&self) -> usize {
        let running = self.running.iter().filter_map(|key| self.samples.get(key));
        let reading = running.filter(|sample| !sample.generates());
        reading.map(|sample| sample.tokens.len() - sample.unscheduled()).max().unwrap_or(0)
    }

    /// While the first waiting sample has no room, preempts samples whose reader is slow, samples of a lower priority, and
    /// for a slot those of a request that has more than its share.
    fn preempt_for_waiting(&mut self) {
        while let Some(first) = self.first_waiting()
            && !self.waits_for_prefix(first)
            && let Some(sample) = self.samples.get(&first)
            && (self.free_seq_slots.is_empty()
                || !self.fits(sample.tokens.len().div_ceil(PAGE_TOKENS), self.reserved_pages()))
        {
            let held = |key: &&Key| self.samples.get(key).is_some_and(|sample| sample.held);
            let priority = sample.request.priority;
            let lower = |key: &&Key| {
                // One that is earlier in order despite its priority has aged.
                **key > first
                    && self.samples.get(key).is_some_and(|other| other.request.priority > priority)
            };
            let last = self.running.iter().rev();
            let victim = last.clone().find(held).or(last.clone().next().filter(lower)).copied();
            let no_slot = self.free_seq_slots.is_empty();
            let share = || no_slot.then(|| self.over_share(first)).flatten();
            let Some(victim) = victim.or_else(share) else { return };
            self.preempt(victim);
        }
    }

    /// Pages that running samples will need for the rest of the prompts that are being read.
    fn reserved_pages(&self) -> usize {
        let missing = |key: &Key| {
            let sample = self.samples.get(key)?;
            Some(sample.tokens.len().div_ceil(PAGE_TOKENS).saturating_sub(sample.pages.len()))
        };
        self.running.iter().filter_map(missing).sum()
    }

    /// Whether this many pages can be allocated besides those that are reserved, and one page soon for every four samples
    /// that run.
    fn fits(&self, needed: usize, reserved: usize) -> bool {
        let spare = self.running.len().div_ceil(4);
        self.running.is_empty() || self.pages.available() >= needed + reserved + spare
    }

    /// What the running samples that generate would do within the budget.
    fn generating(&self, budget: &mut usize) -> Vec<Candidate> {
        let running = self.running.iter().filter_map(|key| self.samples.get(key));
        let ready: Vec<&Sample> =
            running.filter(|sample| !sample.held && self.is_ready(sample)).collect();
        let mut candidates = Vec::new();
        for sample in ready.iter().filter(|sample| sample.generates()) {
            // The last known token, or one that a step in flight samples, and those that a mask has forced after it.
            let tokens = sample.unscheduled().max(1).min(*budget).min(self.max_append);
            if tokens > 0 {
                candidates.push(Candidate { key: sample.key, tokens, draft: Vec::new() });
                *budget -= tokens;
            }
        }
        if self.draft_tokens > 0 {
            let mut rows = self.spare_rows();
            for candidate in &mut candidates {
                candidate.draft = self.draft(candidate.key, rows.min(*budget));
                let drafted = candidate.draft.len().saturating_sub(1);
                candidate.tokens += drafted;
                *budget -= drafted;
                rows -= drafted;
            }
        }
        candidates
    }

    /// Whether a running sample generates whose reader takes its tokens.
    fn some_generate(&self) -> bool {
        let mut running = self.running.iter().filter_map(|key| self.samples.get(key));
        running.any(|sample| !sample.held && sample.generates())
    }

    /// Rows from which a step may sample besides one for each sample that runs or may start.
    fn spare_rows(&self) -> usize {
        let starting = self.waiting.len().min(self.free_seq_slots.len());
        self.max_sampled_rows.saturating_sub(self.running.len() + starting)
    }

    /// Whether a sample's next tokens can be scheduled now, though its last results may not be known.
    pub(super) fn is_ready(&self, sample: &Sample) -> bool {
        if let Some(constraint) = &sample.mask {
            return self.is_ready_with_mask(sample, constraint);
        }
        if sample.pending == 0 || sample.draft_in_flight {
            return sample.pending == 0;
        }
        let scheduled = sample.generated() + sample.pending;
        // A draft needs every token before it, which is worth waiting for only while the text repeats itself.
        let drafts = self.may_draft(sample, scheduled) && draft::is_repeating(&sample.tokens);
        !drafts && !sample.needs_host() && scheduled < sample.request.max_tokens
    }

    /// The same for a sample with a mask, which depends on all tokens before it. Its layers do not, so they may run first.
    fn is_ready_with_mask(&self, sample: &Sample, constraint: &Constraint) -> bool {
        let apart = self.samples_apart && constraint.keeps_up && !sample.needs_host();
        match sample.pending {
            0 => constraint.is_known() || sample.unscheduled() > 1 || apart,
            1 => apart && sample.generated() + 1 < sample.request.max_tokens,
            _ => false,
        }
    }

    /// Whether a draft may be made after `generated` tokens of a sample. The rows of a draft are sampled alike: what
    /// differs from one to the next is a mask, the history that penalties count, and whether stop tokens are forbidden.
    fn may_draft(&self, sample: &Sample, generated: usize) -> bool {
        let params = &sample.request.params;
        let alike = sample.mask.is_none() && params.penalties().is_none();
        alike
            && generated >= params.min_tokens
            && sample.drafts.length(generated, self.draft_tokens) > 0
    }

    /// Tokens of a sample's next chunk.
    pub(super) fn chunk(&self, sample: &Sample, budget: usize) -> usize {
        let on_host = SampleOn::of_prompt_report(sample, sample.scheduled) == SampleOn::Host;
        let rows = if on_host { REPORTED_CHUNK } else { usize::MAX };
        // Without its mask the next token cannot be sampled, so the last known one waits.
        let known = sample.unscheduled() - usize::from(!sample.mask_is_known());
        known.min(budget).min(self.max_append).min(rows)
    }

    /// The last known token and a draft of those after it, or nothing.
    fn draft(&self, key: Key, budget: usize) -> Vec<u32> {
        let Some(sample) = self.samples.get(&key) else { return Vec::new() };
        let left = sample.request.max_tokens.saturating_sub(sample.generated() + 1);
        let length = sample.drafts.length(sample.generated(), self.draft_tokens);
        let most = self.max_revised_tokens.min(self.max_append) - 1;
        let length = length.min(left).min(budget).min(most);
        let may_draft = self.may_draft(sample, sample.generated());
        if !may_draft || sample.unscheduled() != 1 || length == 0 {
            return Vec::new();
        }
        let draft = draft::propose(&sample.tokens, length);
        if draft.is_empty() {
            return draft;
        }
        [&sample.tokens[sample.scheduled..], &draft].concat()
    }

    /// Allocates the pages that a candidate needs. If only a draft would make it preempt others, it drops the draft.
    fn allocate_pages(&mut self, candidate: &mut Candidate) {
        let missing = |scheduler: &Scheduler, tokens: usize| {
            let sample = scheduler.samples.get(&candidate.key);
            sample.filter(|sample| sample.seq_slot.is_some()).map(|sample| {
                let needed = (sample.scheduled + tokens).div_ceil(PAGE_TOKENS);
                needed.saturating_sub(sample.pages.len())
            })
        };
        if !candidate.draft.is_empty()
            && missing(self, candidate.tokens)
                .is_some_and(|missing| missing > self.pages.available())
        {
            candidate.draft.clear();
            candidate.tokens = 1;
        }
        // `None` if it was preempted itself; usually 0 for a sample that generates.
        let Some(missing) = missing(self, candidate.tokens).filter(|&missing| missing > 0) else {
            return;
        };
        while self.pages.available() < missing {
            let victim = self.victim(candidate.key);
            self.preempt(victim);
            if victim == candidate.key {
                return;
            }
        }
        if let Some(sample) = self.samples.get_mut(&candidate.key) {
            sample.pages.extend((0..missing).filter_map(|_| self.pages.allocate()));
        }
    }

    /// The sample that is preempted for `key`: the last whose reader is slow, else the last in order, which may be `key`
    /// itself.
    fn victim(&self, key: Key) -> Key {
        let held = |other: &&Key| {
            **other != key && self.samples.get(other).is_some_and(|sample| sample.held)
        };
        let last = self.running.iter().rev().find(held).or(self.running.last());
        last.copied().unwrap_or(key)
    }

    /// Makes a candidate an entry of the step, if its sample still runs.
    fn add_entry(&mut self, candidate: Candidate) -> Option<PlanEntry> {
        self.note_change(candidate.key);
        let sample = self.samples.get_mut(&candidate.key)?;
        let seq_slot = sample.seq_slot?;
        let last = candidate.tokens >= sample.unscheduled();
        let sample_on = match (last, sample.needs_host()) {
            (false, _) => SampleOn::None,
            (true, true) => SampleOn::Host,
            (true, false) => SampleOn::Device,
        };
        // The mask that is known is that of a token in flight, if there is one.
        let awaits_mask = sample_on == SampleOn::Device
            && sample.mask.is_some()
            && (sample.pending > 0 || !sample.mask_is_known());
        let entry = PlanEntry {
            key: candidate.key,
            epoch: sample.epoch,
            seq_slot,
            start: sample.scheduled,
            tokens: candidate.tokens,
            sample_on,
            forbids_stops: sample.generated() + sample.pending < sample.request.params.min_tokens,
            report_prompt_on: SampleOn::of_prompt_report(sample, sample.scheduled),
            draft: candidate.draft,
            mask: match sample_on {
                SampleOn::Device if !awaits_mask => {
                    sample.mask.as_ref().and_then(|mask| mask.mask.place())
                }
                _ => None,
            },
            awaits_mask,
        };
        if let Some(mask) = &mut sample.mask {
            mask.forced = 0;
        }
        sample.scheduled += entry.tokens;
        sample.pending += usize::from(last);
        sample.may_rerun = awaits_mask;
        sample.draft_in_flight = !entry.draft.is_empty();
        Some(entry)
    }

    /// Whether an entry is sampled with penalties by a backend that lacks the history for them; from now on it has it.
    fn lacks_history(&mut self, entry: &PlanEntry) -> bool {
        let Some(sample) = self.samples.get_mut(&entry.key) else { return false };
        let needs =
            entry.sample_on == SampleOn::Device && sample.request.params.penalties().is_some();
        needs && !std::mem::replace(&mut sample.history_on_device, true)
    }

    /// Starts waiting samples, as far as sequence slots and pages last, and returns them.
    fn admit(&mut self, plan: &mut StepPlan, now: Instant) -> Vec<Key> {
        let mut started = Vec::new();
        if !self.admits || self.free_seq_slots.is_empty() || self.waiting.is_empty() {
            return started;
        }
        self.settle_changes();
        let mut reserved = self.reserved_pages();
        // Nothing here looks at it while it is walked through.
        let waiting = std::mem::take(&mut self.waiting);
        let mut passed_over = 0;
        for key in waiting.order(self.metrics.steps) {
            if self.free_seq_slots.is_empty() || passed_over == MAX_PASSED_OVER {
                break;
            }
            if self.waits_for_prefix(key) {
                passed_over += 1;
                continue;
            }
            let Some(load) = self.start(key, now, &mut reserved) else { break };
            plan.loads.extend(load);
            started.push(key);
        }
        self.waiting = waiting;
        for &key in &started {
            if let Some(claimant) = self.waiting.claimant(key) {
                self.waiting.remove(key);
                self.waiting.add_running(claimant);
            }
        }
        started
    }

    /// Gives a waiting sample a sequence slot and the cached prefix that it can resume, and returns the snapshot to load.
    /// `None` if its known tokens would not fit beside the running samples, which will need `reserved` pages.
    #[allow(
        clippy::option_option,
        reason = "outer: whether it starts; inner: whether a snapshot is to be loaded"
    )]
    fn start(
        &mut self,
        key: Key,
        now: Instant,
        reserved: &mut usize,
    ) -> Option<Option<SnapshotCopy>> {
        let sample = self.samples.get(&key)?;
        // Logprobs of the prompt need all of it to run.
        let hit = if sample.reports_prompt() {
            PrefixHit::default()
        } else {
            self.pages.lookup(&sample.tokens, sample.request.salt)
        };
        let needed = sample.tokens.len().div_ceil(PAGE_TOKENS) - hit.pages.len();
        if !self.fits(needed, *reserved) {
            hit.pages.iter().rev().for_each(|&page| self.pages.release(page));
            return None;
        }
        let seq_slot = self.free_seq_slots.pop()?;
        self.running.insert(key);
        *reserved += needed;
        let Scheduler { samples, metrics, .. } = self;
        let sample = samples.get_mut(&key)?;
        let end = hit.pages.len() * PAGE_TOKENS;
        if sample.started_at.is_none() {
            sample.started_at = Some(now);
            sample.cached_tokens = end;
            metrics.prompt_tokens += sample.request.prompt.len() as u64;
            metrics.cached_tokens += end as u64;
            metrics.prefix_queries += sample.request.prompt.len() as u64;
            let waited = now.saturating_duration_since(sample.request.arrived);
            metrics.queue_seconds.add(waited.as_secs_f64());
        }
        (sample.cached_blocks, sample.scheduled) = (hit.pages.len(), end);
        (sample.seq_slot, sample.divergence) = (Some(seq_slot), hit.matched);
        sample.pages = hit.pages;
        self.request_mask(key);
        Some(hit.snapshot.map(|snapshot| SnapshotCopy { snapshot, seq_slot, end }))
    }

    /// The plan in the form that the backend takes.
    pub(super) fn sequences<'a>(&'a self, plan: &'a StepPlan) -> Vec<Sequence<'a>> {
        let sequence = |entry: &'a PlanEntry| {
            let sample = self.samples.get(&entry.key)?;
            let end = entry.start + entry.tokens;
            let input = match sample.tokens.get(entry.start..end) {
                _ if !entry.draft.is_empty() && entry.sample_on == SampleOn::Device => {
                    Input::Draft(&entry.draft)
                }
                _ if !entry.draft.is_empty() => Input::Tokens(&entry.draft),
                Some(tokens) => Input::Tokens(tokens),
                None => Input::Sampled,
            };
            Some(Sequence {
                seq_slot: entry.seq_slot,
                start: entry.start,
                input,
                pages: &sample.pages[..end.div_ceil(PAGE_TOKENS)],
                sample: (entry.sample_on == SampleOn::Device).then(|| entry.row_sampling(sample)),
                prompt_report: (entry.report_prompt_on == SampleOn::Device)
                    .then(|| entry.prompt_report(sample)),
                logits: match entry.sample_on {
                    _ if entry.report_prompt_on == SampleOn::Host => LogitRows::All,
                    SampleOn::Host if entry.draft.is_empty() => LogitRows::Last,
                    SampleOn::Host => LogitRows::All,
                    SampleOn::None | SampleOn::Device => LogitRows::None,
                },
            })
        };
        plan.entries.iter().filter_map(sequence).collect()
    }

    /// How each entry of a plan is sampled on the device, if it is.
    pub(super) fn row_samplings<'a>(&'a self, plan: &'a StepPlan) -> Vec<Option<RowSampling<'a>>> {
        let row = |entry: &'a PlanEntry| {
            let sample = self.samples.get(&entry.key)?;
            (entry.sample_on == SampleOn::Device).then(|| entry.row_sampling(sample))
        };
        plan.entries.iter().map(row).collect()
    }
}
