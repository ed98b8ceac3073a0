//! Who holds which page of the full layers' cache, and which pages hold a prefix that later requests may share.
//! Ids only: the memory is the backend's.
//!
//! A page is *free*, *private* to one sample, or a *node*: a full page whose tokens are known, found by its tokens and
//! the page before it, held by any number of samples. Nodes that nobody holds stay until their page is needed; the
//! one longest unused goes first, and never before the pages that follow it. Whoever holds a node holds those before
//! it. A node is a place to resume only if the sliding layers' window before its end was kept too: see [`super::tails`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::tails::Tails;
use crate::backend::PAGE_TOKENS;

/// What a node follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Parent {
    /// Nothing, among requests of this salt.
    Root(u64),
    /// Another node.
    Page(u32),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct NodeKey {
    parent: Parent,
    tokens: Arc<[u32]>,
}

#[derive(Debug)]
struct Node {
    key: NodeKey,
    children: usize,
    holders: usize,
    /// When it was last held.
    tick: u64,
}

/// A cached prefix, held for the caller.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) pages: Vec<u32>,
    /// The tail to load before going on after `pages`.
    pub(super) tail: Option<usize>,
    /// Pages that matched, with and without a place to resume.
    pub(super) matched: usize,
}

/// All pages.
#[derive(Debug)]
pub(super) struct PageCache {
    free: Vec<u32>,
    /// By page.
    nodes: Vec<Option<Node>>,
    children: HashMap<NodeKey, u32>,
    /// Nodes that nobody holds and none follows, longest unused first.
    idle_leaves: BTreeSet<(u64, u32)>,
    /// Nodes that nobody holds.
    idle: usize,
    tick: u64,
    /// `None` if the model can resume anywhere.
    tails: Option<Tails>,
    keep: bool,
}

impl PageCache {
    /// All of `0..pages` are free. `keep` turns the sharing of prefixes on; `tails` is how many places to resume the
    /// backend keeps, `None` if the model needs none.
    pub(super) fn new(pages: usize, keep: bool, tails: Option<usize>) -> PageCache {
        let count = u32::try_from(pages).unwrap_or(u32::MAX);
        PageCache {
            free: (0..count).rev().collect(),
            nodes: (0..count).map(|_| None).collect(),
            children: HashMap::new(),
            idle_leaves: BTreeSet::new(),
            idle: 0,
            tick: 0,
            tails: tails.map(Tails::new),
            keep,
        }
    }

    /// Pages that could be taken now.
    pub(super) fn available(&self) -> usize {
        self.free.len() + self.idle
    }

    /// Pages that hold prefixes and that nobody holds.
    pub(super) fn cached(&self) -> usize {
        self.idle
    }

    /// Whether prefixes are shared.
    pub(super) fn keeps(&self) -> bool {
        self.keep
    }

    /// A private page; the longest unused prefix gives way if none is free.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            let (_, page) = self.idle_leaves.pop_first()?;
            self.forget(page);
        }
        self.free.pop()
    }

    /// Takes a private page back.
    pub(super) fn give(&mut self, page: u32) {
        self.free.push(page);
    }

    /// Holds the longest cached prefix of `tokens` at whose end a sequence can resume, short of its last token.
    pub(super) fn lookup(&mut self, tokens: &[u32], salt: u64) -> Hit {
        if !self.keep {
            return Hit::default();
        }
        let most = tokens.len().saturating_sub(1) / PAGE_TOKENS;
        let (mut pages, mut parent, mut resume, mut tail) =
            (Vec::new(), Parent::Root(salt), 0, None);
        for part in tokens.chunks_exact(PAGE_TOKENS).take(most) {
            let key = NodeKey { parent, tokens: part.into() };
            let Some(&page) = self.children.get(&key) else { break };
            pages.push(page);
            parent = Parent::Page(page);
            match self.tails.as_mut().map(|tails| tails.of(page)) {
                None => resume = pages.len(),
                Some(Some(id)) => (resume, tail) = (pages.len(), Some(id)),
                Some(None) => {}
            }
        }
        let matched = pages.len();
        pages.truncate(resume);
        pages.iter().for_each(|&page| self.hold(page));
        Hit { pages, tail, matched }
    }

    /// Makes a private page that now holds `tokens` a node, held by the caller. If there is one with these tokens, the
    /// page is freed and that one held instead. Gives the node's page.
    pub(super) fn publish(&mut self, parent: Parent, tokens: &[u32], page: u32) -> u32 {
        let key = NodeKey { parent, tokens: tokens.into() };
        if let Some(&known) = self.children.get(&key) {
            self.hold(known);
            self.give(page);
            return known;
        }
        if let Parent::Page(before) = parent
            && let Some(node) = self.nodes[before as usize].as_mut()
        {
            node.children += 1;
        }
        self.children.insert(key.clone(), page);
        self.nodes[page as usize] = Some(Node { key, children: 0, holders: 1, tick: 0 });
        page
    }

    /// A tail to keep for a node, if it has none and there is room. `anchor` says that it is likely to be wanted.
    pub(super) fn keep_tail(&mut self, page: u32, anchor: bool) -> Option<usize> {
        self.tails.as_mut()?.keep(page, anchor)
    }

    /// Forgets a node's tail unless it is an anchor.
    pub(super) fn drop_passing_tail(&mut self, page: u32) {
        if let Some(tails) = &mut self.tails {
            tails.drop_passing(page);
        }
    }

    fn hold(&mut self, page: u32) {
        if let Some(node) = self.nodes[page as usize].as_mut() {
            if node.holders == 0 {
                self.idle -= 1;
                self.idle_leaves.remove(&(node.tick, page));
            }
            node.holders += 1;
        }
    }

    /// Lets go of a node; those that follow it come first.
    pub(super) fn release(&mut self, page: u32) {
        self.tick += 1;
        if let Some(node) = self.nodes[page as usize].as_mut() {
            node.holders -= 1;
            if node.holders == 0 {
                node.tick = self.tick;
                self.idle += 1;
                if node.children == 0 {
                    self.idle_leaves.insert((node.tick, page));
                }
            }
        }
    }

    /// Turns an idle leaf into a free page.
    fn forget(&mut self, page: u32) {
        let Some(node) = self.nodes[page as usize].take() else { return };
        self.children.remove(&node.key);
        self.idle -= 1;
        if let Some(tails) = &mut self.tails {
            tails.drop(page);
        }
        if let Parent::Page(before) = node.key.parent
            && let Some(parent) = self.nodes[before as usize].as_mut()
        {
            parent.children -= 1;
            if parent.children == 0 && parent.holders == 0 {
                self.idle_leaves.insert((parent.tick, before));
            }
        }
        self.free.push(page);
    }

    /// Frees every prefix that nobody holds.
    pub(super) fn reset(&mut self) {
        while let Some((_, page)) = self.idle_leaves.pop_first() {
            self.forget(page);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a sample holds: its tokens, pages, and how many of these are nodes.
    struct Held {
        tokens: Vec<u32>,
        pages: Vec<u32>,
        nodes: usize,
    }

    /// The plainest reference: which tokens every page holds, by walking all samples.
    fn check(cache: &PageCache, held: &[Held], total: usize) -> Result<(), TestCaseError> {
        let mut owners: HashMap<u32, Vec<&[u32]>> = HashMap::new();
        let mut private = 0;
        for sample in held {
            for (index, &page) in sample.pages.iter().enumerate() {
                let prefix = &sample.tokens[..sample.tokens.len().min((index + 1) * PAGE_TOKENS)];
                owners.entry(page).or_default().push(prefix);
                if index >= sample.nodes {
                    private += 1;
                    prop_assert_eq!(owners[&page].len(), 1, "private page {} is shared", page);
                }
            }
        }
        for (page, prefixes) in &owners {
            prop_assert!(prefixes.windows(2).all(|pair| pair[0] == pair[1]), "page {}", page);
            prop_assert!(!cache.free.contains(page), "page {} is held and free", page);
        }
        let nodes = cache.nodes.iter().flatten().count();
        prop_assert_eq!(cache.free.len() + nodes + private, total, "a page leaked");
        let holders: usize = cache.nodes.iter().flatten().map(|node| node.holders).sum();
        prop_assert_eq!(holders, held.iter().map(|sample| sample.nodes).sum::<usize>());
        prop_assert_eq!(cache.available(), total - owners.len());
        Ok(())
    }

    proptest! {
        /// Against the plainest reference: no page leaks, none is shared but by samples with the same tokens, and
        /// every page that nobody holds can be taken.
        #[test]
        fn pages_are_never_leaked_or_shared_by_mistake(
            total in 1_usize..24,
            tails in prop::option::of(0_usize..6),
            moves in prop::collection::vec((0_u8..4, 0_usize..5, 0_usize..64), 0..120),
        ) {
            let mut cache = PageCache::new(total, true, tails);
            let mut held: Vec<Held> = Vec::new();
            for (kind, variant, number) in moves {
                if kind < 2 {
                    // Few different contents, so that prefixes meet.
                    let pages = number % 6 + 1;
                    let tokens: Vec<u32> = (0..pages * PAGE_TOKENS)
                        .map(|at| if at / PAGE_TOKENS < variant { 1 } else { variant as u32 })
                        .collect();
                    let hit = cache.lookup(&tokens, 0);
                    prop_assert!(hit.pages.len() < pages && hit.pages.len() <= hit.matched);
                    let mut sample = Held { tokens, nodes: hit.pages.len(), pages: hit.pages };
                    while sample.pages.len() < pages && let Some(page) = cache.take() {
                        sample.pages.push(page);
                    }
                    held.push(sample);
                } else if !held.is_empty() {
                    let at = number % held.len();
                    if kind == 2 {
                        let sample = &mut held[at];
                        if sample.nodes < sample.pages.len() {
                            let (index, before) = (sample.nodes, sample.nodes.checked_sub(1));
                            let parent = before.map_or(Parent::Root(0), |at| Parent::Page(sample.pages[at]));
                            let part = &sample.tokens[index * PAGE_TOKENS..][..PAGE_TOKENS];
                            sample.pages[index] = cache.publish(parent, part, sample.pages[index]);
                            sample.nodes += 1;
                            cache.keep_tail(sample.pages[index], number % 3 == 0);
                        }
                    } else {
                        let sample = held.swap_remove(at);
                        for (index, &page) in sample.pages.iter().enumerate().rev() {
                            if index < sample.nodes { cache.release(page) } else { cache.give(page) }
                        }
                    }
                }
                check(&cache, &held, total)?;
            }
        }
    }

    /// Publishes a whole sequence page by page, and gives its pages.
    fn cached(cache: &mut PageCache, tokens: &[u32]) -> Vec<u32> {
        let mut pages: Vec<u32> = Vec::new();
        for part in tokens.chunks_exact(PAGE_TOKENS) {
            let parent = pages.last().map_or(Parent::Root(0), |&page| Parent::Page(page));
            let page = cache.take().unwrap();
            pages.push(cache.publish(parent, part, page));
        }
        pages
    }

    #[test]
    fn the_prefix_longest_unused_gives_way_first_from_its_end() {
        let mut cache = PageCache::new(5, true, None);
        let (old, new) = ([1; 2 * PAGE_TOKENS], [2; 2 * PAGE_TOKENS]);
        for tokens in [&old, &new] {
            let pages = cached(&mut cache, tokens);
            pages.iter().rev().for_each(|&page| cache.release(page));
        }
        assert_eq!((cache.available(), cache.cached()), (5, 4));
        let taken: Vec<u32> = (0..2).map(|_| cache.take().unwrap()).collect();
        assert_eq!(taken.len(), 2);
        assert_eq!(cache.lookup(&[&old[..], &[9]].concat(), 0).matched, 1);
        assert_eq!(cache.lookup(&[&new[..], &[9]].concat(), 0).matched, 2);
        assert_eq!(cache.lookup(&[&new[..], &[9]].concat(), 1).matched, 0, "another salt");
    }

    #[test]
    fn a_prefix_is_resumed_at_its_last_tail() {
        let mut cache = PageCache::new(8, true, Some(2));
        let tokens = [3; 4 * PAGE_TOKENS + 1];
        let pages = cached(&mut cache, &tokens);
        let resume = |cache: &mut PageCache| {
            let hit = cache.lookup(&tokens, 0);
            hit.pages.iter().rev().for_each(|&page| cache.release(page));
            (hit.pages.len(), hit.matched)
        };
        assert_eq!(resume(&mut cache), (0, 4));
        assert!(cache.keep_tail(pages[1], false).is_some());
        assert_eq!(resume(&mut cache), (2, 4));
        assert!(cache.keep_tail(pages[3], false).is_some());
        assert_eq!(resume(&mut cache), (4, 4));
        assert!(cache.keep_tail(pages[0], true).is_some(), "the one longest unused gives way");
        assert_eq!(resume(&mut cache), (4, 4));
        let short = cache.lookup(&tokens[..2 * PAGE_TOKENS], 0);
        assert_eq!((short.pages.len(), short.matched), (1, 1), "the last token is always run");
    }
}
