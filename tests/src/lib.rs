//! Cross-crate tests against the oracles.
