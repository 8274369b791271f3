//! Tokens of those who may watch, with a server that has the index open.

use reqwest::Method;
use zeroize::Zeroizing;

use super::server::{PAGE_BYTES, WatchServer, route};
use crate::client::OracleError;
use crate::wire::native::{MadeToken, NewToken, TokenEntry};

impl WatchServer {
    /// Makes a token. An answer that is lost has made one that nobody has: do not ask more than once.
    ///
    /// # Errors
    /// [`OracleError::Declined`] if the server refuses; as all of [`Oracle`](crate::client::Oracle).
    pub async fn make_token(&self, new: &NewToken) -> Result<MadeToken, OracleError> {
        let body = new.encode().map_err(OracleError::Setup)?;
        let route = route("tokens");
        let sent = self.http.send(Method::POST, &route, body, PAGE_BYTES);
        let mut answer = sent.await?;
        let body = Zeroizing::new(std::mem::take(&mut answer.body));
        MadeToken::decode(&body).map_err(|what| answer.malformed(what))
    }

    /// All tokens, without their texts.
    ///
    /// # Errors
    /// As [`make_token`](Self::make_token).
    pub async fn tokens(&self) -> Result<Vec<TokenEntry>, OracleError> {
        let answer = self.http.get(&route("tokens"), PAGE_BYTES).await?;
        TokenEntry::decode_all(&answer.body).map_err(|what| answer.malformed(what))
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// As [`make_token`](Self::make_token).
    pub async fn revoke_token(&self, number: u32) -> Result<(), OracleError> {
        let route = route(&format!("tokens/{number}"));
        let sent = self
            .http
            .send(Method::DELETE, &route, Vec::new(), PAGE_BYTES);
        sent.await.map(drop)
    }
}
