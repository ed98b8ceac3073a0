//! A step's tokens as rows: which sequence and position each is, and its rotary angles. Building one is also the
//! check of everything a caller can get wrong.

use ossmith_plan::Model;
use ossmith_scalar::{cos_sin, rope_angle};

use crate::backend::{Input, Limits, PAGE_TOKENS, Sequence};
use crate::{Error, Result};

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
    /// [`Error::Request`] naming what breaks the model's bounds or `limits`.
    pub fn new(
        model: &'static Model,
        limits: &Limits,
        sequences: &[Sequence<'_>],
        sampled: &[Option<u32>],
    ) -> Result<Batch> {
        let mut batch = Batch::default();
        for (index, sequence) in sequences.iter().enumerate() {
            check(model, limits, sequence)?;
            if sequences[..index].iter().any(|other| other.slot == sequence.slot) {
                return Err(request(format!("slot {} appears twice in a step", sequence.slot)));
            }
            batch.append(sequence, sampled)?;
        }
        let tokens = batch.tokens.len();
        if tokens == 0 {
            return Err(request("the step has no tokens".into()));
        }
        if tokens > limits.max_step_tokens {
            return Err(request(format!(
                "the step has {tokens} tokens, more than max_step_tokens {}; split it",
                limits.max_step_tokens
            )));
        }
        let vocab = model.spec.vocab;
        if let Some(bad) = batch.tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(request(format!("token id {bad} is not below the vocabulary's {vocab}")));
        }
        batch.rotate(model);
        Ok(batch)
    }

    fn append(&mut self, sequence: &Sequence<'_>, sampled: &[Option<u32>]) -> Result<()> {
        match sequence.input {
            Input::Tokens(tokens) => self.tokens.extend_from_slice(tokens),
            Input::Sampled => {
                let token = sampled.get(sequence.slot).copied().flatten();
                let missing = || {
                    request(format!(
                        "slot {} asks for its sampled token but its previous step sampled none",
                        sequence.slot
                    ))
                };
                self.tokens.push(token.ok_or_else(missing)?);
            }
        }
        let member = self.members.len();
        let positions = sequence.start..sequence.start + sequence.input.len();
        self.rows.extend(positions.map(|position| Row { member, position }));
        self.members.push(Member { slot: sequence.slot, pages: sequence.pages.to_vec() });
        Ok(())
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

fn check(model: &'static Model, limits: &Limits, sequence: &Sequence<'_>) -> Result<()> {
    let (slot, len) = (sequence.slot, sequence.input.len());
    if slot >= limits.max_sequences {
        let most = limits.max_sequences;
        return Err(request(format!("slot {slot} is not below max_sequences {most}")));
    }
    if len == 0 {
        return Err(request(format!("the sequence in slot {slot} appends no tokens")));
    }
    let context = model.spec.context;
    let end = sequence.start.checked_add(len).filter(|&end| end <= context).ok_or_else(|| {
        let start = sequence.start;
        request(format!("{len} tokens at position {start} pass the context of {context} tokens"))
    })?;
    if sequence.pages.len() * PAGE_TOKENS < end {
        return Err(request(format!(
            "{} pages of {PAGE_TOKENS} tokens do not hold the {end} positions of slot {slot}",
            sequence.pages.len()
        )));
    }
    if let Some(page) = sequence.pages.iter().find(|&&page| page as usize >= limits.pages) {
        return Err(request(format!("page {page} of slot {slot} is not below {}", limits.pages)));
    }
    Ok(())
}

fn request(problem: String) -> Error {
    Error::Request(problem)
}
