//! What a model takes on a device, part by part, before anything is loaded; and how many pages fit.

use std::fmt;

use crate::{Error, Result};

/// Pages for each tail that is kept for cached prefixes, besides one tail a sequence.
pub const PAGES_PER_TAIL: usize = 8;

/// A device's memory as a model and its limits would use it, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights as they lie on the device. The CPU maps them from the checkpoint's file and counts them as 0.
    pub weights: u64,
    /// Keys and values of full layers: all pages.
    pub pages: u64,
    /// Keys and values of sliding layers: a ring a sequence.
    pub rings: u64,
    /// Windows at which cached prefixes can be resumed.
    pub tails: u64,
    /// Values between kernels, step words, page tables.
    pub workspace: u64,
    /// Loaded kernels and captured steps: a bound, not a count.
    pub graphs: u64,
    /// What is free now; `None` where that is not known.
    pub available: Option<u64>,
    /// How many pages are planned.
    pub page_count: u64,
    /// Bytes that one more page takes, with its share of tails.
    pub page: u64,
    /// Bytes by which another number of pages may take more than that says, since memory comes in blocks.
    pub rounding: u64,
}

impl MemoryPlan {
    /// All parts.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.pages + self.rings + self.tails + self.workspace + self.graphs
    }

    /// Refuses what does not fit.
    ///
    /// # Errors
    /// [`Error::Device`] with the plan and what would fit.
    pub fn check(&self) -> Result<()> {
        if self.available.is_none_or(|available| self.total() <= available) {
            return Ok(());
        }
        let fit = self.pages_that_fit(1.0) as u64;
        let advice = if fit > 0 {
            format!("{} pages fewer would fit", self.page_count.saturating_sub(fit))
        } else {
            "even with no cache it does not fit: lower max_sequences or max_step_tokens, use a smaller \
             model, or free memory"
                .to_owned()
        };
        Err(Error::Device(format!("the model does not fit: {self}; {advice}")))
    }

    /// Pages that fit into `share` of the available memory when all else stays as planned; 0 if nothing does.
    #[must_use]
    pub fn pages_that_fit(&self, share: f64) -> usize {
        let room = (self.available.unwrap_or(0) as f64 * share) as u64;
        let without_pages = self.total().saturating_sub(self.page_count * self.page);
        let room = room.saturating_sub(without_pages + self.rounding);
        room.checked_div(self.page).unwrap_or(0) as usize
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("weights", self.weights),
            ("pages", self.pages),
            ("rings", self.rings),
            ("tails", self.tails),
            ("workspace", self.workspace),
            ("kernels and graphs", self.graphs),
        ];
        for (name, bytes) in parts.into_iter().filter(|(_, bytes)| *bytes > 0) {
            write!(f, "{name} {:.2} GB, ", bytes as f64 / 1e9)?;
        }
        write!(f, "{:.2} GB in all", self.total() as f64 / 1e9)?;
        match self.available {
            Some(available) => write!(f, " of {:.2} GB free", available as f64 / 1e9),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let gb = 1_000_000_000;
        let plan = MemoryPlan {
            weights: 60 * gb,
            pages: 10 * gb,
            page_count: 1000,
            page: gb / 100,
            available: Some(80 * gb),
            ..MemoryPlan::default()
        };
        assert!(plan.check().is_ok());
        assert_eq!(plan.pages_that_fit(0.9), 1200);
        assert_eq!(MemoryPlan { rounding: gb, ..plan.clone() }.pages_that_fit(0.9), 1100);
        for (available, want) in [(66, "400 pages fewer would fit"), (50, "even with no cache")] {
            let error = MemoryPlan { available: Some(available * gb), ..plan.clone() }.check();
            let error = error.expect_err("too little").to_string();
            assert!(error.contains("weights 60.00 GB, pages 10.00 GB, 70.00 GB in all"), "{error}");
            assert!(
                error.contains(&format!("of {available}.00 GB free")) && error.contains(want),
                "{error}"
            );
        }
        assert!(MemoryPlan { available: None, ..plan }.check().is_ok());
    }
}
