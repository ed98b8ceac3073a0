//! A Python for the tests' reference implementation (numpy) and for PyPI: a virtual environment in `target/py`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{Result, capture, target};

/// A Python that has pip: the environment in `target/py`, made now if need be, else the system's own.
pub(crate) fn with_pip() -> Result<PathBuf> {
    let ours = target("py").join("bin/python3");
    let system = PathBuf::from("python3");
    let has_pip =
        |python: &PathBuf| capture(Command::new(python).args(["-m", "pip", "--version"])).is_ok();
    if has_pip(&ours) {
        return Ok(ours);
    }
    let made = capture(Command::new(&system).args(["-m", "venv", "--clear"]).arg(target("py")));
    if made.is_ok() && has_pip(&ours) {
        return Ok(ours);
    }
    if has_pip(&system) {
        return Ok(system);
    }
    Err("no python3 with pip or venv was found: install Python 3 (on Debian: apt-get install \
         python3-venv) and run this again"
        .to_owned())
}

/// The Python in `target/py`: never the system's, which is not ours to change.
pub(crate) fn ours() -> Result<PathBuf> {
    let python = with_pip()?;
    if python != target("py").join("bin/python3") {
        return Err("there is no virtual environment in target/py; install Python's venv".into());
    }
    Ok(python)
}

/// `pip install` of this Python, without compiling anything; what to install is to be added.
pub(crate) fn pip_install(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "install", "--quiet", "--only-binary=:all:", "--retries", "2"]);
    command
}

/// Packages through which users will reach the server, at the versions that its tests were written with.
const SERVER: [&str; 5] = [
    "openai==3.54.0",
    "openai-agents[litellm]==0.24.0",
    "schemathesis>=4,<5",
    "playwright>=1,<2",
    "transformers==5.24.0",
];

/// Makes them importable by the Python in `target/py`.
pub(crate) fn fetch_for_server() -> Result<()> {
    let python = ours()?;
    let probe = "import agents, litellm, openai, playwright, schemathesis, transformers";
    if capture(Command::new(&python).args(["-c", probe])).is_ok() {
        return Ok(());
    }
    println!("fetching {} from PyPI into target/py (300 MB)", SERVER.join(", "));
    capture(pip_install(&python).args(SERVER)).map_err(|why| {
        format!("cannot install {} (is there a network?): {why}", SERVER.join(", "))
    })?;
    Ok(())
}

/// Makes numpy importable by the Python that the tests use (see `ossmith_tests::reference`).
pub(crate) fn fetch_numpy() -> Result<()> {
    let imports =
        |python: &PathBuf| capture(Command::new(python).args(["-c", "import numpy"])).is_ok();
    if imports(&target("py").join("bin/python3")) || imports(&PathBuf::from("python3")) {
        return Ok(());
    }
    let python = with_pip()?;
    capture(pip_install(&python).arg("numpy>=2,<3"))
        .map_err(|why| format!("cannot install numpy from PyPI (is there a network?): {why}"))?;
    Ok(())
}
