//! Which engine of a pool a request goes to.
//!
//! An engine's place costs the prompt tokens that it would have to read, and [`SAMPLE_TOKENS`] for every sample that it has
//! already. A prefix of fewer tokens than that counts for nothing: the few that all prompts begin with would keep all of a
//! light load at one engine, and the caches of the others empty. What it would not have to read is estimated: the pool keeps
//! a hash of each block of tokens that it has sent to an engine or seen come back, as many as the engine has pages, and
//! forgets the least recently used first, as the engine does.
//! A wrong estimate costs time and changes no token.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;

use crate::backend::PAGE_TOKENS;

/// How many prompt tokens it is worth to read in order to run beside one sample less. Derived from steps of gpt-oss-20b on an
/// H200: a prompt of 512 tokens takes 12 ms, and each sample of a batch delays an answer of 256 tokens by 10 to 19.
const SAMPLE_TOKENS: usize = 256;

/// Names blocks of tokens by a hash of the block and all before it, one token after another.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    hasher: RandomState,
    last: u64,
    tail: Vec<u32>,
}

impl Chain {
    /// The start of all sequences of a scope of prefixes.
    pub(super) fn new(hasher: &RandomState, scope: u64) -> Chain {
        Chain { hasher: hasher.clone(), last: hasher.hash_one(scope), tail: Vec::new() }
    }

    /// Adds a token, and returns the name of the block that it completes.
    pub(super) fn push(&mut self, token: u32) -> Option<u64> {
        self.tail.push(token);
        if self.tail.len() < PAGE_TOKENS {
            return None;
        }
        self.last = self.hasher.hash_one((self.last, &self.tail[..]));
        self.tail.clear();
        Some(self.last)
    }
}

/// A prompt as placement sees it.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    pub(super) tokens: usize,
    /// The names of its whole blocks.
    pub(super) blocks: Arc<[u64]>,
    /// Where answers go on.
    pub(super) chain: Chain,
}

impl Prompt {
    pub(super) fn new(mut chain: Chain, tokens: &[u32]) -> Prompt {
        let blocks = tokens.iter().filter_map(|&token| chain.push(token)).collect();
        Prompt { tokens: tokens.len(), blocks, chain }
    }
}

/// The blocks that an engine is likely to hold.
#[derive(Debug)]
struct RecentBlocks {
    capacity: usize,
    tick: u64,
    by_name: HashMap<u64, u64>,
    by_tick: BTreeMap<u64, u64>,
}

impl RecentBlocks {
    fn use_block(&mut self, name: u64) {
        self.tick += 1;
        if let Some(before) = self.by_name.insert(name, self.tick) {
            self.by_tick.remove(&before);
        }
        self.by_tick.insert(self.tick, name);
        if self.by_name.len() > self.capacity
            && let Some((_, oldest)) = self.by_tick.pop_first()
        {
            self.by_name.remove(&oldest);
        }
    }
}

/// What a pool knows of one engine.
#[derive(Debug)]
struct Load {
    /// Samples that were placed here and have not ended.
    samples: usize,
    /// Requests that were placed here so far.
    placed: u64,
    /// It takes no requests any more.
    failed: bool,
    blocks: RecentBlocks,
    /// How many requests in flight have a block in their prompts.
    users: HashMap<u64, usize>,
}

impl Load {
    /// What a place here costs, in tokens.
    fn cost(&self, prompt: &Prompt) -> usize {
        // An engine keeps what comes before a block for as long as the block.
        let known = |name: &u64| self.blocks.by_name.contains_key(name);
        let matched = prompt.blocks.iter().rposition(known);
        let saved = matched.map_or(0, |at| {
            // The last token is always run.
            let tokens =
                ((at + 1) * PAGE_TOKENS).min((prompt.tokens - 1) / PAGE_TOKENS * PAGE_TOKENS);
            // A prefix that many requests share is worth reading anew: otherwise all of them would come to the first engine
            // that has read it.
            tokens / (1 + self.users.get(&prompt.blocks[at]).copied().unwrap_or(0))
        });
        let saved = if saved < SAMPLE_TOKENS { 0 } else { saved };
        prompt.tokens - saved + SAMPLE_TOKENS * self.samples
    }
}

/// What a pool knows of its engines.
#[derive(Debug)]
pub(super) struct Loads {
    engines: Vec<Load>,
    shares_prefixes: bool,
}

impl Loads {
    /// Engines with so many pages each.
    pub(super) fn new(pages: impl Iterator<Item = usize>, shares_prefixes: bool) -> Loads {
        let load = |capacity| Load {
            samples: 0,
            placed: 0,
            failed: false,
            blocks: RecentBlocks {
                capacity,
                tick: 0,
                by_name: HashMap::new(),
                by_tick: BTreeMap::new(),
            },
            users: HashMap::new(),
        };
        Loads { engines: pages.map(load).collect(), shares_prefixes }
    }

    /// Samples that have not ended.
    pub(super) fn samples(&self) -> usize {
        self.engines.iter().map(|engine| engine.samples).sum()
    }

    /// Engines that have not failed.
    pub(super) fn alive(&self) -> usize {
        self.engines.iter().filter(|engine| !engine.failed).count()
    }

    /// The engines that have not failed, the best for this prompt first. Of equal ones the first is the one that was used
    /// least.
    pub(super) fn order(&self, prompt: &Prompt) -> Vec<usize> {
        let alive = (0..self.engines.len()).filter(|&at| !self.engines[at].failed);
        let mut order: Vec<(usize, u64, usize)> =
            alive.map(|at| (self.engines[at].cost(prompt), self.engines[at].placed, at)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, _, at)| at).collect()
    }

    /// Counts a request of so many samples at an engine.
    pub(super) fn place(&mut self, engine: usize, samples: usize, prompt: &Prompt) {
        let load = &mut self.engines[engine];
        load.samples += samples;
        load.placed += 1;
        if self.shares_prefixes && !load.failed {
            for &name in prompt.blocks.iter().rev() {
                load.blocks.use_block(name);
                *load.users.entry(name).or_default() += 1;
            }
        }
    }

    /// Counts samples that have ended.
    pub(super) fn end(&mut self, engine: usize, samples: usize) {
        self.engines[engine].samples -= samples;
    }

    /// Counts that no sample of a request is left.
    pub(super) fn end_prompt(&mut self, engine: usize, prompt: &Prompt) {
        let users = &mut self.engines[engine].users;
        for name in &*prompt.blocks {
            if let Some(count) = users.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    users.remove(name);
                }
            }
        }
    }

    /// Notes a block of an answer.
    pub(super) fn add_block(&mut self, engine: usize, name: u64) {
        let load = &mut self.engines[engine];
        if self.shares_prefixes && !load.failed {
            load.blocks.use_block(name);
        }
    }

    /// Places nothing more at an engine. Whether that is new.
    pub(super) fn fail(&mut self, engine: usize) -> bool {
        let load = &mut self.engines[engine];
        load.users.clear();
        load.blocks.by_name.clear();
        load.blocks.by_tick.clear();
        !std::mem::replace(&mut load.failed, true)
    }

    /// Forgets all prefixes.
    pub(super) fn reset_prefixes(&mut self) {
        for load in &mut self.engines {
            load.blocks.by_name.clear();
            load.blocks.by_tick.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        hasher: RandomState,
        loads: Loads,
    }

    impl World {
        fn new(engines: usize, pages: usize) -> World {
            let loads = Loads::new(std::iter::repeat_n(pages, engines), true);
            World { hasher: RandomState::new(), loads }
        }

        fn prompt(&self, salt: u64, tokens: &[u32]) -> Prompt {
            Prompt::new(Chain::new(&self.hasher, salt), tokens)
        }

        /// Places a request where it goes.
        fn place(&mut self, prompt: &Prompt) -> usize {
            let engine = self.loads.order(prompt)[0];
            self.loads.place(engine, 1, prompt);
            engine
        }

        fn end(&mut self, engine: usize, prompt: &Prompt) {
            self.loads.end(engine, 1);
            self.loads.end_prompt(engine, prompt);
        }
    }

    fn text(first: u32, length: u32) -> Vec<u32> {
        (first..first + length).collect()
    }

    #[test]
    fn a_request_goes_where_its_prefix_is_within_its_salt() {
        let mut world = World::new(3, 1000);
        let prompts: Vec<Prompt> =
            (0..3).map(|at| world.prompt(0, &text(10_000 * at, 1000))).collect();
        let homes: Vec<usize> = prompts.iter().map(|prompt| world.place(prompt)).collect();
        assert_eq!(homes, [0, 1, 2], "busy engines get no more");
        for (home, prompt) in homes.into_iter().zip(&prompts) {
            world.end(home, prompt);
        }
        for (home, first) in [(2, 20_000), (0, 0), (1, 10_000)] {
            let longer = world.prompt(0, &[text(first, 1000), text(5, 70)].concat());
            assert_eq!(world.place(&longer), home);
            world.end(home, &longer);
        }
        // The engine that was used least, since nobody's prefix is this tenant's.
        let spare = world.prompt(0, &text(60_000, 10));
        assert_eq!(world.place(&spare), 0);
        world.end(0, &spare);
        let other = world.prompt(1, &text(20_000, 1000));
        assert_eq!(world.place(&other), 1, "another salt");
    }

    #[test]
    fn a_prefix_outweighs_few_samples_and_not_many() {
        let mut world = World::new(2, 1000);
        let long = world.prompt(0, &text(0, 2000));
        assert_eq!(world.place(&long), 0);
        world.end(0, &long);
        for (busy, expected) in [(0, 0), (3, 0), (7, 0), (8, 1), (50, 1)] {
            world.loads.engines[0].samples = busy;
            assert_eq!(world.loads.order(&long)[0], expected, "{busy} samples");
        }
    }

    #[test]
    fn a_prompt_that_all_share_is_read_by_every_engine() {
        let mut world = World::new(4, 10_000);
        let system = text(0, 8000);
        let mut counts = [0; 4];
        for at in 0..64 {
            let prompt = world.prompt(0, &[system.clone(), text(100_000 + 100 * at, 50)].concat());
            counts[world.place(&prompt)] += 1;
        }
        assert!(counts.iter().all(|&count| (12..=22).contains(&count)), "{counts:?}");
    }

    #[test]
    fn what_an_engine_has_evicted_attracts_nobody() {
        let mut world = World::new(2, 20);
        let first = world.prompt(0, &text(0, 640));
        let home = world.place(&first);
        world.end(home, &first);
        assert_eq!(world.loads.order(&first)[0], home);
        // Answers fill its pages.
        for name in 0..20 {
            world.loads.add_block(home, name);
        }
        assert_ne!(world.loads.order(&first)[0], home);
        let home = world.place(&first);
        world.end(home, &first);
        world.loads.reset_prefixes();
        assert!(world.loads.engines.iter().all(|engine| engine.users.is_empty()));
        assert!(world.loads.engines.iter().all(|engine| engine.cost(&first) == 640));
    }

    #[test]
    fn an_answer_is_found_as_a_prefix_of_the_next_prompt() {
        let mut world = World::new(2, 100);
        let prompt = world.prompt(7, &text(0, 100));
        let home = world.place(&prompt);
        let mut chain = prompt.chain.clone();
        for token in text(5000, 200) {
            if let Some(name) = chain.push(token) {
                world.loads.add_block(home, name);
            }
        }
        world.end(home, &prompt);
        let next = world.prompt(7, &[text(0, 100), text(5000, 200), text(1, 5)].concat());
        assert_eq!(world.loads.engines[home].cost(&next), 305 - 256);
    }

    #[test]
    fn what_all_prompts_begin_with_leaves_no_cache_empty() {
        let mut world = World::new(2, 100);
        let homes: Vec<usize> = (0..4)
            .map(|at| {
                let prompt = world.prompt(0, &[text(0, 130), text(1000 + 500 * at, 300)].concat());
                let home = world.place(&prompt);
                world.end(home, &prompt);
                home
            })
            .collect();
        assert_eq!(homes, [0, 1, 0, 1]);
    }

    #[test]
    fn nothing_goes_to_an_engine_that_has_failed() {
        let mut world = World::new(2, 100);
        let prompt = world.prompt(0, &text(0, 640));
        assert_eq!(world.place(&prompt), 0);
        assert!(world.loads.fail(0) && !world.loads.fail(0), "it is new once");
        world.end(0, &prompt);
        assert_eq!((world.loads.order(&prompt), world.loads.alive()), (vec![1], 1));
        assert_eq!(world.loads.samples(), 0);
    }
}
