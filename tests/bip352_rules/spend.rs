//! Inputs of every kind, made from secrets, so that what they contribute is known without parsing them.

use bitcoin::hashes::{Hash, hash160, sha256};
use bitcoin::{
    Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness, absolute,
    transaction,
};
use secp256k1::{Parity, PublicKey, SECP256K1, SecretKey};
use spindex::bip352::NUMS_POINT;

/// An input with the output it spends.
#[derive(Clone, Debug)]
pub(crate) struct Spend {
    pub(crate) outpoint: OutPoint,
    pub(crate) script_sig: Vec<u8>,
    pub(crate) witness: Vec<Vec<u8>>,
    pub(crate) prevout_script: Vec<u8>,
}

impl Spend {
    pub(crate) fn new(prevout_script: Vec<u8>, script_sig: Vec<u8>, witness: Vec<Vec<u8>>) -> Self {
        Self {
            outpoint: outpoint(0xaa, 0),
            script_sig,
            witness,
            prevout_script,
        }
    }

    pub(crate) fn at(mut self, outpoint: OutPoint) -> Self {
        self.outpoint = outpoint;
        self
    }

    fn input(&self) -> TxIn {
        TxIn {
            previous_output: self.outpoint,
            script_sig: ScriptBuf::from_bytes(self.script_sig.clone()),
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&self.witness),
        }
    }

    fn prevout(&self) -> TxOut {
        output(self.prevout_script.clone())
    }
}

pub(crate) fn outpoint(txid_byte: u8, vout: u32) -> OutPoint {
    OutPoint::new(Txid::from_byte_array([txid_byte; 32]), vout)
}

pub(crate) fn output(script: Vec<u8>) -> TxOut {
    TxOut {
        value: Amount::from_sat(0),
        script_pubkey: ScriptBuf::from_bytes(script),
    }
}

/// A transaction with these inputs and outputs, and its prevouts.
pub(crate) fn transaction_to(spends: &[Spend], outputs: Vec<TxOut>) -> (Transaction, Vec<TxOut>) {
    let transaction = Transaction {
        version: transaction::Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: spends.iter().map(Spend::input).collect(),
        output: outputs,
    };
    (transaction, spends.iter().map(Spend::prevout).collect())
}

/// A transaction with these inputs and one taproot output.
pub(crate) fn transaction(spends: &[Spend]) -> (Transaction, Vec<TxOut>) {
    transaction_to(spends, vec![output(p2tr_script(&[0x77; 32]))])
}

pub(crate) fn secret(byte: u8) -> SecretKey {
    SecretKey::from_slice(&[byte; 32]).expect("in range")
}

pub(crate) fn pubkey(secret: &SecretKey) -> PublicKey {
    secret.public_key(SECP256K1)
}

/// The key a taproot output of this secret contributes: even y.
pub(crate) fn even(secret: &SecretKey) -> SecretKey {
    match secret.x_only_public_key(SECP256K1).1 {
        Parity::Even => *secret,
        Parity::Odd => secret.negate(),
    }
}

pub(crate) fn hash160(bytes: &[u8]) -> [u8; 20] {
    hash160::Hash::hash(bytes).to_byte_array()
}

/// A script of parts.
pub(crate) fn script(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// A direct push.
pub(crate) fn push(bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() <= 75);
    [&[bytes.len() as u8], bytes].concat()
}

pub(crate) fn signature() -> Vec<u8> {
    vec![0x30; 71]
}

pub(crate) fn schnorr_signature() -> Vec<u8> {
    vec![0x11; 64]
}

pub(crate) fn p2pkh_script(key_hash: &[u8]) -> Vec<u8> {
    script(&[&[0x76, 0xa9, 0x14], key_hash, &[0x88, 0xac]])
}

pub(crate) fn p2sh_script(script_hash: &[u8]) -> Vec<u8> {
    script(&[&[0xa9, 0x14], script_hash, &[0x87]])
}

pub(crate) fn p2wpkh_script(key_hash: &[u8]) -> Vec<u8> {
    script(&[&[0x00, 0x14], key_hash])
}

pub(crate) fn p2tr_script(key: &[u8]) -> Vec<u8> {
    script(&[&[0x51, 0x20], key])
}

pub(crate) fn x_only(secret: &SecretKey) -> [u8; 32] {
    secret.x_only_public_key(SECP256K1).0.serialize()
}

/// P2PKH with the key in any SEC1 form and any pushes around signature and key.
pub(crate) fn p2pkh_around(key: &[u8], before: &[u8], after: &[u8]) -> Spend {
    let script_sig = script(&[before, &push(&signature()), &push(key), after]);
    Spend::new(p2pkh_script(&hash160(key)), script_sig, Vec::new())
}

pub(crate) fn p2pkh(secret: &SecretKey) -> Spend {
    p2pkh_around(&pubkey(secret).serialize(), &[], &[])
}

pub(crate) fn p2wpkh_with(key: &[u8], witness: Vec<Vec<u8>>) -> Spend {
    Spend::new(p2wpkh_script(&hash160(key)), Vec::new(), witness)
}

pub(crate) fn p2wpkh(secret: &SecretKey) -> Spend {
    let key = pubkey(secret).serialize();
    p2wpkh_with(&key, vec![signature(), key.to_vec()])
}

pub(crate) fn p2sh_p2wpkh_with(key: &[u8], witness: Vec<Vec<u8>>) -> Spend {
    let redeem_script = p2wpkh_script(&hash160(key));
    Spend::new(
        p2sh_script(&hash160(&redeem_script)),
        push(&redeem_script),
        witness,
    )
}

pub(crate) fn p2sh_p2wpkh(secret: &SecretKey) -> Spend {
    let key = pubkey(secret).serialize();
    p2sh_p2wpkh_with(&key, vec![signature(), key.to_vec()])
}

pub(crate) fn p2tr_with(secret: &SecretKey, witness: Vec<Vec<u8>>) -> Spend {
    Spend::new(p2tr_script(&x_only(secret)), Vec::new(), witness)
}

pub(crate) fn p2tr(secret: &SecretKey) -> Spend {
    p2tr_with(secret, vec![schnorr_signature()])
}

/// A control block with this internal key and a path of so many steps.
pub(crate) fn control_block(internal_key: &[u8], steps: usize) -> Vec<u8> {
    [&[0xc1][..], internal_key, &vec![0xdd; 32 * steps]].concat()
}

pub(crate) fn nums_control_block() -> Vec<u8> {
    control_block(&NUMS_POINT, 1)
}

/// An annex whose bytes 1..33 equal H.
pub(crate) fn nums_annex() -> Vec<u8> {
    [&[0x50][..], &NUMS_POINT].concat()
}

/// The script of a taproot leaf.
pub(crate) fn leaf_script() -> Vec<u8> {
    vec![0x51]
}

pub(crate) fn bare_multisig(required: u8) -> Vec<u8> {
    let key = pubkey(&secret(9)).serialize();
    let keys = push(&key).repeat(3);
    script(&[&[0x50 + required], &keys, &[0x53, 0xae]])
}

pub(crate) fn p2wsh_script() -> Vec<u8> {
    let hash = sha256::Hash::hash(&bare_multisig(2)).to_byte_array();
    script(&[&[0x00, 0x20], &hash])
}
