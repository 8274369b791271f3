//! `spindex bench index`: a block's bytes to committed rows.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use bitcoin::consensus::serialize;
use bitcoin::hashes::Hash;
use bitcoin::{
    Block, BlockHash, Network, OutPoint, ScriptBuf, Transaction, TxOut, Txid, VarInt, absolute,
};
use clap::Args;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Serialize;

use super::super::engine::engine;
use super::super::output::{progress_bar, write_stdout};
use super::super::tweaks::read_block;
use super::{Measuring, cpu_name, engines, median, pool};
use crate::BlockId;
use crate::bip352::inputs::TweakInputs;
use crate::bip352::tweak::tweaks;
use crate::chain::files::{FilesSettings, FilesSource};
use crate::chain::made::generated::{ChainLength, ChainParameters, Summary, Target, generate};
use crate::chain::parse::parse_spent_outputs;
use crate::chain::{BlockSource, BlockWithPrevouts, ChainError, RawBlock};
use crate::curve::{Engine, EngineKind, TWEAK_BATCH};
use crate::index::{IndexSettings, Indexer, derive_records, tweak_candidates};
use crate::private_file::PrivateFolder;
use crate::runtime::Stop;
use crate::store::{FILE_NAME, Store, StoreOptions, Update};

/// Height of the first block of the replay; any will do.
const FIRST_HEIGHT: u32 = 1;

#[derive(Args)]
pub(super) struct IndexBenchArgs {
    #[command(flatten)]
    measuring: Measuring,
    /// Answer of Bitcoin Core's /rest/block/HASH.bin, plain or .zst [default: a made-up block like mainnet's]
    #[arg(long, value_name = "FILE", requires = "spent")]
    block: Option<PathBuf>,
    /// Answer of Bitcoin Core's /rest/spenttxouts/HASH.bin, plain or .zst
    #[arg(long, value_name = "FILE", requires = "block")]
    spent: Option<PathBuf>,
    /// Mean number of transactions in blocks of the chain that the made-up block is taken from
    #[arg(
        long,
        value_name = "N",
        default_value_t = ChainParameters::MAINNET.transactions_per_block,
        conflicts_with = "block",
        value_parser = clap::value_parser!(u32).range(10..=10_000)
    )]
    transactions: u32,
    /// How many times the block is replayed, each time as a block of its own
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    blocks: u32,
    /// Folder for the index files, which are removed again [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// One configuration and what it reached.
#[derive(Debug, Serialize)]
struct IndexRow {
    engine: &'static str,
    backend: &'static str,
    /// 1: the stages one after the other on one core. More: the whole pipeline on so many.
    threads: usize,
    blocks_per_s: f64,
    tweaks_per_s: f64,
    /// How many times as fast as with libsecp256k1, same number of threads, same rounds.
    ratio: f64,
    /// What each stage takes of the whole; only for one core.
    #[serde(skip_serializing_if = "Option::is_none")]
    stages: Option<Stages>,
}

/// Seconds, or shares of a whole.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Stages {
    /// Bytes to a checked block: offsets, txids, merkle roots, spent outputs.
    parse: f64,
    /// Eligible transactions and their input keys.
    keys: f64,
    /// Decompression, sums, products.
    tweaks: f64,
    /// Rows and filters: what deriving takes beside keys and tweaks, which are measured by themselves.
    rows: f64,
    /// Look-ups, bookkeeping and the durable write.
    commit: f64,
}

impl Stages {
    fn total(&self) -> f64 {
        self.parse + self.keys + self.tweaks + self.rows + self.commit
    }

    fn map2(a: Self, b: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            parse: f(a.parse, b.parse),
            keys: f(a.keys, b.keys),
            tweaks: f(a.tweaks, b.tweaks),
            rows: f(a.rows, b.rows),
            commit: f(a.commit, b.commit),
        }
    }

    fn shares(self) -> Self {
        let total = self.total();
        Self::map2(self, self, |stage, _| stage / total)
    }
}

/// A configuration, and what its rounds gave.
struct Subject {
    engine: Arc<dyn Engine>,
    names: (&'static str, &'static str),
    threads: usize,
    seconds: Vec<f64>,
    stages: Stages,
}

pub(super) fn bench_index(args: IndexBenchArgs) -> Result<()> {
    let scratch = Scratch::new(args.dir)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start threads")?;
    let one = pool(1)?;
    let most = args.measuring.thread_counts().pop().unwrap_or(1);
    rayon::ThreadPoolBuilder::new()
        .num_threads(most)
        .build_global()
        .context("cannot start threads")?;
    let original = match (&args.block, &args.spent) {
        (Some(block), Some(spent)) => read_block(block, spent)?,
        _ => runtime.block_on(made_up_block(args.transactions, &scratch))?,
    };
    let replay = Arc::new(Replay::new(&original, args.blocks)?);
    let eligible = tweak_candidates(&original).count();
    let tweaks = eligible * args.blocks as usize;
    let block = BlockReport {
        is_made_up: args.block.is_none(),
        transactions: original.prevouts.decode().len(),
        eligible,
        bytes: original.size_bytes(),
    };
    drop(original);

    let mut subjects: Vec<Subject> = engines()
        .into_iter()
        .flat_map(|(engine, row)| {
            let threads = if most > 1 { vec![1, most] } else { vec![1] };
            threads.into_iter().map(move |threads| Subject {
                engine: engine.clone(),
                names: (row.engine, row.backend),
                threads,
                seconds: Vec::new(),
                stages: Stages::default(),
            })
        })
        .collect();
    let rounds = u64::from(args.measuring.rounds);
    let bar = progress_bar((rounds + 1) * subjects.len() as u64, "measurements");
    for round in 0..=rounds {
        for subject in &mut subjects {
            let store = scratch.store()?;
            let seconds;
            if subject.threads == 1 {
                let stages = one.install(|| replay.stages(subject.engine.as_ref(), &store))?;
                seconds = stages.total();
                if round > 0 {
                    subject.stages = Stages::map2(subject.stages, stages, |a, b| a + b);
                }
            } else {
                seconds = runtime.block_on(replay.pipeline(&subject.engine, store))?;
            }
            if round > 0 {
                subject.seconds.push(seconds);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();

    let rows: Vec<IndexRow> = subjects
        .iter()
        .map(|subject| {
            // libsecp256k1 comes first.
            let baseline = subjects
                .iter()
                .find(|baseline| baseline.threads == subject.threads)
                .map_or(&[][..], |baseline| baseline.seconds.as_slice());
            let ratios = baseline.iter().zip(&subject.seconds);
            let seconds = median(subject.seconds.clone());
            IndexRow {
                engine: subject.names.0,
                backend: subject.names.1,
                threads: subject.threads,
                blocks_per_s: f64::from(args.blocks) / seconds,
                tweaks_per_s: tweaks as f64 / seconds,
                ratio: median(ratios.map(|(theirs, ours)| theirs / ours).collect()),
                stages: (subject.threads == 1).then(|| subject.stages.shares()),
            }
        })
        .collect();
    print(&args.measuring, args.blocks, &block, &rows)
}

/// The block that is replayed.
#[derive(Debug, Serialize)]
struct BlockReport {
    is_made_up: bool,
    /// The coinbase included.
    transactions: usize,
    eligible: usize,
    /// Of the block and its spent outputs.
    bytes: usize,
}

/// Length of the chain whose last block is replayed where no files are given. The first hundred blocks are empty, those
/// after them fill up as there is more to spend.
const MADE_UP_BLOCKS: u32 = 160;

/// A block like mainnet's, with its spent outputs: the last one of a generated chain.
async fn made_up_block(transactions: u32, scratch: &Scratch) -> Result<BlockWithPrevouts> {
    let parameters = ChainParameters {
        transactions_per_block: transactions,
        ..ChainParameters::MAINNET
    };
    let length = ChainLength {
        blocks: Some(MADE_UP_BLOCKS),
        outputs: None,
    };
    let target = Target {
        directory: scratch.0.path().join("blocks"),
        xor: false,
        most_file_bytes: None,
    };
    let engine = engine(EngineKind::Auto)?;
    let bar = progress_bar(u64::from(MADE_UP_BLOCKS), "blocks made up");
    let progress = |summary: &Summary| bar.set_position(u64::from(summary.height));
    generate(&parameters, length, &target, engine.as_ref(), progress)?;
    bar.finish_and_clear();
    let source = FilesSource::new(FilesSettings::new(target.directory, Network::Regtest));
    source.check(Network::Regtest).await?;
    let tip = source.tip().await?;
    Ok(source.block(tip).await?)
}

fn print(measuring: &Measuring, blocks: u32, block: &BlockReport, rows: &[IndexRow]) -> Result<()> {
    let (cpu, rounds) = (cpu_name(), measuring.rounds);
    write_stdout(|out| {
        if measuring.json {
            let report = serde_json::json!({
                "job": "index", "cpu": cpu, "rounds": rounds, "blocks": blocks, "block": block,
                "rows": rows,
            });
            return writeln!(out, "{report}");
        }
        writeln!(
            out,
            "index on {cpu}, {blocks} times {} of {} transactions ({} eligible, {:.2} MB with what it spends), medians of \
             {rounds} rounds",
            match block.is_made_up {
                true => "a made-up block",
                false => "a block",
            },
            block.transactions,
            block.eligible,
            block.bytes as f64 / 1e6
        )?;
        writeln!(
            out,
            "{:<13} {:<13} {:>7} {:>9} {:>9} {:>6}  parse  keys tweaks  rows commit",
            "engine", "backend", "threads", "blocks/s", "tweaks/s", "ratio"
        )?;
        for row in rows {
            write!(
                out,
                "{:<13} {:<13} {:>7} {:>9.1} {:>9.0} {:>6.2}",
                row.engine, row.backend, row.threads, row.blocks_per_s, row.tweaks_per_s, row.ratio
            )?;
            if let Some(stages) = row.stages {
                let percent = |share: f64| 100.0 * share;
                write!(
                    out,
                    "  {:>4.0}% {:>4.0}% {:>5.0}% {:>4.0}% {:>5.0}%",
                    percent(stages.parse),
                    percent(stages.keys),
                    percent(stages.tweaks),
                    percent(stages.rows),
                    percent(stages.commit)
                )?;
            }
            writeln!(out)?;
        }
        writeln!(
            out,
            "one thread: the stages one after the other; more: the pipeline; ratio: to libsecp256k1 with as many threads in \
             the same rounds"
        )
    })
}

/// A block many times over: copies that link, with txids of their own, whose taproot inputs spend outputs of the copy
/// before.
struct Replay {
    ids: Vec<BlockId>,
    /// Bytes of each block and of its spent outputs, as a node's REST interface gives them.
    blocks: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Replay {
    fn new(original: &BlockWithPrevouts, copies: u32) -> Result<Self> {
        let template = original.block.decode()?;
        let prevouts = original.prevouts.decode();
        let mut replay = Self {
            ids: Vec::new(),
            blocks: Vec::new(),
        };
        let mut parent = BlockHash::all_zeros();
        let mut spendable = Vec::new();
        for copy in 0..copies {
            let mut spent = prevouts.clone();
            let block;
            (block, spendable) = copy_block(&template, &mut spent, copy, parent, spendable)?;
            parent = block.block_hash();
            replay.ids.push(BlockId {
                height: FIRST_HEIGHT + copy,
                hash: parent,
            });
            let mut spent_bytes = serialize(&VarInt::from(spent.len()));
            for outputs in &spent {
                spent_bytes.extend(serialize(outputs));
            }
            replay.blocks.push((serialize(&block), spent_bytes));
        }
        Ok(replay)
    }

    fn read(&self, index: usize) -> Result<BlockWithPrevouts, ChainError> {
        let (Some(id), Some((block, spent))) = (self.ids.get(index), self.blocks.get(index)) else {
            return Err(ChainError::NotAvailable("the replay is over".to_owned()));
        };
        let malformed = |error| ChainError::Mismatch(format!("replayed block {id}: {error}"));
        let block = RawBlock::parse(block.clone()).map_err(malformed)?;
        let prevouts = parse_spent_outputs(spent).map_err(malformed)?;
        BlockWithPrevouts::new(*id, block, prevouts)
    }

    /// Each stage for all blocks, one stage after the other, on the calling thread's pool.
    fn stages(&self, engine: &dyn Engine, store: &Store) -> Result<Stages> {
        let mut lap = {
            let mut started = Instant::now();
            move || {
                let seconds = started.elapsed().as_secs_f64();
                started = Instant::now();
                seconds
            }
        };
        let blocks: Vec<BlockWithPrevouts> = (0..self.ids.len())
            .map(|index| self.read(index))
            .collect::<Result<_, _>>()?;
        let parse = lap();
        let inputs: Vec<TweakInputs> = blocks
            .iter()
            .flat_map(|block| tweak_candidates(block).map(|(_, inputs)| inputs))
            .collect();
        let keys = lap();
        for inputs in inputs.chunks(TWEAK_BATCH) {
            std::hint::black_box(tweaks(engine, inputs));
        }
        let computed = lap();
        let records = derive_records(engine, &blocks, store.tweak_form());
        let derived = lap();
        drop((blocks, inputs));
        lap();
        store.apply(Update {
            disconnect: 0,
            connect: &records,
        })?;
        // Rows are what is left of deriving, which did keys and tweaks once more: on a busy machine perhaps in less time
        // than they took alone. The sum stays what was measured.
        let rows = (derived - keys - computed).max(0.0);
        Ok(Stages {
            parse,
            keys,
            tweaks: derived - keys - rows,
            rows,
            commit: lap(),
        })
    }

    /// Seconds for all blocks through an indexer.
    async fn pipeline(self: &Arc<Self>, engine: &Arc<dyn Engine>, store: Store) -> Result<f64> {
        let indexer = Indexer::new(
            Arc::new(store),
            Arc::new(ReplaySource(self.clone())),
            engine.clone(),
            IndexSettings::default(),
            Stop::new(),
            |_| {},
        );
        let started = Instant::now();
        let tip = indexer.sync(None).await?;
        anyhow::ensure!(tip == self.ids.last().copied(), "the replay ended early");
        Ok(started.elapsed().as_secs_f64())
    }
}

/// A copy of a block, and its taproot outputs that no later transaction of it spends. Where it spends one of `spendable`
/// in place of what the block spends, so do the spent outputs.
fn copy_block(
    template: &Block,
    prevouts: &mut [Vec<TxOut>],
    copy: u32,
    parent: BlockHash,
    spendable: Vec<(OutPoint, TxOut)>,
) -> Result<(Block, Vec<(OutPoint, TxOut)>)> {
    let mut block = template.clone();
    let mut spendable = spendable.into_iter();
    let mut renamed: HashMap<Txid, Txid> = HashMap::new();
    let mut created = Vec::new();
    let mut spent = std::collections::HashSet::new();
    for ((tx, original), prevouts) in block.txdata.iter_mut().zip(&template.txdata).zip(prevouts) {
        for (input, prevout) in tx.input.iter_mut().zip(prevouts.iter_mut()) {
            if let Some(txid) = renamed.get(&input.previous_output.txid) {
                input.previous_output.txid = *txid;
                spent.insert(input.previous_output);
            } else if prevout.script_pubkey.is_p2tr()
                && let Some((outpoint, output)) = spendable.next()
            {
                input.previous_output = outpoint;
                *prevout = output;
            }
        }
        tx.lock_time = absolute::LockTime::from_consensus(copy + 1);
        let txid = tx.compute_txid();
        renamed.insert(original.compute_txid(), txid);
        let outputs = (0..).zip(&tx.output);
        let taproot = outputs.filter(|(_, output)| output.script_pubkey.is_p2tr());
        created.extend(taproot.map(|(vout, output)| (OutPoint { txid, vout }, output.clone())));
    }
    created.retain(|(outpoint, _)| !spent.contains(outpoint));
    commit_to_witnesses(&mut block)?;
    block.header.prev_blockhash = parent;
    block.header.merkle_root = block.compute_merkle_root().context("a block is empty")?;
    Ok((block, created))
}

/// Puts the right commitment where the coinbase has one (BIP141).
fn commit_to_witnesses(block: &mut Block) -> Result<()> {
    let root = block.witness_root().context("a block is empty")?;
    let coinbase = block.txdata.first_mut().context("a block is empty")?;
    let reserved = coinbase
        .input
        .first()
        .and_then(|input| input.witness.nth(0))
        .and_then(|item| <[u8; 32]>::try_from(item).ok());
    let (Some(at), Some(reserved)) = (commitment_position(coinbase), reserved) else {
        return Ok(());
    };
    let commitment = Block::compute_witness_commitment(&root, &reserved);
    let mut script = vec![0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed];
    script.extend_from_slice(commitment.as_byte_array());
    if let Some(output) = coinbase.output.get_mut(at) {
        output.script_pubkey = ScriptBuf::from_bytes(script);
    }
    Ok(())
}

fn commitment_position(coinbase: &Transaction) -> Option<usize> {
    let is_commitment = |output: &TxOut| {
        let script = output.script_pubkey.as_bytes();
        script.len() >= 38 && script.starts_with(&[0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed])
    };
    coinbase.output.iter().rposition(is_commitment)
}

/// The replay as a node would give it.
struct ReplaySource(Arc<Replay>);

impl BlockSource for ReplaySource {
    fn describe(&self) -> String {
        "replay of one block".to_owned()
    }

    fn check(&self, _: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        async { Ok(()) }.boxed()
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        let tip = self.0.ids.last().copied();
        async move { tip.ok_or_else(|| ChainError::Setup("the replay is empty".to_owned())) }
            .boxed()
    }

    fn block_at(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        let index = height.checked_sub(FIRST_HEIGHT);
        let id = index.and_then(|index| self.0.ids.get(index as usize).copied());
        async move { Ok(id) }.boxed()
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        let replay = self.0.clone();
        let read = tokio::task::spawn_blocking(move || {
            let index = id.height.saturating_sub(FIRST_HEIGHT) as usize;
            replay.read(index)
        });
        async {
            let stopping = |_| ChainError::Unreachable("the program is stopping".to_owned());
            read.await.map_err(stopping)?
        }
        .boxed()
    }
}

/// A folder that is removed at the end.
struct Scratch(PrivateFolder);

impl Scratch {
    fn new(parent: Option<PathBuf>) -> Result<Self> {
        let parent = parent.unwrap_or_else(std::env::temp_dir);
        Ok(Self(PrivateFolder::create(&parent, "spindex-bench")?))
    }

    /// An empty index, in place of the one before.
    fn store(&self) -> Result<Store> {
        let file = self.0.path().join(FILE_NAME);
        if file.exists() {
            std::fs::remove_file(&file)
                .with_context(|| format!("cannot remove {}", file.display()))?;
        }
        let options = StoreOptions {
            network: Network::Regtest,
            first_height: Some(FIRST_HEIGHT),
            keep: None,
            tweak_form: None,
            undo_depth: 288,
            cache_bytes: 256 << 20,
        };
        Ok(Store::open(&file, &options)?)
    }
}
