//! Servers from Debian that tests start: the machine's own, or Debian's packages unpacked below `target/`, which needs no rights and
//! changes nothing of the system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{Result, at, capture, target};

/// Redis, for the tests of stores that several servers share, and the libraries that a small Debian does not have.
const REDIS: [&str; 9] = [
    "redis-server",
    "redis-tools",
    "libatomic1",
    "libhiredis0.14",
    "libjemalloc2",
    "liblua5.1-0",
    "liblzf1",
    "lua-bitop",
    "lua-cjson",
];
/// Prometheus with promtool, for the tests of what an operator sees. It needs no library that is not there.
const PROMETHEUS: [&str; 1] = ["prometheus"];

/// Provides `redis-server`, unless one is there.
pub(crate) fn fetch_redis() -> Result<()> {
    let libraries =
        target("redis/root/usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    fetch("redis-server", &target("redis"), &REDIS, &libraries)
}

/// Provides `prometheus` and `promtool`, and returns their folder.
pub(crate) fn fetch_prometheus() -> Result<PathBuf> {
    let folder = target("prometheus");
    fetch("promtool", &folder, &PROMETHEUS, Path::new(""))?;
    let fetched = folder.join("root/usr/bin");
    // The machine's own are where its packages put them.
    Ok(if fetched.exists() { fetched } else { PathBuf::from("/usr/bin") })
}

/// Provides a program: the machine's own, the one below `folder`, or packages that are unpacked there now.
fn fetch(program: &str, folder: &Path, packages: &[&str], libraries: &Path) -> Result<()> {
    let version = |program: &Path| {
        let mut command = Command::new(program);
        capture(command.arg("--version").env("LD_LIBRARY_PATH", libraries))
    };
    let ours = folder.join("root/usr/bin").join(program);
    if let Ok(found) = version(Path::new(program)).or_else(|_| version(&ours)) {
        println!("{}", found.trim());
        return Ok(());
    }
    unpack_all(program, packages, folder)?;
    println!("{}", version(&ours)?.trim());
    Ok(())
}

/// Fetches packages from Debian and unpacks them; returns the folder that they are in.
pub(crate) fn unpack(packages: &[&str], folder: &Path) -> Result<PathBuf> {
    unpack_all(&packages.join(" and "), packages, folder)?;
    Ok(folder.join("root"))
}

/// Unpacks packages below `folder/root`, with lists and downloads beside it.
fn unpack_all(program: &str, packages: &[&str], folder: &Path) -> Result<()> {
    println!("fetching {program} from Debian into {}, with lists of packages", folder.display());
    if folder.exists() {
        at(folder, fs::remove_dir_all(folder))?;
    }
    for name in ["state/lists/partial", "cache/archives/partial", "packages", "root"] {
        let path = folder.join(name);
        at(&path, fs::create_dir_all(&path))?;
    }
    let apt = |words: &[&str]| {
        let set = |name: &str, value: &Path| format!("{name}={}", value.display());
        let mut command = Command::new("apt-get");
        command.current_dir(folder.join("packages")).args(["-qq", "-o"]);
        command.arg(set("Dir::State", &folder.join("state"))).arg("-o");
        command.arg(set("Dir::State::status", Path::new("/var/lib/dpkg/status"))).arg("-o");
        command
            .arg(set("Dir::Cache", &folder.join("cache")))
            .args(["-o", "APT::Sandbox::User=root"]);
        capture(command.args(words)).map_err(|why| {
            format!("cannot fetch {program} from Debian (is there a network?): {why}")
        })
    };
    apt(&["update"])?;
    apt(&[&["download"], packages].concat())?;
    for package in at(folder, fs::read_dir(folder.join("packages")))? {
        let package = at(folder, package)?.path();
        capture(Command::new("dpkg-deb").arg("-x").arg(package).arg(folder.join("root")))?;
    }
    Ok(())
}
