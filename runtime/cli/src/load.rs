//! From `--backend` and its companions to an engine, with progress bars and a line on where it runs.

use std::str::FromStr;

use ossmith::{Device, Engine, EngineOptions, Limits, Policy};

use crate::model::Chosen;
use crate::output::note;
use crate::progress::Bars;
use crate::schedule::ScheduleArgs;

/// Where to run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DeviceArgs {
    /// Where to run: auto takes a CUDA device if one is usable, else the CPU.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|cuda[:N]")]
    pub(crate) backend: DeviceName,

    /// Threads of the CPU backend [default: all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,

    /// Draft tokens to take from the text so far and to verify in one step; answers stay the same. 0 drafts none.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) draft_tokens: u8,

    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
}

/// A device as the command line spells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceName(pub(crate) Device);

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceName, String> {
        let device = match text {
            "auto" => Some(Device::Auto),
            "cpu" => Some(Device::Cpu),
            "cuda" => Some(Device::Cuda(0)),
            other => other.strip_prefix("cuda:").and_then(|n| n.parse().ok()).map(Device::Cuda),
        };
        device.map(DeviceName).ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_owned())
    }
}

impl DeviceArgs {
    /// Loads the model for these limits, and prints on standard error why `auto` chose the CPU.
    pub(crate) fn load(&self, chosen: &Chosen, limits: Limits) -> anyhow::Result<Engine> {
        self.load_with(chosen, limits, Policy::default())
    }

    /// The same with a policy; the number of draft tokens is that of the flags.
    pub(crate) fn load_with(
        &self,
        chosen: &Chosen,
        limits: Limits,
        policy: Policy,
    ) -> anyhow::Result<Engine> {
        let (options, fallback) = self.options(limits, policy);
        let ordinal = match self.backend.0.resolve().0 {
            Device::Cuda(ordinal) => Some(ordinal),
            Device::Cpu | Device::Auto => None,
        };
        let model = self.schedule.apply_on(chosen.model, ordinal.unwrap_or(0))?;
        if let (Some(file), None) = (&self.schedule.schedule, ordinal) {
            note!(
                "{} is legal, and changes nothing here: the CPU has no schedules",
                file.display()
            );
        }
        let mut bars = Bars::new();
        let engine = Engine::load(model, chosen.checkpoint.clone(), options, &mut |at| {
            bars.show(at);
        })?;
        bars.finish();
        if let Some(why) = fallback {
            note!("running on {}: {why}", engine.describe());
        }
        Ok(engine)
    }

    /// The options that an engine would be loaded with, and why it runs on the CPU if `auto` chose that.
    pub(crate) fn options(
        &self,
        limits: Limits,
        policy: Policy,
    ) -> (EngineOptions, Option<String>) {
        let (device, fallback) = self.backend.0.resolve();
        let threads = self.threads.map(usize::from);
        let policy = policy.with_draft_tokens(self.draft_tokens.into());
        let options = EngineOptions::default()
            .with_device(device)
            .with_limits(limits)
            .with_threads(threads)
            .with_policy(policy);
        (options, fallback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_spelled_as_in_the_help() {
        let parse = |text: &str| text.parse::<DeviceName>().map(|name| name.0);
        assert_eq!(parse("auto"), Ok(Device::Auto));
        assert_eq!(parse("cpu"), Ok(Device::Cpu));
        assert_eq!(parse("cuda"), Ok(Device::Cuda(0)));
        assert_eq!(parse("cuda:3"), Ok(Device::Cuda(3)));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda3"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
