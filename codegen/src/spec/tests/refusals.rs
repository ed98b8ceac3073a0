//! What is refused, and what the refusal says.

use serde_json::{Value, json};

use super::super::parse;
use super::{edited, hugging_face, openai};

/// Every edit of a good configuration, with what the refusal must say: field, value, what is supported.
/// Fields that are set, and what the error must name: field, value found, what is supported.
type Refusal<'a> = (&'a [(&'a str, Value)], [&'a str; 3]);

#[test]
fn bad_values_are_refused_by_name() {
    let hf: &[Refusal<'_>] = &[
        (&[("model_type", json!("llama"))], ["`model_type`", "\"llama\"", "gpt_oss"]),
        (&[("model_type", Value::Null)], ["`model_type`", "missing", "gpt_oss"]),
        (
            &[("architectures", json!(["LlamaForCausalLM"]))],
            ["`architectures`", "LlamaFor", "GptOss"],
        ),
        (&[("hidden_act", json!("gelu"))], ["`hidden_act`", "\"gelu\"", "\"silu\""]),
        (&[("quantization_config", json!("mxfp4"))], ["`quantization_config`", "mxfp4", "object"]),
        (
            &[("quantization_config/quant_method", json!("gptq"))],
            ["`quantization_config.quant_method`", "\"gptq\"", "mxfp4"],
        ),
        (
            &[("quantization_config/quant_method", Value::Null)],
            ["`quantization_config.quant_method`", "missing", "mxfp4"],
        ),
        (
            &[(
                "quantization_config",
                json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}),
            )],
            ["`quantization_config.format`", "pack-quantized", "float-quantized"],
        ),
        (
            &[(
                "quantization_config",
                json!({"quant_method": "bitsandbytes", "load_in_8bit": true}),
            )],
            ["`quantization_config.load_in_8bit`", "true", "nf4"],
        ),
        (
            &[(
                "quantization_config",
                json!({"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "fp4"}),
            )],
            ["`quantization_config.bnb_4bit_quant_type`", "fp4", "nf4"],
        ),
        (&[("attention_bias", json!(1))], ["`attention_bias`", "is 1", "true or false"]),
        (&[("tie_word_embeddings", json!("no"))], ["`tie_word_embeddings`", "no", "true or false"]),
        (&[("swiglu_alpha", json!(0))], ["`swiglu_alpha`", "is 0", "above 0"]),
        (&[("swiglu_alpha", json!("x"))], ["`swiglu_alpha`", "\"x\"", "above 0"]),
        (&[("num_experts", json!(3))], ["`num_experts_per_tok`", "is 4", "1 to 3"]),
        (&[("block_configs", json!([{}]))], ["`block_configs`", "1 entries", "24 entries"]),
        (&[("block_configs", json!({}))], ["`block_configs`", "{}", "list"]),
        (
            &[
                ("block_configs", json!([1])),
                ("num_hidden_layers", json!(1)),
                ("layer_types", Value::Null),
            ],
            ["`block_configs[0]`", "is 1", "object"],
        ),
        (
            &[
                ("block_configs", json!([{}, {"intermediate_size": 1440}])),
                ("num_hidden_layers", json!(2)),
                ("layer_types", Value::Null),
            ],
            ["`block_configs[1].intermediate_size`", "1440", "sliding_window"],
        ),
        (
            &[
                ("block_configs", json!([{"num_local_experts": 2, "num_experts_per_tok": 3}])),
                ("num_hidden_layers", json!(1)),
                ("layer_types", Value::Null),
            ],
            ["`block_configs[0].num_experts_per_tok`", "is 3", "1 to 2"],
        ),
        (&[("hidden_size", json!(2881))], ["`hidden_size`", "2881", "multiple of 32"]),
        (&[("intermediate_size", json!(100))], ["`intermediate_size`", "100", "multiple of 32"]),
        (&[("head_dim", json!(96))], ["`head_dim`", "96", "32, 64 or 128"]),
        (
            &[("num_attention_heads", json!(63))],
            ["`num_attention_heads`", "63", "multiple of `num_key_value_heads`"],
        ),
        (&[("num_key_value_heads", json!(4))], ["`num_attention_heads`", "64", "CUDA attention"]),
        (&[("num_experts_per_tok", json!(0))], ["`num_experts_per_tok`", "is 0", "from 1"]),
        (&[("num_local_experts", json!(3))], ["`num_experts_per_tok`", "is 4", "1 to 3"]),
        (
            &[("num_experts_per_tok", json!(9)), ("experts_per_token", Value::Null)],
            ["`num_experts_per_tok`", "is 9", "at most 8"],
        ),
        (
            &[("experts_per_token", json!(9)), ("num_experts_per_tok", Value::Null)],
            ["`experts_per_token`", "is 9", "at most 8"],
        ),
        (
            &[("experts_per_token", json!(2))],
            ["`experts_per_token`", "is 2", "`num_experts_per_tok`"],
        ),
        (
            &[("experts_per_token", Value::Null), ("num_experts_per_tok", Value::Null)],
            ["`num_experts_per_tok`", "missing", "whole number"],
        ),
        (&[("num_hidden_layers", json!(-1))], ["`num_hidden_layers`", "-1", "whole number"]),
        (
            &[("num_hidden_layers", json!(4_000_000_000_u32))],
            ["`num_hidden_layers`", "4000000000", "1024"],
        ),
        (
            &[("layer_types", json!(["full_attention"]))],
            ["`layer_types`", "1 entries", "24 entries"],
        ),
        (
            &[
                ("layer_types", json!(["sliding_attention", "linear"])),
                ("num_hidden_layers", json!(2)),
            ],
            ["`layer_types[1]`", "\"linear\"", "full_attention"],
        ),
        (&[("layer_types", json!([1]))], ["`layer_types`", "[1]", "list of"]),
        (&[("sliding_window", json!(0))], ["`sliding_window`", "is 0", "from 1"]),
        (&[("rope_theta", json!(-3))], ["`rope_theta`", "-3", "above 0"]),
        (&[("sliding_window", json!(1 << 25))], ["`sliding_window`", "33554432", "16777216"]),
        (
            &[("max_position_embeddings", json!(1 << 25))],
            ["`max_position_embeddings`", "33554432", "16777216"],
        ),
        (&[("vocab_size", json!("201088"))], ["`vocab_size`", "\"201088\"", "whole number"]),
        (&[("vocab_size", json!(64.5))], ["`vocab_size`", "64.5", "whole number"]),
        (
            &[("vocab_size", json!(4_294_967_295_u32))],
            ["`vocab_size x hidden_size`", "12369505809600", "elements"],
        ),
        (
            &[("vocab_size", json!(1_491_309))],
            ["`vocab_size x hidden_size`", "4294969920", "4294967295"],
        ),
        (
            &[("hidden_size", json!(1 << 20))],
            ["vocab_size x hidden_size", "210856050688", "4294967295"],
        ),
        (&[("intermediate_size", json!(1_u32 << 31))], ["experts x 2", "elements", "4294967295"]),
        (&[("vocab_size", json!(4_294_967_296_u64))], ["`vocab_size`", "4294967296", "4294967295"]),
        (&[("rms_norm_eps", json!(0))], ["`rms_norm_eps`", "is 0", "above 0"]),
        (&[("rms_norm_eps", json!(1e5))], ["`rms_norm_eps`", "100000", "below 1"]),
        (&[("swiglu_limit", json!(-7))], ["`swiglu_limit`", "-7", "above 0"]),
        (&[("swiglu_limit", json!(1e300))], ["`swiglu_limit`", "1e+300", "32-bit"]),
        (&[("rope_theta", json!(0.5))], ["`rope_theta`", "0.5", "above 1"]),
        (&[("rope_scaling", json!(32))], ["`rope_scaling`", "32", "object"]),
        (
            &[("rope_scaling/rope_type", json!("llama3"))],
            ["`rope_scaling.rope_type`", "llama3", "yarn"],
        ),
        (
            &[("rope_scaling/rope_type", Value::Null)],
            ["`rope_scaling.rope_type`", "missing", "yarn"],
        ),
        (&[("rope_scaling/factor", Value::Null)], ["`rope_scaling.factor`", "missing", "above 0"]),
        (&[("rope_scaling/factor", json!(0.5))], ["`rope_scaling.factor`", "0.5", "at least 1"]),
        (&[("rope_scaling/factor", json!(1e6))], ["`rope_scaling.factor`", "1000000", "16777216"]),
        (
            &[("rope_scaling/beta_fast", json!(1))],
            ["`rope_scaling.beta_fast`", "is 1", "slow end's 1"],
        ),
        (
            &[("rope_scaling/truncate", json!("no"))],
            ["`rope_scaling.truncate`", "\"no\"", "true or false"],
        ),
        (&[("rope_scaling/mscale", json!(1))], ["`rope_scaling.mscale`", "is 1", "ln(factor)"]),
        (
            &[("rope_scaling/attention_factor", json!(1.5))],
            ["`rope_scaling.attention_factor`", "1.5", "1.3465"],
        ),
        (
            &[("rope_scaling/original_max_position_embeddings", json!(8192))],
            ["`initial_context_length`", "4096", "8192"],
        ),
        (
            &[("rope_parameters", json!({"rope_type": "default", "rope_theta": 150_000}))],
            ["`rope_scaling`", "yarn", "`rope_parameters`"],
        ),
        (
            &[("rope_scaling", Value::Null), ("rope_parameters", json!({"rope_theta": 1e4}))],
            ["`rope_theta`", "150000", "10000"],
        ),
        (
            &[("rope_scaling", Value::Null), ("rope_parameters", json!({"full_attention": {}}))],
            ["`rope_parameters.full_attention`", "{}", "all layers"],
        ),
        (&[("eos_token_id", json!(201_088))], ["`eos_token_id`", "201088", "below the vocabulary"]),
        (&[("eos_token_id", json!("end"))], ["`eos_token_id`", "\"end\"", "token id"]),
        (&[("eos_token_id", json!([1, -1]))], ["`eos_token_id`", "[1,-1]", "token id"]),
    ];
    let oa: &[Refusal<'_>] = &[
        (&[("num_experts", Value::Null)], ["`num_experts`", "missing", "whole number"]),
        (&[("experts_per_token", json!(33))], ["`experts_per_token`", "33", "1 to 32"]),
        (&[("rope_ntk_alpha", json!(40))], ["`rope_ntk_beta`", "32", "40"]),
        (&[("rope_ntk_beta", Value::Null)], ["`rope_ntk_beta`", "missing", "above 0"]),
        (&[("rope_scaling_factor", json!(0))], ["`rope_scaling_factor`", "is 0", "above 0"]),
        (&[("rope_scaling_factor", json!(1e5))], ["`rope_scaling_factor`", "100000", "16777216"]),
        (
            &[("initial_context_length", json!(1 << 25))],
            ["`initial_context_length`", "33554432", "16777216"],
        ),
    ];
    let hf = hf.iter().map(|case| (hugging_face as fn() -> Value, case));
    let oa = oa.iter().map(|case| (openai as fn() -> Value, case));
    for (base, (edits, parts)) in hf.chain(oa) {
        refuse(&edited(base, edits), None, parts);
    }
}

fn refuse(config: &str, generation: Option<&str>, parts: &[&str]) {
    let message = match parse("case", config, generation) {
        Ok(_) => panic!("accepted, expected a refusal with {parts:?}: {config} {generation:?}"),
        Err(error) => error.to_string(),
    };
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn text_that_is_no_object_is_refused_with_its_place() {
    let good = hugging_face().to_string();
    for bad in ["", "{", "[]", "null", "3", "{\"a\": 1} x", "{\"a\": 1e999}"] {
        refuse(bad, None, &["config.json is not a JSON object", "line 1"]);
        refuse(&good, Some(bad), &["generation_config.json is not a JSON object", "line 1"]);
    }
    refuse(&"[".repeat(100_000), None, &["config.json is not a JSON object"]);
    refuse(&good, Some(r#"{"eos_token_id": 300000}"#), &["generation_config.json", "300000"]);
    refuse(&good, Some(r#"{"max_new_tokens": 0}"#), &["generation_config.json", "max_new_tokens"]);
}

/// Any single field set to any odd value is refused or gives a model whose derived numbers are usable.
#[test]
fn no_value_of_any_field_panics() {
    let odd = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(0.5),
        json!(32),
        json!(1e308),
        json!(1e-308),
        json!(4_294_967_295_u32),
        json!(u64::MAX),
        json!("x"),
        json!(""),
        json!([]),
        json!([null]),
        json!({}),
        json!({"rope_type": "yarn"}),
        json!("é".repeat(500)),
    ];
    for base in [hugging_face as fn() -> Value, openai] {
        let mut paths: Vec<String> = Vec::new();
        for (field, value) in base().as_object().expect("an object") {
            paths.push(field.clone());
            let inner = value.as_object().into_iter().flatten();
            paths.extend(inner.map(|(name, _)| format!("{field}/{name}")));
        }
        for path in paths {
            for value in &odd {
                let config = edited(base, &[(&path, value.clone())]);
                if let Ok(spec) = parse("case", &config, None) {
                    let frequencies = spec.rope.inv_freq(spec.head_dim);
                    assert!(frequencies.iter().all(|f| f.is_finite()), "{path} = {value}");
                    assert!(spec.layers.len() <= 1024 && spec.gqa_ratio() <= 8, "{path} = {value}");
                }
            }
        }
    }
}
