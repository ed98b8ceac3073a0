//! `--data-parallel-size 2` on the CPU: one server, batch or bench over two engines of nano.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;

use serde_json::{Value, json};

use crate::common::{Folder, ossmith, refuses};
use crate::serve::Server;

/// The sum of a metric over all its labels, and each engine's part.
fn metric(server: &Server, name: &str) -> (f64, [f64; 2]) {
    let (_, text) = server.ask("GET", "/metrics", "", "");
    let mut each = [0.0; 2];
    let lines = text.lines().filter(|line| line.split('{').next() == Some(name));
    for line in lines {
        let value: f64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
        let engine = usize::from(line.contains("engine=\"1\""));
        assert!(engine == 1 || line.contains("engine=\"0\""), "{line}");
        each[engine] += value;
    }
    (each.iter().sum(), each)
}

/// What a model without a temperature answers.
fn answer(server: &Server, question: &str) -> String {
    let ask = json!({
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 60,
    });
    let (status, answer) = server.post("/v1/chat/completions", &ask);
    assert_eq!(status, 200, "{answer}");
    answer["choices"][0]["message"].to_string()
}

#[test]
fn two_engines_answer_as_one_does() {
    let one = Server::start(&[]);
    let two = Server::start(&["--data-parallel-size", "2"]);
    let questions: Vec<String> = (0..12).map(|n| format!("What is {n} + {}?", 3 * n + 1)).collect();
    let expected: Vec<String> = questions.iter().map(|question| answer(&one, question)).collect();
    assert_eq!(one.stop(), Some(0));
    // Each engine is kept busy by a stream, so that neither is the one that is free whenever a question comes.
    let busy: Vec<_> = (0..2).map(|_| stream(&two, 8000)).collect();
    std::thread::scope(|scope| {
        for (question, expected) in questions.iter().zip(&expected) {
            let two = &two;
            scope.spawn(move || assert_eq!(&answer(two, question), expected, "{question}"));
        }
    });
    let (all, each) = metric(&two, "ossmith:engine_requests_total");
    assert_eq!(all, 2.0 + 12.0);
    assert!(each.iter().all(|&requests| requests > 1.0), "{each:?}");
    drop(busy);
    assert_eq!(metric(&two, "ossmith:engine_up").1, [1.0, 1.0]);
    let (_, info) = two.ask("GET", "/server_info", "", "");
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!((&info["dp_size"], &info["tp_size"]), (&json!(2), &json!(1)));
}

#[test]
fn stored_responses_go_on_where_their_pages_are() {
    let server = Server::start(&["--data-parallel-size", "2"]);
    let respond = |input: String, previous: Option<&str>| {
        let ask = json!({
            "input": input, "previous_response_id": previous, "max_output_tokens": 30, "temperature": 0,
        });
        let (status, answer) = server.post("/v1/responses", &ask);
        assert_eq!(status, 200, "{answer}");
        let cached = answer["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap();
        (answer["id"].as_str().unwrap().to_owned(), cached)
    };
    // Texts that have nothing in common, so that the second goes to the engine that is used less.
    let text = |seed: usize| -> String {
        (0..150).map(|at| format!("{} ", (at * at + 7919 * (seed + 1) * at) % 1000)).collect()
    };
    let first: Vec<String> = (0..4).map(|seed| respond(text(seed), None).0).collect();
    let (_, before) = metric(&server, "vllm:prefix_cache_hits_total");
    for id in first.iter().rev() {
        let (_, cached) = respond("And then?".to_owned(), Some(id));
        assert!(cached >= 256, "{cached} tokens were in the cache of its engine");
    }
    // Two of them in each engine.
    let (_, after) = metric(&server, "vllm:prefix_cache_hits_total");
    let both = [0, 1].iter().all(|&engine| after[engine] >= before[engine] + 512.0);
    assert!(both, "{before:?} {after:?}");
}

/// Opens a stream and reads its first event.
fn stream(server: &Server, tokens: usize) -> BufReader<TcpStream> {
    let ask = json!({
        "prompt": "Once upon a time", "max_tokens": tokens, "ignore_eos": true, "stream": true,
    });
    let (body, mut socket) = (ask.to_string(), TcpStream::connect(&server.address).unwrap());
    let length = body.len();
    write!(
        socket,
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the stream has ended");
    }
    reader
}

#[test]
fn streams_are_cancelled_and_drained_in_both_engines() {
    let server = Server::start(&["--data-parallel-size", "2", "--shutdown-timeout", "300"]);
    let dropped: Vec<_> = (0..4).map(|_| stream(&server, 8000)).collect();
    server.until("each engine runs two", || {
        metric(&server, "vllm:num_requests_running") == (4.0, [2.0, 2.0])
    });
    drop(dropped);
    server.settle();
    assert_eq!(metric(&server, "vllm:num_requests_running").0, 0.0);
    let kept: Vec<_> = (0..4).map(|_| stream(&server, 300)).collect();
    let (ended, texts) = channel();
    let readers: Vec<_> = kept
        .into_iter()
        .map(|reader| {
            let ended = ended.clone();
            std::thread::spawn(move || {
                let lines: Vec<String> = reader.lines().map_while(Result::ok).collect();
                ended.send(lines.iter().any(|line| line == "data: [DONE]")).unwrap();
            })
        })
        .collect();
    assert_eq!(server.stop(), Some(0));
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    drop(ended);
    assert_eq!(texts.iter().collect::<Vec<bool>>(), [true; 4]);
}

#[test]
fn batches_and_benches_run_on_two_engines() {
    let folder = Folder::tiny();
    let line = |n: usize| {
        let body = json!({"prompt": format!("{n} and"), "max_tokens": 9, "temperature": 0});
        json!({"custom_id": n.to_string(), "method": "POST", "url": "/v1/completions", "body": body})
    };
    let lines: String = (0..10).map(|n| format!("{}\n", line(n))).collect();
    let input = folder.write("in.jsonl", &lines);
    let texts = |engines: &str| -> Vec<String> {
        let output = folder.path(&format!("out-{engines}.jsonl"));
        let limits = ["--max-model-len", "1024", "--data-parallel-size", engines];
        ossmith(&["run-batch", "-i", &input, "-o", &output, "--backend", "cpu"])
            .args(limits)
            .assert()
            .success();
        let answers = std::fs::read_to_string(output).unwrap();
        let text = |line: &str| {
            let answer: Value = serde_json::from_str(line).unwrap();
            answer["response"]["body"]["choices"][0]["text"].as_str().unwrap().to_owned()
        };
        answers.lines().map(text).collect()
    };
    let one = texts("1");
    assert_eq!((one.len(), &one), (10, &texts("2")));

    let (model, file) = (folder.synthetic(), folder.path("result.json"));
    ossmith(&[
        "bench",
        "throughput",
        "--model",
        &model,
        "--backend",
        "cpu",
        "--output-json",
        &file,
    ])
    .args(["--num-prompts", "6", "--input-len", "20", "--output-len", "12", "--dp", "2"])
    .assert()
    .success();
    let result: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!((&result["engines"], &result["total_num_tokens"]), (&json!(2), &json!(6 * 32)));
    assert!(result["backend"].as_str().unwrap().starts_with("2 engines"), "{result}");
}

#[test]
fn engines_that_cannot_be_are_refused_with_the_numbers() {
    for (flags, code, want) in [
        (
            &["--dp", "2", "--tp", "2", "--device", "0,1,2"][..],
            1,
            &["--data-parallel-size 2", "needs 4 devices", "names 3"][..],
        ),
        (&["--dp", "2", "--device", "0,1,2"], 1, &["3 CUDA devices", "among 2 engines"]),
        (&["--dp", "2", "--device", "1,1"], 1, &["CUDA device 1 is named twice"]),
        (&["--dp", "0"], 2, &["data-parallel-size"]),
        (
            &["--dp", "2", "--backend", "cpu", "--device", "0,1"],
            1,
            &["--device 0 is a CUDA device"],
        ),
    ] {
        let args: Vec<String> =
            ["serve", "--port", "0"].iter().chain(flags).map(|&arg| arg.to_owned()).collect();
        refuses(&args, code, want);
    }
}
