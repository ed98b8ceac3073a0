//! Fixtures made on the spot by the numpy reference, with new seeds and shapes in every run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::fixture::Fixture;
use crate::root;

/// A Python that can import numpy: the one in `target/py` (`cargo xtask test` makes it), else the system's.
#[must_use]
pub fn python() -> Option<PathBuf> {
    let candidates = [root().join("target/py/bin/python3"), PathBuf::from("python3")];
    candidates.into_iter().find(|python| {
        let probe = Command::new(python).args(["-c", "import numpy"]).output();
        probe.is_ok_and(|output| output.status.success())
    })
}

/// A seed that no other run has used; failures print it.
#[must_use]
pub fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ now.as_secs()
}

/// Makes a fixture in `folder` with `make_reference.py`, both layouts.
///
/// # Panics
/// When the reference fails, with its standard error as the message.
#[must_use]
pub fn make(python: &Path, preset: &str, seed: u64, extra: &[&str], folder: &Path) -> Fixture {
    let script = root().join("tests/fixtures/make_reference.py");
    let mut command = Command::new(python);
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("OMP_NUM_THREADS", "1");
    command.arg(script).args(["--preset", preset, "--seed", &seed.to_string(), "--out"]);
    command.arg(folder).args(["--no-hf", "--no-mutations", "--original"]).args(extra);
    let output = command.output().unwrap_or_else(|why| panic!("{}: {why}", python.display()));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{preset} with seed {seed}: {errors}");
    Fixture::open(folder)
}
