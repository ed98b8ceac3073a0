//! The committed CUDA text of the published models is what the generator emits now, so that a review shows what a
//! change does to every kernel. `cargo xtask bless` rewrites it.
//!
//! A unit that all published models have in common is committed once, in `codegen/goldens/shared`; the others are in
//! the folder of their model. Kernels of two ranks that share a model are beside them, in folders that end with `of2`: those
//! of both ranks or of one, of both models or of one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use ossmith_plan::{Arch, Model, Shard};
use ossmith_tests::root;

/// Set by `cargo xtask bless`: write instead of compare.
const BLESS: &str = "OSSMITH_BLESS";
const PUBLISHED: [&Model; 2] = [ossmith_models::GPT_OSS_20B, ossmith_models::GPT_OSS_120B];
const SHARED: &str = "shared";

#[test]
fn committed_cuda_is_what_is_generated() {
    let folder = root().join("codegen/goldens");
    let expected = all_goldens();
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
    let all = all_goldens();
    let texts: BTreeSet<&str> = all.values().copied().collect();
    assert_eq!(texts.len(), all.len(), "two goldens have the same text");
    let expected = goldens(&PUBLISHED);
    let shared = expected.keys().filter(|file| file.starts_with(SHARED)).count();
    // What differs is what depends on the number of experts or of layers.
    assert!(shared > expected.len() - shared, "{shared} of {} are shared", expected.len());
}

/// All goldens: of the published models, and of two ranks that share one.
fn all_goldens() -> BTreeMap<PathBuf, &'static str> {
    let mut files = goldens(&PUBLISHED);
    files.extend(goldens_of_ranks(2));
    files
}

/// The kernels of ranks that differ from the whole model's, each once.
fn goldens_of_ranks(of: usize) -> BTreeMap<PathBuf, &'static str> {
    let compiled = |model: &Model, shard: Shard| {
        ossmith_codegen::compile_rank(model.spec, shard, &Arch::BUILT_IN)
            .unwrap_or_else(|why| panic!("{why}"))
    };
    let models: Vec<(&Model, Vec<&'static Model>)> = PUBLISHED
        .into_iter()
        .map(|model| (model, Shard::all(of).map(|shard| compiled(model, shard)).collect()))
        .collect();
    let text_of =
        |model: &Model, name: &str| model.units.iter().find(|u| u.name == name).map(|u| u.source);
    let mut files = BTreeMap::new();
    for (whole, ranks) in &models {
        for (rank, model) in ranks.iter().enumerate() {
            let own = model.units.iter().filter(|unit| text_of(whole, unit.name).is_none());
            for unit in own {
                let same = |other: &Model| text_of(other, unit.name) == Some(unit.source);
                let in_models = models.iter().all(|(_, ranks)| same(ranks[rank]));
                let in_ranks = ranks.iter().all(|other| same(other));
                let name = if in_models { SHARED } else { whole.spec.name };
                let folder = match in_ranks {
                    true => format!("{name}-of{of}"),
                    false => format!("{name}-rank{rank}of{of}"),
                };
                files.insert(Path::new(&folder).join(unit.name).with_extension("cu"), unit.source);
            }
        }
    }
    files
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
