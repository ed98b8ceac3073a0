//! f32 memory that begins at a cache line, so that no vector register is loaded from two lines.

use std::collections::TryReserveError;
use std::ops::{Deref, DerefMut};

/// Bytes of a cache line, and of the widest register.
pub(super) const LINE_BYTES: usize = 64;
const LINE: usize = LINE_BYTES / size_of::<f32>();

/// Floats of which the first is aligned to a cache line. They are never moved in memory.
#[derive(Debug, Default)]
pub(super) struct Floats {
    /// One line more than `len`.
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

impl Floats {
    /// Zeroed memory that the system provides page by page when it is written.
    pub(super) fn zeroed(len: usize) -> Result<Floats, TryReserveError> {
        // `vec!` aborts if there is no memory, so a reservation is tried first.
        Vec::<f32>::new().try_reserve_exact(len.saturating_add(LINE))?;
        Ok(Floats::new(len))
    }

    fn new(len: usize) -> Floats {
        let memory = vec![0.0; len + LINE];
        // Vectors of floats are aligned to four bytes, so less than a line is skipped.
        let start = memory.as_ptr().align_offset(LINE_BYTES).min(LINE);
        Floats { memory, start, len }
    }

    /// The first `len` floats with their previous contents; the memory grows to that many if it is smaller.
    pub(super) fn first(&mut self, len: usize) -> &mut [f32] {
        if self.len < len {
            *self = Floats::new(len);
        }
        &mut self[..len]
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
