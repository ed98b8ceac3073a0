//! Developer tasks, one file each, with nothing but the standard library: `cargo xtask` lists them.
//! They start other programs (cargo, python3) and move files; what is checked lives in the crates and in `tests/`.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)] // a task prints to the person who started it

mod bare_roots;
mod bless;
mod ci;
mod clients;
mod debian;
mod fresh_crates;
mod gpu_bundle;
mod images;
mod mutants;
mod nvrtc;
mod python;
mod python_package;
mod release;
mod shell;
mod simulate;
mod site;
mod supply;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask <task>

  test         every check that CI runs: format, lints, docs, all tests; fetches what the tests need into target/
                 --without-nvrtc   leave kernel compilation out and report that, for work without a network
  nvrtc        fetch NVIDIA's run-time compiler from PyPI into target/nvrtc/
  clients      fetch the clients that the server is tested with into target/clients/
  python       build the wheel of the Python package and use it in an environment of its own
  bless        rewrite the committed CUDA text (codegen/goldens/) from what the generator emits now
  simulate     run the engine under a seeded simulation: --seed N replays one seed and prints all that happens,
                 --seeds COUNT [--first N] runs many
  mutants      test the tests: cargo-mutants over a seeded sample of each room of the code, in this working tree; see docs/TESTING.md
                 [--seed N] [--count N] [--room NAME] [--part K/N]
  deny         check licences, sources and duplicates of dependencies, and advisories where their database can be reached
  prometheus   print the folder of Prometheus and promtool, fetched from Debian where the machine has none
  sbom         write a bill of materials (CycloneDX) to target/sbom.cdx.json
  site         make a site of the documents with MkDocs from PyPI in target/site/, and check what their links name
  images       lint packaging/Containerfile with hadolint from PyPI
  release      make what a release consists of in target/release-files/: the program, the wheel, a bill of materials, checksums
                 --program FILE   pack this one instead of building it; --without-wheel   leave the Python package out
                 --static-program FILE   the same for the one that is linked statically
  bare-roots   use both released programs in a bare Debian and a bare Alpine, in target/roots/; needs root
                 --program FILE   --static-program FILE   use these instead of building them; --alpine ARCHIVE   its root, instead of fetching it
  fresh-crates begin crates outside the workspace that depend on these, build them from nothing, and use them
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
        ["test"] => ci::check(ci::Nvrtc::Fetch),
        ["test", "--without-nvrtc"] => ci::check(ci::Nvrtc::LeaveOut),
        ["nvrtc"] => nvrtc::fetch().map(|folder| println!("{}", folder.display())),
        ["clients"] => match clients::fetch().as_slice() {
            [] => Ok(()),
            problems => Err(problems.join("\n")),
        },
        ["python"] => python_package::fetch().and_then(|()| python_package::check()),
        ["bless"] => bless::rewrite(),
        ["deny"] => supply::check_all(),
        ["prometheus"] => debian::fetch_prometheus().map(|folder| println!("{}", folder.display())),
        ["sbom"] => supply::write_sbom().map(|file| println!("{}", file.display())),
        ["mutants", rest @ ..] => mutants::test(rest),
        ["simulate", rest @ ..] => simulate::simulate(rest),
        ["site"] => site::fetch().and_then(|python| site::build(&python)),
        ["images"] => images::fetch().and_then(|linter| images::check(&linter)),
        ["release", rest @ ..] => release::pack(rest),
        ["bare-roots", rest @ ..] => bare_roots::check(rest),
        ["fresh-crates", rest @ ..] => fresh_crates::check(rest),
        ["gpu-bundle"] => gpu_bundle::pack(),
        other => Err(format!("there is no task `{}`\n\n{HELP}", other.join(" "))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}
