//! Paths of the repository, and how other programs are started.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The result of a task: what went wrong and what to do next, in a sentence.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// A folder under `target/`, which git ignores.
pub(crate) fn target(name: &str) -> PathBuf {
    root().join("target").join(name)
}

/// The cargo that runs this task, in the repository's root.
pub(crate) fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words).current_dir(root());
    command
}

/// Runs a command with this terminal's output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status =
        command.status().map_err(|why| format!("cannot start {}: {why}", name(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed ({status})", name(command))) }
}

/// Runs a command and returns what it printed; on failure, the last lines of its standard error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output =
        command.output().map_err(|why| format!("cannot start {}: {why}", name(command)))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = errors.lines().filter(|line| !line.trim().is_empty()).collect();
    Err(lines[lines.len().saturating_sub(3)..].join("\n"))
}

/// The name of a command in messages: the program and its first words.
fn name(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args().take(2));
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    format!("`{}`", words.join(" "))
}

/// A file operation's error with the path it was about.
pub(crate) fn at<T>(path: &Path, result: std::io::Result<T>) -> Result<T> {
    result.map_err(|why| format!("{}: {why}", path.display()))
}
