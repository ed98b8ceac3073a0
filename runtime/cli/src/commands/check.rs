//! `ossmith check`: every kernel against the CPU executor, on the GPU at hand.

use std::collections::BTreeSet;
use std::io::Write;

use ossmith::unstable::cuda::check::{CheckLine, CheckOptions, SAMPLER_ROWS, check, check_ranks};
use ossmith_plan::Model;
use serde_json::json;

use crate::failure::fail;
use crate::load::RankArgs;
use crate::model::ModelArgs;
use crate::progress::Bars;
use crate::schedule::ScheduleArgs;

/// Check every kernel of a model against the CPU executor.
///
/// Runs each phase at the model's real widths, in one layer of each kind, with random weights and inputs, over edge
/// shapes: 1 to 1,100 tokens, positions around the window's edge and past 4096. Prints one line per kernel and exits
/// with 1 if one is wrong. With --json, one array of objects.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    schedule: ScheduleArgs,

    /// Only these kernels.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    kernel: Vec<String>,

    /// Only the kernels of these phases.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    phase: Vec<String>,

    /// Tokens of the steps that are checked [default: the edges of every schedule, from 1 to 1100].
    #[arg(long, value_delimiter = ',', value_name = "N,…", value_parser = super::bench::count(1 << 16))]
    tokens: Vec<usize>,

    #[command(flatten)]
    ranks: RankArgs,

    /// Rows that are sampled with each combination of settings, at least, and compared with the host's sampler.
    #[arg(long, default_value_t = SAMPLER_ROWS, value_name = "N")]
    sampler_rows: usize,

    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let ordinals = self.ranks.ranks()?.ordinals(0);
        let whole = self.model.shape()?;
        let ranks = self.ranks.models(whole, &self.schedule, ordinals[0])?;
        let model = match ranks {
            Some(models) => models.0[0],
            None => self.schedule.apply_on(whole, ordinals[0])?,
        };
        let options = CheckOptions {
            kernels: self.kernel,
            phases: self.phase,
            tokens: self.tokens,
            sampler_rows: self.sampler_rows,
            ..CheckOptions::default()
        };
        known(model, &options)?;
        let (mut bars, seed) = (Bars::new(), self.model.weights_seed);
        let progress = &mut |at| bars.show(at);
        let lines = match ranks {
            Some(models) => check_ranks(models.0, &ordinals, seed, &options, progress)?,
            None => check(model, ordinals[0], seed, &options, progress)?,
        };
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
        verdict(&lines, model.spec.name)
    }
}

/// An error, and so exit code 1, if a kernel is wrong.
fn verdict(lines: &[CheckLine], model: &str) -> anyhow::Result<()> {
    let wrong = lines.iter().filter(|line| !line.passed()).count();
    if wrong == 0 {
        return Ok(());
    }
    Err(fail(
        format!("{wrong} of {} kernels of {model} differ from the executor", lines.len()),
        "`ossmith kernels show KERNEL` prints the CUDA of each",
    ))
}

/// Refuses names of kernels and phases that the model does not have.
fn known(model: &Model, options: &CheckOptions) -> anyhow::Result<()> {
    let phases = || model.schedules.iter().flat_map(|schedule| schedule.phases());
    for (what, names, all) in [
        (
            "kernel",
            &options.kernels,
            model.units.iter().map(|unit| unit.name).collect::<BTreeSet<_>>(),
        ),
        ("phase", &options.phases, phases().map(|phase| phase.name).chain(["adapters"]).collect()),
    ] {
        if let Some(name) = names.iter().find(|name| !all.contains(name.as_str())) {
            let all: Vec<&str> = all.into_iter().collect();
            return Err(fail(
                format!("{} has no {what} {name}", model.spec.name),
                format!("its {what}s are {}", all.join(", ")),
            ));
        }
    }
    Ok(())
}

fn object(line: &CheckLine) -> serde_json::Value {
    json!({
        "kernel": line.kernel,
        "part": line.part,
        "shapes": line.shapes,
        "worst": line.worst.overall,
        "worst_element": line.worst.element,
        "at": line.at,
        "tolerance": line.tolerance,
        "passed": line.passed(),
    })
}

fn text(line: &CheckLine) -> String {
    format!(
        "{:5} {:32} {:8} {:2} shapes, worst {:.2e}, element {:.2}, at {}",
        if line.passed() { "ok" } else { "WRONG" },
        line.kernel,
        line.part,
        line.shapes,
        line.worst.overall,
        line.worst.element,
        line.at
    )
}

#[cfg(test)]
mod tests {
    use ossmith::unstable::cuda::check::Difference;

    use super::*;

    fn line(overall: f64, element: f64) -> CheckLine {
        CheckLine {
            kernel: "attention_tiled".into(),
            part: "sliding",
            shapes: 36,
            worst: Difference { overall, element },
            at: "9 tokens from position 120".into(),
            tolerance: 6e-3,
        }
    }

    #[test]
    fn one_wrong_kernel_of_many_fails_the_check() {
        let right = || line(2e-3, 0.05);
        assert!(verdict(&[right(), right()], "m").is_ok());
        for wrong in [line(7e-3, 0.05), line(2e-3, 1.5), line(f64::INFINITY, f64::INFINITY)] {
            let error =
                verdict(&[right(), wrong, right()], "m").expect_err("one is wrong").to_string();
            assert!(error.contains("1 of 3 kernels of m differ"), "{error}");
        }
    }

    #[test]
    fn a_line_says_what_was_found_and_where() {
        assert_eq!(
            text(&line(2.34e-3, 0.05)),
            "ok    attention_tiled                  sliding  36 shapes, worst 2.34e-3, element 0.05, at 9 tokens from \
             position 120"
        );
        assert!(text(&line(2e-3, 1.5)).starts_with("WRONG attention_tiled"));
        let object = object(&line(7e-3, 0.5));
        assert_eq!((&object["passed"], &object["worst"]), (&json!(false), &json!(7e-3)));
        assert_eq!(object["worst_element"], 0.5);
    }
}
