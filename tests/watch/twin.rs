//! The log as it should be, computed from the blocks of the chain by looking through all of them for each watch.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bitcoin::{OutPoint, Transaction, Txid};
use spindex::BlockId;
use spindex::chain::made::simulated::SimulatedChain;
use spindex::process::{End, State};
use spindex::store::watches::{Confirmed, Event, Happening, Subject, WatchRow};
use spindex::store::{Applied, Snapshot, Spender};
use spindex::watch::NewWatch;

/// What the index is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Knowing {
    /// Blocks: whatever is spent in them is seen.
    Blocks,
    /// Rows of taproot outpoints, with a spender's txid only if it carries a state id, and never its number of outputs.
    Rows,
}

/// A naive registry.
pub(crate) struct Twin {
    knowing: Knowing,
    /// The chain as the index has it.
    pub(crate) active: Vec<BlockId>,
    pub(crate) watches: BTreeMap<u64, WatchRow>,
    /// All there has been, by cursor from 1 on.
    pub(crate) log: Vec<Event>,
    /// Cursors of events that are no longer true.
    untrue: HashSet<u64>,
    /// Cursors of confirmed events that were called deep, or never will be.
    deep: BTreeSet<u64>,
}

/// Where and by whom something is spent.
struct Found {
    block: BlockId,
    spender: Spender,
    tx: Transaction,
    is_taproot: bool,
}

impl Twin {
    pub(crate) fn new(knowing: Knowing) -> Self {
        Self {
            knowing,
            active: Vec::new(),
            watches: BTreeMap::new(),
            log: Vec::new(),
            untrue: HashSet::new(),
            deep: BTreeSet::new(),
        }
    }

    fn say(&mut self, watch: u64, what: Happening) -> u64 {
        // What was said of a watch that is no more still belongs to whom it belonged.
        let row = self.watches.get(&watch).map(|row| row.owner);
        let said = || self.log.iter().find(|event| event.watch == watch);
        let owner = row.or_else(|| Some(said()?.owner)).expect("an owner");
        self.log.push(Event { watch, owner, what });
        self.log.len() as u64
    }

    /// Takes a change of the chain.
    pub(crate) fn apply(&mut self, chain: &SimulatedChain, applied: &Applied) {
        for id in &applied.disconnected {
            assert_eq!(self.active.pop(), Some(*id));
            for of in (1..=self.log.len() as u64).rev() {
                let event = self.log[of as usize - 1].clone();
                if event.block() == Some(*id) && self.untrue.insert(of) {
                    self.say(event.watch, Happening::Reorged { of });
                    self.deep.insert(of);
                    if let Happening::Confirmed(confirmed) = event.what
                        && let Some(row) = self.watches.get_mut(&event.watch)
                    {
                        row.tip = confirmed.spent;
                        row.is_over = false;
                        row.steps -= 1;
                    }
                }
            }
        }
        for id in &applied.connected {
            self.active.push(*id);
            self.connect(chain, *id);
        }
    }

    fn connect(&mut self, chain: &SimulatedChain, id: BlockId) {
        if self.watches.is_empty() && self.log.is_empty() {
            return;
        }
        for found in spends_of(chain, id) {
            if self.knowing == Knowing::Rows && !found.is_taproot {
                continue;
            }
            let outpoint = found.tx.input[found.spender.input as usize].previous_output;
            let waiting = self.watches.iter();
            let waiting = waiting.filter(|(_, row)| !row.is_over && row.tip == outpoint);
            for watch in waiting.map(|(watch, _)| *watch).collect::<Vec<_>>() {
                self.move_on(watch, &found, self.knowing);
            }
        }
        self.call_deep(id);
    }

    /// Moves a watch over the spend of its tip.
    fn move_on(&mut self, watch: u64, found: &Found, knowing: Knowing) {
        let row = self.watches.get_mut(&watch).unwrap();
        let (confirmed, end) = step(row, found, knowing);
        let block = confirmed.block;
        let of = self.say(watch, Happening::Confirmed(confirmed));
        if let Some(end) = end {
            self.say(watch, Happening::Ended { of, block, end });
        }
    }

    fn call_deep(&mut self, tip: BlockId) {
        let mut due = Vec::new();
        for (of, event) in (1..).zip(&self.log) {
            if let Happening::Confirmed(confirmed) = &event.what
                && confirmed.confirmations > 0
                && !self.deep.contains(&of)
                && confirmed.block.height + confirmed.confirmations - 1 <= tip.height
            {
                let height = confirmed.block.height + confirmed.confirmations - 1;
                due.push((height, of, event.watch, confirmed.block));
            }
        }
        due.sort_unstable_by_key(|(height, of, ..)| (*height, *of));
        for (_, of, watch, block) in due {
            self.deep.insert(of);
            if self.watches.contains_key(&watch) {
                self.say(watch, Happening::Deep { of, block, tip });
            }
        }
    }

    /// Registers a watch that the index gave this number.
    pub(crate) fn register(
        &mut self,
        chain: &SimulatedChain,
        index: &Snapshot,
        owner: u32,
        watch: u64,
        new: &NewWatch,
    ) {
        let row = WatchRow {
            owner,
            subject: new.subject,
            start: new.outpoint,
            tip: new.outpoint,
            is_over: false,
            confirmations: new.confirmations,
            unknown_below: 0,
            steps: 0,
            tag: new.tag.clone(),
        };
        self.watches.insert(watch, row);
        self.look_back(chain, index, watch, new.created);
    }

    /// Follows a watch over the blocks there are, as far as an index can know them without a node.
    fn look_back(
        &mut self,
        chain: &SimulatedChain,
        index: &Snapshot,
        watch: u64,
        mut created: Option<u32>,
    ) {
        let above = self.active.last().map_or(0, |tip| tip.height + 1);
        loop {
            let row = &self.watches[&watch];
            if row.is_over {
                return;
            }
            let tip = row.tip;
            let found = self.find(chain, &tip);
            // Whether the output is one of the index's, and where it was created.
            let own = self.created(chain, index, &tip);
            let is_seen = match &found {
                Some(found) if found.is_taproot => {
                    !states(&found.tx).is_empty() || own.is_some() && own == created
                }
                Some(_) => false,
                None => own.is_some(),
            };
            let row = self.watches.get_mut(&watch).unwrap();
            match found {
                _ if !is_seen => {
                    row.unknown_below = above;
                    return;
                }
                None => {
                    row.unknown_below = 0;
                    return;
                }
                Some(found) => {
                    created = Some(found.block.height);
                    self.move_on(watch, &found, Knowing::Rows);
                }
            }
        }
    }

    /// Says what is deep by the tip, after all watches of a registration.
    pub(crate) fn registered(&mut self) {
        if let Some(tip) = self.active.last() {
            self.call_deep(*tip);
        }
    }

    /// Goes on after updates that nobody followed: from the chain as it was to that of the index.
    pub(crate) fn catch_up(&mut self, chain: &SimulatedChain, index: &Snapshot) {
        let now = chain_of(index);
        let is_same = self.active == now;
        if is_same || (self.watches.is_empty() && self.log.is_empty()) {
            self.active = now;
            return;
        }
        let same = self
            .active
            .iter()
            .zip(&now)
            .take_while(|(a, b)| a == b)
            .count();
        let gone: Vec<BlockId> = self.active[same..].iter().rev().copied().collect();
        self.apply(
            chain,
            &Applied {
                disconnected: gone,
                ..Applied::default()
            },
        );
        self.active = now;
        for watch in self.watches.keys().copied().collect::<Vec<_>>() {
            if self.watches[&watch].is_over {
                continue;
            }
            self.look_back(chain, index, watch, None);
        }
        self.registered();
    }

    /// The spend of an outpoint on the index's chain.
    fn find(&self, chain: &SimulatedChain, outpoint: &OutPoint) -> Option<Found> {
        let blocks = self.active.iter();
        let mut spends = blocks.flat_map(|id| spends_of(chain, *id));
        spends
            .find(|found| found.tx.input[found.spender.input as usize].previous_output == *outpoint)
    }

    /// Height of the block that created a taproot output of an eligible transaction.
    fn created(&self, chain: &SimulatedChain, index: &Snapshot, at: &OutPoint) -> Option<u32> {
        let mut blocks = self.active.iter();
        let id = blocks.find(|id| {
            let block = chain.stored_block(id.hash).unwrap();
            block.txids.contains(&at.txid)
        })?;
        let block = index.block(id.height).unwrap()?;
        let transaction = block.transaction(&at.txid).unwrap()?;
        let mut outputs = transaction.outputs.iter();
        outputs.find(|output| output.vout == at.vout)?;
        Some(id.height)
    }
}

/// Every block that an index has.
pub(crate) fn chain_of(index: &Snapshot) -> Vec<BlockId> {
    let Some(tip) = index.tip() else {
        return Vec::new();
    };
    let heights = index.first_height()..=tip.height;
    heights
        .map(|height| index.block(height).unwrap().unwrap().id())
        .collect()
}

fn spends_of(chain: &SimulatedChain, id: BlockId) -> Vec<Found> {
    let block = chain.stored_block(id.hash).unwrap();
    let mut spends = Vec::new();
    for (transaction, tx) in block.block.txdata.iter().enumerate().skip(1) {
        for (input, prevout) in block.prevouts[transaction].iter().enumerate() {
            spends.push(Found {
                block: id,
                spender: Spender {
                    transaction: transaction as u16,
                    input: input as u16,
                },
                tx: tx.clone(),
                is_taproot: prevout.script_pubkey.is_p2tr(),
            });
        }
    }
    spends
}

fn states(tx: &Transaction) -> Vec<State> {
    let mut states = Vec::new();
    for (vout, output) in (0..).zip(&tx.output) {
        let script = output.script_pubkey.as_bytes();
        if script.len() == 34 && script.starts_with(&[0x6a, 0x20]) {
            let id = script[2..].try_into().unwrap();
            states.push(State { vout, id });
        }
    }
    states
}

fn step(row: &mut WatchRow, found: &Found, knowing: Knowing) -> (Confirmed, Option<End>) {
    let states = states(&found.tx);
    let (number, carry) = match row.subject {
        Subject::Outpoint => (0, None),
        Subject::Process(rule) => (rule.state, Some(rule.carry)),
    };
    let state = states.get(number as usize).copied();
    let txid: Txid = found.tx.compute_txid();
    let txid = Some(txid).filter(|_| knowing == Knowing::Blocks || !states.is_empty());
    let end = carry.and_then(|carry| {
        let is_taken = states.iter().any(|state| state.vout == carry);
        let is_short = knowing == Knowing::Blocks && found.tx.output.len() <= carry as usize;
        match state {
            None => Some(End::NoState),
            Some(state) if state.id == [0; 32] => Some(End::EndState),
            Some(_) if is_taken || is_short => Some(End::NoSuccessor),
            Some(_) => None,
        }
    });
    let next = carry.filter(|_| end.is_none());
    let confirmed = Confirmed {
        block: found.block,
        spender: found.spender,
        txid,
        spent: row.tip,
        state,
        next,
        confirmations: row.confirmations,
    };
    row.steps += 1;
    row.unknown_below = 0;
    match next {
        Some(vout) => row.tip = OutPoint::new(txid.unwrap(), vout),
        None => row.is_over = true,
    }
    (confirmed, end)
}
