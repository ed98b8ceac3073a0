//! Grammars of many clients in one process: each is measured, tried out and compiled within budgets, and kept for whoever sends it
//! again. What a grammar is and how a text follows it is in the crate `ossmith-guide`.

mod cache;
pub(crate) mod compiler;
mod fair_queue;
mod fuzzing;
mod hostile;
mod spare;

#[doc(hidden)]
pub use fuzzing::GrammarFuzzer;
#[doc(hidden)]
pub use hostile::hostile_request;
