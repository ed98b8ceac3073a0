//! The `ossmith` command: one front door to the toolkit.
//!
//! Each command is a file of [`commands`]; what they share (choosing a model, loading an engine, sampling flags,
//! printing) lies beside them. Results go to standard output, everything said about them to standard error.
//! Exit codes: 0 done, 1 an error that is printed in one sentence, 2 wrong usage, 130 interrupted.

#![forbid(unsafe_code)]

mod answer;
mod commands;
mod failure;
mod hub;
mod interrupt;
mod load;
mod model;
mod progress;
mod prompt;
mod sampling;
mod speak;
mod tensors;
mod today;
mod tokens;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
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
    let cli = Cli::parse();
    let usual = cli.command.log_level();
    let filter = EnvFilter::try_from_env("OSSMITH_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    log.with_writer(std::io::stderr).init();
    match interrupt::install().and_then(|()| cli.command.run()) {
        Ok(()) if interrupt::asked() => ExitCode::from(interrupt::EXIT_CODE),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
