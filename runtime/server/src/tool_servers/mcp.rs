//! A session with a tool server, by `rmcp`: over streamable HTTP, or with a program of its own that ends with the session.

use std::process::Stdio;

use rmcp::ServiceExt;
use rmcp::model::{CallToolRequestParams, ContentBlock};
use rmcp::service::{RoleClient, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde_json::{Map, Value};
use tokio::process::{Child, Command};

use super::{ToolInfo, ToolLimits, ToolOutcome, ToolServerAddress};

/// Bytes of one message of a server. What the model reads of a result is bounded further.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Secrets of this server that no tool needs.
const SECRETS: [&str; 6] = [
    "OSSMITH_API_KEY",
    "OSSMITH_OPERATOR_KEY",
    "OSSMITH_SEAL_KEY",
    "OSSMITH_STORE",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
];

/// A session. Dropping it ends it, and its program.
pub(super) struct Session {
    service: RunningService<RoleClient, ()>,
    _program: Option<Child>,
}

impl Session {
    pub(super) async fn open(address: &ToolServerAddress) -> Result<Session, String> {
        match address {
            ToolServerAddress::Http(url) => over_http(url).await,
            ToolServerAddress::Command(command) => over_stdio(command).await,
        }
    }

    pub(super) async fn tools(&self) -> Result<Vec<ToolInfo>, String> {
        let tools = self.service.peer().list_all_tools().await.map_err(|why| why.to_string())?;
        let info = |tool: rmcp::model::Tool| ToolInfo {
            name: tool.name.into_owned(),
            description: tool.description.map(std::borrow::Cow::into_owned).unwrap_or_default(),
            schema: Value::Object((*tool.input_schema).clone()),
            annotations: serde_json::to_value(&tool.annotations).unwrap_or_default(),
        };
        Ok(tools.into_iter().map(info).collect())
    }

    /// Calls a tool. An error is the server's or the connection's; a tool that fails has an outcome. The caller bounds the time: a
    /// call that is given up is cancelled.
    pub(super) async fn call(
        &self,
        tool: &str,
        arguments: Map<String, Value>,
        limits: ToolLimits,
    ) -> Result<ToolOutcome, String> {
        let mut params = CallToolRequestParams::new(tool.to_owned());
        params.arguments = Some(arguments);
        let result = self.service.peer().call_tool(params).await.map_err(|why| why.to_string())?;
        let mut texts = Vec::new();
        let mut bytes = 0;
        for block in result.content {
            let text = match block {
                ContentBlock::Text(text) => text.text,
                ContentBlock::Resource(resource) => {
                    serde_json::to_string(&resource.resource).unwrap_or_default()
                }
                ContentBlock::ResourceLink(link) => format!("[a resource: {}]", link.uri),
                ContentBlock::Image(_) => {
                    "[an image was left out: this model reads text]".to_owned()
                }
                _ => "[a part that is no text was left out: this model reads text]".to_owned(),
            };
            bytes += text.len();
            texts.push(text);
            if bytes > limits.result_bytes {
                break;
            }
        }
        if let (true, Some(value)) = (texts.is_empty(), result.structured_content) {
            texts.push(value.to_string());
        }
        Ok(ToolOutcome { text: texts.join("\n"), failed: result.is_error == Some(true) })
    }
}

async fn over_http(url: &str) -> Result<Session, String> {
    // The operator allowed this address and no other one.
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|why| why.to_string())?;
    let mut config = StreamableHttpClientTransportConfig::with_uri(url);
    config.max_sse_event_size = MAX_MESSAGE_BYTES;
    config.max_json_response_size = MAX_MESSAGE_BYTES;
    let transport = StreamableHttpClientTransport::with_client(client, config);
    let service = ().serve(transport).await.map_err(|why| why.to_string())?;
    Ok(Session { service, _program: None })
}

async fn over_stdio(command: &str) -> Result<Session, String> {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(format!("exec {command}"));
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    SECRETS.iter().for_each(|secret| {
        shell.env_remove(secret);
    });
    let mut program = shell.spawn().map_err(|why| format!("it cannot be started: {why}"))?;
    let (Some(input), Some(output)) = (program.stdin.take(), program.stdout.take()) else {
        return Err("it has no standard input or output".to_owned());
    };
    let transport = AsyncRwTransport::new(output, input).with_max_line_length(MAX_MESSAGE_BYTES);
    let service = ().serve(transport).await.map_err(|why| why.to_string())?;
    Ok(Session { service, _program: Some(program) })
}
