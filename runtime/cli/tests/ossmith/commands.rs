//! The real binary on tiny models with seeded random weights: results, and the errors of bad input.

use super::common::{Folder, has_nvrtc, ossmith, refuses};
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn generate(folder: &Folder, extra: &[&str]) -> Value {
    let mut command =
        ossmith(&["generate", "--json", "--backend", "cpu", "--model", &folder.synthetic()]);
    let output = command.args(extra).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("random weights"), "the user is warned: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn raw_ids_in_tokens_out_and_the_seed_brings_them_back() {
    let folder = Folder::tiny();
    let ids = "[5, 6, 7, 8]";
    let first = generate(&folder, &["--prompt-ids", ids, "-n", "12", "--ignore-eos"]);
    assert_eq!(first["prompt_token_ids"], json!([5, 6, 7, 8]));
    assert_eq!(first["token_ids"].as_array().unwrap().len(), 12);
    assert_eq!(first["finish_reason"], "length");
    assert_eq!(
        first["usage"],
        json!({"prompt_tokens": 4, "completion_tokens": 12, "total_tokens": 16})
    );
    assert!(first["texts"]["text"].is_string(), "{first}");
    let file = folder.write("ids.json", ids);
    let seed = first["seed"].to_string();
    let again =
        generate(&folder, &["--prompt-ids", &file, "-n", "12", "--ignore-eos", "--seed", &seed]);
    assert_eq!(first["token_ids"], again["token_ids"]);
}

#[test]
fn a_stop_token_ends_the_answer_and_is_its_last_token() {
    let folder = Folder::tiny();
    let greedy = ["--prompt-ids", "[5, 6, 7, 8]", "-t", "0", "-n", "20", "--ignore-eos"];
    let free = generate(&folder, &greedy);
    let tokens = free["token_ids"].as_array().unwrap();
    let stop = &tokens[tokens.len() / 2];
    let end = tokens.iter().position(|token| token == stop).unwrap();
    let stopped =
        generate(&folder, &[&greedy[..], &["--stop-token-ids", &stop.to_string()]].concat());
    assert_eq!(stopped["token_ids"], Value::from(tokens[..=end].to_vec()));
    assert_eq!(stopped["finish_reason"], "stop");
}

#[test]
fn a_prompt_is_rendered_and_the_answer_goes_to_standard_output() {
    let folder = Folder::with(&json!({"vocab_size": 201_088}));
    let model = folder.synthetic();
    let args = ["generate", "Hi", "--backend", "cpu", "--model", &model, "-n", "6", "--seed", "1"];
    let plain = ossmith(&args).output().unwrap();
    assert!(plain.status.success(), "{}", String::from_utf8_lossy(&plain.stderr));
    let json = generate(&folder, &["Hi", "-n", "6", "--seed", "1", "--date", "2026-01-31"]);
    let prompt = json["prompt_token_ids"].as_array().unwrap();
    assert_eq!(prompt[0], 200_006, "<|start|>");
    assert_eq!(
        prompt[prompt.len() - 1],
        200_008,
        "<|message|>: random weights begin on the final channel"
    );
    assert_eq!(json["messages"][0]["channel"], "final");
    assert!(!plain.stdout.is_empty());
}

#[test]
fn logits_are_the_same_however_the_prompt_is_read() {
    let folder = Folder::tiny();
    let tokens: Vec<u32> = (0..70).map(|i| (i * 37 + 11) % 320).collect();
    let file = folder.write("tokens.json", &json!(tokens).to_string());
    let read = |extra: &[&str]| {
        let out = folder.path("out.safetensors");
        let model = folder.synthetic();
        let args =
            ["logits", "--backend", "cpu", "--model", &model, "--tokens", &file, "--out", &out];
        ossmith(&args).args(extra).assert().success();
        std::fs::read(&out).unwrap()
    };
    let whole = read(&[]);
    let tensors = SafeTensors::deserialize(&whole).unwrap();
    assert_eq!(tensors.names(), ["logits"]);
    assert_eq!(tensors.tensor("logits").unwrap().shape(), [70, 320]);
    for extra in [&["--chunk", "1"][..], &["--chunk", "7"], &["--chunk", "64"], &["--step"]] {
        assert_eq!(read(extra), whole, "{extra:?}");
    }
    let inner = read(&["--tensors", "resid,router", "--chunk", "9"]);
    let inner = SafeTensors::deserialize(&inner).unwrap();
    assert_eq!(inner.tensor("resid.1").unwrap().shape(), [70, 64]);
    assert_eq!(inner.tensor("router_indices.0").unwrap().shape(), [70, 2]);
    assert_eq!(inner.tensor("logits").unwrap().data(), tensors.tensor("logits").unwrap().data());
}

#[test]
fn a_chat_goes_on_after_a_turn_that_does_not_fit() {
    let folder = Folder::with(&json!({"vocab_size": 201_088}));
    let long = "word ".repeat(400);
    let mut command =
        ossmith(&["chat", "--backend", "cpu", "--model", &folder.synthetic(), "-n", "3"]);
    let output = command
        .args(["--context", "256"])
        .write_stdin([long.as_bytes(), b"\n/quit\n\xff\nHi\n/exit\n"].concat())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("cache pages") && stderr.contains("/reset"), "{stderr}");
    assert!(stderr.contains("there is no /quit") && stderr.contains("not UTF-8"), "{stderr}");
    assert!(!output.stdout.is_empty());
}

#[test]
fn harmony_answers_line_by_line() {
    let request = "{\"id\": 1, \"op\": \"encode\", \"text\": \"hello world\"}\nnonsense\n";
    let output = ossmith(&["harmony"]).write_stdin(request).assert().success();
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(text.starts_with("{\"id\":1,\"tokens\":[24912,2375]}\n"), "{text}");
    assert!(text.lines().count() == 2 && text.contains("error"), "{text}");
}

#[test]
fn the_doctor_knows_the_models() {
    let output = ossmith(&["doctor", "--json"]).assert().success();
    let facts: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let models = facts["models"].as_array().unwrap();
    assert!(models.contains(&json!("gpt-oss-20b")) && models.contains(&json!("nano")), "{facts}");
    let backend = facts["auto_backend"].as_str().unwrap();
    assert!(backend == "cpu" || backend == "cuda:0", "{facts}");
    assert_eq!(backend == "cpu", facts["cuda_device"].is_string(), "{facts}");
    assert!(facts["nvrtc"].is_string(), "{facts}");
    assert!(facts["cpu_threads"].as_u64().unwrap() >= 1);
    ossmith(&["doctor"]).assert().success();
}

#[test]
fn bad_input_gets_an_error_and_a_hint() {
    let folder = Folder::tiny();
    let empty = Folder::empty();
    let (model, out) = (folder.synthetic(), folder.path("out.safetensors"));
    let file = |name: &str, text: &str| folder.write(name, text);
    let logits = |tokens: &str| {
        let args =
            ["logits", "--backend", "cpu", "--model", &model, "--tokens", tokens, "--out", &out];
        args.map(str::to_owned).to_vec()
    };
    let ask = |model: &str, rest: &[&str]| {
        let args = [&["generate", "--backend", "cpu", "--model", model][..], rest].concat();
        args.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let long = json!(vec![1; 600]).to_string();
    for (args, want) in [
        (
            ask("gpt-oss-21b", &["Hi"]),
            &["no model `gpt-oss-21b`", "nano", "gpt-oss-20b", "gpt-oss-120b"][..],
        ),
        (ask("/no/such/folder", &["Hi"]), &["/no/such/folder", "built-in models are"]),
        (ask("synthetic:gpt-oss-21b", &["Hi"]), &["no model `gpt-oss-21b`"]),
        (
            ask("gpt-oss-20b", &["Hi"]),
            &["no weights of openai/gpt-oss-20b", "synthetic:gpt-oss-20b"],
        ),
        (ask(&empty.path(""), &["Hi"]), &["no config.json"]),
        (ask(&folder.path("config.json"), &["Hi"]), &["config.json` is a file", "the folder"]),
        (ask(&folder.path(""), &["Hi"]), &["safetensors"]),
        (ask(&model, &["--prompt-ids", "[1, 320]"]), &["320 (number 1 of 2", "ids 0 to 319"]),
        (ask(&model, &["--prompt-ids", "[]"]), &["prompt is empty"]),
        (
            ask(&model, &["--prompt-ids", &long]),
            &["600 tokens", "at most 511", "shorten the prompt by 89"],
        ),
        (ask(&model, &["--prompt-ids", "[1, 2"]), &["not a JSON array of token ids"]),
        (ask(&model, &["--prompt-ids", "nothing.json"]), &["cannot read nothing.json"]),
        (ask(&model, &["--prompt-ids", "[1]", "-n", "0"]), &["max_tokens is 0"]),
        (ask(&model, &["--prompt-ids", "[1]", "--temperature=-1"]), &["temperature is -1"]),
        (ask(&model, &["--prompt-ids", "[1]", "-t", "-1"]), &["temperature is -1"]),
        (ask(&model, &["--prompt-ids", "[1]", "--top-p", "2"]), &["top_p is 2"]),
        (logits("nothing.json"), &["cannot read nothing.json"]),
        (logits(&file("bad.json", "{}")), &["bad.json is not a JSON array", "hint:"]),
        (logits(&file("none.json", "[]")), &["prompt is empty"]),
        (logits(&file("range.json", "[1, 9999]")), &["9999"]),
        (logits(&file("long.json", &long)), &["600 tokens", "512", "shorten the prompt by 88"]),
    ] {
        refuses(&args, 1, want);
    }
    assert!(!std::path::Path::new(&out).exists(), "no output is left by a failure");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for (args, want) in [
        (&["generate"][..], "<PROMPT>"),
        (&["generate", "Hi", "--prompt-ids", "[1]"], "cannot be used with"),
        (&["generate", "Hi", "--backend", "gpu"], "auto, cpu, cuda"),
        (&["logits", "--tokens", "x"], "--out"),
        (&["logits", "--tokens", "x", "--out", "y", "--chunk", "0"], "--chunk"),
        (&["logits", "--tokens", "x", "--out", "y", "--chunk", "3", "--step"], "--step"),
        (&["generate", "Hi", "-n", "-1"], "'-1' for '--max-tokens"),
        (&["generate", "Hi", "--date", "today"], "2026-01-31"),
        (&["chat", "--date", "2026-02-30"], "no such day"),
        (&["serve", "--date", "2026-02-30"], "no such day"),
        (&["serve", "--served-model-name", ""], "--served-model-name"),
        (&["serve", "--max-body-bytes", "0"], "--max-body-bytes"),
        (&["serve", "--allowed-origins", "https://a.example/page"], "https://example.com:8443"),
        (&["serve", "--allowed-origins", "https://a.example", "b.example"], "'b.example'"),
        (&["bench", "decode", "--batch", "0"], "--batch"),
        (&["bench", "decode", "--context", "16777217"], "--context"),
        (&["bench", "prefill", "--tokens", "128,0"], "--tokens"),
        (&["kernels", "plan", "--batch", "0"], "--batch"),
        (&["kernels", "plan", "--context", "0"], "--context"),
        (&["kernels", "plan", "--batch", "99999999999"], "--batch"),
        (&["generate", "Hi", "--threads", "1025"], "--threads"),
        (&["bench", "serve", "--max-concurrency", "0"], "--max-concurrency"),
        (&["bench", "serve", "--metric-percentiles", "50,101"], "0 to 100"),
        (&["frobnicate"], "frobnicate"),
    ] {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        refuses(&args, 2, &[want]);
    }
}

#[test]
fn what_cannot_end_well_is_refused_before_it_begins() {
    let nowhere = "/no/such/folder/x";
    for (args, want) in [
        (&["eval", "nano", "--tokens", nowhere][..], "no folder /no/such/folder"),
        (&["bench", "latency", "--output-json", nowhere], "no folder /no/such/folder"),
        (&["bench", "throughput", "--output-json", nowhere], "no folder /no/such/folder"),
        (&["bench", "throughput", "--output-json", "/"], "/ is a folder"),
        (&["bench", "decode", "--svg", nowhere], "no folder /no/such/folder"),
        (
            &["bench", "decode", "--model", "synthetic:gpt-oss-20b", "--context", "131072"],
            "131073 tokens, but the context of gpt-oss-20b is 131072",
        ),
        (
            &["bench", "prefill", "--model", "synthetic:gpt-oss-20b", "--tokens", "131073"],
            "the context of gpt-oss-20b is 131072",
        ),
        (
            &["bench", "latency", "--backend", "cpu", "--input-len", "200000"],
            "the context of nano is",
        ),
        (&["bench", "serve", "--save-result", "--result-dir", nowhere], "no folder /no/such"),
        (&["bench", "serve", "--request-rate", "1e-30"], "--request-rate is 0.0"),
        (&["bench", "serve", "--request-rate", "nan"], "--request-rate is NaN"),
        (&["bench", "serve", "--burstiness", "0"], "--burstiness is 0"),
        (&["bench", "serve", "--burstiness", "inf"], "--burstiness is inf"),
        (&["kernels", "plan", "--bandwidth", "0"], "--bandwidth is 0"),
        (&["kernels", "plan", "--bandwidth", "-5"], "--bandwidth is -5"),
        (&["kernels", "plan", "--bandwidth", "nan"], "--bandwidth is NaN"),
        (&["serve", "--port", "0", "--api-key", ""], "--api-key is empty"),
        (&["logits", "--tokens", "x", "--out", "y", "--draft-tokens", "4"], "--draft-tokens"),
    ] {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        refuses(&args, 1, &[want, "hint:"]);
    }
    let folder = Folder::empty();
    let file = folder.write("file", "");
    for (variable, value, args, want, advice) in [
        ("OSSMITH_CACHE", file.as_str(), &["kernels", "compile"][..], "kernel cache", "hint:"),
        ("OSSMITH_LOG", "[[[", &["doctor"], "OSSMITH_LOG=[[[", "hint:"),
        ("OSSMITH_NVRTC", nowhere, &["kernels", "compile"], nowhere, "unset OSSMITH_NVRTC"),
    ] {
        let output = ossmith(args).env(variable, value).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{variable}: {stderr}");
        assert!(stderr.contains(want) && stderr.contains(advice), "{variable}: {stderr}");
    }
}

#[test]
fn kernels_are_compiled_for_a_device_that_runs_only_some() {
    if !has_nvrtc("kernels for a device that runs only some") {
        return;
    }
    let (folder, cache) = (Folder::tiny(), Folder::empty());
    let model = folder.synthetic();
    let compiled = |arch: &str| {
        let args = ["kernels", "compile", "--model", &model, "--arch", arch];
        let output = ossmith(&args).env("OSSMITH_CACHE", cache.path("")).assert().success();
        let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        // Lines of the log have a thread of their own and may come after the command's own line.
        let mut counts = said.lines().filter_map(|line| line.split(' ').next()?.parse().ok());
        let count: usize = counts.next_back().unwrap_or_else(|| panic!("{said}"));
        count
    };
    assert!(compiled("sm_89") < compiled("sm_90a"));
}

#[test]
fn a_plan_of_the_largest_batch_is_in_numbers() {
    let args = ["kernels", "plan", "--batch", "1048576", "--context", "16777216"];
    let plan = ossmith(&args).assert().success();
    let text = String::from_utf8_lossy(&plan.get_output().stdout).into_owned();
    assert!(text.contains("8.0 distinct experts"), "{text}");
    assert!(!text.contains("inf") && !text.contains("NaN") && !text.contains(" -"), "{text}");
}

#[test]
fn a_config_that_no_kernel_supports_names_the_field() {
    for (change, want) in [
        (json!({"hidden_act": "gelu"}), "hidden_act"),
        (json!({"head_dim": 48}), "head_dim"),
        (json!({"num_experts_per_tok": 9}), "num_experts_per_tok"),
    ] {
        let folder = Folder::with(&change);
        let args = ["generate", "--backend", "cpu", "--model", &folder.synthetic(), "Hi"];
        refuses(&args.map(str::to_owned), 1, &[want]);
    }
}
