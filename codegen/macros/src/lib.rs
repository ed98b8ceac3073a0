//! model!: a gpt-oss model compiled into Rust at build time

#![forbid(unsafe_code)]
