//! One choice of an answer while it is generated.

use ossmith::FinishReason;
use serde_json::Value;

use crate::generation::GeneratedToken;

/// A choice. What its tokens become (a message, a text, or nothing but ids) is the API's.
#[derive(Debug)]
pub(crate) struct Choice<C> {
    /// Its index in the answer.
    pub(crate) index: usize,
    /// The index of its prompt.
    pub(crate) prompt: usize,
    /// What the tokens have become and was not sent yet.
    pub(crate) content: C,
    /// Token ids that were not sent yet, if the client wants ids.
    pub(crate) ids: Vec<u32>,
    /// Tokens generated.
    pub(crate) tokens: usize,
    /// Tokens since the last chunk.
    pub(super) unsent: usize,
    /// A chunk has been sent.
    pub(crate) sent: bool,
    /// How it ended, once it has.
    pub(crate) ending: Option<Ending>,
}

/// How a choice ended, as the APIs report it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ending {
    pub(crate) finish_reason: &'static str,
    /// The stop string or the stop token that the client had named; else null.
    pub(crate) stop_reason: Value,
}

impl Ending {
    /// An ending for a reason that was not a stop of the client's.
    pub(crate) fn plain(finish_reason: &'static str) -> Ending {
        Ending { finish_reason, stop_reason: Value::Null }
    }

    /// How a text ended with this token; none if it continues. `stopped` is the stop string that was found,
    /// `stop_token_ids` are the client's.
    pub(crate) fn of(
        token: &GeneratedToken,
        stopped: Option<&str>,
        stop_token_ids: &[u32],
    ) -> Option<Ending> {
        if let Some(stop) = stopped {
            return Some(Ending { finish_reason: "stop", stop_reason: stop.into() });
        }
        Some(match token.finish.as_ref()? {
            FinishReason::Length => Ending::plain("length"),
            _ if stop_token_ids.contains(&token.id) => {
                Ending { finish_reason: "stop", stop_reason: token.id.into() }
            }
            _ => Ending::plain("stop"),
        })
    }
}
