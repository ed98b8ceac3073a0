//! How a token is drawn from logits: the settings here, the host's sampler in `draw.rs`.
//!
//! A draw is the largest `logit / temperature + gumbel` over the tokens that the filters keep, which picks each with
//! its softmax probability and needs no sum. The noise is a hash of (seed, position, token id), so a draw depends on
//! neither batch nor backend, and a device can make it without state.

mod draw;
mod filter;
mod race;
mod scores;

pub(crate) use draw::draw;

use crate::{Error, Result};

/// Sampling settings of one sequence. Filters apply in the order top-k, top-p, min-p, on logits over `temperature`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 means greedy (the lowest id among equal logits).
    pub temperature: f32,
    /// Keep only this many best tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of best tokens with at least this much probability; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the best one; 0 keeps all.
    pub min_p: f32,
    /// Seed of the draw. The draw at a position depends only on seed, position and logits.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Sampling =
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

    /// Refuses settings that mean nothing.
    ///
    /// # Errors
    /// [`Error::Request`] naming the setting and its range.
    pub fn check(&self) -> Result<()> {
        let settings = [
            ("temperature", self.temperature, self.temperature >= 0.0, "a finite number from 0"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
        ];
        match settings.iter().find(|(_, value, good, _)| !good || !value.is_finite()) {
            Some((name, value, _, range)) => {
                Err(Error::Request(format!("{name} is {value}; it must be {range}")))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: Sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };

    #[test]
    fn nonsense_is_refused_by_name() {
        for (sampling, name) in [
            (Sampling { temperature: -1.0, ..SAMPLED }, "temperature"),
            (Sampling { temperature: f32::NAN, ..SAMPLED }, "temperature"),
            (Sampling { temperature: f32::INFINITY, ..SAMPLED }, "temperature"),
            (Sampling { top_p: 0.0, ..SAMPLED }, "top_p"),
            (Sampling { top_p: 1.5, ..SAMPLED }, "top_p"),
            (Sampling { min_p: -0.1, ..SAMPLED }, "min_p"),
        ] {
            let error = sampling.check().expect_err("nonsense").to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }
}
