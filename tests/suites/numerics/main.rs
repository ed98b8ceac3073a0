//! The CPU backend and the scalar functions against references that share no code with them.

#![forbid(unsafe_code)]

mod adapters;
mod batches;
mod engine;
mod fixtures;
mod fresh;
mod gguf;
mod layouts;
mod model;
mod ranks;
mod vectors;
