//! The sum over ranks that are threads of one process: the CPU's form of the exchange that GPUs make through mailboxes.
//!
//! Each rank has two places for what it computed, which it fills in turns. It announces that it has filled one, waits until
//! all ranks have, and adds the places in the order of the ranks: so every rank gets the same bits, in every run. Two
//! places suffice without a second wait: a rank fills a place again only after every rank has announced the next sum, and
//! so has read the last one. A rank that fails, or keeps the others waiting beyond a limit, ends the sum for all of them
//! with its number.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::executor::RankSums;
use crate::{Error, Result};

/// The places and the state of some ranks' sums.
#[derive(Debug)]
pub(in crate::backend) struct SharedSums {
    /// `[rank][parity]`.
    places: Vec<[RwLock<Vec<f32>>; 2]>,
    state: Mutex<State>,
    changed: Condvar,
    /// How long a rank waits for the others.
    limit: Duration,
}

#[derive(Debug)]
struct State {
    /// How many sums each rank has announced.
    announced: Vec<u64>,
    /// The first rank that failed, and why.
    failed: Option<(usize, Arc<Error>)>,
}

impl SharedSums {
    pub(in crate::backend) fn new(ranks: usize, limit: Duration) -> SharedSums {
        SharedSums {
            places: (0..ranks).map(|_| Default::default()).collect(),
            state: Mutex::new(State { announced: vec![0; ranks], failed: None }),
            changed: Condvar::new(),
            limit,
        }
    }

    /// Ends all sums because a rank failed. The first failure stays; its error is returned.
    pub(in crate::backend) fn fail(&self, rank: usize, problem: Error) -> Error {
        let mut state = self.state();
        let (rank, problem) = state.failed.get_or_insert_with(|| (rank, Arc::new(problem))).clone();
        self.changed.notify_all();
        Error::Rank { rank, of: self.places.len(), problem }
    }

    /// Why no sum can be made any more, if a rank has failed.
    pub(super) fn failed(&self) -> Option<Error> {
        self.failure(&self.state())
    }

    fn failure(&self, state: &State) -> Option<Error> {
        let (rank, problem) = state.failed.as_ref()?;
        let of = self.places.len();
        Some(Error::Rank { rank: *rank, of, problem: problem.clone() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces that a rank has filled its place for a turn, and waits until every rank has.
    fn meet(&self, rank: usize, turn: u64) -> Result<()> {
        let mut state = self.state();
        state.announced[rank] = turn;
        self.changed.notify_all();
        let begin = Instant::now();
        loop {
            if let Some(failure) = self.failure(&state) {
                return Err(failure);
            }
            let Some(late) = state.announced.iter().position(|&announced| announced < turn) else {
                return Ok(());
            };
            let Some(left) = self.limit.checked_sub(begin.elapsed()) else {
                drop(state);
                return Err(self.fail(late, too_late(self.limit)));
            };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What is said of a rank that kept the others waiting beyond a limit.
pub(super) fn too_late(limit: Duration) -> Error {
    Error::device("keep up", format!("it kept the others waiting for {} s", limit.as_secs_f64()))
}

impl RankSums for SharedSums {
    fn sum(&self, rank: usize, part: &mut [f32]) -> Result<()> {
        let turn = self.state().announced[rank] + 1;
        let parity = (turn % 2) as usize;
        let own = &self.places[rank][parity];
        part.clone_into(&mut own.write().unwrap_or_else(PoisonError::into_inner));
        self.meet(rank, turn)?;
        for (index, places) in self.places.iter().enumerate() {
            let place = places[parity].read().unwrap_or_else(PoisonError::into_inner);
            if place.len() != part.len() {
                let (got, expected) = (place.len(), part.len());
                return Err(Error::Internal(format!(
                    "rank {index} has {got} elements of a sum, rank {rank} {expected}"
                )));
            }
            if index == 0 {
                part.copy_from_slice(&place);
            } else {
                part.iter_mut().zip(place.iter()).for_each(|(sum, part)| *sum += part);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any test waits.
    const PATIENT: Duration = Duration::from_secs(600);

    #[test]
    fn every_rank_gets_the_sum_in_the_order_of_ranks() {
        for ranks in [2, 3, 8] {
            let sums = SharedSums::new(ranks, PATIENT);
            // Numbers whose sum depends on the order of additions.
            let part = |rank: usize, turn: usize, i: usize| {
                ((rank * 7919 + turn * 31 + i) as f32 * 0.37).sin() * 10f32.powi(rank as i32 - 3)
            };
            let run = |rank: usize| -> Vec<Vec<u32>> {
                let mut results = Vec::new();
                for turn in 0..50 {
                    let len = 1 + turn % 7 * 33;
                    let mut values: Vec<f32> = (0..len).map(|i| part(rank, turn, i)).collect();
                    sums.sum(rank, &mut values).expect("a sum");
                    results.push(values.iter().map(|value| value.to_bits()).collect());
                }
                results
            };
            let results: Vec<Vec<Vec<u32>>> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..ranks).map(|rank| scope.spawn(move || run(rank))).collect();
                threads.into_iter().map(|thread| thread.join().expect("a rank")).collect()
            });
            for (turn, of_first) in results[0].iter().enumerate() {
                let ordered: Vec<u32> = (0..of_first.len())
                    .map(|i| (1..ranks).fold(part(0, turn, i), |sum, r| sum + part(r, turn, i)))
                    .map(f32::to_bits)
                    .collect();
                assert!(results.iter().all(|rank| rank[turn] == ordered), "{ranks} ranks, {turn}");
            }
        }
    }

    #[test]
    fn a_rank_that_does_not_come_is_named() {
        let sums = SharedSums::new(2, Duration::from_millis(20));
        let error = sums.sum(0, &mut [1.0]).expect_err("rank 1 is late").to_string();
        assert!(error.contains("rank 1 of 2") && error.contains("waiting for 0.02 s"), "{error}");
        // It stays so for whoever comes later.
        let error = sums.sum(1, &mut [1.0]).expect_err("it has failed").to_string();
        assert!(error.contains("rank 1 of 2"), "{error}");
    }

    #[test]
    fn a_failed_rank_ends_the_sums_of_all() {
        let sums = SharedSums::new(3, PATIENT);
        let errors: Vec<String> = std::thread::scope(|scope| {
            let sum = |rank: usize| sums.sum(rank, &mut [1.0]).expect_err("rank 2").to_string();
            let waiting: Vec<_> =
                [0, 1].into_iter().map(|rank| scope.spawn(move || sum(rank))).collect();
            let first = sums.fail(2, Error::device("print", "out of paper")).to_string();
            let rest = waiting.into_iter().map(|thread| thread.join().expect("a rank"));
            std::iter::once(first).chain(rest).collect()
        });
        for error in errors {
            assert!(error.contains("rank 2 of 3") && error.contains("out of paper"), "{error}");
        }
    }
}
