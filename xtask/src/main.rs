//! Developer errands, one file each, with nothing but the standard library: `cargo xtask` lists them.
//! They start other programs (cargo, python3) and move files; what is checked lives in the crates and in `tests/`.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)] // an errand talks to the person who started it

mod bless;
mod gate;
mod gpu_bundle;
mod nvrtc;
mod python;
mod shell;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask <errand>

  test         the whole gate: format, lints, docs, every test; fetches what the tests need into target/
                 --without-nvrtc   leave kernel compilation out (and say so), for work without a network
  nvrtc        fetch NVIDIA's run-time compiler from PyPI into target/nvrtc/
  bless        rewrite the committed CUDA text (codegen/goldens/) from what the generator emits now
  gpu-bundle   pack the checks that need a GPU into target/gpu/, to be copied to a GPU machine: sh run.sh
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        ["test"] => gate::check(gate::Nvrtc::Fetch),
        ["test", "--without-nvrtc"] => gate::check(gate::Nvrtc::LeaveOut),
        ["nvrtc"] => nvrtc::fetch().map(|folder| println!("{}", folder.display())),
        ["bless"] => bless::rewrite(),
        ["gpu-bundle"] => gpu_bundle::pack(),
        other => Err(format!("there is no errand `{}`\n\n{HELP}", other.join(" "))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}
