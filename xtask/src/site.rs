//! The documents as a site, by `tools/site.py` and MkDocs, which checks what their links name.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::python;
use crate::shell::{Result, capture, root, run, target};

/// The generator and its version.
const MKDOCS: &str = "mkdocs==1.6.1";

/// A Python that has MkDocs.
///
/// # Errors
/// Why it cannot be had.
pub(crate) fn fetch() -> Result<PathBuf> {
    let python = python::ours()?;
    if capture(Command::new(&python).args(["-c", "import mkdocs"])).is_err() {
        capture(python::pip_install(&python).arg(MKDOCS))
            .map_err(|why| format!("cannot install {MKDOCS} (is there a network?): {why}"))?;
    }
    Ok(python)
}

/// Writes `target/site/`.
pub(crate) fn build(python: &Path) -> Result<()> {
    let script = root().join("tools/site.py");
    run(Command::new(python).arg(script).arg(target("site-source")).arg(target("site")))
}
