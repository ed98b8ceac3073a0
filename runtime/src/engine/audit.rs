//! Holds the scheduler's books against each other, by the simplest reference: it walks over everything. For tests.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use super::Engine;
use super::pages::Use;
use super::sample::{Key, PRIORITY_STEPS};
use super::scheduler::{Scheduler, may_start};
use super::validate::Claimant;

/// A sample that runs or may start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) key: Key,
    pub(super) of: Claimant,
    pub(super) priority: i32,
}

/// The order in which samples that may start get sequence slots at step `now`: sorted, and sorted again.
pub(super) fn order(now: u64, mut startable: Vec<Claim>, running: &[Claim]) -> Vec<Key> {
    startable.sort_unstable_by_key(|claim| claim.key);
    let best = startable.iter().map(|claim| claim.priority).min().unwrap_or_default();
    let level = |claim: &Claim| {
        let arrived = claim.key.order - i64::from(claim.priority) * PRIORITY_STEPS;
        let steps = (i64::try_from(now).unwrap() - arrived).max(0);
        (i64::from(claim.priority) - steps / PRIORITY_STEPS).max(best.into())
    };
    let mut order: Vec<(i64, usize, usize, Key, Claimant)> =
        startable.iter().map(|claim| (level(claim), 0, 0, claim.key, claim.of)).collect();
    // How many samples of its group, and then of its tenant, run or start before each.
    let mut counts: BTreeMap<Claimant, usize> = BTreeMap::new();
    running.iter().for_each(|claim| *counts.entry(claim.of).or_default() += 1);
    for (_, _, group, _, of) in &mut order {
        let count = counts.entry(*of).or_default();
        *group = *count;
        *count += 1;
    }
    order.sort_unstable();
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    running.iter().for_each(|claim| *counts.entry(claim.of.tenant).or_default() += 1);
    for (_, tenant, _, _, of) in &mut order {
        let count = counts.entry(of.tenant).or_default();
        *tenant = *count;
        *count += 1;
    }
    order.sort_unstable();
    order.into_iter().map(|(.., key, _)| key).collect()
}

impl Engine {
    /// # Errors
    /// The first thing that is wrong.
    pub(super) fn audit(&mut self) -> Result<(), String> {
        self.scheduler.audit(self.limits.max_sequences)
    }
}

impl Scheduler {
    fn audit(&mut self, slots: usize) -> Result<(), String> {
        self.settle_changes();
        let uses: Vec<Use<'_>> = self
            .samples
            .values()
            .map(|sample| Use {
                tokens: &sample.tokens,
                pages: &sample.pages,
                cached_blocks: sample.cached_blocks,
                salt: sample.request.salt,
            })
            .collect();
        self.pages.audit(&uses)?;
        let mut owners = vec![0; slots];
        self.free_seq_slots.iter().for_each(|&slot| owners[slot] += 1);
        for (key, sample) in &self.samples {
            sample.seq_slot.iter().for_each(|&slot| owners[slot] += 1);
            let (waits, runs) = (self.waiting.claimant(*key).is_some(), self.running.contains(key));
            if waits == runs || runs != sample.seq_slot.is_some() {
                return Err(format!("{key:?} waits: {waits}, runs: {runs}, {:?}", sample.seq_slot));
            }
            if waits && !sample.pages.is_empty() {
                return Err(format!("{key:?} waits and has pages"));
            }
        }
        if let Some(slot) = owners.iter().position(|&count| count != 1) {
            return Err(format!("sequence slot {slot} has {} owners", owners[slot]));
        }
        if self.waiting.len() + self.running.len() != self.samples.len() {
            return Err("a sample that waits or runs does not exist".to_owned());
        }
        let held = self.samples.values().filter(|sample| sample.held).count();
        if self.held != held {
            return Err(format!("{held} samples are held"));
        }
        self.audit_order()
    }

    fn audit_order(&self) -> Result<(), String> {
        let claim = |key: &Key| {
            let sample = &self.samples[key];
            Claim { key: *key, of: sample.request.claimant, priority: sample.request.priority }
        };
        let shares = self.pages.shares_prefixes();
        let waiting = self.samples.keys().filter(|key| !self.running.contains(key));
        let startable = waiting.filter(|key| may_start(&self.samples, shares, **key)).map(claim);
        let running: Vec<Claim> = self.running.iter().map(claim).collect();
        let now = self.metrics.steps;
        let naive = order(now, startable.collect(), &running);
        let kept: Vec<Key> = self.waiting.order(now).collect();
        if naive != kept {
            return Err(format!("the next samples are {kept:?} instead of {naive:?}"));
        }
        Ok(())
    }
}
