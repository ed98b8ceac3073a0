//! `POST /generate`, SGLang's own route, as MLPerf's reference client and others speak it: text or token ids in, text and token ids out.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::text::Text;
use crate::answer::{AnswerFormat, Choice, Ending, ResponseOptions, ResponseState, ResponseWriter};
use crate::backend::GenerationRequest;
use crate::clock;
use crate::error::{Result, json_of};
use crate::extract::RequestBody;
use crate::fields::{Fields, describe, token_ids};
use crate::generation::GeneratedToken;
use crate::ids::RequestId;
use crate::options::generation::GenerationOptions;
use crate::options::stream::StreamOptions;
use crate::sse;
use crate::state::AppState;
use crate::stop_strings::StopFilter;
use crate::tenant::Tenant;
use crate::tokens::encode;

/// Limit of tokens where a request names none.
const DEFAULT_MAX_TOKENS: usize = 128;
/// Prompts of a request.
const MAX_PROMPTS: usize = 1024;
/// Settings by SGLang's names, and by those that are read here.
const RENAMED: [(&str, &str); 3] = [
    ("max_new_tokens", "max_tokens"),
    ("min_new_tokens", "min_tokens"),
    ("no_stop_trim", "include_stop_str_in_output"),
];

pub(crate) async fn handle(
    State(app): State<Arc<AppState>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(tenant): Extension<Tenant>,
    body: RequestBody,
) -> Result<Response> {
    let arrival = clock::now();
    let read = move |app: &AppState, body: &_| NativeRequest::read(app, &id, body);
    let NativeRequest { prompts, generations, n, format, options } = body.read(&app, read).await?;
    let request = |index: usize| {
        let (prompt, choice) = (index / n, index % n);
        generations[prompt].request(&prompts[prompt], None, choice)
    };
    let requests: Vec<GenerationRequest> = (0..prompts.len() * n).map(request).collect();
    let generation = app.generate(requests, tenant, arrival)?;
    let writer = ResponseWriter::new(format, options, prompts, n, Arc::clone(&app.metrics));
    writer.respond(generation, app.config.timeout).await
}

/// A request that was understood.
struct NativeRequest {
    prompts: Vec<Vec<u32>>,
    /// One for each prompt.
    generations: Vec<GenerationOptions>,
    /// Choices for each prompt.
    n: usize,
    format: NativeFormat,
    options: ResponseOptions,
}

impl NativeRequest {
    fn read(app: &AppState, id: &str, body: &Map<String, Value>) -> Result<NativeRequest> {
        let fields = Fields::new(body);
        let config = &app.config;
        fields.refuse(&[
            ("image_data", "; gpt-oss models read only text"),
            ("audio_data", "; gpt-oss models read only text"),
            ("input_embeds", "; send `text` or `input_ids`"),
            ("return_logprob", " on this route; /v1/completions has `logprobs`"),
            ("return_hidden_states", ""),
            ("lora_path", ""),
            ("session_params", ""),
        ])?;
        let empty = Map::new();
        let given = match fields.get("sampling_params") {
            Some(Value::Object(params)) => params,
            None => &empty,
            Some(_) => return Err(fields.wrong("sampling_params", "is not an object")),
        };
        let mut params = given.clone();
        for (theirs, ours) in RENAMED {
            if let Some(value) = params.remove(theirs) {
                params.insert(ours.to_owned(), value);
            }
        }
        let params = Fields::new(&params);
        params.refuse(&[
            ("regex", " on this route; /v1/completions has `structured_outputs`"),
            ("json_schema", " on this route; /v1/completions has `structured_outputs`"),
            ("ebnf", " on this route; /v1/completions has `structured_outputs`"),
            ("structural_tag", " on this route"),
            ("thinking_token_budget", " on this route"),
            ("model", " here; /v1/completions takes the name of an adapter as `model`"),
        ])?;
        let mut generation = GenerationOptions::read(&params, config)?;
        let max_tokens = params.count("max_tokens", 1)?.unwrap_or(DEFAULT_MAX_TOKENS);
        generation.set_max_tokens(&params, Some(max_tokens))?;
        let (prompts, is_list) = prompts(&fields, config.vocab)?;
        let fitted = |prompt: &Vec<u32>| {
            let mut generation = generation.clone();
            generation.clamp_max_tokens(prompt.len(), config, "input_ids")?;
            Ok(generation)
        };
        let generations = prompts.iter().map(fitted).collect::<Result<Vec<_>>>()?;
        let stream = StreamOptions {
            stream: fields.bool("stream", false)?,
            include_usage: false,
            continuous_usage: false,
        };
        let n = generation.n;
        let id = fields.string("rid")?.unwrap_or(id).to_owned();
        let options = ResponseOptions {
            token_ids: true,
            ..ResponseOptions::new(id, config.name(), stream, &generation, config.log_prompts)
        };
        let format = NativeFormat {
            stops: StopFilter::new(&generation.stop_strings, generation.include_stop),
            skip_special: params.bool("skip_special_tokens", true)?,
            is_list: is_list || n > 1,
        };
        Ok(NativeRequest { prompts, generations, n, format, options })
    }
}

/// The prompts, and whether they came as a list.
fn prompts(fields: &Fields<'_>, vocab: usize) -> Result<(Vec<Vec<u32>>, bool)> {
    let (name, value) = match (fields.get("input_ids"), fields.get("text")) {
        (Some(ids), None) => ("input_ids", ids),
        (None, Some(text)) => ("text", text),
        (Some(_), Some(_)) => return Err(fields.wrong("text", "and `input_ids` are both given")),
        (None, None) => return Err(fields.wrong("input_ids", "is missing; send it, or `text`")),
    };
    let one = |value: &Value, name: &str| match value {
        Value::String(text) => Ok(encode(text)),
        ids => token_ids(ids, name, vocab),
    };
    match value {
        Value::Array(list) if list.is_empty() => Err(fields.wrong(name, "is empty")),
        Value::Array(list) if !list[0].is_number() => {
            if list.len() > MAX_PROMPTS {
                return Err(fields.wrong(name, format!("has over {MAX_PROMPTS} prompts")));
            }
            let each = list.iter().enumerate();
            let each = each.map(|(index, prompt)| one(prompt, &format!("{name}[{index}]")));
            Ok((each.collect::<Result<_>>()?, true))
        }
        Value::Array(_) | Value::String(_) => Ok((vec![one(value, name)?], false)),
        other => {
            let why = format!("is {}, not a text, token ids, or a list of either", describe(other));
            Err(fields.wrong(name, why))
        }
    }
}

/// The format of this route's answers. A chunk has what is new in it, and counts of all so far.
struct NativeFormat {
    stops: StopFilter,
    skip_special: bool,
    /// The answer is a list, as the prompts were.
    is_list: bool,
}

impl AnswerFormat for NativeFormat {
    type Content = Text;
    type Part = Value;

    fn content(&self) -> Text {
        Text::new(self.stops.clone())
    }

    fn read_token(
        &self,
        text: &mut Text,
        token: &GeneratedToken,
        options: &ResponseOptions,
    ) -> Option<Ending> {
        let mut ending = text.read(token, self.skip_special, options)?;
        // Here the token that ended the text is always named.
        if ending.finish_reason == "stop" && ending.stop_reason.is_null() {
            ending.stop_reason = token.id.into();
        }
        Some(ending)
    }

    fn parts(&self, state: &ResponseState, choice: &mut Choice<Text>) -> Vec<Value> {
        let finish_reason = choice.ending.as_ref().map(|ending| match ending.finish_reason {
            "length" => json!({"type": "length", "length": choice.tokens}),
            reason => json!({"type": reason, "matched": ending.stop_reason}),
        });
        let mut part = json!({
            "text": std::mem::take(&mut choice.content.text),
            "output_ids": std::mem::take(&mut choice.ids),
            "meta_info": {
                "id": state.options.id,
                "finish_reason": finish_reason,
                "prompt_tokens": state.prompts[choice.prompt].len(),
                "completion_tokens": choice.tokens,
            },
        });
        if state.prompts.len() == 1 {
            part["meta_info"]["cached_tokens"] = state.usage().cached.into();
        }
        if self.is_list {
            part["index"] = choice.index.into();
        }
        vec![part]
    }

    fn write_chunk(&self, _: &mut ResponseState, part: Value, out: &mut Vec<u8>) {
        sse::data(out, &part);
    }

    fn write_closing(&self, _: &ResponseState, _: &mut Vec<u8>) {}

    fn whole(&self, state: &ResponseState, mut choices: Vec<Choice<Text>>) -> String {
        let mut parts: Vec<Value> =
            choices.iter_mut().flat_map(|choice| self.parts(state, choice)).collect();
        match parts.pop() {
            Some(only) if !self.is_list => only.to_string(),
            last => {
                parts.extend(last);
                json_of(&parts)
            }
        }
    }
}
