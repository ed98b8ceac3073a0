//! What harnesses send, through the scripts of `tests/harnesses` with a few lines of each set; by hand they run with a thousand.

use std::path::Path;
use std::process::Command;

/// Runs one of the scripts, which starts a server of its own.
fn passes(script: &str, lines: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/harnesses");
    let output = Command::new("python3")
        .arg(folder.join(script))
        .arg(env!("CARGO_BIN_EXE_ossmith"))
        .args(["--lines", lines])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("OSSMITH_API_KEY")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
}

#[test]
fn a_batch_has_the_answers_of_a_server_in_its_order() {
    passes("batch.py", "36");
}

#[test]
fn mlperfs_requests_are_answered_with_the_tokens_that_they_count() {
    passes("mlperf.py", "12");
}
