//! What has to hold for any input; shared by the fuzz targets and by the test that replays their corpus.

use std::sync::{Arc, LazyLock};

use ossmith::{Adapter, Checkpoint, ExpertStorage, Gguf};
use ossmith_plan::{Model, Weight};

/// The model of `corpus/gguf/whole`.
const CONFIG: &str = r#"{
    "model_type": "gpt_oss", "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "head_dim": 32,
    "num_attention_heads": 1, "num_key_value_heads": 1, "num_local_experts": 2, "num_experts_per_tok": 1, "vocab_size": 8,
    "max_position_embeddings": 131072, "sliding_window": 128, "rms_norm_eps": 1e-5, "rope_theta": 150000.0,
    "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": false},
    "eos_token_id": 2, "quantization_config": {"quant_method": "mxfp4"}
}"#;

static MODEL: LazyLock<&'static Model> = LazyLock::new(|| {
    let spec = ossmith_codegen::spec::parse("fuzz", CONFIG, None).expect("a small model");
    ossmith_codegen::compile(spec).expect("a small model")
});

/// Any bytes as a GGUF file: an error or a file whose metadata, tokenizer and tensors can be read, and whose weights, if it
/// has the small model's, can be made or are refused. Returns whether it has the model's weights.
pub(crate) fn gguf(data: &[u8]) -> bool {
    let Ok(gguf) = Gguf::from_bytes("fuzz.gguf", data.to_vec()) else { return false };
    if let Ok(config) = gguf.config() {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(&config);
        assert!(parsed.is_ok(), "{config}");
    }
    if let Ok(Some(tokenizer)) = gguf.tokenizer() {
        assert!(tokenizer.tokens.len() <= data.len());
    }
    let names: Vec<String> = gguf.tensor_names().map(str::to_owned).collect();
    for name in names {
        if let Some(values) = gguf.values(&name) {
            // No type takes less than two bits.
            assert!(values.len() <= 4 * data.len(), "{name}");
        }
    }
    let Ok(checkpoint) = Checkpoint::from_gguf(gguf, *MODEL) else { return false };
    Weight::ALL.into_iter().all(|weight| checkpoint.tensor(weight, 0).is_ok())
}

/// Any bytes as an adapter: two bytes with the length of its configuration, the configuration, and its weights. It is refused,
/// or can be added to the small model's weights. Returns whether it is an adapter.
pub(crate) fn adapter(data: &[u8]) -> bool {
    let Some((length, rest)) = data.split_first_chunk() else { return false };
    let Some((config, weights)) = rest.split_at_checked(u16::from_le_bytes(*length).into()) else {
        return false;
    };
    let spec = &MODEL.spec;
    let Ok(adapter) = Adapter::from_bytes("fuzz", config, weights.to_vec(), spec) else {
        return false;
    };
    // A matrix takes 32 bits in memory, and 16 in the file at least.
    assert!(adapter.bytes() <= 2 * weights.len());
    let checkpoint = Checkpoint::synthetic(*MODEL, 1);
    let merged = checkpoint.with_adapters(*MODEL, vec![Arc::new(adapter)], ExpertStorage::Mxfp4);
    let merged = merged.expect("an adapter for the model");
    for weight in Weight::ALL {
        // Large factors may leave the range of bf16, which is an error.
        let _ = merged.tensor(weight, 0);
    }
    true
}
