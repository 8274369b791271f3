//! The native protocol as docs/native.md says it is: read by a decoder that was written from that page, in another language, and
//! recorded as vectors in `fixtures/native`.
//!
//! A change that is meant writes the vectors anew: `SPINDEX_WRITE_VECTORS=1 cargo test --test commands python_decoder`.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, LazyLock};

use bitcoin::OutPoint;
use bitcoin::hex::DisplayHex;
use serde_json::{Value, json};
use spindex::BlockId;
use spindex::chain::BlockWithPrevouts;
use spindex::chain::made::simulated::SimulatedChain;
use spindex::curve::TweakPoint;
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::filter::{new_utxos_filter, spent_filter, spent_item};
use spindex::index::derive_records;
use spindex::store::{BlockRecord, Store, StoreOptions, TweakForm, Update};

use super::recorded_answers;
use super::sections::{HASHED, hash, heads};
use super::support::index::options;
use super::support::{served, spcommit};

pub(crate) const COLUMNS: [&str; 7] = [
    "headers",
    "tweaks",
    "prefixes",
    "outputs",
    "spent",
    "spends",
    "new-utxos",
];

/// Outputs of blocks below it are foreign, and spent.
pub(crate) const FIRST_HEIGHT: u32 = 3;

/// Where the chain ends: with two chunks below what a reorganisation reaches.
pub(crate) const TIP: u32 = 240;

/// Which transactions the vectors of selections have.
const DUST_LIMIT: u64 = 1_000_000;

/// A chain with something of everything, and its records, in which nobody knows who spends what below a height.
pub(crate) struct Scene {
    pub(crate) chain: Arc<SimulatedChain>,
    pub(crate) records: Vec<BlockRecord>,
    spenders_from: u32,
    /// Whatever is spent up to the tip.
    spent: HashSet<OutPoint>,
}

/// Made once.
pub(crate) static SCENE: LazyLock<Scene> = LazyLock::new(Scene::new);

impl Scene {
    fn new() -> Self {
        let chain = recorded_answers::chain();
        chain.mine(TIP - chain.tip_id().height);
        let blocks: Vec<BlockWithPrevouts> = chain.active_blocks()[FIRST_HEIGHT as usize..]
            .iter()
            .map(|block| block.with_prevouts().unwrap())
            .collect();
        let mut records = derive_records(&LibSecp256k1, &blocks, TweakForm::Point);
        let with_state = records.iter().find(|record| !record.states.is_empty());
        let spenders_from = with_state.unwrap().id.height;
        for record in &mut records {
            if record.id.height < spenders_from {
                record.states.clear();
                for spend in &mut record.spends {
                    spend.spender = None;
                }
            }
        }
        let spends = records.iter().flat_map(|record| &record.spends);
        let spent = spends.map(|spend| spend.outpoint).collect();
        Self {
            chain,
            records,
            spenders_from,
            spent,
        }
    }

    pub(crate) fn options() -> StoreOptions {
        StoreOptions {
            first_height: Some(FIRST_HEIGHT),
            tweak_form: Some(TweakForm::Point),
            undo_depth: 100,
            ..options()
        }
    }

    /// Indexes it, up to a height.
    pub(crate) fn fill(&self, store: &Store, tip: u32) {
        let there = store.snapshot().unwrap().tip();
        let next = there.map_or(FIRST_HEIGHT, |tip| tip.height + 1);
        let at = |height: u32| (height - FIRST_HEIGHT) as usize;
        let known = next.max(self.spenders_from);
        for (from, to) in [(next, known), (known, tip + 1)] {
            let connect = &self.records[at(from)..at(to)];
            let disconnect = 0;
            store
                .apply(Update {
                    disconnect,
                    connect,
                })
                .unwrap();
        }
    }

    pub(crate) fn index(&self) -> Arc<Store> {
        let backend = redb::backends::InMemoryBackend::new();
        let store = Store::open_with_backend(backend, &Self::options()).unwrap();
        self.fill(&store, TIP);
        Arc::new(store)
    }

    /// What the decoder is to find up to a height.
    pub(crate) fn expected(&self, last: u32) -> Value {
        let records = &self.records[..=(last - FIRST_HEIGHT) as usize];
        let count = |of: fn(&BlockRecord) -> usize| records.iter().map(of).sum::<usize>();
        let links = spcommit::links(records)[records.len() - 1];
        let unknown = |record: &BlockRecord| {
            let spends = record.spends.iter();
            spends.filter(|spend| spend.spender.is_none()).count()
        };
        json!({
            "network": "regtest",
            "first": FIRST_HEIGHT,
            "last": last,
            "last_block": records[records.len() - 1].id.hash.to_string(),
            "head": heads(records)[records.len() - 1].to_lower_hex_string(),
            "links": links.map(|link| link.head.to_lower_hex_string()),
            "transactions": count(|record| record.transactions.len()),
            "outputs": count(|record| record.outputs.len()),
            "spends": count(|record| record.spends.len()),
            "states": count(|record| record.states.len()),
            "unknown_spenders": count(unknown),
        })
    }
}

fn decoder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/native/decoder.py")
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/native")
}

/// What the decoder finds; `None`, said on stderr, where there is no Python.
pub(crate) async fn decode(args: &[&str]) -> Option<Result<Value, String>> {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let python = move || Command::new("python3").arg(decoder()).args(args).output();
    let Output {
        status,
        stdout,
        stderr,
    } = match tokio::task::spawn_blocking(python).await.unwrap() {
        Ok(output) => output,
        Err(error) => {
            let mut stderr = std::io::stderr();
            let _ = writeln!(stderr, "SKIPPED the decoder in Python: python3: {error}");
            return None;
        }
    };
    Some(match status.success() {
        true => Ok(serde_json::from_slice(&stdout).unwrap()),
        false => Err(String::from_utf8(stderr).unwrap()),
    })
}

#[tokio::test]
async fn a_decoder_by_the_page_alone_reads_every_column() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let scene = &*SCENE;
    let store = scene.index();
    assert!(store.snapshot().unwrap().counts().unwrap().foreign > 0);
    let mut expected = scene.expected(TIP);
    expected["selected"] = scene.selections();
    for name in ["outputs", "states", "unknown_spenders"] {
        assert_ne!(expected[name], 0, "{name}");
    }
    let address = served::serve(&scene.chain, store, |router| router).await;
    let url = format!("http://{address}");
    let first = FIRST_HEIGHT.to_string();
    if let Some(found) = decode(&["server", &url, &first]).await {
        assert_eq!(found, Ok(expected));
    }
}

#[tokio::test]
async fn vectors_are_those_that_were_recorded() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let scene = &*SCENE;
    let (from, to) = (scene.spenders_from - 1, scene.spenders_from + 1);
    let records = &scene.records[(from - FIRST_HEIGHT) as usize..=(to - FIRST_HEIGHT) as usize];
    assert!(
        records[0]
            .spends
            .iter()
            .any(|spend| spend.spender.is_none())
    );
    let address = served::serve(&scene.chain, scene.index(), |router| router).await;
    let mut written = Vec::new();
    for column in COLUMNS {
        let url = format!("http://{address}/spindex/v1/range/{column}?from={from}&to={to}");
        let answer = reqwest::get(url).await.unwrap().bytes().await.unwrap();
        let (part, end) = answer.split_at(answer.len() - 60);
        let last = records[2].id;
        let sections = records.iter().map(|record| scene.values(record, column));
        written.push((
            column,
            json!({
                "network": "regtest",
                "first": from,
                "blocks": records.len(),
                "last_block": last.hash.to_string(),
                "hex": part.to_lower_hex_string(),
                "sections": sections.collect::<Vec<_>>(),
            }),
        ));
        if column == COLUMNS[0] {
            let mark = json!({
                "network": "regtest",
                "reached": last.height,
                "block": last.hash.to_string(),
                "hex": end.to_lower_hex_string(),
            });
            written.push(("end", mark));
        }
    }
    let columns = ["selected", "tweaks", "prefixes"];
    for column in columns {
        let url = format!(
            "http://{address}/spindex/v1/range/{column}?from={from}&to={to}&dust_limit={DUST_LIMIT}&cut_through=true"
        );
        let answer = reqwest::get(url).await.unwrap().bytes().await.unwrap();
        let part = &answer[..answer.len() - 60];
        let sections = records.iter().map(|record| scene.selected(record, column));
        let tip = scene.records[scene.records.len() - 1].id;
        let name = match column {
            "tweaks" => "selected-tweaks",
            "prefixes" => "selected-prefixes",
            column => column,
        };
        let vector = json!({
            "network": "regtest",
            "first": from,
            "blocks": records.len(),
            "last_block": records[2].id.hash.to_string(),
            "dust_limit": DUST_LIMIT,
            "cut_through": true,
            "tip": {"height": tip.height, "block_hash": tip.hash.to_string()},
            "hex": part.to_lower_hex_string(),
            "sections": sections.collect::<Vec<_>>(),
        });
        written.push((name, vector));
    }
    for (name, vector) in written {
        let file = vectors().join(format!("{name}.json"));
        if std::env::var_os("SPINDEX_WRITE_VECTORS").is_some() {
            let text = serde_json::to_string_pretty(&vector).unwrap();
            std::fs::write(&file, text + "\n").unwrap();
        }
        let recorded = std::fs::read_to_string(&file).unwrap();
        let recorded: Value = serde_json::from_str(&recorded).unwrap();
        assert_eq!(vector, recorded, "{name}");
    }
    if let Some(found) = decode(&["vectors", vectors().to_str().unwrap()]).await {
        assert_eq!(found, Ok(json!({"vectors": 11})));
    }
}

impl Scene {
    /// What a column has of a block, in values, from its record.
    fn values(&self, record: &BlockRecord, column: &str) -> Value {
        let hex = |bytes: &[u8]| bytes.to_lower_hex_string();
        let rows = || record.transactions.iter();
        let outputs = |index: usize| {
            let outputs = record.outputs.iter();
            outputs.filter(move |output| output.transaction as usize == index)
        };
        match column {
            "headers" => json!({
                "header": hex(&bitcoin::consensus::serialize(&record.header)),
                "transactions": record.transactions.len(),
                "outputs": record.outputs.len(),
                "spends": record.spends.len(),
                "states": record.states.len(),
                "sections": HASHED.map(|column| (column, hex(&hash(record, column)))).into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            }),
            "tweaks" => rows()
                .map(|row| hex(&TweakPoint::from_bytes(row.tweak).to_compressed()))
                .collect(),
            "prefixes" => rows()
                .enumerate()
                .map(|(index, _)| {
                    let keys = outputs(index).map(|output| hex(&output.key[..3]));
                    keys.collect::<Value>()
                })
                .collect(),
            "outputs" => rows()
                .enumerate()
                .map(|(index, row)| {
                    let outputs = outputs(index).map(|output| {
                        json!({"vout": output.vout, "value_sat": output.value_sat, "key": hex(&output.key)})
                    });
                    json!({"txid": row.txid.to_string(), "outputs": outputs.collect::<Value>()})
                })
                .collect(),
            "spent" => {
                let item = |outpoint| spent_item(outpoint, &record.id.hash);
                let items = record.spends.iter().map(|spend| item(&spend.outpoint));
                let items: Vec<[u8; 8]> = items.collect();
                assert_eq!(spent_filter(&record.id.hash, &items), record.spent_filter);
                items.iter().map(|item| hex(item)).collect()
            }
            "new-utxos" => {
                let keys = self.taproot_keys(record.id);
                assert_eq!(new_utxos_filter(&record.id.hash, &keys), record.new_utxos_filter);
                keys.iter().map(|key| hex(key)).collect()
            }
            "spends" => {
                let spent = record.spends.iter().map(|spend| {
                    json!({
                        "outpoint": spend.outpoint.to_string(),
                        "key_prefix": hex(&spend.key_prefix),
                        "spender": spend.spender.map(|by| (by.transaction, by.input)),
                    })
                });
                let states = record.states.iter().map(|state| {
                    json!({
                        "transaction": state.transaction,
                        "vout": state.vout,
                        "txid": state.txid.to_string(),
                        "state_id": hex(&state.state_id),
                    })
                });
                json!({"spent": spent.collect::<Value>(), "states": states.collect::<Value>()})
            }
            column => panic!("no column {column}"),
        }
    }

    /// For each transaction of a block whether it is selected.
    fn flags(&self, record: &BlockRecord, dust_limit: u64, cut_through: bool) -> Vec<bool> {
        let rows = record.transactions.iter().enumerate();
        let flags = rows.map(|(index, row)| {
            record.outputs.iter().any(|output| {
                output.transaction as usize == index
                    && output.value_sat >= dust_limit
                    && !(cut_through && self.spent.contains(&OutPoint::new(row.txid, output.vout)))
            })
        });
        flags.collect()
    }

    /// How many transactions the selections have that the decoder asks for; each leaves out something else.
    fn selections(&self) -> Value {
        let rules = [(0, true), (50_000, false), (DUST_LIMIT, true)];
        let counts = rules.map(|(dust_limit, cut_through)| {
            let records = self.records.iter();
            let flags = records.flat_map(|record| self.flags(record, dust_limit, cut_through));
            flags.filter(|is_selected| *is_selected).count()
        });
        let all: usize = self
            .records
            .iter()
            .map(|record| record.transactions.len())
            .sum();
        assert!(counts[2] > 0 && counts[2] < counts[0] && counts[0] < all && counts[1] < all);
        json!(counts)
    }

    /// What the selection of the vectors has of a block, in values: of transactions with an unspent output that reaches the
    /// limit.
    fn selected(&self, record: &BlockRecord, column: &str) -> Value {
        let flags = self.flags(record, DUST_LIMIT, true);
        if column == "selected" {
            return json!(flags);
        }
        let all = self.values(record, column);
        let values = all.as_array().unwrap().iter().zip(&flags);
        let values = values.filter(|(_, is_selected)| **is_selected);
        values.map(|(value, _)| value.clone()).collect()
    }

    /// The keys of all taproot outputs of a block, eligible or not.
    fn taproot_keys(&self, block: BlockId) -> Vec<[u8; 32]> {
        let block = self.chain.stored_block(block.hash).unwrap();
        let outputs = block.block.txdata.iter().flat_map(|tx| &tx.output);
        let keys = outputs.filter(|output| output.script_pubkey.is_p2tr());
        keys.map(|output| output.script_pubkey.as_bytes()[2..].try_into().unwrap())
            .collect()
    }
}
