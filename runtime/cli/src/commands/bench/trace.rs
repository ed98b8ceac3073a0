//! A traced step as a file, for `bench decode --trace`.

use std::path::Path;

use anyhow::Context as _;
use ossmith::unstable::cuda::CudaBackend;
use ossmith::unstable::cuda::bench::DecodeSampling;
use ossmith_plan::StepShape;
use ossmith_report::trace::{Block, Launch, StepTrace};

use crate::progress::Bars;

/// Traces a decode step and writes it; says on standard error what the stamps cost.
pub(super) fn write(
    backend: &mut CudaBackend,
    model: &str,
    shape: &StepShape,
    sampling: &DecodeSampling,
    file: &Path,
) -> anyhow::Result<()> {
    let mut bars = Bars::new();
    let traced =
        backend.trace_decode(shape.tokens, shape.keys, sampling, &mut |at| bars.show(at))?;
    bars.finish();
    let us = |ns: u64| ns as f64 / 1e3;
    let launches = traced.launches.iter().map(|launch| Launch {
        kernel: launch.kernel.to_owned(),
        phase: launch.phase.to_owned(),
        layer: launch.layer,
        grid: launch.grid,
    });
    let blocks = traced.blocks.iter().map(|block| Block {
        launch: block.launch,
        block: block.block,
        sm: block.sm,
        start_us: us(block.start_ns),
        ready_us: us(block.ready_ns),
        end_us: us(block.end_ns),
    });
    let trace = StepTrace {
        model: model.to_owned(),
        device: backend.device().name.clone(),
        batch: shape.tokens,
        context: shape.keys,
        plain_us: Some(traced.plain.median_ms * 1e3),
        clock_us: us(traced.clock_ns()),
        launches: launches.collect(),
        blocks: blocks.collect(),
    };
    std::fs::write(file, format!("{}\n", trace.to_chrome()))
        .with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!(
        "{} blocks of {} launches are in {}; one replay takes {:.3} ms with stamps, {:.3} ms without, and the clock counts \
         {} ns",
        trace.blocks.len(),
        trace.launches.len(),
        file.display(),
        traced.stamped.median_ms,
        traced.plain.median_ms,
        traced.clock_ns()
    );
    Ok(())
}
