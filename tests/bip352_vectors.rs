//! All test vectors of BIP352, receiving and sending.

use std::collections::BTreeSet;
use std::str::FromStr;

use bitcoin::consensus::encode;
use bitcoin::hashes::{Hash, sha256};
use bitcoin::hex::FromHex;
use bitcoin::{
    Amount, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness,
    absolute, transaction,
};
use secp256k1::{
    Keypair, Message, PublicKey, SECP256K1, Scalar, SecretKey, XOnlyPublicKey, schnorr,
};
use serde::Deserialize;
use spindex::bip352::K_MAX;
use spindex::bip352::address::Address;
use spindex::bip352::hash;
use spindex::bip352::inputs::{taproot_output_key, tweak_inputs};
use spindex::bip352::keys::{ReceiverKeys, ScanKey, SharedSecret, SpendKey};
use spindex::bip352::send::{SendError, SenderInput, output_keys};
use spindex::bip352::tweak::{key_sums, transaction_tweak};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::curve::{Batch, Engine};

const VECTORS: &[u8] = include_bytes!("../fixtures/bip352/send_and_receive_test_vectors.json");
const VECTORS_SHA256: &str = "f5f9ed4afd76a1b76f3c70b1cbe67532f89abbe559f8e02d7fc3d8ecb93af4a1";

#[derive(Deserialize)]
struct Case {
    comment: String,
    sending: Vec<Sending>,
    receiving: Vec<Receiving>,
}

#[derive(Deserialize)]
struct Sending {
    given: SendingGiven,
    expected: SendingExpected,
}

#[derive(Deserialize)]
struct SendingGiven {
    vin: Vec<Vin>,
    recipients: Vec<Recipient>,
}

#[derive(Deserialize)]
struct Recipient {
    address: String,
    scan_pub_key: PublicKey,
    spend_pub_key: PublicKey,
    count: Option<usize>,
}

#[derive(Deserialize)]
struct SendingExpected {
    outputs: Vec<Vec<String>>,
    shared_secrets: Vec<Option<PublicKey>>,
    input_private_key_sum: Option<SecretKey>,
    input_pub_keys: Vec<PublicKey>,
}

#[derive(Deserialize)]
struct Receiving {
    given: ReceivingGiven,
    expected: ReceivingExpected,
}

#[derive(Deserialize)]
struct ReceivingGiven {
    vin: Vec<Vin>,
    outputs: Vec<String>,
    key_material: KeyMaterial,
    labels: Vec<u32>,
}

#[derive(Deserialize)]
struct KeyMaterial {
    spend_priv_key: String,
    scan_priv_key: String,
}

#[derive(Deserialize)]
struct ReceivingExpected {
    addresses: Vec<String>,
    outputs: Option<Vec<ExpectedOutput>>,
    n_outputs: Option<usize>,
    tweak: Option<PublicKey>,
    shared_secret: Option<PublicKey>,
    input_pub_key_sum: Option<PublicKey>,
}

#[derive(Deserialize)]
struct ExpectedOutput {
    priv_key_tweak: String,
    pub_key: String,
    signature: schnorr::Signature,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vin {
    txid: Txid,
    vout: u32,
    script_sig: ScriptBuf,
    txinwitness: String,
    prevout: Prevout,
    #[serde(rename = "private_key")]
    private_key: Option<SecretKey>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Prevout {
    script_pub_key: ScriptHex,
}

#[derive(Deserialize)]
struct ScriptHex {
    hex: ScriptBuf,
}

impl Vin {
    fn outpoint(&self) -> OutPoint {
        OutPoint::new(self.txid, self.vout)
    }

    fn input(&self) -> TxIn {
        let witness = match self.txinwitness.as_str() {
            "" => Witness::new(),
            hex => encode::deserialize_hex(hex).expect("a serialized witness"),
        };
        TxIn {
            previous_output: self.outpoint(),
            script_sig: self.script_sig.clone(),
            sequence: Sequence::MAX,
            witness,
        }
    }

    fn prevout(&self) -> TxOut {
        output(self.prevout.script_pub_key.hex.clone())
    }
}

fn output(script_pubkey: ScriptBuf) -> TxOut {
    TxOut {
        value: Amount::from_sat(1000),
        script_pubkey,
    }
}

fn key_bytes(hex: &str) -> [u8; 32] {
    <[u8; 32]>::from_hex(hex).expect("32 bytes of hex")
}

fn taproot_output(key: [u8; 32]) -> TxOut {
    output(ScriptBuf::from_bytes([&[0x51, 0x20][..], &key].concat()))
}

fn transaction(vin: &[Vin], outputs: Vec<TxOut>) -> (Transaction, Vec<TxOut>) {
    let transaction = Transaction {
        version: transaction::Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: vin.iter().map(Vin::input).collect(),
        output: outputs,
    };
    (transaction, vin.iter().map(Vin::prevout).collect())
}

fn cases() -> Vec<Case> {
    assert_eq!(
        sha256::Hash::hash(VECTORS).to_string(),
        VECTORS_SHA256,
        "the file of test vectors has changed"
    );
    let cases: Vec<Case> = serde_json::from_slice(VECTORS).expect("the format of BIP352");
    assert_eq!(cases.len(), 28, "the file of test vectors is incomplete");
    cases
}

/// An output found: x-only key and the tweak of its secret.
type Found = (XOnlyPublicKey, Scalar);

/// The receiver's rules by the letter, with the label lookup by difference.
fn find_outputs(
    keys: &ReceiverKeys,
    shared_secret: &SharedSecret,
    outputs: &[[u8; 32]],
) -> Vec<Found> {
    let mut remaining: Vec<XOnlyPublicKey> = outputs
        .iter()
        .filter_map(|key| XOnlyPublicKey::from_slice(key).ok())
        .collect();
    let mut found = Vec::new();
    for k in 0..K_MAX {
        let t_k = hash::output_tweak(shared_secret, k).expect("a valid scalar");
        let output_key = keys
            .spend_pubkey
            .add_exp_tweak(SECP256K1, &t_k)
            .expect("not infinity");
        let plain = output_key.x_only_public_key().0;
        if let Some(place) = remaining.iter().position(|key| *key == plain) {
            found.push((remaining.remove(place), t_k));
            continue;
        }
        let negated = output_key.negate(SECP256K1);
        let labelled = remaining.iter().enumerate().find_map(|(place, key)| {
            let even = key.public_key(secp256k1::Parity::Even);
            let label = [even, even.negate(SECP256K1)]
                .iter()
                .filter_map(|key| key.combine(&negated).ok())
                .find_map(|difference| keys.labels.by_point(&difference))?;
            Some((place, label))
        });
        let Some((place, label)) = labelled else {
            break;
        };
        let t_k = SecretKey::from_slice(&t_k.to_be_bytes()).expect("not 0");
        let tweak = t_k.add_tweak(&label.scalar).expect("not 0");
        found.push((remaining.remove(place), tweak.into()));
    }
    found
}

/// The same by the `silentpayments` crate, which knows no K_MAX.
fn find_outputs_by_crate(
    keys: &ReceiverKeys,
    shared_secret: &SharedSecret,
    outputs: &[[u8; 32]],
) -> BTreeSet<Found> {
    let outputs: Vec<XOnlyPublicKey> = outputs
        .iter()
        .filter_map(|key| XOnlyPublicKey::from_slice(key).ok())
        .collect();
    let found = keys
        .receiver()
        .expect("no label point at infinity")
        .scan_transaction(&(*shared_secret.point()).into(), &outputs)
        .expect("valid keys");
    for label in found.keys().flatten() {
        assert!(keys.labels.by_scalar(label.as_inner()).is_some());
    }
    found.into_values().flatten().collect()
}

fn check_receiving(receiving: &Receiving) {
    let Receiving { given, expected } = receiving;
    let scan_key = ScanKey::from_bytes(key_bytes(&given.key_material.scan_priv_key));
    let spend_key = SpendKey::from_bytes(key_bytes(&given.key_material.spend_priv_key));
    let (scan_key, spend_key) = (scan_key.expect("in range"), spend_key.expect("in range"));
    let keys = ReceiverKeys::new(
        scan_key,
        spend_key.public_key(),
        given.labels.iter().copied(),
    );

    let addresses: BTreeSet<String> = [None]
        .into_iter()
        .chain(given.labels.iter().copied().map(Some))
        .map(|label| keys.address(label, Network::Bitcoin))
        .map(|address| address.expect("not infinity").to_string())
        .collect();
    assert_eq!(addresses, expected.addresses.iter().cloned().collect());

    let outputs: Vec<[u8; 32]> = given.outputs.iter().map(|key| key_bytes(key)).collect();
    let (tx, prevouts) = transaction(
        &given.vin,
        outputs.iter().copied().map(taproot_output).collect(),
    );
    let inputs = Vec::from_iter(tweak_inputs(&tx, &prevouts));
    let key_sum = key_sums(&LibSecp256k1, &inputs).pop().flatten();
    assert_eq!(
        key_sum.map(|sum| sum.to_compressed()),
        expected.input_pub_key_sum.map(|sum| sum.serialize())
    );
    let tweak = transaction_tweak(&LibSecp256k1, &tx, &prevouts);
    assert_eq!(
        tweak.map(|tweak| tweak.to_compressed()),
        expected.tweak.map(|tweak| tweak.serialize())
    );
    let Some(tweak) = tweak else {
        assert_eq!(expected.shared_secret, None);
        assert_eq!(expected.outputs.as_ref().map(Vec::len), Some(0));
        return;
    };
    let shared_secret = keys.scan_key.shared_secret(&tweak).expect("on the curve");
    assert_eq!(Some(shared_secret.point()), expected.shared_secret.as_ref());

    // A server or light client that only tests k = 0 sees every payment.
    let mut candidates = Vec::new();
    LibSecp256k1
        .scanner(&[keys.scan_target()])
        .expect("valid keys")
        .candidates(Batch::of(&[tweak]), &mut candidates);
    let found = find_outputs(&keys, &shared_secret, &outputs);
    assert_eq!(
        candidates.concat().iter().any(|key| outputs.contains(key)),
        !found.is_empty()
    );

    for (key, tweak) in &found {
        let secret = spend_key.secret().add_tweak(tweak);
        let secret = secret.expect("not 0");
        assert_eq!(*key, secret.x_only_public_key(SECP256K1).0);
    }
    if let Some(count) = expected.n_outputs {
        assert_eq!(found.len(), count);
        return;
    }
    let found: BTreeSet<Found> = found.into_iter().collect();
    assert_eq!(
        found,
        find_outputs_by_crate(&keys, &shared_secret, &outputs)
    );
    let expected = expected.outputs.as_ref().expect("outputs or their number");
    assert_eq!(found.len(), expected.len());
    for output in expected {
        let key = XOnlyPublicKey::from_str(&output.pub_key).expect("a point");
        let tweak = Scalar::from_be_bytes(key_bytes(&output.priv_key_tweak)).expect("in range");
        assert!(found.contains(&(key, tweak)), "{key}");
        // The message and auxiliary data of the reference's signatures.
        let message = Message::from_digest(sha256::Hash::hash(b"message").to_byte_array());
        let auxiliary = sha256::Hash::hash(b"random auxiliary data").to_byte_array();
        let secret = spend_key.secret().add_tweak(&tweak);
        let pair = Keypair::from_secret_key(SECP256K1, &secret.expect("not 0"));
        let signature = SECP256K1.sign_schnorr_with_aux_rand(&message, &pair, &auxiliary);
        assert_eq!(signature, output.signature);
    }
}

/// The key an input yields, found by spending it alone.
fn key_of_input(vin: &Vin) -> Option<PublicKey> {
    let (tx, prevouts) = transaction(std::slice::from_ref(vin), vec![taproot_output([1; 32])]);
    let inputs = tweak_inputs(&tx, &prevouts)?;
    assert_eq!(inputs.keys.len(), 1);
    PublicKey::from_slice(inputs.keys.first()?).ok()
}

fn check_sending(sending: &Sending) {
    let Sending { given, expected } = sending;
    let outpoints: Vec<OutPoint> = given.vin.iter().map(Vin::outpoint).collect();
    let with_keys: Vec<(&Vin, PublicKey)> = given
        .vin
        .iter()
        .filter_map(|vin| Some((vin, key_of_input(vin)?)))
        .collect();
    let pubkeys: Vec<PublicKey> = with_keys.iter().map(|(_, key)| *key).collect();
    assert_eq!(pubkeys, expected.input_pub_keys);
    let inputs: Vec<SenderInput> = with_keys
        .iter()
        .map(|(vin, _)| SenderInput {
            secret: vin.private_key.expect("senders have the keys"),
            taproot: taproot_output_key(&vin.prevout.script_pub_key.hex).is_some(),
        })
        .collect();

    let mut recipients = Vec::new();
    for recipient in &given.recipients {
        let address: Address = recipient.address.parse().expect("an address");
        assert_eq!(address.scan_pubkey, recipient.scan_pub_key);
        assert_eq!(address.spend_pubkey, recipient.spend_pub_key);
        assert_eq!(address.network, Network::Bitcoin);
        assert_eq!(address.to_string(), recipient.address);
        recipients.extend(std::iter::repeat_n(address, recipient.count.unwrap_or(1)));
    }

    let sent = output_keys(&inputs, &outpoints, &recipients);
    if expected.outputs.iter().all(Vec::is_empty) {
        let reason = match (&expected.input_private_key_sum, inputs.len()) {
            (_, 0) => SendError::NoInput,
            (None, _) => SendError::ZeroKeySum,
            (Some(_), _) => SendError::TooManyRecipients { count: 2324 },
        };
        assert_eq!(sent, Err(reason));
        return;
    }
    let sent = sent.expect("a payable set of recipients");
    assert_eq!(sent.len(), recipients.len());
    let sent: BTreeSet<String> = sent.iter().map(XOnlyPublicKey::to_string).collect();
    assert!(
        expected
            .outputs
            .iter()
            .any(|outputs| outputs.iter().cloned().collect::<BTreeSet<_>>() == sent)
    );

    // The sender's side of the tweak: the sum of the secrets gives the sum of the keys.
    let key_sum = PublicKey::combine_keys(&pubkeys.iter().collect::<Vec<_>>());
    let key_sum = key_sum.expect("not infinity");
    let secret_sum = expected.input_private_key_sum.expect("not 0");
    assert_eq!(secret_sum.public_key(SECP256K1), key_sum);
    let smallest = outpoints
        .iter()
        .min_by_key(|&outpoint| encode::serialize(outpoint));
    let input_hash = hash::input_hash(smallest.expect("an input"), &key_sum.serialize());
    let partial_secret = secret_sum
        .mul_tweak(&input_hash.expect("in range"))
        .expect("not 0");
    for (recipient, shared_secret) in given.recipients.iter().zip(&expected.shared_secrets) {
        let product = recipient
            .scan_pub_key
            .mul_tweak(SECP256K1, &Scalar::from(partial_secret));
        assert_eq!(product.ok(), *shared_secret);
    }
}

#[test]
fn receiving() {
    let mut checked = 0;
    for (number, case) in cases().iter().enumerate() {
        println!("case {number}: {}", case.comment);
        assert!(!case.receiving.is_empty());
        for receiving in &case.receiving {
            check_receiving(receiving);
            checked += 1;
        }
    }
    assert_eq!(checked, 29);
}

#[test]
fn sending() {
    let mut checked = 0;
    for (number, case) in cases().iter().enumerate() {
        println!("case {number}: {}", case.comment);
        for sending in &case.sending {
            check_sending(sending);
            checked += 1;
        }
    }
    assert_eq!(checked, 28);
}
