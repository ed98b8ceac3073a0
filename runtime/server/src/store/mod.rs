//! Stored responses, in memory and within bounds: of the tenant who has the most, the least recently used ones are dropped first.
//! They are kept as text, because a tree of JSON values takes several times as much memory, and the bound is on memory. Those
//! that still run in the background are a [`BackgroundJob`] each. Conversations are kept like responses: their object, and their
//! items as the context. A tenant's responses are reached through its [`TenantStore`],
//! and others' do not exist there.

mod event_log;
mod job;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;

use crate::clock;
use crate::config::StoreLimits;
use crate::tenant::Tenant;

pub(crate) use event_log::EventLog;
pub(crate) use job::BackgroundJob;

/// Values as JSON text.
pub(crate) type JsonText = Arc<str>;

pub(crate) fn text_of(values: &[Value]) -> JsonText {
    Value::from(values).to_string().into()
}

fn values_of(text: &str) -> Vec<Value> {
    // This server wrote the text, so it can be read.
    serde_json::from_str(text).unwrap_or_default()
}

/// A stored response.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    content: Content,
    input: JsonText,
}

#[derive(Clone, Debug)]
enum Content {
    Done { response: JsonText, context: JsonText },
    Background(Arc<BackgroundJob>),
}

impl Entry {
    /// The response, as JSON.
    pub(crate) fn response(&self) -> String {
        match &self.content {
            Content::Done { response, .. } => response.to_string(),
            Content::Background(job) => job.response().to_string(),
        }
    }

    /// The input of its request, without what came before.
    pub(crate) fn input(&self) -> Vec<Value> {
        values_of(&self.input)
    }

    /// The whole conversation up to its end; none while it still runs.
    pub(crate) fn context(&self) -> Option<Vec<Value>> {
        self.context_text().map(|context| values_of(&context))
    }

    fn context_text(&self) -> Option<JsonText> {
        match &self.content {
            Content::Done { context, .. } => Some(Arc::clone(context)),
            Content::Background(job) => job.context(),
        }
    }

    pub(crate) fn job(&self) -> Option<Arc<BackgroundJob>> {
        match &self.content {
            Content::Done { .. } => None,
            Content::Background(job) => Some(Arc::clone(job)),
        }
    }

    /// The bytes that it takes now. A response in the background grows.
    fn bytes(&self) -> usize {
        let content = match &self.content {
            Content::Done { response, context } => response.len() + context.len(),
            Content::Background(job) => job.bytes(),
        };
        content + self.input.len()
    }

    /// Adds those of its items that have one of these ids.
    fn find(&self, ids: &HashSet<&str>, found: &mut HashMap<String, Value>) {
        let text = self.context_text().unwrap_or_else(|| Arc::clone(&self.input));
        let item_ids: Vec<ItemId> = serde_json::from_str(&text).unwrap_or_default();
        if !item_ids.iter().any(|item| ids.contains(item.id.as_str())) {
            return;
        }
        for item in values_of(&text) {
            if let Some(id) = item["id"].as_str().filter(|id| ids.contains(id)) {
                found.insert(id.to_owned(), item);
            }
        }
    }
}

/// The part of an item that is parsed first, to see whether the item is wanted.
#[derive(Deserialize)]
struct ItemId {
    id: String,
}

#[derive(Debug)]
struct Stored {
    entry: Entry,
    used: Instant,
}

/// Whose a response is, and its id.
type Name = (Tenant, String);

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    limits: StoreLimits,
    stored: Mutex<HashMap<Name, Stored>>,
}

/// What a tenant stores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TenantStore<'a> {
    store: &'a Store,
    tenant: Tenant,
}

impl Store {
    pub(crate) fn new(limits: StoreLimits) -> Store {
        Store { limits, stored: Mutex::new(HashMap::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Stored>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this tenant stores.
    pub(crate) fn of(&self, tenant: Tenant) -> TenantStore<'_> {
        TenantStore { store: self, tenant }
    }

    fn keep(&self, name: Name, entry: Entry) {
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
}

/// What a tenant takes of the store.
#[derive(Default)]
struct Share {
    entries: usize,
    bytes: usize,
}

impl TenantStore<'_> {
    fn name(&self, id: &str) -> Name {
        (self.tenant, id.to_owned())
    }

    /// Stores a response that has ended.
    pub(crate) fn put(&self, id: &str, response: &Value, input: &[Value], context: &[Value]) {
        let response = response.to_string().into();
        let content = Content::Done { response, context: text_of(context) };
        self.store.keep(self.name(id), Entry { content, input: text_of(input) });
    }

    /// Changes the object and the items of an entry that has ended, and returns it; none if it is not there. `change` may be
    /// called again, if another request has changed the entry meanwhile.
    pub(crate) fn update(
        &self,
        id: &str,
        change: impl Fn(&mut Value, &mut Vec<Value>),
    ) -> Option<Entry> {
        loop {
            let before = self.get(id)?;
            let Content::Done { response, context } = &before.content else { return None };
            let mut object = serde_json::from_str(response).unwrap_or_default();
            let mut items = values_of(context);
            change(&mut object, &mut items);
            let content =
                Content::Done { response: object.to_string().into(), context: text_of(&items) };
            let after = Entry { content, input: Arc::clone(&before.input) };
            let mut stored = self.store.lock();
            let one = stored.get_mut(&self.name(id))?;
            let same = match &one.entry.content {
                Content::Done { response: object, context: items } => {
                    Arc::ptr_eq(object, response) && Arc::ptr_eq(items, context)
                }
                Content::Background(_) => false,
            };
            if same {
                one.entry = after.clone();
                self.store.evict(&mut stored);
                return Some(after);
            }
        }
    }

    /// Stores a response that runs in the background.
    pub(crate) fn put_job(&self, id: &str, job: Arc<BackgroundJob>, input: &[Value]) {
        let content = Content::Background(job);
        self.store.keep(self.name(id), Entry { content, input: text_of(input) });
    }

    pub(crate) fn get(&self, id: &str) -> Option<Entry> {
        let (name, mut stored) = (self.name(id), self.store.lock());
        let one = stored.get_mut(&name)?;
        if clock::since(one.used) >= self.store.limits.lifetime {
            stored.remove(&name);
            return None;
        }
        one.used = clock::now();
        Some(one.entry.clone())
    }

    pub(crate) fn remove(&self, id: &str) -> Option<Entry> {
        self.store.lock().remove(&self.name(id)).map(|one| one.entry)
    }

    /// Items of the input or output of any of its responses by their ids, as far as they exist. Each response is searched once,
    /// however many items are wanted.
    pub(crate) fn items(&self, ids: &HashSet<&str>) -> HashMap<String, Value> {
        let mut found = HashMap::new();
        if ids.is_empty() {
            return found;
        }
        let (stored, lifetime) = (self.store.lock(), self.store.limits.lifetime);
        let own = stored.iter().filter(|((of, _), _)| *of == self.tenant).map(|(_, one)| one);
        let live = own.filter(|one| clock::since(one.used) < lifetime);
        let mut entries: Vec<(Instant, Entry)> =
            live.map(|one| (one.used, one.entry.clone())).collect();
        drop(stored);
        entries.sort_by_key(|(used, _)| Reverse(*used));
        for (_, entry) in entries {
            if found.len() == ids.len() {
                break;
            }
            entry.find(ids, &mut found);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::tenant::Keys;

    fn store(entries: usize, bytes: usize) -> Store {
        Store::new(StoreLimits { entries, bytes, lifetime: Duration::from_secs(1000) })
    }

    fn put(store: TenantStore<'_>, id: &str, text: &str) {
        let input = json!({"id": format!("in_{id}"), "text": text});
        store.put(id, &json!({"id": id}), &[input], &[json!({"id": format!("output_{id}")})]);
    }

    #[test]
    fn the_least_recently_used_response_is_dropped_first() {
        let store = store(2, usize::MAX);
        let store = store.of(Tenant::ONLY);
        put(store, "a", "");
        put(store, "b", "");
        assert!(store.get("a").is_some());
        put(store, "c", "");
        assert!(store.get("b").is_none() && store.get("a").is_some() && store.get("c").is_some());
        assert!(store.remove("a").is_some() && store.remove("a").is_none());
    }

    #[test]
    fn bytes_are_bounded() {
        let store = store(100, 1000);
        let store = store.of(Tenant::ONLY);
        put(store, "a", &"x".repeat(600));
        put(store, "b", &"x".repeat(600));
        assert!(store.get("a").is_none() && store.get("b").is_some());
        put(store, "c", &"x".repeat(2000));
        assert!(store.get("c").is_none(), "larger than the whole store");
    }

    #[test]
    fn expired_responses_are_dropped() {
        let limits = StoreLimits { entries: 9, bytes: 9999, lifetime: Duration::ZERO };
        let store = Store::new(limits);
        let store = store.of(Tenant::ONLY);
        put(store, "a", "");
        assert!(store.items(&HashSet::from(["output_a"])).is_empty());
        assert!(store.get("a").is_none());
    }

    #[test]
    fn items_are_found_in_every_response() {
        let store = store(9, 9999);
        let store = store.of(Tenant::ONLY);
        put(store, "a", "");
        put(store, "b", "");
        let found = store.items(&HashSet::from(["output_a", "output_b", "output_c"]));
        assert_eq!(found.len(), 2);
        assert_eq!(found["output_b"], json!({"id": "output_b"}));
    }

    #[test]
    fn tenants_neither_see_nor_crowd_out_each_other() {
        let keys = Keys::new(&["a".to_owned(), "b".to_owned()], false);
        let tenant = |key: &str| {
            let value = format!("Bearer {key}").parse().expect("a header");
            let headers = [(axum::http::header::AUTHORIZATION, value)].into_iter().collect();
            keys.tenant("/v1", &headers).expect("a tenant")
        };
        for limits in [(4, usize::MAX), (usize::MAX, 700)] {
            let store = store(limits.0, limits.1);
            let (one, other) = (store.of(tenant("a")), store.of(tenant("b")));
            put(one, "mine", "");
            assert!(other.get("mine").is_none() && other.remove("mine").is_none());
            assert!(other.items(&HashSet::from(["in_mine", "output_mine"])).is_empty());
            // The same id is another's own.
            put(other, "mine", "other");
            assert!(one.remove("mine").is_some() && other.get("mine").is_some());
            put(one, "mine", "");
            for index in 0..20 {
                put(other, &index.to_string(), &"x".repeat(100));
            }
            assert!(one.get("mine").is_some(), "{limits:?}: the other's responses go first");
            assert!(other.get("19").is_some() && other.get("0").is_none());
        }
    }
}
