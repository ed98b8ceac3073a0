//! What a response is known by: ids that are unique in practice, the id of its request, and the time of its creation.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A request's id: the client's own, else a new one. It is the suffix of the ids of answers.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

/// 24 hexadecimal digits that no other id of this process or another has, in practice.
pub(crate) fn new_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let hash = |salt: u64| RandomState::new().hash_one((now.as_nanos(), count, salt));
    format!("{:016x}{:08x}", hash(1), hash(2) as u32)
}

/// A new id with a prefix that says what it names: `call_…`.
pub(crate) fn new_id_of(prefix: &str) -> String {
    format!("{prefix}_{}", new_id())
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ() {
        assert_ne!(new_id(), new_id());
        assert!(new_id_of("call").starts_with("call_"));
    }
}
