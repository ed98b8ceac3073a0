//! Sampling on the host, from rows of logits that a backend returned. Samples need it that report more tokens than a
//! backend lists ([`MAX_REPORTED`]) or change more than it takes ([`MAX_EDITS`]), and so do their drafts. All other tokens
//! are sampled where the logits are. Both ways follow [`crate::sampling`], so they agree as far as the logits do.

use std::borrow::Cow;

use super::validate::ValidatedRequest;
use crate::Result;
use crate::backend::{MAX_EDITS, MAX_REPORTED};
use crate::sampling::{self, LogitChanges, TokenHistory, TokenLogprobs};

/// Whether the tokens of a request must be sampled on the host.
pub(super) fn needs_host(request: &ValidatedRequest) -> bool {
    let forbidden = request.forbidden(0).len();
    request.params.logprobs.is_some_and(|top| top as usize > MAX_REPORTED)
        || request.biases.len() + forbidden > MAX_EDITS
}

/// What is known of a sample when a token of it is sampled.
pub(super) struct HostSampler<'a> {
    pub(super) request: &'a ValidatedRequest,
    pub(super) sample: usize,
    pub(super) history: Cow<'a, TokenHistory>,
    /// Tokens generated so far.
    pub(super) generated: usize,
    /// One bit per token, set if the token is allowed; `None` allows all.
    pub(super) mask: Option<&'a [u32]>,
}

impl HostSampler<'_> {
    /// Samples the token at `position`, with its logprobs if the request asks for them.
    pub(super) fn sample(
        &self,
        row: &[f32],
        position: usize,
    ) -> Result<(u32, Option<TokenLogprobs>)> {
        let params = &self.request.params;
        let changes = LogitChanges {
            biases: &self.request.biases,
            penalties: params.penalties().map(|penalties| (penalties, &*self.history)),
            forbidden: self.request.forbidden(self.generated),
            mask: self.mask,
        };
        let config = params.sampler(self.sample);
        let token = sampling::sample_changed(row, &changes, &config, position)?;
        Ok((token, params.logprobs.map(|top| sampling::report(row, token, top))))
    }

    /// Moves on to the position after `token`.
    pub(super) fn advance(&mut self, token: u32) {
        self.generated += 1;
        if self.request.params.penalties().is_some() {
            self.history.to_mut().add(token);
        }
    }
}
