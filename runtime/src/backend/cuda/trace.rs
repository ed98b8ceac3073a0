//! A decode step block by block: the same kernels compiled with stamps, replayed as the graph that steps are, and read
//! back as data. What steps run is not changed by it.

use ossmith_plan::Phase;

use super::bench::{DecodeSampling, TimedSequences, TimingStats};
use super::kernels::Kernels;
use super::stamps::{Stamps, TracedBlock, TracedLaunch};
use super::{CudaBackend, DecodeStep, Samples};
use crate::backend::Progress;
use crate::{Error, Result};

/// A traced decode step.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeTrace {
    /// Time of the step by the kernels without stamps, one replay at a time.
    pub plain: TimingStats,
    /// The same with stamps.
    pub stamped: TimingStats,
    /// Its launches in order.
    pub launches: Vec<TracedLaunch>,
    /// Their blocks in order, as the last replay ran them.
    pub blocks: Vec<TracedBlock>,
}

impl DecodeTrace {
    /// The smallest difference between two stamps, in nanoseconds: how finely the clock counts.
    #[must_use]
    pub fn clock_ns(&self) -> u64 {
        let mut times: Vec<u64> = self
            .blocks
            .iter()
            .flat_map(|block| [block.start_ns, block.ready_ns, block.end_ns])
            .collect();
        times.sort_unstable();
        let differences = times.windows(2).map(|pair| pair[1] - pair[0]);
        differences.filter(|difference| *difference > 0).min().unwrap_or(0)
    }
}

impl CudaBackend {
    /// Traces a decode step of `batch` sequences that each see `context` keys, with cache and tokens as in
    /// [`CudaBackend::time_decode`]. Compiles the step's kernels with stamps, which the cubin cache keeps beside those
    /// without.
    ///
    /// # Errors
    /// Those of [`CudaBackend::time_decode`]; [`Error::KernelSource`] for an edited kernel that cannot be stamped.
    pub fn trace_decode(
        &mut self,
        batch: usize,
        context: usize,
        sampling: &DecodeSampling,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<DecodeTrace> {
        sampling.config.check()?;
        let tables = self.page_tables(batch, context.max(1))?;
        self.fill_cache()?;
        let timed = {
            let spec = &self.pass.model.spec;
            TimedSequences::new(sampling, tables, spec.vocab, spec.max_experts())
        };
        timed.start(self, context.saturating_sub(1))?;
        let step = DecodeStep { tokens: batch, samples: Samples::All, adapted: false };
        let plain = self.time_graph(|| self.decode_step(step))?;
        let mut kernels =
            Kernels::load_stamped(&self.context, &self.info, self.pass.model, progress)?;
        kernels.set_stamps(Stamps::new(&self.context, self.blocks(batch)?)?);
        std::mem::swap(&mut self.pass.kernels, &mut kernels);
        let stamped = self.time_graph(|| self.decode_step(step));
        std::mem::swap(&mut self.pass.kernels, &mut kernels);
        let stamped = stamped?;
        let (launches, blocks) = kernels.traced()?;
        Ok(DecodeTrace { plain, stamped, launches, blocks })
    }

    /// Blocks of all launches of a decode step.
    fn blocks(&self, tokens: usize) -> Result<u32> {
        let (pass, extent) = (&self.pass, self.pass.extent(tokens));
        let step = pass.step(&self.inputs, tokens);
        let layers =
            (0..pass.model.spec.layers.len()).flat_map(|layer| pass.phases_of(&step, layer));
        let phases: Vec<&Phase> =
            step.schedule.start.iter().chain(layers).chain(step.schedule.head).collect();
        let of_kernel = |kernel: &ossmith_plan::PhaseKernel| {
            pass.kernels
                .grid(kernel.info(), extent)
                .iter()
                .map(|axis| u64::from(*axis))
                .product::<u64>()
        };
        let blocks: u64 = phases.iter().flat_map(|phase| phase.kernels).map(of_kernel).sum();
        u32::try_from(blocks).map_err(|_| {
            Error::invalid_option(
                "batch",
                format!("a step of {tokens} tokens has {blocks} blocks, too many for a trace"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use ossmith_models::{GPT_OSS_20B, NANO};

    use super::*;
    use crate::backend::cuda::nvrtc;
    use crate::backend::cuda::sources::Sources;

    #[test]
    fn the_clock_counts_as_finely_as_its_stamps_differ() {
        let block = |start_ns, ready_ns, end_ns| TracedBlock {
            launch: 0,
            block: 0,
            sm: 0,
            start_ns,
            ready_ns,
            end_ns,
        };
        let time = TimingStats { median_ms: 1.0, min_ms: 1.0, max_ms: 1.0 };
        let blocks = vec![block(0, 64, 96), block(0, 64, 160)];
        let trace = DecodeTrace { plain: time, stamped: time, launches: Vec::new(), blocks };
        assert_eq!(trace.clock_ns(), 32);
    }

    /// With NVRTC: a step's kernels compile with stamps, and take no local memory for them.
    #[test]
    fn kernels_with_stamps_compile() {
        if nvrtc::version().is_err() {
            assert!(std::env::var_os("OSSMITH_NVRTC").is_none(), "OSSMITH_NVRTC names no NVRTC");
            return eprintln!("not checked: there is no NVRTC");
        }
        for (model, target, regime) in
            [(GPT_OSS_20B, "sm_90a", "decode"), (NANO, "sm_80", "prefill")]
        {
            let plain = Sources::of(model).expect("the model's own text");
            let sources =
                Sources::of(model).expect("the model's own text").stamped(model).expect("stamped");
            let schedule = model.schedules.iter().find(|schedule| {
                schedule.regime.name() == regime
                    && (target == "sm_90a" || schedule.family == ossmith_plan::Family::Portable)
            });
            for info in schedule.expect("a schedule").infos() {
                let unit = model.units.iter().find(|unit| unit.name == info.name).expect("a unit");
                let stamped =
                    nvrtc::compile(&sources, unit, target).unwrap_or_else(|why| panic!("{why}"));
                let before =
                    nvrtc::compile(&plain, unit, target).unwrap_or_else(|why| panic!("{why}"));
                let (with, without) = (stamped.resources, before.resources);
                assert_eq!(
                    with.spill_bytes, without.spill_bytes,
                    "{}: {with:?}, {without:?}",
                    unit.name
                );
                assert_ne!(stamped.image, before.image, "{}", unit.name);
            }
        }
    }
}
