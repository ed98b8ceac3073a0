//! From `--backend` and its companions to an engine, with progress bars and a line on where it runs.

use std::str::FromStr;

use ossmith::{DenseWeights, Device, Engine, EngineOptions, Limits, Policy, RankModels, Ranks};
use ossmith_plan::{Arch, Model, ModelSpec};

use crate::failure::fail;
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

    #[command(flatten)]
    pub(crate) ranks: RankArgs,

    /// Threads of the CPU backend [default: all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,

    /// Dense weights as they are (bf16), or in 8 bits with a scale for each 32, on the CPU: q8 reads half the bytes and rounds.
    #[arg(long, default_value = "bf16", value_name = "bf16|q8")]
    pub(crate) dense: Dense,

    /// Draft tokens to take from the text so far and to verify in one step; answers stay the same. 0 drafts none.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) draft_tokens: u8,

    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
}

/// How many devices share the model, and which.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct RankArgs {
    /// Ranks that share the model, each with a part of its heads, experts and vocabulary: CUDA devices, or threads on the CPU.
    #[arg(long, visible_alias = "tp", value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    tensor_parallel_size: Option<u8>,

    /// CUDA devices, one for each rank: 0, or 0,1.
    #[arg(long, value_delimiter = ',', value_name = "N,…")]
    device: Vec<usize>,
}

impl RankArgs {
    /// The ranks, as many as devices are named.
    pub(crate) fn ranks(&self) -> anyhow::Result<Ranks> {
        match (self.tensor_parallel_size.map(usize::from), self.device.len()) {
            (size, 0) => Ok(Ranks::new(size.unwrap_or(1))),
            (Some(size), named) if size != named => Err(fail(
                format!("--tensor-parallel-size {size}, but --device names {named}"),
                "name one device for each rank, or leave one of the two out",
            )),
            _ => Ok(Ranks::on_devices(&self.device)),
        }
    }

    /// What each rank computes, compiled for the first one's device; `None` for one rank.
    pub(crate) fn models(
        &self,
        model: &'static Model,
        schedule: &ScheduleArgs,
        first: usize,
    ) -> anyhow::Result<Option<RankModels>> {
        let count = self.ranks()?.count();
        if count == 1 {
            return Ok(None);
        }
        if schedule.schedule.is_some() {
            return Err(fail(
                "--schedule changes the kernels of one device, and several ranks were named",
                "leave --schedule out, or --tensor-parallel-size",
            ));
        }
        let arch = ossmith::unstable::cuda::probe(first)
            .map_or(Arch::BUILT_IN, |info| Arch::of_device(&info.name, info.compute));
        let models = ossmith_models::ranks(model, count, &arch)?;
        Ok(Some(RankModels(models)))
    }

    /// The only CUDA device, for what runs on one.
    ///
    /// # Errors
    /// For several: what keeps them from sharing a model.
    pub(crate) fn only_device(&self, what: &str) -> anyhow::Result<usize> {
        let ranks = self.ranks()?;
        let ordinals = ranks.ordinals(0);
        if let [ordinal] = ordinals[..] {
            return Ok(ordinal);
        }
        ossmith::unstable::cuda::check_peers(&ordinals)?;
        Err(fail(
            format!("{what} runs on one CUDA device, and {} ranks were named", ranks.count()),
            "leave --tensor-parallel-size out and name one --device",
        ))
    }
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

/// The device that a value of `--backend` names.
///
/// # Errors
/// The values that there are.
pub fn device_named(name: &str) -> Result<Device, String> {
    name.parse::<DeviceName>().map(|name| name.0)
}

/// Tokens of prompt and answer together on the CPU, unless an option sets them.
const CPU_CONTEXT: usize = 32 << 10;

/// Tokens of prompt and answer together on this device, unless an option sets them.
#[must_use]
pub fn default_context(spec: &ModelSpec, device: Device) -> usize {
    match device {
        Device::Cpu => spec.context.min(CPU_CONTEXT),
        Device::Auto | Device::Cuda(_) => spec.context,
    }
}

/// The form of dense weights, as the command line spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Dense {
    /// As the checkpoint has them.
    Bf16,
    /// 8-bit codes.
    Q8,
}

impl From<Dense> for DenseWeights {
    fn from(dense: Dense) -> DenseWeights {
        match dense {
            Dense::Bf16 => DenseWeights::Bf16,
            Dense::Q8 => DenseWeights::Q8,
        }
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
        let (options, fallback) = self.options(chosen.model, limits, policy)?;
        let ordinal = match options.device {
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
        for ossmith::Conversion { weights, from, to, relative_error, .. } in
            chosen.checkpoint.conversions()
        {
            note!(
                "{weights}: {from} became {to}, with a relative error of {:.3} % (root mean square)",
                100.0 * relative_error
            );
        }
        if let Some(why) = fallback {
            note!("running on {}: {why}", engine.describe());
        }
        Ok(engine)
    }

    /// The options that an engine would be loaded with, and why it runs on the CPU if `auto` chose that.
    pub(crate) fn options(
        &self,
        model: &'static Model,
        limits: Limits,
        policy: Policy,
    ) -> anyhow::Result<(EngineOptions, Option<String>)> {
        let ranks = self.ranks.ranks()?;
        let (device, fallback) = self.device()?.resolve();
        let rank_models = match device {
            Device::Cuda(first) => self.ranks.models(model, &self.schedule, first)?,
            Device::Cpu | Device::Auto => None,
        };
        let threads = self.threads.map(usize::from);
        let policy = policy.with_draft_tokens(self.draft_tokens.into());
        let options = EngineOptions::default()
            .with_device(device)
            .with_ranks(ranks)
            .with_rank_models(rank_models)
            .with_limits(limits)
            .with_threads(threads)
            .with_dense(self.dense.into())
            .with_shadow_head(!self.schedule.no_shadow_head)
            .with_policy(policy);
        Ok((options, fallback))
    }

    /// The device that `--backend` and `--device` name together.
    pub(crate) fn device(&self) -> anyhow::Result<Device> {
        let Some(&first) = self.ranks.device.first() else { return Ok(self.backend.0) };
        match self.backend.0 {
            Device::Auto | Device::Cuda(0) => Ok(Device::Cuda(first)),
            Device::Cuda(other) if other == first => Ok(Device::Cuda(first)),
            Device::Cpu | Device::Cuda(_) => Err(fail(
                format!("--device {first} is a CUDA device, and --backend names another"),
                "leave --device or --backend out",
            )),
        }
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

    #[test]
    fn ranks_follow_from_their_number_or_their_devices() {
        let ranks = |tensor_parallel_size, device: &[usize]| {
            RankArgs { tensor_parallel_size, device: device.to_vec() }.ranks()
        };
        for (size, devices, expected) in [
            (None, &[][..], &[3][..]),
            (Some(1), &[], &[3]),
            (Some(4), &[], &[3, 4, 5, 6]),
            (None, &[2], &[2]),
            (None, &[5, 2], &[5, 2]),
            (Some(2), &[0, 1], &[0, 1]),
        ] {
            let ranks = ranks(size, devices).expect("ranks");
            assert_eq!(ranks.ordinals(3), expected, "{size:?}, {devices:?}");
        }
        let error = ranks(Some(3), &[0, 1]).expect_err("three ranks on two devices").to_string();
        assert!(error.contains("--device names 2"), "{error}");
    }
}
