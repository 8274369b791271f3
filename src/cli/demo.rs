//! `spindex demo`: a simulated chain, its index, a server and a light client in one process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bitcoin::{Amount, Network, OutPoint, TxOut};
use clap::Args;
use secp256k1::Scalar;
use serde::Serialize;
use tokio::net::TcpListener;

use super::config::{ComputeSettings, NetworkName};
use super::output::{progress_bar, write_stdout};
use super::scan::show;
use super::server::{block_on, desk, serve_api};
use super::wallet::WalletFile;
use crate::bip352::descriptor::DescriptorKey;
use crate::bip352::keys::{ReceiverKeys, ScanKey, SpendKey};
use crate::chain::made::simulated::builder::{
    InputKind, SpendableOutput, build_transaction, op_return_output,
};
use crate::chain::made::simulated::{PaidOutput, SimulatedChain, SimulationSettings};
use crate::client::{
    Found, HttpOracle, HttpSettings, Identity, LightClient, LightSettings, Oracle, Spend, State,
    WalletId,
};
use crate::curve::TweakPoint;
use crate::curve::libsecp256k1::LibSecp256k1;
use crate::index::{IndexSettings, Indexer};
use crate::private_file::PrivateFolder;
use crate::runtime::Stop;
use crate::scan::{FoundOutput, Scanner, TaprootOutput};
use crate::store::{FILE_NAME, Store, StoreOptions};

const NETWORK: Network = Network::Regtest;
const LABELS: [u32; 2] = [1, 2];
const SPEND_FEE_SAT: u64 = 1_000;
const STATE_ID: &[u8] = b"demo state 1";
/// Between two blocks while the demo keeps serving.
const BLOCK_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct DemoArgs {
    #[command(flatten)]
    compute: ComputeSettings,
    /// Everything on the chain follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Blocks to simulate, at least 110 (block rewards can be spent after 100)
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(110..=100_000))]
    blocks: u32,
    /// Mean number of transactions in a block
    #[arg(long, default_value_t = 12, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1_000))]
    transactions: u32,
    /// Address of the demo's server; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    bind: SocketAddr,
    /// Stop when everything has been shown instead of serving on
    #[arg(long)]
    once: bool,
    /// Print one JSON document at the end
    #[arg(long)]
    json: bool,
}

/// What the demo has shown.
#[derive(Serialize)]
struct Report {
    network: &'static str,
    seed: u64,
    blocks: u32,
    transactions: usize,
    tweaks: u64,
    payments: usize,
    found: Vec<Found>,
    found_sat: u64,
    spends: Vec<SpendReport>,
    seconds: BTreeMap<&'static str, f64>,
}

#[derive(Serialize)]
struct SpendReport {
    outpoint: OutPoint,
    value_sat: u64,
    spend: Spend,
}

pub(super) fn demo(args: DemoArgs) -> Result<()> {
    block_on(&args.compute.clone(), run(args))
}

async fn run(args: DemoArgs) -> Result<()> {
    let say = |text: String| {
        if !args.json {
            eprintln!("{text}");
        }
    };
    let stop = Stop::new();
    stop.on_signal()?;
    let mut seconds = BTreeMap::new();
    let mut clock = Instant::now();
    let mut lap = |stage| {
        seconds.insert(stage, clock.elapsed().as_secs_f64());
        clock = Instant::now();
    };

    let wallet = Wallet::new(args.seed)?;
    let chain = simulate(&args, &wallet).await?;
    let paid = chain.paid_outputs();
    let transactions = chain
        .active_blocks()
        .iter()
        .map(|block| block.txids.len())
        .sum();
    lap("simulate");
    say(format!(
        "simulated   {} blocks with {transactions} transactions, {} of their outputs are silent payments to us",
        args.blocks,
        paid.len()
    ));

    let folder = PrivateFolder::create(&std::env::temp_dir(), "spindex-demo")?;
    let options = StoreOptions {
        network: NETWORK,
        first_height: Some(0),
        keep: None,
        tweak_form: None,
        undo_depth: 288,
        cache_bytes: 64 << 20,
    };
    let store = Arc::new(Store::open(&folder.path().join(FILE_NAME), &options)?);
    let settings = IndexSettings {
        poll_interval: Duration::from_millis(200),
        ..IndexSettings::default()
    };
    let engine = args.compute.engine()?;
    let indexer = Indexer::new(
        store.clone(),
        chain.clone(),
        engine.clone(),
        settings,
        stop.clone(),
        |_| (),
    );
    indexer.check_source().await?;
    indexer.sync(None).await?;
    let tweaks = store.snapshot()?.counts()?.transactions;
    lap("index");
    say(format!(
        "indexed     {tweaks} tweaks of eligible transactions, two filters per block"
    ));

    let listener = TcpListener::bind(args.bind)
        .await
        .with_context(|| format!("cannot listen on {}", args.bind))?;
    let url = format!("http://{}", listener.local_addr()?);
    let desk = desk(
        store,
        Some(chain.clone()),
        Some(chain.clone()),
        engine.clone(),
        None,
        None,
    );
    let serving = serve_api(listener, desk, None, stop.clone());
    let serving = tokio::spawn(serving);
    let oracle = Arc::new(HttpOracle::new(&url, HttpSettings::default())?);

    let identity = Identity {
        network: NETWORK,
        wallet: Some(WalletId::of(&wallet.keys())),
    };
    let settings = LightSettings {
        from: Some(0),
        ..LightSettings::new(NETWORK)
    };
    let state = State::in_memory(identity)?;
    let scanner = Scanner::new(engine.clone(), wallet.keys())?;
    let mut client = LightClient::new(oracle.clone(), Some(scanner), [], state, settings)?;
    let bar = progress_bar(0, "blocks");
    let report = client.run(&mut show(&bar)).await;
    bar.finish_and_clear();
    let report = report?;
    lap("scan");
    compare(&paid, &report.found)?;
    say(format!(
        "scanned     over {url}: all {} payments found, {} sat, and nothing else",
        report.found.len(),
        report.unspent_sat
    ));

    let spent = report
        .found
        .iter()
        .max_by_key(|found| found.value_sat)
        .context("no payment was made")?;
    let transaction = wallet.spend(&chain, spent)?;
    let txid = transaction.compute_txid();
    let forwarded = oracle.forward_tx(&transaction).await?;
    ensure!(
        forwarded == Some(txid),
        "the server forwarded another transaction: {forwarded:?}"
    );
    chain.mine(1);
    indexer.sync(None).await?;
    let report = client.run(&mut |_| ()).await?;
    lap("spend");
    let spends: Vec<SpendReport> = report
        .found
        .iter()
        .filter_map(|found| {
            Some(SpendReport {
                outpoint: found.outpoint,
                value_sat: found.value_sat,
                spend: found.spent.clone()?,
            })
        })
        .collect();
    let seen = spends
        .iter()
        .find(|spend| spend.outpoint == spent.outpoint)
        .context("the spend was not seen")?;
    ensure!(spends.len() == 1, "spends were seen that nobody made");
    ensure!(
        seen.spend.spending_txid == Some(txid),
        "another transaction is named as the spender"
    );
    ensure!(
        seen.spend.op_return == [STATE_ID],
        "the state id of the spending transaction is missing"
    );
    say(format!(
        "spent       {} at height {} by {txid}, state id \"{}\"",
        spent.outpoint,
        seen.spend.height,
        String::from_utf8_lossy(STATE_ID)
    ));

    let report = Report {
        network: NETWORK.to_core_arg(),
        seed: args.seed,
        blocks: args.blocks,
        transactions,
        tweaks,
        payments: paid.len(),
        found_sat: report.found.iter().map(|found| found.value_sat).sum(),
        found: report.found,
        spends,
        seconds,
    };
    if args.json {
        write_stdout(|out| {
            serde_json::to_writer(&mut *out, &report)?;
            writeln!(out)
        })?;
    }
    if !args.once {
        let wallet_file = folder.path().join("demo.wallet");
        wallet.write(&wallet_file)?;
        keep_serving(&url, &wallet_file, &chain, &indexer, &stop, &report).await?;
    }
    stop.request();
    serving.await?
}

/// Follows the chain, which grows by a block every few seconds, until a signal comes.
async fn keep_serving(
    url: &str,
    wallet_file: &Path,
    chain: &SimulatedChain,
    indexer: &Indexer,
    stop: &Stop,
    report: &Report,
) -> Result<()> {
    let wallet_file = wallet_file.display();
    eprintln!(
        "\nserving on {url}, a new block every {} seconds. Things to try:\n  \
         curl {url}/info\n  \
         curl {url}/tweak-index/{}\n  \
         spindex scan --oracle {url} --wallet {wallet_file}",
        BLOCK_INTERVAL.as_secs(),
        report.blocks
    );
    if let Some(spent) = report.spends.first() {
        eprintln!(
            "  spindex scan --oracle {url} --network regtest --outpoint {}\n  \
             curl {url}/spends/{}",
            spent.outpoint, spent.spend.height
        );
    }
    eprintln!("Ctrl-C ends it.");
    let mining = async {
        while stop.sleep(BLOCK_INTERVAL).await {
            chain.mine(1);
        }
    };
    let (followed, ()) = tokio::join!(indexer.follow(None), mining);
    Ok(followed?)
}

/// The wallet that is paid. Its keys follow from the seed, so the whole demo does; never use them for anything else.
struct Wallet {
    scan_key: ScanKey,
    spend_key: SpendKey,
}

impl Wallet {
    fn new(seed: u64) -> Result<Self> {
        let secret = |role: u8| {
            use bitcoin::hashes::{Hash, sha256};
            sha256::Hash::hash(&[&[role][..], &seed.to_be_bytes()].concat()).to_byte_array()
        };
        Ok(Self {
            scan_key: ScanKey::from_bytes(secret(b'b'))
                .context("this seed gives no scan key; take another one")?,
            spend_key: SpendKey::from_bytes(secret(b's'))
                .context("this seed gives no spend key; take another one")?,
        })
    }

    fn keys(&self) -> ReceiverKeys {
        ReceiverKeys::new(self.scan_key.clone(), self.spend_key.public_key(), LABELS)
    }

    /// Writes the wallet file that `spindex scan` takes.
    fn write(&self, path: &Path) -> Result<()> {
        let key = DescriptorKey::Scan {
            scan_key: self.scan_key.clone(),
            spend_pubkey: self.spend_key.public_key(),
            test_network: true,
        };
        WalletFile::new(NetworkName(NETWORK), &key, LABELS).create(path)
    }

    /// A transaction that spends one of the wallet's outputs to a plain address, with a state id.
    fn spend(&self, chain: &SimulatedChain, found: &Found) -> Result<bitcoin::Transaction> {
        let output = self
            .confirm(chain, found)
            .context("the found output cannot be confirmed")?;
        let tweak = Scalar::from_be_bytes(output.tweak)?;
        let secret = self.spend_key.secret().add_tweak(&tweak)?;
        let change = TxOut {
            value: Amount::from_sat(found.value_sat.saturating_sub(SPEND_FEE_SAT)),
            script_pubkey: InputKind::P2wpkh.script_pubkey(self.spend_key.secret()),
        };
        let input = SpendableOutput::new(InputKind::P2tr, secret, found.outpoint, found.value_sat);
        Ok(build_transaction(
            &[input],
            vec![change, op_return_output(STATE_ID)],
        )?)
    }

    /// Works the output's secret tweak out again: the light client keeps no secrets.
    fn confirm(&self, chain: &SimulatedChain, found: &Found) -> Option<FoundOutput> {
        let block = chain.stored_block(found.block_hash)?;
        let position = block
            .txids
            .iter()
            .position(|txid| *txid == found.outpoint.txid)?;
        let outputs = block.block.txdata.get(position)?.output.iter();
        let outputs: Vec<TaprootOutput> = (0..)
            .zip(outputs)
            .filter_map(|(vout, output)| {
                Some(TaprootOutput {
                    outpoint: OutPoint::new(found.outpoint.txid, vout),
                    key: crate::bip352::inputs::taproot_output_key(&output.script_pubkey)?,
                    value_sat: output.value.to_sat(),
                })
            })
            .collect();
        let scanner = Scanner::new(Arc::new(LibSecp256k1), self.keys()).ok()?;
        let tweak = TweakPoint::from_compressed(&found.tweak)?;
        scanner
            .confirm(&tweak, &outputs)
            .ok()?
            .into_iter()
            .find(|output| output.outpoint == found.outpoint)
    }
}

/// A chain whose traffic pays the wallet's addresses now and then: the plain one, the labelled ones and change.
async fn simulate(args: &DemoArgs, wallet: &Wallet) -> Result<Arc<SimulatedChain>> {
    let keys = wallet.keys();
    let labels = LABELS.into_iter().chain([0]).map(Some);
    let recipients = std::iter::once(None)
        .chain(labels)
        .filter_map(|label| keys.address(label, NETWORK))
        .collect();
    let settings = SimulationSettings {
        seed: args.seed,
        transactions_per_block: args.transactions,
        recipients,
        ..SimulationSettings::default()
    };
    let blocks = args.blocks;
    let chain = tokio::task::spawn_blocking(move || {
        let chain = SimulatedChain::new(settings);
        chain.mine(blocks);
        chain
    });
    Ok(Arc::new(chain.await?))
}

/// Whether the client found exactly the payments that were made.
fn compare(paid: &[PaidOutput], found: &[Found]) -> Result<()> {
    let paid: BTreeMap<OutPoint, u64> = paid
        .iter()
        .map(|paid| (paid.outpoint, paid.value_sat))
        .collect();
    let found: BTreeMap<OutPoint, u64> = found
        .iter()
        .map(|found| (found.outpoint, found.value_sat))
        .collect();
    if let Some(outpoint) = paid.keys().find(|outpoint| !found.contains_key(outpoint)) {
        bail!("the payment {outpoint} was not found");
    }
    if let Some(outpoint) = found.keys().find(|outpoint| !paid.contains_key(outpoint)) {
        bail!("{outpoint} was found, but nobody paid it to us");
    }
    ensure!(paid == found, "amounts differ");
    Ok(())
}
