//! One assistant turn in harmony's format: `prepare` makes its prompt and its rules from a request, `parser` reads what the
//! model wrote, `reader` does so from the events of a generation.

mod custom_input;
pub(crate) mod parser;
pub(crate) mod prepare;
pub(crate) mod reader;
