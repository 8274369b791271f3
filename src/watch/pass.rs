//! One pass over what an update of the chain brings, within its transaction.

use std::collections::HashMap;

use bitcoin::{OutPoint, Txid};

use super::tips::{Mark, Tips};
use crate::BlockId;
use crate::process::{End, Rule, State};
use crate::store::watches::{
    BlockInputs, Confirmed, Event, Happening, Subject, WatchLog, WatchRow,
};
use crate::store::{BlockRecord, Spender, StoreError};

/// A spend as the chain tells it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spend<'s> {
    pub(super) block: BlockId,
    pub(super) spender: Spender,
    /// `None` where a spender that carries no state id is known by its place alone.
    pub(super) txid: Option<Txid>,
    /// The spender's state ids, by vout.
    pub(super) states: &'s [State],
    /// Number of the spender's outputs, if that is known.
    pub(super) outputs: Option<u32>,
}

/// What a spender makes of a watch.
pub(super) struct Stride {
    /// The state id that counts.
    pub(super) state: Option<State>,
    /// Why a process goes no further.
    pub(super) end: Option<End>,
    /// Index of the output that is waited for next.
    pub(super) next: Option<u32>,
}

/// The rule, for a spender that carries these state ids and has so many outputs, if that is known.
pub(super) fn stride(
    subject: Subject,
    states: impl IntoIterator<Item = State>,
    outputs: Option<u32>,
) -> Stride {
    let rule = match subject {
        Subject::Outpoint => Rule::default(),
        Subject::Process(rule) => rule,
    };
    let step = rule.step(states, outputs);
    match subject {
        Subject::Outpoint => Stride {
            state: step.state,
            end: None,
            next: None,
        },
        Subject::Process(_) => Stride {
            state: step.state,
            end: step.end,
            next: step.end.is_none().then_some(rule.carry),
        },
    }
}

/// Moves a watch over a spend of its tip; gives what there is to be said of it.
pub(super) fn step(row: &mut WatchRow, spend: &Spend<'_>) -> (Confirmed, Option<End>) {
    let states = spend.states.iter().copied();
    let Stride { state, end, next } = stride(row.subject, states, spend.outputs);
    let confirmed = Confirmed {
        block: spend.block,
        spender: spend.spender,
        txid: spend.txid,
        spent: row.tip,
        state,
        next: next.filter(|_| spend.txid.is_some()),
        confirmations: row.confirmations,
    };
    match confirmed.next_tip() {
        Some(tip) => row.tip = tip,
        None => row.is_over = true,
    }
    row.steps += 1;
    // It is spent here and not before; what comes next cannot be spent before.
    row.unknown_below = 0;
    (confirmed, end)
}

/// A watch that the pass has looked at.
struct Touched {
    row: WatchRow,
    /// What it waited for before the pass.
    before: Option<OutPoint>,
    is_changed: bool,
}

/// What a watch waits for.
fn waits_for(row: &WatchRow) -> Option<OutPoint> {
    Some(row.tip).filter(|_| !row.is_over)
}

/// That a watch waits for something else than before.
pub(super) struct Move {
    pub(super) watch: u64,
    pub(super) from: Option<OutPoint>,
    pub(super) to: Option<OutPoint>,
}

/// The pass: watches as they are by now, while those in memory and in the file are as they were.
pub(super) struct Pass<'p, 'w> {
    tips: &'p Tips,
    log: &'p mut WatchLog<'w>,
    touched: HashMap<u64, Option<Touched>>,
    /// Who has come to wait for what in this pass; some do no longer.
    added: HashMap<Mark, Vec<u64>>,
    /// Watches that there were not before.
    new: Vec<Move>,
}

impl<'p, 'w> Pass<'p, 'w> {
    pub(super) fn new(tips: &'p Tips, log: &'p mut WatchLog<'w>) -> Self {
        Self {
            tips,
            log,
            touched: HashMap::new(),
            added: HashMap::new(),
            new: Vec::new(),
        }
    }

    /// A watch as it is by now; `None` if it is removed.
    fn row(&mut self, watch: u64) -> Result<Option<&mut Touched>, StoreError> {
        if !self.touched.contains_key(&watch) {
            let row = self.log.watch(watch)?;
            let touched = row.map(|row| Touched {
                before: waits_for(&row),
                row,
                is_changed: false,
            });
            self.touched.insert(watch, touched);
        }
        Ok(self.touched.get_mut(&watch).and_then(Option::as_mut))
    }

    fn append(&mut self, owner: u32, watch: u64, what: Happening) -> Result<u64, StoreError> {
        self.log.append(&Event { watch, owner, what })
    }

    /// Takes back what was said of the block at a height.
    pub(super) fn disconnect(&mut self, height: u32) -> Result<(), StoreError> {
        for (of, event) in self.log.take_events_of(height)? {
            let Event { watch, owner, what } = event;
            self.append(owner, watch, Happening::Reorged { of })?;
            let Happening::Confirmed(confirmed) = what else {
                continue;
            };
            let mark = self.tips.mark(&confirmed.spent);
            if let Some(touched) = self.row(watch)? {
                touched.row.tip = confirmed.spent;
                touched.row.is_over = false;
                touched.row.steps = touched.row.steps.saturating_sub(1);
                touched.is_changed = true;
                self.added.entry(mark).or_default().push(watch);
            }
        }
        Ok(())
    }

    /// Matches a block by all of its inputs.
    pub(super) fn connect(
        &mut self,
        block: BlockId,
        inputs: &BlockInputs,
    ) -> Result<(), StoreError> {
        for spending in inputs.spending() {
            // The store refuses numbers that no block reaches.
            let number = |index: usize| u16::try_from(index).unwrap_or(u16::MAX);
            for (index, outpoint) in spending.spent.iter().enumerate() {
                let spend = Spend {
                    block,
                    spender: Spender {
                        transaction: number(spending.transaction),
                        input: number(index),
                    },
                    txid: Some(spending.txid),
                    states: spending.states,
                    outputs: Some(spending.outputs),
                };
                self.spend(outpoint, &spend)?;
            }
        }
        self.deepen(block)
    }

    /// Matches a block by what its rows say: of taproot outpoints alone, of which some spenders may be unknown.
    pub(super) fn connect_rows(&mut self, record: &BlockRecord) -> Result<(), StoreError> {
        for row in &record.spends {
            let Some(spender) = row.spender else {
                self.lose(&row.outpoint, record.id)?;
                continue;
            };
            let own = |state: &u16| *state == spender.transaction;
            let from = record
                .states
                .partition_point(|state| state.transaction < spender.transaction);
            let rows = record.states.iter().skip(from);
            let rows = rows.take_while(|state| own(&state.transaction));
            let states: Vec<State> = rows.clone().map(State::from).collect();
            let spend = Spend {
                block: record.id,
                spender,
                txid: rows.map(|state| state.txid).next(),
                states: &states,
                outputs: None,
            };
            self.spend(&row.outpoint, &spend)?;
        }
        self.deepen(record.id)
    }

    /// Whoever waits for an outpoint, ascending.
    fn waiting(&mut self, outpoint: &OutPoint) -> Result<Vec<u64>, StoreError> {
        let mark = self.tips.mark(outpoint);
        let mut found: Vec<u64> = self.tips.of(mark).collect();
        if let Some(added) = self.added.get(&mark) {
            found.extend(added);
        }
        if found.is_empty() {
            return Ok(found);
        }
        found.sort_unstable();
        found.dedup();
        let mut waiting = Vec::with_capacity(found.len());
        for watch in found {
            let touched = self.row(watch)?;
            if touched.is_some_and(|touched| waits_for(&touched.row) == Some(*outpoint)) {
                waiting.push(watch);
            }
        }
        Ok(waiting)
    }

    fn spend(&mut self, outpoint: &OutPoint, spend: &Spend<'_>) -> Result<(), StoreError> {
        for watch in self.waiting(outpoint)? {
            let Some(touched) = self.row(watch)? else {
                continue;
            };
            touched.is_changed = true;
            let (confirmed, end) = step(&mut touched.row, spend);
            let (owner, next) = (touched.row.owner, waits_for(&touched.row));
            if let Some(next) = next {
                let mark = self.tips.mark(&next);
                self.added.entry(mark).or_default().push(watch);
            }
            self.say(owner, watch, confirmed, end)?;
        }
        Ok(())
    }

    /// Writes down a spend.
    fn say(
        &mut self,
        owner: u32,
        watch: u64,
        confirmed: Confirmed,
        end: Option<End>,
    ) -> Result<(), StoreError> {
        let block = confirmed.block;
        let of = self.append(owner, watch, Happening::Confirmed(confirmed))?;
        if let Some(end) = end {
            self.append(owner, watch, Happening::Ended { of, block, end })?;
        }
        Ok(())
    }

    /// An outpoint is spent by somebody unknown: from here on whoever waits for it waits without a prospect.
    fn lose(&mut self, outpoint: &OutPoint, block: BlockId) -> Result<(), StoreError> {
        for watch in self.waiting(outpoint)? {
            if let Some(touched) = self.row(watch)? {
                touched.row.unknown_below = block.height.saturating_add(1);
                touched.is_changed = true;
            }
        }
        Ok(())
    }

    /// Calls deep what is deep by this tip.
    pub(super) fn deepen(&mut self, tip: BlockId) -> Result<(), StoreError> {
        for (of, event) in self.log.take_deep(tip.height)? {
            if let Some(block) = event.block()
                && self.row(event.watch)?.is_some()
            {
                self.append(event.owner, event.watch, Happening::Deep { of, block, tip })?;
            }
        }
        Ok(())
    }

    /// Moves a watch over spends that were found by looking back, and notes how much of it is known.
    pub(super) fn follow(
        &mut self,
        watch: u64,
        steps: Vec<(Confirmed, Option<End>)>,
        row: WatchRow,
    ) -> Result<(), StoreError> {
        for (confirmed, end) in steps {
            self.say(row.owner, watch, confirmed, end)?;
        }
        if let Some(touched) = self.row(watch)?
            && touched.row != row
        {
            touched.row = row;
            touched.is_changed = true;
        }
        Ok(())
    }

    /// Adds a watch that was looked at up to the tip, as nothing else comes in this pass; gives its number.
    pub(super) fn add(
        &mut self,
        steps: Vec<(Confirmed, Option<End>)>,
        row: WatchRow,
    ) -> Result<u64, StoreError> {
        let watch = self.log.add(&row)?;
        for (confirmed, end) in steps {
            self.say(row.owner, watch, confirmed, end)?;
        }
        let from = None;
        let to = waits_for(&row);
        self.new.push(Move { watch, from, to });
        Ok(watch)
    }

    /// Writes the watches that have changed; gives who waits for something else now.
    pub(super) fn finish(self) -> Result<Vec<Move>, StoreError> {
        let mut moves = self.new;
        let mut touched: Vec<_> = self.touched.into_iter().collect();
        // In the order of the table.
        touched.sort_unstable_by_key(|(watch, _)| *watch);
        for (watch, touched) in touched {
            let Some(touched) = touched else { continue };
            if touched.is_changed {
                self.log.put(watch, &touched.row)?;
            }
            let (from, to) = (touched.before, waits_for(&touched.row));
            if from != to {
                moves.push(Move { watch, from, to });
            }
        }
        Ok(moves)
    }
}
