//! Outputs of every kind, and transactions that spend them with real signatures.
//!
//! The kinds cover each row of BIP352's table of inputs, those that yield a key and those that do not.

use std::fmt;

use bitcoin::hashes::{Hash, sha256};
use bitcoin::key::TweakedPublicKey;
use bitcoin::script::{Builder, PushBytesBuf};
use bitcoin::sighash::{Annex, EcdsaSighashType, Prevouts, SighashCache, TapSighashType};
use bitcoin::taproot::{ControlBlock, LeafVersion, TapLeafHash, TaprootBuilder, TaprootSpendInfo};
use bitcoin::{
    Amount, OutPoint, PublicKey, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness, absolute,
    opcodes, transaction,
};
use secp256k1::{Keypair, Message, SECP256K1, Scalar, SecretKey, XOnlyPublicKey};

use crate::bip352::NUMS_POINT;
use crate::bip352::address::Address;
use crate::bip352::send::{self, SendError, SenderInput};

/// An annex (BIP341) as the annex kinds carry it. Its bytes 1..33 are H: a parser that takes it for a control block
/// is misled.
const ANNEX: [u8; 34] = {
    let mut annex = [0x50; 34];
    let mut at = 0;
    while at < NUMS_POINT.len() {
        annex[1 + at] = NUMS_POINT[at];
        at += 1;
    }
    annex
};

/// A kind of output and the way it is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InputKind {
    /// P2PKH with a compressed key.
    P2pkh,
    /// P2PKH with an uncompressed key: no key for silent payments.
    P2pkhUncompressed,
    /// P2PKH spent by a scriptSig with a dummy push and OP_DROP in front.
    P2pkhMalleated,
    /// P2WPKH in P2SH.
    P2shP2wpkh,
    /// 2-of-3 multisig in P2SH: no key.
    P2shMultisig,
    /// P2WPKH.
    P2wpkh,
    /// 2-of-2 multisig in P2WSH: no key.
    P2wsh,
    /// Taproot, key path. The secret is that of the output key itself, as for a received silent payment.
    P2tr,
    /// Taproot, key path, with an annex.
    P2trAnnex,
    /// Taproot, script path, with an internal key of its own: the output key counts.
    P2trScript,
    /// Taproot, script path, with the internal key H: no key.
    P2trNums,
    /// Taproot, script path, with the internal key H and an annex: no key.
    P2trNumsAnnex,
    /// P2PK: no key.
    P2pk,
    /// Bare 2-of-3 multisig, whose script starts like a witness program of version 2: no key.
    BareMultisig,
    /// A witness program of version 2, which anyone can spend: makes the whole transaction ineligible.
    FutureWitness,
    /// Pay to anchor, a witness program of version 1 and 2 bytes, which anyone can spend: no key.
    Anchor,
}

impl InputKind {
    /// All kinds.
    pub const ALL: [Self; 16] = [
        Self::P2pkh,
        Self::P2pkhUncompressed,
        Self::P2pkhMalleated,
        Self::P2shP2wpkh,
        Self::P2shMultisig,
        Self::P2wpkh,
        Self::P2wsh,
        Self::P2tr,
        Self::P2trAnnex,
        Self::P2trScript,
        Self::P2trNums,
        Self::P2trNumsAnnex,
        Self::P2pk,
        Self::BareMultisig,
        Self::FutureWitness,
        Self::Anchor,
    ];

    /// Whether such an input contributes a key to the input hash and the tweak.
    pub fn yields_key(self) -> bool {
        matches!(
            self,
            Self::P2pkh
                | Self::P2pkhMalleated
                | Self::P2shP2wpkh
                | Self::P2wpkh
                | Self::P2tr
                | Self::P2trAnnex
                | Self::P2trScript
        )
    }

    /// Whether one such input makes its transaction ineligible, whatever its other inputs are.
    pub fn disqualifies(self) -> bool {
        self == Self::FutureWitness
    }

    /// Whether such outputs are taproot outputs.
    pub fn is_taproot(self) -> bool {
        matches!(
            self,
            Self::P2tr | Self::P2trAnnex | Self::P2trScript | Self::P2trNums | Self::P2trNumsAnnex
        )
    }

    fn annex(self) -> Option<&'static [u8]> {
        matches!(self, Self::P2trAnnex | Self::P2trNumsAnnex).then_some(&ANNEX)
    }

    /// The script of such an output for a secret. Kinds with several keys derive the others from it.
    pub fn script_pubkey(self, secret: &SecretKey) -> ScriptBuf {
        let key = PublicKey::new(secret.public_key(SECP256K1));
        match self {
            Self::P2pkh | Self::P2pkhMalleated => ScriptBuf::new_p2pkh(&key.pubkey_hash()),
            Self::P2pkhUncompressed => ScriptBuf::new_p2pkh(&uncompressed(key).pubkey_hash()),
            Self::P2shP2wpkh => p2wpkh(key).to_p2sh(),
            Self::P2shMultisig => multisig(secret, 3).to_p2sh(),
            Self::P2wpkh => p2wpkh(key),
            Self::P2wsh => multisig(secret, 2).to_p2wsh(),
            Self::P2tr | Self::P2trAnnex => {
                let (output_key, _) = secret.x_only_public_key(SECP256K1);
                ScriptBuf::new_p2tr_tweaked(TweakedPublicKey::dangerous_assume_tweaked(output_key))
            }
            Self::P2trScript | Self::P2trNums | Self::P2trNumsAnnex => {
                ScriptBuf::new_p2tr_tweaked(ScriptPath::new(self, secret).info.output_key())
            }
            Self::P2pk => ScriptBuf::new_p2pk(&key),
            Self::BareMultisig => multisig(secret, 3),
            Self::FutureWitness => Builder::new()
                .push_int(2)
                .push_slice(sha256::Hash::hash(&key.to_bytes()).to_byte_array())
                .into_script(),
            Self::Anchor => ScriptBuf::new_p2a(),
        }
    }
}

/// An output and what is needed to spend it. `Debug` does not show the secret.
#[derive(Clone)]
pub struct SpendableOutput {
    /// Where it is.
    pub outpoint: OutPoint,
    /// Amount and script.
    pub txout: TxOut,
    /// Kind, which says how it is spent.
    pub kind: InputKind,
    secret: SecretKey,
}

impl fmt::Debug for SpendableOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpendableOutput")
            .field("outpoint", &self.outpoint)
            .field("txout", &self.txout)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl SpendableOutput {
    /// The output of `kind` for `secret` at `outpoint`.
    ///
    /// A silent payment that was received is of kind [`InputKind::P2tr`] with its output secret.
    pub fn new(kind: InputKind, secret: SecretKey, outpoint: OutPoint, value_sat: u64) -> Self {
        Self {
            outpoint,
            txout: TxOut {
                value: Amount::from_sat(value_sat),
                script_pubkey: kind.script_pubkey(&secret),
            },
            kind,
            secret,
        }
    }

    /// What a sender of silent payments needs of this input; `None` for kinds that yield no key.
    pub fn sender_input(&self) -> Option<SenderInput> {
        if !self.kind.yields_key() {
            return None;
        }
        let secret = match self.kind {
            InputKind::P2trScript => ScriptPath::new(self.kind, &self.secret).output_secret()?,
            _ => self.secret,
        };
        Some(SenderInput {
            secret,
            taproot: self.kind.is_taproot(),
        })
    }
}

/// Why a transaction cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A transaction needs at least one of each.
    #[error("a transaction needs inputs and outputs: {inputs} and {outputs} given")]
    Empty {
        /// Inputs given.
        inputs: usize,
        /// Outputs given.
        outputs: usize,
    },
    /// Outputs are worth more than inputs.
    #[error("outputs of {outputs_sat} sat exceed inputs of {inputs_sat} sat: add inputs")]
    Overspent {
        /// Sum of the inputs.
        inputs_sat: u64,
        /// Sum of the outputs.
        outputs_sat: u64,
    },
    /// No message to sign could be formed.
    #[error("input {input} cannot be signed: {reason}")]
    Sign {
        /// Position of the input.
        input: usize,
        /// Why.
        reason: String,
    },
}

/// Spends `inputs`, all of them signed, to `outputs`. What is left over is the fee.
///
/// Signatures are deterministic: the same arguments give the same txid and wtxid.
///
/// # Errors
/// [`BuildError`] for no inputs or outputs, or outputs above the inputs.
pub fn build_transaction(
    inputs: &[SpendableOutput],
    outputs: Vec<TxOut>,
) -> Result<Transaction, BuildError> {
    if inputs.is_empty() || outputs.is_empty() {
        return Err(BuildError::Empty {
            inputs: inputs.len(),
            outputs: outputs.len(),
        });
    }
    let prevouts: Vec<TxOut> = inputs.iter().map(|input| input.txout.clone()).collect();
    let (inputs_sat, outputs_sat) = (sum_sat(&prevouts), sum_sat(&outputs));
    if outputs_sat > inputs_sat {
        return Err(BuildError::Overspent {
            inputs_sat,
            outputs_sat,
        });
    }
    let mut tx = Transaction {
        version: transaction::Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: inputs
            .iter()
            .map(|input| TxIn {
                previous_output: input.outpoint,
                script_sig: ScriptBuf::new(),
                sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
                witness: Witness::new(),
            })
            .collect(),
        output: outputs,
    };
    let mut cache = SighashCache::new(&tx);
    let mut unlocking = Vec::with_capacity(inputs.len());
    for (at, input) in inputs.iter().enumerate() {
        let signed = sign(&mut cache, at, input, &prevouts);
        unlocking.push(signed.map_err(|reason| BuildError::Sign { input: at, reason })?);
    }
    for (input, (script_sig, witness)) in tx.input.iter_mut().zip(unlocking) {
        input.script_sig = script_sig;
        input.witness = witness;
    }
    Ok(tx)
}

/// Outputs that pay silent payment addresses from a transaction with exactly these inputs, in the order of
/// `recipients`: address and value in satoshi.
///
/// # Errors
/// [`SendError`], for example if no input yields a key.
pub fn silent_payment_outputs(
    inputs: &[SpendableOutput],
    recipients: &[(Address, u64)],
) -> Result<Vec<TxOut>, SendError> {
    let keys: Vec<SenderInput> = inputs
        .iter()
        .filter_map(SpendableOutput::sender_input)
        .collect();
    let outpoints: Vec<OutPoint> = inputs.iter().map(|input| input.outpoint).collect();
    let addresses: Vec<Address> = recipients.iter().map(|(address, _)| *address).collect();
    let output_keys = send::output_keys(&keys, &outpoints, &addresses)?;
    let to_output = |(key, &(_, value_sat)): (XOnlyPublicKey, &(Address, u64))| TxOut {
        value: Amount::from_sat(value_sat),
        script_pubkey: ScriptBuf::new_p2tr_tweaked(TweakedPublicKey::dangerous_assume_tweaked(key)),
    };
    Ok(output_keys
        .into_iter()
        .zip(recipients)
        .map(to_output)
        .collect())
}

/// An output of 0 sat that carries `data`, such as a state id.
pub fn op_return_output(data: &[u8]) -> TxOut {
    TxOut {
        value: Amount::ZERO,
        script_pubkey: Builder::new()
            .push_opcode(opcodes::all::OP_RETURN)
            .push_slice(push_bytes(data.to_vec()))
            .into_script(),
    }
}

/// Sum of amounts, in satoshi.
pub(super) fn sum_sat(outputs: &[TxOut]) -> u64 {
    let values = outputs.iter().map(|output| output.value.to_sat());
    values.fold(0, u64::saturating_add)
}

/// A secret that follows from another and a number.
fn derived(secret: &SecretKey, number: u8) -> SecretKey {
    let mut bytes = secret.secret_bytes().to_vec();
    bytes.push(number);
    let hash = sha256::Hash::hash(&bytes);
    SecretKey::from_slice(hash.as_byte_array()).unwrap_or(*secret)
}

fn uncompressed(key: PublicKey) -> PublicKey {
    PublicKey::new_uncompressed(key.inner)
}

fn p2wpkh(key: PublicKey) -> ScriptBuf {
    let hash = bitcoin::CompressedPublicKey(key.inner).wpubkey_hash();
    ScriptBuf::new_p2wpkh(&hash)
}

/// 2-of-`keys` multisig, without any P2SH or P2WSH around it.
fn multisig(secret: &SecretKey, keys: u8) -> ScriptBuf {
    let mut script = Builder::new().push_int(2);
    for number in 0..keys {
        let key = derived(secret, number).public_key(SECP256K1);
        script = script.push_key(&PublicKey::new(key));
    }
    script
        .push_int(i64::from(keys))
        .push_opcode(opcodes::all::OP_CHECKMULTISIG)
        .into_script()
}

fn push_bytes(bytes: Vec<u8>) -> PushBytesBuf {
    PushBytesBuf::try_from(bytes).expect("only what is too long for any transaction is refused")
}

/// A taproot output with a single leaf, `<key> OP_CHECKSIG`.
struct ScriptPath {
    secret: SecretKey,
    leaf: ScriptBuf,
    info: TaprootSpendInfo,
}

impl ScriptPath {
    fn new(kind: InputKind, secret: &SecretKey) -> Self {
        let internal_key = match kind {
            InputKind::P2trScript => secret.x_only_public_key(SECP256K1).0,
            _ => XOnlyPublicKey::from_slice(&NUMS_POINT).expect("H is a point"),
        };
        let (leaf_key, _) = derived(secret, 0).x_only_public_key(SECP256K1);
        let leaf = Builder::new()
            .push_x_only_key(&leaf_key)
            .push_opcode(opcodes::all::OP_CHECKSIG)
            .into_script();
        let info = TaprootBuilder::new()
            .add_leaf(0, leaf.clone())
            .ok()
            .and_then(|builder| builder.finalize(SECP256K1, internal_key).ok())
            .expect("a single leaf is a complete tree");
        Self {
            secret: *secret,
            leaf,
            info,
        }
    }

    fn control_block(&self) -> ControlBlock {
        self.info
            .control_block(&(self.leaf.clone(), LeafVersion::TapScript))
            .expect("the leaf is in the tree")
    }

    /// The secret of the output key, where the internal key's is known.
    fn output_secret(&self) -> Option<SecretKey> {
        let tweak: Scalar = self.info.tap_tweak().to_scalar();
        let keypair = Keypair::from_secret_key(SECP256K1, &self.secret);
        let tweaked = keypair.add_xonly_tweak(SECP256K1, &tweak).ok()?;
        Some(tweaked.secret_key())
    }
}

fn ecdsa(message: Message, secret: &SecretKey) -> bitcoin::ecdsa::Signature {
    bitcoin::ecdsa::Signature {
        signature: SECP256K1.sign_ecdsa(&message, secret),
        sighash_type: EcdsaSighashType::All,
    }
}

fn schnorr(message: Message, secret: &SecretKey) -> Vec<u8> {
    let keypair = Keypair::from_secret_key(SECP256K1, secret);
    bitcoin::taproot::Signature {
        signature: SECP256K1.sign_schnorr_no_aux_rand(&message, &keypair),
        sighash_type: TapSighashType::Default,
    }
    .to_vec()
}

/// The scriptSig and witness that unlock `input`, which is at position `at`.
fn sign(
    cache: &mut SighashCache<&Transaction>,
    at: usize,
    input: &SpendableOutput,
    prevouts: &[TxOut],
) -> Result<(ScriptBuf, Witness), String> {
    let SpendableOutput {
        txout,
        kind,
        secret,
        ..
    } = input;
    let key = PublicKey::new(secret.public_key(SECP256K1));
    let all = EcdsaSighashType::All;
    let legacy = |cache: &SighashCache<&Transaction>, script: &ScriptBuf| {
        cache
            .legacy_signature_hash(at, script, all.to_u32())
            .map(|hash| Message::from_digest(hash.to_byte_array()))
            .map_err(|e| e.to_string())
    };
    let mut script_sig = ScriptBuf::new();
    let mut witness = Witness::new();
    match kind {
        InputKind::P2pkh | InputKind::P2pkhMalleated | InputKind::P2pkhUncompressed => {
            let signature = ecdsa(legacy(cache, &txout.script_pubkey)?, secret);
            let (start, key) = match kind {
                InputKind::P2pkhMalleated => (
                    Builder::new()
                        .push_slice(*b"spindex")
                        .push_opcode(opcodes::all::OP_DROP),
                    key,
                ),
                InputKind::P2pkhUncompressed => (Builder::new(), uncompressed(key)),
                _ => (Builder::new(), key),
            };
            script_sig = start
                .push_slice(signature.serialize())
                .push_key(&key)
                .into_script();
        }
        InputKind::P2pk => {
            let signature = ecdsa(legacy(cache, &txout.script_pubkey)?, secret);
            script_sig = Builder::new()
                .push_slice(signature.serialize())
                .into_script();
        }
        InputKind::BareMultisig | InputKind::P2shMultisig => {
            let script = multisig(secret, 3);
            let message = legacy(cache, &script)?;
            let mut builder = Builder::new().push_int(0);
            for number in 0..2 {
                builder = builder.push_slice(ecdsa(message, &derived(secret, number)).serialize());
            }
            if *kind == InputKind::P2shMultisig {
                builder = builder.push_slice(push_bytes(script.into_bytes()));
            }
            script_sig = builder.into_script();
        }
        InputKind::P2wpkh | InputKind::P2shP2wpkh => {
            let script = p2wpkh(key);
            let hash = cache
                .p2wpkh_signature_hash(at, &script, txout.value, all)
                .map_err(|e| e.to_string())?;
            let signature = ecdsa(Message::from_digest(hash.to_byte_array()), secret);
            witness = Witness::p2wpkh(&signature, &key.inner);
            if *kind == InputKind::P2shP2wpkh {
                script_sig = Builder::new()
                    .push_slice(push_bytes(script.into_bytes()))
                    .into_script();
            }
        }
        InputKind::P2wsh => {
            let script = multisig(secret, 2);
            let hash = cache
                .p2wsh_signature_hash(at, &script, txout.value, all)
                .map_err(|e| e.to_string())?;
            let message = Message::from_digest(hash.to_byte_array());
            witness.push([]);
            for number in 0..2 {
                witness.push(ecdsa(message, &derived(secret, number)).to_vec());
            }
            witness.push(script);
        }
        InputKind::P2tr
        | InputKind::P2trAnnex
        | InputKind::P2trScript
        | InputKind::P2trNums
        | InputKind::P2trNumsAnnex => {
            let path = matches!(
                kind,
                InputKind::P2trScript | InputKind::P2trNums | InputKind::P2trNumsAnnex
            )
            .then(|| ScriptPath::new(*kind, secret));
            let annex = kind
                .annex()
                .map(Annex::new)
                .transpose()
                .map_err(|e| e.to_string())?;
            // No OP_CODESEPARATOR has been executed: its position is "none".
            let leaf = path.as_ref().map(|path| {
                let hash = TapLeafHash::from_script(&path.leaf, LeafVersion::TapScript);
                (hash, u32::MAX)
            });
            let hash = cache
                .taproot_signature_hash(
                    at,
                    &Prevouts::All(prevouts),
                    annex,
                    leaf,
                    TapSighashType::Default,
                )
                .map_err(|e| e.to_string())?;
            let message = Message::from_digest(hash.to_byte_array());
            match path {
                None => witness.push(schnorr(message, secret)),
                Some(path) => {
                    witness.push(schnorr(message, &derived(secret, 0)));
                    witness.push(&path.leaf);
                    witness.push(path.control_block().serialize());
                }
            }
            if let Some(annex) = kind.annex() {
                witness.push(annex);
            }
        }
        InputKind::FutureWitness | InputKind::Anchor => {}
    }
    Ok((script_sig, witness))
}
