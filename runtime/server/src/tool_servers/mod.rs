//! Tool servers of the operator's choice, over MCP: what tools they have, and calls of them for the model. Which of them a request
//! may use is in `options::hosted_tools`; what an answer shows of a call is in `responses`. Nothing here runs a tool itself.
//!
//! A server lists its tools when this one starts, and again from time to time. Each answer has sessions of its own, which end with
//! it, so that no answer sees what another one did in a browser or an interpreter.

#[cfg(feature = "tool-servers")]
mod mcp;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::tenant::Tenant;
use crate::tenant_slots::{TenantSlot, TenantSlots};

#[cfg(not(feature = "tool-servers"))]
mod mcp {
    //! What stands in where the feature `tool-servers` is off.

    use serde_json::{Map, Value};

    use super::{ToolInfo, ToolLimits, ToolOutcome, ToolServerAddress};

    const MISSING: &str = "this program was built without the feature `tool-servers`";

    pub(super) struct Session;

    impl Session {
        pub(super) async fn open(_: &ToolServerAddress) -> Result<Session, String> {
            Err(MISSING.to_owned())
        }

        pub(super) async fn tools(&self) -> Result<Vec<ToolInfo>, String> {
            Err(MISSING.to_owned())
        }

        pub(super) async fn call(
            &self,
            _: &str,
            _: Map<String, Value>,
            _: ToolLimits,
        ) -> Result<ToolOutcome, String> {
            Err(MISSING.to_owned())
        }
    }
}

/// Time in which a server must answer that it is there and list its tools.
const LIST_TIME: Duration = Duration::from_secs(30);
/// Time after the start in which requests wait for servers that have not answered yet; one that hangs must not hold up answers
/// that need none of its tools.
const FIRST_WAIT: Duration = Duration::from_secs(3);
/// How often a server lists its tools, and how soon again where it did not answer.
const REFRESH: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);
/// Most tools of a server, and most bytes of the schema and the description of each: they become a prompt.
const MAX_TOOLS: usize = 128;
const MAX_TOOL_BYTES: usize = 64 << 10;

/// Answers that may have sessions at a time; others wait, within the time of their calls. Where there are tenants, one of them
/// has half of these at most.
const MAX_ANSWERS: usize = 32;

/// A server that the operator allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolServer {
    /// What requests call it by.
    pub label: String,
    /// Where it is.
    pub address: ToolServerAddress,
}

/// Where a tool server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolServerAddress {
    /// It speaks streamable HTTP at this URL.
    Http(String),
    /// It is a program that speaks over its standard input and output; the shell reads this line.
    Command(String),
}

/// What calls of tools may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolLimits {
    /// Time of one call.
    pub time: Duration,
    /// Bytes of a result that the model reads.
    pub result_bytes: usize,
    /// Calls of one answer.
    pub calls: usize,
}

impl Default for ToolLimits {
    /// 60 s, 64 KiB, 32 calls.
    fn default() -> ToolLimits {
        ToolLimits { time: Duration::from_secs(60), result_bytes: 64 << 10, calls: 32 }
    }
}

impl std::str::FromStr for ToolServer {
    type Err = String;

    /// Reads `[LABEL=]http://HOST:PORT/PATH` or `[LABEL=]stdio:COMMAND`. Without a label it is `tools`.
    fn from_str(text: &str) -> Result<ToolServer, String> {
        let is_label = |text: &str| {
            let fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            (1..=64).contains(&text.len()) && text.chars().all(fine)
        };
        let (label, address) = match text.split_once('=') {
            Some((label, address)) if is_label(label) => (label, address),
            _ => ("tools", text),
        };
        if ["functions", "browser", "python"].contains(&label) {
            return Err(format!("the label `{label}` has another meaning; choose another one"));
        }
        let address = if let Some(command) = address.strip_prefix("stdio:") {
            if command.trim().is_empty() {
                return Err("there is no command after `stdio:`".to_owned());
            }
            ToolServerAddress::Command(command.to_owned())
        } else if address.starts_with("http://") {
            ToolServerAddress::Http(address.to_owned())
        } else if address.starts_with("https://") {
            return Err("TLS is not supported here; put a proxy in front that speaks it".to_owned());
        } else {
            return Err(format!("`{address}` is neither http://HOST:PORT/PATH nor stdio:COMMAND"));
        };
        Ok(ToolServer { label: label.to_owned(), address })
    }
}

/// A tool as its server describes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ToolInfo {
    pub(crate) name: String,
    pub(crate) description: String,
    /// The JSON schema of its arguments.
    pub(crate) schema: Value,
    pub(crate) annotations: Value,
}

impl ToolInfo {
    /// As `mcp_list_tools` shows it.
    pub(crate) fn json(&self) -> Value {
        json!({
            "name": self.name, "description": self.description, "input_schema": self.schema,
            "annotations": self.annotations,
        })
    }
}

/// What one server has, or why that is not known.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    pub(crate) server: ToolServer,
    pub(crate) tools: Result<Arc<[ToolInfo]>, String>,
}

/// What all servers have.
pub(crate) type Catalog = Arc<[Listing]>;

/// What is known of all servers.
#[derive(Clone, Debug, Default)]
struct Known {
    catalog: Catalog,
    /// Each of them has answered, or had the time to.
    all: bool,
}

/// The servers.
pub(crate) struct ToolServers {
    limits: ToolLimits,
    known: watch::Receiver<Known>,
    /// When requests no longer wait for servers that have not answered.
    wait_until: Instant,
    /// One for each answer that has sessions.
    places: TenantSlots,
    /// Has them list their tools from time to time.
    asking: Option<tokio::task::AbortHandle>,
}

impl ToolServers {
    /// Begins to ask these servers for their tools, if there are any; needs a runtime then.
    pub(crate) fn new(
        servers: &[ToolServer],
        limits: ToolLimits,
        has_tenants: bool,
    ) -> ToolServers {
        let places = TenantSlots::new(MAX_ANSWERS, MAX_ANSWERS / if has_tenants { 2 } else { 1 });
        let wait_until = Instant::now() + FIRST_WAIT;
        if servers.is_empty() {
            let (_, known) = watch::channel(Known { all: true, ..Known::default() });
            return ToolServers { limits, known, wait_until, places, asking: None };
        }
        let silent = |server: &ToolServer| Listing {
            server: server.clone(),
            tools: Err("it has not answered yet".to_owned()),
        };
        let listings: Vec<Listing> = servers.iter().map(silent).collect();
        let (sender, known) =
            watch::channel(Known { catalog: listings.clone().into(), all: false });
        let asking = tokio::spawn(ask_again(listings, sender)).abort_handle();
        ToolServers { limits, known, wait_until, places, asking: Some(asking) }
    }

    /// What they have, as they last said. Soon after the start it waits for those that have not answered.
    pub(crate) async fn catalog(&self) -> Catalog {
        let mut known = self.known.clone();
        // What is known by then will do, whether it is all or not.
        let _ = tokio::time::timeout_at(self.wait_until, known.wait_for(|known| known.all)).await;
        Arc::clone(&known.borrow().catalog)
    }

    /// Sessions for one answer to a tenant.
    pub(crate) fn sessions(&self, tenant: Tenant) -> ToolSessions {
        let places = self.places.clone();
        ToolSessions { limits: self.limits, open: HashMap::new(), places, tenant, place: None }
    }
}

impl Drop for ToolServers {
    fn drop(&mut self) {
        if let Some(asking) = &self.asking {
            asking.abort();
        }
    }
}

async fn ask_again(mut listings: Vec<Listing>, known: watch::Sender<Known>) {
    loop {
        let mut asked = JoinSet::new();
        for (at, listing) in listings.iter().enumerate() {
            let server = listing.server.clone();
            asked.spawn(async move { (at, list(&server).await) });
        }
        while let Some(answer) = asked.join_next().await {
            // What panicked has said nothing new.
            let Ok((at, tools)) = answer else { continue };
            listings[at].tools = tools;
            known.send_modify(|known| known.catalog = listings.clone().into());
        }
        known.send_modify(|known| known.all = true);
        let all = listings.iter().all(|listing| listing.tools.is_ok());
        tokio::time::sleep(if all { REFRESH } else { RETRY }).await;
    }
}

async fn list(server: &ToolServer) -> Result<Arc<[ToolInfo]>, String> {
    let ask = async {
        let session = mcp::Session::open(&server.address).await?;
        session.tools().await
    };
    let tools = match tokio::time::timeout(LIST_TIME, ask).await {
        Ok(tools) => tools.and_then(within_limits).map(Into::into),
        Err(_) => Err(format!("it does not answer within {} s", LIST_TIME.as_secs())),
    };
    if let Err(why) = &tools {
        tracing::warn!(label = server.label, why, "a tool server does not list its tools");
    }
    tools
}

fn within_limits(tools: Vec<ToolInfo>) -> Result<Vec<ToolInfo>, String> {
    if tools.len() > MAX_TOOLS {
        return Err(format!("it has {} tools; at most {MAX_TOOLS} are taken", tools.len()));
    }
    let bytes = |tool: &ToolInfo| tool.schema.to_string().len() + tool.description.len();
    match tools.iter().find(|tool| bytes(tool) > MAX_TOOL_BYTES) {
        Some(tool) => Err(format!("its tool `{}` is over {MAX_TOOL_BYTES} bytes", tool.name)),
        None => Ok(tools),
    }
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToolOutcome {
    /// What the model reads.
    pub(crate) text: String,
    pub(crate) failed: bool,
}

impl ToolOutcome {
    pub(crate) fn failure(why: impl Into<String>) -> ToolOutcome {
        ToolOutcome { text: why.into(), failed: true }
    }
}

/// The sessions of one answer, opened as they are needed.
pub(crate) struct ToolSessions {
    limits: ToolLimits,
    open: HashMap<String, mcp::Session>,
    places: TenantSlots,
    tenant: Tenant,
    /// Held from the first call on.
    place: Option<TenantSlot>,
}

impl ToolSessions {
    /// Calls a tool. Whatever fails is the outcome: the model reads it and goes on.
    pub(crate) async fn call(
        &mut self,
        server: &ToolServer,
        tool: &str,
        arguments: Map<String, Value>,
    ) -> ToolOutcome {
        let limits = self.limits;
        let outcome = tokio::time::timeout(limits.time, async {
            if self.place.is_none() {
                let place = self.places.acquire(self.tenant).await;
                self.place = Some(place.map_err(|why| why.to_string())?);
            }
            let session = match self.open.entry(server.label.clone()) {
                std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert(mcp::Session::open(&server.address).await?)
                }
            };
            session.call(tool, arguments, limits).await
        });
        let seconds = limits.time.as_secs_f64();
        let late = |_| Err(format!("the tool did not answer within {seconds} s"));
        match outcome.await.unwrap_or_else(late) {
            Ok(ToolOutcome { text, failed }) => {
                ToolOutcome { text: shortened(text, limits.result_bytes), failed }
            }
            Err(why) => {
                tracing::warn!(label = server.label, tool, why, "a call of a tool failed");
                // A session that failed is not used again.
                self.open.remove(&server.label);
                ToolOutcome::failure(shortened(why, limits.result_bytes))
            }
        }
    }
}

/// The text, cut off with a note where it is too long.
fn shortened(mut text: String, most_bytes: usize) -> String {
    if text.len() <= most_bytes {
        return text;
    }
    let (all, end) = (text.len(), text.floor_char_boundary(most_bytes));
    text.truncate(end);
    text.push_str(&format!("\n[cut off: {end} of {all} bytes are shown]"));
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_url_or_a_command() {
        for (text, label, address) in [
            ("http://h:1/mcp", "tools", ToolServerAddress::Http("http://h:1/mcp".to_owned())),
            ("a-b=http://h/?x=y", "a-b", ToolServerAddress::Http("http://h/?x=y".to_owned())),
            ("stdio:run a=b", "tools", ToolServerAddress::Command("run a=b".to_owned())),
            ("py=stdio:run", "py", ToolServerAddress::Command("run".to_owned())),
        ] {
            let want = ToolServer { label: label.to_owned(), address };
            assert_eq!(text.parse(), Ok(want), "{text}");
        }
        for (text, want) in [
            ("https://h", "TLS"),
            ("stdio: ", "no command"),
            ("h:1", "neither"),
            ("python=http://h", "another meaning"),
        ] {
            let why = text.parse::<ToolServer>().unwrap_err();
            assert!(why.contains(want), "{text}: {why}");
        }
    }

    #[test]
    fn a_long_result_is_cut_between_characters() {
        assert_eq!(shortened("äb".to_owned(), 3), "äb");
        assert_eq!(shortened("bää".to_owned(), 4), "bä\n[cut off: 3 of 5 bytes are shown]");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_a_listing_with_the_reason() {
        let server: ToolServer = "gone=stdio:exit 3".parse().unwrap();
        let servers = ToolServers::new(std::slice::from_ref(&server), ToolLimits::default(), false);
        let catalog = servers.catalog().await;
        assert_eq!(catalog[0].server, server);
        assert!(catalog[0].tools.is_err());
        let outcome = servers.sessions(Tenant::ONLY).call(&server, "f", Map::new()).await;
        assert!(outcome.failed, "{outcome:?}");
    }

    #[tokio::test]
    async fn a_server_that_hangs_holds_up_no_request_for_long() {
        let servers = ["hangs=stdio:sleep 600", "gone=stdio:exit 3"];
        let servers: Vec<ToolServer> = servers.map(|text| text.parse().unwrap()).into();
        let servers = ToolServers::new(&servers, ToolLimits::default(), false);
        let is_silent = |catalog: &Catalog, at: usize| {
            let why = catalog[at].tools.as_ref().err();
            why.is_some_and(|why| why == "it has not answered yet")
        };
        // The wait is over although one of them has not answered, ...
        assert!(is_silent(&servers.catalog().await, 0));
        // ... and what the other says counts meanwhile.
        let mut known = servers.known.clone();
        let known = known.wait_for(|known| !is_silent(&known.catalog, 1)).await.unwrap();
        assert!(!known.all, "the server that hangs was waited for: {known:?}");
        assert!(is_silent(&known.catalog, 0));
    }
}
