//! The chain of hashes over the columns: rolled over all that a native scan is given, and held against what servers tell.
//!
//! A scan that begins within the chain takes the head below its first block from the server; from there on it is its own.
//! So whoever lies in a column, or leaves something out, has to lie in his heads too, and these can be compared with those of
//! other servers by one small request.

use bitcoin::Network;

use super::super::OracleError;
use super::super::native::NativeOracle;
use super::super::state::HeadRow;
use super::fetch::FetchedBlock;
use super::reorg::changed;
use super::server::Server;
use super::{Interrupted, LightClient};
use crate::wire::native::column::Column;
use crate::wire::spcommit::MAINNET_FIRST_HEIGHT;

/// Where the chain of hashes of an index begins.
fn start(network: Network, first_height: u32) -> u32 {
    match network {
        Network::Bitcoin => MAINNET_FIRST_HEIGHT,
        _ => first_height,
    }
}

impl LightClient {
    /// The heads at these blocks, on top of the one below the first of them. None where nobody knows that, or below the
    /// start of the chain.
    pub(super) async fn heads(
        &self,
        blocks: &[FetchedBlock],
    ) -> Result<Vec<(u32, HeadRow)>, Interrupted> {
        let Server::Native { server, first, .. } = &self.server else {
            return Ok(Vec::new());
        };
        let start = start(self.settings.network, *first);
        let blocks = blocks
            .get(blocks.partition_point(|block| block.height < start)..)
            .unwrap_or_default();
        let Some(block) = blocks.first().and_then(FetchedBlock::native) else {
            return Ok(Vec::new());
        };
        let (height, hash) = (block.height, block.header.header.prev_blockhash);
        let below = height.checked_sub(1).filter(|_| height > start);
        let (from, mut head) = match below {
            None => (height, [0; 32]),
            Some(below) => match self.state.contents.head(below) {
                Some(row) => (row.from, row.head),
                None => match server.links(below).await? {
                    Some(links) if links.block.hash != hash => {
                        return Err(changed(
                            below,
                            "blocks of the headers and of the commitments",
                        ));
                    }
                    links => match links.and_then(|links| links.columns_head) {
                        Some(head) => (height, head),
                        None => return Ok(Vec::new()),
                    },
                },
            },
        };
        let heads = blocks.iter().filter_map(FetchedBlock::native).map(|block| {
            head = block.header.hashes.next_head(&head, &block.hash);
            let row = HeadRow {
                from,
                block_hash: block.hash,
                head,
            };
            (block.height, row)
        });
        Ok(heads.collect())
    }

    /// Holds the head at the last scanned block against the one that the server tells.
    ///
    /// # Errors
    /// [`OracleError::Untrue`] where they differ: it, or the server of an earlier scan, gave columns that are not those it
    /// is said to have.
    pub(super) async fn compare_head(&self, server: &NativeOracle) -> Result<(), Interrupted> {
        let contents = &self.state.contents;
        let last = self.state.scanned_to().filter(|last| *last <= self.tip);
        let Some((last, row)) = last.and_then(|last| Some((last, contents.head(last)?))) else {
            return Ok(());
        };
        let Some(links) = server.links(last).await? else {
            return Ok(());
        };
        if links.block.hash != row.block_hash {
            return Err(changed(last, "blocks of a scan and of the commitments"));
        }
        match links.columns_head {
            Some(head) if head != row.head => Err(OracleError::Untrue {
                url: server.describe(),
                height: last,
                column: Column::Headers,
                what: format!(
                    "what was scanned from block {} on has another head than the one that is told of it; if another server \
                     was scanned before, one of the two is wrong (--rescan)",
                    row.from
                ),
            }
            .into()),
            _ => Ok(()),
        }
    }
}
