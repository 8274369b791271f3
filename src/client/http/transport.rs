//! Requests with bounds: attempts, time, bytes; and what counts as an answer.

use std::fmt;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::super::{OracleError, off_worker};
use super::redirect::Astray;
use super::{HttpOracle, ROWS_BYTES, pause};
use crate::wire::native::Refusal;
use crate::wire::v1::{self, words};

/// Longest wait between two attempts.
const MAX_DELAY: Duration = Duration::from_secs(15);

/// For answers that have a limit from one piece to the next.
const UNLIMITED: Duration = Duration::from_secs(30 * 86_400);

/// Most bytes read of an answer that only says why there is no other.
const REASON_BYTES: usize = 4096;

/// How a server is spoken to.
#[derive(Clone)]
pub struct HttpSettings {
    /// For one attempt, from the first byte sent to the last received.
    pub timeout: Duration,
    /// `socks5://[user:password@]host:port` (names are resolved by the proxy) or `http://…`; without one the
    /// environment's proxy settings count, but not for a server on this machine.
    pub proxy: Option<String>,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// Attempts at a request before giving up, at least 1.
    pub attempts: u32,
    /// Wait after the first failed attempt, about doubled after each further one.
    pub first_delay: Duration,
    /// Longest time that one request waits because the server asks for it (`Retry-After`). Such answers use up no
    /// attempts.
    pub patience: Duration,
    /// Sent with every request as `Authorization: Bearer`, to this server alone.
    pub token: Option<Zeroizing<String>>,
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
            patience: Duration::from_secs(600),
            token: None,
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
            .field("patience", &self.patience)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("max_body_bytes", &self.max_body_bytes)
            .finish()
    }
}

/// The header that carries a token, which no log shows.
///
/// # Errors
/// [`OracleError::Setup`] for a token that no header can have.
pub(super) fn authorization(token: &str) -> Result<HeaderMap, OracleError> {
    let text = Zeroizing::new(format!("Bearer {token}"));
    let mut value = HeaderValue::from_str(&text).map_err(|_| {
        OracleError::Setup("a token of characters that no header can have".to_owned())
    })?;
    value.set_sensitive(true);
    Ok(HeaderMap::from_iter([(AUTHORIZATION, value)]))
}

/// An answer as it came, before anybody looked into it.
pub(in crate::client) struct Answer {
    /// What was asked, as errors name it.
    pub(in crate::client) url: String,
    pub(in crate::client) body: Vec<u8>,
}

/// An answer that is read as it comes.
pub(in crate::client) struct Incoming {
    /// What was asked, as errors name it.
    pub(in crate::client) url: String,
    response: Response,
    timeout: Duration,
}

impl Incoming {
    /// Appends the next piece to `buffer`; whether there was one.
    ///
    /// # Errors
    /// Why the rest does not come.
    pub(in crate::client) async fn read(&mut self, buffer: &mut Vec<u8>) -> Result<bool, String> {
        match timeout(self.timeout, self.response.chunk()).await {
            Ok(Ok(Some(piece))) => {
                buffer.extend_from_slice(&piece);
                Ok(true)
            }
            Ok(Ok(None)) => Ok(false),
            Ok(Err(error)) => Err(reason(error)),
            Err(_) => Err(format!("nothing came for {} s", self.timeout.as_secs_f64())),
        }
    }
}

/// Why there is no answer to one attempt.
pub(in crate::client) struct Unheard {
    pub(in crate::client) reason: String,
    /// Whether another attempt at the same may succeed.
    pub(in crate::client) is_passing: bool,
    /// How long the server asks to be left alone.
    pub(in crate::client) wait: Option<Duration>,
}

/// How one attempt failed.
enum Failure {
    /// Another attempt may succeed.
    Passing(Fault),
    /// It will not.
    Final(OracleError),
}

/// A passing failure.
struct Fault {
    /// The status of an answer that was none, `None` without an answer.
    status: Option<u16>,
    reason: String,
    /// How long the server asks to be left alone.
    wait: Option<Duration>,
}

impl Fault {
    fn without_answer(reason: String) -> Self {
        Self {
            status: None,
            reason,
            wait: None,
        }
    }

    /// Why the request is given up after this many attempts.
    fn give_up(self, url: String, attempts: u32) -> OracleError {
        let reason = match self.wait {
            None => self.reason,
            Some(wait) => format!(
                "{}, and it asks to be left alone for {} s",
                self.reason,
                wait.as_secs()
            ),
        };
        match self.status {
            None => OracleError::Unreachable {
                url,
                attempts,
                reason,
            },
            Some(status) => OracleError::Busy {
                url,
                attempts,
                status,
                reason,
            },
        }
    }
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
    v1::excerpt(&text)
}

impl HttpOracle {
    /// The address of a route below the base.
    pub(super) fn url(&self, route: &str) -> Result<Url, OracleError> {
        self.base
            .join(route)
            .map_err(|error| OracleError::Setup(format!("no URL for {route}: {error}")))
    }

    pub(in crate::client) async fn get(
        &self,
        route: &str,
        max_bytes: usize,
    ) -> Result<Answer, OracleError> {
        self.request(Method::GET, self.url(route)?, None, max_bytes)
            .await
    }

    /// Sends a body that may be sent again, if no answer comes.
    pub(in crate::client) async fn send(
        &self,
        method: Method,
        route: &str,
        body: Vec<u8>,
        max_bytes: usize,
    ) -> Result<Answer, OracleError> {
        self.request(method, self.url(route)?, Some(body), max_bytes)
            .await
    }

    /// Sends a request until it is answered, refused, or the attempts or the patience are used up.
    pub(super) async fn request(
        &self,
        method: Method,
        url: Url,
        body: Option<Vec<u8>>,
        max_bytes: usize,
    ) -> Result<Answer, OracleError> {
        let max_bytes = max_bytes.min(self.settings.max_body_bytes);
        let body = body.as_deref();
        let attempt = || self.attempt(&method, &url, body, max_bytes);
        self.persist(&url, attempt).await
    }

    /// Asks for an answer of any length, which is read as it comes: the time for an attempt counts from one piece to the
    /// next.
    pub(in crate::client) async fn open(&self, route: &str) -> Result<Incoming, OracleError> {
        let url = self.url(route)?;
        let response = self.persist(&url, || self.begin(&url, None)).await?;
        Ok(Incoming {
            url: self.way.name(&url),
            response,
            timeout: self.settings.timeout,
        })
    }

    /// Asks once for an answer of a media type that goes on for as long as both like, and is over after a silence. Others
    /// are not held up where it is refused.
    pub(in crate::client) async fn listen(
        &self,
        route: &str,
        media_type: &'static str,
        silence: Duration,
    ) -> Result<Incoming, Unheard> {
        let unheard = |reason, is_passing, wait| Unheard {
            reason,
            is_passing,
            wait,
        };
        let url = self.url(route);
        let url = url.map_err(|error| unheard(error.to_string(), false, None))?;
        self.pause.over(self.settings.first_delay).await;
        let response = match self.begin(&url, Some(media_type)).await {
            Ok(response) => response,
            Err(Failure::Passing(fault)) => return Err(unheard(fault.reason, true, fault.wait)),
            Err(Failure::Final(error)) => return Err(unheard(error.to_string(), false, None)),
        };
        let has = response.headers().get(CONTENT_TYPE);
        let has = has.map_or(&[][..], |value| value.as_bytes());
        if !has.starts_with(media_type.as_bytes()) {
            let has = v1::excerpt(&String::from_utf8_lossy(has));
            return Err(unheard(format!("it answers with {has:?}"), false, None));
        }
        Ok(Incoming {
            url: self.way.name(&url),
            response,
            timeout: silence,
        })
    }

    /// Makes attempts until one succeeds, fails for good, or they or the patience are used up.
    async fn persist<T, F>(&self, url: &Url, attempt: impl Fn() -> F) -> Result<T, OracleError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let (mut made, mut failed) = (0, 0);
        let mut waited = Duration::ZERO;
        loop {
            self.pause.over(self.settings.first_delay).await;
            made += 1;
            let fault = match attempt().await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(fault)) => fault,
            };
            let name = self.way.name(url);
            tracing::debug!(url = %name, attempt = made, "{}; trying again", fault.reason);
            if let Some(wait) = fault.wait {
                // A server may ask for no time at all, again and again.
                let wait = wait.max(self.delay(made));
                waited = waited.saturating_add(wait);
                if waited > self.settings.patience {
                    return Err(fault.give_up(name, made));
                }
                if self.pause.extend(wait) {
                    let seconds = wait.as_secs_f64();
                    tracing::info!("{name}: {}; waiting {seconds:.1} s", fault.reason);
                }
                continue;
            }
            failed += 1;
            if failed >= self.attempts() {
                return Err(fault.give_up(name, made));
            }
            tokio::time::sleep(self.delay(failed)).await;
        }
    }

    /// How often a request is made before it is given up.
    pub(in crate::client) fn attempts(&self) -> u32 {
        self.settings.attempts.max(1)
    }

    /// About `first_delay * 2^(attempt - 1)`, spread so that many requests do not come back at the same moment.
    pub(in crate::client) fn delay(&self, attempt: u32) -> Duration {
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
        body: Option<&[u8]>,
        max_bytes: usize,
    ) -> Result<Answer, Failure> {
        let mut request = self.client.request(method.clone(), url.clone());
        if let Some(body) = body {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .body(body.to_owned());
        }
        let response = request
            .send()
            .await
            .map_err(|error| self.failed(url, error))?;
        let status = response.status();
        let wait = pause::retry_after(response.headers());
        let body = self.read(url, response, max_bytes).await?;
        // Only a transaction that was forwarded may be answered with nothing.
        if status.is_success() && body.is_empty() && *method == Method::GET {
            let reason = format!("status {status} and no body");
            return Err(Failure::Passing(Fault::without_answer(reason)));
        }
        self.judge(url, status, wait, body)
    }

    /// One attempt at an answer that is read later.
    async fn begin(&self, url: &Url, accept: Option<&'static str>) -> Result<Response, Failure> {
        let mut request = self.client.get(url.clone()).timeout(UNLIMITED);
        if let Some(media_type) = accept {
            request = request.header(ACCEPT, media_type);
        }
        let late = || {
            let seconds = self.settings.timeout.as_secs_f64();
            Failure::Passing(Fault::without_answer(format!("no answer in {seconds} s")))
        };
        let response = timeout(self.settings.timeout, request.send()).await;
        let response = response
            .map_err(|_| late())?
            .map_err(|error| self.failed(url, error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let wait = pause::retry_after(response.headers());
        let body = timeout(
            self.settings.timeout,
            self.read(url, response, REASON_BYTES),
        )
        .await
        .map_err(|_| late())??;
        let Answer { url, .. } = self.judge(url, status, wait, body)?;
        Err(Failure::Final(OracleError::Malformed {
            url,
            what: format!("status {status}"),
        }))
    }

    /// The body of an answer, or as much of a refusal's as says why.
    async fn read(
        &self,
        url: &Url,
        mut response: Response,
        max_bytes: usize,
    ) -> Result<Vec<u8>, Failure> {
        let is_success = response.status().is_success();
        let mut body = Vec::new();
        let failed = |error| self.failed(url, error);
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if is_success && body.len() + chunk.len() > max_bytes {
                return Err(Failure::Final(OracleError::Malformed {
                    url: self.way.name(url),
                    what: format!("more than {max_bytes} bytes"),
                }));
            }
            body.extend_from_slice(&chunk);
            if !is_success && body.len() >= REASON_BYTES {
                body.truncate(REASON_BYTES);
                break;
            }
        }
        Ok(body)
    }

    fn failed(&self, url: &Url, error: reqwest::Error) -> Failure {
        let name = self.way.name(url);
        let astray = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<Astray>());
        if let Some(Astray { target }) = astray {
            let target = target.clone();
            Failure::Final(OracleError::Redirected { url: name, target })
        } else if error.is_builder() || error.is_redirect() {
            let text = format!("{name} cannot be asked: {}", reason(error));
            Failure::Final(OracleError::Setup(text))
        } else {
            Failure::Passing(Fault::without_answer(reason(error)))
        }
    }

    /// Tells answers from refusals. A passing status comes before whatever text is under it; under any other status,
    /// 200 included, an error object is a refusal.
    fn judge(
        &self,
        url: &Url,
        status: StatusCode,
        wait: Option<Duration>,
        body: Vec<u8>,
    ) -> Result<Answer, Failure> {
        let url = self.way.name(url);
        let words = v1::decode_error(&body);
        if is_passing(status) && !words.as_deref().is_some_and(words::are_final) {
            let reason = match words {
                Some(words) => format!("status {status}, \"{words}\""),
                None => format!("status {status}"),
            };
            return Err(Failure::Passing(Fault {
                status: Some(status.as_u16()),
                reason,
                wait,
            }));
        }
        if let Ok(Refusal { code, message }) = Refusal::decode(&body) {
            let message = v1::excerpt(&message);
            return Err(Failure::Final(OracleError::Declined { url, code, message }));
        }
        if let Some(message) = words {
            return Err(Failure::Final(OracleError::Refused {
                url,
                status: status.as_u16(),
                message,
            }));
        }
        if status.is_success() {
            return Ok(Answer { url, body });
        }
        Err(Failure::Final(if status == StatusCode::NOT_FOUND {
            OracleError::NotFound { url }
        } else {
            OracleError::Refused {
                url,
                status: status.as_u16(),
                message: v1::excerpt(&String::from_utf8_lossy(&body)),
            }
        }))
    }
}

/// Whether a status says that the same request may be answered later.
fn is_passing(status: StatusCode) -> bool {
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => false,
        status => status.is_server_error(),
    }
}

impl Answer {
    pub(in crate::client) fn malformed(&self, what: String) -> OracleError {
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
