//! One line of a batch: the request that it holds, and the line that its result makes.

use std::collections::HashSet;
use std::io;

use serde_json::{Map, Value, json};

use crate::ids::new_id_of;

/// Routes that a line may call.
pub(super) const ENDPOINTS: [&str; 3] =
    ["/v1/chat/completions", "/v1/completions", "/v1/responses"];
/// Most characters of a line's name.
const MAX_NAME: usize = 512;

/// A request in a batch.
#[derive(Clone, Debug)]
pub(super) struct BatchLine {
    /// What its sender calls it.
    pub(super) custom_id: String,
    /// The route.
    pub(super) url: String,
    pub(super) body: Map<String, Value>,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LineError {
    /// A code for programs.
    pub(super) code: &'static str,
    /// The field at fault.
    pub(super) param: Option<&'static str>,
    pub(super) message: String,
}

impl LineError {
    fn new(code: &'static str, param: Option<&'static str>, message: String) -> LineError {
        LineError { code, param, message }
    }
}

/// The names of a batch's lines, by which results are told apart.
#[derive(Default)]
pub(super) struct Names(HashSet<[u8; 16]>);

impl Names {
    /// Whether the name is new. A digest is kept of each, so that long names take no more memory than short ones.
    fn insert(&mut self, name: &str) -> bool {
        let hash = blake3::hash(name.as_bytes());
        hash.as_bytes().first_chunk().is_none_or(|digest| self.0.insert(*digest))
    }
}

impl BatchLine {
    /// Reads a line. `endpoint` is the only route that it may call, if the batch names one.
    pub(super) fn read(
        text: &str,
        endpoint: Option<&str>,
        names: &mut Names,
    ) -> Result<BatchLine, LineError> {
        let wrong = |param, why: &str| {
            let message = format!("`{param}` {why}");
            Err(LineError::new("invalid_request", Some(param), message))
        };
        let line: Value = serde_json::from_str(text).map_err(|why| {
            LineError::new("invalid_json_line", None, format!("this is not JSON: {why}"))
        })?;
        let Value::Object(mut line) = line else {
            let why = "this is not an object with `custom_id`, `method`, `url` and `body`";
            return Err(LineError::new("invalid_json_line", None, why.to_owned()));
        };
        let Some(Value::String(custom_id)) = line.remove("custom_id") else {
            return wrong("custom_id", "is not a string; give each line a name of its own");
        };
        if custom_id.is_empty() || custom_id.chars().count() > MAX_NAME {
            return wrong("custom_id", "is empty or has over 512 characters");
        }
        if !names.insert(&custom_id) {
            let message = format!("`custom_id` is `{custom_id}`, as that of an earlier line is");
            return Err(LineError::new("duplicate_custom_id", Some("custom_id"), message));
        }
        if line.get("method").is_some_and(|method| method != "POST") {
            return wrong("method", "is not POST");
        }
        let Some(Value::String(url)) = line.remove("url") else {
            return wrong("url", "is not a string");
        };
        if !ENDPOINTS.contains(&url.as_str()) {
            let message = format!("`url` is `{url}`; use one of {}", ENDPOINTS.join(", "));
            return Err(LineError::new("invalid_url", Some("url"), message));
        }
        if endpoint.is_some_and(|endpoint| endpoint != url) {
            return wrong("url", "is not the endpoint of the batch");
        }
        let Some(Value::Object(body)) = line.remove("body") else {
            return wrong("body", "is not an object");
        };
        for (field, why) in [
            ("stream", "cannot be streamed in a batch"),
            ("background", "cannot be in the background in a batch"),
        ] {
            if body.get(field).is_some_and(|given| given == true) {
                return wrong("body", &format!("{why}: leave `{field}` out"));
            }
        }
        Ok(BatchLine { custom_id, url, body })
    }
}

/// A line without white space around it; none if nothing is left.
pub(super) fn content_of(line: &str) -> Option<&str> {
    Some(line.trim()).filter(|line| !line.is_empty())
}

/// The requests of a batch, whose lines were checked before it was started.
pub(super) fn requests<L: Iterator<Item = io::Result<String>>>(
    lines: L,
    endpoint: Option<String>,
) -> impl Iterator<Item = io::Result<BatchLine>> + use<L> {
    let mut names = Names::default();
    lines.filter_map(move |line| match line {
        Ok(line) => {
            BatchLine::read(content_of(&line)?, endpoint.as_deref(), &mut names).ok().map(Ok)
        }
        Err(why) => Some(Err(why)),
    })
}

/// A line of results. The body is JSON, and stands in the line as it is: read and written again, its numbers could change.
pub(super) fn result_line(custom_id: &str, request_id: &str, status: u16, body: &str) -> String {
    let (id, custom_id) = (json!(new_id_of("batch_req")), json!(custom_id));
    let request_id = json!(request_id);
    format!(
        "{{\"id\":{id},\"custom_id\":{custom_id},\"response\":{{\"status_code\":{status},\
         \"request_id\":{request_id},\"body\":{body}}},\"error\":null}}"
    )
}

/// A line for a request that was not run.
pub(super) fn unrun_line(custom_id: &str, code: &str, message: &str) -> String {
    let line = json!({
        "id": new_id_of("batch_req"), "custom_id": custom_id, "response": null,
        "error": {"code": code, "message": message},
    });
    line.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_has_the_body_as_it_came() {
        let line = result_line("a \"b\"", "r", 200, r#"{"logprob":-0.45488739013671875}"#);
        assert!(line.contains(r#""body":{"logprob":-0.45488739013671875}}"#), "{line}");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&line["custom_id"], &line["error"]), (&json!("a \"b\""), &Value::Null));
        assert_eq!(line["response"]["status_code"], 200);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_named() {
        let mut names = Names::default();
        let body = r#""body":{"messages":[]}"#;
        let chat = r#""url":"/v1/chat/completions""#;
        for (text, code, param) in [
            ("{", "invalid_json_line", None),
            ("[]", "invalid_json_line", None),
            ("{}", "invalid_request", Some("custom_id")),
            (&format!(r#"{{"custom_id":"",{chat},{body}}}"#), "invalid_request", Some("custom_id")),
            (&format!(r#"{{"custom_id":"a",{chat},{body}}}"#), "", None),
            (
                &format!(r#"{{"custom_id":"a",{chat},{body}}}"#),
                "duplicate_custom_id",
                Some("custom_id"),
            ),
            (
                &format!(r#"{{"custom_id":"b","method":"GET",{chat},{body}}}"#),
                "invalid_request",
                Some("method"),
            ),
            (
                &format!(r#"{{"custom_id":"c","url":"/v1/models",{body}}}"#),
                "invalid_url",
                Some("url"),
            ),
            (
                &format!(r#"{{"custom_id":"d","url":"/v1/responses",{body}}}"#),
                "invalid_request",
                Some("url"),
            ),
            (
                &format!(r#"{{"custom_id":"e",{chat},"body":{{"stream":true}}}}"#),
                "invalid_request",
                Some("body"),
            ),
            (&format!(r#"{{"custom_id":"f",{chat}}}"#), "invalid_request", Some("body")),
        ] {
            let read = BatchLine::read(text, Some("/v1/chat/completions"), &mut names);
            let found = read.as_ref().err().map_or(("", None), |why| (why.code, why.param));
            assert_eq!(found, (code, param), "{text}");
        }
    }
}
