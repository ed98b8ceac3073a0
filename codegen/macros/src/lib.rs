//! `model!`: a gpt-oss model compiled into Rust at build time.
//!
//! A thin shell: it finds and reads the files, `ossmith_codegen` does the work (`expand.rs` puts the two together).
//! It knows neither NVRTC nor GPUs; the CUDA text that it embeds is compiled by the runtime.

#![forbid(unsafe_code)]

mod expand;

use std::path::PathBuf;

use proc_macro::TokenStream;
use syn::{Error, LitStr, parse_macro_input};

/// `model!("gpt-oss-20b")` reads `gpt-oss-20b/config.json` (and `generation_config.json`, where there is one) beside
/// the `Cargo.toml` of the crate that calls it, and expands to
///
/// - `pub static MODEL: ossmith_plan::Model`: spec, graph, schedules, layouts, CUDA text;
/// - `pub mod spec`: the dimensions as constants, `HIDDEN`, `HEAD_DIM`, …
///
/// so it stands alone in a module, in a crate that depends on `ossmith-plan`. A folder that is missing and a
/// configuration that no kernel supports are compile errors; the crate is rebuilt when the files change.
#[proc_macro]
pub fn model(input: TokenStream) -> TokenStream {
    let name = parse_macro_input!(input as LitStr);
    let crate_folder =
        std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    match expand::model(&crate_folder, &name.value()) {
        Ok(tokens) => tokens.into(),
        Err(message) => Error::new(name.span(), message).into_compile_error().into(),
    }
}
