//! One step's work as data, from the scheduler to the backend and back.

use super::sample::Key;

/// Who draws after an entry's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drawer {
    /// Nobody: the prompt goes on.
    Nobody,
    /// The backend, where the logits are.
    Backend,
    /// The engine, from rows that come back.
    Engine,
}

/// One sequence's share of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) epoch: u32,
    pub(super) slot: usize,
    /// Position of the first token.
    pub(super) start: usize,
    pub(super) tokens: usize,
    pub(super) drawer: Drawer,
    /// If tokens are guessed ahead: the last known one, then the guesses.
    pub(super) drafted: Vec<u32>,
    /// Whether every row comes back, for the prompt's logprobs.
    pub(super) reports_prompt: bool,
}

impl Entry {
    /// Whether logits come back to the host.
    pub(super) fn returns_rows(&self) -> bool {
        self.reports_prompt || self.drawer == Drawer::Engine
    }
}

/// A window of the sliding layers, between a slot and the backend's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TailCopy {
    pub(super) tail: usize,
    pub(super) slot: usize,
    /// The position after the window.
    pub(super) end: usize,
}

/// One step's work.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) entries: Vec<Entry>,
    /// Tails to load before it.
    pub(super) loads: Vec<TailCopy>,
}

impl Plan {
    /// Tokens of the step.
    pub(super) fn tokens(&self) -> usize {
        self.entries.iter().map(|entry| entry.tokens).sum()
    }
}
