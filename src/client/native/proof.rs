//! Processes as a server tells them, and proofs of what it says.

use bitcoin::block::Header;
use bitcoin::{BlockHash, OutPoint};

use super::super::OracleError;
use super::group::{read_group, untrue};
use super::headers::{Broken, HeaderChain};
use super::parts::Next;
use super::{NativeOracle, route};
use crate::BlockId;
use crate::proof::Proof;
use crate::wire::native::column::Column;
use crate::wire::native::{Code, PROOF_BYTES_MAX, Process, read_proof};

/// Longest body of an answer with the steps of a process.
const PROCESS_BYTES: usize = 1 << 20;

impl NativeOracle {
    /// The steps of a process from an outpoint on, as many as one answer has; `None` where the server cannot tell.
    ///
    /// # Errors
    /// As all of [`Oracle`](crate::client::Oracle).
    pub async fn process(&self, start: OutPoint) -> Result<Option<Process>, OracleError> {
        let Some(http) = self.teller().await? else {
            return Ok(None);
        };
        match http
            .get(&route(&format!("process/{start}")), PROCESS_BYTES)
            .await
        {
            Ok(answer) => Process::decode(&answer.body, start)
                .map(Some)
                .map_err(|what| answer.malformed(what)),
            Err(OracleError::Declined {
                code: Code::NotKept,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// That a transaction stands at a position of a block, by the server's word as yet; `None` where it has nothing to prove it with.
    ///
    /// # Errors
    /// [`OracleError::Declined`] for a block or a transaction that is not there; as all of [`Oracle`](crate::client::Oracle).
    pub async fn proof(&self, block: BlockHash, index: u32) -> Result<Option<Proof>, OracleError> {
        let Some(http) = self.teller().await? else {
            return Ok(None);
        };
        let route = route(&format!("proof/{block}/{index}"));
        match http.get(&route, PROOF_BYTES_MAX).await {
            Ok(answer) => read_proof(&answer.body, block, index)
                .map(Some)
                .map_err(|what| answer.malformed(what)),
            Err(
                OracleError::Declined {
                    code: Code::NotKept,
                    ..
                }
                | OracleError::NotFound { .. },
            ) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The headers between two heights, oldest first, each on top of the one before, with the work it claims, of the difficulty
    /// and at a time that the rules allow. Gives the last block that came, which is below `to` where the server's chain ends
    /// there.
    ///
    /// # Errors
    /// As all of [`Oracle`](crate::client::Oracle); [`OracleError::Untrue`] for a header that breaks a rule.
    pub async fn headers(
        &self,
        from: u32,
        to: u32,
        mut each: impl FnMut(BlockId, &Header) + Send,
    ) -> Result<Option<BlockId>, OracleError> {
        let mut chain = HeaderChain::new(self.network());
        let mut last: Option<BlockId> = None;
        let (mut next, mut failed) = (from, 0);
        while next <= to {
            let begun = next;
            let mut parts = self.range(&[Column::Headers], next, to).await?;
            let cut = loop {
                let group = match parts.next(&[Column::Headers]).await? {
                    Next::Group(group) => group,
                    Next::End(_) => break None,
                    Next::Cut(reason) => break Some(reason),
                };
                let url = parts.url();
                for block in read_group(&url, self.network(), &[Column::Headers], group, next)? {
                    let header = &block.header.header;
                    if let Err(broken) = chain.take(block.height, header) {
                        let what = match broken {
                            Broken::Link => "it is not on top of the block before".to_owned(),
                            Broken::Rule(what) => what,
                        };
                        return Err(untrue(&url, block.height, Column::Headers, what));
                    }
                    each(block.id(), header);
                    last = Some(block.id());
                    next = block.height.saturating_add(1);
                }
            };
            match cut {
                // The chain ends here.
                None if next == begun => break,
                None => {}
                Some(reason) => {
                    failed += 1;
                    let Some(wait) = self.wait(failed) else {
                        return Err(parts.cut(failed, reason));
                    };
                    tokio::time::sleep(wait).await;
                }
            }
        }
        Ok(last)
    }
}
