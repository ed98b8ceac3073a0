//! Who goes first where requests compete: for sequence slots, and for the prompt tokens of a step.
//!
//! *Sequence slots.* Waiting samples start in order of priority; within one priority the tenant with the fewest running
//! samples comes first, then its request or group with the fewest, then the order of arrival. If no slot is free, a
//! waiting sample whose tenant or group runs at least two samples fewer than another preempts the last sample of that
//! other. So a request with many samples occupies the slots that nobody else wants, and gives one back to each newcomer.
//! Each such preemption makes the shares more equal, so it never undoes another.
//!
//! *Prompt tokens.* Tenants that read prompts get equal shares of them; one whose logprobs are reported counts as the many that
//! take as long. Half of a tenant's share goes to its group with
//! the fewest prompt tokens left, so a short prompt never waits for a long one; the other half goes to the first in
//! order, so a long prompt never waits for ever.
//!
//! *Priorities* lose their weight with time, so that no request starves: see
//! [`super::sample::PRIORITY_STEPS`]. [`super::waiting`] keeps the order.

use std::collections::BTreeMap;

use super::sample::{Key, Sample};
use super::scheduler::{PromptShare, Scheduler};
use super::step_plan::SampleOn;
use super::validate::{Claimant, Group};
use crate::backend::PAGE_TOKENS;

/// A sample waits for a running one to read the prefix that both share if it saves this many pages.
const SHARED_PAGES: usize = 4;

/// A running sample that reads its prompt.
#[derive(Debug)]
struct Reader {
    key: Key,
    claimant: Claimant,
    /// Prompt tokens left.
    left: usize,
    /// The most that it may get in this step.
    want: usize,
    granted: usize,
    /// How many of a step's prompt tokens each of its tokens counts as.
    cost: usize,
}

impl Scheduler {
    /// The waiting sample that gets the next sequence slot.
    pub(super) fn first_waiting(&mut self) -> Option<Key> {
        self.settle_changes();
        self.waiting.order(self.metrics.steps).next()
    }

    /// The running sample that gives its slot to a waiting one whose tenant or group has less than its share.
    pub(super) fn over_share(&self, waiting: Key) -> Option<Key> {
        let claimant = self.waiting.claimant(waiting)?;
        let (most, heaviest) = self.waiting.heaviest_tenant()?;
        if self.waiting.running_of_tenant(claimant.tenant) + 2 <= most {
            return self.last_of_heaviest_group(heaviest);
        }
        let most = self.waiting.heaviest_group(claimant.tenant);
        let less = self.waiting.running_of(claimant) + 2 <= most;
        less.then(|| self.last_of_heaviest_group(claimant.tenant)).flatten()
    }

    /// The last sample of those groups of a tenant that run the most samples.
    fn last_of_heaviest_group(&self, tenant: u64) -> Option<Key> {
        let most = self.waiting.heaviest_group(tenant);
        let is_of_one = |key: &&Key| {
            let claimant = self.samples.get(key).map(|sample| sample.request.claimant);
            claimant.is_some_and(|of| of.tenant == tenant && self.waiting.running_of(of) == most)
        };
        self.running.iter().rev().find(is_of_one).copied()
    }

    /// Whether a running sample is about to read several pages of a prefix that a waiting one shares, so that the latter
    /// starts later and has less to read.
    pub(super) fn waits_for_prefix(&self, waiting: Key) -> bool {
        let Some(waiting) = self.samples.get(&waiting) else { return false };
        let reads = |key: &Key| {
            let sample = self.samples.get(key)?;
            let reads = sample.unscheduled() > 1
                && !sample.held
                && !waiting.reports_prompt()
                && sample.request.salt == waiting.request.salt;
            reads.then_some(sample)
        };
        let last = (waiting.tokens.len() - 1) / PAGE_TOKENS;
        self.pages.shares_prefixes()
            && self.running.iter().filter_map(reads).any(|reader| {
                let pages = reader.cached_blocks + SHARED_PAGES;
                let prefix = waiting.tokens.get(..pages * PAGE_TOKENS);
                pages <= last && prefix.is_some_and(|prefix| reader.tokens.starts_with(prefix))
            })
    }

    /// Divides a step's prompt tokens among the running samples that read prompts, those that have just `started` among
    /// them.
    pub(super) fn share_prompt_tokens(
        &mut self,
        started: &[Key],
        mut budget: usize,
    ) -> Vec<(Key, usize)> {
        let mut readers = self.readers(started, budget);
        self.prompt_shares
            .retain(|tenant, _| readers.iter().any(|reader| reader.claimant.tenant == *tenant));
        // A tenant saves up no tokens while it reads nothing.
        let least = self.prompt_shares.values().map(|share| share.tokens).min().unwrap_or(0);
        for reader in &readers {
            let entry = self.prompt_shares.entry(reader.claimant.tenant);
            entry.or_insert(PromptShare { tokens: least, ..PromptShare::default() });
        }
        if readers.iter().map(|reader| reader.want * reader.cost).sum::<usize>() <= budget {
            for reader in &mut readers {
                reader.granted = reader.want;
                if let Some(share) = self.prompt_shares.get_mut(&reader.claimant.tenant) {
                    share.tokens += (reader.granted * reader.cost) as u64;
                }
            }
            budget = 0;
        }
        while budget > 0 {
            let Some(spent) = self.grant(&mut readers, budget) else { break };
            budget = budget.saturating_sub(spent);
        }
        let granted = readers.into_iter().filter(|reader| reader.granted > 0);
        granted.map(|reader| (reader.key, reader.granted)).collect()
    }

    fn readers(&self, started: &[Key], budget: usize) -> Vec<Reader> {
        let running = self.running.iter().filter_map(|key| self.samples.get(key));
        let ready = running.filter(|sample| {
            let reads = !sample.generates() || started.contains(&sample.key);
            reads && !sample.held && self.is_ready(sample)
        });
        let reader = |sample: &Sample| Reader {
            key: sample.key,
            claimant: sample.request.claimant,
            left: sample.unscheduled(),
            want: self.chunk(sample, budget),
            granted: 0,
            cost: match SampleOn::of_prompt_report(sample, sample.scheduled) {
                SampleOn::None => 1,
                SampleOn::Host | SampleOn::Device => {
                    self.prompt_pace.reported_cost(sample.scheduled)
                }
            },
        };
        ready.map(reader).collect()
    }

    /// Grants at most a page of tokens, and one at least, to the reader whose turn it is. Returns what that costs.
    fn grant(&mut self, readers: &mut [Reader], budget: usize) -> Option<usize> {
        let wanting = |reader: &&Reader| reader.granted < reader.want;
        let shares = &mut self.prompt_shares;
        let served = |tenant: u64| (shares.get(&tenant).map_or(0, |share| share.tokens), tenant);
        let tenants = readers.iter().filter(wanting).map(|reader| served(reader.claimant.tenant));
        let (_, tenant) = tenants.min()?;
        let share = shares.get_mut(&tenant)?;
        let mut left: BTreeMap<Group, usize> = BTreeMap::new();
        for reader in readers.iter().filter(|reader| reader.claimant.tenant == tenant) {
            *left.entry(reader.claimant.group).or_default() += reader.left - reader.granted;
        }
        let wanting = || {
            let readers = readers.iter().enumerate();
            readers.filter(|(_, of)| of.claimant.tenant == tenant && of.granted < of.want)
        };
        let (in_order, _) = wanting().min_by_key(|(_, reader)| reader.key)?;
        let (shortest, _) =
            wanting().min_by_key(|(_, of)| (left.get(&of.claimant.group).copied(), of.key))?;
        let take_first = share.in_order < share.shortest;
        let reader = &mut readers[if take_first { in_order } else { shortest }];
        let most = PAGE_TOKENS.min(budget).div_ceil(reader.cost);
        let granted = (reader.want - reader.granted).min(most);
        reader.granted += granted;
        let spent = granted * reader.cost;
        share.tokens += spent as u64;
        if in_order != shortest {
            let turn = if take_first { &mut share.in_order } else { &mut share.shortest };
            *turn += spent as u64;
        }
        Some(spent)
    }
}
