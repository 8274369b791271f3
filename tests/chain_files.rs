//! Blocks from a node's own files: against a real node that writes them, and from folders in all states they can be in.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "chain_files/ends.rs"]
mod ends;
#[path = "chain_files/fetched_again.rs"]
mod fetched_again;
#[path = "chain_files/folder.rs"]
mod folder;
#[path = "chain_files/holes.rs"]
mod holes;
#[path = "chain_files/signet.rs"]
mod signet;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::hashes::Hash;
use bitcoin::{Amount, Block, BlockHash, Network, OutPoint, ScriptBuf, Transaction, TxOut};
use folder::{block_records, blocks_folder, copy, plain, records, undo_records, write_plain};
use secp256k1::{SECP256K1, SecretKey};
use serde_json::{Value, json};
use spindex::BlockId;
use spindex::chain::files::{FilesSettings, FilesSource};
use spindex::chain::rest::{RestSettings, RestSource};
use spindex::chain::simulated::builder::{InputKind, SpendableOutput, build_transaction};
use spindex::chain::simulated::{Orphaned, PaymentRequest, SimulatedChain, SimulationSettings};
use spindex::chain::{BlockSource, BlockWithPrevouts, BroadcastError, ChainError};
use support::fake_node::{FakeNode, Reply};
use support::index::fresh_content;
use support::node::TestNode;
use tempfile::TempDir;

/// A folder alone.
fn files(folder: &Path) -> FilesSource {
    FilesSource::new(FilesSettings::new(folder, Network::Regtest))
}

fn rest(url: &str) -> Arc<RestSource> {
    Arc::new(RestSource::new(RestSettings::new(url)).unwrap())
}

/// A folder with a node's REST interface beside it.
fn files_with(folder: &Path, url: &str) -> FilesSource {
    FilesSource::new(FilesSettings {
        node: Some(rest(url)),
        ..FilesSettings::new(folder, Network::Regtest)
    })
}

/// A chain in which every kind of output is spent.
fn chain_of_all_kinds() -> SimulatedChain {
    let chain = SimulatedChain::new(SimulationSettings {
        seed: 5,
        transactions_per_block: 4,
        ..SimulationSettings::default()
    });
    chain.mine(105);
    for kinds in InputKind::ALL.chunks(4) {
        let requests: Vec<PaymentRequest> = kinds
            .iter()
            .map(|kind| PaymentRequest {
                inputs: vec![*kind, InputKind::P2wpkh],
                ..PaymentRequest::default()
            })
            .collect();
        chain.mine_with(&requests).unwrap();
    }
    chain.mine(5);
    chain
}

fn id_of(node: &TestNode, hash: BlockHash) -> BlockId {
    let header = node.call("getblockheader", &[json!(hash)]);
    BlockId {
        height: u32::try_from(header["height"].as_u64().unwrap()).unwrap(),
        hash,
    }
}

fn active_ids(node: &TestNode, from: u32) -> Vec<BlockId> {
    let ids = (from..=node.tip().height).map(|height| BlockId {
        height,
        hash: node
            .call("getblockhash", &[json!(height)])
            .as_str()
            .unwrap()
            .parse()
            .unwrap(),
    });
    ids.collect()
}

/// Heights at which the spent outputs of a block of the active chain were made, as the node says.
fn created(node: &TestNode, hash: BlockHash) -> Vec<Option<u32>> {
    let block = node.call("getblock", &[json!(hash), json!(3)]);
    let transactions = block["tx"].as_array().unwrap().iter().skip(1);
    transactions
        .flat_map(|tx| tx["vin"].as_array().unwrap().clone())
        .map(|input: Value| {
            let height = input["prevout"]["height"].as_u64().unwrap();
            Some(u32::try_from(height).unwrap())
        })
        .collect()
}

fn created_of(block: &BlockWithPrevouts) -> Vec<Option<u32>> {
    let transactions = 0..block.prevouts.transactions();
    let prevouts = transactions.flat_map(|index| block.prevouts.of_transaction(index));
    prevouts.map(|prevout| prevout.created).collect()
}

/// The same bytes and the same spent outputs; heights aside, which REST does not have.
#[track_caller]
fn assert_same(ours: &BlockWithPrevouts, theirs: &BlockWithPrevouts) {
    assert_eq!(ours.id, theirs.id);
    assert_eq!(ours.block.as_bytes(), theirs.block.as_bytes());
    assert_eq!(ours.prevouts.decode(), theirs.prevouts.decode());
}

fn secret(byte: u8) -> SecretKey {
    SecretKey::from_slice(&[byte; 32]).unwrap()
}

/// The reward of a block, mined to `kind` or to another script of the same secret.
fn reward(
    node: &TestNode,
    hash: BlockHash,
    kind: InputKind,
    script: &ScriptBuf,
) -> SpendableOutput {
    let block = node.call("getblock", &[json!(hash), json!(2)]);
    let coinbase = &block["tx"][0];
    let txid = coinbase["txid"].as_str().unwrap().parse().unwrap();
    let value = coinbase["vout"][0]["value"].as_f64().unwrap();
    let value = Amount::from_btc(value).unwrap();
    let outpoint = OutPoint { txid, vout: 0 };
    let mut reward = SpendableOutput::new(kind, secret(7), outpoint, value.to_sat());
    reward.txout.script_pubkey = script.clone();
    reward
}

fn spend(rewards: &[SpendableOutput]) -> Transaction {
    let value_sat: u64 = rewards
        .iter()
        .map(|reward| reward.txout.value.to_sat())
        .sum();
    let output = TxOut {
        value: Amount::from_sat(value_sat / 2),
        script_pubkey: InputKind::P2tr.script_pubkey(&secret(8)),
    };
    build_transaction(rewards, vec![output]).unwrap()
}

/// `<uncompressed key> OP_CHECKSIG`, which is spent like the one with a compressed key.
fn uncompressed_p2pk() -> ScriptBuf {
    let key = secret(7).public_key(SECP256K1).serialize_uncompressed();
    let bytes = [&[65][..], &key, &[0xac]].concat();
    ScriptBuf::from_bytes(bytes)
}

/// Every block of the active chain and of stale branches, and every output they spend.
async fn compare_all(node: &TestNode, source: &FilesSource, stale: &[BlockId]) {
    compare(node, source, 0, stale).await;
}

/// The same of the active chain from a height on.
async fn compare(node: &TestNode, source: &FilesSource, from: u32, stale: &[BlockId]) {
    let judge = rest(&node.url());
    let tip = node.tip();
    assert_eq!(source.tip().await.unwrap(), tip);
    assert_eq!(source.block_at(tip.height + 1).await.unwrap(), None);
    let active = active_ids(node, from);
    let together = source.read(&active).await;
    for (id, block) in active.iter().zip(together) {
        let block = block.unwrap();
        assert_eq!(source.block_at(id.height).await.unwrap(), Some(*id));
        assert_same(&block, &judge.block(*id).await.unwrap());
        assert_eq!(created_of(&block), created(node, id.hash), "block {id}");
        assert_eq!(source.block(*id).await.unwrap(), block);
    }
    for id in stale {
        let block = source.block(*id).await.unwrap();
        assert_same(&block, &judge.block(*id).await.unwrap());
    }
}

/// Obfuscated and not; many kinds of transactions, a reorg, siblings that only their spent outputs tell apart, and a
/// block that was never connected.
async fn a_node_and_its_files_agree(xor: &str) {
    let node = TestNode::start(&[xor]);
    let folder = blocks_folder(&node);
    let alone = files(&folder);
    let beside = files_with(&folder, &node.url());
    for source in [&alone, &beside] {
        source.check(Network::Regtest).await.unwrap();
        assert_eq!(source.tip().await.unwrap().height, 0);
    }
    let key = fs::read(folder.join("xor.dat")).unwrap();
    assert_eq!(key == [0; 8], xor.ends_with('0'));

    let chain = chain_of_all_kinds();
    node.submit_above(&chain, 0);
    compare_all(&node, &alone, &[]).await;
    let reorg = chain.reorganize(6, 7, Orphaned::Resubmit).unwrap();
    node.submit_above(&chain, reorg.fork.height);
    let mut stale = reorg.disconnected.clone();
    compare_all(&node, &alone, &stale).await;

    // Scripts that are written in a form of their own; then two blocks that differ only in which coin they spend.
    let script = uncompressed_p2pk();
    let mined = node.mine(103, &script);
    let coin = |n: usize| reward(&node, mined[n], InputKind::P2pk, &script);
    let to = InputKind::P2wpkh.script_pubkey(&secret(9));
    let first = node.generate_block(&to, &[spend(&[coin(0)])]).unwrap();
    node.invalidate_block(first);
    let second = node.generate_block(&to, &[spend(&[coin(1)])]).unwrap();
    stale.push(id_of(&node, first));
    node.mine(1, &to);
    assert_eq!(id_of(&node, second).height + 1, node.tip().height);
    compare_all(&node, &alone, &stale).await;
    compare_all(&node, &beside, &stale).await;
    // The other way round, and a source that has not seen how it came about.
    node.reconsider_block(first);
    compare_all(&node, &files(&folder), &stale).await;

    // A side branch that the node only stores.
    let side = SimulatedChain::new(SimulationSettings::default());
    let side = *side.mine(1).first().unwrap();
    let block = SimulatedChain::new(SimulationSettings::default());
    block.mine(1);
    let block = block.stored_block(side.hash).unwrap();
    assert_eq!(node.submit_block(&block.block), Err("inconclusive".into()));
    for source in [&alone, &beside] {
        let error = source.block(side).await.unwrap_err();
        assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
        assert_eq!(source.tip().await.unwrap(), node.tip());
    }

    // An index does not tell where its blocks came from.
    let from_files = fresh_content(Arc::new(files(&folder))).await;
    assert_eq!(from_files, fresh_content(rest(&node.url())).await);
}

/// A block of the tip's parent with this transaction, which the node has not seen.
fn unseen_block(node: &TestNode, to: &ScriptBuf, tx: &Transaction) -> (BlockHash, Block) {
    let descriptor = format!("raw({})", to.to_hex_string());
    let txs = json!([serialize_hex(tx)]);
    let answer = node.call("generateblock", &[json!(descriptor), txs, json!(false)]);
    let block: Block = deserialize_hex(answer["hex"].as_str().unwrap()).unwrap();
    (block.block_hash(), block)
}

/// Three blocks of one parent with as many transactions: the first was connected, the second never, the third is active.
/// By checksum and number of transactions each undo record could be any one's.
#[tokio::test(flavor = "multi_thread")]
async fn siblings_are_told_apart_by_what_they_spend() {
    let node = TestNode::start(&[]);
    let folder = blocks_folder(&node);
    let kind = InputKind::P2wpkh;
    let script = kind.script_pubkey(&secret(7));
    let mined = node.mine(112, &script);
    let coin = |n: usize| reward(&node, mined[n], kind, &script);
    // Alike in number and amount; and one that spends more than the others.
    for coins in [
        [vec![coin(0)], vec![coin(1)], vec![coin(2)]],
        [vec![coin(4)], vec![coin(3)], vec![coin(5), coin(6)]],
        [vec![coin(7)], vec![coin(8), coin(9)], vec![coin(10)]],
    ] {
        let source = files(&folder);
        let [first, second, third] = coins.map(|coins| {
            let to = kind.script_pubkey(&secret(9));
            unseen_block(&node, &to, &spend(&coins))
        });
        assert_eq!(node.submit_block(&first.1), Ok(()));
        let old_tip = source.tip().await.unwrap();
        assert_eq!(old_tip.hash, first.0);
        for (hash, block) in [&second, &third] {
            assert_eq!(
                node.submit_block(block),
                Err("inconclusive".into()),
                "{hash}"
            );
        }
        assert_eq!(source.tip().await.unwrap(), old_tip);
        node.invalidate_block(second.0);
        node.invalidate_block(first.0);
        assert_eq!(node.tip().hash, third.0);
        node.mine(1, &script);

        let beside = files_with(&folder, &node.url());
        let never = BlockId {
            hash: second.0,
            ..old_tip
        };
        for source in [&source, &files(&folder), &beside] {
            compare(&node, source, old_tip.height - 1, &[old_tip]).await;
            let error = source.block(never).await.unwrap_err();
            assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn obfuscated_files_are_what_the_node_says() {
    a_node_and_its_files_agree("-blocksxor=1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_files_are_what_the_node_says() {
    a_node_and_its_files_agree("-blocksxor=0").await;
}

/// Whatever the source names as its tip can be read at once, while the node goes on writing.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_read_while_the_node_writes() {
    const BLOCKS: u32 = 300;
    let node = Arc::new(TestNode::start(&[]));
    let folder = blocks_folder(&node);
    let alone = files(&folder);
    let beside = files_with(&folder, &node.url());
    let miner = {
        let node = Arc::clone(&node);
        tokio::task::spawn_blocking(move || {
            let script = InputKind::P2tr.script_pubkey(&secret(3));
            for _ in 0..BLOCKS {
                node.mine(1, &script);
            }
        })
    };
    let mut last = [0, 0];
    while last != [BLOCKS, BLOCKS] {
        for (source, last) in [&alone, &beside].into_iter().zip(&mut last) {
            let tip = source.tip().await.unwrap();
            assert!(tip.height >= *last, "{tip} after {last}");
            for height in *last..=tip.height {
                let id = source.block_at(height).await.unwrap().unwrap();
                let block = source.block(id).await.unwrap();
                assert_eq!(block.block.hash(), id.hash);
            }
            assert_eq!(source.block_at(tip.height).await.unwrap(), Some(tip));
            *last = tip.height;
        }
    }
    miner.await.unwrap();
    assert_eq!(alone.tip().await.unwrap(), node.tip());
}

/// A node that has stopped, and what it left: the files of `chain_of_all_kinds`.
struct Left {
    chain: SimulatedChain,
    folder: TempDir,
}

fn left_behind(args: &[&str]) -> Left {
    let mut node = TestNode::start(args);
    let chain = chain_of_all_kinds();
    node.submit_above(&chain, 0);
    node.stop();
    Left {
        folder: copy(&blocks_folder(&node)),
        chain,
    }
}

/// All blocks of the active chain, from the files.
async fn assert_all_there(source: &FilesSource, chain: &SimulatedChain) {
    assert_eq!(source.tip().await.unwrap(), chain.tip_id());
    let blocks = chain.active_blocks();
    let ids: Vec<BlockId> = blocks.iter().map(|block| block.id).collect();
    for (read, block) in source.read(&ids).await.into_iter().zip(blocks) {
        assert_same(&read.unwrap(), &block.with_prevouts().unwrap());
        assert_eq!(source.block_at(block.id.height).await, Ok(Some(block.id)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_written_records_are_waited_for() {
    let left = left_behind(&["-blocksxor=1"]);
    let folder = left.folder.path();
    let tip = left.chain.tip_id();
    let rev = plain(folder, "rev00000.dat");
    let (last_undo, _) = records(&rev, 32).pop().unwrap();
    for (name, trailer) in [("blk00000.dat", 0), ("rev00000.dat", 32)] {
        let whole = plain(folder, name);
        // A block is connected, and has an undo record, only once it is written.
        write_plain(folder, "rev00000.dat", &rev[..last_undo - 8]);
        let all = records(&whole, trailer);
        let (start, last) = all.last().unwrap();
        let (start, end) = (start - 8, start - 8 + last.len());
        let source = files(folder);
        // Nothing of the last record, some of its frame, of its first and its last bytes; at the end of the file or with room
        // allocated after it.
        for written in [0, 3, 7, 8, 50, 88, 120, last.len() - 33, last.len() - 1] {
            for length in [start + written, whole.len().max(end + 100)] {
                let mut bytes = whole.clone();
                bytes.resize(length, 0);
                write_plain(folder, name, &bytes);
                if length > end {
                    // Zeros before the key is applied.
                    let mut raw = fs::read(folder.join(name)).unwrap();
                    raw[start + written..].fill(0);
                    fs::write(folder.join(name), raw).unwrap();
                }
                for source in [&source, &files(folder)] {
                    let reached = source.tip().await.unwrap();
                    assert_eq!(reached.height, tip.height - 1, "{name} {written} {length}");
                    let error = source.block(tip).await.unwrap_err();
                    assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
                    assert!(error.to_string().contains(&tip.to_string()), "{error}");
                    assert!(source.block(reached).await.is_ok());
                }
            }
        }
        // The node stands in.
        let node = FakeNode::start(Arc::new(chain_of_all_kinds())).await;
        let beside = files_with(folder, &node.url());
        assert_all_there(&beside, &left.chain).await;
        let elsewhere = BlockId {
            height: 9,
            hash: BlockHash::all_zeros(),
        };
        let error = beside.block(elsewhere).await.unwrap_err();
        assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
        node.on("/rest/", Reply::Hangup);
        assert!(beside.block(tip).await.unwrap_err().is_transient());

        write_plain(folder, name, &whole);
        write_plain(folder, "rev00000.dat", &rev);
        assert_all_there(&source, &left.chain).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_are_named() {
    let left = left_behind(&["-blocksxor=1"]);
    let folder = left.folder.path();
    let source = files(folder);
    assert_all_there(&source, &left.chain).await;
    let damaged_id = left.chain.active_blocks()[108].id;
    for (name, trailer, nth, what) in [
        ("rev00000.dat", 32, 107, "undo record"),
        ("blk00000.dat", 0, 108, "merkle root"),
    ] {
        let whole = plain(folder, name);
        let (offset, record) = records(&whole, trailer).swap_remove(nth);
        let length = record.len() - 8 - trailer;
        for at in [offset + length / 2, offset + length - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            write_plain(folder, name, &bytes);
            // One that had read it before, and one that had not.
            for source in [&source, &files(folder)] {
                assert_eq!(source.tip().await.unwrap(), left.chain.tip_id());
                let error = source.block(damaged_id).await.unwrap_err();
                assert!(matches!(error, ChainError::Mismatch(_)), "{error:?}");
                let text = error.to_string();
                let path = folder.join(name).display().to_string();
                for part in [&path, &format!("at byte {offset}"), what, "-reindex"] {
                    assert!(text.contains(part), "{part:?} is not in: {text}");
                }
                assert!(text.contains(&damaged_id.to_string()), "{text}");
                for other in [107, 109] {
                    let id = left.chain.active_blocks()[other].id;
                    assert!(source.block(id).await.is_ok());
                }
            }
        }
        write_plain(folder, name, &whole);
        assert_all_there(&source, &left.chain).await;
    }
}

#[track_caller]
fn assert_setup(result: Result<(), ChainError>, parts: &[&str]) {
    let error = result.unwrap_err();
    assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_are_not_fit_are_told_apart() {
    let left = left_behind(&["-blocksxor=1"]);
    let folder = left.folder.path();
    let path = folder.display().to_string();
    let source = files(folder);
    source.check(Network::Regtest).await.unwrap();
    assert_eq!(
        source.describe(),
        format!("Bitcoin Core's block files in {path}")
    );
    assert_setup(
        source.check(Network::Signet).await,
        &[&path, "signet", "--network"],
    );
    let tx = left.chain.active_blocks()[9].block.txdata[0].clone();
    match source.broadcast(&tx).await {
        Err(BroadcastError::Chain(ChainError::Setup(text))) => {
            assert!(text.contains("--node-url"), "{text}");
        }
        other => panic!("{other:?}"),
    }

    let key = folder.join("xor.dat");
    let right = fs::read(&key).unwrap();
    let key_path = key.display().to_string();
    let blk_path = folder.join("blk00000.dat").display().to_string();
    let check = || async { files(folder).check(Network::Regtest).await };
    fs::write(&key, [1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    assert_setup(check().await, &[&key_path, &blk_path, "restore"]);
    fs::write(&key, [1, 2, 3]).unwrap();
    assert_setup(check().await, &[&key_path, "3 bytes"]);
    fs::remove_file(&key).unwrap();
    assert_setup(check().await, &[&key_path, &blk_path, "restore"]);
    // As plain files, first with the key of others and then rightly.
    fs::write(&key, &right).unwrap();
    for name in ["blk00000.dat", "rev00000.dat"] {
        let bytes = fs::read(folder.join(name)).unwrap();
        write_plain(folder, name, &bytes);
    }
    assert_setup(check().await, &[&key_path, "is not obfuscated"]);
    fs::write(&key, [0; 8]).unwrap();
    check().await.unwrap();

    let signet = FilesSource::new(FilesSettings::new(folder, Network::Signet));
    let said = [
        "the network regtest",
        "not of signet",
        "--network",
        &blk_path,
    ];
    assert_setup(signet.check(Network::Signet).await, &said);

    // Root may read everything.
    let set_mode = |mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(folder.join("blk00000.dat"), permissions).unwrap();
    };
    set_mode(0);
    if fs::read(folder.join("blk00000.dat")).is_err() {
        assert_setup(
            check().await,
            &["cannot read", &blk_path, "the node's user"],
        );
    }
    set_mode(0o600);

    // Too short a file, none, a folder in its place, no folder at all.
    fs::remove_file(folder.join("blk00000.dat")).unwrap();
    fs::write(folder.join("blk00000.dat"), [1, 2]).unwrap();
    assert_setup(check().await, &[&blk_path, "too short"]);
    fs::remove_file(folder.join("blk00000.dat")).unwrap();
    assert_setup(check().await, &[&path, "no file blk*.dat"]);
    assert_setup(files(folder).tip().await.map(drop), &["no file blk*.dat"]);
    fs::create_dir(folder.join("blk00000.dat")).unwrap();
    assert_setup(
        check().await,
        &["no file blk*.dat", &blk_path, "no regular"],
    );
    let nowhere = folder.join("nowhere");
    let nowhere_path = nowhere.display().to_string();
    let result = files(&nowhere).check(Network::Regtest).await;
    assert_setup(result, &["cannot read", &nowhere_path, "data directory"]);
}

/// Blocks as they arrive when a node downloads a chain: over several files, out of order, undo records by height, and the
/// leftovers of a node that was killed. The records are a real node's.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_in_any_order_are_found() {
    let left = left_behind(&["-blocksxor=0"]);
    let blocks = block_records(left.folder.path());
    let undo = undo_records(left.folder.path());
    // The genesis block has no undo record; all others are in order here.
    assert_eq!(blocks.len(), undo.len() + 1);
    for seed in [1, 2, 3] {
        let made = tempfile::tempdir().unwrap();
        let folder = made.path();
        fs::write(folder.join("xor.dat"), [seed; 8]).unwrap();
        for number in 0..4 {
            let mut here: Vec<usize> = (0..blocks.len())
                .filter(|height| (height * 31 + usize::from(seed)) / 40 % 4 == number)
                .filter(|height| *height > 0 || number == 0)
                .collect();
            let by_height = here.clone();
            // Only near ones change places, as in a download.
            here.sort_by_key(|height| (height / 20, height * 7919 % (100 + usize::from(seed))));
            let mut blk: Vec<u8> = Vec::new();
            if number == 0 {
                // The first of all files begins with it.
                here.retain(|height| *height != 0);
                blk.extend(&blocks[0]);
            }
            blk.extend(here.iter().flat_map(|height| blocks[*height].clone()));
            let connected = by_height.iter().filter(|height| **height > 0);
            let mut rev: Vec<u8> = connected
                .flat_map(|height| undo[height - 1].clone())
                .collect();
            // The end of an old record, and a whole one that is elsewhere too.
            let copied = here[0].max(1);
            blk.extend(&blocks[copied][30..]);
            blk.extend(&blocks[copied]);
            rev.extend(&undo[copied - 1][30..]);
            rev.extend(&undo[copied - 1]);
            write_plain(folder, &format!("blk{number:05}.dat"), &blk);
            write_plain(folder, &format!("rev{number:05}.dat"), &rev);
        }
        let source = files(folder);
        source.check(Network::Regtest).await.unwrap();
        assert_all_there(&source, &left.chain).await;
    }
}

/// A node that was killed goes on from the last position it had noted, over what it had written after that.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_over_is_read_again() {
    let left = left_behind(&["-blocksxor=1"]);
    let folder = left.folder.path();
    let (blk, rev) = (plain(folder, "blk00000.dat"), plain(folder, "rev00000.dat"));
    let (blocks, undo) = (records(&blk, 0), records(&rev, 32));
    let tip = left.chain.tip_id();
    let write = |from: u32, heights: &[u32]| {
        let from = from as usize;
        let (mut new_blk, mut new_rev) = (blk.clone(), rev.clone());
        let (mut b, mut r) = (blocks[from].0 - 8, undo[from - 1].0 - 8);
        for height in heights {
            let (block, undo) = (&blocks[*height as usize].1, &undo[*height as usize - 1].1);
            new_blk[b..b + block.len()].copy_from_slice(block);
            b += block.len();
            new_rev[r..r + undo.len()].copy_from_slice(undo);
            r += undo.len();
        }
        write_plain(folder, "blk00000.dat", &new_blk);
        write_plain(folder, "rev00000.dat", &new_rev);
    };
    let source = files(folder);
    assert_all_there(&source, &left.chain).await;
    // The last ten in another order.
    let from = tip.height - 9;
    let reversed: Vec<u32> = (from..=tip.height).rev().collect();
    write(from, &reversed);
    assert_all_there(&source, &left.chain).await;
    // The second of them is gone, and the first is elsewhere; those after them are leftovers that are still good.
    write(from, &[from + 2, from]);
    let second = left.chain.active_blocks()[from as usize + 1].id;
    for source in [&source, &files(folder)] {
        // Files cannot tell that the node has lost the second and fetches it again, from a hole: it is waited for.
        let error = source.tip().await.unwrap_err();
        assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
        let missing = format!("from height {} on", from + 1);
        assert!(error.to_string().contains(&missing), "{error}");
        let error = source.block(second).await.unwrap_err();
        assert!(matches!(error, ChainError::NotAvailable(_)), "{error:?}");
        for height in [from, from + 2, tip.height] {
            let block = left.chain.active_blocks()[height as usize].clone();
            let read = source.block(block.id).await.unwrap();
            assert_same(&read, &block.with_prevouts().unwrap());
        }
    }
    write(from, &(from..=tip.height).collect::<Vec<_>>());
    assert_all_there(&source, &left.chain).await;
}

/// A node that prunes, with small files.
#[tokio::test(flavor = "multi_thread")]
async fn a_pruned_node_serves_from_the_first_height_it_has() {
    let node = TestNode::start(&["-fastprune", "-prune=1"]);
    let folder = blocks_folder(&node);
    let script = InputKind::P2tr.script_pubkey(&secret(3));
    node.mine(700, &script);
    // Two that have seen the files whole.
    let beside_before = files_with(&folder, &node.url());
    let before = files(&folder);
    assert_eq!(before.tip().await.unwrap(), node.tip());
    let ids = active_ids(&node, 0);
    assert!(beside_before.block(ids[1]).await.is_ok());
    node.call("pruneblockchain", &[json!(400)]);
    assert!(!folder.join("blk00000.dat").exists());
    let info = node.call("getblockchaininfo", &[]);
    let first = u32::try_from(info["pruneheight"].as_u64().unwrap()).unwrap();
    assert!((100..400).contains(&first), "{first}");

    let after = files(&folder);
    let beside_after = files_with(&folder, &node.url());
    for source in [&after, &beside_after] {
        source.check(Network::Regtest).await.unwrap();
    }
    for source in [&before, &beside_before, &after, &beside_after] {
        assert_eq!(source.tip().await.unwrap(), node.tip());
        for height in [1, first - 1] {
            let error = source.block(ids[height as usize]).await.unwrap_err();
            assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
            let text = error.to_string();
            for part in [
                &folder.display().to_string(),
                &format!("the first height they can serve is {first}"),
                "--first-height",
                "prune=0",
            ] {
                assert!(text.contains(part), "{part:?} is not in: {text}");
            }
        }
        for height in [first, first + 1, 699, 700] {
            let id = ids[height as usize];
            assert_eq!(source.block_at(height).await.unwrap(), Some(id));
            assert_eq!(source.block(id).await.unwrap().id, id);
        }
    }
    assert!(after.block_at(first - 1).await.is_err());
    assert_eq!(beside_after.block_at(3).await.unwrap(), Some(ids[3]));
    // And it goes on.
    node.mine(50, &script);
    for source in [&before, &after, &beside_after] {
        let tip = source.tip().await.unwrap();
        assert_eq!(tip, node.tip());
        assert_eq!(source.block(tip).await.unwrap().id, tip);
    }
}
