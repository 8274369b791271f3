//! HTTP to a node: bounded bodies, bounded time, and errors that name the URL and the cure.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use tokio::time::{Instant, timeout_at};

use super::ChainError;

/// Most bytes read of an answer that only says why there is no other.
const REASON_LIMIT_BYTES: usize = 4096;

/// Most bytes that room is made for before they are there.
const ROOM_BYTES: usize = 16 << 20;

/// A node drops a connection that was idle for 30 s (its `-rpcservertimeout`); leave it before that.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// How slowly an answer may come: what has come lets the rest of it take as much longer as it takes at this rate. So a
/// large block may take its time on a slow line, and a node that drips a byte now and then gains nothing by it.
const SLOWEST_BYTES_PER_SECOND: u32 = 64 << 10;

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
    /// How long the server asks to be left alone, if it says so in seconds.
    pub(super) retry_after: Option<Duration>,
}

impl Reply {
    /// The body of a refusal as one printable line of moderate length; empty where there is none.
    pub(super) fn reason(&self) -> String {
        one_line(&String::from_utf8_lossy(&self.body))
    }

    /// Whether the node has too much to do at once, which fewer requests at a time would mend: its work queue is full,
    /// or something in front of it counts requests.
    pub(super) fn is_overload(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
            || self.status == StatusCode::SERVICE_UNAVAILABLE
                && self.reason().contains("queue depth exceeded")
    }

    /// Whether the status alone says that the same request may succeed later.
    pub(super) fn is_passing(&self) -> bool {
        self.status.is_server_error()
            || matches!(
                self.status,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
            )
    }
}

/// Text from outside as one printable line of at most 200 characters.
pub(super) fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(200).collect()
}

/// What sends requests to one node.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    timeout: Duration,
}

impl Http {
    /// Requests fail once the node has been silent for `timeout`, or slower than [`SLOWEST_BYTES_PER_SECOND`] after it.
    ///
    /// Proxy settings of the environment are ignored (a node is no web site, and credentials travel here), and no
    /// redirect is followed.
    pub(super) fn new(timeout: Duration) -> Result<Self, ChainError> {
        // An error means that a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .no_proxy()
            .no_gzip()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(timeout)
            .read_timeout(timeout)
            .http1_only()
            .pool_idle_timeout(POOL_IDLE)
            .user_agent(concat!("spindex/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| ChainError::Setup(format!("cannot set up HTTP: {}", root_cause(&e))))?;
        Ok(Self { client, timeout })
    }

    pub(super) fn get(&self, url: &str) -> RequestBuilder {
        self.client.get(url)
    }

    pub(super) fn post(&self, url: &str) -> RequestBuilder {
        self.client.post(url)
    }

    /// Sends a request and reads at most `limit_bytes` of the answer, or a short reason where the status is no success.
    ///
    /// # Errors
    /// `Unreachable` where the node cannot be reached, falls silent, drips or breaks off; `Mismatch` for an answer above
    /// the limit; `Setup` for a certificate that is not trusted.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        url: &str,
        limit_bytes: usize,
    ) -> Result<Reply, ChainError> {
        let deadline = Instant::now() + self.timeout;
        let response = timeout_at(deadline, request.send());
        let response = response.await.map_err(|_| late(url))?;
        let response = response.map_err(|e| broken(url, &e))?;
        read(response, url, limit_bytes, deadline).await
    }
}

async fn read(
    mut response: Response,
    url: &str,
    limit_bytes: usize,
    mut deadline: Instant,
) -> Result<Reply, ChainError> {
    let status = response.status();
    let number = |name| {
        let value = response.headers().get(name)?;
        value.to_str().ok()?.parse::<u64>().ok()
    };
    let announced = number(CONTENT_LENGTH);
    let retry_after = number(RETRY_AFTER).map(Duration::from_secs);
    let (limit_bytes, cut) = match status.is_success() {
        true => (limit_bytes, false),
        false => (limit_bytes.min(REASON_LIMIT_BYTES), true),
    };
    let too_large = || {
        ChainError::Mismatch(format!(
            "{url} answers with more than {limit_bytes} bytes, which cannot be right; is this a Bitcoin Core node?"
        ))
    };

    let announced = announced.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if !cut && announced.is_some_and(|length| length > limit_bytes) {
        return Err(too_large());
    }
    let mut body = Vec::with_capacity(announced.unwrap_or(0).min(limit_bytes).min(ROOM_BYTES));
    loop {
        let next = timeout_at(deadline, response.chunk()).await;
        let next = next.map_err(|_| late(url))?.map_err(|e| broken(url, &e))?;
        let Some(chunk) = next else {
            break;
        };
        deadline += Duration::from_secs(1) * u32::try_from(chunk.len()).unwrap_or(u32::MAX)
            / SLOWEST_BYTES_PER_SECOND;
        let room = limit_bytes - body.len();
        match chunk.get(..room) {
            Some(fitting) if chunk.len() > room => {
                if !cut {
                    return Err(too_large());
                }
                body.extend_from_slice(fitting);
                break;
            }
            _ => body.extend_from_slice(&chunk),
        }
    }
    Ok(Reply {
        status,
        body,
        retry_after,
    })
}

/// Checks that a setting is the address of a node; `flag` names it in errors.
///
/// # Errors
/// [`ChainError::Setup`] for what is no HTTP URL, or contains credentials.
pub fn check_address(url: &str, flag: &str) -> Result<(), ChainError> {
    base_url(url, flag).map(drop)
}

/// A node's base URL without a slash at its end. `flag` names the setting in errors.
pub(super) fn base_url(url: &str, flag: &str) -> Result<String, ChainError> {
    let example = "give something like http://127.0.0.1:8332";
    let parsed = Url::parse(url)
        .map_err(|e| ChainError::Setup(format!("{flag} is no URL ({e}); {example}")))?;
    if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
        return Err(ChainError::Setup(format!(
            "{flag} is no HTTP URL; {example}"
        )));
    }
    // It would end up in logs.
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(ChainError::Setup(format!(
            "{flag} contains credentials; give them by --rpc-cookie, or --rpc-user and SPINDEX_RPC_PASSWORD"
        )));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(ChainError::Setup(format!(
            "{flag} has a query or fragment; {example}"
        )));
    }
    Ok(parsed.as_str().trim_end_matches('/').to_owned())
}

fn late(url: &str) -> ChainError {
    ChainError::Unreachable(format!(
        "no answer from {url} in time; is the node stopped or overloaded?"
    ))
}

fn broken(url: &str, error: &reqwest::Error) -> ChainError {
    let cause = root_cause(error);
    if let Some(cause) = refused_certificate(error) {
        return ChainError::Setup(format!(
            "the certificate at {url} is not trusted ({cause}); put the certificate of the authority that signed it into a file, and name that in SSL_CERT_FILE"
        ));
    }
    if error.is_timeout() {
        return late(url);
    }
    ChainError::Unreachable(if error.is_connect() {
        format!(
            "cannot connect to {url} ({cause}); start the node (bitcoind -server -rest), or correct --node-url or --rpc-url"
        )
    } else {
        format!("the connection broke while asking {url} ({cause}); was the node stopped?")
    })
}

/// What TLS has against the node's certificate, if that is what went wrong.
fn refused_certificate(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // An I/O error's own source is that of the error inside it.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let inner = inner.map(|inner| inner as &(dyn Error + 'static));
        if let Some(tls @ rustls::Error::InvalidCertificate(_)) =
            inner.unwrap_or(error).downcast_ref::<rustls::Error>()
        {
            return Some(one_line(&tls.to_string()));
        }
        cause = inner.or_else(|| error.source());
    }
    None
}

/// The innermost error: the outer ones repeat the URL and say little else.
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    one_line(&cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_url_drops_the_slash_and_keeps_a_path() {
        let url = |text| base_url(text, "--node-url");
        assert_eq!(
            url("http://127.0.0.1:8332/").unwrap(),
            "http://127.0.0.1:8332"
        );
        assert_eq!(
            url("https://node.example/core/").unwrap(),
            "https://node.example/core"
        );
    }

    #[test]
    fn base_url_refuses_what_is_no_node() {
        for (text, part) in [
            ("127.0.0.1:8332", "--node-url is no"),
            ("ftp://127.0.0.1", "no HTTP URL"),
            ("http://127.0.0.1:8332/?a=b", "query"),
            ("http://alice:s3cret@127.0.0.1:8332", "credentials"),
        ] {
            let error = base_url(text, "--node-url").unwrap_err();
            assert!(matches!(error, ChainError::Setup(_)), "{error}");
            assert!(error.to_string().contains(part), "{error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn foreign_text_becomes_one_short_line() {
        assert_eq!(one_line("a\r\n\tb \u{1b}[31mc"), "a b [31mc");
        assert_eq!(one_line(&"x".repeat(1000)).len(), 200);
    }
}
