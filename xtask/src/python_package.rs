//! The Python package: its wheel, built as users get it but without optimisation of the last crates, and what is done with it in an
//! environment of its own (`runtime/python/tests/run.py`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::python::pip_install;
use crate::shell::{Result, at, capture, root, run, target};

/// Builds wheels.
const MATURIN: &str = "maturin==1.16.0";
/// Holds the list that was installed, so that nothing is fetched twice. Written last.
const MARKER: &str = "installed";

/// An environment in `target/python-package/env` with what the tests need besides the package, and maturin.
pub(crate) fn fetch() -> Result<()> {
    let list = source().join("tests/requirements.txt");
    let wanted = format!("{MATURIN}\n{}", at(&list, fs::read_to_string(&list))?);
    let folder = environment();
    let marker = folder.join(MARKER);
    if fs::read_to_string(&marker).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    println!("fetching {MATURIN} and the packages of {} from PyPI", list.display());
    capture(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    capture(pip_install(&python()).arg(MATURIN).arg("-r").arg(&list))
        .map_err(|why| format!("cannot install them (is there a network?): {why}"))?;
    at(&marker, fs::write(&marker, wanted))
}

/// Builds the wheel, installs it and uses it.
pub(crate) fn check() -> Result<()> {
    let wheels = target("python-package/wheels");
    if wheels.exists() {
        at(&wheels, fs::remove_dir_all(&wheels))?;
    }
    let mut build = Command::new(environment().join("bin/maturin"));
    // The compiled crates of `cargo test --workspace` serve here too; no container is there to check the C library against.
    build.args(["build", "--quiet", "--features", "share-test-builds", "--auditwheel", "skip"]);
    run(build.arg("--out").arg(&wheels).current_dir(source()))?;
    let built: Vec<_> = at(&wheels, fs::read_dir(&wheels))?.flatten().collect();
    let [wheel] = built.as_slice() else {
        return Err(format!("{} wheels in {}", built.len(), wheels.display()));
    };
    let words = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall"];
    run(Command::new(python()).args(words).arg(wheel.path()))?;
    run(Command::new(python()).arg(source().join("tests/run.py")))
}

/// Builds the wheel that users get, or with `rehearsal` one that is not optimised, into this folder. It needs the C library that
/// this machine has, or a later one.
pub(crate) fn build_release(out: &Path, rehearsal: bool) -> Result<()> {
    fetch()?;
    let mut build = Command::new(environment().join("bin/maturin"));
    build.args(["build", "--quiet", "--locked", "--strip"]);
    match rehearsal {
        true => build.args(["--features", "share-test-builds"]),
        false => build.arg("--release"),
    };
    run(build.arg("--out").arg(out).current_dir(source()))
}

fn source() -> PathBuf {
    root().join("runtime/python")
}

fn environment() -> PathBuf {
    target("python-package/env")
}

fn python() -> PathBuf {
    environment().join("bin/python3")
}
