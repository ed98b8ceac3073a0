//! Entries in memory, within bounds: of the tenant who has the most, the least recently used ones are dropped first.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;

use super::{Change, Entry, StoreLimits, find_items};
use crate::clock;
use crate::error::Result;
use crate::tenant::Tenant;

#[derive(Debug)]
struct Stored {
    entry: Entry,
    used: Instant,
}

/// Whose a response is, and its id.
type Name = (Tenant, String);

/// The store.
#[derive(Debug)]
pub(super) struct MemoryStore {
    limits: StoreLimits,
    stored: Mutex<HashMap<Name, Stored>>,
}

impl MemoryStore {
    pub(super) fn new(limits: StoreLimits) -> MemoryStore {
        MemoryStore { limits, stored: Mutex::new(HashMap::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Stored>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, tenant: Tenant, id: &str, entry: Entry) {
        let name = (tenant, id.to_owned());
        let mut stored = self.lock();
        stored.insert(name, Stored { entry, used: clock::now() });
        self.evict(&mut stored);
    }

    fn evict(&self, stored: &mut HashMap<Name, Stored>) {
        stored.retain(|_, one| clock::since(one.used) < self.limits.lifetime);
        let mut shares: HashMap<Tenant, Share> = HashMap::new();
        for ((tenant, _), one) in stored.iter() {
            let share = shares.entry(*tenant).or_default();
            share.entries += 1;
            share.bytes += one.entry.bytes();
        }
        loop {
            let bytes: usize = shares.values().map(|share| share.bytes).sum();
            let most = if stored.len() > self.limits.entries {
                shares.iter().max_by_key(|(_, share)| share.entries)
            } else if bytes > self.limits.bytes {
                shares.iter().max_by_key(|(_, share)| share.bytes)
            } else {
                return;
            };
            let Some(tenant) = most.map(|(tenant, _)| *tenant) else { return };
            let own = stored.iter().filter(|((of, _), _)| *of == tenant);
            let oldest = own.min_by_key(|(_, one)| one.used).map(|(name, _)| name.clone());
            let Some(gone) = oldest.and_then(|name| stored.remove(&name)) else { return };
            if let Some(share) = shares.get_mut(&tenant) {
                share.entries -= 1;
                share.bytes = share.bytes.saturating_sub(gone.entry.bytes());
            }
        }
    }

    /// Changes an entry that has ended, and returns it; none if it is not there, and an error if `change` refuses.
    pub(super) fn update(
        &self,
        tenant: Tenant,
        id: &str,
        change: impl Change,
    ) -> Result<Option<Entry>> {
        loop {
            let Some(before) = self.get(tenant, id) else { return Ok(None) };
            let Some(after) = before.changed(&change)? else { return Ok(None) };
            let mut stored = self.lock();
            let Some(one) = stored.get_mut(&(tenant, id.to_owned())) else { return Ok(None) };
            if one.entry.is_same(&before) {
                one.entry = after.clone();
                one.used = clock::now();
                self.evict(&mut stored);
                return Ok(Some(after));
            }
        }
    }

    pub(super) fn get(&self, tenant: Tenant, id: &str) -> Option<Entry> {
        let (name, mut stored) = ((tenant, id.to_owned()), self.lock());
        let one = stored.get_mut(&name)?;
        if clock::since(one.used) >= self.limits.lifetime {
            stored.remove(&name);
            return None;
        }
        one.used = clock::now();
        Some(one.entry.clone())
    }

    /// Entries whose ids begin with this.
    pub(super) fn list(&self, tenant: Tenant, prefix: &str) -> Vec<Entry> {
        let (stored, lifetime) = (self.lock(), self.limits.lifetime);
        let own = stored.iter().filter(|((of, id), one)| {
            *of == tenant && id.starts_with(prefix) && clock::since(one.used) < lifetime
        });
        own.map(|(_, one)| one.entry.clone()).collect()
    }

    pub(super) fn remove(&self, tenant: Tenant, id: &str) -> bool {
        self.lock().remove(&(tenant, id.to_owned())).is_some()
    }

    /// Items of the input or output of any of a tenant's responses by their ids, as far as they exist. Each response is searched
    /// once, however many items are wanted.
    pub(super) fn items(&self, tenant: Tenant, ids: &HashSet<&str>) -> HashMap<String, Value> {
        let mut found = HashMap::new();
        if ids.is_empty() {
            return found;
        }
        let (stored, lifetime) = (self.lock(), self.limits.lifetime);
        let own = stored.iter().filter(|((of, _), _)| *of == tenant).map(|(_, one)| one);
        let live = own.filter(|one| clock::since(one.used) < lifetime);
        let mut entries: Vec<(Instant, Entry)> =
            live.map(|one| (one.used, one.entry.clone())).collect();
        drop(stored);
        entries.sort_by_key(|(used, _)| Reverse(*used));
        for (_, entry) in entries {
            if found.len() == ids.len() {
                break;
            }
            find_items(&entry, ids, &mut found);
        }
        found
    }
}

/// What a tenant takes of the store.
#[derive(Default)]
struct Share {
    entries: usize,
    bytes: usize,
}
