//! A small chain whose blocks, records and expected answers are all made here, a recording node, and a server on a
//! free port. Nothing of the crate's own encoders is used for what is expected.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bitcoin::absolute::LockTime;
use bitcoin::block::{Header, Version};
use bitcoin::hashes::{Hash, sha256};
use bitcoin::script::{Builder, PushBytesBuf};
use bitcoin::{
    Amount, Block, BlockHash, CompactTarget, Network, OutPoint, ScriptBuf, Sequence, Transaction,
    TxIn, TxMerkleNode, TxOut, Txid, Witness, transaction,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use secp256k1::{PublicKey, SECP256K1, SecretKey};
use serde_json::{Value, json};
use spindex::BlockId;
use spindex::api::{ApiState, ServeSettings, bind, serve};
use spindex::chain::{
    BlockSource, BlockWithPrevouts, BroadcastError, ChainError, Prevouts, RawBlock,
};
use spindex::store::{
    BlockRecord, Keep, OutputRow, SpendRow, Store, StoreOptions, TransactionRow, TweakForm, Update,
};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

/// What a test says of a transaction; the rest is filled in.
#[derive(Clone, Default)]
pub(crate) struct Plan {
    pub(crate) is_eligible: bool,
    pub(crate) spends: Vec<OutPoint>,
    pub(crate) outputs: Vec<Out>,
}

#[derive(Clone)]
pub(crate) enum Out {
    Taproot(u64),
    Other(u64),
    OpReturn(Vec<Vec<u8>>),
}

/// An eligible transaction with taproot outputs of these amounts.
pub(crate) fn pays(values: &[u64]) -> Plan {
    Plan {
        is_eligible: true,
        spends: Vec::new(),
        outputs: values.iter().map(|value| Out::Taproot(*value)).collect(),
    }
}

/// A transaction that is not eligible and spends these outpoints.
pub(crate) fn sweeps(spends: &[OutPoint]) -> Plan {
    Plan {
        is_eligible: false,
        spends: spends.to_vec(),
        outputs: vec![Out::Other(1)],
    }
}

/// One block: the real thing and its record.
#[derive(Clone)]
pub(crate) struct TestBlock {
    pub(crate) block: Block,
    pub(crate) record: BlockRecord,
}

impl TestBlock {
    pub(crate) fn id(&self) -> BlockId {
        self.record.id
    }

    /// Outpoint of a planned transaction (counted without the coinbase).
    pub(crate) fn outpoint(&self, transaction: usize, vout: u32) -> OutPoint {
        OutPoint {
            txid: self.block.txdata[transaction + 1].compute_txid(),
            vout,
        }
    }
}

/// A chain that grows block by block. Cloning it makes a fork.
#[derive(Clone)]
pub(crate) struct TestChain {
    pub(crate) blocks: Vec<TestBlock>,
    next_height: u32,
    previous: BlockHash,
    /// Key of every taproot output ever made.
    keys: HashMap<OutPoint, [u8; 32]>,
    counter: u64,
    /// Whether keys of outputs may be no points.
    any_keys: bool,
}

impl TestChain {
    pub(crate) fn new(first_height: u32) -> Self {
        Self {
            blocks: Vec::new(),
            next_height: first_height,
            previous: BlockHash::from_byte_array([7; 32]),
            keys: HashMap::new(),
            counter: 0,
            any_keys: false,
        }
    }

    /// From now on keys of outputs are hashes as they come, of which every other one is no point.
    pub(crate) fn keys_as_they_come(&mut self) {
        self.any_keys = true;
    }

    /// A number that never came before, also not on another branch with another salt.
    pub(crate) fn salt(&mut self, salt: u64) {
        self.counter += salt << 32;
    }

    pub(crate) fn tip(&self) -> &TestBlock {
        self.blocks.last().expect("the chain has a block")
    }

    /// Cuts off the last blocks; their outputs stay known, as nothing refers to them any more.
    pub(crate) fn pop(&mut self, count: usize) {
        for _ in 0..count {
            let block = self.blocks.pop().expect("the chain is long enough");
            self.previous = block.block.header.prev_blockhash;
            self.next_height = block.id().height;
        }
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn script(&mut self, out: &Out) -> TxOut {
        let (value, script_pubkey) = match out {
            Out::Taproot(value) => {
                let key = match self.any_keys {
                    true => sha256::Hash::hash(&self.next().to_be_bytes()).to_byte_array(),
                    false => point(self.next()).x_only_public_key().0.serialize(),
                };
                let script = [&[0x51, 0x20][..], &key].concat();
                (*value, ScriptBuf::from_bytes(script))
            }
            Out::Other(value) => {
                let script = [&[0x00, 0x14][..], &[9; 20]].concat();
                (*value, ScriptBuf::from_bytes(script))
            }
            Out::OpReturn(pushes) => {
                let mut builder = Builder::new().push_opcode(bitcoin::opcodes::all::OP_RETURN);
                for push in pushes {
                    builder = builder.push_slice(
                        PushBytesBuf::try_from(push.clone()).expect("pushes in tests are short"),
                    );
                }
                (0, builder.into_script())
            }
        };
        TxOut {
            value: Amount::from_sat(value),
            script_pubkey,
        }
    }

    fn transaction(&mut self, plan: &Plan) -> Transaction {
        // An input of another kind in front keeps the input index of a spend off zero.
        let unique = OutPoint {
            txid: Txid::from_byte_array(
                sha256::Hash::hash(&self.next().to_le_bytes()).to_byte_array(),
            ),
            vout: 3,
        };
        let spends = std::iter::once(unique).chain(plan.spends.iter().copied());
        Transaction {
            version: transaction::Version::TWO,
            lock_time: LockTime::ZERO,
            input: spends
                .map(|previous_output| TxIn {
                    previous_output,
                    script_sig: ScriptBuf::new(),
                    sequence: Sequence::MAX,
                    witness: Witness::from_slice(&[&[1u8; 64]]),
                })
                .collect(),
            output: plan.outputs.iter().map(|out| self.script(out)).collect(),
        }
    }

    /// Appends a block of a coinbase (with a taproot output) and the planned transactions.
    pub(crate) fn mine(&mut self, plans: &[Plan]) -> &TestBlock {
        let height = self.next_height;
        let coinbase = Transaction {
            version: transaction::Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint::null(),
                script_sig: Builder::new()
                    .push_int(i64::from(height))
                    .push_int(self.next() as i64)
                    .into_script(),
                sequence: Sequence::MAX,
                witness: Witness::new(),
            }],
            output: vec![self.script(&Out::Taproot(5_000_000_000))],
        };
        let mut txdata = vec![coinbase];
        let mut transactions = Vec::new();
        let mut outputs = Vec::new();
        let mut spends = Vec::new();
        for plan in plans {
            let transaction = self.transaction(plan);
            let txid = transaction.compute_txid();
            for spent in &plan.spends {
                if let Some(key) = self.keys.get(spent) {
                    spends.push(SpendRow {
                        outpoint: *spent,
                        key_prefix: key[..8].try_into().expect("eight bytes"),
                        created: None,
                    });
                }
            }
            for (vout, out) in (0u32..).zip(&transaction.output) {
                let Some(key) = out.script_pubkey.as_bytes().strip_prefix(&[0x51, 0x20]) else {
                    continue;
                };
                let key: [u8; 32] = key.try_into().expect("32 bytes");
                self.keys.insert(OutPoint { txid, vout }, key);
                if plan.is_eligible {
                    outputs.push(OutputRow {
                        key,
                        value_sat: out.value.to_sat(),
                        vout,
                        transaction: transactions.len() as u32,
                    });
                }
            }
            if plan.is_eligible {
                transactions.push(TransactionRow {
                    txid,
                    tweak: point(self.next()).serialize_uncompressed()[1..]
                        .try_into()
                        .expect("64 bytes"),
                });
            }
            txdata.push(transaction);
        }
        let block_without_root = Block {
            header: Header {
                version: Version::TWO,
                prev_blockhash: self.previous,
                merkle_root: TxMerkleNode::all_zeros(),
                time: 1_700_000_000 + height * 600,
                bits: CompactTarget::from_consensus(0x207f_ffff),
                nonce: 0,
            },
            txdata,
        };
        let mut block = block_without_root;
        block.header.merkle_root = block.compute_merkle_root().expect("there is a coinbase");
        let id = BlockId {
            height,
            hash: block.block_hash(),
        };
        // Passed through as they are, so any bytes serve; an empty filter is one zero byte.
        let new_utxos_filter = [b"new ", &id.hash.to_byte_array()[..9]].concat();
        let spent_filter = if spends.is_empty() {
            vec![0]
        } else {
            [b"spent ", &id.hash.to_byte_array()[..7]].concat()
        };
        self.blocks.push(TestBlock {
            record: BlockRecord {
                id,
                header: block.header,
                transactions,
                multiples: Vec::new(),
                outputs,
                spends,
                new_utxos_filter,
                spent_filter,
            },
            block,
        });
        self.next_height += 1;
        self.previous = id.hash;
        self.tip()
    }

    pub(crate) fn records(&self) -> Vec<BlockRecord> {
        self.blocks
            .iter()
            .map(|block| block.record.clone())
            .collect()
    }

    pub(crate) fn at(&self, height: u32) -> &TestBlock {
        self.blocks
            .iter()
            .find(|block| block.id().height == height)
            .expect("a height of this chain")
    }

    fn spent(&self) -> HashSet<OutPoint> {
        let spends = self.blocks.iter().flat_map(|block| &block.record.spends);
        spends.map(|spend| spend.outpoint).collect()
    }

    /// Every v1 answer of a block by path, from the records alone: slow and plain.
    pub(crate) fn expected(&self, height: u32) -> Vec<(String, Value)> {
        let record = &self.at(height).record;
        let hash = record.id.hash.to_string();
        let data: Vec<String> = record
            .spends
            .iter()
            .map(|spend| spent_item(&spend.outpoint, &record.id.hash))
            .collect();
        vec![
            (format!("block-hash/{height}"), json!({"block_hash": hash})),
            (format!("tweaks/{height}"), self.tweaks(height, 0)),
            (
                format!("tweaks/{height}?dustLimit=600"),
                self.tweaks(height, 600),
            ),
            (format!("tweak-index/{height}"), self.tweak_index(height, 0)),
            (
                format!("tweak-index/{height}?dustLimit=600"),
                self.tweak_index(height, 600),
            ),
            (format!("utxos/{height}"), self.utxos(height)),
            (
                format!("filter/new-utxos/{height}"),
                json!({
                    "filter_type": 4, "block_height": height, "block_hash": hash,
                    "data": hex(&record.new_utxos_filter),
                }),
            ),
            (
                format!("filter/spent/{height}"),
                json!({
                    "filter_type": 4, "block_height": height, "block_hash": hash,
                    "data": hex(&record.spent_filter),
                }),
            ),
            (
                format!("spent-index/{height}"),
                json!({"block_hash": hash, "data": data}),
            ),
            (
                format!("digest/{height}"),
                json!({
                    "block_height": height, "block_hash": hash, "digest": self.digest(height),
                }),
            ),
        ]
    }

    /// The cut-through list: unspent outputs decide, sorted as the hex txids sort.
    pub(crate) fn tweaks(&self, height: u32, dust_limit: u64) -> Value {
        let spent = self.spent();
        let record = &self.at(height).record;
        let mut rows = Vec::new();
        for (index, transaction) in record.transactions.iter().enumerate() {
            let highest = outputs_of(record, index)
                .filter(|output| {
                    !spent.contains(&OutPoint {
                        txid: transaction.txid,
                        vout: output.vout,
                    })
                })
                .map(|output| output.value_sat)
                .max();
            if highest.is_some_and(|highest| highest >= dust_limit) {
                rows.push((transaction.txid.to_string(), compressed(transaction)));
            }
        }
        rows.sort();
        rows.into_iter()
            .map(|(_, tweak)| Value::from(tweak))
            .collect()
    }

    /// The full list in block order.
    pub(crate) fn tweak_index(&self, height: u32, dust_limit: u64) -> Value {
        let record = &self.at(height).record;
        let rows = record.transactions.iter().enumerate();
        rows.filter(|(index, _)| {
            outputs_of(record, *index)
                .map(|output| output.value_sat)
                .max()
                .is_some_and(|highest| highest >= dust_limit)
        })
        .map(|(_, transaction)| Value::from(compressed(transaction)))
        .collect()
    }

    pub(crate) fn utxos(&self, height: u32) -> Value {
        let spent = self.spent();
        let record = &self.at(height).record;
        let mut rows = Vec::new();
        for (index, transaction) in record.transactions.iter().enumerate() {
            let outpoint = |output: &OutputRow| OutPoint {
                txid: transaction.txid,
                vout: output.vout,
            };
            if outputs_of(record, index).all(|output| spent.contains(&outpoint(output))) {
                continue;
            }
            for output in outputs_of(record, index) {
                let body = json!({
                    "txid": transaction.txid.to_string(), "vout": output.vout, "value": output.value_sat,
                    "scriptpubkey": format!("5120{}", hex(&output.key)), "block_height": height,
                    "block_hash": record.id.hash.to_string(), "timestamp": record.header.time,
                    "spent": spent.contains(&outpoint(output)),
                });
                rows.push((transaction.txid.to_string(), output.vout, body));
            }
        }
        rows.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        rows.into_iter().map(|(_, _, body)| body).collect()
    }

    fn digest(&self, height: u32) -> String {
        let mut digest = [0u8; 32];
        for block in &self.blocks {
            let tweaks: Vec<u8> = block
                .record
                .transactions
                .iter()
                .flat_map(|transaction| from_hex(&compressed(transaction)))
                .collect();
            let tweaks = sha256::Hash::hash(&tweaks).to_byte_array();
            let all = [digest, block.id().hash.to_byte_array(), tweaks].concat();
            digest = sha256::Hash::hash(&all).to_byte_array();
            if block.id().height == height {
                break;
            }
        }
        hex(&digest)
    }
}

fn outputs_of(record: &BlockRecord, transaction: usize) -> impl Iterator<Item = &OutputRow> {
    let outputs = record.outputs.iter();
    outputs.filter(move |output| output.transaction as usize == transaction)
}

fn point(number: u64) -> PublicKey {
    let mut secret = [0x11; 32];
    secret[..8].copy_from_slice(&number.to_be_bytes());
    SecretKey::from_slice(&secret)
        .expect("below the order")
        .public_key(SECP256K1)
}

fn compressed(transaction: &TransactionRow) -> String {
    let uncompressed = [&[4][..], &transaction.tweak].concat();
    let point = PublicKey::from_slice(&uncompressed).expect("made as a point");
    hex(&point.serialize())
}

/// `SHA256(txid || vout_LE || block_hash)[..8]`, from the text of the hashes turned round.
pub(crate) fn spent_item(outpoint: &OutPoint, spent_in: &BlockHash) -> String {
    let mut bytes = from_hex(&outpoint.txid.to_string());
    bytes.reverse();
    bytes.extend(outpoint.vout.to_le_bytes());
    let mut hash = from_hex(&spent_in.to_string());
    hash.reverse();
    bytes.extend(hash);
    hex(&sha256::Hash::hash(&bytes).to_byte_array()[..8])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}

pub(crate) fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
        .collect()
}

/// A new index that is gone with the value.
pub(crate) struct TestStore {
    pub(crate) store: Arc<Store>,
    _directory: Option<tempfile::TempDir>,
}

impl TestStore {
    pub(crate) fn new(network: Network, first_height: u32) -> Self {
        Self::keeping(network, first_height, Keep::Full, TweakForm::Point)
    }

    /// An index of a kind.
    pub(crate) fn keeping(
        network: Network,
        first_height: u32,
        keep: Keep,
        tweak_form: TweakForm,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = StoreOptions {
            network,
            first_height: Some(first_height),
            keep: Some(keep),
            tweak_form: Some(tweak_form),
            multiples: None,
            undo_depth: 100,
            cache_bytes: 16 << 20,
        };
        let store = Store::open(&directory.path().join("index.redb"), &options).expect("opens");
        Self {
            store: Arc::new(store),
            _directory: Some(directory),
        }
    }

    /// An index whose bytes are kept elsewhere.
    pub(crate) fn on_backend(backend: impl redb::StorageBackend) -> Self {
        let options = StoreOptions {
            network: Network::Regtest,
            first_height: Some(1),
            keep: None,
            tweak_form: None,
            multiples: None,
            undo_depth: 100,
            cache_bytes: 0,
        };
        let store = Store::open_with_backend(backend, &options).expect("opens");
        Self {
            store: Arc::new(store),
            _directory: None,
        }
    }

    pub(crate) fn connect(&self, records: &[BlockRecord]) {
        self.reorganize(0, records);
    }

    pub(crate) fn reorganize(&self, disconnect: u32, records: &[BlockRecord]) {
        let update = Update {
            disconnect,
            connect: records,
        };
        self.store.apply(update).expect("applies");
    }
}

/// Height 1 is empty; then payments at and around the dust limit of 600; then spends of some of them, of a
/// transaction that is not eligible, and of an output of the same block.
pub(crate) fn sample_chain() -> TestChain {
    let mut chain = TestChain::new(1);
    chain.mine(&[]);
    let mut mixed = pays(&[1000, 600]);
    mixed.outputs.insert(1, Out::Other(77_000));
    mixed.outputs.push(Out::OpReturn(vec![b"note".to_vec()]));
    let plain = Plan {
        is_eligible: false,
        spends: Vec::new(),
        outputs: vec![Out::Taproot(123_456)],
    };
    let second = chain
        .mine(&[
            mixed,
            pays(&[599]),
            pays(&[600]),
            plain,
            pays(&[601, 0, 5]),
            pays(&[21_000_000 * 100_000_000]),
        ])
        .clone();
    let third = chain
        .mine(&[
            // Of the first payment the larger output, and the output that is not eligible.
            sweeps(&[second.outpoint(0, 0), second.outpoint(3, 0)]),
            pays(&[546, 546]),
        ])
        .clone();
    let mut state = sweeps(&[third.outpoint(1, 1), second.outpoint(2, 0)]);
    state.outputs = vec![
        Out::OpReturn(vec![b"state".to_vec(), vec![0xff; 80]]),
        Out::Other(5),
        Out::OpReturn(vec![]),
    ];
    chain.mine(&[state]);
    // A payment that the next transaction of the same block spends again in full.
    let mut fork = chain.clone();
    let passing = fork.mine(&[pays(&[9000])]).outpoint(0, 0);
    let txid_probe = fork.tip().block.txdata[1].clone();
    chain.mine(&[pays(&[9000]), sweeps(&[passing]), pays(&[700])]);
    assert_eq!(
        chain.tip().block.txdata[1].compute_txid(),
        txid_probe.compute_txid(),
        "the probe is the same transaction"
    );
    chain.mine(&[]);
    chain
}

/// What the recording node says to a broadcast.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    Accept,
    Reject(String),
    Unreachable,
}

/// A node that knows some blocks and writes down what it is asked.
pub(crate) struct RecordingNode {
    blocks: Mutex<HashMap<BlockHash, Block>>,
    pub(crate) verdict: Mutex<Verdict>,
    pub(crate) sent: Mutex<Vec<Transaction>>,
    pub(crate) block_calls: AtomicUsize,
    /// A permit per question that may be answered now.
    pub(crate) gate: Semaphore,
    /// A permit per question that has come in.
    pub(crate) entered: Semaphore,
}

impl RecordingNode {
    pub(crate) fn new(chain: &TestChain) -> Arc<Self> {
        let node = Self::gated(chain);
        node.gate.add_permits(1 << 20);
        node
    }

    /// Answers only as [`gate`](Self::gate) is given permits.
    pub(crate) fn gated(chain: &TestChain) -> Arc<Self> {
        let blocks = chain.blocks.iter();
        Arc::new(Self {
            blocks: Mutex::new(
                blocks
                    .map(|block| (block.id().hash, block.block.clone()))
                    .collect(),
            ),
            verdict: Mutex::new(Verdict::Accept),
            sent: Mutex::default(),
            block_calls: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            entered: Semaphore::new(0),
        })
    }

    /// Answers with this block from now on, whether or not the hash is its own.
    pub(crate) fn learn(&self, hash: BlockHash, block: Block) {
        let mut blocks = self.blocks.lock().expect("no panic while held");
        blocks.insert(hash, block);
    }

    async fn pass_gate(&self) {
        self.entered.add_permits(1);
        self.gate.acquire().await.expect("never closed").forget();
    }
}

impl BlockSource for RecordingNode {
    fn describe(&self) -> String {
        "recording node".into()
    }

    fn check(&self, _: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        async { Ok(()) }.boxed()
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        async { Err(ChainError::NotAvailable("not asked for here".into())) }.boxed()
    }

    fn block_at(&self, _: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        async { Ok(None) }.boxed()
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        async move {
            self.block_calls.fetch_add(1, Ordering::SeqCst);
            self.pass_gate().await;
            let blocks = self.blocks.lock().expect("no panic while held");
            let block = blocks.get(&id.hash).cloned().ok_or_else(|| {
                ChainError::NotAvailable("http://user:password@10.1.2.3 has no such block".into())
            })?;
            Ok(BlockWithPrevouts {
                id,
                block: RawBlock::from(&block),
                prevouts: Prevouts::default(),
            })
        }
        .boxed()
    }

    fn broadcast<'a>(&'a self, tx: &'a Transaction) -> BoxFuture<'a, Result<Txid, BroadcastError>> {
        async move {
            self.pass_gate().await;
            let verdict = self.verdict.lock().expect("no panic while held").clone();
            match verdict {
                Verdict::Accept => {
                    let mut sent = self.sent.lock().expect("no panic while held");
                    sent.push(tx.clone());
                    Ok(tx.compute_txid())
                }
                Verdict::Reject(reason) => Err(BroadcastError::Rejected(reason)),
                Verdict::Unreachable => Err(BroadcastError::Chain(ChainError::Unreachable(
                    "http://user:password@10.1.2.3 is down".into(),
                ))),
            }
        }
        .boxed()
    }
}

/// A server on a free port.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) client: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub(crate) async fn start(store: &TestStore, node: Option<Arc<RecordingNode>>) -> Self {
        Self::start_with(store, node, ServeSettings::default()).await
    }

    pub(crate) async fn start_with(
        store: &TestStore,
        node: Option<Arc<RecordingNode>>,
        settings: ServeSettings,
    ) -> Self {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = ApiState {
            store: store.store.clone(),
            node: node.map(|node| node as Arc<dyn BlockSource>),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        Self {
            address,
            client: client(),
            stop: Some(stop),
            task: tokio::spawn(serve(listener, state, shutdown, settings)),
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        let response = self.client.get(self.url(path)).send().await;
        response.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A JSON answer with its status, its content type checked.
    pub(crate) async fn json(&self, path: &str) -> (u16, Value) {
        json_of(self.get(path).await).await
    }

    /// A JSON answer that must be a success.
    pub(crate) async fn ok(&self, path: &str) -> Value {
        let (status, body) = self.json(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// An error that must have this status and text, and nothing a client could take for an answer.
    pub(crate) async fn refused(&self, path: &str, status: u16, text: &str) {
        let answer = self.json(path).await;
        assert_eq!(answer, (status, json!({ "error": text })), "{path}");
    }

    /// Asks the server to stop, without waiting.
    pub(crate) fn ask_to_stop(&mut self) {
        self.stop
            .take()
            .expect("asked once")
            .send(())
            .expect("the server runs");
    }

    /// What `serve` returns.
    pub(crate) async fn end(self) -> std::io::Result<()> {
        self.task.await.expect("the server does not panic")
    }
}

pub(crate) async fn json_of(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    assert_eq!(
        response.headers()["content-type"],
        "application/json; charset=utf-8"
    );
    let text = response.text().await.expect("a whole body");
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    (status, value)
}

/// Plain HTTP, no proxy, no decoding, no redirects followed.
pub(crate) fn client() -> reqwest::Client {
    // Compiled in without a default; a second installation is refused, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .no_gzip()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client")
}
