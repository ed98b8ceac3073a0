//! Feeds prompts to a backend in every way that must give the same rows: at once, in chunks, several sequences
//! of different length in one batch, joining late; then decodes greedily. Pages are handed out last first, so
//! that a sequence's pages are never contiguous when it shares the cache.

use std::ops::Range;

use ossmith::unstable::{
    Backend, Input, LayerActivations, LogitRows, SamplerConfig, Sequence, Step, StepOutput,
};
use ossmith::{Limits, PAGE_TOKENS};

/// One sequence to be fed.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// The prompt.
    pub tokens: &'a [u32],
    /// Tokens per step.
    pub chunk: usize,
    /// Steps that the sequence waits before it joins the batch.
    pub wait: usize,
    /// Tokens to decode greedily after the prompt.
    pub greedy: usize,
}

impl<'a> Feed<'a> {
    /// The whole prompt in one step, and nothing after it.
    #[must_use]
    pub fn at_once(tokens: &'a [u32]) -> Feed<'a> {
        Feed { tokens, chunk: tokens.len(), wait: 0, greedy: 0 }
    }
}

/// The results of one sequence: one row per prompt token, and the greedy continuation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// `[tokens, vocab]`.
    pub logits: Vec<f32>,
    /// The captured activations, by layer.
    pub layers: Vec<LayerActivations>,
    /// The continuation.
    pub greedy: Vec<u32>,
}

/// Limits that just fit some sequences.
#[must_use]
pub fn limits(feeds: &[Feed<'_>]) -> Limits {
    let pages = |feed: &Feed<'_>| (feed.tokens.len() + feed.greedy).div_ceil(PAGE_TOKENS);
    Limits::default()
        .with_max_sequences(feeds.len())
        .with_max_step_tokens(feeds.iter().map(|feed| feed.chunk).sum())
        .with_pages(feeds.iter().map(pages).sum())
}

/// Feeds sequences side by side until all are done.
///
/// # Errors
/// As the backend's.
pub fn run(backend: &mut dyn Backend, feeds: &[Feed<'_>]) -> ossmith::Result<Vec<Rows>> {
    let mut free: Vec<u32> = (0..backend.limits().pages as u32).collect();
    let mut states: Vec<State<'_>> = feeds.iter().map(State::new).collect();
    let max_append = backend.max_append();
    for step in 0.. {
        let mut active = Vec::new();
        for (slot, state) in states.iter_mut().enumerate() {
            if state.feed.wait <= step && !state.done() {
                state.reserve(&mut free, max_append);
                active.push(slot);
            }
        }
        if active.is_empty() && states.iter().all(State::done) {
            break;
        }
        if active.is_empty() {
            continue; // every unfinished sequence still waits
        }
        let sequences: Vec<_> = active.iter().map(|&slot| states[slot].sequence(slot)).collect();
        let output = backend.run(&Step { sequences: &sequences, capture_activations: true })?;
        let tokens = active.iter().map(|&slot| states[slot].next).sum();
        let (mut row, mut sampled) = (0, output.sampled.iter().flatten());
        for (i, &slot) in active.iter().enumerate() {
            let token = sampled.by_ref().take(states[slot].sequence(slot).sampled_rows()).last();
            states[slot].rows.greedy.extend(token);
            row = states[slot].take(&output, i, row, tokens);
        }
    }
    Ok(states.into_iter().map(|state| state.rows).collect())
}

struct State<'a> {
    feed: &'a Feed<'a>,
    /// Tokens in the cache.
    start: usize,
    /// Tokens of the next step.
    next: usize,
    pages: Vec<u32>,
    rows: Rows,
}

impl<'a> State<'a> {
    fn new(feed: &'a Feed<'a>) -> State<'a> {
        State { feed, start: 0, next: 0, pages: Vec::new(), rows: Rows::default() }
    }

    fn reading(&self) -> bool {
        self.start < self.feed.tokens.len()
    }

    fn done(&self) -> bool {
        !self.reading() && self.rows.greedy.len() == self.feed.greedy
    }

    /// Decides the next step's length and takes the pages that it needs.
    fn reserve(&mut self, free: &mut Vec<u32>, max_append: usize) {
        let rest = self.feed.tokens.len() - self.start.min(self.feed.tokens.len());
        self.next = if self.reading() { rest.min(self.feed.chunk).min(max_append) } else { 1 };
        while self.pages.len() * PAGE_TOKENS < self.start + self.next {
            self.pages.push(free.pop().expect("limits() counts every page"));
        }
    }

    fn sequence(&self, slot: usize) -> Sequence<'_> {
        let end = self.start + self.next;
        let last = end >= self.feed.tokens.len();
        Sequence {
            seq_slot: slot,
            start: self.start,
            input: match self.reading() {
                true => Input::Tokens(&self.feed.tokens[self.start..end]),
                false => Input::Sampled,
            },
            pages: &self.pages,
            sample: (last && self.feed.greedy > 0).then_some(SamplerConfig::GREEDY.into()),
            prompt_report: None,
            logits: if self.reading() { LogitRows::All } else { LogitRows::None },
        }
    }

    /// Takes this sequence's rows out of a step of `tokens` tokens, in which they begin at `row`; returns where the
    /// next sequence's begin.
    fn take(&mut self, output: &StepOutput, index: usize, row: usize, tokens: usize) -> usize {
        let end = row + self.next;
        let own = row..end;
        if self.reading() {
            self.rows.logits.extend(&output.logits[index]);
            self.rows.layers.resize_with(output.activations.len(), LayerActivations::default);
            for (mine, step) in self.rows.layers.iter_mut().zip(&output.activations) {
                mine.residual.extend(rows_of(&step.residual, &own, tokens));
                mine.router_indices.extend(rows_of(&step.router_indices, &own, tokens));
                mine.router_logits.extend(rows_of(&step.router_logits, &own, tokens));
            }
        }
        self.start += self.next;
        end
    }
}

/// The rows of some of a step's tokens, from values with one row per token.
fn rows_of<'v, T>(values: &'v [T], own: &Range<usize>, tokens: usize) -> &'v [T] {
    let width = values.len() / tokens;
    &values[own.start * width..own.end * width]
}
