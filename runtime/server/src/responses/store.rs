//! Responses that may be asked for later, in memory, within bounds: the least recently used go first. They are kept as
//! text, because a tree of values takes several times as much, and the bound is on what they take.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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
        match &self.content {
            Content::Done { context, .. } => Some(values_of(context)),
            Content::Background(job) => job.context().map(|context| values_of(&context)),
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

    /// The item of this id, if it has one.
    fn item(&self, id: &str) -> Option<Value> {
        let may_have = match &self.content {
            Content::Done { context, .. } => context.contains(id),
            Content::Background(_) => true,
        };
        let items = || self.context().unwrap_or_else(|| self.input());
        may_have.then(items)?.into_iter().find(|item| item["id"] == id)
    }
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

    /// An item of any response's input or output.
    pub(super) fn item(&self, id: &str) -> Option<Value> {
        let entries: Vec<Entry> = self.lock().values().map(|one| one.entry.clone()).collect();
        entries.iter().find_map(|entry| entry.item(id))
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
        store.put(id, &json!({"id": id}), &[json!({"id": format!("in_{id}"), "text": text})], &[]);
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
        assert!(store.get("a").is_none());
    }
}
