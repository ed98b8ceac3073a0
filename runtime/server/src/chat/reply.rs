//! A chat answer in one piece.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::ChatRequest;
use super::choice::Choice;
use crate::engine::Update;
use crate::error::{Result, json_body};
use crate::generation::{Generation, within};
use crate::logprobs::prompt_entries;
use crate::metrics::Metrics;
use crate::usage::Usage;

/// Waits for all alternatives.
pub(super) async fn whole(
    request: ChatRequest,
    mut generation: Generation,
    metrics: &Metrics,
    timeout: Option<Duration>,
) -> Result<Response> {
    let mut choices: Vec<Choice> = (0..request.planned.n).map(|_| Choice::new(&request)).collect();
    let mut about_prompt = AboutPrompt::default();
    let work = collect(&request, &mut generation, &mut choices, &mut about_prompt);
    within(timeout, work).await??;
    choices.iter().for_each(|choice| choice.report_repairs(metrics));
    Ok(json_body(&body(&request, choices, about_prompt)).into_response())
}

#[derive(Default)]
struct AboutPrompt {
    cached: usize,
    logprobs: Option<Value>,
}

async fn collect(
    request: &ChatRequest,
    generation: &mut Generation,
    choices: &mut [Choice],
    about_prompt: &mut AboutPrompt,
) -> Result<()> {
    while let Some((index, update)) = generation.next().await {
        match update {
            Update::Prompt { cached, logprobs, .. } if index == 0 => {
                about_prompt.cached = cached;
                about_prompt.logprobs = (!logprobs.is_empty())
                    .then(|| prompt_entries(&request.planned.prompt, &logprobs));
            }
            Update::Prompt { .. } => {}
            Update::Token { id, logprobs, finish } => {
                if choices[index].token(id, logprobs.as_ref(), finish, &request.telling) {
                    generation.stop(index);
                }
            }
            Update::Failed(error) => return Err(error),
        }
    }
    Ok(())
}

fn body(request: &ChatRequest, choices: Vec<Choice>, about_prompt: AboutPrompt) -> Value {
    let telling = &request.telling;
    let usage = Usage {
        prompt: request.planned.prompt.len(),
        cached: about_prompt.cached,
        completion: choices.iter().map(|choice| choice.tokens).sum(),
        reasoning: choices.iter().map(Choice::reasoning_tokens).sum(),
    };
    let choices: Vec<Value> = choices
        .into_iter()
        .enumerate()
        .map(|(index, choice)| one(request, index, choice))
        .collect();
    if telling.log {
        let answer = Value::from(choices.clone());
        tracing::info!(id = telling.id, %answer, "answer");
    }
    let mut body = json!({
        "id": telling.id,
        "object": "chat.completion",
        "created": telling.created,
        "model": telling.model,
        "system_fingerprint": null,
        "service_tier": null,
        "choices": choices,
        "usage": usage.json(),
        "prompt_logprobs": about_prompt.logprobs,
    });
    if telling.token_ids {
        body["prompt_token_ids"] = json!(request.planned.prompt);
    }
    body
}

fn one(request: &ChatRequest, index: usize, choice: Choice) -> Value {
    let whole = choice.whole_calls();
    let has_content = choice.has_content();
    let mut delta = choice.delta;
    // A call that was cut off is of no use to anyone.
    delta.tool_calls.truncate(whole);
    let calls: Vec<Value> = delta
        .tool_calls
        .iter()
        .map(|call| json!({"id": call.id, "type": call.kind, "function": call.function}))
        .collect();
    let content = delta.content.or(has_content.then(String::new));
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    if let Some(reasoning) = delta.reasoning {
        message["reasoning"] = reasoning.into();
    }
    if let Some(reasoning) = delta.reasoning_content {
        message["reasoning_content"] = reasoning.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    let ending = choice.ending;
    let telling = &request.telling;
    json!({
        "index": index,
        "message": message,
        "logprobs": telling.logprobs.then(|| json!({"content": choice.logprobs, "refusal": null})),
        "finish_reason": ending.as_ref().map_or("stop", |ending| ending.finish_reason),
        "stop_reason": ending.map_or(Value::Null, |ending| ending.stop_reason),
        "token_ids": telling.token_ids.then_some(choice.ids),
    })
}
