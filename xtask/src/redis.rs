//! A Redis server for the tests of stores that several servers share: the machine's own, or Debian's packages unpacked into
//! `target/redis`, which needs no rights and changes nothing of the system.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::shell::{Result, at, capture, target};

/// The server, and the libraries that a small Debian does not have.
const PACKAGES: [&str; 9] = [
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
/// The server below the folder into which the packages are unpacked.
const PROGRAM: &str = "root/usr/bin/redis-server";

/// Provides `redis-server`, unless one is there.
pub(crate) fn fetch() -> Result<()> {
    let folder = target("redis");
    let version = |program: &Path| {
        let libraries =
            folder.join("root/usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
        capture(Command::new(program).arg("--version").env("LD_LIBRARY_PATH", libraries))
    };
    let ours = folder.join(PROGRAM);
    if let Ok(found) = version(Path::new("redis-server")).or_else(|_| version(&ours)) {
        println!("{}", found.trim());
        return Ok(());
    }
    println!(
        "fetching redis-server from Debian into {} (3 MB, and lists of packages)",
        folder.display()
    );
    if folder.exists() {
        at(&folder, fs::remove_dir_all(&folder))?;
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
            format!("cannot fetch redis-server from Debian (is there a network?): {why}")
        })
    };
    apt(&["update"])?;
    apt(&[&["download"], &PACKAGES[..]].concat())?;
    for package in at(&folder, fs::read_dir(folder.join("packages")))? {
        let package = at(&folder, package)?.path();
        capture(Command::new("dpkg-deb").arg("-x").arg(package).arg(folder.join("root")))?;
    }
    println!("{}", version(&ours)?.trim());
    Ok(())
}
