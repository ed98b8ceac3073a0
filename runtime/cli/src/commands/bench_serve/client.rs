//! One streamed request over a plain socket, each chunk timed. Only what a load generator needs of HTTP/1.1: a status, a
//! body with or without chunks.

use std::time::Instant;

use anyhow::Context;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::failure::fail;

/// The most bytes of one chunk: no event of a stream comes near.
const MAX_CHUNK_BYTES: usize = 64 << 20;
/// The most bytes of a line of the head.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// The server.
#[derive(Debug)]
pub(super) struct Target {
    address: String,
    prefix: String,
    key: Option<String>,
}

/// The result of one request; times in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Timed {
    pub(super) error: Option<String>,
    pub(super) input_tokens: usize,
    pub(super) output_tokens: usize,
    pub(super) first: f64,
    pub(super) whole: f64,
    /// Between chunks.
    pub(super) gaps: Vec<f64>,
}

impl Target {
    pub(super) fn new(base: &str, key: Option<String>) -> anyhow::Result<Target> {
        let Some(rest) = base.strip_prefix("http://") else {
            return Err(fail(
                format!("`{base}` does not begin with http://"),
                "load is put on plain HTTP only",
            ));
        };
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Ok(Target { address, prefix, key })
    }

    pub(super) async fn first_model(&self) -> anyhow::Result<String> {
        let (mut socket, _) = self.send("GET", "/v1/models", "").await?;
        let mut text = String::new();
        while let Some(part) = socket.part().await? {
            text += &part;
        }
        let models: Value =
            serde_json::from_str(&text).context("the list of models is not JSON")?;
        let id = models["data"][0]["id"].as_str();
        id.map(str::to_owned)
            .ok_or_else(|| fail(format!("the server names no model: {models}"), "give --model"))
    }

    /// Sends a request that streams and reads it to its end.
    pub(super) async fn stream(&self, path: &str, body: &str, input: usize) -> Timed {
        let mut timed = Timed { input_tokens: input, ..Timed::default() };
        if let Err(why) = self.timed(path, body, &mut timed).await {
            timed.error = Some(format!("{why:#}"));
        }
        timed
    }

    async fn timed(&self, path: &str, body: &str, timed: &mut Timed) -> anyhow::Result<()> {
        let start = Instant::now();
        let (mut socket, status) = self.send("POST", path, body).await?;
        let (mut rest, mut last, mut chunks, mut counted) = (String::new(), start, 0, None);
        while let Some(part) = socket.part().await? {
            rest += &part;
            if status != 200 {
                continue;
            }
            while let Some(end) = rest.find("\n\n") {
                let event: String = rest.drain(..end + 2).collect();
                let Some(data) = event.trim_end().strip_prefix("data: ") else { continue };
                if data == "[DONE]" {
                    continue;
                }
                let event: Value = serde_json::from_str(data).context("an event is not JSON")?;
                if let Some(why) = event["error"]["message"].as_str() {
                    anyhow::bail!("{why}");
                }
                counted = event["usage"]["completion_tokens"].as_u64().or(counted);
                let choice = &event["choices"][0];
                let role_only =
                    choice["delta"]["role"].is_string() && choice["delta"]["content"] == "";
                if choice.is_null() || role_only {
                    continue;
                }
                let now = Instant::now();
                let gap = (now - last).as_secs_f64();
                if chunks == 0 {
                    timed.first = gap
                } else {
                    timed.gaps.push(gap)
                }
                (last, chunks) = (now, chunks + 1);
            }
        }
        if status != 200 {
            anyhow::bail!("status {status}: {}", rest.trim());
        }
        timed.whole = (last - start).as_secs_f64();
        timed.output_tokens = counted.map_or(chunks, |count| count as usize);
        Ok(())
    }

    /// Sends a request and reads the head of the answer.
    async fn send(&self, method: &str, path: &str, body: &str) -> anyhow::Result<(Answer, u16)> {
        let socket = TcpStream::connect(&self.address)
            .await
            .with_context(|| format!("cannot connect to {}", self.address))?;
        let mut answer =
            Answer { socket: BufReader::new(socket), chunked: false, left: None, held: Vec::new() };
        let key = self
            .key
            .as_ref()
            .map_or(String::new(), |key| format!("Authorization: Bearer {key}\r\n"));
        let head = format!(
            "{method} {}{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n{key}Content-Length: {}\r\n\r\n",
            self.prefix,
            self.address,
            body.len()
        );
        answer.socket.get_mut().write_all((head + body).as_bytes()).await?;
        let status = answer.line().await?;
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.context("the answer is not HTTP")?;
        loop {
            let line = answer.line().await?.to_ascii_lowercase();
            if line.is_empty() {
                return Ok((answer, status));
            }
            answer.chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
            if let Some(length) = line.strip_prefix("content-length:") {
                answer.left = Some(length.trim().parse().context("a bad Content-Length")?);
            }
        }
    }
}

struct Answer {
    socket: BufReader<TcpStream>,
    chunked: bool,
    /// Bytes of the body still to come, where the head says.
    left: Option<usize>,
    /// Bytes of a character that is not complete yet.
    held: Vec<u8>,
}

impl Answer {
    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let count = (&mut self.socket).take(MAX_LINE_BYTES).read_line(&mut line).await?;
        anyhow::ensure!(count > 0, "the server closed the connection");
        anyhow::ensure!(
            line.ends_with('\n'),
            "a line of the answer's head is cut off or over {MAX_LINE_BYTES} bytes"
        );
        Ok(line.trim_end().to_owned())
    }

    /// The next piece of the body; none at its end.
    async fn part(&mut self) -> anyhow::Result<Option<String>> {
        let mut bytes = std::mem::take(&mut self.held);
        let before = bytes.len();
        if self.chunked {
            let head = self.line().await?;
            // Extensions may follow the size.
            let size = head.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).context("a bad chunk")?;
            anyhow::ensure!(size <= MAX_CHUNK_BYTES, "a chunk of {size} bytes is too large");
            let mut chunk = vec![0; size + 2];
            self.socket.read_exact(&mut chunk).await?;
            bytes.extend_from_slice(&chunk[..size]);
        } else if self.left != Some(0) {
            let read = self.socket.fill_buf().await?;
            let count = read.len();
            bytes.extend_from_slice(read);
            self.socket.consume(count);
            self.left = self.left.map(|left| left.saturating_sub(count));
        }
        if bytes.len() == before {
            return Ok(None);
        }
        // A character may be cut by the end of a piece.
        let whole = std::str::from_utf8(&bytes).map_or_else(|why| why.valid_up_to(), str::len);
        self.held = bytes.split_off(whole);
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// What a client makes of this answer to its question for models.
    fn asked(answer: String) -> anyhow::Result<String> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target =
            Target::new(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
        let server = std::thread::spawn(move || {
            let mut socket = listener.accept().unwrap().0;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                socket.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            // A client may have gone away.
            let _ = socket.write_all(answer.as_bytes());
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let model = runtime.block_on(target.first_model());
        server.join().unwrap();
        model
    }

    #[test]
    fn chunks_are_read_or_refused() {
        let models = r#"{"data": [{"id": "m"}]}"#;
        for (size, want) in [
            ("17", Ok("m")),
            ("17;name=value", Ok("m")),
            ("17 ; name", Ok("m")),
            ("4000001", Err("too large")),
            ("fffffffffffffff0", Err("too large")),
            ("ffffffffffffffff", Err("too large")),
            ("10000000000000000", Err("a bad chunk")),
            ("-1", Err("a bad chunk")),
        ] {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let found = asked(format!("{head}{size}\r\n{models}\r\n0\r\n\r\n"));
            match want {
                Ok(model) => assert_eq!(found.unwrap(), model, "{size}"),
                Err(why) => assert!(format!("{:#}", found.unwrap_err()).contains(why), "{size}"),
            }
        }
        let endless = format!("HTTP/1.1 200 {}", "x".repeat(1 << 17));
        assert!(format!("{:#}", asked(endless).unwrap_err()).contains("65536 bytes"));
    }
}
