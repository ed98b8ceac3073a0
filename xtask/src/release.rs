//! What a release consists of, made on this machine as `.github/workflows/release.yml` makes it: the program with its licences and
//! service file in an archive, the wheel of the Python package, a bill of materials, and checksums of all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{Result, at, capture, cargo, root, run, target};
use crate::{python_package, supply};

/// What the archive has besides the program.
const FILES: [&str; 6] = [
    "README.md",
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "packaging/ossmith.service",
    "docs/SERVER.md",
];
const HELP: &str = "cargo xtask release [--program FILE] [--without-wheel]";

/// Builds the program for any x86-64, without symbols. It chooses its SIMD paths at run time, and loads CUDA then.
pub(crate) fn build_program() -> Result<PathBuf> {
    let mut build =
        cargo(&["build", "--locked", "--profile", "bundle", "--package", "ossmith-cli"]);
    for setting in ["inherits='release'", "strip='symbols'", "debug=false"] {
        build.arg("--config").arg(format!("profile.bundle.{setting}"));
    }
    run(build.env("RUSTFLAGS", "").env("CARGO_TARGET_DIR", target("bundle")))?;
    Ok(target("bundle").join("bundle/ossmith"))
}

/// Writes `target/release-files/`.
///
/// # Errors
/// What cannot be built, read or written, or words that it does not know.
pub(crate) fn pack(words: &[&str]) -> Result<()> {
    let (mut program, mut wheel, mut words) = (None, true, words.iter());
    while let Some(word) = words.next() {
        match *word {
            "--program" => program = words.next().map(PathBuf::from),
            "--without-wheel" => wheel = false,
            other => return Err(format!("`{other}` is not known here: {HELP}")),
        }
    }
    let program = program.map_or_else(build_program, Ok)?;
    let out = target("release-files");
    if out.exists() {
        at(&out, fs::remove_dir_all(&out))?;
    }
    at(&out, fs::create_dir_all(&out))?;

    // The version of the program that is packed, not of the text around it.
    let version = capture(Command::new(&program).arg("--version"))?;
    let version = version.split_whitespace().nth(1).ok_or("the program has no version")?.to_owned();
    let folder = format!("ossmith-{version}-{}-linux", std::env::consts::ARCH);
    archive(&program, &out, &folder)?;
    if wheel {
        python_package::build_release(&out)?;
    }
    let bill = supply::write_sbom()?;
    let named = out.join(format!("ossmith-{version}.cdx.json"));
    at(&bill, fs::copy(&bill, named))?;
    sums(&out)?;
    println!("{}", out.display());
    Ok(())
}

/// An archive of one folder. The same files make the same bytes.
fn archive(program: &Path, out: &Path, name: &str) -> Result<()> {
    let folder = out.join(name);
    at(&folder, fs::create_dir_all(&folder))?;
    at(program, fs::copy(program, folder.join("ossmith")))?;
    for file in FILES {
        let from = root().join(file);
        let to = folder.join(Path::new(file).file_name().unwrap_or_default());
        at(&from, fs::copy(&from, to))?;
    }
    let time =
        capture(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root()))?;
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX"]);
    tar.arg(format!("--mtime=@{}", time.trim())).args(["--use-compress-program", "gzip -9n"]);
    run(tar.arg("-cf").arg(out.join(format!("{name}.tar.gz"))).arg("-C").arg(out).arg(name))?;
    at(&folder, fs::remove_dir_all(&folder))
}

/// `SHA256SUMS`, which `sha256sum --check` reads.
fn sums(out: &Path) -> Result<()> {
    let mut names: Vec<_> =
        at(out, fs::read_dir(out))?.flatten().map(|file| file.file_name()).collect();
    names.sort();
    let sums = capture(Command::new("sha256sum").args(&names).current_dir(out))?;
    print!("{sums}");
    let path = out.join("SHA256SUMS");
    at(&path, fs::write(&path, sums))
}
