//! Ranks on the CPU: one thread for each, with its own executor, cache and part of the weights. They run the sharded graph,
//! adding up through [`SharedSums`], and what several GPUs do can be checked without one.
//!
//! Every rank runs the same steps. The backend sends each of them the same commands and takes their replies: logits are
//! joined in the order of the vocabulary, and captured activations must have the same bits on all ranks. A rank that
//! reports an error, panics, or keeps the others waiting beyond a limit fails them all, with its number.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::executor::Executor;
use super::rank_sums::{SharedSums, too_late};
use super::runner::Runner;
use crate::backend::{LayerActivations, Limits};
use crate::error::panic_message;
use crate::{Error, Result};

/// How long the others wait for a rank. What a rank computes between two sums, one layer at most, takes seconds for the
/// largest model and step on few cores, and minutes if its weights come from a slow disk for the first time.
pub(in crate::backend) const PATIENCE: Duration = Duration::from_secs(600);

/// The threads of some ranks.
#[derive(Debug)]
pub(super) struct RankThreads {
    ranks: Vec<Rank>,
    replies: Receiver<(usize, Result<Reply>)>,
    sums: Arc<SharedSums>,
    /// How long all other ranks wait for the last one's reply.
    limit: Duration,
    vocab: usize,
    /// The logits of all ranks, `[rows, vocab]`.
    logits: Vec<f32>,
}

#[derive(Debug)]
struct Rank {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
    /// The rows of the unembedding that it has.
    vocab: Range<usize>,
}

/// What every rank is to do next.
#[derive(Clone, Debug)]
enum Command {
    Forward { batch: Arc<Batch>, capture: bool },
    Head { batch: Arc<Batch>, rows: Arc<[usize]> },
    ReserveSnapshots(usize),
    CopySnapshot { snapshot: usize, seq_slot: usize, end: usize, save: bool },
}

#[derive(Debug)]
enum Reply {
    Done,
    Activations(Vec<LayerActivations>),
    Logits(Vec<f32>),
}

impl RankThreads {
    /// Starts a thread for each executor, which are those of all ranks in order and add by `sums`.
    ///
    /// # Errors
    /// [`Error::Rank`] with [`Error::OutOfMemory`] if there is no memory for a rank's cache; [`Error::Device`] if a thread
    /// cannot be started.
    pub(super) fn start(
        executors: &[Arc<Executor>],
        limits: &Limits,
        sums: Arc<SharedSums>,
        limit: Duration,
    ) -> Result<RankThreads> {
        let (replier, replies) = channel();
        let mut ranks = Vec::new();
        for (rank, executor) in executors.iter().enumerate() {
            let runner = Runner::new(executor.clone(), limits);
            let mut runner = runner.map_err(|error| error.of_rank(rank, executors.len()))?;
            let vocab = executor.vocab_range();
            let (commands, received) = channel::<Command>();
            let (replier, sums) = (replier.clone(), sums.clone());
            let run = move || {
                for command in received {
                    let work = AssertUnwindSafe(|| runner.obey(&command));
                    let result = catch_unwind(work).unwrap_or_else(|panic| {
                        Err(Error::Internal(format!("it panicked: {}", panic_message(&*panic))))
                    });
                    // The other ranks may wait for this one's part of a sum.
                    let result = result.map_err(|error| match error {
                        Error::Rank { .. } => error,
                        own => sums.fail(rank, own),
                    });
                    if replier.send((rank, result)).is_err() {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new()
                .name(format!("ossmith-rank-{rank}"))
                .spawn(run)
                .map_err(|error| Error::device("start the thread of a rank", error))?;
            ranks.push(Rank { commands, thread: Some(thread), vocab });
        }
        let vocab = executors.first().map_or(0, |executor| executor.model().spec.vocab);
        Ok(RankThreads { ranks, replies, sums, limit, vocab, logits: Vec::new() })
    }

    /// Runs all layers over a batch. What is captured has the same bits on every rank.
    pub(super) fn forward(
        &mut self,
        batch: &Arc<Batch>,
        capture: bool,
    ) -> Result<Vec<LayerActivations>> {
        let replies = self.tell(&Command::Forward { batch: batch.clone(), capture })?;
        let mut captured: Option<Vec<LayerActivations>> = None;
        for (rank, reply) in replies.into_iter().enumerate() {
            let Reply::Activations(own) = reply else { return Err(unexpected(rank)) };
            match &captured {
                Some(first) if !same_bits(first, &own) => {
                    let problem = "its activations differ from those of rank 0 in their bits";
                    return Err(self.sums.fail(rank, Error::Internal(problem.to_owned())));
                }
                Some(_) => {}
                None => captured = Some(own),
            }
        }
        Ok(captured.unwrap_or_default())
    }

    /// The logits of some rows of the batch that ran last, `[rows, vocab]`.
    pub(super) fn head(&mut self, batch: &Arc<Batch>, rows: &[usize]) -> Result<&[f32]> {
        let command = Command::Head { batch: batch.clone(), rows: rows.into() };
        let replies = self.tell(&command)?;
        self.logits.resize(rows.len() * self.vocab, 0.0);
        for (rank, reply) in replies.into_iter().enumerate() {
            let Reply::Logits(own) = reply else { return Err(unexpected(rank)) };
            let part = &self.ranks[rank].vocab;
            let all = self.logits.chunks_exact_mut(self.vocab);
            for (row, own) in all.zip(own.chunks_exact(part.len())) {
                row[part.clone()].copy_from_slice(own);
            }
        }
        Ok(&self.logits)
    }

    pub(super) fn reserve_snapshots(&mut self, count: usize) -> Result<()> {
        self.tell(&Command::ReserveSnapshots(count)).map(drop)
    }

    pub(super) fn copy_snapshot(
        &mut self,
        snapshot: usize,
        seq_slot: usize,
        end: usize,
        save: bool,
    ) -> Result<()> {
        self.tell(&Command::CopySnapshot { snapshot, seq_slot, end, save }).map(drop)
    }

    /// Sends a command to all ranks and waits for their replies, which it returns in the order of ranks.
    fn tell(&mut self, command: &Command) -> Result<Vec<Reply>> {
        // Replies to the command that failed may still come, and would be taken for those to this one.
        if let Some(failure) = self.sums.failed() {
            return Err(failure);
        }
        for (index, rank) in self.ranks.iter().enumerate() {
            if rank.commands.send(command.clone()).is_err() {
                return Err(self.sums.fail(index, ended()));
            }
        }
        let mut replies: Vec<Option<Reply>> = self.ranks.iter().map(|_| None).collect();
        // Ranks that wait for another's part of a sum give up by themselves; after a first reply there is none to wait for.
        let mut deadline: Option<Instant> = None;
        while let Some(missing) = replies.iter().position(Option::is_none) {
            let received = match deadline {
                None => self.replies.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => self.replies.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match received {
                Ok((rank, Ok(reply))) => replies[rank] = Some(reply),
                Ok((_, Err(error))) => return Err(error),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.sums.fail(missing, too_late(self.limit)));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.sums.fail(missing, ended()));
                }
            }
            deadline = deadline.or(Instant::now().checked_add(self.limit));
        }
        Ok(replies.into_iter().flatten().collect())
    }
}

impl Drop for RankThreads {
    fn drop(&mut self) {
        let failed = self.sums.failed().is_some();
        for rank in std::mem::take(&mut self.ranks) {
            let Rank { commands, thread, .. } = rank;
            drop(commands);
            // After a failure a thread may be stuck for good: it ends with the process at the latest.
            if let Some(thread) = thread.filter(|_| !failed) {
                let _ = thread.join();
            }
        }
    }
}

impl Runner {
    fn obey(&mut self, command: &Command) -> Result<Reply> {
        match command {
            Command::Forward { batch, capture } => {
                self.forward(batch, *capture).map(Reply::Activations)
            }
            Command::Head { batch, rows } => {
                self.head(batch, rows).map(|logits| Reply::Logits(logits.to_vec()))
            }
            Command::ReserveSnapshots(count) => {
                self.cache.reserve_snapshots(*count).map(|()| Reply::Done)
            }
            Command::CopySnapshot { snapshot, seq_slot, end, save } => {
                self.cache.copy_snapshot(*snapshot, *seq_slot, *end, *save).map(|()| Reply::Done)
            }
        }
    }
}

fn ended() -> Error {
    Error::Internal("its thread has ended".to_owned())
}

fn unexpected(rank: usize) -> Error {
    Error::Internal(format!("rank {rank} replied to another command"))
}

fn same_bits(a: &[LayerActivations], b: &[LayerActivations]) -> bool {
    let same = |a: &[f32], b: &[f32]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
    };
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            a.router_indices == b.router_indices
                && same(&a.residual, &b.residual)
                && same(&a.router_logits, &b.router_logits)
        })
}
