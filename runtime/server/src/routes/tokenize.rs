//! `/tokenize`, `/detokenize` and `/tokenizer_info`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use ossmith_harmony::{CHAT_TEMPLATE, tokenizer_config};
use serde::Serialize;
use serde_json::json;

use crate::chat;
use crate::error::{Result, json_body};
use crate::extract::RequestBody;
use crate::fields::Fields;
use crate::options::generation::GenerationOptions;
use crate::state::AppState;
use crate::tokens::{decode, encode, text_of};

/// The answer of `/tokenize`, which may have millions of tokens.
#[derive(Serialize)]
struct Tokens {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

/// `{prompt}` or `{messages, tools}` to tokens.
pub(crate) async fn tokenize(
    State(app): State<Arc<AppState>>,
    body: RequestBody,
) -> Result<impl IntoResponse> {
    body.read(&app, |app, body| {
        let fields = Fields::new(body);
        app.check_model(fields.string("model")?)?;
        let tokens = tokens(app, &fields)?;
        let texts = fields
            .bool("return_token_strs", false)?
            .then(|| tokens.iter().map(|&token| text_of(token, false)).collect::<Vec<_>>());
        Ok(json_body(&Tokens {
            count: tokens.len(),
            max_model_len: app.config.context,
            tokens,
            token_strs: texts,
        }))
    })
    .await
}

fn tokens(app: &AppState, fields: &Fields<'_>) -> Result<Vec<u32>> {
    if fields.get("messages").is_none() {
        // o200k has no token that begins a text, so `add_special_tokens` changes nothing.
        return Ok(encode(fields.required_string("prompt")?));
    }
    if !fields.bool("add_generation_prompt", true)? {
        return chat::request::render_history(&app.config, fields);
    }
    let generation = GenerationOptions::read(fields, &app.config)?;
    Ok(chat::request::prepare(&app.config, fields, &generation)?.prompt)
}

/// `{tokens}` to text, special tokens by name.
pub(crate) async fn detokenize(
    State(app): State<Arc<AppState>>,
    body: RequestBody,
) -> Result<impl IntoResponse> {
    body.read(&app, |app, body| {
        let fields = Fields::new(body);
        app.check_model(fields.string("model")?)?;
        let tokens = fields.token_ids("tokens", app.config.vocab)?;
        let tokens = tokens.ok_or_else(|| fields.wrong("tokens", "is missing"))?;
        Ok(json_body(&json!({"prompt": decode(&tokens)})))
    })
    .await
}

/// What a tokenizer folder of Hugging Face's says about the tokenizer, for clients that use it over HTTP. Not every client has a
/// clock for the template, and the date of its prompts has to be that of this server's.
pub(crate) async fn tokenizer_info(State(app): State<Arc<AppState>>) -> impl IntoResponse {
    let mut info = tokenizer_config(app.config.context);
    let date = app.config.date();
    let date = format!(
        "{{%- if conversation_start_date is not defined -%}}{{%- set conversation_start_date = {date:?} -%}}{{%- endif -%}}"
    );
    info["chat_template"] = format!("{date}{CHAT_TEMPLATE}").into();
    json_body(&info)
}
