//! Ranks on CUDA devices: a [`CudaBackend`] for each, with its part of the weights and of the cache, on a thread of its own
//! while a step is started. Their kernels exchange by themselves; what each rank does on the CPU is in `backend/cpu/ranks.rs`.
//!
//! Every rank runs the same steps and samples the same tokens from the same logits, so the results are those of rank 0, and
//! sampled tokens that differ are a failure. Whatever may wait for a device or take its memory is done on all ranks before
//! any starts a step: a kernel that waits for another rank must not keep the driver from starting that one's.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cudarc::driver::CudaContext;
use ossmith_plan::{Arch, Model};

use super::{CudaBackend, DeviceInfo, Kernels, Staged, check_peers, device, peers};
use crate::backend::{
    Backend, Limits, Progress, RowSampling, Step, StepForm, StepOutput, StepTime,
};
use crate::checkpoint::Checkpoint;
use crate::error::panic_message;
use crate::sampling::{TokenHistory, TokenLogprobs};
use crate::{Error, Result};

/// A model on several CUDA devices.
#[derive(Debug)]
pub struct RankedCudaBackend {
    ranks: Vec<Mutex<CudaBackend>>,
    /// A thread for each rank.
    threads: rayon::ThreadPool,
    /// The first failure, which ended all ranks.
    failed: Option<Failure>,
    /// Keeps the devices' memory within each other's reach.
    _contexts: Vec<Arc<CudaContext>>,
}

/// A rank that failed, and why.
#[derive(Clone, Debug)]
struct Failure {
    rank: usize,
    problem: Arc<Error>,
}

impl RankedCudaBackend {
    /// Loads each of `models`, which are those of all ranks in order (`ossmith_models::ranks`), onto one of the devices.
    ///
    /// # Errors
    /// Those of [`CudaBackend::new`], with the rank's number, and [`Error::DeviceUnavailable`] if the devices cannot reach each
    /// other.
    pub fn new(
        models: &[&'static Model],
        checkpoint: &Arc<Checkpoint>,
        limits: Limits,
        ordinals: &[usize],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<RankedCudaBackend> {
        let Loaded { ranks, contexts } = load(models, checkpoint, limits, ordinals, progress)?;
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(ranks.len())
            .thread_name(|rank| format!("ossmith-rank-{rank}"))
            .build()
            .map_err(|error| Error::device("start the threads of ranks", error))?;
        let ranks = ranks.into_iter().map(Mutex::new).collect();
        Ok(RankedCudaBackend { ranks, threads, failed: None, _contexts: contexts })
    }

    /// The device of the first rank.
    #[must_use]
    pub fn device(&self) -> DeviceInfo {
        self.first(|backend| backend.device().clone())
    }

    /// Asks for the first rank's kernels.
    pub fn with_kernels<T>(&self, ask: impl FnOnce(&Kernels) -> T) -> T {
        self.first(|backend| ask(backend.kernels()))
    }

    /// Asks the first rank.
    pub(super) fn first<T>(&self, ask: impl FnOnce(&CudaBackend) -> T) -> T {
        ask(&self.ranks[0].lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does the same on every rank, one after another: for what waits for no other rank.
    pub(super) fn each<T>(
        &mut self,
        mut work: impl FnMut(&mut CudaBackend) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.check()?;
        let results: Vec<Result<T>> = self
            .ranks
            .iter_mut()
            .map(|rank| work(rank.get_mut().unwrap_or_else(PoisonError::into_inner)))
            .collect();
        self.all(results)
    }

    /// Does the same on every rank at once.
    pub(super) fn together<T: Send>(
        &mut self,
        work: impl Fn(usize, &mut CudaBackend) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        self.check()?;
        let ranks = &self.ranks;
        let results = self.threads.broadcast(|thread| {
            let rank = thread.index();
            let of_rank =
                || work(rank, &mut ranks[rank].lock().unwrap_or_else(PoisonError::into_inner));
            catch_unwind(AssertUnwindSafe(of_rank)).unwrap_or_else(|panic| Err(panicked(&*panic)))
        });
        self.all(results)
    }

    /// Starts on every rank at once what was staged for it.
    fn start_all(
        &mut self,
        staged: Vec<Staged>,
        start: impl Fn(&mut CudaBackend, Staged) -> Result<()> + Sync,
    ) -> Result<()> {
        let staged: Vec<Mutex<Option<Staged>>> =
            staged.into_iter().map(|one| Mutex::new(Some(one))).collect();
        self.together(|rank, backend| {
            let staged = staged[rank].lock().unwrap_or_else(PoisonError::into_inner).take();
            let missing = || Error::Internal("a staged step was started twice".into());
            start(backend, staged.ok_or_else(missing)?)
        })
        .map(drop)
    }

    fn check(&self) -> Result<()> {
        match &self.failed {
            Some(failure) => Err(failure.error(self.ranks.len())),
            None => Ok(()),
        }
    }

    /// The results of all ranks, or the failure that ends them all. A step that every rank refuses is no failure.
    fn all<T>(&mut self, results: Vec<Result<T>>) -> Result<Vec<T>> {
        let mut errors: Vec<Option<Error>> = Vec::new();
        let mut values = Vec::new();
        for result in results {
            match result {
                Ok(value) => {
                    values.push(value);
                    errors.push(None);
                }
                Err(error) => errors.push(Some(error)),
            }
        }
        if values.len() == errors.len() {
            return Ok(values);
        }
        if let Some(refused) = same_refusal(&mut errors) {
            return Err(refused);
        }
        let absences: Vec<_> = self
            .ranks
            .iter()
            .map(|rank| rank.lock().unwrap_or_else(PoisonError::into_inner).absence())
            .map(|absence| absence.map(|absence| (absence.rank, absence.to_string())))
            .collect();
        let problems: Vec<Option<Arc<Error>>> =
            errors.into_iter().map(|error| error.map(Arc::new)).collect();
        let failure = self.failed.insert(blame(&problems, &absences));
        tracing::error!(?problems, ?absences, "ranks failed");
        Err(failure.error(self.ranks.len()))
    }
}

/// The backends of all ranks, whose kernels know of each other, and what keeps them within each other's reach.
pub(super) struct Loaded {
    pub ranks: Vec<CudaBackend>,
    pub contexts: Vec<Arc<CudaContext>>,
}

/// Loads what each rank computes onto its device.
pub(super) fn load(
    models: &[&'static Model],
    checkpoint: &Arc<Checkpoint>,
    limits: Limits,
    ordinals: &[usize],
    progress: &mut dyn FnMut(Progress),
) -> Result<Loaded> {
    check_models(models, ordinals)?;
    check_peers(ordinals)?;
    let opened = ordinals.iter().map(|&ordinal| device::open(ordinal));
    let (contexts, infos): (Vec<_>, Vec<_>) =
        opened.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    for (model, info) in models.iter().zip(&infos) {
        check_resident(&model.arch, info)?;
    }
    peers::enable(&contexts)?;
    let of = models.len();
    let load = |rank: usize, progress: &mut dyn FnMut(Progress)| {
        CudaBackend::new(models[rank], checkpoint.clone(), limits, ordinals[rank], progress)
            .map_err(|error| at_load(rank, of, error))
    };
    // The first rank shows its progress; the others load beside it.
    let mut ranks = std::thread::scope(|scope| {
        let others: Vec<_> =
            (1..of).map(|rank| scope.spawn(move || load(rank, &mut |_| {}))).collect();
        let first = load(0, progress);
        let others = others.into_iter().enumerate().map(|(index, thread)| {
            thread.join().unwrap_or_else(|panic| Err(panicked(&*panic).of_rank(index + 1, of)))
        });
        std::iter::once(first).chain(others).collect::<Result<Vec<CudaBackend>>>()
    })?;
    let addresses: Vec<_> = ranks.iter().filter_map(CudaBackend::addresses).collect();
    for rank in &mut ranks {
        rank.connect(&addresses)?;
    }
    Ok(Loaded { ranks, contexts })
}

impl Failure {
    fn error(&self, of: usize) -> Error {
        Error::Rank { rank: self.rank, of, problem: self.problem.clone() }
    }
}

/// The first refusal, if every rank has refused a step, which then was started nowhere.
fn same_refusal(errors: &mut [Option<Error>]) -> Option<Error> {
    let refused = |error: &Option<Error>| matches!(error, Some(Error::InvalidStep { .. }));
    errors.iter().all(refused).then(|| errors.first_mut()?.take()).flatten()
}

/// Which rank failed, by the problem of each rank and by what each has waited for too long: a rank with a problem of its own
/// rather than one that waited, and rather than one that it waited for.
fn blame(problems: &[Option<Arc<Error>>], absences: &[Option<(usize, String)>]) -> Failure {
    let both = problems.iter().zip(absences).enumerate();
    let own = both.clone().find_map(|(rank, (problem, absence))| match (problem, absence) {
        (Some(problem), None) => Some(Failure { rank, problem: problem.clone() }),
        _ => None,
    });
    let waited = || {
        both.clone().find_map(|(waiter, (_, absence))| {
            let (rank, what) = absence.as_ref()?;
            let problem =
                Error::device("keep up", format!("{what}, for which rank {waiter} waited"));
            Some(Failure { rank: *rank, problem: Arc::new(problem) })
        })
    };
    let unknown = || Error::Internal("no rank reports why".to_owned());
    own.or_else(waited).unwrap_or_else(|| Failure { rank: 0, problem: Arc::new(unknown()) })
}

/// The panic of a rank.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> Error {
    Error::Internal(format!("it panicked: {}", panic_message(panic)))
}

/// An error while a rank is loaded. Those that say what to do about options or devices stay what they are.
fn at_load(rank: usize, of: usize, error: Error) -> Error {
    match error {
        Error::Device { .. } | Error::Internal(_) | Error::OutOfMemory { .. } => {
            error.of_rank(rank, of)
        }
        other => other,
    }
}

/// Refuses a device with fewer SMs than the kernels of its rank need: those that wait for other ranks were planned so that
/// all their blocks run at once on as many SMs as the profile has, and on fewer they could wait for each other for ever.
fn check_resident(arch: &Arch, device: &DeviceInfo) -> Result<()> {
    let sms = device.sms as usize;
    if sms >= arch.sms {
        return Ok(());
    }
    let (ordinal, name) = (device.ordinal, &device.name);
    Err(Error::unavailable(format!(
        "CUDA device {ordinal} ({name}) has {sms} SMs, and the kernels of ranks are planned for the {} of profile {}, on which \
         all their blocks run at once: run the model on one device, or on devices with as many",
        arch.sms, arch.name
    )))
}

/// Refuses models that are not those of all ranks in order.
fn check_models(models: &[&'static Model], ordinals: &[usize]) -> Result<()> {
    let in_order = models.iter().enumerate().all(|(rank, model)| {
        model.shard.rank == rank && model.shard.of == models.len() && model.spec == models[0].spec
    });
    if models.len() == ordinals.len() && models.len() > 1 && in_order {
        return Ok(());
    }
    let problem = format!(
        "{} devices need what each of {} ranks computes, in order, as `ossmith_models::ranks` compiles it",
        ordinals.len(),
        ordinals.len()
    );
    Err(Error::invalid_option("rank_models", problem))
}

impl Backend for RankedCudaBackend {
    fn describe(&self) -> String {
        let names: Vec<String> = self
            .ranks
            .iter()
            .map(|rank| rank.lock().unwrap_or_else(PoisonError::into_inner).describe())
            .collect();
        names.join(" + ")
    }

    fn limits(&self) -> Limits {
        self.first(Backend::limits)
    }

    fn max_sampled_rows(&self) -> usize {
        self.first(Backend::max_sampled_rows)
    }

    fn reserve_snapshots(&mut self, count: usize) -> Result<()> {
        self.each(|rank| rank.reserve_snapshots(count)).map(drop)
    }

    fn save_snapshot(&mut self, snapshot: usize, seq_slot: usize, end: usize) -> Result<()> {
        self.each(|rank| rank.save_snapshot(snapshot, seq_slot, end)).map(drop)
    }

    fn load_snapshot(&mut self, snapshot: usize, seq_slot: usize, end: usize) -> Result<()> {
        self.each(|rank| rank.load_snapshot(snapshot, seq_slot, end)).map(drop)
    }

    fn step_time(&self) -> Option<StepTime> {
        self.first(Backend::step_time)
    }

    fn expected_prompt_time(&self, tokens: usize) -> Option<Duration> {
        self.first(|rank| rank.expected_prompt_time(tokens))
    }

    fn step_form(&self) -> StepForm {
        self.first(Backend::step_form)
    }

    fn set_history(&mut self, seq_slot: usize, history: &TokenHistory) -> Result<()> {
        self.each(|rank| rank.set_history(seq_slot, history)).map(drop)
    }

    fn set_mask(&mut self, seq_slot: usize, mask: usize, words: &[u32]) -> Result<()> {
        self.each(|rank| rank.set_mask(seq_slot, mask, words)).map(drop)
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<()> {
        let staged = self.each(|rank| rank.stage(step, true))?;
        self.start_all(staged, |rank, staged| rank.start(step, staged))
    }

    fn submit_layers(&mut self, step: &Step<'_>) -> Result<()> {
        let staged = self.each(|rank| rank.stage(step, false))?;
        self.start_all(staged, |rank, staged| rank.start_layers(step, staged))
    }

    fn sample(&mut self, rows: &[Option<RowSampling<'_>>]) -> Result<()> {
        // Each samples from logits that it has.
        self.each(|rank| rank.sample(rows)).map(drop)
    }

    fn collect(&mut self) -> Result<StepOutput> {
        let mut outputs = self.each(Backend::collect)?.into_iter();
        let first = outputs.next().unwrap_or_default();
        for (index, other) in outputs.enumerate() {
            if let Some(what) = differs(&first, &other) {
                let rank = index + 1;
                let problem = Arc::new(Error::Internal(format!("{what} from that of rank 0")));
                return Err(self.failed.insert(Failure { rank, problem }).error(self.ranks.len()));
            }
        }
        Ok(first)
    }
}

impl Drop for RankedCudaBackend {
    fn drop(&mut self) {
        // The kernels of all ranks read memory that goes with the first of them.
        for rank in &mut self.ranks {
            let _ = rank.get_mut().unwrap_or_else(PoisonError::into_inner).synchronize();
        }
    }
}

/// Two reports of one token, if they differ in a bit.
fn reports_differ(a: Option<&TokenLogprobs>, b: Option<&TokenLogprobs>) -> Option<String> {
    let bits = |report: &TokenLogprobs| {
        let top = report.top.iter().map(|(token, logprob)| (*token, logprob.to_bits()));
        (report.logprob.to_bits(), report.rank, top.collect::<Vec<_>>())
    };
    (a.map(bits) != b.map(bits)).then(|| format!("{b:?} and {a:?}"))
}

/// What of a step differs between two ranks, and where first.
fn differs(a: &StepOutput, b: &StepOutput) -> Option<String> {
    if let Some(row) = (0..a.sampled.len()).find(|&row| a.sampled.get(row) != b.sampled.get(row)) {
        let (b, a) = (b.sampled.get(row), a.sampled[row]);
        return Some(format!("its token of row {row} differs, {b:?} and {a:?},"));
    }
    let of_rows = a.reports.iter().zip(&b.reports).enumerate();
    for (row, (a, b)) in of_rows {
        if let Some(what) = reports_differ(a.as_ref(), b.as_ref()) {
            return Some(format!("its report of row {row} differs, {what},"));
        }
    }
    for (sequence, (a, b)) in a.prompt_reports.iter().zip(&b.prompt_reports).enumerate() {
        for at in 0..a.len().max(b.len()) {
            if let Some(what) = reports_differ(a.get(at), b.get(at)) {
                return Some(format!(
                    "its report of token {at} of the prompt of sequence {sequence} differs, {what},"
                ));
            }
        }
    }
    for (layer, (a, b)) in a.activations.iter().zip(&b.activations).enumerate() {
        if a.router_indices != b.router_indices {
            return Some(format!("its choice of experts in layer {layer} differs"));
        }
        for (what, a, b) in [
            ("residual", &a.residual, &b.residual),
            ("router logit", &a.router_logits, &b.router_logits),
        ] {
            let at = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits());
            if let Some(at) = at {
                let (b, a) = (b[at], a[at]);
                return Some(format!(
                    "its {what} of layer {layer}, element {at}, differs, {b:e} and {a:e},"
                ));
            }
        }
    }
    for (sequence, (a, b)) in a.logits.iter().zip(&b.logits).enumerate() {
        let at = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits());
        if let Some(at) = at {
            let (b, a) = (b[at], a[at]);
            return Some(format!(
                "its logit {at} of sequence {sequence} differs, {b:e} and {a:e},"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::LayerActivations;

    #[test]
    fn the_rank_with_a_problem_of_its_own_is_blamed() {
        let launch = || Some(Arc::new(Error::device("run a step", "the driver reports a trap")));
        let refused = Some(Arc::new(Error::device("launch a kernel", "no resources")));
        let absent = |rank| Some((rank, "its part of sum 3 of row tile 7 did not come".to_owned()));
        // Rank 1 could not launch, so rank 0 waited until the limit.
        let failure = blame(&[launch(), refused], &[absent(1), None]);
        let problem = failure.problem.to_string();
        assert_eq!((failure.rank, &*problem), (1, "cannot launch a kernel: no resources"));
        let error = failure.error(2).to_string();
        assert_eq!(error, "rank 1 of 2 failed: cannot launch a kernel: no resources");
        // Rank 1 hangs and reports nothing.
        let failure = blame(&[launch(), None], &[absent(1), None]);
        assert_eq!(failure.rank, 1);
        let problem = failure.problem.to_string();
        assert!(problem.ends_with("for which rank 0 waited"), "{problem}");
        // Both wait for the third, which reports nothing.
        let failure = blame(&[launch(), launch(), None], &[absent(2), absent(2), None]);
        assert_eq!(failure.rank, 2);
        assert_eq!(blame(&[None, None], &[None, None]).rank, 0);
    }

    #[test]
    fn what_differs_first_is_named() {
        let output = |token, residual: f32| StepOutput {
            sampled: vec![Some(1), Some(token)],
            activations: vec![LayerActivations {
                residual: vec![0.0, residual],
                ..LayerActivations::default()
            }],
            ..StepOutput::default()
        };
        assert_eq!(differs(&output(2, 1.0), &output(2, 1.0)), None);
        let report = |logprob: f32, second: f32| TokenLogprobs {
            logprob,
            rank: 1,
            top: vec![(2, logprob), (3, second)],
        };
        let reported = |report: TokenLogprobs| StepOutput {
            reports: vec![None, Some(report.clone())],
            prompt_reports: vec![Vec::new(), vec![report]],
            ..output(2, 1.0)
        };
        let a = reported(report(-0.5, -1.0));
        assert_eq!(differs(&a, &reported(report(-0.5, -1.0))), None);
        let what = differs(&a, &reported(report(-0.5, -1.5))).expect("a report");
        assert!(what.contains("report of row 1 differs"), "{what}");
        let other = StepOutput { prompt_reports: Vec::new(), ..a.clone() };
        let other = StepOutput { prompt_reports: vec![Vec::new(), Vec::new()], ..other };
        let what = differs(&a, &other).expect("a report of the prompt");
        assert!(what.contains("token 0 of the prompt of sequence 1"), "{what}");
        let what = differs(&output(2, 1.0), &output(3, 1.0)).expect("a token");
        assert!(what.contains("token of row 1 differs, Some(Some(3)) and Some(2)"), "{what}");
        let what = differs(&output(2, 0.0), &output(2, -0.0)).expect("a sign");
        assert!(what.contains("residual of layer 0, element 1"), "{what}");
    }

    #[test]
    fn a_step_that_every_rank_refuses_is_no_failure() {
        let refused = || Some(Error::InvalidStep { problem: "too long".into() });
        assert!(same_refusal(&mut [refused(), refused()]).is_some());
        assert!(same_refusal(&mut [refused(), None]).is_none());
        assert!(same_refusal(&mut []).is_none());
    }

    #[test]
    fn models_of_other_ranks_are_refused() {
        let whole = ossmith_models::NANO;
        let error = check_models(&[whole, whole], &[0, 1]).expect_err("two whole models");
        assert!(error.to_string().contains("ossmith_models::ranks"), "{error}");
    }

    #[test]
    fn a_rank_that_is_short_of_memory_while_it_is_loaded_is_named() {
        let short = Error::OutOfMemory {
            needed_bytes: 7,
            available_bytes: None,
            problem: "no room for weights".to_owned(),
        };
        let error = at_load(1, 2, short);
        assert_eq!(error.to_string(), "rank 1 of 2 failed: no room for weights");
        let matched = matches!(&error, Error::Rank { problem, .. } if matches!(**problem, Error::OutOfMemory { needed_bytes: 7, .. }));
        assert!(matched, "{error:?}");
        let option = at_load(1, 2, Error::invalid_option("limits", "too many pages"));
        assert_eq!(option.to_string(), "too many pages");
    }

    #[test]
    fn a_device_on_which_not_all_blocks_run_at_once_is_refused() {
        let device = |sms| DeviceInfo {
            ordinal: 3,
            name: "NVIDIA H100 PCIe".to_owned(),
            compute: (9, 0),
            memory_bytes: 80 << 30,
            sms,
            sm_clock_mhz: 1755,
            memory_clock_mhz: 1593,
            driver: 13_000,
        };
        check_resident(&Arch::H100, &device(132)).expect("as many as planned");
        check_resident(&Arch::PORTABLE, &device(114)).expect("more than planned");
        let error = check_resident(&Arch::H100, &device(114)).expect_err("fewer").to_string();
        for want in ["CUDA device 3 (NVIDIA H100 PCIe) has 114 SMs", "the 132 of profile h100"] {
            assert!(error.contains(want), "{error}");
        }
    }
}
