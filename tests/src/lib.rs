//! Shared by the cross-crate tests: stored references ([`fixture`]), references made on the spot ([`mod@reference`]),
//! the bounds that results are held to ([`bounds`]), and a driver that feeds a backend in many ways ([`drive`]).
//! The tests themselves are in `suites/`, one folder per area.

#![forbid(unsafe_code)]

pub mod bounds;
pub mod drive;
pub mod fixture;
pub mod reference;

use std::io::Write;
use std::path::{Path, PathBuf};

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Reports that something was not checked and why, past the test runner's capture, so that no skip is silent.
pub fn not_checked(what: &str, why: &str) {
    // A closed stderr must not fail the test.
    let _ = writeln!(std::io::stderr(), "NOT CHECKED: {what}: {why}");
}
