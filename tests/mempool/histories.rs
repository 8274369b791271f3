//! Random histories of a simulated node: with all its words, with some, and with none.
//!
//! `SPINDEX_MEMPOOL_RUNS` says how many of each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bitcoin::{Amount, Transaction, TxOut, Txid};
use secp256k1::SecretKey;
use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::seq::SliceRandom;
use secp256k1::rand::{Rng, SeedableRng};
use spindex::BlockId;
use spindex::bip352::tweak::transaction_tweak;
use spindex::chain::BlockSource;
use spindex::chain::made::simulated::builder::{InputKind, SpendableOutput, build_transaction};
use spindex::chain::made::simulated::{
    Orphaned, PaymentRequest, SimulatedChain, SimulationSettings,
};
use spindex::chain::mempool_signal::{MempoolSignal, MempoolTeller, MempoolWord};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::mempool::{Departure, MempoolSettings, Unconfirmed, UnconfirmedTweak};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::scene::{Following, NEVER, by_lists};
use crate::support::random_seed;

/// What is heard of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// All words; lists at the start only.
    Everything,
    /// Words, of which some are lost, and now and then the connection.
    Some,
    /// Lists alone.
    Lists,
}

fn settings(heard: Heard) -> MempoolSettings {
    let grace = Duration::from_millis(50);
    match heard {
        Heard::Everything => MempoolSettings {
            list_interval: NEVER,
            list_interval_alone: NEVER,
            grace,
            ..by_lists()
        },
        Heard::Some | Heard::Lists => MempoolSettings {
            grace,
            ..by_lists()
        },
    }
}

/// Words as they are given, in order.
fn told(mut words: UnboundedReceiver<MempoolWord>) -> MempoolSignal {
    MempoolSignal::new(|teller: MempoolTeller| async move {
        while let Some(word) = words.recv().await {
            if !teller.tell(word).await {
                break;
            }
        }
        // Silent, and not gone.
        std::future::pending::<()>().await;
    })
}

/// A node whose mempool changes at random, and the truth about that.
struct World {
    rng: StdRng,
    chain: Arc<SimulatedChain>,
    words: UnboundedSender<MempoolWord>,
    heard: Heard,
    number: u32,
    /// Coins that were spent or may be, each with the transactions made of it.
    coins: Vec<SpendableOutput>,
    /// Every reason for which each transaction ever went.
    reasons: BTreeMap<Txid, Vec<Departure>>,
    before: BTreeMap<Txid, Transaction>,
}

fn outputs_of(rng: &mut StdRng, value_sat: u64) -> (Vec<TxOut>, Vec<(InputKind, SecretKey)>) {
    let owners: Vec<(InputKind, SecretKey)> = (0..rng.gen_range(1..4))
        .map(|_| {
            let kinds = [InputKind::P2tr, InputKind::P2wpkh, InputKind::P2pkh];
            (*kinds.choose(rng).unwrap(), SecretKey::new(rng))
        })
        .collect();
    let each = value_sat / owners.len() as u64;
    let outputs = owners.iter().map(|(kind, secret)| TxOut {
        value: Amount::from_sat(each),
        script_pubkey: kind.script_pubkey(secret),
    });
    (outputs.collect(), owners)
}

impl World {
    fn new(seed: u64, heard: Heard) -> (Self, MempoolSignal) {
        let mut rng = StdRng::seed_from_u64(seed);
        let chain = SimulatedChain::new(SimulationSettings {
            seed: rng.r#gen(),
            transactions_per_block: 3,
            ..SimulationSettings::default()
        });
        chain.mine(120);
        let keep = vec![(InputKind::P2tr, 100_000_000); 8];
        let request = PaymentRequest {
            keep,
            ..PaymentRequest::default()
        };
        let coins = chain.pay(&request).unwrap().kept;
        chain.mine(1);
        assert!(chain.mempool_changes().is_empty());
        let (words, given) = unbounded_channel();
        let world = Self {
            rng,
            chain: Arc::new(chain),
            words,
            heard,
            number: u32::MAX - 5,
            coins,
            reasons: BTreeMap::new(),
            before: BTreeMap::new(),
        };
        world.words.send(MempoolWord::Anew).unwrap();
        (world, told(given))
    }

    fn mempool(&self) -> BTreeMap<Txid, Transaction> {
        let mempool = self.chain.mempool().into_iter();
        mempool.map(|tx| (tx.compute_txid(), tx)).collect()
    }

    /// Notes why each transaction went that went since the last call.
    fn note(&mut self, reason: impl Fn(&Txid) -> Departure) {
        let now = self.mempool();
        for txid in self.before.keys() {
            if !now.contains_key(txid) {
                self.reasons.entry(*txid).or_default().push(reason(txid));
            }
        }
        self.before = now;
    }

    /// A transaction of a coin, and perhaps of others.
    fn transaction(&mut self) -> Transaction {
        let count = self.rng.gen_range(1..3);
        // Mostly the newest, so that chains grow.
        let newest = self.coins.len().saturating_sub(6);
        let from = match self.rng.gen_bool(0.7) {
            true => newest..self.coins.len(),
            false => 0..self.coins.len(),
        };
        let coins: Vec<_> = self.coins[from]
            .choose_multiple(&mut self.rng, count)
            .collect();
        let coins: Vec<SpendableOutput> = coins.into_iter().cloned().collect();
        let value_sat: u64 = coins.iter().map(|coin| coin.txout.value.to_sat()).sum();
        let (outputs, owners) = outputs_of(&mut self.rng, value_sat - value_sat / 1_000);
        let tx = build_transaction(&coins, outputs).unwrap();
        let txid = tx.compute_txid();
        for (vout, (kind, secret)) in (0..).zip(owners) {
            let value_sat = tx.output[vout as usize].value.to_sat();
            let outpoint = bitcoin::OutPoint { txid, vout };
            self.coins
                .push(SpendableOutput::new(kind, secret, outpoint, value_sat));
        }
        tx
    }

    fn blocks_of(&self, ids: &[BlockId]) -> (BTreeMap<Txid, BlockId>, Vec<(BlockId, Transaction)>) {
        let mut places = BTreeMap::new();
        let mut all = Vec::new();
        for id in ids {
            let block = self.chain.stored_block(id.hash).unwrap();
            for tx in &block.block.txdata {
                places.insert(tx.compute_txid(), *id);
                all.push((*id, tx.clone()));
            }
        }
        (places, all)
    }

    /// Notes that these blocks were connected.
    fn note_blocks(&mut self, ids: &[BlockId]) {
        let (places, all) = self.blocks_of(ids);
        let before = self.before.clone();
        let rival = |tx: &Transaction| {
            let spends: BTreeSet<_> = tx.input.iter().map(|i| i.previous_output).collect();
            let mut rivals = all.iter();
            let (block, by) = rivals.find(|(_, other)| {
                other
                    .input
                    .iter()
                    .any(|i| spends.contains(&i.previous_output))
            })?;
            let (by, block) = (by.compute_txid(), *block);
            Some(Departure::Conflicted { by, block })
        };
        self.note(|txid| {
            if let Some(block) = places.get(txid) {
                return Departure::Confirmed { block: *block };
            }
            // What conflicts, or the first ancestor that does; or its block is gone and cannot come again.
            let mut next = vec![*txid];
            while let Some(txid) = next.pop() {
                if let Some(tx) = before.get(&txid) {
                    if let Some(why) = rival(tx) {
                        return why;
                    }
                    next.extend(tx.input.iter().map(|i| i.previous_output.txid));
                }
            }
            Departure::Evicted
        });
    }

    /// One thing that happens.
    fn happen(&mut self) {
        match self.rng.gen_range(0..100) {
            0..50 => {
                let tx = self.transaction();
                let _ = self.chain.submit(&tx);
                self.note(|txid| panic!("{txid} went"));
            }
            50..70 => {
                let tx = self.transaction();
                let _ = self.chain.replace(&tx);
                let by = tx.compute_txid();
                self.note(|_| Departure::Replaced { by });
            }
            70..80 => {
                let here: Vec<Txid> = self.before.keys().copied().collect();
                if let Some(txid) = here.choose(&mut self.rng) {
                    self.chain.evict(*txid);
                    self.note(|_| Departure::Evicted);
                }
            }
            80..92 => {
                let ids = self.chain.mine(1);
                self.note_blocks(&ids);
            }
            92..96 => {
                let depth = self.rng.gen_range(1..4);
                let tip = self.chain.tip_id();
                self.chain.disconnect(depth, Orphaned::Resubmit).unwrap();
                self.note_blocks(&[]);
                // Now and then it turns out to be the better chain after all.
                if self.rng.gen_bool(0.3) {
                    let change = self.chain.activate(tip.hash).unwrap();
                    self.note_blocks(&change.connected);
                }
            }
            _ => {
                let depth = self.rng.gen_range(1..3);
                self.chain.go_back(depth).unwrap();
                self.note_blocks(&[]);
                let ids = self.chain.mine(depth + 1);
                self.note_blocks(&ids);
            }
        }
        self.tell();
        if self.heard == Heard::Some && self.rng.gen_bool(0.02) {
            let _ = self.words.send(MempoolWord::CutOff);
            let _ = self.words.send(MempoolWord::Anew);
        }
    }

    /// Gives word of what happened, as far as it is heard.
    fn tell(&mut self) {
        for change in self.chain.mempool_changes() {
            self.number = self.number.wrapping_add(1);
            let is_lost = self.heard == Heard::Some && self.rng.gen_bool(0.1);
            if self.heard != Heard::Lists && !is_lost {
                let number = self.number;
                let _ = self.words.send(MempoolWord::Change { number, change });
            }
        }
    }

    /// The tweak of a transaction, from what the chain knows.
    fn tweak(&self, tx: &Transaction) -> UnconfirmedTweak {
        let all = self.coins.iter();
        let scripts: BTreeMap<_, _> = all
            .map(|coin| (coin.outpoint, coin.txout.clone()))
            .collect();
        let spent: Option<Vec<TxOut>> = tx
            .input
            .iter()
            .map(|input| scripts.get(&input.previous_output).cloned())
            .collect();
        let Some(spent) = spent else {
            // Of the chain's own traffic.
            return UnconfirmedTweak::Unresolved;
        };
        let tweak = transaction_tweak(&LibSecp256k1, tx, &spent);
        tweak.map_or(UnconfirmedTweak::NotEligible, |tweak| {
            UnconfirmedTweak::Tweak(tweak.to_compressed())
        })
    }
}

async fn history(seed: u64, heard: Heard) {
    let (mut world, signal) = World::new(seed, heard);
    let signal = (heard != Heard::Lists).then_some(signal);
    let mut following = Following::new(world.chain.clone(), signal, settings(heard));
    // The first one may be in a list that was under way when words began, and then the second one is in the next or told.
    for _ in 0..2 {
        let tx = world.transaction();
        let _ = world.chain.submit(&tx);
        world.tell();
        world.before = world.mempool();
        following.until_here(world.before.keys().copied()).await;
    }
    let lists = following.mempool.status().lists;
    let length = world.rng.gen_range(20..120);
    for _ in 0..length {
        world.happen();
        // So that lists see some of what comes and goes.
        if heard != Heard::Everything || world.rng.gen_bool(0.1) {
            tokio::time::sleep(Duration::from_millis(world.rng.gen_range(0..4))).await;
        }
    }
    // The last word, if it was lost, shows with the next list, of which there are none if all words come.
    let truth = world.mempool();
    // It may look like the last state before that; and what was spent by a block when it was looked at may be known only when
    // the next list comes.
    let is_unresolved = |tx: &Arc<Unconfirmed>| tx.tweak == UnconfirmedTweak::Unresolved;
    while !following.here.keys().eq(truth.keys())
        || following.here.values().any(is_unresolved)
        || !following.has_heard_all()
    {
        following.hear().await;
    }
    for (txid, tx) in &truth {
        let heard = &following.here[txid];
        let spends: Vec<_> = tx.input.iter().map(|input| input.previous_output).collect();
        assert_eq!(*heard.spends, *spends);
        assert_eq!(*following.raw[txid], *bitcoin::consensus::serialize(tx));
        match world.tweak(tx) {
            UnconfirmedTweak::Unresolved => assert_ne!(heard.tweak, UnconfirmedTweak::Unresolved),
            tweak => assert_eq!(heard.tweak, tweak),
        }
    }
    let status = following.mempool.status();
    // Where a list was needed, what came and went before it is not known.
    let is_all_heard = heard == Heard::Everything && (status.gaps, status.lists) == (0, lists);
    for (txid, why) in &following.gone {
        let reasons = world.reasons.get(txid).map_or(&[][..], Vec::as_slice);
        match why {
            Departure::Confirmed { block } => {
                let block = world.chain.stored_block(block.hash).unwrap();
                assert!(block.txids.contains(txid), "{txid} {why:?}");
                continue;
            }
            Departure::Replaced { by } | Departure::Conflicted { by, .. } => assert_ne!(by, txid),
            Departure::Evicted => {}
            Departure::Unexplained => continue,
            Departure::Expired => panic!("{txid} has not waited for long"),
        }
        let is_reason = |reason: &Departure| match reason {
            // Whatever else spends the same comes later, and within moments is as good as a replacement.
            Departure::Evicted => true,
            reason => std::mem::discriminant(reason) == std::mem::discriminant(why),
        };
        if is_all_heard {
            let is_true = reasons.iter().any(is_reason);
            assert!(is_true, "{txid} {why:?} and not {reasons:?}");
        }
    }
    let status = following.mempool.status();
    assert_eq!((status.unresolved, status.not_held), (0, 0));
    assert_eq!(world.chain.tip().await.unwrap(), world.chain.tip_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn views_are_what_the_node_has_and_tell_what_became_of_the_rest() {
    let runs = std::env::var("SPINDEX_MEMPOOL_RUNS");
    let runs: u64 = runs.map_or(4, |runs| runs.parse().unwrap());
    let seed = random_seed();
    for run in 0..runs {
        for heard in [Heard::Everything, Heard::Some, Heard::Lists] {
            eprintln!("{heard:?}, seed {}", seed.wrapping_add(run));
            history(seed.wrapping_add(run), heard).await;
        }
    }
}
