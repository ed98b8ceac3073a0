//! `ossmith convert`: what is loaded from its folder computes what the source computes.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::common::{Folder, ossmith, refuses};

fn fixture(name: &str) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    tests.join(name).display().to_string()
}

/// Converts, and returns the report.
fn convert(source: &str, folder: &str) -> Value {
    let output = ossmith(&["convert", source, folder, "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn logits(model: &str, scratch: &Folder) -> Vec<u8> {
    let tokens = scratch.write("tokens.json", &json!((0..40).collect::<Vec<_>>()).to_string());
    let out = scratch.path("logits.safetensors");
    let args = ["logits", "--backend", "cpu", "--model", model, "--tokens", &tokens, "--out", &out];
    ossmith(&args).assert().success();
    fs::read(out).unwrap()
}

#[test]
fn a_converted_folder_gives_the_logits_of_its_source() {
    let scratch = Folder::empty();
    let random = Folder::with(&json!({"swiglu_alpha": 0.9, "dtype": "float16"}));
    let mut weights = Vec::new();
    for (name, source) in [
        ("published", fixture("tiny")),
        ("openai", fixture("tiny/original")),
        ("random", random.synthetic()),
    ] {
        let folder = scratch.path(name);
        let report = convert(&source, &folder);
        assert_eq!(report["complete"], true, "{report}");
        let tensors = report["tensors"].as_array().unwrap();
        assert!(tensors.iter().all(|tensor| tensor["relative_error"] == 0.0), "{report}");
        assert!(logits(&source, &scratch) == logits(&folder, &scratch), "{name}: logits differ");
        let config = fs::read(Path::new(&folder).join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["quantization_config"]["quant_method"], "mxfp4");
        assert_eq!(config["model_type"], "gpt_oss");
        weights
            .push(fs::read(Path::new(&folder).join("model-00001-of-00001.safetensors")).unwrap());
        // Once more there is nothing to do.
        assert_eq!(convert(&source, &folder)["kept"], 1);
    }
    assert!(weights[0] == weights[1], "both layouts have the same tensors");
    let config = fs::read(scratch.path("random/config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!((&config["swiglu_alpha"], &config["dtype"]), (&json!(0.9), &json!("bfloat16")));
}

#[test]
fn nano_gets_a_configuration_and_a_tokenizer() {
    let scratch = Folder::empty();
    let folder = scratch.path("nano");
    convert("nano", &folder);
    let there = |name: &str| PathBuf::from(&folder).join(name).is_file();
    for name in ["config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"] {
        assert!(there(name), "{name}");
    }
    let answer = |model: &str| {
        let args =
            ["generate", "--model", model, "--backend", "cpu", "-t", "0", "What is 17 + 25?"];
        let output = ossmith(&args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(answer("nano"), answer(&folder));
}

#[test]
fn a_folder_that_cannot_be_written_is_refused() {
    let scratch = Folder::tiny();
    let convert = |folder: String| vec!["convert".to_owned(), scratch.synthetic(), folder];
    refuses(&convert(scratch.path("")), 1, &["holds other files", "config.json"]);
    refuses(&convert(scratch.path("config.json")), 1, &["is a file; expected a folder"]);
    refuses(&convert("/proc/ossmith".to_owned()), 1, &["cannot make the folder /proc/ossmith"]);
    let source = scratch.path("nowhere");
    let args = vec!["convert".to_owned(), source, scratch.path("out")];
    refuses(&args, 1, &["there is no model"]);
    assert!(!Path::new(&scratch.path("out")).exists());
}
