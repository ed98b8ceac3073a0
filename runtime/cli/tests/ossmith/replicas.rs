//! Two servers of this machine over one Redis, in turns: `tests/scale/run.py` without a proxy.

use std::io::Write;
use std::path::Path;
use std::process::Command;

#[test]
fn replicas_continue_what_others_have_stored() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new("python3")
        .arg(root.join("tests/scale/run.py"))
        .arg(env!("CARGO_BIN_EXE_ossmith"))
        .args(["--proxies", "none", "--chains", "12"])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("OSSMITH_API_KEY")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    let mut stderr = std::io::stderr();
    for line in said.lines().filter(|line| line.starts_with("NOT CHECKED")) {
        writeln!(stderr, "{line}").unwrap();
    }
}
