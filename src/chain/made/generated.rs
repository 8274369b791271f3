//! A chain of any length, written as Bitcoin Core's block files: what a sync of tens of millions of tweaks reads on a
//! machine without a node.
//!
//! The chain is a regtest chain from its genesis block on: headers are linked and have proof of work, merkle roots,
//! heights in coinbases and witness commitments are right, every input spends an output created before it, exactly once,
//! no transaction creates money, and no block weighs more than it may. Input keys are points of the curve and fit the
//! scripts they spend. What is made up are signatures, the commitment of a taproot output to its script, and the content
//! of witnesses: random bytes of the right length. A node that checks scripts refuses such blocks.
//!
//! A chain is 16 lanes: economies side by side, each with coins, keys and random numbers of its own, and a
//! block takes a share of its transactions from each. So all cores work at once, a window of blocks at a time, and the
//! bytes depend on nothing but the parameters. While a window is put together and written, the next one is made.

mod assembly;
mod coin;
mod files;
mod keys;
mod lane;
pub mod parameters;
mod pool;
mod wire;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bitcoin::consensus::serialize;
use bitcoin::constants::genesis_block;
use bitcoin::{BlockHash, Network};
use rayon::prelude::*;
use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::{Rng, RngCore, SeedableRng};
use serde::Serialize;

use crate::curve::Engine;
use assembly::{Draft, FinishedBlock};
use coin::Coin;
use files::BlockFiles;
use lane::{LANES, Lane, Order, Section};

pub use parameters::ChainParameters;

/// Blocks that lanes make ahead. Below [`MATURITY`], so that rewards are known before they can be spent.
const WINDOW: u32 = 16;

/// Blocks until a block reward can be spent.
const MATURITY: u32 = 100;

const _: () = assert!(3 * WINDOW < MATURITY);

/// When a chain is long enough: at the first limit that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChainLength {
    /// Blocks above the genesis block.
    pub blocks: Option<u32>,
    /// Taproot outputs of eligible transactions, which are those an index keeps; the block that reaches it is the last.
    pub outputs: Option<u64>,
}

/// Where and how the chain is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Gets `blk00000.dat`, `rev00000.dat` and so on; created if need be. It may not hold such files.
    pub directory: PathBuf,
    /// Hide the content as Bitcoin Core does since version 28: XOR with 8 bytes, which `xor.dat` holds.
    pub xor: bool,
    /// Most bytes of a block file, 128 MiB as in Bitcoin Core if not given. A single block may be larger.
    pub most_file_bytes: Option<u64>,
}

/// Why a chain was not generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A parameter makes no sense.
    #[error("the chain cannot be generated: {0}")]
    Parameters(String),
    /// There are block files already.
    #[error("{} exists: choose an empty directory, or remove it", .0.display())]
    Occupied(PathBuf),
    /// A file or directory cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What transactions add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Transactions. In a [`Summary`] with coinbases; all other numbers are without them.
    pub transactions: u64,
    /// Transactions that have a tweak by BIP352.
    pub eligible_transactions: u64,
    /// Inputs.
    pub inputs: u64,
    /// Outputs, OP_RETURN included.
    pub outputs: u64,
    /// Taproot outputs.
    pub taproot_outputs: u64,
    /// Of these, those of eligible transactions.
    pub eligible_taproot_outputs: u64,
    /// Inputs that spend taproot outputs, coinbase's included.
    pub taproot_spends: u64,
}

impl Counts {
    fn add(&mut self, more: &Self) {
        self.transactions += more.transactions;
        self.eligible_transactions += more.eligible_transactions;
        self.inputs += more.inputs;
        self.outputs += more.outputs;
        self.taproot_outputs += more.taproot_outputs;
        self.eligible_taproot_outputs += more.eligible_taproot_outputs;
        self.taproot_spends += more.taproot_spends;
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Blocks, the genesis block included.
    pub blocks: u32,
    /// Height of the last one.
    pub height: u32,
    /// Its hash.
    pub tip: BlockHash,
    /// What the blocks above the genesis block hold.
    #[serde(flatten)]
    pub counts: Counts,
    /// Bytes of all block files.
    pub block_bytes: u64,
    /// Bytes of all undo files.
    pub undo_bytes: u64,
    /// Outputs that a longer chain could still spend.
    pub coins: u64,
    /// Memory held for these at the end, in bytes.
    pub coin_bytes: u64,
}

/// Generates a chain, and tells `progress` what there is after every few blocks. Works on rayon's threads.
///
/// # Errors
/// [`GenerateError`]; what was written before stays.
pub fn generate(
    parameters: &ChainParameters,
    length: ChainLength,
    target: &Target,
    engine: &dyn Engine,
    progress: impl FnMut(&Summary) + Send,
) -> Result<Summary, GenerateError> {
    parameters.check().map_err(GenerateError::Parameters)?;
    if length == ChainLength::default() {
        let reason = "neither a number of blocks nor one of outputs is given";
        return Err(GenerateError::Parameters(reason.into()));
    }
    let xor_key = target.xor.then(|| xor_key(parameters.seed));
    let files = BlockFiles::create(&target.directory, xor_key, target.most_file_bytes)?;
    let parameters = Arc::new(parameters.clone());
    let mut miner = Miner::new(files)?;
    let mut lanes = Lanes::new(parameters);
    lanes.run(engine, length, &mut miner, progress)?;
    let summary = miner.summary;
    Ok(Summary {
        coins: lanes.lanes.iter().map(|lane| lane.coins() as u64).sum(),
        coin_bytes: lanes
            .lanes
            .iter()
            .map(|lane| lane.allocated_bytes() as u64)
            .sum(),
        ..summary
    })
}

/// Where random numbers come from: everything has a stream of its own, so that nothing depends on who draws first.
enum Stream {
    Lane(u32),
    Block(u32),
    XorKey,
}

fn random_stream(seed: u64, stream: Stream) -> StdRng {
    let (kind, number) = match stream {
        Stream::Lane(lane) => (0, lane),
        Stream::Block(height) => (1, height),
        Stream::XorKey => (2, 0),
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8] = kind;
    bytes[9..13].copy_from_slice(&number.to_le_bytes());
    StdRng::from_seed(bytes)
}

fn xor_key(seed: u64) -> [u8; 8] {
    let mut key = [0; 8];
    random_stream(seed, Stream::XorKey).fill_bytes(&mut key);
    key
}

/// What the lanes make of a height, in their order.
struct Block {
    height: u32,
    sections: Vec<Section>,
}

impl Block {
    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for section in &self.sections {
            counts.add(&section.counts);
        }
        counts
    }
}

/// The lanes, and how far they are.
struct Lanes {
    parameters: Arc<ChainParameters>,
    lanes: Vec<Lane>,
    height: u32,
}

impl Lanes {
    fn new(parameters: Arc<ChainParameters>) -> Self {
        let rows = keys::shared_rows(parameters.seed);
        let lane = |number| Lane::new(Arc::clone(&parameters), number, Arc::clone(&rows));
        Self {
            lanes: (0..LANES).map(lane).collect(),
            parameters,
            height: 0,
        }
    }

    /// Makes windows of blocks until the chain is long enough, and hands each to the miner while the next is made.
    fn run(
        &mut self,
        engine: &dyn Engine,
        length: ChainLength,
        miner: &mut Miner,
        mut progress: impl FnMut(&Summary) + Send,
    ) -> Result<(), GenerateError> {
        let mut outputs = 0;
        let mut is_last = self.cut(&mut Vec::new(), length, &mut outputs);
        let mut window = Vec::new();
        loop {
            let matured = miner.matured(self.height + 1);
            let (mined, next) = rayon::join(
                || miner.mine(&window),
                || match is_last {
                    true => Vec::new(),
                    false => self.window(engine, &matured),
                },
            );
            mined?;
            if !window.is_empty() {
                progress(&miner.summary);
            }
            if is_last {
                return Ok(());
            }
            window = next;
            is_last = self.cut(&mut window, length, &mut outputs);
        }
    }

    /// Drops the blocks beyond the chain's length; whether that is reached. `outputs` counts those before the window.
    fn cut(&self, window: &mut Vec<Block>, length: ChainLength, outputs: &mut u64) -> bool {
        let mut is_reached = |block: Option<&Block>| {
            let height = block.map_or(0, |block| block.height);
            *outputs += block.map_or(0, |block| block.counts().eligible_taproot_outputs);
            length.blocks.is_some_and(|blocks| height >= blocks)
                || length.outputs.is_some_and(|wanted| *outputs >= wanted)
        };
        if window.is_empty() {
            return is_reached(None);
        }
        match window.iter().position(|block| is_reached(Some(block))) {
            Some(last) => {
                window.truncate(last + 1);
                true
            }
            None => false,
        }
    }

    /// The next blocks of all lanes; `matured` are the rewards that may be spent in each of them, if any.
    fn window(&mut self, engine: &dyn Engine, matured: &[Option<Coin>]) -> Vec<Block> {
        let heights = self.height + 1..=self.height + WINDOW;
        self.height += WINDOW;
        let parameters = &self.parameters;
        let demands: Vec<_> = heights
            .zip(matured)
            .map(|(height, coin)| (height, demand(parameters, height), coin))
            .collect();
        let mut lanes: Vec<_> = (0..LANES)
            .zip(&mut self.lanes)
            .collect::<Vec<_>>()
            .into_par_iter()
            .with_max_len(1)
            .map(|(number, lane)| {
                let sections = demands
                    .iter()
                    .map(|&(height, (transactions, has_inscriptions), matured)| {
                        // Those left over go to other lanes in each block.
                        let turn = (number + height) % LANES;
                        let is_owner = |height: u32| height % LANES == number;
                        let order = Order {
                            height,
                            transactions: transactions / LANES
                                + u32::from(turn < transactions % LANES),
                            has_inscriptions,
                            matured: matured.filter(|coin| is_owner(coin.height)),
                            takes_reward: is_owner(height),
                        };
                        lane.section(engine, &order)
                    })
                    .collect::<Vec<_>>();
                sections.into_iter()
            })
            .collect();
        demands
            .iter()
            .map(|(height, ..)| Block {
                height: *height,
                sections: lanes.iter_mut().filter_map(Iterator::next).collect(),
            })
            .collect()
    }
}

/// The number of transactions of a block, and whether it has inscriptions.
fn demand(parameters: &ChainParameters, height: u32) -> (u32, bool) {
    let mut rng = random_stream(parameters.seed, Stream::Block(height));
    let mean = u64::from(parameters.transactions_per_block);
    let transactions = rng.gen_range(mean.div_ceil(2)..=mean + mean / 2);
    let has_inscriptions = rng.gen_bool(parameters.inscription_blocks);
    (
        u32::try_from(transactions).unwrap_or(u32::MAX),
        has_inscriptions,
    )
}

/// Puts blocks together, links them, writes them.
struct Miner {
    files: BlockFiles,
    genesis_time: u32,
    /// Rewards of the newest blocks, oldest first, the genesis block's left out.
    rewards: VecDeque<Coin>,
    summary: Summary,
}

impl Miner {
    /// Writes the genesis block.
    fn new(mut files: BlockFiles) -> Result<Self, GenerateError> {
        let genesis = genesis_block(Network::Regtest);
        let (block_bytes, undo_bytes) = files.append(&serialize(&genesis), None)?;
        Ok(Self {
            files,
            genesis_time: genesis.header.time,
            rewards: VecDeque::new(),
            summary: Summary {
                blocks: 1,
                height: 0,
                tip: genesis.block_hash(),
                counts: Counts::default(),
                block_bytes,
                undo_bytes,
                coins: 0,
                coin_bytes: 0,
            },
        })
    }

    /// For each of the window's heights from `first` on the reward that may be spent there for the first time.
    fn matured(&mut self, first: u32) -> Vec<Option<Coin>> {
        (first..first + WINDOW)
            .map(|height| {
                let oldest = self.rewards.front()?.height;
                (oldest + MATURITY == height).then(|| self.rewards.pop_front())?
            })
            .collect()
    }

    fn mine(&mut self, window: &[Block]) -> Result<(), GenerateError> {
        let drafts: Vec<(Draft, Coin)> = window
            .par_iter()
            .filter_map(|block| {
                let mut rewards = block.sections.iter();
                let reward = rewards.find_map(|section| section.reward.as_ref())?;
                let draft = Draft::new(block.height, &block.sections, reward);
                let coin = Coin {
                    txid: draft.coinbase_txid,
                    value_sat: draft.reward_sat,
                    key: reward.key,
                    height: block.height,
                    vout: 0,
                    kind: reward.kind,
                    is_coinbase: true,
                };
                Some((draft, coin))
            })
            .collect();

        let mut parent = self.summary.tip;
        let mut headed = Vec::with_capacity(drafts.len());
        for (draft, coin) in drafts {
            let header = draft.header(parent, self.genesis_time);
            parent = header.block_hash();
            // What is worth nothing is not spent.
            if coin.value_sat > 0 {
                self.rewards.push_back(coin);
            }
            headed.push((draft, header));
        }
        let finished: Vec<FinishedBlock> = headed
            .into_par_iter()
            .map(|(draft, header)| draft.finish(&header))
            .collect();
        for (block, finished) in window.iter().zip(&finished) {
            let (block_bytes, undo_bytes) = self.files.append_finished(finished)?;
            let summary = &mut self.summary;
            summary.blocks += 1;
            summary.height = block.height;
            summary.tip = finished.hash;
            summary.counts.add(&block.counts());
            summary.counts.transactions += 1;
            summary.block_bytes += block_bytes;
            summary.undo_bytes += undo_bytes;
        }
        Ok(())
    }
}
