//! How often a sequence holds each token, as penalties need it. A device keeps the same words in a table.

use std::collections::HashMap;

/// The history of one sequence: a word for each token that it holds. Bit 15 says that the prompt holds the token, and
/// bits 0 to 14 count how often it was generated; the count stops at [`TokenHistory::MAX_COUNT`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenHistory(HashMap<u32, u16>);

impl TokenHistory {
    /// The bit of tokens that the prompt holds.
    pub const IN_PROMPT: u16 = 1 << 15;
    /// The largest count.
    pub const MAX_COUNT: u16 = TokenHistory::IN_PROMPT - 1;

    /// The history of a prompt and of what was generated after it.
    #[must_use]
    pub fn new(prompt: &[u32], generated: &[u32]) -> TokenHistory {
        let mut history = TokenHistory::default();
        for &token in prompt {
            *history.0.entry(token).or_default() |= TokenHistory::IN_PROMPT;
        }
        generated.iter().for_each(|&token| history.add(token));
        history
    }

    /// Counts a generated token.
    pub fn add(&mut self, token: u32) {
        let word = self.0.entry(token).or_default();
        if *word & TokenHistory::MAX_COUNT < TokenHistory::MAX_COUNT {
            *word += 1;
        }
    }

    /// Each token of the sequence with its word, in no order.
    pub fn words(&self) -> impl ExactSizeIterator<Item = (u32, u16)> {
        self.0.iter().map(|(&token, &word)| (token, word))
    }
}

/// What earlier tokens of a sequence cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalties {
    /// Divides the positive logits, and multiplies the others, of every token that the sequence holds; above 0.
    pub repetition: f32,
    /// Subtracted from the logit of every token that was generated.
    pub presence: f32,
    /// Subtracted from a token's logit once for each time it was generated.
    pub frequency: f32,
}

impl Penalties {
    /// No penalty.
    pub const NONE: Penalties = Penalties { repetition: 1.0, presence: 0.0, frequency: 0.0 };

    /// The logit of a token with this word in its sequence's [`TokenHistory`]. Each step is rounded, as on the device.
    #[must_use]
    pub fn apply(&self, logit: f32, word: u16) -> f32 {
        let repeated = if logit > 0.0 { logit / self.repetition } else { logit * self.repetition };
        let count = word & TokenHistory::MAX_COUNT;
        if count == 0 {
            return repeated;
        }
        repeated - (self.frequency * f32::from(count) + self.presence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_the_prompt_holds_and_count_what_was_generated() {
        let mut history = TokenHistory::new(&[3, 5, 3], &[5, 7, 7]);
        history.add(7);
        let mut words: Vec<(u32, u16)> = history.words().collect();
        words.sort_unstable();
        let prompt = TokenHistory::IN_PROMPT;
        assert_eq!(words, [(3, prompt), (5, prompt | 1), (7, 3)]);
    }

    #[test]
    fn counts_stop_at_the_largest() {
        let mut history = TokenHistory::new(&[1], &[1; 40_000]);
        history.add(1);
        assert_eq!(history.words().collect::<Vec<_>>(), [(1, u16::MAX)]);
    }

    #[test]
    fn penalties_follow_the_words() {
        let penalties = Penalties { repetition: 2.0, presence: 0.5, frequency: 0.25 };
        let prompt = TokenHistory::IN_PROMPT;
        for (logit, word, want) in [
            (4.0, prompt, 2.0),
            (-4.0, prompt, -8.0),
            (4.0, 1, 1.25),
            (-4.0, prompt | 3, -9.25),
            (f32::NEG_INFINITY, 2, f32::NEG_INFINITY),
        ] {
            assert_eq!(penalties.apply(logit, word), want, "{logit} with {word:#x}");
        }
    }
}
