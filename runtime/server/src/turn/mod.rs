//! One assistant turn in harmony's format: `prepare` makes its prompt and its rules from a request, `parser` reads what the
//! model wrote.

pub(crate) mod parser;
pub(crate) mod prepare;
