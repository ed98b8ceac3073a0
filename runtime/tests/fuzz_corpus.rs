//! The committed corpus of the fuzz targets, with the ordinary compiler.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::path::Path;

/// Runs a check over a target's corpus and returns the names of the files for which it holds.
fn replay(target: &str, check: impl Fn(&[u8]) -> bool) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|why| panic!("{folder:?}: {why}"));
    let mut good = Vec::new();
    for file in files {
        let file = file.expect("a file of the corpus");
        if check(&std::fs::read(file.path()).expect("a file of the corpus")) {
            good.push(file.file_name().to_string_lossy().into_owned());
        }
    }
    good.sort();
    good
}

#[test]
fn adapter() {
    assert_eq!(replay("adapter", checks::adapter), ["attention", "experts", "patterns"]);
}

#[test]
fn gguf() {
    assert_eq!(replay("gguf", checks::gguf), ["whole"]);
}
