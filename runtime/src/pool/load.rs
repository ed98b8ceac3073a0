//! Getting several engines of one model ready.

use std::sync::Arc;

use ossmith_plan::Model;

use super::EnginePool;
use crate::backend::{MAX_RANKS, MemoryBudget};
use crate::{
    Checkpoint, Device, Engine, EngineOptions, Error, Progress, Ranks, Result, memory_budget,
};

impl EngineOptions {
    /// The options of so many engines beside each other. On CUDA each has devices of its own: this many, times the number of
    /// ranks, in order from the chosen one. On the CPU each has its part of the threads, at least one.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0 engines, for ranks whose devices are named, and where there are fewer devices; the
    /// message has the numbers.
    pub fn for_engines(self, count: usize) -> Result<Vec<EngineOptions>> {
        let refused = |problem: &str| Error::invalid_option("engines", problem);
        let ranks = self.ranks.count();
        if count == 0 {
            return Err(refused("0 engines were requested; at least 1 is needed"));
        }
        let (device, _) = self.device.resolve();
        let first = match device {
            Device::Cuda(first) => first,
            Device::Cpu | Device::Auto => {
                let all = || std::thread::available_parallelism().map_or(1, usize::from);
                let threads = self.threads.unwrap_or_else(all);
                let of = |at| (threads / count + usize::from(at < threads % count)).max(1);
                return Ok((0..count).map(|at| self.with_threads(of(at))).collect());
            }
        };
        if count > 1 && self.ranks != Ranks::new(ranks) {
            return Err(refused("name the devices of each engine in options of its own"));
        }
        check_devices(count, ranks, first, crate::backend::cuda_devices())?;
        let of = |at| self.with_device(Device::Cuda(first + at * ranks));
        Ok((0..count).map(of).collect())
    }
}

/// Refuses more devices than there are from the first one on. Where their number is not known, opening them reports it.
pub(crate) fn check_devices(
    engines: usize,
    ranks: usize,
    first: usize,
    present: Option<usize>,
) -> Result<()> {
    let needed = engines * ranks;
    let Some(present) = present.filter(|&present| first + needed > present) else { return Ok(()) };
    let (from, each) = (
        if first > 0 { format!(" from device {first} on") } else { String::new() },
        if ranks > 1 { format!(" of {ranks} devices each") } else { String::new() },
    );
    let left = present.saturating_sub(first);
    let problem = format!(
        "{engines} engines{each} need {needed} CUDA devices{from}, and this machine has {left}: use fewer engines or ranks"
    );
    Err(Error::invalid_option("engines", problem))
}

impl EnginePool {
    /// Loads an engine for each of these options and starts them as a pool; see [`EngineOptions::for_engines`]. Engines on the
    /// CPU read the same weights in memory. `progress` is called as weights load and kernels compile, for one engine after
    /// another.
    ///
    /// # Errors
    /// As [`Engine::load`], with the memory of all engines on the CPU together, and as [`EnginePool::start`].
    pub fn load(
        model: &'static Model,
        checkpoint: &Arc<Checkpoint>,
        options: &[EngineOptions],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<EnginePool> {
        check_memory(model, options)?;
        let load =
            |options: &EngineOptions| Engine::load(model, checkpoint.clone(), *options, progress);
        EnginePool::start(options.iter().map(load).collect::<Result<_>>()?)
    }
}

/// Refuses engines on the CPU that do not fit into its memory together. Those on CUDA have devices of their own.
fn check_memory(model: &'static Model, options: &[EngineOptions]) -> Result<()> {
    let on_cpu = |options: &&EngineOptions| !matches!(options.device.resolve().0, Device::Cuda(_));
    let budgets = options.iter().filter(on_cpu).map(|options| memory_budget(model, options));
    let budgets = budgets.collect::<Result<Vec<MemoryBudget>>>()?;
    let count = budgets.len();
    match budgets.into_iter().reduce(MemoryBudget::beside) {
        Some(all) if count > 1 => {
            tracing::info!(budget = %all, engines = count, "memory of all engines");
            all.check()
        }
        _ => Ok(()),
    }
}

/// The ranks of each engine if these devices are divided among so many, in order.
///
/// # Errors
/// [`Error::InvalidOption`] with the numbers if they cannot be divided evenly, or if a device is named twice.
pub fn ranks_on_devices(devices: &[usize], engines: usize) -> Result<Vec<Ranks>> {
    let named = devices.len();
    let each = named / engines.max(1);
    if engines == 0 || each == 0 || !named.is_multiple_of(engines) || each > MAX_RANKS {
        let problem = format!(
            "{named} CUDA devices cannot be divided among {engines} engines: each needs the same number, 1 to {MAX_RANKS}"
        );
        return Err(Error::invalid_option("engines", problem));
    }
    let twice = (0..named).find(|&at| devices[..at].contains(&devices[at]));
    if let Some(at) = twice {
        let problem = format!("CUDA device {} is named twice; a device has one rank", devices[at]);
        return Err(Error::invalid_option("engines", problem));
    }
    Ok(devices.chunks_exact(each).map(Ranks::on_devices).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_divided_among_engines_on_the_cpu() {
        let options = EngineOptions::default().with_device(Device::Cpu);
        for (threads, count, expected) in
            [(8, 2, &[4, 4][..]), (5, 2, &[3, 2]), (2, 3, &[1, 1, 1]), (7, 1, &[7])]
        {
            let all = options.with_threads(threads).for_engines(count).expect("options");
            let got: Vec<usize> = all.iter().filter_map(|options| options.threads).collect();
            assert_eq!(got, expected);
            assert!(all.iter().all(|one| one.device == Device::Cpu));
        }
        assert!(options.for_engines(0).is_err());
    }

    #[test]
    fn devices_are_divided_among_engines_and_too_few_are_refused_with_the_numbers() {
        let ordinals = |devices: &[usize], engines| -> Vec<Vec<usize>> {
            let all = ranks_on_devices(devices, engines).expect("ranks");
            all.iter().map(|ranks| ranks.ordinals(0)).collect()
        };
        assert_eq!(ordinals(&[0, 1, 2, 3], 2), [[0, 1], [2, 3]]);
        assert_eq!(ordinals(&[5, 3], 2), [[5], [3]]);
        for (devices, engines, want) in [
            (&[0, 1, 2][..], 2, "3 CUDA devices cannot be divided among 2 engines"),
            (&[0], 2, "1 CUDA devices cannot be divided among 2 engines"),
            (&[0, 1, 1, 2], 2, "CUDA device 1 is named twice"),
        ] {
            let error = ranks_on_devices(devices, engines).expect_err(want).to_string();
            assert!(error.contains(want), "{error}");
        }
        for (engines, ranks, first, present, fits) in [
            (2, 2, 0, Some(4), true),
            (2, 2, 1, Some(4), false),
            (4, 1, 0, Some(3), false),
            (9, 8, 0, None, true),
        ] {
            let checked = check_devices(engines, ranks, first, present);
            assert_eq!(checked.is_ok(), fits, "{checked:?}");
        }
        let error = check_devices(2, 2, 0, Some(2)).expect_err("too few").to_string();
        let want = "2 engines of 2 devices each need 4 CUDA devices, and this machine has 2";
        assert!(error.contains(want), "{error}");
    }
}
