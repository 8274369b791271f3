//! The rows of a state file.

use std::ops::RangeInclusive;

use bitcoin::hashes::Hash;
use bitcoin::hex::{DisplayHex, FromHex};
use bitcoin::{BlockHash, Network, OutPoint, Txid};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Identity, WalletId};

/// What scanned heights have been scanned for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::client) struct Coverage {
    pub(in crate::client) labels: Labels,
    pub(in crate::client) dust_limit_sat: u64,
    pub(in crate::client) cut_through: bool,
}

impl Coverage {
    /// Whether a scan for `self` has also found all that one for `other` would.
    pub(in crate::client) fn covers(&self, other: &Self) -> bool {
        self.labels.contain(&other.labels)
            && self.dust_limit_sat <= other.dust_limit_sat
            && (other.cut_through || !self.cut_through)
    }
}

/// Numbers of labels as runs, since they may be a hundred thousand in one: ascending, apart from each other. In a file a
/// run is `[first, last]`, or the number where it is only one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::client) struct Labels(Vec<RangeInclusive<u32>>);

impl Labels {
    fn contain(&self, other: &Self) -> bool {
        other.0.iter().all(|run| {
            let at = self.0.partition_point(|own| own.end() < run.start());
            self.0
                .get(at)
                .is_some_and(|own| own.start() <= run.start() && own.end() >= run.end())
        })
    }
}

impl FromIterator<u32> for Labels {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        numbers.into_iter().map(|m| m..=m).collect()
    }
}

impl FromIterator<RangeInclusive<u32>> for Labels {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u32>>>(runs: I) -> Self {
        let mut runs: Vec<_> = runs.into_iter().filter(|run| !run.is_empty()).collect();
        runs.sort_unstable_by_key(|run| *run.start());
        runs.dedup_by(|later, earlier| {
            let joins = *later.start() <= earlier.end().saturating_add(1);
            if joins {
                *earlier = *earlier.start()..=*earlier.end().max(later.end());
            }
            joins
        });
        Self(runs)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum LabelRun {
    One(u32),
    Run([u32; 2]),
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|run| match (*run.start(), *run.end()) {
            (first, last) if first == last => LabelRun::One(first),
            (first, last) => LabelRun::Run([first, last]),
        }))
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let runs = Vec::<LabelRun>::deserialize(deserializer)?;
        Ok(runs
            .into_iter()
            .map(|run| match run {
                LabelRun::One(m) => m..=m,
                LabelRun::Run([first, last]) => first..=last,
            })
            .collect())
    }
}

/// How far the wallet's scan is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::client) struct Cursor {
    /// First height scanned.
    pub(in crate::client) first: u32,
    /// Next height to scan.
    pub(in crate::client) next: u32,
    /// What the heights in between were scanned for.
    pub(in crate::client) coverage: Coverage,
    /// Heights below this were scanned by a program that kept no [`UnresolvedRow`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::client) unrecorded_below: Option<u32>,
}

impl Cursor {
    /// Last height scanned.
    pub(in crate::client) fn scanned_to(&self) -> Option<u32> {
        (self.next > self.first).then(|| self.next - 1)
    }

    /// Leaves of the heights without a record of what is unresolved those that are scanned.
    pub(super) fn limit_unrecorded(&mut self) {
        let below = self.unrecorded_below.map(|below| below.min(self.next));
        self.unrecorded_below = below.filter(|below| *below > self.first);
    }
}

/// A block whose filter matched though the server listed no output that explains it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::client) struct UnresolvedRow {
    pub(in crate::client) block_hash: BlockHash,
    /// How many matches.
    pub(in crate::client) matches: u32,
    /// The server's tip when it listed the outputs, or a later block on top of it: what spent them is in this block or
    /// below it. `None` if the tip changed meanwhile.
    pub(in crate::client) asked_at: Option<(u32, BlockHash)>,
}

/// The head of the chain of hashes over the columns, as it follows from what a native scan was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) struct HeadRow {
    /// Height of the first block over which it was computed, on what a server told.
    pub(in crate::client) from: u32,
    /// The last one, at which it is the head.
    pub(in crate::client) block_hash: BlockHash,
    pub(in crate::client) head: [u8; 32],
}

impl HeadRow {
    pub(super) fn encode(&self) -> [u8; 68] {
        let mut bytes = [0; 68];
        bytes[..4].copy_from_slice(&self.from.to_le_bytes());
        bytes[4..36].copy_from_slice(self.block_hash.as_byte_array());
        bytes[36..].copy_from_slice(&self.head);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; 68]) -> Self {
        let (mut from, mut block_hash, mut head) = ([0; 4], [0; 32], [0; 32]);
        from.copy_from_slice(&bytes[..4]);
        block_hash.copy_from_slice(&bytes[4..36]);
        head.copy_from_slice(&bytes[36..]);
        Self {
            from: u32::from_le_bytes(from),
            block_hash: BlockHash::from_byte_array(block_hash),
            head,
        }
    }
}

/// An output of the wallet, without what a [`Spend`](crate::client::Spend) row says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::client) struct FoundRow {
    pub(in crate::client) height: u32,
    pub(in crate::client) block_hash: BlockHash,
    pub(in crate::client) value_sat: u64,
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub(in crate::client) key: [u8; 32],
    pub(in crate::client) k: u32,
    pub(in crate::client) label: Option<u32>,
    /// The public tweak.
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub(in crate::client) tweak: [u8; 33],
    /// Next height at which a spend is looked for while that is below the wallet's, as it is for an output that was
    /// found late; `None` once both go together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::client) next: Option<u32>,
}

/// A watched outpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::client) struct WatchedRow {
    /// First height at which a spend is looked for.
    pub(in crate::client) from: u32,
    /// Next height to look at, `None` while that is the cursor's: of an outpoint that lags behind it, or is not followed.
    pub(in crate::client) next: Option<u32>,
}

/// [`Identity`] as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentityRow {
    network: String,
    wallet: Option<String>,
}

impl From<Identity> for IdentityRow {
    fn from(identity: Identity) -> Self {
        Self {
            network: identity.network.to_core_arg().to_owned(),
            wallet: identity.wallet.map(|wallet| wallet.to_string()),
        }
    }
}

impl IdentityRow {
    pub(super) fn identity(&self) -> Option<Identity> {
        let wallet = match &self.wallet {
            Some(text) => Some(WalletId(<[u8; 32]>::from_hex(text).ok()?)),
            None => None,
        };
        Some(Identity {
            network: Network::from_core_arg(&self.network).ok()?,
            wallet,
        })
    }
}

/// Txid in internal order, vout little-endian.
pub(super) fn outpoint_key(outpoint: &OutPoint) -> [u8; 36] {
    let mut key = [0; 36];
    let (txid, vout) = key.split_at_mut(32);
    txid.copy_from_slice(outpoint.txid.as_byte_array());
    vout.copy_from_slice(&outpoint.vout.to_le_bytes());
    key
}

/// The inverse of [`outpoint_key`].
pub(super) fn outpoint(key: &[u8; 36]) -> OutPoint {
    let mut txid = [0; 32];
    let mut vout = [0; 4];
    txid.copy_from_slice(&key[..32]);
    vout.copy_from_slice(&key[32..]);
    OutPoint::new(Txid::from_byte_array(txid), u32::from_le_bytes(vout))
}

fn to_hex<S: Serializer, const N: usize>(
    bytes: &[u8; N],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&bytes.as_slice().as_hex())
}

fn from_hex<'de, D: Deserializer<'de>, const N: usize>(
    deserializer: D,
) -> Result<[u8; N], D::Error> {
    let text = String::deserialize(deserializer)?;
    Vec::from_hex(&text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| D::Error::custom(format!("not {N} bytes of hex")))
}
