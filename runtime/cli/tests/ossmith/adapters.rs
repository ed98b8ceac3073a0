//! Adapters of a server: requests name them as their model, and the operator loads and unloads them while it runs. What they
//! compute is compared with float64 in `tests/suites/numerics/adapters.rs`.

use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};
use serde_json::{Value, json};

use super::common::{Folder, ossmith, refuses};
use super::serve::Server;

/// An adapter of rank 2 on the values of both layers of the tiny model: all its factors are `value`.
fn adapter(folder: &Folder, name: &str, value: f32) -> String {
    let path = folder.path(name);
    fs::create_dir(&path).unwrap();
    let config =
        json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["v_proj"]});
    fs::write(Path::new(&path).join("adapter_config.json"), config.to_string()).unwrap();
    let stem = |layer| format!("base_model.model.model.layers.{layer}.self_attn.v_proj.lora_");
    let floats = |count: usize| -> Vec<u8> { value.to_le_bytes().repeat(count) };
    let (a, b) = (floats(2 * 64), floats(128 * 2));
    let mut tensors = Vec::new();
    for layer in 0..2 {
        let view =
            |shape: [usize; 2], data| TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap();
        tensors.push((format!("{}A.weight", stem(layer)), view([2, 64], &a)));
        tensors.push((format!("{}B.weight", stem(layer)), view([128, 2], &b)));
    }
    serialize_to_file(tensors, None, &Path::new(&path).join("adapter_model.safetensors")).unwrap();
    path
}

fn answer(server: &Server, model: &str) -> (u16, Value) {
    let body = json!({
        "model": model, "prompt": [5, 6, 7, 8, 9], "max_tokens": 12, "temperature": 0, "ignore_eos": true,
        "return_token_ids": true
    });
    server.post("/v1/completions", &body)
}

fn tokens(server: &Server, model: &str) -> Value {
    let (status, answer) = answer(server, model);
    assert_eq!((status, &answer["model"]), (200, &json!(model)), "{answer}");
    answer["choices"][0]["token_ids"].clone()
}

fn models(server: &Server) -> Vec<(String, Value)> {
    let (status, text) = server.ask("GET", "/v1/models", "", "");
    assert_eq!(status, 200, "{text}");
    let list: Value = serde_json::from_str(&text).unwrap();
    let cards = list["data"].as_array().unwrap().iter();
    cards.map(|card| (card["id"].as_str().unwrap().to_owned(), card["parent"].clone())).collect()
}

#[test]
fn requests_name_adapters_and_the_operator_changes_them() {
    let folder = Folder::tiny();
    let (a, b) = (adapter(&folder, "a", 0.3), adapter(&folder, "b", -0.4));
    let model = folder.synthetic();
    let args = [
        &model,
        "--served-model-name",
        "tiny",
        "--max-model-len",
        "64",
        "--allow-runtime-lora",
        "--operator-key",
        "root",
        "--max-loras",
        "2",
        "--lora-modules",
        &format!("first={a}"),
    ];
    let server = Server::start(&args);
    let load = |body: Value, key: &str| {
        let headers = format!("Authorization: Bearer {key}\r\n");
        server.ask("POST", "/v1/load_lora_adapter", &headers, &body.to_string())
    };
    let own = |name: &str, parent: Value| (name.to_owned(), parent);
    assert_eq!(models(&server), [own("tiny", Value::Null), own("first", json!("tiny"))]);
    let base = tokens(&server, "tiny");
    let first = tokens(&server, "first");
    assert_ne!(base, first);
    // The same adapter in the weights. Its values are exact in bf16 only nearly, so a tie could differ; none does here.
    let merged = ossmith(&["generate", "--json", "--backend", "cpu", "--model", &model])
        .args(["--lora", &format!("first={a}"), "--prompt-ids", "[5, 6, 7, 8, 9]"])
        .args(["-t", "0", "-n", "12", "--ignore-eos"])
        .output()
        .unwrap();
    assert!(merged.status.success(), "{}", String::from_utf8_lossy(&merged.stderr));
    let merged: Value = serde_json::from_slice(&merged.stdout).unwrap();
    assert_eq!(merged["token_ids"][0], first[0]);
    assert_eq!(merged["random_weights"], true);

    let (status, text) = load(json!({"lora_name": "second", "lora_path": b}), "wrong");
    assert_eq!(status, 401, "{text}");
    let (status, text) = load(json!({"lora_name": "second", "lora_path": b}), "root");
    assert_eq!(status, 200, "{text}");
    let second = tokens(&server, "second");
    assert!(second != base && second != first, "{second}");
    for (body, expected) in [
        (json!({"lora_name": "second", "lora_path": b}), "is `second`, which is loaded"),
        (json!({"lora_name": "third", "lora_path": b}), "holds 2 adapters"),
        (json!({"lora_name": "tiny", "lora_path": b}), "a name of the model itself"),
        (
            json!({"lora_name": "second", "lora_path": "/nowhere", "load_inplace": true}),
            "has no adapter_config.json",
        ),
        (json!({"lora_name": "third"}), "lora_path"),
    ] {
        let (status, text) = load(body, "root");
        assert!(status == 400 && text.contains(expected), "{status} {text}");
    }
    let (status, text) =
        load(json!({"lora_name": "second", "lora_path": a, "load_inplace": true}), "root");
    assert_eq!(status, 200, "{text}");
    assert_eq!(tokens(&server, "second"), first, "replaced, and nothing cached of the old one");
    let unload = || {
        let (key, body) = ("Authorization: Bearer root\r\n", json!({"lora_name": "second"}));
        server.ask("POST", "/v1/unload_lora_adapter", key, &body.to_string())
    };
    assert_eq!(unload().0, 200);
    let (status, text) = unload();
    assert!(status == 404 && text.contains("this server has: tiny, first"), "{status} {text}");
    let (status, refusal) = answer(&server, "second");
    assert_eq!((status, &refusal["error"]["code"]), (404, &json!("model_not_found")), "{refusal}");
    assert_eq!(tokens(&server, "first"), first);
    assert_eq!(tokens(&server, "tiny"), base);
}

#[test]
fn a_conversion_goes_on_with_the_same_weights_and_adapters_only() {
    let folder = Folder::tiny();
    let a = adapter(&folder, "a", 0.3);
    let convert = |extra: &[&str]| -> Vec<String> {
        let (model, out, lora) = (folder.synthetic(), folder.path("out"), format!("a={a}"));
        let all = ["convert", &model, &out, "--lora", &lora];
        all.iter().chain(extra).map(|word| (*word).to_owned()).collect()
    };
    let words = convert(&[]);
    ossmith(&words.iter().map(String::as_str).collect::<Vec<_>>()).assert().success();
    refuses(&convert(&["--weights-seed", "1"]), 1, &["records another conversion"]);
    let config = Path::new(&a).join("adapter_config.json");
    let text =
        fs::read_to_string(&config).unwrap().replace("\"lora_alpha\":4", "\"lora_alpha\":16");
    fs::write(&config, text).unwrap();
    refuses(&words, 1, &["records another conversion"]);
}

#[test]
fn adapters_that_cannot_be_served_are_refused_at_the_start() {
    let folder = Folder::tiny();
    let a = adapter(&folder, "a", 0.3);
    let serve = |extra: &[&str]| -> Vec<String> {
        let model = folder.synthetic();
        let all = ["serve", &model, "--backend", "cpu", "--port", "0", "--max-model-len", "64"];
        all.iter().chain(extra).map(|word| (*word).to_owned()).collect()
    };
    let named = format!("first={a}");
    refuses(&serve(&["--lora-modules", "first=/nowhere"]), 1, &["has no adapter_config.json"]);
    refuses(&serve(&["--lora-modules", &named, &named]), 1, &["names first twice"]);
    refuses(&serve(&["--lora-modules", &format!("claude-x={a}")]), 1, &["the model itself"]);
    refuses(&serve(&["--lora-modules", &named, "--max-lora-rank", "1"]), 1, &["has rank 2"]);
    refuses(&serve(&["--lora-modules", &named, "--max-lora-bytes", "9"]), 1, &["room for 9"]);
    let wide = Folder::with(&json!({"intermediate_size": 128}));
    let mut ranks = serve(&["--lora-modules", &named, "--tp", "2"]);
    ranks[1] = wide.synthetic();
    refuses(&ranks, 1, &["several ranks apply no adapters", "or run with one rank"]);
    refuses(&serve(&["--lora", "first"]), 2, &["expected NAME=FOLDER"]);
}
