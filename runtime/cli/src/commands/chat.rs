//! `ossmith chat`: a conversation, line by line.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Context;
use ossmith::Engine;
use ossmith_harmony::Message;

use crate::completion::{self, CompletionArgs};
use crate::interrupt;
use crate::model::Chosen;
use crate::output::note;

/// Talk with a model.
///
/// Each line is a message. /reset starts a new conversation, /exit or the end of input leaves; Ctrl-C ends an answer.
/// Answers go to standard output, the model's reasoning to standard error.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Tokens of the whole conversation, answers included, to make room for.
    #[arg(long, default_value_t = 8192, value_name = "N")]
    context: usize,

    #[command(flatten)]
    shared: CompletionArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let chosen = self.shared.model.choose()?;
        chosen.warn_if_random();
        let limits = completion::limits(self.context, &chosen.model.spec);
        let mut engine = self.shared.device.load(&chosen, limits)?;
        let mut messages = self.shared.prompt.opening();
        let interactive = std::io::stdin().is_terminal();
        let mut line = Vec::new();
        loop {
            if interactive {
                write!(std::io::stderr(), "> ")?;
            }
            line.clear();
            let read = std::io::stdin().lock().read_until(b'\n', &mut line);
            if read.context("cannot read standard input")? == 0 {
                return Ok(());
            }
            let Ok(input) = str::from_utf8(&line) else {
                note!("error: this line is not UTF-8; it was left out");
                continue;
            };
            match input.trim() {
                "" => {}
                "/exit" => return Ok(()),
                "/reset" => messages = self.shared.prompt.opening(),
                command if is_command(command) => {
                    note!("there is no {command}: /reset starts a new conversation, /exit leaves");
                }
                text => {
                    let before = messages.len();
                    messages.push(Message::user(text));
                    if let Err(error) = self.answer(&chosen, &mut engine, &mut messages) {
                        // A turn that cannot be served is removed; the conversation continues without it.
                        messages.truncate(before);
                        refuse(error)?;
                    }
                }
            }
        }
    }

    fn answer(
        &self,
        chosen: &Chosen,
        engine: &mut Engine,
        messages: &mut Vec<Message>,
    ) -> anyhow::Result<()> {
        let prompt = self.shared.prompt.tokens(messages, chosen.is_random())?;
        let mut params = self.shared.sampling.params(chosen);
        // An answer ends where the conversation's context is full.
        let room = engine.limits().pages * ossmith::PAGE_TOKENS;
        let left = room.saturating_sub(prompt.len()).max(1);
        params.max_tokens = params.max_tokens.map(|max| max.min(left));
        let completion = completion::complete(engine, &prompt, &params, true)?;
        messages.extend(completion.messages);
        interrupt::clear();
        Ok(())
    }
}

/// Whether a line looks like one of the chat's own commands, not like a message that begins with a path.
fn is_command(line: &str) -> bool {
    let name = line.strip_prefix('/').unwrap_or_default();
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// Prints an error that another message can avoid; any other error ends the chat.
fn refuse(error: anyhow::Error) -> anyhow::Result<()> {
    match error.downcast_ref::<ossmith::Error>() {
        Some(refused) if refused.is_bad_request() => {
            note!(
                "error: {refused}\nhint: /reset starts a new conversation; --context makes more room"
            );
            Ok(())
        }
        _ => Err(error),
    }
}
