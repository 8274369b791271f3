#![doc = include_str!("../../docs/schema.md")]

use bitcoin::hashes::{Hash, siphash24};
use bitcoin::{BlockHash, OutPoint, Txid, block::Header, consensus};
use redb::TableDefinition;

use super::column::Column;
use super::position::OutputPosition;
use super::record::{SpendRow, Spender};
use crate::BlockId;

/// Format of the files that are written. Raised whenever a table, a key or a row is added or changes its meaning.
pub const SCHEMA_VERSION: u32 = 7;
/// Oldest format that is read, to be migrated.
pub const SCHEMA_OLDEST: u32 = 1;

/// Name to value: see [`meta`](self).
pub const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
/// Height to [`BlockRow`].
pub const BLOCKS: TableDefinition<'static, u32, &[u8; BlockRow::BYTES]> =
    TableDefinition::new("blocks");
/// [`HeightKey`] to nothing: all is in the key.
pub const HEIGHTS: TableDefinition<'static, &HeightKey, ()> = TableDefinition::new("heights");
/// Height to the rolling commitment ([`roll_digest`](super::roll_digest)).
pub const DIGEST: TableDefinition<'static, u32, &[u8; 32]> = TableDefinition::new("digest");
/// [`LocatorKey`] to nothing: all is in the key.
pub const LOCATOR: TableDefinition<'static, &LocatorKey, ()> = TableDefinition::new("locator");

/// Per eligible transaction its tweak as a point: x then y, big-endian. Only in a file of
/// [`TweakForm::Point`](super::TweakForm).
pub const TWEAKS: Column = Column::new("tweaks", 64, 255);
/// Per eligible transaction its tweak as 33 compressed bytes. Only in a file of
/// [`TweakForm::Compressed`](super::TweakForm).
pub const COMPRESSED: Column = Column::new("compressed", 33, 496);
/// Per eligible transaction the multiple 2^[`MULTIPLES_POWER`]·T of its tweak T: x then y, big-endian. Only in a file
/// with multiples.
pub const MULTIPLES: Column = Column::new("multiples", 64, 255);
/// Which multiple of a tweak is stored with it: 2 to this power, as [`Engine::multiples`](crate::curve::Engine) has it.
pub const MULTIPLES_POWER: u32 = 64;
/// Per eligible transaction its txid, internal order.
pub const TXIDS: Column = Column::new("txids", 32, 511);
/// Per eligible transaction how many outputs of its block stand before its own, u16 little-endian.
pub const FIRSTS: Column = Column::new("firsts", 2, 8_186);
/// Per taproot output of an eligible transaction an [`OutputItem`].
pub const OUTPUTS: Column = Column::new("outputs", OutputItem::BYTES, 399);
/// Per spent taproot outpoint a [`SpendItem`].
pub const SPENDS: Column = Column::new("spends", SpendItem::BYTES, 3_274);
/// Per spent taproot outpoint that is no position in `outputs` a [`SpendRow`].
pub const FOREIGN: Column = Column::new("foreign", SpendRow::BYTES, 372);
/// Per spent taproot outpoint a [`SpenderItem`].
pub const SPENDERS: Column = Column::new("spenders", SpenderItem::BYTES, 4_093);
/// Both filters of every block, new-UTXOs before spent.
pub const FILTERS: Column = Column::new("filters", 1, 16_372);
/// Bitmap over `outputs`; bit `position % 8` (least significant first) of byte `position / 8` is set
/// once the output is spent. A small chunk, because single bits change.
pub const SPENT: Column = Column::new("spent", 1, 4_080);
/// Outputs per chunk of [`SPENT`].
pub const SPENT_CHUNK_BITS: u64 = 8 * 4_080;

/// Per output from the first one on whose locator was left for later its [mark](LocatorHasher::mark), little-endian.
/// Only during a long sync.
pub const MARKS: Column = Column::new("marks", 8, 2_046);

/// Transactions an index can hold.
pub const TRANSACTIONS_MAX: u64 = 1 << 40;
/// Outputs an index can hold: positions have 5 bytes, and the last one of those stands for a foreign spend.
pub const OUTPUTS_MAX: u64 = (1 << 40) - 1;

/// Most transactions or spends of one block: far above what 4 million weight units hold. Bounds what a damaged
/// directory row can make a reader allocate.
pub const BLOCK_ITEMS_MAX: u32 = 1 << 20;
/// Most taproot outputs of one block: `firsts` has 2 bytes. 4 million weight units hold 23,255 of them (43 bytes each).
pub const BLOCK_OUTPUTS_MAX: u32 = (1 << 16) - 1;
/// Most bytes of one filter: 16 for each of [`BLOCK_ITEMS_MAX`] elements.
pub const FILTER_BYTES_MAX: u32 = 1 << 24;
/// Largest amount of an output in satoshi: it has 51 bits. All bitcoin there will ever be are 2.1·10^15, below 2^51.
pub const VALUE_MAX: u64 = (1 << VALUE_BITS) - 1;
/// Largest vout: it has 21 bits. 4 million weight units hold 111,111 outputs (9 bytes each).
pub const VOUT_MAX: u32 = (1 << 21) - 1;

const VALUE_BITS: u32 = 51;

/// Bytes that are no row of the table they stand in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Too short or too long.
    #[error("{found} bytes where {expected} were expected")]
    Length {
        /// Length found.
        found: usize,
        /// Length of every row of the table.
        expected: usize,
    },
    /// The right length, the wrong content.
    #[error("{0}")]
    Value(&'static str),
}

/// A range of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Position of the first item.
    pub first: u64,
    /// Number of items.
    pub count: u32,
}

impl Span {
    /// Position behind the last item.
    pub const fn end(&self) -> u64 {
        self.first + self.count as u64
    }

    /// The positions.
    pub const fn range(&self) -> std::ops::Range<u64> {
        self.first..self.end()
    }
}

/// Lengths of all columns at some block: where the next block's ranges start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ends {
    /// Items of the columns that have one per eligible transaction.
    pub transactions: u64,
    /// Items of `outputs`, bits of `spent`.
    pub outputs: u64,
    /// Items of `spends`.
    pub spends: u64,
    /// Items of `foreign`.
    pub foreign: u64,
    /// Bytes of `filters`.
    pub filter_bytes: u64,
}

/// Directory row of one block, 176 bytes:
/// header 80, hash 32 (internal order), then for transactions, outputs, spends and foreign spends each the first position
/// (u64 LE) and the count (u32 LE), then the first byte of its filters (u64 LE) and the lengths of the new-UTXOs
/// filter and of the spent filter (u32 LE each).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRow {
    /// The header.
    pub header: Header,
    /// Its hash.
    pub hash: BlockHash,
    /// Range of the columns that have an item per eligible transaction.
    pub transactions: Span,
    /// Range of `outputs` and of the bits of `spent`.
    pub outputs: Span,
    /// Range of `spends`.
    pub spends: Span,
    /// Range of `foreign`.
    pub foreign: Span,
    /// Range of `filters` that is the new-UTXOs filter.
    pub new_utxos_filter: Span,
    /// Range of `filters` that is the spent filter: right behind the other.
    pub spent_filter: Span,
}

impl BlockRow {
    /// Length of a row.
    pub const BYTES: usize = 80 + 32 + 4 * 12 + 8 + 4 + 4;

    /// Where the next block's ranges start.
    pub const fn ends(&self) -> Ends {
        Ends {
            transactions: self.transactions.end(),
            outputs: self.outputs.end(),
            spends: self.spends.end(),
            foreign: self.foreign.end(),
            filter_bytes: self.spent_filter.end(),
        }
    }

    /// Where this block's ranges start.
    pub const fn starts(&self) -> Ends {
        Ends {
            transactions: self.transactions.first,
            outputs: self.outputs.first,
            spends: self.spends.first,
            foreign: self.foreign.first,
            filter_bytes: self.new_utxos_filter.first,
        }
    }

    /// The row's bytes.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.extend_from_slice(&consensus::serialize(&self.header));
        bytes.extend_from_slice(self.hash.as_byte_array());
        for span in [self.transactions, self.outputs, self.spends, self.foreign] {
            bytes.extend_from_slice(&span.first.to_le_bytes());
            bytes.extend_from_slice(&span.count.to_le_bytes());
        }
        bytes.extend_from_slice(&self.new_utxos_filter.first.to_le_bytes());
        bytes.extend_from_slice(&self.new_utxos_filter.count.to_le_bytes());
        bytes.extend_from_slice(&self.spent_filter.count.to_le_bytes());
        let mut row = [0; Self::BYTES];
        row.copy_from_slice(&bytes);
        row
    }

    /// Reads a row.
    ///
    /// # Errors
    /// A wrong length; counts beyond what a block, or positions beyond what a column can hold.
    pub fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        let mut fields = Fields::of(bytes, Self::BYTES)?;
        let header = consensus::deserialize(&fields.take::<80>()?)
            .map_err(|_| RowError::Value("no block header"))?;
        let hash = BlockHash::from_byte_array(fields.take()?);
        let transactions = fields.span(BLOCK_ITEMS_MAX, TRANSACTIONS_MAX)?;
        let outputs = fields.span(BLOCK_OUTPUTS_MAX, OUTPUTS_MAX)?;
        let spends = fields.span(BLOCK_ITEMS_MAX, OUTPUTS_MAX)?;
        let foreign = fields.span(spends.count, OUTPUTS_MAX)?;
        let new_utxos_filter = fields.span(FILTER_BYTES_MAX, OUTPUTS_MAX)?;
        let spent_filter = Span {
            first: new_utxos_filter.end(),
            count: u32::from_le_bytes(fields.take()?),
        };
        if spent_filter.count > FILTER_BYTES_MAX {
            return Err(RowError::Value("a filter longer than a block's can be"));
        }
        Ok(Self {
            header,
            hash,
            transactions,
            outputs,
            spends,
            foreign,
            new_utxos_filter,
            spent_filter,
        })
    }

    /// First position in `outputs` of the block whose row begins so; for a quick look at many rows.
    pub(super) fn outputs_first(bytes: &[u8; Self::BYTES]) -> u64 {
        let first = bytes[124..].first_chunk();
        first.map_or(0, |first| u64::from_le_bytes(*first))
    }

    /// Positions of its outputs.
    pub fn output_positions(&self) -> impl Iterator<Item = OutputPosition> + use<> {
        self.outputs.range().map(OutputPosition)
    }

    /// Whether an output at a position is one of its own.
    pub fn has_output(&self, position: OutputPosition) -> bool {
        self.outputs.range().contains(&position.0)
    }

    /// Height and hash, given the key.
    pub const fn id(&self, height: u32) -> BlockId {
        BlockId {
            height,
            hash: self.hash,
        }
    }
}

/// Item of `outputs`, 41 bytes: x-only key 32, then 9 bytes little-endian: in the 51 low bits the amount in satoshi, in
/// the 21 above the vout. Its transaction follows from `firsts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputItem {
    /// x-only output key.
    pub key: [u8; 32],
    /// Amount in satoshi, at most [`VALUE_MAX`].
    pub value_sat: u64,
    /// Index among all outputs of its transaction, at most [`VOUT_MAX`].
    pub vout: u32,
}

impl OutputItem {
    /// Length of an item.
    pub const BYTES: usize = 41;

    /// First bytes of the key, as a spend has them.
    pub const fn key_prefix(&self) -> [u8; 8] {
        key_prefix(&self.key)
    }

    /// The item's bytes.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        debug_assert!(self.value_sat <= VALUE_MAX && self.vout <= VOUT_MAX);
        let packed = u128::from(self.vout) << VALUE_BITS | u128::from(self.value_sat);
        let mut bytes = [0; Self::BYTES];
        bytes[..32].copy_from_slice(&self.key);
        bytes[32..].copy_from_slice(&packed.to_le_bytes()[..9]);
        bytes
    }

    /// Reads an item.
    ///
    /// # Errors
    /// A wrong length.
    pub fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        let mut fields = Fields::of(bytes, Self::BYTES)?;
        let key = fields.take()?;
        let mut packed = [0; 16];
        packed[..9].copy_from_slice(&fields.take::<9>()?);
        let packed = u128::from_le_bytes(packed);
        Ok(Self {
            key,
            value_sat: packed as u64 & VALUE_MAX,
            vout: (packed >> VALUE_BITS) as u32,
        })
    }
}

/// Item of `spends`, 5 bytes big-endian: the position in `outputs` of what was spent, or [`OUTPUTS_MAX`] for the next
/// row of `foreign`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpendItem {
    /// An output of the index, unspent until then.
    Held(OutputPosition),
    /// Anything else: of a transaction that is not eligible, or older than the first height.
    Foreign,
}

impl SpendItem {
    /// Length of an item.
    pub const BYTES: usize = POSITION_BYTES;

    /// The item's bytes.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        match self {
            Self::Held(OutputPosition(position)) => {
                debug_assert!(*position < OUTPUTS_MAX);
                encode_position(*position)
            }
            Self::Foreign => encode_position(OUTPUTS_MAX),
        }
    }

    /// Reads an item.
    pub fn decode(bytes: [u8; Self::BYTES]) -> Self {
        match decode_position(bytes) {
            OUTPUTS_MAX => Self::Foreign,
            position => Self::Held(OutputPosition(position)),
        }
    }
}

/// Item of `spenders`, 4 bytes little-endian: index of the spending transaction in its block, then of the input in it; or
/// `ff ff ff ff` where the spender is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpenderItem(pub Option<Spender>);

impl SpenderItem {
    /// Length of an item.
    pub const BYTES: usize = 4;
    /// Of a spender that is not known.
    pub const UNKNOWN: [u8; Self::BYTES] = [0xff; Self::BYTES];

    /// The item's bytes.
    pub const fn encode(self) -> [u8; Self::BYTES] {
        match self.0 {
            Some(spender) => {
                let [t0, t1] = spender.transaction.to_le_bytes();
                let [i0, i1] = spender.input.to_le_bytes();
                [t0, t1, i0, i1]
            }
            None => Self::UNKNOWN,
        }
    }

    /// Reads an item.
    pub const fn decode([t0, t1, i0, i1]: [u8; Self::BYTES]) -> Self {
        let spender = Spender {
            transaction: u16::from_le_bytes([t0, t1]),
            input: u16::from_le_bytes([i0, i1]),
        };
        // No block has so many transactions.
        Self(if spender.transaction == u16::MAX {
            None
        } else {
            Some(spender)
        })
    }
}

impl SpendRow {
    /// Length of an item of `foreign`: txid 32 (internal order), vout u32 LE, key prefix 8.
    pub const BYTES: usize = 44;

    /// The item's bytes.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..36].copy_from_slice(&outpoint_bytes(&self.outpoint));
        bytes[36..].copy_from_slice(&self.key_prefix);
        bytes
    }

    /// Reads an item.
    ///
    /// # Errors
    /// A wrong length.
    pub fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        let mut fields = Fields::of(bytes, Self::BYTES)?;
        Ok(Self {
            outpoint: OutPoint {
                txid: Txid::from_byte_array(fields.take()?),
                vout: u32::from_le_bytes(fields.take()?),
            },
            key_prefix: fields.take()?,
            created: None,
            spender: None,
        })
    }
}

/// Length of an output position in `spends` and `locator`: big-endian, so that byte order is position order.
pub const POSITION_BYTES: usize = 5;

fn encode_position(position: u64) -> [u8; POSITION_BYTES] {
    let [_, _, _, bytes @ ..] = position.to_be_bytes();
    bytes
}

fn decode_position(bytes: [u8; POSITION_BYTES]) -> u64 {
    let mut wide = [0; 8];
    wide[8 - POSITION_BYTES..].copy_from_slice(&bytes);
    u64::from_be_bytes(wide)
}

/// Key of `heights`, 12 bytes: the first 8 of the block hash (internal order, so those that proof of work leaves
/// random), then the height (u32, big-endian). Hashes that begin alike stand side by side.
pub type HeightKey = [u8; 12];

/// The key of a block.
pub fn height_key(hash: &BlockHash, height: u32) -> HeightKey {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&hash.as_byte_array()[..8]);
    key[8..].copy_from_slice(&height.to_be_bytes());
    key
}

/// The height in a key.
pub fn height_of_key(key: &HeightKey) -> u32 {
    let [.., h0, h1, h2, h3] = *key;
    u32::from_be_bytes([h0, h1, h2, h3])
}

/// Length of the hash in a [`LocatorKey`].
const LOCATOR_HASH_BYTES: usize = 5;
/// Hashes of outpoints are below this.
const LOCATOR_HASHES: u64 = 1 << (8 * LOCATOR_HASH_BYTES);

/// Key of `locator`, 10 bytes: hash of the outpoint (5 bytes, big-endian), then the output's position (5 bytes,
/// big-endian). Outpoints that collide stand side by side.
pub type LocatorKey = [u8; LOCATOR_HASH_BYTES + POSITION_BYTES];

/// SipHash-2-4 of outpoints under the file's own random key, so that nobody can choose outpoints that collide.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LocatorHasher {
    key: [u8; 16],
}

impl LocatorHasher {
    /// With the file's key: two u64, little-endian.
    pub const fn new(key: [u8; 16]) -> Self {
        Self { key }
    }

    /// The key in `meta`.
    pub const fn key(&self) -> &[u8; 16] {
        &self.key
    }

    /// Hash over txid (internal order) and vout (little-endian), of 64 bits.
    pub fn mark(&self, outpoint: &OutPoint) -> u64 {
        let key = u128::from_le_bytes(self.key);
        siphash24::Hash::hash_to_u64_with_keys(
            key as u64,
            (key >> 64) as u64,
            &outpoint_bytes(outpoint),
        )
    }

    /// The low 40 bits of it.
    pub fn hash(&self, outpoint: &OutPoint) -> u64 {
        hash_of_mark(self.mark(outpoint))
    }

    /// Key of an unspent output.
    pub fn locate(&self, outpoint: &OutPoint, position: OutputPosition) -> LocatorKey {
        locator_key(self.hash(outpoint), position)
    }
}

/// The hash of 40 bits that a locator has of an outpoint with this mark.
pub const fn hash_of_mark(mark: u64) -> u64 {
    mark % LOCATOR_HASHES
}

/// Joins hash and position.
pub fn locator_key(hash: u64, position: OutputPosition) -> LocatorKey {
    let mut key = [0; LOCATOR_HASH_BYTES + POSITION_BYTES];
    let (front, back) = key.split_at_mut(LOCATOR_HASH_BYTES);
    front.copy_from_slice(&encode_position(hash));
    back.copy_from_slice(&encode_position(position.0));
    key
}

/// Splits a key in hash and position.
pub fn split_locator_key(key: &LocatorKey) -> (u64, OutputPosition) {
    let [h0, h1, h2, h3, h4, position @ ..] = *key;
    (
        decode_position([h0, h1, h2, h3, h4]),
        OutputPosition(decode_position(position)),
    )
}

/// What a spend says of the key it spends: its first 8 bytes.
pub const fn key_prefix(key: &[u8; 32]) -> [u8; 8] {
    let [k0, k1, k2, k3, k4, k5, k6, k7, ..] = *key;
    [k0, k1, k2, k3, k4, k5, k6, k7]
}

/// txid (internal order), then vout (little-endian).
pub fn outpoint_bytes(outpoint: &OutPoint) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[..32].copy_from_slice(outpoint.txid.as_byte_array());
    bytes[32..].copy_from_slice(&outpoint.vout.to_le_bytes());
    bytes
}

/// Takes fixed fields off the front of a row whose length was checked, or that ends with a field of any length.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Of a row of any length.
    pub(super) const fn over(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    /// What was not taken.
    pub(super) const fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), RowError> {
        match self.rest.len() {
            0 => Ok(()),
            found => Err(RowError::Length { found, expected: 0 }),
        }
    }

    fn of(bytes: &'a [u8], expected: usize) -> Result<Self, RowError> {
        if bytes.len() != expected {
            return Err(RowError::Length {
                found: bytes.len(),
                expected,
            });
        }
        Ok(Self { rest: bytes })
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], RowError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(RowError::Length {
            found: self.rest.len(),
            expected: N,
        })?;
        self.rest = rest;
        Ok(*field)
    }

    fn span(&mut self, count_max: u32, end_max: u64) -> Result<Span, RowError> {
        let first = u64::from_le_bytes(self.take()?);
        let count = u32::from_le_bytes(self.take()?);
        if count > count_max {
            return Err(RowError::Value("more items than a block can have"));
        }
        match first.checked_add(u64::from(count)) {
            Some(end) if end <= end_max => Ok(Span { first, count }),
            _ => Err(RowError::Value("a range beyond what its column can hold")),
        }
    }
}

#[cfg(test)]
mod tests;
