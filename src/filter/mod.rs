//! Golomb-coded sets (BIP158 coding, duplicates kept) over taproot outputs: build and match.

mod gcs;
pub mod taproot;

pub use gcs::FilterError;
pub use taproot::{new_utxos_filter, spent_filter, spent_item};

use bitcoin::BlockHash;

use gcs::FilterKey;

/// The filter of `block` over any elements, repeats included, serialized: a CompactSize count and the bit stream,
/// `00` for no element. [`new_utxos_filter`] and [`spent_filter`] are this for their elements.
pub fn build<E: AsRef<[u8]>>(block: &BlockHash, elements: &[E]) -> Vec<u8> {
    gcs::encode(FilterKey::of(block), elements)
}

/// How many elements a filter holds, repeats included.
///
/// # Errors
/// A count that is none, or that the stream cannot hold.
pub fn element_count(filter: &[u8]) -> Result<u64, FilterError> {
    gcs::element_count(filter)
}

/// Positions in `queries`, ascending, of the elements the filter of `block` probably holds: all that it does hold,
/// and others at a rate of 1/784931 each.
///
/// Queries are x-only output keys (32 bytes) for a new-UTXOs filter, [`spent_item`]s for a spent filter.
///
/// # Errors
/// A filter whose count and stream do not fit each other. Without queries only the count is checked.
pub fn matches<Q: AsRef<[u8]>>(
    filter: &[u8],
    block: &BlockHash,
    queries: &[Q],
) -> Result<Vec<usize>, FilterError> {
    gcs::matches(FilterKey::of(block), filter, queries)
}
