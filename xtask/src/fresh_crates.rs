//! Crates outside the workspace, as somebody else would begin them: one that asks nano a question through a single dependency, and an
//! axum application that has every API of the server beside a page of its own. Each is built from nothing and used.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::shell::{Result, at, capture, root, run, target};

/// A crate that somebody begins.
struct Fresh {
    name: &'static str,
    /// Lines of `[dependencies]`, with `ROOT` for the repository.
    dependencies: &'static str,
    source: fn() -> Result<String>,
    /// What it prints.
    want: &'static str,
}

const CRATES: [Fresh; 2] = [
    Fresh {
        name: "question",
        dependencies: "ossmith-embed = { path = \"ROOT/runtime/embed\" }",
        source: readme,
        want: "42",
    },
    Fresh {
        name: "application",
        dependencies: "axum = { version = \"0.8\", features = [\"tokio\"] }\n\
            ossmith-embed = { path = \"ROOT/runtime/embed\", features = [\"server\"] }\n\
            tokio = { version = \"1\", features = [\"io-util\", \"macros\", \"net\", \"rt-multi-thread\"] }",
        source: application,
        want: "both answer",
    },
];

/// Builds and runs those with these names, or all, and prints how many crates each has and how long it took.
///
/// # Errors
/// A name that none has, what cannot be built, or an answer that is not what was expected.
pub(crate) fn check(names: &[&str]) -> Result<()> {
    let all = CRATES.map(|fresh| fresh.name);
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        return Err(format!("there is no fresh crate `{unknown}`: {}", all.join(", ")));
    }
    for Fresh { name, dependencies, source, want } in CRATES {
        if !names.is_empty() && !names.contains(&name) {
            continue;
        }
        let folder = target("fresh").join(name);
        if folder.exists() {
            at(&folder, fs::remove_dir_all(&folder))?;
        }
        let text = source()?;
        at(&folder, fs::create_dir_all(folder.join("src")))?;
        let place = root().canonicalize().unwrap_or_else(|_| root().to_owned());
        let dependencies = dependencies.replace("ROOT", &place.display().to_string());
        let manifest = format!(
            "[package]\nname = \"{name}\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}\n\n[workspace]\n"
        );
        write(&folder.join("Cargo.toml"), &manifest)?;
        write(&folder.join("src/main.rs"), &text)?;
        // The versions that are tested here.
        at(&folder, fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")))?;

        let listed =
            capture(cargo(&folder).args(["tree", "--prefix", "none", "--edges", "normal"]))?;
        let mut crates: Vec<&str> =
            listed.lines().filter_map(|line| line.split(" (").next()).collect();
        crates.sort_unstable();
        crates.dedup();
        let started = Instant::now();
        run(cargo(&folder).args(["build", "--release", "--quiet"]))?;
        let seconds = started.elapsed().as_secs();
        let printed = capture(&mut Command::new(folder.join("target/release").join(name)))?;
        if !printed.contains(want) {
            return Err(format!("{name} printed `{printed}`, without `{want}`"));
        }
        let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
        let count = crates.len() - 1;
        println!(
            "{name}: {lines} lines, {count} crates below it, built from nothing in {seconds} s; it printed {}",
            printed.trim()
        );
    }
    Ok(())
}

/// The example of ossmith-embed's README.
fn readme() -> Result<String> {
    let path = root().join("runtime/embed/README.md");
    let text = at(&path, fs::read_to_string(&path))?;
    let block = text.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next());
    block.map(str::to_owned).ok_or_else(|| "ossmith-embed's README has no example".to_owned())
}

/// The router mounted in an application, which then asks itself.
fn application() -> Result<String> {
    Ok(r##"
use std::sync::Arc;

use axum::{Router, routing::get};
use ossmith_embed::server::{Config, EngineBackend, api};
use ossmith_embed::{EngineOptions, nano};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

async fn ask(address: std::net::SocketAddr, request: String) -> Outcome<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let engine = nano(EngineOptions::default())?;
    let config = Config::of_engine(&engine);
    let app = Router::new()
        .route("/about", get(|| async { "a page of its own" }))
        .merge(api(config, Arc::new(EngineBackend::new(engine))));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });

    let own = ask(address, "GET /about HTTP/1.0\r\n\r\n".into()).await?;
    let body = r#"{"model": "nano", "messages": [{"role": "user", "content": "What is 17 + 25?"}], "temperature": 0}"#;
    let head = "POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json";
    let chat = ask(address, format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await?;
    if own.ends_with("a page of its own") && chat.contains("42") {
        println!("both answer");
    } else {
        println!("{own}\n{chat}");
    }
    Ok(())
}
"##.to_owned())
}

/// Cargo in a crate's folder, with nothing of this workspace's settings.
fn cargo(folder: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(folder).env("CARGO_TARGET_DIR", folder.join("target"));
    command
}

fn write(path: &Path, text: &str) -> Result<()> {
    at(path, fs::write(path, text))
}
