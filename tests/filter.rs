//! Filters against rust-bitcoin's BIP158 coder, the BIP158 vectors, and recorded answers of a deployed server.

#![allow(
    clippy::unwrap_used,
    reason = "a broken fixture fails the test at once"
)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use bitcoin::bip158::{BlockFilter, GcsFilterReader, GcsFilterWriter};
use bitcoin::consensus::deserialize;
use bitcoin::hashes::Hash;
use bitcoin::hex::FromHex;
use bitcoin::{Block, BlockHash, OutPoint};
use proptest::prelude::*;
use serde_json::Value;
use spindex::filter::{
    Elements, FilterError, build, element_count, matches, new_utxos_filter, spent_filter,
    spent_item,
};

/// The folder of shared records, or `None` with a note on stderr.
fn shared_data(folder: &str) -> Option<PathBuf> {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !data.is_dir() {
        eprintln!("skipped: ../shared/data is missing");
        return None;
    }
    Some(data.join(folder))
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

/// SipHash keys of a block's filters, computed apart from the code under test.
fn sip_keys(block: &BlockHash) -> (u64, u64) {
    let bytes = block.to_byte_array();
    (
        u64::from_le_bytes(bytes[..8].try_into().unwrap()),
        u64::from_le_bytes(bytes[8..16].try_into().unwrap()),
    )
}

/// What rust-bitcoin's coder makes of a set; it drops repeats.
fn reference_filter<E: AsRef<[u8]>>(block: &BlockHash, elements: &[E]) -> Vec<u8> {
    let (k0, k1) = sip_keys(block);
    let mut bytes = Vec::new();
    let mut writer = GcsFilterWriter::new(&mut bytes, k0, k1, 784_931, 19);
    for element in elements {
        writer.add_element(element.as_ref());
    }
    writer.finish().unwrap();
    bytes
}

fn reference_match(block: &BlockHash, filter: &[u8], query: &[u8]) -> bool {
    let (k0, k1) = sip_keys(block);
    GcsFilterReader::new(k0, k1, 784_931, 19)
        .match_any(&mut &filter[..], std::iter::once(query))
        .unwrap()
}

/// `count` distinct keys that depend on `seed`.
fn keys(seed: u64, count: usize) -> Vec<[u8; 32]> {
    (0..count)
        .map(|i| {
            bitcoin::hashes::sha256::Hash::hash(
                &[seed.to_le_bytes(), (i as u64).to_le_bytes()].concat(),
            )
            .to_byte_array()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sets_without_repeats_are_coded_like_bip158(seed: u64, hash: [u8; 32], count in 0..700_usize) {
        let block = BlockHash::from_byte_array(hash);
        let keys = keys(seed, count);
        prop_assert_eq!(new_utxos_filter(&block, &keys), reference_filter(&block, &keys));
        let items: Vec<[u8; 8]> = keys.iter().map(|k| k[..8].try_into().unwrap()).collect();
        prop_assert_eq!(spent_filter(&block, &items), reference_filter(&block, &items));
    }

    #[test]
    fn matches_are_those_of_the_reference_reader(
        seed: u64,
        hash: [u8; 32],
        count in 0..200_usize,
        repeats in 1..4_usize,
        strangers in 0..200_usize,
    ) {
        let block = BlockHash::from_byte_array(hash);
        let members = keys(seed, count);
        let elements: Vec<_> = members.iter().flat_map(|k| [*k].repeat(repeats)).collect();
        let filter = new_utxos_filter(&block, &elements);
        // Queries in an order of their own: strangers, members backwards, the first member again.
        let mut queries = keys(!seed, strangers);
        queries.extend(members.iter().rev());
        queries.extend(members.first());
        let expected: Vec<usize> = (0..queries.len())
            .filter(|i| reference_match(&block, &filter, &queries[*i]))
            .collect();
        let found = matches(&filter, &block, &queries).unwrap();
        prop_assert_eq!(&found, &expected);
        prop_assert!((strangers..queries.len()).all(|i| found.contains(&i)));
    }

    #[test]
    fn no_bytes_make_matching_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        hash: [u8; 32],
        queries in prop::collection::vec(any::<[u8; 8]>(), 0..20),
    ) {
        if let Ok(found) = matches(&bytes, &BlockHash::from_byte_array(hash), &queries) {
            prop_assert!(found.is_sorted() && found.iter().all(|i| *i < queries.len()));
        }
    }

    #[test]
    fn a_shortened_filter_is_an_error(seed: u64, hash: [u8; 32], count in 1..200_usize, cut in 1..300_usize) {
        let block = BlockHash::from_byte_array(hash);
        let keys = keys(seed, count);
        let filter = new_utxos_filter(&block, &keys);
        let shortened = &filter[..filter.len().saturating_sub(cut)];
        prop_assert!(matches(shortened, &block, &keys[..1]).is_err());
    }
}

#[test]
fn false_positives_come_at_about_the_promised_rate() {
    let block = BlockHash::from_byte_array([7; 32]);
    let filter = new_utxos_filter(&block, &keys(1, 1000));
    let found = matches(&filter, &block, &keys(2, 1_000_000)).unwrap().len();
    // 1.27 expected; 12 or more would happen once in 10^8 hashes.
    assert!(found < 12, "{found} false positives in a million queries");
}

#[test]
fn empty_sets_are_one_zero_byte() {
    let block = BlockHash::all_zeros();
    assert_eq!(new_utxos_filter(&block, &[]), [0]);
    assert_eq!(spent_filter(&block, &[]), [0]);
    assert_eq!(matches(&[0], &block, &keys(0, 3)), Ok(vec![]));
}

#[test]
fn elements_are_counted_with_repeats() {
    let block = BlockHash::all_zeros();
    for count in [0, 1, 2, 300] {
        let filter = build(&block, &vec![[7; 32]; count]);
        assert_eq!(element_count(&filter), Ok(count as u64));
    }
    assert_eq!(element_count(&[]), Err(FilterError::Count));
}

#[test]
fn elements_read_once_answer_like_the_filter() {
    for count in [1, 2, 15, 300, 4000] {
        let block = BlockHash::from_byte_array([count as u8; 32]);
        let members = keys(count as u64, count);
        let filter = new_utxos_filter(&block, &members);
        let elements = Elements::read(&filter, &block).unwrap();
        assert!(members.iter().all(|key| elements.contains(key)));
        let strangers = keys(!(count as u64), 50_000);
        let found: Vec<usize> = (0..strangers.len())
            .filter(|i| elements.contains(&strangers[*i]))
            .collect();
        assert_eq!(matches(&filter, &block, &strangers), Ok(found));
    }
    let empty = Elements::read(&[0], &BlockHash::all_zeros()).unwrap();
    assert!(!empty.contains(&[1; 32]) && !empty.holds_besides(&[1; 32], &[[2; 32]]));
    assert!(Elements::read(&[9], &BlockHash::all_zeros()).is_err());
}

#[test]
fn what_is_accounted_for_explains_matches() {
    let block = BlockHash::from_byte_array([3; 32]);
    let [one, two, both] = [[1; 32], [2; 32], [3; 32]];
    let filter = new_utxos_filter(&block, &[one, both, both]);
    let elements = Elements::read(&filter, &block).unwrap();
    let none: &[[u8; 32]] = &[];
    assert!(elements.holds_besides(&one, none));
    assert!(elements.holds_besides(&one, &[both, both]));
    assert!(!elements.holds_besides(&one, &[one]));
    assert!(!elements.holds_besides(&two, none));
    assert!(elements.holds_besides(&both, &[both, one]));
    assert!(!elements.holds_besides(&both, &[both, both, one]));

    // A key that only looks like one of them: it is that one if that one is accounted for.
    let alike = (0..)
        .flat_map(|seed| keys(1 << 40 | seed, 100_000))
        .find(|key| elements.contains(key));
    let alike = alike.unwrap();
    assert!(alike != one && alike != both);
    assert!(elements.holds_besides(&alike, none));
    assert!(!elements.holds_besides(&alike, &[one, both, both]));
}

#[test]
fn bip158_vectors_come_out_of_this_coder() {
    let Some(folder) = shared_data("bip158") else {
        return;
    };
    let vectors = json(folder.join("testnet-19.json"));
    let mut checked = 0;
    for vector in vectors.as_array().unwrap().iter().skip(1) {
        let hash: BlockHash = vector[1].as_str().unwrap().parse().unwrap();
        let block: Block =
            deserialize(&Vec::<u8>::from_hex(vector[2].as_str().unwrap()).unwrap()).unwrap();
        let expected = Vec::<u8>::from_hex(vector[5].as_str().unwrap()).unwrap();
        // BIP158's own rules for what is in a basic filter: no repeats, nothing empty, no OP_RETURN outputs.
        let outputs = block
            .txdata
            .iter()
            .flat_map(|tx| &tx.output)
            .filter(|output| !output.script_pubkey.is_op_return())
            .map(|output| output.script_pubkey.to_bytes());
        let prevouts = vector[3]
            .as_array()
            .unwrap()
            .iter()
            .map(|script| Vec::<u8>::from_hex(script.as_str().unwrap()).unwrap());
        let scripts: BTreeSet<Vec<u8>> = outputs
            .chain(prevouts)
            .filter(|script| !script.is_empty())
            .collect();
        let scripts: Vec<_> = scripts.into_iter().collect();

        assert_eq!(build(&hash, &scripts), expected, "block {hash}");
        let all: Vec<usize> = (0..scripts.len()).collect();
        assert_eq!(matches(&expected, &hash, &scripts), Ok(all), "block {hash}");
        assert_eq!(
            matches(&expected, &hash, &[[0x51_u8; 9]])
                .unwrap()
                .is_empty(),
            !BlockFilter::new(&expected)
                .match_any(&hash, std::iter::once(&[0x51_u8; 9][..]))
                .unwrap()
        );
        checked += 1;
    }
    assert_eq!(checked, 10, "cases in the vector file");
}

#[test]
fn spent_item_is_that_of_the_deployed_server() {
    // Signet outpoint spent in block 295147; entry 64 of that block's recorded spent index.
    let outpoint: OutPoint = "93a9b81f81244f8e6be29d8d6b0a9dbe6d6de6d2d4b018001ebf855bc870be88:0"
        .parse()
        .unwrap();
    let block: BlockHash = "0000000c8d1fbf0125b3f479fd4457a018d46d6deeed2a1640f6094958836e7b"
        .parse()
        .unwrap();
    assert_eq!(
        spent_item(&outpoint, &block),
        [0x54, 0x3b, 0x16, 0x06, 0x12, 0x50, 0xe5, 0x65]
    );
}

#[test]
fn recorded_filters_are_rebuilt_byte_for_byte() {
    let Some(folder) = shared_data("blindbit-v1-signet") else {
        return;
    };
    for height in ["200000", "295125"] {
        let read = |name: &str| json(folder.join(height).join(name));
        let filter = read("filter-spent.json");
        let index = read("spent-index.json");
        let block: BlockHash = text(&index, "block_hash").parse().unwrap();
        assert_eq!(text(&filter, "block_hash"), block.to_string());
        let items: Vec<[u8; 8]> = index["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| <[u8; 8]>::from_hex(item.as_str().unwrap()).unwrap())
            .collect();
        let recorded = Vec::<u8>::from_hex(text(&filter, "data")).unwrap();
        assert_eq!(
            spent_filter(&block, &items),
            recorded,
            "spent filter at {height}"
        );
        let all: Vec<usize> = (0..items.len()).collect();
        assert_eq!(matches(&recorded, &block, &items), Ok(all));

        let filter = read("filter-new-utxos.json");
        let recorded = Vec::<u8>::from_hex(text(&filter, "data")).unwrap();
        let keys: Vec<[u8; 32]> = read("utxos.json")
            .as_array()
            .unwrap()
            .iter()
            .map(|utxo| <[u8; 32]>::from_hex(&text(utxo, "scriptpubkey")[4..]).unwrap())
            .collect();
        assert!(!keys.is_empty());
        let all: Vec<usize> = (0..keys.len()).collect();
        assert_eq!(
            matches(&recorded, &block, &keys),
            Ok(all),
            "UTXOs at {height}"
        );
    }
}
