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
use ossmith::unstable::cuda::CudaBackend;
use ossmith_plan::ModelSpec;

use super::bench_serve;
use crate::failure::fail;
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
