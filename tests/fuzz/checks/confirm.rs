//! The full rule for one transaction, held against the receiver of the `silentpayments` crate and against the rule said
//! once more in its plainest form.
//!
//! That receiver compares outputs as a set, stops at one find for each k, a plain one if there is, and tells no k. So
//! what it finds has to be found, for as many k, and the plain form says what else, and in which order.

use std::collections::BTreeSet;
use std::sync::Arc;

use bitcoin::hashes::Hash;
use bitcoin::secp256k1::{PublicKey, SECP256K1, Scalar, SecretKey, XOnlyPublicKey};
use bitcoin::{OutPoint, Txid};
use spindex::bip352::hash::output_tweak;
use spindex::bip352::keys::{ReceiverKeys, ScanKey, SharedSecret};
use spindex::bip352::label::Label;
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::scan::{FoundOutput, Scanner, TaprootOutput};

use super::input::{Input, ordinary_point, times_generator, unpack};

/// Most labels beside change: more than twice as many as a transaction with few outputs, so that either is compared with
/// the other.
const MOST_LABELS: u8 = 40;

/// Most outputs, so that an input takes libsecp256k1 some milliseconds.
const MOST_OUTPUTS: usize = 24;

/// A find: position of the output, k, m of the label and what to add to the spend key.
type Find = (usize, u32, Option<u32>, [u8; 32]);

/// Whether the input says enough: scan key, tweak, spend key and labels, of which the last two may depend on the first
/// two, and then outputs to its end.
pub(crate) fn check(bytes: &[u8]) -> bool {
    run(Input(bytes)).is_some()
}

fn run(mut input: Input<'_>) -> Option<()> {
    let scan_key = ScanKey::from_bytes(input.scalar()?)?;
    let tweak = input.point()?;
    let shared_secret = scan_key.shared_secret(&tweak);
    assert_eq!(shared_secret.is_some(), unpack(&tweak).is_some());
    let spend_pubkey = spend_pubkey(&mut input, &scan_key, shared_secret.as_ref())?;
    let labels = input.byte()? % MOST_LABELS;
    let first = u32::from(input.byte()?);
    // Some at the end of all numbers.
    let labels = (0..u32::from(labels)).map(|label| match first {
        0..128 => first + label,
        _ => u32::MAX - label,
    });
    let keys = ReceiverKeys::new(scan_key, spend_pubkey, labels);
    let outputs = outputs(&mut input, &keys, shared_secret.as_ref());

    let scanner = Scanner::new(Arc::new(LibSecp256k1), keys).expect("valid keys");
    let keys = scanner.keys();
    let found = scanner
        .confirm(&tweak, &outputs)
        .expect("every key verifies");
    let Some(shared_secret) = shared_secret else {
        assert_eq!(found, []);
        return Some(());
    };
    let found = finds(&found, &outputs);
    assert_eq!(found, plain_form(keys, &shared_secret, &outputs));
    compare_with_receiver(keys, &shared_secret, &outputs, &found);
    Some(())
}

/// Reads its kind (1 byte) and what that needs.
fn spend_pubkey(
    input: &mut Input<'_>,
    scan_key: &ScanKey,
    shared_secret: Option<&SharedSecret>,
) -> Option<PublicKey> {
    let kind = input.byte()?;
    let number = input.byte()?;
    let ordinary = unpack(&ordinary_point(number))?;
    Some(match (kind % 8, shared_secret) {
        // Such that P_k is infinity, or P_k + L_m, or B + L_m.
        (5, Some(secret)) => multiple(secret, u32::from(number % 4))?.negate(SECP256K1),
        (6, Some(secret)) => {
            let label = Label::new(scan_key, u32::from(number / 4))?.point;
            let sum = multiple(secret, u32::from(number % 4))?.combine(&label);
            sum.ok()?.negate(SECP256K1)
        }
        (7, _) => Label::new(scan_key, u32::from(number))?
            .point
            .negate(SECP256K1),
        // Of the scan key itself.
        (4, _) => scan_key.public_key(),
        (3, _) => unpack(&input.point()?)?,
        _ => ordinary,
    })
}

/// `t_k·G`.
fn multiple(shared_secret: &SharedSecret, k: u32) -> Option<PublicKey> {
    times_generator(output_tweak(shared_secret, k)?.to_be_bytes())
}

/// Reads outputs: a kind for each (1 byte), and what that needs.
fn outputs(
    input: &mut Input<'_>,
    keys: &ReceiverKeys,
    shared_secret: Option<&SharedSecret>,
) -> Vec<TaprootOutput> {
    let mut outputs: Vec<TaprootOutput> = Vec::new();
    // The next k to pay.
    let mut next = 0;
    while outputs.len() < MOST_OUTPUTS {
        let known: Vec<[u8; 32]> = outputs.iter().map(|output| output.key).collect();
        let Some(key) = output_key(input, keys, shared_secret, &mut next, &known) else {
            break;
        };
        let vout = 3 * outputs.len() as u32;
        outputs.push(TaprootOutput {
            outpoint: OutPoint::new(Txid::from_byte_array([7; 32]), vout),
            key,
            value_sat: u64::from(vout) << 40,
        });
    }
    outputs
}

fn output_key(
    input: &mut Input<'_>,
    keys: &ReceiverKeys,
    shared_secret: Option<&SharedSecret>,
    next: &mut u32,
    known: &[[u8; 32]],
) -> Option<[u8; 32]> {
    let kind = input.byte()?;
    let stranger = |number: u8| x_only(&unpack(&ordinary_point(number))?);
    match (kind % 8, shared_secret) {
        // The next k, plain or with a label.
        (0 | 1, Some(secret)) => {
            let k = *next;
            *next += 1;
            let label = if kind % 8 == 0 {
                None
            } else {
                Some(input.byte()?)
            };
            Some(paid(keys, secret, k, label).unwrap_or([0; 32]))
        }
        // Some k, also once more or ahead of its turn.
        (2, Some(secret)) => {
            let k = u32::from(kind / 8 % 8);
            let label = input.byte()?;
            Some(paid(keys, secret, k, (label < 192).then_some(label)).unwrap_or([0; 32]))
        }
        // A label that the wallet does not look for.
        (3, Some(secret)) => {
            let label = Label::new(&keys.scan_key, 1000 + u32::from(input.byte()?))?;
            let sum = keys
                .spend_pubkey
                .combine(&multiple(secret, u32::from(kind / 8))?)
                .ok();
            Some(
                sum.and_then(|p_k| x_only(&p_k.combine(&label.point).ok()?))
                    .unwrap_or([0; 32]),
            )
        }
        // One that was there before.
        (4, _) => {
            let place = usize::from(input.byte()?);
            Some(
                known
                    .get(place % known.len().max(1))
                    .copied()
                    .unwrap_or([0; 32]),
            )
        }
        (5, _) => input.array(),
        (6, _) => x_only(&unpack(&input.point()?)?).or(Some([1; 32])),
        _ => stranger(input.byte()?),
    }
}

/// `P_k`, or `P_k + L` for one of the wallet's labels; `None` at infinity.
fn paid(
    keys: &ReceiverKeys,
    shared_secret: &SharedSecret,
    k: u32,
    label: Option<u8>,
) -> Option<[u8; 32]> {
    let multiple = multiple(shared_secret, k)?;
    let Some(label) = label else {
        return x_only(&keys.spend_pubkey.combine(&multiple).ok()?);
    };
    let label = keys.labels.iter().cycle().nth(usize::from(label))?;
    // All at once: a sum on the way may be infinity.
    let sum = PublicKey::combine_keys(&[&keys.spend_pubkey, &multiple, &label.point]);
    x_only(&sum.ok()?)
}

fn x_only(point: &PublicKey) -> Option<[u8; 32]> {
    Some(point.x_only_public_key().0.serialize())
}

/// What was found, in its order, and that it is told as the outputs are.
fn finds(found: &[FoundOutput], outputs: &[TaprootOutput]) -> Vec<Find> {
    let find = |found: &FoundOutput| {
        let position = outputs
            .iter()
            .position(|output| output.outpoint == found.outpoint)
            .expect("an output of the transaction");
        assert_eq!(found.key, outputs[position].key);
        assert_eq!(found.value_sat, outputs[position].value_sat);
        (position, found.k, found.label, found.tweak)
    };
    let mut found: Vec<Find> = found.iter().map(find).collect();
    // The first of each k leads; the order of the others means nothing.
    for same_k in found.chunk_by_mut(|a, b| a.1 == b.1) {
        if let Some((_, others)) = same_k.split_first_mut() {
            others.sort_unstable();
        }
    }
    found
}

/// Every output with a key of k, for each k from 0 on up to the first without, those of a k in their order.
fn plain_form(
    keys: &ReceiverKeys,
    shared_secret: &SharedSecret,
    outputs: &[TaprootOutput],
) -> Vec<Find> {
    let mut found = Vec::new();
    for k in 0.. {
        let Some(t_k) = output_tweak(shared_secret, k) else {
            break;
        };
        let plain = [(None, None)];
        let labelled = keys.labels.iter().map(|label| (Some(label.m), Some(label)));
        let ways: Vec<_> = plain
            .into_iter()
            .chain(labelled)
            .filter_map(|(m, label)| {
                let tweak = match label {
                    None => SecretKey::from_slice(&t_k.to_be_bytes()).ok(),
                    Some(label) => sum(&t_k, &label.scalar),
                };
                // With 0 to add it is the spend key's own.
                let key = match &tweak {
                    None => keys.spend_pubkey,
                    Some(tweak) => keys
                        .spend_pubkey
                        .combine(&tweak.public_key(SECP256K1))
                        .ok()?,
                };
                let tweak = tweak.map_or([0; 32], |tweak| tweak.secret_bytes());
                Some((x_only(&key)?, m, tweak))
            })
            .collect();
        let before = found.len();
        for (position, output) in outputs.iter().enumerate() {
            let way = ways.iter().find(|(key, ..)| *key == output.key);
            found.extend(way.map(|(_, m, tweak)| (position, k, *m, *tweak)));
        }
        if found.len() == before {
            break;
        }
    }
    found
}

fn sum(a: &Scalar, b: &Scalar) -> Option<SecretKey> {
    SecretKey::from_slice(&a.to_be_bytes())
        .ok()?
        .add_tweak(b)
        .ok()
}

fn compare_with_receiver(
    keys: &ReceiverKeys,
    shared_secret: &SharedSecret,
    outputs: &[TaprootOutput],
    found: &[Find],
) {
    // It knows no infinity: refuses the wallet, or the transaction.
    let Ok(receiver) = keys.receiver() else {
        return;
    };
    let points: Vec<XOnlyPublicKey> = outputs
        .iter()
        .filter_map(|output| XOnlyPublicKey::from_slice(&output.key).ok())
        .collect();
    let Ok(by_label) = receiver.scan_transaction(&(*shared_secret.point()).into(), &points) else {
        return;
    };
    let found: BTreeSet<_> = found
        .iter()
        .map(|(position, k, m, tweak)| ((*m, outputs[*position].key, *tweak), *k))
        .collect();
    let mut numbers = BTreeSet::new();
    for (label, by_key) in by_label {
        let m = label.map(|label| {
            keys.labels
                .by_scalar(label.as_inner())
                .expect("its own label")
                .m
        });
        for (key, tweak) in by_key {
            let theirs = (m, key.serialize(), tweak.to_be_bytes());
            let ours = found.iter().find(|(find, _)| *find == theirs);
            let (_, k) = ours.unwrap_or_else(|| panic!("only the receiver finds {key}"));
            assert!(numbers.insert(*k), "two finds of the receiver for one k");
        }
    }
    let ours: BTreeSet<u32> = found.iter().map(|(_, k)| *k).collect();
    assert_eq!(ours, numbers);
}
