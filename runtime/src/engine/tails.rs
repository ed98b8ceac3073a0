//! Where a cached prefix can be resumed. Sliding layers keep only a window of each running sequence, so to go on after
//! a cached page one needs the window before its end, a *tail*. The backend has room for a number of them; this
//! says which page each belongs to, and which gives way.

use std::collections::{BTreeSet, HashMap};

#[derive(Clone, Copy, Debug)]
struct Tail {
    id: usize,
    /// Likely to be wanted: the end of a prompt, or where requests were seen to part.
    anchor: bool,
    /// When it was last used.
    tick: u64,
}

/// Tails by the page at whose end they are.
#[derive(Debug)]
pub(super) struct Tails {
    free: Vec<usize>,
    by_page: HashMap<u32, Tail>,
    /// Passing tails before anchors, longest unused first.
    order: BTreeSet<(bool, u64, u32)>,
    tick: u64,
}

impl Tails {
    pub(super) fn new(count: usize) -> Tails {
        Tails {
            free: (0..count).rev().collect(),
            by_page: HashMap::new(),
            order: BTreeSet::new(),
            tick: 0,
        }
    }

    /// A page's tail, which counts as a use.
    pub(super) fn of(&mut self, page: u32) -> Option<usize> {
        let tail = *self.by_page.get(&page)?;
        self.put(page, tail);
        Some(tail.id)
    }

    /// A tail for a page that has none; the first in order gives way. `None` if there is nothing to save.
    pub(super) fn keep(&mut self, page: u32, anchor: bool) -> Option<usize> {
        if let Some(&tail) = self.by_page.get(&page) {
            self.put(page, Tail { anchor: tail.anchor || anchor, ..tail });
            return None;
        }
        if self.free.is_empty() {
            let &(_, _, first) = self.order.first()?;
            self.drop(first);
        }
        let id = self.free.pop()?;
        self.put(page, Tail { id, anchor, tick: 0 });
        Some(id)
    }

    fn put(&mut self, page: u32, tail: Tail) {
        self.tick += 1;
        let tail = Tail { tick: self.tick, ..tail };
        if let Some(old) = self.by_page.insert(page, tail) {
            self.order.remove(&(old.anchor, old.tick, page));
        }
        self.order.insert((tail.anchor, tail.tick, page));
    }

    /// Forgets a page's tail.
    pub(super) fn drop(&mut self, page: u32) {
        if let Some(tail) = self.by_page.remove(&page) {
            self.order.remove(&(tail.anchor, tail.tick, page));
            self.free.push(tail.id);
        }
    }

    /// Forgets a page's tail unless it is an anchor.
    pub(super) fn drop_passing(&mut self, page: u32) {
        if self.by_page.get(&page).is_some_and(|tail| !tail.anchor) {
            self.drop(page);
        }
    }
}
