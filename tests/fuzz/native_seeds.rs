//! What fuzzing begins with where answers of servers are read: those of both protocols for the last blocks of a simulated
//! chain.

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Network, OutPoint, Txid};
use spindex::BlockId;
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::filter::spent_item;
use spindex::index::derive_records;
use spindex::store::{BlockRecord, TweakForm};
use spindex::wire::native::column::{CHUNK_BLOCKS, Column, PartHead, PartWriter};
use spindex::wire::native::manifest::{FileSum, List, ListName, ListedChunk, Manifest};
use spindex::wire::native::selection::{Rule, Selection, write_selected};
use spindex::wire::native::{
    self, CarriedState, Code, Commitments, Counts, Created, Event, Heads, Link, Links, Outpoint,
    OutpointState, Output, Process, Refusal, Server, Step, Told, Transaction, write_cursor,
};
use spindex::wire::v1;

use super::seeds::Seed;
use super::{native_answers, native_parts, sections, v1_answers};

/// Height of the first block of the answers: two before the end of a chunk.
const FIRST_HEIGHT: u32 = 2 * CHUNK_BLOCKS - 2;

/// Blocks with that many transactions, about, from `FIRST_HEIGHT` on.
fn records(transactions_per_block: u32, blocks: u32) -> Vec<BlockRecord> {
    let chain = SimulatedChain::new(SimulationSettings {
        transactions_per_block,
        ..SimulationSettings::default()
    });
    chain.mine(FIRST_HEIGHT + blocks - 1);
    let blocks: Vec<_> = chain
        .active_blocks()
        .iter()
        .skip(FIRST_HEIGHT as usize)
        .map(|block| block.with_prevouts().expect("a good block"))
        .collect();
    derive_records(&LibSecp256k1, &blocks, TweakForm::Point)
}

/// An answer with these columns, whose sections are written by the text of docs/native.md.
fn answer(columns: &[Column], records: &[BlockRecord]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for group in records.chunk_by(|one, next| one.id.height / 64 == next.id.height / 64) {
        let (first, last) = (group[0].id.height, group[group.len() - 1].id.hash);
        for column in columns {
            let mut writer = PartWriter::default();
            for record in group {
                writer.section(|out| out.extend(sections::section(record, column.name())));
            }
            bytes.extend(writer.finish(Network::Regtest, *column, first, last));
        }
    }
    let end = records.last().map(|record| record.id);
    bytes.extend(end.map_or([0; 60], |end| PartHead::end(Network::Regtest, end).encode()));
    bytes
}

/// Answers with all that can be asked for, of one block and of several in two chunks, whose headers are as they came or made
/// to fit.
pub(crate) fn native_parts() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, records) in [
        ("few", records(2, 5)),
        ("many", records(9, 3)),
        ("none", records(0, 12)),
    ] {
        for (asked, columns) in (0..).zip(native_parts::ASKED) {
            for flags in [0, native_parts::MENDED] {
                for records in [&records[..1], &records[..]] {
                    let seed = [&[asked | flags][..], &answer(columns, records)].concat();
                    seeds.push((format!("{name}-{asked}-{flags}-{}", records.len()), seed));
                }
            }
        }
    }
    // Selections, which nobody has asked for.
    let few = records(5, 4);
    let selection = Selection {
        rule: Rule {
            dust_limit_sat: 546,
            cut_through: true,
        },
        tip: few[few.len() - 1].id,
    };
    let mut selections = vec![0];
    for column in [Column::Selected, Column::Tweaks, Column::Prefixes] {
        let mut writer = PartWriter::default();
        for record in &few[2..] {
            writer.section(|out| match column {
                Column::Selected => {
                    write_selected(record.transactions.iter().map(|_| true), out);
                }
                column => out.extend(sections::section(record, column.name())),
            });
        }
        let last = selection.tip.hash;
        let first = few[2].id.height;
        selections.extend(writer.finish_selection(
            Network::Regtest,
            column,
            first,
            last,
            &selection,
        ));
    }
    seeds.push(("selections".to_owned(), selections));
    // Whoever spends is not known of all.
    let mut records = records(6, 2);
    for record in &mut records {
        record
            .spends
            .iter_mut()
            .for_each(|spend| spend.spender = None);
    }
    let seed = answer(native_parts::ASKED[4], &records);
    seeds.push(("unknown".to_owned(), [&[4][..], &seed].concat()));
    seeds
}

fn asked_for(outpoint: &OutPoint) -> Vec<u8> {
    let vout = outpoint.vout.to_le_bytes();
    [&outpoint.txid.to_byte_array()[..], &vout].concat()
}

/// Every kind of answer, with all that may be in it and with the least.
pub(crate) fn native_answers() -> Vec<Seed> {
    let records = records(9, 3);
    let heads = sections::heads(&records);
    let blocks: Vec<BlockId> = records.iter().map(|record| record.id).collect();
    let (record, block) = (&records[2], blocks[2]);
    let (txid, key) = (record.transactions[0].txid, [7; 32]);
    let outpoint = OutPoint::new(txid, 1);
    let mut tweak = [2; 33];
    tweak[1..].copy_from_slice(&record.transactions[0].tweak[..32]);
    let link = |byte: u8| Link {
        commitment: [byte; 32],
        head: [byte + 1; 32],
    };
    let full = |index: usize| Links {
        block: blocks[index],
        v1: link(1),
        v2: Some(link(3)),
        columns_head: Some(heads[index]),
    };
    let tweaks_only = |index: usize| Links {
        v2: None,
        columns_head: None,
        ..full(index)
    };
    let spend = native::Spend {
        block,
        spender: Some(native::Spender {
            transaction: 3,
            input: 1,
        }),
        state: Some(CarriedState {
            txid,
            vout: 2,
            state_id: [0xab; 32],
        }),
    };
    let unknown = native::Spend {
        spender: None,
        state: None,
        ..spend
    };
    let created = Created {
        block: blocks[0],
        value_sat: 2_100_000_000_000_000,
        key,
    };
    let mut seeds: Vec<Seed> = Vec::new();
    let mut add = |name: &str, decoder: u8, asked: &[u8], body: Result<Vec<u8>, String>| {
        let body = body.expect("a good answer");
        let seed = [&[decoder], asked, &body].concat();
        seeds.push((format!("{name}-{}", seeds.len()), seed));
    };

    for (tweaks_only, heads) in [
        (
            false,
            Some(Heads {
                v1: [1; 32],
                v2: Some([2; 32]),
                columns: Some(heads[2]),
            }),
        ),
        (
            true,
            Some(Heads {
                v1: [1; 32],
                v2: None,
                columns: None,
            }),
        ),
        (true, None),
    ] {
        let info = native::Info {
            network: Network::Regtest,
            genesis_hash: BlockHash::all_zeros(),
            first_height: 0,
            tip: block,
            tweaks_only,
            columns: Column::ALL.to_vec(),
            chunk_blocks: CHUNK_BLOCKS,
            horizon: 288,
            spenders_from: heads.map(|_| 120),
            digest: [5; 32],
            heads,
            server: Server {
                name: "spindex".to_owned(),
                version: "0.1.0".to_owned(),
            },
        };
        add("info", native_answers::INFO, &[], info.encode());
    }
    let counts = Counts {
        outputs: 9,
        unspent: 4,
        spends: 3,
        states: 1,
    };
    for (counts, links) in [
        (Some(counts), Some(full(2))),
        (None, Some(tweaks_only(2))),
        (None, None),
    ] {
        let block = native::Block {
            block,
            header: record.header,
            transactions: 7,
            counts,
            digest: [5; 32],
            links,
            settled: counts.is_none(),
        };
        add("block", native_answers::BLOCK, &[], block.encode());
    }
    let height = block.height.to_le_bytes();
    let digest = native::Digest {
        block,
        digest: [5; 32],
    };
    add("digest", native_answers::DIGEST, &height, digest.encode());
    let from = [&FIRST_HEIGHT.to_le_bytes()[..], &[2]].concat();
    for blocks in [vec![full(0), tweaks_only(1), full(2)], vec![tweaks_only(0)]] {
        let mut from = from.clone();
        from[4] = blocks.len() as u8 - 1;
        let commitments = Commitments { blocks };
        add(
            "commitments",
            native_answers::COMMITMENTS,
            &from,
            commitments.encode(),
        );
    }
    let step = Step {
        block,
        txid,
        transaction: 3,
        input: 0,
        vout: 2,
        state_id: [0xab; 32],
    };
    for (steps, tip) in [(vec![step.clone(), step], None), (vec![], Some(outpoint))] {
        let process = Process {
            start: outpoint,
            more: tip.is_none(),
            known_from: tip.map(|_| 7),
            steps,
            tip,
        };
        let asked = asked_for(&outpoint);
        add("process", native_answers::PROCESS, &asked, process.encode());
    }
    let spent = |created, spent| OutpointState::Spent { created, spent };
    for state in [
        OutpointState::Unspent(created),
        spent(Some(created), Some(spend)),
        spent(None, Some(unknown)),
        OutpointState::Unknown,
        OutpointState::SpentOrUnknown,
    ] {
        let outpoint = Outpoint {
            outpoint,
            state,
            known_from: Some(100),
        };
        let asked = asked_for(&outpoint.outpoint);
        add(
            "outpoint",
            native_answers::OUTPOINT,
            &asked,
            outpoint.encode(),
        );
    }
    let output = |vout, spent: Option<native::Spend>| Output {
        vout,
        value_sat: 546,
        key,
        is_spent: spent.is_some(),
        spent,
    };
    let transaction = Transaction {
        txid,
        block,
        tweak,
        outputs: vec![
            output(0, Some(spend)),
            output(1, None),
            output(4, Some(unknown)),
        ],
        known_from: None,
    };
    let asked = txid.to_byte_array();
    add(
        "transaction",
        native_answers::TRANSACTION,
        &asked,
        transaction.encode(),
    );
    let birthday = native::Birthday {
        time: 1_700_000_000,
        block,
        block_time: 1_699_990_000,
    };
    let asked = birthday.time.to_le_bytes();
    add(
        "birthday",
        native_answers::BIRTHDAY,
        &asked,
        birthday.encode(),
    );
    for code in [
        Code::BadRequest,
        Code::NotYetIndexed,
        Code::NeverIndexed,
        Code::Unknown,
        Code::ReorganisedAway,
        Code::NotKept,
        Code::Busy,
        Code::Internal,
    ] {
        let message = "the height is above the tip".to_owned();
        let refusal = Refusal { code, message };
        add(
            "refusal",
            native_answers::REFUSAL,
            &[],
            Ok(refusal.encode()),
        );
    }
    let list = List {
        chunks: vec![ListedChunk {
            chunk: 0,
            block_hash: block.hash,
            head: Some(heads[2]),
            files: vec![FileSum::of(&[1]), FileSum::of(&[])],
        }],
    };
    let list = list.encode();
    let name = ListName::of(0, 0, list.as_deref().unwrap_or_default());
    add("list", native_answers::LIST, &[0, 0, 0, 0, 0, 2], list);
    let last_block = BlockId {
        height: CHUNK_BLOCKS - 1,
        hash: block.hash,
    };
    for head in [Some(heads[2]), None] {
        let manifest = Manifest {
            network: Network::Regtest,
            first_height: 0,
            columns: vec![Column::Headers, Column::Spends],
            spenders_from: head.map(|_| 7),
            last_block,
            head,
            lists: vec![name],
        };
        add("manifest", native_answers::MANIFEST, &[], manifest.encode());
    }
    let cursor = write_cursor(&block).into_bytes();
    add("cursor", native_answers::CURSOR, &[], Ok(cursor));
    for event in events(&blocks) {
        let name = native_answers::EVENTS
            .iter()
            .position(|name| *name == event.name());
        let data = event.encode().map(String::into_bytes);
        let name = [name.unwrap_or_default() as u8];
        add(event.name(), native_answers::EVENT, &name, data);
    }
    seeds
}

/// One of each kind.
fn events(blocks: &[BlockId]) -> [Event; 4] {
    let (first, block) = (blocks[0], blocks[2]);
    [
        Event::Tip { block, skipped: 2 },
        Event::Reorg {
            fork: Some(first),
            disconnected: vec![block, blocks[1]],
            connected: blocks.to_vec(),
        },
        Event::Reset {
            cursor: first,
            tip: block,
        },
        Event::Lagged { missed: 3 },
    ]
}

/// Streams of all events and of each, with any ends of lines, and what is passed over in between.
pub(crate) fn event_stream() -> Vec<Seed> {
    let blocks: Vec<BlockId> = records(1, 3).iter().map(|record| record.id).collect();
    let told = events(&blocks).map(|event| Told {
        cursor: event.cursor().unwrap_or(blocks[1]),
        event,
    });
    let texts = told.map(|told| told.encode().expect("a good event"));
    let mut seeds: Vec<Seed> = Vec::new();
    let mut add = |size: u8, text: &str| {
        let seed = [&[size], text.as_bytes()].concat();
        seeds.push((format!("events-{}", seeds.len()), seed));
    };
    for text in &texts {
        add(0, text);
        add(7, &text.replace(": ", ":"));
    }
    let all = texts.concat();
    for end in ["\n", "\r", "\r\n"] {
        add(1, &all.replace('\n', end));
    }
    add(200, &format!("\u{feff}{all}"));
    let between = ":\n\n: word\nretry: 9\n\nevent: more\ndata: {}\n\ndata\n\nid: 7\n\n";
    add(
        0,
        &all.replace("event: reorg", &format!("{between}event: reorg")),
    );
    add(0, &all.replace(',', ",\ndata: "));
    seeds
}

/// Every kind of answer, and some in the spelling of other servers.
pub(crate) fn v1_answers() -> Vec<Seed> {
    let records = records(9, 3);
    let record = &records[2];
    let (block, block_hash) = (record.id, record.id.hash);
    let height = block.height.to_le_bytes();
    let txids: Vec<Txid> = record.transactions.iter().map(|row| row.txid).collect();
    let mut seeds: Vec<Seed> = Vec::new();
    let mut add = |name: &str, decoder: u8, body: Result<Vec<u8>, String>| {
        let body = body.expect("a good answer");
        let asked = match decoder {
            v1_answers::FILTER | v1_answers::SPENDS | v1_answers::DIGEST => &height[..],
            _ => &[],
        };
        let seed = [&[decoder], asked, &body].concat();
        seeds.push((format!("{name}-{}", seeds.len()), seed));
    };

    let info = v1::Info {
        network: Network::Regtest,
        height: block.height,
        tweaks_only: false,
        full_list: true,
        full_list_with_dust_limit: false,
        cut_through: true,
    };
    add("info", v1_answers::INFO, info.encode());
    let name = br#"{"network":"mainnet","height":7,"tweaks_only":false,"tweaks_full_basic":true,"tweaks_full_with_dust_filter":false,"tweaks_cut_through_with_dust_filter":true,"more":[]}"#;
    add("info", v1_answers::INFO, Ok(name.to_vec()));
    let heights = [
        v1::BlockHeight(block.height).encode(),
        Ok(br#"{"height":5}"#.to_vec()),
        Ok(br#"{"block_height":5}"#.to_vec()),
    ];
    for body in heights {
        add("block-height", v1_answers::BLOCK_HEIGHT, body);
    }
    add(
        "block-hash",
        v1_answers::BLOCK_HASH,
        v1::encode_block_hash(block_hash),
    );
    let compressed = record.transactions.iter().map(|row| {
        let mut tweak = [2 + row.tweak[63] % 2; 33];
        tweak[1..].copy_from_slice(&row.tweak[..32]);
        tweak
    });
    let tweaks = v1::Tweaks(compressed.collect());
    add("tweaks", v1_answers::TWEAKS, tweaks.encode());
    add("tweaks", v1_answers::TWEAKS, v1::Tweaks(vec![]).encode());
    let utxos = record.outputs.iter().map(|output| v1::Utxo {
        outpoint: OutPoint::new(txids[output.transaction as usize], output.vout),
        value_sat: output.value_sat,
        key: output.key,
        block_hash,
        spent: output.vout == 1,
    });
    let utxos: Vec<_> = utxos.take(4).collect();
    add(
        "utxos",
        v1_answers::UTXOS,
        v1::Utxo::encode_all(&utxos, block.height, 7),
    );
    for data in [&record.new_utxos_filter, &record.spent_filter, &vec![0]] {
        let filter = v1::Filter {
            block_hash,
            data: data.clone(),
        };
        add("filter", v1_answers::FILTER, filter.encode(block.height));
    }
    let outpoints = record.spends.iter().map(|spend| spend.outpoint);
    let items: Vec<_> = outpoints
        .clone()
        .map(|outpoint| spent_item(&outpoint, &block_hash))
        .collect();
    for (block_hash, items) in [(Some(block_hash), items), (None, vec![])] {
        let index = v1::SpentIndex { block_hash, items };
        add("spent-index", v1_answers::SPENT_INDEX, index.encode());
    }
    let spends = outpoints.take(3).map(|outpoint| v1::Spend {
        outpoint,
        spending_txid: txids[0],
        input: 2,
        op_return: vec![vec![], vec![0xc0; 40]].into(),
    });
    let spends = v1::Spends {
        block_hash,
        spends: spends.collect(),
        data_once: true,
    };
    add("spends", v1_answers::SPENDS, spends.encode(block.height));
    let digest = v1::Digest {
        block,
        digest: [5; 32],
    };
    add("digest", v1_answers::DIGEST, digest.encode());
    let forward = v1::ForwardTx {
        data: "0200".to_owned(),
    };
    add("forward-tx", v1_answers::FORWARD_TX, forward.encode());
    add(
        "forwarded",
        v1_answers::FORWARDED,
        Ok(v1::encode_forwarded(txids[0])),
    );
    add("forwarded", v1_answers::FORWARDED, Ok(b" ".to_vec()));
    let other = br#"{"error":{"code":"busy","message":"later"}}"#;
    add(
        "error",
        v1_answers::ERROR,
        Ok(v1::encode_error("could not get filter from db")),
    );
    add("error", v1_answers::ERROR, Ok(other.to_vec()));
    seeds
}
