//! Where each message lies in the rendered tokens, for trainers' loss masks and for keys of prefix caches.

use std::ops::Range;

use crate::special::Token;

/// A rendered message's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageSpan {
    /// Index of the message in the conversation (dropped messages have no span).
    pub message: usize,
    /// All its tokens, from `<|start|>` to the stop token.
    pub tokens: Range<usize>,
    /// Its tokens after the role, up to and with the stop token: what a model writes itself.
    pub body: Range<usize>,
    /// Its content, without the stop token.
    pub content: Range<usize>,
}

/// Tokens and the messages they came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The tokens.
    pub tokens: Vec<Token>,
    /// The messages, in order; their `tokens` ranges follow each other without gaps.
    pub spans: Vec<MessageSpan>,
}

impl Rendered {
    /// For each token, the index of its message; none after the last message.
    pub fn message_of(&self, token: usize) -> Option<usize> {
        let at = self.spans.partition_point(|span| span.tokens.end <= token);
        self.spans.get(at).map(|span| span.message)
    }

    /// For each token, whether a loss is taken on it: the bodies of the messages that `learn` names.
    pub fn loss_mask(&self, learn: impl Fn(&MessageSpan) -> bool) -> Vec<bool> {
        let mut mask = vec![false; self.tokens.len()];
        for span in self.spans.iter().filter(|span| learn(span)) {
            mask[span.body.clone()].fill(true);
        }
        mask
    }

    /// The lengths at which a prefix of whole messages ends, shortest first: natural keys for a prefix cache.
    pub fn boundaries(&self) -> impl Iterator<Item = usize> + '_ {
        self.spans.iter().map(|span| span.tokens.end)
    }
}
