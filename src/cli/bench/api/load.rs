//! A load generator: one thread, many connections, a request after the other on each.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// Longest head of an answer.
const HEAD_BYTES: usize = 16 << 10;

/// Longest body of an answer.
const BODY_BYTES: usize = 64 << 20;

/// What is to be asked.
pub(super) struct Load {
    pub(super) address: String,
    /// Asked for in turn.
    pub(super) paths: Vec<String>,
    pub(super) is_gzip: bool,
    pub(super) connections: usize,
    pub(super) seconds: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) requests_per_s: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    /// Of the first answer.
    pub(super) body_bytes: usize,
}

/// Host and port of a URL without a path.
pub(super) fn address_of(url: &str) -> Result<String> {
    let address = url.strip_prefix("http://").unwrap_or(url);
    let address = address.trim_end_matches('/');
    if address.is_empty() || address.contains('/') {
        bail!("--beside {url}: give it as http://host:port");
    }
    Ok(address.to_owned())
}

impl Load {
    /// Asks for as long as it is to, and counts the answers that are whole by then.
    ///
    /// # Errors
    /// No connection, another status than 200, or an answer that ends early.
    pub(super) fn run(&self) -> Result<Measured> {
        let requests: Rc<[Vec<u8>]> = self.paths.iter().map(|path| self.request(path)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        let latencies = Rc::new(RefCell::new(Vec::new()));
        let body_bytes = Rc::new(Cell::new(0));
        let next = Rc::new(Cell::new(0));
        let started = Instant::now();
        let end = started + Duration::from_secs(self.seconds);
        let local = LocalSet::new();
        let asked: Result<()> = local.block_on(&runtime, async {
            let mut tasks = Vec::new();
            for _ in 0..self.connections {
                let stream = TcpStream::connect(&self.address)
                    .await
                    .with_context(|| format!("cannot connect to {}", self.address))?;
                stream.set_nodelay(true)?;
                let (requests, next) = (requests.clone(), next.clone());
                let (latencies, body_bytes) = (latencies.clone(), body_bytes.clone());
                tasks.push(tokio::task::spawn_local(async move {
                    let mut connection = Connection {
                        stream,
                        buffer: Vec::new(),
                    };
                    while Instant::now() < end {
                        let turn = next.get();
                        next.set(turn + 1);
                        let Some(request) = requests.get(turn % requests.len()) else {
                            bail!("nothing to ask for");
                        };
                        let asked = Instant::now();
                        let bytes = connection.ask(request).await?;
                        let now = Instant::now();
                        if body_bytes.get() == 0 {
                            body_bytes.set(bytes);
                        }
                        if now <= end {
                            latencies.borrow_mut().push(now - asked);
                        }
                    }
                    Ok(())
                }));
            }
            for task in tasks {
                task.await.context("a connection's task ended early")??;
            }
            Ok(())
        });
        asked?;
        let mut latencies = latencies.borrow_mut();
        latencies.sort_unstable();
        let at = |share: f64| {
            let position = (latencies.len() as f64 * share) as usize;
            let latency = latencies.get(position.min(latencies.len().saturating_sub(1)));
            latency.map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
        };
        Ok(Measured {
            requests_per_s: latencies.len() as f64 / self.seconds as f64,
            p50_us: at(0.5),
            p99_us: at(0.99),
            body_bytes: body_bytes.get(),
        })
    }

    fn request(&self, path: &str) -> Vec<u8> {
        let accept = match self.is_gzip {
            true => "Accept-Encoding: gzip\r\n",
            false => "",
        };
        let address = &self.address;
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{accept}\r\n").into_bytes()
    }
}

struct Connection {
    stream: TcpStream,
    /// What has come and was not used yet.
    buffer: Vec<u8>,
}

impl Connection {
    /// Sends a request and takes its answer; the length of the body.
    async fn ask(&mut self, request: &[u8]) -> Result<usize> {
        self.stream.write_all(request).await?;
        let head = loop {
            let end = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
            if self.buffer.len() > HEAD_BYTES {
                bail!("the head of an answer does not end");
            }
            self.more().await?;
        };
        let text =
            String::from_utf8_lossy(self.buffer.get(..head).unwrap_or_default()).into_owned();
        let mut lines = text.lines();
        let status = lines.next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            bail!("answered \"{status}\"");
        }
        let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
        let field = |wanted: &str| {
            let found = fields
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.trim())
        };
        self.buffer.drain(..head);
        if field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return self.take_chunks().await;
        }
        let length = field("content-length").and_then(|value| value.parse::<usize>().ok());
        let length = length.context("an answer without a length")?;
        self.take(length).await?;
        Ok(length)
    }

    /// Takes a body in chunks (RFC 9112, 7.1) without trailers; its length.
    async fn take_chunks(&mut self) -> Result<usize> {
        let mut total = 0;
        loop {
            let line = loop {
                if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                    break end;
                }
                if self.buffer.len() > HEAD_BYTES {
                    bail!("a chunk without a length");
                }
                self.more().await?;
            };
            let digits = self.buffer.get(..line).unwrap_or_default();
            let digits = std::str::from_utf8(digits).unwrap_or_default();
            let length = usize::from_str_radix(digits, 16).context("a chunk without a length")?;
            self.take(line + 2).await?;
            self.take(length.saturating_add(2)).await?;
            total += length;
            if length == 0 {
                return Ok(total);
            }
        }
    }

    /// Takes so many bytes.
    async fn take(&mut self, length: usize) -> Result<()> {
        if length > BODY_BYTES {
            bail!("an answer of {length} bytes");
        }
        while self.buffer.len() < length {
            self.more().await?;
        }
        self.buffer.drain(..length);
        Ok(())
    }

    async fn more(&mut self) -> Result<()> {
        self.buffer.reserve(64 << 10);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }
}
