//! What fuzzing begins with: good inputs of every target, made from simulated chains.

use std::collections::HashMap;

use bitcoin::consensus::serialize;
use bitcoin::{Amount, Network, Script, ScriptBuf, Txid, VarInt};
use spindex::chain::files::frames::ObfuscationKey;
use spindex::chain::files::undo::undo_checksum;
use spindex::chain::made::simulated::{SimulatedBlock, SimulatedChain, SimulationSettings};

use super::{block_files, rpc_block, stored_rows};
use crate::support::fake_node::block_json;

/// A name and an input.
pub(crate) type Seed = (String, Vec<u8>);

/// A chain with traffic in its last blocks.
fn chain(transactions_per_block: u32, blocks: u32) -> SimulatedChain {
    let chain = SimulatedChain::new(SimulationSettings {
        transactions_per_block,
        ..SimulationSettings::default()
    });
    chain.mine(blocks);
    chain
}

/// A seed for each of some blocks, without spends, with few and with many.
fn of_blocks(seed: impl Fn(&SimulatedBlock, &Heights) -> Vec<u8>) -> Vec<Seed> {
    let mut seeds = Vec::new();
    for transactions in [2, 12] {
        let chain = chain(transactions, 125);
        let heights = Heights::new(&chain);
        let blocks = chain.active_blocks();
        let wanted = blocks
            .iter()
            .filter(|block| matches!(block.id.height, 0 | 1 | 105..=107 | 118..=125));
        seeds.extend(wanted.map(|block| {
            let name = format!("{transactions}-transactions-height-{}", block.id.height);
            (name, seed(block, &heights))
        }));
    }
    seeds
}

/// Blocks in the peer-to-peer form.
pub(crate) fn block() -> Vec<Seed> {
    of_blocks(|block, _| serialize(&block.block))
}

/// Spent outputs as a node's REST interface writes them.
pub(crate) fn spent_outputs() -> Vec<Seed> {
    of_blocks(|block, _| {
        let mut bytes = serialize(&VarInt::from(block.prevouts.len()));
        for outputs in &block.prevouts {
            bytes.extend(serialize(outputs));
        }
        bytes
    })
}

/// What a node says of its mempool, as Bitcoin Core writes it.
pub(crate) fn mempool_answers() -> Vec<Seed> {
    let hash = "00000000000000000001a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6";
    let body = |letter: u8, sequence: &[u8]| [&[0x5a; 32][..], &[letter], sequence].concat();
    let output = r#"{"bestblock":"HASH","confirmations":3,"value":0.00054600,"scriptPubKey":{"asm":"1 00","desc":"rawtr(00)#aa","hex":"51200000000000000000000000000000000000000000000000000000000000000001","address":"bcrt1p","type":"witness_v1_taproot"},"coinbase":false}"#;
    let entry = r#"{"vsize":111,"weight":444,"time":1764000000,"height":101,"fees":{"base":0.00010000},"depends":[],"spentby":[],"bip125-replaceable":true,"unbroadcast":true}"#;
    let list = r#"{"txids":["HASH","HASH"],"mempool_sequence":18446744073709551615}"#;
    let inputs: [(&str, u8, Vec<u8>); 9] = [
        ("accepted", 0, body(b'A', &7u64.to_le_bytes())),
        ("removed", 0, body(b'R', &u64::MAX.to_le_bytes())),
        ("connected", 0, body(b'C', &[])),
        ("disconnected", 0, body(b'D', &[])),
        ("list", 1, list.replace("HASH", hash).into()),
        (
            "empty-list",
            1,
            r#"{"txids":[],"mempool_sequence":1}"#.into(),
        ),
        ("output", 2, output.replace("HASH", hash).into()),
        ("no-output", 2, "null".into()),
        ("entry", 3, entry.into()),
    ];
    let seed =
        |(name, kind, rest): (&str, u8, Vec<u8>)| (name.to_owned(), [&[kind], &rest[..]].concat());
    inputs.map(seed).into()
}

/// Undo records, some of the form before 0.15, and scripts that no simulated block has.
pub(crate) fn undo() -> Vec<Seed> {
    let mut seeds = of_blocks(|block, heights| undo_record(block, heights, false));
    let old = of_blocks(|block, heights| undo_record(block, heights, true));
    seeds.extend(old.into_iter().map(|(name, seed)| (name + "-old", seed)));

    let key = bitcoin::PublicKey::from_slice(&[2; 33]).expect("a point");
    let mut uncompressed = key;
    uncompressed.compressed = false;
    let scripts = [
        ScriptBuf::new(),
        ScriptBuf::new_p2pk(&key),
        ScriptBuf::new_p2pk(&uncompressed),
        ScriptBuf::new_op_return([7; 60]),
        ScriptBuf::from_bytes(vec![0x51; 300]),
    ];
    for (index, script) in scripts.iter().enumerate() {
        let mut bytes = vec![1, 1];
        spent(&mut bytes, 2 * 7 + 1, Amount::ONE_BTC, script);
        seeds.push((format!("script-{index}"), bytes));
    }
    seeds
}

/// Block and undo files: plain and obfuscated, with gaps, out of order, read from their middle.
pub(crate) fn block_files() -> Vec<Seed> {
    let chain = block_files::chain();
    let heights = Heights::new(&chain);
    let blocks = chain.active_blocks();
    let framed: Vec<Vec<u8>> = blocks
        .iter()
        .map(|block| frame(&serialize(&block.block), &[]))
        .collect();
    let undo: Vec<Vec<u8>> = blocks
        .iter()
        .map(|block| {
            let record = undo_record(block, &heights, false);
            let parent = &block.block.header.prev_blockhash;
            frame(&record, &undo_checksum(parent, &record))
        })
        .collect();
    let key = [0x1b, 0xd1, 0x08, 0x77, 0xa0, 0x3c, 0x00, 0xff];
    let backwards = [&framed[5], &framed[4], &framed[3], &framed[2], &framed[1]];
    let backwards = backwards.map(Vec::as_slice).concat();
    let gaps = [
        &framed[0],
        &vec![0; 90],
        &framed[1],
        &framed[1][..50].to_vec(),
        &framed[2],
    ];
    let gaps = gaps.map(Vec::as_slice).concat();
    let torn = [
        &undo[101][..40],
        &undo[102],
        &[0; 33],
        &undo[101],
        &undo[104],
    ]
    .concat();
    let mut twice = [framed[0].as_slice(), &framed[0], &framed[1]].concat();
    // Its parent is missing, but it claims a height.
    twice.extend_from_slice(&framed[110]);
    let (trust, in_undo) = (block_files::TRUST, block_files::UNDO);
    [
        ("first-blocks", 0, [0; 8], 0, framed[..8].concat()),
        ("obfuscated", 0, key, 0, framed[..8].concat()),
        ("backwards", 0, [0; 8], 0, backwards.clone()),
        ("backwards-claimed", trust, [0; 8], 0, backwards),
        ("claimed", trust, key, 0, framed[103..106].concat()),
        ("gaps", 0, [0; 8], 0, gaps),
        ("twice", trust, [0; 8], 0, twice),
        ("from-the-middle", 0, key, 21, framed[..4].concat()),
        ("undo", in_undo, [0; 8], 0, undo[100..].concat()),
        ("undo-obfuscated", in_undo, key, 3, undo[100..110].concat()),
        ("undo-torn", in_undo, key, 0, torn),
    ]
    .into_iter()
    .map(|(name, flags, key, from, mut file)| {
        ObfuscationKey(key).apply(0, &mut file);
        let from: [u8; 2] = u16::to_le_bytes(from);
        (name.to_owned(), [&[flags], &key[..], &from, &file].concat())
    })
    .collect()
}

/// The block that results are taken to be of, the one before it, and the genesis block.
pub(crate) fn rpc_block() -> Vec<Seed> {
    let chain = rpc_block::chain();
    let blocks = chain.active_blocks();
    [0, blocks.len() - 2, blocks.len() - 1]
        .map(|height| {
            let json = block_json(&chain, &blocks[height]);
            (format!("height-{height}"), json.into_bytes())
        })
        .into()
}

/// Every table with the start, the middle and all of a row overwritten.
pub(crate) fn stored_rows() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for table in 0..stored_rows::TABLES as u8 {
        for row in [0u16, 40] {
            for at in [0u16, 32, 112, 164, u16::MAX] {
                for (name, bytes) in [
                    ("same", &[][..]),
                    ("zeros", &[0; 4]),
                    ("ones", &[0xff; 8]),
                    ("small", &[1]),
                ] {
                    let input = [&[table], &row.to_le_bytes()[..], &at.to_le_bytes(), bytes];
                    seeds.push((format!("{table}-{row}-{at}-{name}"), input.concat()));
                }
            }
        }
    }
    seeds
}

/// Magic, length, payload and what follows it.
fn frame(payload: &[u8], trailer: &[u8]) -> Vec<u8> {
    let magic = Network::Regtest.magic().to_bytes();
    let length = (payload.len() as u32).to_le_bytes();
    [&magic[..], &length, payload, trailer].concat()
}

/// Where each transaction is: its block's height, and whether it is a coinbase.
struct Heights(HashMap<Txid, (u32, bool)>);

impl Heights {
    fn new(chain: &SimulatedChain) -> Self {
        let mut heights = HashMap::new();
        for block in chain.active_blocks() {
            for (index, txid) in block.txids.iter().enumerate() {
                heights.insert(*txid, (block.id.height, index == 0));
            }
        }
        Self(heights)
    }
}

/// The undo record of a block. Versions before 0.15 noted a height with the last output spent of each transaction only.
fn undo_record(block: &SimulatedBlock, heights: &Heights, old: bool) -> Vec<u8> {
    let mut bytes = serialize(&VarInt::from(block.prevouts.len() - 1));
    for (tx, outputs) in block.block.txdata.iter().zip(&block.prevouts).skip(1) {
        bytes.extend(serialize(&VarInt::from(outputs.len())));
        for (input, output) in tx.input.iter().zip(outputs) {
            let txid = input.previous_output.txid;
            let (height, is_coinbase) = heights.0[&txid];
            let mut more = tx
                .input
                .iter()
                .filter(|other| other.previous_output.txid == txid);
            let is_last = more.next_back() == Some(input);
            let code = 2 * u64::from(height) + u64::from(is_coinbase);
            let code = if old && !is_last { 0 } else { code };
            spent(&mut bytes, code, output.value, &output.script_pubkey);
        }
    }
    bytes
}

/// Appends a spent output; `code` is twice its height, one more for a coinbase's.
fn spent(bytes: &mut Vec<u8>, code: u64, value: Amount, script: &Script) {
    var_int(bytes, code);
    if code > 1 {
        bytes.push(0);
    }
    var_int(bytes, compressed_amount(value.to_sat()));
    let script_bytes = script.as_bytes();
    match (script.p2pk_public_key(), script_bytes) {
        _ if script.is_p2pkh() => bytes.extend([&[0], &script_bytes[3..23]].concat()),
        _ if script.is_p2sh() => bytes.extend([&[1], &script_bytes[2..22]].concat()),
        (Some(_), [33, key @ .., _]) => bytes.extend(key),
        (Some(_), [65, 4, point @ .., _]) => {
            bytes.push(4 + point[63] % 2);
            bytes.extend(&point[..32]);
        }
        _ => {
            var_int(bytes, script_bytes.len() as u64 + 6);
            bytes.extend(script_bytes);
        }
    }
}

/// Bitcoin Core's VarInt.
fn var_int(bytes: &mut Vec<u8>, number: u64) {
    let mut digits = vec![(number & 0x7f) as u8];
    let mut rest = number >> 7;
    while rest > 0 {
        rest -= 1;
        digits.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.extend(digits.iter().rev());
}

/// Bitcoin Core's `CompressAmount`.
fn compressed_amount(value_sat: u64) -> u64 {
    if value_sat == 0 {
        return 0;
    }
    let (mut rest, mut exponent) = (value_sat, 0);
    while rest.is_multiple_of(10) && exponent < 9 {
        rest /= 10;
        exponent += 1;
    }
    match exponent {
        9 => 1 + (rest - 1) * 10 + 9,
        _ => 1 + (rest / 10 * 9 + rest % 10 - 1) * 10 + exponent,
    }
}
