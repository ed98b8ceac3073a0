//! The `ossmith` command: one front door to the toolkit.
//!
//! Each command is a file of [`commands`]; what they share (choosing a model, loading an engine, sampling flags,
//! printing) lies beside them. Results go to standard output, everything about them to standard error.
//! Exit codes: 0 done, 1 an error that is printed in one sentence, 2 wrong usage, 130 interrupted.

#![forbid(unsafe_code)]

mod answer;
mod commands;
mod completion;
mod failure;
mod hub;
mod interrupt;
mod load;
mod log;
mod model;
mod output;
mod progress;
mod prompt;
mod sampling;
mod schedule;
mod tensors;
mod today;
mod tokens;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser};
use tracing_subscriber::EnvFilter;

/// A kernel smith for gpt-oss models: generated CUDA kernels, a lean runtime, and the tools to look inside.
///
/// Start with:  ossmith generate "What is the weather like in SF?"
#[derive(Debug, Parser)]
#[command(name = "ossmith", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    let matches = negatives_are_values(Cli::command()).get_matches();
    let command = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).command;
    let outcome = run(command);
    log::flush();
    match outcome {
        Ok(()) if interrupt::requested() => ExitCode::from(interrupt::EXIT_CODE),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
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

fn run(command: commands::Command) -> anyhow::Result<()> {
    let given = std::env::var("OSSMITH_LOG").ok().filter(|given| !given.is_empty());
    let filter = EnvFilter::try_new(given.as_deref().unwrap_or_else(|| command.log_level()))
        .map_err(|why| {
            let given = given.unwrap_or_default();
            let hint = "write a level, such as info, or the level of a part: ossmith=debug";
            failure::fail(format!("OSSMITH_LOG={given} is not a filter: {why}"), hint)
        })?;
    let colours = std::io::stderr().is_terminal();
    let lines = log::start().context("cannot start the log")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    log.with_writer(move || lines.clone()).init();
    ossmith::unstable::end_on_lost_pages();
    interrupt::install()?;
    command.run()
}
