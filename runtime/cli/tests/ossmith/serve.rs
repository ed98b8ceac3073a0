//! `ossmith serve` as its users meet it: started, asked over sockets and through the packages they have, stopped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Barrier;

use serde_json::{Value, json};

/// A server on a free port of this machine.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    pub(crate) fn start(extra: &[&str]) -> Server {
        Server::start_with(extra, Stdio::inherit(), "warn")
    }

    pub(crate) fn start_with(extra: &[&str], stderr: Stdio, level: &str) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ossmith"))
            .args(["serve", "--backend", "cpu", "--port", "0"])
            .args(if extra.contains(&"--max-model-len") {
                &[][..]
            } else {
                &["--max-model-len", "8192"]
            })
            .args(extra)
            .env_remove("OSSMITH_API_KEY")
            .env("OSSMITH_LOG", level)
            // What glibc keeps aside for each thread depends on luck; what the server keeps does not.
            .env("MALLOC_ARENA_MAX", "1")
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap_or_else(|| panic!("{line}"));
        let address = address.split(' ').next().unwrap().to_owned();
        Server { child, address, _stdout: stdout }
    }

    /// Status and body of one request.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        )
        .unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.ask("POST", path, "", &body.to_string());
        (status, serde_json::from_str(&text).unwrap_or_else(|why| panic!("{why}: {text}")))
    }

    /// Waits until it has no running request.
    pub(crate) fn settle(&self) {
        self.until("no request runs", || {
            self.ask("GET", "/load", "", "").1 == "{\"server_load\":0}"
        });
    }

    /// Waits until it holds, for two minutes at most.
    pub(crate) fn until(&self, what: &str, holds: impl Fn() -> bool) {
        for _ in 0..2400 {
            if holds() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("it is still not so that {what}: {}", self.ask("GET", "/metrics", "", "").1);
    }

    /// Memory it has in use, where the system says.
    fn resident_mib(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
    }

    /// Asks it to stop, and gives its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone if the test stopped it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_answers_and_stops_when_asked() {
    let server = Server::start(&["--served-model-name", "small", "tiny"]);
    let ask = json!({"model": "tiny", "temperature": 0, "messages": [{"role": "user", "content": "What is 17 + 25?"}]});
    let (status, answer) = server.post("/v1/chat/completions", &ask);
    assert_eq!(
        (status, &answer["choices"][0]["message"]["content"]),
        (200, &json!("17 + 25 = 42."))
    );
    assert_eq!(server.ask("GET", "/health", "", ""), (200, String::new()));
    let (_, metrics) = server.ask("GET", "/metrics", "", "");
    let counted = format!(
        "vllm:generation_tokens_total{{model_name=\"small\"}} {}",
        answer["usage"]["completion_tokens"]
    );
    assert!(metrics.lines().any(|line| line == counted), "{counted}");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn hostile_grammars_take_the_server_from_nobody() {
    let server = Server::start(&["--request-timeout", "120", "--shutdown-timeout", "5"]);
    let ask = |outputs: Value| {
        let message = json!([{"role": "user", "content": "Say x."}]);
        json!({"messages": message, "max_tokens": 8, "reasoning_effort": "none", "structured_outputs": outputs})
    };
    // Few bytes, and an automaton of a hundred million states.
    let bomb = |seed: usize| {
        let factors = json!([{"multipleOf": 9973}, {"multipleOf": 9967}]);
        ask(json!({"json": {"type": "integer", "minimum": seed, "allOf": factors}}))
    };
    let before = server.resident_mib();
    for seed in 0..3 {
        let (status, answer) = server.post("/v1/chat/completions", &bomb(seed));
        let why = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && why.contains("cannot be enforced"), "{status} {answer}");
    }
    let rules: String = (0..1000).map(|n| format!("a{n}: a{}\n", n + 1)).collect();
    let chain = ask(json!({"grammar": format!("start: a0\n{rules}a1000: \"z\"")}));
    let (status, answer) = server.post("/v1/chat/completions", &chain);
    assert_eq!((status, &answer["choices"][0]["message"]["content"]), (200, &json!("z")));
    assert_eq!(server.post("/tokenize", &chain).0, 200);
    if let (Some(before), Some(after)) = (before, server.resident_mib()) {
        assert!(after < before + 150.0, "{before} MiB, then {after} MiB");
    }
    // A bomb that nobody waits for any more, and one that is being tried out, hold up neither an answer nor the end.
    for seed in 3..5 {
        let mut socket = TcpStream::connect(&server.address).unwrap();
        let body = bomb(seed).to_string();
        let length = body.len();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x";
        write!(socket, "{head}\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        if seed == 3 {
            assert_eq!(server.post("/v1/chat/completions", &ask(json!({"choice": ["a"]}))).0, 200);
            continue;
        }
        let stopping = std::time::Instant::now();
        assert_eq!(server.stop(), Some(0));
        // The shutdown's 5 s, and what a busy machine adds.
        assert!(stopping.elapsed().as_secs() < 15, "it took {:?} to end", stopping.elapsed());
        return;
    }
}

#[test]
fn what_a_schema_forces_takes_no_steps_and_changes_nothing() {
    let server = Server::start(&[]);
    let counter = |name: &str| -> f64 {
        let (_, metrics) = server.ask("GET", "/metrics", "", "");
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split(' ').next_back()?.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {metrics}"))
    };
    let names =
        ["ossmith:steps_total", "ossmith:forced_tokens_total", "vllm:generation_tokens_total"];
    let schema = json!({
        "type": "object", "additionalProperties": false,
        "required": ["customer_identifier", "delivery_address", "express"],
        "properties": {
            "customer_identifier": {"type": "integer", "minimum": 0, "maximum": 999},
            "delivery_address": {"enum": ["the warehouse in Rotterdam", "the office in Antwerp"]},
            "express": {"type": "boolean"},
        },
    });
    for (temperature, seed) in [(0.0, 0), (1.0, 1), (1.0, 2), (1.5, 3)] {
        let ask = |logprobs: bool| {
            let body = json!({
                "messages": [{"role": "user", "content": "An order, please."}],
                "temperature": temperature, "seed": seed, "reasoning_effort": "none",
                "max_tokens": 200, "logprobs": logprobs,
                "structured_outputs": {"json": schema},
            });
            let before = names.map(&counter);
            let (status, answer) = server.post("/v1/chat/completions", &body);
            assert_eq!(status, 200, "{answer}");
            let after = names.map(&counter);
            let text = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
            (text, [0, 1, 2].map(|at| after[at] - before[at]))
        };
        // Tokens whose logprobs are reported are sampled one by one.
        let (one_by_one, [_, none_forced, _]) = ask(true);
        let (jumped, [steps, forced, tokens]) = ask(false);
        assert_eq!(one_by_one, jumped);
        assert!(serde_json::from_str::<Value>(&jumped).unwrap()["express"].is_boolean());
        assert!(none_forced == 0.0 && forced > 4.0, "{forced} of {tokens} tokens were forced");
        // One step more may read the prompt without its last token.
        assert!(steps <= tokens - forced + 1.0, "{steps} steps for {tokens} tokens");
    }
    assert_eq!(counter("ossmith:host_sampled_tokens_total"), 0.0);
}

#[test]
fn load_generators_can_begin_cold() {
    let server = Server::start(&["--development"]);
    let cached = || {
        let question = json!([{"role": "user", "content": "What is 17 + 25?"}]);
        let ask = json!({"messages": question, "max_tokens": 1});
        let (_, answer) = server.post("/v1/chat/completions", &ask);
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(cached(), 0);
    assert!(cached() > 0);
    for path in ["/start_profile", "/reset_prefix_cache", "/stop_profile"] {
        assert_eq!(server.ask("POST", path, "", ""), (200, String::new()), "{path}");
    }
    assert_eq!(cached(), 0);
}

#[test]
fn keys_are_required() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "\u{feff}one\n# the second\n\n two \n").unwrap();
    let server = Server::start(&["--api-key-file", file.to_str().unwrap(), "--api-key", "three"]);
    for (header, status) in [
        ("", 401),
        ("Authorization: Bearer four\r\n", 401),
        ("Authorization: Bearer one\r\n", 200),
        ("authorization: bearer two\r\n", 200),
        ("Authorization: Bearer three\r\n", 200),
    ] {
        assert_eq!(server.ask("GET", "/v1/models", header, "").0, status, "{header}");
        assert_eq!(server.ask("GET", "/version", header, "").0, 200);
    }
}

/// Lines that were dropped, as `/metrics` has it.
fn dropped_lines(server: &Server) -> f64 {
    let (_, metrics) = server.ask("GET", "/metrics", "", "");
    let line = metrics.lines().find(|line| line.starts_with("ossmith:log_lines_dropped_total"));
    line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    // Every write of this one fails.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let server = Server::start_with(&[], full.into(), "info");
    for _ in 0..3 {
        assert_eq!(server.ask("GET", "/health", "", "").0, 200);
    }
    // A thread of its own writes the lines, when it comes to it.
    let mut looks = 0;
    while dropped_lines(&server) < 1.0 {
        assert!(looks < 2400, "no line is counted as dropped");
        std::thread::sleep(std::time::Duration::from_millis(50));
        looks += 1;
    }
    assert_eq!(server.stop(), Some(0));
    // Nobody reads this one, and it fills up.
    let server = Server::start_with(&[], Stdio::piped(), "ossmith=trace,hyper=trace,info");
    let long = format!("/{}", "x".repeat(8000));
    for _ in 0..40 {
        assert_eq!(server.ask("GET", &long, "", "").0, 404);
    }
    let ask = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2});
    assert_eq!(server.post("/v1/chat/completions", &ask).0, 200);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_key_shares_no_prefix_with_another() {
    let cached = |server: &Server, key: &str, more: Value| {
        let mut ask =
            json!({"prompt": "The secret of Initech is 7731. ".repeat(60), "max_tokens": 1});
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let key = format!("Authorization: Bearer {key}\r\n");
        let (status, text) = server.ask("POST", "/v1/completions", &key, &ask.to_string());
        assert_eq!(status, 200, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0)
    };
    let server = Server::start(&["--api-key", "a", "b"]);
    assert_eq!(cached(&server, "a", json!({})), 0);
    assert!(cached(&server, "a", json!({})) > 0);
    assert_eq!(cached(&server, "b", json!({})), 0);
    assert!(cached(&server, "b", json!({})) > 0);
    assert_eq!(cached(&server, "a", json!({"cache_salt": "x"})), 0);
    assert!(cached(&server, "a", json!({"cache_salt": "x"})) > 0);
    let server = Server::start(&["--api-key", "a", "b", "--one-tenant"]);
    assert_eq!(cached(&server, "a", json!({})), 0);
    assert!(cached(&server, "b", json!({})) > 0);
}

#[test]
fn a_checkpoint_that_is_cut_short_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = root().join("tests/fixtures/tiny");
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(fixture.join(name), folder.path().join(name)).unwrap();
    }
    let model = folder.path().to_str().unwrap();
    let mut server =
        Server::start_with(&["--model", model, "--max-model-len", "512"], Stdio::piped(), "warn");
    let weights = folder.path().join("model.safetensors");
    let file = std::fs::OpenOptions::new().write(true).open(&weights).unwrap();
    file.set_len(0).unwrap();
    let mut socket = TcpStream::connect(&server.address).unwrap();
    let body = json!({"prompt": [1, 2, 3], "max_tokens": 4}).to_string();
    let length = body.len();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close";
    write!(socket, "{head}\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    // No answer comes: the process ends.
    let _ = socket.read_to_end(&mut Vec::new());
    assert_eq!(server.child.wait().unwrap().code(), Some(1));
    let mut said = String::new();
    server.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("model.safetensors was cut short"), "{said}");
}

#[test]
fn a_key_that_nobody_can_send_starts_no_open_server() {
    use std::os::unix::ffi::OsStrExt;
    for variable in ["OSSMITH_API_KEY", "OSSMITH_OPERATOR_KEY"] {
        for (key, want) in
            [(&b""[..], "is empty"), (b" ", "is empty"), (b"\xff\xfe", "is not valid UTF-8")]
        {
            let output = Command::new(env!("CARGO_BIN_EXE_ossmith"))
                .args(["serve", "--backend", "cpu", "--port", "0"])
                .env_remove("OSSMITH_API_KEY")
                .env(variable, std::ffi::OsStr::from_bytes(key))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let want = format!("{variable} {want}");
            assert!(!output.status.success() && said.contains(&want), "{said}");
        }
    }
}

#[test]
fn load_can_be_put_on_it() {
    let server = Server::start(&["--served-model-name", "small"]);
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{}", server.address);
    for backend in ["vllm", "openai-chat"] {
        let output = Command::new(env!("CARGO_BIN_EXE_ossmith"))
            .args(["bench", "serve", "--backend", backend, "--base-url", &url])
            .args(["--num-prompts", "4", "--max-concurrency", "2", "--ignore-eos"])
            .args(["--random-input-len", "20", "--random-output-len", "6"])
            .args(["--percentile-metrics", "ttft,e2el", "--goodput", "ttft:100000"])
            .args(["--save-result", "--result-filename", "r.json", "--result-dir"])
            .arg(folder.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        let report = std::fs::read_to_string(folder.path().join("r.json")).unwrap();
        let report: Value = serde_json::from_str(&report).unwrap();
        let count = |key: &str| report[key].as_u64().unwrap();
        assert_eq!((count("completed"), count("failed")), (4, 0), "{report}");
        assert_eq!(count("total_output_tokens"), 24, "{report}");
        assert_eq!(report["model_id"], "small");
        assert_eq!(report["request_rate"], "inf");
        for key in ["mean_ttft_ms", "p99_e2el_ms", "request_goodput", "output_throughput"] {
            assert!(report[key].as_f64().unwrap() > 0.0, "{key}: {report}");
        }
    }
}

/// One streamed answer of a few tokens, over one of the three APIs; some clients go away somewhere in it. True if it came
/// whole and good.
fn one_of_many(address: &str, open: &Barrier, round: usize, number: usize) -> Option<bool> {
    let asked = format!("{round} {number}");
    let (path, mut body) = match number % 3 {
        0 => ("completions", json!({"max_tokens": 4, "ignore_eos": true, "prompt": asked})),
        1 => (
            "chat/completions",
            json!({"max_tokens": 4, "messages": [{"role": "user", "content": asked}], "tools": [
                {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}),
        ),
        _ => ("responses", json!({"max_output_tokens": 4, "input": asked})),
    };
    body["stream"] = true.into();
    let body = body.to_string();
    let mut socket = TcpStream::connect(address).unwrap();
    open.wait();
    let length = body.len();
    write!(
        socket,
        "POST /v1/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let random = (round * STREAMS + number).wrapping_mul(2_654_435_769) >> 7;
    if random.is_multiple_of(3) {
        let mut some = vec![0; 1 + random % 2000];
        // However much of it came.
        let _ = socket.read(&mut some);
        return None;
    }
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let ended = text.contains("[DONE]") || text.contains("event: response.incomplete");
    Some(text.starts_with("HTTP/1.1 200") && ended && !text.contains("\"error\":{"))
}

const STREAMS: usize = 256;
/// Rounds in which memory must settle. A machine that is busy lets fewer streams run at a time in one round and more in a
/// later one, and memory is touched when it is first used.
const ROUNDS: usize = 20;

/// Whether the last three rounds have added next to nothing. Their 768 requests would show if each left four kilobytes.
fn has_settled(resident: &[Option<f64>]) -> bool {
    match resident {
        [.., before, _, _, after] => match (before, after) {
            (Some(before), Some(after)) => after - before < 3.0,
            _ => true,
        },
        _ => false,
    }
}

#[test]
fn many_streams_leave_nothing_behind() {
    // What a server has to hold is bounded; here by little, so that it is reached soon.
    let server = Server::start(&[
        "--max-model-len",
        "1024",
        "--kv-cache-tokens",
        "4096",
        "--store-entries",
        "64",
    ]);
    let mut resident = Vec::new();
    while !has_settled(&resident) {
        let round = resident.len();
        assert!(round < ROUNDS, "resident MiB after each round: {resident:?}");
        // How many connections are open at a time decides what memory they take, so all of a round are.
        let open = Barrier::new(STREAMS);
        let outcomes: Vec<Option<bool>> = std::thread::scope(|scope| {
            let ask = |number| {
                let (address, open) = (&server.address, &open);
                scope.spawn(move || one_of_many(address, open, round, number))
            };
            let threads: Vec<_> = (0..STREAMS).map(ask).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(outcomes.iter().flatten().all(|good| *good));
        let gone = outcomes.iter().filter(|outcome| outcome.is_none()).count();
        assert!((40..140).contains(&gone), "{gone} went away");
        server.settle();
        resident.push(server.resident_mib());
    }
    let gauges =
        ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"];
    let lines = gauges.map(|gauge| format!("{gauge}{{model_name=\"nano\"}} 0"));
    // A request whose client went away before it was read whole may still come to its end.
    server.until("all gauges are 0", || {
        let (_, metrics) = server.ask("GET", "/metrics", "", "");
        lines.iter().all(|line| metrics.lines().any(|found| found == line))
    });
}

/// The README's blocks on serving in this language, with a server's own address.
fn readme_blocks(language: &str, server: &Server) -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let section = readme.split("## Serve\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let fence = format!("```{language}\n");
    let blocks = section.split(&fence).skip(1).map(|block| block.split("```").next().unwrap());
    blocks.map(|block| block.replace("127.0.0.1:8000", &server.address)).collect()
}

#[test]
fn the_readme_can_be_copied() {
    let server = Server::start(&[]);
    let shell = readme_blocks("sh", &server);
    assert_eq!(shell.len(), 1);
    let output = Command::new("sh").args(["-c", &shell[0]]).output().unwrap();
    if output.status.code() == Some(127) {
        writeln!(
            std::io::stderr(),
            "NOT CHECKED: the README's curl command: there is no curl here"
        )
        .unwrap();
    } else {
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(answer["choices"][0]["message"]["content"].is_string(), "{answer}");
    }
    let Some(python) = python() else {
        writeln!(std::io::stderr(), "NOT CHECKED: the README's Python: openai is not installed")
            .unwrap();
        return;
    };
    let blocks = readme_blocks("python", &server);
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let output = Command::new(&python).args(["-c", &block]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !output.stdout.is_empty(), "{block}\n{stderr}");
    }
}

#[test]
fn the_packages_that_users_have_work_unchanged() {
    let Some(python) = python() else {
        let mut stderr = std::io::stderr();
        let why = "openai and openai-agents are not installed; `cargo xtask test` fetches them";
        writeln!(stderr, "NOT CHECKED: the server with OpenAI's packages: {why}").unwrap();
        return;
    };
    let mut failures = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().display().to_string();
    // Made-up requests go on for as long as they may, so there they may not for long.
    let schema = ["--max-model-len", "128", "--files", &files];
    for suite in ["chat", "responses", "helpers", "agents_sdk", "overload", "schema"] {
        let server = Server::start(match suite {
            "schema" => &schema,
            "overload" => &["--max-num-seqs", "1", "--max-queue", "1"],
            _ => &[],
        });
        let url = format!("http://{}/v1", server.address);
        let script = root().join("tests/server/run.py");
        let output = Command::new(&python)
            .arg(script)
            .args([suite, &url, "nano"])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("OPENAI_API_KEY", "none")
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            failures.push(format!("{said}\n{}", String::from_utf8_lossy(&output.stderr)));
        }
        for skipped in said.lines().filter(|line| line.starts_with("NOT CHECKED")) {
            writeln!(std::io::stderr(), "{skipped}").unwrap();
        }
        assert_eq!(server.stop(), Some(0));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_exported_tokenizer_has_the_same_ids_elsewhere() {
    let wanted = "import tokenizers, transformers";
    let Some(python) = python().filter(|python| {
        Command::new(python).args(["-c", wanted]).output().is_ok_and(|done| done.status.success())
    }) else {
        let why = "transformers is not installed; `cargo xtask test` fetches it";
        writeln!(std::io::stderr(), "NOT CHECKED: the exported tokenizer: {why}").unwrap();
        return;
    };
    let date = "2026-01-31";
    let server = Server::start(&["--date", date]);
    let output = Command::new(&python)
        .arg(root().join("tests/server/tokenizer.py"))
        .args([env!("CARGO_BIN_EXE_ossmith"), &format!("http://{}", server.address), date])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{stderr}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(server.stop(), Some(0));
}

/// A Python with OpenAI's packages: the one that `cargo xtask test` makes.
fn python() -> Option<PathBuf> {
    let python = root().join("target/py/bin/python3");
    let probe = Command::new(&python).args(["-c", "import openai, agents"]).output().ok()?;
    probe.status.success().then_some(python)
}

pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
