//! The examples, run as a reader would: each ends well and prints nano's answer. `cargo test` builds them beside this test.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;
use std::process::Command;

/// What an example prints.
fn run(name: &str) -> String {
    // target/PROFILE/deps/examples-HASH, target/PROFILE/examples/NAME
    let mut path = PathBuf::from(std::env::current_exe().unwrap().parent().unwrap());
    path.pop();
    path.extend(["examples", name]);
    let output = Command::new(&path).output().unwrap_or_else(|why| {
        panic!("{}: {why}; `cargo build -p ossmith --examples` makes it", path.display())
    });
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_examples_run_and_answer() {
    for (name, wants) in [("embed", ["analysis", "42"]), ("harmony", ["analysis: ", "final: "])] {
        let said = run(name);
        for want in wants {
            assert!(said.contains(want), "{name}: `{want}` is not in `{said}`");
        }
    }
}
