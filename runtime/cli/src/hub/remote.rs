//! The files of a repository on the hub, and which of them a model needs. `transfer` downloads one of them.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use ureq::Agent;

use super::Repository;
use crate::failure::fail;

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

/// How the hub names content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    /// Large files: SHA-256.
    Sha256,
    /// Small ones: git's SHA-1 of a blob.
    Git,
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
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            // A body is requested in parts, so this bounds a stall, not a download.
            .timeout_per_call(Some(Duration::from_secs(600)))
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .user_agent(concat!("ossmith/", env!("CARGO_PKG_VERSION")))
            .build();
        Hub { agent: config.into(), endpoint: endpoint.trim_end_matches('/').to_owned(), token }
    }

    pub(super) fn url(&self, repository: &Repository, rest: &str) -> String {
        format!("{}/{}/{rest}", self.endpoint, repository.0)
    }

    /// A request with the token.
    pub(super) fn get(&self, url: &str) -> ureq::RequestBuilder<ureq::typestate::WithoutBody> {
        let request = self.agent.get(url);
        match &self.token {
            Some(token) => request.header("Authorization", &format!("Bearer {token}")),
            None => request,
        }
    }

    pub(super) fn list(&self, repository: &Repository) -> anyhow::Result<Value> {
        let url = format!("{}/api/models/{}/revision/main?blobs=true", self.endpoint, repository.0);
        let mut response = self.get(&url).call().map_err(|why| unreachable(&url, &why))?;
        check_status(response.status().as_u16(), &repository.0)?;
        let text = response.body_mut().read_to_string().map_err(|why| unreachable(&url, &why))?;
        serde_json::from_str(&text).with_context(|| format!("{url} is not JSON"))
    }
}

/// What went wrong with a connection, and what to do.
pub(super) fn unreachable(url: &str, why: &ureq::Error) -> anyhow::Error {
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
            "check the name: it is OWNER/MODEL, such as openai/gpt-oss-20b",
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
