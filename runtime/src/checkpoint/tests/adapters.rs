//! Adapters that are refused, each with what is wrong; what good ones compute is compared with a float64 model in
//! `tests/suites/numerics/adapters.rs`.

use ossmith_plan::Weight;
use serde_json::{Value, json};

use super::super::{Adapter, AdapterBounds};
use super::shapes::SPEC;
use super::*;

const LAYER: &str = "base_model.model.model.layers.0.";

fn entry(module: &str, half: &str, shape: [usize; 2]) -> Entry {
    let name = format!("{LAYER}{module}.lora_{half}.weight");
    let bytes = [0x80, 0x3f].repeat(shape[0] * shape[1]);
    Entry { name, dtype: "BF16", shape: shape.to_vec(), bytes }
}

/// Rank 2 on the queries, of 128 rows, and on the experts' second matrices.
fn good() -> Vec<Entry> {
    vec![
        entry("self_attn.q_proj", "A", [2, 64]),
        entry("self_attn.q_proj", "B", [128, 2]),
        entry("mlp.experts", "A", [6, 96]),
        entry("mlp.experts", "B", [64, 6]),
    ]
}

fn config() -> Value {
    json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "use_dora": false, "modules_to_save": null})
}

fn read(config: &Value, entries: &[Entry]) -> std::result::Result<Adapter, String> {
    let config = config.to_string();
    let adapter = Adapter::from_bytes("adapter", config.as_bytes(), file(entries), &SPEC);
    adapter.map_err(|error| error.to_string())
}

#[test]
fn a_good_adapter_has_its_rank_and_scale() {
    let adapter = read(&config(), &good()).expect("an adapter");
    assert_eq!((adapter.rank(), adapter.name()), (2, "adapter"));
    let [query] = adapter.parts(Weight::Qkv, 0) else { panic!("one part") };
    assert_eq!((query.first_row, query.rows(), query.b[0]), (0, 128, 2.0));
    assert_eq!(adapter.parts(Weight::Down, 0).len(), 3);
    assert_eq!(adapter.parts_of(Weight::Down, 0, 2).len(), 1);
    assert!(adapter.parts(Weight::Qkv, 1).is_empty());
    let mut matched = config();
    matched["r"] = 7.into();
    matched["rank_pattern"] = json!({r"layers\.\d+\.(self_attn\.\w+|mlp\..*)": 2});
    assert_eq!(read(&matched, &good()).expect("an adapter").rank(), 2);
    let mut rooted = config();
    rooted["use_rslora"] = true.into();
    let adapter = read(&rooted, &good()).expect("an adapter");
    assert_eq!(adapter.parts(Weight::Qkv, 0)[0].b[0], (4.0 / 2_f64.sqrt()) as f32);
}

#[test]
fn fields_that_change_the_result_are_refused_by_name() {
    for (field, value, expected) in [
        ("peft_type", json!("IA3"), "peft_type is \"IA3\""),
        ("peft_type", Value::Null, "peft_type is missing"),
        ("r", json!(0), "r is 0; expected a whole number above 0"),
        ("r", json!(-1), "r is -1"),
        (
            "r",
            json!(3),
            "expected [3, 64] for rank 3 of model.layers.0.self_attn.q_proj, found [2, 64]",
        ),
        ("r", json!(1 << 20), "at most 512"),
        ("lora_alpha", json!(0), "lora_alpha is 0; expected a number above 0"),
        ("lora_alpha", json!("x"), "lora_alpha is \"x\""),
        ("use_dora", json!(true), "use_dora is true: DoRA"),
        ("lora_bias", json!(true), "lora_bias is true"),
        ("bias", json!("lora_only"), "bias is \"lora_only\""),
        ("modules_to_save", json!(["lm_head"]), "modules_to_save is [\"lm_head\"]"),
        ("trainable_token_indices", json!([1]), "trainable_token_indices is [1]"),
        ("alora_invocation_tokens", json!([5]), "alora_invocation_tokens is [5]"),
        ("layer_replication", json!([[0, 1]]), "layer_replication is [[0,1]]"),
        ("init_lora_weights", json!("pissa"), "init_lora_weights is \"pissa\""),
        ("rank_pattern", json!({"((": 2}), "rank_pattern[\"((\"] is no regular expression"),
        ("rank_pattern", json!({"(a{1000}){1000}": 2}), "is no regular expression"),
        ("rank_pattern", json!({"q_proj": 0}), "rank_pattern[\"q_proj\"] is 0"),
        ("rank_pattern", json!([1]), "rank_pattern is [1]; expected an object"),
        ("rank_pattern", json!({"q_proj": 2, ".*proj": 3}), "two patterns of rank_pattern match"),
        ("alpha_pattern", json!({"q_proj": 0}), "alpha_pattern[\"q_proj\"] is 0"),
        ("fan_in_fan_out", json!(true), "fan_in_fan_out is true"),
        ("target_parameters", json!(7), "target_parameters is 7"),
    ] {
        let mut changed = config();
        changed[field] = value;
        let error = read(&changed, &good()).expect_err(expected);
        assert!(error.contains(expected), "{error}");
    }
    let unknown = Adapter::from_bytes("x", b"[]", file(&good()), &SPEC).expect_err("a list");
    assert!(unknown.to_string().contains("adapter_config.json: is not a JSON object"), "{unknown}");
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Vec<Entry>), expected: &str| {
        let mut entries = good();
        change(&mut entries);
        let error = read(&config(), &entries).expect_err(expected);
        assert!(error.contains("adapter_model.safetensors") && error.contains(expected), "{error}");
    };
    refused(&|e| e.truncate(1), "self_attn.q_proj.lora_A.weight: has no lora_B beside it");
    refused(&|e| drop(e.remove(0)), "self_attn.q_proj.lora_B.weight: has no lora_A beside it");
    refused(&|e| e.clear(), "holds no tensor, so it adapts nothing");
    refused(&|e| e[1] = entry("self_attn.q_proj", "B", [64, 2]), "expected [128, 2] for rank 2");
    refused(
        &|e| e[3] = entry("mlp.experts", "B", [63, 6]),
        "has 63 rows; expected 192 for gate_up_proj or 64 for down_proj",
    );
    refused(&|e| e[2] = entry("mlp.experts", "A", [4, 96]), "expected [6, 96] for rank 2");
    refused(&|e| e[0].shape = vec![128], "has shape [128]; expected two axes");
    refused(&|e| e[0].bytes[..2].copy_from_slice(&[0x80, 0x7f]), "holds inf, which is no weight");
    refused(&|e| e[0].dtype = "I16", "is I16; expected BF16, F16 or F32");
    let renamed = |from: &'static str, to: &'static str| {
        move |e: &mut Vec<Entry>| e.iter_mut().for_each(|e| e.name = e.name.replace(from, to))
    };
    refused(&renamed("layers.0", "layers.2"), "the model has 2 layers, counted from 0");
    refused(&renamed("q_proj", "x_proj"), "adapts a module that is not adapted here");
    refused(&renamed("model.layers.0.self_attn.q_proj", "lm_head"), "not adapted here");
    refused(&renamed("mlp.experts", "mlp.experts.down_projs.7"), "the layer has 3 experts");
    refused(&renamed("lora_A.weight", "lora_magnitude_vector"), "DoRA is not computed");
    refused(&renamed("lora_A.weight", "lora_embedding_A"), "adapters of the embedding");
    refused(&renamed("lora_A.weight", "weight"), "is neither lora_A.weight nor lora_B.weight");
    let bytes = file(&good());
    let cut = bytes[..bytes.len() - 1].to_vec();
    let error = Adapter::from_bytes("x", config().to_string().as_bytes(), cut, &SPEC);
    assert!(error.expect_err("cut").to_string().contains("truncated"));
}

#[test]
fn folders_without_an_adapter_are_refused() {
    let folder = temporary();
    let refused = |expected: &str| {
        let error = Adapter::open("x", folder.path(), &SPEC).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused("has no adapter_config.json");
    write(folder.path(), "adapter_config.json", config().to_string().as_bytes());
    refused("has no adapter_model.safetensors");
    write(folder.path(), "adapter_model.bin", b"");
    refused("is a pickle, which can run code and is not read");
    write(folder.path(), "adapter_model.safetensors", &file(&good()));
    Adapter::open("x", folder.path(), &SPEC).expect("an adapter");
}

#[test]
fn adapters_over_their_bounds_are_refused_before_their_matrices_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut entries = good();
    // What is not finite is refused where matrices are read.
    entries[0].bytes = [0x80, 0x7f].repeat(2 * 64);
    std::fs::write(folder.path().join("adapter_model.safetensors"), file(&entries))
        .expect("a file");
    let write = |text: &str| {
        std::fs::write(folder.path().join("adapter_config.json"), text).expect("a file");
    };
    let open = |rank: usize, bytes: usize| {
        let bounds = AdapterBounds { rank, bytes };
        let adapter = Adapter::open_within("a", folder.path(), &SPEC, bounds);
        adapter.expect_err("a refusal").to_string()
    };
    write(&config().to_string());
    // Rank 2: on 128 rows of 64, and on 64 rows of 96 for each of three experts.
    let bytes = 4 * 2 * (128 + 64 + 3 * (64 + 96));
    for (rank, bytes, want) in [
        (1, usize::MAX, "has rank 2; ranks up to 1"),
        (2, bytes - 1, "takes 5376 bytes of memory, and there is room for 5375"),
        (2, bytes, "holds inf"),
    ] {
        let refused = open(rank, bytes);
        assert!(refused.contains(want), "{refused}");
    }
    write(&format!("{}{}", config(), " ".repeat(5 << 20)));
    assert!(open(2, bytes).contains("which no configuration needs"));
}
