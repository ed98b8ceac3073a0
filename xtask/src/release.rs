//! What a release consists of, made on this machine as `.github/workflows/release.yml` makes it: the program twice, each with its
//! licences, completions, manual pages and service file in an archive, the wheel of the Python package, a bill of materials, and
//! checksums of all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{Result, at, capture, cargo, root, run, target};
use crate::{python, python_package, supply};

/// What the archive has besides the program and what the program writes about itself.
const FILES: [&str; 6] = [
    "README.md",
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "packaging/ossmith.service",
    "docs/SERVER.md",
];
/// Shells whose completions the archive has, and their files' names.
const COMPLETIONS: [(&str, &str); 3] =
    [("bash", "ossmith.bash"), ("zsh", "_ossmith"), ("fish", "ossmith.fish")];
/// Links for an older C library than this machine's, so that the program runs with that one and all later ones.
const ZIG: [&str; 2] = ["cargo-zigbuild==0.24.1", "ziglang==0.17.1"];
/// The oldest C library that the program runs with: the one that Rust's standard library needs.
pub(crate) const GLIBC: &str = "2.17";
const HELP: &str =
    "cargo xtask release [--rehearsal] [--program FILE] [--static-program FILE] [--without-wheel]";

/// How the program is linked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Linked {
    /// As this machine links, for this machine and those like it.
    Here,
    /// With [`GLIBC`] and later ones. It loads CUDA at run time.
    Glibc,
    /// With no library of the system's. It cannot load any, so it has no CUDA.
    Static,
}

/// How far it is optimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Built {
    /// As users get it.
    Whole,
    /// With what `cargo build` has compiled already: to try the other steps in minutes.
    Rehearsal,
}

/// Builds the program for any x86-64, without symbols. It chooses its SIMD paths at run time, and loads CUDA then. All is compiled
/// once; the programs differ in how they are linked.
pub(crate) fn build_program(linked: Linked, how: Built) -> Result<PathBuf> {
    let mut build = cargo(&["rustc", "--locked", "-p", "ossmith-cli", "--bin", "ossmith"]);
    let built = match how {
        Built::Whole => {
            build.args(["--profile", "bundle"]);
            for setting in ["inherits='release'", "strip='symbols'", "debug=false"] {
                build.arg("--config").arg(format!("profile.bundle.{setting}"));
            }
            build.env("CARGO_TARGET_DIR", target("bundle"));
            target("bundle/bundle/ossmith")
        }
        Built::Rehearsal => {
            build.env("CARGO_TARGET_DIR", root().join("target"));
            target("debug/ossmith")
        }
    };
    let name = match linked {
        Linked::Here => "ossmith",
        Linked::Glibc => {
            build.arg("--").arg(format!("-Clinker={}", zig()?.display()));
            "ossmith-glibc"
        }
        Linked::Static => {
            build.args(["--", "-Ctarget-feature=+crt-static"]);
            "ossmith-static"
        }
    };
    run(build.env("RUSTFLAGS", ""))?;
    let folder = target("bundle");
    at(&folder, fs::create_dir_all(&folder))?;
    let kept = folder.join(name);
    match how {
        Built::Whole => at(&built, fs::copy(&built, &kept)).map(drop)?,
        Built::Rehearsal => run(Command::new("strip").arg("-o").arg(&kept).arg(&built))?,
    }
    Ok(kept)
}

/// Zig's C compiler from PyPI as a linker for [`GLIBC`], by the filter of arguments that cargo-zigbuild has.
fn zig() -> Result<PathBuf> {
    let python = python::ours()?;
    let program = target("py").join("bin/cargo-zigbuild");
    capture(python::pip_install(&python).args(ZIG))
        .map_err(|why| format!("cannot install {ZIG:?} (is there a network?): {why}"))?;
    let script = target("zigcc.sh");
    // It finds the Python package `ziglang` with the first Python of the path.
    let text = format!(
        "#!/bin/sh\nPATH={}:$PATH exec {} zig cc -- -target x86_64-linux-gnu.{GLIBC} \"$@\"\n",
        target("py").join("bin").display(),
        program.display()
    );
    at(&script, fs::write(&script, text))?;
    run(Command::new("chmod").arg("+x").arg(&script))?;
    Ok(script)
}

/// Writes `target/release-files/`, or `target/release-rehearsal/`, whose programs and wheel are slow.
///
/// # Errors
/// What cannot be built, read or written, or words that it does not know.
pub(crate) fn pack(words: &[&str]) -> Result<()> {
    let (mut program, mut static_program, mut wheel) = (None, None, true);
    let mut how = Built::Whole;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--program" => program = words.next().map(PathBuf::from),
            "--static-program" => static_program = words.next().map(PathBuf::from),
            "--without-wheel" => wheel = false,
            "--rehearsal" => how = Built::Rehearsal,
            other => return Err(format!("`{other}` is not known here: {HELP}")),
        }
    }
    let program = program.map_or_else(|| build_program(Linked::Glibc, how), Ok)?;
    let static_program = static_program.map_or_else(|| build_program(Linked::Static, how), Ok)?;
    let out = match how {
        Built::Whole => target("release-files"),
        Built::Rehearsal => target("release-rehearsal"),
    };
    if out.exists() {
        at(&out, fs::remove_dir_all(&out))?;
    }
    at(&out, fs::create_dir_all(&out))?;

    // The version of the program that is packed, not of the text around it.
    let version = capture(Command::new(&program).arg("--version"))?;
    let version = version.split_whitespace().nth(1).ok_or("the program has no version")?.to_owned();
    let folder = format!("ossmith-{version}-{}-linux", std::env::consts::ARCH);
    archive(&program, &out, &folder)?;
    archive(&static_program, &out, &format!("{folder}-static"))?;
    if wheel {
        python_package::build_release(&out, how == Built::Rehearsal)?;
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
    for (shell, file) in COMPLETIONS {
        let path = folder.join("completions").join(file);
        at(&path, fs::create_dir_all(folder.join("completions")))?;
        at(&path, fs::write(&path, capture(Command::new(program).args(["completions", shell]))?))?;
    }
    capture(Command::new(program).arg("man").arg(folder.join("man/man1")))?;
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
