//! Checkpoints that must be refused, with errors that name the file, the tensor, what was expected and what was found.

use proptest::prelude::*;
use serde_json::json;

use super::super::safetensors_file::read_header;
use super::*;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const NORM: &str = "model.norm.weight";

fn refuse(folder: &Path, parts: &[&str]) {
    let message = match open(folder) {
        Ok(_) => panic!("opened, expected a refusal with {parts:?}"),
        Err(error) => error.to_string(),
    };
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn refuse_file(bytes: &[u8], parts: &[&str]) {
    let folder = temporary();
    write(folder.path(), SINGLE, bytes);
    refuse(folder.path(), &[&[SINGLE], parts].concat());
}

fn named<'a>(entries: &'a mut [Entry], name: &str) -> &'a mut Entry {
    entries.iter_mut().find(|entry| entry.name == name).expect(name)
}

/// Replaces one tensor of a valid checkpoint.
fn replace(name: &'static str, dtype: &'static str, shape: &[usize]) -> Vec<Entry> {
    let mut entries = hugging_face();
    *named(&mut entries, name) = Entry::new(name.to_owned(), dtype, shape.to_vec());
    entries
}

fn without(name: &str) -> Vec<Entry> {
    hugging_face().into_iter().filter(|entry| entry.name != name).collect()
}

fn with(name: &str, dtype: &'static str, shape: &[usize]) -> Vec<Entry> {
    let extra = Entry::new(name.to_owned(), dtype, shape.to_vec());
    hugging_face().into_iter().chain([extra]).collect()
}

#[test]
fn tensors_of_another_model_are_refused() {
    const BLOCKS: &str = "model.layers.1.mlp.experts.gate_up_proj_blocks";
    const K_PROJ: &str = "model.layers.0.self_attn.k_proj.weight";
    const SINKS: &str = "model.layers.0.self_attn.sinks";
    let mut dequantised = without(BLOCKS);
    let base = "model.layers.1.mlp.experts.gate_up_proj".to_owned();
    dequantised.push(Entry::new(base, "BF16", vec![3, 64, 64]));
    let cases: &[(Vec<Entry>, &[&str])] = &[
        (without(NORM), &[NORM, "missing", "expected BF16 [64]"]),
        (without(K_PROJ), &[K_PROJ, "missing", "expected BF16 [64, 64]"]),
        (without(BLOCKS), &[BLOCKS, "missing", "expected U8 [3, 192, 2, 16]"]),
        (dequantised, &["gate_up_proj:", "expected BF16 [3, 64, 192]", "found BF16 [3, 64, 64]"]),
        (replace(NORM, "BF16", &[32]), &[NORM, "expected BF16 [64]", "found BF16 [32]"]),
        (replace(NORM, "BF16", &[1, 64]), &[NORM, "expected BF16 [64]", "found BF16 [1, 64]"]),
        (replace(NORM, "I16", &[64]), &[NORM, "expected BF16 [64]", "found I16 [64]", "convert"]),
        (replace(K_PROJ, "BF16", &[128, 64]), &[K_PROJ, "[64, 64]", "found BF16 [128, 64]"]),
        (
            replace(BLOCKS, "U8", &[3, 192, 32]),
            &[BLOCKS, "[3, 192, 2, 16]", "found U8 [3, 192, 32]"],
        ),
        (replace(BLOCKS, "BF16", &[3, 192, 2, 16]), &[BLOCKS, "expected U8", "found BF16"]),
        (
            with("model.layers.2.input_layernorm.weight", "BF16", &[64]),
            &["model.layers.2.input_layernorm.weight", "2 layers"],
        ),
        (with("embedding.weight", "BF16", &[10, 64]), &["both layouts", "embedding.weight"]),
        (
            without("model.embed_tokens.weight"),
            &["no token embedding", "model.embed_tokens.weight"],
        ),
        (Vec::new(), &["no token embedding", "embedding.weight (OpenAI)"]),
    ];
    for (entries, parts) in cases {
        let folder = temporary();
        write(folder.path(), SINGLE, &file(entries));
        refuse(folder.path(), parts);
    }
    let mut integers = hugging_face();
    let norm = named(&mut integers, NORM);
    (norm.dtype, norm.bytes) = ("I32", vec![0; 256]);
    refuse_file(&file(&integers), &[NORM, "expected BF16", "found I32 [64]", "convert"]);
    // MXFP4 of less than a block.
    let mut packed = replace(SINKS, "U8", &[2]);
    packed.push(Entry::new(format!("{SINKS}_scale"), "U8", vec![0]));
    refuse_file(&file(&packed), &[SINKS, "expected BF16 [4]", "found U8 [2]"]);
}

#[test]
fn headers_that_do_not_match_the_file_are_refused() {
    let good = file(&hugging_face());
    let (header, data) = split(&good);
    let length = good.len() - data.len() - 8;
    let last = header[NORM]["data_offsets"].clone();
    let (start, end) = (last[0].as_u64().expect("a start"), last[1].as_u64().expect("an end"));
    let edited = |field: &str, value: Value| {
        let mut header = header.clone();
        header[NORM][field] = value;
        join(&header.to_string(), &data)
    };
    let huge = u64::MAX;
    let twice = header.to_string().replacen('{', &format!("{{\"{NORM}\":{},", header[NORM]), 1);
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let with_length = |claimed: u64| [&claimed.to_le_bytes(), &good[8..]].concat();
    let cases: &[(Vec<u8>, &[&str])] = &[
        (Vec::new(), &["truncated: 0 bytes", "at least the 8"]),
        (good[..7].to_vec(), &["truncated: 7 bytes"]),
        (good[..100].to_vec(), &["header of", &length.to_string(), "92 follow"]),
        (with_length(good.len() as u64), &["header of", "truncated, or not"]),
        (with_length(huge), &["header of 18446744073709551615"]),
        (with_length(0), &["cannot be read"]),
        (with_length(length as u64 - 1), &["cannot be read", "line 1"]),
        (good[..good.len() - 1].to_vec(), &["tensor ", "claims bytes", "truncated or corrupt"]),
        ([&good[..], &[0]].concat(), &["bytes of data", "its tensors end at"]),
        (join("[]", b""), &["cannot be read", "object of tensors"]),
        (join("{\"a\": 1}", b""), &["cannot be read", "tensor a"]),
        (join(&deep, b""), &["cannot be read"]),
        (join("\u{0}", b""), &["cannot be read"]),
        (join(&twice, &data), &["cannot be read", NORM, "stored twice"]),
        (edited("dtype", json!("F5")), &["cannot be read", NORM, "F5"]),
        (edited("dtype", json!("F32")), &[NORM, "F32 [64] takes 256"]),
        (edited("shape", json!([65])), &[NORM, "BF16 [65] takes 130"]),
        (edited("shape", json!([-1])), &["cannot be read", NORM, "-1"]),
        (edited("shape", json!([huge, 2])), &[NORM, "takes more than fits a number"]),
        (edited("data_offsets", json!([start, end + 2])), &[NORM, "BF16 [64] takes 128"]),
        (edited("data_offsets", json!([end, start])), &[NORM, "claims bytes", "takes 128"]),
        (edited("data_offsets", json!([start - 2, end - 2])), &["expected start", "overlaps"]),
        (edited("data_offsets", json!([0, 128])), &[NORM, "claims bytes 0..", "expected start"]),
        (edited("data_offsets", json!([huge - 128, huge])), &[NORM, "but the file holds"]),
        (edited("data_offsets", json!([start])), &["cannot be read", NORM]),
        (edited("data_offsets", json!("0")), &["cannot be read", NORM]),
    ];
    for (bytes, parts) in cases {
        refuse_file(bytes, parts);
    }
}

/// Tensors whose sizes are valid one by one and overflow together.
#[test]
fn sums_of_sizes_do_not_overflow() {
    let quarter = 1_u64 << 60;
    let tensors: Map<String, Value> = (0..16)
        .map(|i| {
            let end = (i + 1_u64).saturating_mul(quarter);
            let info =
                json!({"dtype": "U8", "shape": [quarter], "data_offsets": [i * quarter, end]});
            (i.to_string(), info)
        })
        .collect();
    refuse_file(&join(&Value::Object(tensors).to_string(), b""), &["tensor 0", "file holds 0"]);
}

#[test]
fn incomplete_folders_and_wrong_indices_are_refused() {
    let whole = file(&hugging_face());
    let norm = [Entry::new(NORM.to_owned(), "BF16", vec![64])];
    let index = |map: Value| json!({"weight_map": map}).to_string().into_bytes();
    type Files<'a> = Vec<(&'a str, Vec<u8>)>;
    let cases: &[(Files<'_>, &[&str])] = &[
        (vec![], &["contains neither", INDEX, SINGLE, "incomplete"]),
        (vec![("weights.safetensors", whole.clone())], &["contains neither", SINGLE]),
        (vec![("config.json", b"{".to_vec())], &["config.json", "not a JSON object"]),
        (
            vec![
                ("config.json", b"{\"model_type\": \"gpt_oss\", \"num_experts\": 3}".to_vec()),
                ("a.safetensors", whole.clone()),
            ],
            &["contains neither", SINGLE],
        ),
        (vec![(INDEX, b"{}".to_vec())], &[INDEX, "not an index", "weight_map"]),
        (vec![(INDEX, b"nonsense".to_vec())], &[INDEX, "not an index"]),
        (vec![(INDEX, vec![0xff, 0xfe])], &[INDEX, "cannot read"]),
        (vec![(INDEX, index(json!({})))], &[INDEX, "names no tensor"]),
        (vec![(INDEX, index(json!({NORM: 3})))], &[INDEX, "not an index"]),
        (
            vec![(INDEX, index(json!({NORM: "a.safetensors"})))],
            &[INDEX, NORM, "a.safetensors is missing"],
        ),
        (vec![(INDEX, index(json!({NORM: "../a"})))], &[INDEX, NORM, "\"../a\"", "without a path"]),
        (vec![(INDEX, index(json!({NORM: ".."})))], &[INDEX, NORM, "\"..\"", "without a path"]),
        (
            vec![(INDEX, index(json!({NORM: "/etc/passwd"})))],
            &[INDEX, "/etc/passwd", "without a path"],
        ),
        (vec![(INDEX, index(json!({NORM: "sub/a"})))], &[INDEX, "sub/a", "without a path"]),
        (vec![(INDEX, index(json!({NORM: ""})))], &[INDEX, NORM, "without a path"]),
        (
            vec![
                (INDEX, index(json!({"other": "a", NORM: "b"}))),
                ("a", whole.clone()),
                ("b", file(&[])),
            ],
            &["/b: tensor model.norm.weight: missing", "the index lists it"],
        ),
        (
            vec![
                (INDEX, index(json!({"lm_head.weight": "a", NORM: "b"}))),
                ("a", whole.clone()),
                ("b", file(&norm)),
            ],
            &["/b: tensor model.norm.weight", "also in", "/a", "one file only"],
        ),
        (
            vec![(INDEX, index(json!({NORM: "a"}))), ("a", file(&norm)), (SINGLE, whole.clone())],
            &["no token embedding"],
        ),
    ];
    for (files, parts) in cases {
        let folder = temporary();
        for (name, bytes) in files {
            write(folder.path(), name, bytes);
        }
        refuse(folder.path(), parts);
    }
    let folder = temporary();
    refuse(&folder.path().join("nowhere"), &["nowhere", "no such folder"]);
    std::fs::create_dir(folder.path().join("original")).expect("a folder");
    refuse(folder.path(), &["contains neither", "`original` is not searched"]);
    std::fs::create_dir(folder.path().join(SINGLE)).expect("a folder");
    refuse(folder.path(), &[SINGLE, "not a regular file"]);
}

/// Whatever a header contains, each accepted tensor lies inside the file.
fn check_header(bytes: &[u8]) {
    if let Ok((data_start, tensors)) = read_header(bytes) {
        for (name, info) in tensors {
            let (start, end) = info.data_offsets;
            assert!(start <= end && data_start + end <= bytes.len(), "{name}: {start}..{end}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn changed_bytes_never_panic(
        edits in prop::collection::vec((0..2000_usize, any::<u8>()), 1..6),
        cut in prop::option::of(0..3000_usize),
    ) {
        let mut bytes = file(&hugging_face()[..8]);
        for (position, value) in edits {
            let length = bytes.len();
            bytes[position % length] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut);
        }
        check_header(&bytes);
    }

    #[test]
    fn changed_numbers_never_panic(
        tensor in 0..8_usize,
        shape in prop::collection::vec(odd_number(), 0..4),
        offsets in (odd_number(), odd_number()),
        which in 0..3_u8,
    ) {
        let entries = &hugging_face()[..8];
        let (mut header, data) = split(&file(entries));
        let info = &mut header[entries[tensor].name.as_str()];
        if which != 0 {
            info["shape"] = json!(shape);
        }
        if which != 1 {
            info["data_offsets"] = json!([offsets.0, offsets.1]);
        }
        check_header(&join(&header.to_string(), &data));
    }
}

/// Numbers near the edges of what a header can hold.
fn odd_number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..300_u64,
        Just(1 << 32),
        Just(1 << 61),
        Just(u64::MAX),
        (0..64_u32).prop_map(|bit| 1 << bit)
    ]
}
