//! `ossmith generate`: one prompt, one answer.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use ossmith::{Engine, SamplingParams};
use ossmith_harmony::Message;
use serde_json::{Map, Value, json};

use crate::completion::{self, Completion, CompletionArgs};
use crate::model::Chosen;
use crate::output::note;
use crate::tokens;

/// Answer a prompt.
///
/// The answer streams to standard output; the model's reasoning (its analysis channel) goes to standard error, dimmed
/// on a terminal. The prompt is rendered in the harmony format; --prompt-ids takes raw token ids instead.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "JSON output (--json), one object:
  model, backend        what ran
  random_weights        true if the weights are random, so that the answer means nothing
  prompt_token_ids      the prompt
  token_ids             the answer, stop token included
  messages              the answer's harmony messages: role, channel, recipient, content
  texts                 the answer's text by channel: {\"analysis\": …, \"final\": …}; \"text\" where there is none
  finish_reason         stop, length or interrupted
  seed                  gives the same answer again
  usage                 prompt_tokens, completion_tokens, total_tokens
  timings               load_s, first_token_s, total_s (from the prompt to the last token), tokens_per_s")]
pub(crate) struct Args {
    /// What to ask; - reads standard input.
    #[arg(required_unless_present = "prompt_ids")]
    prompt: Option<String>,

    /// Raw prompt token ids, not rendered: a JSON array, a file with one, or - for standard input.
    #[arg(long, value_name = "FILE|JSON", conflicts_with = "prompt")]
    prompt_ids: Option<String>,

    /// Print one JSON object when done, and nothing before.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    shared: CompletionArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let chosen = self.shared.model.choose()?;
        let params = self.shared.sampling.params(&chosen);
        let prompt = self.prompt_tokens(&chosen)?;
        let (spec, max_tokens) = (&chosen.model.spec, params.max_tokens.unwrap_or(0));
        let limits = completion::limits(prompt.len().saturating_add(max_tokens), spec);
        params.check(&prompt, spec, &limits)?;
        chosen.warn_if_random();
        let start = Instant::now();
        let mut engine = self.shared.device.load(&chosen, limits)?;
        let load = start.elapsed();
        let completion = completion::complete(&mut engine, &prompt, &params, !self.json)?;
        if self.json {
            let report = report(&chosen, &engine, &prompt, &params, &completion, load);
            writeln!(std::io::stdout(), "{report}")?;
        } else if std::io::stderr().is_terminal() {
            let rate =
                completion.rate().map_or(String::new(), |rate| format!(", {rate:.1} tokens/s"));
            note!(
                "[{} tokens, {}{rate}, seed {}]",
                completion.tokens.len(),
                completion.finish,
                params.seed
            );
        }
        Ok(())
    }

    fn prompt_tokens(&self, chosen: &Chosen) -> anyhow::Result<Vec<u32>> {
        let text = match (self.prompt.as_deref(), &self.prompt_ids) {
            (_, Some(ids)) => return tokens::given(ids),
            (Some("-"), None) => {
                std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?
            }
            (text, None) => text.unwrap_or_default().to_owned(),
        };
        let mut messages = self.shared.prompt.opening();
        messages.push(Message::user(text));
        self.shared.prompt.tokens(&messages, chosen.is_random())
    }
}

fn report(
    chosen: &Chosen,
    engine: &Engine,
    prompt: &[u32],
    params: &SamplingParams,
    completion: &Completion,
    load: Duration,
) -> Value {
    json!({
        "model": chosen.model.spec.name,
        "backend": engine.describe(),
        "random_weights": chosen.is_random(),
        "prompt_token_ids": prompt,
        "token_ids": completion.tokens,
        "messages": completion.messages,
        "texts": texts(&completion.messages),
        "finish_reason": completion.finish,
        "seed": params.seed,
        "usage": {
            "prompt_tokens": prompt.len(),
            "completion_tokens": completion.tokens.len(),
            "total_tokens": prompt.len() + completion.tokens.len(),
        },
        "timings": {
            "load_s": load.as_secs_f64(),
            "first_token_s": completion.first.as_secs_f64(),
            "total_s": completion.total.as_secs_f64(),
            "tokens_per_s": completion.rate(),
        },
    })
}

/// The text of each channel; several messages are joined by a line break.
fn texts(messages: &[Message]) -> Map<String, Value> {
    let mut texts: Map<String, Value> = Map::new();
    for message in messages {
        let channel = message.channel.clone().unwrap_or_else(|| "text".to_owned());
        let text = match texts.get(&channel).and_then(Value::as_str) {
            Some(before) => format!("{before}\n{}", message.text()),
            None => message.text(),
        };
        texts.insert(channel, text.into());
    }
    texts
}
