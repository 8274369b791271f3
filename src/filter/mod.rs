//! Golomb-coded sets (BIP158 coding, duplicates kept) over taproot outputs: build and match.

mod gcs;
pub mod taproot;

pub use gcs::FilterError;
pub use taproot::{new_utxos_filter, spent_filter, spent_item};

use bitcoin::BlockHash;

use gcs::FilterKey;

/// Which of the two filters of a block is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FilterKind {
    /// Over the x-only keys of all taproot outputs created.
    NewUtxos,
    /// Over the 8-byte items of all taproot outpoints spent.
    Spent,
}

/// The elements of the filter of one block, read once for any number of queries.
#[derive(Debug)]
pub struct Elements(gcs::Elements);

impl Elements {
    /// Reads the whole filter. Takes some four times its bytes.
    ///
    /// # Errors
    /// A filter whose count and stream do not fit each other.
    pub fn read(filter: &[u8], block: &BlockHash) -> Result<Self, FilterError> {
        gcs::Elements::read(FilterKey::of(block), filter).map(Self)
    }

    /// Whether the filter probably holds the element: always if it does, and else once in 784931 times.
    pub fn contains(&self, element: &[u8]) -> bool {
        self.0.count(element) > 0
    }

    /// Whether the filter holds the element, or one that looks like it, oftener than these elements account for, each
    /// of which is in the filter. If not, it is not in the filter, or one of them.
    pub fn holds_besides<E: AsRef<[u8]>>(&self, element: &[u8], accounted_for: &[E]) -> bool {
        let alike = accounted_for.iter();
        let alike = alike.filter(|other| self.0.is_alike(element, other.as_ref()));
        self.0.count(element) > alike.count()
    }
}

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
