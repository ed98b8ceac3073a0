//! The program `ossmith`: the command of the library beside it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(ossmith_cli::run(std::env::args_os()))
}
