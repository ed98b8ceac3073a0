//! The server under a seeded simulation: routes, streams, jobs in the background and the store, over the scripted backend and
//! tokio's paused time. One thread makes every move, without sockets: requests of three keys, slow readers, readers that leave,
//! failures, time limits, deletions, cancellations, and restarts over the same store. What must hold is in [`world`].

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod world;

use world::World;

/// Seeds that the test runs.
const SEEDS: u64 = 1000;
/// Within so many seeds a planted bug must be found.
const SEEDS_TO_FIND: u64 = 2000;

/// A bug that is planted around the parts, to see that the simulation finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plant {
    /// A restart loses the response that was stored last.
    StoredLost,
    /// A response is stored for the key after the one that made it.
    StoredForAnother,
}

/// What happened in many runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    whole: u64,
    streamed: u64,
    left: u64,
    background: u64,
    cancelled: u64,
    failed: u64,
    late: u64,
    continued: u64,
    deleted: u64,
    expired: u64,
    restarts: u64,
    survived: u64,
}

/// Runs a seed. An error is what does not hold.
fn run(seed: u64, plant: Option<Plant>) -> Result<Tally, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|why| why.to_string())?;
    runtime.block_on(async { World::new(seed, plant).run().await })
}

#[test]
fn a_thousand_seeds_break_no_invariant() {
    let mut all = Tally::default();
    for seed in 0..SEEDS {
        let tally = run(seed, None).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        for (sum, one) in [
            (&mut all.whole, tally.whole),
            (&mut all.streamed, tally.streamed),
            (&mut all.left, tally.left),
            (&mut all.background, tally.background),
            (&mut all.cancelled, tally.cancelled),
            (&mut all.failed, tally.failed),
            (&mut all.late, tally.late),
            (&mut all.continued, tally.continued),
            (&mut all.deleted, tally.deleted),
            (&mut all.expired, tally.expired),
            (&mut all.restarts, tally.restarts),
            (&mut all.survived, tally.survived),
        ] {
            *sum += one;
        }
    }
    let Tally { whole, streamed, left, background, cancelled, failed, late, .. } = all;
    let Tally { continued, deleted, expired, restarts, survived, .. } = all;
    let counts = [whole, streamed, left, background, cancelled, failed, late];
    let others = [continued, deleted, expired, restarts, survived];
    // Everything that a seed can decide has happened.
    assert!(counts.iter().chain(&others).all(|&count| count > SEEDS / 10), "{all:?}");
}

#[test]
fn planted_bugs_are_found_and_replay() {
    for plant in [Plant::StoredLost, Plant::StoredForAnother] {
        let found = (0..SEEDS_TO_FIND).find_map(|seed| Some((seed, run(seed, Some(plant)).err()?)));
        let (seed, why) = found.unwrap_or_else(|| panic!("{plant:?} was not found"));
        eprintln!("{plant:?} is found by seed {seed}: {why}");
        assert!(why.contains("stored"), "{plant:?}, seed {seed}: {why}");
        assert!(run(seed, Some(plant)).is_err(), "{plant:?}, seed {seed}");
        assert_eq!(run(seed, None).err(), None, "seed {seed} fails without {plant:?}");
    }
}
