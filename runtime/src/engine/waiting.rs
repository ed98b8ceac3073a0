//! Samples that wait, in the order in which they get sequence slots. To find the first takes as long however many wait: it
//! depends on how many tenants there are, and on how unequal the shares of one tenant's requests are. [`super::fairness`]
//! says what the order is for.
//!
//! Samples are ordered by *level*, then by how many samples of their tenant run or come before them, then by the same for
//! their group, then by [`Key`]. The level is the priority, one better for every [`PRIORITY_STEPS`] since the sample arrived,
//! but not better than the best priority of those that may start. A key's order holds both, so levels never
//! decrease along the keys of a group: its first key is its first sample, and its other samples follow one by one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::hash::BuildHasherDefault;
use std::ops::Bound;

use super::sample::{Key, KeyHasher, PRIORITY_STEPS};
use super::validate::{Claimant, Group};

/// The samples that wait, and how many samples of each tenant and group run.
#[derive(Debug, Default)]
pub(super) struct WaitingQueue {
    samples: HashMap<Key, WaitingSample, BuildHasherDefault<KeyHasher>>,
    tenants: BTreeMap<u64, Tenant>,
    /// How many samples that may start have each priority.
    priorities: BTreeMap<i32, usize>,
}

#[derive(Clone, Copy, Debug)]
struct WaitingSample {
    claimant: Claimant,
    priority: i32,
    may_start: bool,
}

#[derive(Debug, Default)]
struct Tenant {
    running: usize,
    groups: BTreeMap<Group, Members>,
    /// The first key of each group with samples that may start, by how many samples of the group run.
    heads: BTreeMap<usize, BTreeSet<(Key, Group)>>,
    /// How many groups run each number of samples, from 1 on.
    loads: BTreeMap<usize, usize>,
}

/// Samples of a group.
#[derive(Debug, Default)]
struct Members {
    running: usize,
    /// Those that wait and may start.
    startable: BTreeSet<Key>,
}

impl Members {
    fn head(&self) -> Option<(usize, Key)> {
        self.startable.first().map(|&key| (self.running, key))
    }
}

impl WaitingQueue {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Whom a waiting sample belongs to.
    pub(super) fn claimant(&self, key: Key) -> Option<Claimant> {
        self.samples.get(&key).map(|sample| sample.claimant)
    }

    /// Adds a sample, which may start once [`WaitingQueue::set_may_start`] allows it.
    pub(super) fn insert(&mut self, key: Key, claimant: Claimant, priority: i32) {
        self.samples.insert(key, WaitingSample { claimant, priority, may_start: false });
    }

    /// Records whether a waiting sample may start.
    pub(super) fn set_may_start(&mut self, key: Key, may_start: bool) {
        let Some(sample) = self.samples.get_mut(&key) else { return };
        if std::mem::replace(&mut sample.may_start, may_start) == may_start {
            return;
        }
        let WaitingSample { claimant, priority, .. } = *sample;
        count(&mut self.priorities, priority, may_start);
        self.update(claimant, |members| {
            if may_start {
                members.startable.insert(key);
            } else {
                members.startable.remove(&key);
            }
        });
    }

    /// Removes a sample, if it waits.
    pub(super) fn remove(&mut self, key: Key) {
        self.set_may_start(key, false);
        self.samples.remove(&key);
    }

    /// Counts a sample as running.
    pub(super) fn add_running(&mut self, claimant: Claimant) {
        self.update(claimant, |members| members.running += 1);
    }

    /// Counts a sample as running no more.
    pub(super) fn remove_running(&mut self, claimant: Claimant) {
        self.update(claimant, |members| members.running = members.running.saturating_sub(1));
    }

    /// How many samples of a tenant run.
    pub(super) fn running_of_tenant(&self, tenant: u64) -> usize {
        self.tenants.get(&tenant).map_or(0, |tenant| tenant.running)
    }

    /// How many samples of a tenant's group run.
    pub(super) fn running_of(&self, claimant: Claimant) -> usize {
        let groups = self.tenants.get(&claimant.tenant).map(|tenant| &tenant.groups);
        groups.and_then(|groups| groups.get(&claimant.group)).map_or(0, |group| group.running)
    }

    /// How many samples the tenant with the most of them runs, and which that is.
    pub(super) fn heaviest_tenant(&self) -> Option<(usize, u64)> {
        self.tenants.iter().map(|(&number, tenant)| (tenant.running, number)).max()
    }

    /// How many samples the group of a tenant runs that runs the most.
    pub(super) fn heaviest_group(&self, tenant: u64) -> usize {
        let loads = self.tenants.get(&tenant).map(|tenant| &tenant.loads);
        loads.and_then(|loads| loads.last_key_value()).map_or(0, |(&running, _)| running)
    }

    /// Changes a group, and what is known of it elsewhere.
    fn update(&mut self, of: Claimant, change: impl FnOnce(&mut Members)) {
        let tenant = self.tenants.entry(of.tenant).or_default();
        let members = tenant.groups.entry(of.group).or_default();
        let (head, running) = (members.head(), members.running);
        change(members);
        let (new_head, now_running) = (members.head(), members.running);
        if now_running == 0 && new_head.is_none() {
            tenant.groups.remove(&of.group);
        }
        if head != new_head {
            if let Some((level, key)) = head
                && let Some(heads) = tenant.heads.get_mut(&level)
            {
                heads.remove(&(key, of.group));
                if heads.is_empty() {
                    tenant.heads.remove(&level);
                }
            }
            if let Some((level, key)) = new_head {
                tenant.heads.entry(level).or_default().insert((key, of.group));
            }
        }
        if running != now_running {
            tenant.running = tenant.running + now_running - running;
            if running > 0 {
                count(&mut tenant.loads, running, false);
            }
            if now_running > 0 {
                count(&mut tenant.loads, now_running, true);
            }
        }
        if tenant.groups.is_empty() {
            self.tenants.remove(&of.tenant);
        }
    }

    /// The samples that may start at step `now`, one after another.
    pub(super) fn order(&self, now: u64) -> WaitingOrder<'_> {
        let levels = Levels {
            now: i64::try_from(now).unwrap_or(i64::MAX),
            best: self.priorities.first_key_value().map_or(0, |(&priority, _)| priority.into()),
        };
        let tenants = self.tenants.values().filter(|tenant| !tenant.heads.is_empty());
        let tenants: Vec<TenantOrder<'_>> =
            tenants.map(|tenant| TenantOrder::new(tenant, levels)).collect();
        let firsts = tenants.iter().enumerate();
        let next = firsts.filter_map(|(index, tenant)| tenant.place(index)).map(Reverse).collect();
        WaitingOrder { tenants, next }
    }
}

/// Counts one more or one less of something.
fn count<T: Ord>(counts: &mut BTreeMap<T, usize>, of: T, more: bool) {
    if more {
        *counts.entry(of).or_default() += 1;
    } else if let Some(left) = counts.get_mut(&of) {
        *left -= 1;
        if *left == 0 {
            counts.remove(&of);
        }
    }
}

/// What the level of a sample follows from.
#[derive(Clone, Copy, Debug)]
struct Levels {
    now: i64,
    best: i64,
}

impl Levels {
    fn of(self, key: Key) -> i64 {
        (-self.now.saturating_sub(key.order).div_euclid(PRIORITY_STEPS)).max(self.best)
    }
}

/// Where a sample is among those of all tenants: its level, the samples of its tenant and of its group before it, its key,
/// and the tenant's index.
type Place = (i64, usize, usize, Key, usize);

/// The samples that may start, in order, while none does.
#[derive(Debug)]
pub(super) struct WaitingOrder<'a> {
    tenants: Vec<TenantOrder<'a>>,
    /// The first sample of each tenant.
    next: BinaryHeap<Reverse<Place>>,
}

impl Iterator for WaitingOrder<'_> {
    type Item = Key;

    fn next(&mut self) -> Option<Key> {
        let Reverse((.., key, index)) = self.next.pop()?;
        let tenant = &mut self.tenants[index];
        tenant.advance();
        self.next.extend(tenant.place(index).map(Reverse));
        Some(key)
    }
}

/// The samples of one tenant that may start, in order.
#[derive(Debug)]
struct TenantOrder<'a> {
    tenant: &'a Tenant,
    levels: Levels,
    /// Samples of the tenant that run or came before.
    before: usize,
    /// For each number of running samples the groups' first keys.
    heads: Vec<(usize, std::collections::btree_set::Iter<'a, (Key, Group)>)>,
    next: BinaryHeap<Reverse<Candidate>>,
}

/// A sample that may be a tenant's next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    level: i64,
    /// Samples of its group that run or come before.
    before: usize,
    key: Key,
    group: Group,
    /// Which of [`TenantOrder::heads`] it came from, if it is the first of its group.
    head: Option<usize>,
}

impl<'a> TenantOrder<'a> {
    fn new(tenant: &'a Tenant, levels: Levels) -> TenantOrder<'a> {
        let heads = tenant.heads.iter().map(|(&running, heads)| (running, heads.iter())).collect();
        let (before, next) = (tenant.running, BinaryHeap::new());
        let mut order = TenantOrder { tenant, levels, before, heads, next };
        (0..order.heads.len()).for_each(|head| order.add_head(head));
        order
    }

    fn add_head(&mut self, head: usize) {
        let (running, keys) = &mut self.heads[head];
        if let Some(&(key, group)) = keys.next() {
            let (level, before) = (self.levels.of(key), *running);
            self.next.push(Reverse(Candidate { level, before, key, group, head: Some(head) }));
        }
    }

    /// Where its next sample is among those of all tenants; this one has this index.
    fn place(&self, index: usize) -> Option<Place> {
        let Reverse(next) = self.next.peek()?;
        Some((next.level, self.before, next.before, next.key, index))
    }

    fn advance(&mut self) {
        let Some(Reverse(taken)) = self.next.pop() else { return };
        self.before += 1;
        if let Some(head) = taken.head {
            self.add_head(head);
        }
        let later = (Bound::Excluded(taken.key), Bound::Unbounded);
        let members = self.tenant.groups.get(&taken.group);
        if let Some(&key) = members.and_then(|members| members.startable.range(later).next()) {
            let (level, before) = (self.levels.of(key), taken.before + 1);
            self.next.push(Reverse(Candidate { key, level, before, head: None, ..taken }));
        }
    }
}
