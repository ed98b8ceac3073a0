//! What a model takes on a device, item by item, before anything is loaded; and how many pages fit.

use std::fmt;

use ossmith_plan::ModelSpec;

use super::Limits;
use crate::{Error, Result};

/// Pages for each sliding-window snapshot that is kept for cached prefixes, besides one snapshot per sequence.
pub(super) const PAGES_PER_SNAPSHOT: usize = 8;

/// Sliding-window snapshots to make room for if prefixes are cached; `None` if the model has no sliding layers and can
/// resume a prefix anywhere.
pub(crate) fn snapshot_count(spec: &ModelSpec, limits: &Limits) -> Option<usize> {
    spec.has_sliding_layers()
        .then_some(limits.pages.div_ceil(PAGES_PER_SNAPSHOT) + limits.max_sequences)
}

/// How a model and its limits would use a device's memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryBudget {
    /// Weights as the device holds them. The CPU maps them from the checkpoint's file and counts them as 0.
    pub weight_bytes: u64,
    /// The CPU's copies of dense weights in 8 bits.
    pub dense_q8_bytes: u64,
    /// The 8-bit shadow of the unembedding, which makes decode steps of few sequences faster.
    pub shadow_bytes: u64,
    /// Keys and values of full layers: all pages.
    pub page_bytes: u64,
    /// Keys and values of sliding layers: the window of each sequence. Those of a step's chunks are in the workspace.
    pub ring_bytes: u64,
    /// Sliding-window snapshots, from which cached prefixes can be resumed.
    pub snapshot_bytes: u64,
    /// Values between kernels, step words and page tables.
    pub workspace_bytes: u64,
    /// Histories and masks of sequences, and reports of sampled tokens.
    pub sampling_bytes: u64,
    /// Loaded kernels and captured steps: a bound, not a count.
    pub graph_bytes: u64,
    /// Memory that is free now; `None` where that is not known.
    pub available_bytes: Option<u64>,
    /// Pages of the budget.
    pub pages: u64,
    /// Bytes that one more page takes, its part of the snapshots included.
    pub bytes_per_page: u64,
    /// Bytes by which another number of pages may exceed `bytes_per_page`, because memory is allocated in blocks.
    pub rounding_bytes: u64,
}

impl MemoryBudget {
    /// The sum of all items.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.weight_bytes
            + self.dense_q8_bytes
            + self.shadow_bytes
            + self.page_bytes
            + self.ring_bytes
            + self.snapshot_bytes
            + self.workspace_bytes
            + self.sampling_bytes
            + self.graph_bytes
    }

    /// The budget of two engines that share a memory. The weights are those of the first.
    #[must_use]
    pub(crate) fn beside(self, other: MemoryBudget) -> MemoryBudget {
        MemoryBudget {
            weight_bytes: self.weight_bytes,
            dense_q8_bytes: self.dense_q8_bytes + other.dense_q8_bytes,
            page_bytes: self.page_bytes + other.page_bytes,
            ring_bytes: self.ring_bytes + other.ring_bytes,
            snapshot_bytes: self.snapshot_bytes + other.snapshot_bytes,
            shadow_bytes: self.shadow_bytes + other.shadow_bytes,
            workspace_bytes: self.workspace_bytes + other.workspace_bytes,
            sampling_bytes: self.sampling_bytes + other.sampling_bytes,
            graph_bytes: self.graph_bytes + other.graph_bytes,
            available_bytes: self.available_bytes,
            pages: self.pages + other.pages,
            bytes_per_page: self.bytes_per_page,
            rounding_bytes: self.rounding_bytes + other.rounding_bytes,
        }
    }

    /// Refuses a budget that exceeds the available memory.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with the budget and what would fit.
    pub fn check(&self) -> Result<()> {
        if self.available_bytes.is_none_or(|available| self.total_bytes() <= available) {
            return Ok(());
        }
        let fit = self.pages_that_fit(1.0) as u64;
        let advice = if fit > 0 {
            format!("{} pages fewer would fit", self.pages.saturating_sub(fit))
        } else {
            "even with no cache it does not fit: lower max_sequences or max_step_tokens, use a smaller \
             model, or free memory"
                .to_owned()
        };
        Err(Error::OutOfMemory {
            needed_bytes: self.total_bytes(),
            available_bytes: self.available_bytes,
            problem: format!("the model does not fit: {self}; {advice}"),
        })
    }

    /// Pages that fit into `share` of the available memory when everything else stays as it is; 0 if nothing does.
    #[must_use]
    pub fn pages_that_fit(&self, share: f64) -> usize {
        let room = (self.available_bytes.unwrap_or(0) as f64 * share) as u64;
        let without_pages = self.total_bytes().saturating_sub(self.pages * self.bytes_per_page);
        let room = room.saturating_sub(without_pages + self.rounding_bytes);
        room.checked_div(self.bytes_per_page).unwrap_or(0) as usize
    }
}

impl fmt::Display for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = [
            ("weights", self.weight_bytes),
            ("dense weights in 8 bits", self.dense_q8_bytes),
            ("shadow head", self.shadow_bytes),
            ("pages", self.page_bytes),
            ("rings", self.ring_bytes),
            ("snapshots", self.snapshot_bytes),
            ("workspace", self.workspace_bytes),
            ("sampling", self.sampling_bytes),
            ("kernels and graphs", self.graph_bytes),
        ];
        for (name, bytes) in items.into_iter().filter(|(_, bytes)| *bytes > 0) {
            write!(f, "{name} {:.2} GB, ", bytes as f64 / 1e9)?;
        }
        write!(f, "{:.2} GB in all", self.total_bytes() as f64 / 1e9)?;
        match self.available_bytes {
            Some(available) => write!(f, " of {:.2} GB free", available as f64 / 1e9),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_over_the_available_memory_is_refused_with_its_numbers() {
        let gb = 1_000_000_000;
        let budget = MemoryBudget {
            weight_bytes: 60 * gb,
            page_bytes: 10 * gb,
            pages: 1000,
            bytes_per_page: gb / 100,
            available_bytes: Some(80 * gb),
            ..MemoryBudget::default()
        };
        assert!(budget.check().is_ok());
        assert_eq!(budget.pages_that_fit(0.9), 1200);
        let rounded = MemoryBudget { rounding_bytes: gb, ..budget.clone() };
        assert_eq!(rounded.pages_that_fit(0.9), 1100);
        for (available, want) in [(66, "400 pages fewer would fit"), (50, "even with no cache")] {
            let smaller =
                MemoryBudget { available_bytes: Some(available * gb), ..budget.clone() }.check();
            let error = smaller.expect_err("too little memory");
            let numbers = matches!(
                error,
                Error::OutOfMemory { needed_bytes, available_bytes: Some(free), .. }
                    if needed_bytes == 70 * gb && free == available * gb
            );
            assert!(numbers, "{error:?}");
            let error = error.to_string();
            assert!(error.contains("weights 60.00 GB, pages 10.00 GB, 70.00 GB in all"), "{error}");
            assert!(
                error.contains(&format!("of {available}.00 GB free")) && error.contains(want),
                "{error}"
            );
        }
        assert!(MemoryBudget { available_bytes: None, ..budget }.check().is_ok());
    }
}
