//! Ossmith's HTTP server: what OpenAI's SDKs, load generators and boards made for vLLM expect, over the engine.
//!
//! [`router`] is the whole surface over any [`Source`] of tokens, [`serve`] runs it on a socket, [`Live`] is the real engine
//! behind it, [`stub`] a scripted one. What a request says is read by `chat`, `completions` and `responses`; they share
//! `sampling`, `tools`, `format` and `plan`, which make prompt tokens and rules. What a model wrote is read by `turn`; `guide`
//! keeps it within the rules while it writes. Not here: tokenizing and the harmony format (`ossmith-harmony`), batching and
//! sampling (`ossmith`), flags (the command).

#![forbid(unsafe_code)]

mod access;
mod app;
mod chat;
mod completions;
mod config;
mod engine;
mod error;
mod fields;
mod format;
mod generation;
mod guide;
mod histogram;
mod live;
mod logprobs;
mod metrics;
mod plan;
mod request;
mod responses;
mod routes;
mod sampling;
mod sse;
mod stops;
pub mod stub;
mod tools;
mod turn;
mod usage;

pub use app::{router, serve};
pub use config::{Config, StoreLimits};
pub use engine::{
    Answer, Ask, Candidate, Counts, EngineStats, Finish, Logprobs, Sampling, Source, Update,
};
pub use error::ApiError;
pub use guide::Guide;
pub use live::Live;
