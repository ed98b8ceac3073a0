//! A step's tokens as rows: which sequence and position each is, and its rotary angles.

use ossmith_plan::Model;
use ossmith_scalar::{cos_sin, rope_angle};

use crate::Result;
use crate::backend::{Input, Limits, Sequence, Step, validate};

/// A sequence's place in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its slot: which ring it has in sliding layers.
    pub slot: usize,
    /// Its pages in full layers.
    pub pages: Vec<u32>,
}

/// One token's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Index into [`Batch::members`].
    pub member: usize,
    /// Position in its sequence.
    pub position: usize,
}

/// The tokens of a step, sequence after sequence.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The step's sequences.
    pub members: Vec<Member>,
    /// Every token's place.
    pub rows: Vec<Row>,
    /// Every token's id.
    pub tokens: Vec<u32>,
    /// Cosines times YaRN's concentration, `[rows, head_dim / 2]`.
    pub cos: Vec<f32>,
    /// Sines, likewise.
    pub sin: Vec<f32>,
}

impl Batch {
    /// Lays out `sequences`; `sampled` holds each slot's last drawn token.
    ///
    /// # Errors
    /// [`crate::Error::Request`] naming what breaks the model's bounds or `limits`.
    pub fn new(
        model: &'static Model,
        limits: &Limits,
        sequences: &[Sequence<'_>],
        sampled: &[Option<u32>],
    ) -> Result<Batch> {
        let drawn = |slot: usize| sampled.get(slot).copied().flatten();
        let step = Step { sequences, taps: false };
        validate::step(model, limits, &step, |slot| drawn(slot).is_some())?;
        let mut batch = Batch::default();
        for sequence in sequences {
            sequence.sample.map_or(Ok(()), |sampling| sampling.check())?;
            match sequence.input {
                Input::Tokens(tokens) => batch.tokens.extend_from_slice(tokens),
                Input::Sampled => batch.tokens.extend(drawn(sequence.slot)),
            }
            let member = batch.members.len();
            let positions = sequence.start..sequence.start + sequence.input.len();
            batch.rows.extend(positions.map(|position| Row { member, position }));
            batch.members.push(Member { slot: sequence.slot, pages: sequence.pages.to_vec() });
        }
        batch.rotate(model);
        Ok(batch)
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
