//! Whether one key can tell from the time of an answer that another key has sent a prompt: `ossmith serve` with nano on the CPU
//! and two keys.
//!
//!     cargo bench -p ossmith-cli --bench two_keys -- [ROUNDS]
//!
//! In each round key A sends a new prompt twice, and key B sends the same prompt and one that nobody has sent, in turns of order.
//! It prints one line of JSON: the medians of A's first and second answer, and of B's two; in how many pairs of rounds B's answer
//! to A's prompt came sooner than B's answer to a new one (a half, if it tells nothing); and the cached tokens that B saw. It
//! fails where B saw any, or its times tell A's prompts from new ones: more than five standard errors from a half.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]
#![allow(clippy::print_stdout, reason = "its result is for people")]

mod server;

use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};
use server::Server;

/// Tokens of a prompt: enough that reading it takes far longer than anything else.
const TOKENS: u64 = 600;

/// Milliseconds until a key has the answer to a prompt of this number, and how many of its tokens were cached.
fn ask(server: &Server, key: &str, prompt: u64) -> (f64, u64) {
    let tokens: Vec<u64> =
        (0..TOKENS).map(|at| 300 + (at * 7919 + prompt * 104_729) % 150_000).collect();
    let begin = Instant::now();
    let (status, body) =
        server.answer("/v1/completions", key, &json!({"prompt": tokens, "max_tokens": 1}));
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    assert_eq!(status, "200", "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    (ms, body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0))
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> ExitCode {
    let rounds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(100_u64).max(10);
    let server = Server::start(&["--api-key", "a", "b"]);
    let (mut first, mut again, mut same, mut new) = (vec![], vec![], vec![], vec![]);
    let (mut cached_a, mut cached_b) = (0, 0);
    for round in 0..rounds {
        first.push(ask(&server, "a", 2 * round).0);
        let (ms, cached) = ask(&server, "a", 2 * round);
        again.push(ms);
        cached_a += cached;
        for turn in [round % 2, 1 - round % 2] {
            let (ms, cached) = ask(&server, "b", 2 * round + turn);
            let times = if turn == 0 { &mut same } else { &mut new };
            times.push(ms);
            cached_b += cached;
        }
    }
    let pairs = same.iter().flat_map(|same| new.iter().map(move |new| same < new));
    let sooner = pairs.filter(|sooner| *sooner).count() as f64 / (rounds * rounds) as f64;
    // Of the rank sum of two samples of this size that come from one distribution.
    let error = ((2 * rounds + 1) as f64 / (12 * rounds * rounds) as f64).sqrt();
    let apart = (sooner - 0.5) / error;
    let met = cached_b == 0 && apart.abs() <= 5.0;
    let result = json!({
        "rounds": rounds, "prompt_tokens": TOKENS,
        "key_a_ms": {"new_prompt": median(&first), "the_same_again": median(&again)},
        "key_b_ms": {"prompt_of_key_a": median(&same), "new_prompt": median(&new)},
        "cached_tokens": {"key_a": cached_a, "key_b": cached_b},
        "share_of_pairs_in_which_key_as_prompt_is_sooner": sooner,
        "standard_errors_from_a_half": apart, "met": met,
    });
    println!("{result}");
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
