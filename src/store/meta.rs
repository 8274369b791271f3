//! What the file says of itself: format, network, first height, multiples, the locator's hash key.

use std::path::Path;

use bitcoin::Network;
use redb::{ReadTransaction, ReadableTable, Table, TableError, WriteTransaction};

use super::error::{Fault, StoreError};
use super::schema::{
    BLOCKS, DIGEST, FILTERS, HEIGHTS, LOCATOR, LocatorHasher, META, MULTIPLES, MULTIPLES_POWER,
    OUTPUTS, SCHEMA_MULTIPLES, SCHEMA_PLAIN, SCHEMA_VERSION, SPENDS, SPENT, TWEAKS, TXIDS, UNDO,
};
use super::{StoreOptions, default_first_height};

/// Format number, u32 LE.
const SCHEMA: &str = "schema";
/// Network by its name in Bitcoin Core's `-chain` option, ASCII.
const NETWORK: &str = "network";
/// First height, u32 LE.
const FIRST_HEIGHT: &str = "first_height";
/// Which multiple of each tweak the column `multiples` has, as a power of two, u32 LE; only if there is such a column.
const MULTIPLES_RECORD: &str = "multiples";
/// Key of the locator's hash, 16 bytes.
const LOCATOR_KEY: &str = "locator_key";
/// Program and version that created the file, ASCII; for people, never checked.
const CREATED_BY: &str = "created_by";

/// Contents of `meta`.
#[derive(Clone)]
pub(super) struct Meta {
    pub(super) network: Network,
    pub(super) first_height: u32,
    /// Whether there is a column of multiples.
    pub(super) multiples: bool,
    pub(super) locator: LocatorHasher,
}

impl Meta {
    /// Reads and checks `meta`; `None` if the file has no table at all, as when it is new or its creation was cut
    /// short before the first commit.
    pub(super) fn load(
        read: &ReadTransaction,
        file: &Path,
        options: &StoreOptions,
    ) -> Result<Option<Self>, Fault> {
        let not_an_index = |reason: &str| StoreError::NotAnIndex {
            file: file.into(),
            reason: reason.to_owned(),
        };
        let table = match read.open_table(META) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) if read.list_tables()?.next().is_none() => {
                return Ok(None);
            }
            Err(TableError::Storage(error)) => return Err(error.into()),
            Err(_) => return Err(not_an_index("a database without spindex's table meta").into()),
        };
        // First of all, since it says how to read the rest.
        let Some(version) = table.get(SCHEMA)? else {
            return Err(not_an_index("its table meta has no format number").into());
        };
        let version = u32::from_le_bytes(fixed(SCHEMA, version.value())?);
        check_version(version, file)?;

        let network = required(&table, NETWORK)?;
        let network = std::str::from_utf8(&network)
            .ok()
            .and_then(|name| Network::from_core_arg(name).ok())
            .ok_or_else(|| Fault::row("meta", NETWORK, "no network's name"))?;
        let meta = Self {
            network,
            first_height: u32::from_le_bytes(fixed(
                FIRST_HEIGHT,
                &required(&table, FIRST_HEIGHT)?,
            )?),
            multiples: load_multiples(&table, version)?,
            locator: LocatorHasher::new(fixed(LOCATOR_KEY, &required(&table, LOCATOR_KEY)?)?),
        };
        meta.check(file, options)?;
        Ok(Some(meta))
    }

    fn check(&self, file: &Path, options: &StoreOptions) -> Result<(), StoreError> {
        if self.network != options.network {
            return Err(StoreError::WrongNetwork {
                file: file.into(),
                found: self.network,
                expected: options.network,
            });
        }
        if let Some(expected) = options.first_height
            && expected != self.first_height
        {
            return Err(StoreError::WrongFirstHeight {
                file: file.into(),
                found: self.first_height,
                expected,
            });
        }
        match options.multiples {
            Some(expected) if expected != self.multiples => Err(StoreError::WrongMultiples {
                file: file.into(),
                found: self.multiples,
            }),
            _ => Ok(()),
        }
    }

    /// Creates every table and `meta`: the file's first commit, so that a file either is an index or has no table.
    pub(super) fn create(write: &WriteTransaction, options: &StoreOptions) -> Result<Self, Fault> {
        let meta = Self {
            network: options.network,
            first_height: options
                .first_height
                .unwrap_or_else(|| default_first_height(options.network)),
            multiples: options.multiples.unwrap_or(false),
            locator: LocatorHasher::new(bitcoin::secp256k1::rand::random()),
        };
        let mut table = write.open_table(META)?;
        // A program that does not know of multiples must not write to a file that has them.
        let schema = if meta.multiples {
            put(&mut table, MULTIPLES_RECORD, &MULTIPLES_POWER.to_le_bytes())?;
            write.open_table(MULTIPLES.definition())?;
            SCHEMA_MULTIPLES
        } else {
            SCHEMA_PLAIN
        };
        put(&mut table, SCHEMA, &schema.to_le_bytes())?;
        put(&mut table, NETWORK, meta.network.to_core_arg().as_bytes())?;
        put(&mut table, FIRST_HEIGHT, &meta.first_height.to_le_bytes())?;
        put(&mut table, LOCATOR_KEY, meta.locator.key())?;
        let created_by = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
        put(&mut table, CREATED_BY, created_by.as_bytes())?;

        write.open_table(BLOCKS)?;
        write.open_table(HEIGHTS)?;
        write.open_table(DIGEST)?;
        write.open_table(UNDO)?;
        write.open_table(LOCATOR)?;
        for column in [TWEAKS, TXIDS, OUTPUTS, SPENDS, FILTERS, SPENT] {
            write.open_table(column.definition())?;
        }
        Ok(meta)
    }
}

fn check_version(found: u32, file: &Path) -> Result<(), StoreError> {
    let file = file.into();
    match found {
        ..SCHEMA_PLAIN => Err(StoreError::OlderSchema {
            file,
            found,
            expected: SCHEMA_PLAIN,
        }),
        SCHEMA_PLAIN..=SCHEMA_VERSION => Ok(()),
        _ => Err(StoreError::NewerSchema {
            file,
            found,
            expected: SCHEMA_VERSION,
        }),
    }
}

/// Whether the file has multiples, by its format number and the record that goes with it.
fn load_multiples(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    version: u32,
) -> Result<bool, Fault> {
    let wrong = |reason: String| Fault::row("meta", MULTIPLES_RECORD, reason);
    match (version, table.get(MULTIPLES_RECORD)?) {
        (SCHEMA_PLAIN, None) => Ok(false),
        (SCHEMA_PLAIN, Some(_)) => Err(wrong(format!("not in a file of format {version}"))),
        (_, None) => Err(wrong("missing".to_owned())),
        (_, Some(value)) => match u32::from_le_bytes(fixed(MULTIPLES_RECORD, value.value())?) {
            MULTIPLES_POWER => Ok(true),
            power => Err(wrong(format!(
                "2^{power} where 2^{MULTIPLES_POWER} was expected"
            ))),
        },
    }
}

fn put(table: &mut Table<'_, &str, &[u8]>, name: &str, value: &[u8]) -> Result<(), Fault> {
    table.insert(name, value)?;
    Ok(())
}

fn required(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Vec<u8>, Fault> {
    match table.get(name)? {
        Some(value) => Ok(value.value().to_vec()),
        None => Err(Fault::row("meta", name, "missing")),
    }
}

fn fixed<const N: usize>(name: &str, value: &[u8]) -> Result<[u8; N], Fault> {
    value.try_into().map_err(|_| {
        let reason = format!("{} bytes where {N} were expected", value.len());
        Fault::row("meta", name, reason)
    })
}
