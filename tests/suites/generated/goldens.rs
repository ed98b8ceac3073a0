//! The committed CUDA text of the published models is what the generator emits now, so that a review shows what a
//! change does to every kernel. `cargo xtask bless` rewrites it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ossmith_plan::Model;
use ossmith_tests::root;

/// Set by `cargo xtask bless`: write instead of compare.
const BLESS: &str = "OSSMITH_BLESS";

#[test]
fn goldens_of_gpt_oss_20b() {
    check(ossmith_models::GPT_OSS_20B);
}

#[test]
fn goldens_of_gpt_oss_120b() {
    check(ossmith_models::GPT_OSS_120B);
}

fn check(model: &Model) {
    let folder = root().join("codegen/goldens").join(model.spec.name);
    if std::env::var_os(BLESS).is_some() {
        return write(model, &folder);
    }
    let mut offences = Vec::new();
    for unit in model.units {
        let file = golden(&folder, unit.name);
        match fs::read_to_string(&file) {
            Ok(text) if text == unit.source => {}
            Ok(text) => {
                offences.push(format!("{}: {}", file.display(), first_change(&text, unit.source)))
            }
            Err(why) => offences.push(format!("{}: {why}", file.display())),
        }
    }
    let units: BTreeSet<PathBuf> =
        model.units.iter().map(|unit| golden(&folder, unit.name)).collect();
    let orphans = committed(&folder).into_iter().filter(|file| !units.contains(file));
    offences.extend(orphans.map(|file| format!("{}: no such unit any more", file.display())));
    assert!(
        offences.is_empty(),
        "committed CUDA differs from what is generated; `cargo xtask bless`, then read the diff\n  {}",
        offences.join("\n  ")
    );
}

fn write(model: &Model, folder: &Path) {
    for stale in committed(folder) {
        fs::remove_file(&stale).unwrap_or_else(|why| panic!("{}: {why}", stale.display()));
    }
    fs::create_dir_all(folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    for unit in model.units {
        let file = golden(folder, unit.name);
        fs::write(&file, unit.source).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
    }
}

fn golden(folder: &Path, unit: &str) -> PathBuf {
    folder.join(unit).with_extension("cu")
}

fn committed(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|file| file.extension().is_some_and(|e| e == "cu"))
        .collect()
}

/// Where two texts part, for the message.
fn first_change(golden: &str, emitted: &str) -> String {
    let differing = golden.lines().zip(emitted.lines()).position(|(a, b)| a != b);
    let line = differing.unwrap_or(golden.lines().count().min(emitted.lines().count()));
    let now = emitted.lines().nth(line).unwrap_or("(the end)");
    format!("differs from line {}: now `{}`", line + 1, now.trim())
}
