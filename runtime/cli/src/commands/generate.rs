//! `ossmith generate`: one prompt, one answer.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use ossmith::{Engine, SamplingParams};
use ossmith_harmony::Message;
use serde_json::{Map, Value, json};

use crate::model::Chosen;
use crate::speak::{self, SpeakArgs, Spoken};
use crate::tokens;

/// Answer a prompt.
///
/// The answer streams to standard output; the model's thoughts (its analysis channel) go to standard error, dimmed
/// on a terminal. The prompt is rendered in the harmony format; --prompt-ids takes raw token ids instead.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "JSON output (--json), one object:
  model, backend        what ran
  random_weights        true if the answer means nothing
  prompt_token_ids      the prompt
  token_ids             the answer, stop token included
  messages              the answer's harmony messages: role, channel, recipient, content
  texts                 the answer's text by channel: {\"analysis\": …, \"final\": …}; \"text\" where there is none
  finish_reason         stop, length or interrupted
  seed                  for the same answer again
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
    asked: SpeakArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let chosen = self.asked.model.choose()?;
        let params = self.asked.sampling.params(&chosen);
        let prompt = self.prompt_tokens(&chosen)?;
        let (spec, most) = (&chosen.model.spec, params.max_tokens.unwrap_or(0));
        let limits = speak::limits(prompt.len().saturating_add(most), spec);
        params.check(&prompt, spec, &limits)?;
        chosen.warn_if_random();
        let start = Instant::now();
        let mut engine = self.asked.device.load(&chosen, limits)?;
        let load = start.elapsed();
        let spoken = speak::speak(&mut engine, &prompt, &params, !self.json)?;
        if self.json {
            let report = report(&chosen, &engine, &prompt, &params, &spoken, load);
            writeln!(std::io::stdout(), "{report}")?;
        } else if std::io::stderr().is_terminal() {
            let rate = spoken.rate().map_or(String::new(), |rate| format!(", {rate:.1} tokens/s"));
            eprintln!(
                "[{} tokens, {}{rate}, seed {}]",
                spoken.tokens.len(),
                spoken.finish,
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
        let mut messages = self.asked.words.opening();
        messages.push(Message::user(text));
        self.asked.words.tokens(&messages, chosen.is_random())
    }
}

fn report(
    chosen: &Chosen,
    engine: &Engine,
    prompt: &[u32],
    params: &SamplingParams,
    spoken: &Spoken,
    load: Duration,
) -> Value {
    json!({
        "model": chosen.model.spec.name,
        "backend": engine.describe(),
        "random_weights": chosen.is_random(),
        "prompt_token_ids": prompt,
        "token_ids": spoken.tokens,
        "messages": spoken.messages,
        "texts": texts(&spoken.messages),
        "finish_reason": spoken.finish,
        "seed": params.seed,
        "usage": {
            "prompt_tokens": prompt.len(),
            "completion_tokens": spoken.tokens.len(),
            "total_tokens": prompt.len() + spoken.tokens.len(),
        },
        "timings": {
            "load_s": load.as_secs_f64(),
            "first_token_s": spoken.first.as_secs_f64(),
            "total_s": spoken.total.as_secs_f64(),
            "tokens_per_s": spoken.rate(),
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
