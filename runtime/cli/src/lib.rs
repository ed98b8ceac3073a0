//! The `ossmith` command: one front door to the toolkit. It is a library, so that the Python package has the same command
//! ([`run`]) and finds models and devices by the same names ([`open_model`], [`device_named`]); the program is in `main.rs`.
//!
//! Each command is a file of [`commands`]; what they share (choosing a model, loading an engine, sampling flags,
//! printing) lies beside them. Results go to standard output, everything about them to standard error.
//! Exit codes: 0 done, 1 an error that is printed in one sentence, 2 wrong usage, 130 interrupted.

#![forbid(unsafe_code)]

mod adapter_args;
mod again;
mod answer;
mod commands;
mod completion;
mod failure;
mod gguf;
mod hub;
mod interrupt;
mod load;
mod log;
mod model;
mod model_settings;
mod output;
mod progress;
mod prompt;
mod published;
mod sampling;
mod schedule;
mod storage;
mod tensors;
mod today;
mod tokens;
#[cfg(feature = "traces")]
mod traces;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser};
use ossmith::Checkpoint;
use ossmith_plan::Model;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

pub use again::start_again_with;
pub use load::{default_context, device_named};

/// A kernel smith for gpt-oss models: generated CUDA kernels, a lean runtime, and the tools to look inside.
///
/// Start with:  ossmith generate "What is the weather like in SF?"
#[derive(Debug, Parser)]
#[command(name = "ossmith", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

/// Runs the command of these words, of which the first is the program's name, and returns its exit code. Wrong usage and
/// `--help` end the process. It takes over the process's log and signals, so it is called once.
#[must_use]
pub fn run(words: impl IntoIterator<Item = OsString>) -> u8 {
    let matches = negatives_are_values(Cli::command()).get_matches_from(words);
    let command = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).command;
    let outcome = execute(command);
    log::flush();
    #[cfg(feature = "traces")]
    traces::flush();
    match outcome {
        Ok(()) if interrupt::requested() => interrupt::EXIT_CODE,
        Ok(()) => 0,
        Err(error) => failure::report(&error),
    }
}

/// Whether the command takes these words, of which the first is the program's name; nothing is done.
///
/// # Errors
/// What clap says about them, which may be help that they request.
#[doc(hidden)]
pub fn check_words(words: impl IntoIterator<Item = String>) -> Result<(), clap::Error> {
    let matches = negatives_are_values(Cli::command()).try_get_matches_from(words)?;
    Cli::from_arg_matches(&matches).map(drop)
}

/// The model and the weights that a value of `--model` names: a built-in name, a checkpoint folder, `OWNER/MODEL` on the
/// hub, or `synthetic:` before one of them for random weights of this seed.
///
/// # Errors
/// A sentence that names what is missing or wrong.
pub fn open_model(
    name: &str,
    weights_seed: u64,
) -> Result<(&'static Model, Arc<Checkpoint>), String> {
    let args = model::ModelArgs::named(name, weights_seed);
    match args.choose() {
        Ok(chosen) => Ok((chosen.model, chosen.checkpoint)),
        Err(error) => Err(failure::text(&error)),
    }
}

/// `--temperature -1` is a wrong temperature, not an unknown flag `-1`.
fn negatives_are_values(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let takes_values = arg.get_action().takes_values();
            arg.allow_negative_numbers(takes_values)
        })
        .mut_subcommands(negatives_are_values)
}

fn execute(command: commands::Command) -> anyhow::Result<()> {
    let given = std::env::var("OSSMITH_LOG").ok().filter(|given| !given.is_empty());
    let filter = EnvFilter::try_new(given.as_deref().unwrap_or_else(|| command.log_level()))
        .map_err(|why| {
            let given = given.unwrap_or_default();
            let hint = "write a level, such as info, or the level of a part: ossmith=debug";
            failure::fail(format!("OSSMITH_LOG={given} is not a filter: {why}"), hint)
        })?;
    let colours = std::io::stderr().is_terminal();
    let lines = log::start().context("cannot start the log")?;
    let log = tracing_subscriber::fmt::layer().with_ansi(colours);
    let log = log.with_writer(move || lines.clone()).with_filter(filter);
    let subscriber = tracing_subscriber::registry().with(log);
    #[cfg(feature = "traces")]
    let subscriber = subscriber.with(traces::layer()?);
    subscriber.init();
    ossmith::unstable::end_on_lost_pages();
    interrupt::install()?;
    command.run()
}
