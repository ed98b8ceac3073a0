//! What an operator has of a server: why requests were refused, its last steps, and its load once more.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::serve::Server;

#[test]
fn the_log_says_why_a_request_was_refused_and_nothing_that_it_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let server = Server::start_with(&[], File::create(&path).unwrap().into(), "info");
    let secret = "the moon is made of secrets";
    let mut bad = json!({"messages": [{"role": "user", "content": secret}], "temperature": secret});
    assert_eq!(server.post("/v1/chat/completions", &bad).0, 400);
    // A refusal whose text is the same for all.
    (bad["temperature"], bad["tool_choice"]) = (1.into(), "required".into());
    assert_eq!(server.post("/v1/chat/completions", &bad).0, 400);
    assert_eq!(server.stop(), Some(0));
    let log = std::fs::read_to_string(&path).unwrap();
    let refused: Vec<&str> = log.lines().filter(|line| line.contains("request refused")).collect();
    assert_eq!(refused.len(), 2, "{log}");
    for line in refused {
        assert!(line.contains("status=400") && line.contains(".rs:"), "{line}");
    }
    assert!(!log.contains(secret), "{log}");
}

#[test]
fn recorded_load_comes_again_with_the_same_lengths() {
    let folder = tempfile::tempdir().unwrap();
    let (recording, first) = (folder.path().join("load.jsonl"), folder.path().join("first.jsonl"));
    let server = Server::start(&["--record-arrivals", recording.to_str().unwrap()]);
    let url = format!("http://{}", server.address);
    let bench = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ossmith"))
            .args(["bench", "serve", "--base-url", &url, "--save-result"])
            .args(["--result-filename", "r.json", "--result-dir"])
            .arg(folder.path())
            .args(more)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report = std::fs::read_to_string(folder.path().join("r.json")).unwrap();
        serde_json::from_str::<Value>(&report).unwrap()
    };
    // A generation is recorded a moment after its client has read its end.
    let lines = |count: usize| -> Vec<Value> {
        for _ in 0..1200 {
            let text = std::fs::read_to_string(&recording).unwrap();
            if text.lines().count() >= count {
                return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("fewer than {count} arrivals are recorded");
    };
    for (input, output, count) in [("20", "3", "4"), ("70", "5", "2"), ("9", "1", "1")] {
        let lengths = ["--random-input-len", input, "--random-output-len", output];
        bench(&[&lengths[..], &["--num-prompts", count, "--ignore-eos"]].concat());
    }
    lines(7);
    // Another server does not write over it.
    let output = Command::new(env!("CARGO_BIN_EXE_ossmith"))
        .args(["serve", "--backend", "cpu", "--port", "0", "--record-arrivals"])
        .arg(&recording)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("cannot record to"), "{said}");
    lines(7);
    std::fs::copy(&recording, &first).unwrap();
    let report = bench(&["--replay", first.to_str().unwrap()]);
    assert_eq!((&report["completed"], &report["num_prompts"]), (&json!(7), &json!(7)), "{report}");
    assert!(report["replay"]["max_late_ms"].as_f64().unwrap() >= 0.0, "{report}");
    let all = lines(14);
    let lengths = |arrivals: &[Value]| {
        let of = |one: &Value| (one["prompt_tokens"].as_u64(), one["generated_tokens"].as_u64());
        let mut lengths: Vec<_> = arrivals.iter().map(of).collect();
        lengths.sort_unstable();
        lengths
    };
    assert_eq!(lengths(&all[..7]), lengths(&all[7..]));
    assert_eq!(lengths(&all[..7])[0], (Some(9), Some(1)));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn the_last_steps_can_be_read() {
    let server = Server::start(&["--api-key", "secret", "--operator-key", "root"]);
    let ask = |key: &str, path: &str| server.ask("GET", path, &format!("x-api-key: {key}\r\n"), "");
    let body = json!({"prompt": [1000, 1001, 1002], "max_tokens": 3, "ignore_eos": true});
    let sent = server.ask(
        "POST",
        "/v1/completions",
        "Authorization: Bearer secret\r\n",
        &body.to_string(),
    );
    assert_eq!(sent.0, 200, "{}", sent.1);
    assert_eq!(ask("secret", "/debug/steps").0, 401);
    let (status, text) = ask("root", "/debug/steps?count=100");
    assert_eq!(status, 200, "{text}");
    let steps: Value = serde_json::from_str(&text).unwrap();
    let steps = steps["data"].as_array().unwrap();
    // The last token is not fed back.
    let tokens: u64 = steps.iter().map(|step| step["tokens"].as_u64().unwrap()).sum();
    assert_eq!(tokens, 3 + 2, "{text}");
    assert!(steps.iter().all(|step| step["entries"][0]["request"] == 0), "{text}");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_real_prometheus_reads_the_metrics_the_board_and_the_alerts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let fetched = root.join("target/prometheus/root/usr/bin");
    let there =
        |folder: &&Path| Command::new(folder.join("promtool")).arg("--version").output().is_ok();
    let Some(folder) = [fetched.as_path(), Path::new("/usr/bin")].into_iter().find(there) else {
        let why = "there is no promtool; `cargo xtask test` fetches it";
        writeln!(std::io::stderr(), "NOT CHECKED: metrics in a real Prometheus: {why}").unwrap();
        return;
    };
    let server = Server::start(&[]);
    let output = Command::new("python3")
        .arg(root.join("tests/operating/metrics.py"))
        .arg(format!("http://{}", server.address))
        .arg(folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let (said, errors) = (&output.stdout, &output.stderr);
    let text = [said, errors].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    assert!(output.status.success(), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("ok ")).count(), 4, "{text}");
    assert_eq!(server.stop(), Some(0));
}
