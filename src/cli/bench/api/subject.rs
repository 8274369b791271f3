//! What is asked: an index of made-up blocks, and a server over it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bitcoin::block::{Header, Version};
use bitcoin::hashes::{Hash, sha256};
use bitcoin::{BlockHash, CompactTarget, Network, TxMerkleNode, Txid};
use tokio::sync::oneshot;

use super::cores::pin;
use crate::BlockId;
use crate::api::desk::{Desk, DeskSettings};
use crate::api::{self, Listener, ServeSettings};
use crate::curve::{Engine, TweakPoint};
use crate::filter;
use crate::private_file::PrivateFolder;
use crate::store::{
    BlockRecord, FILE_NAME, OutputRow, Store, StoreOptions, TransactionRow, Update,
};

const FIRST_HEIGHT: u32 = 1;
/// Taproot outputs of a transaction.
const OUTPUTS: usize = 2;
/// Different points; they come again and again.
const POINTS: usize = 4096;
/// How many blocks a reorganisation may reach.
const UNDO_DEPTH: u32 = 10;

/// An index, in a folder that is removed at the end or in one that stays.
pub(super) struct Index {
    store: Arc<Store>,
    _folder: Option<PrivateFolder>,
}

/// An index of blocks with so many eligible transactions each.
pub(super) fn index(folder: Option<&Path>, blocks: u32, transactions: u32) -> Result<Index> {
    let (file, folder) = match folder {
        Some(folder) => (folder.join(FILE_NAME), None),
        None => {
            let folder = PrivateFolder::create(&std::env::temp_dir(), "spindex-bench")?;
            (folder.path().join(FILE_NAME), Some(folder))
        }
    };
    let options = StoreOptions {
        network: Network::Regtest,
        first_height: Some(FIRST_HEIGHT),
        keep: None,
        tweak_form: None,
        undo_depth: UNDO_DEPTH,
        cache_bytes: 256 << 20,
    };
    let store = Store::open(&file, &options)?;
    let points = points()?;
    let start = store.snapshot()?.tip();
    let mut parent = start.map_or(BlockHash::all_zeros(), |tip| tip.hash);
    for height in start.map_or(FIRST_HEIGHT, |tip| tip.height + 1)..=blocks {
        let record = record(&points, height, parent, transactions)?;
        parent = record.id.hash;
        let connect = std::slice::from_ref(&record);
        store.apply(Update {
            disconnect: 0,
            connect,
        })?;
    }
    Ok(Index {
        store: Arc::new(store),
        _folder: folder,
    })
}

/// Multiples of the generator.
fn points() -> Result<Vec<TweakPoint>> {
    let one = secp256k1::SecretKey::from_slice(&[1; 32]).context("a key")?;
    let step = one.public_key(secp256k1::SECP256K1);
    let mut sum = step;
    let mut points = Vec::with_capacity(POINTS);
    for _ in 0..POINTS {
        sum = sum.combine(&step).context("a sum of points")?;
        points.push(TweakPoint::from_compressed(&sum.serialize()).context("a point")?);
    }
    Ok(points)
}

fn record(
    points: &[TweakPoint],
    height: u32,
    parent: BlockHash,
    transactions: u32,
) -> Result<BlockRecord> {
    let header = Header {
        version: Version::TWO,
        prev_blockhash: parent,
        merkle_root: TxMerkleNode::from_byte_array([height as u8; 32]),
        time: 1_700_000_000 + height,
        bits: CompactTarget::from_consensus(0x207f_ffff),
        nonce: height,
    };
    let id = BlockId {
        height,
        hash: header.block_hash(),
    };
    let point = |number: usize| -> Result<&TweakPoint> {
        points.get(number % points.len()).context("a point")
    };
    let mut rows = Vec::new();
    let mut outputs = Vec::new();
    for transaction in 0..transactions {
        let number = height as usize * 31 + transaction as usize;
        let name = [height.to_le_bytes(), transaction.to_le_bytes()].concat();
        rows.push(TransactionRow {
            txid: Txid::from_byte_array(sha256::Hash::hash(&name).to_byte_array()),
            tweak: *point(number)?.as_bytes(),
        });
        for vout in 0..OUTPUTS {
            let mut key = [0; 32];
            key.copy_from_slice(&point(number + 7 * vout + 1)?.to_compressed()[1..]);
            outputs.push(OutputRow {
                key,
                value_sat: 10_000 + u64::from(transaction),
                vout: vout as u32,
                transaction,
            });
        }
    }
    let keys: Vec<[u8; 32]> = outputs.iter().map(|output| output.key).collect();
    Ok(BlockRecord {
        id,
        header,
        transactions: rows,
        multiples: Vec::new(),
        new_utxos_filter: filter::new_utxos_filter(&id.hash, &keys),
        spent_filter: filter::spent_filter(&id.hash, &[]),
        outputs,
        spends: Vec::new(),
        states: Vec::new(),
    })
}

/// A server on threads of its own, until it is dropped.
pub(super) struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Serves the index on a free port of this machine, with default bounds but for what is kept of answers, by threads on
    /// these cores.
    pub(super) fn start(
        index: &Index,
        engine: Arc<dyn Engine>,
        threads: usize,
        cores: Option<&[usize]>,
        kept_answer_bytes: Option<u64>,
    ) -> Result<Self> {
        let cores = cores.map(<[usize]>::to_vec);
        let keep_to_cores = move || {
            if let Some(cores) = &cores {
                pin(cores);
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .on_thread_start(keep_to_cores.clone())
            .enable_all()
            .build()
            .context("cannot start threads")?;
        let socket = runtime.block_on(api::bind(([127, 0, 0, 1], 0).into()))?;
        let address = socket.local_addr()?;
        let settings = DeskSettings {
            engine,
            ..DeskSettings::default()
        };
        let desk = Desk::new(index.store.clone(), None, None, settings);
        let defaults = ServeSettings::default();
        let settings = ServeSettings {
            kept_answer_bytes: kept_answer_bytes.unwrap_or(defaults.kept_answer_bytes),
            ..defaults
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            keep_to_cores();
            let listener = Listener::http(socket);
            let shutdown = async {
                // A sender that is gone means the same.
                let _ = stopped.await;
            };
            if let Err(error) =
                runtime.block_on(api::serve(vec![listener], desk, shutdown, settings))
            {
                tracing::error!("the server of the bench failed: {error}");
            }
        });
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    pub(super) fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended by itself.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the server of the bench panicked");
        }
    }
}
