//! The HTTP surface over a scripted source: what is said about any turn, whoever wrote it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod chat;
mod common;
mod counts;
mod limits;
mod raw;
mod refusals;
mod responses;
mod spellings;
