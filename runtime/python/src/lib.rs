//! The native module `ossmith._ossmith` of the Python package: an engine on a thread of its own, its streams of tokens,
//! harmony, the log and the command. What users see is Python, in `python/ossmith`, which calls this.
//!
//! Whatever may take longer than a moment runs detached from the interpreter, so that other Python threads go on. The
//! engine's thread never attaches to the interpreter: it writes to a pipe, or to a queue that a reader waits for.

#![allow(missing_docs, reason = "the stubs in python/ossmith/_ossmith.pyi document it")]

mod engine;
mod errors;
mod harmony;
mod log;
mod logits;
mod params;
mod stream;
mod wakeups;

use std::ffi::OsString;

use pyo3::prelude::*;

#[pymodule]
mod _ossmith {
    #[pymodule_export]
    use super::engine::Engine;
    #[pymodule_export]
    use super::harmony::{
        ReferenceParser, chat_prompt, chat_reply, decode, decode_bytes, encode, is_special_token,
        parse, parse_lenient, render, render_message, special_tokens, tool_namespace,
    };
    #[pymodule_export]
    use super::log::{start_log, take_log};
    #[pymodule_export]
    use super::logits::Logits;
    #[pymodule_export]
    use super::run_command;
    #[pymodule_export]
    use super::stream::Stream;
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}

/// Runs the command `ossmith` with these words; `again` is how the command starts itself.
#[pyfunction]
fn run_command(py: Python<'_>, words: Vec<OsString>, again: Vec<OsString>) -> u8 {
    ossmith_cli::start_again_with(again);
    py.detach(|| ossmith_cli::run(words))
}
