//! SPCOMMIT: chains of hashes over all that a tweak server serves, of which anybody can compute his own and compare.
//!
//! Every hash is SHA-256 over text: digits of hex are hashed as characters, each line ends with a line feed. Source:
//! `SPCOMMIT.md` of the repository bitsagarob/silentpayments-measurements, with its test vectors (fixtures/spcommit).

use bitcoin::hashes::{Hash, sha256};
use bitcoin::{BlockHash, Txid};

/// First height of the chains on mainnet. There are none for other networks; an index of one of those starts them at its own
/// first height, so that heads can be compared with others of the same start.
pub const MAINNET_FIRST_HEIGHT: u32 = 709_656;

/// What a chain commits to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The set of tweaks of each block.
    One,
    /// Txids, tweaks, the first bytes of each output key and of each spent key.
    Two,
}

impl Version {
    /// What the first head is made from.
    pub fn genesis(self) -> [u8; 32] {
        let text = match self {
            Self::One => "spcommit-v1-genesis",
            Self::Two => "spcommit-v2-genesis",
        };
        sha256::Hash::hash(text.as_bytes()).to_byte_array()
    }
}

/// An eligible transaction, as version 2 commits to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its txid.
    pub txid: Txid,
    /// Its tweak, compressed.
    pub tweak: [u8; 33],
    /// First 8 bytes of the x-only key of each of its taproot outputs, by vout.
    pub key_prefixes: Vec<[u8; 8]>,
}

/// The text that version 1 hashes of a block; its tweaks in any order.
pub fn text_v1(height: u32, hash: &BlockHash, tweaks: &[[u8; 33]]) -> Vec<u8> {
    let mut tweaks = tweaks.to_vec();
    tweaks.sort_unstable();
    let mut text = Vec::with_capacity(100 + 67 * tweaks.len());
    start(&mut text, "spcommit-v1", height, hash, tweaks.len());
    for (index, tweak) in tweaks.iter().enumerate() {
        if index > 0 {
            text.push(b'\n');
        }
        hex(&mut text, tweak);
    }
    text
}

/// The text that version 2 hashes of a block; its transactions in any order, the first 8 bytes of every spent taproot key in
/// block order, then input order.
pub fn text_v2(
    height: u32,
    hash: &BlockHash,
    transactions: &[Transaction],
    spent: &[[u8; 8]],
) -> Vec<u8> {
    let mut ordered: Vec<&Transaction> = transactions.iter().collect();
    // As their digits are shown.
    ordered.sort_unstable_by(|a, b| {
        let (a, b) = (a.txid.as_byte_array(), b.txid.as_byte_array());
        a.iter().rev().cmp(b.iter().rev())
    });
    let keys: usize = ordered.iter().map(|tx| tx.key_prefixes.len()).sum();
    let mut text = Vec::with_capacity(120 + 133 * ordered.len() + 16 * (keys + spent.len()));
    start(&mut text, "spcommit-v2", height, hash, ordered.len());
    for transaction in ordered {
        let mut txid = transaction.txid.to_byte_array();
        txid.reverse();
        hex(&mut text, &txid);
        text.push(b'\n');
        hex(&mut text, &transaction.tweak);
        text.push(b'\n');
        for prefix in &transaction.key_prefixes {
            hex(&mut text, prefix);
        }
        text.push(b'\n');
    }
    text.extend_from_slice(b"spent\n");
    for prefix in spent {
        hex(&mut text, prefix);
    }
    text.push(b'\n');
    text
}

/// What a chain commits to of a block: the hash of its text.
pub fn commitment(text: &[u8]) -> [u8; 32] {
    sha256::Hash::hash(text).to_byte_array()
}

/// The head of a chain at a height, by the head before and the commitment of the block.
pub fn next_head(head: &[u8; 32], commitment: &[u8; 32]) -> [u8; 32] {
    let mut text = Vec::with_capacity(128);
    hex(&mut text, head);
    hex(&mut text, commitment);
    sha256::Hash::hash(&text).to_byte_array()
}

fn start(text: &mut Vec<u8>, name: &str, height: u32, hash: &BlockHash, count: usize) {
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(format!("\n{height}\n").as_bytes());
    // In internal order, so that the zeros stand at the end.
    hex(text, hash.as_byte_array());
    text.extend_from_slice(format!("\n{count}\n").as_bytes());
}

/// Two digits a byte, straight into the text: most of what is hashed goes through here.
fn hex(text: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS[usize::from(nibble & 0xf)];
    let at = text.len();
    text.resize(at + 2 * bytes.len(), 0);
    let pairs = text.get_mut(at..).unwrap_or_default().as_chunks_mut().0;
    for (pair, byte) in pairs.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(*byte)];
    }
}

#[cfg(test)]
mod tests;
