//! The two layouts of `config.json`, read into one [`Raw`].
//!
//! Hugging Face's is written by transformers (`model_type` "gpt_oss"); OpenAI's comes with the original
//! checkpoint, is shorter, and leaves out what never varies. Limits are checked later, in [`super::supported`].

use std::collections::BTreeSet;

use ossmith_plan::SWIGLU_ALPHA;
use serde::Deserialize;

use super::SpecError;
use super::fields::Fields;
use super::raw::{HUGGING_FACE, Names, OPENAI, Raw};
use super::{layers, quantization, rope};

const DEFAULT_CONTEXT: usize = 131_072;
const DEFAULT_HEAD_DIM: usize = 64;
const DEFAULT_RMS_EPS: f64 = 1e-5;
const DEFAULT_SWIGLU_LIMIT: f64 = 7.0;

/// `<|endoftext|>`, `<|return|>` and `<|call|>`: the ids that end a turn of the published models.
const GPT_OSS_STOP_TOKENS: [u32; 3] = [199_999, RETURN, 200_012];
const RETURN: u32 = 200_002;

pub(super) fn read(config: Fields<'_>) -> Result<Raw, SpecError> {
    let transformers = config.has("model_type") || config.has("architectures");
    let openai = config.has(OPENAI.experts) || config.has("rope_scaling_factor");
    if openai && !transformers { read_openai(config) } else { read_hugging_face(config) }
}

fn read_hugging_face(config: Fields<'_>) -> Result<Raw, SpecError> {
    // The second is gpt-oss with layers that differ (`block_configs`).
    const TYPES: [&str; 2] = ["gpt_oss", "gpt_oss_puzzle"];
    const ARCHITECTURES: [&str; 2] = ["GptOssForCausalLM", "GptOssPuzzleForCausalLM"];
    let supported = "\"gpt_oss\" or \"gpt_oss_puzzle\"";
    if !TYPES.contains(&config.required::<&str>("model_type", supported)?) {
        return Err(config.unsupported("model_type", supported));
    }
    let supported = "one of [\"GptOssForCausalLM\"], [\"GptOssPuzzleForCausalLM\"]";
    match config.optional::<Vec<&str>>("architectures", supported)?.as_deref() {
        None => {}
        Some([name]) if ARCHITECTURES.contains(name) => {}
        Some(_) => return Err(config.unsupported("architectures", supported)),
    }
    config.only("hidden_act", "silu")?;
    quantization::check(config)?;
    Ok(Raw {
        context: config.optional_count(HUGGING_FACE.context)?.unwrap_or(DEFAULT_CONTEXT),
        rope: rope::read_hugging_face(config)?,
        ..common(config, &HUGGING_FACE)?
    })
}

fn read_openai(config: Fields<'_>) -> Result<Raw, SpecError> {
    let rope = rope::read_openai(config)?;
    // The config names no context: it is what the scaling extends the original one to.
    let context = (rope.original_context as f64 * rope.factor) as usize;
    Ok(Raw { context, rope, ..common(config, &OPENAI)? })
}

/// What both layouts spell alike; the rest is left at a value that both callers replace. Defaults are those of
/// transformers; dimensions have none here, since a file without them is of some other model.
fn common(config: Fields<'_>, names: &'static Names) -> Result<Raw, SpecError> {
    let bool = |name| config.optional::<bool>(name, "true or false");
    let alpha = config.optional_positive("swiglu_alpha")?;
    Ok(Raw {
        names,
        hidden: config.count("hidden_size")?,
        inter: config.count("intermediate_size")?,
        head_dim: config.optional_count("head_dim")?.unwrap_or(DEFAULT_HEAD_DIM),
        q_heads: config.count("num_attention_heads")?,
        kv_heads: config.count("num_key_value_heads")?,
        vocab: config.count("vocab_size")?,
        context: 0,
        layers: layers::read(config, names)?,
        rms_eps: config.optional_positive("rms_norm_eps")?.unwrap_or(DEFAULT_RMS_EPS),
        swiglu_limit: config.optional_positive("swiglu_limit")?.unwrap_or(DEFAULT_SWIGLU_LIMIT),
        swiglu_alpha: alpha.unwrap_or(f64::from(SWIGLU_ALPHA)),
        attention_bias: bool("attention_bias")?.unwrap_or(true),
        tied_embeddings: bool("tie_word_embeddings")?.unwrap_or(false),
        rope: rope::PLAIN,
    })
}

/// One id or several, as transformers writes `eos_token_id`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

/// Every id that ends a turn, ascending. Where no file names any, or one names `<|return|>`, these include the published
/// models' ids, if the vocabulary has them: `config.json` names `<|return|>` alone, and a folder may have no other file,
/// but a model that ends its answers with it ends its calls with `<|call|>`.
pub(super) fn stop_tokens(
    vocab: usize,
    config: Fields<'_>,
    generation: Option<Fields<'_>>,
) -> Result<Vec<u32>, SpecError> {
    const FIELD: &str = "eos_token_id";
    let supported = format!("one token id below the vocabulary size {vocab}, or a list of them");
    let mut ids = BTreeSet::new();
    for fields in [Some(config), generation].into_iter().flatten() {
        let named = match fields.optional::<Ids>(FIELD, &supported)? {
            None => Vec::new(),
            Some(Ids::One(id)) => vec![id],
            Some(Ids::Many(several)) => several,
        };
        if named.iter().any(|&id| id as usize >= vocab) {
            return Err(fields.unsupported(FIELD, &supported));
        }
        ids.extend(named);
    }
    let known = GPT_OSS_STOP_TOKENS.iter().all(|&id| (id as usize) < vocab);
    if known && (ids.is_empty() || ids.contains(&RETURN)) {
        ids.extend(GPT_OSS_STOP_TOKENS);
    }
    Ok(ids.into_iter().collect())
}
