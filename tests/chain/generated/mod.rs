//! Generated chains, read back by other code: the `bitcoin` crate's checks of blocks, a decoder of undo data of the
//! test's own, the list of unspent outputs kept here, and the `silentpayments` crate for which inputs have keys.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod reader;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use bitcoin::block::Bip34Error;
use bitcoin::hashes::{Hash, hash160, sha256};
use bitcoin::{Network, OutPoint, Script, TxIn, TxOut};
use secp256k1::{PublicKey, XOnlyPublicKey};
use silentpayments::utils::receiving::{calculate_tweak_data, get_pubkey_from_input};

use reader::{SpentOutput, files, read};
use spindex::bip352::inputs::tweak_inputs;
use spindex::bip352::tweak::transaction_tweak;
use spindex::chain::made::generated::parameters::mean;
use spindex::chain::made::generated::{
    ChainLength, ChainParameters, Counts, GenerateError, Summary, Target, generate,
};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::curve::{EngineKind, engine};

fn target(directory: &Path) -> Target {
    Target {
        directory: directory.to_owned(),
        xor: false,
        most_file_bytes: None,
    }
}

fn blocks(blocks: u32) -> ChainLength {
    ChainLength {
        blocks: Some(blocks),
        outputs: None,
    }
}

fn small(seed: u64, transactions_per_block: u32) -> ChainParameters {
    ChainParameters {
        seed,
        transactions_per_block,
        ..ChainParameters::MAINNET
    }
}

fn generate_plainly(
    parameters: &ChainParameters,
    length: ChainLength,
    target: &Target,
) -> Result<Summary, GenerateError> {
    generate(parameters, length, target, &LibSecp256k1, |_| ())
}

/// What the outputs of a chain add up to, as the tests count it.
#[derive(Default)]
struct Statistics {
    counts: Counts,
    eligible_inputs: u64,
    /// Values of taproot outputs.
    taproot_values_sat: Vec<u64>,
    /// Blocks between an output and its spend, coinbases left out.
    distances: Vec<u32>,
    keys: HashSet<Vec<u8>>,
    kinds: HashMap<&'static str, u64>,
    largest_block_bytes: usize,
}

/// Follows a chain from the genesis block and checks everything that a node would, but for scripts.
fn follow(directory: &Path) -> (Statistics, Vec<reader::StoredBlock>) {
    let chain = read(directory);
    let genesis = bitcoin::constants::genesis_block(Network::Regtest);
    assert_eq!(chain[0].block, genesis);
    assert!(chain[0].undo.is_none());

    let mut statistics = Statistics::default();
    let mut unspent: HashMap<OutPoint, SpentOutput> = HashMap::new();
    let mut txids = HashSet::new();
    for (height, stored) in (0..).zip(&chain).skip(1) {
        let block = &stored.block;
        let parent = &chain[height as usize - 1].block.header;
        assert_eq!(block.header.prev_blockhash, parent.block_hash());
        assert!(block.header.time > parent.time);
        assert_eq!(block.header.bits, genesis.header.bits);
        block.header.validate_pow(block.header.target()).unwrap();
        assert!(block.check_merkle_root());
        assert!(block.check_witness_commitment());
        assert!(block.weight().to_wu() <= 4_000_000);
        match block.bip34_block_height() {
            Ok(told) => assert_eq!(told, u64::from(height)),
            // Pushed as OP_1 to OP_16, which the crate does not read.
            Err(Bip34Error::NotPresent) if height <= 16 => {}
            Err(error) => panic!("{height}: {error}"),
        }
        statistics.largest_block_bytes = statistics.largest_block_bytes.max(stored.bytes.len());

        let (coinbase, transactions) = block.txdata.split_first().unwrap();
        assert!(coinbase.is_coinbase());
        let undo = stored.undo.as_ref().unwrap();
        assert_eq!(undo.len(), transactions.len());
        let mut fees_sat = 0;
        statistics.counts.transactions += 1;
        for (position, tx) in block.txdata.iter().enumerate() {
            let txid = tx.compute_txid();
            assert!(txids.insert(txid));
            if position > 0 {
                let spent = &undo[position - 1];
                assert_eq!(spent.len(), tx.input.len());
                for (input, spent) in tx.input.iter().zip(spent) {
                    let created = unspent.remove(&input.previous_output).unwrap();
                    assert_eq!(&created, spent);
                    assert!(!created.is_coinbase || height - created.height >= 100);
                    if !created.is_coinbase {
                        statistics.distances.push(height - created.height);
                    }
                    let kind = check_input(input, &created.txout);
                    *statistics.kinds.entry(kind).or_default() += 1;
                }
                let prevouts: Vec<TxOut> = spent.iter().map(|s| s.txout.clone()).collect();
                let sum = |outputs: &[TxOut]| -> u64 {
                    outputs.iter().map(|output| output.value.to_sat()).sum()
                };
                fees_sat += sum(&prevouts).checked_sub(sum(&tx.output)).unwrap();
                count(&mut statistics, tx, &prevouts);
            }
            for (vout, txout) in (0..).zip(&tx.output) {
                let script = &txout.script_pubkey;
                if script.is_op_return() {
                    assert_eq!(txout.value.to_sat(), 0);
                    continue;
                }
                if script.is_p2tr() {
                    XOnlyPublicKey::from_slice(&script.as_bytes()[2..]).unwrap();
                    statistics.keys.insert(script.as_bytes()[2..].to_vec());
                    statistics.taproot_values_sat.push(txout.value.to_sat());
                }
                let output = SpentOutput {
                    height,
                    is_coinbase: position == 0,
                    txout: txout.clone(),
                };
                unspent.insert(OutPoint::new(txid, vout), output);
            }
        }
        let reward_sat: u64 = coinbase.output.iter().map(|o| o.value.to_sat()).sum();
        assert_eq!(reward_sat, (5_000_000_000 >> (height / 150)) + fees_sat);
    }
    (statistics, chain)
}

fn count(statistics: &mut Statistics, tx: &bitcoin::Transaction, prevouts: &[TxOut]) {
    let is_taproot = |output: &&TxOut| output.script_pubkey.is_p2tr();
    let counts = &mut statistics.counts;
    counts.transactions += 1;
    counts.inputs += tx.input.len() as u64;
    counts.outputs += tx.output.len() as u64;
    counts.taproot_spends += prevouts.iter().filter(is_taproot).count() as u64;
    let taproot_outputs = tx.output.iter().filter(is_taproot).count() as u64;
    counts.taproot_outputs += taproot_outputs;

    let library_keys: Vec<PublicKey> = tx
        .input
        .iter()
        .zip(prevouts)
        .filter_map(|(input, prevout)| {
            let script = prevout.script_pubkey.as_bytes();
            get_pubkey_from_input(input.script_sig.as_bytes(), &input.witness.to_vec(), script)
                .unwrap()
        })
        .collect();
    let is_eligible = taproot_outputs > 0 && !library_keys.is_empty();
    assert_eq!(tweak_inputs(tx, prevouts).is_some(), is_eligible);
    if !is_eligible {
        return;
    }
    counts.eligible_transactions += 1;
    counts.eligible_taproot_outputs += taproot_outputs;
    statistics.eligible_inputs += tx.input.len() as u64;
    if counts.eligible_transactions.is_multiple_of(16) {
        let outpoints: Vec<_> = tx
            .input
            .iter()
            .map(|input| {
                let outpoint = input.previous_output;
                silentpayments::utils::OutPoint::from_txid_bytes_and_vout(
                    outpoint.txid.to_byte_array(),
                    outpoint.vout,
                )
            })
            .collect();
        let keys: Vec<&PublicKey> = library_keys.iter().collect();
        let tweak = calculate_tweak_data(&keys, &outpoints).unwrap();
        let ours = transaction_tweak(&LibSecp256k1, tx, prevouts).unwrap();
        assert_eq!(ours.to_compressed(), tweak.serialize());
    }
}

/// Checks that an input has what its previous output asks for, and keys that hash to it; says which kind it is.
fn check_input(input: &TxIn, prevout: &TxOut) -> &'static str {
    let script = prevout.script_pubkey.as_script();
    let items: Vec<&[u8]> = input.witness.iter().collect();
    let pushes: Vec<Vec<u8>> = input
        .script_sig
        .instructions()
        .map(|instruction| {
            instruction
                .unwrap()
                .push_bytes()
                .unwrap()
                .as_bytes()
                .to_vec()
        })
        .collect();
    let pushes: Vec<&[u8]> = pushes.iter().map(Vec::as_slice).collect();
    let is_hash160 = |data: &[u8], from: usize| {
        let hash = hash160::Hash::hash(data);
        assert_eq!(script.as_bytes()[from..from + 20], hash.as_byte_array()[..]);
    };
    let ecdsa = |signature: &[u8]| {
        bitcoin::ecdsa::Signature::from_slice(signature).unwrap();
    };
    let compressed = |key: &[u8]| {
        assert_eq!(key.len(), 33);
        PublicKey::from_slice(key).unwrap();
    };
    let p2wpkh = |program: &Script| match items[..] {
        [signature, key] => {
            ecdsa(signature);
            compressed(key);
            let hash = hash160::Hash::hash(key);
            assert_eq!(program.as_bytes()[2..], hash.as_byte_array()[..]);
        }
        _ => panic!("{items:?}"),
    };
    let multisig = |items: &[&[u8]]| match items {
        [[], first, second, script] => {
            ecdsa(first);
            ecdsa(second);
            assert!(Script::from_bytes(script).is_multisig());
            for key in [2, 36, 70] {
                compressed(&script[key..key + 33]);
            }
        }
        _ => panic!("{items:?}"),
    };
    let p2wsh = |program: &Script| {
        multisig(&items);
        let hash = sha256::Hash::hash(items[3]);
        assert_eq!(program.as_bytes()[2..], hash.as_byte_array()[..]);
    };

    if script.is_p2tr() {
        assert!(pushes.is_empty());
        bitcoin::taproot::Signature::from_slice(items[0]).unwrap();
        if items.len() == 1 {
            return "taproot key path";
        }
        assert_eq!(items.len(), 3);
        let tapscript = Script::from_bytes(items[1]);
        assert!(
            tapscript
                .instructions()
                .all(|instruction| instruction.is_ok())
        );
        bitcoin::taproot::ControlBlock::decode(items[2]).unwrap();
        return match items[1].len() {
            34 => "taproot script path",
            _ => "inscription",
        };
    }
    if script.is_p2wpkh() {
        assert!(pushes.is_empty());
        p2wpkh(script);
        return "P2WPKH";
    }
    if script.is_p2wsh() {
        assert!(pushes.is_empty());
        p2wsh(script);
        return "P2WSH";
    }
    if script.is_p2pkh() {
        assert!(items.is_empty());
        ecdsa(pushes[0]);
        PublicKey::from_slice(pushes[1]).unwrap();
        is_hash160(pushes[1], 3);
        return match pushes[1].len() {
            33 => "P2PKH",
            _ => "P2PKH, uncompressed",
        };
    }
    if script.is_p2sh() {
        let redeem_script = pushes[pushes.len() - 1];
        is_hash160(redeem_script, 2);
        let program = Script::from_bytes(redeem_script);
        if program.is_p2wpkh() {
            p2wpkh(program);
            return "P2SH-P2WPKH";
        }
        if program.is_p2wsh() {
            p2wsh(program);
            return "P2SH-P2WSH";
        }
        assert!(items.is_empty());
        multisig(&pushes);
        return "P2SH multisig";
    }
    assert!(script.is_p2pk() && items.is_empty());
    ecdsa(pushes[0]);
    match script.p2pk_public_key().unwrap().compressed {
        true => "P2PK",
        false => "P2PK, uncompressed",
    }
}

#[test]
fn every_block_stands_up_to_the_rules() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("blocks");
    let parameters = ChainParameters {
        // All kinds often enough, and distances that this chain has.
        other_kinds: [40, 10, 10, 5, 10, 5, 10, 5, 5],
        script_path: 0.3,
        nums: 0.3,
        ..small(1, 60)
    };
    let xor = Target {
        xor: true,
        most_file_bytes: Some(300_000),
        ..target(&directory)
    };
    let summary = generate_plainly(&parameters, blocks(180), &xor).unwrap();
    let (statistics, chain) = follow(&directory);

    assert_eq!((summary.blocks, summary.height), (181, 180));
    assert_eq!(chain.len(), 181);
    assert_eq!(summary.tip, chain[180].block.block_hash());
    assert_eq!(summary.counts, statistics.counts);
    assert!(summary.counts.transactions > 3_000);
    let bytes = |kind| files(&directory, kind).iter().map(Vec::len).sum::<usize>() as u64;
    assert_eq!(summary.block_bytes, bytes("blk"));
    assert_eq!(summary.undo_bytes, bytes("rev"));

    let block_files = files(&directory, "blk");
    assert!(block_files.len() > 3);
    for file in &block_files {
        assert!(file.len() < 300_000.max(statistics.largest_block_bytes + 9));
    }
    let raw = std::fs::read(directory.join("blk00000.dat")).unwrap();
    assert_ne!(raw[..4], block_files[0][..4]);

    // No kind is left out.
    assert_eq!(statistics.kinds.len(), 12, "{:?}", statistics.kinds);
    // Almost all keys are new.
    let distinct = statistics.keys.len() as f64 / statistics.taproot_values_sat.len() as f64;
    assert!((0.95..1.0).contains(&distinct), "{distinct}");
}

/// Everything of these files, for comparison.
fn content(directory: &Path) -> Vec<Vec<u8>> {
    [files(directory, "blk"), files(directory, "rev")].concat()
}

#[test]
fn the_bytes_follow_from_the_parameters_alone() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, seed: u64, height: u32, threads: usize, kind: EngineKind| {
        let directory = dir.path().join(name);
        let engine = engine(kind, |broken| panic!("{broken}")).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let summary = pool.unwrap().install(|| {
            let target = target(&directory);
            generate(
                &small(seed, 20),
                blocks(height),
                &target,
                engine.as_ref(),
                |_| (),
            )
        });
        (summary.unwrap(), content(&directory))
    };
    let library = EngineKind::LibSecp256k1;
    let (summary, bytes) = make("one thread", 5, 125, 1, library);
    assert!(summary.counts.transactions > 300);
    assert_eq!(
        make("three threads", 5, 125, 3, library),
        (summary, bytes.clone())
    );
    assert_eq!(
        make("batched", 5, 125, 2, EngineKind::Auto),
        (summary, bytes.clone())
    );

    // A longer chain begins with the shorter one.
    let (longer, longer_bytes) = make("longer", 5, 130, 2, library);
    assert_eq!(longer.height, 130);
    for (file, longer_file) in bytes.iter().zip(&longer_bytes) {
        assert!(longer_file.starts_with(file) && longer_file.len() > file.len());
    }
    let (other, other_bytes) = make("other seed", 6, 125, 2, library);
    assert_ne!(other.tip, summary.tip);
    assert_ne!(other_bytes, bytes);
}

#[test]
fn a_chain_ends_with_the_block_that_has_the_outputs_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let until = |name: &str, length| {
        let target = target(&dir.path().join(name));
        let summary = generate_plainly(&small(9, 40), length, &target).unwrap();
        (summary, target.directory)
    };
    let wanted = ChainLength {
        blocks: None,
        outputs: Some(500),
    };
    let (summary, directory) = until("outputs", wanted);
    let outputs = |blocks: &[reader::StoredBlock]| -> usize {
        let eligible = |stored: &reader::StoredBlock| {
            let spent = stored.undo.as_ref().unwrap();
            let transactions = stored.block.txdata.iter().skip(1).zip(spent);
            transactions
                .filter(|(tx, spent)| {
                    let prevouts: Vec<_> = spent.iter().map(|s| s.txout.clone()).collect();
                    tweak_inputs(tx, &prevouts).is_some()
                })
                .flat_map(|(tx, _)| &tx.output)
                .filter(|output| output.script_pubkey.is_p2tr())
                .count()
        };
        blocks.iter().skip(1).map(eligible).sum()
    };
    let chain = read(&directory);
    assert_eq!(
        summary.counts.eligible_taproot_outputs,
        outputs(&chain) as u64
    );
    assert!(outputs(&chain) >= 500);
    assert!(outputs(&chain[..chain.len() - 1]) < 500);

    // The number of blocks comes first.
    let both = ChainLength {
        blocks: Some(101),
        outputs: Some(1 << 40),
    };
    assert_eq!(until("both", both).0.height, 101);
    let genesis_alone = until("genesis", blocks(0)).0;
    assert_eq!((genesis_alone.blocks, genesis_alone.height), (1, 0));
}

#[test]
fn what_cannot_be_done_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let refusal = |parameters: &ChainParameters, length| {
        let refused = generate_plainly(parameters, length, &target);
        refused.unwrap_err().to_string()
    };
    let endless = refusal(&small(0, 10), ChainLength::default());
    assert!(endless.contains("neither a number of blocks"), "{endless}");
    let senseless = ChainParameters {
        op_return: 7.0,
        ..small(0, 10)
    };
    assert!(refusal(&senseless, blocks(1)).contains("op_return is 7"));

    std::fs::write(dir.path().join("blk00007.dat"), "precious").unwrap();
    let occupied = refusal(&small(0, 10), blocks(1));
    assert!(occupied.contains("blk00007.dat exists"), "{occupied}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Shares and means of a chain of some length, beside those of the parameters.
#[test]
fn statistics_are_those_of_the_parameters() {
    let dir = tempfile::tempdir().unwrap();
    let parameters = small(3, 240);
    generate_plainly(&parameters, blocks(340), &target(dir.path())).unwrap();
    let (statistics, chain) = follow(dir.path());
    let counts = statistics.counts;
    let near = |what: &str, measured: f64, expected: f64, tolerance: f64| {
        let error = measured / expected - 1.0;
        println!("{what}: {measured:.4}, expected {expected:.4}");
        assert!(error.abs() < tolerance, "{what}: {measured} {expected}");
    };
    let share = |part: u64, of: u64| part as f64 / of as f64;

    let filled = &chain[120..];
    let transactions: usize = filled
        .iter()
        .map(|stored| stored.block.txdata.len() - 1)
        .sum();
    let per_block = transactions as f64 / filled.len() as f64;
    near("transactions per block", per_block, 240.0, 0.05);
    let eligible = share(counts.eligible_transactions, counts.transactions);
    near("eligible", eligible, parameters.eligible, 0.1);
    near(
        "inputs of eligible",
        share(statistics.eligible_inputs, counts.eligible_transactions),
        mean(parameters.eligible_inputs),
        0.15,
    );
    near(
        "taproot outputs of eligible",
        share(
            counts.eligible_taproot_outputs,
            counts.eligible_transactions,
        ),
        mean(parameters.taproot_outputs),
        0.2,
    );
    let of_distance = |most: u32| {
        let near = statistics.distances.iter().filter(|d| **d <= most).count() as u64;
        share(near, statistics.distances.len() as u64)
    };
    // Somewhat fewer, as the first transactions of a lane have nothing of the same block to spend.
    near("spent in the same block", of_distance(0), 0.2, 0.3);
    near("spent within 6 blocks", of_distance(6), 0.268, 0.3);
    let dust = statistics
        .taproot_values_sat
        .iter()
        .filter(|sat| **sat < 1_000);
    let dust = share(
        dust.count() as u64,
        statistics.taproot_values_sat.len() as u64,
    );
    assert!((0.12..0.35).contains(&dust), "{dust}");
    let scripts: u64 = ["taproot script path", "inscription"]
        .iter()
        .filter_map(|kind| statistics.kinds.get(kind))
        .sum();
    near(
        "script path",
        share(scripts, counts.taproot_spends),
        parameters.script_path,
        0.3,
    );
}
