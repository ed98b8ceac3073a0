//! Real clients from PyPI and npm, each against a server of its own kind of answer: a scripted model calls a tool, reads its result
//! and answers. The scripts in `tests/clients` print a line for each client that went through, and docs/CLIENTS.md has the same
//! lines, so it says what was really done.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::explicit_write, reason = "the test runner captures what `eprintln!` prints")]

mod script;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::mpsc::channel;

use ossmith_server::stub::Stub;
use ossmith_server::{Config, serve};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A server that runs until the test ends.
fn start(port: u16) -> SocketAddr {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let mut config = Config::new("gpt-oss-20b", 131_072, 201_088);
            config.max_new_tokens = Some(1500);
            config.aliases = vec!["gpt-oss:20b".to_owned(), "claude-*".to_owned()];
            let stub = Arc::new(Stub::new(64, script::script));
            serve(listener, config, stub, std::future::pending()).await.unwrap();
        });
    });
    receiver.recv().unwrap()
}

fn not_checked(what: &str) {
    // Not `eprintln!`, which the test runner captures.
    let mut stderr = std::io::stderr();
    writeln!(stderr, "NOT CHECKED: {what}; `cargo xtask test` fetches them").unwrap();
}

/// The lines of docs/CLIENTS.md, as the scripts print them: client, version, what was done.
fn documented() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("docs/CLIENTS.md")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        (cells.len() == 4 && cells[3] == "works").then(|| cells[..3].join(" | "))
    };
    text.lines().filter_map(row).collect()
}

/// Every client went through, and the document has exactly the lines that were printed for these.
fn check(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{stderr}");
    let documented = documented();
    let done: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("ok ")).collect();
    assert!(!done.is_empty(), "{said}\n{stderr}");
    let missing: Vec<&&str> = done.iter().filter(|line| !documented.contains(**line)).collect();
    assert!(missing.is_empty(), "docs/CLIENTS.md lacks these lines: {missing:#?}");
    let mut stderr = std::io::stderr();
    for skipped in said.lines().filter(|line| line.starts_with("NOT CHECKED")) {
        writeln!(stderr, "{skipped}").unwrap();
    }
}

#[test]
fn python_clients() {
    let python = root().join("target/clients/py/bin/python3");
    if !python.exists() {
        return not_checked("clients from PyPI are not installed");
    }
    let url = format!("http://{}", start(0));
    let script = root().join("tests/clients/clients.py");
    let mut command = Command::new(python);
    command.arg(script).arg(url).env("PYTHONDONTWRITEBYTECODE", "1");
    check(&command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True").output().unwrap());
}

#[test]
fn node_clients() {
    let modules = root().join("target/clients/npm");
    if !modules.join("node_modules/openai").exists() {
        return not_checked("clients from npm are not installed");
    }
    let url = format!("http://{}", start(0));
    // Node looks for packages beside a script.
    let script = modules.join("clients.mjs");
    std::fs::copy(root().join("tests/clients/clients.mjs"), &script).unwrap();
    check(&Command::new("node").arg(script).arg(url).output().unwrap());
}

#[test]
fn claude_code() {
    let program = root().join("target/clients/npm/node_modules/.bin/claude");
    if !program.exists() {
        return not_checked("Claude Code is not installed");
    }
    let url = format!("http://{}", start(0));
    let script = root().join("tests/clients/claude_code.sh");
    check(&Command::new("bash").arg(script).arg(program).arg(url).output().unwrap());
}

#[test]
fn codex() {
    let program = root().join("target/clients/npm/node_modules/.bin/codex");
    if !program.exists() {
        return not_checked("Codex is not installed");
    }
    let url = format!("http://{}", start(0));
    let script = root().join("tests/clients/codex.sh");
    check(&Command::new("bash").arg(script).arg(program).arg(url).output().unwrap());
}

#[test]
fn the_chat_page() {
    let python = root().join("target/py/bin/python3");
    let probe = Command::new(&python).args(["-c", "import playwright"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return not_checked("playwright, for the chat page, is not installed");
    }
    let url = format!("http://{}", start(0));
    let script = root().join("tests/clients/page.py");
    let output = Command::new(python).arg(script).arg(url).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    if said.starts_with("NOT CHECKED") {
        writeln!(std::io::stderr(), "{said}").unwrap();
    }
}

/// For work on the clients' scripts: `cargo test -p ossmith-server --test clients -- --ignored`, on port 18931.
#[test]
#[ignore = "it serves until it is stopped"]
fn serves_the_script() {
    start(18_931);
    loop {
        std::thread::park();
    }
}
