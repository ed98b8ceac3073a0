//! `ossmith check`: every kernel against the CPU executor, on the GPU at hand.

use std::io::Write;

use ossmith::unstable::cuda::check::{CheckLine, SAMPLER_ROWS, check};
use serde_json::json;

use crate::failure::fail;
use crate::model::ModelArgs;
use crate::progress::Bars;

/// Check every kernel of a model against the CPU executor.
///
/// Runs each phase at the model's real widths, in one layer of each kind, with random weights and inputs, over edge
/// shapes: 1 to 1,100 tokens, positions around the window's edge and past 4096. Prints one line per kernel and exits
/// with 1 if one is wrong. With --json, one array of objects.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// CUDA device.
    #[arg(long, default_value_t = 0, value_name = "N")]
    device: usize,

    /// Rows that are sampled with each combination of settings, at least, and compared with the host's sampler.
    #[arg(long, default_value_t = SAMPLER_ROWS, value_name = "N")]
    sampler_rows: usize,

    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let model = self.model.shape()?;
        let mut bars = Bars::new();
        let lines =
            check(model, self.device, self.model.weights_seed, self.sampler_rows, &mut |at| {
                bars.show(at)
            })?;
        bars.finish();
        let mut out = std::io::stdout().lock();
        if self.json {
            let all: Vec<_> = lines.iter().map(object).collect();
            writeln!(out, "{}", serde_json::Value::Array(all))?;
        } else {
            for line in &lines {
                writeln!(out, "{}", text(line))?;
            }
        }
        let wrong = lines.iter().filter(|line| !line.passed()).count();
        if wrong == 0 {
            return Ok(());
        }
        Err(fail(
            format!(
                "{wrong} of {} kernels of {} differ from the executor",
                lines.len(),
                model.spec.name
            ),
            "`ossmith kernels show KERNEL` prints the CUDA of each",
        ))
    }
}

fn object(line: &CheckLine) -> serde_json::Value {
    json!({
        "kernel": line.kernel,
        "part": line.part,
        "shapes": line.shapes,
        "worst": line.worst,
        "at": line.at,
        "tolerance": line.tolerance,
        "passed": line.passed(),
    })
}

fn text(line: &CheckLine) -> String {
    format!(
        "{:5} {:32} {:8} {:2} shapes, worst {:.2e} at {}",
        if line.passed() { "ok" } else { "WRONG" },
        line.kernel,
        line.part,
        line.shapes,
        line.worst,
        line.at
    )
}
