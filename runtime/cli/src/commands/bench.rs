//! `ossmith bench`: how fast steps are, beside the roofline measured in the same run.

mod decode;
mod picture;
mod prefill;

use std::time::Instant;

use ossmith::Limits;
use ossmith::backend::cuda::CudaBackend;

use super::bench_serve;
use crate::model::ModelArgs;
use crate::progress::Bars;

/// Time decode or prefill steps on a CUDA device, or put load on a server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Decode steps: one new token a sequence.
    Decode(decode::Decode),
    /// One prompt from its first token to the first token drawn.
    Prefill(prefill::Prefill),
    Serve(Box<bench_serve::Args>),
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::Decode(args) => args.run(),
            What::Prefill(args) => args.run(),
            What::Serve(args) => args.run(),
        }
    }
}

fn load(model: &ModelArgs, limits: Limits, device: usize) -> anyhow::Result<(CudaBackend, f64)> {
    let begin = Instant::now();
    let chosen = model.choose()?;
    let mut bars = Bars::new();
    let backend =
        CudaBackend::new(chosen.model, chosen.checkpoint, limits, device, &mut |at| bars.show(at))?;
    bars.finish();
    Ok((backend, begin.elapsed().as_secs_f64()))
}
