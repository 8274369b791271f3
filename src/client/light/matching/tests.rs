use std::sync::Arc;

use bitcoin::hashes::{Hash, sha256};
use secp256k1::{SECP256K1, SecretKey};

use super::*;
use crate::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use crate::client::BlockFilters;
use crate::curve::libsecp256k1::LibSecp256k1;
use crate::curve::point::pack;
use crate::filter::{new_utxos_filter, spent_filter};

fn digest(name: &str, number: u32) -> [u8; 32] {
    sha256::Hash::hash(format!("{name} {number}").as_bytes()).to_byte_array()
}

fn keys(wallet: u32) -> Arc<ReceiverKeys> {
    let scan_key = ScanKey::from_bytes(digest("scan", wallet)).expect("a key");
    let spend_key = SpendKey::from_bytes(digest("spend", wallet)).expect("a key");
    Arc::new(ReceiverKeys::new(scan_key, spend_key.public_key(), [1]))
}

fn scanner_of(wallets: &[u32]) -> SharedScanner {
    let wallets = wallets.iter().map(|wallet| keys(*wallet)).collect();
    SharedScanner::new(Arc::new(LibSecp256k1), wallets).expect("a scanner")
}

fn scanner() -> SharedScanner {
    scanner_of(&[0])
}

fn tweak(number: u32) -> TweakPoint {
    let secret = SecretKey::from_slice(&digest("tweak", number)).expect("a key");
    pack(&secret.public_key(SECP256K1))
}

/// Keys of the plain address, of change and of label 1 for k = 0.
fn keys_of(tweak: TweakPoint) -> [[u8; 32]; 3] {
    keys_of_wallet(0, tweak)
}

fn keys_of_wallet(wallet: u32, tweak: TweakPoint) -> [[u8; 32]; 3] {
    let scan = scanner_of(&[wallet]).scan(
        &[tweak],
        |_| Vec::new(),
        |keys, chunk| keys.extend_from_slice(chunk.keys),
    );
    scan.concat().try_into().expect("three candidates")
}

fn block_hash() -> BlockHash {
    BlockHash::from_byte_array([7; 32])
}

fn utxo(tx: u8, vout: u32, key: [u8; 32]) -> OracleUtxo {
    OracleUtxo {
        outpoint: OutPoint::new(Txid::from_byte_array([tx; 32]), vout),
        value_sat: u64::from(vout),
        key,
        block_hash: block_hash(),
        spent: false,
    }
}

/// A block with taproot outputs of these keys that matches these.
fn hit(keys: &[[u8; 32]], matched: &[(TweakPoint, [u8; 32])]) -> Hit {
    let filter = new_utxos_filter(&block_hash(), keys);
    Hit {
        height: 9,
        block_hash: block_hash(),
        elements: Elements::read(&filter, &block_hash()).expect("a filter"),
        matched: BTreeMap::from([(0, matched.to_vec())]),
    }
}

/// [`confirm`] where nothing is known yet.
fn confirm_unknown(
    scanner: &SharedScanner,
    hit: &Hit,
    utxos: &[OracleUtxo],
) -> Result<Confirmed, Unverified> {
    confirm(scanner, 0, hit, utxos, |_| false)
}

#[test]
fn a_match_is_resolved_by_what_is_listed_and_by_nothing_else() {
    let scanner = scanner();
    let [own, change, _] = keys_of(tweak(1));
    let foreign = keys_of(tweak(2))[0];
    let match_own = (tweak(1), own);

    let listed = confirm_unknown(
        &scanner,
        &hit(&[own, foreign], &[match_own]),
        &[utxo(1, 0, own)],
    );
    let listed = listed.expect("right");
    assert_eq!((listed.found.len(), listed.unresolved), (1, 0));
    // Not listed, and the list accounts for another output alone.
    let hit_of_both = hit(&[own, foreign], &[match_own]);
    for utxos in [&[][..], &[utxo(1, 0, foreign)]] {
        let none = confirm_unknown(&scanner, &hit_of_both, utxos).expect("right");
        assert_eq!((none.found.len(), none.unresolved), (0, 1));
    }

    // A listed output that only looks like one of the wallet's to the filter explains the match.
    let elements = hit(&[foreign], &[]).elements;
    let alike = (0..)
        .map(|i| digest("key", i))
        .find(|key| elements.contains(key));
    let alike = alike.expect("one in 784931");
    let by_chance = hit(&[foreign], &[(tweak(1), alike)]);
    let explained = confirm_unknown(&scanner, &by_chance, &[utxo(1, 0, foreign)]).expect("right");
    assert_eq!((explained.found.len(), explained.unresolved), (0, 0));
    // Unless there is one more like it in the filter.
    let twice = hit(&[foreign, foreign], &[(tweak(1), alike)]);
    // Said twice by the server it is still one output.
    let said_twice = [utxo(1, 0, foreign), utxo(1, 0, foreign)];
    let left = confirm_unknown(&scanner, &twice, &said_twice).expect("right");
    assert_eq!((left.found.len(), left.unresolved), (0, 1));

    // What was found before needs no list any more.
    let known = confirm(&scanner, 0, &hit_of_both, &[], |key| *key == own).expect("right");
    assert_eq!((known.found.len(), known.unresolved), (0, 0));

    // Plain and labelled at once, one of them listed.
    let both = hit(&[own, change], &[match_own, (tweak(1), change)]);
    let one = confirm_unknown(&scanner, &both, &[utxo(1, 0, own)]).expect("right");
    assert_eq!((one.found.len(), one.unresolved), (1, 1));
}

#[test]
fn every_output_of_the_block_with_a_found_key_is_found() {
    let scanner = scanner();
    let [own, _, labelled] = keys_of(tweak(1));
    let utxos = [
        utxo(1, 3, own),
        utxo(1, 0, own),
        utxo(1, 1, labelled),
        utxo(2, 0, own),
    ];
    let keys: Vec<_> = utxos.iter().map(|utxo| utxo.key).collect();
    let matched = [(tweak(1), own), (tweak(1), labelled)];
    let confirmed = confirm_unknown(&scanner, &hit(&keys, &matched), &utxos).expect("right");
    let found: Vec<_> = confirmed
        .found
        .iter()
        .map(|(outpoint, row)| (outpoint.txid[0], outpoint.vout, row.k, row.label))
        .collect();
    let expected = [
        (1, 0, 0, None),
        (1, 1, 0, Some(1)),
        (1, 3, 0, None),
        (2, 0, 0, None),
    ];
    assert_eq!(found, expected);
    assert!(
        confirmed
            .found
            .iter()
            .all(|(o, row)| row.value_sat == u64::from(o.vout))
    );
}

#[test]
fn a_listed_match_that_the_rules_do_not_confirm_is_an_error() {
    let scanner = scanner();
    let own = keys_of(tweak(1))[0];
    let utxos = [utxo(1, 0, own)];
    for matched in [&[(tweak(2), own)][..], &[(tweak(1), own), (tweak(2), own)]] {
        let error = confirm_unknown(&scanner, &hit(&[own], matched), &utxos).err();
        assert_eq!(error, Some(Unverified(utxos[0].outpoint)));
    }
}

#[test]
fn matches_belong_to_their_blocks_and_wallets() {
    // Two wallets take turns, and a third one is paid nothing.
    let scanner = scanner_of(&[0, 1, 2]);
    let paid_by = |at: usize, tweak: &TweakPoint| {
        let wallet = usize::from(tweak.to_compressed()[5]) % 2;
        (wallet, keys_of_wallet(wallet as u32, *tweak)[at % 3])
    };
    let spent = spent_filter(&block_hash(), &[]);
    // Blocks with none, few and many tweaks, so that batches end within blocks and blocks within batches.
    let mut next = 0;
    let blocks: Vec<FetchedBlock> = [3, 0, 70, 1, 200, 0, 5, 64]
        .into_iter()
        .enumerate()
        .map(|(at, count)| {
            let tweaks: Vec<TweakPoint> = (next..next + count).map(tweak).collect();
            next += count;
            let paid = tweaks.iter().step_by(3).map(|tweak| paid_by(at, tweak).1);
            let block_hash = BlockHash::from_byte_array([at as u8; 32]);
            let new_utxos = new_utxos_filter(&block_hash, &paid.collect::<Vec<_>>());
            FetchedBlock {
                height: at as u32,
                hash: block_hash,
                content: Content::V1 {
                    filters: BlockFilters {
                        block_hash,
                        new_utxos,
                        spent: spent.clone(),
                    },
                    tweaks,
                },
            }
        })
        .collect();
    let hits = match_outputs(&scanner, &blocks).expect("good filters");
    let heights: Vec<u32> = hits.iter().map(|hit| hit.height).collect();
    assert_eq!(heights, [0, 2, 3, 4, 6, 7]);
    for hit in &hits {
        let block = &blocks[hit.height as usize];
        let paid = listed(block).unwrap().1.iter().step_by(3);
        let mut expected: BTreeMap<usize, Matched> = BTreeMap::new();
        for tweak in paid {
            let (wallet, key) = paid_by(hit.height as usize, tweak);
            expected.entry(wallet).or_default().push((*tweak, key));
        }
        assert_eq!(hit.matched, expected);
    }

    // A bad filter is named, whether there is anything to look for in it or not.
    for bad in [4, 5] {
        let blocks = (0..).zip(&blocks).map(|(at, block)| with(block, at == bad));
        let error = match_outputs(&scanner, &blocks.collect::<Vec<_>>()).err();
        assert_eq!(error.map(|(at, _)| at), Some(bad));
    }
}

/// The same block, or one with a bad filter.
fn with(block: &FetchedBlock, is_bad: bool) -> FetchedBlock {
    let Content::V1 { filters, tweaks } = &block.content else {
        panic!("a block of version 1");
    };
    let mut filters = filters.clone();
    if is_bad {
        filters.new_utxos = vec![9];
    }
    FetchedBlock {
        height: block.height,
        hash: block.hash,
        content: Content::V1 {
            filters,
            tweaks: tweaks.clone(),
        },
    }
}
