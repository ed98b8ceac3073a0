//! What strangers' schemas and grammars do to somebody else's answer: `ossmith serve` with nano on the CPU streams tokens to one
//! client while two others send hostile shapes, one after another, from a seed (`ossmith_server::hostile_request`).
//!
//!     cargo bench -p ossmith-cli --bench hostile -- [SHAPES] [SEED]
//!
//! It prints a line of JSON: the times between tokens before and during the attack, the tokens that came late, the longest
//! times with the steps that were made in them and how much of them a thread of the steps waited for a processor, the statuses
//! of the answers, the memory before, during and after, and how many cores other programs took; and a line for people. It fails where a token came
//! more than 20 ms later than usual, or memory stays 5 % above what it was. Whatever made the token late counts, the scheduling
//! of the server's own threads on the cores that there are included; so on a machine with other work it says nothing, except
//! for `longest_without_waits_for_a_processor_ms`.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]
#![allow(clippy::print_stdout, reason = "its result is for people")]

use std::collections::BTreeMap;
mod server;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use server::Server;

/// How much later than usual a token may come.
const LATE: Duration = Duration::from_millis(20);
/// Share by which memory may have grown when all is over.
const GROWTH: f64 = 0.05;
/// Bytes of a shape.
const MAX_BYTES: usize = 64 << 10;

/// What the kernel says of each of the threads that make steps.
fn step_threads(server: &Server) -> Vec<PathBuf> {
    let of = |task: std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let steps = name.starts_with("ossmith-engine") || name.starts_with("ossmith-cpu");
        steps.then(|| task.path().join("schedstat"))
    };
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap();
    tasks.flatten().filter_map(of).collect()
}

/// The last steps, the newest first: their tokens, and milliseconds in all, of computing, of waiting for the host, and of the
/// host outside the backend.
fn last_steps(server: &Server, count: usize) -> Vec<Value> {
    let mut socket = TcpStream::connect(&server.address).unwrap();
    let ask = format!("GET /debug/steps?count={count} HTTP/1.1\r\nHost: x\r\nConnection: close");
    write!(socket, "{ask}\r\n\r\n").unwrap();
    let mut text = String::new();
    BufReader::new(socket).read_to_string(&mut text).unwrap();
    let body: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let step = |step: &Value| {
        let ms = |key: &str| step[key].as_f64().map(|seconds| (seconds * 1e5).round() / 100.0);
        json!({
            "tokens": step["tokens"], "samples": step["entries"].as_array().map(Vec::len),
            "ms": ms("step_seconds"), "busy_ms": ms("busy_seconds"), "idle_ms": ms("idle_seconds"),
            "host_ms": ms("host_seconds"),
        })
    };
    body["data"].as_array().unwrap().iter().rev().map(step).collect()
}

/// How long each of these threads has waited for a processor.
fn waits(threads: &[PathBuf]) -> Vec<Duration> {
    let waited = |thread: &PathBuf| {
        let times = std::fs::read_to_string(thread).ok()?;
        times.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
    };
    threads.iter().map(|thread| waited(thread).unwrap_or_default()).collect()
}

/// Processor time of all programs, and of this one, its server and the helpers of that, in the kernel's ticks of 10 ms.
fn processor_ticks(server: u32) -> (u64, u64) {
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let all: Vec<u64> =
        stat.lines().next().unwrap().split_whitespace().skip(1).map(|n| number(Some(n))).collect();
    let of = |process: &str| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        // Its own, and that of children that have ended.
        (11..15).map(|at| number(fields.get(at).copied())).sum()
    };
    let children = std::fs::read_dir(format!("/proc/{server}/task")).unwrap().flatten();
    let children =
        children.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let helpers: u64 =
        children.flat_map(|all| all.split_whitespace().map(of).collect::<Vec<_>>()).sum();
    // User, nice, system, interrupts and steal; not idle time.
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|&at| all.get(at)).sum();
    (busy, of("self") + of(&server.to_string()) + helpers)
}

/// The time before a token, and how much of it the thread of the server waited for a processor that waited longest.
#[derive(Clone)]
struct Gap {
    time: Duration,
    waited: Duration,
    /// Of a late token, the steps before it.
    steps: Vec<Value>,
}

/// Reads one stream after another until `stop`, and hands over the time before each token but the first of a stream.
fn read_streams(server: &Server, stop: &AtomicBool, mut each: impl FnMut(Gap)) {
    let ask = json!({"prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": true, "stream": true});
    let threads = step_threads(server);
    while !stop.load(Ordering::Relaxed) {
        let mut last: Option<(Instant, Vec<Duration>)> = None;
        for line in server.send("/v1/completions", "none", &ask).lines().map_while(Result::ok) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if !line.starts_with("data: {") {
                continue;
            }
            let (now, waited) = (Instant::now(), waits(&threads));
            if let Some((at, before)) = last {
                let time = now - at;
                let since = waited.iter().zip(&before).map(|(now, then)| now.saturating_sub(*then));
                let steps = if time > LATE { last_steps(server, 4) } else { Vec::new() };
                each(Gap { time, waited: since.max().unwrap_or_default(), steps });
            }
            last = Some((Instant::now(), waits(&threads)));
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
    let server = Server::start(&[]);
    // The cache is reserved at the start and touched when it is used: its pages by long prompts, and its sliding-window
    // snapshots by more prompts than there are of those.
    let long = (0..48_u64).map(|index| (index, 1500));
    let short = (48..248).map(|index| (index, 330));
    for (index, tokens) in long.chain(short) {
        let prompt: Vec<u64> =
            (0..tokens).map(|at| 300 + (at * 7919 + index * 104_729) % 150_000).collect();
        server.answer("/v1/completions", "none", &json!({"prompt": prompt, "max_tokens": 1}));
    }
    std::thread::sleep(Duration::from_secs(5));
    let before_mib = server.resident_mib();
    // Made before the attack: it would come from another machine.
    let shape = |number: u64| {
        let mut body = ossmith_server::hostile_request(seed * 1_000_000 + number);
        body["messages"] = json!([{"role": "user", "content": "x"}]);
        (body["max_tokens"], body["reasoning_effort"]) = (json!(20), json!("none"));
        body
    };
    let bodies: Vec<Value> =
        (0..shapes).map(shape).filter(|body| body.to_string().len() <= MAX_BYTES).collect();
    let (stop, next) = (AtomicBool::new(false), AtomicUsize::new(0));
    let attacking = AtomicBool::new(false);
    let (mut quiet, mut attacked) = (Vec::new(), Vec::new());
    let mut statuses: BTreeMap<String, u64> = BTreeMap::new();
    let mut highest_mib = before_mib;
    let (mut seconds, mut cores_of_others) = (0.0, 0.0);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            read_streams(&server, &stop, |gap| match attacking.load(Ordering::Relaxed) {
                false => quiet.push(gap),
                true => attacked.push(gap),
            });
        });
        std::thread::sleep(Duration::from_secs(10));
        attacking.store(true, Ordering::Relaxed);
        let (begin, ticks) = (Instant::now(), processor_ticks(server.child.id()));
        let attack = || {
            let mut seen = Vec::new();
            loop {
                let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return seen;
                };
                let (status, _) = server.answer("/v1/chat/completions", "none", body);
                seen.push((status, server.resident_mib()));
            }
        };
        for attacker in [scope.spawn(attack), scope.spawn(attack)] {
            for (status, mib) in attacker.join().unwrap() {
                *statuses.entry(status).or_default() += 1;
                highest_mib = highest_mib.max(mib);
            }
        }
        let (all, own) = processor_ticks(server.child.id());
        let others = (all - ticks.0).saturating_sub(own - ticks.1) as f64 / 100.0;
        seconds = begin.elapsed().as_secs_f64();
        cores_of_others = others / seconds;
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    // What nobody wants again is kept for half a minute.
    std::thread::sleep(Duration::from_secs(45));
    let after_mib = server.resident_mib();
    let usual = summary(&quiet)["p50_ms"].as_f64().unwrap_or(0.0);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let late = |gap: &&Gap| ms(gap.time) > ms(LATE) + usual;
    let own = |gap: &Gap| gap.time.saturating_sub(gap.waited);
    let late_tokens = attacked.iter().filter(late).count();
    let longest_own = attacked.iter().map(own).max().unwrap_or_default();
    let growth = after_mib / before_mib - 1.0;
    let (in_time, given_back) = (late_tokens == 0, growth <= GROWTH);
    attacked.sort_by_key(|gap| std::cmp::Reverse(gap.time));
    let shown = attacked.iter().take(8).map(|gap| {
        json!({"ms": ms(gap.time), "waited_ms": ms(gap.waited), "steps_newest_first": gap.steps})
    });
    let result = json!({
        "shapes": bodies.len(), "seed": seed, "seconds": seconds, "statuses": statuses,
        "cores_of_other_programs": cores_of_others,
        "before": summary(&quiet), "during": summary(&attacked),
        "late_tokens": late_tokens, "late_tokens_before": quiet.iter().filter(late).count(),
        "longest_delay_ms": attacked.first().map(|gap| ms(gap.time) - usual),
        "longest_without_waits_for_a_processor_ms": ms(longest_own),
        "longest": shown.collect::<Vec<_>>(),
        "resident_mib": {"before": before_mib, "highest": highest_mib, "after": after_mib},
        "growth": growth, "tokens_in_time": in_time, "memory_given_back": given_back,
    });
    println!("{result}");
    let percent = growth * 100.0;
    println!(
        "late tokens: {late_tokens} of {}, at most {:.1} ms late; memory: {before_mib:.1} MiB before, \
         {highest_mib:.1} at most, {after_mib:.1} after, {percent:+.2} %",
        attacked.len(),
        attacked.first().map_or(0.0, |gap| ms(gap.time) - usual),
    );
    if in_time && given_back { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
