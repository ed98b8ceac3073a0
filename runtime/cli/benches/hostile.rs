//! What strangers' schemas and grammars do to somebody else's answer: `ossmith serve` with nano on the CPU streams tokens to one
//! client while two others send hostile shapes, one after another, from a seed (`ossmith_server::hostile_request`).
//!
//!     cargo bench -p ossmith-cli --bench hostile -- [SHAPES] [SEED]
//!
//! It prints one line of JSON: the times between tokens before and during the attack, the steps that came late and how much of
//! that they waited for a processor, the statuses of the answers, and the memory before, during and after. It fails where a
//! token came more than 20 ms late without having waited for a processor, or memory stays 5 % above what it was. On a machine
//! with other work, only the waits for a processor grow.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]
#![allow(clippy::print_stdout, reason = "its result is for people")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How much later than usual a token may come.
const LATE: Duration = Duration::from_millis(20);
/// Share by which memory may have grown when all is over.
const GROWTH: f64 = 0.05;
/// Bytes of a shape.
const MAX_BYTES: usize = 64 << 10;

struct Server {
    child: Child,
    address: String,
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    fn start() -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ossmith"))
            .args(["serve", "--backend", "cpu", "--port", "0", "--request-timeout", "120"])
            .env_remove("OSSMITH_API_KEY")
            .env("OSSMITH_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        Server { child, address, _stdout: stdout }
    }

    fn send(&self, path: &str, body: &Value) -> BufReader<TcpStream> {
        let (body, mut socket) = (body.to_string(), TcpStream::connect(&self.address).unwrap());
        let head = "Host: x\r\nConnection: close\r\nContent-Type: application/json";
        let length = body.len();
        write!(socket, "POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}")
            .unwrap();
        BufReader::new(socket)
    }

    /// The status of an answer, once all of it is there.
    fn status(&self, path: &str, body: &Value) -> String {
        let mut text = String::new();
        self.send(path, body).read_to_string(&mut text).unwrap();
        text.split(' ').nth(1).unwrap_or("none").to_owned()
    }

    fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// How long each of the threads that make steps has waited for a processor.
    fn waits(&self) -> BTreeMap<OsString, Duration> {
        let of = |task: std::fs::DirEntry| {
            let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
            let steps = name.starts_with("ossmith-engine") || name.starts_with("ossmith-cpu");
            let times = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            let waited = times.split_whitespace().nth(1)?.parse().ok()?;
            steps.then(|| (task.file_name(), Duration::from_nanos(waited)))
        };
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        tasks.flatten().filter_map(of).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The time before a token, and how much of it the thread of the server waited for a processor that waited longest.
#[derive(Clone, Copy)]
struct Gap {
    time: Duration,
    waited: Duration,
}

/// Reads one stream after another until `stop`, and hands over the time before each token but the first of a stream.
fn read_streams(server: &Server, stop: &AtomicBool, mut each: impl FnMut(Gap)) {
    let ask = json!({"prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": true, "stream": true});
    while !stop.load(Ordering::Relaxed) {
        let mut last: Option<(Instant, BTreeMap<OsString, Duration>)> = None;
        for line in server.send("/v1/completions", &ask).lines().map_while(Result::ok) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if !line.starts_with("data: {") {
                continue;
            }
            let (now, waits) = (Instant::now(), server.waits());
            if let Some((at, before)) = last {
                let since = |(task, waited): (&OsString, &Duration)| {
                    waited.saturating_sub(before.get(task).copied().unwrap_or_default())
                };
                let waited = waits.iter().map(since).max().unwrap_or_default();
                each(Gap { time: now - at, waited });
            }
            last = Some((Instant::now(), waits));
        }
    }
}

/// Median, 99th percentile and largest, in milliseconds.
fn summary(gaps: &[Gap]) -> Value {
    let mut times: Vec<f64> = gaps.iter().map(|gap| gap.time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get(((times.len() - 1) as f64 * share) as usize).copied();
    json!({"tokens": times.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)})
}

fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let (shapes, seed) =
        (numbers.first().copied().unwrap_or(500), numbers.get(1).copied().unwrap_or(1));
    let server = Server::start();
    // The cache is reserved at the start and touched when it is used.
    for index in 0..48_u64 {
        let prompt: Vec<u64> =
            (0..1500).map(|at| 300 + (at * 7919 + index * 104_729) % 150_000).collect();
        server.status("/v1/completions", &json!({"prompt": prompt, "max_tokens": 1}));
    }
    std::thread::sleep(Duration::from_secs(5));
    let before_mib = server.resident_mib();
    let (stop, next) = (AtomicBool::new(false), AtomicU64::new(0));
    let attacking = AtomicBool::new(false);
    let (mut quiet, mut attacked) = (Vec::new(), Vec::new());
    let mut statuses: BTreeMap<String, u64> = BTreeMap::new();
    let mut highest_mib = before_mib;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            read_streams(&server, &stop, |gap| match attacking.load(Ordering::Relaxed) {
                false => quiet.push(gap),
                true => attacked.push(gap),
            });
        });
        std::thread::sleep(Duration::from_secs(10));
        attacking.store(true, Ordering::Relaxed);
        let attack = || {
            let mut seen = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= shapes {
                    return seen;
                }
                let mut body = ossmith_server::hostile_request(seed * 1_000_000 + number);
                if body.to_string().len() > MAX_BYTES {
                    continue;
                }
                body["messages"] = json!([{"role": "user", "content": "x"}]);
                (body["max_tokens"], body["reasoning_effort"]) = (json!(20), json!("none"));
                seen.push((server.status("/v1/chat/completions", &body), server.resident_mib()));
            }
        };
        for attacker in [scope.spawn(attack), scope.spawn(attack)] {
            for (status, mib) in attacker.join().unwrap() {
                *statuses.entry(status).or_default() += 1;
                highest_mib = highest_mib.max(mib);
            }
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    // What nobody wants again is kept for half a minute.
    std::thread::sleep(Duration::from_secs(45));
    let after_mib = server.resident_mib();
    let usual = summary(&quiet)["p50_ms"].as_f64().unwrap_or(0.0) / 1e3;
    let late = |gap: &&Gap| gap.time > LATE + Duration::from_secs_f64(usual);
    let own = |gap: &Gap| gap.time.saturating_sub(gap.waited);
    let worst = attacked.iter().map(own).max().unwrap_or_default();
    let growth = after_mib / before_mib - 1.0;
    let met = worst <= LATE + Duration::from_secs_f64(usual) && growth <= GROWTH;
    let result = json!({
        "shapes": shapes, "seed": seed, "statuses": statuses,
        "before": summary(&quiet), "during": summary(&attacked),
        "late_tokens": attacked.iter().filter(late).count(),
        "late_tokens_before": quiet.iter().filter(late).count(),
        "longest_without_waits_for_a_processor_ms": worst.as_secs_f64() * 1e3,
        "resident_mib": {"before": before_mib, "highest": highest_mib, "after": after_mib},
        "growth": growth, "met": met,
    });
    println!("{result}");
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
