//! The JSON-RPC interface of a node on this machine, by its cookie.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

/// How long the node may be silent.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where a node listens, and the file with its credentials.
pub(crate) struct NodeRpc {
    pub(crate) port: u16,
    pub(crate) cookie: PathBuf,
}

/// What the node says against a call, or why there is no answer.
#[derive(Debug)]
pub(crate) struct RpcFailure(String);

impl fmt::Display for RpcFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl NodeRpc {
    /// The result of a call.
    pub(crate) fn call(&self, method: &str, params: &[Value]) -> Result<Value, RpcFailure> {
        let answer = self.ask(method, params);
        let mut answer = answer.map_err(|error| RpcFailure(error.to_string()))?;
        match &answer["error"] {
            Value::Null => Ok(answer["result"].take()),
            error => Err(RpcFailure(format!("{error}"))),
        }
    }

    fn ask(&self, method: &str, params: &[Value]) -> std::io::Result<Value> {
        let credentials = base64(&fs::read(&self.cookie)?);
        let body = json!({"id": 0, "method": method, "params": params}).to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = format!(
            "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: Basic {credentials}\r\n\
            Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|end| end == b"\r\n\r\n");
        let body = end.map_or(&[][..], |end| &answer[end + 4..]);
        Ok(serde_json::from_slice(body)?)
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| {
            bits << 8 | usize::from(chunk.get(at).copied().unwrap_or(0))
        });
        for at in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * at) & 63];
            text.push(if at > chunk.len() { '=' } else { digit.into() });
        }
    }
    text
}
