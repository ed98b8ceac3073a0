//! One answer from the engine, printed while it is generated: the reasoning on standard error, the answer on standard output.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use ossmith::{Engine, Limits, SamplingParams};
use ossmith_harmony::{Event, Message};
use ossmith_plan::ModelSpec;

use crate::answer::Answer;
use crate::interrupt::{self, Watch};
use crate::load::DeviceArgs;
use crate::model::ModelArgs;
use crate::prompt::PromptArgs;
use crate::sampling::SamplingArgs;

/// The most prompt tokens that one step processes.
const MAX_CHUNK: usize = 512;

/// The model, the device, the prompt and the sampling: the flags that `generate` and `chat` share.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    #[command(flatten)]
    pub(crate) prompt: PromptArgs,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

/// Room for one sequence of this many tokens, as far as the context goes.
pub(crate) fn limits(tokens: usize, spec: &ModelSpec) -> Limits {
    let tokens = tokens.clamp(1, spec.context);
    Limits::for_sequences(1, tokens).with_max_step_tokens(tokens.min(MAX_CHUNK))
}

/// The answer to a prompt.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) tokens: Vec<u32>,
    pub(crate) messages: Vec<Message>,
    /// `stop`, `length`, or `interrupted` by the user.
    pub(crate) finish: &'static str,
    /// From the call to the first token.
    pub(crate) first: Duration,
    /// From the call to the last token.
    pub(crate) total: Duration,
}

impl Completion {
    /// Tokens per second after the first one.
    pub(crate) fn rate(&self) -> Option<f64> {
        let seconds = (self.total - self.first).as_secs_f64();
        (self.tokens.len() > 1 && seconds > 0.0).then(|| (self.tokens.len() - 1) as f64 / seconds)
    }
}

/// Generates the answer to a prompt; with `show` it is printed as it comes.
pub(crate) fn complete(
    engine: &mut Engine,
    prompt: &[u32],
    params: &SamplingParams,
    show: bool,
) -> anyhow::Result<Completion> {
    let (start, _watch) = (Instant::now(), Watch::start());
    let (mut first, mut tokens, mut finish) = (None, Vec::new(), "interrupted");
    let (mut answer, mut printer) = (Answer::after(prompt), Printer::new(show));
    for event in engine.stream(&[prompt], std::slice::from_ref(params))? {
        let (_, event) = event?;
        first.get_or_insert_with(|| start.elapsed());
        let Some(token) = event.token else { continue };
        tokens.push(token);
        answer.push(token, |event| printer.on_event(event));
        printer.check()?;
        if let Some(reason) = event.finish {
            finish = reason.name();
        }
        if interrupt::requested() {
            break;
        }
    }
    let total = start.elapsed();
    let messages = answer.finish(|event| printer.on_event(event));
    printer.end_line();
    printer.check()?;
    Ok(Completion { tokens, messages, finish, first: first.unwrap_or(total), total })
}

/// Prints an answer's events; each message starts on a line of its own.
#[derive(Debug)]
struct Printer {
    show: bool,
    /// Whether standard error is a terminal that shows dim text.
    dim: bool,
    /// Whether the current message is reasoning.
    reasoning: bool,
    /// Whether its line is still open.
    open: bool,
    /// The error with which printing failed, until `check` takes it.
    failure: std::io::Result<()>,
}

impl Printer {
    fn new(show: bool) -> Printer {
        let dim = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Printer { show, dim, reasoning: false, open: false, failure: Ok(()) }
    }

    fn on_event(&mut self, event: Event<'_>) {
        match event {
            Event::MessageStart(header) => {
                self.end_line();
                self.reasoning =
                    header.channel.as_deref() == Some("analysis") && header.recipient.is_none();
                if let Some(recipient) = &header.recipient {
                    self.print(&format!("{recipient} "));
                }
            }
            Event::Text(text) | Event::Arguments(text) => self.print(text),
            Event::MessageEnd(_) | Event::Repaired(_) => {}
        }
    }

    fn print(&mut self, text: &str) {
        if self.show && self.failure.is_ok() {
            self.open = !text.ends_with('\n');
            self.failure = self.write(text);
        }
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        if self.reasoning {
            let (on, off) = if self.dim { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
            return write!(std::io::stderr(), "{on}{text}{off}");
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    fn end_line(&mut self) {
        if self.open {
            self.print("\n");
        }
    }

    fn check(&mut self) -> std::io::Result<()> {
        std::mem::replace(&mut self.failure, Ok(()))
    }
}
