//! The chain of hashes over the columns: rolled over all that a native scan is given, and held against what servers tell.
//!
//! A scan that begins within the chain takes the head below its first block from the server; from there on it is its own.
//! So whoever lies in a column, or leaves something out, has to lie in his heads too, and these can be compared with those of
//! other servers by one small request.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bitcoin::Network;

use super::super::OracleError;
use super::super::native::NativeOracle;
use super::super::state::HeadRow;
use super::fetch::FetchedBlock;
use super::reorg::changed;
use super::server::Server;
use super::{ClientError, Interrupted, Member, WalletsClient};
use crate::wire::native::column::Column;
use crate::wire::spcommit::MAINNET_FIRST_HEIGHT;

/// Where the chain of hashes of an index begins.
fn start(network: Network, first_height: u32) -> u32 {
    match network {
        Network::Bitcoin => MAINNET_FIRST_HEIGHT,
        _ => first_height,
    }
}

/// Heads by height.
type Heads = Vec<(u32, HeadRow)>;

impl WalletsClient {
    /// The heads at these blocks for each of these members, on top of its own below the first of them. None where nobody
    /// knows that, or below the start of the chain.
    pub(super) async fn heads(
        &self,
        members: &[usize],
        blocks: &[FetchedBlock],
    ) -> Result<BTreeMap<usize, Heads>, Interrupted> {
        let mut heads = BTreeMap::new();
        let Server::Native { server, first, .. } = &self.server else {
            return Ok(heads);
        };
        let start = start(self.settings.network, *first);
        let blocks = blocks
            .get(blocks.partition_point(|block| block.height < start)..)
            .unwrap_or_default();
        let Some(block) = blocks.first().and_then(FetchedBlock::native) else {
            return Ok(heads);
        };
        let (height, hash) = (block.height, block.header.header.prev_blockhash);
        let below = height.checked_sub(1).filter(|_| height > start);
        // What the server tells, which it is asked for once.
        let mut told: Option<Option<[u8; 32]>> = None;
        // Members that are equally far have the same.
        let mut rolled: BTreeMap<(u32, [u8; 32]), Heads> = BTreeMap::new();
        for at in members {
            let Some(member) = self.members.get(*at) else {
                continue;
            };
            let (from, head) = match below {
                None => (height, [0; 32]),
                Some(below) => match member.state.contents.head(below) {
                    Some(row) => (row.from, row.head),
                    None => {
                        if told.is_none() {
                            told = Some(match server.links(below).await? {
                                Some(links) if links.block.hash != hash => {
                                    return Err(changed(
                                        below,
                                        "blocks of the headers and of the commitments",
                                    ));
                                }
                                links => links.and_then(|links| links.columns_head),
                            });
                        }
                        match told.flatten() {
                            Some(head) => (height, head),
                            None => continue,
                        }
                    }
                },
            };
            let rows = rolled
                .entry((from, head))
                .or_insert_with(|| roll(from, head, blocks));
            heads.insert(*at, rows.clone());
        }
        Ok(heads)
    }

    /// Holds the heads at the last scanned blocks against those that the server tells.
    ///
    /// # Errors
    /// [`OracleError::Untrue`] where they differ: it, or the server of an earlier scan, gave columns that are not those it
    /// is said to have.
    pub(super) async fn compare_heads(&self, server: &NativeOracle) -> Result<(), Interrupted> {
        let mut told = BTreeMap::new();
        for member in &self.members {
            let last = member.state.scanned_to().filter(|last| *last <= self.tip);
            let row = last.and_then(|last| Some((last, member.state.contents.head(last)?)));
            let Some((last, row)) = row else {
                continue;
            };
            if let Entry::Vacant(entry) = told.entry(last) {
                entry.insert(server.links(last).await?);
            }
            let Some(Some(links)) = told.get(&last) else {
                continue;
            };
            if links.block.hash != row.block_hash {
                return Err(changed(last, "blocks of a scan and of the commitments"));
            }
            if links.columns_head.is_some_and(|head| head != row.head) {
                return Err(other_head(server, member, last, row).into());
            }
        }
        Ok(())
    }
}

/// The heads at blocks on top of one.
fn roll(from: u32, mut head: [u8; 32], blocks: &[FetchedBlock]) -> Heads {
    let blocks = blocks.iter().filter_map(FetchedBlock::native);
    let heads = blocks.map(|block| {
        head = block.header.hashes.next_head(&head, &block.hash);
        let row = HeadRow {
            from,
            block_hash: block.hash,
            head,
        };
        (block.height, row)
    });
    heads.collect()
}

fn other_head(server: &NativeOracle, member: &Member, last: u32, row: &HeadRow) -> ClientError {
    let error = OracleError::Untrue {
        url: server.describe(),
        height: last,
        column: Column::Headers,
        what: format!(
            "what was scanned from block {} on has another head than the one that is told of it; if another server \
             was scanned before, one of the two is wrong (--rescan)",
            row.from
        ),
    };
    member.named(error.into())
}
