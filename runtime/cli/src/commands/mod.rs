//! The commands, one file each: each has an `Args` with its help and a `run`.

mod bench;
mod bench_serve;
mod chat;
mod check;
mod completions;
mod convert;
mod doctor;
mod eval;
mod fit;
mod generate;
mod harmony;
mod kernels;
mod logits;
mod man;
mod pull;
mod random;
mod report;
mod run_batch;
mod serve;
mod statistics;
mod table;
mod tokenizer;
mod tune;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Generate(generate::Args),
    Chat(chat::Args),
    Logits(logits::Args),
    Harmony(harmony::Args),
    Tokenizer(tokenizer::Args),
    Kernels(kernels::Args),
    Check(check::Args),
    Bench(bench::Args),
    Tune(Box<tune::Args>),
    Eval(eval::Args),
    Fit(fit::Args),
    Report(report::Args),
    Serve(Box<serve::Args>),
    RunBatch(Box<run_batch::Args>),
    Pull(pull::Args),
    Convert(convert::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
    Man(man::Args),
    /// Tries out grammars for a server, which starts this by itself.
    #[command(hide = true)]
    GrammarHelper,
}

impl Command {
    /// The log level unless `OSSMITH_LOG` is set: a server logs each request.
    pub(crate) fn log_level(&self) -> &'static str {
        if matches!(self, Command::Serve(_)) { "info" } else { "warn" }
    }

    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Command::Generate(args) => args.run(),
            Command::Chat(args) => args.run(),
            Command::Logits(args) => args.run(),
            Command::Harmony(args) => args.run(),
            Command::Tokenizer(args) => args.run(),
            Command::Kernels(args) => args.run(),
            Command::Check(args) => args.run(),
            Command::Bench(args) => args.run(),
            Command::Tune(args) => args.run(),
            Command::Eval(args) => args.run(),
            Command::Fit(args) => args.run(),
            Command::Report(args) => args.run(),
            Command::Serve(args) => args.run(),
            Command::RunBatch(args) => args.run(),
            Command::Pull(args) => args.run(),
            Command::Convert(args) => args.run(),
            Command::Doctor(args) => args.run(),
            Command::Completions(args) => args.run(),
            Command::Man(args) => args.run(),
            Command::GrammarHelper => ossmith_server::grammar_helper().map_err(anyhow::Error::msg),
        }
    }
}
