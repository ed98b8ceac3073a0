//! The small files of a published checkpoint: configurations and tokenizer, taken from where the weights come from, or
//! written from what is known of the model.

use std::fs;
use std::path::Path;

use anyhow::Context;
use ossmith::{Gguf, ModelSpec};
use ossmith_harmony::{
    CHAT_TEMPLATE, MODEL_MAX_LENGTH, special_tokens_map, tokenizer_config, write_tokenizer_json,
};
use ossmith_models::codegen::spec;
use ossmith_plan::{Layer, SWIGLU_ALPHA};
use serde_json::{Map, Value, json};

use crate::model::ModelArgs;
use crate::output::note;

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";

/// Files that are copied as they are, where there are any.
const COPIED: [&str; 10] = [
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "LICENSE",
    "NOTICE",
    "USAGE_POLICY",
];

/// Rows of the published models' embedding, whose tokenizer is the one that is built in.
const PUBLISHED_VOCAB: usize = 201_088;

/// `<|startoftext|>` and `<|endoftext|>`.
const BEGIN: u32 = 199_998;
const PAD: u32 = 199_999;

/// The files beside the weights of `model`: names and contents.
pub(crate) fn files(
    model: &ModelArgs,
    model_spec: &ModelSpec,
) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let folder = model.configured_folder()?;
    let (config, generation) = configurations(model, folder.as_deref(), model_spec)?;
    let same = spec::parse(model_spec.name, &config, Some(&generation))?;
    anyhow::ensure!(
        same == *model_spec,
        "the configuration that would be written describes another model, which is a bug: {same:?} is not {model_spec:?}"
    );
    let mut files =
        vec![(CONFIG.to_owned(), config.into()), (GENERATION.to_owned(), generation.into())];
    if let Some(folder) = &folder {
        for name in COPIED {
            let path = folder.join(name);
            if path.is_file() {
                let content =
                    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                files.push((name.to_owned(), content));
            }
        }
    }
    if files.iter().all(|(name, _)| name != TOKENIZER) {
        if model_spec.vocab == PUBLISHED_VOCAB {
            add_tokenizer(&mut files)?;
        } else {
            note!(
                "no tokenizer is written: the source has none, and the published one is for {PUBLISHED_VOCAB} tokens, not {}",
                model_spec.vocab
            );
        }
    }
    Ok(files)
}

/// The tokenizer that is built in.
fn add_tokenizer(files: &mut Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
    let mut tokenizer = Vec::new();
    write_tokenizer_json(&mut tokenizer).context("cannot write the tokenizer")?;
    let lines = |value: Value| format!("{value:#}\n").into_bytes();
    for (name, content) in [
        (TOKENIZER, tokenizer),
        ("tokenizer_config.json", lines(tokenizer_config(MODEL_MAX_LENGTH))),
        ("special_tokens_map.json", lines(special_tokens_map())),
        ("chat_template.jinja", CHAT_TEMPLATE.as_bytes().to_vec()),
    ] {
        if files.iter().all(|(known, _)| known != name) {
            files.push((name.to_owned(), content));
        }
    }
    Ok(())
}

/// `config.json` and `generation_config.json`.
fn configurations(
    model: &ModelArgs,
    folder: Option<&Path>,
    spec: &ModelSpec,
) -> anyhow::Result<(String, String)> {
    let read = |name: &str| -> anyhow::Result<Option<String>> {
        let path = match folder {
            Some(folder) => folder.join(name),
            None => return Ok(None),
        };
        let text = path.is_file().then(|| fs::read_to_string(&path)).transpose();
        text.with_context(|| format!("cannot read {}", path.display()))
    };
    let text = match (read(CONFIG)?, model.gguf_file()?) {
        (Some(text), _) => Some(text),
        (None, Some(file)) => Some(Gguf::open(&file)?.config()?),
        (None, None) => None,
    };
    let found = match text {
        Some(text) => serde_json::from_str(&text).context("the configuration is not JSON")?,
        None => Map::new(),
    };
    let config = match found.contains_key("model_type") {
        true => quantised(found),
        false => of_spec(spec),
    };
    let generation = read(GENERATION)?.unwrap_or_else(|| format!("{:#}\n", generation(spec)));
    Ok((format!("{:#}\n", Value::Object(config)), generation))
}

/// A configuration whose weights are now stored as the published ones are.
fn quantised(mut config: Map<String, Value>) -> Map<String, Value> {
    config.insert("quantization_config".to_owned(), quantization());
    config.entry("architectures").or_insert_with(|| json!(["GptOssForCausalLM"]));
    for name in ["dtype", "torch_dtype"] {
        if let Some(kind) = config.get_mut(name) {
            *kind = "bfloat16".into();
        }
    }
    config
}

fn quantization() -> Value {
    json!({
        "quant_method": "mxfp4",
        "modules_to_not_convert":
            ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
    })
}

/// The shortest decimal that is this float.
fn decimal(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// The configuration of a model that comes without one in Hugging Face's form.
fn of_spec(spec: &ModelSpec) -> Map<String, Value> {
    let window = spec.layers.iter().find_map(|layer| layer.window);
    let kind = |layer: &Layer| match layer.window {
        Some(_) => "sliding_attention",
        None => "full_attention",
    };
    let [experts, top_k] = [spec.max_experts(), spec.max_top_k()];
    let rope = &spec.rope;
    let scaling = match rope.factor > 1.0 {
        true => json!({
            "rope_type": "yarn",
            "factor": rope.factor,
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
            "original_max_position_embeddings": rope.original_context,
            "truncate": rope.truncate,
        }),
        // Without an object transformers takes the published models' scaling.
        false => json!({ "rope_type": "default" }),
    };
    let mut config = json!({
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": spec.attention_bias,
        "attention_dropout": 0.0,
        "dtype": "bfloat16",
        "eos_token_id": spec.stop_tokens,
        "experts_per_token": top_k,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "hidden_size": spec.hidden,
        "initial_context_length": rope.original_context,
        "intermediate_size": spec.inter,
        "layer_types": spec.layers.iter().map(kind).collect::<Vec<_>>(),
        "max_position_embeddings": spec.context,
        "model_type": "gpt_oss",
        "num_attention_heads": spec.q_heads,
        "num_experts_per_tok": top_k,
        "num_hidden_layers": spec.layers.len(),
        "num_key_value_heads": spec.kv_heads,
        "num_local_experts": experts,
        "quantization_config": quantization(),
        "rms_norm_eps": decimal(spec.rms_eps),
        "rope_scaling": scaling,
        "rope_theta": rope.theta,
        "sliding_window": window,
        "swiglu_limit": decimal(spec.swiglu_limit),
        "tie_word_embeddings": spec.tied_embeddings,
        "vocab_size": spec.vocab,
    });
    if spec.swiglu_alpha != SWIGLU_ALPHA {
        config["swiglu_alpha"] = decimal(spec.swiglu_alpha);
    }
    let all = |layer: &Layer| {
        let same = layer.window.is_none() || layer.window == window;
        same && layer.experts == experts && layer.top_k == top_k
    };
    if !spec.layers.iter().all(all) {
        let block = |layer: &Layer| {
            json!({
                "num_local_experts": layer.experts,
                "num_experts_per_tok": layer.top_k,
                "sliding_window": layer.window,
            })
        };
        config["block_configs"] = spec.layers.iter().map(block).collect();
    }
    match config {
        Value::Object(config) => config,
        _ => Map::new(),
    }
}

fn generation(spec: &ModelSpec) -> Value {
    let mut config = json!({"do_sample": true, "eos_token_id": spec.stop_tokens});
    if spec.vocab > PAD as usize {
        config["bos_token_id"] = BEGIN.into();
        config["pad_token_id"] = PAD.into();
    }
    if let Some(limit) = spec.max_new_tokens {
        config["max_new_tokens"] = limit.into();
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_what_its_written_configuration_says() {
        for model in ossmith_models::ALL {
            let (spec, uneven) = (model.spec, [Layer::sliding(16, 4, 2), Layer::full(8, 1)]);
            let odd = ModelSpec {
                layers: uneven.to_vec().leak(),
                swiglu_alpha: 0.9,
                attention_bias: false,
                tied_embeddings: true,
                rope: ossmith_plan::Rope {
                    factor: 1.0,
                    original_context: spec.context,
                    ..spec.rope
                },
                max_new_tokens: Some(77),
                ..spec
            };
            for spec in [spec, odd] {
                let config = Value::Object(of_spec(&spec)).to_string();
                let generation = generation(&spec).to_string();
                let read = spec::parse(spec.name, &config, Some(&generation)).expect("a model");
                let rope = ossmith_plan::Rope { truncate: read.rope.truncate, ..spec.rope };
                let expected = match spec.rope.factor > 1.0 {
                    true => spec,
                    // Without a scaling nothing else of it is used.
                    false => ModelSpec {
                        rope: ossmith_plan::Rope {
                            beta_fast: read.rope.beta_fast,
                            beta_slow: read.rope.beta_slow,
                            ..rope
                        },
                        ..spec
                    },
                };
                assert_eq!(read, expected, "{config}");
            }
        }
    }
}
