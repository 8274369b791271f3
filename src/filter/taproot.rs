//! The two filters of a block.

use bitcoin::hashes::{Hash, HashEngine, sha256};
use bitcoin::{BlockHash, OutPoint};

/// First 8 bytes of `SHA256(txid || vout_LE || block_hash)`, internal byte orders: what the spent filter and the
/// spent index hold for an outpoint spent in block `spent_in`.
pub fn spent_item(outpoint: &OutPoint, spent_in: &BlockHash) -> [u8; 8] {
    let mut engine = sha256::Hash::engine();
    engine.input(&outpoint.txid.to_byte_array());
    engine.input(&outpoint.vout.to_le_bytes());
    engine.input(&spent_in.to_byte_array());
    let hash = sha256::Hash::from_engine(engine).to_byte_array();
    let mut item = [0; 8];
    item.copy_from_slice(&hash[..8]);
    item
}

/// The filter of a block over the x-only keys of all its taproot outputs, repeats included, serialized.
pub fn new_utxos_filter(block: &BlockHash, keys: &[[u8; 32]]) -> Vec<u8> {
    super::build(block, keys)
}

/// The filter of a block over its spent items ([`spent_item`]), serialized like the other one.
pub fn spent_filter(block: &BlockHash, items: &[[u8; 8]]) -> Vec<u8> {
    super::build(block, items)
}
