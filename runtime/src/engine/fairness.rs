//! Who goes first where requests compete: for sequence slots, and for the prompt tokens of a step.
//!
//! *Sequence slots.* Waiting samples start in order of priority; within one priority the tenant with the fewest running
//! samples comes first, then its request or group with the fewest, then the order of arrival. If no slot is free, a
//! waiting sample whose tenant or group runs at least two samples fewer than another preempts the last sample of that
//! other. So a request with many samples occupies the slots that nobody else wants, and gives one back to each newcomer.
//! Each such preemption makes the shares more equal, so it never undoes another.
//!
//! *Prompt tokens.* Tenants that read prompts get equal shares of them. Half of a tenant's share goes to its group with
//! the fewest prompt tokens left, so a short prompt never waits for a long one; the other half goes to the first in
//! order, so a long prompt never waits for ever.
//!
//! *Priorities* lose their weight with time, so that no request starves: see
//! [`super::claims::PRIORITY_STEPS`].

use std::collections::BTreeMap;

use super::claims::{PromptShare, Waiting};
use super::sample::{Key, Sample};
use super::scheduler::Scheduler;
use super::validate::{Claimant, Group};
use crate::backend::PAGE_TOKENS;

/// A sample waits for a running one to read the prefix that both share if it saves this many pages.
const SHARED_PAGES: usize = 4;

/// Running samples by tenant and group.
#[derive(Debug, Default)]
struct Shares(BTreeMap<u64, BTreeMap<Group, Vec<Key>>>);

impl Shares {
    fn of_tenant(&self, tenant: u64) -> usize {
        self.0.get(&tenant).map_or(0, |groups| groups.values().map(Vec::len).sum())
    }

    fn of(&self, claimant: Claimant) -> usize {
        let groups = self.0.get(&claimant.tenant);
        groups.and_then(|groups| groups.get(&claimant.group)).map_or(0, Vec::len)
    }

    /// The last sample of the tenant's group that runs the most samples.
    fn last_of(&self, tenant: u64) -> Option<(usize, Key)> {
        let groups = self.0.get(&tenant)?.values();
        groups.filter_map(|keys| Some((keys.len(), *keys.iter().max()?))).max()
    }
}

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
}

impl Scheduler {
    /// Waiting samples that may start, in the order in which they get sequence slots.
    pub(super) fn waiting_order(&self) -> Vec<Key> {
        let (now, shares) = (self.metrics.steps, self.shares());
        let startable = self.waiting.iter().filter(|(key, _)| self.may_start(**key));
        let startable: Vec<(Key, &Waiting)> = startable.map(|(&key, of)| (key, of)).collect();
        let best = startable.iter().map(|(_, of)| of.priority).min().unwrap_or_default();
        let mut order: Vec<(i64, usize, usize, Key, Claimant)> = startable
            .into_iter()
            .map(|(key, of)| (of.aged(now, best), 0, 0, key, of.claimant))
            .collect();
        // How many samples of its group, and then of its tenant, run or start before each.
        let mut counts = BTreeMap::new();
        for (_, _, group, _, claimant) in &mut order {
            let count = counts.entry(*claimant).or_insert_with(|| shares.of(*claimant));
            *group = *count;
            *count += 1;
        }
        order.sort_unstable();
        let mut counts = BTreeMap::new();
        for (_, tenant, _, _, claimant) in &mut order {
            let count =
                counts.entry(claimant.tenant).or_insert_with(|| shares.of_tenant(claimant.tenant));
            *tenant = *count;
            *count += 1;
        }
        order.sort_unstable();
        order.into_iter().map(|(.., key, _)| key).collect()
    }

    /// The first of them.
    pub(super) fn first_waiting(&self) -> Option<Key> {
        if self.waiting.is_empty() {
            return None;
        }
        let (now, shares) = (self.metrics.steps, self.shares());
        let startable = || self.waiting.iter().filter(|(key, _)| self.may_start(**key));
        let best = startable().map(|(_, of)| of.priority).min()?;
        let first = startable().min_by_key(|(key, of)| {
            let Claimant { tenant, .. } = of.claimant;
            (of.aged(now, best), shares.of_tenant(tenant), shares.of(of.claimant), **key)
        });
        first.map(|(&key, _)| key)
    }

    fn shares(&self) -> Shares {
        let mut shares = Shares::default();
        for key in &self.running {
            if let Some(sample) = self.samples.get(key) {
                let Claimant { tenant, group } = sample.request.claimant;
                shares.0.entry(tenant).or_default().entry(group).or_default().push(*key);
            }
        }
        shares
    }

    /// The running sample that gives its slot to a waiting one whose tenant or group has less than its share.
    pub(super) fn over_share(&self, waiting: Key) -> Option<Key> {
        let shares = self.shares();
        let claimant = self.waiting.get(&waiting)?.claimant;
        let tenants = shares.0.keys().map(|&tenant| (shares.of_tenant(tenant), tenant));
        let (most, heaviest) = tenants.max()?;
        if shares.of_tenant(claimant.tenant) + 2 <= most {
            return shares.last_of(heaviest).map(|(_, key)| key);
        }
        let (most, last) = shares.last_of(claimant.tenant)?;
        (shares.of(claimant) + 2 <= most).then_some(last)
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
                let pairs = reader.tokens.iter().zip(&waiting.tokens);
                let common = pairs.take_while(|(one, other)| one == other).count() / PAGE_TOKENS;
                common.min(last) >= reader.cached_blocks + SHARED_PAGES
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
        if readers.iter().map(|reader| reader.want).sum::<usize>() <= budget {
            for reader in &mut readers {
                reader.granted = reader.want;
                if let Some(share) = self.prompt_shares.get_mut(&reader.claimant.tenant) {
                    share.tokens += reader.granted as u64;
                }
            }
            budget = 0;
        }
        while budget > 0 {
            let Some(granted) = self.grant(&mut readers, budget) else { break };
            budget -= granted;
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
        };
        ready.map(reader).collect()
    }

    /// Grants at most a page of tokens to the reader whose turn it is.
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
        let granted = (reader.want - reader.granted).min(PAGE_TOKENS).min(budget);
        reader.granted += granted;
        share.tokens += granted as u64;
        if in_order != shortest {
            let turn = if take_first { &mut share.in_order } else { &mut share.shortest };
            *turn += granted as u64;
        }
        Some(granted)
    }
}
