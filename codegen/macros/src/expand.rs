//! From a folder's name to the expansion. Errors are plain text; the caller puts them at the name's span.

use std::io::ErrorKind;
use std::path::Path;

use ossmith_codegen::{compile, literal, spec};
use ossmith_plan::ModelSpec;
use proc_macro2::TokenStream;
use quote::{format_ident, quote};

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";

/// The items that `model!(name)` stands for.
pub(crate) fn model(crate_folder: &Path, name: &str) -> Result<TokenStream, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(plain) {
        return Err(format!(
            "`{name}` is not a folder's name: write letters, digits, `-`, `_` and `.`, as in model!(\"gpt-oss-20b\")"
        ));
    }
    let folder = crate_folder.join(name);
    let Some(config) = read(&folder, CONFIG)? else {
        return Err(format!(
            "there is no `{name}/{CONFIG}` beside this crate's Cargo.toml: put the model's {CONFIG} there"
        ));
    };
    let generation = read(&folder, GENERATION_CONFIG)?;
    let spec = spec::parse(name, &config, generation.as_deref())
        .map_err(|error| format!("{name}: {error}"))?;

    let model = compile(spec).map_err(|error| format!("{name}: {error}"))?;
    let model = literal::model(model);
    let constants = constants(&spec);
    let watched = [Some(CONFIG), generation.as_ref().map(|_| GENERATION_CONFIG)];
    let watched = watched.iter().flatten().map(|file| format!("/{name}/{file}"));
    let doc = format!("{name}, compiled at build time.");
    Ok(quote! {
        #[doc = #doc]
        pub static MODEL: ::ossmith_plan::Model = #model;
        #constants
        // What makes cargo build again when a file changes.
        const _: &[&[u8]] = &[#(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), #watched))),*];
    })
}

/// A file's text, or `None` if there is no such file.
fn read(folder: &Path, file: &str) -> Result<Option<String>, String> {
    match std::fs::read_to_string(folder.join(file)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}", folder.join(file).display())),
    }
}

/// The dimensions, for code that wants them as constants.
fn constants(spec: &ModelSpec) -> TokenStream {
    let constants = [
        ("HIDDEN", "Width of the residual stream.", spec.hidden),
        ("INTER", "Inner width of one expert.", spec.inter),
        ("HEAD_DIM", "Width of one attention head.", spec.head_dim),
        ("Q_HEADS", "Query heads.", spec.q_heads),
        ("KV_HEADS", "Key/value heads.", spec.kv_heads),
        ("MAX_EXPERTS", "The most experts of a layer.", spec.max_experts()),
        ("MAX_TOP_K", "The most experts that a layer chooses for a token.", spec.max_top_k()),
        ("VOCAB", "Rows of the embedding and of the unembedding.", spec.vocab),
        ("MAX_WINDOW", "The most keys that a sliding layer sees.", spec.max_window()),
        ("CONTEXT", "Most positions a sequence may have.", spec.context),
        ("LAYERS", "Layers.", spec.layers.len()),
    ]
    .map(|(name, doc, value)| {
        let name = format_ident!("{name}");
        let value = proc_macro2::Literal::usize_unsuffixed(value);
        quote!(#[doc = #doc] pub const #name: usize = #value;)
    });
    let doc = format!("The dimensions of {}.", spec.name);
    quote! {
        #[doc = #doc]
        pub mod spec { #(#constants)* }
    }
}
