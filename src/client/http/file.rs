//! Files of a server that knows nothing of what is in them.

use super::super::OracleError;
use super::HttpOracle;

impl HttpOracle {
    /// The whole of a file; of one that is longer than that, as much and a byte more.
    pub(in crate::client) async fn file(
        &self,
        route: &str,
        most: usize,
    ) -> Result<Vec<u8>, OracleError> {
        let mut failed = 0;
        loop {
            let mut incoming = self.open(route).await?;
            let mut bytes = Vec::new();
            let reason = loop {
                match incoming.read(&mut bytes).await {
                    Ok(true) if bytes.len() > most => {
                        bytes.truncate(most + 1);
                        return Ok(bytes);
                    }
                    Ok(true) => {}
                    Ok(false) => return Ok(bytes),
                    Err(reason) => break reason,
                }
            };
            failed += 1;
            if failed >= self.attempts() {
                return Err(OracleError::Unreachable {
                    url: incoming.url,
                    attempts: failed,
                    reason,
                });
            }
            tokio::time::sleep(self.delay(failed)).await;
        }
    }

    /// A route as errors name it.
    pub(in crate::client) fn name_of(&self, route: &str) -> String {
        match self.url(route) {
            Ok(url) => self.way.name(&url),
            Err(_) => format!("{route} at {}", self.way.name(&self.base)),
        }
    }
}
