//! Where a cached prefix can be resumed. Sliding layers keep only a window of each running sequence, so a sequence that
//! continues after a cached block needs the window before the block's end: a *sliding-window snapshot*. The backend has
//! room for a number of them; this module records which block each belongs to, and which one is evicted next.

use std::collections::{BTreeSet, HashMap};

#[derive(Clone, Copy, Debug)]
struct Snapshot {
    id: usize,
    /// Likely to be needed again: the end of a prompt, or a place where prompts have diverged.
    anchor: bool,
    /// When it was last used.
    tick: u64,
}

/// Snapshots by the page at whose end they were taken.
#[derive(Debug)]
pub(super) struct Snapshots {
    free: Vec<usize>,
    by_page: HashMap<u32, Snapshot>,
    /// The order of eviction: anchors last, least recently used first.
    order: BTreeSet<(bool, u64, u32)>,
    tick: u64,
}

impl Snapshots {
    pub(super) fn new(count: usize) -> Snapshots {
        Snapshots {
            free: (0..count).rev().collect(),
            by_page: HashMap::new(),
            order: BTreeSet::new(),
            tick: 0,
        }
    }

    /// A page's snapshot, which counts as a use.
    pub(super) fn get(&mut self, page: u32) -> Option<usize> {
        let snapshot = *self.by_page.get(&page)?;
        self.put(page, snapshot);
        Some(snapshot.id)
    }

    /// Allocates a snapshot for a page that has none, and evicts the first in order if all are in use. `None` if there is
    /// nothing to save: the page has one already, or there is no room for any.
    pub(super) fn allocate(&mut self, page: u32, anchor: bool) -> Option<usize> {
        if let Some(&snapshot) = self.by_page.get(&page) {
            self.put(page, Snapshot { anchor: snapshot.anchor || anchor, ..snapshot });
            return None;
        }
        if self.free.is_empty() {
            let &(_, _, first) = self.order.first()?;
            self.free(first);
        }
        let id = self.free.pop()?;
        self.put(page, Snapshot { id, anchor, tick: 0 });
        Some(id)
    }

    fn put(&mut self, page: u32, snapshot: Snapshot) {
        self.tick += 1;
        let snapshot = Snapshot { tick: self.tick, ..snapshot };
        if let Some(old) = self.by_page.insert(page, snapshot) {
            self.order.remove(&(old.anchor, old.tick, page));
        }
        self.order.insert((snapshot.anchor, snapshot.tick, page));
    }

    /// Frees a page's snapshot.
    pub(super) fn free(&mut self, page: u32) {
        if let Some(snapshot) = self.by_page.remove(&page) {
            self.order.remove(&(snapshot.anchor, snapshot.tick, page));
            self.free.push(snapshot.id);
        }
    }

    /// Frees a page's snapshot unless it is an anchor.
    pub(super) fn free_unless_anchor(&mut self, page: u32) {
        if self.by_page.get(&page).is_some_and(|snapshot| !snapshot.anchor) {
            self.free(page);
        }
    }
}
