//! Which tokens one generation may produce: a guide's rules, a list of allowed tokens, and token sequences that must not
//! appear. The engine requests a mask before each token.

use std::sync::{Arc, Mutex, PoisonError};

use ossmith::{Allowed, MaskSource, TokenMask};
use ossmith_guide::{Guide, MaskError, bits};

use crate::backend::MaskFailure;
use crate::error::ApiError;

/// The rules of one generation.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenRules {
    pub(crate) guide: Option<Guide>,
    /// The only tokens that may come, unless the guide lists its own.
    pub(crate) allowed: Option<Vec<u32>>,
    /// Token sequences that must not appear.
    pub(crate) bad_words: Vec<Vec<u32>>,
}

impl TokenRules {
    /// The source of masks for the engine; none if every token is always allowed. Where they cannot be followed to the end,
    /// `failure` has the reason as the client will read it.
    pub(crate) fn into_mask(self, failure: MaskFailure) -> Option<Arc<dyn MaskSource>> {
        let free = self.guide.is_none() && self.allowed.is_none() && self.bad_words.is_empty();
        let source = || RulesSource { rules: Mutex::new(self), failure };
        (!free).then(|| Arc::new(source()) as Arc<dyn MaskSource>)
    }
}

/// A grammar's state cannot be shared between threads, but it can be cloned under a lock.
struct RulesSource {
    rules: Mutex<TokenRules>,
    failure: MaskFailure,
}

impl MaskSource for RulesSource {
    fn start(&self, _sample: usize) -> Box<dyn TokenMask> {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::new(RulesMask { rules, failure: Arc::clone(&self.failure) })
    }
}

struct RulesMask {
    rules: TokenRules,
    failure: MaskFailure,
}

impl TokenMask for RulesMask {
    fn fill(&mut self, generated: &[u32], words: &mut [u32]) -> Result<Allowed, String> {
        let mut listed = false;
        if let Some(guide) = &mut self.rules.guide {
            listed = guide.follow(generated, words).map_err(|why| {
                let text = why.to_string();
                // Only the first of them ends the generation.
                let _ = self.failure.set(match why {
                    MaskError::Form(_) => ApiError::unfollowable(&text),
                    MaskError::NoMemory => ApiError::unavailable(text.clone()),
                });
                text
            })?;
        }
        if let Some(allowed) = self.rules.allowed.as_ref().filter(|_| !listed) {
            allowed.iter().for_each(|&token| bits::set(words, token));
            listed = true;
        }
        let forbidden = self.rules.bad_words.iter().filter_map(|word| {
            let (last, before) = word.split_last()?;
            generated.ends_with(before).then_some(*last)
        });
        for token in forbidden {
            if !std::mem::replace(&mut listed, true) {
                words.fill(u32::MAX);
            }
            bits::clear(words, token);
            // With no token left the generation would fail, so a bad word that is the only choice may come.
            if words.iter().all(|&word| word == 0) {
                bits::set(words, token);
            }
        }
        Ok(if listed { Allowed::Listed } else { Allowed::All })
    }
}
