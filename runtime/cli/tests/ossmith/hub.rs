//! `ossmith pull` against a stand-in for the hub on this machine: what is fetched, what is taken up again, what is refused.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

/// SHA-256 of the weights below.
const WEIGHTS_SHA256: &str = "136f334d647619879743ff33fde1ac6547f40e314692441f2a125e087cad47c9";
/// Git's hash of `{}`.
const CONFIG_GIT: &str = "9e26dfeeb6e641a33dae4961196235bdb965b21b";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the stand-in misbehaves.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    /// Status for everything.
    status: Option<u16>,
    /// How many transfers of weights break off after half of what was requested.
    broken: usize,
    /// The file of this name arrives changed.
    damaged: Option<&'static str>,
    /// Ranges are not known.
    no_ranges: bool,
    /// How many requests for weights are answered with 429, and a second to wait.
    busy: usize,
    /// Weights are at the same address under another port.
    other_port: bool,
    /// Transfers of weights stop after their first bytes.
    stalls: bool,
}

struct Hub {
    endpoint: String,
    cache: TempDir,
    /// Requested paths, with their ranges and tokens.
    requested: Arc<Mutex<Vec<String>>>,
}

fn weights() -> Vec<u8> {
    (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

impl Hub {
    fn start(faults: Faults) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requested = Arc::new(Mutex::new(Vec::new()));
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let elsewhere = format!("http://{}", other.local_addr().unwrap());
        for listener in [listener, other] {
            let (log, elsewhere) = (requested.clone(), elsewhere.clone());
            std::thread::spawn(move || {
                let mut faults = faults;
                for socket in listener.incoming() {
                    answer(socket.unwrap(), &mut faults, &elsewhere, &log);
                }
            });
        }
        Hub { endpoint, cache: tempfile::tempdir().unwrap(), requested }
    }

    fn command(&self, name: &str) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ossmith"));
        command
            .args(["pull", name])
            .env("HF_ENDPOINT", &self.endpoint)
            .env("HF_HOME", self.cache.path())
            .env("HF_TOKEN", "secret")
            .env_remove("HF_HUB_CACHE")
            .env_remove("HF_HUB_OFFLINE")
            .env("NO_PROXY", "127.0.0.1");
        command
    }

    fn pull(&self, name: &str) -> (bool, String, String) {
        let output = self.command(name).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }

    fn requested(&self, part: &str) -> Vec<String> {
        self.requested.lock().unwrap().iter().filter(|line| line.contains(part)).cloned().collect()
    }
}

fn answer(mut socket: TcpStream, faults: &mut Faults, elsewhere: &str, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(socket.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        let line = head.iter().find(|line| line.to_ascii_lowercase().starts_with(name));
        line.map(|line| line.split_once(':').unwrap().1.trim().to_owned()).unwrap_or_default()
    };
    let (range, token) = (header("range"), header("authorization"));
    log.lock().unwrap().push(format!("{path} [{range}] [{token}]"));
    if let Some(status) = faults.status {
        write!(socket, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        return;
    }
    if path.starts_with("/api/models/owner/small/revision/") {
        return send(&mut socket, 200, listing().to_string().as_bytes(), None);
    }
    // Large files are elsewhere, as they are on the real hub.
    if path.ends_with("/model.safetensors") && path.contains("/resolve/") {
        if faults.busy > 0 {
            faults.busy -= 1;
            write!(socket, "HTTP/1.1 429 No\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            return;
        }
        let host = if faults.other_port { elsewhere } else { "" };
        write!(socket, "HTTP/1.1 302 Found\r\nLocation: {host}/elsewhere/weights\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        return;
    }
    let mut content = match path.as_str() {
        "/elsewhere/weights" => weights(),
        other if other.ends_with("config.json") => b"{}".to_vec(),
        other => panic!("nobody should ask for {other}"),
    };
    if faults.damaged.is_some_and(|name| path.ends_with(name)) {
        content[1] ^= 1;
    }
    let bounds = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let bounds = bounds.filter(|_| !faults.no_ranges);
    let (status, part) = match bounds {
        Some((from, to)) => {
            let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
            (206, content[from..content.len().min(to + 1)].to_vec())
        }
        None => (200, content),
    };
    if path == "/elsewhere/weights" && faults.stalls {
        send(&mut socket, status, &part, Some(1000));
        std::thread::sleep(std::time::Duration::from_secs(60));
        return;
    }
    let breaks = path == "/elsewhere/weights" && faults.broken > 0;
    faults.broken -= usize::from(breaks);
    send(&mut socket, status, &part, breaks.then_some(part.len() / 2));
}

/// Sends a body, or only its first bytes.
fn send(socket: &mut TcpStream, status: u16, body: &[u8], only: Option<usize>) {
    let length = body.len();
    write!(socket, "HTTP/1.1 {status} OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
        .unwrap();
    socket.write_all(&body[..only.unwrap_or(length)]).unwrap();
}

fn listing() -> Value {
    json!({"sha": COMMIT, "siblings": [
        {"rfilename": "config.json", "size": 2, "blobId": CONFIG_GIT},
        {"rfilename": "generation_config.json", "size": 2, "blobId": CONFIG_GIT},
        {"rfilename": "model.safetensors", "size": 300_000, "blobId": "ab", "lfs": {"sha256": WEIGHTS_SHA256, "size": 300_000}},
        {"rfilename": "original/model.safetensors", "size": 9, "blobId": "aa"},
        {"rfilename": "metal/model.bin", "size": 9, "blobId": "bb"},
        {"rfilename": "README.md", "size": 9, "blobId": "cc"},
    ]})
}

#[test]
fn a_model_is_fetched_once_and_whole() {
    for faults in [
        Faults::default(),
        Faults { broken: 2, ..Faults::default() },
        Faults { no_ranges: true, ..Faults::default() },
    ] {
        let hub = Hub::start(faults);
        let (good, folder, stderr) = hub.pull("owner/small");
        assert!(good, "{faults:?}: {stderr}");
        let folder = std::path::PathBuf::from(folder);
        assert!(
            folder.ends_with(format!("hub/models--owner--small/snapshots/{COMMIT}")),
            "{}",
            folder.display()
        );
        assert_eq!(
            std::fs::read(folder.join("model.safetensors")).unwrap(),
            weights(),
            "{faults:?}"
        );
        assert_eq!(std::fs::read(folder.join("config.json")).unwrap(), b"{}");
        assert!(hub.requested("/api/").iter().all(|line| line.contains("Bearer secret")));
        if faults.broken > 0 {
            let again = hub.requested("/elsewhere/weights");
            assert!(
                again.len() == 3 && again[1].contains("bytes=150000-"),
                "it goes on where it stopped: {again:?}"
            );
        }
        let before = hub.requested("").len();
        assert_eq!(hub.pull("owner/small").1, folder.display().to_string());
        assert_eq!(hub.requested("").len(), before, "nothing is requested again");
    }
}

#[test]
fn a_revision_has_a_reference_of_its_own_and_a_commit_none() {
    let hub = Hub::start(Faults::default());
    let references = hub.cache.path().join("hub/models--owner--small/refs");
    let (good, folder, stderr) = hub.pull("owner/small@refs/pr/7");
    assert!(good && folder.ends_with(COMMIT), "{folder} {stderr}");
    assert!(hub.requested("/api/")[0].contains("/revision/refs%2Fpr%2F7?"));
    assert_eq!(std::fs::read_to_string(references.join("refs/pr/7")).unwrap(), COMMIT);
    assert!(!references.join("main").exists());
    // The commit is there now, and needs no reference; its files are shared.
    let before = hub.requested("").len();
    assert_eq!(hub.pull(&format!("owner/small@{COMMIT}")).1, folder);
    assert_eq!(hub.requested("").len(), before, "nothing is requested again");
    // Another name for the same commit fetches the list alone.
    let files = hub.requested("/resolve/").len();
    assert_eq!(hub.pull("owner/small@v1.0").1, folder);
    assert_eq!(hub.requested("/resolve/").len(), files);
    assert_eq!(std::fs::read_to_string(references.join("v1.0")).unwrap(), COMMIT);
}

#[test]
fn a_flipped_byte_of_a_cached_file_is_found_when_it_is_used() {
    let hub = Hub::start(Faults::default());
    let (good, folder, stderr) = hub.pull("owner/small");
    assert!(good, "{stderr}");
    let blob = std::path::Path::new(&folder).join("model.safetensors").canonicalize().unwrap();
    let mut content = weights();
    content[777] ^= 1;
    std::fs::write(&blob, &content).unwrap();
    // Changed for certain, however coarse the file system's clock is.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    std::fs::File::options().write(true).open(&blob).unwrap().set_modified(later).unwrap();
    let (good, _, stderr) = hub.pull("owner/small");
    assert!(!good && stderr.contains("SHA-256") && stderr.contains("remove that file"), "{stderr}");
    std::fs::remove_file(&blob).unwrap();
    assert_eq!(hub.pull("owner/small").1, folder);
    assert_eq!(std::fs::read(&blob).unwrap(), weights());
    // What another tool wrote is verified once, and right.
    std::fs::remove_dir_all(hub.cache.path().join("hub/models--owner--small/.ossmith-verified"))
        .unwrap();
    assert_eq!(hub.pull("owner/small").1, folder);
}

#[test]
fn the_token_stays_with_the_hub() {
    for (other_port, token) in [(false, "[Bearer secret]"), (true, "[]")] {
        let hub = Hub::start(Faults { other_port, ..Faults::default() });
        let (good, _, stderr) = hub.pull("owner/small");
        assert!(good, "{stderr}");
        let seen = hub.requested("/elsewhere/weights");
        assert!(!seen.is_empty() && seen.iter().all(|line| line.ends_with(token)), "{seen:?}");
    }
}

#[test]
fn a_busy_hub_gets_the_time_it_wants() {
    let hub = Hub::start(Faults { busy: 2, ..Faults::default() });
    let begin = std::time::Instant::now();
    let (good, _, stderr) = hub.pull("owner/small");
    assert!(good, "{stderr}");
    assert!(begin.elapsed().as_millis() >= 2000, "twice a second: {:?}", begin.elapsed());
    let hub = Hub::start(Faults { busy: 99, ..Faults::default() });
    let (good, _, stderr) = hub.pull("owner/small");
    assert!(!good && stderr.contains("status 429"), "{stderr}");
}

#[test]
fn an_interrupt_ends_a_stalled_download_at_once() {
    let hub = Hub::start(Faults { stalls: true, ..Faults::default() });
    let mut command = hub.command("owner/small");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let part = hub
        .cache
        .path()
        .join(format!("hub/models--owner--small/blobs/{WEIGHTS_SHA256}.incomplete"));
    while !part.metadata().is_ok_and(|part| part.len() == 1000) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it stalled");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("what was downloaded is kept"), "{stderr}");
}

#[test]
fn what_goes_wrong_is_said() {
    for (faults, name, want) in [
        (
            Faults { status: Some(404), ..Faults::default() },
            "owner/small",
            &["owner/small", "404", "check the name"][..],
        ),
        (Faults { status: Some(401), ..Faults::default() }, "owner/small", &["401", "HF_TOKEN"]),
        (Faults { status: Some(416), ..Faults::default() }, "owner/small", &["status 416"]),
        (
            Faults { damaged: Some("/elsewhere/weights"), ..Faults::default() },
            "owner/small",
            &["SHA-256", WEIGHTS_SHA256, "run it again"],
        ),
        (
            Faults { damaged: Some("/config.json"), ..Faults::default() },
            "owner/small",
            &["git hash", CONFIG_GIT, "run it again"],
        ),
        (Faults::default(), "not a name", &["not a model of the hub"]),
    ] {
        let hub = Hub::start(faults);
        let (good, stdout, stderr) = hub.pull(name);
        assert!(!good && stdout.is_empty(), "{faults:?}");
        for want in want {
            assert!(stderr.contains(want), "{want} is not in {stderr}");
        }
        assert!(!hub.cache.path().join("hub/models--owner--small/refs/main").exists());
    }
    let offline = Hub::start(Faults::default());
    let mut command = Command::new(env!("CARGO_BIN_EXE_ossmith"));
    command.args(["pull", "owner/small"]).env("HF_ENDPOINT", &offline.endpoint);
    command
        .env("HF_HOME", offline.cache.path())
        .env("HF_HUB_OFFLINE", "1")
        .env_remove("HF_HUB_CACHE");
    let output = command.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("HF_HUB_OFFLINE"));
    assert!(offline.requested("").is_empty());
}
