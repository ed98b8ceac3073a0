//! Where a traced step's kernels leave the stamps of their blocks, and which launch a stamp belongs to.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::CudaContext;

use super::memory::Buffer;
use super::sources::{BlockTrace, RECORD_WORDS};
use crate::{Error, Result};

/// One launch of a traced step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedLaunch {
    /// Kernel.
    pub kernel: &'static str,
    /// Phase that it belongs to.
    pub phase: &'static str,
    /// Layer; none outside layers.
    pub layer: Option<usize>,
    /// Launch grid.
    pub grid: [u32; 3],
}

/// One block of a traced step. Times are nanoseconds from the first block's start, of the device's global timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedBlock {
    /// Index of its launch.
    pub launch: usize,
    /// Linear index in the grid.
    pub block: u32,
    /// SM.
    pub sm: u32,
    /// First instruction.
    pub start_ns: u64,
    /// End of the wait for the kernels before; the start where the block left without waiting.
    pub ready_ns: u64,
    /// Last instruction of its last warp.
    pub end_ns: u64,
}

/// Room for the stamps of a step's blocks.
#[derive(Debug)]
pub(super) struct Stamps {
    records: Buffer,
    capacity: u32,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    phase: &'static str,
    layer: Option<usize>,
    blocks: u32,
    launches: Vec<TracedLaunch>,
}

impl Stamps {
    /// Room for `blocks` blocks.
    pub(super) fn new(context: &Arc<CudaContext>, blocks: u32) -> Result<Stamps> {
        let bytes = blocks as usize * RECORD_WORDS * size_of::<u64>();
        let records = Buffer::zeroed(context, bytes, "a trace's stamps")?;
        Ok(Stamps { records, capacity: blocks, log: Mutex::new(Log::default()) })
    }

    /// Names the phase of the launches that follow.
    pub(super) fn begin_phase(&self, phase: &'static str, layer: Option<usize>) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        (log.phase, log.layer) = (phase, layer);
    }

    /// The places of a launch's blocks.
    pub(super) fn launch(&self, kernel: &'static str, grid: [u32; 3]) -> Result<BlockTrace> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let first = log.blocks;
        let last = grid.iter().try_fold(1_u32, |all, axis| all.checked_mul(*axis));
        let last = last.and_then(|blocks| first.checked_add(blocks));
        let last = last.filter(|last| *last <= self.capacity).ok_or_else(|| {
            let room = self.capacity;
            Error::Internal(format!("a trace has room for {room} blocks, and {kernel} has others"))
        })?;
        log.blocks = last;
        let (phase, layer) = (log.phase, log.layer);
        log.launches.push(TracedLaunch { kernel, phase, layer, grid });
        Ok(BlockTrace { records: self.records.ptr(), first, unused: 0 })
    }

    /// The launches with the blocks of the last replay.
    pub(super) fn read(&self) -> Result<(Vec<TracedLaunch>, Vec<TracedBlock>)> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut words = vec![0_u64; log.blocks as usize * RECORD_WORDS];
        self.records.read(0, &mut words)?;
        Ok((log.launches.clone(), blocks(&log.launches, &words)?))
    }
}

/// Records as blocks, in the order of the launches.
fn blocks(launches: &[TracedLaunch], words: &[u64]) -> Result<Vec<TracedBlock>> {
    let mut records = words.chunks_exact(RECORD_WORDS);
    let starts = words.iter().step_by(RECORD_WORDS).copied();
    let origin = starts.filter(|start| *start > 0).min().unwrap_or(0);
    let mut blocks = Vec::with_capacity(words.len() / RECORD_WORDS);
    for (launch, traced) in launches.iter().enumerate() {
        for block in 0..traced.grid.iter().product() {
            let record = records.next().unwrap_or_default();
            let [start, ready, end, sm] = *record else {
                return Err(Error::Internal("a trace has fewer records than blocks".to_owned()));
            };
            if start == 0 || end < start {
                let kernel = traced.kernel;
                return Err(Error::Internal(format!("block {block} of {kernel} left no stamps")));
            }
            blocks.push(TracedBlock {
                launch,
                block,
                sm: sm as u32,
                start_ns: start - origin,
                ready_ns: ready.max(start) - origin,
                end_ns: end - origin,
            });
        }
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_dealt_to_launches_in_order() {
        let launch = |kernel, grid| TracedLaunch { kernel, phase: "a phase", layer: Some(1), grid };
        let launches = [launch("first", [2, 1, 1]), launch("second", [1, 1, 1])];
        let words = [1000, 1010, 1200, 3, 1005, 0, 1100, 4, 1150, 1201, 1300, 3];
        let found = blocks(&launches, &words).expect("whole records");
        let line = |b: &TracedBlock| (b.launch, b.block, b.sm, b.start_ns, b.ready_ns, b.end_ns);
        assert_eq!(
            found.iter().map(line).collect::<Vec<_>>(),
            // A block that left without waiting was ready when it started.
            [(0, 0, 3, 0, 10, 200), (0, 1, 4, 5, 5, 100), (1, 0, 3, 150, 201, 300)]
        );
        let error = blocks(&launches, &words[..8]).expect_err("too few records").to_string();
        assert!(error.contains("fewer records"), "{error}");
        let error = blocks(&launches, &[0; 12]).expect_err("no stamps").to_string();
        assert!(error.contains("block 0 of first left no stamps"), "{error}");
    }
}
