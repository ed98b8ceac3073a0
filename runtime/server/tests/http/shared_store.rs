//! Two servers over one Redis server: what one has stored, the other continues. Where there is no `redis-server`, that is reported.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ossmith_server::stub::Script;
use ossmith_server::{Config, FileLimits, SharedStore, StoreLimits};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Site, TURN, config, request, tokens};

/// A Redis server of its own, on a socket in a folder of its own.
struct Redis {
    child: Child,
    folder: TempDir,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Redis {
    /// None where the machine has no `redis-server`, and `cargo xtask test` could not fetch one.
    fn start() -> Option<Redis> {
        let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/redis/root");
        let libraries = fetched.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
        let start = |program: PathBuf, folder: &TempDir| {
            Command::new(program)
                .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", "socket"])
                .current_dir(folder.path())
                .env("LD_LIBRARY_PATH", &libraries)
                .stdout(Stdio::null())
                .spawn()
        };
        let folder = tempfile::tempdir().unwrap();
        let started = start("redis-server".into(), &folder)
            .or_else(|_| start(fetched.join("usr/bin/redis-server"), &folder));
        let Ok(child) = started else {
            let why = "there is no redis-server; `cargo xtask test` fetches it";
            let mut stderr = std::io::stderr();
            writeln!(stderr, "NOT CHECKED: stores that servers share: {why}").unwrap();
            return None;
        };
        let redis = Redis { child, folder };
        for _ in 0..3000 {
            if SharedStore::connect(&redis.url()).is_ok() {
                return Some(redis);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server does not answer");
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("socket").display())
    }

    /// A server that shares this store. It answers with the number of tokens of its prompt.
    fn site(&self, pause: Option<Duration>, limits: StoreLimits) -> Site {
        let shared = SharedStore::connect(&self.url()).unwrap();
        let files = FileLimits {
            folder: self.folder.path().join("files"),
            bytes: 1 << 20,
            file_bytes: 1 << 20,
            lifetime: Duration::from_secs(1000),
        };
        let config = Config {
            keys: ["a", "b"].map(str::to_owned).to_vec(),
            tenant_salt: Some(shared.tenant_salt()),
            shared_store: Some(shared),
            store: limits,
            files: Some(files),
            seal_key: Some("secret".to_owned()),
            ..config()
        };
        Site::with(config, move |request| {
            let length = request.engine_request.prompt.len();
            let turn = TURN.replace("Hello", &format!("{length} tokens"));
            Script { tokens: tokens(&turn), pause, ..Script::default() }
        })
    }
}

async fn send(site: &Site, key: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let mut request = request(method, path, &body.to_string());
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    let (status, _, text) = site.send(request).await;
    (status.as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn id_of(answer: &Value) -> String {
    answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_goes_on_at_any_server() {
    let Some(redis) = Redis::start() else { return };
    let sites = [(); 2].map(|()| redis.site(None, StoreLimits::default()));
    let mut previous = Value::Null;
    let mut input = Vec::new();
    for turn in 0..20 {
        let site = &sites[turn % 2];
        let text = format!("turn {turn}");
        let body = json!({"input": text, "previous_response_id": previous});
        let (status, answer) = send(site, "a", "POST", "/v1/responses", body).await;
        assert_eq!((status, &answer["store"]), (200, &json!(true)), "{answer}");
        // The same conversation in one request has the same prompt.
        input.push(json!({"role": "user", "content": text}));
        let body = json!({"input": input, "store": false});
        let (_, whole) = send(site, "a", "POST", "/v1/responses", body).await;
        assert_eq!(answer["usage"]["input_tokens"], whole["usage"]["input_tokens"], "turn {turn}");
        input.extend(answer["output"].as_array().unwrap().iter().cloned());
        previous = answer["id"].clone();
        let path = format!("/v1/responses/{}", previous.as_str().unwrap());
        let (status, found) = send(&sites[(turn + 1) % 2], "a", "GET", &path, json!({})).await;
        assert_eq!((status, &found), (200, &answer));
        assert_eq!(send(site, "b", "GET", &path, json!({})).await.0, 404, "another key's");
    }
    // An item of it, by its id.
    let item = id_of(&input[1]);
    let reference = json!({"input": [{"type": "item_reference", "id": item}, {"role": "user", "content": "x"}]});
    for (key, want) in [("a", 200), ("b", 404)] {
        let answer = send(&sites[1], key, "POST", "/v1/responses", reference.clone()).await;
        assert_eq!(answer.0, want, "{}", answer.1);
    }
    let path = format!("/v1/responses/{}", previous.as_str().unwrap());
    assert_eq!(send(&sites[0], "a", "DELETE", &path, json!({})).await.0, 200);
    assert_eq!(send(&sites[1], "a", "GET", &path, json!({})).await.0, 404);
    assert_eq!(send(&sites[1], "a", "DELETE", &path, json!({})).await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_lose_nothing_that_servers_add_at_once() {
    let Some(redis) = Redis::start() else { return };
    let sites = [(); 2].map(|()| redis.site(None, StoreLimits::default()));
    let (_, made) = send(&sites[0], "a", "POST", "/v1/conversations", json!({})).await;
    let path = format!("/v1/conversations/{}/items", id_of(&made));
    let add = async |site: &Site, of: &str| {
        for index in 0..25 {
            let item = json!({"items": [{"role": "user", "content": format!("{of} {index}")}]});
            let (status, answer) = send(site, "a", "POST", &path, item).await;
            assert_eq!(status, 200, "{answer}");
        }
    };
    tokio::join!(add(&sites[0], "first"), add(&sites[1], "second"));
    let list = format!("{path}?limit=100&order=asc");
    for site in &sites {
        let (_, items) = send(site, "a", "GET", &list, json!({})).await;
        let texts = items["data"].as_array().unwrap().iter();
        let texts: Vec<_> =
            texts.map(|item| item["content"][0]["text"].as_str().unwrap()).collect();
        assert_eq!(texts.len(), 50);
        for of in ["first", "second"] {
            let own: Vec<_> = texts.iter().filter(|text| text.starts_with(of)).copied().collect();
            let want: Vec<_> = (0..25).map(|index| format!("{of} {index}")).collect();
            assert_eq!(own, want, "each server's are there once, in their order");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_in_the_background_is_seen_and_cancelled_from_elsewhere() {
    let Some(redis) = Redis::start() else { return };
    let slow = redis.site(Some(Duration::from_secs(3600)), StoreLimits::default());
    let fast = redis.site(None, StoreLimits::default());
    let body = json!({"input": "Hi", "background": true});
    let (_, queued) = send(&slow, "a", "POST", "/v1/responses", body.clone()).await;
    let path = format!("/v1/responses/{}", id_of(&queued));
    let (_, seen) = send(&fast, "a", "GET", &path, json!({})).await;
    assert_eq!(seen["status"], "in_progress", "{seen}");
    let next = json!({"input": "Hi", "previous_response_id": queued["id"]});
    assert_eq!(send(&fast, "a", "POST", "/v1/responses", next).await.0, 400, "it has not ended");
    let cancel = format!("{path}/cancel");
    assert_eq!(send(&fast, "b", "POST", &cancel, json!({})).await.0, 404);
    let (status, cancelled) = send(&fast, "a", "POST", &cancel, json!({})).await;
    assert_eq!((status, &cancelled["status"]), (200, &json!("cancelled")), "{cancelled}");
    slow.idle().await;
    assert_eq!(send(&slow, "a", "POST", &cancel, json!({})).await.0, 400, "it has ended");

    // One that ends by itself is continued elsewhere.
    let (_, queued) = send(&fast, "a", "POST", "/v1/responses", body).await;
    let path = format!("/v1/responses/{}", id_of(&queued));
    let mut status = Value::Null;
    for _ in 0..3000 {
        status = send(&slow, "a", "GET", &path, json!({})).await.1["status"].clone();
        if status == "completed" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(status, "completed");
    let next = json!({"input": "Hi", "previous_response_id": queued["id"]});
    assert_eq!(send(&fast, "a", "POST", "/v1/responses", next).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_hold_for_each_key() {
    let Some(redis) = Redis::start() else { return };
    let limits = StoreLimits { entries: 3, ..StoreLimits::default() };
    let sites = [(); 2].map(|()| redis.site(None, limits));
    let mut paths = Vec::new();
    for index in 0..5 {
        let (_, answer) =
            send(&sites[index % 2], "a", "POST", "/v1/responses", json!({"input": "Hi"})).await;
        paths.push(format!("/v1/responses/{}", id_of(&answer)));
        if index == 1 {
            let (_, other) =
                send(&sites[0], "b", "POST", "/v1/responses", json!({"input": "Hi"})).await;
            paths.push(format!("/v1/responses/{}", id_of(&other)));
        }
    }
    let other = paths.remove(2);
    let mut found = Vec::new();
    for path in &paths {
        found.push(send(&sites[0], "a", "GET", path, json!({})).await.0);
    }
    assert_eq!(found, [404, 404, 200, 200, 200]);
    assert_eq!(send(&sites[1], "b", "GET", &other, json!({})).await.0, 200);

    let small = redis.site(None, StoreLimits { bytes: 10, ..StoreLimits::default() });
    let (status, answer) = send(&small, "a", "POST", "/v1/responses", json!({"input": "Hi"})).await;
    assert_eq!(status, 200);
    let path = format!("/v1/responses/{}", id_of(&answer));
    assert_eq!(send(&small, "a", "GET", &path, json!({})).await.0, 404, "larger than the store");
}

/// Items are found by names of their own, which must last as long as the entry that they belong to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_last_as_long_as_their_response_is_used_and_go_with_it() {
    let Some(redis) = Redis::start() else { return };
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let mut keys = |pattern: &str| -> Vec<String> {
        redis::cmd("KEYS").arg(pattern).query(&mut connection).unwrap()
    };
    let site = redis.site(None, StoreLimits::default());
    let (_, answer) = send(&site, "a", "POST", "/v1/responses", json!({"input": "Hi"})).await;
    let path = format!("/v1/responses/{}", id_of(&answer));
    let items = keys("ossmith:*:item:*");
    let whole = [items.clone(), keys("ossmith:*:items:*"), keys("ossmith:*:entry:*")].concat();
    assert!(items.len() >= 2 && whole.len() == items.len() + 2, "{whole:?}");

    // Each would end in a while; the response is read before that.
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    for key in &whole {
        redis::cmd("EXPIRE").arg(key).arg(3600).query::<()>(&mut connection).unwrap();
    }
    assert_eq!(send(&site, "a", "GET", &path, json!({})).await.0, 200);
    for key in &whole {
        let left: u64 = redis::cmd("TTL").arg(key).query(&mut connection).unwrap();
        assert!(left > 3600, "{key} lasts {left} s");
    }

    // Another response that is given an item of the first is the one that the item goes with.
    let item = answer["output"][0].clone();
    let again = json!({"input": [{"role": "user", "content": "Hi"}, item, {"role": "user", "content": "x"}]});
    assert_eq!(send(&site, "a", "POST", "/v1/responses", again).await.0, 200);
    assert_eq!(send(&site, "a", "DELETE", &path, json!({})).await.0, 200);
    let item = id_of(&answer["output"][0]);
    let left = keys("ossmith:*:item:*");
    let gone = items.iter().filter(|key| !left.contains(key)).count();
    assert_eq!(gone, items.len() - 1, "{items:?} {left:?}");
    let reference = json!({"input": [{"type": "item_reference", "id": item}, {"role": "user", "content": "x"}]});
    assert_eq!(send(&site, "a", "POST", "/v1/responses", reference).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_store_a_server_answers_and_says_what_is_lost() {
    let Some(redis) = Redis::start() else { return };
    let site = redis.site(None, StoreLimits::default());
    let (_, kept) = send(&site, "a", "POST", "/v1/responses", json!({"input": "Hi"})).await;
    drop(redis);
    let (status, answer) = send(&site, "a", "POST", "/v1/responses", json!({"input": "Hi"})).await;
    assert_eq!((status, &answer["store"]), (200, &json!(false)), "{answer}");
    let next = json!({"input": "Hi", "previous_response_id": kept["id"]});
    let (status, refused) = send(&site, "a", "POST", "/v1/responses", next).await;
    assert_eq!(
        (status, &refused["error"]["code"]),
        (503, &json!("store_unavailable")),
        "{refused}"
    );
    let body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    assert_eq!(send(&site, "a", "POST", "/v1/chat/completions", body).await.0, 200);
}
