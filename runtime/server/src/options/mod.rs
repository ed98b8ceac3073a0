//! What a request may say, whichever API it is for: each file reads one group of fields and refuses by name what it cannot
//! have. Nothing here makes prompts or runs anything.

pub(crate) mod call_target;
pub(crate) mod generation;
pub(crate) mod hosted_tool;
pub(crate) mod hosted_tools;
pub(crate) mod reasoning;
pub(crate) mod stream;
pub(crate) mod structured_output;
pub(crate) mod tool;
pub(crate) mod tools;
