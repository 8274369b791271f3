//! The three tagged hashes of BIP352, as scalars.
//!
//! Each gives `None` where the hash is 0 or not below the group order. Nobody has ever seen such a hash
//! (the probability is about 2^-128), but a transaction or label that had one would have to be passed over.

use bitcoin::OutPoint;
use bitcoin::hashes::{Hash, HashEngine, sha256t_hash_newtype};
use secp256k1::Scalar;

use super::keys::{ScanKey, SharedSecret};
use crate::curve::libsecp256k1 as curve;

sha256t_hash_newtype! {
    /// The tag of the input hash.
    struct InputsTag = hash_str("BIP0352/Inputs");

    /// A tagged hash of an outpoint and a key sum.
    #[hash_newtype(forward)]
    struct InputsHash(_);

    /// The tag of label scalars.
    struct LabelTag = hash_str("BIP0352/Label");

    /// A tagged hash of a scan key and a label number. Secret.
    #[hash_newtype(forward)]
    struct LabelHash(_);
}

/// `input_hash = H_"BIP0352/Inputs"(outpoint_L || serP(A))`, with the outpoint as txid in internal order
/// and vout little-endian; `key_sum` is `A`, SEC1 compressed.
pub fn input_hash(smallest_outpoint: &OutPoint, key_sum: &[u8; 33]) -> Option<Scalar> {
    let mut hash = InputsHash::engine();
    hash.input(smallest_outpoint.txid.as_byte_array());
    hash.input(&smallest_outpoint.vout.to_le_bytes());
    hash.input(key_sum);
    curve::nonzero_scalar(InputsHash::from_engine(hash).to_byte_array())
}

/// `t_k = H_"BIP0352/SharedSecret"(serP(S) || ser32(k))`. Secret.
pub fn output_tweak(shared_secret: &SharedSecret, k: u32) -> Option<Scalar> {
    curve::output_tweak(shared_secret.point(), k)
}

/// `label_m = H_"BIP0352/Label"(b_scan || ser32(m))`. Secret.
pub fn label_scalar(scan_key: &ScanKey, m: u32) -> Option<Scalar> {
    let mut hash = LabelHash::engine();
    hash.input(scan_key.secret().as_ref());
    hash.input(&m.to_be_bytes());
    curve::nonzero_scalar(LabelHash::from_engine(hash).to_byte_array())
}
