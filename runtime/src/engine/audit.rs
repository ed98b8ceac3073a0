//! Holds the scheduler's books against each other, by the simplest reference: it walks over everything. For tests.

use super::Engine;
use super::pages::Use;
use super::scheduler::Scheduler;

impl Engine {
    /// # Errors
    /// The first thing that is wrong.
    pub(super) fn audit(&self) -> Result<(), String> {
        self.scheduler.audit(self.limits.max_sequences)
    }
}

impl Scheduler {
    fn audit(&self, slots: usize) -> Result<(), String> {
        let uses: Vec<Use<'_>> = self
            .samples
            .values()
            .map(|sample| Use {
                tokens: &sample.tokens,
                pages: &sample.pages,
                cached_blocks: sample.cached_blocks,
                salt: sample.request.salt,
            })
            .collect();
        self.pages.audit(&uses)?;
        let mut owners = vec![0; slots];
        self.free_seq_slots.iter().for_each(|&slot| owners[slot] += 1);
        for (key, sample) in &self.samples {
            sample.seq_slot.iter().for_each(|&slot| owners[slot] += 1);
            let (waits, runs) = (self.waiting.contains_key(key), self.running.contains(key));
            if waits == runs || runs != sample.seq_slot.is_some() {
                return Err(format!("{key:?} waits: {waits}, runs: {runs}, {:?}", sample.seq_slot));
            }
            if waits && !sample.pages.is_empty() {
                return Err(format!("{key:?} waits and has pages"));
            }
        }
        if let Some(slot) = owners.iter().position(|&count| count != 1) {
            return Err(format!("sequence slot {slot} has {} owners", owners[slot]));
        }
        if self.waiting.len() + self.running.len() != self.samples.len() {
            return Err("a sample that waits or runs does not exist".to_owned());
        }
        Ok(())
    }
}
