//! `ossmith kernels space`.

use std::io::Write;

use ossmith_models::codegen::{Tunable, tunables};
use ossmith_plan::{Arch, Model};
use serde_json::{Value, json};

use super::arch;
use crate::commands::table;
use crate::failure::fail;
use crate::model::ModelArgs;
use crate::schedule::ScheduleArgs;

/// Prints per kernel: its tunables, their present values, what is legal, and what more of each gains and costs.
///
/// A file for --schedule names a kernel, a tunable and a value. `ossmith tune` searches these values.
#[derive(Debug, clap::Args)]
pub(super) struct Space {
    #[command(flatten)]
    model: ModelArgs,
    /// Only this kernel.
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Device whose present values are shown, of those that Ossmith knows.
    #[arg(long, default_value = "h100", value_name = "NAME", value_parser = arch)]
    gpu: Arch,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

impl Space {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let model = self.model.shape()?;
        let given = self.schedule.overrides()?;
        let scheduled = crate::schedule::scheduled(model, &self.gpu, &given)?;
        let values = ossmith_models::tuned_values(&model.spec, &self.gpu)?.with(&given);
        let all = tunables(&model.spec, &self.gpu, &values)?;
        let named = |name: &str| self.kernel.as_deref().is_none_or(|kernel| kernel == name);
        let kernels: Vec<&(&str, Vec<Tunable>)> =
            all.iter().filter(|(name, _)| named(name)).collect();
        if kernels.is_empty() {
            let known: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            return Err(fail(
                format!("{} has no kernel {}", model.spec.name, self.kernel.unwrap_or_default()),
                format!("its kernels are {}", known.join(", ")),
            ));
        }
        let mut out = std::io::stdout().lock();
        if self.json {
            let objects = kernels.iter().flat_map(|(kernel, tunables)| {
                let regimes = regimes(scheduled, kernel);
                tunables.iter().map(move |it| object(kernel, &regimes, it))
            });
            writeln!(out, "{}", Value::Array(objects.collect()))?;
            return Ok(());
        }
        for (kernel, tunables) in kernels {
            writeln!(out, "{kernel} ({})", regimes(scheduled, kernel).join(", "))?;
            let rows: Vec<Vec<String>> = tunables
                .iter()
                .map(|it| {
                    let own = if it.own == it.value { String::new() } else { it.own.to_string() };
                    let (legal, trades) = (it.legal.to_string(), it.trades.to_owned());
                    vec![format!("  {}", it.name), it.value.to_string(), own, legal, trades]
                })
                .collect();
            let header = ["  tunable", "value", "untuned", "legal", "trades"];
            for line in table::lines(&header, &rows, &[1, 2]) {
                writeln!(out, "{line}")?;
            }
        }
        Ok(())
    }
}

fn object(kernel: &str, regimes: &[&'static str], tunable: &Tunable) -> Value {
    json!({
        "kernel": kernel,
        "regimes": regimes,
        "tunable": tunable.name,
        "value": tunable.value,
        "untuned": tunable.own,
        "legal": tunable.legal,
        "trades": tunable.trades,
    })
}

/// The regimes whose steps launch a kernel.
fn regimes(model: &Model, kernel: &str) -> Vec<&'static str> {
    let mut regimes = Vec::new();
    for schedule in model.schedules {
        let launches = schedule.infos().iter().any(|info| info.name == kernel);
        if launches && !regimes.contains(&schedule.regime.name()) {
            regimes.push(schedule.regime.name());
        }
    }
    regimes
}
