//! One walk over everything an index holds, and what it finds wrong on the way.

use std::ops::RangeInclusive;

use bitcoin::{OutPoint, Txid};
use rayon::prelude::*;
use redb::ReadableTableMetadata;

use super::bitmap;
use super::digest::{DIGEST_START, roll_digest};
use super::error::{Fault, InRow, StoreError};
use super::heads;
use super::locator::hex;
use super::position::OutputPosition;
use super::schema::{BlockRow, Ends, SPENT_CHUNK_BITS, height_key};
use super::view::{Full, Output, View};
use super::watches;
use crate::BlockId;

/// Most unspent outputs without locators that are remembered: a file with more is named well enough by these.
const MISSING_MAX: usize = 1_000;

/// A row that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongRow {
    /// Its table.
    pub table: &'static str,
    /// Its key there, or the position of an item.
    pub key: String,
    /// The block it belongs to, where that is known.
    pub height: Option<u32>,
    /// What is wrong with it.
    pub reason: String,
    /// Whether it follows from rows that nothing speaks against, so that it can be written anew from these alone.
    /// Otherwise the block's rows may be wrong.
    pub follows: bool,
}

impl WrongRow {
    /// The row that a fault is about; one that is about no row comes back.
    pub(super) fn of_fault(fault: Fault, height: Option<u32>) -> Result<Self, Fault> {
        let (table, key, reason) = match fault {
            Fault::Row { table, key, reason }
            | Fault::Told(StoreError::Corrupt {
                table, key, reason, ..
            }) => (table, key, reason),
            fault => return Err(fault),
        };
        Ok(Self {
            table,
            key,
            height,
            reason,
            // Bits follow from spends.
            follows: table == "spent",
        })
    }
}

/// Who hears what a walk meets.
pub(super) trait Sink {
    /// A directory row as it is stored, and the digest up to its block as it should be. Called in order of height, for each
    /// row that can be read.
    fn block(&mut self, height: u32, row: &[u8; BlockRow::BYTES], digest: &[u8; 32]);

    /// A row that contradicts others. An error ends the walk.
    fn wrong(&mut self, row: WrongRow) -> Result<(), Fault>;

    /// How many steps are done, and of how many.
    fn progress(&mut self, done: u64, of: u64);
}

/// Walks over all blocks, and goes on behind what is wrong. First over the directory, the tweaks and the spends, then over
/// the outputs, whose state those tell. Reads all but the filters.
pub(super) fn walk(view: &View, sink: &mut impl Sink) -> Result<(), Fault> {
    let words = usize::try_from(view.ends.outputs.div_ceil(64))
        .map_err(|_| Fault::row("outputs", "all", "more than this machine can address"))?;
    let walk = Walk {
        view,
        sink,
        spent: vec![0; words],
        last: None,
        ends: Some(Ends::default()),
        digest: DIGEST_START,
        states: 0,
        with_states: Vec::new(),
    };
    walk.run()
}

struct Walk<'v, S> {
    view: &'v View,
    sink: &'v mut S,
    /// A bit per output that some block spends: an eighth of a byte per output is all that grows with the index.
    spent: Vec<u64>,
    last: Option<BlockId>,
    ends: Option<Ends>,
    digest: [u8; 32],
    /// State ids of the blocks so far.
    states: u64,
    /// Heights of the blocks that have some.
    with_states: Vec<u32>,
}

impl<S: Sink> Walk<'_, S> {
    fn run(mut self) -> Result<(), Fault> {
        let view = self.view;
        let checked = view.check_ends();
        self.caught(None, checked)?;
        self.spenders_from()?;
        watches::check(view, &mut |row| self.sink.wrong(row))?;
        let Some(tip) = view.tip() else {
            return self.no_strays(0);
        };
        let heights = view.meta.first_height..=tip.height;
        let blocks = heights.clone().count() as u64;
        let steps = match view.kept() {
            Some(_) => 2 * blocks,
            None => blocks,
        };
        for (done, height) in (1..).zip(heights.clone()) {
            let row = self.block_row(height);
            match self.caught(Some(height), row)? {
                Some((bytes, row)) => self.block(height, &bytes, &row)?,
                None => (self.last, self.ends) = (None, None),
            }
            self.sink.progress(done, steps);
        }
        self.no_strays(blocks)?;
        if let Some(full) = view.kept() {
            // What the blocks spend is known now.
            self.bits(full)?;
            self.unspent(full, heights, (blocks, steps))?;
            self.state_locators(full)?;
        }
        Ok(())
    }

    /// What was read; a row that is wrong is noted.
    fn caught<T>(
        &mut self,
        height: Option<u32>,
        read: Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(fault) => {
                self.sink.wrong(WrongRow::of_fault(fault, height)?)?;
                Ok(None)
            }
        }
    }

    fn note(
        &mut self,
        table: &'static str,
        key: impl ToString,
        height: Option<u32>,
        reason: impl Into<String>,
        follows: bool,
    ) -> Result<(), Fault> {
        self.sink.wrong(WrongRow {
            table,
            key: key.to_string(),
            height,
            reason: reason.into(),
            follows,
        })
    }

    /// The row of a height that must be indexed, as it is stored and as it is read.
    fn block_row(&self, height: u32) -> Result<([u8; BlockRow::BYTES], BlockRow), Fault> {
        let stored = self.view.blocks()?.get(height)?;
        let bytes = *stored
            .ok_or_else(|| Fault::row("blocks", height, "missing"))?
            .value();
        let row = BlockRow::decode(&bytes).in_row("blocks", height)?;
        Ok((bytes, row))
    }

    fn block(
        &mut self,
        height: u32,
        bytes: &[u8; BlockRow::BYTES],
        row: &BlockRow,
    ) -> Result<(), Fault> {
        let view = self.view;
        let at = Some(height);
        let parent = row.header.prev_blockhash;
        for (is_wrong, reason) in [
            (
                row.header.block_hash() != row.hash,
                "its hash is not that of its header",
            ),
            (
                self.ends.is_some_and(|ends| row.starts() != ends),
                "its ranges do not meet those of the block before",
            ),
            (
                self.last.is_some_and(|last| last.hash != parent),
                "not a child of the block before",
            ),
        ] {
            if is_wrong {
                self.note("blocks", height, at, reason, false)?;
            }
        }
        let key = height_key(&row.hash, height);
        if view.heights()?.get(&key)?.is_none() {
            let reason = "does not lead to its block";
            self.note("heights", row.hash, at, reason, true)?;
        }
        let tweaks = view.compressed(row.transactions.range());
        if let Some(tweaks) = self.caught(at, tweaks)? {
            self.digest(height, row, tweaks)?;
        }
        if let Some(full) = view.kept() {
            self.spends(full, height, row)?;
            self.states(full, height, row)?;
        }
        self.sink.block(height, bytes, &self.digest);
        self.last = Some(row.id(height));
        self.ends = Some(row.ends());
        Ok(())
    }

    /// A digest that is not the one of the tweaks. The next digest tells which of both is wrong: it commits to this one.
    fn digest(&mut self, height: u32, row: &BlockRow, tweaks: Vec<[u8; 33]>) -> Result<(), Fault> {
        let view = self.view;
        let computed = roll_digest(&self.digest, &row.hash, tweaks);
        let stored = view.digest(height)?;
        self.digest = computed;
        if stored == Some(computed) {
            return Ok(());
        }
        let next = height.saturating_add(1);
        let vouched = match view.block_row(next) {
            Ok(Some(row)) => match view.compressed(row.transactions.range()) {
                Ok(tweaks) => view.digest(next)? == Some(roll_digest(&computed, &row.hash, tweaks)),
                Err(_) => false,
            },
            _ => false,
        };
        let reason = match stored {
            Some(_) => "not the digest of the tweaks",
            None => "missing",
        };
        self.note("digest", height, Some(height), reason, vouched)?;
        if let (Some(stored), false) = (stored, vouched) {
            // Blocks behind this one are right if they fit what is stored.
            self.digest = stored;
        }
        Ok(())
    }

    /// A block spends outputs that are there and that none has spent before; foreign spends are of no unspent one.
    fn spends(&mut self, full: &Full, height: u32, row: &BlockRow) -> Result<(), Fault> {
        let at = Some(height);
        let spent = self.view.spent_by(full, row);
        for position in self.caught(at, spent)?.unwrap_or_default() {
            let mask = 1 << (position.0 % 64);
            match self.spent.get_mut((position.0 / 64) as usize) {
                Some(word) if *word & mask == 0 => *word |= mask,
                _ => {
                    let reason = format!("spends output {position}, spent before");
                    self.note("spends", row.spends.first, at, reason, false)?;
                }
            }
        }
        let held = self.view.foreign_but_held(full, row);
        if let Some(Some(outpoint)) = self.caught(at, held)? {
            let reason = format!("{outpoint} is unspent in the index");
            self.note("foreign", row.foreign.first, at, reason, false)?;
        }
        Ok(())
    }

    /// Where spenders begin to be known there is a block below that may lack them.
    fn spenders_from(&mut self) -> Result<(), Fault> {
        let view = self.view;
        let blocks = view.height_count();
        let is_possible = |from: u32| {
            let lacking = from.checked_sub(view.meta.first_height);
            lacking.is_some_and(|lacking| (1..=blocks).contains(&lacking))
        };
        match view.spenders_from.filter(|from| !is_possible(*from)) {
            Some(from) => {
                let reason = format!("{from} is above no block of the index");
                self.note("meta", "spenders_from", None, reason, true)
            }
            None => Ok(()),
        }
    }

    /// Spenders are known where they should be, and state ids are of spenders and can be found by what these spend.
    fn states(&mut self, full: &Full, height: u32, row: &BlockRow) -> Result<(), Fault> {
        let (view, at) = (self.view, Some(height));
        let spenders = view.spenders(full, row);
        let spenders = self.caught(at, spenders)?.unwrap_or_default();
        let may_lack = view.spenders_from.is_some_and(|from| height < from);
        if spenders.contains(&None) && !may_lack {
            let reason = "a spender is missing";
            self.note("spenders", row.spends.first, at, reason, false)?;
        }
        let states = view.states(full, height);
        let states = self.caught(at, states)?.unwrap_or_default();
        self.states += states.len() as u64;
        let of_spenders = states.iter().all(|state| {
            let mut spenders = spenders.iter().flatten();
            spenders.any(|spender| spender.transaction == state.transaction)
        });
        if !of_spenders {
            let reason = "of a transaction that spends nothing";
            self.note("states", height, at, reason, false)?;
        }
        if !states.is_empty() {
            self.with_states.push(height);
        }
        Ok(())
    }

    /// State ids are found by what their transactions spend, and nothing else is. The outputs and their names have been
    /// looked at by then.
    fn state_locators(&mut self, full: &Full) -> Result<(), Fault> {
        let view = self.view;
        let mut located = 0;
        for height in std::mem::take(&mut self.with_states) {
            let at = Some(height);
            let row = view.present_row(height)?;
            let keys = view
                .states(full, height)
                .and_then(|states| view.state_locators(full, &row, &states));
            for key in self.caught(at, keys)?.unwrap_or_default() {
                located += 1;
                if full.state_locator()?.get(&key)?.is_none() {
                    self.note("state_locator", hex(&key), at, "missing", true)?;
                }
            }
        }
        let rows = full.state_locator()?.len()?;
        if rows != located {
            let reason = format!("{rows} rows where the blocks have {located}");
            self.note("state_locator", "all", None, reason, true)?;
        }
        Ok(())
    }

    /// Tables with a row per block, or per state id, have no others.
    fn no_strays(&mut self, blocks: u64) -> Result<(), Fault> {
        let view = self.view;
        let heads = match (view.tip(), heads::first_height(&view.meta)) {
            (Some(tip), Some(first)) => {
                let from_start = tip.height.saturating_add(1).saturating_sub(first);
                blocks.min(u64::from(from_start))
            }
            _ => 0,
        };
        let mut tables = vec![
            ("blocks", view.blocks()?.len()?, blocks, false),
            ("heights", view.heights()?.len()?, blocks, true),
            ("digest", view.digests()?.len()?, blocks, true),
            ("heads_v1", view.heads_v1()?.len()?, heads, true),
            ("sections", view.sections_table()?.len()?, blocks, true),
        ];
        if let Some(full) = view.kept() {
            tables.push(("heads_v2", full.heads_v2()?.len()?, heads, true));
        }
        for (table, rows, blocks, follows) in tables {
            if rows != blocks {
                let reason = format!("{rows} rows for {blocks} blocks");
                self.note(table, "all", None, reason, follows)?;
            }
        }
        let Some(full) = view.kept() else {
            return Ok(());
        };
        let (rows, states) = (full.states()?.len()?, self.states);
        if rows != states {
            let reason = format!("{rows} rows where the blocks have {states}");
            self.note("states", "all", None, reason, false)?;
        }
        Ok(())
    }

    /// Unspent outputs have their locators, and nothing else has.
    fn unspent(
        &mut self,
        full: &Full,
        heights: RangeInclusive<u32>,
        (done, steps): (u64, u64),
    ) -> Result<(), Fault> {
        let view = self.view;
        let mut located = 0;
        let mut missing = Vec::new();
        for (done, height) in (done + 1..).zip(heights) {
            if let Ok(Some(row)) = view.block_row(height) {
                let read = view
                    .txids(full, row.transactions)
                    .and_then(|txids| Ok((txids, view.outputs_of(full, &row)?)));
                if let Some((txids, outputs)) = self.caught(Some(height), read)? {
                    self.marks(height, &row, &txids, &outputs)?;
                    let found = self.locators(full, &row, &txids, &outputs)?;
                    for position in found {
                        match position {
                            None => located += 1,
                            Some(position) if missing.len() < MISSING_MAX => {
                                missing.push((position, height));
                            }
                            Some(_) => {}
                        }
                    }
                }
            }
            self.sink.progress(done, steps);
        }
        // A row that leads to an output under another name speaks against the output's txid or vout.
        let strays = full.locator()?.len()?.saturating_sub(located);
        let follows = strays == 0 || missing.is_empty();
        for (position, height) in missing {
            let reason = "unspent but not located";
            self.note("locator", position, Some(height), reason, follows)?;
        }
        if strays > 0 {
            let reason = format!("{strays} rows that lead to no unspent output");
            self.note("locator", "all", None, reason, true)?;
        }
        Ok(())
    }

    fn marks(
        &mut self,
        height: u32,
        row: &BlockRow,
        txids: &[Txid],
        outputs: &[Output],
    ) -> Result<(), Fault> {
        let wrong = self.view.wrong_mark(row, txids, outputs);
        if let Some(Some(position)) = self.caught(Some(height), wrong)? {
            let reason = "not that of its outpoint";
            self.note("marks", position, Some(height), reason, true)?;
        }
        Ok(())
    }

    /// Per unspent output of a block that should have a locator its position if it has none.
    fn locators(
        &self,
        full: &Full,
        row: &BlockRow,
        txids: &[Txid],
        outputs: &[Output],
    ) -> Result<Vec<Option<OutputPosition>>, Fault> {
        let view = self.view;
        let locator = full.locator()?;
        let unspent: Vec<(OutputPosition, OutPoint)> = row
            .output_positions()
            .zip(outputs)
            .filter(|(position, _)| !self.is_spent(*position) && view.is_located(*position))
            .filter_map(|(position, output)| {
                let (txid, vout) = (*txids.get(output.index)?, output.item.vout);
                Some((position, OutPoint { txid, vout }))
            })
            .collect();
        unspent
            .par_iter()
            .map(|(position, outpoint)| {
                let key = view.meta.locator.locate(outpoint, *position);
                Ok(locator.get(&key)?.is_none().then_some(*position))
            })
            .collect()
    }

    /// The bits are those of the spends, chunk by chunk.
    fn bits(&mut self, full: &Full) -> Result<(), Fault> {
        let view = self.view;
        let outputs = view.ends.outputs;
        let mut start = 0;
        while start < outputs {
            let end = outputs.min(start + SPENT_CHUNK_BITS);
            let bits = bitmap::read(full.spent()?, outputs, start..end);
            let bits = self.caught(None, bits)?.unwrap_or_default();
            for (position, bit) in (start..end).map(OutputPosition).zip(bits) {
                if bit != self.is_spent(position) {
                    let reason = match bit {
                        true => "spent, but no block spends it",
                        false => "unspent, but a block spends it",
                    };
                    let height = view.height_of_output(position).ok();
                    self.note("spent", position, height, reason, true)?;
                }
            }
            start = end;
        }
        Ok(())
    }

    fn is_spent(&self, OutputPosition(position): OutputPosition) -> bool {
        let word = self.spent.get((position / 64) as usize);
        word.is_some_and(|word| word >> (position % 64) & 1 == 1)
    }
}
