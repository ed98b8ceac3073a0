//! Packs what a GPU machine needs for the checks that only it can make: one program, the fixtures, one script.
//! The machine needs no Rust and no network; `tests/gpu/run.sh` lists what it does need.

use std::fs;
use std::path::Path;

use crate::release::{self, Built, Linked};
use crate::shell::{Result, at, capture, root, target};

/// Keeps the bundle small enough to copy over a slow network.
const MAX_BYTES: u64 = 60 << 20;

/// Writes `target/gpu/`.
pub(crate) fn pack() -> Result<()> {
    let bundle = target("gpu");
    if bundle.exists() {
        at(&bundle, fs::remove_dir_all(&bundle))?;
    }
    at(&bundle, fs::create_dir_all(&bundle))?;

    copy(&release::build_program(Linked::Here, Built::Whole)?, &bundle.join("ossmith"))?;

    let tests = root().join("tests");
    copy(&tests.join("gpu/run.sh"), &bundle.join("run.sh"))?;
    copy(&tests.join("gpu/fixtures.py"), &bundle.join("gpu/fixtures.py"))?;
    copy(&tests.join("fixtures"), &bundle.join("fixtures"))?;
    let commit =
        capture(std::process::Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root()))?;
    at(&bundle, fs::write(bundle.join("commit"), commit))?;

    let bytes = size(&bundle)?;
    println!("{}: {:.1} MB; on the GPU machine: sh run.sh", bundle.display(), bytes as f64 / 1e6);
    if bytes <= MAX_BYTES {
        return Ok(());
    }
    Err(format!("the bundle is over {} MB; find out what has grown", MAX_BYTES >> 20))
}

/// Copies a file, or a folder without `__pycache__`.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.file_name().is_some_and(|name| name == "__pycache__") {
        return Ok(());
    }
    if !from.is_dir() {
        if let Some(folder) = to.parent() {
            at(folder, fs::create_dir_all(folder))?;
        }
        return at(from, fs::copy(from, to)).map(|_| ());
    }
    at(to, fs::create_dir_all(to))?;
    for entry in at(from, fs::read_dir(from))? {
        let entry = at(from, entry)?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn size(path: &Path) -> Result<u64> {
    if !path.is_dir() {
        return at(path, fs::metadata(path)).map(|data| data.len());
    }
    let mut bytes = 0;
    for entry in at(path, fs::read_dir(path))? {
        bytes += size(&at(path, entry)?.path())?;
    }
    Ok(bytes)
}
