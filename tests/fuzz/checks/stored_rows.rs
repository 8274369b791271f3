//! An index file in which one row was overwritten: opening, reading, checking and extending it end with an answer or an
//! error, never with a panic.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, LazyLock, Mutex};

use bitcoin::Network;
use redb::{
    Database, ReadableTable, ReadableTableMetadata, StorageBackend, Table, TableDefinition,
};
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::filter::FilterKind;
use spindex::index::derive_records;
use spindex::store::schema::{BLOCKS, DIGEST, HEIGHTS, LOCATOR, META};
use spindex::store::{
    BlockRecord, RowFilter, ScanColumns, Store, StoreOptions, Summed, TweakForm, TxPosition, Update,
};

/// Height of the first block of the index that is damaged: below it there is hardly anything to spend.
const FIRST_HEIGHT: u32 = 100;

/// Its blocks: enough for more than one chunk of tweaks.
const BLOCKS_INDEXED: u32 = 50;

/// A file in memory.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("no panic while held")
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        let from = offset as usize;
        let found = bytes.get(from..from + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes();
        let from = offset as usize;
        let place = bytes.get_mut(from..from + data.len());
        place
            .ok_or(io::ErrorKind::UnexpectedEof)?
            .copy_from_slice(data);
        Ok(())
    }
}

fn options() -> StoreOptions {
    StoreOptions {
        network: Network::Regtest,
        first_height: Some(FIRST_HEIGHT),
        keep: None,
        tweak_form: None,
        undo_depth: 288,
        cache_bytes: 1 << 20,
    }
}

/// Blocks at the end of it whose locators were left for later.
const BLOCKS_UNLOCATED: usize = 8;

/// A good file, and the block that comes next.
static GOOD: LazyLock<(Vec<u8>, Vec<BlockRecord>)> = LazyLock::new(|| {
    let chain = SimulatedChain::new(SimulationSettings::default());
    chain.mine(FIRST_HEIGHT + BLOCKS_INDEXED);
    let blocks: Vec<_> = chain
        .active_blocks()
        .iter()
        .skip(FIRST_HEIGHT as usize)
        .map(|block| block.with_prevouts().expect("a good block"))
        .collect();
    let mut records = derive_records(&LibSecp256k1, &blocks, TweakForm::Point);
    let mut next = records.split_off(BLOCKS_INDEXED as usize);
    let memory = Memory::default();
    let mut heights = HashMap::new();
    for record in &records {
        let txids = record.transactions.iter().map(|row| row.txid);
        heights.extend(txids.map(|txid| (txid, record.id.height)));
    }
    let all = records.iter_mut().chain(&mut next);
    for spend in all.flat_map(|record| &mut record.spends) {
        let created = heights.get(&spend.outpoint.txid);
        spend.created = Some(created.copied().unwrap_or(FIRST_HEIGHT));
    }
    let (located, unlocated) = records.split_at(records.len() - BLOCKS_UNLOCATED);
    let store = Store::open_with_backend(memory.clone(), &options()).expect("a new index");
    store
        .apply(Update {
            disconnect: 0,
            connect: located,
        })
        .expect("good blocks");
    store.extend(unlocated).expect("good blocks");
    let locating = store.snapshot().expect("a snapshot").locating();
    assert!(locating.is_some(), "nothing was left for later");
    drop(store);
    let bytes = memory.bytes().clone();
    (bytes, next)
});

/// Tables whose rows are chunks of bytes under a number.
const COLUMNS: [&str; 9] = [
    "tweaks", "txids", "firsts", "outputs", "spends", "foreign", "filters", "spent", "marks",
];

/// How many tables there are to choose from: the others have rows of other kinds.
pub(crate) const TABLES: usize = COLUMNS.len() + 5;

/// Bytes of a row, changed: some overwritten, or the row replaced.
fn changed(mut row: Vec<u8>, at: u16, bytes: &[u8]) -> Vec<u8> {
    if at == u16::MAX {
        return bytes.to_vec();
    }
    for (index, byte) in bytes.iter().enumerate() {
        let length = row.len().max(1);
        if let Some(place) = row.get_mut((usize::from(at) + index) % length) {
            *place = *byte;
        }
    }
    row
}

/// The same for rows of a fixed length.
fn changed_array<const N: usize>(row: [u8; N], at: u16, bytes: &[u8]) -> [u8; N] {
    let changed = changed(row.to_vec(), at.min(u16::MAX - 1), bytes);
    changed.try_into().unwrap_or(row)
}

/// Damages a row of a table whose rows are keys alone.
fn damage_key<const N: usize>(
    table: &mut Table<'_, &[u8; N], ()>,
    row: u16,
    at: u16,
    bytes: &[u8],
) -> Result<(), redb::Error> {
    let keys = table.len()?.max(1);
    let entry = table.iter()?.nth(usize::from(row) % keys as usize);
    let old = entry.transpose()?.map(|(key, _)| *key.value());
    if let Some(old) = old {
        table.remove(&old)?;
        table.insert(&changed_array(old, at, bytes), ())?;
    }
    Ok(())
}

fn damage(memory: &Memory, table: u8, row: u16, at: u16, bytes: &[u8]) -> Result<(), redb::Error> {
    let database =
        Database::builder().create_with_backend(Summed::new(memory.clone(), "memory"))?;
    let write = database.begin_write()?;
    {
        match usize::from(table) % TABLES {
            0 => {
                let mut table = write.open_table(BLOCKS)?;
                let height = FIRST_HEIGHT + u32::from(row) % BLOCKS_INDEXED;
                let old = table.get(height)?.map(|row| *row.value());
                if let Some(old) = old {
                    table.insert(height, &changed_array(old, at, bytes))?;
                }
            }
            1 => {
                let mut table = write.open_table(DIGEST)?;
                let height = FIRST_HEIGHT + u32::from(row) % BLOCKS_INDEXED;
                let old = table.get(height)?.map(|row| *row.value());
                if let Some(old) = old {
                    table.insert(height, &changed_array(old, at, bytes))?;
                }
            }
            2 => damage_key(&mut write.open_table(HEIGHTS)?, row, at, bytes)?,
            3 => damage_key(&mut write.open_table(LOCATOR)?, row, at, bytes)?,
            4 => {
                let mut table = write.open_table(META)?;
                let names: Vec<String> = table
                    .iter()?
                    .filter_map(|entry| Some(entry.ok()?.0.value().to_owned()))
                    .collect();
                if let Some(name) = names.get(usize::from(row) % names.len().max(1)) {
                    let old = table.get(name.as_str())?.map(|row| row.value().to_vec());
                    let new = changed(old.unwrap_or_default(), at, bytes);
                    table.insert(name.as_str(), new.as_slice())?;
                }
            }
            column => {
                let name = COLUMNS.get(column - 5).copied().unwrap_or("tweaks");
                let definition: TableDefinition<'_, u32, &[u8]> = TableDefinition::new(name);
                let mut table = write.open_table(definition)?;
                let chunk = u32::from(row) % 3;
                let old = table.get(chunk)?.map(|row| row.value().to_vec());
                let new = changed(old.unwrap_or_default(), at, bytes);
                table.insert(chunk, new.as_slice())?;
            }
        }
    }
    write.commit()?;
    Ok(())
}

/// Whether the file could still be opened. The input: the table (1 byte), its row and the place in it (2 bytes each,
/// little-endian), and the bytes to write there.
pub(crate) fn check(input: &[u8]) -> bool {
    let Some((&[table, row @ .., at_low, at_high], bytes)) = input.split_first_chunk::<5>() else {
        return false;
    };
    let (row, at) = (
        u16::from_le_bytes(row),
        u16::from_le_bytes([at_low, at_high]),
    );
    let (good, next) = &*GOOD;
    let memory = Memory::default();
    memory.bytes().clone_from(good);
    if damage(&memory, table, row, at, bytes).is_err() {
        return false;
    }
    let Ok(store) = Store::open_with_backend(memory, &options()) else {
        return false;
    };
    if let Ok(snapshot) = store.snapshot() {
        let heights = FIRST_HEIGHT..=FIRST_HEIGHT + BLOCKS_INDEXED;
        let _ = snapshot.counts();
        for height in heights.clone() {
            let filter = RowFilter::default();
            let Ok(Some(block)) = snapshot.block(height) else {
                continue;
            };
            let _ = snapshot.height_of(&block.id().hash);
            let _ = block.transactions(filter);
            let _ = block.points();
            let _ = block.utxos(filter);
            let _ = block.spends();
            let _ = block.spend_creators();
            let _ = block.filter(FilterKind::NewUtxos);
            let _ = block.filter(FilterKind::Spent);
            let _ = block.digest();
            let _ = block.record();
        }
        let _ = snapshot.content_hash();
        let _ = snapshot.audit(|_, _| {});
        let columns = ScanColumns {
            short_keys: true,
            ..ScanColumns::default()
        };
        if let Ok(Some(scan)) = snapshot.scan(heights, columns) {
            let positions = scan.positions();
            let positions = positions.start.0..positions.end.0;
            for position in positions.take(100).map(TxPosition) {
                let _ = snapshot.transaction(position);
                let _ = snapshot.block_of(position);
            }
            scan.take_while(Result::is_ok).for_each(drop);
        }
    }
    let _ = match at % 2 {
        0 => store.extend(next),
        _ => store.apply(Update {
            disconnect: 0,
            connect: next,
        }),
    };
    let _ = store.locate_rest(|_| true);
    let _ = store.apply(Update {
        disconnect: 3,
        connect: &[],
    });
    true
}
