//! The files of a repository on the hub, and which of them a model needs. `transfer` downloads one of them.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

use super::Repository;
use super::verify::Checksum;
use crate::failure::fail;
use crate::output::note;

/// How long the hub may send nothing before a try is given up.
const STALL: Duration = Duration::from_secs(30);
/// How many tries may bring nothing before a download fails.
pub(super) const TRIES: u32 = 4;
/// Most time that is waited where the hub names a longer one.
const MAX_PAUSE: Duration = Duration::from_secs(300);
const MAX_REDIRECTS: usize = 10;

/// A connection to the hub, with the user's token.
pub(super) struct Hub {
    pub(super) agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// Name of its content: its checksum.
    pub(super) blob: String,
    pub(super) checksum: Checksum,
}

impl Hub {
    pub(super) fn from_environment() -> Hub {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint =
            variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let token = variable("HF_TOKEN").or_else(|| {
            let file = super::home()?.join("token");
            std::fs::read_to_string(file).ok().map(|token| token.trim().to_owned())
        });
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Hub { agent: agent(STALL), endpoint, token }
    }

    pub(super) fn url(&self, repository: &Repository, rest: &str) -> String {
        format!("{}/{}/{rest}", self.endpoint, repository.name)
    }

    /// Fetches a file, or this range of it. The token goes to the hub's own address alone, whichever way a redirect leads.
    ///
    /// # Errors
    /// [`Busy`] where the hub asks to try again, an I/O error where it cannot be reached, and any other that no second try
    /// changes.
    pub(super) fn get(&self, url: &str, range: Option<&str>) -> anyhow::Result<Response<Body>> {
        let mut address: Uri = url.parse().with_context(|| format!("{url} is not an address"))?;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(&address);
            if let Some(token) = self.token.as_ref().filter(|_| self.is_own(&address)) {
                request = request.header("Authorization", &format!("Bearer {token}"));
            }
            if let Some(range) = range {
                request = request.header("Range", range);
            }
            let response = request.call().map_err(|why| {
                let context = unreachable(url, &why);
                anyhow::Error::from(std::io::Error::other(why)).context(context)
            })?;
            let status = response.status().as_u16();
            if status == 429 || status >= 500 {
                let after = response.headers().get("Retry-After");
                let seconds = after.and_then(|after| after.to_str().ok()?.trim().parse().ok());
                return Err(Busy { status, retry_after: seconds.map(Duration::from_secs) }.into());
            }
            if ![301, 302, 303, 307, 308].contains(&status) {
                return Ok(response);
            }
            let place = response.headers().get("Location").and_then(|place| place.to_str().ok());
            let next = place.and_then(|place| redirected(&address, place));
            address = next.with_context(|| {
                format!(
                    "{url} is redirected to {}, which is no address",
                    place.unwrap_or("nothing")
                )
            })?;
        }
        Err(fail(
            format!("{url} is redirected more than {MAX_REDIRECTS} times"),
            "check HF_ENDPOINT",
        ))
    }

    /// Whether an address is that of the hub: the same scheme, host and port.
    fn is_own(&self, address: &Uri) -> bool {
        self.endpoint.parse::<Uri>().is_ok_and(|own| origin(&own) == origin(address))
    }

    pub(super) fn list(&self, repository: &Repository) -> anyhow::Result<Value> {
        let revision = repository.revision.replace('/', "%2F");
        let (endpoint, name) = (&self.endpoint, &repository.name);
        let url = format!("{endpoint}/api/models/{name}/revision/{revision}?blobs=true");
        let mut tries = 0;
        let mut response = loop {
            tries += 1;
            match self.get(&url, None) {
                Err(why) if tries < TRIES && why.downcast_ref::<Busy>().is_some() => {
                    pause(tries, why.downcast_ref::<Busy>().and_then(|busy| busy.retry_after));
                }
                outcome => break outcome?,
            }
        };
        check_status(response.status().as_u16(), &repository.to_string())?;
        let text = response.body_mut().read_to_string().map_err(|why| unreachable(&url, &why))?;
        serde_json::from_str(&text).with_context(|| format!("{url} is not JSON"))
    }
}

/// How the hub is asked; each read ends after `stall` without a byte.
fn agent(stall: Duration) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(stall))
        .timeout_per_read(Some(stall))
        // A body is requested in parts, so this bounds what comes too slowly, not a download.
        .timeout_per_call(Some(Duration::from_secs(600)))
        // Redirects are followed by `Hub::get`: the token must not go with them to another server.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("ossmith/", env!("CARGO_PKG_VERSION")))
        .build();
    config.into()
}

fn stalled() -> String {
    format!("the hub sent nothing for {} s", STALL.as_secs())
}

/// What a read of a body failed with; of a stall, how long nothing came.
pub(super) fn read_failure(why: std::io::Error) -> std::io::Error {
    let source = why.get_ref().and_then(|source| source.downcast_ref::<ureq::Error>());
    match source {
        Some(ureq::Error::Timeout(ureq::Timeout::PerRead)) => {
            std::io::Error::new(std::io::ErrorKind::TimedOut, stalled())
        }
        _ => why,
    }
}

/// The hub has too much to do.
#[derive(Debug)]
pub(super) struct Busy {
    status: u16,
    /// After which time it wants to be asked again.
    pub(super) retry_after: Option<Duration>,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the hub answered status {}; try again later", self.status)
    }
}

impl std::error::Error for Busy {}

/// Waits before a try of this number: as long as the hub wants, else ever longer.
pub(super) fn pause(tries: u32, wanted: Option<Duration>) {
    let Some(time) = wanted else {
        return std::thread::sleep(Duration::from_millis(200 << (2 * tries)));
    };
    let time = time.min(MAX_PAUSE);
    note!("the hub is busy; trying again in {} s", time.as_secs());
    std::thread::sleep(time);
}

/// Scheme, host and port.
fn origin(address: &Uri) -> Option<(&str, &str, u16)> {
    let scheme = address.scheme_str()?;
    let port = if scheme == "https" { 443 } else { 80 };
    Some((scheme, address.host()?, address.port_u16().unwrap_or(port)))
}

/// The address that a redirect from another one leads to: a whole one, or a path on the same server. None leads from https
/// to http.
fn redirected(from: &Uri, place: &str) -> Option<Uri> {
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let to: Uri = match place.strip_prefix("//") {
        Some(_) => format!("{scheme}:{place}").parse().ok()?,
        None if place.starts_with('/') => format!("{scheme}://{authority}{place}").parse().ok()?,
        None => place.parse().ok()?,
    };
    let known = matches!((scheme, to.scheme_str()?), (_, "https") | ("http", "http"));
    known.then_some(to)
}

/// What went wrong with a connection, and what to do.
pub(super) fn unreachable(url: &str, why: &ureq::Error) -> anyhow::Error {
    let why = match why {
        ureq::Error::Timeout(ureq::Timeout::PerRead | ureq::Timeout::RecvResponse) => stalled(),
        _ => why.to_string(),
    };
    fail(
        format!("cannot fetch {url}: {why}"),
        "check the network and HF_ENDPOINT, and run it again: what was downloaded is kept; or give a checkpoint's folder with --model",
    )
}

/// Refuses statuses that a second try does not change.
pub(super) fn check_status(status: u16, what: &str) -> anyhow::Result<()> {
    match status {
        200 | 206 => Ok(()),
        401 | 403 => Err(fail(
            format!("the hub refuses access to {what} (status {status})"),
            "accept the model's conditions on its page if it has any, and set HF_TOKEN to a token of your account",
        )),
        404 => Err(fail(
            format!("the hub has no {what} (status 404)"),
            "check the name: it is OWNER/MODEL, such as openai/gpt-oss-20b, or OWNER/MODEL@REVISION",
        )),
        other => {
            Err(fail(format!("the hub answered status {other} for {what}"), "try again later"))
        }
    }
}

/// The files that a model needs to run: configuration and weights at the top. Copies for other programs are left out.
pub(super) fn needed(listing: &Value) -> Vec<RemoteFile> {
    let wanted = |name: &str| {
        let json = ["config.json", "generation_config.json", "model.safetensors.index.json"]
            .contains(&name);
        is_plain(name) && (json || name.ends_with(".safetensors"))
    };
    let file = |entry: &Value| {
        let name = entry["rfilename"].as_str().filter(|name| wanted(name))?.to_owned();
        let (blob, checksum) = match entry["lfs"]["sha256"].as_str() {
            Some(sum) => (sum.to_owned(), Checksum::Sha256),
            None => (entry["blobId"].as_str()?.to_owned(), Checksum::Git),
        };
        let bytes = entry["lfs"]["size"].as_u64().or(entry["size"].as_u64())?;
        is_plain(&blob).then_some(RemoteFile { name, bytes, blob, checksum })
    };
    listing["siblings"].as_array().into_iter().flatten().filter_map(file).collect()
}

/// Whether a name from the net can be a file's name here.
pub(super) fn is_plain(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(fine)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_redirect_leads_where_it_says_and_never_out_of_https() {
        let to = |from: &str, place: &str| {
            redirected(&from.parse().ok()?, place).map(|address| address.to_string())
        };
        for (from, place, want) in [
            ("https://hub.example/a/b", "/c?d=1", Some("https://hub.example/c?d=1")),
            ("http://127.0.0.1:8/a", "//other/x", Some("http://other/x")),
            ("https://hub.example/a", "https://cdn.example/x", Some("https://cdn.example/x")),
            ("http://hub.example/a", "https://cdn.example/x", Some("https://cdn.example/x")),
            ("https://hub.example/a", "http://cdn.example/x", None),
            ("https://hub.example/a", "file:///etc/passwd", None),
            ("https://hub.example/a", "x", None),
        ] {
            assert_eq!(to(from, place).as_deref(), want, "{from} {place}");
        }
        let own = |a: &str, b: &str| {
            let parse = |text: &str| text.parse::<Uri>().ok();
            let (a, b) = (parse(a), parse(b));
            a.as_ref().and_then(origin) == b.as_ref().and_then(origin)
        };
        assert!(own("https://hub.example", "https://hub.example:443/x"));
        assert!(!own("http://hub.example:1", "http://hub.example:2/x"));
        assert!(!own("https://hub.example", "http://hub.example/x"));
    }

    #[test]
    fn a_body_that_stops_ends_the_read_with_a_reason() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        // The connection stays open as long as the test runs.
        let peer = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a connection");
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour";
            socket.write_all(head.as_bytes()).expect("sent");
            socket
        });
        let response = agent(Duration::from_millis(200)).get(&url).call().expect("a head");
        let mut body = response.into_body().into_reader();
        let mut text = Vec::new();
        let why = read_failure(body.read_to_end(&mut text).expect_err("nothing more comes"));
        assert_eq!(why.to_string(), "the hub sent nothing for 30 s");
        assert_eq!(text, b"four");
        drop(peer.join().expect("a peer"));
    }

    #[test]
    fn only_needed_files_are_listed() {
        let names = [
            "config.json",
            "generation_config.json",
            "model-00000-of-00002.safetensors",
            "model.safetensors.index.json",
            "original/model.safetensors",
            "metal/model.bin",
            "tokenizer.json",
            "README.md",
            "../evil.safetensors",
        ];
        let entries: Vec<Value> = names
            .iter()
            .map(|name| json!({"rfilename": name, "size": 5, "blobId": "b10b"}))
            .collect();
        let files = needed(&json!({"siblings": entries}));
        let found: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(found, &names[..4]);
    }
}
