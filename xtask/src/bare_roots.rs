//! The released programs in root folders that have nothing but a system's smallest installation: Debian, by its own debootstrap, and
//! Alpine, whose archive of a root holds musl and BusyBox and no glibc. What is released is started there by `chroot`, answers a
//! question, serves, enforces a schema, and ends on SIGTERM. Needs root.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::debian;
use crate::release::{Built, GLIBC, Linked, build_program};
use crate::shell::{Result, at, capture, run, target};

/// A Debian that is older than what the programs are built on.
const DEBIAN: &str = "bullseye";
/// Where it is, and where Debian moves it when its support has ended.
const MIRRORS: [&str; 2] = ["http://deb.debian.org/debian", "http://archive.debian.org/debian"];
/// Alpine's archive of a root, and its SHA-256.
const ALPINE: &str = "https://dl-cdn.alpinelinux.org/alpine/v3.20/releases/x86_64/alpine-minirootfs-3.20.3-x86_64.tar.gz";
const ALPINE_SHA256: &str = "d4e6fd67dcf75e40c451560ac7265166c2b72a0f38ddc9aae756a7de3d1efa0c";
const HELP: &str =
    "cargo xtask bare-roots [--program FILE] [--static-program FILE] [--alpine ARCHIVE]";
/// Where the program is in a root.
const PLACE: &str = "usr/local/bin/ossmith";

/// Makes the roots in `target/roots/`, unless they are there, and uses the programs in them.
///
/// # Errors
/// What cannot be fetched or built, or what a program did not do.
pub(crate) fn check(words: &[&str]) -> Result<()> {
    let (mut program, mut static_program, mut archive) = (None, None, None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--program" => program = words.next().map(PathBuf::from),
            "--static-program" => static_program = words.next().map(PathBuf::from),
            "--alpine" => archive = words.next().map(PathBuf::from),
            other => return Err(format!("`{other}` is not known here: {HELP}")),
        }
    }
    let program = program.map_or_else(|| build_program(Linked::Glibc, Built::Whole), Ok)?;
    let static_program =
        static_program.map_or_else(|| build_program(Linked::Static, Built::Whole), Ok)?;
    println!("{} needs glibc {}", program.display(), needed_glibc(&program)?);
    let (debian, alpine) = (debian_root()?, alpine_root(archive)?);
    use_in(&debian, &program, "Debian 11, linked with glibc")?;
    use_in(&debian, &static_program, "Debian 11, linked statically")?;
    use_in(&alpine, &static_program, "Alpine 3.20, linked statically")
}

/// The newest version of glibc that a program names; no later than what it was linked for.
fn needed_glibc(program: &Path) -> Result<String> {
    let symbols = capture(Command::new("objdump").arg("-T").arg(program))?;
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let numbers: Option<Vec<u32>> =
            rest[..end].split('.').map(|part| part.parse().ok()).collect();
        numbers
    });
    let newest = versions.max().ok_or("the program names no version of glibc")?;
    let text = newest.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
    let limit: Vec<u32> = GLIBC.split('.').filter_map(|part| part.parse().ok()).collect();
    if newest > limit {
        return Err(format!("{} needs glibc {text}, later than {GLIBC}", program.display()));
    }
    Ok(text)
}

/// The smallest Debian that debootstrap makes.
fn debian_root() -> Result<PathBuf> {
    let (folder, done) = (target("roots/debian"), target("roots/debian.done"));
    if done.exists() {
        return Ok(folder);
    }
    let tools =
        debian::unpack(&["debootstrap", "debian-archive-keyring"], &target("roots/debootstrap"))?;
    let is_there = |mirror: &&str| {
        let release = format!("{mirror}/dists/{DEBIAN}/Release");
        capture(Command::new("curl").args(["-fsSIL", "--max-time", "60", &release])).is_ok()
    };
    let mirror = MIRRORS.into_iter().find(is_there);
    let mirror = mirror.ok_or_else(|| {
        format!("neither of {} has {DEBIAN} (is there a network?)", MIRRORS.join(", "))
    })?;
    let mut make = Command::new(tools.join("usr/sbin/debootstrap"));
    make.env("DEBOOTSTRAP_DIR", tools.join("usr/share/debootstrap"));
    // Without a keyring it would take packages of anybody's.
    make.arg("--keyring").arg(tools.join("usr/share/keyrings/debian-archive-keyring.gpg"));
    make.args(["--variant=minbase", DEBIAN]).arg(&folder).arg(mirror);
    run(&mut make)?;
    at(&done, fs::write(&done, DEBIAN))?;
    Ok(folder)
}

/// Alpine's root, from a file or from Alpine.
fn alpine_root(given: Option<PathBuf>) -> Result<PathBuf> {
    let folder = target("roots/alpine");
    if folder.join("etc/alpine-release").exists() {
        return Ok(folder);
    }
    at(&folder, fs::create_dir_all(&folder))?;
    let archive = target("roots/alpine.tar.gz");
    match given {
        Some(file) => at(&file, fs::copy(&file, &archive)).map(drop)?,
        None => run(Command::new("curl").args(["-fsSL", ALPINE, "-o"]).arg(&archive))?,
    }
    let sum = capture(Command::new("sha256sum").arg(&archive))?;
    if !sum.starts_with(ALPINE_SHA256) {
        return Err(format!("{} is not {ALPINE}: its SHA-256 is {sum}", archive.display()));
    }
    run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&folder))?;
    Ok(folder)
}

/// A command in a root of its own, with the /proc and /dev that every system has, which nothing outside sees.
fn within(root: &Path, words: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c"]);
    let root = root.display();
    command.arg(format!(
        "mount -t proc proc '{root}/proc' && mount --rbind /dev '{root}/dev' && exec chroot '{root}' /usr/bin/env -i HOME=/root PATH=/usr/local/bin:/usr/bin:/bin {words}"
    ));
    command
}

fn use_in(root: &Path, program: &Path, what: &str) -> Result<()> {
    let place = root.join(PLACE);
    at(&place, fs::create_dir_all(place.parent().unwrap_or(root)))?;
    at(program, fs::copy(program, &place))?;
    let version = capture(&mut within(root, "ossmith --version"))?;
    let question = "ossmith generate --backend cpu --temperature 0 'What is 17 + 25?'";
    let answer = capture(&mut within(root, question))?;
    expect(answer.contains("42"), "an answer", &answer)?;

    let server = "ossmith serve --backend cpu --port 0 --host 127.0.0.1";
    let mut child = within(root, server)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|why| format!("cannot start unshare: {why}"))?;
    let used = use_server(&mut child);
    // SIGTERM goes to the server itself, which is the only child of `unshare`.
    let ended = end(&mut child);
    used?;
    ended?;
    println!("== {what}: {}, answers, serves, enforces a schema, ends", version.trim());
    Ok(())
}

fn use_server(child: &mut Child) -> Result<()> {
    let output = child.stdout.take().ok_or("a server without its output")?;
    let mut lines = BufReader::new(output).lines().map_while(|line| line.ok());
    let address = lines.find_map(|line| {
        let rest = line.split("http://").nth(1)?;
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
        Some(rest[..end.unwrap_or(rest.len())].to_owned())
    });
    let address = address.ok_or("the server ended before it had an address")?;
    // An output that nobody reads fills its pipe.
    std::thread::spawn(move || lines.for_each(drop));
    let health = request(&address, "GET /health HTTP/1.0\r\n\r\n")?;
    expect(health.starts_with("HTTP/1.0 200"), "health", &health)?;
    // A regular expression is tried out by the program's second process.
    let body = r#"{"model": "nano", "messages": [{"role": "user", "content": "What is 17 + 25?"}],
        "temperature": 0, "max_tokens": 200, "structured_outputs": {"regex": "[0-9]{2} marbles"}}"#;
    let answer = request(
        &address,
        &format!(
            "POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    )?;
    expect(answer.contains(" marbles"), "a text that follows a regular expression", &answer)
}

fn request(address: &str, text: &str) -> Result<String> {
    let talk = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        stream.write_all(text.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    talk().map_err(|why| format!("{address}: {why}"))
}

/// Sends SIGTERM to the server below `unshare`, and waits.
fn end(child: &mut Child) -> Result<()> {
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let server = fs::read_to_string(children).unwrap_or_default();
    let server = server.split_whitespace().next().ok_or("the server has ended by itself")?;
    run(Command::new("kill").args(["-TERM", server]))?;
    let status = child.wait().map_err(|why| format!("cannot wait for it: {why}"))?;
    expect(status.success(), "an end with 0", &status.to_string())
}

fn expect(fine: bool, what: &str, found: &str) -> Result<()> {
    if fine { Ok(()) } else { Err(format!("{what} was expected, and this came: {found}")) }
}
