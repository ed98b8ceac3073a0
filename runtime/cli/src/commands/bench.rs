//! `ossmith bench`: how fast steps are, beside the roofline measured in the same run.

mod contract;
mod decode;
mod kernel;
mod latency;
mod load;
mod picture;
mod prefill;
mod throughput;
mod trace;

use std::time::Instant;

use clap::builder::{RangedU64ValueParser, TypedValueParser};
use ossmith::Limits;
use ossmith::unstable::Backend;
use ossmith::unstable::cuda::bench::{DecodeSampling, StepTimes};
use ossmith::unstable::cuda::{CudaBackend, DeviceInfo, Kernels, RankedCudaBackend};
use ossmith_plan::ModelSpec;

use super::bench_serve;
use crate::failure::fail;
use crate::load::RankArgs;
use crate::model::ModelArgs;
use crate::progress::Bars;
use crate::schedule::ScheduleArgs;

/// Time steps on a CUDA device (decode, prefill), the engine on any (throughput, latency), or a server (serve, sweep), and hold speeds against the contract.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Decode steps: one new token per sequence.
    Decode(decode::Decode),
    Kernel(kernel::Kernel),
    /// One prompt, from its first token to the first sampled token.
    Prefill(prefill::Prefill),
    Serve(Box<bench_serve::Args>),
    Sweep(Box<bench_serve::SweepArgs>),
    Contract(contract::Args),
    Throughput(throughput::Args),
    Latency(latency::Args),
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::Decode(args) => args.run(),
            What::Kernel(args) => args.run(),
            What::Prefill(args) => args.run(),
            What::Serve(args) => args.run(),
            What::Sweep(args) => args.run(),
            What::Contract(args) => args.run(),
            What::Throughput(args) => args.run(),
            What::Latency(args) => args.run(),
        }
    }
}

/// A flag's value from 1 to `max`.
pub(super) fn count(max: u64) -> impl TypedValueParser<Value = usize> {
    RangedU64ValueParser::new().range(1..=max)
}

/// Refuses, before anything is loaded, sequences that are longer than the model's context. `what` is what makes them so long.
fn check_context(spec: &ModelSpec, tokens: usize, what: &str) -> anyhow::Result<()> {
    if tokens <= spec.context {
        return Ok(());
    }
    Err(fail(
        format!(
            "{what} make sequences of {tokens} tokens, but the context of {} is {}",
            spec.name, spec.context
        ),
        "name smaller numbers",
    ))
}

fn load(
    model: &ModelArgs,
    schedule: &ScheduleArgs,
    limits: Limits,
    device: usize,
) -> anyhow::Result<(CudaBackend, f64)> {
    let begin = Instant::now();
    let chosen = model.choose()?;
    let scheduled = schedule.apply_on(chosen.model, device)?;
    let mut bars = Bars::new();
    let backend =
        CudaBackend::new(scheduled, chosen.checkpoint, limits, device, &mut |at| bars.show(at))?;
    bars.finish();
    Ok((backend, begin.elapsed().as_secs_f64()))
}

/// A backend on one CUDA device or on several.
enum Loaded {
    One(Box<CudaBackend>),
    Ranks(RankedCudaBackend),
}

impl Loaded {
    fn backend(&self) -> &dyn Backend {
        match self {
            Loaded::One(backend) => &**backend,
            Loaded::Ranks(backend) => backend,
        }
    }

    /// The device, or that of the first rank.
    fn device(&self) -> DeviceInfo {
        match self {
            Loaded::One(backend) => backend.device().clone(),
            Loaded::Ranks(backend) => backend.device(),
        }
    }

    /// A name of the kernels' text and how many were compiled, of the first rank.
    fn kernels(&self) -> (String, usize) {
        let of = |kernels: &Kernels| (kernels.text_hash().to_owned(), kernels.cache_use().misses);
        match self {
            Loaded::One(backend) => of(backend.kernels()),
            Loaded::Ranks(backend) => backend.with_kernels(of),
        }
    }

    fn time_decode(
        &mut self,
        batch: usize,
        context: usize,
        sampling: &DecodeSampling,
    ) -> ossmith::Result<StepTimes> {
        match self {
            Loaded::One(backend) => backend.time_decode(batch, context, sampling),
            Loaded::Ranks(backend) => backend.time_decode(batch, context, sampling),
        }
    }
}

/// Loads a model onto the devices that are named.
fn load_ranks(
    model: &ModelArgs,
    schedule: &ScheduleArgs,
    limits: Limits,
    ranks: &RankArgs,
) -> anyhow::Result<(Loaded, f64)> {
    let ordinals = ranks.ranks()?.ordinals(0);
    if let [ordinal] = ordinals[..] {
        let (backend, load_s) = load(model, schedule, limits, ordinal)?;
        return Ok((Loaded::One(Box::new(backend)), load_s));
    }
    let begin = Instant::now();
    let chosen = model.choose()?;
    let models = ranks.models(chosen.model, schedule, ordinals[0])?;
    let models = models.map_or(&[][..], |models| models.0);
    let mut bars = Bars::new();
    let backend =
        RankedCudaBackend::new(models, &chosen.checkpoint, limits, &ordinals, &mut |at| {
            bars.show(at);
        })?;
    bars.finish();
    Ok((Loaded::Ranks(backend), begin.elapsed().as_secs_f64()))
}
