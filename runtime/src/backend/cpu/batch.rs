//! A step's tokens as rows: each token's sequence, position and rotary angles.

use std::sync::Arc;

use ossmith_plan::Model;
use ossmith_scalar::{cos_sin, rope_angle};

use crate::backend::{Input, Limits, Sequence, Step, validate};
use crate::{Adapter, Result};

/// The sequence slot and pages of one sequence of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchSequence {
    /// Its sequence slot.
    pub seq_slot: usize,
    /// Its pages in full layers.
    pub pages: Vec<u32>,
}

/// The sequence and position of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Index into [`Batch::sequences`].
    pub sequence: usize,
    /// Position in its sequence.
    pub position: usize,
}

/// The tokens of a step, sequence after sequence.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The step's sequences.
    pub sequences: Vec<BatchSequence>,
    /// Every token's sequence and position.
    pub rows: Vec<Row>,
    /// Every token's id.
    pub tokens: Vec<u32>,
    /// Cosines times YaRN's concentration, `[rows, head_dim / 2]`.
    pub cos: Vec<f32>,
    /// Sines, in the same way.
    pub sin: Vec<f32>,
    /// Adapters, each with the rows that have it, ascending. A row has at most one.
    pub adapters: Vec<(Arc<Adapter>, Vec<usize>)>,
}

impl Batch {
    /// Lays out `sequences`; `sampled` holds the last sampled token of each sequence slot.
    ///
    /// # Errors
    /// [`crate::Error::InvalidStep`] with what breaks the model's bounds or `limits`.
    pub fn new(
        model: &'static Model,
        limits: &Limits,
        sequences: &[Sequence<'_>],
        sampled: &[Option<u32>],
    ) -> Result<Batch> {
        let sampled = |seq_slot: usize| sampled.get(seq_slot).copied().flatten();
        let step = Step { sequences, capture_activations: false };
        validate::step(model, limits, &step, |seq_slot| sampled(seq_slot).is_some())?;
        let mut batch = Batch::default();
        for sequence in sequences {
            match sequence.input {
                Input::Tokens(tokens) | Input::Draft(tokens) => {
                    batch.tokens.extend_from_slice(tokens)
                }
                Input::Sampled => batch.tokens.extend(sampled(sequence.seq_slot)),
            }
            let index = batch.sequences.len();
            let positions = sequence.start..sequence.start + sequence.input.len();
            batch.rows.extend(positions.map(|position| Row { sequence: index, position }));
            let pages = sequence.pages.to_vec();
            batch.sequences.push(BatchSequence { seq_slot: sequence.seq_slot, pages });
        }
        batch.rotate(model);
        Ok(batch)
    }

    /// Gives each row the adapter of its sequence slot, `adapters[seq_slot]`.
    pub(crate) fn adapt(&mut self, adapters: &[Option<Arc<Adapter>>]) {
        for (index, row) in self.rows.iter().enumerate() {
            let seq_slot = self.sequences[row.sequence].seq_slot;
            let Some(adapter) = adapters.get(seq_slot).and_then(Option::as_ref) else { continue };
            match self.adapters.iter_mut().find(|(known, _)| known.id() == adapter.id()) {
                Some((_, rows)) => rows.push(index),
                None => self.adapters.push((Arc::clone(adapter), vec![index])),
            }
        }
    }

    fn rotate(&mut self, model: &'static Model) {
        let concentration = model.spec.rope.concentration();
        let inv_freq = model.spec.rope.inv_freq(model.spec.head_dim);
        for row in &self.rows {
            for &inv in &inv_freq {
                let [cos, sin] = cos_sin(rope_angle(row.position as u32, inv));
                self.cos.push(cos * concentration);
                self.sin.push(sin * concentration);
            }
        }
    }
}
