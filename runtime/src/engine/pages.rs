//! Who uses which page of the full layers' cache, and which pages hold a prefix that later requests may share.
//! This module handles ids only: the memory is the backend's.
//!
//! A page is *free*, *private* to one sample, or holds a *cached block*: a full page whose tokens are known, found by its
//! tokens and the block before it, and used by any number of samples. A block without users stays until its page is
//! needed; the least recently used one is evicted first, and never before the blocks that follow it. Whoever holds a
//! reference to a block holds one to each block before it. A block is a place to resume only if a snapshot of the sliding
//! layers' window before its end exists too: see [`super::snapshots`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::snapshots::Snapshots;
use crate::backend::PAGE_TOKENS;

/// What a cached block follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Parent {
    /// Nothing, among requests of this salt.
    Root(u64),
    /// The block in this page.
    Page(u32),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct BlockKey {
    parent: Parent,
    tokens: Arc<[u32]>,
}

#[derive(Debug)]
struct CachedBlock {
    key: BlockKey,
    children: usize,
    ref_count: usize,
    /// When its last reference was released.
    tick: u64,
}

/// A cached prefix to which the caller now holds references.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PrefixHit {
    pub(super) pages: Vec<u32>,
    /// The snapshot to load before the sequence continues after `pages`.
    pub(super) snapshot: Option<usize>,
    /// Blocks that matched, with and without a place to resume.
    pub(super) matched: usize,
}

/// All pages.
#[derive(Debug)]
pub(super) struct PageCache {
    free: Vec<u32>,
    /// By page.
    blocks: Vec<Option<CachedBlock>>,
    by_key: HashMap<BlockKey, u32>,
    /// Blocks without references or children, least recently used first.
    idle_leaves: BTreeSet<(u64, u32)>,
    /// Number of blocks without references.
    idle: usize,
    tick: u64,
    /// `None` if the model can resume anywhere.
    snapshots: Option<Snapshots>,
    share_prefixes: bool,
}

impl PageCache {
    /// All of `0..pages` are free. `share_prefixes` turns the sharing of prefixes on. `snapshots` is the number of
    /// sliding-window snapshots that the backend has room for; `None` if the model needs none.
    pub(super) fn new(pages: usize, share_prefixes: bool, snapshots: Option<usize>) -> PageCache {
        let count = u32::try_from(pages).unwrap_or(u32::MAX);
        PageCache {
            free: (0..count).rev().collect(),
            blocks: (0..count).map(|_| None).collect(),
            by_key: HashMap::new(),
            idle_leaves: BTreeSet::new(),
            idle: 0,
            tick: 0,
            snapshots: snapshots.map(Snapshots::new),
            share_prefixes,
        }
    }

    /// Pages that can be allocated now.
    pub(super) fn available(&self) -> usize {
        self.free.len() + self.idle
    }

    /// Pages that hold prefixes and that no sample uses.
    pub(super) fn cached(&self) -> usize {
        self.idle
    }

    /// Whether prefixes are shared.
    pub(super) fn shares_prefixes(&self) -> bool {
        self.share_prefixes
    }

    /// Allocates a private page, and evicts the least recently used prefix if none is free.
    pub(super) fn allocate(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            let (_, page) = self.idle_leaves.pop_first()?;
            self.evict(page);
        }
        self.free.pop()
    }

    /// Frees a private page.
    pub(super) fn free(&mut self, page: u32) {
        self.free.push(page);
    }

    /// Takes references to the longest cached prefix of `tokens` at whose end a sequence can resume. At least the last
    /// token is left out.
    pub(super) fn lookup(&mut self, tokens: &[u32], salt: u64) -> PrefixHit {
        if !self.share_prefixes {
            return PrefixHit::default();
        }
        let max_blocks = tokens.len().saturating_sub(1) / PAGE_TOKENS;
        let (mut pages, mut parent, mut resume, mut snapshot) =
            (Vec::new(), Parent::Root(salt), 0, None);
        for block in tokens.chunks_exact(PAGE_TOKENS).take(max_blocks) {
            let key = BlockKey { parent, tokens: block.into() };
            let Some(&page) = self.by_key.get(&key) else { break };
            pages.push(page);
            parent = Parent::Page(page);
            match self.snapshots.as_mut().map(|snapshots| snapshots.get(page)) {
                None => resume = pages.len(),
                Some(Some(id)) => (resume, snapshot) = (pages.len(), Some(id)),
                Some(None) => {}
            }
        }
        let matched = pages.len();
        pages.truncate(resume);
        pages.iter().for_each(|&page| self.retain(page));
        PrefixHit { pages, snapshot, matched }
    }

    /// Turns a private page that now holds `tokens` into a cached block, to which the caller holds a reference. If there
    /// is a block with these tokens already, the page is freed and that block is used instead. Returns the block's page.
    pub(super) fn insert(&mut self, parent: Parent, tokens: &[u32], page: u32) -> u32 {
        let key = BlockKey { parent, tokens: tokens.into() };
        if let Some(&known) = self.by_key.get(&key) {
            self.retain(known);
            self.free(page);
            return known;
        }
        if let Parent::Page(before) = parent
            && let Some(block) = self.blocks[before as usize].as_mut()
        {
            block.children += 1;
        }
        self.by_key.insert(key.clone(), page);
        self.blocks[page as usize] = Some(CachedBlock { key, children: 0, ref_count: 1, tick: 0 });
        page
    }

    /// Allocates a snapshot for a block, if it has none and there is room. An `anchor` is likely to be needed again.
    pub(super) fn allocate_snapshot(&mut self, page: u32, anchor: bool) -> Option<usize> {
        self.snapshots.as_mut()?.allocate(page, anchor)
    }

    /// Frees a block's snapshot unless it is an anchor.
    pub(super) fn free_snapshot_unless_anchor(&mut self, page: u32) {
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.free_unless_anchor(page);
        }
    }

    fn retain(&mut self, page: u32) {
        if let Some(block) = self.blocks[page as usize].as_mut() {
            if block.ref_count == 0 {
                self.idle -= 1;
                self.idle_leaves.remove(&(block.tick, page));
            }
            block.ref_count += 1;
        }
    }

    /// Releases a reference to a block; the blocks that follow it are released first.
    pub(super) fn release(&mut self, page: u32) {
        self.tick += 1;
        if let Some(block) = self.blocks[page as usize].as_mut() {
            block.ref_count -= 1;
            if block.ref_count == 0 {
                block.tick = self.tick;
                self.idle += 1;
                if block.children == 0 {
                    self.idle_leaves.insert((block.tick, page));
                }
            }
        }
    }

    /// Turns an idle leaf into a free page.
    fn evict(&mut self, page: u32) {
        let Some(block) = self.blocks[page as usize].take() else { return };
        self.by_key.remove(&block.key);
        self.idle -= 1;
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.free(page);
        }
        if let Parent::Page(before) = block.key.parent
            && let Some(parent) = self.blocks[before as usize].as_mut()
        {
            parent.children -= 1;
            if parent.children == 0 && parent.ref_count == 0 {
                self.idle_leaves.insert((parent.tick, before));
            }
        }
        self.free.push(page);
    }

    /// Evicts every prefix that no sample uses.
    pub(super) fn reset(&mut self) {
        while let Some((_, page)) = self.idle_leaves.pop_first() {
            self.evict(page);
        }
    }
}

/// What one sample uses of the pages.
#[cfg(test)]
pub(super) struct Use<'a> {
    pub(super) tokens: &'a [u32],
    pub(super) pages: &'a [u32],
    pub(super) cached_blocks: usize,
    pub(super) salt: u64,
}

#[cfg(test)]
impl PageCache {
    /// Holds all pages against what samples use, by the simplest reference: it walks over everything.
    ///
    /// # Errors
    /// The first thing that is wrong: a page that is lost, free twice, free and used, private and shared, or a block that
    /// holds other tokens, follows another block, or belongs to another salt than its user's.
    pub(super) fn audit(&self, uses: &[Use<'_>]) -> Result<(), String> {
        let mut owners = vec![0_usize; self.blocks.len()];
        self.free.iter().for_each(|&page| owners[page as usize] += 1);
        if let Some(page) = owners.iter().position(|&count| count > 1) {
            return Err(format!("page {page} is free twice"));
        }
        let mut references = vec![0; self.blocks.len()];
        for one in uses {
            let mut parent = Parent::Root(one.salt);
            for (index, &page) in one.pages.iter().enumerate() {
                if index >= one.cached_blocks {
                    owners[page as usize] += 1;
                    continue;
                }
                references[page as usize] += 1;
                let block = self.blocks[page as usize].as_ref();
                let tokens = &one.tokens[index * PAGE_TOKENS..(index + 1) * PAGE_TOKENS];
                match block.map(|block| &block.key) {
                    None => return Err(format!("page {page} is used as a block and holds none")),
                    Some(key) if key.parent != parent => {
                        return Err(format!(
                            "the block in page {page} follows {:?}, not {parent:?}",
                            key.parent
                        ));
                    }
                    Some(key) if *key.tokens != *tokens => {
                        return Err(format!("the block in page {page} holds other tokens"));
                    }
                    Some(_) => parent = Parent::Page(page),
                }
            }
        }
        let (mut idle, mut leaves) = (0, BTreeSet::new());
        for (page, block) in self.blocks.iter().enumerate() {
            let owners = owners[page] + usize::from(block.is_some());
            if owners != 1 {
                return Err(format!("page {page} has {owners} owners"));
            }
            let Some(block) = block else { continue };
            if block.ref_count != references[page] {
                let counted = block.ref_count;
                let of = references[page];
                return Err(format!(
                    "the block in page {page} counts {counted} references of {of}"
                ));
            }
            let follows = |other: &&CachedBlock| other.key.parent == Parent::Page(page as u32);
            let children = self.blocks.iter().flatten().filter(follows).count();
            if block.children != children {
                return Err(format!(
                    "the block in page {page} counts {} of {children} children",
                    block.children
                ));
            }
            if block.ref_count == 0 {
                idle += 1;
                leaves.extend((children == 0).then_some((block.tick, page as u32)));
            }
        }
        if idle != self.idle || leaves != self.idle_leaves {
            return Err(format!("{} idle blocks are counted of {idle}", self.idle));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a sample uses: its tokens, its pages, and how many of these hold cached blocks.
    struct Held {
        tokens: Vec<u32>,
        pages: Vec<u32>,
        cached_blocks: usize,
    }

    /// What [`PageCache::audit`] reports of what samples hold.
    fn check(cache: &PageCache, held: &[Held], total: usize) -> Result<(), TestCaseError> {
        let uses: Vec<Use<'_>> = held
            .iter()
            .map(|held| Use {
                tokens: &held.tokens,
                pages: &held.pages,
                cached_blocks: held.cached_blocks,
                salt: 0,
            })
            .collect();
        cache.audit(&uses).map_err(TestCaseError::fail)?;
        let used: BTreeSet<u32> = held.iter().flat_map(|held| &held.pages).copied().collect();
        prop_assert_eq!(cache.available(), total - used.len());
        Ok(())
    }

    proptest! {
        /// Against the simplest reference: no page leaks, a page is shared only by samples with the same tokens, and
        /// every page that no sample uses can be allocated.
        #[test]
        fn pages_are_never_leaked_or_shared_by_mistake(
            total in 1_usize..24,
            snapshots in prop::option::of(0_usize..6),
            moves in prop::collection::vec((0_u8..4, 0_usize..5, 0_usize..64), 0..120),
        ) {
            let mut cache = PageCache::new(total, true, snapshots);
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
                    let cached_blocks = hit.pages.len();
                    let mut sample = Held { tokens, cached_blocks, pages: hit.pages };
                    while sample.pages.len() < pages && let Some(page) = cache.allocate() {
                        sample.pages.push(page);
                    }
                    held.push(sample);
                } else if !held.is_empty() {
                    let at = number % held.len();
                    if kind == 2 {
                        let sample = &mut held[at];
                        if sample.cached_blocks < sample.pages.len() {
                            let index = sample.cached_blocks;
                            let parent = index
                                .checked_sub(1)
                                .map_or(Parent::Root(0), |at| Parent::Page(sample.pages[at]));
                            let block = &sample.tokens[index * PAGE_TOKENS..][..PAGE_TOKENS];
                            sample.pages[index] = cache.insert(parent, block, sample.pages[index]);
                            sample.cached_blocks += 1;
                            cache.allocate_snapshot(sample.pages[index], number % 3 == 0);
                        }
                    } else {
                        let sample = held.swap_remove(at);
                        for (index, &page) in sample.pages.iter().enumerate().rev() {
                            if index < sample.cached_blocks {
                                cache.release(page);
                            } else {
                                cache.free(page);
                            }
                        }
                    }
                }
                check(&cache, &held, total)?;
            }
        }
    }

    /// Caches a whole sequence block by block, and returns its pages.
    fn cached(cache: &mut PageCache, tokens: &[u32]) -> Vec<u32> {
        let mut pages: Vec<u32> = Vec::new();
        for block in tokens.chunks_exact(PAGE_TOKENS) {
            let parent = pages.last().map_or(Parent::Root(0), |&page| Parent::Page(page));
            let page = cache.allocate().unwrap();
            pages.push(cache.insert(parent, block, page));
        }
        pages
    }

    #[test]
    fn the_least_recently_used_prefix_is_evicted_first_from_its_end() {
        let mut cache = PageCache::new(5, true, None);
        let (old, new) = ([1; 2 * PAGE_TOKENS], [2; 2 * PAGE_TOKENS]);
        for tokens in [&old, &new] {
            let pages = cached(&mut cache, tokens);
            pages.iter().rev().for_each(|&page| cache.release(page));
        }
        assert_eq!((cache.available(), cache.cached()), (5, 4));
        let allocated: Vec<u32> = (0..2).map(|_| cache.allocate().unwrap()).collect();
        assert_eq!(allocated.len(), 2);
        assert_eq!(cache.lookup(&[&old[..], &[9]].concat(), 0).matched, 1);
        assert_eq!(cache.lookup(&[&new[..], &[9]].concat(), 0).matched, 2);
        assert_eq!(cache.lookup(&[&new[..], &[9]].concat(), 1).matched, 0, "another salt");
    }

    #[test]
    fn a_prefix_is_resumed_at_its_last_snapshot() {
        let mut cache = PageCache::new(8, true, Some(2));
        let tokens = [3; 4 * PAGE_TOKENS + 1];
        let pages = cached(&mut cache, &tokens);
        let resume = |cache: &mut PageCache| {
            let hit = cache.lookup(&tokens, 0);
            hit.pages.iter().rev().for_each(|&page| cache.release(page));
            (hit.pages.len(), hit.matched)
        };
        assert_eq!(resume(&mut cache), (0, 4));
        assert!(cache.allocate_snapshot(pages[1], false).is_some());
        assert_eq!(resume(&mut cache), (2, 4));
        assert!(cache.allocate_snapshot(pages[3], false).is_some());
        assert_eq!(resume(&mut cache), (4, 4));
        assert!(
            cache.allocate_snapshot(pages[0], true).is_some(),
            "the least recently used one is evicted"
        );
        assert_eq!(resume(&mut cache), (4, 4));
        let short = cache.lookup(&tokens[..2 * PAGE_TOKENS], 0);
        assert_eq!((short.pages.len(), short.matched), (1, 1), "the last token is always run");
    }
}
