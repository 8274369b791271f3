//! HTTP to a node: bounded bodies, bounded time, and errors that name the URL and the cure.

use std::error::Error;
use std::time::Duration;

use reqwest::header::CONTENT_LENGTH;
use reqwest::{Client, RequestBuilder, StatusCode, Url};

use super::ChainError;

/// Most bytes read of an answer that only says why there is no other.
const REASON_LIMIT_BYTES: usize = 4096;

/// Most bytes that room is made for before they are there.
const ROOM_BYTES: usize = 16 << 20;

/// A node drops a connection that was idle for 30 s (its `-rpcservertimeout`); leave it before that.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// The body of a refusal as one printable line of moderate length; empty where there is none.
    pub(super) fn reason(&self) -> String {
        one_line(&String::from_utf8_lossy(&self.body))
    }
}

/// Text from outside as one printable line of at most 200 characters.
pub(super) fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(200).collect()
}

/// A client whose requests fail once the node has been silent for `timeout`.
///
/// It ignores proxy settings of the environment (a node is no web site, and credentials travel here) and follows no
/// redirects.
pub(super) fn client(timeout: Duration) -> Result<Client, ChainError> {
    // An error means that a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .no_gzip()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(timeout)
        .read_timeout(timeout)
        .pool_idle_timeout(POOL_IDLE)
        .user_agent(concat!("spindex/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| ChainError::Setup(format!("cannot set up HTTP: {}", root_cause(&e))))
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

/// Sends a request and reads at most `limit_bytes` of the answer, or a short reason where the status is no success.
///
/// # Errors
/// `Unreachable` where the node cannot be reached, falls silent or breaks off; `Mismatch` for an answer above the limit.
pub(super) async fn send(
    request: RequestBuilder,
    url: &str,
    limit_bytes: usize,
) -> Result<Reply, ChainError> {
    let mut response = request.send().await.map_err(|e| broken(url, &e))?;
    let status = response.status();
    let announced = response
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
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
    while let Some(chunk) = response.chunk().await.map_err(|e| broken(url, &e))? {
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
    Ok(Reply { status, body })
}

fn broken(url: &str, error: &reqwest::Error) -> ChainError {
    let cause = root_cause(error);
    ChainError::Unreachable(if error.is_connect() {
        format!(
            "cannot connect to {url} ({cause}); start the node (bitcoind -server -rest), or correct --node-url or --rpc-url"
        )
    } else if error.is_timeout() {
        format!("no answer from {url} in time; is the node stopped or overloaded?")
    } else {
        format!("the connection broke while asking {url} ({cause}); was the node stopped?")
    })
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
