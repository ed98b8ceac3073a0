//! Ossmith's runtime: from a model and its weights to tokens.
//!
//! A model is a `&'static ossmith_plan::Model` (from `ossmith-models`), its weights a [`Checkpoint`]; a
//! [`Backend`] runs steps over them, and the [`Engine`] turns prompts into tokens.
//! This crate knows neither HTTP nor text: prompts and answers are token ids.

pub mod backend;
pub mod checkpoint;
pub mod engine;
mod error;
mod sampling;

pub use backend::{Backend, Device, Limits, Progress};
pub use checkpoint::Checkpoint;
pub use engine::Engine;
pub use error::{Error, Result};
pub use sampling::Sampling;
