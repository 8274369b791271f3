//! The scanner against the `silentpayments` crate, over random transactions made with the sender.

#![allow(
    clippy::unwrap_used,
    reason = "a broken fixture fails the test at once"
)]

use std::collections::BTreeSet;
use std::sync::Arc;

use bitcoin::hashes::{Hash, sha256};
use bitcoin::{Network, OutPoint, Txid};
use proptest::prelude::*;
use proptest::sample::SizeRange;
use secp256k1::{PublicKey, SECP256K1, Scalar, SecretKey, XOnlyPublicKey};
use spindex::bip352::K_MAX;
use spindex::bip352::hash::input_hash;
use spindex::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use spindex::bip352::send::{SenderInput, output_keys};
use spindex::curve::TweakPoint;
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::scan::{Candidate, FoundOutput, Scanner, TaprootOutput};

/// A number from any words.
fn digest(words: &[&[u8]]) -> [u8; 32] {
    sha256::Hash::hash(&words.concat()).to_byte_array()
}

fn secret(words: &[&[u8]]) -> SecretKey {
    SecretKey::from_slice(&digest(words)).unwrap()
}

/// The receiver number `who` with these labels.
fn wallet(who: u64, labels: impl IntoIterator<Item = u32>) -> (ReceiverKeys, SpendKey) {
    let who = who.to_le_bytes();
    let spend = SpendKey::from_bytes(digest(&[b"spend", &who])).unwrap();
    let scan = ScanKey::from_bytes(digest(&[b"scan", &who])).unwrap();
    (ReceiverKeys::new(scan, spend.public_key(), labels), spend)
}

fn scanner(keys: &ReceiverKeys) -> Scanner {
    Scanner::new(Arc::new(LibSecp256k1), keys.clone()).unwrap()
}

/// The inputs of a sender, and the tweak of a transaction with them.
struct Sender {
    inputs: Vec<SenderInput>,
    outpoints: Vec<OutPoint>,
    tweak: TweakPoint,
}

impl Sender {
    fn new(seed: u64, inputs: usize) -> Self {
        let secrets: Vec<SecretKey> = (0..inputs)
            .map(|i| secret(&[b"input", &seed.to_le_bytes(), &i.to_le_bytes()]))
            .collect();
        let outpoints: Vec<OutPoint> = (0..inputs)
            .map(|i| OutPoint {
                txid: Txid::from_byte_array(digest(&[b"prev", &seed.to_le_bytes()])),
                vout: i as u32,
            })
            .collect();
        let keys: Vec<PublicKey> = secrets.iter().map(|s| s.public_key(SECP256K1)).collect();
        let sum = PublicKey::combine_keys(&keys.iter().collect::<Vec<_>>()).unwrap();
        let tweak = sum
            .mul_tweak(
                SECP256K1,
                &input_hash(&outpoints[0], &sum.serialize()).unwrap(),
            )
            .unwrap();
        Self {
            inputs: secrets
                .into_iter()
                .map(|secret| SenderInput {
                    secret,
                    taproot: false,
                })
                .collect(),
            outpoints,
            tweak: TweakPoint::from_compressed(&tweak.serialize()).unwrap(),
        }
    }

    /// Output keys that pay the receiver under these labels, in order of k.
    fn pay(&self, keys: &ReceiverKeys, labels: &[Option<u32>]) -> Vec<[u8; 32]> {
        let recipients: Vec<_> = labels
            .iter()
            .map(|label| keys.address(*label, Network::Regtest).unwrap())
            .collect();
        output_keys(&self.inputs, &self.outpoints, &recipients)
            .unwrap()
            .iter()
            .map(XOnlyPublicKey::serialize)
            .collect()
    }
}

fn outputs(keys: &[[u8; 32]]) -> Vec<TaprootOutput> {
    let txid = Txid::from_byte_array(digest(&keys.iter().map(|k| &k[..]).collect::<Vec<_>>()));
    keys.iter()
        .enumerate()
        .map(|(i, key)| TaprootOutput {
            outpoint: OutPoint {
                txid,
                vout: 2 * i as u32,
            },
            key: *key,
            value_sat: 1000 + i as u64,
        })
        .collect()
}

/// Finds as (label, key, tweak) by the `silentpayments` crate.
fn reference(
    keys: &ReceiverKeys,
    tweak: &TweakPoint,
    outputs: &[[u8; 32]],
) -> BTreeSet<(Option<u32>, [u8; 32], [u8; 32])> {
    let shared_secret = *keys.scan_key.shared_secret(tweak).unwrap().point();
    let points: Vec<XOnlyPublicKey> = outputs
        .iter()
        .filter_map(|key| XOnlyPublicKey::from_slice(key).ok())
        .collect();
    keys.receiver()
        .unwrap()
        .scan_transaction(&shared_secret.into(), &points)
        .unwrap()
        .into_iter()
        .flat_map(|(label, found)| {
            let m = label.map(|label| keys.labels.by_scalar(label.as_inner()).unwrap().m);
            found
                .into_iter()
                .map(move |(key, tweak)| (m, key.serialize(), tweak.to_be_bytes()))
        })
        .collect()
}

fn as_set(found: &[FoundOutput]) -> BTreeSet<(Option<u32>, [u8; 32], [u8; 32])> {
    found.iter().map(|f| (f.label, f.key, f.tweak)).collect()
}

/// The secret key of a found output is `b_spend + tweak`.
fn assert_spendable(spend: &SpendKey, found: &FoundOutput) {
    let secret = spend
        .secret()
        .add_tweak(&Scalar::from_be_bytes(found.tweak).unwrap())
        .unwrap();
    let key = secret.public_key(SECP256K1).x_only_public_key().0;
    assert_eq!(key.serialize(), found.key);
}

/// What becomes an output of a random transaction.
#[derive(Debug, Clone)]
enum Pay {
    Wallet(Option<u32>),
    Stranger(u64),
    /// 32 bytes that are no x coordinate.
    NoPoint(u8),
    Repeat,
}

fn payments(count: impl Into<SizeRange>) -> impl Strategy<Value = Vec<Pay>> {
    let pay = prop_oneof![
        2 => Just(Pay::Wallet(None)),
        3 => (0..4_u32).prop_map(|m| Pay::Wallet(Some(m))),
        2 => any::<u64>().prop_map(Pay::Stranger),
        1 => any::<u8>().prop_map(Pay::NoPoint),
        1 => Just(Pay::Repeat),
    ];
    prop::collection::vec(pay, count)
}

/// An x that is not on the curve.
fn no_point(seed: u8) -> [u8; 32] {
    (0_u32..)
        .map(|i| digest(&[b"no point", &[seed], &i.to_le_bytes()]))
        .find(|x| XOnlyPublicKey::from_slice(x).is_err())
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn finds_are_those_of_the_silentpayments_crate(
        seed: u64,
        inputs in 1..4_usize,
        pays in payments(0..14),
        // With 40 labels outputs are subtracted, with 4 labels are added.
        many_labels: bool,
        order in any::<prop::sample::Index>(),
        shuffle: u64,
    ) {
        let (keys, spend) = wallet(1, if many_labels { 0..40 } else { 0..4 });
        let (stranger, _) = wallet(2, []);
        let sender = Sender::new(seed, inputs);
        let labels: Vec<Option<u32>> = pays
            .iter()
            .filter_map(|pay| match pay { Pay::Wallet(label) => Some(*label), _ => None })
            .collect();
        let paid = sender.pay(&keys, &labels);
        let mut next = paid.iter();
        let mut all: Vec<[u8; 32]> = Vec::new();
        for pay in &pays {
            all.push(match pay {
                Pay::Wallet(_) => *next.next().unwrap(),
                Pay::Stranger(n) => Sender::new(*n, 1).pay(&stranger, &[None])[0],
                Pay::NoPoint(n) => no_point(*n),
                Pay::Repeat if all.is_empty() => continue,
                Pay::Repeat => all[order.index(all.len())],
            });
        }
        // The order of outputs is the sender's business.
        all.sort_by_key(|key| digest(&[key, &shuffle.to_le_bytes()]));

        let scanner = scanner(&keys);
        let outputs = outputs(&all);
        let found = scanner.confirm(&sender.tweak, &outputs);
        prop_assert_eq!(as_set(&found), reference(&keys, &sender.tweak, &all));
        // Every payment, in order of k, with its label, at an output of that key, none twice.
        prop_assert_eq!(found.len(), labels.len());
        let mut places = BTreeSet::new();
        for (k, find) in found.iter().enumerate() {
            prop_assert_eq!(find.k, k as u32);
            prop_assert_eq!(find.label, labels[k]);
            prop_assert_eq!(find.key, paid[k]);
            let place = outputs.iter().position(|o| o.outpoint == find.outpoint).unwrap();
            prop_assert_eq!((outputs[place].key, outputs[place].value_sat), (find.key, find.value_sat));
            // Of equal outputs the first one counts.
            prop_assert!(outputs[..place].iter().all(|o| o.key != find.key));
            prop_assert!(places.insert(place));
            assert_spendable(&spend, find);
        }

        // The candidates of the tweak hold the first payment, and nothing of a stranger's tweak is ours.
        let candidates = scanner.candidates(&[sender.tweak]);
        prop_assert_eq!(candidates.len(), 1 + keys.labels.len());
        if let Some(first) = paid.first() {
            let expected = Candidate { tweak: 0, key: *first };
            prop_assert!(candidates.contains(&expected));
        }
        prop_assert_eq!(scanner.confirm(&Sender::new(!seed, 1).tweak, &outputs), vec![]);
    }
}

#[test]
fn a_gap_in_k_ends_the_search() {
    let (keys, _) = wallet(1, [1]);
    let sender = Sender::new(5, 1);
    let paid = sender.pay(&keys, &[None, Some(1), None]);
    let scanner = scanner(&keys);
    let found = scanner.confirm(&sender.tweak, &outputs(&[paid[0], paid[2]]));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].k, found[0].key), (0, paid[0]));
    assert_eq!(scanner.confirm(&sender.tweak, &outputs(&paid[1..])), vec![]);
}

#[test]
fn of_two_outputs_for_one_k_the_first_is_taken() {
    // A sender who knows the scheme may pay k = 0 twice, plain and labelled. One output per k is the rule.
    let (few, _) = wallet(1, [1, 2]);
    let (many, _) = wallet(1, 1..30);
    let sender = Sender::new(6, 2);
    let plain = sender.pay(&few, &[None])[0];
    let labelled = sender.pay(&few, &[Some(2)])[0];
    for keys in [few, many] {
        let scanner = scanner(&keys);
        let found = scanner.confirm(&sender.tweak, &outputs(&[plain, labelled]));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].key, found[0].label), (plain, None));
        let found = scanner.confirm(&sender.tweak, &outputs(&[no_point(0), labelled, plain]));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].key, found[0].label), (labelled, Some(2)));
    }
}

#[test]
fn no_more_than_k_max_outputs_are_found() {
    let (keys, spend) = wallet(1, [7]);
    let sender = Sender::new(9, 1);
    let labels: Vec<Option<u32>> = (0..K_MAX).map(|k| (k % 2 == 1).then_some(7)).collect();
    let mut paid = sender.pay(&keys, &labels);
    // The sender refuses a further one, so make it by hand.
    let shared_secret = keys.scan_key.shared_secret(&sender.tweak).unwrap();
    let t = spindex::bip352::hash::output_tweak(&shared_secret, K_MAX).unwrap();
    let beyond = keys.spend_pubkey.add_exp_tweak(SECP256K1, &t).unwrap();
    paid.push(beyond.x_only_public_key().0.serialize());
    paid.reverse();

    let found = scanner(&keys).confirm(&sender.tweak, &outputs(&paid));
    assert_eq!(found.len(), K_MAX as usize);
    assert_eq!(found.last().unwrap().k, K_MAX - 1);
    assert!(found.iter().all(|find| find.key != paid[0]));
    assert_eq!(found.iter().filter(|f| f.label == Some(7)).count(), 1161);
    assert_spendable(&spend, &found[2322]);
}

#[test]
fn candidates_keep_their_tweaks_over_many_batches() {
    let (keys, _) = wallet(3, [4]);
    let scanner = scanner(&keys);
    assert_eq!(scanner.candidates_per_tweak(), 3);
    let mut tweaks: Vec<TweakPoint> = (0..1500).map(|i| Sender::new(i, 1).tweak).collect();
    // A point off the curve has no candidates and disturbs no other.
    tweaks[700] = TweakPoint::from_bytes([9; 64]);
    let candidates = scanner.candidates(&tweaks);
    assert_eq!(candidates.len(), 1499 * 3);
    for (position, candidate) in candidates.iter().enumerate() {
        let tweak = position / 3;
        assert_eq!(candidate.tweak, tweak + usize::from(tweak >= 700));
    }
    for place in [0, 63, 64, 511, 512, 699, 701, 1499] {
        let one: Vec<_> = scanner.candidates(&tweaks[place..=place]);
        let same: Vec<_> = candidates.iter().filter(|c| c.tweak == place).collect();
        assert!(one.iter().map(|c| c.key).eq(same.iter().map(|c| c.key)));
    }
    assert_eq!(scanner.candidates(&[]), vec![]);
}

#[test]
fn a_tweak_off_the_curve_finds_nothing() {
    let (keys, _) = wallet(1, []);
    let sender = Sender::new(5, 1);
    let paid = sender.pay(&keys, &[None]);
    let off = TweakPoint::from_bytes([1; 64]);
    assert_eq!(scanner(&keys).confirm(&off, &outputs(&paid)), vec![]);
}

#[test]
fn debug_shows_no_secret() {
    let (keys, _) = wallet(1, [1]);
    let sender = Sender::new(5, 1);
    let scanner = scanner(&keys);
    let found = scanner.confirm(&sender.tweak, &outputs(&sender.pay(&keys, &[Some(1)])));
    let shown = format!("{found:?} {scanner:?}");
    assert!(shown.contains("value_sat: 1000"));
    // Neither as a list of numbers nor as hex.
    let tweak = found[0].tweak;
    assert!(!shown.contains(&format!("{}, {}, {}", tweak[0], tweak[1], tweak[2])));
    assert!(!shown.contains(&format!("{:02x}{:02x}{:02x}", tweak[0], tweak[1], tweak[2])));
}
