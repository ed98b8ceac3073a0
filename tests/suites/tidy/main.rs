//! Rules that the compiler cannot check: which crate may depend on which, how long a file may be, what must be
//! documented. Each rule is in ARCHITECTURE.md or CONTRIBUTING.md; a failure names the place and what to do.

#![forbid(unsafe_code)]

mod dependencies;
mod documents;
mod modules;
mod sources;
mod text;
mod words;

/// Fails with every offence found, a line each.
#[track_caller]
fn expect_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}\n  {}", offences.join("\n  "));
}
