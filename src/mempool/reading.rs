//! Transactions read, with what they spend, and their tweaks.
//!
//! What an unconfirmed transaction spends is an output that a block has left unspent, or one of another unconfirmed
//! transaction. An outpoint names its output for good, so that whoever knows it is right, whatever the chain has become: the
//! transactions that are read together know each other's, the index knows most taproot outputs, and the node knows the rest.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bitcoin::consensus::deserialize;
use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, TxOut, Txid, script};
use tokio::task;

use super::transaction::{Unconfirmed, UnconfirmedTweak};
use crate::bip352::inputs::{TweakInputs, taproot_output_key, tweak_inputs};
use crate::bip352::tweak::tweaks;
use crate::chain::{ChainError, Node};
use crate::curve::{Engine, covered};
use crate::store::Store;

/// How often the node is asked for what a transaction spends: blocks come between two questions now and then.
const TRIES: usize = 3;

/// A transaction to be read.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) txid: Txid,
    /// Its bytes, if they are at hand.
    pub(super) raw: Option<Vec<u8>>,
    /// As in [`Unconfirmed`].
    pub(super) entered: u64,
}

/// A transaction that was read.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) tx: Arc<Unconfirmed>,
    pub(super) raw: Arc<[u8]>,
}

/// Who reads transactions.
pub(super) struct Reader {
    pub(super) node: Arc<dyn Node>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) store: Option<Arc<Store>>,
}

/// A transaction with its bytes.
struct Parsed {
    txid: Txid,
    tx: Transaction,
    raw: Vec<u8>,
    entered: u64,
}

type Scripts = HashMap<OutPoint, ScriptBuf>;

impl Reader {
    /// Reads transactions, in order; `None` for those that the node does not have any more. `is_held` says which are known to
    /// be unconfirmed.
    pub(super) async fn read(
        &self,
        wanted: Vec<Wanted>,
        is_held: impl Fn(&Txid) -> bool,
    ) -> Result<Vec<Option<Read>>, ChainError> {
        let parsed = self.parsed(wanted).await?;
        let scripts = self.spent_scripts(&parsed, is_held).await?;
        let engine = Arc::clone(&self.engine);
        let read = task::spawn_blocking(move || {
            let tweaks = tweaks_of(&*engine, &parsed, &scripts);
            let read = parsed.into_iter().zip(tweaks);
            let read = read.map(|(parsed, tweak)| {
                let Parsed {
                    txid,
                    tx,
                    raw,
                    entered,
                } = parsed?;
                Some(Read {
                    tx: Arc::new(Unconfirmed::new(&tx, txid, tweak, entered)),
                    raw: raw.into(),
                })
            });
            read.collect()
        });
        read.await.map_err(|_| {
            let text = "the mempool's transactions were not read: the program is stopping";
            ChainError::Unreachable(text.to_owned())
        })
    }

    /// The transactions, asked of the node where their bytes are not at hand.
    async fn parsed(&self, wanted: Vec<Wanted>) -> Result<Vec<Option<Parsed>>, ChainError> {
        let missing = wanted.iter().filter(|wanted| wanted.raw.is_none());
        let missing: Vec<Txid> = missing.map(|wanted| wanted.txid).collect();
        let mut asked = self.asked(&missing).await?;
        let parsed = wanted.into_iter().map(|wanted| {
            let Wanted { txid, raw, entered } = wanted;
            let (raw, tx) = match raw {
                Some(raw) => {
                    let tx = parse(&raw, &txid)?;
                    (raw, tx)
                }
                None => match asked.remove(&txid) {
                    Some(found) => found,
                    None => return Ok(None),
                },
            };
            Ok(Some(Parsed {
                txid,
                tx,
                raw,
                entered,
            }))
        });
        parsed.collect()
    }

    /// Unconfirmed transactions that the node still has.
    async fn asked(
        &self,
        txids: &[Txid],
    ) -> Result<HashMap<Txid, (Vec<u8>, Transaction)>, ChainError> {
        if txids.is_empty() {
            return Ok(HashMap::new());
        }
        let found = self.node.raw_unconfirmed(txids).await?;
        let mut read = HashMap::with_capacity(found.len());
        for (txid, raw) in txids.iter().zip(found) {
            if let Some(raw) = raw {
                let tx = parse(&raw, txid)?;
                read.insert(*txid, (raw, tx));
            }
        }
        Ok(read)
    }

    /// What the transactions spend, as far as somebody knows it, of those that may be eligible.
    async fn spent_scripts(
        &self,
        parsed: &[Option<Parsed>],
        is_held: impl Fn(&Txid) -> bool,
    ) -> Result<Scripts, ChainError> {
        let mut scripts = Scripts::new();
        let together = parsed.iter().flatten();
        let together: HashMap<Txid, &Transaction> = together.map(|p| (p.txid, &p.tx)).collect();
        let mut missing = HashSet::new();
        for outpoint in parsed.iter().flatten().flat_map(needed) {
            match together.get(&outpoint.txid) {
                Some(parent) => scripts.extend(output_script(parent, outpoint)),
                None => {
                    missing.insert(outpoint);
                }
            }
        }
        let unconfirmed = missing.iter().map(|outpoint| outpoint.txid);
        let unconfirmed: HashSet<Txid> = unconfirmed.filter(|txid| is_held(txid)).collect();
        self.learn_from_parents(&unconfirmed, &mut missing, &mut scripts)
            .await?;
        self.learn_from_index(&mut missing, &mut scripts).await;
        for _ in 0..TRIES {
            if missing.is_empty() {
                break;
            }
            let asked: Vec<OutPoint> = missing.iter().copied().collect();
            let found = self.node.unspent_scripts(&asked).await?;
            for (outpoint, script) in asked.into_iter().zip(found) {
                if let Some(script) = script {
                    missing.remove(&outpoint);
                    scripts.insert(outpoint, script);
                }
            }
            let parents = missing.iter().map(|outpoint| outpoint.txid).collect();
            self.learn_from_parents(&parents, &mut missing, &mut scripts)
                .await?;
        }
        Ok(scripts)
    }

    async fn learn_from_parents(
        &self,
        parents: &HashSet<Txid>,
        missing: &mut HashSet<OutPoint>,
        scripts: &mut Scripts,
    ) -> Result<(), ChainError> {
        let parents: Vec<Txid> = parents.iter().copied().collect();
        let found = self.asked(&parents).await?;
        missing.retain(|outpoint| {
            let parent = found.get(&outpoint.txid);
            let learnt = parent.and_then(|(_, parent)| output_script(parent, *outpoint));
            let is_missing = learnt.is_none();
            scripts.extend(learnt);
            is_missing
        });
        Ok(())
    }

    /// Outputs that the index has. It may be of another chain than the node, or fail: then the node is asked.
    async fn learn_from_index(&self, missing: &mut HashSet<OutPoint>, scripts: &mut Scripts) {
        let Some(store) = self.store.clone().filter(|_| !missing.is_empty()) else {
            return;
        };
        let asked: Vec<OutPoint> = missing.iter().copied().collect();
        let looked = task::spawn_blocking(move || {
            let snapshot = store.snapshot()?;
            let mut found = Vec::new();
            for outpoint in asked {
                if let Some((_, output)) = snapshot.unspent_output(&outpoint)? {
                    found.push((outpoint, taproot_script(&output.key)));
                }
            }
            Ok::<_, crate::store::StoreError>(found)
        });
        match looked.await {
            Ok(Ok(found)) => {
                for (outpoint, script) in found {
                    missing.remove(&outpoint);
                    scripts.insert(outpoint, script);
                }
            }
            Ok(Err(error)) => tracing::debug!("the index does not say what is spent: {error}"),
            Err(_) => {}
        }
    }
}

fn parse(raw: &[u8], txid: &Txid) -> Result<Transaction, ChainError> {
    let parsed = deserialize::<Transaction>(raw).ok();
    let right = parsed.filter(|tx| tx.compute_txid() == *txid);
    right.ok_or_else(|| {
        ChainError::Mismatch(format!(
            "the node gives something else for transaction {txid}; is it a Bitcoin Core node?"
        ))
    })
}

fn has_taproot_output(tx: &Transaction) -> bool {
    let mut scripts = tx.output.iter().map(|output| &output.script_pubkey);
    scripts.any(|script| taproot_output_key(script).is_some())
}

/// What has to be known of what a transaction spends.
fn needed(parsed: &Parsed) -> impl Iterator<Item = OutPoint> + '_ {
    let inputs = match has_taproot_output(&parsed.tx) {
        true => parsed.tx.input.as_slice(),
        false => &[],
    };
    inputs.iter().map(|input| input.previous_output)
}

fn output_script(parent: &Transaction, outpoint: OutPoint) -> Option<(OutPoint, ScriptBuf)> {
    let output = parent.output.get(outpoint.vout as usize)?;
    Some((outpoint, output.script_pubkey.clone()))
}

fn taproot_script(key: &[u8; 32]) -> ScriptBuf {
    script::Builder::new()
        .push_opcode(bitcoin::opcodes::all::OP_PUSHNUM_1)
        .push_slice(key)
        .into_script()
}

/// The tweak of each transaction.
fn tweaks_of(
    engine: &dyn Engine,
    parsed: &[Option<Parsed>],
    scripts: &Scripts,
) -> Vec<UnconfirmedTweak> {
    let mut found = vec![UnconfirmedTweak::NotEligible; parsed.len()];
    let mut candidates: Vec<(usize, TweakInputs)> = Vec::new();
    for (at, parsed) in parsed.iter().enumerate() {
        let Some(parsed) = parsed.as_ref().filter(|p| has_taproot_output(&p.tx)) else {
            continue;
        };
        let spent = needed(parsed).map(|outpoint| {
            Some(TxOut {
                // No matter to the rules.
                value: Amount::ZERO,
                script_pubkey: scripts.get(&outpoint)?.clone(),
            })
        });
        match spent.collect::<Option<Vec<TxOut>>>() {
            Some(spent) => candidates.extend(tweak_inputs(&parsed.tx, &spent).map(|i| (at, i))),
            None => found[at] = UnconfirmedTweak::Unresolved,
        }
    }
    let (places, inputs): (Vec<usize>, Vec<TweakInputs>) = candidates.into_iter().unzip();
    let points = covered(engine, || tweaks(engine, &inputs));
    for (at, point) in places.into_iter().zip(points) {
        if let Some(point) = point {
            found[at] = UnconfirmedTweak::Tweak(point.to_compressed());
        }
    }
    found
}
