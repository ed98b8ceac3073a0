//! Responses that may be asked for later, in memory, within bounds: the least recently used go first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;

use super::job::Job;
use crate::config::StoreLimits;

/// A stored response.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    content: Content,
    input: Arc<[Value]>,
}

#[derive(Clone, Debug)]
enum Content {
    Done { response: Arc<Value>, context: Arc<[Value]> },
    Background(Arc<Job>),
}

impl Entry {
    pub(super) fn response(&self) -> Value {
        match &self.content {
            Content::Done { response, .. } => response.as_ref().clone(),
            Content::Background(job) => job.response(),
        }
    }

    /// Its request's own input.
    pub(super) fn input(&self) -> &[Value] {
        &self.input
    }

    /// Everything said up to its end; none while it is under way.
    pub(super) fn context(&self) -> Option<Vec<Value>> {
        match &self.content {
            Content::Done { context, .. } => Some(context.to_vec()),
            Content::Background(job) => job.context(),
        }
    }

    pub(super) fn job(&self) -> Option<Arc<Job>> {
        match &self.content {
            Content::Done { .. } => None,
            Content::Background(job) => Some(Arc::clone(job)),
        }
    }
}

#[derive(Debug)]
struct Held {
    entry: Entry,
    bytes: usize,
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
    pub(super) fn put(&self, id: &str, response: Value, input: Vec<Value>, context: Vec<Value>) {
        let bytes = size(&response) + input.iter().chain(&context).map(size).sum::<usize>();
        let content = Content::Done { response: Arc::new(response), context: context.into() };
        self.keep(id, Entry { content, input: input.into() }, bytes);
    }

    /// Keeps one that is under way.
    pub(super) fn put_job(&self, id: &str, job: Arc<Job>, input: Vec<Value>) {
        let bytes = input.iter().map(size).sum();
        self.keep(id, Entry { content: Content::Background(job), input: input.into() }, bytes);
    }

    fn keep(&self, id: &str, entry: Entry, bytes: usize) {
        let mut held = self.lock();
        held.insert(id.to_owned(), Held { entry, bytes, used: Instant::now() });
        held.retain(|_, one| one.used.elapsed() < self.limits.lifetime);
        while held.len() > self.limits.entries
            || held.values().map(|one| one.bytes).sum::<usize>() > self.limits.bytes
        {
            let oldest = held.iter().min_by_key(|(_, one)| one.used).map(|(id, _)| id.clone());
            let Some(oldest) = oldest else { return };
            held.remove(&oldest);
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
        let items = entries
            .iter()
            .flat_map(|entry| entry.context().unwrap_or_else(|| entry.input().to_vec()));
        items.into_iter().find(|item| item["id"] == id)
    }
}

/// Bytes that a value takes, roughly: those of its JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(list) => list.iter().map(size).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + 4 + size(value)).sum(),
        _ => 8,
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
        store.put(
            id,
            json!({"id": id}),
            vec![json!({"id": format!("in_{id}"), "text": text})],
            Vec::new(),
        );
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
