//! From a folder's name to the expansion. Errors are plain text; the caller puts them at the name's span.

use std::io::ErrorKind;
use std::path::Path;

use ossmith_codegen::{TuningRecord, compile_tuned, literal, spec};
use ossmith_plan::ModelSpec;
use proc_macro2::TokenStream;
use quote::{format_ident, quote};

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
/// The folder of tuning records.
const TUNED: &str = "tuned";

/// Where a model's files are, from the crate's folder.
struct Source {
    /// What the model is called: its folder's name.
    name: String,
    /// Its folder, with `/` behind it, or nothing for the crate's own.
    folder: String,
    /// The configuration's file in that folder.
    config: String,
}

impl Source {
    /// A folder's name beside the crate's `Cargo.toml`, or the path of a `.json` file from there.
    fn of(text: &str, crate_folder: &Path) -> Result<Source, String> {
        if text.ends_with(".json") {
            return Source::of_file(text, crate_folder);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.chars().all(plain) {
            return Err(format!(
                "`{text}` is neither a folder's name nor the path of a .json file: write letters, digits, `-`, `_` and \
                 `.`, as in model!(\"gpt-oss-20b\"), or a path, as in model!(\"models/mine/config.json\")"
            ));
        }
        Ok(Source { name: text.to_owned(), folder: format!("{text}/"), config: CONFIG.to_owned() })
    }

    fn of_file(text: &str, crate_folder: &Path) -> Result<Source, String> {
        if Path::new(text).is_absolute() {
            return Err(format!(
                "`{text}` is an absolute path: write one from the folder of this crate's Cargo.toml"
            ));
        }
        let (folder, config) =
            text.rsplit_once('/').map_or(("", text), |(folder, file)| (folder, file));
        // A path such as `../config.json` names no folder, but leads to one.
        let full = crate_folder.join(folder);
        let full = full.canonicalize().unwrap_or(full);
        let name = full.file_name().map_or("model".into(), |name| name.to_string_lossy());
        let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        Ok(Source { name: name.into_owned(), folder, config: config.to_owned() })
    }
}

/// The items that `model!(text)` stands for; `plan` is the path of the crate `ossmith-plan` where it is called.
pub(crate) fn model(
    crate_folder: &Path,
    plan: &TokenStream,
    text: &str,
) -> Result<TokenStream, String> {
    let Source { name, folder, config: file } = Source::of(text, crate_folder)?;
    let in_crate = crate_folder.join(&folder);
    let Some(config) = read(&in_crate, &file)? else {
        return Err(format!(
            "there is no `{folder}{file}` beside this crate's Cargo.toml: put the model's {CONFIG} there"
        ));
    };
    let generation = read(&in_crate, GENERATION_CONFIG)?;
    let spec = spec::parse(&name, &config, generation.as_deref())
        .map_err(|error| format!("{name}: {error}"))?;

    let (record_files, records) = records(crate_folder, &folder)?;
    let model = compile_tuned(spec, &records).map_err(|error| format!("{name}: {error}"))?;
    let model = literal::model(model);
    let constants = constants(&spec);
    let watched = [Some(file.as_str()), generation.as_ref().map(|_| GENERATION_CONFIG)];
    let watched = watched.iter().flatten().map(|file| format!("/{folder}{file}"));
    let watched = watched.chain(record_files.iter().map(|file| format!("/{TUNED}/{file}")));
    let doc = format!("{name}, compiled at build time.");
    Ok(quote! {
        #[doc = #doc]
        pub static MODEL: #plan::Model = {
            use #plan as plan;
            #model
        };
        #constants
        // What makes cargo build again when a file changes.
        const _: &[&[u8]] = &[#(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), #watched))),*];
    })
}

/// The tuning records of the models whose folders lie in the crate's, as files of `tuned` there, by name.
fn records(crate_folder: &Path, folder: &str) -> Result<(Vec<String>, Vec<TuningRecord>), String> {
    let tuned = crate_folder.join(TUNED);
    if folder.matches('/').count() != 1 || !tuned.is_dir() {
        return Ok((Vec::new(), Vec::new()));
    }
    let cannot_read = |why| format!("cannot read {}: {why}", tuned.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&tuned).map_err(cannot_read)? {
        let name = entry.map_err(cannot_read)?.file_name().to_string_lossy().into_owned();
        files.extend(name.ends_with(".toml").then_some(name));
    }
    files.sort();
    let mut records = Vec::new();
    for file in &files {
        let text = read(&tuned, file)?.unwrap_or_default();
        let record = TuningRecord::parse(&text);
        records.push(record.map_err(|error| format!("{TUNED}/{file}: {error}"))?);
    }
    Ok((files, records))
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
