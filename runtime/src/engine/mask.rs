//! Which tokens are allowed next: the interface for constrained decoding. The grammar belongs to whoever embeds the
//! engine; the engine requests a mask for each token as soon as the token before it is known.

/// Gives each sample of a request its own grammar state.
pub trait MaskSource: Send + Sync {
    /// The state at the start of a sample. It is called once for each, on the thread that lists the first mask.
    fn start(&self, sample: usize) -> Box<dyn TokenMask>;
}

/// Which tokens a mask allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Every token; the words are ignored.
    All,
    /// Only the tokens whose bits were set.
    Listed,
}

/// The grammar state of one sample.
pub trait TokenMask: Send {
    /// Lists the tokens that may follow. `generated` holds all tokens of the sample so far; `words` has one bit per
    /// token of the vocabulary, all zero: set bit `id % 32` of word `id / 32` for each allowed token.
    ///
    /// It is called once for each token, in order, on a thread of its own. A sample whose mask is late waits for it, and
    /// no other does. If one token is listed, it belongs to the sample, and the mask after it may be requested at once. An error, a panic, or listing no token ends this sample and no
    /// other.
    ///
    /// # Errors
    /// A sentence that ends the sample as [`super::FinishReason::Failed`].
    fn fill(&mut self, generated: &[u32], words: &mut [u32]) -> Result<Allowed, String>;
}

/// How many tokens a mask allows.
pub(super) enum Few {
    None,
    One(u32),
    Several,
}

pub(super) fn allowed(words: &[u32]) -> Few {
    let mut some = words.iter().enumerate().filter(|(_, word)| **word != 0);
    match (some.next(), some.next()) {
        (None, _) => Few::None,
        (Some((at, word)), None) if word.is_power_of_two() => {
            Few::One(at as u32 * u32::BITS + word.trailing_zeros())
        }
        _ => Few::Several,
    }
}
