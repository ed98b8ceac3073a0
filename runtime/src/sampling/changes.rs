//! What changes a row of logits before a token is sampled from it.

use super::history::{Penalties, TokenHistory};

/// Changes of a row of logits. They are applied in the order of these fields.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogitChanges<'a> {
    /// Added to logits; each token once.
    pub(crate) biases: &'a [(u32, f32)],
    /// Penalties for what the sequence holds.
    pub(crate) penalties: Option<(Penalties, &'a TokenHistory)>,
    /// Tokens that are not sampled.
    pub(crate) forbidden: &'a [u32],
    /// One bit per token, set if the token may be sampled.
    pub(crate) mask: Option<&'a [u32]>,
}

impl LogitChanges<'_> {
    /// Whether there is nothing to change.
    pub(crate) fn is_empty(&self) -> bool {
        let LogitChanges { biases, penalties, forbidden, mask } = self;
        biases.is_empty() && penalties.is_none() && forbidden.is_empty() && mask.is_none()
    }

    /// Applies them to a row.
    pub(crate) fn apply(&self, row: &mut [f32]) {
        for &(token, bias) in self.biases {
            row[token as usize] += bias;
        }
        if let Some((penalties, history)) = &self.penalties {
            for (token, word) in history.words() {
                let logit = &mut row[token as usize];
                *logit = penalties.apply(*logit, word);
            }
        }
        for &token in self.forbidden {
            row[token as usize] = f32::NEG_INFINITY;
        }
        for (logits, &word) in row.chunks_mut(u32::BITS as usize).zip(self.mask.unwrap_or_default())
        {
            if word != u32::MAX {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_applied_in_order() {
        let history = TokenHistory::new(&[1, 2], &[2]);
        let penalties = Penalties { repetition: 2.0, presence: 1.0, frequency: 0.0 };
        let changes = LogitChanges {
            biases: &[(0, 1.5), (1, 6.0), (3, f32::NEG_INFINITY)],
            penalties: Some((penalties, &history)),
            forbidden: &[4],
            mask: Some(&[0b01_1111]),
        };
        let mut row = [0.0, -2.0, -2.0, 9.0, 9.0, 9.0];
        changes.apply(&mut row);
        let lowest = f32::NEG_INFINITY;
        assert_eq!(row, [1.5, 2.0, -5.0, lowest, lowest, lowest]);
        assert!(!changes.is_empty() && LogitChanges::default().is_empty());
    }
}
