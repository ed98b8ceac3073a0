//! What was compiled lately, by a digest of its text, so that an agent's tools are compiled once and not at each request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ossmith_guide::{Compiled, Constraint};

/// Grammars, and refusals, that are kept.
const MAX_ENTRIES: usize = 1024;
/// Bytes of them: nearly 200 tools of ordinary size.
const MAX_BYTES: u64 = 48 << 20;

/// How long what was wanted once is kept, and what was wanted again, as an agent's tools are.
const LIFETIME: Duration = Duration::from_secs(30);
const LIFETIME_AGAIN: Duration = Duration::from_secs(600);

/// Names a constraint: a digest that nobody can find a second text for.
pub(super) type Key = [u8; 32];

/// A grammar, or why there is none.
pub(super) type Outcome = Result<Arc<Compiled>, String>;

struct Entry {
    outcome: Outcome,
    bytes: u64,
    /// When it was last looked up: which was the last, and at what time.
    used: u64,
    time: Instant,
    /// It was looked up since it was put here.
    again: bool,
}

/// The least recently used go first.
#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
    bytes: u64,
    clock: u64,
}

impl Cache {
    pub(super) fn get(&mut self, key: &Key) -> Option<Outcome> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.used = self.clock;
        entry.time = Instant::now();
        entry.again = true;
        Some(entry.outcome.clone())
    }

    /// Keeps an outcome that takes this much memory, if it is no more than an eighth of all.
    pub(super) fn put(&mut self, key: Key, outcome: Outcome, bytes: u64) {
        if bytes > MAX_BYTES / 8 {
            return;
        }
        self.clock += 1;
        let entry = Entry { outcome, bytes, used: self.clock, time: Instant::now(), again: false };
        self.bytes += bytes;
        if let Some(old) = self.entries.insert(key, entry) {
            self.bytes -= old.bytes;
        }
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let Some(key) = oldest.map(|(key, _)| *key) else { return };
            if let Some(old) = self.entries.remove(&key) {
                self.bytes -= old.bytes;
            }
        }
    }

    /// Removes what nobody has wanted for long. The caller drops it where that holds nobody up.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Outcome> {
        let old = |entry: &Entry| {
            let lifetime = if entry.again { LIFETIME_AGAIN } else { LIFETIME };
            now.saturating_duration_since(entry.time) > lifetime
        };
        let gone: Vec<Entry> =
            self.entries.extract_if(|_, entry| old(entry)).map(|(_, entry)| entry).collect();
        self.bytes -= gone.iter().map(|entry| entry.bytes).sum::<u64>();
        gone.into_iter().map(|entry| entry.outcome).collect()
    }
}

/// The digest of a constraint.
pub(super) fn key(constraint: &Constraint) -> Key {
    let mut hasher = blake3::Hasher::new();
    let mut add = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    match constraint {
        Constraint::Schema { schema, lenient } => {
            add(if *lenient { "lenient schema" } else { "schema" });
            add(&schema.to_string());
        }
        Constraint::Arguments { schema, lenient } => {
            add(if *lenient { "lenient arguments" } else { "arguments" });
            add(&schema.to_string());
        }
        Constraint::Regex(text) => {
            add("regex");
            add(text);
        }
        Constraint::Grammar(text) => {
            add("grammar");
            add(text);
        }
        Constraint::Input(text) => {
            add("input");
            add(text);
        }
        Constraint::Choice(choices) => {
            add("choice");
            choices.iter().for_each(|choice| add(choice));
        }
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(cache: &mut Cache, key: u8) -> bool {
        cache.get(&[key; 32]).is_some()
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let mut cache = Cache::default();
        let eighth = MAX_BYTES / 8;
        for key in 0..8 {
            cache.put([key; 32], Err(String::new()), eighth);
        }
        assert!(refused(&mut cache, 0));
        cache.put([8; 32], Err(String::new()), eighth);
        assert!(refused(&mut cache, 0) && !refused(&mut cache, 1) && refused(&mut cache, 8));
        cache.put([9; 32], Err(String::new()), eighth + 1);
        assert!(!refused(&mut cache, 9), "one that is too large is not kept");
        // The same again takes no more.
        for _ in 0..20 {
            cache.put([0; 32], Err(String::new()), eighth);
        }
        assert!(refused(&mut cache, 2));
        for key in 0..=u8::MAX {
            for half in 0..8 {
                let mut name = [key; 32];
                name[0] = half;
                cache.put(name, Err(String::new()), 1);
            }
        }
        assert_eq!(cache.entries.len(), MAX_ENTRIES);
    }

    #[test]
    fn what_nobody_wants_again_goes_first() {
        let mut cache = Cache::default();
        for key in 0..2 {
            cache.put([key; 32], Err(String::new()), 1);
        }
        assert!(refused(&mut cache, 0));
        let now = Instant::now();
        assert!(cache.expire(now).is_empty());
        assert_eq!(cache.expire(now + LIFETIME + Duration::from_secs(1)).len(), 1);
        assert_eq!((cache.bytes, cache.entries.len()), (1, 1));
        assert_eq!(cache.expire(now + 2 * LIFETIME_AGAIN).len(), 1);
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn a_digest_tells_kinds_and_places_apart() {
        let choice =
            |texts: &[&str]| Constraint::Choice(texts.iter().map(|t| (*t).into()).collect());
        let all = [
            Constraint::Regex("a".into()),
            Constraint::Grammar("a".into()),
            Constraint::Input("a".into()),
            choice(&["a"]),
            choice(&["a", "b"]),
            choice(&["ab"]),
            Constraint::Schema { schema: true.into(), lenient: false },
            Constraint::Schema { schema: true.into(), lenient: true },
        ];
        for (at, one) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                assert_eq!(key(one) == key(other), at == other_at, "{one:?} {other:?}");
            }
        }
    }
}
