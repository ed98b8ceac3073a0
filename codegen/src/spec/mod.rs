//! `config.json` → [`ModelSpec`]: parsed, not validated, so that a spec with a shape the kernels do not support
//! does not exist.
//!
//! [`layouts`] reads the two spellings that checkpoints come with into one [`raw::Raw`], [`layers`] what differs from layer
//! to layer, [`rope`] their rotary embedding, [`quantization`] how weights may be stored, and [`supported`] holds the limits. Nothing here reads files.

mod fields;
mod layers;
mod layouts;
mod quantization;
mod raw;
mod rope;
mod supported;
#[cfg(test)]
mod tests;

use ossmith_plan::ModelSpec;

use fields::{Fields, parse_object};

/// What stops a configuration from being a model: always the field, the value found and what is supported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Not JSON, or not a JSON object.
    #[error("{file} is not a JSON object: {source}")]
    Json {
        /// `config.json` or `generation_config.json`.
        file: &'static str,
        /// What the parser says, with line and column.
        source: serde_json::Error,
    },
    /// A field that has no default.
    #[error("{file}: `{field}` is missing; supported: {supported}")]
    Missing {
        /// `config.json` or `generation_config.json`.
        file: &'static str,
        /// The field, with its path inside the file.
        field: String,
        /// What it may hold.
        supported: String,
    },
    /// A value of the wrong type, out of range, or of something that no kernel computes.
    #[error("{file}: `{field}` is {found}; supported: {supported}")]
    Unsupported {
        /// `config.json` or `generation_config.json`.
        file: &'static str,
        /// The field (or product of fields), with its path inside the file.
        field: String,
        /// The value, as JSON, shortened.
        found: String,
        /// What it may hold.
        supported: String,
    },
}

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";

/// Reads the text of a `config.json` in Hugging Face or OpenAI layout, and of a `generation_config.json` if
/// there is one (its end-of-turn ids add to the config's, and it may limit answers).
///
/// Unknown fields are ignored. The spec's data lives as long as the process; call this once per model.
///
/// # Errors
/// [`SpecError`], for the first field found that is missing, of a wrong type, contradicted by another field, or
/// beyond what the kernels support.
pub fn parse(
    name: &str,
    config: &str,
    generation_config: Option<&str>,
) -> Result<ModelSpec, SpecError> {
    let config = parse_object(CONFIG, config)?;
    let config = Fields::new(CONFIG, &config);
    let generation = generation_config.map(|text| parse_object(GENERATION_CONFIG, text));
    let generation = generation.transpose()?;
    let generation = generation.as_ref().map(|map| Fields::new(GENERATION_CONFIG, map));

    let raw = layouts::read(config)?;
    supported::check(&config, &raw)?;
    let max_new_tokens = match generation {
        Some(fields) => fields.optional_count("max_new_tokens")?,
        None => None,
    };
    let stop_tokens = layouts::stop_tokens(raw.vocab, config, generation)?;
    Ok(ModelSpec {
        name: String::leak(name.to_owned()),
        hidden: raw.hidden,
        inter: raw.inter,
        head_dim: raw.head_dim,
        q_heads: raw.q_heads,
        kv_heads: raw.kv_heads,
        vocab: raw.vocab,
        context: raw.context,
        layers: crate::leak(raw.layers),
        rms_eps: raw.rms_eps as f32,
        swiglu_limit: raw.swiglu_limit as f32,
        swiglu_alpha: raw.swiglu_alpha as f32,
        attention_bias: raw.attention_bias,
        tied_embeddings: raw.tied_embeddings,
        rope: raw.rope,
        stop_tokens: crate::leak(stop_tokens),
        max_new_tokens,
    })
}
