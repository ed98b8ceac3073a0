//! `/tokenize` and `/detokenize`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use ossmith_harmony::chat_conversation;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, Result, json_body};
use crate::fields::Fields;
use crate::logprobs::text_of;
use crate::request::Body;
use crate::sampling::{Bounds, Common};
use crate::{chat, completions};

/// `{prompt}` or `{messages, tools}` to tokens.
pub(crate) async fn tokenize(State(app): State<Arc<App>>, body: Body) -> Result<impl IntoResponse> {
    body.read(&app, |app, body| {
        let fields = Fields::new(body);
        app.check_model(fields.string("model")?)?;
        let tokens = tokens(app, &fields)?;
        let texts = fields
            .bool("return_token_strs", false)?
            .then(|| tokens.iter().map(|&token| text_of(token, false)).collect::<Vec<_>>());
        Ok(json_body(&json!({
            "count": tokens.len(),
            "max_model_len": app.config.context,
            "tokens": tokens,
            "token_strs": texts,
        })))
    })
    .await
}

fn tokens(app: &App, fields: &Fields<'_>) -> Result<Vec<u32>> {
    if fields.get("messages").is_none() {
        // o200k has no token that a text begins with, so `add_special_tokens` changes nothing.
        return Ok(completions::encode(fields.required_string("prompt")?));
    }
    if fields.bool("add_generation_prompt", true)? {
        let bounds = Bounds { vocab: app.config.vocab, interval: 1 };
        return Ok(chat::plan(
            &app.config,
            fields,
            &Common { n: 1, ..Common::read(fields, bounds)? },
        )?
        .prompt);
    }
    let options = chat::prompt_options(&app.config, fields)?;
    let conversation = chat_conversation(&chat::messages(fields)?, &options)
        .map_err(|why| ApiError::bad("messages", why.to_string()))?;
    let mut tokens = crate::plan::render(&conversation, "messages")?;
    // Without `<|start|>assistant`.
    tokens.truncate(tokens.len().saturating_sub(2));
    Ok(tokens)
}

/// `{tokens}` to text, special tokens by name.
pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<impl IntoResponse> {
    let body = body.object()?;
    let fields = Fields::new(&body);
    app.check_model(fields.string("model")?)?;
    let tokens = fields.token_ids("tokens", app.config.vocab)?;
    let tokens = tokens.ok_or_else(|| fields.wrong("tokens", "is missing"))?;
    let text = chat::lossy(&tokens);
    Ok(json_body(&Value::Object([("prompt".to_owned(), text.into())].into_iter().collect())))
}
