//! `model!`: a gpt-oss model compiled into Rust at build time.
//!
//! A thin shell: it finds and reads the files, `ossmith_codegen` does the work (`expand.rs` puts the two together).
//! It knows neither NVRTC nor GPUs; the CUDA text that it embeds is compiled by the runtime.

#![forbid(unsafe_code)]

mod expand;

use std::path::PathBuf;

use proc_macro::TokenStream;
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::{Error, LitStr, Path, Token, parse_macro_input};

/// Where the plan's types are found, and which model.
struct Input {
    plan: Option<Path>,
    model: LitStr,
}

impl Parse for Input {
    fn parse(input: ParseStream<'_>) -> syn::Result<Input> {
        if input.peek(LitStr) {
            return Ok(Input { plan: None, model: input.parse()? });
        }
        if !input.peek(Token![crate])
            && !input.peek(Token![$])
            && !input.peek(syn::Ident)
            && !input.peek(Token![::])
        {
            return Err(input.error("expected string literal"));
        }
        let plan = Some(input.call(Path::parse_mod_style)?);
        input.parse::<Token![,]>()?;
        Ok(Input { plan, model: input.parse()? })
    }
}

/// `model!("gpt-oss-20b")` reads `gpt-oss-20b/config.json` (and `generation_config.json`, where there is one) beside
/// the `Cargo.toml` of the crate that calls it; `model!("models/mine/config.json")` reads the file at that path from
/// there. It expands to
///
/// - `pub static MODEL: ossmith_plan::Model`: spec, graph, schedules, layouts, CUDA text;
/// - `pub mod spec`: the dimensions as constants, `HIDDEN`, `HEAD_DIM`, …
///
/// so it stands alone in a module, in a crate that depends on `ossmith-plan`; `ossmith_models::model!` is the same for a
/// crate that depends on `ossmith-models` alone. A folder that is missing and a configuration that no kernel supports are
/// compile errors; the crate is rebuilt when the files change.
#[proc_macro]
pub fn model(input: TokenStream) -> TokenStream {
    let Input { plan, model } = parse_macro_input!(input as Input);
    let plan = plan.map_or_else(|| quote!(::ossmith_plan), |path| quote!(#path));
    let crate_folder =
        std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    match expand::model(&crate_folder, &plan, &model.value()) {
        Ok(tokens) => tokens.into(),
        Err(message) => Error::new(model.span(), message).into_compile_error().into(),
    }
}
