//! What a program without a server calls: from a constraint to a grammar, and from a guide to the engine's masks.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use ossmith::{Allowed, MaskSource, TokenMask};

use super::constraint::Constraint;
use super::grammar::{Compiled, STACK_BYTES, compile_on_this_thread};
use super::{Guide, mask_clock};

/// Why a constraint cannot be enforced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the constraint cannot be enforced: {0}")]
pub struct Unenforceable(String);

/// Makes a constraint ready to be followed. How long it takes is bounded by nothing but the limits of [`crate::limits`]: some short
/// texts stand for very large grammars.
///
/// # Errors
/// [`Unenforceable`] names the limit that the constraint is over, or what in it cannot be enforced.
pub fn compile(constraint: &Constraint) -> Result<Compiled, Unenforceable> {
    // Otherwise the first mask would start it, on a thread that yields, and so would the clock.
    mask_clock::start();
    // Compiling recurses as deep as the constraint is nested.
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
        let thread = builder
            .spawn_scoped(scope, || compile_on_this_thread(constraint))
            .map_err(|why| Unenforceable(format!("no thread can be started: {why}")))?;
        let compiled = thread.join();
        compiled.unwrap_or_else(|_| Err("compiling it panicked".to_owned())).map_err(Unenforceable)
    })
}

impl Guide {
    /// The masks of a request ([`Request::with_mask`](ossmith::Request::with_mask)); each of its samples begins where this
    /// guide is.
    #[must_use]
    pub fn into_mask(self) -> Arc<dyn MaskSource> {
        Arc::new(GuideSource(Mutex::new(self)))
    }
}

/// A guide cannot be shared between threads, but it can be cloned under a lock.
struct GuideSource(Mutex<Guide>);

impl MaskSource for GuideSource {
    fn start(&self, _sample: usize) -> Box<dyn TokenMask> {
        Box::new(GuideMask(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }
}

struct GuideMask(Guide);

impl TokenMask for GuideMask {
    fn fill(&mut self, generated: &[u32], words: &mut [u32]) -> Result<Allowed, String> {
        let listed = self.0.follow(generated, words).map_err(|why| why.to_string())?;
        Ok(if listed { Allowed::Listed } else { Allowed::All })
    }
}
