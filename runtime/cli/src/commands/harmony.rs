//! `ossmith harmony`: the harmony format as a service on standard input and output.

use std::io::BufWriter;

/// Render, parse and tokenize harmony conversations, one JSON object per line.
///
/// Reads requests on standard input and writes one answer per line to standard output, until the input ends. A
/// request that fails is answered with an error; the command continues.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Requests are objects with `id` (anything; comes back) and `op`:
  render, render_for_completion, render_for_training   conversation → tokens
  render_message                                       message → tokens
  parse, stream                                        tokens → messages, events
  encode, decode                                       text ↔ tokens
  stop_tokens

Example:
  echo '{\"id\": 1, \"op\": \"encode\", \"text\": \"hello world\"}' | ossmith harmony")]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let output = BufWriter::new(std::io::stdout().lock());
        Ok(ossmith_harmony::serve_lines(std::io::stdin().lock(), output)?)
    }
}
