//! Load: full queues, clients that disconnect, a server that stops.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ossmith::{Allowed, FinishReason};
use ossmith_server::stub::{Script, Stub};
use ossmith_server::{Config, serve};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::common::{Site, chat, config, request, tokens};

#[tokio::test]
async fn routes_of_load_generators_exist_with_the_development_flag() {
    for development in [false, true] {
        let site = Site::with(Config { development, ..config() }, |_| Script::default());
        for path in ["/start_profile", "/reset_prefix_cache", "/stop_profile"] {
            let (status, _, _) = site.send(request("POST", path, "")).await;
            assert_eq!(status, if development { 200 } else { 404 }, "{path}");
        }
        assert_eq!(site.stub.resets(), usize::from(development));
    }
}

/// How many tokens of reasoning a request allows before its message has to end.
async fn reasoning_bound(body: Value) -> usize {
    let bound = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&bound);
    let site = Site::with(Config { context: 32_768, ..config() }, move |request| {
        let mask = request.engine_request.mask.as_ref().expect("something is constrained");
        let mut mask = mask.start(0);
        let mut generated = tokens("<|channel|>analysis<|message|>");
        let (header, word) = (generated.len(), tokens(" word")[0]);
        loop {
            let mut allowed = vec![0; 201_088 / 32];
            let listed = mask.fill(&generated, &mut allowed).unwrap() == Allowed::Listed;
            if listed && (allowed[word as usize / 32] >> (word % 32)) & 1 == 0 {
                break;
            }
            generated.push(word);
        }
        *counted.lock().unwrap() = generated.len() - header;
        Script::default()
    });
    site.post("/v1/chat/completions", &body).await;
    *bound.lock().unwrap()
}

#[tokio::test]
async fn reasoning_leaves_room_for_what_has_to_follow_it() {
    let object = json!({"response_format": {"type": "json_object"}});
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let call = json!({"tools": [tool], "tool_choice": "required"});
    for (max_tokens, want) in [(60, 30), (400, 200), (1000, 744), (6000, 4500), (20_000, 15_904)] {
        for fields in [&object, &call] {
            let mut body = chat(fields.clone());
            body["max_tokens"] = json!(max_tokens);
            assert_eq!(reasoning_bound(body).await, want, "{max_tokens} {fields}");
        }
    }
}

/// A server on a real socket, over a backend that yields a token each millisecond.
struct Running {
    address: String,
    stub: Arc<Stub>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

async fn start(most: usize, words: usize, config: Config) -> Running {
    let text = format!("<|channel|>final<|message|>{}", "word ".repeat(words));
    let turn = tokens(&text);
    let stub = Arc::new(Stub::new(most, move |_| Script {
        tokens: turn.clone(),
        pause: Some(Duration::from_millis(1)),
        failure: None,
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = oneshot::channel::<()>();
    let backend = stub.clone();
    let server = tokio::spawn(serve(listener, config, backend, async move {
        let _ = stopped.await;
    }));
    Running { address, stub, stop, server }
}

impl Running {
    async fn send(&self, stream: bool) -> TcpStream {
        let body = chat(json!({"stream": stream})).to_string();
        let mut socket = TcpStream::connect(&self.address).await.unwrap();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all((head + &body).as_bytes()).await.unwrap();
        socket
    }

    async fn idle(&self) {
        for _ in 0..12_000 {
            if self.stub.running() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} generations still run", self.stub.running());
    }
}

async fn read_all(mut socket: TcpStream) -> String {
    let mut text = Vec::new();
    socket.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_client_that_disconnects_frees_its_place() {
    let site = start(4, 100_000, config()).await;
    for stream in [true, false] {
        let mut socket = site.send(stream).await;
        if stream {
            let mut some = [0; 200];
            socket.read_exact(&mut some).await.unwrap();
        } else {
            while site.stub.running() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        assert_eq!(site.stub.running(), 1);
        drop(socket);
        site.idle().await;
    }
}

#[tokio::test]
async fn a_full_queue_returns_429_with_retry_after() {
    let site = start(2, 100_000, config()).await;
    let (_one, _two) = (site.send(true).await, site.send(true).await);
    while site.stub.running() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = read_all(site.send(true).await).await;
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.to_lowercase().contains("retry-after: 1"), "{refused}");
    assert!(refused.contains("rate_limit_error"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_break_off_do_not_affect_others() {
    const STREAMS: usize = 256;
    let site = start(STREAMS, 60, config()).await;
    let mut tasks = Vec::new();
    for index in 0..STREAMS {
        let mut socket = site.send(true).await;
        tasks.push(tokio::spawn(async move {
            if index % 3 == 0 {
                let mut some = vec![0; 150 + index];
                socket.read_exact(&mut some).await.unwrap();
                return None;
            }
            Some(read_all(socket).await)
        }));
    }
    let mut whole = 0;
    for task in tasks {
        if let Some(text) = task.await.unwrap() {
            assert!(text.starts_with("HTTP/1.1 200"), "{text}");
            assert_eq!(text.matches("word").count(), 60, "{text}");
            assert!(text.contains("data: [DONE]"), "{text}");
            whole += 1;
        }
    }
    assert_eq!(whole, STREAMS - STREAMS.div_ceil(3));
    site.idle().await;
}

#[tokio::test]
async fn stopping_finishes_requests_in_flight_and_accepts_no_new_ones() {
    let site = start(4, 300, config()).await;
    let mut socket = site.send(true).await;
    let mut some = [0; 200];
    socket.read_exact(&mut some).await.unwrap();
    site.stop.send(()).unwrap();
    let rest = read_all(socket).await;
    assert!(rest.contains("data: [DONE]"), "{rest}");
    site.server.await.unwrap().unwrap();
    assert!(TcpStream::connect(&site.address).await.is_err());
}

#[tokio::test]
async fn stopping_waits_no_longer_than_the_configured_time() {
    let hasty = Config { drain: Duration::from_millis(50), ..config() };
    let site = start(4, 1_000_000, hasty).await;
    let mut socket = site.send(true).await;
    let mut some = [0; 200];
    socket.read_exact(&mut some).await.unwrap();
    site.stop.send(()).unwrap();
    site.server.await.unwrap().unwrap();
}

/// Times after which a request is to end. On a machine that is too busy to begin an answer in time, the next is tried.
const TIMEOUTS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(100),
];

#[tokio::test]
async fn the_timeout_holds_for_answers_that_nobody_reads() {
    let turn = tokens(&format!("<|channel|>final<|message|>{}", "word ".repeat(100_000)));
    for timeout in TIMEOUTS {
        let turn = turn.clone();
        let site = Site::with(Config { timeout: Some(timeout), ..config() }, move |_| Script {
            tokens: turn.clone(),
            pause: Some(Duration::from_millis(1)),
            failure: None,
        });
        let body = chat(json!({"stream": true})).to_string();
        let unread = site.open(request("POST", "/v1/chat/completions", &body)).await;
        let began = unread.status() == 200;
        site.idle().await;
        drop(unread);
        let body = json!({"input": "Hi", "background": true});
        let (status, queued) = site.post("/v1/responses", &body).await;
        site.idle().await;
        if !began || status != 200 {
            continue;
        }
        let path = format!("/v1/responses/{}?stream=true", queued["id"].as_str().unwrap());
        let (_, events) = site.get(&path).await;
        let last = events.lines().rfind(|line| line.starts_with("data: ")).unwrap();
        assert!(last.contains("response.failed") && last.contains("was not done after"), "{last}");
        let (_, counts) = site.get("/metrics").await;
        assert!(counts.contains("finished_reason=\"abort\"} 2\n"), "{counts}");
        return;
    }
    panic!("no answer began in time");
}

#[tokio::test]
async fn the_timeout_ends_whole_and_streamed_answers() {
    for timeout in TIMEOUTS {
        let site = start(4, 100_000, Config { timeout: Some(timeout), ..config() }).await;
        let whole = read_all(site.send(false).await).await;
        assert!(whole.starts_with("HTTP/1.1 408") && whole.contains("request_timeout"), "{whole}");
        let streamed = read_all(site.send(true).await).await;
        assert!(streamed.contains("request_timeout"), "{streamed}");
        site.idle().await;
        if streamed.starts_with("HTTP/1.1 200") {
            assert!(streamed.contains("data: [DONE]"), "{streamed}");
            return;
        }
    }
    panic!("no answer began in time");
}

#[tokio::test]
async fn a_refused_body_does_not_hide_the_refusal() {
    let keys = vec!["key".to_owned()];
    let body_bytes = 1 << 20;
    for (config, path, status) in [
        (Config { body_bytes, ..config() }, "/v1/chat/completions", "413"),
        (Config { body_bytes, keys: keys.clone(), ..config() }, "/tokenize", "401"),
    ] {
        for chunked in [false, true] {
            let site = start(4, 1, config.clone()).await;
            let mut socket = TcpStream::connect(&site.address).await.unwrap();
            let bytes = vec![b'x'; 24 << 20];
            let length = match chunked {
                true => "Transfer-Encoding: chunked".to_owned(),
                false => format!("Content-Length: {}", bytes.len()),
            };
            let head =
                format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}\r\n\r\n");
            socket.write_all(head.as_bytes()).await.unwrap();
            // The client writes all of it before it reads.
            if chunked {
                socket.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).await.unwrap();
            }
            socket.write_all(&bytes).await.unwrap();
            if chunked {
                socket.write_all(b"\r\n0\r\n\r\n").await.unwrap();
            }
            let answer = read_all(socket).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{path} {chunked}: {answer}"
            );
        }
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let hasty = Config { body_timeout: Some(Duration::from_millis(50)), ..config() };
    let site = start(4, 1, hasty).await;
    let mut socket = TcpStream::connect(&site.address).await.unwrap();
    let head = "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{";
    socket.write_all(head.as_bytes()).await.unwrap();
    let answer = read_all(socket).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("did not arrive"), "{answer}");
}

#[tokio::test]
async fn a_form_that_cannot_be_followed_is_a_clear_error() {
    // Masks that fail are made by the engine's threads; here by the script.
    for stream in [false, true] {
        let site = Site::with(config(), |request| {
            let mask = request.engine_request.mask.as_ref().expect("something is constrained");
            let mut mask = mask.start(0);
            let mut generated = tokens("<|channel|>final<|message|>");
            let why = loop {
                let mut allowed = vec![0; 201_088 / 32];
                match mask.fill(&generated, &mut allowed) {
                    Ok(_) if generated.len() > 200 => panic!("the grammar is followed for ever"),
                    Ok(_) => generated.extend(tokens(" zzz")),
                    Err(why) => break why,
                }
            };
            Script {
                tokens: generated,
                failure: Some(FinishReason::Failed(why.into())),
                pause: None,
            }
        });
        let body = chat(
            json!({"stream": stream, "reasoning_effort": "none", "structured_outputs": {"regex": "a+"}}),
        );
        let (status, _, text) =
            site.send(request("POST", "/v1/chat/completions", &body.to_string())).await;
        assert_eq!(status.as_u16(), if stream { 200 } else { 400 }, "{text}");
        assert!(text.contains("form_not_followed"), "{text}");
    }
}
