//! What a user sees when `model!` is refused: one golden compiler message a case.

use std::path::Path;

/// The crates that trybuild compiles have a folder of their own for a `Cargo.toml`; configurations belong there.
fn place_folders() -> std::io::Result<()> {
    let project = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tests/trybuild/ossmith-macros");
    for folder in std::fs::read_dir("tests/folders")? {
        let folder = folder?;
        let to = project.join(folder.file_name());
        std::fs::create_dir_all(&to)?;
        std::fs::copy(folder.path().join("config.json"), to.join("config.json"))?;
    }
    Ok(())
}

#[test]
fn refusals_point_at_the_name() {
    place_folders().expect("folders for the cases");
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
