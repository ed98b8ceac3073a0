//! What recorded results say. It reads the JSON of `ossmith bench` ([`records`]), knows the results that the repository
//! keeps ([`history`]), predicts steps and prompts from them ([`predict`]), holds them against the contract of speeds
//! ([`contract`]), writes traces of steps ([`trace`]) and makes reports ([`assemble`]) of tables and pictures ([`charts`]).
//!
//! It knows neither devices nor the engine: the command runs benches, and this crate makes of their results what people
//! read.

#![forbid(unsafe_code)]

pub mod assemble;
pub mod charts;
pub mod contract;
mod error;
pub mod history;
pub mod html;
pub mod markdown;
pub mod page;
pub mod predict;
pub mod records;
pub mod svg;
pub mod trace;

pub use error::{Error, Result};
