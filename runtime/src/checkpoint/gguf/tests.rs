//! Files that the tests write themselves, whole and corrupt. What each element type means is tested against another
//! generator (`tests/suites/numerics/gguf.rs`); here it is what a header may claim.

use std::path::Path;

use super::{Gguf, header};
use crate::Error;

/// A file in parts: what stands before the tensors' data, and the data.
#[derive(Clone)]
struct Written {
    metadata: Vec<(&'static str, Vec<u8>)>,
    tensors: Vec<(&'static str, Vec<u64>, u32, u64)>,
    data: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn string(value: &str) -> Vec<u8> {
    [&8_u32.to_le_bytes()[..], &text(value)].concat()
}

fn number(value: u32) -> Vec<u8> {
    [4_u32.to_le_bytes(), value.to_le_bytes()].concat()
}

fn float(value: f32) -> Vec<u8> {
    [6_u32.to_le_bytes(), value.to_le_bytes()].concat()
}

impl Written {
    /// A model of two layers without weights but two, as far as the metadata goes.
    fn new() -> Written {
        let metadata = vec![
            ("general.architecture", string("gpt-oss")),
            ("gpt-oss.block_count", number(2)),
            ("gpt-oss.context_length", number(131_072)),
            ("gpt-oss.embedding_length", number(64)),
            ("gpt-oss.attention.head_count", number(4)),
            ("gpt-oss.attention.head_count_kv", number(2)),
            ("gpt-oss.attention.key_length", number(64)),
            ("gpt-oss.attention.sliding_window", number(128)),
            ("gpt-oss.attention.layer_norm_rms_epsilon", float(1e-5)),
            ("gpt-oss.expert_count", number(8)),
            ("gpt-oss.expert_used_count", number(4)),
            ("gpt-oss.expert_feed_forward_length", number(32)),
            ("gpt-oss.rope.freq_base", float(150_000.0)),
            ("gpt-oss.rope.scaling.type", string("yarn")),
            ("gpt-oss.rope.scaling.factor", float(32.0)),
            ("gpt-oss.rope.scaling.original_context_length", number(4096)),
            ("tokenizer.ggml.eos_token_id", number(254)),
        ];
        let tensors = vec![
            ("token_embd.weight", vec![64, 256], 8, 0),
            ("output_norm.weight", vec![64], 0, 17_408),
        ];
        Written { metadata, tensors, data: 17_408 + 256 }
    }

    fn set(mut self, key: &'static str, value: Vec<u8>) -> Written {
        self.metadata.retain(|(known, _)| *known != key);
        self.metadata.push((key, value));
        self
    }

    fn without(mut self, key: &str) -> Written {
        self.metadata.retain(|(known, _)| *known != key);
        self
    }

    fn header(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            bytes.extend(text(key));
            bytes.extend(value);
        }
        for (name, axes, kind, offset) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((axes.len() as u32).to_le_bytes());
            bytes.extend(axes.iter().flat_map(|axis| axis.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 7);
        bytes
    }
}

fn problem(bytes: Vec<u8>) -> String {
    let result = Gguf::from_bytes("m.gguf", bytes).and_then(|gguf| gguf.config());
    match result.expect_err("a bad file") {
        Error::Checkpoint { path, problem } if path == Path::new("m.gguf") => problem,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn expect(bytes: Vec<u8>, expected: &str) {
    let found = problem(bytes);
    assert!(found.contains(expected), "found: {found}\nexpected: {expected}");
}

#[test]
fn a_good_file_is_a_configuration() {
    let gguf = Gguf::from_bytes("m.gguf", Written::new().bytes()).expect("a good file");
    let config = gguf.config().expect("a configuration");
    let spec = ossmith_codegen::spec::parse("m", &config, None).expect("a model");
    assert_eq!((spec.hidden, spec.inter, spec.vocab, spec.layers.len()), (64, 32, 256, 2));
    assert_eq!((spec.rms_eps, spec.rope.theta, spec.rope.factor), (1e-5, 150_000.0, 32.0));
    assert_eq!((spec.layers[0].window, spec.layers[1].window), (Some(128), None));
    assert_eq!(spec.stop_tokens, [254]);
    assert!(gguf.tokenizer().expect("none").is_none());
}

#[test]
fn every_truncation_is_an_error() {
    let whole = Written::new().bytes();
    let header = Written::new().header().len();
    for length in (0..header + 40).chain([whole.len() - 1]) {
        let found = problem(whole[..length].to_vec());
        assert!(found.contains("truncated"), "{length} bytes: {found}");
    }
}

#[test]
fn lies_of_a_header_are_refused() {
    let good = Written::new;
    let bytes_with = |at: usize, value: u64| {
        let mut bytes = good().bytes();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    expect(b"{}".to_vec(), "does not begin with GGUF");
    expect(b"GGUF\x01\0\0\0".to_vec(), "version 1");
    expect(b"GGUF\0\0\0\x03".to_vec(), "big-endian");
    expect(b"GGUF\x09\0\0\0".to_vec(), "version 9; expected 2 or 3");
    expect(bytes_with(8, u64::MAX), "claims 18446744073709551615 tensors");
    expect(bytes_with(16, 1 << 40), "claims 1099511627776 metadata keys");
    expect(bytes_with(24, u64::MAX), "truncated or corrupt");
    let list = |kind: u32, count: u64| {
        [&9_u32.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes()].concat()
    };
    expect(good().set("x", list(4, u64::MAX)).bytes(), "metadata x: its header continues");
    expect(good().set("x", list(8, u64::MAX)).bytes(), "metadata x: its header continues");
    expect(good().set("x", list(9, 1)).bytes(), "metadata x: an array of arrays");
    expect(good().set("x", list(77, 1)).bytes(), "metadata x: has type 77");
    expect(good().set("general.alignment", number(24)).bytes(), "general.alignment");
    expect(good().set("general.alignment", number(0)).bytes(), "general.alignment");
    let mut twice = good();
    twice.metadata.push(("gpt-oss.block_count", number(2)));
    expect(twice.bytes(), "metadata gpt-oss.block_count: stored twice");
}

#[test]
fn lies_of_tensors_are_refused() {
    let with = |tensor: (&'static str, Vec<u64>, u32, u64)| {
        let mut written = Written::new();
        written.tensors[1] = tensor;
        written.bytes()
    };
    expect(with(("a", vec![64], 0, 17_409)), "tensor a: its offset 17409 is not a multiple of 32");
    expect(with(("a", vec![65], 0, 17_408)), "tensor a: 260 bytes at offset 17408");
    expect(with(("a", vec![64], 0, u64::MAX - 31)), "tensor a: 256 bytes at offset");
    expect(with(("a", vec![64], 0, 17_376)), "tensor a: begins at byte");
    expect(with(("a", vec![33], 8, 0)), "rows of 33 elements, but q8_0 has blocks of 32");
    expect(with(("a", vec![64], 200, 0)), "tensor a: has type 200");
    expect(with(("a", vec![1, 1, 1, 1, 1], 0, 0)), "tensor a: has 5 axes");
    expect(with(("a", vec![u64::MAX, 2], 0, 0)), "tensor a: its shape");
    expect(with(("a", vec![1 << 32, 1 << 32], 0, 0)), "overflows");
    expect(
        with(("token_embd.weight", vec![64], 0, 17_408)),
        "tensor token_embd.weight: stored twice",
    );
}

#[test]
fn keys_of_other_models_are_refused() {
    let good = Written::new;
    let architecture = |name| good().set("general.architecture", string(name)).bytes();
    expect(architecture("llama"), "\"llama\"; only \"gpt-oss\" models run here");
    expect(architecture("gptoss"), "Ollama");
    expect(
        good().set("general.type", string("adapter")).bytes(),
        "\"adapter\"; expected \"model\"",
    );
    expect(good().without("gpt-oss.expert_count").bytes(), "gpt-oss.expert_count is missing");
    expect(good().set("gpt-oss.expert_count", float(8.0)).bytes(), "not a whole number");
    let heads = [&9_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), &0_u64.to_le_bytes()].concat();
    expect(good().set("gpt-oss.attention.head_count", heads).bytes(), "is a list");
    expect(good().set("gpt-oss.attention.value_length", number(32)).bytes(), "value_length is 32");
    expect(good().set("gpt-oss.rope.freq_base", float(f32::NAN)).bytes(), "not a finite");
    expect(good().set("gpt-oss.rope.scaling.yarn_ext_factor", float(2.0)).bytes(), "is 2; only 1");
    expect(good().set("split.count", number(3)).bytes(), "is part 1 of 3 of a model");
    expect(good().set("split.tensors.count", number(9)).bytes(), "is 9, but the parts have 2");
    expect(good().set("tokenizer.ggml.eos_token_id", string("x")).bytes(), "is not a token id");
}

#[test]
fn windows_follow_the_pattern() {
    let kinds = |value: Vec<u8>| {
        let written = Written::new().set("gpt-oss.attention.sliding_window_pattern", value);
        let gguf = Gguf::from_bytes("m.gguf", written.bytes()).expect("a good file");
        let config: serde_json::Value =
            serde_json::from_str(&gguf.config().expect("a configuration")).expect("JSON");
        let kinds = config["layer_types"].as_array().expect("a list").clone();
        kinds.iter().map(|kind| kind == "sliding_attention").collect::<Vec<_>>()
    };
    assert_eq!(kinds(number(2)), [true, false]);
    assert_eq!(kinds(number(1)), [false, false]);
    assert_eq!(kinds(number(0)), [true, true]);
    let list = [&9_u32.to_le_bytes()[..], &7_u32.to_le_bytes(), &2_u64.to_le_bytes(), &[0, 1]];
    assert_eq!(kinds(list.concat()), [false, true]);
}

#[test]
fn values_have_their_types() {
    let written = Written::new()
        .set("a", [&[5, 0, 0, 0][..], &(-7_i32).to_le_bytes()].concat())
        .set("b", [&[12, 0, 0, 0][..], &0.5_f64.to_le_bytes()].concat())
        .set("c", [&[1, 0, 0, 0][..], &[0xff]].concat());
    let read = header::read(&written.bytes()).expect("a good file").metadata;
    assert_eq!(read["a"], header::Value::Signed(-7));
    assert_eq!(read["b"], header::Value::F64(0.5));
    assert_eq!(read["c"], header::Value::Signed(-1));
}
