//! From `--backend` and its companions to an engine, with progress bars and a line on where it runs.

use std::str::FromStr;
use std::sync::Arc;

use ossmith::{
    DenseWeights, Device, Engine, EngineHandle, EngineOptions, EnginePool, Limits, MemoryBudget,
    Policy, Progress, RankModels, Ranks, memory_budget,
};
use ossmith_plan::{Arch, Model, ModelSpec};
use ossmith_server::{EngineBackend, GenerationBackend, PoolBackend};

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

    /// The ranks of each of several engines that divide the named devices; `None` if none is named.
    fn ranks_of_engines(&self, engines: usize) -> anyhow::Result<Option<Vec<Ranks>>> {
        let named = self.device.len();
        if named == 0 {
            return Ok(None);
        }
        if let Some(size) = self.tensor_parallel_size.map(usize::from)
            && size * engines != named
        {
            return Err(fail(
                format!(
                    "--data-parallel-size {engines} with --tensor-parallel-size {size} needs {} devices, but --device names {named}",
                    size * engines
                ),
                "name one device for each rank of each engine, or leave --device out",
            ));
        }
        Ok(Some(ossmith::unstable::ranks_on_devices(&self.device, engines)?))
    }

    /// What each rank computes, compiled for the first one's device; `None` for one rank.
    pub(crate) fn models(
        &self,
        model: &'static Model,
        schedule: &ScheduleArgs,
        first: usize,
    ) -> anyhow::Result<Option<RankModels>> {
        rank_models(model, self.ranks()?.count(), schedule, &arch_of_device(first))
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

/// What a device is compiled for; on a machine without it, the built-in profile.
fn arch_of_device(ordinal: usize) -> Arch {
    ossmith::unstable::cuda::probe(ordinal)
        .map_or(Arch::BUILT_IN, |info| Arch::of_device(&info.name, info.compute))
}

/// What each of so many ranks computes, compiled for a kind of device; `None` for one rank.
fn rank_models(
    model: &'static Model,
    count: usize,
    schedule: &ScheduleArgs,
    arch: &Arch,
) -> anyhow::Result<Option<RankModels>> {
    if count == 1 {
        return Ok(None);
    }
    if schedule.schedule.is_some() {
        return Err(fail(
            "--schedule changes the kernels of one device, and several ranks were named",
            "leave --schedule out, or --tensor-parallel-size",
        ));
    }
    Ok(Some(RankModels(ossmith_models::ranks(model, count, arch)?)))
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

/// Several engines, or one, that share the requests.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct EngineCountArgs {
    /// Engines that share the requests: on CUDA each has devices of its own, as many as --tensor-parallel-size says, and on the
    /// CPU they share the weights' memory and divide the threads.
    #[arg(long, visible_alias = "dp", default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    data_parallel_size: u8,
}

impl EngineCountArgs {
    pub(crate) fn count(self) -> usize {
        self.data_parallel_size.into()
    }
}

/// Where each engine runs. It is decided once, since devices are asked and ranks compiled for it.
#[derive(Clone, Debug)]
pub(crate) struct EngineSetup {
    engines: Vec<EngineOptions>,
    /// Why that is the CPU, if `auto` chose it.
    fallback: Option<String>,
}

impl EngineSetup {
    /// Where the first engine runs.
    pub(crate) fn device(&self) -> Device {
        self.engines.first().map_or(Device::Cpu, |options| options.device)
    }

    /// Ranks of each engine.
    pub(crate) fn ranks(&self) -> usize {
        self.engines.first().map_or(1, |options| options.ranks.count())
    }

    /// How many engines there are.
    pub(crate) fn count(&self) -> usize {
        self.engines.len()
    }

    /// The options of each engine with these limits and this policy.
    pub(crate) fn options(&self, limits: Limits, policy: Policy) -> Vec<EngineOptions> {
        let of = |options: &EngineOptions| {
            let policy = policy.with_draft_tokens(options.policy.draft_tokens);
            options.with_limits(limits).with_policy(policy)
        };
        self.engines.iter().map(of).collect()
    }

    /// The memory that the first engine takes with these limits and this policy. What is free is as of now.
    pub(crate) fn memory(
        &self,
        model: &'static Model,
        limits: Limits,
        policy: Policy,
    ) -> anyhow::Result<MemoryBudget> {
        let options = self.options(limits, policy);
        Ok(memory_budget(model, options.first().unwrap_or(&EngineOptions::default()))?)
    }

    fn note_fallback(&self, backend: &str) {
        if let Some(why) = &self.fallback {
            note!("running on {backend}: {why}");
        }
    }
}

impl DeviceArgs {
    /// Loads the model for these limits, and prints on standard error why `auto` chose the CPU.
    pub(crate) fn load(&self, chosen: &Chosen, limits: Limits) -> anyhow::Result<Engine> {
        self.load_with(chosen, &self.setup(chosen.model, 1)?, limits, Policy::default())
    }

    /// The same with a policy; the number of draft tokens is that of the flags.
    pub(crate) fn load_with(
        &self,
        chosen: &Chosen,
        setup: &EngineSetup,
        limits: Limits,
        policy: Policy,
    ) -> anyhow::Result<Engine> {
        let [options] = setup.options(limits, policy)[..] else {
            return Err(anyhow::anyhow!("{} engines cannot be loaded as one", setup.count()));
        };
        let engine = self.prepare(chosen, setup, |model, show| {
            Engine::load(model, chosen.checkpoint.clone(), options, show)
        })?;
        setup.note_fallback(&engine.describe());
        Ok(engine)
    }

    /// Loads all engines of a setup and starts them.
    pub(crate) fn load_pool(
        &self,
        chosen: &Chosen,
        setup: &EngineSetup,
        limits: Limits,
        policy: Policy,
    ) -> anyhow::Result<EnginePool> {
        let options = setup.options(limits, policy);
        let pool = self.prepare(chosen, setup, |model, show| {
            EnginePool::load(model, &chosen.checkpoint, &options, show)
        })?;
        setup.note_fallback(&pool.describe());
        Ok(pool)
    }

    /// Loads the engine or the engines of a setup as what a server or a batch runs on, and describes it in one line.
    pub(crate) fn load_backend(
        &self,
        chosen: &Chosen,
        setup: &EngineSetup,
        limits: Limits,
        policy: Policy,
    ) -> anyhow::Result<(Arc<dyn GenerationBackend>, String)> {
        if setup.count() > 1 {
            let pool = self.load_pool(chosen, setup, limits, policy)?;
            let described = pool.describe();
            return Ok((Arc::new(PoolBackend::new(pool)), described));
        }
        let handle = EngineHandle::start(self.load_with(chosen, setup, limits, policy)?)?;
        let described = handle.describe().to_owned();
        Ok((Arc::new(EngineBackend::new(handle)), described))
    }

    /// Loads by `load` with progress bars, and prints which weights were converted.
    fn prepare<T>(
        &self,
        chosen: &Chosen,
        setup: &EngineSetup,
        load: impl FnOnce(&'static Model, &mut dyn FnMut(Progress)) -> ossmith::Result<T>,
    ) -> anyhow::Result<T> {
        let ordinal = match setup.device() {
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
        let loaded = load(model, &mut |at| bars.show(at))?;
        bars.finish();
        for ossmith::Conversion { weights, from, to, relative_error, .. } in
            chosen.checkpoint.conversions()
        {
            note!(
                "{weights}: {from} became {to}, with a relative error of {:.3} % (root mean square)",
                100.0 * relative_error
            );
        }
        Ok(loaded)
    }

    /// Where so many engines run. Ranks are compiled once for each kind of device.
    pub(crate) fn setup(
        &self,
        model: &'static Model,
        engines: usize,
    ) -> anyhow::Result<EngineSetup> {
        let groups = self.ranks.ranks_of_engines(engines)?;
        let (device, fallback) = self.device()?.resolve();
        let base = EngineOptions::default()
            .with_device(device)
            .with_threads(self.threads.map(usize::from))
            .with_dense(self.dense.into())
            .with_shadow_head(!self.schedule.no_shadow_head)
            .with_policy(Policy::default().with_draft_tokens(self.draft_tokens.into()));
        let size = self.ranks.tensor_parallel_size.map_or(1, usize::from);
        let mut engines = match groups {
            None if engines == 1 => vec![base.with_ranks(Ranks::new(size))],
            None => base.with_ranks(Ranks::new(size)).for_engines(engines)?,
            Some(groups) => {
                let of = |ranks: &Ranks| {
                    base.with_device(Device::Cuda(ranks.ordinals(0)[0])).with_ranks(*ranks)
                };
                groups.iter().map(of).collect()
            }
        };
        let mut compiled: Vec<(Arch, Option<RankModels>)> = Vec::new();
        for options in &mut engines {
            let Device::Cuda(first) = options.device else { continue };
            let arch = arch_of_device(options.ranks.ordinals(first)[0]);
            let known = compiled.iter().find(|(of, _)| *of == arch);
            let models = match known {
                Some((_, models)) => *models,
                None => rank_models(model, options.ranks.count(), &self.schedule, &arch)?,
            };
            compiled.push((arch, models));
            options.rank_models = models;
        }
        Ok(EngineSetup { engines, fallback })
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

    #[test]
    fn engines_divide_the_named_devices() {
        let groups = |tensor_parallel_size, device: &[usize], engines| {
            RankArgs { tensor_parallel_size, device: device.to_vec() }.ranks_of_engines(engines)
        };
        for (size, engines, expected) in [
            (None, 2, &[&[0, 1][..], &[2, 3]][..]),
            (Some(2), 2, &[&[0, 1], &[2, 3]]),
            (Some(1), 4, &[&[0], &[1], &[2], &[3]]),
        ] {
            let ranks = groups(size, &[0, 1, 2, 3], engines).expect("ranks").expect("devices");
            let ordinals: Vec<Vec<usize>> = ranks.iter().map(|ranks| ranks.ordinals(0)).collect();
            assert_eq!(ordinals, expected);
        }
        assert!(groups(Some(2), &[], 2).expect("no devices").is_none());
        let error = groups(Some(2), &[0, 1, 2], 2).expect_err("three devices").to_string();
        assert!(error.contains("needs 4 devices, but --device names 3"), "{error}");
    }
}
