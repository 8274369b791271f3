//! Outputs: their kinds, their scripts, and how they are spent.

use bitcoin::hashes::{Hash, hash160, sha256};
use secp256k1::rand::{Rng, RngCore};

use super::wire::push_compact_size;
use crate::bip352::NUMS_POINT;
use crate::curve::TweakPoint;

/// A kind of output and the way it is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Taproot, key path.
    TaprootKey,
    /// Taproot, script path, with an internal key of its own.
    TaprootScript,
    /// Taproot, script path, with the internal key H.
    TaprootNums,
    P2wpkh,
    P2shP2wpkh,
    P2pkh,
    P2pkhUncompressed,
    /// 2-of-3 multisig, like the next two.
    P2wsh,
    P2shP2wsh,
    P2shMultisig,
    P2pk,
    P2pkUncompressed,
}

/// The kinds in the order of [`super::ChainParameters::other_kinds`].
pub(super) const OTHER_KINDS: [Kind; 9] = [
    Kind::P2wpkh,
    Kind::P2shP2wpkh,
    Kind::P2pkh,
    Kind::P2pkhUncompressed,
    Kind::P2wsh,
    Kind::P2shP2wsh,
    Kind::P2shMultisig,
    Kind::P2pk,
    Kind::P2pkUncompressed,
];

/// What outputs have in common for those who choose which to spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Taproot,
    /// Not taproot, with a key for silent payments.
    Keyed,
    /// Not taproot, without one.
    Keyless,
}

impl Kind {
    pub(super) fn family(self) -> Family {
        match self {
            Self::TaprootKey | Self::TaprootScript | Self::TaprootNums => Family::Taproot,
            Self::P2wpkh | Self::P2shP2wpkh | Self::P2pkh => Family::Keyed,
            _ => Family::Keyless,
        }
    }

    /// Whether such an input has a key for silent payments (BIP352).
    pub(super) fn yields_key(self) -> bool {
        self.family() != Family::Keyless && self != Self::TaprootNums
    }

    /// Keys that belong to such an output, with consecutive numbers: those of the script, then the internal key.
    pub(super) fn keys(self) -> u32 {
        match self {
            Self::P2wsh | Self::P2shP2wsh | Self::P2shMultisig => 3,
            Self::TaprootScript => 2,
            _ => 1,
        }
    }

    /// Weight of such an output, in weight units.
    pub(super) fn output_weight(self) -> u64 {
        let script_bytes = match self {
            Self::TaprootKey | Self::TaprootScript | Self::TaprootNums | Self::P2wsh => 34,
            Self::P2wpkh => 22,
            Self::P2shP2wpkh | Self::P2shP2wsh | Self::P2shMultisig => 23,
            Self::P2pkh | Self::P2pkhUncompressed => 25,
            Self::P2pk => 35,
            Self::P2pkUncompressed => 67,
        };
        4 * (9 + script_bytes)
    }

    /// Most weight of an input that spends such an output, without the content of an inscription.
    pub(super) fn input_weight(self) -> u64 {
        // Outpoint, sequence, length of the script: 41 bytes. A witness counts its items and their lengths.
        match self {
            Self::TaprootKey => 4 * 41 + 67,
            Self::TaprootScript | Self::TaprootNums => 4 * 41 + 67 + 50 + 34,
            Self::P2wpkh => 4 * 41 + 108,
            Self::P2shP2wpkh => 4 * (41 + 23) + 108,
            Self::P2pkh => 4 * (41 + 107) + 1,
            Self::P2pkhUncompressed => 4 * (41 + 139) + 1,
            Self::P2wsh => 4 * 41 + 254,
            Self::P2shP2wsh => 4 * (41 + 35) + 254,
            Self::P2shMultisig => 4 * (43 + 254) + 1,
            Self::P2pk | Self::P2pkUncompressed => 4 * (41 + 73) + 1,
        }
    }

    /// Appends the output's script; `keys` are its own, as many as [`keys`](Self::keys).
    pub(super) fn push_script(self, keys: &[TweakPoint], script: &mut Vec<u8>) {
        match self {
            Self::TaprootKey | Self::TaprootScript | Self::TaprootNums => {
                script.extend_from_slice(&[0x51, 0x20]);
                script.extend_from_slice(x_only(&keys[0]));
            }
            Self::P2wpkh => script.extend_from_slice(&p2wpkh(&keys[0])),
            Self::P2shP2wpkh => push_p2sh(&p2wpkh(&keys[0]), script),
            Self::P2pkh => push_p2pkh(&keys[0].to_compressed(), script),
            Self::P2pkhUncompressed => push_p2pkh(&uncompressed(&keys[0]), script),
            Self::P2wsh => script.extend_from_slice(&p2wsh(keys)),
            Self::P2shP2wsh => push_p2sh(&p2wsh(keys), script),
            Self::P2shMultisig => push_p2sh(&multisig(keys), script),
            Self::P2pk => {
                push_data(&keys[0].to_compressed(), script);
                script.push(OP_CHECKSIG);
            }
            Self::P2pkUncompressed => {
                push_data(&uncompressed(&keys[0]), script);
                script.push(OP_CHECKSIG);
            }
        }
    }

    /// Appends what the input that spends such an output has for a scriptSig, without its length.
    pub(super) fn push_script_sig(
        self,
        keys: &[TweakPoint],
        rng: &mut impl RngCore,
        script: &mut Vec<u8>,
    ) {
        match self {
            Self::P2shP2wpkh => push_data(&p2wpkh(&keys[0]), script),
            Self::P2shP2wsh => push_data(&p2wsh(keys), script),
            Self::P2pkh => {
                push_signature(rng, script);
                push_data(&keys[0].to_compressed(), script);
            }
            Self::P2pkhUncompressed => {
                push_signature(rng, script);
                push_data(&uncompressed(&keys[0]), script);
            }
            Self::P2shMultisig => {
                script.push(0);
                push_signature(rng, script);
                push_signature(rng, script);
                let redeem_script = multisig(keys);
                script.push(OP_PUSHDATA1);
                push_data(&redeem_script, script);
            }
            Self::P2pk | Self::P2pkUncompressed => push_signature(rng, script),
            _ => {}
        }
    }

    /// Appends the input's witness: number of items, then each with its length. `content_bytes` of an inscription go
    /// into the script of a script path.
    pub(super) fn push_witness(
        self,
        keys: &[TweakPoint],
        content_bytes: u32,
        rng: &mut impl RngCore,
        witness: &mut Vec<u8>,
    ) {
        match self {
            Self::TaprootKey => {
                witness.push(1);
                push_schnorr_signature(rng, witness);
            }
            Self::TaprootScript | Self::TaprootNums => {
                witness.push(3);
                push_schnorr_signature(rng, witness);
                push_tapscript(&keys[keys.len() - 1], content_bytes, rng, witness);
                witness.extend_from_slice(&[33, 0xc0 | (rng.next_u32() & 1) as u8]);
                witness.extend_from_slice(keys.get(1).map_or(&NUMS_POINT[..], |key| x_only(key)));
            }
            Self::P2wpkh | Self::P2shP2wpkh => {
                witness.push(2);
                push_signature(rng, witness);
                push_data(&keys[0].to_compressed(), witness);
            }
            Self::P2wsh | Self::P2shP2wsh => {
                witness.extend_from_slice(&[4, 0]);
                push_signature(rng, witness);
                push_signature(rng, witness);
                push_data(&multisig(keys), witness);
            }
            _ => witness.push(0),
        }
    }

    /// Whether such an input has a witness.
    pub(super) fn has_witness(self) -> bool {
        !matches!(
            self,
            Self::P2pkh
                | Self::P2pkhUncompressed
                | Self::P2shMultisig
                | Self::P2pk
                | Self::P2pkUncompressed
        )
    }
}

const OP_PUSHDATA1: u8 = 0x4c;
const OP_PUSHDATA2: u8 = 0x4d;
const OP_CHECKSIG: u8 = 0xac;

/// Longest push in a script of consensus (BIP342 keeps the limit).
const MOST_PUSHED: usize = 520;

/// Appends the data with one byte of length in front, which makes it a push in a script and an item in a witness; at
/// most 75 bytes for the first, 252 for the second.
fn push_data(data: &[u8], bytes: &mut Vec<u8>) {
    bytes.push(data.len() as u8);
    bytes.extend_from_slice(data);
}

fn x_only(key: &TweakPoint) -> &[u8; 32] {
    key.as_bytes()
        .first_chunk()
        .expect("64 bytes have 32 in front")
}

fn uncompressed(key: &TweakPoint) -> [u8; 65] {
    let mut sec1 = [4; 65];
    sec1[1..].copy_from_slice(key.as_bytes());
    sec1
}

fn p2wpkh(key: &TweakPoint) -> [u8; 22] {
    let mut script = [0; 22];
    script[1] = 20;
    script[2..].copy_from_slice(hash160::Hash::hash(&key.to_compressed()).as_byte_array());
    script
}

fn p2wsh(keys: &[TweakPoint]) -> [u8; 34] {
    let mut script = [0; 34];
    script[1] = 32;
    script[2..].copy_from_slice(sha256::Hash::hash(&multisig(keys)).as_byte_array());
    script
}

fn push_p2pkh(key: &[u8], script: &mut Vec<u8>) {
    script.extend_from_slice(&[0x76, 0xa9, 20]);
    script.extend_from_slice(hash160::Hash::hash(key).as_byte_array());
    script.extend_from_slice(&[0x88, OP_CHECKSIG]);
}

fn push_p2sh(redeem_script: &[u8], script: &mut Vec<u8>) {
    script.extend_from_slice(&[0xa9, 20]);
    script.extend_from_slice(hash160::Hash::hash(redeem_script).as_byte_array());
    script.push(0x87);
}

/// 2-of-3 multisig, 105 bytes.
fn multisig(keys: &[TweakPoint]) -> Vec<u8> {
    let mut script = Vec::with_capacity(105);
    script.push(0x52);
    for key in keys {
        push_data(&key.to_compressed(), &mut script);
    }
    script.extend_from_slice(&[0x53, 0xae]);
    script
}

/// Appends an ECDSA signature of random numbers with its length: DER of 70 bytes, or 71 in one of three, and SIGHASH_ALL.
/// It is a valid encoding and no valid signature.
fn push_signature(rng: &mut impl RngCore, bytes: &mut Vec<u8>) {
    let mut numbers = [0; 64];
    rng.fill_bytes(&mut numbers);
    let is_long = numbers[0].is_multiple_of(3);
    let (r, s) = numbers.split_at(32);
    let start = bytes.len();
    if is_long {
        bytes.extend_from_slice(&[72, 0x30, 69, 2, 33, 0]);
    } else {
        bytes.extend_from_slice(&[71, 0x30, 68, 2, 32]);
    }
    let r_at = bytes.len();
    bytes.extend_from_slice(r);
    // Neither number may be negative or begin with a zero byte; s is in the lower half.
    bytes[r_at] = if is_long {
        r[0] | 0x80
    } else {
        (r[0] & 0x7f).max(1)
    };
    bytes.extend_from_slice(&[2, 32]);
    let s_at = bytes.len();
    bytes.extend_from_slice(s);
    bytes[s_at] = (s[0] & 0x7f).clamp(1, 0x7e);
    bytes.push(1);
    debug_assert_eq!(bytes.len() - start, usize::from(bytes[start]) + 1);
}

/// Appends a Schnorr signature of random bytes with its length: 64 bytes, or 65 with SIGHASH_ALL in one of twenty.
fn push_schnorr_signature(rng: &mut impl RngCore, bytes: &mut Vec<u8>) {
    let with_type = rng.next_u32().is_multiple_of(20);
    bytes.push(64 + u8::from(with_type));
    let start = bytes.len();
    bytes.resize(start + 64, 0);
    rng.fill_bytes(&mut bytes[start..]);
    if with_type {
        bytes.push(1);
    }
}

/// Appends a tapscript with its length: `<key> OP_CHECKSIG`, and an envelope `OP_FALSE OP_IF <pushes> OP_ENDIF` if there
/// is content.
fn push_tapscript(
    key: &TweakPoint,
    content_bytes: u32,
    rng: &mut impl RngCore,
    witness: &mut Vec<u8>,
) {
    let content_bytes = content_bytes as usize;
    let (whole, rest) = (content_bytes / MOST_PUSHED, content_bytes % MOST_PUSHED);
    let rest_bytes = match rest {
        0 => 0,
        1..=75 => 1 + rest,
        76..=255 => 2 + rest,
        _ => 3 + rest,
    };
    let envelope_bytes = if content_bytes > 0 { 3 } else { 0 };
    let script_bytes = 34 + envelope_bytes + whole * (3 + MOST_PUSHED) + rest_bytes;
    push_compact_size(script_bytes as u64, witness);
    let start = witness.len();
    push_data(x_only(key), witness);
    witness.push(OP_CHECKSIG);
    if content_bytes > 0 {
        witness.extend_from_slice(&[0, 0x63]);
        for bytes in std::iter::repeat_n(MOST_PUSHED, whole).chain((rest > 0).then_some(rest)) {
            match bytes {
                0..=75 => witness.push(bytes as u8),
                76..=255 => witness.extend_from_slice(&[OP_PUSHDATA1, bytes as u8]),
                _ => {
                    witness.push(OP_PUSHDATA2);
                    witness.extend_from_slice(&(bytes as u16).to_le_bytes());
                }
            }
            let at = witness.len();
            witness.resize(at + bytes, 0);
            rng.fill_bytes(&mut witness[at..]);
        }
        witness.push(0x68);
    }
    debug_assert_eq!(witness.len() - start, script_bytes);
}

/// Most weight that the content of an inscription adds to an input, with what its pushes need.
pub(super) fn inscription_weight(content_bytes: u64) -> u64 {
    content_bytes + content_bytes / 100 + 12
}

/// An output that may still be spent: 56 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coin {
    /// Internal byte order. While the transaction is being made: its position among those of the lane in this block,
    /// 4 bytes little-endian, then zeros.
    pub(super) txid: [u8; 32],
    pub(super) value_sat: u64,
    /// Number of its first key.
    pub(super) key: u32,
    /// Of the block that created it.
    pub(super) height: u32,
    pub(super) vout: u16,
    pub(super) kind: Kind,
    pub(super) is_coinbase: bool,
}

impl Coin {
    /// The outpoint, txid first; `txids` are those of the lane in the block of this height, as far as they are known.
    pub(super) fn outpoint(&self, height: u32, txids: &[[u8; 32]]) -> [u8; 36] {
        let txid = if self.height == height {
            &txids[self.pending_position()]
        } else {
            &self.txid
        };
        let mut outpoint = [0; 36];
        outpoint[..32].copy_from_slice(txid);
        outpoint[32..].copy_from_slice(&u32::from(self.vout).to_le_bytes());
        outpoint
    }

    /// A stand-in for the txid of a transaction that is being made.
    pub(super) fn pending_txid(position: usize) -> [u8; 32] {
        let mut txid = [0; 32];
        txid[..4].copy_from_slice(&(position as u32).to_le_bytes());
        txid
    }

    /// What [`pending_txid`](Self::pending_txid) stands for.
    pub(super) fn pending_position(&self) -> usize {
        let (position, _) = self.txid.as_chunks::<4>();
        u32::from_le_bytes(position[0]) as usize
    }
}

/// One of the kinds that are not taproot.
pub(super) fn draw_other_kind(weights: &[u32; 9], rng: &mut impl Rng) -> Kind {
    let mut at = rng.gen_range(0..weights.iter().sum());
    for (kind, weight) in OTHER_KINDS.iter().zip(weights) {
        if at < *weight {
            return *kind;
        }
        at -= weight;
    }
    Kind::P2wpkh
}

#[cfg(test)]
mod tests {
    use secp256k1::rand::SeedableRng;
    use secp256k1::rand::rngs::StdRng;

    use super::super::keys::{Keys, shared_rows};
    use super::*;
    use crate::curve::libsecp256k1::LibSecp256k1;

    /// Weights as planned are never below what is written, and not far above; those of outputs are exact.
    #[test]
    fn planned_weights_are_upper_bounds() {
        let mut keys = Keys::new(0, 0, shared_rows(0));
        let mut rng = StdRng::seed_from_u64(0);
        let taproot = [Kind::TaprootKey, Kind::TaprootScript, Kind::TaprootNums];
        for kind in taproot.into_iter().chain(OTHER_KINDS) {
            let first = keys.fresh(kind.keys());
            let numbers: Vec<u32> = (first..first + kind.keys()).collect();
            let points = keys.points(&LibSecp256k1, &numbers);
            let mut script = Vec::new();
            kind.push_script(&points, &mut script);
            assert_eq!(4 * (8 + 1 + script.len() as u64), kind.output_weight());

            for content_bytes in [0, 1, 75, 76, 255, 256, 519, 520, 521, 67_000] {
                let mut most = 0;
                for _ in 0..200 {
                    let (mut input, mut witness) = (Vec::new(), Vec::new());
                    script.clear();
                    kind.push_script_sig(&points, &mut rng, &mut script);
                    push_compact_size(script.len() as u64, &mut input);
                    kind.push_witness(&points, content_bytes, &mut rng, &mut witness);
                    assert_eq!(witness != [0], kind.has_witness());
                    let base_bytes = 40 + input.len() + script.len();
                    most = most.max((4 * base_bytes + witness.len()) as u64);
                }
                let is_inscription = kind == Kind::TaprootScript || kind == Kind::TaprootNums;
                let content_weight = match content_bytes {
                    1.. if is_inscription => inscription_weight(u64::from(content_bytes)),
                    _ => 0,
                };
                let planned = kind.input_weight() + content_weight;
                assert!(
                    most <= planned,
                    "{kind:?} {content_bytes}: {most} {planned}"
                );
                let slack = 32 + content_weight / 100;
                assert!(
                    planned <= most + slack,
                    "{kind:?} {content_bytes}: {most} {planned}"
                );
            }
        }
    }
}
