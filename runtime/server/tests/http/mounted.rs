//! The routes in another application's router: the example, with a real engine.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::common::request;

#[path = "../../examples/mount.rs"]
#[allow(dead_code, reason = "its main function serves for ever")]
mod mount;

async fn send(router: &Router, request: Request<Body>) -> (StatusCode, String) {
    let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    (parts.status, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn routes_stand_beside_those_of_another_application() {
    let engine = mount::engine().unwrap();
    let merged = mount::application(engine.clone());
    let nested = Router::new().nest("/llm", mount::application(engine.clone()));
    let question = json!({
        "model": "nano", "temperature": 0, "max_tokens": 64,
        "messages": [{"role": "user", "content": "What is 17 + 25?"}],
    });
    for (router, prefix) in [(&merged, ""), (&nested, "/llm")] {
        let get = |path: &str| send(router, request("GET", &format!("{prefix}{path}"), ""));
        let (status, page) = get(if prefix.is_empty() { "/" } else { "" }).await;
        assert_eq!(status, StatusCode::OK);
        assert!(page.starts_with("An application"), "{page}");
        let path = format!("{prefix}/v1/chat/completions");
        let (status, answer) = send(router, request("POST", &path, &question.to_string())).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(content.contains("42"), "{answer}");
        // Paths that nobody has are the application's to answer; wrong methods are refused as by the server.
        assert_eq!(get("/nowhere").await, (StatusCode::NOT_FOUND, String::new()));
        let (status, refused) = get("/v1/chat/completions").await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        assert!(refused.contains("GET is not allowed on "), "{refused}");
    }
    engine.shutdown();
}
