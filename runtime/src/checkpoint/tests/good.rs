//! What must open, and what must come out.

use ossmith_plan::Weight;
use serde_json::{Map, json};

use super::shapes::{GRAPH, LAYERS, SPEC};
use super::*;

const INDEX: &str = "model.safetensors.index.json";

fn all_tensors(checkpoint: &Checkpoint) -> Vec<[Vec<u8>; 2]> {
    let mut all = Vec::new();
    for weight in Weight::ALL {
        for layer in 0..if weight.per_layer() { LAYERS } else { 1 } {
            all.push(joined(&checkpoint.tensor(weight, layer).expect("a tensor of the model")));
        }
    }
    all
}

/// Opens a folder that holds `files`.
fn open_files(files: &[(&str, Vec<u8>)]) -> Checkpoint {
    let folder = temporary();
    for (name, bytes) in files {
        write(folder.path(), name, bytes);
    }
    // A map outlives its file's name.
    open(folder.path()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_file_in_memory_is_read_as_one_on_disk() {
    let bytes = file(&hugging_face());
    let checkpoint = Checkpoint::from_bytes_shapes("embedded", bytes.clone(), &SPEC, &GRAPH)
        .unwrap_or_else(|error| panic!("{error}"));
    let expected = all_tensors(&open_files(&[("model.safetensors", bytes.clone())]));
    assert_eq!(all_tensors(&checkpoint), expected);
    let cut = bytes[..bytes.len() - 1].to_vec();
    let error = Checkpoint::from_bytes_shapes("embedded", cut, &SPEC, &GRAPH).expect_err("cut");
    let message = error.to_string();
    assert!(message.starts_with("embedded: ") && message.contains("truncated"), "{message}");
}

/// `shards` files named as the published ones are: counted from 0, "of" one less than there are.
fn sharded(entries: &[Entry], shards: usize) -> Vec<(String, Vec<u8>)> {
    let mut map = Map::new();
    let mut files = Vec::new();
    for shard in 0..shards {
        let name = format!("model-{shard:05}-of-{:05}.safetensors", shards - 1);
        let part: Vec<Entry> = entries.iter().skip(shard).step_by(shards).cloned().collect();
        map.extend(part.iter().map(|entry| (entry.name.clone(), json!(name))));
        files.push((name, file(&part)));
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
    files.push((INDEX.to_owned(), index.into_bytes()));
    files
}

#[test]
fn both_layouts_and_shards_hold_the_same_tensors() {
    let expected = all_tensors(&open_files(&[("model.safetensors", file(&hugging_face()))]));
    for entries in [hugging_face(), openai()] {
        let single = open_files(&[("model.safetensors", file(&entries))]);
        assert_eq!(all_tensors(&single), expected);
        let files = sharded(&entries, 3);
        let files: Vec<_> = files.iter().map(|(name, bytes)| (&name[..], bytes.clone())).collect();
        assert_eq!(all_tensors(&open_files(&files)), expected);
    }
    // OpenAI's config and files of any name.
    let config = json!({"num_experts": 3}).to_string().into_bytes();
    let entries = openai();
    let (a, b) = entries.split_at(9);
    let files =
        [("config.json", config), ("model--1.safetensors", file(a)), ("b.safetensors", file(b))];
    assert_eq!(all_tensors(&open_files(&files)), expected);
}

#[test]
fn tensors_are_the_stored_bytes_in_the_stored_order() {
    let entries = hugging_face();
    let stored =
        |name: &str| &entries.iter().find(|entry| entry.name == name).expect(name).bytes[..];
    let checkpoint = open_files(&[("model.safetensors", file(&entries))]);
    let tensor = |weight, layer| checkpoint.tensor(weight, layer).expect("a tensor of the model");

    let parts =
        ["q", "k", "v"].map(|p| stored(&format!("model.layers.1.self_attn.{p}_proj.weight")));
    assert_eq!(tensor(Weight::Qkv, 1), Tensor::Bf16 { parts: parts.to_vec() });
    assert_eq!(tensor(Weight::Qkv, 1).row(193, 64), &parts[2][128..256]);
    let blocks = stored("model.layers.0.mlp.experts.down_proj_blocks");
    let scales = stored("model.layers.0.mlp.experts.down_proj_scales");
    assert_eq!(tensor(Weight::Down, 0), Tensor::Mxfp4 { blocks, scales });
    let expert = tensor(Weight::Down, 0).matrix(2, 3);
    assert_eq!(expert, (&blocks[2 * 64 * 48..], &scales[2 * 64 * 3..]));
    assert_eq!(
        tensor(Weight::FinalNorm, 0),
        Tensor::Bf16 { parts: vec![stored("model.norm.weight")] }
    );
    assert_eq!(tensor(Weight::FinalNorm, 1), tensor(Weight::FinalNorm, 0), "the layer is ignored");
    assert_eq!(checkpoint.synthetic_seed(), None);

    let error =
        checkpoint.tensor(Weight::Qkv, 2).expect_err("there are layers 0 and 1").to_string();
    assert!(error.contains("Qkv of layer 2 was requested from 2 layers"), "{error}");
}

/// Puts MXFP4 as Quark packs it in a matrix's place: two codes per byte, and the scales in a tensor of their own.
fn pack(entries: &mut Vec<Entry>, name: &str) {
    let matrix = entries.iter_mut().find(|entry| entry.name == name).expect(name);
    let (rows, k) = (matrix.shape[0], matrix.shape[1]);
    *matrix = Entry::new(name.to_owned(), "U8", vec![rows, k / 2]);
    let mut scales = Entry::new(format!("{name}_scale"), "U8", vec![rows, k / 32]);
    for scale in &mut scales.bytes {
        *scale = 120 + *scale % 8;
    }
    entries.push(scales);
}

#[test]
fn dense_weights_in_mxfp4_are_decoded() {
    let mut entries = hugging_face();
    let name_of = |part: &str| format!("model.layers.0.self_attn.{part}_proj.weight");
    for part in ["q", "k", "v", "o"] {
        pack(&mut entries, &name_of(part));
    }
    let checkpoint = open_files(&[("model.safetensors", file(&entries))]);
    let decoded = |part: &str| -> Vec<f32> {
        let bytes = |name: String| {
            let entry = entries.iter().find(|entry| entry.name == name).expect("packed");
            entry.bytes.clone()
        };
        let (codes, scales) = (bytes(name_of(part)), bytes(format!("{}_scale", name_of(part))));
        let value = |element: usize| {
            let code = codes[element / 2] >> (4 * (element % 2)) & 15;
            ossmith_scalar::mxfp4_value(u32::from(code), u32::from(scales[element / 32]))
        };
        (0..2 * codes.len()).map(value).collect()
    };
    let values = |weight| checkpoint.tensor(weight, 0).expect("decoded").to_f32();
    assert_eq!(values(Weight::AttnOut), decoded("o"));
    assert_eq!(values(Weight::Qkv), [decoded("q"), decoded("k"), decoded("v")].concat());
    assert!(checkpoint.conversions().is_empty(), "bf16 holds every value");
}

#[test]
fn tensors_that_the_model_does_not_use_are_ignored() {
    let expected = all_tensors(&open_files(&[("model.safetensors", file(&hugging_face()))]));
    let folder = temporary();
    let mut entries = hugging_face();
    entries.push(Entry::new("model.layers.0.self_attn.rotary.inv_freq".to_owned(), "F16", vec![3]));
    entries.push(Entry::new("visual.weight".to_owned(), "U8", vec![5]));
    write(folder.path(), "model.safetensors", &file(&entries));
    write(folder.path(), "consolidated.safetensors", b"unrelated and corrupt");
    let original = folder.path().join("original");
    std::fs::create_dir(&original).expect("a folder");
    let mut other = openai();
    other[0].bytes.fill(1);
    write(&original, "model.safetensors", &file(&other));

    let checkpoint = open(folder.path()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(all_tensors(&checkpoint), expected, "the folder's own file, not original/");
    let below = open(&original).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(all_tensors(&below)[0][0], other[0].bytes, "original/ when it is passed itself");
}

#[test]
fn every_weight_is_read_whole() {
    let checkpoint = open_files(&[("model.safetensors", file(&openai()))]);
    for info in GRAPH.shapes[0].weights {
        let tensor = checkpoint.tensor(info.weight, 0).expect("a tensor of the model");
        assert_eq!(tensor.bytes(), info.bytes(), "{:?}", info.weight);
    }
}
