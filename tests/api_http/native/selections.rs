//! Selections of columns: with a dust limit, with cut-through, by records alone and the plainest form of the rules.

use std::collections::HashSet;

use bitcoin::hashes::Hash;
use bitcoin::{Network, OutPoint};
use spindex::BlockId;
use spindex::store::{BlockRecord, Keep, TweakForm};

use super::super::fixture::{Server, TestStore, pays, sweeps};
use super::super::sections::section;
use super::super::serve_chain;
use super::columns::{COLUMNS, assemble, bytes, chain, code, end_mark, part};

/// What is asked for.
#[derive(Clone, Copy)]
struct Rule {
    dust_limit: u64,
    cut_through: bool,
}

impl Rule {
    fn query(self) -> String {
        let Self {
            dust_limit,
            cut_through,
        } = self;
        format!("dust_limit={dust_limit}&cut_through={cut_through}")
    }

    /// For each transaction whether it is selected.
    fn selects(self, record: &BlockRecord, spent: &HashSet<OutPoint>) -> Vec<bool> {
        let rows = record.transactions.iter().enumerate();
        let selected = rows.map(|(index, row)| {
            record.outputs.iter().any(|output| {
                let outpoint = OutPoint::new(row.txid, output.vout);
                output.transaction as usize == index
                    && output.value_sat >= self.dust_limit
                    && !(self.cut_through && spent.contains(&outpoint))
            })
        });
        selected.collect()
    }
}

const RULES: [Rule; 5] = [
    Rule {
        dust_limit: 0,
        cut_through: false,
    },
    Rule {
        dust_limit: 0,
        cut_through: true,
    },
    Rule {
        dust_limit: 547,
        cut_through: false,
    },
    Rule {
        dust_limit: 11,
        cut_through: true,
    },
    Rule {
        dust_limit: u64::MAX,
        cut_through: false,
    },
];

/// The block with some of its transactions alone.
fn reduced(record: &BlockRecord, selected: &[bool]) -> BlockRecord {
    let mut reduced = record.clone();
    let mut flags = selected.iter();
    reduced.transactions.retain(|_| flags.next() == Some(&true));
    let is_selected = |index: u32| selected[index as usize];
    reduced
        .outputs
        .retain(|output| is_selected(output.transaction));
    for output in &mut reduced.outputs {
        let before = &selected[..output.transaction as usize];
        output.transaction = before.iter().filter(|is_selected| **is_selected).count() as u32;
    }
    reduced
}

/// A part as docs/native.md says, of a selection where there is one of the column.
fn selected_part(
    column: &str,
    records: &[BlockRecord],
    rule: Rule,
    tip: BlockId,
    spent: &HashSet<OutPoint>,
) -> Vec<u8> {
    let number = match column {
        "tweaks" => 2,
        "prefixes" => 3,
        "selected" => 8,
        _ => return part(column, records),
    };
    let mut before = rule.dust_limit.to_le_bytes().to_vec();
    before.extend([u8::from(rule.cut_through), 0, 0, 0]);
    before.extend(tip.height.to_le_bytes());
    before.extend(tip.hash.to_byte_array());
    let sections = records.iter().map(|record| {
        let selected = rule.selects(record, spent);
        match column {
            "selected" => selected
                .chunks(8)
                .map(|bits| {
                    let bits = bits.iter().enumerate();
                    bits.map(|(place, bit)| u8::from(*bit) << place).sum()
                })
                .collect(),
            _ => section(&reduced(record, &selected), column),
        }
    });
    let (first, last) = (&records[0], &records[records.len() - 1]);
    let sections: Vec<_> = sections.collect();
    assemble([number, 1], first.id.height, last.id, &before, &sections)
}

#[tokio::test]
async fn a_selection_has_the_transactions_that_its_rule_keeps() {
    let mut chain = chain();
    // Of a block whose bits need two bytes, some are spent later.
    let many = vec![pays(&[600, 10]); 11];
    let block = chain.mine(&many).clone();
    let spends = [2, 3, 9].map(|index| [block.outpoint(index, 0), block.outpoint(index, 1)]);
    chain.mine(&[sweeps(&spends.concat()), sweeps(&[block.outpoint(5, 0)])]);
    let records = chain.records();
    let (tip, spent) = (chain.tip().id(), chain.spent());
    let (_store, server) = serve_chain(&chain).await;

    let with_selected = [&["selected"], &COLUMNS[..]].concat();
    let mut counts = Vec::new();
    for rule in RULES {
        let part = |column: &str, from: u32, to: u32| {
            let records = &records[(from - 40) as usize..=(to - 40) as usize];
            selected_part(column, records, rule, tip, &spent)
        };
        let query = rule.query();
        for column in &with_selected {
            let found = bytes(&server, &format!("spindex/v1/chunk/1/{column}?{query}")).await;
            assert_eq!(found, part(column, 64, 127), "{column} {query}");
        }
        let names = with_selected.join(",");
        let path = format!("spindex/v1/range/{names}?from=63&to=221&{query}");
        let groups = [(63, 63), (64, 127), (128, 191), (192, 221)];
        let groups = groups.iter().flat_map(|(from, to)| {
            let parts = with_selected.iter();
            parts.flat_map(|column| part(column, *from, *to))
        });
        let expected: Vec<u8> = groups.chain(end_mark(tip)).collect();
        assert_eq!(bytes(&server, &path).await, expected, "{path}");
        let selected = records
            .iter()
            .flat_map(|record| rule.selects(record, &spent));
        counts.push(selected.filter(|is_selected| *is_selected).count());
    }
    // The rules differ.
    assert_eq!(counts[4], 0);
    assert!(counts[0] > counts[1] && counts[1] > counts[3] && counts[0] > counts[2]);

    // One of the two is enough.
    for (short, rule) in [("dust_limit=547", 2), ("cut_through=true", 1)] {
        let path = format!("spindex/v1/chunk/2/tweaks?{short}");
        let of_chunk = &records[88..152];
        let expected = selected_part("tweaks", of_chunk, RULES[rule], tip, &spent);
        assert_eq!(bytes(&server, &path).await, expected);
    }
    let info = server.ok("spindex/v1/info").await;
    let columns = info["columns"].as_array().expect("names");
    assert!(columns.contains(&"selected".into()), "{info}");
}

#[tokio::test]
async fn selections_are_not_kept_for_ever_and_follow_the_tip() {
    let mut chain = chain();
    let (store, server) = serve_chain(&chain).await;
    let path = "spindex/v1/chunk/0/tweaks?cut_through=true";
    let ask = async |name: &str| {
        let request = super::super::fixture::client().get(server.url(path));
        let request = request.header("if-none-match", name);
        request.send().await.expect("an answer")
    };
    let first = ask("\"\"").await;
    assert_eq!(first.status(), 200);
    assert_eq!(first.headers()["cache-control"], "no-cache");
    let etag = first.headers()["etag"].to_str().expect("text").to_owned();
    assert_eq!(ask(&etag).await.status(), 304);
    let ranged = super::super::fixture::client().get(server.url(path));
    let ranged = ranged
        .header("range", "bytes=60-107")
        .header("if-range", &etag);
    let ranged = ranged.send().await.expect("an answer");
    assert_eq!(ranged.status(), 206);
    let said = ranged.bytes().await.expect("bytes");
    assert_eq!(said[16..], chain.tip().id().hash.to_byte_array());

    // An output of the chunk is spent.
    let spent = chain.spent();
    let unspent = chain.blocks[..24].iter().find_map(|block| {
        let rows = block.record.transactions.iter();
        let mut outpoints = rows.map(|row| OutPoint::new(row.txid, 0));
        outpoints.find(|outpoint| !spent.contains(outpoint))
    });
    let before = chain.tip().id();
    let block = chain.mine(&[sweeps(&[unspent.expect("one")])]);
    store.connect(std::slice::from_ref(&block.record));
    let changed = ask(&etag).await;
    assert_eq!(changed.status(), 200);
    let records = chain.records();
    let (tip, spent) = (chain.tip().id(), chain.spent());
    assert_ne!(before, tip);
    let expected = selected_part("tweaks", &records[..24], RULES[1], tip, &spent);
    assert_eq!(changed.bytes().await.expect("bytes"), expected);
}

#[tokio::test]
async fn what_cannot_be_selected_is_refused_by_name() {
    let chain = chain();
    let (_store, server) = serve_chain(&chain).await;
    for path in [
        "chunk/1/selected",
        "range/selected?from=50",
        "range/headers,selected?from=50",
        "chunk/1/tweaks?dust_limit=x",
        "chunk/1/tweaks?dust_limit=18446744073709551616",
        "chunk/1/tweaks?dust_limit=1&dust_limit=1",
        "chunk/1/tweaks?cut_through=1",
        "chunk/1/tweaks?dustLimit=1",
        "range/tweaks?from=50&cut_through=",
        "range/tweaks?from=50&dust_limit=-1",
        "range/selected,selected?from=50&dust_limit=1",
    ] {
        let found = code(&server, &format!("spindex/v1/{path}")).await;
        assert_eq!(found, (400, "bad_request".to_owned()), "{path}");
    }
    let store = TestStore::keeping(Network::Regtest, 40, Keep::Tweaks, TweakForm::Compressed);
    store.connect(&chain.records());
    let server = Server::start(&store, None).await;
    for path in ["chunk/1/tweaks", "range/tweaks?from=60", "chunk/1/selected"] {
        let and = if path.contains('?') { '&' } else { '?' };
        let path = format!("spindex/v1/{path}{and}dust_limit=1");
        let found = code(&server, &path).await;
        assert_eq!(found, (501, "not_kept".to_owned()), "{path}");
    }
    let info = server.ok("spindex/v1/info").await;
    assert_eq!(info["columns"], serde_json::json!(["headers", "tweaks"]));
}
