//! How many streamed tokens per second the HTTP path alone carries: a backend that has all tokens ready, real sockets on
//! loopback, and clients that read and count events. With `apart` the backend yields one token at a time, so that each is a
//! write to the socket of its own, as with a real engine; otherwise tokens that are ready go together. `cargo bench -p
//! ossmith-server` prints one line of JSON per setting, the best of three runs.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ossmith_harmony::encode;
use ossmith_server::stub::{Script, Stub};
use ossmith_server::{Config, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Tokens of each answer.
const TOKENS: usize = 500;

fn main() {
    // `cargo test --benches` only checks that the bench runs.
    let quick = std::env::args().any(|arg| arg == "--test");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        for (path, body) in [
            (
                "/v1/chat/completions",
                r#"{"stream":true,"messages":[{"role":"user","content":"Hi"}]}"#,
            ),
            ("/v1/completions", r#"{"stream":true,"prompt":"Hi","max_tokens":500}"#),
            ("/v1/responses", r#"{"stream":true,"input":"Hi","store":false}"#),
        ] {
            for apart in [true, false] {
                let address = start(apart).await;
                for streams in [1, 16, 256] {
                    let setting = Setting { path, body, apart, streams };
                    setting.measure(&address, quick).await;
                }
            }
        }
    });
}

async fn start(apart: bool) -> String {
    let begin = encode("x")[0];
    let stub = Stub::new(100_000, move |request| {
        let chat = request.engine_request.prompt.len() > 8;
        let mut tokens = if chat { vec![200_005, 17_196, 200_008] } else { Vec::new() };
        tokens.extend(std::iter::repeat_n(begin, TOKENS));
        Script { tokens, pause: apart.then_some(Duration::ZERO), ..Script::default() }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = Config::new("model", 131_072, 201_088);
    tokio::spawn(serve(listener, config, Arc::new(stub), std::future::pending()));
    address
}

#[derive(Clone, Copy)]
struct Setting {
    path: &'static str,
    body: &'static str,
    apart: bool,
    streams: usize,
}

impl Setting {
    async fn measure(self, address: &str, quick: bool) {
        let Setting { path, apart, streams, .. } = self;
        let (runs, rounds) = if quick { (1, 1) } else { (3, 1024 / streams.max(16)) };
        let tokens = streams * rounds * TOKENS;
        let mut best = f64::INFINITY;
        for _ in 0..runs {
            best = best.min(self.run(address, rounds, tokens).await);
        }
        eprintln!(
            "{{\"path\": \"{path}\", \"apart\": {apart}, \"streams\": {streams}, \"tokens\": {tokens}, \"seconds\": {best:.3}, \"tokens_per_s\": {:.0}}}",
            tokens as f64 / best
        );
    }

    /// Seconds for this many answers to each stream.
    async fn run(self, address: &str, rounds: usize, tokens: usize) -> f64 {
        let started = Instant::now();
        let mut clients = Vec::new();
        for _ in 0..self.streams {
            let (address, request) = (address.to_owned(), request(self.path, self.body));
            clients.push(tokio::spawn(async move {
                let mut events = 0;
                for _ in 0..rounds {
                    events += read(&address, &request).await;
                }
                events
            }));
        }
        let mut events = 0;
        for client in clients {
            events += client.await.unwrap();
        }
        assert!(events >= tokens, "{events} events for {tokens} tokens");
        started.elapsed().as_secs_f64()
    }
}

fn request(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Reads an answer whole and counts its events.
async fn read(address: &str, request: &str) -> usize {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let (mut buffer, mut events, mut last) = (vec![0; 1 << 16], 0, 0u8);
    loop {
        let count = socket.read(&mut buffer).await.unwrap();
        if count == 0 {
            return events;
        }
        // Each event ends with an empty line.
        for &byte in &buffer[..count] {
            events += usize::from(byte == b'\n' && last == b'\n');
            last = byte;
        }
    }
}
