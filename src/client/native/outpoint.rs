//! What a server says of an outpoint that is named to it.

use bitcoin::OutPoint;

use super::super::OracleError;
use super::{NativeOracle, route};
use crate::wire::native::{Code, Outpoint};

/// Longest body of an answer.
const OUTPOINT_BYTES: usize = 64 << 10;

impl NativeOracle {
    /// What the server says of an outpoint, which it then knows that somebody asks for; `None` where it cannot tell, as files
    /// and servers that keep tweaks alone cannot.
    ///
    /// # Errors
    /// As all of [`Oracle`](crate::client::Oracle).
    pub async fn outpoint(&self, outpoint: OutPoint) -> Result<Option<Outpoint>, OracleError> {
        let Some(http) = self.teller().await? else {
            return Ok(None);
        };
        let route = route(&format!("outpoint/{outpoint}"));
        match http.get(&route, OUTPOINT_BYTES).await {
            Ok(answer) => Outpoint::decode(&answer.body, outpoint)
                .map(Some)
                .map_err(|what| answer.malformed(what)),
            Err(OracleError::Declined {
                code: Code::NotKept | Code::Unknown,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
