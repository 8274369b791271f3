//! Proofs that a transaction stands in a block.

use bitcoin::block::Header;
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::{BlockHash, Transaction, TxMerkleNode};
use serde::{Deserialize, Serialize};

use crate::BlockId;
use crate::proof::{BRANCH_MAX, Branch, Proof};
use crate::wire::text::{excerpt, parse};

/// Longest body of a proof: two transactions that fill a block, and what is around them.
pub const PROOF_BYTES_MAX: usize = 2 * 4_000_000 + (64 << 10);

#[derive(Serialize, Deserialize)]
struct ProofBody {
    height: u32,
    block_hash: BlockHash,
    header: String,
    index: u32,
    transaction: String,
    branch: Vec<TxMerkleNode>,
    coinbase: CoinbaseBody,
}

#[derive(Serialize, Deserialize)]
struct CoinbaseBody {
    transaction: String,
    branch: Vec<TxMerkleNode>,
}

/// Writes a proof.
///
/// # Errors
/// None at present.
pub fn write_proof(proof: &Proof) -> Result<Vec<u8>, String> {
    let body = ProofBody {
        height: proof.block.height,
        block_hash: proof.block.hash,
        header: serialize_hex(&proof.header),
        index: proof.branch.index,
        transaction: serialize_hex(&proof.transaction),
        branch: proof.branch.siblings.clone(),
        coinbase: CoinbaseBody {
            transaction: serialize_hex(&proof.coinbase),
            branch: proof.coinbase_branch.clone(),
        },
    };
    serde_json::to_vec(&body).map_err(|error| error.to_string())
}

/// Reads the proof of the transaction at a position of a block. What it says is left to [`Proof::check`].
///
/// # Errors
/// What is wrong with the body: another block or position among it, and more hashes than a branch has.
pub fn read_proof(body: &[u8], block: BlockHash, index: u32) -> Result<Proof, String> {
    if body.len() > PROOF_BYTES_MAX {
        return Err(format!("more than {PROOF_BYTES_MAX} bytes"));
    }
    let body: ProofBody = parse(body)?;
    if body.block_hash != block {
        return Err(format!("a proof of block {} instead", body.block_hash));
    }
    if body.index != index {
        return Err(format!("a proof of transaction {} instead", body.index));
    }
    let branch = |siblings: Vec<TxMerkleNode>| match siblings.len() {
        0..=BRANCH_MAX => Ok(siblings),
        found => Err(format!("a branch of {found} hashes")),
    };
    let header: Header =
        deserialize_hex(&body.header).map_err(|error| excerpt(&format!("header: {error}")))?;
    Ok(Proof {
        block: BlockId {
            height: body.height,
            hash: body.block_hash,
        },
        header,
        transaction: transaction("transaction", &body.transaction)?,
        branch: Branch {
            index,
            siblings: branch(body.branch)?,
        },
        coinbase: transaction("coinbase", &body.coinbase.transaction)?,
        coinbase_branch: branch(body.coinbase.branch)?,
    })
}

fn transaction(what: &str, hex: &str) -> Result<Transaction, String> {
    deserialize_hex(hex).map_err(|error| excerpt(&format!("{what}: {error}")))
}
