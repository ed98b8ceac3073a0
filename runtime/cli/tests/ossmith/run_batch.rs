//! `ossmith run-batch`: its answers are those of a server, line by line, and what cannot be run is refused before anything is.

use serde_json::{Value, json};

use crate::common::{Folder, ossmith, refuses};
use crate::serve::Server;

const DATE: &str = "2026-01-31";

/// Requests of every route, sampled with seeds, and some that are refused.
fn lines() -> Vec<Value> {
    let line = |index: usize| {
        let ask = format!("What is {} + 25?", 3 + index);
        let (url, mut body) = match index % 4 {
            0 => (
                "/v1/chat/completions",
                json!({"messages": [{"role": "user", "content": ask}], "max_tokens": 60}),
            ),
            1 => ("/v1/responses", json!({"input": ask, "max_output_tokens": 60, "store": false})),
            2 => ("/v1/completions", json!({"prompt": ask, "max_tokens": 12, "logprobs": 2})),
            _ => ("/v1/completions", json!({"prompt": [1, 2, 3 + index], "max_tokens": 9, "n": 2})),
        };
        body["model"] = "nano".into();
        body["seed"] = index.into();
        if index % 9 == 8 {
            body["temperature"] = json!(7);
        }
        json!({"custom_id": format!("line {index}"), "method": "POST", "url": url, "body": body})
    };
    (0..36).map(line).collect()
}

/// What two answers to one request have in common, which is all but ids and times.
fn essence(body: &Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|key, _| {
                    !["id", "created", "created_at", "completed_at"].contains(&key.as_str())
                });
                // What was cached depends on what ran before.
                map.remove("cached_tokens");
                map.remove("priority");
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut body = body.clone();
    strip(&mut body);
    body
}

#[test]
fn answers_equal_those_of_a_server_one_by_one() {
    let folder = Folder::empty();
    let lines = lines();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let input = folder.write("in.jsonl", &text);
    let output = folder.path("out.jsonl");
    let args = [
        "run-batch",
        "-i",
        &input,
        "-o",
        &output,
        "--backend",
        "cpu",
        "--date",
        DATE,
        "--max-model-len",
        "4096",
    ];
    let done = ossmith(&args).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success() && said.contains("32 of 36 requests answered, 4 refused"),
        "{said}"
    );

    let results = std::fs::read_to_string(&output).unwrap();
    let results: Vec<Value> =
        results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len(), lines.len());
    let server = Server::start(&["--date", DATE, "--max-model-len", "4096"]);
    for (result, line) in results.iter().zip(&lines) {
        let (path, body) = (line["url"].as_str().unwrap(), line["body"].to_string());
        let (status, alone) = server.ask("POST", path, "", &body);
        let alone: Value = serde_json::from_str(&alone).unwrap();
        assert_eq!(result["custom_id"], line["custom_id"]);
        assert_eq!(result["response"]["status_code"], status);
        assert_eq!(essence(&result["response"]["body"]), essence(&alone), "{line}");
    }
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_batch_that_cannot_be_run_is_refused_before_anything_is() {
    let folder = Folder::empty();
    let wrong = folder
        .write("wrong.jsonl", "\n{\"custom_id\": \"a\", \"url\": \"/v1/models\", \"body\": {}}\n");
    let (output, missing) = (folder.path("out.jsonl"), folder.path("missing.jsonl"));
    for (input, output, want) in [
        (&wrong, &output, &["line 2", "/v1/models"][..]),
        (&missing, &output, &["missing.jsonl"]),
        (&wrong, &wrong, &["the output is the input"]),
    ] {
        let args = ["run-batch", "-i", input, "-o", output, "--backend", "cpu"].map(str::to_owned);
        refuses(&args, 1, want);
    }
    assert!(!std::path::Path::new(&output).exists());
}
