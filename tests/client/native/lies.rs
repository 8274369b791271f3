//! A server that lies: one field of one answer is another one, chosen at random.
//!
//! Each lie ends the scan with an error that names the server, or changes nothing that the scan reports but the head. What
//! a client cannot see stands in [`UNSEEN`], and in `docs/trust.md` with the reasons.
//!
//! `SPINDEX_CLIENT_LIES` lies are told, some few without it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::seq::SliceRandom;
use secp256k1::rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use spindex::client::ScanReport;
use spindex::wire::native::column::{Column, PartHead, PartWriter, split_part};
use spindex::wire::native::section::{HeaderSection, section_hash};

use super::liar::Liar;

/// What a client cannot see: the kind of request, and the field.
const UNSEEN: [(&str, &str); 21] = [
    // Outside the head, since it may be learned later.
    ("scan", "hash of spends"),
    // Nothing that was asked for has the number of them.
    ("scan", "number of states"),
    // Of columns or blocks of a chunk that nothing was looked for in.
    ("chunk", "hash of tweaks"),
    ("chunk", "hash of prefixes"),
    ("chunk", "hash of outputs"),
    ("chunk", "hash of spent"),
    ("chunk", "hash of new-utxos"),
    ("chunk", "hash of spends"),
    ("chunk", "number of transactions"),
    ("chunk", "number of outputs"),
    ("chunk", "number of spends"),
    ("chunk", "number of states"),
    // Of other chains of hashes, which other servers tell as well.
    ("commitments", "v1"),
    ("commitments", "v2"),
    // What a server says of itself alone.
    ("info", "tip.height"),
    ("info", "tip.block_hash"),
    ("info", "first_height"),
    ("info", "columns"),
    // Said once more, when it was checked already.
    ("info", "network"),
    ("info", "keeps"),
    ("info", "other"),
];

/// Where some field stands in an answer.
#[derive(Debug, Clone)]
struct Field {
    name: String,
    at: std::ops::Range<usize>,
}

fn field(name: impl Into<String>, start: usize, length: usize) -> Field {
    Field {
        name: name.into(),
        at: start..start + length,
    }
}

/// The fields of an answer of parts, of a kind that is drawn first: else sections would be all.
fn fields(body: &[u8]) -> BTreeMap<&'static str, Vec<Field>> {
    let mut fields: BTreeMap<&str, Vec<Field>> = BTreeMap::new();
    let mut rest = body;
    while !rest.is_empty() {
        let start = body.len() - rest.len();
        let (head, sections, after) = split_part(rest).unwrap();
        let kind = match head.column {
            None => "end mark",
            Some(_) => "head",
        };
        let of_head = [
            ("mark", 0, 4),
            ("version", 4, 1),
            ("column", 5, 1),
            ("reserved", 6, 2),
            ("network", 8, 4),
            ("first height", 12, 4),
            ("blocks", 16, 4),
            ("bytes", 20, 8),
            ("last hash", 28, 32),
        ];
        let of_head = of_head.map(|(name, at, length)| field(name, start + at, length));
        fields.entry(kind).or_default().extend(of_head);
        let mut at = start + PartHead::BYTES;
        for section in &sections {
            fields
                .entry("length")
                .or_default()
                .push(field("length", at, 4));
            assert_eq!(body[at..at + 4], (section.len() as u32).to_le_bytes());
            at += 4;
        }
        for section in sections {
            if head.column == Some(Column::Headers) {
                header_fields(at, &mut fields);
            } else if !section.is_empty() {
                let name = head.column.unwrap().name();
                let of_column = fields.entry(name).or_default();
                of_column.push(field("section", at, section.len()));
            }
            at += section.len();
        }
        rest = after;
    }
    fields
}

fn header_fields(at: usize, fields: &mut BTreeMap<&'static str, Vec<Field>>) {
    let mut start = at;
    let header = [
        ("version", 4),
        ("previous block", 32),
        ("merkle root", 32),
        ("time", 4),
        ("bits", 4),
        ("nonce", 4),
    ];
    for (name, length) in header {
        fields
            .entry("header")
            .or_default()
            .push(field(name, start, length));
        start += length;
    }
    for name in ["transactions", "outputs", "spends", "states"] {
        let count = field(format!("number of {name}"), start, 4);
        fields.entry("count").or_default().push(count);
        start += 4;
    }
    for name in [
        "tweaks",
        "prefixes",
        "outputs",
        "spent",
        "new-utxos",
        "spends",
    ] {
        let hash = field(format!("hash of {name}"), start, 32);
        fields.entry("hash").or_default().push(hash);
        start += 32;
    }
}

/// Puts another value into a field of these bytes: a number near it, a bit turned over, or anything.
pub(super) fn falsify(bytes: &mut [u8], rng: &mut StdRng) {
    let before = bytes.to_vec();
    while bytes == before {
        match rng.gen_range(0..3) {
            0 if bytes.len() <= 8 => {
                let mut number = [0; 8];
                number[..bytes.len()].copy_from_slice(&before);
                let near = u64::from_le_bytes(number).wrapping_add_signed(rng.gen_range(-3..=3));
                bytes.copy_from_slice(&near.to_le_bytes()[..before.len()]);
            }
            1 => {
                let bit = rng.gen_range(0..8 * bytes.len());
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            _ => {
                let at = rng.gen_range(0..bytes.len());
                let length = rng.gen_range(1..=bytes.len() - at);
                rng.fill(&mut bytes[at..at + length]);
            }
        }
    }
}

/// Changes one field; its name.
fn lie(asked: &str, body: &mut Vec<u8>, rng: &mut StdRng) -> (&'static str, String) {
    let number = u64::from(rng.gen_range(0..400_u32));
    let hash = format!("{:064x}", rng.r#gen::<u64>());
    let (kind, fields) = if asked.ends_with("/info") {
        let fields = vec![
            ("network", "/network", json!("signet")),
            ("keeps", "/keeps", json!("tweaks")),
            ("first_height", "/first_height", json!(number)),
            ("tip.height", "/tip/height", json!(number)),
            ("tip.block_hash", "/tip/block_hash", json!(hash)),
            ("columns", "/columns", json!(["headers"])),
            ("chunk_blocks", "/chunk_blocks", json!(65 + number)),
            ("other", "/horizon", json!(number)),
            ("other", "/digest", json!(hash)),
        ];
        ("info", fields)
    } else if asked.contains("/commitments") {
        let fields = vec![
            ("height", "/blocks/0/height", json!(number)),
            ("block_hash", "/blocks/0/block_hash", json!(hash)),
            ("columns_head", "/blocks/0/columns_head", json!(hash)),
            ("v1", "/blocks/0/v1/head", json!(hash)),
            ("v2", "/blocks/0/v2/commitment", json!(hash)),
        ];
        ("commitments", fields)
    } else {
        return lie_in_columns(asked, body, rng);
    };
    let mut answer: Value = serde_json::from_slice(body).unwrap();
    let (name, pointer, value) = fields.choose(rng).unwrap().clone();
    *answer.pointer_mut(pointer).unwrap() = value;
    *body = serde_json::to_vec(&answer).unwrap();
    (kind, name.to_owned())
}

fn lie_in_columns(asked: &str, body: &mut [u8], rng: &mut StdRng) -> (&'static str, String) {
    let kind = match asked.contains("tweaks") {
        true => "scan",
        false => "chunk",
    };
    let fields = fields(body);
    let kinds: Vec<_> = fields.values().collect();
    let chosen = kinds.choose(rng).unwrap().choose(rng).unwrap();
    falsify(&mut body[chosen.at.clone()], rng);
    (kind, chosen.name.clone())
}

pub(super) fn lies(few: u64) -> u64 {
    match std::env::var("SPINDEX_CLIENT_LIES") {
        Ok(count) => count.parse().expect("SPINDEX_CLIENT_LIES is a number"),
        Err(_) => few,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_lie_is_named_or_is_one_that_no_client_sees() {
    let liar = Liar::new(1005).await;
    let truth = liar.scan().await.unwrap();
    let requests = liar.between.take_log().len();
    assert!(requests > 5 && truth.found.len() > 10);
    let mut caught: BTreeMap<String, usize> = BTreeMap::new();
    let mut unseen: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..lies(80) {
        let mut rng = StdRng::seed_from_u64(seed);
        let chosen = rng.gen_range(0..requests);
        let told = Arc::new(Mutex::new(None));
        let telling = told.clone();
        // From then on the field is as it is, however often it is asked for: a lie that is told once is no lie for long.
        liar.between.change(move |number, asked, mut body| {
            let mut told = telling.lock().unwrap();
            if number == chosen && told.is_none() {
                *told = Some((lie(asked, &mut body, &mut rng), asked.to_owned()));
            }
            body
        });
        let scanned = liar.scan().await;
        let told = told.lock().unwrap().clone();
        let ((kind, name), asked) = told.expect("as many requests as before");
        let what = format!("seed {seed}: {name} in {asked}");
        match scanned {
            Err(error) => {
                liar.assert_names_the_server(&error, &what);
                *caught.entry(format!("{kind}: {name}")).or_default() += 1;
            }
            Ok(report) if name == "tip.height" => {
                // A server that is behind, or was for a moment.
                assert!(report.oracle_height <= truth.oracle_height, "{what}");
                *unseen.entry(format!("{kind}: {name}")).or_default() += 1;
            }
            Ok(report) => {
                let without_head = ScanReport {
                    head: truth.head.clone(),
                    ..report.clone()
                };
                assert_eq!(without_head, truth, "{what}");
                let is_listed = UNSEEN.contains(&(kind, name.as_str()));
                // Asked again the server told the truth, as after a reorganisation.
                let is_asked_again = liar.between.take_log().len() > requests;
                assert!(is_listed || is_asked_again, "{what} is not seen");
                *unseen.entry(format!("{kind}: {name}")).or_default() += 1;
            }
        }
    }
    println!("caught: {caught:#?}\nunseen: {unseen:#?}");
    assert!(!caught.is_empty() && !unseen.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_other_chunks_is_refused_by_name() {
    let liar = Liar::new(1007).await;
    liar.between.change(|_, asked, body| {
        if !asked.ends_with("/info") {
            return body;
        }
        let mut info: Value = serde_json::from_slice(&body).unwrap();
        info["chunk_blocks"] = json!(128);
        serde_json::to_vec(&info).unwrap()
    });
    let error = liar.scan().await.unwrap_err();
    liar.assert_names_the_server(&error, "other chunks");
    assert!(error.to_string().contains("chunk_blocks is 128"), "{error}");
    let asked = liar.between.take_log();
    assert!(
        asked.iter().all(|asked| asked.ends_with("/info")),
        "{asked:?}"
    );
}

/// The answer with a section of a column falsified, and the hash of it in the headers column made to fit.
fn lie_with_hash(body: &[u8], column: Column, rng: &mut StdRng) -> Option<Vec<u8>> {
    let mut parts = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (head, sections, after) = split_part(rest).unwrap();
        let sections: Vec<Vec<u8>> = sections.into_iter().map(<[u8]>::to_vec).collect();
        parts.push((head, sections));
        rest = after;
    }
    let is_of = |(head, sections): &(PartHead, Vec<Vec<u8>>)| {
        head.column == Some(column) && sections.iter().any(|section| !section.is_empty())
    };
    let of_column: Vec<usize> = (0..parts.len()).filter(|at| is_of(&parts[*at])).collect();
    let part = *of_column.choose(rng)?;
    let filled: Vec<usize> = (0..parts[part].1.len())
        .filter(|at| !parts[part].1[*at].is_empty())
        .collect();
    let block = *filled.choose(rng)?;
    falsify(&mut parts[part].1[block], rng);
    let hash = section_hash(&parts[part].1[block]);
    let headers = (0..part)
        .rev()
        .find(|at| parts[*at].0.column == Some(Column::Headers))?;
    let section = &mut parts[headers].1[block];
    let mut header = HeaderSection::decode(section).unwrap();
    let hashes = &mut header.hashes;
    *match column {
        Column::Tweaks => &mut hashes.tweaks,
        Column::Prefixes => &mut hashes.prefixes,
        Column::Outputs => &mut hashes.outputs,
        Column::Spent => &mut hashes.spent,
        Column::Spends => &mut hashes.spends,
        Column::NewUtxos => &mut hashes.new_utxos,
        Column::Headers | Column::Selected => unreachable!("has no hash"),
    } = hash;
    section.clear();
    header.encode(section);
    let mut written = Vec::new();
    for (head, sections) in parts {
        let Some(column) = head.column else {
            written.extend_from_slice(&head.encode());
            continue;
        };
        let mut writer = PartWriter::default();
        for section in sections {
            writer.section(|out| out.extend_from_slice(&section));
        }
        written.extend(writer.finish(head.network, column, head.first, head.last_hash));
    }
    Some(written)
}

/// A lie that fits its hash is caught by what contradicts it, or else by the head. Only `spends` stands outside.
#[tokio::test(flavor = "multi_thread")]
async fn a_lie_with_a_hash_that_fits_does_not_fit_the_head() {
    let liar = Liar::new(1006).await;
    let truth = liar.scan().await.unwrap();
    let log = liar.between.take_log();
    let mut sum: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for seed in 0..lies(60) {
        let mut rng = StdRng::seed_from_u64(seed);
        let column = *[
            Column::Tweaks,
            Column::Prefixes,
            Column::Spent,
            Column::Outputs,
            Column::Spends,
        ]
        .choose(&mut rng)
        .unwrap();
        let (told, chosen) = (Arc::new(Mutex::new(false)), rng.gen_range(0..log.len()));
        let telling = told.clone();
        liar.between.change(move |number, _, body| {
            let mut told = telling.lock().unwrap();
            let is_parts = body.starts_with(b"spix");
            if *told || number < chosen || !is_parts {
                return body;
            }
            let lied = lie_with_hash(&body, column, &mut rng);
            *told = lied.is_some();
            lied.unwrap_or(body)
        });
        let scanned = liar.scan().await;
        if !*told.lock().unwrap() {
            continue;
        }
        let what = format!("seed {seed}: {column}");
        let outcome = match scanned {
            Err(error) => {
                liar.assert_names_the_server(&error, &what);
                "named"
            }
            // Where, and by which input, is all that it can say.
            Ok(report) if column == Column::Spends => {
                assert_eq!(report.unspent_sat, truth.unspent_sat, "{what}");
                "unseen"
            }
            Ok(report) => {
                // Of a block of the chunk that nothing was looked for in.
                assert!(
                    column == Column::Outputs && report == truth,
                    "{what} is not seen"
                );
                "of no effect"
            }
        };
        *sum.entry((column.name(), outcome)).or_default() += 1;
    }
    println!("{sum:#?}");
    for column in ["tweaks", "prefixes", "spent"] {
        assert!(sum.keys().any(|(of, _)| *of == column), "{column}");
    }
}
