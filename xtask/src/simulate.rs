//! Runs seeds of the engine's simulation (`runtime/src/engine/tests/simulation`), more than the tests do, or one seed with
//! everything that happens in it.

use crate::shell::{Result, cargo, run};

/// What the simulation reads.
const VARIABLE: &str = "OSSMITH_SIMULATION";

/// Runs what the words after `simulate` name.
pub(crate) fn simulate(words: &[&str]) -> Result<()> {
    let seeds = seeds(words)?;
    println!("{VARIABLE}={seeds}");
    let test = "engine::tests::simulation::simulate";
    let words =
        ["test", "-p", "ossmith", "--lib", "--", "--ignored", "--exact", "--nocapture", test];
    run(cargo(&words).env(VARIABLE, &seeds))
}

/// The variable's value: a seed, or the first of them and how many.
fn seeds(words: &[&str]) -> Result<String> {
    let number = |word: &str| {
        word.parse::<u64>().map_err(|_| format!("`{word}` is not a seed or a number of seeds"))
    };
    match words {
        ["--seed", seed] => Ok(number(seed)?.to_string()),
        ["--seeds", count] => Ok(format!("0+{}", number(count)?)),
        ["--seeds", count, "--first", first] => {
            Ok(format!("{}+{}", number(first)?, number(count)?))
        }
        other => Err(format!(
            "`simulate {}`: give --seed N, or --seeds COUNT with an optional --first N",
            other.join(" ")
        )),
    }
}
