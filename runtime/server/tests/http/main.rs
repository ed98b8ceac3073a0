//! The HTTP surface over a scripted backend: what holds for any turn, whatever the model wrote.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod batches;
mod chat;
mod common;
mod conversations;
mod counts;
mod failing;
mod history;
mod limits;
mod messages;
mod mounted;
mod ollama;
mod openapi;
mod operators;
mod promises;
mod raw;
mod refusals;
mod replayed;
mod responses;
#[cfg(feature = "redis")]
mod shared_store;
mod spellings;
mod tenants;
mod tool_servers;
mod tools;
mod workers;
