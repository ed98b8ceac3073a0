//! Mutation testing: cargo-mutants over a seeded sample of each room of the code, with the room's own tests, and for what
//! these do not catch with the suites around it. docs/TESTING.md says how to read the table, and lists mutants that change
//! nothing a test could see.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::shell::{Result, at, capture, cargo, root, run, target};

/// The version that `cargo install` builds.
const CARGO_MUTANTS: &str = "cargo-mutants@27.1.0";
/// Where mutants that are argued to be equivalent stand, each in backticks.
const ACCEPTED: &str = "docs/TESTING.md";
/// Seconds after which a mutant's tests count as caught: it waits for ever.
const TIMEOUT: &str = "600";

/// A part of the code with the tests that are nearest to it.
struct Room {
    name: &'static str,
    package: &'static str,
    /// Files below the repository's root, as cargo-mutants' globs.
    files: &'static [&'static str],
    /// Packages whose tests are run for mutants that the package's own do not catch.
    wider: &'static [&'static str],
}

const ROOMS: [Room; 12] = [
    Room {
        name: "plan",
        package: "ossmith-plan",
        files: &["codegen/plan/src/**"],
        wider: &["ossmith-codegen", "ossmith-models"],
    },
    Room {
        name: "codegen",
        package: "ossmith-codegen",
        files: &["codegen/src/**"],
        wider: &["ossmith-models", "ossmith-tests"],
    },
    Room {
        name: "scalar",
        package: "ossmith-scalar",
        files: &["codegen/scalar/src/**"],
        wider: &["ossmith"],
    },
    Room {
        name: "harmony",
        package: "ossmith-harmony",
        files: &["harmony/src/**"],
        wider: &["ossmith-server"],
    },
    Room {
        name: "engine",
        package: "ossmith",
        files: &["runtime/src/engine/**", "runtime/src/sampling/**"],
        wider: &["ossmith-server", "ossmith-tests"],
    },
    Room {
        name: "cpu backend",
        package: "ossmith",
        files: &["runtime/src/backend/*.rs", "runtime/src/backend/cpu/**"],
        wider: &["ossmith-tests"],
    },
    Room {
        name: "cuda backend",
        package: "ossmith",
        files: &["runtime/src/backend/cuda/**"],
        wider: &["ossmith-tests"],
    },
    Room {
        name: "checkpoints",
        package: "ossmith",
        files: &["runtime/src/checkpoint/**"],
        wider: &["ossmith-tests", "ossmith-cli"],
    },
    Room {
        name: "guide",
        package: "ossmith-guide",
        files: &["runtime/guide/src/**"],
        wider: &["ossmith-server"],
    },
    Room {
        name: "server",
        package: "ossmith-server",
        files: &["runtime/server/src/**"],
        wider: &["ossmith-cli", "ossmith-tests"],
    },
    Room {
        name: "command",
        package: "ossmith-cli",
        files: &["runtime/cli/src/**"],
        wider: &["ossmith-tests"],
    },
    Room {
        name: "report",
        package: "ossmith-report",
        files: &["runtime/report/src/**"],
        wider: &["ossmith-cli"],
    },
];

/// Which mutants to make.
struct Wanted {
    seed: u64,
    count: usize,
    /// All rooms, or one.
    room: Option<String>,
    /// Of how many parts of the sample this run makes which, counted from 1.
    part: (usize, usize),
}

/// Small rooms with quick tests, for the few mutants of every CI run.
const QUICK: [&str; 3] = ["plan", "scalar", "harmony"];
const QUICK_COUNT: usize = 4;

/// Where mutants are made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tree {
    /// In this working tree, with what is built there.
    This,
    /// In a copy, which leaves this one's files and their times alone.
    Copy,
}

/// Makes a few mutants of one room, another room and sample each day, and reports them. A missed one is no error.
pub(crate) fn make_daily() -> Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let day = since.as_secs() / (24 * 60 * 60);
    let name = QUICK[day as usize % QUICK.len()];
    let program = provide()?;
    let accepted = accepted(&at(Path::new(ACCEPTED), fs::read_to_string(root().join(ACCEPTED)))?);
    let room = ROOMS.iter().find(|room| room.name == name);
    let room = room.ok_or_else(|| format!("there is no room {name}"))?;
    let sample = sample(&list(&program, room)?, QUICK_COUNT, day);
    let outcome = examine(&program, room, &[room.package], &sample, Tree::Copy)?;
    // Nothing wider is run here, so what the room's tests missed is missed.
    let wider = Outcome { missed: outcome.missed.clone(), ..Outcome::default() };
    println!("{}", table(&[(room.name, sample.len(), outcome, wider)], &accepted, day));
    Ok(())
}

/// Runs the words after `mutants`, and prints a table as Markdown.
pub(crate) fn test(words: &[&str]) -> Result<()> {
    let wanted = parse(words)?;
    let changed = capture(
        std::process::Command::new("git").args(["status", "--porcelain"]).current_dir(root()),
    )?;
    if !changed.is_empty() {
        return Err("mutants are made in these files and taken back: commit or stash what git status names first".into());
    }
    let program = provide()?;
    let accepted = accepted(&at(Path::new(ACCEPTED), fs::read_to_string(root().join(ACCEPTED)))?);
    let rooms: Vec<&Room> = ROOMS
        .iter()
        .filter(|room| wanted.room.as_deref().is_none_or(|name| name == room.name))
        .collect();
    let lists = rooms.iter().map(|room| list(&program, room)).collect::<Result<Vec<_>>>()?;
    let shares = shares(wanted.count, &lists.iter().map(Vec::len).collect::<Vec<_>>());
    let mut results = Vec::new();
    for ((room, mutants), share) in rooms.iter().zip(&lists).zip(shares) {
        let sample = sample(mutants, share, wanted.seed);
        let sample = part(&sample, wanted.part);
        if sample.is_empty() {
            continue;
        }
        println!("\n== {}: {} of {} mutants", room.name, sample.len(), mutants.len());
        let first = examine(&program, room, &[room.package], sample, Tree::This)?;
        let second = match first.missed.is_empty() {
            true => Outcome::default(),
            false => examine(&program, room, room.wider, &first.missed, Tree::This)?,
        };
        results.push((room.name, sample.len(), first, second));
        println!("{}", table(&results, &accepted, wanted.seed));
    }
    Ok(())
}

fn parse(words: &[&str]) -> Result<Wanted> {
    let mut wanted = Wanted { seed: 0, count: 150, room: None, part: (1, 1) };
    let number = |word: &str| {
        word.parse::<usize>().map_err(|_| format!("`mutants`: `{word}` is not a number"))
    };
    for pair in words.chunks(2) {
        match pair {
            ["--seed", seed] => wanted.seed = number(seed)? as u64,
            ["--count", count] => wanted.count = number(count)?,
            ["--room", room] if ROOMS.iter().any(|it| it.name == *room) => {
                wanted.room = Some((*room).to_owned());
            }
            ["--room", room] => {
                let names = ROOMS.map(|it| it.name).join(", ");
                return Err(format!("`mutants`: there is no room {room}; there are {names}"));
            }
            ["--part", part] => {
                let (which, of) = part.split_once('/').unwrap_or((part, "1"));
                wanted.part = (number(which)?, number(of)?);
                if wanted.part.0 == 0 || wanted.part.0 > wanted.part.1 {
                    return Err(format!("`mutants --part {part}`: give 1/4 to 4/4, or the like"));
                }
            }
            other => {
                return Err(format!(
                    "`mutants {}`: give --seed N, --count N, --room NAME, --part K/N",
                    other.join(" ")
                ));
            }
        }
    }
    Ok(wanted)
}

/// cargo-mutants, installed below `target/` where it is not yet.
fn provide() -> Result<PathBuf> {
    let folder = target("cargo-mutants");
    let program = folder.join("bin/cargo-mutants");
    if !program.exists() {
        println!("building {CARGO_MUTANTS} in {}", folder.display());
        let mut install =
            cargo(&["install", "--locked", "--debug", "--quiet", CARGO_MUTANTS, "--root"]);
        run(install.arg(&folder).env("CARGO_PROFILE_DEV_DEBUG", "false"))?;
    }
    Ok(program)
}

/// cargo-mutants for some files of a room.
fn mutants<'a>(
    program: &Path,
    room: &Room,
    files: impl IntoIterator<Item = &'a str>,
) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.current_dir(root()).args(["mutants", "--no-config", "--package", room.package]);
    for files in files {
        command.args(["--file", files]);
    }
    command
}

/// Every mutant of a room: `harmony/src/utf8.rs:12:5: replace take -> usize with 0`.
fn list(program: &Path, room: &Room) -> Result<Vec<String>> {
    let text = capture(
        mutants(program, room, room.files.iter().copied()).args(["--list", "--colors", "never"]),
    )?;
    let of_tests = |line: &str| line.split(':').next().is_some_and(|file| file.contains("/tests"));
    Ok(text.lines().filter(|line| !of_tests(line)).map(str::to_owned).collect())
}

/// How many of `count` mutants each room gives: in proportion to what it has, and at least one.
fn shares(count: usize, sizes: &[usize]) -> Vec<usize> {
    let all: usize = sizes.iter().sum::<usize>().max(1);
    sizes.iter().map(|&size| (count * size / all).clamp(1, size.max(1)).min(size)).collect()
}

/// `count` of the mutants, chosen by the seed, in their own order.
fn sample(mutants: &[String], count: usize, seed: u64) -> Vec<String> {
    let mut state = seed;
    // SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut chosen = BTreeSet::new();
    while chosen.len() < count.min(mutants.len()) {
        chosen.insert((next() % mutants.len() as u64) as usize);
    }
    chosen.into_iter().map(|index| mutants[index].clone()).collect()
}

fn part(sample: &[String], (which, of): (usize, usize)) -> &[String] {
    &sample[sample.len() * (which - 1) / of..sample.len() * which / of]
}

#[derive(Debug, Default)]
struct Outcome {
    caught: Vec<String>,
    missed: Vec<String>,
    unviable: Vec<String>,
}

/// Tests mutants one after another with the tests of some packages.
fn examine(
    program: &Path,
    room: &Room,
    packages: &[&str],
    sample: &[String],
    tree: Tree,
) -> Result<Outcome> {
    let out = target("mutants");
    at(&out, fs::create_dir_all(&out))?;
    // Version 27.1 makes mutants that delete a field whatever names are chosen, so only files of the sample are named, and what
    // else comes back is left out.
    let files: BTreeSet<&str> =
        sample.iter().filter_map(|mutant| mutant.split(':').next()).collect();
    let mut command = mutants(program, room, files);
    command.args(["--baseline", "skip", "--timeout", TIMEOUT, "--no-shuffle"]);
    if tree == Tree::This {
        command.arg("--in-place");
    }
    command.arg("--output").arg(&out);
    for mutant in sample {
        command.arg("--re").arg(format!("^{}$", escaped(mutant)));
    }
    for package in packages {
        command.args(["--test-package", package]);
    }
    let status = command.status().map_err(|why| format!("cannot start cargo-mutants: {why}"))?;
    // 2: some were missed; 3: some ran into the time limit.
    if !matches!(status.code(), Some(0 | 2 | 3)) {
        return Err(format!("cargo-mutants failed ({status}); its logs are in {}", out.display()));
    }
    let lines = |file: &str| -> Result<Vec<String>> {
        let path = out.join("mutants.out").join(file);
        let text = at(&path, fs::read_to_string(&path))?;
        let of_sample = |line: &&str| sample.iter().any(|mutant| mutant == line);
        Ok(text.lines().filter(of_sample).map(str::to_owned).collect())
    };
    let mut caught = lines("caught.txt")?;
    caught.extend(lines("timeout.txt")?);
    Ok(Outcome { caught, missed: lines("missed.txt")?, unviable: lines("unviable.txt")? })
}

/// A text as a regular expression that matches it alone.
fn escaped(text: &str) -> String {
    let special = |c: char| r"\.+*?()|[]{}^$#&-~".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// A mutant's name without its line and column, which change with every edit above it.
fn name(mutant: &str) -> String {
    let mut parts = mutant.splitn(4, ':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(file), Some(_), Some(_), Some(change)) => format!("{file}:{change}"),
        _ => mutant.to_owned(),
    }
}

/// The mutants that a text names in backticks.
fn accepted(text: &str) -> BTreeSet<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.contains(".rs: "))
        .map(str::to_owned)
        .collect()
}

/// The rooms so far: viable mutants, what caught them, and those that nothing caught.
fn table(
    results: &[(&str, usize, Outcome, Outcome)],
    accepted: &BTreeSet<String>,
    seed: u64,
) -> String {
    let mut text = format!(
        "\nSeed {seed}.\n\n| room | mutants | do not compile | caught by its tests | by wider tests | equivalent | missed | caught |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    );
    let mut missed = Vec::new();
    for (room, count, first, second) in results {
        let of_room: Vec<&String> =
            second.missed.iter().filter(|mutant| !accepted.contains(&name(mutant))).collect();
        let equivalent = second.missed.len() - of_room.len();
        let caught = first.caught.len() + second.caught.len();
        let share = 100.0 * caught as f64 / (caught + of_room.len()).max(1) as f64;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {room} | {count} | {} | {} | {} | {equivalent} | {} | {share:.0} % |",
            first.unviable.len(),
            first.caught.len(),
            second.caught.len(),
            of_room.len()
        );
        missed.extend(of_room);
    }
    for mutant in missed {
        let _ = writeln!(text, "\nmissed: {mutant}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_of_the_seed_and_its_parts_are_the_whole() {
        let mutants: Vec<String> =
            (0..100).map(|n| format!("a.rs:{n}:1: replace f with {n}")).collect();
        let first = sample(&mutants, 10, 1);
        assert_eq!(first.len(), 10);
        assert_eq!(first, sample(&mutants, 10, 1));
        assert_ne!(first, sample(&mutants, 10, 2));
        let parts: Vec<String> = (1..=3).flat_map(|k| part(&first, (k, 3)).to_vec()).collect();
        assert_eq!(parts, first);
        assert_eq!(sample(&mutants[..3], 10, 1), mutants[..3]);
        assert_eq!(shares(150, &[1_000, 100, 3]), [135, 13, 1]);
    }

    #[test]
    fn equivalents_are_known_by_their_names_without_lines() {
        let mutant = "harmony/src/utf8.rs:12:5: replace + with - in take";
        assert_eq!(name(mutant), "harmony/src/utf8.rs: replace + with - in take");
        let text = format!("| `{}` | the sum is not used |, `take` is not a mutant", name(mutant));
        assert!(accepted(&text).contains(&name(mutant)));
        assert_eq!(accepted(&text).len(), 1);
        assert_eq!(
            escaped("a.rs:1:2: replace + with -> (x)"),
            r"a\.rs:1:2: replace \+ with \-> \(x\)"
        );
    }

    #[test]
    fn the_table_counts_what_was_caught_by_whom() {
        let of = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let first = Outcome {
            caught: of(&["a.rs:1:1: x"]),
            missed: of(&["a.rs:2:1: y", "a.rs:3:1: z", "a.rs:4:1: w"]),
            unviable: of(&["a.rs:5:1: v"]),
        };
        let second = Outcome {
            caught: of(&["a.rs:2:1: y"]),
            missed: of(&["a.rs:3:1: z", "a.rs:4:1: w"]),
            unviable: Vec::new(),
        };
        let text = table(&[("plan", 5, first, second)], &accepted("`a.rs: z`"), 7);
        assert!(text.contains("| plan | 5 | 1 | 1 | 1 | 1 | 1 | 67 % |"), "{text}");
        assert!(text.contains("missed: a.rs:4:1: w") && !text.contains("missed: a.rs:3"), "{text}");
    }
}
