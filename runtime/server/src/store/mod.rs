//! What the server keeps for its clients: responses, conversations (their object, and their items as the context) and batches. It is
//! in this process's memory, or in Redis, which several servers share; both have bounds, and a tenant reaches its own alone, through
//! its [`TenantStore`].
//!
//! Entries are kept as text, because a tree of JSON values takes several times as much memory. A response that runs in the background
//! is a [`BackgroundJob`] of the process that runs it; in Redis others see that it runs, whether its process is alive, and how it
//! ended.

mod event_log;
mod job;
mod memory;
#[cfg(feature = "redis")]
mod redis;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Result, json_of};
use crate::tenant::Tenant;

pub(crate) use event_log::EventLog;
pub(crate) use job::{BackgroundJob, Follows};
use memory::MemoryStore;
#[cfg(feature = "redis")]
pub use redis::SharedStore;

/// A store that several servers share. This build has none.
#[cfg(not(feature = "redis"))]
#[derive(Clone, Debug)]
pub enum SharedStore {}

/// Bounds of the stored responses. The least recently used ones are dropped first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Most responses.
    pub entries: usize,
    /// Most bytes of their JSON.
    pub bytes: usize,
    /// How long a response is kept since its last use.
    pub lifetime: Duration,
}

impl Default for StoreLimits {
    /// 1024 responses, 256 MiB, a day.
    fn default() -> StoreLimits {
        StoreLimits { entries: 1024, bytes: 256 << 20, lifetime: Duration::from_secs(24 * 3600) }
    }
}

/// What the id of a conversation begins with.
pub(crate) const CONVERSATION: &str = "conv_";
/// What the id of a batch begins with.
pub(crate) const BATCH: &str = "batch_";

/// Whether an id may be a response's: other entries have ids of other kinds.
pub(crate) fn is_response(id: &str) -> bool {
    ![CONVERSATION, BATCH].iter().any(|prefix| id.starts_with(prefix))
}

/// Values as JSON text.
pub(crate) type JsonText = Arc<str>;

pub(crate) fn text_of(values: &[Value]) -> JsonText {
    json_of(&values).into()
}

pub(crate) fn values_of(text: &str) -> Vec<Value> {
    // This server wrote the text, so it can be read.
    serde_json::from_str(text).unwrap_or_default()
}

/// What is done to the object and the items of an entry.
pub(crate) trait Change: Fn(&mut Value, &mut Vec<Value>) -> Result<()> {}

impl<F: Fn(&mut Value, &mut Vec<Value>) -> Result<()>> Change for F {}

/// A stored response.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    content: Content,
    input: JsonText,
}

#[derive(Clone, Debug)]
enum Content {
    Done {
        response: JsonText,
        context: JsonText,
    },
    /// A response that this process works on.
    Background(Arc<BackgroundJob>),
    /// One that another process works on, as it was when it began.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    Elsewhere {
        response: JsonText,
    },
}

impl Entry {
    /// The response, as JSON.
    pub(crate) fn response(&self) -> String {
        match &self.content {
            Content::Done { response, .. } | Content::Elsewhere { response } => {
                response.to_string()
            }
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
            Content::Elsewhere { .. } => None,
        }
    }

    pub(crate) fn job(&self) -> Option<Arc<BackgroundJob>> {
        match &self.content {
            Content::Done { .. } | Content::Elsewhere { .. } => None,
            Content::Background(job) => Some(Arc::clone(job)),
        }
    }

    /// Whether another process works on it.
    pub(crate) fn is_elsewhere(&self) -> bool {
        matches!(self.content, Content::Elsewhere { .. })
    }

    /// The entry with another object and other items; none unless it has ended, and an error if `change` refuses.
    fn changed(&self, change: &impl Change) -> Result<Option<Entry>> {
        let Content::Done { response, context } = &self.content else { return Ok(None) };
        let mut object = serde_json::from_str(response).unwrap_or_default();
        let mut items = values_of(context);
        change(&mut object, &mut items)?;
        let (response, context) = (object.to_string().into(), text_of(&items));
        let content = Content::Done { response, context };
        Ok(Some(Entry { content, input: Arc::clone(&self.input) }))
    }

    /// Whether nobody has put another entry in its place.
    fn is_same(&self, other: &Entry) -> bool {
        match (&self.content, &other.content) {
            (
                Content::Done { response, context },
                Content::Done { response: object, context: items },
            ) => Arc::ptr_eq(object, response) && Arc::ptr_eq(items, context),
            _ => false,
        }
    }

    /// The bytes that it takes now. A response in the background grows.
    fn bytes(&self) -> usize {
        let content = match &self.content {
            Content::Done { response, context } => response.len() + context.len(),
            Content::Background(job) => job.bytes(),
            Content::Elsewhere { response } => response.len(),
        };
        content + self.input.len()
    }
}

/// The part of an item that is parsed first, to see whether the item is wanted.
#[derive(Deserialize)]
struct ItemId {
    id: String,
}

/// The items that an entry is searched for: its whole conversation, or its input while it still runs.
fn searched(entry: &Entry) -> JsonText {
    entry.context_text().unwrap_or_else(|| Arc::clone(&entry.input))
}

/// The ids of an entry's items.
fn item_ids(entry: &Entry) -> impl Iterator<Item = String> + use<> {
    let ids: Vec<ItemId> = serde_json::from_str(&searched(entry)).unwrap_or_default();
    ids.into_iter().map(|item| item.id)
}

/// Adds those of an entry's items that have one of these ids.
fn find_items(entry: &Entry, ids: &HashSet<&str>, found: &mut HashMap<String, Value>) {
    if !item_ids(entry).any(|id| ids.contains(id.as_str())) {
        return;
    }
    for item in values_of(&searched(entry)) {
        if let Some(id) = item["id"].as_str().filter(|id| ids.contains(id)) {
            found.insert(id.to_owned(), item);
        }
    }
}

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    /// Everything, or with a shared store the responses that this process runs in the background.
    memory: MemoryStore,
    shared: Option<SharedStore>,
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    limits: StoreLimits,
}

/// What a tenant stores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TenantStore<'a> {
    store: &'a Store,
    tenant: Tenant,
}

impl Store {
    pub(crate) fn new(limits: StoreLimits, shared: Option<SharedStore>) -> Store {
        Store { memory: MemoryStore::new(limits), shared, limits }
    }

    /// Whether other servers see what is stored.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// What this tenant stores.
    pub(crate) fn of(&self, tenant: Tenant) -> TenantStore<'_> {
        TenantStore { store: self, tenant }
    }
}

/// Calls fail only where a shared store does.
impl TenantStore<'_> {
    /// Stores what has ended, or an object that changes.
    pub(crate) fn put(
        &self,
        id: &str,
        response: &Value,
        input: &[Value],
        context: &[Value],
    ) -> Result<()> {
        let text: JsonText = response.to_string().into();
        let content = Content::Done { response: text, context: text_of(context) };
        let entry = Entry { content, input: text_of(input) };
        #[cfg(feature = "redis")]
        if let Some(SharedStore(redis)) = &self.store.shared {
            // What came before the input was indexed with the response that it belongs to.
            let own = if input.is_empty() { context } else { input };
            let output = response["output"].as_array().into_iter().flatten();
            let ids = own.iter().chain(output).filter_map(|item| item["id"].as_str());
            let ids: Vec<String> = ids.map(str::to_owned).collect();
            return redis.put(self.store.limits, self.tenant, id, &entry, &ids);
        }
        self.store.memory.put(self.tenant, id, entry);
        Ok(())
    }

    /// Changes the object and the items of an entry that has ended, and returns it; none if it is not there. `change` may be
    /// called again, if another request has changed the entry meanwhile, and what it refuses changes nothing.
    pub(crate) fn update(&self, id: &str, change: impl Change) -> Result<Option<Entry>> {
        #[cfg(feature = "redis")]
        if let Some(SharedStore(redis)) = &self.store.shared {
            return redis.update(self.store.limits, self.tenant, id, change);
        }
        self.store.memory.update(self.tenant, id, change)
    }

    /// Stores a response that this process runs in the background.
    pub(crate) fn put_job(&self, id: &str, job: Arc<BackgroundJob>, input: &[Value]) -> Result<()> {
        #[cfg(feature = "redis")]
        if let Some(SharedStore(redis)) = &self.store.shared {
            let mut response = job.response();
            response["status"] = "in_progress".into();
            let content = Content::Elsewhere { response: response.to_string().into() };
            let entry = Entry { content, input: text_of(input) };
            let ids: Vec<String> = item_ids(&entry).collect();
            redis.put(self.store.limits, self.tenant, id, &entry, &ids)?;
        }
        let entry = Entry { content: Content::Background(job), input: text_of(input) };
        self.store.memory.put(self.tenant, id, entry);
        Ok(())
    }

    pub(crate) fn get(&self, id: &str) -> Result<Option<Entry>> {
        #[cfg(feature = "redis")]
        if let Some(SharedStore(redis)) = &self.store.shared {
            let found = redis.get(self.store.limits, self.tenant, id)?;
            // One that this process runs or has run has its events here.
            let own = self.store.memory.get(self.tenant, id);
            if found.is_none() && own.is_some() {
                self.store.memory.remove(self.tenant, id);
            }
            return Ok(found.map(|found| own.unwrap_or(found)));
        }
        Ok(self.store.memory.get(self.tenant, id))
    }

    /// Those of its entries whose ids begin with this.
    pub(crate) fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        #[cfg(feature = "redis")]
        if let Some(SharedStore(redis)) = &self.store.shared {
            return redis.list(self.tenant, prefix);
        }
        Ok(self.store.memory.list(self.tenant, prefix))
    }

    /// Drops an entry. True if it was there.
    pub(crate) fn remove(&self, id: &str) -> Result<bool> {
        let removed = self.store.memory.remove(self.tenant, id);
        #[cfg(feature = "redis")]
        if let Some(SharedStore(redis)) = &self.store.shared {
            return redis.remove(self.tenant, id);
        }
        Ok(removed)
    }

    /// Items of the input or output of any of its responses by their ids, as far as they exist.
    pub(crate) fn items(&self, ids: &HashSet<&str>) -> Result<HashMap<String, Value>> {
        #[cfg(feature = "redis")]
        if let Some(SharedStore(redis)) = &self.store.shared {
            return redis.items(self.tenant, ids);
        }
        Ok(self.store.memory.items(self.tenant, ids))
    }

    /// Says that this process still works on an entry. Returns whether another process wants it to be cancelled.
    pub(crate) fn keep_alive(&self, id: &str) -> Result<bool> {
        #[cfg(feature = "redis")]
        if let Some(SharedStore(redis)) = &self.store.shared {
            return redis.keep_alive(self.tenant, id);
        }
        let _ = id;
        Ok(false)
    }

    /// Whether a process still works on an entry that has not ended.
    pub(crate) fn is_alive(&self, id: &str) -> Result<bool> {
        #[cfg(feature = "redis")]
        if let Some(SharedStore(redis)) = &self.store.shared {
            return redis.is_alive(self.tenant, id);
        }
        let _ = id;
        Ok(true)
    }

    /// Has the process that works on an entry cancel it.
    pub(crate) fn request_cancel(&self, id: &str) -> Result<()> {
        #[cfg(feature = "redis")]
        if let Some(SharedStore(redis)) = &self.store.shared {
            return redis.request_cancel(self.tenant, id);
        }
        let _ = id;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tenant::Keys;

    fn store(entries: usize, bytes: usize) -> Store {
        Store::new(StoreLimits { entries, bytes, lifetime: Duration::from_secs(1000) }, None)
    }

    fn put(store: TenantStore<'_>, id: &str, text: &str) {
        let input = json!({"id": format!("in_{id}"), "text": text});
        let output = json!({"id": format!("output_{id}")});
        store.put(id, &json!({"id": id}), &[input], &[output]).expect("memory");
    }

    #[test]
    fn the_least_recently_used_response_is_dropped_first() {
        let store = store(2, usize::MAX);
        let store = store.of(Tenant::ONLY);
        put(store, "a", "");
        put(store, "b", "");
        assert!(store.get("a").expect("memory").is_some());
        put(store, "c", "");
        assert!(
            store.get("b").expect("memory").is_none()
                && store.get("a").expect("memory").is_some()
                && store.get("c").expect("memory").is_some()
        );
        assert!(store.remove("a").expect("memory") && !store.remove("a").expect("memory"));
    }

    #[test]
    fn bytes_are_bounded() {
        let store = store(100, 1000);
        let store = store.of(Tenant::ONLY);
        put(store, "a", &"x".repeat(600));
        put(store, "b", &"x".repeat(600));
        assert!(
            store.get("a").expect("memory").is_none() && store.get("b").expect("memory").is_some()
        );
        put(store, "c", &"x".repeat(2000));
        assert!(store.get("c").expect("memory").is_none(), "larger than the whole store");
    }

    #[test]
    fn expired_responses_are_dropped() {
        let limits = StoreLimits { entries: 9, bytes: 9999, lifetime: Duration::ZERO };
        let store = Store::new(limits, None);
        let store = store.of(Tenant::ONLY);
        put(store, "a", "");
        assert!(store.items(&HashSet::from(["output_a"])).expect("memory").is_empty());
        assert!(store.get("a").expect("memory").is_none());
    }

    #[test]
    fn items_are_found_in_every_response() {
        let store = store(9, 9999);
        let store = store.of(Tenant::ONLY);
        put(store, "a", "");
        put(store, "b", "");
        let found =
            store.items(&HashSet::from(["output_a", "output_b", "output_c"])).expect("memory");
        assert_eq!(found.len(), 2);
        assert_eq!(found["output_b"], json!({"id": "output_b"}));
    }

    #[test]
    fn tenants_neither_see_nor_crowd_out_each_other() {
        let keys = Keys::new(&["a".to_owned(), "b".to_owned()], false, None);
        let tenant = |key: &str| {
            let value = format!("Bearer {key}").parse().expect("a header");
            let headers = [(axum::http::header::AUTHORIZATION, value)].into_iter().collect();
            keys.tenant("/v1", &headers).expect("a tenant")
        };
        for limits in [(4, usize::MAX), (usize::MAX, 700)] {
            let store = store(limits.0, limits.1);
            let (one, other) = (store.of(tenant("a")), store.of(tenant("b")));
            put(one, "mine", "");
            assert!(
                other.get("mine").expect("memory").is_none()
                    && !other.remove("mine").expect("memory")
            );
            assert!(
                other.items(&HashSet::from(["in_mine", "output_mine"])).expect("memory").is_empty()
            );
            // The same id is another's own.
            put(other, "mine", "other");
            assert!(
                one.remove("mine").expect("memory") && other.get("mine").expect("memory").is_some()
            );
            put(one, "mine", "");
            for index in 0..20 {
                put(other, &index.to_string(), &"x".repeat(100));
            }
            assert!(
                one.get("mine").expect("memory").is_some(),
                "{limits:?}: the other's responses go first"
            );
            assert!(
                other.get("19").expect("memory").is_some()
                    && other.get("0").expect("memory").is_none()
            );
        }
    }
}
