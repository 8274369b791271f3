//! `spindex run`, `sync` and `serve`.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bitcoin::Network;
use clap::Args;
use tokio::net::TcpListener;

use super::compaction::{Compaction, compact_if_worthwhile};
use super::config::{self, CommonSettings, ComputeSettings, ServerSettings, SourceKind, usage};
use super::output::SyncProgress;
use crate::BlockId;
use crate::api::desk::{Desk, DeskSettings};
use crate::api::{self, Listener, ServeSettings};
use crate::chain::files::{FilesSettings, FilesSource};
use crate::chain::first_working::FirstWorking;
use crate::chain::rest::{RestSettings, RestSource};
use crate::chain::rpc::{RpcAuth, RpcClient, RpcSettings};
use crate::chain::rpc_source::RpcSource;
use crate::chain::zmq::{TipSignal, ZmqAddress};
use crate::chain::{self, BlockSource};
use crate::curve::Engine;
use crate::index::{BatchReport, IndexSettings, Indexer};
use crate::runtime::{self, Stop};
use crate::store::{self, Keep, Store, StoreError, StoreOptions, TweakForm};

const DEFAULT_BIND: &str = "127.0.0.1:8000";
const DEFAULT_UNDO_DEPTH: u32 = 288;
/// Longest silence of the node before a request fails.
const NODE_TIMEOUT: Duration = Duration::from_secs(30);
/// Files besides the connections of clients: the index, block files, the node's connections, the log, the runtime's own.
const OTHER_FILES: u64 = 96;
/// Connections of clients, with those that wait, however few files may be open.
const FEWEST_CONNECTIONS: usize = 8;
/// A year, in seconds.
const LONGEST_WAIT: u64 = 31_536_000;

#[derive(Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    common: CommonSettings,
    #[command(flatten)]
    server: ServerSettings,
}

#[derive(Args)]
pub(super) struct SyncArgs {
    #[command(flatten)]
    common: CommonSettings,
    #[command(flatten)]
    server: ServerSettings,
    /// Last block to index [default: the node's tip]
    #[arg(long, value_name = "HEIGHT")]
    until: Option<u32>,
    /// How long to wait for a node that does not answer, is behind the index, or has become another one, in seconds
    #[arg(
        long,
        env = "SPINDEX_WAIT",
        value_name = "SECONDS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(..=LONGEST_WAIT)
    )]
    wait: u64,
}

#[derive(Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    common: CommonSettings,
    #[command(flatten)]
    server: ServerSettings,
}

pub(super) fn run(args: RunArgs) -> Result<()> {
    let (common, server) = config::complete(args.common, args.server)?;
    block_on(&common.compute, async {
        let store = Arc::new(open_store(&common, &server, Store::open)?);
        let stop = Stop::new();
        stop.on_signal()?;
        let Node { source: node, rpc } = node(&common, &server)?;
        let listener = bind(&server).await?;
        let engine = common.compute.engine()?;
        let progress = Arc::new(SyncProgress::default());
        let indexer = indexer(
            &server,
            engine.clone(),
            store.clone(),
            node.clone(),
            None,
            &stop,
            reporting(&progress),
        )?;

        // Whichever ends first, by a failure or a signal, ends the other.
        let serving = async {
            let served = serve_api(
                listener,
                desk(store.clone(), Some(node), engine),
                server.answers_mib,
                stop.clone(),
            )
            .await;
            stop.request();
            served
        };
        let indexing = async {
            let indexed = async {
                indexer.check_source().await?;
                let signal = stop.unless(tip_signal(&server, rpc)).await.flatten();
                sync_and_compact(&indexer, None, &store, &progress, &stop).await?;
                anyhow::Ok(indexer.follow(signal.as_ref()).await?)
            }
            .await;
            stop.request();
            indexed
        };
        let (served, indexed) = tokio::join!(serving, indexing);
        indexed?;
        served
    })
}

pub(super) fn sync(args: SyncArgs) -> Result<()> {
    let (common, server) = config::complete(args.common, args.server)?;
    block_on(&common.compute, async {
        let store = Arc::new(open_store(&common, &server, Store::open)?);
        let stop = Stop::new();
        stop.on_signal()?;
        let node = node(&common, &server)?.source;
        let wait = Some(Duration::from_secs(args.wait));
        let progress = Arc::new(SyncProgress::default());
        let indexer = indexer(
            &server,
            common.compute.engine()?,
            store.clone(),
            node,
            wait,
            &stop,
            reporting(&progress),
        )?;
        indexer.check_source().await?;
        match sync_and_compact(&indexer, args.until, &store, &progress, &stop).await? {
            // What was asked for is not done, and a script that goes on from an exit status must not take it for done.
            tip if stop.is_requested() => {
                let reached = tip.map_or("before the first block".to_owned(), |tip| {
                    format!("at height {}", tip.height)
                });
                bail!("stopped {reached} by a signal; the same command goes on from there");
            }
            Some(tip) => tracing::info!(%tip, "in sync"),
            None => tracing::info!("the node's chain ends below the first height to index"),
        }
        Ok(())
    })
}

fn reporting(progress: &Arc<SyncProgress>) -> impl Fn(&BatchReport) + Send + Sync + 'static {
    let progress = progress.clone();
    move |report| progress.report(report)
}

/// Syncs, and gives back the slack in the file if that is worthwhile. Answers what the index's tip is then.
async fn sync_and_compact(
    indexer: &Indexer,
    until: Option<u32>,
    store: &Arc<Store>,
    progress: &SyncProgress,
    stop: &Stop,
) -> Result<Option<BlockId>> {
    let tip = indexer.sync(until).await?;
    if !stop.is_requested() {
        compact_if_worthwhile(store, stop, progress.blocks(), Compaction::DEFAULT).await?;
    }
    Ok(tip)
}

pub(super) fn serve(args: ServeArgs) -> Result<()> {
    let (common, server) = config::complete(args.common, args.server)?;
    block_on(&common.compute, async {
        let store = Arc::new(open_store(&common, &server, Store::open_existing)?);
        let stop = Stop::new();
        stop.on_signal()?;
        // A node is only asked for broadcasts and details of spends, and only where the user names one.
        let node = match server.node_url.is_some() || server.rpc_url.is_some() {
            true => Some(node(&common, &server)?.source),
            false => None,
        };
        let listener = bind(&server).await?;
        let engine = common.compute.engine()?;
        serve_api(
            listener,
            desk(store, node, engine),
            server.answers_mib,
            stop,
        )
        .await
    })
}

/// Runs a command's async part on a runtime of its own, after sizing rayon's pool.
pub(super) fn block_on<T>(
    compute: &ComputeSettings,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    if let Some(threads) = compute.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .context("cannot start threads")?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(work)
}

/// Serves until the stop, and says where in a line that scripts may wait for.
pub(super) async fn serve_api(
    listener: TcpListener,
    desk: Arc<Desk>,
    answers_mib: Option<usize>,
    stop: Stop,
) -> Result<()> {
    tracing::info!("serving HTTP on {}", listener.local_addr()?);
    let requested = async move { stop.requested().await };
    let defaults = ServeSettings::default();
    let most = defaults.max_connections + defaults.max_waiting_connections;
    let places = connections(runtime::open_files_limit(), most);
    if places < most {
        tracing::info!("at most {places} connections at a time: few files may be open (ulimit -n)");
    }
    let max_waiting_connections = places * defaults.max_waiting_connections / most;
    let settings = ServeSettings {
        max_connections: places - max_waiting_connections,
        max_waiting_connections,
        kept_answer_bytes: answers_mib.map_or(defaults.kept_answer_bytes, |mib| {
            (mib as u64).saturating_mul(1 << 20)
        }),
        ..defaults
    };
    let listener = Listener::http(listener);
    api::serve(vec![listener], desk, requested, settings)
        .await
        .context("the HTTP server failed")
}

/// A desk with default bounds.
pub(super) fn desk(
    store: Arc<Store>,
    node: Option<Arc<dyn BlockSource>>,
    engine: Arc<dyn Engine>,
) -> Arc<Desk> {
    let settings = DeskSettings {
        engine,
        ..DeskSettings::default()
    };
    Desk::new(store, node, settings)
}

/// How many connections leave room for all other files, where so many may be open.
fn connections(open_files: Option<u64>, most: usize) -> usize {
    let room = open_files.map(|limit| limit.saturating_sub(OTHER_FILES));
    let room = room.map_or(most, |room| usize::try_from(room).unwrap_or(most));
    room.clamp(FEWEST_CONNECTIONS, most)
}

/// Where the network's index file is, and what it is opened with.
pub(super) fn index_file(
    common: &CommonSettings,
    server: &ServerSettings,
) -> Result<(PathBuf, StoreOptions)> {
    let path = common.network_dir()?.join(store::FILE_NAME);
    let options = StoreOptions {
        network: common.network(),
        first_height: server.first_height,
        keep: server.keep.map(|name| name.0),
        tweak_form: server.tweak_form.map(|name| name.0),
        undo_depth: server.undo_depth.unwrap_or(DEFAULT_UNDO_DEPTH),
        cache_bytes: config::mib(server.cache_mib.unwrap_or(256)),
    };
    Ok((path, options))
}

/// Opens the network's index file in the given way. To be called before signals are caught: opening a file can take long
/// (a migration, a check after a crash) and be ended at any moment.
fn open_store(
    common: &CommonSettings,
    server: &ServerSettings,
    open: impl Fn(&Path, &StoreOptions) -> Result<Store, StoreError>,
) -> Result<Store> {
    let (path, options) = index_file(common, server)?;
    let store = open(&path, &options)?;
    tracing::info!(
        "index {} ({}{}{})",
        path.display(),
        common.network().to_core_arg(),
        match store.keep() {
            Keep::Full => "",
            Keep::Tweaks => ", tweaks only",
        },
        match store.tweak_form() {
            TweakForm::Compressed => ", compressed",
            TweakForm::Point => "",
            TweakForm::PointAndMultiple => ", with multiples",
        },
    );
    Ok(store)
}

async fn bind(server: &ServerSettings) -> Result<TcpListener> {
    let address = match server.http_bind {
        Some(address) => address,
        None => DEFAULT_BIND.parse()?,
    };
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; choose another address with --http-bind")
    })
}

fn indexer(
    server: &ServerSettings,
    engine: Arc<dyn Engine>,
    store: Arc<Store>,
    node: Arc<dyn BlockSource>,
    give_up_after: Option<Duration>,
    stop: &Stop,
    on_batch: impl Fn(&BatchReport) + Send + Sync + 'static,
) -> Result<Indexer> {
    let settings = index_settings(server, give_up_after)?;
    Ok(Indexer::new(
        store,
        node,
        engine,
        settings,
        stop.clone(),
        on_batch,
    ))
}

/// How the settings want blocks to be indexed.
pub(super) fn index_settings(
    server: &ServerSettings,
    give_up_after: Option<Duration>,
) -> Result<IndexSettings> {
    let defaults = IndexSettings::default();
    let settings = IndexSettings {
        in_flight: server.in_flight.unwrap_or(defaults.in_flight),
        budget_bytes: server.fetch_mib.map_or(defaults.budget_bytes, config::mib),
        batch_bytes: server.batch_mib.map_or(defaults.batch_bytes, config::mib),
        long_sync_blocks: server.long_sync_blocks.unwrap_or(defaults.long_sync_blocks),
        poll_interval: server
            .poll_ms
            .map_or(defaults.poll_interval, Duration::from_millis),
        give_up_after,
    };
    Ok(settings)
}

/// The node as the settings describe it.
pub(super) struct Node {
    pub(super) source: Arc<dyn BlockSource>,
    /// Its RPC, where there are credentials.
    rpc: Option<RpcSettings>,
}

/// Reads the settings of the node; nothing is asked of it yet.
pub(super) fn node(common: &CommonSettings, server: &ServerSettings) -> Result<Node> {
    let network = common.network();
    for (url, flag) in [
        (&server.node_url, "--node-url"),
        (&server.rpc_url, "--rpc-url"),
    ] {
        if let Some(url) = url {
            chain::check_address(url, flag).map_err(|error| usage!("{error}"))?;
        }
    }
    // One node has one address for both, unless it is told otherwise.
    let usual_url = format!("http://127.0.0.1:{}", default_port(network));
    let (url, rpc_url) = match (&server.node_url, &server.rpc_url) {
        (Some(url), Some(rpc_url)) => (url.clone(), rpc_url.clone()),
        (Some(url), None) | (None, Some(url)) => (url.clone(), url.clone()),
        (None, None) => (usual_url.clone(), usual_url),
    };
    let with_rpc = |auth| RpcSettings { url: rpc_url, auth };
    let usual_cookie = default_cookie(network);
    let (auth, is_guessed) = match (&server.rpc_user, &server.rpc_password, &server.rpc_cookie) {
        (Some(user), Some(password), _) => {
            let user = user.clone();
            let password = password.expose().to_owned().into();
            (Some(RpcAuth::UserPassword { user, password }), false)
        }
        (Some(_), None, _) => {
            return Err(usage!(
                "--rpc-user needs a password in SPINDEX_RPC_PASSWORD or the configuration file"
            ));
        }
        (None, _, Some(cookie)) => (Some(RpcAuth::CookieFile(cookie.clone())), false),
        (None, _, None) => (usual_cookie.clone().map(RpcAuth::CookieFile), true),
    };
    // A cookie at the usual place may be another node's, or come later: REST works without.
    let is_there = !is_guessed || usual_cookie.is_some_and(|path| path.exists());
    // And a node elsewhere is not to see what opens the one on this machine.
    let is_meant = |rpc: &RpcSettings| !is_guessed || rpc.is_local();
    let rpc = auth.map(with_rpc).filter(is_meant);
    let for_broadcasting = rpc.clone().filter(|_| is_there);

    let kind = server.source.unwrap_or_default();
    let in_flight = server
        .in_flight
        .unwrap_or(IndexSettings::default().in_flight);
    let mut sources: Vec<Arc<dyn BlockSource>> = Vec::new();
    if kind != SourceKind::Rpc {
        if for_broadcasting.is_none() {
            tracing::info!(
                "no RPC credentials: transactions cannot be broadcast (see --rpc-cookie)"
            );
        }
        sources.push(Arc::new(RestSource::new(RestSettings {
            url,
            timeout: NODE_TIMEOUT,
            rpc: for_broadcasting,
            max_in_flight: in_flight,
        })?));
    }
    if let (true, Some(rpc)) = (kind != SourceKind::Rest, &rpc) {
        sources.push(Arc::new(RpcSource::new(
            rpc.clone(),
            NODE_TIMEOUT,
            in_flight,
        )?));
    }
    if sources.is_empty() {
        return Err(usage!(
            "--source rpc needs credentials: give --rpc-cookie, or --rpc-user and SPINDEX_RPC_PASSWORD"
        ));
    }
    let folder = match &server.blocks_dir {
        Some(folder) => Some(folder.clone()),
        None => default_dir(network).map(|dir| dir.join("blocks")),
    };
    let signet_challenge = server.signet_challenge.as_ref();
    if signet_challenge.is_some() && network != Network::Signet {
        return Err(usage!("--signet-challenge needs --network signet"));
    }
    let files = |folder, node| {
        Arc::new(FilesSource::new(FilesSettings {
            node,
            signet_challenge: signet_challenge.map(|challenge| challenge.0.clone()),
            ..FilesSettings::new(folder, network)
        }))
    };
    match (kind, folder) {
        (SourceKind::Files, None) => {
            return Err(usage!("--source files needs --blocks-dir"));
        }
        (SourceKind::Files, Some(folder)) => {
            // Without a word about a node there need not be one.
            let has_node = server.node_url.is_some() || server.rpc_url.is_some() || !is_guessed;
            let node = has_node.then(|| first_of(sources, network));
            sources = vec![files(folder, node)];
        }
        (SourceKind::Auto, Some(folder)) if server.blocks_dir.is_some() || folder.exists() => {
            let node = first_of(sources.clone(), network);
            sources.insert(0, files(folder, Some(node)));
        }
        _ => {}
    }
    let source = first_of(sources, network);
    tracing::info!("node: {}", source.describe());
    Ok(Node { source, rpc })
}

/// The first of the sources that works.
fn first_of(sources: Vec<Arc<dyn BlockSource>>, network: Network) -> Arc<dyn BlockSource> {
    match <[_; 1]>::try_from(sources) {
        Ok([source]) => source,
        Err(sources) => Arc::new(FirstWorking::new(sources, network)),
    }
}

/// Listens to the node's ZMQ where the settings name an address, or the node one on this machine.
async fn tip_signal(server: &ServerSettings, rpc: Option<RpcSettings>) -> Option<TipSignal> {
    let address = match &server.zmq {
        Some(address) => address.clone(),
        None => {
            let rpc = rpc?;
            if !rpc.is_local() {
                return None;
            }
            let rpc = RpcClient::new(rpc, NODE_TIMEOUT).ok()?;
            match rpc.zmq_notifications().await {
                Ok(notifications) => ZmqAddress::local(&notifications)?,
                Err(error) => {
                    tracing::debug!("the node does not say whether it publishes by ZMQ: {error}");
                    return None;
                }
            }
        }
    };
    Some(TipSignal::listen(address))
}

/// The port Bitcoin Core's REST and RPC share, by network.
fn default_port(network: Network) -> u16 {
    match network {
        Network::Bitcoin => 8332,
        Network::Testnet => 18332,
        Network::Testnet4 => 48332,
        Network::Signet => 38332,
        Network::Regtest => 18443,
    }
}

/// Where Bitcoin Core keeps its cookie unless told otherwise.
fn default_cookie(network: Network) -> Option<PathBuf> {
    Some(default_dir(network)?.join(".cookie"))
}

/// Bitcoin Core's folder of a network unless it is told otherwise.
fn default_dir(network: Network) -> Option<PathBuf> {
    let dir = std::env::home_dir()?.join(".bitcoin");
    Some(match network {
        Network::Bitcoin => dir,
        Network::Testnet => dir.join("testnet3"),
        Network::Testnet4 => dir.join("testnet4"),
        Network::Signet => dir.join("signet"),
        Network::Regtest => dir.join("regtest"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_cookie_is_for_a_node_on_this_machine() {
        let with = |url: &str, cookie: Option<&str>| {
            let server = ServerSettings {
                node_url: Some(url.to_owned()),
                rpc_cookie: cookie.map(PathBuf::from),
                ..ServerSettings::default()
            };
            node(&CommonSettings::default(), &server).unwrap().rpc
        };
        let file = |rpc: Option<RpcSettings>| match rpc.unwrap().auth {
            RpcAuth::CookieFile(path) => path,
            RpcAuth::UserPassword { .. } => panic!("nobody gave a password"),
        };
        for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
            assert!(file(with(url, None)).ends_with(".bitcoin/.cookie"), "{url}");
        }
        for url in ["http://192.0.2.1:1", "http://127.0.0.1.example:1"] {
            assert!(with(url, None).is_none(), "{url}");
            assert_eq!(file(with(url, Some("here"))), Path::new("here"));
        }
    }

    #[test]
    fn connections_leave_room_for_other_files() {
        for (limit, wanted) in [
            (None, 768),
            (Some(u64::MAX), 768),
            (Some(1024), 768),
            (Some(864), 768),
            (Some(863), 767),
            (Some(256), 160),
            (Some(100), 8),
            (Some(0), 8),
        ] {
            assert_eq!(connections(limit, 768), wanted, "{limit:?}");
        }
    }
}
