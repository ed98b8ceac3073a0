//! The engine under a seeded simulation: scheduler, pages, the queues of events and the thread's loop, over the scripted backend
//! and a clock that moves only when a step or a pause moves it. One thread does everything, so a seed decides every arrival,
//! cancellation, slow reader, fault, deadline and restart, and the same seed gives the same run.
//!
//! [`setup`] decides what a run is like, [`world`] makes its moves, [`checks`] says what must hold after each of them.
//! `cargo xtask simulate` runs more seeds, or one with everything that happens in it.

mod checks;
mod setup;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use world::World;

/// Seeds that the tests run.
const SEEDS: u64 = 4000;
/// Within so many seeds a planted bug must be found.
const SEEDS_TO_FIND: u64 = 2000;

/// A bug that is planted around the parts, to see that the simulation finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plant {
    /// When a request is cancelled that has been preempted, the private pages that it gave back then are freed again.
    PageFreedTwice,
    /// The end of a sample is lost if its reader is so slow that the request is held.
    EndLost,
    /// A request of one tenant finds the prefixes of another.
    SaltIgnored,
}

/// What happened in many runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) moves: u64,
    pub(super) requests: u64,
    pub(super) refused: u64,
    pub(super) tokens: u64,
    pub(super) ended: u64,
    pub(super) cancelled: u64,
    pub(super) deadlines: u64,
    pub(super) failed: u64,
    pub(super) held: u64,
    pub(super) preemptions: u64,
    pub(super) cached_tokens: u64,
    pub(super) drafted: u64,
    pub(super) accepted: u64,
    pub(super) forced: u64,
    pub(super) late_masks: u64,
    pub(super) restarts: u64,
    pub(super) newcomers: u64,
    /// Folds everything that was delivered.
    pub(super) digest: u64,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        for (sum, value) in [
            (&mut self.moves, other.moves),
            (&mut self.requests, other.requests),
            (&mut self.refused, other.refused),
            (&mut self.tokens, other.tokens),
            (&mut self.ended, other.ended),
            (&mut self.cancelled, other.cancelled),
            (&mut self.deadlines, other.deadlines),
            (&mut self.failed, other.failed),
            (&mut self.held, other.held),
            (&mut self.preemptions, other.preemptions),
            (&mut self.cached_tokens, other.cached_tokens),
            (&mut self.drafted, other.drafted),
            (&mut self.accepted, other.accepted),
            (&mut self.forced, other.forced),
            (&mut self.late_masks, other.late_masks),
            (&mut self.restarts, other.restarts),
            (&mut self.newcomers, other.newcomers),
        ] {
            *sum += value;
        }
    }
}

/// Runs a seed. An error is what does not hold.
fn run(seed: u64, plant: Option<Plant>, verbose: bool) -> Result<Tally, String> {
    World::new(seed, plant, verbose).run()
}

/// Runs seeds on all cores; the first seed that fails, if any, with what does not hold.
fn run_all(first: u64, count: u64) -> (Tally, Option<(u64, String)>) {
    let (next, end) = (AtomicU64::new(first), first + count);
    let outcome = Mutex::new((Tally::default(), None::<(u64, String)>));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let ran = run(seed, None, false);
                    let mut outcome = outcome.lock().unwrap();
                    match ran {
                        Ok(tally) => outcome.0.add(&tally),
                        Err(why) if outcome.1.as_ref().is_none_or(|(first, _)| seed < *first) => {
                            outcome.1 = Some((seed, why));
                            next.store(end, Ordering::Relaxed);
                        }
                        Err(_) => {}
                    }
                }
            });
        }
    });
    outcome.into_inner().unwrap()
}

fn report(failed: Option<(u64, String)>) {
    if let Some((seed, why)) = failed {
        panic!("seed {seed}: {why}\n\nreplay it with `cargo xtask simulate --seed {seed}`");
    }
}

#[test]
fn thousands_of_seeds_break_no_invariant() {
    let (tally, failed) = run_all(0, SEEDS);
    report(failed);
    // Everything that a seed can decide has happened.
    let Tally { refused, cancelled, deadlines, failed, held, preemptions, .. } = tally;
    for (what, count) in [
        ("refused", refused),
        ("cancelled", cancelled),
        ("deadlines", deadlines),
        ("failed", failed),
        ("held", held),
        ("preemptions", preemptions),
        ("cached tokens", tally.cached_tokens),
        ("drafted", tally.drafted),
        ("accepted", tally.accepted),
        ("forced", tally.forced),
        ("late masks", tally.late_masks),
        ("restarts", tally.restarts),
        ("newcomers", tally.newcomers),
    ] {
        assert!(count > SEEDS / 10, "{what}: only {count} in {tally:?}");
    }
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..40 {
        assert_eq!(run(seed, None, false), run(seed, None, false), "seed {seed}");
    }
}

#[test]
fn planted_bugs_are_found_and_replay() {
    for (plant, sign) in [
        (Plant::PageFreedTwice, "page"),
        (Plant::EndLost, "no end"),
        (Plant::SaltIgnored, "cached"),
    ] {
        let found =
            (0..SEEDS_TO_FIND).find_map(|seed| Some((seed, run(seed, Some(plant), false).err()?)));
        let (seed, why) = found.unwrap_or_else(|| panic!("{plant:?} was not found"));
        eprintln!("{plant:?} is found by seed {seed}: {why}");
        assert!(why.contains(sign), "{plant:?}, seed {seed}: {why}");
        assert_eq!(run(seed, Some(plant), false), Err(why), "{plant:?}, seed {seed}");
        assert!(run(seed, None, false).is_ok(), "seed {seed} fails without {plant:?}");
    }
}

/// `cargo xtask simulate` runs it: `OSSMITH_SIMULATION` is a seed, or `FIRST+COUNT`.
#[test]
#[ignore = "run by cargo xtask simulate"]
#[allow(clippy::print_stdout, reason = "for the person who started it")]
fn simulate() {
    let given = std::env::var("OSSMITH_SIMULATION").expect("set by cargo xtask simulate");
    match given.split_once('+') {
        None => {
            let ran = run(given.parse().expect("a seed"), None, true);
            println!("{ran:#?}");
            assert!(ran.is_ok());
        }
        Some((first, count)) => {
            let number = |text: &str| text.parse().expect("a number");
            let (tally, failed) = run_all(number(first), number(count));
            println!("{tally:#?}");
            report(failed);
        }
    }
}
