//! The command `ossmith harmony`: one JSON request a line in, one JSON answer a line out.
//!
//! The caller owns the streams; nothing here opens a file or prints. `request` has the requests' shapes, this file answers them.
//! Everything is done in parity mode: the answers equal the reference library's.

mod request;

use std::io::{self, BufRead, Write};

use serde_json::{Value, json};

use crate::encoding::{decode, decode_lossy, encode_with_special};
use crate::parse::{ParseError, ReferenceParser, parse};
use crate::render::{render, render_for_completion_with, render_for_training, render_message_with};
use crate::special::{stop_tokens, stop_tokens_for_assistant_actions};
use request::{DecodeErrors, Request};

/// Answers requests until the input ends. Only a failing stream is an error: a request that fails is answered with `error`.
///
/// ```
/// let requests = "{\"id\":1,\"op\":\"encode\",\"text\":\"hello world\"}\nnonsense\n";
/// let mut answers = Vec::new();
/// ossmith_harmony::serve_lines(requests.as_bytes(), &mut answers)?;
/// let answers = String::from_utf8_lossy(&answers);
/// assert!(answers.starts_with("{\"id\":1,\"tokens\":[24912,2375]}\n{\"id\":null,\"error\":"));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn serve_lines(mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            return output.flush();
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        serde_json::to_writer(&mut output, &answer_line(&line))?;
        output.write_all(b"\n")?;
        // Whoever waits for an answer before sending the next request gets it.
        output.flush()?;
    }
}

/// The answer to one line.
pub fn answer_line(line: &[u8]) -> Value {
    let request: Value = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(e) => return json!({ "id": null, "error": format!("the request is not JSON: {e}") }),
    };
    let id = request.get("id").cloned().unwrap_or(Value::Null);
    let mut answer = json!({ "id": id });
    match serde_json::from_value::<Request>(request) {
        Ok(request) => respond(request, &mut answer),
        Err(e) => answer["error"] = Value::String(format!("the request is not understood: {e}")),
    }
    answer
}

fn respond(request: Request, answer: &mut Value) {
    match request {
        Request::Render(r) => tokens(answer, render(&r.conversation, &r.options())),
        Request::RenderForCompletion(r) => {
            tokens(
                answer,
                render_for_completion_with(
                    &r.render.conversation,
                    r.next_role,
                    &r.render.options(),
                ),
            );
        }
        Request::RenderForTraining(r) => {
            tokens(answer, render_for_training(&r.conversation, &r.options()))
        }
        Request::RenderMessage(r) => {
            tokens(
                answer,
                render_message_with(
                    &r.message,
                    r.conversation_has_function_tools,
                    &Default::default(),
                ),
            );
        }
        Request::Parse(r) => match parse(&r.tokens, r.role, r.strictness()) {
            Ok(messages) => answer["messages"] = json!(messages),
            Err(e) => answer["error"] = Value::String(e.to_string()),
        },
        Request::Stream(r) => {
            let mut parser = ReferenceParser::new(r.parse.role, r.parse.strictness());
            let mut events = Vec::new();
            if let Err(e) = stream(&mut parser, &r.parse.tokens, r.eos, &mut events) {
                answer["error"] = Value::String(e.to_string());
            }
            answer["events"] = Value::Array(events);
            answer["messages"] = json!(parser.messages());
            answer["content"] = json!(parser.content());
        }
        Request::Encode(r) => {
            let allowed = r.allowed_special.into();
            tokens(answer, encode_with_special(&r.text, &allowed, &r.disallowed_special.into()));
        }
        Request::Decode(r) => {
            let text = match r.errors {
                DecodeErrors::Strict => decode(&r.tokens),
                DecodeErrors::Replace => decode_lossy(&r.tokens),
            };
            match text {
                Ok(text) => answer["text"] = Value::String(text),
                Err(e) => answer["error"] = Value::String(e.to_string()),
            }
        }
        Request::StopTokens {} => {
            answer["stop_tokens"] = json!(stop_tokens());
            answer["stop_tokens_for_assistant_actions"] =
                json!(stop_tokens_for_assistant_actions());
        }
    }
}

fn tokens<E: std::fmt::Display>(answer: &mut Value, result: Result<Vec<u32>, E>) {
    match result {
        Ok(tokens) => answer["tokens"] = json!(tokens),
        Err(e) => answer["error"] = Value::String(e.to_string()),
    }
}

/// Feeds the parser and notes its state after each step that succeeds.
fn stream(
    parser: &mut ReferenceParser,
    tokens: &[u32],
    eos: bool,
    events: &mut Vec<Value>,
) -> Result<(), ParseError> {
    for &token in tokens {
        let delta = parser.push(token)?.map(str::to_owned);
        events.push(event(parser, delta));
    }
    if eos {
        parser.finish()?;
        events.push(event(parser, None));
    }
    Ok(())
}

fn event(parser: &ReferenceParser, delta: Option<String>) -> Value {
    json!([
        parser.state_name(),
        parser.role(),
        parser.recipient(),
        parser.channel(),
        parser.content_type(),
        delta
    ])
}
