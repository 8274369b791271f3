//! The rules once more: slow, by the letter, and with other arithmetic than the library's.

use bitcoin::consensus::encode;
use bitcoin::hashes::{Hash, sha256};
use secp256k1::ecdh::shared_secret_point;
use secp256k1::{Parity, PublicKey, SecretKey, XOnlyPublicKey};

use crate::spend::{Spend, hash160};

/// H of BIP341, from its text.
const H: &str = "50929b74c1a04954b78b4b6035e97a5e078a5a0f28ec96d547bfee9ace803ac0";

/// What BIP352 has an indexer publish.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No taproot output, no input with a key, or an input of a later witness version.
    NotEligible,
    /// Eligible but for the sum of its keys.
    Infinity,
    /// The tweak, compressed.
    Tweak([u8; 33]),
}

pub(crate) fn verdict(spends: &[Spend], has_taproot_output: bool) -> Verdict {
    if !has_taproot_output || spends.iter().any(spends_later_version) {
        return Verdict::NotEligible;
    }
    let keys: Vec<PublicKey> = spends.iter().filter_map(key).collect();
    if keys.is_empty() {
        return Verdict::NotEligible;
    }
    // Infinity as a value of its own, then a sum key by key.
    let sum = keys
        .into_iter()
        .fold(None, |sum: Option<PublicKey>, key| match sum {
            None => Some(key),
            Some(sum) => sum.combine(&key).ok(),
        });
    let Some(sum) = sum else {
        return Verdict::Infinity;
    };
    let input_hash = SecretKey::from_slice(&input_hash(spends, &sum)).expect("in 1..n");
    let product = shared_secret_point(&sum, &input_hash);
    let product = PublicKey::from_slice(&[&[4][..], &product].concat()).expect("on the curve");
    Verdict::Tweak(product.serialize())
}

pub(crate) fn input_hash(spends: &[Spend], sum: &PublicKey) -> [u8; 32] {
    let mut outpoints: Vec<Vec<u8>> = spends
        .iter()
        .map(|spend| encode::serialize(&spend.outpoint))
        .collect();
    outpoints.sort();
    let tag = sha256::Hash::hash(b"BIP0352/Inputs").to_byte_array();
    let preimage = [&tag[..], &tag, &outpoints[0], &sum.serialize()].concat();
    sha256::Hash::hash(&preimage).to_byte_array()
}

fn spends_later_version(spend: &Spend) -> bool {
    let script = &spend.prevout_script;
    if !(4..=42).contains(&script.len()) {
        return false;
    }
    // OP_2 to OP_16, and a push of all the rest.
    (0x52..=0x60).contains(&script[0]) && usize::from(script[1]) == script.len() - 2
}

fn key(spend: &Spend) -> Option<PublicKey> {
    let script = &spend.prevout_script;
    let is = |length: usize, start: &[u8], end: &[u8]| {
        script.len() == length && script.starts_with(start) && script.ends_with(end)
    };
    if is(25, &[0x76, 0xa9, 0x14], &[0x88, 0xac]) {
        return p2pkh_key(&spend.script_sig, &script[3..23]);
    }
    if is(23, &[0xa9, 0x14], &[0x87]) {
        let script_sig = &spend.script_sig;
        let nested = script_sig.len() == 23 && script_sig.starts_with(&[0x16, 0x00, 0x14]);
        return if nested { last_item_key(spend) } else { None };
    }
    if is(22, &[0x00, 0x14], &[]) {
        return last_item_key(spend);
    }
    if is(34, &[0x51, 0x20], &[]) {
        return p2tr_key(&spend.witness, &script[2..]);
    }
    None
}

fn p2pkh_key(script_sig: &[u8], key_hash: &[u8]) -> Option<PublicKey> {
    let mut end = script_sig.len();
    while end >= 33 {
        let window = &script_sig[end - 33..end];
        if hash160(window) == key_hash
            && let Ok(key) = PublicKey::from_slice(window)
        {
            return Some(key);
        }
        end -= 1;
    }
    None
}

fn last_item_key(spend: &Spend) -> Option<PublicKey> {
    match spend.witness.last() {
        Some(item) if item.len() == 33 => PublicKey::from_slice(item).ok(),
        _ => None,
    }
}

fn p2tr_key(witness: &[Vec<u8>], output_key: &[u8]) -> Option<PublicKey> {
    let mut items = witness.to_vec();
    if items.is_empty() {
        return None;
    }
    if items.len() > 1 && items[items.len() - 1].starts_with(&[0x50]) {
        items.pop();
    }
    if items.len() > 1 {
        let control_block = &items[items.len() - 1];
        let hex: String = control_block
            .iter()
            .skip(1)
            .take(32)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        if hex == H {
            return None;
        }
    }
    let key = XOnlyPublicKey::from_slice(output_key).ok()?;
    Some(PublicKey::from_x_only_public_key(key, Parity::Even))
}
