//! Columns of chunks and ranges, read by a decoder of this file's own.

use bitcoin::Network;
use bitcoin::hashes::Hash;
use spindex::BlockId;
use spindex::store::{BlockRecord, BlockSpends, Keep, TweakForm};

use super::super::fixture::{Out, Plan, Server, TestChain, TestStore, pays, sweeps};
use super::super::sections::section;
use super::super::serve_chain;

pub(super) const COLUMNS: [&str; 7] = [
    "headers",
    "tweaks",
    "prefixes",
    "outputs",
    "spent",
    "spends",
    "new-utxos",
];

/// From the middle of a chunk to the middle of another, with something of everything.
pub(super) fn chain() -> TestChain {
    let mut chain = TestChain::new(40);
    let mut tips = Vec::new();
    for number in 0..180_u8 {
        let plans = match number % 5 {
            0 => vec![],
            1 => vec![pays(&[546, 70_000, 1]), pays(&[5_000_000_000])],
            2 => vec![sweeps(&tips.split_off(tips.len().saturating_sub(2)))],
            3 => vec![
                pays(&[1]),
                Plan {
                    is_eligible: true,
                    spends: tips.split_off(tips.len() - 1),
                    outputs: vec![Out::Taproot(546), Out::OpReturn(vec![vec![number; 32]])],
                },
            ],
            _ => vec![pays(&[10]), pays(&[20]), pays(&[30])],
        };
        let block = chain.mine(&plans);
        if number % 5 == 1 {
            tips.extend([
                block.outpoint(0, 0),
                block.outpoint(0, 1),
                block.outpoint(1, 0),
            ]);
        }
    }
    chain
}

/// A part as docs/native.md says.
pub(super) fn part(column: &str, records: &[BlockRecord]) -> Vec<u8> {
    let number = COLUMNS
        .iter()
        .position(|name| *name == column)
        .expect("a column");
    let (first, last) = (&records[0], &records[records.len() - 1]);
    let sections = records.iter().map(|record| section(record, column));
    let head = [number as u8 + 1, 0];
    assemble(
        head,
        first.id.height,
        last.id,
        &[],
        &sections.collect::<Vec<_>>(),
    )
}

/// A part with such a number and mark, from a height up to a block; `before` stands before the lengths.
pub(super) fn assemble(
    [number, mark]: [u8; 2],
    first: u32,
    last: BlockId,
    before: &[u8],
    sections: &[Vec<u8>],
) -> Vec<u8> {
    let lengths = sections
        .iter()
        .flat_map(|section| (section.len() as u32).to_le_bytes());
    let body = before.iter().copied().chain(lengths);
    let body: Vec<u8> = body.chain(sections.concat()).collect();
    let mut bytes = b"spix\x01".to_vec();
    bytes.extend([number, mark, 0]);
    bytes.extend([0xfa, 0xbf, 0xb5, 0xda]);
    bytes.extend(first.to_le_bytes());
    bytes.extend((sections.len() as u32).to_le_bytes());
    bytes.extend((body.len() as u64).to_le_bytes());
    bytes.extend(last.hash.to_byte_array());
    bytes.extend(body);
    bytes
}

pub(super) fn end_mark(reached: BlockId) -> Vec<u8> {
    let mut bytes = b"spix\x01\0\0\0\xfa\xbf\xb5\xda".to_vec();
    bytes.extend(reached.height.to_le_bytes());
    bytes.extend([0; 12]);
    bytes.extend(reached.hash.to_byte_array());
    bytes
}

/// The answer to a range: parts of each chunk, and the mark.
fn range(columns: &[&str], chain: &[BlockRecord], from: u32, to: u32) -> Vec<u8> {
    let first = chain[0].id.height;
    let of = &chain[(from - first) as usize..=(to - first) as usize];
    let chunks = of.chunk_by(|a, b| a.id.height / 64 == b.id.height / 64);
    let groups = chunks.flat_map(|chunk| columns.iter().map(|column| part(column, chunk)));
    let mut bytes = groups.collect::<Vec<_>>().concat();
    bytes.extend(end_mark(of[of.len() - 1].id));
    bytes
}

pub(super) async fn bytes(server: &Server, path: &str) -> Vec<u8> {
    let response = server.get(path).await;
    assert_eq!(response.status(), 200, "{path}");
    assert_eq!(
        response.headers()["content-type"],
        "application/octet-stream"
    );
    assert!(!response.headers().contains_key("content-encoding"));
    response.bytes().await.expect("a body").to_vec()
}

pub(super) async fn code(server: &Server, path: &str) -> (u16, String) {
    let (status, body) = server.json(path).await;
    let code = body["error"]["code"].as_str().expect("a code");
    (status, code.to_owned())
}

#[tokio::test]
async fn chunks_and_ranges_have_every_column_of_every_block() {
    let chain = chain();
    let records = chain.records();
    let (_store, server) = serve_chain(&chain).await;
    for column in COLUMNS {
        for (chunk, from, to) in [(0, 40, 63), (1, 64, 127), (2, 128, 191)] {
            let found = bytes(&server, &format!("spindex/v1/chunk/{chunk}/{column}")).await;
            let expected = part(column, &records[from - 40..=to - 40]);
            assert_eq!(found, expected, "{column} of chunk {chunk}");
        }
        let found = bytes(&server, &format!("spindex/v1/range/{column}?from=40")).await;
        assert_eq!(found, range(&[column], &records, 40, 219), "{column}");
    }
    let several = ["tweaks", "headers", "spends"];
    let names = several.join(",");
    let found = bytes(&server, &format!("spindex/v1/chunk/1/{names}")).await;
    let expected = several
        .map(|column| part(column, &records[24..88]))
        .concat();
    assert_eq!(found, expected);
    for (from, to) in [(40, 40), (63, 64), (70, 71), (100, 219), (128, 191)] {
        let path = format!("spindex/v1/range/{names}?from={from}&to={to}");
        let found = bytes(&server, &path).await;
        assert_eq!(found, range(&several, &records, from, to), "{path}");
    }
    // Beyond the tip there is nothing yet, and the mark says so.
    let found = bytes(&server, "spindex/v1/range/tweaks?from=215&to=1000").await;
    assert_eq!(found, range(&["tweaks"], &records, 215, 219));
}

#[tokio::test]
async fn what_there_is_not_is_refused_by_name() {
    let chain = chain();
    let (_store, server) = serve_chain(&chain).await;
    for (path, status, expected) in [
        ("chunk/3/tweaks", 404, "not_yet_indexed"),
        ("chunk/67108863/tweaks", 404, "not_yet_indexed"),
        ("chunk/67108864/tweaks", 400, "bad_request"),
        ("chunk/x/tweaks", 400, "bad_request"),
        ("chunk/+1/tweaks", 400, "bad_request"),
        ("chunk/1/tweak", 400, "bad_request"),
        ("chunk/1/tweaks,tweaks", 400, "bad_request"),
        ("range/tweaks", 400, "bad_request"),
        ("range/tweaks?to=50", 400, "bad_request"),
        ("range/tweaks?from=51&to=50", 400, "bad_request"),
        ("range/tweaks?from=50&from=50", 400, "bad_request"),
        ("range/tweaks?from=50&until=60", 400, "bad_request"),
        ("range/tweaks?from=220", 404, "not_yet_indexed"),
        ("range/tweaks?from=39", 404, "never_indexed"),
        ("range/nothing?from=50", 400, "bad_request"),
    ] {
        let found = code(&server, &format!("spindex/v1/{path}")).await;
        assert_eq!(found, (status, expected.to_owned()), "{path}");
    }

    let mut later = TestChain::new(64);
    later.mine(&[]);
    let (_store, server) = serve_chain(&later).await;
    let found = code(&server, "spindex/v1/chunk/0/tweaks").await;
    assert_eq!(found, (404, "never_indexed".to_owned()));

    let store = TestStore::new(Network::Regtest, 1);
    let server = Server::start(&store, None).await;
    for path in ["chunk/0/tweaks", "range/tweaks?from=1"] {
        let found = code(&server, &format!("spindex/v1/{path}")).await;
        assert_eq!(found, (503, "busy".to_owned()));
    }
}

#[tokio::test]
async fn an_index_of_tweaks_has_two_columns() {
    let chain = chain();
    let store = TestStore::keeping(Network::Regtest, 40, Keep::Tweaks, TweakForm::Compressed);
    store.connect(&chain.records());
    let server = Server::start(&store, None).await;
    let found = bytes(&server, "spindex/v1/chunk/1/tweaks").await;
    assert_eq!(found, part("tweaks", &chain.records()[24..88]));
    let headers = bytes(&server, "spindex/v1/chunk/1/headers").await;
    assert_eq!(headers.len(), 60 + 64 * (4 + 288));
    for column in &COLUMNS[2..] {
        for path in [
            format!("chunk/1/{column}"),
            format!("range/{column}?from=60"),
        ] {
            let found = code(&server, &format!("spindex/v1/{path}")).await;
            assert_eq!(found, (501, "not_kept".to_owned()), "{path}");
        }
    }
}

#[tokio::test]
async fn chunks_are_named_kept_and_resumed() {
    let chain = chain();
    let records = chain.records();
    let (_store, server) = serve_chain(&chain).await;
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = super::super::fixture::client().get(server.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("an answer")
    };
    let path = "spindex/v1/chunk/0/outputs";
    let whole = ask(path, &[]).await;
    let etag = whole.headers()["etag"].to_str().expect("text").to_owned();
    assert_eq!(whole.headers()["accept-ranges"], "bytes");
    // 63 is 156 blocks below the tip, 127 only 92.
    let settled = "public, max-age=31536000, immutable";
    assert_eq!(whole.headers()["cache-control"], settled);
    let young = ask("spindex/v1/chunk/1/outputs", &[]).await;
    assert_eq!(young.headers()["cache-control"], "no-cache");
    let spends = ask("spindex/v1/chunk/0/spends", &[]).await;
    assert_eq!(spends.headers()["cache-control"], settled);
    let known = ask(path, &[("if-none-match", &etag)]).await;
    assert_eq!(known.status(), 304);

    let expected = part("outputs", &records[..24]);
    let length = expected.len();
    for (range, from, to) in [
        ("bytes=0-59".to_owned(), 0, 60),
        (format!("bytes={}-", length - 7), length - 7, length),
        ("bytes=-5".to_owned(), length - 5, length),
        (format!("bytes=10-{}", 2 * length), 10, length),
    ] {
        for headers in [
            &[("range", range.as_str())][..],
            &[("range", &range), ("if-range", &etag)],
        ] {
            let answer = ask(path, headers).await;
            assert_eq!(answer.status(), 206, "{range}");
            let said = format!("bytes {from}-{}/{length}", to - 1);
            assert_eq!(answer.headers()["content-range"], said.as_str());
            assert_eq!(answer.bytes().await.expect("bytes"), expected[from..to]);
        }
        let other = [("range", range.as_str()), ("if-range", "\"other\"")];
        let answer = ask(path, &other).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.bytes().await.expect("bytes"), expected);
    }
    let beyond = format!("bytes={length}-");
    let answer = ask(path, &[("range", &beyond)]).await;
    assert_eq!(answer.status(), 416);
    assert_eq!(
        answer.headers()["content-range"],
        format!("bytes */{length}").as_str()
    );
    let answer = ask(path, &[("range", "lines=1-2")]).await;
    assert_eq!(answer.status(), 200);
}

/// While spenders of its blocks are not known, a chunk of the columns that tell them can change, and is not kept for ever.
#[tokio::test]
async fn columns_follow_what_becomes_known() {
    let chain = chain();
    let records = chain.records();
    let unknown = |records: &[BlockRecord]| {
        let mut records = records.to_vec();
        for record in &mut records {
            record.states.clear();
            for spend in &mut record.spends {
                spend.spender = None;
            }
        }
        records
    };
    let store = TestStore::new(Network::Regtest, 40);
    store.connect(&unknown(&records));
    let server = Server::start(&store, None).await;
    let fill = |from: usize, to: usize| {
        let blocks = records[from..to].iter().map(|record| BlockSpends {
            id: record.id,
            spends: record.spends.clone(),
            states: record.states.clone(),
        });
        let snapshot = store.store.snapshot().expect("snapshot");
        let agreed = snapshot.agree_on_spends(blocks.collect());
        let agreed = agreed.expect("comparison");
        store.store.fill_spenders(&agreed).expect("written")
    };
    // Heights 40 to 63, of which those from 50 on are known in the middle.
    assert_eq!(fill(24, records.len()), Some(64));
    for (known, is_settled) in [(24, false), (10, false), (0, true)] {
        if known < 24 {
            fill(known, 24);
        }
        let mut expected = unknown(&records[..known]);
        expected.extend_from_slice(&records[known..24]);
        for column in COLUMNS {
            let answer = server.get(&format!("spindex/v1/chunk/0/{column}")).await;
            let tells_spenders = ["headers", "spends"].contains(&column);
            let lasts = match is_settled || !tells_spenders {
                true => "public, max-age=31536000, immutable",
                false => "no-cache",
            };
            assert_eq!(answer.headers()["cache-control"], lasts, "{column}");
            let found = answer.bytes().await.expect("a body");
            assert_eq!(found, part(column, &expected), "{column} {known}");
        }
    }
}

#[tokio::test]
async fn columns_follow_a_reorg() {
    let mut chain = chain();
    let (store, server) = serve_chain(&chain).await;
    let path = "spindex/v1/chunk/2/spends,tweaks";
    let before = bytes(&server, path).await;
    chain.pop(40);
    chain.salt(9);
    let mut branch = Vec::new();
    for _ in 0..41 {
        branch.push(chain.mine(&[pays(&[7])]).record.clone());
    }
    store.reorganize(40, &branch);
    let after = bytes(&server, path).await;
    let records = chain.records();
    let expected = ["spends", "tweaks"].map(|column| part(column, &records[88..152]));
    assert_eq!(after, expected.concat());
    assert_ne!(after, before);
    let found = bytes(&server, "spindex/v1/range/tweaks?from=170").await;
    assert_eq!(found, range(&["tweaks"], &records, 170, 220));
}
