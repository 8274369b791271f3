//! Requests with bounds: attempts, time, bytes; and what counts as an answer.

use std::fmt;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode, Url};

use super::super::{OracleError, off_worker};
use super::{HttpOracle, ROWS_BYTES, wire};

/// Longest wait between two attempts.
const MAX_DELAY: Duration = Duration::from_secs(15);

/// How a server is spoken to.
#[derive(Clone)]
pub struct HttpSettings {
    /// For one attempt, from the first byte sent to the last received.
    pub timeout: Duration,
    /// `socks5://[user:password@]host:port` (names are resolved by the proxy) or `http://…`; without one the
    /// environment's proxy settings count.
    pub proxy: Option<String>,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// Attempts at a request before giving up, at least 1.
    pub attempts: u32,
    /// Wait after the first failed attempt, about doubled after each further one.
    pub first_delay: Duration,
    /// Longest body accepted, after decompression; routes whose answers are always short have bounds of their own.
    pub max_body_bytes: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            proxy: None,
            user_agent: concat!("spindex/", env!("CARGO_PKG_VERSION")).to_owned(),
            attempts: 6,
            first_delay: Duration::from_millis(400),
            max_body_bytes: ROWS_BYTES,
        }
    }
}

impl fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A proxy's address may hold a password.
        f.debug_struct("HttpSettings")
            .field("timeout", &self.timeout)
            .field("proxy", &self.proxy.as_ref().map(|_| "…"))
            .field("user_agent", &self.user_agent)
            .field("attempts", &self.attempts)
            .field("first_delay", &self.first_delay)
            .field("max_body_bytes", &self.max_body_bytes)
            .finish()
    }
}

/// An answer as it came, before anybody looked into it.
pub(super) struct Answer {
    pub(super) url: String,
    pub(super) body: Vec<u8>,
}

/// How one attempt failed.
enum Failure {
    /// Another attempt may succeed.
    Passing(String),
    /// It will not.
    Final(OracleError),
}

/// A URL without user and password.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for URLs without a host, which have neither.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// An error with its causes in one line; without the URL, which stands elsewhere and may hold a password.
pub(super) fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    wire::excerpt(&text)
}

impl HttpOracle {
    /// The address of a route below the base.
    pub(super) fn url(&self, route: &str) -> Result<Url, OracleError> {
        self.base
            .join(route)
            .map_err(|error| OracleError::Setup(format!("no URL for {route}: {error}")))
    }

    pub(super) async fn get(&self, route: &str, max_bytes: usize) -> Result<Answer, OracleError> {
        self.request(Method::GET, self.url(route)?, None, max_bytes)
            .await
    }

    /// Sends a request until it is answered, refused, or the attempts are used up.
    pub(super) async fn request(
        &self,
        method: Method,
        url: Url,
        body: Option<String>,
        max_bytes: usize,
    ) -> Result<Answer, OracleError> {
        let max_bytes = max_bytes.min(self.settings.max_body_bytes);
        let attempts = self.settings.attempts.max(1);
        let mut attempt = 1;
        loop {
            let reason = match self
                .attempt(&method, &url, body.as_deref(), max_bytes)
                .await
            {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(reason)) => reason,
            };
            if attempt >= attempts {
                return Err(OracleError::Unreachable {
                    url: shown(&url),
                    attempts,
                    reason,
                });
            }
            tracing::debug!(url = %shown(&url), attempt, "{reason}; trying again");
            tokio::time::sleep(self.delay(attempt)).await;
            attempt += 1;
        }
    }

    /// About `first_delay * 2^(attempt - 1)`, spread so that many requests do not come back at the same moment.
    pub(super) fn delay(&self, attempt: u32) -> Duration {
        let doubled = self
            .settings
            .first_delay
            .saturating_mul(1 << (attempt - 1).min(16))
            .min(MAX_DELAY);
        doubled.mul_f64(0.5 + secp256k1::rand::random::<f64>())
    }

    async fn attempt(
        &self,
        method: &Method,
        url: &Url,
        body: Option<&str>,
        max_bytes: usize,
    ) -> Result<Answer, Failure> {
        let mut request = self.client.request(method.clone(), url.clone());
        if let Some(body) = body {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .body(body.to_owned());
        }
        let failed = |error: reqwest::Error| {
            if error.is_builder() || error.is_redirect() {
                Failure::Final(OracleError::Setup(format!(
                    "{} cannot be asked: {}",
                    shown(url),
                    reason(error)
                )))
            } else {
                Failure::Passing(reason(error))
            }
        };
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > max_bytes {
                return Err(Failure::Final(OracleError::Malformed {
                    url: shown(url),
                    what: format!("more than {max_bytes} bytes"),
                }));
            }
            body.extend_from_slice(&chunk);
        }
        self.judge(url, status, body)
    }

    /// Tells answers from refusals. Servers put error objects under any status, so the body counts first.
    fn judge(&self, url: &Url, status: StatusCode, body: Vec<u8>) -> Result<Answer, Failure> {
        let url = shown(url);
        if let Some(message) = wire::error_text(&body) {
            return Err(Failure::Final(OracleError::Refused {
                url,
                status: status.as_u16(),
                message,
            }));
        }
        if status.is_success() {
            return Ok(Answer { url, body });
        }
        if status.is_server_error()
            || matches!(
                status,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
            )
        {
            return Err(Failure::Passing(format!("status {status}")));
        }
        Err(Failure::Final(if status == StatusCode::NOT_FOUND {
            OracleError::NotFound { url }
        } else {
            OracleError::Refused {
                url,
                status: status.as_u16(),
                message: wire::excerpt(&String::from_utf8_lossy(&body)),
            }
        }))
    }
}

impl Answer {
    pub(super) fn malformed(&self, what: String) -> OracleError {
        OracleError::Malformed {
            url: self.url.clone(),
            what,
        }
    }

    /// Parses off the async worker: bodies may be long, and points cost a square root each.
    pub(super) async fn parse<T: Send + 'static>(
        self,
        parse: impl FnOnce(&[u8]) -> Result<T, String> + Send + 'static,
    ) -> Result<T, OracleError> {
        off_worker(move || parse(&self.body).map_err(|what| self.malformed(what))).await
    }
}
