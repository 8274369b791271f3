//! Heads of the chains of hashes by which anybody can compare what servers hold ([SPCOMMIT](spcommit)).

use bitcoin::{Network, Txid};
use redb::TableDefinition;

use super::block::CompressedTweak;
use super::error::Fault;
use super::meta::{Keep, Meta};
use super::record::{BlockRecord, SpendRow};
use super::schema::{BlockRow, key_prefix};
use super::view::View;
use crate::BlockId;
use crate::curve::TweakPoint;
use crate::wire::spcommit::{self, Version};

/// Height to the head of [`Version::One`], 32 bytes.
pub const HEADS_V1: TableDefinition<'static, u32, &[u8; 32]> = TableDefinition::new("heads_v1");
/// Height to the head of [`Version::Two`], 32 bytes. Not in an index that keeps tweaks only.
pub const HEADS_V2: TableDefinition<'static, u32, &[u8; 32]> = TableDefinition::new("heads_v2");

/// What chains of hashes commit to up to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// All tweaks.
    pub v1: [u8; 32],
    /// Txids, tweaks, the first bytes of output keys and of spent keys; `None` in an index that keeps tweaks only.
    pub v2: Option<[u8; 32]>,
}

impl Heads {
    /// Those of a block, by those of the block before, if there are any.
    pub fn next(before: Option<Self>, own: &Commitments) -> Self {
        let v1 = before.map_or_else(|| Version::One.genesis(), |heads| heads.v1);
        let v2 = before.and_then(|heads| heads.v2);
        let v2 = v2.unwrap_or_else(|| Version::Two.genesis());
        Self {
            v1: spcommit::next_head(&v1, &own.v1),
            v2: own.v2.map(|own| spcommit::next_head(&v2, &own)),
        }
    }
}

/// Where the chains begin; `None` for an index of mainnet that begins above.
pub(super) fn first_height(meta: &Meta) -> Option<u32> {
    match meta.network {
        Network::Bitcoin => {
            Some(spcommit::MAINNET_FIRST_HEIGHT).filter(|first| meta.first_height <= *first)
        }
        _ => Some(meta.first_height),
    }
}

/// What both versions commit to of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commitments {
    /// Its tweaks.
    pub v1: [u8; 32],
    /// Its txids, tweaks, and first bytes of output keys and of spent keys; `None` in an index that keeps tweaks only.
    pub v2: Option<[u8; 32]>,
}

/// The texts that both versions hash of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    /// Of version 1.
    pub v1: Vec<u8>,
    /// Of version 2; `None` in an index that keeps tweaks only.
    pub v2: Option<Vec<u8>>,
}

impl Commitments {
    /// Of a record; costs as much as hashing some 230 bytes a transaction.
    pub(super) fn of(record: &BlockRecord, keep: Keep) -> Self {
        let rows = record.transactions.iter();
        let tweaks = rows.map(|row| TweakPoint::from_bytes(row.tweak).to_compressed());
        let tweaks: Vec<CompressedTweak> = tweaks.collect();
        let v2 = match keep {
            Keep::Full => {
                let txids = record.transactions.iter().map(|row| row.txid);
                let outputs = record.outputs.iter();
                let outputs = outputs.map(|output| (output.transaction as usize, &output.key));
                Some(text_v2(record.id, &tweaks, txids, outputs, &record.spends))
            }
            Keep::Tweaks => None,
        };
        Self::by(&Texts {
            v1: spcommit::text_v1(record.id.height, &record.id.hash, &tweaks),
            v2,
        })
    }

    /// Of an indexed block.
    pub(super) fn at(view: &View, height: u32) -> Result<Self, Fault> {
        let row = view.present_row(height)?;
        Ok(Self::by(&texts(view, height, &row)?))
    }

    /// By what is hashed.
    pub fn by(texts: &Texts) -> Self {
        Self {
            v1: spcommit::commitment(&texts.v1),
            v2: texts.v2.as_ref().map(|text| spcommit::commitment(text)),
        }
    }
}

pub(super) fn texts(view: &View, height: u32, row: &BlockRow) -> Result<Texts, Fault> {
    let id = row.id(height);
    let tweaks = view.compressed(row.transactions.range())?;
    let v2 = match view.kept() {
        Some(full) => {
            let txids = view.txids(full, row.transactions)?;
            let outputs = view.outputs_of(full, row)?;
            let outputs = outputs
                .iter()
                .map(|output| (output.index, &output.item.key));
            // Without their spenders, which a file that is being upgraded does not have.
            let spends = view.spent_rows(full, row)?;
            Some(text_v2(id, &tweaks, txids, outputs, &spends))
        }
        None => None,
    };
    Ok(Texts {
        v1: spcommit::text_v1(id.height, &id.hash, &tweaks),
        v2,
    })
}

/// `outputs` with the index of the transaction that each belongs to.
fn text_v2<'k>(
    id: BlockId,
    tweaks: &[CompressedTweak],
    txids: impl IntoIterator<Item = Txid>,
    outputs: impl Iterator<Item = (usize, &'k [u8; 32])>,
    spends: &[SpendRow],
) -> Vec<u8> {
    let rows = txids.into_iter().zip(tweaks);
    let mut transactions: Vec<spcommit::Transaction> = rows
        .map(|(txid, tweak)| spcommit::Transaction {
            txid,
            tweak: *tweak,
            key_prefixes: Vec::new(),
        })
        .collect();
    for (index, key) in outputs {
        if let Some(transaction) = transactions.get_mut(index) {
            transaction.key_prefixes.push(key_prefix(key));
        }
    }
    let spent: Vec<[u8; 8]> = spends.iter().map(|spend| spend.key_prefix).collect();
    spcommit::text_v2(id.height, &id.hash, &transactions, &spent)
}

/// The heads from one block on.
pub(super) struct Roll {
    /// Where the chains begin.
    first: Option<u32>,
    /// Of the block before the next one.
    before: Option<Heads>,
}

impl Roll {
    /// From the start of the chains on.
    pub(super) const fn start(first: u32) -> Self {
        Self {
            first: Some(first),
            before: None,
        }
    }

    /// From the child of a block on, or from the first block.
    pub(super) fn from(view: &View, parent: Option<BlockId>) -> Result<Self, Fault> {
        let first = first_height(&view.meta);
        let before = match (first, parent) {
            (Some(first), Some(parent)) if parent.height >= first => {
                let heads = view.heads(parent.height)?;
                Some(heads.ok_or_else(|| Fault::row("heads_v1", parent.height, "missing"))?)
            }
            _ => None,
        };
        Ok(Self { first, before })
    }

    /// The heads at the next block; `None` below the start of the chains.
    pub(super) fn next(&mut self, height: u32, commitments: &Commitments) -> Option<Heads> {
        self.first.filter(|first| *first <= height)?;
        let heads = Heads::next(self.before, commitments);
        self.before = Some(heads);
        Some(heads)
    }
}

impl View {
    /// The heads at a height; `None` where there are none.
    pub(super) fn heads(&self, height: u32) -> Result<Option<Heads>, Fault> {
        let Some(v1) = self.heads_v1()?.get(height)?.map(|row| *row.value()) else {
            return Ok(None);
        };
        let v2 = match self.kept() {
            Some(full) => {
                let row = full.heads_v2()?.get(height)?;
                let row = row.ok_or_else(|| Fault::row("heads_v2", height, "missing"))?;
                Some(*row.value())
            }
            None => None,
        };
        Ok(Some(Heads { v1, v2 }))
    }
}
