//! Which tokens may come next: the door for constrained decoding. A grammar lives with whoever embeds the engine;
//! the engine asks it for a mask before each draw, while the step that computes the logits is running.

/// Gives each sample of a request its own grammar state.
pub trait MaskSource: Send + Sync {
    /// The state at the start of a sample.
    fn start(&self, sample: usize) -> Box<dyn TokenMask>;
}

/// What a mask says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Every token may come; the words are ignored.
    All,
    /// The tokens whose bits were set may come, and no other.
    Listed,
}

/// The grammar state of one sample.
pub trait TokenMask: Send {
    /// Says which tokens may follow. `generated` holds all tokens of the sample so far; `words` has a bit for each
    /// token of the vocabulary, all zero: set bit `id % 32` of word `id / 32` for each token that may come.
    ///
    /// It is called once for each token, in order, on a thread beside the running step. Listing no token, and a
    /// panic, end the sample as an error does, and no other.
    ///
    /// # Errors
    /// A sentence that ends the sample as [`super::FinishReason::Failed`].
    fn fill(&mut self, generated: &[u32], words: &mut [u32]) -> Result<Allowed, String>;
}
