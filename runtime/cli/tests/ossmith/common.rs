//! Tiny model folders, and the binary run on them.

use std::io::Write;

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The built binary; it finds no downloaded models and no devices' settings of the user.
pub(crate) fn ossmith(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ossmith"));
    command
        .args(args)
        .env("HF_HOME", "/nonexistent")
        .env("HF_HUB_OFFLINE", "1")
        .env_remove("HF_HUB_CACHE")
        .env_remove("OSSMITH_LOG");
    command
}

/// The command fails with this exit code, and says all of `want` in an error, not in a panic.
pub(crate) fn refuses(args: &[String], code: i32, want: &[&str]) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = ossmith(&args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(stderr.contains("error:") && !stderr.contains("panicked"), "{args:?}: {stderr}");
    for want in want {
        assert!(stderr.contains(want), "{args:?}: `{want}` is not in `{stderr}`");
    }
    assert!(output.stdout.is_empty(), "{args:?}: errors belong on standard error");
}

/// Whether there is a compiler of kernels. If there is none, `what` is reported as not checked.
pub(crate) fn has_nvrtc(what: &str) -> bool {
    let there = std::env::var_os("OSSMITH_NVRTC").is_some();
    if !there {
        // Not `eprintln!`, which the test runner captures.
        let note = format!("NOT CHECKED: {what}: OSSMITH_NVRTC names no NVRTC\n");
        std::io::stderr().write_all(note.as_bytes()).unwrap();
    }
    there
}

/// A folder with a config.json and no weights.
pub(crate) struct Folder(TempDir);

impl Folder {
    /// Nothing in it.
    pub(crate) fn empty() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    /// Two layers, 320 tokens, a context of 512.
    pub(crate) fn tiny() -> Folder {
        Folder::with(&json!({}))
    }

    /// The tiny model with some fields changed.
    pub(crate) fn with(changes: &Value) -> Folder {
        let mut config = json!({
            "architectures": ["GptOssForCausalLM"],
            "attention_bias": true,
            "eos_token_id": 2,
            "head_dim": 64,
            "hidden_act": "silu",
            "hidden_size": 64,
            "intermediate_size": 64,
            "layer_types": ["sliding_attention", "full_attention"],
            "max_position_embeddings": 512,
            "model_type": "gpt_oss",
            "num_attention_heads": 4,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "num_local_experts": 4,
            "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
            "rms_norm_eps": 1e-5,
            "rope_scaling": {
                "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                "original_max_position_embeddings": 4096, "truncate": false
            },
            "rope_theta": 150_000,
            "sliding_window": 16,
            "swiglu_limit": 7.0,
            "tie_word_embeddings": false,
            "vocab_size": 320
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        let folder = Folder::empty();
        folder.write("config.json", &config.to_string());
        folder
    }

    /// The folder as a model of random weights.
    pub(crate) fn synthetic(&self) -> String {
        format!("synthetic:{}", self.path(""))
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.0.path().join(name), text).unwrap();
        self.path(name)
    }
}
