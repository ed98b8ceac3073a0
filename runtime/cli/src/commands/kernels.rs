//! `ossmith kernels`: what runs, what is fused, what it costs, what may be tuned, and the text of it.

mod compile;
mod space;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use ossmith::unstable::cuda::nvrtc::{self, Cubin};
use ossmith::unstable::cuda::{self, CubinCache, Sources};
use ossmith_plan::{
    Arch, Axis, KernelInfo, Model, PhaseTotal, Prediction, Rates, Section, StepShape, Unit,
};
use serde_json::{Value, json};

use super::table;
use crate::failure::fail;
use crate::model::ModelArgs;
use crate::output::note;
use crate::progress::Bars;
use crate::schedule::ScheduleArgs;

/// Show a model's kernels: the plan, the list, the text of each.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The phases of a step of some batch: what is fused, kernels, bytes, FLOPs, and how long either takes at least.
    Plan(Plan),
    /// Every kernel: launch geometry, registers, spills, shared memory.
    List(List),
    /// What may be tuned: values, ranges, and what each trades.
    Space(space::Space),
    /// The CUDA, PTX or SASS of one kernel.
    Show(Show),
    /// Write every kernel and header to a folder, to read or to edit (see OSSMITH_KERNELS), with a manifest of the model.
    Emit(Emit),
    /// Compile every kernel of a device into the cubin cache; needs NVRTC but no GPU.
    Compile(compile::Compile),
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::Plan(args) => args.run(),
            What::List(args) => args.run(),
            What::Space(args) => args.run(),
            What::Show(args) => args.run(),
            What::Emit(args) => args.run(),
            What::Compile(args) => args.run(),
        }
    }
}

/// Which device to compile for, and by which schedules.
#[derive(Debug, clap::Args)]
struct Target {
    /// Architecture to compile for.
    #[arg(long, default_value = "sm_90a", value_name = "sm_NN", conflicts_with = "gpu")]
    arch: String,
    /// Device to compile for, of those that Ossmith knows: its architecture and its tuned schedules.
    #[arg(long, value_name = "NAME", value_parser = arch)]
    gpu: Option<Arch>,
    #[command(flatten)]
    schedule: ScheduleArgs,
}

impl Target {
    /// The model by the schedules of the target's profile, with everything that it has.
    fn whole(&self, model: &ModelArgs) -> anyhow::Result<&'static Model> {
        let profile = self.gpu.unwrap_or(Arch::BUILT_IN);
        let model = self.schedule.apply(model.shape()?, &profile)?;
        Ok(Box::leak(Box::new(model.for_arch(&profile))))
    }

    /// The same as the target runs it.
    fn model(&self, model: &ModelArgs) -> anyhow::Result<Model> {
        Ok(self.whole(model)?.on(self.compute()?))
    }

    fn compute(&self) -> anyhow::Result<(i32, i32)> {
        if let Some(gpu) = &self.gpu {
            return Ok(gpu.compute);
        }
        let digits = self.arch.strip_prefix("sm_").map(|rest| rest.trim_end_matches('a'));
        let number: Option<i32> =
            digits.and_then(|digits| digits.parse().ok()).filter(|n| *n >= 80);
        number.map(|n| (n / 10, n % 10)).ok_or_else(|| {
            fail(
                format!("{} is no architecture of sm_80 or later", self.arch),
                "try sm_80, sm_89, sm_90a or sm_120",
            )
        })
    }
}

#[derive(Debug, clap::Args)]
struct Plan {
    #[command(flatten)]
    model: ModelArgs,

    /// Tokens of one prompt, instead of a decode step.
    #[arg(long, value_name = "N", conflicts_with_all = ["batch", "context"], value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    prompt: Option<u32>,

    /// Tokens of the step, one a sequence.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: u32,

    /// Keys that each token sees.
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    context: u32,

    /// Device that the step runs on, of those that Ossmith knows: its schedules, bandwidth and FLOP rate.
    #[arg(long, default_value = "h100", value_name = "NAME", value_parser = arch)]
    gpu: Arch,

    #[command(flatten)]
    schedule: ScheduleArgs,

    /// Memory bandwidth in GB/s that times are given for, instead of the device's published one.
    #[arg(long, value_name = "GB/s")]
    bandwidth: Option<f64>,
}

pub(super) fn arch(name: &str) -> Result<Arch, String> {
    let known = || Arch::ALL.map(|arch| arch.name).join(", ");
    Arch::named(name).ok_or_else(|| format!("there is no profile of it; known: {}", known()))
}

impl Plan {
    fn run(self) -> anyhow::Result<()> {
        let gb_per_s = self.bandwidth.unwrap_or(f64::from(self.gpu.memory_gb_per_s));
        if !gb_per_s.is_finite() || gb_per_s <= 0.0 {
            let message = format!("--bandwidth is {gb_per_s}");
            return Err(fail(message, "give GB/s above 0, such as 3350"));
        }
        let model = self.schedule.apply(self.model.shape()?, &self.gpu)?;
        let model = &model.for_arch(&self.gpu).on(self.gpu.compute);
        if let Some(why) = model.cannot_run() {
            let message = format!("{} cannot run on {}: {why}", model.spec.name, self.gpu.name);
            return Err(fail(message, "it runs on the CPU"));
        }
        let bounds = Bounds { gb_per_s, tflops: f64::from(self.gpu.bf16_tflops) };
        let shape = match self.prompt {
            Some(tokens) => StepShape::prompt(model, tokens as usize, 0),
            None => StepShape::decode(model, self.batch as usize, self.context as usize),
        };
        let tokens = shape.tokens;
        let step = match self.prompt {
            Some(tokens) => format!("a prompt of {tokens}"),
            None => format!("batch {tokens}, context {}", self.context),
        };
        let schedule = model.schedule(tokens);
        let rates = Rates::of(&self.gpu);
        let rates = self.bandwidth.map_or(rates, |gb_per_s| rates.with_bandwidth(gb_per_s));
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "{} on {}: {} layers, {} of {} experts, {step}, {:.1} distinct experts per layer",
            model.spec.name,
            self.gpu.name,
            model.spec.layers.len(),
            model.spec.max_top_k(),
            model.spec.max_experts(),
            shape.distinct_experts,
        )?;
        writeln!(
            out,
            "regime {}, for {} on {}",
            schedule.regime.name(),
            up_to(schedule.max_tokens),
            schedule.family.name()
        )?;
        let predictions = model.predictions(schedule, &shape, &rates);
        let rows: Vec<Vec<String>> =
            predictions.iter().map(|(total, expected)| bounds.row(total, expected)).collect();
        let header = [
            "part",
            "phase",
            "times",
            "MB",
            "GFLOP",
            "µs to read",
            "µs to compute",
            "µs expected",
            "bound by",
            "computes",
            "kernels",
        ];
        for line in table::lines(&header, &rows, &[2, 3, 4, 5, 6, 7]) {
            writeln!(out, "{line}")?;
        }
        let cost = model.step_cost(schedule, &shape);
        let (read, compute) = (bounds.us_to_read(cost.bytes()), bounds.us_to_compute(cost.flops));
        writeln!(
            out,
            "a step reads {:.3} GB, {:.3} ms at {gb_per_s:.0} GB/s, and computes {:.1} GFLOP, {:.3} ms at {:.0} TFLOP/s: \
             {:.0} tokens/s at most",
            cost.bytes() / 1e9,
            read / 1e3,
            cost.flops / 1e9,
            compute / 1e3,
            bounds.tflops,
            tokens as f64 * 1e6 / read.max(compute)
        )?;
        for schedule in model.schedules {
            let names: Vec<&str> = schedule.infos().iter().map(|info| info.name).collect();
            writeln!(
                out,
                "kernels of {}, {}: {}",
                schedule.regime.name(),
                up_to(schedule.max_tokens),
                names.join(" ")
            )?;
        }
        for loss in model.losses {
            writeln!(out, "{}", loss.what)?;
        }
        Ok(())
    }
}

fn up_to(max_tokens: usize) -> String {
    match max_tokens {
        usize::MAX => "any number of tokens".to_owned(),
        1 => "1 token".to_owned(),
        most => format!("up to {most} tokens"),
    }
}

/// What a device does at best.
struct Bounds {
    gb_per_s: f64,
    tflops: f64,
}

impl Bounds {
    fn us_to_read(&self, bytes: f64) -> f64 {
        bytes / self.gb_per_s / 1e3
    }

    fn us_to_compute(&self, flops: f64) -> f64 {
        flops / self.tflops / 1e6
    }

    /// A phase: how often it runs in a step, what it reads and computes then, its nodes and its kernels.
    fn row(&self, total: &PhaseTotal, expected: &Prediction) -> Vec<String> {
        let PhaseTotal { section, phase, times, cost, .. } = total;
        let part = match section {
            Section::Start => "start",
            Section::Layer => "layer",
            Section::Head => "head",
        };
        let nodes = phase.nodes.iter().map(|node| format!("{:?}", node.op));
        let next = phase.next.iter().map(|node| format!("{:?} of the next layer", node.op));
        let auxiliary = phase.auxiliary.iter().map(|what| format!("({what:?})"));
        let computes: Vec<String> = nodes.chain(next).chain(auxiliary).collect();
        let kernels: Vec<&str> = phase.kernels.iter().map(|kernel| kernel.info().name).collect();
        vec![
            part.to_owned(),
            phase.name.to_owned(),
            times.to_string(),
            format!("{:.2}", cost.bytes() / 1e6),
            format!("{:.3}", cost.flops / 1e9),
            format!("{:.1}", self.us_to_read(cost.bytes())),
            format!("{:.1}", self.us_to_compute(cost.flops)),
            format!("{:.1}", expected.us()),
            expected.bound().to_owned(),
            computes.join(" + "),
            kernels.join(" "),
        ]
    }
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    target: Target,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl List {
    fn run(self) -> anyhow::Result<()> {
        let model = &self.target.model(&self.model)?;
        let (cubins, _) = compiled(&CubinCache::of_user()?, model, &self.target)?;
        if self.json {
            let kernels: Vec<Value> = model
                .launched()
                .into_iter()
                .zip(&cubins)
                .map(|(unit, cubin)| {
                    let (info, resources) = (info_of(model, unit.name), cubin.resources);
                    json!({
                        "kernel": unit.name,
                        "grid": info.map(|info| grid(&info)),
                        "threads": info.map(|info| info.threads),
                        "shared_bytes": info.map(|info| info.shared_bytes),
                        "registers": resources.registers,
                        "max_registers": unit.max_registers,
                        "stack_bytes": resources.stack_bytes,
                        "spill_bytes": resources.spill_bytes,
                        "cubin_bytes": cubin.image.len(),
                    })
                })
                .collect();
            let list = json!({
                "bench": "kernels", "model": self.model.model.to_string(), "arch": nvrtc::target(self.target.compute()?), "kernels": kernels,
            });
            writeln!(std::io::stdout().lock(), "{list}")?;
            return Ok(());
        }
        let rows: Vec<Vec<String>> = model
            .launched()
            .into_iter()
            .zip(cubins)
            .map(|(unit, cubin)| {
                let info = info_of(model, unit.name);
                let resources = cubin.resources;
                vec![
                    unit.name.to_owned(),
                    info.map_or(String::new(), |info| grid(&info)),
                    info.map_or(String::new(), |info| info.threads.to_string()),
                    info.map_or(String::new(), |info| info.shared_bytes.to_string()),
                    format!("{}/{}", resources.registers, unit.max_registers),
                    resources.spill_bytes.to_string(),
                    cubin.image.len().to_string(),
                ]
            })
            .collect();
        let header = ["kernel", "grid", "threads", "shared B", "registers", "spilled B", "cubin B"];
        let mut out = std::io::stdout().lock();
        for line in table::lines(&header, &rows, &[2, 3, 4, 5, 6]) {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

fn compiled(
    cache: &CubinCache,
    model: &Model,
    target: &Target,
) -> anyhow::Result<(Vec<Cubin>, usize)> {
    let mut bars = Bars::new();
    let (cubins, cache_use) = cache.units(model, target.compute()?, &mut |at| bars.show(at))?;
    bars.finish();
    Ok((cubins, cache_use.misses))
}

fn info_of(model: &Model, name: &str) -> Option<KernelInfo> {
    let scheduled = model.schedules.iter().flat_map(|schedule| schedule.infos());
    scheduled.chain(model.tools.infos()).find(|info| info.name == name)
}

fn grid(info: &KernelInfo) -> String {
    let axis = |axis| match axis {
        Axis::Fixed(count) => count.to_string(),
        Axis::Tokens => "tokens".to_owned(),
        Axis::TokenTiles(tokens) => format!("tokens/{tokens}"),
        Axis::ExpertTiles(routes) => format!("routes/{routes}"),
        Axis::QueryTiles(tokens) => format!("queries/{tokens}"),
        Axis::KvSplits(most) => format!("splits≤{most}"),
        Axis::PerSm(blocks) => format!("{blocks}·SMs"),
    };
    let [x, y, z] = [info.grid.x, info.grid.y, info.grid.z].map(axis);
    match (y.as_str(), z.as_str()) {
        ("1", "1") => x,
        (_, "1") => format!("{x} × {y}"),
        _ => format!("{x} × {y} × {z}"),
    }
}

#[derive(Debug, clap::Args)]
struct Show {
    /// Kernel name, as `kernels list` prints it.
    kernel: String,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    target: Target,
    /// Print the PTX that NVRTC makes of it.
    #[arg(long, conflicts_with = "sass")]
    ptx: bool,
    /// Print the machine code (needs nvdisasm on PATH or in OSSMITH_NVRTC).
    #[arg(long)]
    sass: bool,
    /// Write the cubin itself, for nvdisasm, cuobjdump or a profiler; standard output must not be a terminal.
    #[arg(long, conflicts_with_all = ["ptx", "sass"])]
    cubin: bool,
}

impl Show {
    fn run(self) -> anyhow::Result<()> {
        let model = self.target.whole(&self.model)?;
        let unit = model.units.iter().find(|unit| unit.name == self.kernel).ok_or_else(|| {
            let names: Vec<&str> = model.units.iter().map(|unit| unit.name).collect();
            let known = format!("its kernels are {}", names.join(", "));
            fail(format!("{} has no kernel {}", model.spec.name, self.kernel), known)
        })?;
        let sources = Sources::of(model)?;
        let compute = self.target.compute()?;
        if (self.ptx || self.sass || self.cubin) && !unit.family.runs_on(compute) {
            let why =
                format!("{} is made for Hopper, not for {}", unit.name, nvrtc::target(compute));
            return Err(fail(why, "ask for --arch sm_90a, or leave --arch out"));
        }
        let target = nvrtc::target(compute);
        if self.cubin {
            if std::io::stdout().is_terminal() {
                return Err(fail("a cubin is no text", "write it to a file: --cubin > NAME.cubin"));
            }
            let cubin = nvrtc::compile(&sources, unit, &target)?;
            std::io::stdout().lock().write_all(&cubin.image)?;
            return Ok(());
        }
        let text = if self.ptx {
            nvrtc::ptx(&sources, unit, &target)?
        } else if self.sass {
            sass(&sources, unit, &target)?
        } else {
            sources.unit(unit).into_owned()
        };
        std::io::stdout().lock().write_all(text.as_bytes())?;
        Ok(())
    }
}

/// The disassembler that lies beside NVRTC, else the one on `PATH`.
fn nvdisasm(beside_nvrtc: Option<&Path>) -> PathBuf {
    let file = beside_nvrtc.map(|folder| folder.join("nvdisasm")).filter(|file| file.is_file());
    file.unwrap_or_else(|| PathBuf::from("nvdisasm"))
}

fn sass(sources: &Sources, unit: &Unit, target: &str) -> anyhow::Result<String> {
    let cubin = nvrtc::compile(sources, unit, target)?;
    let file = std::env::temp_dir().join(format!("{}-{}.cubin", unit.name, std::process::id()));
    std::fs::write(&file, cubin.image)
        .with_context(|| format!("cannot write {}", file.display()))?;
    let beside_nvrtc = std::env::var_os("OSSMITH_NVRTC").map(PathBuf::from);
    let run =
        std::process::Command::new(nvdisasm(beside_nvrtc.as_deref())).arg("-c").arg(&file).output();
    let _ = std::fs::remove_file(&file);
    let output = run.map_err(|error| {
        let hint = "it is in the CUDA toolkit, in the PyPI package nvidia-cuda-nvdisasm and in the folder that \
                    `cargo xtask nvrtc` prints; put it on PATH, or set OSSMITH_NVRTC to that folder";
        fail(format!("cannot run nvdisasm: {error}"), hint)
    })?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(fail(format!("nvdisasm failed: {why}"), "it must be as new as NVRTC"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[derive(Debug, clap::Args)]
struct Emit {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    target: Target,
    /// Folder to write to; made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

impl Emit {
    fn run(self) -> anyhow::Result<()> {
        let model = self.target.whole(&self.model)?;
        cuda::emit(model, &self.out)?;
        note!(
            "{} kernels and {} headers of {} are in {}; OSSMITH_KERNELS={} runs them as edited",
            model.units.len(),
            model.headers.len(),
            model.spec.name,
            self.out.display(),
            self.out.display()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disassembler_beside_nvrtc_comes_before_the_one_on_path() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(nvdisasm(None), Path::new("nvdisasm"));
        assert_eq!(nvdisasm(Some(folder.path())), Path::new("nvdisasm"));
        let file = folder.path().join("nvdisasm");
        std::fs::write(&file, "").expect("a file");
        assert_eq!(nvdisasm(Some(folder.path())), file);
    }
}
