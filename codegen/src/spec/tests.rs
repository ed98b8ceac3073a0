//! Configurations in, specs or refusals out: one line a case.

use ossmith_plan::{Layer, ModelSpec, Rope};
use serde_json::{Value, json};

use super::parse;

mod refusals;

const YARN: Rope = Rope {
    theta: 150_000.0,
    factor: 32.0,
    beta_fast: 32.0,
    beta_slow: 1.0,
    original_context: 4096,
    truncate: false,
};

fn layer_types(layers: usize) -> Vec<&'static str> {
    ["sliding_attention", "full_attention"].into_iter().cycle().take(layers).collect()
}

/// The shape of gpt-oss-20b as transformers 4 writes it.
fn hugging_face() -> Value {
    json!({
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": true,
        "eos_token_id": 200_002,
        "experts_per_token": 4,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2880,
        "initial_context_length": 4096,
        "intermediate_size": 2880,
        "layer_types": layer_types(24),
        "max_position_embeddings": 131_072,
        "model_type": "gpt_oss",
        "num_attention_heads": 64,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 24,
        "num_key_value_heads": 8,
        "num_local_experts": 32,
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "original_max_position_embeddings": 4096, "truncate": false
        },
        "rope_theta": 150_000,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": false,
        "vocab_size": 201_088
    })
}

/// The same model as its authors wrote it.
fn openai() -> Value {
    json!({
        "num_hidden_layers": 24, "num_experts": 32, "experts_per_token": 4, "vocab_size": 201_088,
        "hidden_size": 2880, "intermediate_size": 2880, "swiglu_limit": 7.0, "head_dim": 64,
        "num_attention_heads": 64, "num_key_value_heads": 8, "sliding_window": 128,
        "initial_context_length": 4096, "rope_theta": 150_000, "rope_scaling_factor": 32.0,
        "rope_ntk_alpha": 1, "rope_ntk_beta": 32
    })
}

/// Sets `path` (`/`-separated); `null` removes, for the parser does not tell the two apart.
fn set(config: &mut Value, path: &str, value: Value) {
    let (parent, field) = path.rsplit_once('/').unwrap_or(("", path));
    let pointer = if parent.is_empty() { String::new() } else { format!("/{parent}") };
    let parent = config.pointer_mut(&pointer).expect("the case names an object that is there");
    parent[field] = value;
}

fn edited(base: fn() -> Value, edits: &[(&str, Value)]) -> String {
    let mut config = base();
    for (path, value) in edits {
        set(&mut config, path, value.clone());
    }
    config.to_string()
}

fn accept(config: &str, generation: Option<&str>) -> ModelSpec {
    parse("case", config, generation).unwrap_or_else(|error| panic!("{error}\n{config}"))
}

/// `transformers` 5 moves the base into the renamed scaling object.
fn transformers_5() -> String {
    let mut config = hugging_face();
    let mut parameters = config["rope_scaling"].take();
    parameters["rope_theta"] = config["rope_theta"].take();
    config["rope_parameters"] = parameters;
    config.to_string()
}

#[test]
fn all_spellings_give_the_same_model() {
    let generation = r#"{"eos_token_id": [200002, 199999, 200012], "pad_token_id": 199999}"#;
    let expected = ModelSpec {
        name: "case",
        hidden: 2880,
        inter: 2880,
        head_dim: 64,
        q_heads: 64,
        kv_heads: 8,
        vocab: 201_088,
        context: 131_072,
        layers: &[Layer::sliding(128, 32, 4), Layer::full(32, 4)].repeat(12).leak()[..],
        rms_eps: 1e-5,
        swiglu_limit: 7.0,
        swiglu_alpha: 1.702,
        attention_bias: true,
        tied_embeddings: false,
        rope: YARN,
        stop_tokens: &[199_999, 200_002, 200_012],
        max_new_tokens: None,
    };
    assert_eq!(accept(&hugging_face().to_string(), Some(generation)), expected);
    assert_eq!(accept(&transformers_5(), Some(generation)), expected);
    assert_eq!(accept(&openai().to_string(), None), expected);
    // What transformers would assume for fields that the file leaves out.
    let left_out = [
        "layer_types",
        "hidden_act",
        "attention_bias",
        "tie_word_embeddings",
        "swiglu_limit",
        "head_dim",
        "rope_theta",
        "rms_norm_eps",
        "max_position_embeddings",
        "quantization_config",
    ];
    let edits = left_out.map(|field| (field, Value::Null));
    assert_eq!(accept(&edited(hugging_face, &edits), Some(generation)), expected);
    let limited = r#"{"max_new_tokens": 77}"#;
    let expected_limited = ModelSpec { max_new_tokens: Some(77), ..expected };
    assert_eq!(accept(&hugging_face().to_string(), Some(limited)), expected_limited);
    let unknown = edited(hugging_face, &[("use_cache", json!(true)), ("new_field", json!([1]))]);
    assert_eq!(accept(&unknown, Some(generation)), expected);
}

/// A configuration with some fields set, and how the spec then differs from that without.
type Variant = (&'static [(&'static str, &'static str)], fn(ModelSpec) -> ModelSpec);

#[test]
fn every_field_of_transformers_is_read() {
    const FULL: &[Layer] = &[Layer::full(32, 4); 24];
    const FOUR: &[Layer] = &[Layer::sliding(128, 4, 4), Layer::full(4, 4)];
    let cases: &[Variant] = &[
        (&[("swiglu_alpha", "1.5")], |spec| ModelSpec { swiglu_alpha: 1.5, ..spec }),
        (&[("swiglu_limit", "5")], |spec| ModelSpec { swiglu_limit: 5.0, ..spec }),
        (&[("attention_bias", "false")], |spec| ModelSpec { attention_bias: false, ..spec }),
        (&[("tie_word_embeddings", "true")], |spec| ModelSpec { tied_embeddings: true, ..spec }),
        (&[("sliding_window", "null")], |spec| ModelSpec { layers: FULL, ..spec }),
        // transformers 5.24 takes the second name for the first, and lets it win.
        (&[("num_experts", "4")], |spec| ModelSpec { layers: FOUR.repeat(12).leak(), ..spec }),
        (&[("num_experts", "32"), ("num_local_experts", "128")], |spec| spec),
        (&[("bos_token_id", "199998"), ("pad_token_id", "[199999]")], |spec| spec),
        (&[("pruned_experts", "[[1, 2]]"), ("router_aux_loss_coef", "0.5")], |spec| spec),
        (&[("quantization_config", "null"), ("torch_dtype", "\"bfloat16\"")], |spec| spec),
        (
            &[("quantization_config", r#"{"quant_method": "bitsandbytes", "load_in_4bit": true}"#)],
            |spec| spec,
        ),
        (
            &[
                ("model_type", "\"gpt_oss_puzzle\""),
                ("architectures", "[\"GptOssPuzzleForCausalLM\"]"),
            ],
            |spec| spec,
        ),
    ];
    let plain = accept(&hugging_face().to_string(), None);
    for (edits, expected) in cases {
        let mut config = hugging_face();
        for (field, value) in *edits {
            config[field] = serde_json::from_str(value).expect("JSON");
        }
        assert_eq!(accept(&config.to_string(), None), expected(plain), "{edits:?}");
    }
    // `sliding_window` left out is the default's, and not none.
    let mut config = hugging_face();
    config.as_object_mut().expect("an object").remove("sliding_window");
    assert_eq!(accept(&config.to_string(), None), plain);
}

#[test]
fn layers_may_differ() {
    let mut config = hugging_face();
    config["num_hidden_layers"] = json!(4);
    config["layer_types"] = json!(layer_types(4));
    config["block_configs"] = json!([
        {"num_local_experts": 128, "sliding_window": 128},
        {"num_local_experts": 64, "sliding_window": null},
        {"num_local_experts": 64, "sliding_window": 8192, "num_experts_per_tok": 2, "hidden_size": 2880},
        {},
    ]);
    let expected = [
        Layer::sliding(128, 128, 4),
        Layer::full(64, 4),
        Layer::sliding(8192, 64, 2),
        Layer::full(32, 4),
    ];
    assert_eq!(accept(&config.to_string(), None).layers, expected);
}

/// The refused values beside these are in `refusals.rs`.
#[test]
fn values_at_their_limits_are_accepted() {
    let spec = |edits: &[(&str, Value)]| accept(&edited(hugging_face, edits), None);
    let eight = [("num_experts_per_tok", json!(8)), ("experts_per_token", Value::Null)];
    assert!(spec(&eight).layers.iter().all(|layer| layer.top_k == 8));
    let all = [("num_local_experts", json!(4))];
    assert!(spec(&all).layers.iter().all(|layer| (layer.experts, layer.top_k) == (4, 4)));
    let one = [("num_experts_per_tok", json!(1)), ("experts_per_token", Value::Null)];
    assert!(spec(&one).layers.iter().all(|layer| layer.top_k == 1));
    assert_eq!(spec(&[("sliding_window", json!(1))]).max_window(), 1);
    assert_eq!(spec(&[("sliding_window", json!(1 << 24))]).max_window(), 1 << 24);
    assert_eq!(spec(&[("max_position_embeddings", json!(1 << 24))]).context, 1 << 24);
    let full = [("layer_types", json!(vec!["full_attention"; 24]))];
    assert_eq!(spec(&full).max_window(), 1, "a position's own key");
    assert_eq!(spec(&[("rope_scaling/factor", json!(1))]).rope.factor, 1.0);
    assert_eq!(spec(&[("hidden_size", json!(32))]).hidden, 32);
    assert_eq!(spec(&[("eos_token_id", json!(201_087))]).stop_tokens, [201_087]);
    // 1,491,308 times 2,880 elements are just below what an index holds.
    assert_eq!(spec(&[("vocab_size", json!(1_491_308))]).vocab, 1_491_308);
}

#[test]
fn stop_tokens_are_the_union_of_both_files() {
    let harmony = &[199_999, 200_002, 200_012];
    let cases: [(Value, Option<&str>, &[u32]); 9] = [
        (json!(7), None, &[7]),
        (json!([7, 3, 7]), None, &[3, 7]),
        (json!(7), Some(r#"{"eos_token_id": 5}"#), &[5, 7]),
        (json!(7), Some(r#"{"eos_token_id": [9, 7]}"#), &[7, 9]),
        (json!(7), Some("{}"), &[7]),
        (Value::Null, Some(r#"{"eos_token_id": [9]}"#), &[9]),
        (Value::Null, None, harmony),
        (json!(200_002), None, harmony),
        (json!(200_002), Some(r#"{"eos_token_id": 9}"#), &[9, 199_999, 200_002, 200_012]),
    ];
    for (eos, generation, expected) in cases {
        let config = edited(hugging_face, &[("eos_token_id", eos)]);
        assert_eq!(accept(&config, generation).stop_tokens, expected, "{config} {generation:?}");
    }
    let no_call = [("vocab_size", json!(200_012)), ("eos_token_id", json!(200_002))];
    assert_eq!(accept(&edited(openai, &no_call[..1]), None).stop_tokens, [0_u32; 0]);
    assert_eq!(accept(&edited(hugging_face, &no_call), None).stop_tokens, [200_002]);
}

#[test]
fn rope_variants() {
    let plain = Rope { factor: 1.0, ..YARN };
    let cases = [
        (vec![("rope_scaling", Value::Null)], YARN),
        (vec![("rope_scaling", json!({"rope_type": "default"}))], plain),
        (vec![("rope_scaling/rope_type", Value::Null), ("rope_scaling/type", json!("yarn"))], YARN),
        (vec![("rope_scaling/truncate", Value::Null)], Rope { truncate: true, ..YARN }),
        (vec![("rope_scaling/original_max_position_embeddings", Value::Null)], YARN),
        (vec![("initial_context_length", Value::Null)], YARN),
        (vec![("rope_scaling/attention_factor", json!(1.346_573_6))], YARN),
        (vec![("rope_scaling/beta_fast", json!(16))], Rope { beta_fast: 16.0, ..YARN }),
    ];
    for (edits, expected) in cases {
        let spec = accept(&edited(hugging_face, &edits), None);
        assert_eq!(spec.rope, expected, "{edits:?}");
    }
    let spec = accept(&edited(openai, &[("rope_ntk_alpha", json!(2))]), None);
    assert_eq!(spec.rope, Rope { beta_slow: 2.0, ..YARN }, "alpha is the slow end");
}
