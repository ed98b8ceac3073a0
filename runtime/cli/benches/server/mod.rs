//! `ossmith serve` with nano on the CPU, for benches that are its clients.

#![allow(dead_code, reason = "not every bench uses all of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: String,
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    /// Starts one with further arguments, and waits until it listens.
    pub(crate) fn start(arguments: &[&str]) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ossmith"))
            .args(["serve", "--backend", "cpu", "--port", "0", "--request-timeout", "120"])
            .args(arguments)
            .env_remove("OSSMITH_API_KEY")
            .env("OSSMITH_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        Server { child, address, _stdout: stdout }
    }

    /// Sends a body as the owner of a key.
    pub(crate) fn send(&self, path: &str, key: &str, body: &Value) -> BufReader<TcpStream> {
        let (body, mut socket) = (body.to_string(), TcpStream::connect(&self.address).unwrap());
        let head = format!(
            "Host: x\r\nConnection: close\r\nContent-Type: application/json\r\nAuthorization: Bearer {key}"
        );
        let length = body.len();
        write!(socket, "POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}")
            .unwrap();
        BufReader::new(socket)
    }

    /// Status and body of an answer, once all of it is there.
    pub(crate) fn answer(&self, path: &str, key: &str, body: &Value) -> (String, String) {
        let mut text = String::new();
        self.send(path, key, body).read_to_string(&mut text).unwrap();
        let status = text.split(' ').nth(1).unwrap_or("none").to_owned();
        (status, text.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned())
    }

    pub(crate) fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
