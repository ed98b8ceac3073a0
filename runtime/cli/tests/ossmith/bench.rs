//! `ossmith bench throughput` and `bench latency` on the CPU backend: they run, with vLLM's flag names and JSON keys, and
//! their numbers agree with each other.

use serde_json::{Value, json};

use super::common::{Folder, ossmith, refuses};

/// Runs a bench on a tiny random model and reads its result.
fn bench(folder: &Folder, what: &str, args: &[&str]) -> Value {
    let (model, file) = (folder.synthetic(), folder.path("result.json"));
    let always =
        ["bench", what, "--model", &model, "--backend", "cpu", "--threads", "2", "--output-json"];
    let output = ossmith(&always).arg(&file).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{what} {args:?}: {stderr}");
    serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap()
}

/// What vLLM's `bench throughput` writes.
const THROUGHPUT: [&str; 5] = [
    "elapsed_time",
    "num_requests",
    "total_num_tokens",
    "requests_per_second",
    "tokens_per_second",
];

#[test]
fn throughput_counts_every_token_of_every_form_of_request() {
    let folder = Folder::tiny();
    let lengths = folder
        .write("lengths.jsonl", "{\"input_len\": 7, \"output_len\": 3}\n\n{\"input_len\": 2}\n");
    // (flags, requests, tokens or the least and most of them)
    let cases: &[(&[&str], u64, [u64; 2])] = &[
        (&["--input-len", "10", "--output-len", "5", "--num-prompts", "3"], 3, [45, 45]),
        (
            &[
                "--random-input-len",
                "10",
                "--random-output-len",
                "4",
                "--num-prompts",
                "6",
                "--n",
                "2",
                "--max-num-seqs",
                "3",
                "--max-num-batched-tokens",
                "16",
                "--random-prefix-len",
                "20",
                "--enable-prefix-caching",
                "--disable-detokenize",
            ],
            6,
            [6 * (30 + 8), 6 * (30 + 8)],
        ),
        (
            &[
                "--input-len",
                "20",
                "--output-len",
                "10",
                "--num-prompts",
                "8",
                "--random-range-ratio",
                "0.5",
                "--dataset-name",
                "random",
                "--seed",
                "4",
                "--temperature",
                "0",
                "--draft-tokens",
                "3",
            ],
            8,
            [8 * 15 + 1, 8 * 45 - 1],
        ),
        (
            &[
                "--dataset-name",
                "custom",
                "--dataset-path",
                &lengths,
                "--output-len",
                "6",
                "--num-prompts",
                "3",
                "--no-enable-prefix-caching",
                "--num-gpu-blocks-override",
                "9",
            ],
            3,
            [7 + 3 + 2 + 6 + 7 + 3; 2],
        ),
    ];
    for (args, requests, [least, most]) in cases {
        let result = bench(&folder, "throughput", args);
        let number = |key: &str| result[key].as_f64().unwrap_or_else(|| panic!("{key}: {result}"));
        for key in THROUGHPUT {
            assert!(number(key) > 0.0, "{key}: {result}");
        }
        let (tokens, elapsed) =
            (result["total_num_tokens"].as_u64().unwrap(), number("elapsed_time"));
        assert_eq!(result["num_requests"], json!(requests), "{args:?}");
        assert!((*least..=*most).contains(&tokens), "{args:?}: {result}");
        for (rate, count) in
            [("requests_per_second", *requests as f64), ("tokens_per_second", tokens as f64)]
        {
            assert!((number(rate) * elapsed / count - 1.0).abs() < 1e-6, "{rate}: {result}");
        }
        let metrics = &result["metrics"];
        let (busy, idle) = (
            metrics["device_busy_s"].as_f64().unwrap(),
            metrics["device_idle_s"].as_f64().unwrap(),
        );
        assert!(busy > 0.0 && busy + idle <= elapsed * 1.01, "{result}");
        let share = metrics["device_idle_share"].as_f64().unwrap();
        assert!((share - idle / (busy + idle)).abs() < 1e-9, "{result}");
        let of_memory = |part: &str| result["memory"][part].as_u64().unwrap();
        let parts = ["weights", "pages", "rings", "snapshots", "workspace", "graphs"];
        assert_eq!(parts.map(of_memory).iter().sum::<u64>(), of_memory("total"), "{result}");
        assert!(of_memory("pages") > 0 && of_memory("rings") > 0, "{result}");
        assert!(metrics["steps"].as_u64().unwrap() > 0, "{result}");
    }
}

#[test]
fn prompts_of_a_file_are_read_as_text_and_reported_on_the_terminal() {
    let folder = Folder::with(&json!({ "vocab_size": 201_088 }));
    let file =
        folder.write("prompts.jsonl", "{\"prompt\": \"one two three\", \"output_len\": 4}\n");
    let args = ["bench", "throughput", "--backend", "cpu", "--num-prompts", "2", "--dataset-path"];
    let model = folder.synthetic();
    let run = |more: &[&str]| {
        let output = ossmith(&args).args([&file, "--model", &model]).args(more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let said = run(&[]);
    for line in ["Throughput: ", "Total num prompt tokens:  6\n", "Total num output tokens:  8\n"] {
        assert!(said.contains(line), "{said}");
    }
    let object: Value = serde_json::from_str(&run(&["--json"])).unwrap();
    assert_eq!(object["total_num_tokens"], 14, "{object}");
}

#[test]
fn latency_gives_a_time_a_round_and_their_percentiles() {
    let args = [
        "--input-len",
        "6",
        "--output-len",
        "4",
        "--batch-size",
        "3",
        "--num-iters",
        "5",
        "--num-iters-warmup",
        "1",
        "--n",
        "2",
    ];
    let result = bench(&Folder::tiny(), "latency", &args);
    let times: Vec<f64> =
        result["latencies"].as_array().unwrap().iter().map(|time| time.as_f64().unwrap()).collect();
    assert_eq!(times.len(), 5, "{result}");
    let mean = times.iter().sum::<f64>() / 5.0;
    assert!((result["avg_latency"].as_f64().unwrap() - mean).abs() < 1e-9, "{result}");
    assert!(result["std_latency"].as_f64().unwrap() >= 0.0, "{result}");
    let percentiles = result["percentiles"].as_object().unwrap();
    let mut keys: Vec<u32> = percentiles.keys().map(|key| key.parse().unwrap()).collect();
    keys.sort_unstable();
    assert_eq!(keys, [10, 25, 50, 75, 90, 99]);
    let mut sorted = times;
    sorted.sort_by(f64::total_cmp);
    assert!((percentiles["50"].as_f64().unwrap() - sorted[2]).abs() < 1e-9, "{result}");
}

#[test]
fn what_cannot_be_benched_is_refused() {
    let folder = Folder::tiny();
    let model = folder.synthetic();
    let (empty, bad, neither) = (
        folder.write("empty.jsonl", "\n"),
        folder.write("bad.jsonl", "{\"input_len\": 3}\n{\n"),
        folder.write("neither.jsonl", "{\"output_len\": 3}\n"),
    );
    let cases: [(&[&str], &str); 6] = [
        (&["--random-range-ratio", "1"], "give a number from 0 to below 1"),
        (&["--dataset-name", "custom"], "--dataset-path"),
        (&["--dataset-path", &empty], "has no lines"),
        (&["--dataset-path", &bad], "line 2"),
        (&["--dataset-path", &neither], "neither \"prompt\" nor \"input_len\""),
        (&["--input-len", "600"], "sequences of 728 tokens, but the context"),
    ];
    for (more, want) in cases {
        let args = ["bench", "throughput", "--model", &model, "--backend", "cpu"];
        let args: Vec<String> = args.iter().chain(more).map(ToString::to_string).collect();
        refuses(&args, 1, &[want]);
    }
}
