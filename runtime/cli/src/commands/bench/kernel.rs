//! `ossmith bench kernel`.

use std::io::Write;
use std::time::Instant;

use ossmith::Limits;
use ossmith::unstable::cuda::CudaBackend;
use ossmith::unstable::cuda::bench::kernel::{KernelTimes, Percentiles, cublaslt_missing};
use ossmith::unstable::cuda::check::with_one_layer_of_each_class;
use ossmith::unstable::cuda::replay::ReplayedStep;
use serde_json::{Value, json};

use super::super::table;
use super::count;
use crate::failure::fail;
use crate::load::RankArgs;
use crate::model::ModelArgs;
use crate::progress::Bars;
use crate::schedule::ScheduleArgs;

/// Time single kernels: cold and warm L2, bytes, FLOPs, and the share of both roofs.
///
/// A kernel is launched in one layer of a step with real routing and filled caches. Cold: nothing of its inputs is in L2;
/// this is nearest to a step. Warm: it ran right before. The bandwidth roof is a flat read measured in the same run, the
/// FLOP roof is the published one. Where cuBLASLt is on the machine, the GEMMs of the kernel's phase are timed with it in bf16,
/// cold, those of the experts as one dense GEMM of as many operations.
#[derive(Debug, clap::Args)]
pub(super) struct Kernel {
    /// Kernel names, as `kernels list` prints them.
    #[arg(required = true, value_name = "NAME")]
    kernels: Vec<String>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// Tokens of the step, one per sequence.
    #[arg(long, default_value = "1", value_delimiter = ',', value_name = "N,…", value_parser = count(4096))]
    tokens: Vec<usize>,
    /// Keys that each of these tokens sees.
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = count(1 << 24))]
    context: usize,
    /// The tokens are those of one prompt.
    #[arg(long, conflicts_with = "context")]
    prompt: bool,
    /// Launches that are timed each way.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = count(100_000))]
    samples: usize,
    #[command(flatten)]
    ranks: RankArgs,
    /// Print one JSON object.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values.
    #[arg(long)]
    csv: bool,
}

/// The columns of the table and of CSV: name, whether it is text, and its value.
type Column = (&'static str, bool, fn(&KernelTimes, f64) -> String);

const COLUMNS: [Column; 18] = [
    ("kernel", true, |it, _| it.kernel.to_owned()),
    ("phase", true, |it, _| it.phase.to_owned()),
    ("tokens", false, |it, _| it.shape.tokens.to_string()),
    ("bytes", false, |it, _| format!("{:.0}", it.bytes)),
    ("flops", false, |it, _| format!("{:.0}", it.flops)),
    ("cold_min_us", false, |it, _| format!("{:.2}", it.cold.min_us)),
    ("cold_median_us", false, |it, _| format!("{:.2}", it.cold.median_us)),
    ("cold_p99_us", false, |it, _| format!("{:.2}", it.cold.p99_us)),
    ("warm_min_us", false, |it, _| format!("{:.2}", it.warm.min_us)),
    ("warm_median_us", false, |it, _| format!("{:.2}", it.warm.median_us)),
    ("warm_p99_us", false, |it, _| format!("{:.2}", it.warm.p99_us)),
    ("predicted_us", false, |it, _| format!("{:.2}", it.predicted.us())),
    ("tbps", false, |it, _| format!("{:.3}", it.bytes / it.cold.median_us / 1e6)),
    ("tflops", false, |it, _| format!("{:.1}", it.flops / it.cold.median_us / 1e6)),
    ("bandwidth_share", false, |it, _| {
        format!("{:.3}", it.bytes / it.cold.median_us / 1e3 / it.gb_per_s)
    }),
    ("flop_share", false, |it, roof| format!("{:.3}", it.flops / it.cold.median_us / 1e6 / roof)),
    ("cublaslt_median_us", false, |it, _| {
        it.cublaslt.as_ref().map_or(String::new(), |cublas| format!("{:.2}", cublas.cold.median_us))
    }),
    ("cublaslt_tflops", false, |it, _| {
        let tflops =
            it.cublaslt.as_ref().map(|cublas| cublas.flops() / cublas.cold.median_us / 1e6);
        tflops.map_or(String::new(), |tflops| format!("{tflops:.1}"))
    }),
];

impl Kernel {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let device = self.ranks.only_device("`bench kernel`")?;
        let model = self.schedule.apply_on(self.model.shape()?, device)?;
        for kernel in &self.kernels {
            if model.units.iter().all(|unit| unit.name != kernel) {
                let names: Vec<&str> = model.units.iter().map(|unit| unit.name).collect();
                return Err(fail(
                    format!("{} has no kernel {kernel}", model.spec.name),
                    format!("its kernels are {}", names.join(", ")),
                ));
            }
        }
        let context = self.context;
        let step = |&tokens: &usize| match self.prompt {
            true => ReplayedStep::Prompt { tokens },
            false => ReplayedStep::Decode { batch: tokens, context },
        };
        let steps: Vec<ReplayedStep> = self.tokens.iter().map(step).collect();
        let most = |of: fn(&ReplayedStep) -> usize| steps.iter().map(of).max().unwrap_or(1);
        let limits = Limits::default()
            .with_max_sequences(most(|step| step.sequences().0))
            .with_max_step_tokens(most(ReplayedStep::tokens))
            .with_pages(most(|step| step.sequences().0 * step.sequences().1));
        let begin = Instant::now();
        let checkpoint = self.model.choose()?.checkpoint;
        let mut bars = Bars::new();
        // One layer of each class has every kernel, and loads in a second.
        let model = with_one_layer_of_each_class(model);
        let mut backend =
            CudaBackend::new(model, checkpoint, limits, device, &mut |at| bars.show(at))?;
        bars.finish();
        let load_s = begin.elapsed().as_secs_f64();
        let mut all = Vec::new();
        for step in &steps {
            for kernel in &self.kernels {
                all.push(backend.time_kernel(kernel, *step, self.samples)?);
            }
        }
        let (device, arch) = (backend.device(), backend.model().arch);
        let roof = f64::from(arch.bf16_tflops);
        let mut out = std::io::stdout().lock();
        let row = |it: &KernelTimes| COLUMNS.map(|(_, _, value)| value(it, roof)).to_vec();
        if self.json {
            let kernels: Vec<Value> = all.iter().map(|it| object(it, roof)).collect();
            let all = json!({
                "bench": "kernel",
                "model": self.model.model,
                "device": device.name,
                "profile": arch.name,
                "driver": device.driver,
                "sm_clock_mhz": device.sm_clock_mhz,
                "memory_clock_mhz": device.memory_clock_mhz,
                "text": backend.kernels().text_hash(),
                "load_s": load_s,
                "kernels_compiled": backend.kernels().cache_use().misses,
                "samples": self.samples,
                "cublaslt_missing": cublaslt_missing(),
                "kernels": kernels,
            });
            writeln!(out, "{all}")?;
        } else if self.csv {
            writeln!(out, "{}", COLUMNS.map(|(name, ..)| name).join(","))?;
            for it in &all {
                writeln!(out, "{}", row(it).join(","))?;
            }
        } else {
            let rows: Vec<Vec<String>> = all.iter().map(row).collect();
            let numbers: Vec<usize> = (0..COLUMNS.len()).filter(|&i| !COLUMNS[i].1).collect();
            for line in table::lines(&COLUMNS.map(|(name, ..)| name), &rows, &numbers) {
                writeln!(out, "{line}")?;
            }
            writeln!(
                out,
                "{} (profile {}), SMs up to {} MHz, memory up to {} MHz, {:.0} GB/s read, {roof:.0} TFLOP/s published; \
                 {} of its kernels compiled, ready in {load_s:.2} s",
                device.name,
                arch.name,
                device.sm_clock_mhz,
                device.memory_clock_mhz,
                all.first().map_or(0.0, |it| it.gb_per_s),
                backend.kernels().cache_use().misses
            )?;
            if let Some(why) = cublaslt_missing() {
                writeln!(out, "not timed beside cuBLASLt: {why}")?;
            }
        }
        Ok(())
    }
}

fn percentiles(times: &Percentiles) -> Value {
    json!({ "min_us": times.min_us, "median_us": times.median_us, "p99_us": times.p99_us })
}

fn object(it: &KernelTimes, roof: f64) -> Value {
    json!({
        "kernel": it.kernel,
        "phase": it.phase,
        "tokens": it.shape.tokens,
        "keys": it.shape.keys,
        "distinct_experts": it.shape.distinct_experts,
        "bytes": it.bytes,
        "flops": it.flops,
        "cold": percentiles(&it.cold),
        "warm": percentiles(&it.warm),
        "predicted_us": it.predicted.us(),
        "bound": it.predicted.bound(),
        "read_gb_per_s": it.gb_per_s,
        "tbps": it.bytes / it.cold.median_us / 1e6,
        "tflops": it.flops / it.cold.median_us / 1e6,
        "bandwidth_share": it.bytes / it.cold.median_us / 1e3 / it.gb_per_s,
        "flop_share": it.flops / it.cold.median_us / 1e6 / roof,
        "registers": it.resources.registers,
        "spill_bytes": it.resources.spill_bytes,
        "cublaslt": it.cublaslt.as_ref().map(|cublas| json!({
            "gemms": cublas.gemms.iter().map(|gemm| json!({ "m": gemm.m, "n": gemm.n, "k": gemm.k })).collect::<Vec<_>>(),
            "cold": percentiles(&cublas.cold),
            "tflops": cublas.flops() / cublas.cold.median_us / 1e6,
        })),
    })
}
