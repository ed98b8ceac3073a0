//! A backend for tests of the engine: no weights, but a cache. The token it draws is a hash of everything that the
//! cache then holds for the sequence, read back through its pages, so one page or slot given to the wrong request
//! changes the answer. It also refuses any step that breaks the contract of [`Backend`].

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use ossmith_plan::{LayerKind, ModelSpec, Rope};

use crate::backend::{Input, LogitRows, Output, PAGE_TOKENS, Sequence, Step};
use crate::{Backend, Error, Limits, Result, Sampling};

/// Dimensions that matter to the engine: vocabulary, context and stop tokens.
pub(super) static SPEC: ModelSpec = ModelSpec {
    name: "scripted",
    hidden: 32,
    inter: 32,
    head_dim: 32,
    q_heads: 1,
    kv_heads: 1,
    experts: 2,
    top_k: 1,
    vocab: 97,
    window: 16,
    context: 1000,
    layers: &[LayerKind::Sliding, LayerKind::Full],
    rms_eps: 1e-5,
    swiglu_limit: 7.0,
    rope: Rope {
        theta: 1e4,
        factor: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_context: 1000,
        truncate: false,
    },
    stop_tokens: &[0],
};

/// What the backend saw, shared with the test.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Tokens of each sequence of each step.
    pub(super) steps: Vec<Vec<usize>>,
    /// Most steps that were under way at once.
    pub(super) most_under_way: usize,
}

#[derive(Debug)]
pub(super) struct Scripted {
    limits: Limits,
    max_append: usize,
    /// Token at each offset of each page.
    pages: Vec<[Option<u32>; PAGE_TOKENS]>,
    /// What each slot's ring holds: every token so far.
    rings: Vec<Vec<u32>>,
    sampled: Vec<Option<u32>>,
    results: VecDeque<Output>,
    /// The step (counted from 0) whose `collect` fails.
    pub(super) fails_at: Option<usize>,
    pub(super) seen: Arc<Mutex<Seen>>,
}

impl Scripted {
    pub(super) fn new(limits: Limits, max_append: usize) -> Scripted {
        Scripted {
            limits,
            max_append,
            pages: vec![[None; PAGE_TOKENS]; limits.pages],
            rings: vec![Vec::new(); limits.max_sequences],
            sampled: vec![None; limits.max_sequences],
            results: VecDeque::new(),
            fails_at: None,
            seen: Arc::default(),
        }
    }

    fn check(&self, step: &Step<'_>) -> std::result::Result<(), String> {
        let total: usize = step.sequences.iter().map(|sequence| sequence.input.len()).sum();
        if total == 0 || total > self.limits.max_step_tokens {
            return Err(format!("{total} tokens in a step"));
        }
        let mut slots: Vec<usize> = step.sequences.iter().map(|sequence| sequence.slot).collect();
        let mut pages: Vec<u32> = step.sequences.iter().flat_map(|s| s.pages.to_vec()).collect();
        let (slots_given, pages_given) = (slots.len(), pages.len());
        slots.sort_unstable();
        slots.dedup();
        pages.sort_unstable();
        pages.dedup();
        if slots.len() != slots_given || pages.len() != pages_given {
            return Err("a slot or page is named twice".to_owned());
        }
        for sequence in step.sequences {
            let (start, tokens) = (sequence.start, sequence.input.len());
            if tokens == 0 || tokens > self.max_append {
                return Err(format!("{tokens} tokens for one sequence"));
            }
            if sequence.pages.len() != (start + tokens).div_ceil(PAGE_TOKENS) {
                return Err(format!(
                    "{} pages for {} tokens",
                    sequence.pages.len(),
                    start + tokens
                ));
            }
            let ring = self.rings.get(sequence.slot).ok_or("no such slot")?;
            if start > 0 && ring.len() != start {
                return Err(format!("starts at {start}, the slot holds {}", ring.len()));
            }
        }
        Ok(())
    }

    /// Appends a sequence's tokens and returns the hash after each.
    fn append(&mut self, sequence: &Sequence<'_>) -> Result<Vec<u64>> {
        let sampled = self.sampled[sequence.slot];
        let tokens = match sequence.input {
            Input::Tokens(tokens) => tokens.to_vec(),
            Input::Sampled => vec![sampled.ok_or(Error::Internal("nothing sampled".into()))?],
        };
        self.rings[sequence.slot].truncate(sequence.start);
        let mut hashes = Vec::new();
        for (position, token) in (sequence.start..).zip(tokens) {
            let place = |at: usize| (sequence.pages[at / PAGE_TOKENS] as usize, at % PAGE_TOKENS);
            let (page, offset) = place(position);
            self.pages[page][offset] = Some(token);
            self.rings[sequence.slot].push(token);
            let cached = |at: usize| self.pages[place(at).0][place(at).1];
            let history: Option<Vec<u32>> = (0..=position).map(cached).collect();
            if history.as_ref() != Some(&self.rings[sequence.slot]) {
                return Err(Error::Internal(format!(
                    "slot {}'s pages were overwritten",
                    sequence.slot
                )));
            }
            hashes.push(hash(&self.rings[sequence.slot]));
        }
        Ok(hashes)
    }
}

impl Backend for Scripted {
    fn describe(&self) -> String {
        "scripted".to_owned()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn max_append(&self) -> usize {
        self.max_append
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<()> {
        self.check(step).map_err(Error::Request)?;
        let mut output = Output::default();
        for sequence in step.sequences {
            let hashes = self.append(sequence)?;
            let last = hashes[hashes.len() - 1];
            let token = sequence.sample.map(|sampling| draw(last, &sampling));
            self.sampled[sequence.slot] = token.or(self.sampled[sequence.slot]);
            output.sampled.push(token);
            let rows = match sequence.logits {
                LogitRows::None => &[][..],
                LogitRows::Last => &hashes[hashes.len() - 1..],
                LogitRows::All => &hashes,
            };
            output.logits.push(rows.iter().flat_map(|&hash| logits(hash)).collect());
        }
        self.results.push_back(output);
        let mut seen = self.seen.lock().unwrap();
        seen.steps.push(step.sequences.iter().map(|sequence| sequence.input.len()).collect());
        seen.most_under_way = seen.most_under_way.max(self.results.len());
        Ok(())
    }

    fn collect(&mut self) -> Result<Output> {
        let steps = self.seen.lock().unwrap().steps.len() - self.results.len();
        if self.fails_at == Some(steps) {
            return Err(Error::Device("the scripted device fell off the bus".to_owned()));
        }
        self.results.pop_front().ok_or_else(|| Error::Internal("nothing was submitted".to_owned()))
    }
}

/// FNV-1a over token ids.
fn hash(tokens: &[u32]) -> u64 {
    tokens.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &token| {
        (hash ^ u64::from(token)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17)
    })
}

fn draw(hash: u64, sampling: &Sampling) -> u32 {
    let mixed = (hash ^ sampling.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 32) % SPEC.vocab as u64) as u32
}

fn logits(hash: u64) -> impl Iterator<Item = f32> {
    (0..SPEC.vocab as u64).map(move |id| (hash.rotate_left(id as u32 % 64) >> 40) as f32)
}

/// The answer to a prompt, worked out with no engine: tokens up to a stop or `max_tokens`.
pub(super) fn expected(prompt: &[u32], seed: u64, stops: &[u32], max_tokens: usize) -> Vec<u32> {
    let (mut tokens, sampling) = (prompt.to_vec(), Sampling { seed, ..Sampling::GREEDY });
    while tokens.len() < prompt.len() + max_tokens {
        tokens.push(draw(hash(&tokens), &sampling));
        if stops.contains(&tokens[tokens.len() - 1]) {
            break;
        }
    }
    tokens.split_off(prompt.len())
}
