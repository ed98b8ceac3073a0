//! Weights that take the place of some of a checkpoint's.

use ossmith_plan::Weight;

use super::shapes::{GRAPH, LAYERS, SPEC};
use super::*;

const UPDATE: &str = "update.safetensors";

/// The model's tensors whose names hold one of these, with other bytes than the checkpoint's.
fn changed(entries: Vec<Entry>, names: &[&str]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = entries
        .into_iter()
        .filter(|entry| names.iter().any(|name| entry.name.contains(name)))
        .collect();
    for byte in entries.iter_mut().flat_map(|entry| &mut entry.bytes) {
        *byte ^= 1;
    }
    entries
}

fn original() -> Checkpoint {
    let bytes = file(&hugging_face());
    Checkpoint::from_bytes_shapes("original", bytes, &SPEC, &GRAPH).expect("a checkpoint")
}

fn update(base: &Checkpoint, entries: &[Entry]) -> Result<(Checkpoint, usize)> {
    let folder = temporary();
    write(folder.path(), UPDATE, &file(entries));
    base.updated_shapes(&folder.path().join(UPDATE), &SPEC, &GRAPH)
}

/// The weights and layers of which two checkpoints have other bytes.
fn differences(one: &Checkpoint, other: &Checkpoint) -> Vec<(Weight, usize)> {
    let read = |checkpoint: &Checkpoint, weight, layer| {
        joined(&checkpoint.tensor(weight, layer).expect("a tensor of the model"))
    };
    let layers = |weight: Weight| 0..if weight.per_layer() { LAYERS } else { 1 };
    let all = Weight::ALL.into_iter().flat_map(|weight| layers(weight).map(move |l| (weight, l)));
    all.filter(|&(weight, layer)| read(one, weight, layer) != read(other, weight, layer)).collect()
}

#[test]
fn what_a_file_holds_is_replaced_and_nothing_else() {
    let base = original();
    let named =
        ["layers.1.self_attn.q_proj", "layers.1.self_attn.k_proj", "layers.1.self_attn.v_proj"];
    let entries = changed(hugging_face(), &named);
    let (first, count) = update(&base, &entries).expect("weights of the model");
    assert_eq!(count, 2);
    assert_eq!(differences(&base, &first), [(Weight::Qkv, 1), (Weight::QkvBias, 1)]);
    let [bytes, _] = joined(&first.tensor(Weight::Qkv, 1).expect("a tensor"));
    let weights = entries.iter().filter(|entry| entry.name.ends_with(".weight"));
    assert_eq!(bytes, weights.flat_map(|entry| entry.bytes.clone()).collect::<Vec<u8>>());
    // A second update keeps what the first one replaced.
    let experts = changed(openai(), &["block.0.mlp.mlp1_weight", "norm.scale"]);
    let (second, _) = update(&first, &experts).expect("weights of the model");
    let of_norms = |weight| (0..LAYERS).map(move |layer| (weight, layer));
    let mut expected: Vec<(Weight, usize)> = of_norms(Weight::AttnNorm)
        .chain(of_norms(Weight::MoeNorm))
        .chain([(Weight::GateUp, 0), (Weight::FinalNorm, 0)])
        .collect();
    expected.sort_by_key(|&(weight, layer)| (weight as usize, layer));
    assert_eq!(differences(&first, &second), expected);
}

#[test]
fn a_whole_checkpoint_is_an_update() {
    let base = original();
    let folder = temporary();
    let all = changed(hugging_face(), &[""]);
    let (first, others): (Vec<Entry>, Vec<Entry>) =
        all.into_iter().partition(|entry| entry.name.contains("layers.0"));
    write(folder.path(), "a.safetensors", &file(&first));
    write(folder.path(), "b.safetensors", &file(&others));
    let (updated, count) =
        base.updated_shapes(folder.path(), &SPEC, &GRAPH).expect("weights of the model");
    assert_eq!(count, differences(&base, &updated).len());
    let per_layer = Weight::ALL.iter().filter(|weight| weight.per_layer()).count();
    assert_eq!(count, per_layer * LAYERS + Weight::ALL.len() - per_layer);
}

#[test]
fn updates_that_are_no_weights_of_the_model_are_refused() {
    let base = original();
    let q_only = changed(hugging_face(), &["layers.0.self_attn.q_proj.weight"]);
    let k_only = changed(hugging_face(), &["layers.0.self_attn.k_proj.weight"]);
    let unknown = Entry::new("model.layers.9.input_layernorm.weight".to_owned(), "BF16", vec![64]);
    let shape = Entry::new("model.norm.weight".to_owned(), "BF16", vec![32]);
    let cases: [(&[Entry], [&str; 2]); 5] = [
        (&q_only, ["self_attn.k_proj.weight", "missing"]),
        (&k_only, ["self_attn.q_proj.weight", "missing"]),
        (&[unknown], ["model.layers.9.input_layernorm.weight", "no such weight"]),
        (&[shape], ["model.norm.weight", "expected BF16 [64]"]),
        (&[], ["no tensors", "expected"]),
    ];
    for (entries, parts) in cases {
        let refused = update(&base, entries).expect_err("not weights of the model").to_string();
        let named = parts.iter().chain([&UPDATE]).all(|part| refused.contains(part));
        assert!(named, "{parts:?} is not in: {refused}");
    }
    let device = base.updated_shapes("/dev/null".as_ref(), &SPEC, &GRAPH);
    let refused = device.expect_err("not a file").to_string();
    assert!(refused.contains("not a regular file"), "{refused}");
}
