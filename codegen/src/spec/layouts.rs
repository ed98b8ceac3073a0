//! The two layouts of `config.json`, read into one [`Raw`].
//!
//! Hugging Face's is written by transformers (`model_type` "gpt_oss"); OpenAI's comes with the original
//! checkpoint, is shorter, and leaves out what never varies. Limits are checked later, in [`super::supported`].

use std::collections::BTreeSet;

use ossmith_plan::LayerKind;
use serde::Deserialize;

use super::SpecError;
use super::fields::Fields;
use super::raw::{HUGGING_FACE, Names, OPENAI, Raw};
use super::rope;
use super::supported::MAX_LAYERS;

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
    const MODEL_TYPE: &str = "\"gpt_oss\"";
    if config.required::<&str>("model_type", MODEL_TYPE)? != "gpt_oss" {
        return Err(config.unsupported("model_type", MODEL_TYPE));
    }
    config.only("architectures", vec!["GptOssForCausalLM"])?;
    config.only("hidden_act", "silu")?;
    config.only("attention_bias", true)?;
    config.only("tie_word_embeddings", false)?;
    let quantization =
        "an object with quant_method \"mxfp4\" (de-quantised checkpoints are not read)";
    match config.object("quantization_config", "quantization_config.")? {
        None => return Err(config.missing("quantization_config", quantization)),
        Some(fields) if !fields.has("quant_method") => {
            return Err(fields.missing("quant_method", "\"mxfp4\""));
        }
        Some(fields) => fields.only("quant_method", "mxfp4")?,
    }
    let context = config.count(HUGGING_FACE.context)?;
    Ok(Raw {
        context,
        top_k: hugging_face_top_k(config)?,
        layer_kinds: layer_kinds(config)?,
        rms_eps: config.positive("rms_norm_eps")?,
        rope: rope::read_hugging_face(config)?,
        ..common(config, &HUGGING_FACE)?
    })
}

fn read_openai(config: Fields<'_>) -> Result<Raw, SpecError> {
    let rope = rope::read_openai(config)?;
    // The config names no context: it is what the scaling extends the original one to.
    let context = (rope.original_context as f64 * rope.factor) as usize;
    Ok(Raw {
        context,
        top_k: config.count(OPENAI.top_k)?,
        layer_kinds: layer_kinds(config)?,
        rope,
        ..common(config, &OPENAI)?
    })
}

/// What both layouts spell alike; the rest is left at a value that both callers replace.
fn common(config: Fields<'_>, names: &'static Names) -> Result<Raw, SpecError> {
    Ok(Raw {
        names,
        hidden: config.count("hidden_size")?,
        inter: config.count("intermediate_size")?,
        head_dim: config.count("head_dim")?,
        q_heads: config.count("num_attention_heads")?,
        kv_heads: config.count("num_key_value_heads")?,
        experts: config.count(names.experts)?,
        top_k: 0,
        vocab: config.count("vocab_size")?,
        window: config.count("sliding_window")?,
        context: 0,
        layer_kinds: Vec::new(),
        rms_eps: config.optional_positive("rms_norm_eps")?.unwrap_or(DEFAULT_RMS_EPS),
        swiglu_limit: config.optional_positive("swiglu_limit")?.unwrap_or(DEFAULT_SWIGLU_LIMIT),
        rope: rope::PLAIN,
    })
}

/// transformers writes the number of chosen experts twice.
fn hugging_face_top_k(config: Fields<'_>) -> Result<usize, SpecError> {
    let (main, other) = (HUGGING_FACE.top_k, OPENAI.top_k);
    match (config.optional_count(main)?, config.optional_count(other)?) {
        (Some(main_k), Some(other_k)) if main_k != other_k => {
            Err(config.unsupported(other, &format!("the same as `{main}`, which is {main_k}")))
        }
        (Some(top_k), _) | (None, Some(top_k)) => Ok(top_k),
        (None, None) => config.count(main),
    }
}

fn layer_kinds(config: Fields<'_>) -> Result<Vec<LayerKind>, SpecError> {
    const KINDS: &str = "a list of \"sliding_attention\" and \"full_attention\"";
    let count = config.count("num_hidden_layers")?;
    if count > MAX_LAYERS {
        let supported = format!("at most {MAX_LAYERS} layers");
        return Err(config.unsupported("num_hidden_layers", &supported));
    }
    let Some(names) = config.optional::<Vec<&str>>("layer_types", KINDS)? else {
        let kind = |layer| if layer % 2 == 0 { LayerKind::Sliding } else { LayerKind::Full };
        return Ok((0..count).map(kind).collect());
    };
    if names.len() != count {
        let supported = format!("{count} entries, as `num_hidden_layers` says");
        return Err(config.refuse("layer_types", &format!("{} entries", names.len()), &supported));
    }
    let kind = |(layer, name): (usize, &&str)| match *name {
        "sliding_attention" => Ok(LayerKind::Sliding),
        "full_attention" => Ok(LayerKind::Full),
        other => {
            let (field, found) = (format!("layer_types[{layer}]"), format!("{other:?}"));
            Err(config.refuse(&field, &found, "\"sliding_attention\" or \"full_attention\""))
        }
    };
    names.iter().enumerate().map(kind).collect()
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
