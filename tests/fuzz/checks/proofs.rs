//! Proofs as servers give them.
//!
//! An input is the hash of the block that was asked for (32 bytes, internal order), the position (4 bytes, little-endian), and the
//! body of the answer.

use bitcoin::BlockHash;
use bitcoin::OutPoint;
use bitcoin::hashes::{Hash, sha256d};
use spindex::process::Rule;
use spindex::proof::Proof;
use spindex::wire::native::{read_proof, write_proof};

use super::answers::comes_back;

/// Whether the proof proves something.
pub(crate) fn check(input: &[u8]) -> bool {
    let Some((asked, body)) = input.split_first_chunk::<36>() else {
        return false;
    };
    let [hash @ .., i0, i1, i2, i3] = *asked;
    let block = BlockHash::from_byte_array(hash);
    let index = u32::from_le_bytes([i0, i1, i2, i3]);
    if !comes_back(body, |body| read_proof(body, block, index), write_proof) {
        return false;
    }
    let Ok(proof) = read_proof(body, block, index) else {
        return false;
    };
    assert_eq!((proof.block.hash, proof.branch.index), (block, index));
    match proof.check() {
        Ok(txid) => {
            assert_eq!(txid, proof.transaction.compute_txid());
            assert!(is_right(&proof));
            let first = proof.transaction.input.first();
            let spent = first.map_or(OutPoint::null(), |input| input.previous_output);
            let spend = proof.spend(spent, &Rule::default());
            assert_eq!(spend.map(|spend| spend.txid), Ok(txid));
            true
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 300 && !text.contains('\n'), "{text}");
            false
        }
    }
}

/// What a proof must have at the least, in the plainest form.
fn is_right(proof: &Proof) -> bool {
    let mut hash = proof.transaction.compute_txid().to_byte_array();
    let mut way = proof.branch.index;
    for sibling in &proof.branch.siblings {
        let sibling = sibling.to_byte_array();
        let both = match way % 2 {
            0 => [hash, sibling],
            _ => [sibling, hash],
        };
        hash = sha256d::Hash::hash(both.as_flattened()).to_byte_array();
        way /= 2;
    }
    way == 0
        && hash == proof.header.merkle_root.to_byte_array()
        && proof.header.block_hash() == proof.block.hash
        && proof.branch.siblings.len() == proof.coinbase_branch.len()
        && proof.coinbase.is_coinbase()
        && proof.transaction.base_size() != 64
}
