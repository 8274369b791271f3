//! How a client of RPC proves that it may ask: a name and password, or the cookie that the node writes.

use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;

use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use crate::chain::ChainError;

/// Most bytes read of a cookie file; the node writes about 80.
const COOKIE_LIMIT_BYTES: u64 = 4096;

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

/// A name and password.
#[derive(PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: Zeroizing<String>,
    pub(super) password: Zeroizing<String>,
}

impl RpcAuth {
    /// What to say to the node now.
    ///
    /// # Errors
    /// `Setup` for a cookie file that cannot be read, or is none.
    pub(super) async fn credentials(&self) -> Result<Credentials, ChainError> {
        let path = match self {
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
                "cannot read the RPC cookie file {} ({e}); {}",
                path.display(),
                cookie_cure(e.kind())
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

/// What to do about a cookie file that cannot be read.
fn cookie_cure(error: ErrorKind) -> &'static str {
    match error {
        ErrorKind::PermissionDenied => {
            "start bitcoind with -rpccookieperms=group, put this user into its group, and let that group into the data directory; or give --rpc-user and SPINDEX_RPC_PASSWORD"
        }
        _ => "is the node running, and does --rpc-cookie name the file in its data directory?",
    }
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
    use std::time::Duration;

    use super::*;
    use crate::chain::rpc::{RpcClient, RpcSettings};

    fn client(auth: RpcAuth) -> RpcClient {
        let url = "http://127.0.0.1:1".into();
        RpcClient::new(RpcSettings { url, auth }, Duration::from_secs(1)).unwrap()
    }

    #[test]
    fn debug_masks_the_password() {
        let auth = RpcAuth::UserPassword {
            user: "alice".into(),
            password: Zeroizing::new("s3cret".into()),
        };
        for text in [format!("{auth:?}"), format!("{:?}", client(auth))] {
            assert!(text.contains("alice"), "{text}");
            assert!(!text.contains("s3cret"), "{text}");
        }
    }

    /// The tests' user may read everything where that is root.
    #[test]
    fn a_cookie_file_of_another_user_names_the_option_for_it() {
        assert!(cookie_cure(ErrorKind::PermissionDenied).contains("-rpccookieperms"));
        assert!(cookie_cure(ErrorKind::NotFound).contains("is the node running"));
    }

    #[tokio::test]
    async fn a_missing_or_odd_cookie_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".cookie");
        let auth = RpcAuth::CookieFile(path.clone());

        let error = auth.credentials().await.err().unwrap();
        assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        // Without a node nobody knows whether one is missing.
        let error = client(auth.clone()).version().await.unwrap_err();
        assert!(matches!(error, ChainError::Unreachable(_)), "{error:?}");

        std::fs::write(&path, "no colon here").unwrap();
        let error = auth.credentials().await.err().unwrap();
        assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
        assert!(
            error.to_string().contains("is no RPC cookie file"),
            "{error}"
        );
        assert!(!error.to_string().contains("no colon here"), "{error}");
    }
}
