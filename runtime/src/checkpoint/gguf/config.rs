//! The metadata of a GGUF file as the text of a `config.json`, so that one parser decides what a model may be, and the
//! tokenizer as its parts. Keys are those of llama.cpp (`llama-arch.cpp`, `src/models/openai-moe.cpp`).

use serde_json::{Map, Value as Json, json};

use super::header::{self, Kind, Value};
use super::{ARCHITECTURE, Gguf, GgufTokenizer};

type Read<T> = std::result::Result<T, String>;

/// What llama.cpp computes without a key: the clamp of the SwiGLU.
const SWIGLU_LIMIT: f64 = 7.0;
/// Every second layer slides where the file does not say otherwise; the first one does.
const WINDOW_PERIOD: usize = 2;

/// See [`Gguf::config`].
pub(super) fn text(gguf: &Gguf) -> Read<String> {
    let keys = Keys(gguf);
    check_kind(&keys)?;
    let layers = keys.count("block_count")?;
    let heads = keys.count("attention.head_count")?;
    let hidden = keys.count("embedding_length")?;
    let head_dim = match keys.optional_count("attention.key_length")? {
        Some(width) => width,
        None if heads > 0 => hidden / heads,
        None => 0,
    };
    for key in ["attention.value_length", "rope.dimension_count"] {
        if let Some(width) = keys.optional_count(key)?
            && width != head_dim
        {
            return Err(format!(
                "{ARCHITECTURE}.{key} is {width}; expected the width of a head, {head_dim}"
            ));
        }
    }
    let config = json!({
        "model_type": "gpt_oss",
        "architectures": ["GptOssForCausalLM"],
        "hidden_act": "silu",
        "attention_bias": true,
        "tie_word_embeddings": false,
        "quantization_config": { "quant_method": "mxfp4" },
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": keys.count("expert_feed_forward_length")?,
        "head_dim": head_dim,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.count("attention.head_count_kv")?,
        "num_local_experts": keys.count("expert_count")?,
        "num_experts_per_tok": keys.count("expert_used_count")?,
        "vocab_size": vocab(gguf)?,
        "max_position_embeddings": keys.count("context_length")?,
        "sliding_window": keys.count("attention.sliding_window")?,
        "layer_types": layer_types(&keys, layers)?,
        "rms_norm_eps": keys.float("attention.layer_norm_rms_epsilon")?,
        "swiglu_limit": SWIGLU_LIMIT,
        "rope_theta": keys.float("rope.freq_base")?,
        "rope_scaling": rope_scaling(&keys)?,
        "eos_token_id": stop_tokens(&keys)?,
    });
    Ok(config.to_string())
}

/// See [`Gguf::tokenizer`].
pub(super) fn tokenizer(gguf: &Gguf) -> Read<Option<GgufTokenizer<'_>>> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let Some(list) = gguf.value(TOKENS) else { return Ok(None) };
    let Value::Array { kind: Kind::Text, .. } = list else {
        return Err(format!("{TOKENS} is not a list of strings"));
    };
    let content = &gguf.files[0].content;
    let tokens = header::elements(content, list).filter_map(|token| match token {
        Value::Text(range) => Some(&content[range]),
        _ => None,
    });
    let text = |key: &str| match gguf.value(key) {
        None => Ok(""),
        Some(value) => {
            gguf.files[0].text(value).ok_or_else(|| format!("{key} is not a string of UTF-8"))
        }
    };
    Ok(Some(GgufTokenizer {
        model: text("tokenizer.ggml.model")?,
        pre: text("tokenizer.ggml.pre")?,
        tokens: tokens.collect(),
    }))
}

/// Refuses files of other models, and files that are no models.
fn check_kind(keys: &Keys<'_>) -> Read<()> {
    let text = |key: &str| keys.0.value(key).and_then(|value| keys.0.files[0].text(value));
    match text("general.type") {
        None | Some("model") => {}
        Some(kind) => {
            return Err(format!("general.type is {kind:?}; expected \"model\""));
        }
    }
    match text("general.architecture") {
        Some(ARCHITECTURE) => Ok(()),
        Some("gptoss") => Err(
            "general.architecture is \"gptoss\", a conversion of Ollama's own with other tensors; use a file that llama.cpp converted (\"gpt-oss\"), or the published safetensors".to_owned(),
        ),
        Some(other) => {
            Err(format!("general.architecture is {other:?}; only \"gpt-oss\" models run here"))
        }
        None => Err("general.architecture is missing".to_owned()),
    }
}

/// Rows of the embedding. `vocab_size` is optional in GGUF, and llama.cpp takes the number of tokens.
fn vocab(gguf: &Gguf) -> Read<usize> {
    const EMBEDDING: &str = "token_embd.weight";
    let (_, info) = gguf
        .find(EMBEDDING)
        .ok_or_else(|| format!("tensor {EMBEDDING}: missing: no model, or only a part of one"))?;
    info.shape.first().copied().ok_or_else(|| format!("tensor {EMBEDDING}: has no axes"))
}

fn layer_types(keys: &Keys<'_>, layers: usize) -> Read<Vec<&'static str>> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    // A hostile count is refused by the parser of the configuration, after this list is made.
    let layers = layers.min(1 << 16);
    let name = |slides| if slides { "sliding_attention" } else { "full_attention" };
    let key = keys.name(PATTERN);
    let period = match keys.0.value(&key) {
        None => WINDOW_PERIOD,
        Some(list @ Value::Array { .. }) => {
            let slides =
                header::elements(&keys.0.files[0].content, list).map(|value| match value {
                    Value::Bool(slides) => Ok(slides),
                    Value::Unsigned(number) => Ok(number != 0),
                    Value::Signed(number) => Ok(number != 0),
                    _ => Err(format!("{key} is not a list of truth values")),
                });
            return slides.take(layers.saturating_add(1)).map(|s| s.map(name)).collect();
        }
        Some(_) => keys.count(PATTERN)?,
    };
    // A period of 1 has no window, as llama.cpp reads it; one of 0 has nothing else.
    let slides = |layer: usize| period == 0 || layer % period + 1 < period;
    Ok((0..layers).map(|layer| name(slides(layer))).collect())
}

fn rope_scaling(keys: &Keys<'_>) -> Read<Json> {
    for (key, standard) in [
        ("rope.scaling.attn_factor", 1.0),
        ("rope.scaling.yarn_attn_factor", 1.0),
        ("rope.scaling.yarn_ext_factor", 1.0),
        ("rope.scaling.yarn_log_multiplier", 0.0),
    ] {
        if let Some(value) = keys.optional_float(key)?
            && value != standard
        {
            return Err(format!(
                "{ARCHITECTURE}.{key} is {value}; only {standard}, its value for gpt-oss, is computed"
            ));
        }
    }
    if let Some(theta) = keys.optional_float("rope.freq_base_swa")?
        && theta != keys.float("rope.freq_base")?
    {
        return Err(format!(
            "{ARCHITECTURE}.rope.freq_base_swa is {theta}; sliding layers have the same base as the others"
        ));
    }
    let kind = keys.optional_text("rope.scaling.type")?.unwrap_or("none");
    if kind == "none" {
        return Ok(Json::Null);
    }
    let original = match keys.optional_count("rope.scaling.original_context_length")? {
        Some(original) => original,
        None => keys.count("context_length")?,
    };
    let mut scaling = Map::new();
    scaling.insert("rope_type".to_owned(), kind.into());
    scaling.insert("factor".to_owned(), keys.float("rope.scaling.factor")?.into());
    scaling.insert("original_max_position_embeddings".to_owned(), original.into());
    // No key holds it, and gpt-oss does not round.
    scaling.insert("truncate".to_owned(), false.into());
    for (key, field) in
        [("rope.scaling.yarn_beta_fast", "beta_fast"), ("rope.scaling.yarn_beta_slow", "beta_slow")]
    {
        if let Some(value) = keys.optional_float(key)? {
            scaling.insert(field.to_owned(), value.into());
        }
    }
    Ok(Json::Object(scaling))
}

/// Token ids that end a turn: the end of a sequence, of a turn and of a message.
fn stop_tokens(keys: &Keys<'_>) -> Read<Vec<u64>> {
    let mut ids = Vec::new();
    for key in [
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id",
    ] {
        match keys.0.value(key) {
            None => {}
            Some(&Value::Unsigned(id)) => ids.push(id),
            Some(_) => return Err(format!("{key} is not a token id")),
        }
    }
    Ok(ids)
}

/// Typed access to the keys of the architecture.
struct Keys<'a>(&'a Gguf);

impl Keys<'_> {
    #[allow(clippy::unused_self, reason = "a call reads as the other accessors do")]
    fn name(&self, key: &str) -> String {
        format!("{ARCHITECTURE}.{key}")
    }

    fn count(&self, key: &str) -> Read<usize> {
        self.optional_count(key)?.ok_or_else(|| format!("{} is missing", self.name(key)))
    }

    fn optional_count(&self, key: &str) -> Read<Option<usize>> {
        let key = self.name(key);
        let number = match self.0.value(&key) {
            None => return Ok(None),
            Some(&Value::Unsigned(number)) => Some(number),
            Some(&Value::Signed(number)) => u64::try_from(number).ok(),
            Some(Value::Array { .. }) => {
                return Err(format!("{key} is a list; one number for all layers is supported"));
            }
            Some(_) => None,
        };
        match number.filter(|&number| number <= u64::from(u32::MAX)) {
            Some(number) => Ok(Some(number as usize)),
            None => Err(format!("{key} is not a whole number below 2^32")),
        }
    }

    fn float(&self, key: &str) -> Read<f64> {
        self.optional_float(key)?.ok_or_else(|| format!("{} is missing", self.name(key)))
    }

    /// The shortest decimal number that is this 32-bit float: what the model's own configuration said.
    fn optional_float(&self, key: &str) -> Read<Option<f64>> {
        let key = self.name(key);
        let number = match self.0.value(&key) {
            None => return Ok(None),
            Some(&Value::F32(number)) => number.to_string().parse().ok(),
            Some(&Value::F64(number)) => Some(number),
            Some(_) => None,
        };
        match number.filter(|number: &f64| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(format!("{key} is not a finite floating-point number")),
        }
    }

    fn optional_text(&self, key: &str) -> Read<Option<&str>> {
        let key = self.name(key);
        let Some(value) = self.0.value(&key) else { return Ok(None) };
        let text = self.0.files[0].text(value);
        text.map(Some).ok_or_else(|| format!("{key} is not a string of UTF-8"))
    }
}
