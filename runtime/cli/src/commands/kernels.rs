//! `ossmith kernels`: what runs, what is fused, what it costs, and the text of it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use ossmith::unstable::cuda::nvrtc::{self, Cubin};
use ossmith::unstable::cuda::{self, CubinCache, Sources};
use ossmith_plan::{Axis, KernelInfo, Model, Phase, StepShape, Unit};

use super::table;
use crate::failure::fail;
use crate::model::ModelArgs;
use crate::progress::Bars;

/// Show a model's kernels: the plan, the list, the text of each.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The phases of a layer and of the head: what is fused, bytes, FLOPs and the time that reading the bytes takes.
    Plan(Plan),
    /// Every kernel: launch geometry, registers, spills, shared memory.
    List(List),
    /// The CUDA, PTX or SASS of one kernel.
    Show(Show),
    /// Write every kernel and header to a folder, to read or to edit (see OSSMITH_KERNELS), with a manifest of the model.
    Emit(Emit),
    /// Compile every kernel of a device into the cubin cache; needs NVRTC but no GPU.
    Compile(Compile),
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::Plan(args) => args.run(),
            What::List(args) => args.run(),
            What::Show(args) => args.run(),
            What::Emit(args) => args.run(),
            What::Compile(args) => args.run(),
        }
    }
}

/// Which device to compile for.
#[derive(Debug, clap::Args)]
struct Target {
    /// Architecture to compile for.
    #[arg(long, default_value = "sm_90a", value_name = "sm_NN")]
    arch: String,
}

impl Target {
    fn compute(&self) -> anyhow::Result<(i32, i32)> {
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

    /// Tokens of the step, one a sequence.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: u32,

    /// Keys that each token sees.
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    context: u32,

    /// Memory bandwidth in GB/s that times are given for.
    #[arg(long, default_value_t = 3350.0, value_name = "GB/s")]
    bandwidth: f64,
}

impl Plan {
    fn run(self) -> anyhow::Result<()> {
        if !self.bandwidth.is_finite() || self.bandwidth <= 0.0 {
            let message = format!("--bandwidth is {}", self.bandwidth);
            return Err(fail(message, "give GB/s above 0, such as 3350"));
        }
        let model = self.model.shape()?;
        let spec = &model.spec;
        // Distinct experts of a batch under uniform routing.
        let missed =
            (1.0 - spec.max_top_k() as f64 / spec.max_experts() as f64).powf(f64::from(self.batch));
        let distinct_experts = spec.max_experts() as f64 * (1.0 - missed);
        let shape = StepShape {
            tokens: self.batch as usize,
            keys: self.context as usize,
            distinct_experts,
        };
        let rows: Vec<Vec<String>> =
            model.phases.iter().map(|phase| self.row(model, phase, &shape)).collect();
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "{}: {} layers, {} of {} experts, batch {}, context {}, {distinct_experts:.1} distinct experts a layer",
            spec.name,
            spec.layers.len(),
            spec.max_top_k(),
            spec.max_experts(),
            self.batch,
            self.context
        )?;
        let header = ["phase", "times", "MB a step", "GFLOP", "µs to read", "fuses"];
        for line in table::lines(&header, &rows, &[1, 2, 3, 4]) {
            writeln!(out, "{line}")?;
        }
        let total = model.step_bytes(&shape);
        writeln!(
            out,
            "a step reads {:.3} GB: {:.3} ms at {:.0} GB/s, {:.0} tokens/s",
            total / 1e9,
            total / self.bandwidth / 1e6,
            self.bandwidth,
            f64::from(self.batch) * self.bandwidth * 1e9 / total
        )?;
        for schedule in model.schedules {
            let most = schedule.max_tokens;
            let tokens = if most == usize::MAX {
                "any number of".to_owned()
            } else {
                format!("up to {most}")
            };
            let on = match schedule.target {
                ossmith_plan::Target::Any => "",
                ossmith_plan::Target::Hopper => " on Hopper",
            };
            let names: Vec<&str> = schedule.infos().iter().map(|info| info.name).collect();
            writeln!(out, "kernels for {tokens} tokens{on}: {}", names.join(" "))?;
        }
        Ok(())
    }

    /// A phase: how often it runs in a step, what it reads and computes then, and the nodes that it fuses.
    fn row(&self, model: &Model, phase: &Phase, shape: &StepShape) -> Vec<String> {
        let bytes = model.phase_bytes(phase, shape);
        let times = if model.is_head(phase) { 1 } else { model.spec.layers.len() };
        let ops: Vec<String> = phase.nodes.iter().map(|node| format!("{:?}", node.op)).collect();
        vec![
            phase.name.to_owned(),
            format!("{times}"),
            format!("{:.2}", bytes / 1e6),
            format!("{:.3}", model.token_flops(phase) * (times * shape.tokens) as f64 / 1e9),
            format!("{:.1}", bytes / self.bandwidth / 1e3),
            ops.join(" + "),
        ]
    }
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    target: Target,
}

impl List {
    fn run(self) -> anyhow::Result<()> {
        let model = &self.model.shape()?.on(self.target.compute()?);
        let (cubins, _) = compiled(model, &self.target)?;
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

fn compiled(model: &Model, target: &Target) -> anyhow::Result<(Vec<Cubin>, usize)> {
    let mut bars = Bars::new();
    let cache = CubinCache::of_user()?;
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
        Axis::ExpertTiles(slots) => format!("tiles/{slots}"),
        Axis::RunTiles(tokens) => format!("runs/{tokens}"),
        Axis::KeySplits => "splits".to_owned(),
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
}

impl Show {
    fn run(self) -> anyhow::Result<()> {
        let model = self.model.shape()?;
        let unit = model.units.iter().find(|unit| unit.name == self.kernel).ok_or_else(|| {
            let names: Vec<&str> = model.units.iter().map(|unit| unit.name).collect();
            let known = format!("its kernels are {}", names.join(", "));
            fail(format!("{} has no kernel {}", model.spec.name, self.kernel), known)
        })?;
        let sources = Sources::of(model)?;
        let compute = self.target.compute()?;
        if (self.ptx || self.sass) && !unit.target.runs_on(compute) {
            let why =
                format!("{} is made for Hopper, not for {}", unit.name, nvrtc::target(compute));
            return Err(fail(why, "ask for --arch sm_90a, or leave --arch out"));
        }
        let target = nvrtc::target(compute);
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
    /// Folder to write to; made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

impl Emit {
    fn run(self) -> anyhow::Result<()> {
        let model = self.model.shape()?;
        cuda::emit(model, &self.out)?;
        eprintln!(
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

/// Makes the folder, and a file in it for a moment.
fn try_writing(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let file = folder.join(format!("try.tmp{}", std::process::id()));
    std::fs::write(&file, "")?;
    std::fs::remove_file(file)
}

#[derive(Debug, clap::Args)]
struct Compile {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    target: Target,
}

impl Compile {
    fn run(self) -> anyhow::Result<()> {
        let model = &self.model.shape()?.on(self.target.compute()?);
        let cache = CubinCache::of_user()?;
        let folder = cache.folder();
        // Filling the cache is all this command is for, so a cache that cannot be written is an error here.
        try_writing(folder).map_err(|why| {
            let message = format!("cannot write to the kernel cache {}: {why}", folder.display());
            fail(message, "set OSSMITH_CACHE to a folder that can be written")
        })?;
        let begin = Instant::now();
        let (cubins, compiled) = compiled(model, &self.target)?;
        eprintln!(
            "{} kernels of {} for {}: {compiled} compiled, {} already in {}, {:.2} s",
            cubins.len(),
            model.spec.name,
            self.target.arch,
            cubins.len() - compiled,
            folder.display(),
            begin.elapsed().as_secs_f64()
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
