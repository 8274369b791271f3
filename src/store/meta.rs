//! What the file says of itself: format, network, first height, what it keeps, the locator's hash key.

use std::path::Path;

use bitcoin::Network;
use redb::{
    ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableError, TableHandle,
    WriteTransaction,
};

use super::column::Column;
use super::error::{Fault, StoreError};
use super::heads::{HEADS_V1, HEADS_V2};
use super::opening::Demand;
use super::schema::{
    BLOCKS, COMPRESSED, DIGEST, FILTERS, FIRSTS, FOREIGN, HEIGHTS, LOCATOR, LocatorHasher, META,
    MULTIPLES, MULTIPLES_POWER, OUTPUTS, SCHEMA_OLDEST, SCHEMA_VERSION, SPENDERS, SPENDS, SPENT,
    TWEAKS, TXIDS,
};
use super::sections::SECTIONS;
use super::states::{STATE_LOCATOR, STATES};
use super::{StoreOptions, default_first_height, watches};

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
/// Only during a long sync: the first position that has a mark, then how many outputs, from the first on, have a
/// locator, u64 LE each.
const LOCATED: &str = "located";
/// Only if older blocks lack spenders: the height from which on they are known, u32 LE.
const SPENDERS_FROM: &str = "spenders_from";
/// Program and version that created the file, ASCII; for people, never checked.
const CREATED_BY: &str = "created_by";

/// What is kept, ASCII.
const KEEP: &str = "keep";
/// Of what form a stored tweak is, ASCII: [`POINTS`] or [`COMPRESSED_POINTS`].
const TWEAK_FORM: &str = "tweak_form";
const POINTS: &str = "point";
const COMPRESSED_POINTS: &str = "compressed";

/// What an index keeps of each block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// Everything.
    #[default]
    Full,
    /// Tweaks, directory and digests: enough for the list of all tweaks of a block, and nothing else.
    Tweaks,
}

impl Keep {
    /// Its name in `meta` and on the command line: `full` or `tweaks`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Tweaks => "tweaks",
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Full, Self::Tweaks]
            .into_iter()
            .find(|keep| keep.name() == name)
    }
}

/// How an index stores its tweaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TweakForm {
    /// As 33 compressed bytes each, as they are served.
    Compressed,
    /// As points, x and y, 64 bytes each: a scan of the index itself pays no square root for them.
    #[default]
    Point,
    /// As points, each with its multiple 2^64·T: 64 bytes more, for which such a scan saves half of its doublings.
    PointAndMultiple,
}

impl TweakForm {
    /// All of them, smallest first.
    pub const ALL: [Self; 3] = [Self::Compressed, Self::Point, Self::PointAndMultiple];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compressed => "compressed",
            Self::Point => "point",
            Self::PointAndMultiple => "point-and-multiple",
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.name() == name)
    }

    /// Whether tweaks are stored as points.
    pub const fn has_points(self) -> bool {
        !matches!(self, Self::Compressed)
    }

    /// Whether each tweak is stored with its multiple.
    pub const fn has_multiples(self) -> bool {
        matches!(self, Self::PointAndMultiple)
    }

    /// The column that holds the tweaks.
    pub(super) const fn column(self) -> Column {
        if self.has_points() {
            TWEAKS
        } else {
            COMPRESSED
        }
    }
}

/// Contents of `meta`.
#[derive(Clone)]
pub(super) struct Meta {
    /// Format number.
    pub(super) version: u32,
    pub(super) network: Network,
    pub(super) first_height: u32,
    pub(super) keep: Keep,
    pub(super) tweak_form: TweakForm,
    pub(super) locator: LocatorHasher,
}

impl Meta {
    /// Reads `meta`; `None` if the file has no table at all, as when it is new or its creation was cut short before the
    /// first commit. `None` also for an index without a block that was created with other options than are wanted: they
    /// bind nobody yet. Files of older formats are read too: they keep everything, tweaks as points.
    pub(super) fn load(
        read: &ReadTransaction,
        file: &Path,
        options: &StoreOptions,
        demand: Demand,
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
        let named = version > NAMELESS;

        let network = required(&table, NETWORK)?;
        let network = std::str::from_utf8(&network)
            .ok()
            .and_then(|name| Network::from_core_arg(name).ok())
            .ok_or_else(|| Fault::row("meta", NETWORK, "no network's name"))?;
        let meta = Self {
            version,
            network,
            keep: match named {
                true => choice(&table, KEEP, Keep::from_name)?,
                false => Keep::Full,
            },
            tweak_form: load_tweak_form(&table, version)?,
            first_height: u32::from_le_bytes(fixed(
                FIRST_HEIGHT,
                &required(&table, FIRST_HEIGHT)?,
            )?),
            locator: LocatorHasher::new(fixed(LOCATOR_KEY, &required(&table, LOCATOR_KEY)?)?),
        };
        let is_bound = meta.is_new_with(options) || demand == Demand::Readable;
        if !is_bound && meta.network == options.network && has_no_rows(read)? {
            return Ok(None);
        }
        Ok(Some(meta))
    }

    /// Whether a new file with these options would say the same.
    fn is_new_with(&self, options: &StoreOptions) -> bool {
        let new = Self::new(options);
        (self.first_height, self.keep) == (new.first_height, new.keep)
            && self.tweak_form == new.tweak_form
    }

    /// Holds the file against what is wanted.
    pub(super) fn check(&self, file: &Path, options: &StoreOptions) -> Result<(), StoreError> {
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
        if let Some(expected) = options.keep
            && expected != self.keep
        {
            return Err(StoreError::WrongKeep {
                file: file.into(),
                found: self.keep,
                expected,
            });
        }
        match options.tweak_form {
            Some(expected) if expected != self.tweak_form => Err(StoreError::WrongTweakForm {
                file: file.into(),
                found: self.tweak_form,
                expected,
            }),
            _ => Ok(()),
        }
    }

    /// The options that describe this file, to make another like it.
    pub(super) fn options(&self, like: &StoreOptions) -> StoreOptions {
        StoreOptions {
            network: self.network,
            first_height: Some(self.first_height),
            keep: Some(self.keep),
            tweak_form: Some(self.tweak_form),
            ..like.clone()
        }
    }

    /// Of a new file.
    fn new(options: &StoreOptions) -> Self {
        Self {
            version: SCHEMA_VERSION,
            network: options.network,
            first_height: options
                .first_height
                .unwrap_or_else(|| default_first_height(options.network)),
            keep: options.keep.unwrap_or_default(),
            tweak_form: options.tweak_form.unwrap_or_default(),
            locator: LocatorHasher::new(bitcoin::secp256k1::rand::random()),
        }
    }

    /// Creates every table and `meta`: the file's first commit, so that a file either is an index or has no table.
    /// Tables that are there already must be empty, and go.
    pub(super) fn create(write: &WriteTransaction, options: &StoreOptions) -> Result<Self, Fault> {
        let meta = Self::new(options);
        for table in write.list_tables()?.collect::<Vec<_>>() {
            write.delete_table(table)?;
        }
        let mut table = write.open_table(META)?;
        put(&mut table, SCHEMA, &SCHEMA_VERSION.to_le_bytes())?;
        put(&mut table, NETWORK, meta.network.to_core_arg().as_bytes())?;
        put(&mut table, FIRST_HEIGHT, &meta.first_height.to_le_bytes())?;
        put(&mut table, KEEP, meta.keep.name().as_bytes())?;
        let column = meta.tweak_form.column();
        let form = match meta.tweak_form.has_points() {
            true => POINTS,
            false => COMPRESSED_POINTS,
        };
        put(&mut table, TWEAK_FORM, form.as_bytes())?;
        put(&mut table, LOCATOR_KEY, meta.locator.key())?;
        let created_by = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
        put(&mut table, CREATED_BY, created_by.as_bytes())?;

        write.open_table(BLOCKS)?;
        write.open_table(HEIGHTS)?;
        write.open_table(DIGEST)?;
        write.open_table(HEADS_V1)?;
        write.open_table(SECTIONS)?;
        write.open_table(column.definition())?;
        if meta.tweak_form.has_multiples() {
            put(&mut table, MULTIPLES_RECORD, &MULTIPLES_POWER.to_le_bytes())?;
            write.open_table(MULTIPLES.definition())?;
        }
        watches::create(write)?;
        if meta.keep == Keep::Full {
            write.open_table(LOCATOR)?;
            write.open_table(HEADS_V2)?;
            write.open_table(STATES)?;
            write.open_table(STATE_LOCATOR)?;
            for column in [
                TXIDS, FIRSTS, OUTPUTS, SPENDS, FOREIGN, SPENDERS, FILTERS, SPENT,
            ] {
                write.open_table(column.definition())?;
            }
        }
        Ok(meta)
    }
}

/// Whether no table but `meta` has a row.
fn has_no_rows(read: &ReadTransaction) -> Result<bool, Fault> {
    for table in read.list_tables()? {
        if table.name() != META.name() && read.open_untyped_table(table)?.len()? > 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a long sync has left of the locator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deferred {
    /// Position of the first output that has a mark: the first one that was not located at once.
    pub(super) marked: u64,
    /// How many outputs, from the first on, the locator covers, marked ones among them.
    pub(super) located: u64,
}

/// What is left of the locator; `None` if it is complete.
pub(super) fn read_deferred(read: &ReadTransaction) -> Result<Option<Deferred>, Fault> {
    let table = read.open_table(META)?;
    let Some(value) = table.get(LOCATED)? else {
        return Ok(None);
    };
    let value: [u8; 16] = fixed(LOCATED, value.value())?;
    let [marked, located] = match value.as_chunks::<8>().0 {
        [marked, located] => [marked, located].map(|bytes| u64::from_le_bytes(*bytes)),
        _ => [0; 2],
    };
    if marked > located {
        let reason = "less is located than is not marked";
        return Err(Fault::row("meta", LOCATED, reason));
    }
    Ok(Some(Deferred { marked, located }))
}

/// Records what is left of the locator from this commit on.
pub(super) fn write_deferred(
    write: &WriteTransaction,
    deferred: Option<Deferred>,
) -> Result<(), Fault> {
    let mut table = write.open_table(META)?;
    match deferred {
        Some(Deferred { marked, located }) => {
            let value = [marked.to_le_bytes(), located.to_le_bytes()].concat();
            put(&mut table, LOCATED, &value)
        }
        None => {
            table.remove(LOCATED)?;
            Ok(())
        }
    }
}

/// The height from which on spenders are known; `None` if all are.
pub(super) fn read_spenders_from(read: &ReadTransaction) -> Result<Option<u32>, Fault> {
    let table = read.open_table(META)?;
    let Some(value) = table.get(SPENDERS_FROM)? else {
        return Ok(None);
    };
    let height = fixed(SPENDERS_FROM, value.value())?;
    Ok(Some(u32::from_le_bytes(height)))
}

/// Records from which height on spenders are known from this commit on.
pub(super) fn write_spenders_from(
    write: &WriteTransaction,
    height: Option<u32>,
) -> Result<(), Fault> {
    let mut table = write.open_table(META)?;
    match height {
        Some(height) => put(&mut table, SPENDERS_FROM, &height.to_le_bytes()),
        None => {
            table.remove(SPENDERS_FROM)?;
            Ok(())
        }
    }
}

/// First format whose tables this one has, and some more. Its files lack the record [`LOCATED`], as all of them are complete.
pub(super) const SAME_TABLES: u32 = 3;

/// First format whose pages have sums.
pub(super) const WITH_SUMS: u32 = 5;

/// First format that has spenders, state ids, heads and hashes of columns.
pub(super) const WITH_HEADS: u32 = 6;

/// Gives a file of a format from [`SAME_TABLES`] on this one's number.
pub(super) fn raise_version(write: &WriteTransaction) -> Result<(), Fault> {
    let mut table = write.open_table(META)?;
    put(&mut table, SCHEMA, &SCHEMA_VERSION.to_le_bytes())
}

/// Last format whose files do not say what they keep.
const NAMELESS: u32 = 2;

fn check_version(found: u32, file: &Path) -> Result<(), StoreError> {
    let file = file.into();
    match found {
        ..SCHEMA_OLDEST => Err(StoreError::OlderSchema {
            file,
            found,
            expected: SCHEMA_OLDEST,
        }),
        SCHEMA_OLDEST..=SCHEMA_VERSION => Ok(()),
        _ => Err(StoreError::NewerSchema {
            file,
            found,
            expected: SCHEMA_VERSION,
        }),
    }
}

/// How the file stores tweaks, by two records: one says of what form a tweak is (not before format 3, which took points
/// for granted), the other is there if multiples are. Format 1 has none of them and format 2 always has.
fn load_tweak_form(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    version: u32,
) -> Result<TweakForm, Fault> {
    let are_points = version <= NAMELESS
        || choice(table, TWEAK_FORM, |name| match name {
            POINTS => Some(true),
            COMPRESSED_POINTS => Some(false),
            _ => None,
        })?;
    let wrong = |reason: String| Fault::row("meta", MULTIPLES_RECORD, reason);
    match (version, table.get(MULTIPLES_RECORD)?) {
        (1, Some(_)) => Err(wrong(format!("not in a file of format {version}"))),
        (2, None) => Err(wrong("missing".to_owned())),
        (_, None) if are_points => Ok(TweakForm::Point),
        (_, None) => Ok(TweakForm::Compressed),
        (_, Some(_)) if !are_points => Err(wrong("not where tweaks are compressed".to_owned())),
        (_, Some(value)) => match u32::from_le_bytes(fixed(MULTIPLES_RECORD, value.value())?) {
            MULTIPLES_POWER => Ok(TweakForm::PointAndMultiple),
            power => Err(wrong(format!(
                "2^{power} where 2^{MULTIPLES_POWER} was expected"
            ))),
        },
    }
}

/// A record that is one of a few names.
fn choice<T>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
    from_name: impl FnOnce(&str) -> Option<T>,
) -> Result<T, Fault> {
    let value = required(table, name)?;
    let value = std::str::from_utf8(&value).ok().and_then(from_name);
    value.ok_or_else(|| Fault::row("meta", name, "no such choice"))
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
