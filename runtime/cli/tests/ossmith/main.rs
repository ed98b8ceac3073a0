//! The command and the engine under it, on tiny models with seeded random weights and on nano.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod adapters;
mod batching;
mod bench;
mod commands;
mod common;
mod convert;
mod data_parallel;
mod documents;
mod fit;
mod harnesses;
mod hub;
mod nano;
mod operators;
mod replicas;
mod results;
mod run_batch;
mod schedules;
mod serve;
mod shells;
