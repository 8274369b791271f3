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
use spindex::scan::{FoundOutput, Scanner, TaprootOutput};

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
        let found = scanner.confirm(&sender.tweak, &outputs).unwrap();
        prop_assert_eq!(as_set(&found), reference(&keys, &sender.tweak, &all));
        // Every output with the key of a payment, in order of k, with its label, none twice, and nothing else.
        prop_assert_eq!(found.len(), all.iter().filter(|key| paid.contains(key)).count());
        prop_assert!(found.is_sorted_by_key(|find| find.k));
        let mut places = BTreeSet::new();
        let mut last = None;
        for find in &found {
            let k = find.k as usize;
            prop_assert_eq!(find.label, labels[k]);
            prop_assert_eq!(find.key, paid[k]);
            let place = outputs.iter().position(|o| o.outpoint == find.outpoint).unwrap();
            prop_assert_eq!((outputs[place].key, outputs[place].value_sat), (find.key, find.value_sat));
            // Of equal outputs the first one leads.
            let is_first = outputs[..place].iter().all(|o| o.key != find.key);
            prop_assert_eq!(is_first, last.replace(k) != Some(k));
            prop_assert!(places.insert(place));
            assert_spendable(&spend, find);
        }

        // The candidates of the tweak hold the first payment, and nothing of a stranger's tweak is ours.
        let candidates = candidates(&scanner, &[sender.tweak]);
        prop_assert_eq!(candidates.len(), 1 + keys.labels.len());
        if let Some(first) = paid.first() {
            prop_assert!(candidates.contains(&(0, *first)));
        }
        prop_assert_eq!(scanner.confirm(&Sender::new(!seed, 1).tweak, &outputs), Ok(vec![]));
    }
}

#[test]
fn a_gap_in_k_ends_the_search() {
    let (keys, _) = wallet(1, [1]);
    let sender = Sender::new(5, 1);
    let paid = sender.pay(&keys, &[None, Some(1), None]);
    let scanner = scanner(&keys);
    let found = scanner
        .confirm(&sender.tweak, &outputs(&[paid[0], paid[2]]))
        .unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].k, found[0].key), (0, paid[0]));
    assert_eq!(
        scanner.confirm(&sender.tweak, &outputs(&paid[1..])),
        Ok(vec![])
    );
}

/// Output index, k and label of each find.
fn summary(found: &[FoundOutput]) -> Vec<(u32, u32, Option<u32>)> {
    found
        .iter()
        .map(|find| (find.outpoint.vout / 2, find.k, find.label))
        .collect()
}

/// Wallets that compare outputs with labels in either of the two ways: with few labels, and with many.
fn with_few_and_many_labels() -> [(ReceiverKeys, SpendKey); 2] {
    [wallet(1, [1, 2]), wallet(1, 1..40)]
}

#[test]
fn every_output_for_one_k_is_found_and_the_first_one_leads() {
    // A sender who knows the scheme may pay k = 0 twice, plain and labelled. BIP352 takes the first; both can be spent.
    for (keys, spend) in with_few_and_many_labels() {
        let sender = Sender::new(6, 2);
        let plain = sender.pay(&keys, &[None])[0];
        let two = sender.pay(&keys, &[Some(2)])[0];
        let change = sender.pay(&keys, &[Some(0)])[0];
        let next = sender.pay(&keys, &[None, Some(1)])[1];
        let scanner = scanner(&keys);
        for (outputs, expected) in [
            (outputs(&[plain, two]), vec![(0, 0, None), (1, 0, Some(2))]),
            (
                outputs(&[no_point(0), two, plain]),
                vec![(1, 0, Some(2)), (2, 0, None)],
            ),
            // They do not decide whether k = 1 is looked for, and are not taken for it.
            (
                outputs(&[two, change, next, plain]),
                vec![
                    (0, 0, Some(2)),
                    (3, 0, None),
                    (1, 0, Some(0)),
                    (2, 1, Some(1)),
                ],
            ),
        ] {
            let found = scanner.confirm(&sender.tweak, &outputs).unwrap();
            assert_eq!(summary(&found), expected);
            for find in &found {
                assert_spendable(&spend, find);
            }
        }
    }
}

#[test]
fn every_output_with_a_found_key_is_found() {
    for (keys, spend) in with_few_and_many_labels() {
        let sender = Sender::new(7, 1);
        let paid = sender.pay(&keys, &[Some(1), None, Some(2)]);
        let [one, two, three] = [paid[0], paid[1], paid[2]];
        let scanner = scanner(&keys);
        // Of 0 satoshi first, for instance.
        let outputs = outputs(&[two, one, no_point(4), two, three, one, two]);
        let found = scanner.confirm(&sender.tweak, &outputs).unwrap();
        let expected = [
            (1, 0, Some(1)),
            (5, 0, Some(1)),
            (0, 1, None),
            (3, 1, None),
            (6, 1, None),
            (4, 2, Some(2)),
        ];
        assert_eq!(summary(&found), expected);
        for find in &found {
            assert_spendable(&spend, find);
            let output = outputs.iter().find(|o| o.outpoint == find.outpoint);
            assert_eq!(output.unwrap().value_sat, find.value_sat);
        }
        // A repeat is no payment of the next k.
        let twice = self::outputs(&[one, one, three]);
        let found = scanner.confirm(&sender.tweak, &twice).unwrap();
        assert_eq!(summary(&found), [(0, 0, Some(1)), (1, 0, Some(1))]);
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

    let found = scanner(&keys)
        .confirm(&sender.tweak, &outputs(&paid))
        .unwrap();
    assert_eq!(found.len(), K_MAX as usize);
    assert_eq!(found.last().unwrap().k, K_MAX - 1);
    assert!(found.iter().all(|find| find.key != paid[0]));
    assert_eq!(found.iter().filter(|f| f.label == Some(7)).count(), 1161);
    assert_spendable(&spend, &found[2322]);
}

/// All candidates that exist, with their tweaks, in the order of tweaks.
fn candidates(scanner: &Scanner, tweaks: &[TweakPoint]) -> Vec<(usize, [u8; 32])> {
    let batches = scanner.scan(
        tweaks,
        |range| (range, Vec::new()),
        |(range, candidates), chunk| {
            for (tweak, keys) in chunk.by_tweak() {
                assert!(range.contains(&tweak));
                let keys = keys.iter().filter(|key| **key != [0; 32]);
                candidates.extend(keys.map(|key| (tweak, *key)));
            }
        },
    );
    let ranges = batches.iter().flat_map(|(range, _)| range.clone());
    assert!(ranges.eq(0..tweaks.len()), "batches in the order of tweaks");
    let mut all: Vec<_> = batches.into_iter().flat_map(|(_, batch)| batch).collect();
    all.sort_by_key(|(tweak, _)| *tweak);
    all
}

#[test]
fn candidates_keep_their_tweaks_over_many_batches() {
    let (keys, _) = wallet(3, [4]);
    let scanner = scanner(&keys);
    assert_eq!(scanner.candidates_per_tweak(), 3);
    let mut tweaks: Vec<TweakPoint> = (0..1500).map(|i| Sender::new(i, 1).tweak).collect();
    // A point off the curve has no candidates and disturbs no other.
    tweaks[700] = TweakPoint::from_bytes([9; 64]);
    let all = candidates(&scanner, &tweaks);
    assert_eq!(all.len(), 1499 * 3);
    for (position, (tweak, _)) in all.iter().enumerate() {
        let expected = position / 3;
        assert_eq!(*tweak, expected + usize::from(expected >= 700));
    }
    for place in [0, 63, 64, 511, 512, 699, 701, 1499] {
        let one = candidates(&scanner, &tweaks[place..=place]);
        let same: Vec<_> = all.iter().filter(|(tweak, _)| *tweak == place).collect();
        assert!(one.iter().map(|c| c.1).eq(same.iter().map(|c| c.1)));
    }
    assert_eq!(candidates(&scanner, &[]), vec![]);
}

#[test]
fn thousands_of_labels_come_in_chunks() {
    let (keys, _) = wallet(4, 1..3000);
    let tweaks: Vec<TweakPoint> = (0..40).map(|i| Sender::new(i, 1).tweak).collect();
    let largest = std::sync::atomic::AtomicUsize::new(0);
    for engine in [
        spindex::curve::EngineKind::LibSecp256k1,
        spindex::curve::EngineKind::Auto,
    ] {
        let engine = spindex::curve::engine(engine, |broken| panic!("{broken}")).unwrap();
        let scanner = Scanner::new(engine, keys.clone()).unwrap();
        let batches = scanner.scan(
            &tweaks,
            |_| Vec::new(),
            |seen, chunk| {
                let size = chunk.keys.len();
                largest.fetch_max(size, std::sync::atomic::Ordering::Relaxed);
                seen.push(chunk.numbers.clone());
                // A label of this chunk, by the address that pays to it.
                let number = chunk.numbers.clone().last().unwrap();
                let label = number.checked_sub(1).map(|m| m as u32);
                for (tweak, keys_of) in chunk.by_tweak().take(2) {
                    let paid = Sender::new(tweak as u64, 1).pay(&keys, &[label])[0];
                    assert_eq!(*keys_of.last().unwrap(), paid);
                }
            },
        );
        let numbers: Vec<usize> = batches.concat().into_iter().flatten().collect();
        assert!(numbers.iter().copied().eq(0..3001));
    }
    let largest = largest.into_inner();
    assert!((50_000..=65_536).contains(&largest), "{largest} of 120040");
}

#[test]
fn a_tweak_off_the_curve_finds_nothing() {
    let (keys, _) = wallet(1, []);
    let sender = Sender::new(5, 1);
    let paid = sender.pay(&keys, &[None]);
    let off = TweakPoint::from_bytes([1; 64]);
    assert_eq!(scanner(&keys).confirm(&off, &outputs(&paid)), Ok(vec![]));
}

#[test]
fn debug_shows_no_secret() {
    let (keys, _) = wallet(1, [1]);
    let sender = Sender::new(5, 1);
    let scanner = scanner(&keys);
    let found = scanner
        .confirm(&sender.tweak, &outputs(&sender.pay(&keys, &[Some(1)])))
        .unwrap();
    let shown = format!("{found:?} {scanner:?}");
    assert!(shown.contains("value_sat: 1000"));
    assert!(shown.ends_with("Scanner { labels: 2, .. }"));
    // Neither as a list of numbers nor as hex.
    let tweak = found[0].tweak;
    assert!(!shown.contains(&format!("{}, {}, {}", tweak[0], tweak[1], tweak[2])));
    assert!(!shown.contains(&format!("{:02x}{:02x}{:02x}", tweak[0], tweak[1], tweak[2])));
}
