//! One kernel by itself: with nothing of its inputs in L2, and with all that fits. Its speed in a step is another matter
//! (`bench decode`), but this takes a second.

use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use ossmith_plan::params::FlatRead;
use ossmith_plan::{Gemm, PhaseKernel, PhaseTotal, Prediction, Rates, Section, StepShape};

use super::super::CudaBackend;
use super::super::forward::StepRun;
use super::super::kernels::Extent;
use super::super::memory::{Buffer, device_error};
use super::super::nvrtc::Resources;
use super::super::replay::ReplayedStep;
use super::cublas::{self, CublasGemm};
use crate::{Error, Result};

/// More than any L2 cache holds: reading it leaves nothing else there.
const FLUSH_BYTES: usize = 256 << 20;

/// Microseconds of repeated launches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentiles {
    /// Fastest.
    pub min_us: f64,
    /// Half are faster.
    pub median_us: f64,
    /// 99 of 100 are faster.
    pub p99_us: f64,
}

impl Percentiles {
    fn of(mut times: Vec<f64>) -> Percentiles {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let last = times.len().saturating_sub(1);
            times.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
        };
        Percentiles { min_us: at(0.0), median_us: at(0.5), p99_us: at(0.99) }
    }
}

/// One kernel of a step, in one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTimes {
    /// Its name.
    pub kernel: &'static str,
    /// The phase that it computes, or a part of it.
    pub phase: &'static str,
    /// The step.
    pub shape: StepShape,
    /// Bytes that the phase must read in that layer.
    pub bytes: f64,
    /// Floating-point operations that it must do there.
    pub flops: f64,
    /// With nothing in L2.
    pub cold: Percentiles,
    /// Right after itself.
    pub warm: Percentiles,
    /// What it should take in the chain of a step.
    pub predicted: Prediction,
    /// A flat read in the same run, in GB/s.
    pub gb_per_s: f64,
    /// What ptxas reports of it.
    pub resources: Resources,
    /// The GEMMs of its phase by cuBLASLt; none if the phase has none, or [`cublaslt_missing`].
    pub cublaslt: Option<CublasLtTimes>,
}

/// The GEMMs of a phase by cuBLASLt: in bf16, one after another, without norms, RoPE, activations or routing. Those of the
/// experts are one dense GEMM of as many operations.
#[derive(Clone, Debug, PartialEq)]
pub struct CublasLtTimes {
    /// Their shapes.
    pub gemms: Vec<Gemm>,
    /// With nothing in L2.
    pub cold: Percentiles,
}

impl CublasLtTimes {
    /// Floating-point operations of all.
    #[must_use]
    pub fn flops(&self) -> f64 {
        self.gemms.iter().map(Gemm::flops).sum()
    }
}

/// Why GEMMs are not timed beside cuBLASLt's, if they are not.
#[must_use]
pub fn cublaslt_missing() -> Option<&'static str> {
    cublas::load().err()
}

impl CudaBackend {
    /// Measures a kernel in the first layer of a step that launches it, `samples` launches each way. What the events around
    /// a launch take themselves is measured and subtracted.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if no phase of the step launches the kernel; device errors.
    pub fn time_kernel(
        &mut self,
        kernel: &str,
        step: ReplayedStep,
        samples: usize,
    ) -> Result<KernelTimes> {
        let staged = self.stage_replays(step)?;
        let (shape, rows) = (staged.shape, staged.rows());
        let pass = &self.pass;
        let run = pass.step(staged.inputs(), shape.tokens);
        let (total, layer, found) = self.find(kernel, &run, &shape)?;
        let cost = pass.model.phase_cost(total.phase, layer, &shape);
        let launch = || match total.section {
            Section::Head => pass.head_phase(total.phase, &run, 0..rows),
            Section::Start | Section::Layer => pass.kernel(&found, total.phase, &run, layer),
        };
        let flush = Buffer::zeroed(&self.context, FLUSH_BYTES, "what clears L2")?;
        self.fill_random(&flush, 7)?;
        let out = Buffer::zeroed(&self.context, 16, "the result of clearing L2")?;
        let read = || {
            let units = flush.bytes() as u64 / 16;
            let params = FlatRead { data: flush.ptr(), units, out: out.ptr() };
            let extent = Extent { tokens: 0, routes: 0, query_tiles: 0 };
            pass.kernels.launch(&pass.stream, &pass.model.tools.flat_read, extent, &params)
        };
        // The flat read keeps the device busy until the host has submitted what follows, so no launch waits for the host.
        let nothing = self.between(samples, &read, &|| Ok(()), &|| Ok(()))?;
        let own = Percentiles::of(nothing).median_us;
        let without = |times: Vec<f64>| Percentiles::of(times.iter().map(|us| us - own).collect());
        let cold = without(self.between(samples, &read, &|| Ok(()), &launch)?);
        let warm = without(self.between(samples, &read, &launch, &launch)?);
        let gemms = pass.model.gemms(total.phase, layer, &shape);
        let cublaslt = if gemms.is_empty() || cublaslt_missing().is_some() {
            None
        } else {
            let matrix = |bytes| {
                let matrix = Buffer::zeroed(&self.context, bytes, "a matrix of cuBLASLt")?;
                self.fill_random(&matrix, 11)?;
                Ok(matrix)
            };
            let by_cublaslt: Vec<CublasGemm> =
                gemms.iter().map(|&gemm| CublasGemm::new(gemm, &matrix)).collect::<Result<_>>()?;
            let multiply = || by_cublaslt.iter().try_for_each(|gemm| gemm.launch(&pass.stream));
            let cold = without(self.between(samples, &read, &|| Ok(()), &multiply)?);
            Some(CublasLtTimes { gemms, cold })
        };
        let bytes = 2e9;
        let gb_per_s = bytes / self.time_flat_read(bytes)?.median_ms / 1e6;
        let rates = Rates { sms: self.info.sms as usize, ..Rates::of(&pass.model.arch) };
        let rates = rates.with_bandwidth(gb_per_s);
        let predicted = pass.model.predict_once(total.phase, &cost, &shape, &rates);
        let name = found.info().name;
        Ok(KernelTimes {
            kernel: name,
            phase: total.phase.name,
            shape,
            bytes: cost.bytes(),
            flops: cost.flops,
            cold,
            warm,
            predicted,
            gb_per_s,
            resources: pass.kernels.resources().get(name).copied().unwrap_or_default(),
            cublaslt,
        })
    }

    /// The phase of a step that launches a kernel, in the first layer that does.
    fn find(
        &self,
        kernel: &str,
        run: &StepRun,
        shape: &StepShape,
    ) -> Result<(PhaseTotal, usize, PhaseKernel)> {
        let (model, schedule) = (self.pass.model, run.schedule);
        let of_rows = model.schedule(shape.rows).unembed();
        let mut known = Vec::new();
        for total in model.phase_totals(schedule, shape) {
            let layers = if total.section == Section::Layer { model.spec.layers.len() } else { 1 };
            for layer in 0..layers {
                let phase = match total.section {
                    Section::Layer => &self.pass.phases_of(run, layer)[total.index],
                    Section::Start | Section::Head => total.phase,
                };
                for found in phase.kernels {
                    let launched = match found {
                        PhaseKernel::Unembed(_) | PhaseKernel::UnembedDecode(_) => {
                            of_rows.unwrap_or(found)
                        }
                        found => found,
                    };
                    let name = launched.info().name;
                    if name == kernel {
                        return Ok((PhaseTotal { phase, ..total }, layer, *launched));
                    }
                    if !known.contains(&name) {
                        known.push(name);
                    }
                }
            }
        }
        let problem = format!(
            "{} tokens launch no kernel {kernel}; they launch {}",
            shape.tokens,
            known.join(", ")
        );
        Err(Error::invalid_option("kernel", problem))
    }

    /// Microseconds from before `timed` to after it, each time after `read` and `before`.
    fn between(
        &self,
        samples: usize,
        read: &dyn Fn() -> Result<()>,
        before: &dyn Fn() -> Result<()>,
        timed: &dyn Fn() -> Result<()>,
    ) -> Result<Vec<f64>> {
        let event = || -> Result<CudaEvent> {
            self.context.new_event(Some(CU_EVENT_DEFAULT)).map_err(device_error("make an event"))
        };
        let stream = &self.pass.stream;
        let mut times = Vec::with_capacity(samples);
        for sample in 0..=samples {
            let (begin, end) = (event()?, event()?);
            read()?;
            before()?;
            begin.record(stream).map_err(device_error("mark the start of a kernel"))?;
            timed()?;
            end.record(stream).map_err(device_error("mark the end of a kernel"))?;
            let ms = begin.elapsed_ms(&end).map_err(device_error("read its clock"))?;
            if sample > 0 {
                times.push(f64::from(ms) * 1e3);
            }
        }
        Ok(times)
    }
}
