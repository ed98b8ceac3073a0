//! What the compiler cannot hold us to: which crate may know which, how long a file may be, what must be documented.
//! Each rule stands in ARCHITECTURE.md or CONTRIBUTING.md; a failure says where it is broken and what to do.

#![forbid(unsafe_code)]

mod documents;
mod modules;
mod rooms;
mod sources;
mod text;
mod words;

/// Fails with every offence found, a line each.
#[track_caller]
fn expect_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}\n  {}", offences.join("\n  "));
}
