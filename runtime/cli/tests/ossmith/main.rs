//! The command and the engine under it, on tiny models with seeded random weights.

mod batching;
mod commands;
mod common;
