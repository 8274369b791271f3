//! `spindex run`, `sync` and `serve`.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::net::TcpListener;

use super::compaction::{Compaction, compact_if_worthwhile};
use super::config::{self, CommonSettings, ComputeSettings, ServerSettings, usage};
use super::output::SyncProgress;
use super::sources::{Sources, sources, tip_signal};
use super::upstream::{Verify, upstream, verify, verify_replica};
use super::watching::{self, keep_log_short, see_spends};
use crate::BlockId;
use crate::api::desk::{Desk, DeskSettings};
use crate::api::{self, Listener, ServeSettings};
use crate::chain::rpc::RpcSettings;
use crate::chain::{BlockSource, Node};
use crate::curve::Engine;
use crate::index::{BatchReport, IndexSettings, Indexer};
use crate::mempool::Mempool;
use crate::replica::Upstream;
use crate::runtime::{self, Stop};
use crate::store::{self, Keep, Store, StoreError, StoreOptions, TweakForm};
use crate::watch::Registry;

pub(super) const DEFAULT_BIND: &str = "127.0.0.1:8000";
const DEFAULT_UNDO_DEPTH: u32 = 288;
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
        let watches = Registry::attach(store.clone())?;
        let stop = Stop::new();
        stop.on_signal()?;
        let engine = common.compute.engine()?;
        let origin = Origin::new(&common, &server, &store, &engine)?;
        let mempool = origin.mempool(&server, &engine, &store)?;
        let listener = bind(&server).await?;
        let progress = Arc::new(SyncProgress::default());
        let indexer = indexer(
            &server,
            engine.clone(),
            store.clone(),
            &origin,
            None,
            &stop,
            reporting(&progress),
        )?;
        let (blocks, node) = (origin.blocks.clone(), origin.node.clone());
        let rpc = origin.rpc.clone();
        let seeing = see_spends(&watches, mempool.as_ref(), node.as_ref(), &stop)?;
        let registry = Some(watches.clone());

        // Whichever ends first, by a failure or a signal, ends the other.
        let serving = async {
            let served = serve_api(
                listener,
                desk(
                    store.clone(),
                    blocks,
                    node,
                    engine.clone(),
                    registry,
                    mempool,
                ),
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
                let signal = async {
                    match &origin.upstream {
                        Some(upstream) => Some(upstream.tip_signal()),
                        None => tip_signal(&server, rpc).await,
                    }
                };
                let signal = stop.unless(signal).await.flatten();
                sync_and_compact(&indexer, None, &store, &progress, &stop).await?;
                origin
                    .verify(&server, &store, engine.as_ref(), &stop)
                    .await?;
                anyhow::Ok(indexer.follow(signal.as_ref()).await?)
            }
            .await;
            stop.request();
            indexed
        };
        let keeping = keep_log_short(&server, &watches, &stop);
        let (served, indexed, (), ()) = tokio::join!(serving, indexing, seeing, keeping);
        indexed?;
        served
    })
}

pub(super) fn sync(args: SyncArgs) -> Result<()> {
    let (common, server) = config::complete(args.common, args.server)?;
    block_on(&common.compute, async {
        let store = Arc::new(open_store(&common, &server, Store::open)?);
        Registry::attach(store.clone())?;
        let stop = Stop::new();
        stop.on_signal()?;
        let engine = common.compute.engine()?;
        let origin = Origin::new(&common, &server, &store, &engine)?;
        let wait = Some(Duration::from_secs(args.wait));
        let progress = Arc::new(SyncProgress::default());
        let indexer = indexer(
            &server,
            engine.clone(),
            store.clone(),
            &origin,
            wait,
            &stop,
            reporting(&progress),
        )?;
        indexer.check_source().await?;
        let mut tip = sync_and_compact(&indexer, args.until, &store, &progress, &stop).await?;
        if !stop.is_requested() {
            tip = indexer.fill_spenders(args.until).await?;
        }
        match tip {
            // What was asked for is not done, and a script that goes on from an exit status must not take it for done.
            tip if stop.is_requested() => {
                let reached = tip.map_or("before the first block".to_owned(), |tip| {
                    format!("at height {}", tip.height)
                });
                bail!("stopped {reached} by a signal; the same command goes on from there");
            }
            Some(tip) => {
                origin
                    .verify(&server, &store, engine.as_ref(), &stop)
                    .await?;
                tracing::info!(%tip, "in sync");
            }
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
        let (blocks, node) = match server.node_url.is_some() || server.rpc_url.is_some() {
            true => {
                let Sources { blocks, node, .. } = sources(&common, &server)?;
                (Some(blocks), node)
            }
            false => (None, None),
        };
        let listener = bind(&server).await?;
        let engine = common.compute.engine()?;
        serve_api(
            listener,
            // Nothing is followed here, so that nothing would come of a watch.
            desk(store, blocks, node, engine, None, None),
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
    blocks: Option<Arc<dyn BlockSource>>,
    node: Option<Arc<dyn Node>>,
    engine: Arc<dyn Engine>,
    watches: Option<Registry>,
    mempool: Option<Arc<Mempool>>,
) -> Arc<Desk> {
    let settings = DeskSettings {
        mempool,
        engine,
        watches,
        ..DeskSettings::default()
    };
    Desk::new(store, blocks, node, settings)
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
pub(super) fn open_store(
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
    if let Some(height) = store.snapshot()?.spenders_from() {
        tracing::warn!(
            "who spends what below height {height} is not known: the index was built before that was kept, or from a server that did not know; everything else is served, and `spindex run` and `sync` fill it in from the source"
        );
    }
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
    origin: &Origin,
    give_up_after: Option<Duration>,
    stop: &Stop,
    on_batch: impl Fn(&BatchReport) + Send + Sync + 'static,
) -> Result<Indexer> {
    let settings = index_settings(server, give_up_after)?;
    let source = origin.source()?;
    let mut indexer = Indexer::new(store, source, engine, settings, stop.clone(), on_batch);
    if let Some(upstream) = &origin.upstream {
        indexer = indexer.with_rows(upstream.clone());
    }
    if let Some(node) = &origin.node {
        indexer = indexer.with_node(node.clone());
    }
    Ok(indexer)
}

/// Where an index comes from, and what else is at hand.
struct Origin {
    /// Another server, instead of blocks.
    upstream: Option<Arc<Upstream>>,
    /// Blocks: what the index is made of, or, beside another server, those of a node that is named.
    blocks: Option<Arc<dyn BlockSource>>,
    node: Option<Arc<dyn Node>>,
    rpc: Option<RpcSettings>,
    verify: Option<Verify>,
}

impl Origin {
    fn new(
        common: &CommonSettings,
        server: &ServerSettings,
        store: &Store,
        engine: &Arc<dyn Engine>,
    ) -> Result<Self> {
        let upstream = upstream(common, server, store, engine)?;
        let has_node = server.node_url.is_some() || server.rpc_url.is_some();
        let (blocks, node, rpc) = match upstream.is_none() || has_node {
            true => {
                let Sources { blocks, node, rpc } = sources(common, server)?;
                (Some(blocks), node, rpc)
            }
            false => (None, None, None),
        };
        let verify = match &upstream {
            Some(_) => verify(server, blocks.clone())?,
            None if server.verify_blocks.is_some_and(|count| count > 0) => {
                return Err(usage!("--verify-blocks needs --source spindex"));
            }
            None => None,
        };
        Ok(Self {
            upstream,
            blocks,
            node,
            rpc,
            verify,
        })
    }

    /// The view of the node's mempool, if that is wanted.
    fn mempool(
        &self,
        server: &ServerSettings,
        engine: &Arc<dyn Engine>,
        store: &Arc<Store>,
    ) -> Result<Option<Arc<Mempool>>> {
        watching::mempool(server, self.node.as_ref(), self.rpc.as_ref(), engine, store)
    }

    /// What says how the chain looks.
    fn source(&self) -> Result<Arc<dyn BlockSource>> {
        match (&self.upstream, &self.blocks) {
            (Some(upstream), _) => Ok(upstream.clone()),
            (None, Some(blocks)) => Ok(blocks.clone()),
            (None, None) => bail!("no source of blocks"),
        }
    }

    /// Holds what came from another server against it once more, and against a node.
    async fn verify(
        &self,
        server: &ServerSettings,
        store: &Store,
        engine: &dyn Engine,
        stop: &Stop,
    ) -> Result<()> {
        match &self.upstream {
            Some(upstream) if !stop.is_requested() => {
                let undo_depth = server.undo_depth.unwrap_or(DEFAULT_UNDO_DEPTH);
                verify_replica(upstream, self.verify.as_ref(), store, engine, undo_depth).await
            }
            _ => Ok(()),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
