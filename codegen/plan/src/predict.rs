//! What phases should take on a device, before anything is measured: the greatest of what their bytes, their floating-point
//! operations and their busiest SM take, and a fixed part for each launch. `bench` and `tune` print it beside what they
//! measure.

use crate::{
    Arch, Axis, Cost, DType, Extent, KernelInfo, Model, Phase, PhaseKernel, PhaseTotal, Schedule,
    Section, StepShape, TILE_ROWS, Weight,
};

/// How fast a device is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Memory read front to back, in GB/s.
    pub gb_per_s: f64,
    /// bf16 tensor-core rate that GEMMs reach, in TFLOP/s.
    pub tflops: f64,
    /// Streaming multiprocessors.
    pub sms: usize,
    /// Shared memory of one SM, which bounds the blocks that it runs at once.
    pub shared_bytes_per_sm: usize,
}

/// Of the published FLOP rate, what a GEMM with bf16 activations reaches (measured on the H200 at 8,192 tokens: 0.6).
const GEMM_SHARE: f64 = 0.6;
/// From a load to its data while memory is busy, in µs.
const LATENCY_US: f64 = 0.9;
/// From a kernel's start to the next one's in a graph of dependent launches, beside its work, in µs.
const LAUNCH_US: f64 = 1.5;
/// What one SM reads at most while others wait, in GB/s: of bf16, and of MXFP4, whose decoding takes instructions.
const SM_GB_PER_S: (f64, f64) = (60.0, 40.0);

impl Rates {
    /// What is to be expected of a profile from its published rates.
    #[must_use]
    pub fn of(arch: &Arch) -> Rates {
        Rates {
            gb_per_s: Arch::READ_SHARE * f64::from(arch.memory_gb_per_s),
            tflops: GEMM_SHARE * f64::from(arch.bf16_tflops),
            sms: arch.sms,
            shared_bytes_per_sm: arch.shared_bytes_per_sm,
        }
    }

    /// The same with a bandwidth that was measured.
    #[must_use]
    pub fn with_bandwidth(self, gb_per_s: f64) -> Rates {
        Rates { gb_per_s, ..self }
    }
}

/// What a phase should take, over all its launches of a step, in µs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prediction {
    /// To read its bytes at the device's bandwidth.
    pub bytes_us: f64,
    /// To compute its floating-point operations.
    pub flops_us: f64,
    /// For the SM with the most work to read its part, as fast as the bytes that it has on their way allow.
    pub busiest_us: f64,
    /// For its launches.
    pub fixed_us: f64,
    /// The longest of the first three, launch by launch.
    pub longest_us: f64,
}

impl Prediction {
    /// All of it.
    #[must_use]
    pub fn us(&self) -> f64 {
        self.fixed_us + self.longest_us
    }

    /// What takes longest.
    #[must_use]
    pub fn bound(&self) -> &'static str {
        let parts = [
            (self.bytes_us, "bytes"),
            (self.flops_us, "FLOPs"),
            (self.busiest_us, "busiest SM"),
            (self.fixed_us, "launches"),
        ];
        parts.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or("", |part| part.1)
    }

    fn plus(self, other: Prediction) -> Prediction {
        Prediction {
            bytes_us: self.bytes_us + other.bytes_us,
            flops_us: self.flops_us + other.flops_us,
            busiest_us: self.busiest_us + other.busiest_us,
            fixed_us: self.fixed_us + other.fixed_us,
            longest_us: self.longest_us + other.longest_us,
        }
    }
}

impl Model {
    /// What a phase should take once, in one layer where it has this cost.
    #[must_use]
    pub fn predict_once(
        &self,
        phase: &Phase,
        cost: &Cost,
        shape: &StepShape,
        rates: &Rates,
    ) -> Prediction {
        let bytes = cost.bytes();
        // Kernels that divide a phase's tokens between them: steps of one kind of token launch one of them alone.
        let single_queries = shape.sequences == shape.tokens;
        let launched = |kernel: &&PhaseKernel| match kernel {
            PhaseKernel::AttentionTiled(_) => !single_queries,
            PhaseKernel::Attention(_) => single_queries,
            _ => true,
        };
        let kernels = || phase.kernels.iter().filter(launched);
        let busiest = kernels().map(|kernel| self.busiest_us(kernel, phase, bytes, shape, rates));
        let busiest_us = busiest.fold(0.0, f64::max);
        let bytes_us = bytes / rates.gb_per_s / 1e3;
        let flops_us = cost.flops / rates.tflops / 1e6;
        Prediction {
            bytes_us,
            flops_us,
            busiest_us,
            fixed_us: LAUNCH_US * kernels().count() as f64,
            longest_us: bytes_us.max(flops_us).max(busiest_us),
        }
    }

    /// What a phase of a step that runs by `schedule` should take, all times together.
    #[must_use]
    pub fn predict(
        &self,
        schedule: &Schedule,
        total: &PhaseTotal,
        shape: &StepShape,
        rates: &Rates,
    ) -> Prediction {
        if total.section != Section::Layer {
            return self.predict_once(total.phase, &total.cost, shape, rates);
        }
        let of_layer = |layer| {
            let phase = &schedule.layers[self.graph.class(layer)][total.index];
            self.predict_once(phase, &self.phase_cost(phase, layer, shape), shape, rates)
        };
        (0..self.spec.layers.len()).map(of_layer).fold(Prediction::default(), Prediction::plus)
    }

    /// What every phase of a step should take, in the order of their launches.
    #[must_use]
    pub fn predictions(
        &self,
        schedule: &Schedule,
        shape: &StepShape,
        rates: &Rates,
    ) -> Vec<(PhaseTotal, Prediction)> {
        let totals = self.phase_totals(schedule, shape);
        let each = totals.into_iter();
        each.map(|total| (total, self.predict(schedule, &total, shape, rates))).collect()
    }

    /// The time of the SM with the most of one launch's equal pieces of work.
    fn busiest_us(
        &self,
        kernel: &PhaseKernel,
        phase: &Phase,
        bytes: f64,
        shape: &StepShape,
        rates: &Rates,
    ) -> f64 {
        let info = kernel.info();
        let extent = Extent {
            tokens: shape.tokens as u32,
            routes: (shape.tokens * self.spec.max_top_k()) as u32,
            query_tiles: query_tiles(info, shape),
            experts: self.spec.max_experts() as u32,
            kv_heads: self.spec.kv_heads as u32,
            sms: rates.sms as u32,
        };
        let blocks: f64 = info.grid.blocks(&extent).iter().map(|&count| f64::from(count)).product();
        let resident = matches!(info.grid.x, Axis::PerSm(_));
        // A block for each piece, or resident blocks that take row tiles in turn.
        let pieces = match resident {
            true => self.row_tiles(phase, shape).max(1.0),
            false => blocks.max(1.0),
        };
        let sms = rates.sms as f64;
        let most = (pieces / sms).ceil();
        let fit = (rates.shared_bytes_per_sm / (info.shared_bytes as usize).max(1024)) as f64;
        let at_once = (blocks / sms).ceil().min(fit).max(1.0);
        let on_their_way = at_once * f64::from(info.shared_bytes.max(4096));
        let weights = || phase.nodes.iter().flat_map(|node| node.weights);
        let is_mxfp4 = weights().any(|&w| self.graph.weight(w, 0).dtype == DType::Mxfp4);
        let most_gb_per_s = if is_mxfp4 { SM_GB_PER_S.1 } else { SM_GB_PER_S.0 };
        // KB and µs: a KB per µs is a GB per s.
        let kb = on_their_way / 1e3;
        let rate = kb / (LATENCY_US + kb / most_gb_per_s);
        bytes * most / pieces / 1e3 / rate
    }

    /// Row tiles of the matrices that a phase reads in one layer, of those of the experts only the chosen ones'.
    fn row_tiles(&self, phase: &Phase, shape: &StepShape) -> f64 {
        let of = |weight: &Weight| {
            let info = self.graph.weight(*weight, 0);
            let (matrices, rows, k) = info.matrices();
            let chosen = if info.per_expert() { shape.distinct_experts } else { matrices as f64 };
            if k > 1 { chosen * rows.div_ceil(TILE_ROWS) as f64 } else { 0.0 }
        };
        phase.nodes.iter().flat_map(|node| node.weights).map(of).fold(0.0, f64::max)
    }
}

fn query_tiles(info: &KernelInfo, shape: &StepShape) -> u32 {
    match info.grid.y {
        Axis::QueryTiles(tokens) => shape.tokens.div_ceil(tokens as usize) as u32,
        _ => 0,
    }
}
