//! A real Bitcoin Core node in regtest mode, one per test.
//!
//! ```ignore
//! let node = TestNode::start(&[]);             // -rest and -server are on, everything else off
//! node.mine(101, &script);                     // rewards to a script the test can sign for
//! let source = RestSource::new(RestSettings::new(node.url()))?;
//! node.submit_block(&block)?;                  // for example one of a `SimulatedChain`
//! node.generate_block(&script, &[tx]);         // exactly these transactions, unconfirmed elsewhere
//! node.invalidate_block(hash);                 // a reorg: then mine the other branch
//! ```
//!
//! The daemon is that of `BITCOIND_EXE`, or the one `tests/get-node.sh` prints (and builds, once per machine).
//! The node has no wallet and no peers; data directory and port are its own, and it is stopped when dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::hashes::{Hash, HashEngine, Hmac, HmacEngine, sha256};
use bitcoin::{Block, BlockHash, Script, Transaction};
use serde_json::{Value, json};
use spindex::BlockId;
use spindex::chain::made::simulated::SimulatedChain;
use tempfile::TempDir;

use super::node_rpc::{NodeRpc, RpcFailure};

/// How long a node may take to start or stop; it takes a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at whether the node is ready.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running node; dropped, it is stopped.
pub(crate) struct TestNode {
    /// The network, as the node's argument.
    chain: &'static str,
    datadir: TempDir,
    port: u16,
    running: Option<(Child, NodeRpc)>,
}

impl TestNode {
    /// Starts a node with `-rest` and the given arguments, and waits until it answers.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_without_rest(&[&["-rest"], args].concat())
    }

    /// Starts a node with the given arguments alone.
    pub(crate) fn start_without_rest(args: &[&str]) -> Self {
        Self::start_on("-regtest", args)
    }

    /// Starts a node on another network than regtest, with the given arguments alone.
    pub(crate) fn start_on(chain: &'static str, args: &[&str]) -> Self {
        let datadir = tempfile::tempdir().unwrap();
        // Free ports are not reserved: somebody else may take one before the node does.
        for _ in 0..5 {
            let port = free_port();
            if let Some(running) = launch(chain, datadir.path(), port, args) {
                return Self {
                    chain,
                    datadir,
                    port,
                    running: Some(running),
                };
            }
        }
        panic!("the node does not start");
    }

    /// Stops the node, by RPC, and waits until its process has ended.
    pub(crate) fn stop(&mut self) {
        if let Some((mut process, rpc)) = self.running.take() {
            let _ = rpc.call("stop", &[]);
            wait_for_end(&mut process);
        }
    }

    /// Starts a stopped node again, on the same port and data. It writes a new cookie.
    pub(crate) fn start_again(&mut self, args: &[&str]) {
        assert!(self.running.is_none(), "the node is running already");
        self.running = launch(self.chain, self.datadir.path(), self.port, args);
        assert!(self.running.is_some(), "the node does not start again");
    }

    /// Base URL of both REST and RPC.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The file with the RPC credentials.
    pub(crate) fn cookie_path(&self) -> PathBuf {
        cookie_path(self.chain, self.datadir.path())
    }

    /// An RPC call.
    pub(crate) fn rpc(&self, method: &str, params: &[Value]) -> Result<Value, RpcFailure> {
        let (_, rpc) = self.running.as_ref().expect("the node is stopped");
        rpc.call(method, params)
    }

    /// An RPC call that succeeds.
    pub(crate) fn call(&self, method: &str, params: &[Value]) -> Value {
        self.rpc(method, params)
            .unwrap_or_else(|e| panic!("{method}: {e}"))
    }

    /// Hands a block to the node; the error is the node's reason ("inconclusive" for a block of a side branch).
    pub(crate) fn submit_block(&self, block: &Block) -> Result<(), String> {
        match self.rpc("submitblock", &[json!(serialize_hex(block))]) {
            Ok(Value::Null) => Ok(()),
            Ok(reason) => Err(reason.as_str().unwrap_or_default().to_owned()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Hands it the blocks of a chain above a height; its tip is that chain's then.
    pub(crate) fn submit_above(&self, chain: &SimulatedChain, height: u32) {
        for block in chain.active_blocks().iter().skip(height as usize + 1) {
            match self.submit_block(&block.block) {
                Ok(()) => {}
                // A block of a branch that is not yet the longest.
                Err(reason) if reason == "inconclusive" => {}
                Err(reason) => panic!("the node refuses block {}: {reason}", block.id),
            }
        }
        assert_eq!(self.tip(), chain.tip_id());
    }

    /// Mines blocks with whatever is in the mempool; the rewards go to `script`.
    pub(crate) fn mine(&self, blocks: u32, script: &Script) -> Vec<BlockHash> {
        let hashes = self.call(
            "generatetodescriptor",
            &[json!(blocks), json!(raw_descriptor(script))],
        );
        let hashes = hashes.as_array().unwrap().iter();
        hashes
            .map(|hash| hash.as_str().unwrap().parse().unwrap())
            .collect()
    }

    /// Mines a block with exactly these transactions, or says why not; the reward goes to `script`.
    pub(crate) fn generate_block(
        &self,
        script: &Script,
        txs: &[Transaction],
    ) -> Result<BlockHash, String> {
        let txs: Vec<String> = txs.iter().map(serialize_hex).collect();
        let params = [json!(raw_descriptor(script)), json!(txs)];
        let answer = self
            .rpc("generateblock", &params)
            .map_err(|e| e.to_string())?;
        Ok(answer["hash"].as_str().unwrap().parse().unwrap())
    }

    /// Disconnects a block and all above it.
    pub(crate) fn invalidate_block(&self, hash: BlockHash) {
        self.call("invalidateblock", &[json!(hash)]);
    }

    /// Takes [`TestNode::invalidate_block`] back.
    pub(crate) fn reconsider_block(&self, hash: BlockHash) {
        self.call("reconsiderblock", &[json!(hash)]);
    }

    /// The active chain's tip.
    pub(crate) fn tip(&self) -> BlockId {
        let info = self.call("getblockchaininfo", &[]);
        BlockId {
            height: u32::try_from(info["blocks"].as_u64().unwrap()).unwrap(),
            hash: info["bestblockhash"].as_str().unwrap().parse().unwrap(),
        }
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A node's argument that lets a user in by password, besides the cookie (`-rpcuser` would replace that).
pub(crate) fn rpcauth_argument(user: &str, password: &str) -> String {
    let salt = "5a17";
    let mut engine = HmacEngine::<sha256::Hash>::new(salt.as_bytes());
    engine.input(password.as_bytes());
    let hash = Hmac::<sha256::Hash>::from_engine(engine);
    format!("-rpcauth={user}:{salt}${hash}")
}

fn raw_descriptor(script: &Script) -> String {
    format!("raw({})", script.to_hex_string())
}

fn cookie_path(chain: &str, datadir: &Path) -> PathBuf {
    datadir.join(chain.trim_start_matches('-')).join(".cookie")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Path of the daemon, found (or built) once per test process.
fn daemon() -> &'static Path {
    static DAEMON: OnceLock<PathBuf> = OnceLock::new();
    DAEMON.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/get-node.sh");
        let output = Command::new("bash")
            .arg(script)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "tests/get-node.sh fails: see above"
        );
        String::from_utf8(output.stdout).unwrap().trim().into()
    })
}

/// Starts the daemon and waits until RPC answers; `None` if the process ends before that.
fn launch(chain: &str, datadir: &Path, port: u16, args: &[&str]) -> Option<(Child, NodeRpc)> {
    let mut process = Command::new(daemon())
        .arg(format!("-datadir={}", datadir.display()))
        .arg(format!("-rpcport={port}"))
        .args([chain, "-server", "-txindex=0", "-listen=0", "-connect=0"])
        .args(["-dbcache=16", "-printtoconsole=0"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let rpc = NodeRpc {
        port,
        cookie: cookie_path(chain, datadir),
    };
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if process.try_wait().unwrap().is_some() {
            return None;
        }
        // There is no cookie yet, or one of an earlier run, or the node is still loading.
        if rpc.call("getblockchaininfo", &[]).is_ok() {
            return Some((process, rpc));
        }
        sleep(LOOK_EVERY);
    }
    process.kill().unwrap();
    process.wait().unwrap();
    panic!("the node is not ready after {PATIENCE:?}");
}

fn wait_for_end(process: &mut Child) {
    let asked = Instant::now();
    while asked.elapsed() < PATIENCE {
        if !matches!(process.try_wait(), Ok(None)) {
            return;
        }
        sleep(LOOK_EVERY);
    }
    let _ = process.kill();
    let _ = process.wait();
}
