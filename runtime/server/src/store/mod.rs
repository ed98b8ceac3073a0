//! Stored responses, in memory and within bounds: the least recently used ones are dropped first. They are kept as text, because a
//! tree of JSON values takes several times as much memory, and the bound is on memory. Those that still run in the background
//! are a [`BackgroundJob`] each.

mod event_log;
mod job;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;

use crate::config::StoreLimits;

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

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    limits: StoreLimits,
    stored: Mutex<HashMap<String, Stored>>,
}

impl Store {
    pub(crate) fn new(limits: StoreLimits) -> Store {
        Store { limits, stored: Mutex::new(HashMap::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Stored>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a response that has ended.
    pub(crate) fn put(&self, id: &str, response: &Value, input: &[Value], context: &[Value]) {
        let response = response.to_string().into();
        let content = Content::Done { response, context: text_of(context) };
        self.keep(id, Entry { content, input: text_of(input) });
    }

    /// Stores a response that runs in the background.
    pub(crate) fn put_job(&self, id: &str, job: Arc<BackgroundJob>, input: &[Value]) {
        self.keep(id, Entry { content: Content::Background(job), input: text_of(input) });
    }

    fn keep(&self, id: &str, entry: Entry) {
        let mut stored = self.lock();
        stored.insert(id.to_owned(), Stored { entry, used: Instant::now() });
        stored.retain(|_, one| one.used.elapsed() < self.limits.lifetime);
        let mut bytes: usize = stored.values().map(|one| one.entry.bytes()).sum();
        while stored.len() > self.limits.entries || bytes > self.limits.bytes {
            let oldest = stored.iter().min_by_key(|(_, one)| one.used).map(|(id, _)| id.clone());
            let Some(gone) = oldest.and_then(|id| stored.remove(&id)) else { return };
            bytes = bytes.saturating_sub(gone.entry.bytes());
        }
    }

    pub(crate) fn get(&self, id: &str) -> Option<Entry> {
        let mut stored = self.lock();
        let one = stored.get_mut(id)?;
        if one.used.elapsed() >= self.limits.lifetime {
            stored.remove(id);
            return None;
        }
        one.used = Instant::now();
        Some(one.entry.clone())
    }

    pub(crate) fn remove(&self, id: &str) -> Option<Entry> {
        self.lock().remove(id).map(|one| one.entry)
    }

    /// Items of the input or output of any response by their ids, as far as they exist. Each response is searched once, however
    /// many items are wanted.
    pub(crate) fn items(&self, ids: &HashSet<&str>) -> HashMap<String, Value> {
        let mut found = HashMap::new();
        if ids.is_empty() {
            return found;
        }
        let stored = self.lock();
        let live = stored.values().filter(|one| one.used.elapsed() < self.limits.lifetime);
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

    fn store(entries: usize, bytes: usize) -> Store {
        Store::new(StoreLimits { entries, bytes, lifetime: Duration::from_secs(1000) })
    }

    fn put(store: &Store, id: &str, text: &str) {
        let input = json!({"id": format!("in_{id}"), "text": text});
        store.put(id, &json!({"id": id}), &[input], &[json!({"id": format!("output_{id}")})]);
    }

    #[test]
    fn the_least_recently_used_response_is_dropped_first() {
        let store = store(2, usize::MAX);
        put(&store, "a", "");
        put(&store, "b", "");
        assert!(store.get("a").is_some());
        put(&store, "c", "");
        assert!(store.get("b").is_none() && store.get("a").is_some() && store.get("c").is_some());
        assert!(store.remove("a").is_some() && store.remove("a").is_none());
    }

    #[test]
    fn bytes_are_bounded() {
        let store = store(100, 1000);
        put(&store, "a", &"x".repeat(600));
        put(&store, "b", &"x".repeat(600));
        assert!(store.get("a").is_none() && store.get("b").is_some());
        put(&store, "c", &"x".repeat(2000));
        assert!(store.get("c").is_none(), "larger than the whole store");
    }

    #[test]
    fn expired_responses_are_dropped() {
        let limits = StoreLimits { entries: 9, bytes: 9999, lifetime: Duration::ZERO };
        let store = Store::new(limits);
        put(&store, "a", "");
        assert!(store.items(&HashSet::from(["output_a"])).is_empty());
        assert!(store.get("a").is_none());
    }

    #[test]
    fn items_are_found_in_every_response() {
        let store = store(9, 9999);
        put(&store, "a", "");
        put(&store, "b", "");
        let found = store.items(&HashSet::from(["output_a", "output_b", "output_c"]));
        assert_eq!(found.len(), 2);
        assert_eq!(found["output_b"], json!({"id": "output_b"}));
    }
}
