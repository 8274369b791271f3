//! What a scan reports. Everything serializes with hashes as hex in display order; nothing in it is secret, though
//! all of it is private: it tells what the wallet owns.

mod changes;
mod wallets;

use bitcoin::hex::DisplayHex;
use bitcoin::{BlockHash, Network, OutPoint, Txid};
use serde::{Deserialize, Serialize, Serializer};

use crate::wire::native::OutpointState;

pub use changes::Event;
pub use wallets::{Reports, WalletEvent, WalletReport};

/// An output of the wallet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Where it is; as text `txid:vout`.
    pub outpoint: OutPoint,
    /// Satoshi.
    pub value_sat: u64,
    /// x-only output key.
    #[serde(serialize_with = "hex")]
    pub key: [u8; 32],
    /// Index k of the payment within its transaction.
    pub k: u32,
    /// Label m, `None` for the plain address; 0 is change.
    pub label: Option<u32>,
    /// The public tweak T of the transaction, compressed. With the scan key, k and m it gives the output's secret
    /// (BIP352: `t_k` from `b_scan·T`); alone it gives nothing.
    #[serde(serialize_with = "hex")]
    pub tweak: [u8; 33],
    /// Height of the block that holds it.
    pub height: u32,
    /// That block.
    pub block_hash: BlockHash,
    /// The spend, if one was found up to the scanned height.
    pub spent: Option<Spend>,
}

/// How an outpoint was spent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spend {
    /// Height of the block with the spending transaction.
    pub height: u32,
    /// That block.
    pub block_hash: BlockHash,
    /// The spending transaction, where the server can tell.
    pub spending_txid: Option<Txid>,
    /// Which of its inputs, where the server can tell.
    pub input: Option<u32>,
    /// For each OP_RETURN output of the spending transaction the bytes pushed (a process tip's state id is one of
    /// them), where the server can tell.
    #[serde(with = "hex_list")]
    pub op_return: Vec<Vec<u8>>,
}

/// Whether an output is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchedState {
    /// It is, and no block that was looked at spends it.
    Unspent,
    /// A block spends it.
    Spent,
    /// Nobody has seen it made, nor spent.
    Unknown,
}

/// A watched outpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Watched {
    /// What is watched; as text `txid:vout`.
    pub outpoint: OutPoint,
    /// Height from which spends were looked for.
    pub from: u32,
    /// Height up to which they were, `None` if at none yet. Below the scanned height where a scan has ended before it
    /// caught up with earlier ones.
    pub to: Option<u32>,
    /// The spend, `None` if there was none in the blocks between the two.
    pub spend: Option<Spend>,
    /// Whether it is there: that is known of what is spent, of the wallet's own outputs, and otherwise only by the word of a
    /// server that was asked ([`told`](Self::told)).
    pub state: WatchedState,
}

impl Watched {
    /// Takes a server's word for an output of which nothing was seen.
    pub fn told(&mut self, said: &OutpointState) {
        if self.state == WatchedState::Unknown {
            self.state = match said {
                OutpointState::Unspent(_) => WatchedState::Unspent,
                OutpointState::Spent { .. } => WatchedState::Spent,
                OutpointState::Unknown | OutpointState::SpentOrUnknown => WatchedState::Unknown,
            };
        }
    }
}

/// A block with matches of its filter that the server lists no output for: outputs of the wallet that it does not list,
/// since all taproot outputs of their transactions were spent when it was asked, or matches by chance (one candidate key in
/// 784931).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unresolved {
    /// Height of the block.
    pub height: u32,
    /// That block.
    pub block_hash: BlockHash,
    /// How many matches: one for each transaction that pays the wallet.
    pub matches: u32,
}

/// The head of the chain of hashes over the columns (docs/native.md), as it follows from what native scans were given. Every
/// server that is right tells the same one for the block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScanHead {
    /// Height from which on it was computed. The head below that was told, if the chain begins below.
    pub from: u32,
    /// Height of the block it is at.
    pub to: u32,
    /// The head there.
    #[serde(serialize_with = "hex")]
    pub head: [u8; 32],
}

/// The state after a scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScanReport {
    /// The chain scanned, by the name Bitcoin Core gives it.
    #[serde(serialize_with = "chain_name")]
    pub network: Network,
    /// First height scanned.
    pub from: u32,
    /// Last height scanned, `None` if there was no block to scan.
    pub scanned_to: Option<u32>,
    /// The server's last height when the scan ended.
    pub oracle_height: u32,
    /// If the chain was reorganised since the last scan or during this one: the lowest height that stayed.
    pub reorganised_above: Option<u32>,
    /// Value of all found outputs that are unspent, in satoshi.
    pub unspent_sat: u64,
    /// Outputs of the wallet, by height, then outpoint.
    pub found: Vec<Found>,
    /// If spends of some found outputs were looked for up to a height below the scanned one alone, the lowest such height:
    /// those outputs were found late, and the scan has ended before it caught up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spends_known_to: Option<u32>,
    /// The outpoints that this client watches, by outpoint; not those that the state holds beside them.
    pub watched: Vec<Watched>,
    /// What the filters matched and the server does not list, by height. The server is asked again after a
    /// reorganisation that can have changed it, and on request.
    pub unresolved: Vec<Unresolved>,
    /// What was scanned natively, in one hash; `None` where the last block was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<ScanHead>,
    /// Heights below this were scanned by an older program, which did not keep what was unresolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unresolved_unknown_below: Option<u32>,
}

fn hex<S: Serializer>(bytes: &impl AsRef<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&bytes.as_ref().as_hex())
}

fn chain_name<S: Serializer>(network: &Network, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(network.to_core_arg())
}

/// Byte strings as hex.
mod hex_list {
    use bitcoin::hex::{DisplayHex, FromHex};
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::{SerializeSeq, Serializer};

    pub(super) fn serialize<S: Serializer>(
        list: &[Vec<u8>],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(Some(list.len()))?;
        for bytes in list {
            sequence.serialize_element(&bytes.to_lower_hex_string())?;
        }
        sequence.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Vec<u8>>, D::Error> {
        Vec::<String>::deserialize(deserializer)?
            .iter()
            .map(|text| Vec::from_hex(text).map_err(D::Error::custom))
            .collect()
    }
}
