//! What blocks become: rows against a slow twin of the derivation, batches and engines against each other.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bitcoin::hashes::{Hash, HashEngine, sha256};
use bitcoin::hex::FromHex;
use bitcoin::{OutPoint, Txid};
use spindex::BlockId;
use spindex::bip352::inputs::taproot_output_key;
use spindex::bip352::tweak::transaction_tweak;
use spindex::chain::made::simulated::SimulatedBlock;
use spindex::chain::parse::block_from_rest_bytes;
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::curve::{
    self, CandidateScanner, Engine, InvalidTarget, Product, Sampled, ScanTarget, TweakPoint,
};
use spindex::index::{IndexError, Indexer, derive_records};
use spindex::runtime::Stop;
use spindex::store::{RowFilter, StoreError, TweakForm};

use super::scene::{chain, doubled_64_times, quick};
use crate::support::by_height::ByHeight as _;
use crate::support::index::{fresh_store, memory_store_of};

/// What the index must say about each block, read off the blocks in the plainest way.
struct Expected {
    tweaks: Vec<(Txid, [u8; 33])>,
    /// vout, amount and key of each taproot output of the eligible transactions.
    outputs: Vec<(OutPoint, u64, [u8; 32])>,
    /// Each with the index of the spending transaction and of its input.
    spends: Vec<(OutPoint, usize, usize)>,
    /// Index and txid of each transaction that spends one of those, vout and data of each output `OP_RETURN <32 bytes>`.
    states: Vec<(usize, Txid, u32, Vec<u8>)>,
}

fn expected(block: &SimulatedBlock) -> Expected {
    let mut expected = Expected {
        tweaks: Vec::new(),
        outputs: Vec::new(),
        spends: Vec::new(),
        states: Vec::new(),
    };
    let txs = block.block.txdata.iter().zip(&block.prevouts);
    for (number, (tx, prevouts)) in txs.enumerate() {
        let txid = tx.compute_txid();
        let before = expected.spends.len();
        for (index, (input, prevout)) in tx.input.iter().zip(prevouts).enumerate() {
            if prevout.script_pubkey.is_p2tr() {
                let spend = (input.previous_output, number, index);
                expected.spends.push(spend);
            }
        }
        for (vout, output) in (0..).zip(&tx.output) {
            let script = output.script_pubkey.to_hex_string();
            if let Some(data) = script.strip_prefix("6a20")
                && data.len() == 64
                && expected.spends.len() > before
            {
                let data = Vec::from_hex(data).unwrap();
                expected.states.push((number, txid, vout, data));
            }
        }
        let Some(tweak) = transaction_tweak(&LibSecp256k1, tx, prevouts) else {
            continue;
        };
        expected.tweaks.push((txid, tweak.to_compressed()));
        for (vout, output) in (0..).zip(&tx.output) {
            if let Some(key) = taproot_output_key(&output.script_pubkey) {
                expected
                    .outputs
                    .push((OutPoint { txid, vout }, output.value.to_sat(), key));
            }
        }
    }
    expected
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_a_synced_index_is_what_the_blocks_say() {
    let chain = chain(1, 160);
    let store = fresh_store(chain.clone()).await;
    let snapshot = store.snapshot().unwrap();
    assert_eq!(snapshot.tip(), Some(chain.tip_id()));

    let blocks = chain.active_blocks();
    let spent: HashMap<OutPoint, BlockId> = blocks
        .iter()
        .flat_map(|block| {
            expected(block)
                .spends
                .into_iter()
                .map(|(outpoint, ..)| (outpoint, block.id))
        })
        .collect();
    let mut tweaks = 0;
    let mut spends = 0;
    let mut states = 0;
    let mut digest = [0; 32];
    for block in &blocks {
        let height = block.id.height;
        let expected = expected(block);
        let entry = snapshot.block(height).unwrap().unwrap();
        assert_eq!(entry.id(), block.id);
        assert_eq!(*entry.header(), block.block.header);
        assert_eq!(snapshot.height_of(&block.id.hash).unwrap(), Some(height));

        let rows = snapshot
            .tweaks(height, RowFilter::default())
            .unwrap()
            .unwrap();
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(txid, tweak)| (txid, tweak.to_compressed()))
            .collect();
        assert_eq!(rows, expected.tweaks, "tweaks of block {height}");

        let utxos = snapshot
            .utxos(height, RowFilter::default())
            .unwrap()
            .unwrap();
        let rows: Vec<_> = utxos
            .iter()
            .map(|utxo| {
                (
                    OutPoint::new(utxo.txid, utxo.vout),
                    utxo.value_sat,
                    utxo.key,
                )
            })
            .collect();
        assert_eq!(rows, expected.outputs, "outputs of block {height}");
        for utxo in &utxos {
            let outpoint = OutPoint::new(utxo.txid, utxo.vout);
            assert_eq!(
                utxo.spent,
                spent.contains_key(&outpoint),
                "spent flag of {outpoint}"
            );
        }
        let rows = snapshot.spends(height).unwrap().unwrap();
        let rows: Vec<_> = rows
            .iter()
            .map(|spend| (spend.outpoint, spend.spender.unwrap()))
            .map(|(outpoint, by)| (outpoint, by.transaction.into(), by.input.into()))
            .collect();
        assert_eq!(rows, expected.spends, "spends of block {height}");
        let rows: Vec<_> = entry
            .states()
            .unwrap()
            .into_iter()
            .map(|row| {
                (
                    row.transaction.into(),
                    row.txid,
                    row.vout,
                    row.state_id.to_vec(),
                )
            })
            .collect();
        assert_eq!(rows, expected.states, "state ids of block {height}");
        states += expected.states.len();

        let mut list = sha256::Hash::engine();
        expected
            .tweaks
            .iter()
            .for_each(|(_, tweak)| list.input(tweak));
        let mut rolling = sha256::Hash::engine();
        rolling.input(&digest);
        rolling.input(&block.id.hash.to_byte_array());
        rolling.input(&sha256::Hash::from_engine(list).to_byte_array());
        digest = sha256::Hash::from_engine(rolling).to_byte_array();
        assert_eq!(
            snapshot.digest(height).unwrap(),
            Some(digest),
            "digest of block {height}"
        );
        tweaks += expected.tweaks.len();
        spends += expected.spends.len();
    }
    assert!(
        tweaks > 100 && spends > 50 && states > 2,
        "the chain is too poor a test: {tweaks} tweaks, {spends} spends, {states} state ids"
    );
}

#[test]
fn a_batch_derives_what_single_blocks_do() {
    let chain = chain(2, 130);
    let blocks: Vec<_> = chain
        .active_blocks()
        .iter()
        .map(|block| block.with_prevouts().unwrap())
        .collect();
    let forms = [TweakForm::Point, TweakForm::PointAndMultiple];
    let mut derived = forms.map(|form| {
        let derive = |blocks: &[_]| derive_records(&LibSecp256k1, blocks, form);
        let together = derive(&blocks);
        let apart: Vec<_> = blocks
            .iter()
            .flat_map(|block| derive(std::slice::from_ref(block)))
            .collect();
        assert_eq!(together, apart);
        together
    });
    assert!(
        derived[0]
            .iter()
            .any(|record| record.transactions.len() > 1)
    );
    // They differ in the multiples alone, which are so many doublings of the tweaks.
    for record in &mut derived[0] {
        assert!(record.multiples.is_empty());
        let rows = record.transactions.iter();
        record.multiples = rows.map(|row| doubled_64_times(&row.tweak)).collect();
    }
    assert_eq!(derived[0], derived[1]);
}

/// The tweaks of a real block, where nobody has chosen the keys.
#[test]
fn multiples_of_a_real_block() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/mainnet-866342");
    if !folder.exists() {
        println!("skipped: ../shared/data is missing");
        return;
    }
    let unpack = |name: &str| {
        let packed = std::fs::File::open(folder.join(name)).unwrap();
        zstd::decode_all(packed).unwrap()
    };
    let (block, spent) = (unpack("block.bin.zst"), unpack("spenttxouts.bin.zst"));
    let block = block_from_rest_bytes(Some(866_342), &block, &spent).unwrap();
    let records = derive_records(
        &LibSecp256k1,
        std::slice::from_ref(&block),
        TweakForm::PointAndMultiple,
    );
    let (rows, multiples) = (&records[0].transactions, &records[0].multiples);
    assert_eq!(rows.len(), multiples.len());
    assert!(rows.len() > 1000, "{}", rows.len());
    for (row, multiple) in rows.iter().zip(multiples).step_by(20) {
        assert_eq!(doubled_64_times(&row.tweak), *multiple, "{}", row.txid);
    }
}

#[test]
fn every_engine_derives_the_same_rows() {
    let chain = chain(12, 150);
    let blocks = chain.active_blocks();
    let blocks: Vec<_> = blocks
        .iter()
        .map(|block| block.with_prevouts().unwrap())
        .collect();
    let expected = derive_records(&LibSecp256k1, &blocks, TweakForm::Point);
    for entry in curve::testable() {
        let engine = curve::engine(entry.kind, |broken| panic!("{broken}")).unwrap();
        let derived = derive_records(engine.as_ref(), &blocks, TweakForm::Point);
        assert!(derived == expected, "{}", entry.name);
    }
}

/// An engine that finds no multiple of some tweaks.
struct Forgetful;

impl Sampled for Forgetful {}

impl Engine for Forgetful {
    fn name(&self) -> &'static str {
        "forgetful"
    }

    fn scanner(&self, targets: &[ScanTarget]) -> Result<Box<dyn CandidateScanner>, InvalidTarget> {
        LibSecp256k1.scanner(targets)
    }

    fn multiply(&self, products: &[Product]) -> Vec<Option<TweakPoint>> {
        LibSecp256k1.multiply(products)
    }

    fn multiples(&self, tweaks: &[TweakPoint]) -> Vec<Option<TweakPoint>> {
        let mut multiples = LibSecp256k1.multiples(tweaks);
        if let Some(last) = multiples.last_mut() {
            *last = None;
        }
        multiples
    }

    fn decompress(&self, keys: &[[u8; 33]]) -> Vec<Option<TweakPoint>> {
        LibSecp256k1.decompress(keys)
    }

    fn sums(&self, points: &[TweakPoint], ends: &[usize]) -> Vec<Option<TweakPoint>> {
        LibSecp256k1.sums(points, ends)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_multiple_that_is_missing_is_an_error_and_nothing_is_written() {
    let chain = chain(3, 110);
    let store = memory_store_of(TweakForm::PointAndMultiple);
    let indexer = Indexer::new(
        store.clone(),
        chain,
        Arc::new(Forgetful),
        quick(),
        Stop::new(),
        |_| (),
    );
    let error = indexer.sync(None).await.unwrap_err();
    assert!(
        matches!(error, IndexError::Store(StoreError::InvalidRecord { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("multiples"), "{error}");
    assert_eq!(store.snapshot().unwrap().tip(), None);
}
