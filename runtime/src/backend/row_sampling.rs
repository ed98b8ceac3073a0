//! How the rows of a step are sampled and what is reported of them: what a [`Sequence`](super::Sequence) carries for
//! it, and what backends that sample on the host keep for each sequence slot.

use crate::sampling::{LogitChanges, Penalties, SamplerConfig, TokenHistory};

/// Most tokens that a row may give a bias or forbid, together.
pub(crate) const MAX_EDITS: usize = 1024;
/// Most tokens that a report lists.
pub(crate) const MAX_REPORTED: usize = 20;
/// Masks that a backend keeps for each sequence slot: one can be filled while a step reads the other.
pub(crate) const MASKS_PER_SLOT: usize = 2;

/// How a row is sampled. The logits are changed in this order: biases, penalties, forbidden tokens, mask.
#[derive(Clone, Copy, Debug)]
pub struct RowSampling<'a> {
    /// Temperature, filters and seed.
    pub config: SamplerConfig,
    /// Added to the logits of single tokens, each named once; minus infinity forbids a token.
    pub biases: &'a [(u32, f32)],
    /// Penalties for the history of the sequence slot ([`Backend::set_history`](super::Backend::set_history)). Where
    /// there are any, the sampled token is added to the history.
    pub penalties: Option<Penalties>,
    /// Tokens that are not sampled, each named once. With `biases` at most [`MAX_EDITS`].
    pub forbidden: &'a [u32],
    /// The mask of the sequence slot ([`Backend::set_mask`](super::Backend::set_mask)) that lists the tokens that may
    /// be sampled, below [`MASKS_PER_SLOT`]; `None` allows all.
    pub mask: Option<usize>,
    /// Report the sampled token's log probability and rank, and this many of the most likely tokens, at most
    /// [`MAX_REPORTED`].
    pub report: Option<u32>,
}

impl From<SamplerConfig> for RowSampling<'_> {
    /// Nothing changes the logits, and nothing is reported.
    fn from(config: SamplerConfig) -> Self {
        let (biases, penalties, forbidden) = (&[][..], None, &[][..]);
        RowSampling { config, biases, penalties, forbidden, mask: None, report: None }
    }
}

impl RowSampling<'_> {
    /// Whether anything changes the logits.
    #[must_use]
    pub fn changes_logits(&self) -> bool {
        let edits = self.biases.len() + self.forbidden.len();
        edits > 0 || self.penalties.is_some() || self.mask.is_some()
    }

    /// Whether the token is sampled greedily or by temperature alone, and nothing is reported of it.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let SamplerConfig { temperature, top_k, top_p, min_p, .. } = self.config;
        let filters = temperature != 0.0 && (top_k > 0 || top_p < 1.0 || min_p > 0.0);
        !filters && !self.changes_logits() && self.report.is_none()
    }
}

/// Which tokens are reported though they are not sampled: a prompt's.
#[derive(Clone, Copy, Debug)]
pub struct PromptReport<'a> {
    /// The token after each of the sequence's first rows, of as many rows as there are tokens here.
    pub next: &'a [u32],
    /// How many of the most likely tokens are listed, at most [`MAX_REPORTED`].
    pub top: u32,
}

/// What the sampling of a sequence slot depends on besides its rows, on a backend that samples on the host.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlotState {
    pub(crate) history: TokenHistory,
    pub(crate) masks: [Vec<u32>; MASKS_PER_SLOT],
}

impl SlotState {
    /// What changes a row of the slot.
    pub(crate) fn changes<'a>(&'a self, row: &RowSampling<'a>) -> LogitChanges<'a> {
        LogitChanges {
            biases: row.biases,
            penalties: row.penalties.map(|penalties| (penalties, &self.history)),
            forbidden: row.forbidden,
            mask: row.mask.map(|mask| &self.masks[mask][..]),
        }
    }

    /// Counts a token that was sampled from a row.
    pub(crate) fn count(&mut self, row: &RowSampling<'_>, token: u32) {
        if row.penalties.is_some() {
            self.history.add(token);
        }
    }
}
