//! Prompts in, tokens out.

/// The engine.
#[derive(Debug)]
pub struct Engine {}
