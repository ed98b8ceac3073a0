//! Replays the fuzz targets' corpus with the ordinary compiler.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::fs;
use std::path::Path;

/// A target's name and check.
type Target = (&'static str, fn(&[u8]));

#[test]
fn the_corpus_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let targets: [Target; 3] =
        [("tokens", checks::tokens), ("lines", checks::lines), ("text", checks::text)];
    for (target, check) in targets {
        let folder = corpus.join(target);
        let mut count = 0;
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("a folder entry").path();
            check(&fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
            count += 1;
        }
        assert!(count >= 5, "{} has only {count} inputs", folder.display());
    }
}
