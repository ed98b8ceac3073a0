//! Responses that may be asked for later, in memory, within bounds: the least recently used go first. They are kept as
//! text, because a tree of values takes several times as much, and the bound is on what they take.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;

use super::job::Job;
use crate::config::StoreLimits;

/// Values as JSON text.
pub(super) type Text = Arc<str>;

pub(super) fn text_of(values: &[Value]) -> Text {
    Value::from(values).to_string().into()
}

fn values_of(text: &str) -> Vec<Value> {
    // We wrote it, so it can be read.
    serde_json::from_str(text).unwrap_or_default()
}

/// A stored response.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    content: Content,
    input: Text,
}

#[derive(Clone, Debug)]
enum Content {
    Done { response: Text, context: Text },
    Background(Arc<Job>),
}

impl Entry {
    /// The response, as JSON.
    pub(super) fn response(&self) -> String {
        match &self.content {
            Content::Done { response, .. } => response.to_string(),
            Content::Background(job) => job.response().to_string(),
        }
    }

    /// Its request's own input.
    pub(super) fn input(&self) -> Vec<Value> {
        values_of(&self.input)
    }

    /// Everything said up to its end; none while it is under way.
    pub(super) fn context(&self) -> Option<Vec<Value>> {
        self.context_text().map(|context| values_of(&context))
    }

    fn context_text(&self) -> Option<Text> {
        match &self.content {
            Content::Done { context, .. } => Some(Arc::clone(context)),
            Content::Background(job) => job.context(),
        }
    }

    pub(super) fn job(&self) -> Option<Arc<Job>> {
        match &self.content {
            Content::Done { .. } => None,
            Content::Background(job) => Some(Arc::clone(job)),
        }
    }

    /// What it takes, now: a response in the background grows.
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
        let names: Vec<Name> = serde_json::from_str(&text).unwrap_or_default();
        if !names.iter().any(|name| ids.contains(name.id.as_str())) {
            return;
        }
        for item in values_of(&text) {
            if let Some(id) = item["id"].as_str().filter(|id| ids.contains(id)) {
                found.insert(id.to_owned(), item);
            }
        }
    }
}

/// What is read of an item to see whether it is wanted.
#[derive(Deserialize)]
struct Name {
    id: String,
}

#[derive(Debug)]
struct Held {
    entry: Entry,
    used: Instant,
}

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    limits: StoreLimits,
    held: Mutex<HashMap<String, Held>>,
}

impl Store {
    pub(crate) fn new(limits: StoreLimits) -> Store {
        Store { limits, held: Mutex::new(HashMap::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a response that is done.
    pub(super) fn put(&self, id: &str, response: &Value, input: &[Value], context: &[Value]) {
        let response = response.to_string().into();
        let content = Content::Done { response, context: text_of(context) };
        self.keep(id, Entry { content, input: text_of(input) });
    }

    /// Keeps a response that is under way.
    pub(super) fn put_job(&self, id: &str, job: Arc<Job>, input: &[Value]) {
        self.keep(id, Entry { content: Content::Background(job), input: text_of(input) });
    }

    fn keep(&self, id: &str, entry: Entry) {
        let mut held = self.lock();
        held.insert(id.to_owned(), Held { entry, used: Instant::now() });
        held.retain(|_, one| one.used.elapsed() < self.limits.lifetime);
        let mut bytes: usize = held.values().map(|one| one.entry.bytes()).sum();
        while held.len() > self.limits.entries || bytes > self.limits.bytes {
            let oldest = held.iter().min_by_key(|(_, one)| one.used).map(|(id, _)| id.clone());
            let Some(gone) = oldest.and_then(|id| held.remove(&id)) else { return };
            bytes = bytes.saturating_sub(gone.entry.bytes());
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<Entry> {
        let mut held = self.lock();
        let one = held.get_mut(id)?;
        if one.used.elapsed() >= self.limits.lifetime {
            held.remove(id);
            return None;
        }
        one.used = Instant::now();
        Some(one.entry.clone())
    }

    pub(super) fn remove(&self, id: &str) -> Option<Entry> {
        self.lock().remove(id).map(|one| one.entry)
    }

    /// Items of any response's input or output by their ids, as far as there are any. Each response is looked through
    /// once, however many are wanted.
    pub(super) fn items(&self, ids: &HashSet<&str>) -> HashMap<String, Value> {
        let mut found = HashMap::new();
        if ids.is_empty() {
            return found;
        }
        let held = self.lock();
        let live = held.values().filter(|one| one.used.elapsed() < self.limits.lifetime);
        let mut entries: Vec<(Instant, Entry)> =
            live.map(|one| (one.used, one.entry.clone())).collect();
        drop(held);
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
        store.put(id, &json!({"id": id}), &[input], &[json!({"id": format!("said_{id}")})]);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
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
    fn what_is_too_old_is_gone() {
        let limits = StoreLimits { entries: 9, bytes: 9999, lifetime: Duration::ZERO };
        let store = Store::new(limits);
        put(&store, "a", "");
        assert!(store.items(&HashSet::from(["said_a"])).is_empty());
        assert!(store.get("a").is_none());
    }

    #[test]
    fn items_are_found_wherever_they_were_said() {
        let store = store(9, 9999);
        put(&store, "a", "");
        put(&store, "b", "");
        let found = store.items(&HashSet::from(["said_a", "said_b", "said_c"]));
        assert_eq!(found.len(), 2);
        assert_eq!(found["said_b"], json!({"id": "said_b"}));
    }
}
