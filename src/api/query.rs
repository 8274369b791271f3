//! Requests and answers without a transport: what the index says, as plain values over one [`Snapshot`].
//!
//! Every dialect decodes into these functions. A caller first looks its block up ([`block`]) and passes the entry
//! on, so a list can only be asked of a block that is indexed.

use bitcoin::hashes::Hash;
use bitcoin::{Network, Txid};

use super::error::QueryError;
use crate::BlockId;
use crate::curve::Engine;
use crate::filter::spent_item;
use crate::store::snapshot::{BlockEntry, RowFilter, Utxo};
use crate::store::{Keep, Snapshot, SpendRow};

/// Parses a height the strict way: ASCII decimal digits only, `0..=u32::MAX`; leading zeros are fine.
///
/// # Errors
/// [`QueryError::HeightSyntax`] for a sign, a space, other digits, nothing at all, or a number too large.
pub fn parse_height(text: &str) -> Result<u32, QueryError> {
    decimal(text).ok_or(QueryError::HeightSyntax)
}

/// Parses a dust limit in satoshi by the rules of [`parse_height`], up to `u64::MAX`; absent is 0.
///
/// # Errors
/// [`QueryError::DustLimitSyntax`].
pub fn parse_dust_limit(text: Option<&str>) -> Result<u64, QueryError> {
    text.map_or(Ok(0), |text| {
        decimal(text).ok_or(QueryError::DustLimitSyntax)
    })
}

/// Rust's own integer parser takes a leading `+`, which no other decimal parser of this protocol does.
fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(())?;
    text.parse().ok()
}

/// What the server is and how far its index reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Network of the index.
    pub network: Network,
    /// The last block whose data can be served.
    pub tip: BlockId,
    /// What the index keeps, and so which requests it can answer.
    pub keep: Keep,
}

/// Network and tip.
///
/// # Errors
/// [`QueryError::NothingIndexed`] for an empty index.
pub fn info(snapshot: &Snapshot) -> Result<Info, QueryError> {
    Ok(Info {
        network: snapshot.network(),
        tip: snapshot.tip().ok_or(QueryError::NothingIndexed)?,
        keep: snapshot.keep(),
    })
}

/// The indexed block at a height.
///
/// # Errors
/// [`QueryError::UnknownHeight`] below the first indexed height and above the tip; [`QueryError::NothingIndexed`] before
/// there is any block.
pub fn block(snapshot: &Snapshot, height: u32) -> Result<BlockEntry, QueryError> {
    match snapshot.block(height)? {
        Some(block) => Ok(block),
        None if snapshot.tip().is_none() => Err(QueryError::NothingIndexed),
        None => Err(QueryError::UnknownHeight { height }),
    }
}

/// Which list of a block's tweaks is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TweakList {
    /// Every eligible transaction, in block order; never changes.
    Full,
    /// Transactions that still have an unspent taproot output, sorted by txid in display order.
    CutThrough,
}

/// Tweaks of a block, 33 bytes each (SEC1 compressed). Kept are transactions whose highest taproot output (highest
/// unspent one with [`TweakList::CutThrough`]) reaches `dust_limit_sat`.
///
/// # Errors
/// Faults of the store.
pub fn tweaks(
    snapshot: &Snapshot,
    block: &BlockEntry,
    list: TweakList,
    dust_limit_sat: u64,
) -> Result<Vec<[u8; 33]>, QueryError> {
    let filter = RowFilter {
        dust_limit_sat,
        cut_through: list == TweakList::CutThrough,
    };
    let height = block.id.height;
    match list {
        // In the order of the block, for which an index needs nothing but tweaks.
        TweakList::Full => present(block, "tweaks", snapshot.tweak_list(height, filter)?),
        TweakList::CutThrough => {
            let rows = snapshot.compressed_tweaks(height, filter)?;
            let mut rows = present(block, "tweaks", rows)?;
            rows.sort_unstable_by_key(|(txid, _)| display_bytes(txid));
            Ok(rows.into_iter().map(|(_, tweak)| tweak).collect())
        }
    }
}

/// Taproot outputs of the block's eligible transactions that still have an unspent one (spent siblings included),
/// sorted by txid in display order, then vout.
///
/// Those whose key is no point of the curve are left out: nobody can have been paid by them, nobody can spend them, and there
/// are clients that go no further once they meet one.
///
/// # Errors
/// Faults of the store.
pub fn utxos(
    snapshot: &Snapshot,
    block: &BlockEntry,
    engine: &dyn Engine,
) -> Result<Vec<Utxo>, QueryError> {
    let filter = RowFilter {
        dust_limit_sat: 0,
        cut_through: true,
    };
    let mut rows = present(block, "outputs", snapshot.utxos(block.id.height, filter)?)?;
    let keys: Vec<[u8; 33]> = rows.iter().map(|utxo| with_even_y(&utxo.key)).collect();
    // What an engine finds absent is compared with libsecp256k1 at once, so nothing of anybody's is left out.
    let mut points = engine.decompress(&keys).into_iter();
    rows.retain(|_| points.next().flatten().is_some());
    rows.sort_unstable_by_key(|utxo| (display_bytes(&utxo.txid), utxo.vout));
    Ok(rows)
}

/// An x-only key as the compressed point that it stands for.
fn with_even_y(key: &[u8; 32]) -> [u8; 33] {
    let mut bytes = [2; 33];
    bytes[1..].copy_from_slice(key);
    bytes
}

/// Which filter of a block is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterKind {
    /// Over the x-only keys of all taproot outputs created.
    NewUtxos,
    /// Over the 8-byte items of all taproot outpoints spent.
    Spent,
}

/// A serialized filter: CompactSize count, then the bit stream; the one byte 0 for no elements.
///
/// # Errors
/// [`QueryError::FilterStore`], [`QueryError::Incomplete`].
pub fn filter(
    snapshot: &Snapshot,
    block: &BlockEntry,
    kind: FilterKind,
) -> Result<Vec<u8>, QueryError> {
    let height = block.id.height;
    let (what, filter) = match kind {
        FilterKind::NewUtxos => ("new-UTXOs filter", snapshot.new_utxos_filter(height)),
        FilterKind::Spent => ("spent filter", snapshot.spent_filter(height)),
    };
    let filter = filter.map_err(|error| match QueryError::from(error) {
        QueryError::Store(error) => QueryError::FilterStore(error),
        error => error,
    });
    let filter = present(block, what, filter?)?;
    // The filter of no element has a count too. What is damaged must not say that there is nothing.
    if filter.is_empty() {
        return Err(QueryError::Incomplete {
            block: block.id,
            what,
        });
    }
    Ok(filter)
}

/// The block's spent taproot outpoints in block order.
///
/// # Errors
/// Faults of the store.
pub fn spends(snapshot: &Snapshot, block: &BlockEntry) -> Result<Vec<SpendRow>, QueryError> {
    present(block, "spends", snapshot.spends(block.id.height)?)
}

/// The block's spent index: an item of 8 bytes ([`spent_item`]) per spent taproot outpoint, in block order.
///
/// # Errors
/// Faults of the store.
pub fn spent_index(snapshot: &Snapshot, block: &BlockEntry) -> Result<Vec<[u8; 8]>, QueryError> {
    Ok(spends(snapshot, block)?
        .iter()
        .map(|spend| spent_item(&spend.outpoint, &block.id.hash))
        .collect())
}

/// The rolling commitment over all tweaks up to the block.
///
/// # Errors
/// Faults of the store.
pub fn digest(snapshot: &Snapshot, block: &BlockEntry) -> Result<[u8; 32], QueryError> {
    present(block, "digest", snapshot.digest(block.id.height)?)
}

/// Rows of a block that the same snapshot says is indexed are there, unless the file is damaged.
fn present<T>(block: &BlockEntry, what: &'static str, rows: Option<T>) -> Result<T, QueryError> {
    rows.ok_or(QueryError::Incomplete {
        block: block.id,
        what,
    })
}

/// A txid in the byte order it is shown in, which is also the order the lists are sorted by.
fn display_bytes(txid: &Txid) -> [u8; 32] {
    let mut bytes = txid.to_byte_array();
    bytes.reverse();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_are_strict_decimals() {
        for (text, height) in [
            ("0", 0),
            ("5", 5),
            ("05", 5),
            ("00000000000000000000005", 5),
            ("4294967295", u32::MAX),
        ] {
            assert_eq!(parse_height(text).ok(), Some(height), "{text:?}");
        }
        for text in [
            "",
            "+5",
            "-1",
            "-0",
            " 5",
            "5 ",
            "5.0",
            "1e3",
            "0x5",
            "1_000",
            "4294967296",
            "٥",
            "５",
            "\u{0}5",
            "tip",
        ] {
            assert!(
                matches!(parse_height(text), Err(QueryError::HeightSyntax)),
                "{text:?}"
            );
        }
    }

    #[test]
    fn dust_limits_are_strict_decimals_or_absent() {
        for (text, limit) in [
            (None, 0),
            (Some("0"), 0),
            (Some("0600"), 600),
            (Some("18446744073709551615"), u64::MAX),
        ] {
            assert_eq!(parse_dust_limit(text).ok(), Some(limit), "{text:?}");
        }
        for text in ["", "+1", "-1", " 1", "1.5", "18446744073709551616", "null"] {
            assert!(
                matches!(
                    parse_dust_limit(Some(text)),
                    Err(QueryError::DustLimitSyntax)
                ),
                "{text:?}"
            );
        }
    }
}
