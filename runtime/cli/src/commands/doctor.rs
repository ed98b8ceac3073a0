//! `ossmith doctor`: what this machine has, and what this build supports.

use std::io::Write;

use ossmith::Device;
use ossmith::unstable::cpu::Isa;
use ossmith::unstable::cuda::{CubinCache, DeviceInfo, nvrtc, probe};
use serde_json::{Value, json};

use crate::model::names;

/// Show what this machine and this build support.
///
/// Prints the processor's features and threads, memory, GPU, NVRTC, the backend that `auto` chooses, the built-in models
/// and the folder of compiled kernels. With --json, one object with the same keys.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let facts = facts();
        let mut out = std::io::stdout().lock();
        if self.json {
            let object: serde_json::Map<String, Value> =
                facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            writeln!(out, "{}", Value::Object(object))?;
            return Ok(());
        }
        for (key, value) in facts {
            writeln!(out, "{:16} {}", key.replace('_', " "), plain(&value))?;
        }
        Ok(())
    }
}

/// Everything known, in print order.
fn facts() -> Vec<(&'static str, Value)> {
    let isa = Isa::detect();
    vec![
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("cpu_kernels", isa.map_or_else(|why| json!(why.to_string()), |isa| json!(isa.name()))),
        ("cpu_features", json!(cpu_features())),
        ("cpu_threads", json!(std::thread::available_parallelism().map_or(1, usize::from))),
        ("memory", memory().unwrap_or(Value::Null)),
        (
            "cuda_device",
            probe(0).map_or_else(|why| json!(why.to_string()), |device| describe(&device)),
        ),
        (
            "nvrtc",
            nvrtc::version().map_or_else(
                |why| json!(why.to_string()),
                |(major, minor)| json!(format!("{major}.{minor}")),
            ),
        ),
        (
            "auto_backend",
            match Device::Auto.resolve().0 {
                Device::Cuda(number) => json!(format!("cuda:{number}")),
                Device::Auto | Device::Cpu => json!("cpu"),
            },
        ),
        ("kernel_cache", folder()),
        ("models", json!(names())),
    ]
}

fn describe(device: &DeviceInfo) -> Value {
    json!({
        "name": device.name,
        "compute": format!("{}.{}", device.compute.0, device.compute.1),
        "memory_gib": gib(device.memory_bytes as f64),
        "sm_count": device.sms,
        "driver_cuda": format!("{}.{}", device.driver / 1000, device.driver % 1000 / 10),
    })
}

/// Where compiled kernels are kept.
fn folder() -> Value {
    let cache = CubinCache::of_user();
    cache.map_or_else(
        |why| json!(why.to_string()),
        |cache| json!(cache.folder().display().to_string()),
    )
}

fn gib(bytes: f64) -> f64 {
    (bytes / f64::from(1 << 30) * 10.0).round() / 10.0
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "unknown".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Object(parts) => parts
            .iter()
            .map(|(key, value)| format!("{key} {}", plain(value)))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}

/// Those that the CPU backend has, or could have, code for.
#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let known = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vbmi", is_x86_feature_detected!("avx512vbmi")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    known.into_iter().filter(|&(_, has)| has).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<&'static str> {
    vec![std::env::consts::ARCH]
}

/// Memory of the machine and what of it is free for programs, where Linux reports it.
fn memory() -> Option<Value> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let of = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(gib(kib * 1024.0))
    };
    Some(json!({ "total_gib": of("MemTotal:")?, "available_gib": of("MemAvailable:")? }))
}
