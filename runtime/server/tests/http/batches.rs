//! Files and batches: what is uploaded is run, and its results are those of the same requests one by one.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use ossmith_server::stub::Script;
use ossmith_server::{Config, FileLimits};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Site, TURN, config, request, tokens};

/// A server that keeps files, which writes the prompt's number of tokens after a pause.
struct Batches {
    site: Site,
    _folder: TempDir,
}

fn limits(folder: &TempDir, bytes: u64) -> FileLimits {
    FileLimits {
        folder: folder.path().to_owned(),
        bytes,
        file_bytes: bytes / 2,
        lifetime: Duration::from_secs(1000),
    }
}

impl Batches {
    fn new(pause: Option<Duration>) -> Batches {
        Batches::with(pause, &[], 1_000_000)
    }

    fn with(pause: Option<Duration>, keys: &[&str], bytes: u64) -> Batches {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            files: Some(limits(&folder, bytes)),
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            ..config()
        };
        let site = Site::with(config, move |request| {
            let length = request.engine_request.prompt.len();
            let turn = TURN.replace("Hello", &format!("{length} tokens"));
            Script { tokens: tokens(&turn), pause, ..Script::default() }
        });
        Batches { site, _folder: folder }
    }

    async fn send(&self, method: &str, path: &str, body: Value, key: &str) -> (u16, Value) {
        let mut request = request(method, path, &body.to_string());
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        let (status, _, text) = self.site.send(request).await;
        (status.as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.send("GET", path, json!({}), "a").await;
        assert_eq!(status, 200, "{body}");
        body
    }

    async fn upload(&self, text: &str, purpose: &str) -> (u16, Value) {
        let body = format!(
            "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\n{purpose}\r\n--b\r\n\
             content-disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n{text}\r\n--b--\r\n"
        );
        let request = Request::post("/v1/files")
            .header("content-type", "multipart/form-data; boundary=b")
            .header("authorization", "Bearer a");
        let (status, _, text) = self.site.send(request.body(Body::from(body)).unwrap()).await;
        (status.as_u16(), serde_json::from_str(&text).unwrap())
    }

    async fn start(&self, text: &str, endpoint: &str) -> String {
        let (status, file) = self.upload(text, "batch").await;
        assert_eq!(status, 200, "{file}");
        let body = json!({
            "input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h",
            "metadata": {"of": "a test"},
        });
        let (status, batch) = self.send("POST", "/v1/batches", body, "a").await;
        assert_eq!((status, &batch["status"]), (200, &json!("validating")), "{batch}");
        batch["id"].as_str().unwrap().to_owned()
    }

    /// The batch, once it is in one of these states.
    async fn until(&self, id: &str, states: &[&str]) -> Value {
        for _ in 0..6000 {
            let batch = self.get(&format!("/v1/batches/{id}")).await;
            if states.contains(&batch["status"].as_str().unwrap()) {
                return batch;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the batch {id} is in none of the states {states:?}");
    }

    async fn lines(&self, file: &Value) -> Vec<Value> {
        let text = self.get(&format!("/v1/files/{}/content", file.as_str().unwrap())).await;
        let text = match &text {
            Value::String(text) => text.clone(),
            one => one.to_string(),
        };
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn line(name: &str, content: &str) -> Value {
    let body = json!({"model": "model", "messages": [{"role": "user", "content": content}]});
    json!({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})
}

/// An answer without what differs from one request to the next.
fn essence(body: &Value) -> Value {
    json!([body["choices"], body["usage"], body["model"], body["object"]])
}

#[tokio::test]
async fn results_are_those_of_the_same_requests_one_by_one() {
    let batches = Batches::new(None);
    let lines: Vec<Value> =
        (0..40).map(|n| line(&format!("line {n}"), &"word ".repeat(n + 1))).collect();
    let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let mut refused = line("refused", "Hi");
    refused["body"]["temperature"] = json!(9);
    text.push_str(&format!("\n{refused}\n"));
    let id = batches.start(&text, "/v1/chat/completions").await;
    let batch = batches.until(&id, &["completed", "failed"]).await;
    assert_eq!(batch["status"], "completed", "{batch}");
    assert_eq!(batch["request_counts"], json!({"total": 41, "completed": 40, "failed": 1}));
    assert_eq!(batch["metadata"], json!({"of": "a test"}));

    let results = batches.lines(&batch["output_file_id"]).await;
    assert_eq!(results.len(), lines.len());
    for (result, line) in results.iter().zip(&lines) {
        assert_eq!(result["custom_id"], line["custom_id"], "results are in the order of the lines");
        assert_eq!(
            (&result["response"]["status_code"], &result["error"]),
            (&json!(200), &Value::Null)
        );
        let (_, alone) = batches.site.post("/v1/chat/completions", &line["body"]).await;
        assert_eq!(essence(&result["response"]["body"]), essence(&alone));
    }
    let errors = batches.lines(&batch["error_file_id"]).await;
    assert_eq!((errors.len(), &errors[0]["custom_id"]), (1, &json!("refused")));
    assert_eq!(errors[0]["response"]["status_code"], 400);
    assert_eq!(errors[0]["response"]["body"]["error"]["param"], "temperature");

    let all = batches.get("/v1/batches").await;
    assert_eq!(all["data"][0]["id"], id.as_str());
    let files = batches.get("/v1/files?purpose=batch").await;
    assert_eq!(files["data"].as_array().unwrap().len(), 1, "{files}");
    let file = format!("/v1/files/{}", batch["input_file_id"].as_str().unwrap());
    assert_eq!(batches.get(&file).await["bytes"], text.len());
    let (_, deleted) = batches.send("DELETE", &file, json!({}), "a").await;
    assert_eq!(deleted["deleted"], true);
    assert_eq!(batches.send("GET", &file, json!({}), "a").await.0, 404);
}

#[tokio::test]
async fn a_batch_with_a_line_that_is_no_request_runs_nothing() {
    let batches = Batches::new(None);
    let text = format!("{}\nno JSON\n{}\n", line("a", "Hi"), line("a", "Hi"));
    let id = batches.start(&text, "/v1/chat/completions").await;
    let batch = batches.until(&id, &["failed", "completed"]).await;
    let errors = batch["errors"]["data"].as_array().unwrap();
    let found: Vec<_> = errors.iter().map(|error| (&error["line"], &error["code"])).collect();
    let want = [(json!(2), json!("invalid_json_line")), (json!(3), json!("duplicate_custom_id"))];
    assert_eq!(found, want.iter().map(|(line, code)| (line, code)).collect::<Vec<_>>());
    let id = batches.start("\n", "/v1/responses").await;
    assert_eq!(batches.until(&id, &["failed", "completed"]).await["status"], "failed");
}

#[tokio::test]
async fn a_cancelled_batch_tells_what_was_not_run() {
    let batches = Batches::new(Some(Duration::from_secs(3600)));
    let text: String = (0..50).map(|n| format!("{}\n", line(&n.to_string(), "Hi"))).collect();
    let id = batches.start(&text, "/v1/chat/completions").await;
    batches.until(&id, &["in_progress"]).await;
    let (_, batch) =
        batches.send("POST", &format!("/v1/batches/{id}/cancel"), json!({}), "a").await;
    assert_eq!(batch["status"], "cancelling", "{batch}");
    let batch = batches.until(&id, &["cancelled"]).await;
    assert_eq!(batch["output_file_id"], Value::Null);
    let lines = batches.lines(&batch["error_file_id"]).await;
    let names: Vec<_> = lines.iter().map(|line| line["custom_id"].as_str().unwrap()).collect();
    assert_eq!(names, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(lines.iter().all(|line| line["error"]["code"] == "batch_cancelled"));
    batches.site.idle().await;
    let (status, _) =
        batches.send("POST", &format!("/v1/batches/{id}/cancel"), json!({}), "a").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_batch_that_waits_for_a_place_can_be_cancelled() {
    let batches = Batches::new(Some(Duration::from_secs(3600)));
    let text = line("a", "Hi").to_string();
    // As many run as one tenant may have.
    for _ in 0..2 {
        let id = batches.start(&text, "/v1/chat/completions").await;
        batches.until(&id, &["in_progress"]).await;
    }
    let id = batches.start(&text, "/v1/chat/completions").await;
    let (_, batch) =
        batches.send("POST", &format!("/v1/batches/{id}/cancel"), json!({}), "a").await;
    assert_eq!(batch["status"], "cancelling", "{batch}");
    let batch = batches.until(&id, &["cancelled"]).await;
    assert!(batch["cancelled_at"].is_u64() && batch["in_progress_at"].is_null(), "{batch}");
    assert_eq!(batch["request_counts"], json!({"total": 0, "completed": 0, "failed": 0}));
}

#[tokio::test]
async fn files_and_batches_are_their_owner_s_and_bounded() {
    let batches = Batches::with(None, &["a", "b"], 20_000);
    let (_, file) = batches.upload("{}", "batch").await;
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    let id = batches.start(&line("a", "Hi").to_string(), "/v1/chat/completions").await;
    for path in [path.clone(), format!("{path}/content"), format!("/v1/batches/{id}")] {
        assert_eq!(batches.send("GET", &path, json!({}), "a").await.0, 200, "{path}");
        assert_eq!(batches.send("GET", &path, json!({}), "b").await.0, 404, "{path}");
    }
    assert_eq!(batches.send("DELETE", &path, json!({}), "b").await.0, 404);
    for path in ["/v1/files", "/v1/batches"] {
        assert_eq!(batches.send("GET", path, json!({}), "b").await.1["data"], json!([]));
        assert_eq!(batches.send("GET", path, json!({}), "c").await.0, 401);
    }
    let body = json!({
        "input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h",
    });
    assert_eq!(batches.send("POST", "/v1/batches", body.clone(), "b").await.0, 404);
    for (field, wrong) in [("endpoint", "/v1/models"), ("completion_window", "1h")] {
        let mut body = body.clone();
        body[field] = json!(wrong);
        let (status, refused) = batches.send("POST", "/v1/batches", body, "a").await;
        assert_eq!((status, &refused["error"]["param"]), (400, &json!(field)), "{refused}");
    }
    for id in ["file-../x", "file-", "x", "file-1.."] {
        let path = format!("/v1/files/{}", id.replace('/', "%2F"));
        assert_eq!(batches.send("GET", &path, json!({}), "a").await.0, 404, "{id}");
    }
    let (status, refused) = batches.upload("{}", "fine-tune").await;
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("purpose")));
    assert_eq!(batches.upload(&"x".repeat(10_001), "batch").await.0, 413);
    // A key may take half of what there is.
    assert_eq!(batches.upload(&"x".repeat(8_000), "batch").await.0, 200);
    let full = batches.upload(&"x".repeat(8_000), "batch").await;
    assert_eq!(full.0, 413, "{}", full.1);
}

#[tokio::test]
async fn a_server_without_a_folder_has_no_files() {
    let site = Site::writing(TURN);
    let (status, refused) = site.get("/v1/files").await;
    assert_eq!(status, 404);
    assert!(refused.contains("--files"), "{refused}");
}

/// The status of an upload of this body, and its answer.
async fn upload_raw(batches: &Batches, body: Vec<u8>) -> (u16, String) {
    let request = Request::post("/v1/files")
        .header("content-type", "multipart/form-data; boundary=b")
        .header("authorization", "Bearer a");
    // In pieces, as from a socket.
    let pieces: Vec<Result<Vec<u8>, std::convert::Infallible>> =
        body.chunks(32 << 10).map(|piece| Ok(piece.to_vec())).collect();
    let body = Body::from_stream(Pieces(pieces.into_iter()));
    let (status, _, text) = batches.site.send(request.body(body).unwrap()).await;
    (status.as_u16(), text)
}

struct Pieces(std::vec::IntoIter<Result<Vec<u8>, std::convert::Infallible>>);

impl futures_core::Stream for Pieces {
    type Item = Result<Vec<u8>, std::convert::Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.next())
    }
}

#[tokio::test]
async fn a_form_that_never_comes_to_a_field_is_cut_off() {
    let batches = Batches::with(None, &["a"], 20_000_000);
    let head = "--b\r\ncontent-disposition: form-data; name=";
    let long = |before: &str| [before.as_bytes(), &vec![b'x'; 3 << 20][..]].concat();
    for (body, what) in [
        (long(""), "no boundary"),
        (long(head), "the head of a field"),
        (long(&format!("{head}\"other\"\r\n\r\n")), "a field that nobody reads"),
    ] {
        let (status, text) = upload_raw(&batches, body).await;
        assert_eq!(status, 400, "{what}: {text}");
        assert!(text.contains("1048576 bytes"), "{what}: {text}");
    }
    // A file as long is no such form.
    let mut file = long(&format!("{head}\"purpose\"\r\n\r\nbatch\r\n{head}\"file\"\r\n\r\n"));
    file.extend_from_slice(b"\r\n--b--\r\n");
    let (status, text) = upload_raw(&batches, file).await;
    let object: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &object["bytes"]), (200, &json!(3 << 20)), "{text}");
}
