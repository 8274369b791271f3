//! A data directory with an index that a test damages, and a node that serves its chain.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{ReadableTable, WriteTransaction};
use serde_json::Value;
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::column::Column;
use spindex::store::schema::{BLOCKS, BlockRow, TWEAKS};
use spindex::store::{Store, StoreOptions};

use crate::support::by_height::ByHeight as _;
use crate::support::fake_node::FakeNode;
use crate::support::index::{engine, options};
use crate::support::spindex::{run, stderr};

/// Height of the chain: enough for payments to be spent again. Blocks up to 100 have no tweaks.
pub(crate) const TIP: u32 = 150;

/// Nothing listens there.
pub(crate) const NO_NODE: &str = "http://127.0.0.1:1";

/// The directory, the chain and the node.
pub(crate) struct Place {
    pub(crate) home: tempfile::TempDir,
    pub(crate) chain: Arc<SimulatedChain>,
    pub(crate) node: FakeNode,
    pub(crate) options: StoreOptions,
    /// Hash over all rows of the good index.
    pub(crate) content: [u8; 32],
}

impl Place {
    /// With an index from the genesis block on.
    pub(crate) async fn new() -> Self {
        Self::with(options()).await
    }

    /// With an index from a height on.
    pub(crate) async fn from(first_height: u32) -> Self {
        let first_height = Some(first_height);
        Self::with(StoreOptions {
            first_height,
            ..options()
        })
        .await
    }

    /// With an index of these options.
    pub(crate) async fn with(options: StoreOptions) -> Self {
        let home = tempfile::tempdir().unwrap();
        let chain = Arc::new(SimulatedChain::new(SimulationSettings::default()));
        chain.mine(TIP);
        let good = home.path().join("good.redb");
        build(&good, chain.clone(), &options, None).await;
        let place = Self {
            content: content(&good, &options),
            node: FakeNode::start(chain.clone()).await,
            home,
            chain,
            options,
        };
        fs::create_dir_all(place.file().parent().unwrap()).unwrap();
        place.restore();
        place
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.home.path().join(".spindex/regtest/index.redb")
    }

    pub(crate) fn beside(&self, ending: &str) -> PathBuf {
        self.file().with_file_name(format!("index.redb.{ending}"))
    }

    /// Puts the good index back.
    pub(crate) fn restore(&self) {
        fs::copy(self.home.path().join("good.redb"), self.file()).unwrap();
        let _ = fs::remove_file(self.beside("damaged"));
    }

    /// Hash over all rows of the index as it is.
    pub(crate) fn content(&self) -> [u8; 32] {
        content(&self.file(), &self.options)
    }

    /// Status, the document on stdout, stderr of a command.
    pub(crate) fn command(&self, command: &str, node: &str, more: &[&str]) -> (i32, Value, String) {
        let node = format!("--node-url={node}");
        let args = [command, "--network=regtest", "--source=rest", &node];
        let output = run(self.home.path(), &[&args, more].concat());
        let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code().unwrap(), report, stderr(&output))
    }

    /// The same of a check without a node.
    pub(crate) fn check(&self, more: &[&str]) -> (i32, Value, String) {
        self.command("check", NO_NODE, &[&["--json"], more].concat())
    }

    /// The same of a check with the node.
    pub(crate) fn check_with_node(&self, more: &[&str]) -> (i32, Value, String) {
        self.command("check", &self.node.url(), &[&["--json"], more].concat())
    }

    /// Flips a bit of the first tweak of the first block from a height on that has one; gives the block's height.
    pub(crate) fn damage_a_tweak(&self, from: u32) -> u32 {
        let (height, row) = (from..=TIP)
            .map(|height| (height, block_row(&self.file(), height)))
            .find(|(_, row)| row.transactions.count > 0)
            .unwrap();
        tamper(&self.file(), |write| {
            flip(write, TWEAKS, row.transactions.first, 3, 0x10)
        });
        height
    }
}

/// An index file of the chain, up to a height if one is given.
pub(crate) async fn build(
    path: &Path,
    source: Arc<SimulatedChain>,
    options: &StoreOptions,
    until: Option<u32>,
) {
    let store = Arc::new(Store::open(path, options).unwrap());
    let engine = Arc::new(LibSecp256k1);
    let settings = IndexSettings::default();
    let indexer = Indexer::new(store, source, engine, settings, Stop::new(), |_| ());
    indexer.sync(until).await.unwrap();
}

/// Hash over all rows of an index file.
pub(crate) fn content(path: &Path, options: &StoreOptions) -> [u8; 32] {
    let store = Store::open_existing(path, options).unwrap();
    store.snapshot().unwrap().content_hash().unwrap()
}

/// Changes an index file behind the store's back.
pub(crate) fn tamper(path: &Path, change: impl FnOnce(&WriteTransaction)) {
    let database = engine(path);
    let write = database.begin_write().unwrap();
    change(&write);
    write.commit().unwrap();
}

/// Flips bits of a byte of an item of a column.
pub(crate) fn flip(write: &WriteTransaction, column: Column, position: u64, byte: usize, mask: u8) {
    let mut table = write.open_table(column.definition()).unwrap();
    let chunk = (position / column.chunk_items()) as u32;
    let mut bytes = table.get(chunk).unwrap().unwrap().value().to_vec();
    let item = (position % column.chunk_items()) as usize * column.item_bytes();
    bytes[item + byte] ^= mask;
    table.insert(chunk, bytes.as_slice()).unwrap();
}

/// The row of a block.
pub(crate) fn block_row(path: &Path, height: u32) -> BlockRow {
    let database = engine(path);
    let write = database.begin_write().unwrap();
    let blocks = write.open_table(BLOCKS).unwrap();
    let row = blocks.get(height).unwrap().unwrap();
    BlockRow::decode(row.value()).unwrap()
}

/// Whether a report of a check names this table, at a height if one is given.
pub(crate) fn is_named(report: &Value, table: &str, height: Option<u32>) -> bool {
    let wrong = report["wrong"].as_array().unwrap().iter();
    wrong
        .filter(|finding| finding["table"] == table)
        .any(|finding| height.is_none_or(|height| finding["height"] == height))
}

/// What the tests damage: a block with tweaks, and outputs with their state.
pub(crate) struct Target {
    /// A block with an unspent output, not the last one.
    pub(crate) height: u32,
    pub(crate) row: BlockRow,
    /// Position of an unspent output of it.
    pub(crate) unspent: u64,
    /// A block with an output that a later block spends, its row, and the position of that output's transaction.
    pub(crate) creator: u32,
    pub(crate) spent_transaction: u64,
    /// The block that spends it.
    pub(crate) spender: u32,
}

/// What there is to damage in an index file.
pub(crate) fn target(path: &Path) -> Target {
    let store = Store::open_existing(path, &options()).unwrap();
    let snapshot = store.snapshot().unwrap();
    let tip = snapshot.tip().unwrap().height;
    let (height, unspent) = (0..tip - 5)
        .rev()
        .find_map(|height| {
            let utxos = snapshot.utxos(height, Default::default()).unwrap()?;
            let index = utxos.iter().position(|utxo| !utxo.spent)?;
            Some((height, index as u64))
        })
        .unwrap();
    let (creator, spender, spent_txid) = (0..=tip)
        .find_map(|spender| {
            let spends = snapshot.spends(spender).unwrap()?;
            let creators = snapshot.spend_creators(spender).unwrap()?;
            spends.iter().zip(creators).find_map(|(spend, creator)| {
                let creator = creator.filter(|creator| *creator < spender)?;
                Some((creator, spender, spend.outpoint.txid))
            })
        })
        .unwrap();
    let tweaks = snapshot.compressed_tweaks(creator, Default::default());
    let tweaks = tweaks.unwrap().unwrap();
    let index = tweaks.iter().position(|(txid, _)| *txid == spent_txid);
    drop((snapshot, store));
    let row = block_row(path, height);
    Target {
        height,
        unspent: row.outputs.first + unspent,
        row,
        creator,
        spent_transaction: block_row(path, creator).transactions.first + index.unwrap() as u64,
        spender,
    }
}
