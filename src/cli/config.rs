//! Settings: defaults, then the configuration file, then the environment, then flags.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Result, bail};
use bitcoin::{Network, ScriptBuf};
use clap::builder::{RangedU64ValueParser, Resettable};
use clap::error::ContextKind;
use clap::{Args, FromArgMatches, ValueEnum};
use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::engine::{EngineName, engine};
use crate::chain::zmq::ZmqAddress;
use crate::curve::{Engine, EngineKind};
use crate::store::{Keep, TweakForm};

/// Wrong usage: the process exits with status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Builds a [`UsageError`] inside an [`anyhow::Error`].
macro_rules! usage {
    ($($argument:tt)*) => {
        anyhow::Error::new($crate::cli::config::UsageError(format!($($argument)*)))
    };
}
pub(super) use usage;

/// A network by any of the names in use: Bitcoin Core's (`main`, `test`, …) and others' (`mainnet`, `testnet`, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkName(pub Network);

impl FromStr for NetworkName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(Self(match name {
            "main" | "mainnet" | "bitcoin" => Network::Bitcoin,
            "test" | "testnet" | "testnet3" => Network::Testnet,
            "testnet4" => Network::Testnet4,
            "signet" => Network::Signet,
            "regtest" => Network::Regtest,
            _ => {
                return Err(format!(
                    "unknown network {name:?}; choose main, test, testnet4, signet or regtest"
                ));
            }
        }))
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_core_arg())
    }
}

/// The challenge of a signet of one's own, in hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SignetChallenge(pub(super) ScriptBuf);

impl FromStr for SignetChallenge {
    type Err = String;

    fn from_str(hex: &str) -> Result<Self, String> {
        match ScriptBuf::from_hex(hex) {
            Ok(script) if !script.is_empty() => Ok(Self(script)),
            Ok(_) => Err("a signet challenge is not empty".to_owned()),
            Err(e) => Err(format!(
                "no script in hex ({e}); give what the node has in -signetchallenge"
            )),
        }
    }
}

/// Where blocks are read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum SourceKind {
    /// The fastest of the following that works
    #[default]
    Auto,
    /// Bitcoin Core's block files (--blocks-dir), with or without the node running
    Files,
    /// Bitcoin Core's REST interface (30 or newer, -rest)
    Rest,
    /// Bitcoin Core's RPC interface (23 or newer), much slower
    Rpc,
    /// Another spindex server (--upstream), without a node: rows instead of blocks, each held against what binds it
    Spindex,
}

/// What an index keeps, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeepName(pub(super) Keep);

impl FromStr for KeepName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let keep = Keep::from_name(name).map(Self);
        keep.ok_or_else(|| format!("unknown choice {name:?}; choose full or tweaks"))
    }
}

/// How an index stores its tweaks, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TweakFormName(pub(super) TweakForm);

impl FromStr for TweakFormName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let form = TweakForm::from_name(name).map(Self);
        form.ok_or_else(|| {
            format!("unknown choice {name:?}; choose compressed, point or point-and-multiple")
        })
    }
}

/// A text that `Debug` masks and that is wiped when dropped.
#[derive(Clone)]
pub(super) struct Secret(Zeroizing<String>);

impl Secret {
    pub(super) fn new(text: impl Into<Zeroizing<String>>) -> Self {
        Self(text.into())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// More threads than any machine has cores.
pub(super) const MOST_THREADS: u64 = 4_096;

/// More memory than any machine has: 1 TiB.
const MOST_MIB: u64 = 1 << 20;

/// A number in this range, both ends included.
pub(super) fn whole(least: u64, most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(least..=most)
}

/// As many bytes.
pub(super) fn mib(mib: usize) -> usize {
    mib.saturating_mul(1 << 20)
}

/// Settings of every command that works on a data directory.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct CommonSettings {
    /// Configuration file [default: spindex.toml in the data directory, if there is one]
    #[arg(long, env = "SPINDEX_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Network: main, test, testnet4, signet or regtest [default: main]
    #[arg(long, env = "SPINDEX_NETWORK")]
    pub(super) network: Option<NetworkName>,
    /// Data directory; each network has a folder of its own in it [default: ~/.spindex]
    #[arg(long, env = "SPINDEX_DATA_DIR", value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(super) compute: ComputeSettings,
}

/// Settings of every command that computes.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ComputeSettings {
    /// Threads for computing [default: one per core]
    #[arg(long, env = "SPINDEX_THREADS", value_name = "N", value_parser = whole(1, MOST_THREADS))]
    pub(super) threads: Option<usize>,
    /// Engine for the curve work: auto (the fastest this processor runs), ifma, avx512, avx2, portable or libsecp256k1
    #[arg(long, env = "SPINDEX_ENGINE", value_name = "NAME")]
    pub(super) engine: Option<EngineName>,
}

/// Settings of the index and its server.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ServerSettings {
    /// Where to read blocks from [default: auto]
    #[arg(long, env = "SPINDEX_SOURCE", value_name = "SOURCE")]
    pub(super) source: Option<SourceKind>,
    /// Spindex server to build the index from and to follow, or exported files: a base address, a folder or a bucket
    /// (--source spindex; may be repeated: what files lack, and what comes after them, is taken from the next one)
    #[arg(long, env = "SPINDEX_UPSTREAM", value_name = "URL|FOLDER")]
    pub(super) upstream: Option<Vec<String>>,
    /// How many random blocks of an index from another server are held against a node's (--node-url) once it is in sync
    /// [default: 0]
    #[arg(long, env = "SPINDEX_VERIFY_BLOCKS", value_name = "N")]
    pub(super) verify_blocks: Option<u32>,
    /// Folder of Bitcoin Core's block files [default: its usual place]
    #[arg(long, env = "SPINDEX_BLOCKS_DIR", value_name = "DIR")]
    pub(super) blocks_dir: Option<PathBuf>,
    /// Challenge of a signet of one's own (the node's -signetchallenge), to read its block files with [default: what the
    /// node says]
    #[arg(long, env = "SPINDEX_SIGNET_CHALLENGE", value_name = "HEX")]
    pub(super) signet_challenge: Option<SignetChallenge>,
    /// Address of Bitcoin Core's REST interface [default: the RPC URL, or http://127.0.0.1 and the network's port]
    #[arg(long, env = "SPINDEX_NODE_URL", value_name = "URL")]
    pub(super) node_url: Option<String>,
    /// Address of Bitcoin Core's RPC interface, for broadcasting and as a source of blocks [default: the node URL]
    #[arg(long, env = "SPINDEX_RPC_URL", value_name = "URL")]
    pub(super) rpc_url: Option<String>,
    /// Cookie file with the RPC credentials [default: Bitcoin Core's usual place, if it is there and the node on this machine]
    #[arg(long, env = "SPINDEX_RPC_COOKIE", value_name = "FILE")]
    pub(super) rpc_cookie: Option<PathBuf>,
    /// RPC user; the password comes from SPINDEX_RPC_PASSWORD or the configuration file
    #[arg(long, env = "SPINDEX_RPC_USER", value_name = "NAME")]
    pub(super) rpc_user: Option<String>,
    /// Never a flag: arguments are visible to every user of the machine.
    #[arg(skip)]
    pub(super) rpc_password: Option<Secret>,
    /// Where the node publishes new blocks by ZMQ (its -zmqpubhashblock or -zmqpubsequence), tcp://HOST:PORT: they are
    /// then seen at once [default: what the node says, if it is on this machine]
    #[arg(long, env = "SPINDEX_ZMQ", value_name = "ADDR")]
    pub(super) zmq: Option<ZmqAddress>,
    /// Address the HTTP server listens on [default: 127.0.0.1:8000]
    #[arg(long, env = "SPINDEX_HTTP_BIND", value_name = "ADDR")]
    pub(super) http_bind: Option<SocketAddr>,
    /// First block to index [default: activation of taproot on main and test, 1 elsewhere]
    #[arg(long, env = "SPINDEX_FIRST_HEIGHT", value_name = "HEIGHT")]
    pub(super) first_height: Option<u32>,
    /// What to keep of each block: full, or tweaks alone, which is enough for /tweak-index and for nothing else; chosen
    /// once, when the index is built [default: as the index is, full for a new one]
    #[arg(long, env = "SPINDEX_KEEP", value_name = "full|tweaks")]
    pub(super) keep: Option<KeepName>,
    /// How to store a tweak T: compressed (33 bytes), point (64 bytes, ready for scans of the index itself) or
    /// point-and-multiple (with 2^64·T, 128 bytes, for which such a scan, by the library, as no command does one yet, saves 64
    /// of its about 130 doublings); chosen once, when the index is built [default: as the index is, point for a new one]
    #[arg(
        long,
        env = "SPINDEX_TWEAK_FORM",
        value_name = "compressed|point|point-and-multiple"
    )]
    pub(super) tweak_form: Option<TweakFormName>,
    /// How many of the last blocks a reorg may replace [default: 288]
    #[arg(long, env = "SPINDEX_UNDO_DEPTH", value_name = "BLOCKS")]
    pub(super) undo_depth: Option<u32>,
    /// Requests to the node under way at a time [default: 8]
    #[arg(long, env = "SPINDEX_IN_FLIGHT", value_name = "N", value_parser = whole(1, 1_000))]
    pub(super) in_flight: Option<usize>,
    /// Fetched blocks held in memory, in MiB of their serialized size [default: 128]
    #[arg(long, env = "SPINDEX_FETCH_MIB", value_name = "MIB", value_parser = whole(0, MOST_MIB))]
    pub(super) fetch_mib: Option<usize>,
    /// Most rows of a commit, in MiB; as many again are gathered for the next one meanwhile [default: 96]
    #[arg(long, env = "SPINDEX_BATCH_MIB", value_name = "MIB", value_parser = whole(1, MOST_MIB))]
    pub(super) batch_mib: Option<usize>,
    /// From how many missing blocks on a sync leaves the rows that find unspent outputs for its end, where the source
    /// knows which height created what is spent (files, rpc) [default: 2000]
    #[arg(long, env = "SPINDEX_LONG_SYNC_BLOCKS", value_name = "BLOCKS")]
    pub(super) long_sync_blocks: Option<u32>,
    /// Cache of the index file in MiB [default: 256]
    #[arg(long, env = "SPINDEX_CACHE_MIB", value_name = "MIB", value_parser = whole(0, MOST_MIB))]
    pub(super) cache_mib: Option<usize>,
    /// Answers kept ready to be sent, in MiB: each is read, encoded and compressed once for all who ask [default: 64]
    #[arg(long, env = "SPINDEX_ANSWERS_MIB", value_name = "MIB", value_parser = whole(0, MOST_MIB))]
    pub(super) answers_mib: Option<usize>,
    /// Pause between two looks at the node's tip, in milliseconds [default: 2000]
    #[arg(long, env = "SPINDEX_POLL_MS", value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub(super) poll_ms: Option<u64>,
    /// Follow the node's mempool, by RPC and best by ZMQ (its -zmqpubsequence and -zmqpubrawtx): spends of what is watched
    /// are seen before a block has them [default: false]
    #[arg(
        long,
        env = "SPINDEX_MEMPOOL",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub(super) mempool: Option<bool>,
    /// How many of the last events of what is watched stay in the log at least; of older ones goes what whoever reads the log
    /// by name has taken [default: all stay]
    #[arg(long, env = "SPINDEX_KEEP_EVENTS", value_name = "N")]
    pub(super) keep_events: Option<u64>,
}

/// The RPC password in a configuration file.
const PASSWORD_KEY: &str = "rpc_password";

/// The environment variable of the RPC password.
const RPC_PASSWORD_VARIABLE: &str = "SPINDEX_RPC_PASSWORD";

/// Takes each field from the first argument, or else from the second.
macro_rules! overlay {
    ($over:expr, $under:expr; $($field:ident),* $(,)?) => {{
        let (over, under) = ($over, $under);
        Self { $($field: over.$field.or(under.$field)),* }
    }};
}

impl CommonSettings {
    fn over(self, file: Self) -> Self {
        Self {
            config: self.config.or(file.config),
            network: self.network.or(file.network),
            data_dir: self.data_dir.or(file.data_dir),
            compute: self.compute.over(file.compute),
        }
    }

    /// The network, main unless told otherwise.
    pub(super) fn network(&self) -> Network {
        self.network.map_or(Network::Bitcoin, |name| name.0)
    }

    /// The network's folder in the data directory.
    ///
    /// # Errors
    /// No data directory is set and there is no home directory either.
    pub(super) fn network_dir(&self) -> Result<PathBuf> {
        Ok(data_dir(self.data_dir.as_deref())?.join(self.network().to_core_arg()))
    }
}

impl ComputeSettings {
    fn over(self, file: Self) -> Self {
        overlay!(self, file; threads, engine)
    }

    /// The engine for the curve work, after its self-check; the log says which one it is.
    ///
    /// # Errors
    /// This processor cannot run the engine asked for.
    pub(super) fn engine(&self) -> Result<Arc<dyn Engine>> {
        let kind = self.engine.map_or(EngineKind::Auto, |name| name.0);
        let engine = engine(kind).map_err(|error| usage!("{error}"))?;
        tracing::info!("curve engine: {}", engine.name());
        Ok(engine)
    }
}

impl ServerSettings {
    fn over(self, file: Self) -> Self {
        overlay!(self, file; source, upstream, verify_blocks, blocks_dir, signet_challenge, zmq, node_url, rpc_url, rpc_cookie, rpc_user, rpc_password, http_bind, first_height,
            keep, tweak_form, undo_depth, in_flight, fetch_mib, batch_mib, long_sync_blocks,
            cache_mib, answers_mib, poll_ms, mempool, keep_events)
    }
}

fn data_dir(setting: Option<&Path>) -> Result<PathBuf> {
    match setting {
        Some(dir) => Ok(dir.to_owned()),
        None => std::env::home_dir()
            .map(|home| home.join(".spindex"))
            .ok_or_else(|| {
                usage!("there is no home directory; name a data directory with --data-dir")
            }),
    }
}

/// Completes flags and environment, which clap has joined, with the configuration file and the password variable.
///
/// # Errors
/// A configuration file that is named but missing, that cannot be read, or that has an unknown key or a bad value.
pub(super) fn complete(
    common: CommonSettings,
    server: ServerSettings,
) -> Result<(CommonSettings, ServerSettings)> {
    let mut server = server;
    if let Ok(password) = std::env::var(RPC_PASSWORD_VARIABLE) {
        server.rpc_password = Some(Secret::new(password));
    }
    let path = match &common.config {
        Some(path) => path.clone(),
        None => {
            let path = data_dir(common.data_dir.as_deref())?.join("spindex.toml");
            if !path.exists() {
                return Ok((common, server));
            }
            path
        }
    };
    let text = std::fs::read_to_string(&path).map_err(|error| {
        usage!(
            "cannot read the configuration file {}: {error}",
            path.display()
        )
    })?;
    let (common_file, server_file) = parse(&Zeroizing::new(text))
        .map_err(|error| usage!("configuration file {}, {error:#}", path.display()))?;
    if server_file.rpc_password.is_some() && is_open_to_others(&path) {
        tracing::warn!(
            "{path} holds a password and is open to other users of this machine: `chmod 600 {path}` takes that away",
            path = path.display()
        );
    }
    Ok((common.over(common_file), server.over(server_file)))
}

/// The settings of a configuration file. A value is read as that of the flag with the key's name.
///
/// # Errors
/// The line, the key, and what is wrong with it; never the value of the password.
fn parse(text: &str) -> Result<(CommonSettings, ServerSettings)> {
    let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    // The parser's own message quotes the line, which may hold the password: only its position is passed on.
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        anyhow::anyhow!("line {}: no valid TOML", line(at))
    })?;
    let command = settings();
    let mut arguments = vec![String::new()];
    let mut password = None;
    for (key, value) in table.get_ref() {
        let line = line(key.span().start);
        let key = key.get_ref().as_ref();
        let argument = command
            .get_arguments()
            .find(|argument| key != "config" && argument.get_id() == key);
        let value = match (value.get_ref(), key, argument) {
            (DeValue::String(text), PASSWORD_KEY, _) => {
                password = Some(Secret::new(text.clone().into_owned()));
                continue;
            }
            (_, PASSWORD_KEY, _) => bail!("line {line}: the value of `{key}` is no text"),
            (_, _, None) => bail!(
                "line {line}: unknown key `{key}` (known: {})",
                known_keys().into_iter().collect::<Vec<_>>().join(", ")
            ),
            (DeValue::String(text), ..) => text.clone().into_owned(),
            (DeValue::Boolean(value), ..) => value.to_string(),
            (DeValue::Integer(number), ..) => {
                match i128::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => number.to_string(),
                    Err(_) => number.as_str().to_owned(),
                }
            }
            _ => bail!(
                "line {line}: the value of `{key}` is neither a text nor a whole number, true or false"
            ),
        };
        let argument = format!("--{}={value}", key.replace('_', "-"));
        command
            .clone()
            .try_get_matches_from(["", &argument])
            .map_err(|error| {
                anyhow::anyhow!("line {line}: bad value for `{key}`: {}", cause(&error))
            })?;
        arguments.push(argument);
    }
    let matches = command.try_get_matches_from(arguments)?;
    let mut server = ServerSettings::from_arg_matches(&matches)?;
    server.rpc_password = password;
    Ok((CommonSettings::from_arg_matches(&matches)?, server))
}

/// What is wrong with a value, without the flag and the usage that clap would name.
fn cause(error: &clap::Error) -> String {
    if let Some(source) = error.source() {
        return source.to_string();
    }
    let choices = error
        .get(ContextKind::ValidValue)
        .map(|choices| choices.to_string());
    match choices.filter(|choices| !choices.is_empty()) {
        Some(choices) => format!("choose one of {choices}"),
        None => "it is empty".to_owned(),
    }
}

#[cfg(unix)]
fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(_: &Path) -> bool {
    false
}

/// The flags that are keys of a configuration file, without their environment variables.
fn settings() -> clap::Command {
    let command =
        ServerSettings::augment_args(CommonSettings::augment_args(clap::Command::new("")));
    command.mut_args(|argument| argument.env(Resettable::Reset))
}

/// Every key a configuration file may have: the names of the flags, and the password, which is none.
pub(super) fn known_keys() -> BTreeSet<String> {
    let settings = settings();
    let flags = settings
        .get_arguments()
        .map(|argument| argument.get_id().to_string());
    flags
        .filter(|key| key != "config")
        .chain([PASSWORD_KEY.to_owned()])
        .collect()
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_nothing() {
        let (_, file) = parse("node_url = 'http://file'\nundo_depth = 7").unwrap();
        let flags = ServerSettings {
            node_url: Some("http://flag".to_owned()),
            ..Default::default()
        };
        let settings = flags.over(file);
        assert_eq!(settings.node_url.as_deref(), Some("http://flag"));
        assert_eq!(settings.undo_depth, Some(7));
        assert_eq!(settings.first_height, None);
    }

    #[test]
    fn every_flag_is_a_key_of_the_file() {
        let text = "network = 'signet'\ndata_dir = '/d'\nthreads = 2\nengine = 'portable'\nsource = 'rpc'\nupstream = 'w'\nverify_blocks = 3\nblocks_dir = '/b'\nsignet_challenge = '51'\nzmq = 'tcp://h:1'\nnode_url = 'u'\nrpc_url = 'r'\nrpc_cookie = 'c'\n\
            rpc_user = 'n'\nrpc_password = 'p'\nhttp_bind = '127.0.0.1:1'\nfirst_height = 1\nkeep = 'tweaks'\ntweak_form = 'compressed'\nundo_depth = 2\nin_flight = 3\n\
            fetch_mib = 4\nbatch_mib = 5\nlong_sync_blocks = 8\ncache_mib = 6\nanswers_mib = 9\npoll_ms = 7\nmempool = true\nkeep_events = 10";
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table.keys().cloned().collect::<BTreeSet<_>>(), known_keys());
        let (common, server) = parse(text).unwrap();
        assert_eq!(common.network(), Network::Signet);
        assert_eq!(server.http_bind, Some("127.0.0.1:1".parse().unwrap()));
        assert_eq!(server.poll_ms, Some(7));
        assert_eq!((server.mempool, server.keep_events), (Some(true), Some(10)));
        assert_eq!(server.source, Some(SourceKind::Rpc));
        assert_eq!(server.zmq, "tcp://h:1".parse().ok());
        assert_eq!(server.signet_challenge, "51".parse().ok());
        assert_eq!(server.keep, Some(KeepName(Keep::Tweaks)));
        assert_eq!(
            server.tweak_form,
            Some(TweakFormName(TweakForm::Compressed))
        );
        for odd in ["keep = 'all'", "tweak_form = 'x'"] {
            assert!(parse(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = parse("nodeurl = 'x'").unwrap_err().to_string();
        assert!(
            error.contains("`nodeurl`") && error.contains("node_url"),
            "{error}"
        );
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let (_, server) = parse("rpc_password = 'correct horse'").unwrap();
        assert!(!format!("{server:?}").contains("horse"));
        for broken in [
            "rpc_password = correct horse",
            "rpc_password = ['correct horse']",
        ] {
            let error = format!("{:#}", parse(broken).unwrap_err());
            assert!(!error.contains("horse"), "{error}");
        }
    }

    #[test]
    fn networks_go_by_the_names_in_use() {
        for (name, network) in [
            ("main", Network::Bitcoin),
            ("bitcoin", Network::Bitcoin),
            ("testnet3", Network::Testnet),
            ("testnet4", Network::Testnet4),
            ("regtest", Network::Regtest),
        ] {
            assert_eq!(name.parse(), Ok(NetworkName(network)));
        }
        assert!(
            "mainet"
                .parse::<NetworkName>()
                .unwrap_err()
                .contains("choose main")
        );
    }
}
