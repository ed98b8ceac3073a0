//! `ossmith fit`: what a card does with a model, with neither at hand.

use serde_json::{Value, json};

use super::common::{Folder, ossmith, refuses};

fn fit(args: &[&str]) -> Value {
    let output = ossmith(&["fit", "--json"]).args(args).assert().success();
    serde_json::from_slice(&output.get_output().stdout).unwrap()
}

#[test]
fn a_published_model_has_its_memory_kernels_and_times() {
    let fits = fit(&["gpt-oss-20b", "--profile", "h200", "--batch", "64"]);
    assert_eq!((&fits["runs"], &fits["losses"]), (&json!(true), &json!([])), "{fits}");
    let bytes = |item: &str| fits["memory_bytes"][item].as_u64().unwrap();
    let items = [
        "weights",
        "shadow_head",
        "pages",
        "rings",
        "snapshots",
        "workspace",
        "sampling",
        "kernels_and_graphs",
    ];
    assert_eq!(items.map(bytes).iter().sum::<u64>(), bytes("total"), "{fits}");
    // 64 sequences of 1,024 tokens in 12 full layers: keys and values of 8 heads of 64 in bf16.
    assert!(bytes("pages").abs_diff(64 * 1024 * 12 * 2 * 8 * 64 * 2) < 12 << 20, "{fits}");
    for (what, regime) in [("step", "batched"), ("prompt", "prefill")] {
        let prediction = &fits[what];
        assert_eq!(prediction["regime"], regime, "{fits}");
        assert!(prediction["ms"].as_f64().unwrap() > 3.0, "{fits}");
        let (mean, largest) = (&prediction["mean_error"], &prediction["largest_error"]);
        assert!(mean.as_f64().unwrap() <= largest.as_f64().unwrap(), "{fits}");
    }
    let text = ossmith(&["fit", "gpt-oss-20b"]).assert().success();
    let text = String::from_utf8_lossy(&text.get_output().stdout).into_owned();
    for part in ["gpt-oss-20b runs on h100: ", "are predicted to within", "moe_up_swiglu_decode1"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn what_does_not_fit_is_said_with_its_numbers() {
    let fits = fit(&["gpt-oss-120b", "--memory", "24"]);
    assert_eq!(fits["runs"], false, "{fits}");
    let why = fits["why"].as_str().unwrap();
    assert!(why.contains("weights 65.4") && why.contains("of 24.00 GB free"), "{why}");
}

#[test]
fn a_configuration_by_itself_will_do_and_lost_kernels_have_their_reason() {
    let folder = Folder::with(&json!({"hidden_size": 96, "intermediate_size": 96}));
    let config = folder.path("config.json");
    for model in [&config, &folder.path("")] {
        let fits = fit(&[model, "--context", "512", "--profile", "h100"]);
        let losses = fits["losses"].as_array().unwrap();
        let of_width = |loss: &Value| loss.as_str().unwrap().contains("64");
        assert!(losses.iter().any(of_width), "wgmma needs whole tiles of 64: {fits}");
    }
    let fits = fit(&["nano", "--profile", "portable"]);
    assert_eq!(fits["step"]["mean_error"], Value::Null, "{fits}");
    let losses = fits["losses"].to_string();
    assert!(losses.contains("batched schedule") && losses.contains("made for sm_90"), "{losses}");
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let folder = Folder::tiny();
    let config = folder.path("config.json");
    for (args, code, want) in [
        (&["fit", &config, "--context", "513"][..], 1, "has 512 positions"),
        (&["fit", "nano", "--profile", "b300"], 2, "known: portable, h100, h200"),
        (&["fit", "nano", "--memory", "0"], 2, "GB above 0"),
        (&["fit", "no-such-model"], 1, "there is no model"),
    ] {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        refuses(&args, code, &[want]);
    }
}
