//! The committed CUDA text of the published models is what the generator emits now, so that a review shows what a
//! change does to every kernel. `cargo xtask bless` rewrites it.
//!
//! A unit that all published models have in common is committed once, in `codegen/goldens/shared`; the others are in
//! the folder of their model.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use ossmith_plan::Model;
use ossmith_tests::root;

/// Set by `cargo xtask bless`: write instead of compare.
const BLESS: &str = "OSSMITH_BLESS";
const PUBLISHED: [&Model; 2] = [ossmith_models::GPT_OSS_20B, ossmith_models::GPT_OSS_120B];
const SHARED: &str = "shared";

#[test]
fn committed_cuda_is_what_is_generated() {
    let folder = root().join("codegen/goldens");
    let expected = goldens(&PUBLISHED);
    if std::env::var_os(BLESS).is_some() {
        return write(&folder, &expected);
    }
    let mut offences = Vec::new();
    for (file, source) in &expected {
        match fs::read_to_string(folder.join(file)) {
            Ok(text) if text == *source => {}
            Ok(text) => {
                offences.push(format!("{}: {}", file.display(), first_change(&text, source)))
            }
            Err(why) => offences.push(format!("{}: {why}", file.display())),
        }
    }
    let committed = committed(&folder);
    let orphans = committed.iter().filter(|file| !expected.contains_key(*file));
    offences.extend(orphans.map(|file| format!("{}: no unit has this text", file.display())));
    assert!(
        offences.is_empty(),
        "committed CUDA differs from what is generated; `cargo xtask bless`, then read the diff\n  {}",
        offences.join("\n  ")
    );
}

#[test]
fn units_that_models_have_in_common_are_committed_once() {
    let expected = goldens(&PUBLISHED);
    let texts: BTreeSet<&str> = expected.values().copied().collect();
    assert_eq!(texts.len(), expected.len(), "two goldens have the same text");
    let shared = expected.keys().filter(|file| file.starts_with(SHARED)).count();
    // What differs is what depends on the number of experts or of layers.
    assert!(shared > expected.len() - shared, "{shared} of {} are shared", expected.len());
}

/// The text of each golden by its path below the goldens' folder.
fn goldens(models: &[&Model]) -> BTreeMap<PathBuf, &'static str> {
    let text_of =
        |model: &Model, name: &str| model.units.iter().find(|u| u.name == name).map(|u| u.source);
    let mut files = BTreeMap::new();
    for model in models {
        for unit in model.units {
            let shared = models.iter().all(|other| text_of(other, unit.name) == Some(unit.source));
            let folder = if shared { SHARED } else { model.spec.name };
            files.insert(Path::new(folder).join(unit.name).with_extension("cu"), unit.source);
        }
    }
    files
}

fn write(folder: &Path, expected: &BTreeMap<PathBuf, &str>) {
    let failed = |file: &Path, why| panic!("{}: {why}", file.display());
    for stale in committed(folder).into_iter().filter(|file| !expected.contains_key(file)) {
        let file = folder.join(stale);
        fs::remove_file(&file).unwrap_or_else(|why| failed(&file, why));
    }
    for (file, source) in expected {
        let file = folder.join(file);
        let parent = file.parent().expect("a golden is in a folder");
        fs::create_dir_all(parent).unwrap_or_else(|why| failed(parent, why));
        fs::write(&file, source).unwrap_or_else(|why| failed(&file, why));
    }
}

/// Every committed golden, by its path below the goldens' folder.
fn committed(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    entries(folder)
        .flat_map(|entry| entries(&entry.path()))
        .map(|entry| entry.path())
        .filter(|file| file.extension().is_some_and(|end| end == "cu"))
        .map(|file| file.strip_prefix(folder).expect("below the folder").to_owned())
        .collect()
}

/// Where two texts first differ, for the message.
fn first_change(golden: &str, emitted: &str) -> String {
    let differing = golden.lines().zip(emitted.lines()).position(|(a, b)| a != b);
    let line = differing.unwrap_or(golden.lines().count().min(emitted.lines().count()));
    let now = emitted.lines().nth(line).unwrap_or("(the end)");
    format!("differs from line {}: now `{}`", line + 1, now.trim())
}
