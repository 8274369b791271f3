//! The little JSON-RPC that REST lacks: broadcasting, and a check of the credentials.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{Transaction, Txid};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use super::http::{self, one_line};
use super::{BroadcastError, ChainError};

/// Most bytes read of an answer. The two methods used here answer with a few kilobytes.
const ANSWER_LIMIT_BYTES: usize = 1 << 20;

/// Most bytes read of a cookie file; the node writes about 80.
const COOKIE_LIMIT_BYTES: u64 = 4096;

/// RPC_IN_WARMUP: the node is still starting.
const IN_WARMUP: i64 = -28;

/// How to prove to the node that RPC is allowed. `Debug` never shows the password.
#[derive(Clone)]
pub enum RpcAuth {
    /// The file the node writes at each start, `.cookie` in its data directory. Read anew for each call.
    CookieFile(PathBuf),
    /// A name and password configured in the node (`rpcauth`, or `rpcuser` and `rpcpassword`).
    UserPassword {
        /// Name, without a colon.
        user: String,
        /// Password.
        password: Zeroizing<String>,
    },
}

impl fmt::Debug for RpcAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CookieFile(path) => f.debug_tuple("CookieFile").field(path).finish(),
            Self::UserPassword { user, .. } => f
                .debug_struct("UserPassword")
                .field("user", user)
                .field("password", &format_args!("***"))
                .finish(),
        }
    }
}

/// Where a node's JSON-RPC is and how to get in.
#[derive(Debug, Clone)]
pub struct RpcSettings {
    /// Base URL such as `http://127.0.0.1:8332`, without credentials.
    pub url: String,
    /// Credentials.
    pub auth: RpcAuth,
}

/// A client of a node's JSON-RPC.
#[derive(Debug)]
pub struct RpcClient {
    client: Client,
    url: String,
    auth: RpcAuth,
}

/// Why a call has no result.
enum CallError {
    /// The node executed the call and refused.
    Refused { code: i64, message: String },
    /// The node could not be asked.
    Chain(ChainError),
}

impl From<ChainError> for CallError {
    fn from(error: ChainError) -> Self {
        Self::Chain(error)
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    result: Value,
    error: Option<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    code: i64,
    message: String,
}

impl RpcClient {
    /// A client that gives up on a call once the node has been silent for `timeout`. Connects to nothing yet.
    ///
    /// # Errors
    /// [`ChainError::Setup`] for a URL that is none or contains credentials.
    pub fn new(settings: RpcSettings, timeout: Duration) -> Result<Self, ChainError> {
        Ok(Self {
            client: http::client(timeout)?,
            url: http::base_url(&settings.url, "--rpc-url")?,
            auth: settings.auth,
        })
    }

    /// The node's version, such as 300000 for 30.0 (`getnetworkinfo`); proves that the credentials are right.
    ///
    /// # Errors
    /// `Setup` for refused or missing credentials, `Unreachable` while the node is away or starting.
    pub async fn version(&self) -> Result<u64, ChainError> {
        let info = match self.call("getnetworkinfo", json!([])).await {
            Ok(info) => info,
            Err(CallError::Chain(e)) => return Err(e),
            Err(CallError::Refused { code, message }) => {
                return Err(ChainError::Mismatch(format!(
                    "{} refuses getnetworkinfo: {message} (code {code})",
                    self.url
                )));
            }
        };
        info.get("version").and_then(Value::as_u64).ok_or_else(|| {
            ChainError::Mismatch(format!(
                "{}: getnetworkinfo names no version; is this a Bitcoin Core node?",
                self.url
            ))
        })
    }

    /// Hands a transaction to the node's mempool and peers (`sendrawtransaction`).
    ///
    /// # Errors
    /// [`BroadcastError::Rejected`] with the node's reason; otherwise why the node could not be asked.
    pub async fn broadcast(&self, tx: &Transaction) -> Result<Txid, BroadcastError> {
        match self
            .call("sendrawtransaction", json!([serialize_hex(tx)]))
            .await
        {
            Ok(answer) => {
                let txid = tx.compute_txid();
                if answer.as_str().and_then(|hex| hex.parse().ok()) != Some(txid) {
                    return Err(ChainError::Mismatch(format!(
                        "{} accepts transaction {txid} under another id",
                        self.url
                    ))
                    .into());
                }
                Ok(txid)
            }
            Err(CallError::Refused { message, .. }) => Err(BroadcastError::Rejected(message)),
            Err(CallError::Chain(e)) => Err(e.into()),
        }
    }

    async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
        let url = &self.url;
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": method, "params": params});
        let mut credentials = self.credentials().await?;
        let mut reply = self.post(&credentials, &body).await?;
        // A node that has restarted has written a new cookie, perhaps since it was read.
        if reply.status == StatusCode::UNAUTHORIZED {
            let again = self.credentials().await?;
            if again != credentials {
                credentials = again;
                reply = self.post(&credentials, &body).await?;
            }
        }
        match reply.status {
            StatusCode::UNAUTHORIZED => {
                return Err(ChainError::Setup(format!(
                    "{url}: the node rejected the RPC credentials; check --rpc-cookie, or --rpc-user and SPINDEX_RPC_PASSWORD"
                ))
                .into());
            }
            StatusCode::FORBIDDEN => {
                return Err(ChainError::Setup(format!(
                    "{url}: the node forbids {method}; check its rpcallowip and rpcwhitelist, --rpc-cookie and --rpc-user"
                ))
                .into());
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                return Err(ChainError::Unreachable(format!(
                    "{url} is busy or stopping: {}",
                    reply.reason()
                ))
                .into());
            }
            // Other statuses come with a JSON answer that says more.
            _ => {}
        }
        let answer: Answer = serde_json::from_slice(&reply.body).map_err(|_| {
            ChainError::Mismatch(format!(
                "{url} answers {method} with HTTP {} and no JSON-RPC; is --rpc-url a Bitcoin Core node?",
                reply.status.as_u16()
            ))
        })?;
        match answer.error {
            None => Ok(answer.result),
            Some(AnswerError {
                code: IN_WARMUP,
                message,
            }) => Err(ChainError::Unreachable(format!(
                "{url}: the node is starting: {}",
                one_line(&message)
            ))
            .into()),
            Some(AnswerError { code, message }) => Err(CallError::Refused {
                code,
                message: one_line(&message),
            }),
        }
    }

    async fn post(
        &self,
        credentials: &Credentials,
        body: &Value,
    ) -> Result<http::Reply, ChainError> {
        let request = self
            .client
            .post(&self.url)
            .basic_auth(
                credentials.user.as_str(),
                Some(credentials.password.as_str()),
            )
            .json(body);
        http::send(request, &self.url, ANSWER_LIMIT_BYTES).await
    }

    async fn credentials(&self) -> Result<Credentials, ChainError> {
        let path = match &self.auth {
            RpcAuth::UserPassword { user, password } => {
                return Ok(Credentials {
                    user: Zeroizing::new(user.clone()),
                    password: password.clone(),
                });
            }
            RpcAuth::CookieFile(path) => path,
        };
        let cookie = read_cookie(path).await.map_err(|e| {
            ChainError::Setup(format!(
                "cannot read the RPC cookie file {} ({e}); is the node running, and does --rpc-cookie name the file in its data directory?",
                path.display()
            ))
        })?;
        match cookie.trim_end().split_once(':') {
            Some((user, password)) if !user.is_empty() => Ok(Credentials {
                user: Zeroizing::new(user.to_owned()),
                password: Zeroizing::new(password.to_owned()),
            }),
            _ => Err(ChainError::Setup(format!(
                "{} is no RPC cookie file; does --rpc-cookie name the file .cookie in the node's data directory?",
                path.display()
            ))),
        }
    }
}

#[derive(PartialEq, Eq)]
struct Credentials {
    user: Zeroizing<String>,
    password: Zeroizing<String>,
}

async fn read_cookie(path: &PathBuf) -> std::io::Result<Zeroizing<String>> {
    let file = tokio::fs::File::open(path).await?;
    let mut cookie = Zeroizing::new(String::new());
    file.take(COOKIE_LIMIT_BYTES)
        .read_to_string(&mut cookie)
        .await?;
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password_settings() -> RpcSettings {
        RpcSettings {
            url: "http://127.0.0.1:1".into(),
            auth: RpcAuth::UserPassword {
                user: "alice".into(),
                password: Zeroizing::new("s3cret".into()),
            },
        }
    }

    #[test]
    fn debug_masks_the_password() {
        let client = RpcClient::new(password_settings(), Duration::from_secs(1)).unwrap();
        for text in [format!("{:?}", password_settings()), format!("{client:?}")] {
            assert!(text.contains("alice"), "{text}");
            assert!(!text.contains("s3cret"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_missing_or_odd_cookie_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".cookie");
        let client = RpcClient::new(
            RpcSettings {
                auth: RpcAuth::CookieFile(path.clone()),
                ..password_settings()
            },
            Duration::from_secs(1),
        )
        .unwrap();

        let error = client.version().await.unwrap_err();
        assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );

        std::fs::write(&path, "no colon here").unwrap();
        let error = client.version().await.unwrap_err();
        assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
        assert!(
            error.to_string().contains("is no RPC cookie file"),
            "{error}"
        );
        assert!(!error.to_string().contains("no colon here"), "{error}");
    }
}
