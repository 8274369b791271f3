//! The tables of one commit, each opened when it is first read.

use std::sync::{Arc, OnceLock};

use redb::{Key, ReadOnlyTable, ReadTransaction, TableDefinition, Value};

use super::Chunks;
use crate::store::column::Column;
use crate::store::error::Fault;
use crate::store::heads::{HEADS_V1, HEADS_V2};
use crate::store::meta::{Keep, Meta};
use crate::store::schema::{
    BLOCKS, BlockRow, DIGEST, FILTERS, FIRSTS, FOREIGN, HEIGHTS, HeightKey, LOCATOR, LocatorKey,
    MARKS, META, MULTIPLES, OUTPUTS, SPENDERS, SPENDS, SPENT, TXIDS,
};
use crate::store::sections::{SECTIONS, Sections};
use crate::store::states::{STATE_LOCATOR, STATES, StateKey};
use crate::store::watches::{
    CONSUMERS, DEEP_DUE, EVENT_BLOCKS, EVENTS, EventKey, StartKey, TOKENS, WATCH_STARTS, WATCHES,
};

pub(in crate::store) type Heights = ReadOnlyTable<&'static HeightKey, ()>;
pub(in crate::store) type Blocks = ReadOnlyTable<u32, &'static [u8; BlockRow::BYTES]>;
pub(in crate::store) type Digests = ReadOnlyTable<u32, &'static [u8; 32]>;
pub(in crate::store) type SectionRows = ReadOnlyTable<u32, &'static [u8; Sections::BYTES]>;
pub(in crate::store) type States = ReadOnlyTable<&'static StateKey, &'static [u8; 64]>;
pub(in crate::store) type Locator = ReadOnlyTable<&'static LocatorKey, ()>;

/// A table that is opened when it is first asked for.
struct Table<K: Key + 'static, V: Value + 'static> {
    read: Arc<ReadTransaction>,
    definition: TableDefinition<'static, K, V>,
    opened: OnceLock<ReadOnlyTable<K, V>>,
}

impl<K: Key + 'static, V: Value + 'static> Table<K, V> {
    const fn new(read: Arc<ReadTransaction>, definition: TableDefinition<'static, K, V>) -> Self {
        Self {
            read,
            definition,
            opened: OnceLock::new(),
        }
    }

    fn get(&self) -> Result<&ReadOnlyTable<K, V>, Fault> {
        match self.opened.get() {
            Some(table) => Ok(table),
            None => {
                let table = self.read.open_table(self.definition)?;
                // Another thread may have been first.
                Ok(self.opened.get_or_init(|| table))
            }
        }
    }
}

type ColumnTable = Table<u32, &'static [u8]>;

/// What every index has.
pub(super) struct Tables {
    blocks: Table<u32, &'static [u8; BlockRow::BYTES]>,
    heights: Table<&'static HeightKey, ()>,
    digests: Table<u32, &'static [u8; 32]>,
    heads_v1: Table<u32, &'static [u8; 32]>,
    sections: Table<u32, &'static [u8; Sections::BYTES]>,
    tweaks: ColumnTable,
    multiples: ColumnTable,
    marks: ColumnTable,
    pub(super) watching: Watching,
    pub(super) full: Option<Full>,
}

impl Tables {
    pub(super) fn new(read: ReadTransaction, meta: &Meta) -> Self {
        let read = Arc::new(read);
        let column = |column: Column| Table::new(Arc::clone(&read), column.definition());
        Self {
            blocks: Table::new(Arc::clone(&read), BLOCKS),
            heights: Table::new(Arc::clone(&read), HEIGHTS),
            digests: Table::new(Arc::clone(&read), DIGEST),
            heads_v1: Table::new(Arc::clone(&read), HEADS_V1),
            sections: Table::new(Arc::clone(&read), SECTIONS),
            tweaks: column(meta.tweak_form.column()),
            multiples: column(MULTIPLES),
            marks: column(MARKS),
            watching: Watching {
                meta: Table::new(Arc::clone(&read), META),
                watches: Table::new(Arc::clone(&read), WATCHES),
                starts: Table::new(Arc::clone(&read), WATCH_STARTS),
                events: Table::new(Arc::clone(&read), EVENTS),
                event_blocks: Table::new(Arc::clone(&read), EVENT_BLOCKS),
                deep_due: Table::new(Arc::clone(&read), DEEP_DUE),
                consumers: Table::new(Arc::clone(&read), CONSUMERS),
                tokens: Table::new(Arc::clone(&read), TOKENS),
            },
            full: match meta.keep {
                Keep::Tweaks => None,
                Keep::Full => Some(Full {
                    locator: Table::new(Arc::clone(&read), LOCATOR),
                    txids: column(TXIDS),
                    firsts: column(FIRSTS),
                    outputs: column(OUTPUTS),
                    spends: column(SPENDS),
                    foreign: column(FOREIGN),
                    spenders: column(SPENDERS),
                    states: Table::new(Arc::clone(&read), STATES),
                    state_locator: Table::new(Arc::clone(&read), STATE_LOCATOR),
                    heads_v2: Table::new(Arc::clone(&read), HEADS_V2),
                    filters: column(FILTERS),
                    spent: column(SPENT),
                }),
            },
        }
    }

    pub(super) fn blocks(&self) -> Result<&Blocks, Fault> {
        self.blocks.get()
    }

    pub(super) fn heights(&self) -> Result<&Heights, Fault> {
        self.heights.get()
    }

    pub(super) fn digests(&self) -> Result<&Digests, Fault> {
        self.digests.get()
    }

    pub(super) fn heads_v1(&self) -> Result<&Digests, Fault> {
        self.heads_v1.get()
    }

    pub(super) fn sections(&self) -> Result<&SectionRows, Fault> {
        self.sections.get()
    }

    /// As `meta` says, points or 33 bytes each.
    pub(super) fn tweaks(&self) -> Result<&Chunks, Fault> {
        self.tweaks.get()
    }

    /// Only in a file with multiples.
    pub(super) fn multiples(&self) -> Result<&Chunks, Fault> {
        self.multiples.get()
    }

    /// Only during a long sync.
    pub(super) fn marks(&self) -> Result<&Chunks, Fault> {
        self.marks.get()
    }
}

/// What is watched, and the log.
pub(in crate::store) struct Watching {
    meta: Table<&'static str, &'static [u8]>,
    watches: Table<u64, &'static [u8]>,
    starts: Table<&'static StartKey, u64>,
    events: Table<u64, &'static [u8]>,
    event_blocks: Table<&'static EventKey, ()>,
    deep_due: Table<&'static EventKey, ()>,
    consumers: Table<&'static str, u64>,
    tokens: Table<&'static [u8; 32], &'static [u8]>,
}

impl Watching {
    pub(in crate::store) fn meta(
        &self,
    ) -> Result<&ReadOnlyTable<&'static str, &'static [u8]>, Fault> {
        self.meta.get()
    }

    pub(in crate::store) fn watches(&self) -> Result<&ReadOnlyTable<u64, &'static [u8]>, Fault> {
        self.watches.get()
    }

    pub(in crate::store) fn starts(&self) -> Result<&ReadOnlyTable<&'static StartKey, u64>, Fault> {
        self.starts.get()
    }

    pub(in crate::store) fn events(&self) -> Result<&ReadOnlyTable<u64, &'static [u8]>, Fault> {
        self.events.get()
    }

    pub(in crate::store) fn event_blocks(
        &self,
    ) -> Result<&ReadOnlyTable<&'static EventKey, ()>, Fault> {
        self.event_blocks.get()
    }

    pub(in crate::store) fn deep_due(
        &self,
    ) -> Result<&ReadOnlyTable<&'static EventKey, ()>, Fault> {
        self.deep_due.get()
    }

    pub(in crate::store) fn consumers(&self) -> Result<&ReadOnlyTable<&'static str, u64>, Fault> {
        self.consumers.get()
    }

    pub(in crate::store) fn tokens(
        &self,
    ) -> Result<&ReadOnlyTable<&'static [u8; 32], &'static [u8]>, Fault> {
        self.tokens.get()
    }
}

/// What an index that keeps tweaks only goes without.
pub(in crate::store) struct Full {
    locator: Table<&'static LocatorKey, ()>,
    txids: ColumnTable,
    firsts: ColumnTable,
    outputs: ColumnTable,
    spends: ColumnTable,
    foreign: ColumnTable,
    spenders: ColumnTable,
    states: Table<&'static StateKey, &'static [u8; 64]>,
    state_locator: Table<&'static LocatorKey, ()>,
    heads_v2: Table<u32, &'static [u8; 32]>,
    filters: ColumnTable,
    spent: ColumnTable,
}

impl Full {
    pub(in crate::store) fn locator(&self) -> Result<&Locator, Fault> {
        self.locator.get()
    }

    pub(in crate::store) fn txids(&self) -> Result<&Chunks, Fault> {
        self.txids.get()
    }

    pub(in crate::store) fn firsts(&self) -> Result<&Chunks, Fault> {
        self.firsts.get()
    }

    pub(in crate::store) fn outputs(&self) -> Result<&Chunks, Fault> {
        self.outputs.get()
    }

    pub(in crate::store) fn spends(&self) -> Result<&Chunks, Fault> {
        self.spends.get()
    }

    pub(in crate::store) fn foreign(&self) -> Result<&Chunks, Fault> {
        self.foreign.get()
    }

    pub(in crate::store) fn spenders(&self) -> Result<&Chunks, Fault> {
        self.spenders.get()
    }

    pub(in crate::store) fn states(&self) -> Result<&States, Fault> {
        self.states.get()
    }

    pub(in crate::store) fn state_locator(&self) -> Result<&Locator, Fault> {
        self.state_locator.get()
    }

    pub(in crate::store) fn heads_v2(&self) -> Result<&Digests, Fault> {
        self.heads_v2.get()
    }

    pub(in crate::store) fn filters(&self) -> Result<&Chunks, Fault> {
        self.filters.get()
    }

    pub(in crate::store) fn spent(&self) -> Result<&Chunks, Fault> {
        self.spent.get()
    }
}
