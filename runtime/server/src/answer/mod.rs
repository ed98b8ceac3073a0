//! Answers that consist of choices: Chat Completions, Completions and raw tokens. One writer reads the events of a generation,
//! whether the answer is streamed or sent whole, so both have the same text; an [`AnswerFormat`] is what sets an API apart.

pub(crate) mod choice;
pub(crate) mod writer;

pub(crate) use choice::{Choice, Ending};
pub(crate) use writer::{AnswerFormat, ResponseOptions, ResponseState, ResponseWriter};
