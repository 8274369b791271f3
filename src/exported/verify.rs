//! Reading: every file that the manifest names, held against it and against what binds it.

use std::fmt;

use bitcoin::{BlockHash, Network};

use super::place::{Place, PlaceError};
use crate::wire::native::column::{Column, PartHead, chunk_heights, split_part};
use crate::wire::native::manifest::{FileSum, List, ListedChunk, MANIFEST, Manifest, chunk_file};
use crate::wire::native::section::{HeaderSection, SectionHashes, section_hash};
use crate::wire::spcommit::MAINNET_FIRST_HEIGHT;

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// It is not there.
    Missing,
    /// It ends too early.
    Short {
        /// Its length.
        has: u64,
        /// What that should be.
        of: u64,
    },
    /// It is whole, but of other blocks than the manifest names.
    Stale {
        /// The last of its blocks.
        last: BlockHash,
    },
    /// It is something else than what was written.
    Broken(String),
}

/// A file that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its name.
    pub name: String,
    /// What is wrong.
    pub kind: FaultKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.kind {
            FaultKind::Missing => write!(f, "{name} is missing"),
            FaultKind::Short { has, of } => write!(f, "{name} has {has} of {of} bytes"),
            FaultKind::Stale { last } => {
                write!(f, "{name} is of other blocks, which end with {last}")
            }
            FaultKind::Broken(what) => write!(f, "{name} is broken: {what}"),
        }
    }
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What the place says it has; `None` if that is a fault itself.
    pub manifest: Option<Manifest>,
    /// Files of chunks that are as they should be.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// All others, in order.
    pub faults: Vec<Fault>,
}

/// Reads all files that a manifest names: their lengths and hashes, that their headers link and carry work, that these bind all
/// other columns, and that they lead to the heads that are listed.
///
/// # Errors
/// A place that cannot be read.
pub async fn verify(place: &Place) -> Result<Verified, PlaceError> {
    let mut verified = Verified {
        manifest: None,
        files: 0,
        bytes: 0,
        faults: Vec::new(),
    };
    let manifest = match place.read(MANIFEST).await? {
        None => Err(FaultKind::Missing),
        Some(bytes) => Manifest::decode(&bytes).map_err(FaultKind::Broken),
    };
    let manifest = match manifest {
        Ok(manifest) => manifest,
        Err(kind) => {
            verified.fault(MANIFEST, kind);
            return Ok(verified);
        }
    };
    let mut chain = Chain::new(&manifest);
    for name in &manifest.lists {
        let list = match place.read(&name.file()).await? {
            None => Err(FaultKind::Missing),
            Some(bytes) => {
                List::decode(&bytes, name, manifest.columns.len()).map_err(FaultKind::Broken)
            }
        };
        match list {
            Ok(list) => {
                for listed in &list.chunks {
                    let files = read_chunk(place, &manifest, listed, &mut verified).await?;
                    chain.append(listed, &manifest, &files, &mut verified);
                }
            }
            Err(kind) => {
                verified.fault(&name.file(), kind);
                chain.interrupt(None);
            }
        }
    }
    if let Some((hash, head)) = chain.reached
        && (hash, head) != (manifest.last_block.hash, manifest.head)
    {
        let what = "its last block or head is not that of its lists";
        verified.fault(MANIFEST, FaultKind::Broken(what.to_owned()));
    }
    verified.manifest = Some(manifest);
    Ok(verified)
}

impl Verified {
    fn fault(&mut self, name: &str, kind: FaultKind) {
        let name = name.to_owned();
        self.faults.push(Fault { name, kind });
    }
}

/// The files of a chunk that are whole, in the order of the columns; `None` for those that are not.
async fn read_chunk(
    place: &Place,
    manifest: &Manifest,
    listed: &ListedChunk,
    verified: &mut Verified,
) -> Result<Vec<Option<Vec<u8>>>, PlaceError> {
    let mut files = Vec::new();
    for (column, sum) in manifest.columns.iter().zip(&listed.files) {
        let name = chunk_file(listed.chunk, *column);
        let kind = match place.read(&name).await? {
            None => FaultKind::Missing,
            Some(bytes) if FileSum::of(&bytes) == *sum => {
                files.push(Some(bytes));
                continue;
            }
            Some(bytes) => fault_of(&bytes, sum, listed),
        };
        verified.fault(&name, kind);
        files.push(None);
    }
    Ok(files)
}

/// How bytes that are not those of a listed file are wrong.
pub(crate) fn fault_of(bytes: &[u8], sum: &FileSum, listed: &ListedChunk) -> FaultKind {
    let has = bytes.len() as u64;
    match split_part(bytes) {
        Ok((head, _, [])) if head.last_hash != listed.block_hash => FaultKind::Stale {
            last: head.last_hash,
        },
        _ if has < sum.bytes => FaultKind::Short { has, of: sum.bytes },
        _ => FaultKind::Broken("other bytes than are listed".to_owned()),
    }
}

/// From which height on there are heads of the chain of section hashes; `None` if there are none at all.
pub(crate) fn heads_from(manifest: &Manifest) -> Option<u32> {
    let first = match manifest.network {
        Network::Bitcoin => {
            Some(MAINNET_FIRST_HEIGHT).filter(|first| manifest.first_height <= *first)
        }
        _ => Some(manifest.first_height),
    };
    first.filter(|_| manifest.columns.len() == Column::ALL.len())
}

/// Blocks in order, and what binds them.
struct Chain {
    /// From which height on there are heads.
    heads_from: Option<u32>,
    /// The block before the next one; `None` if it is not known.
    before: Option<BlockHash>,
    head: Option<[u8; 32]>,
    /// The last block and its head, if the files up to there were whole.
    reached: Option<(BlockHash, Option<[u8; 32]>)>,
}

impl Chain {
    fn new(manifest: &Manifest) -> Self {
        Self {
            heads_from: heads_from(manifest),
            before: None,
            head: None,
            reached: None,
        }
    }

    /// Goes on after blocks that could not be read, the last of which is known from a list, or not at all.
    fn interrupt(&mut self, listed: Option<&ListedChunk>) {
        self.before = listed.map(|listed| listed.block_hash);
        self.head = listed.and_then(|listed| listed.head);
        self.reached = None;
        if listed.is_none() {
            // Heads are followed no further.
            self.heads_from = None;
        }
    }

    fn append(
        &mut self,
        listed: &ListedChunk,
        manifest: &Manifest,
        files: &[Option<Vec<u8>>],
        verified: &mut Verified,
    ) {
        let Some(Some(headers)) = files.first() else {
            self.interrupt(Some(listed));
            return;
        };
        let name = |column| chunk_file(listed.chunk, column);
        let blocks = match self.headers(listed, manifest, headers) {
            Ok(blocks) => blocks,
            Err(what) => {
                verified.fault(&name(Column::Headers), FaultKind::Broken(what));
                self.interrupt(Some(listed));
                return;
            }
        };
        for (column, bytes) in manifest.columns.iter().zip(files) {
            let Some(bytes) = bytes else { continue };
            let bound = match column {
                Column::Headers => Ok(()),
                column => bound(*column, listed, manifest, bytes, &blocks),
            };
            match bound {
                Ok(()) => {
                    verified.files += 1;
                    verified.bytes += bytes.len() as u64;
                }
                Err(what) => verified.fault(&name(*column), FaultKind::Broken(what)),
            }
        }
    }

    /// The hashes of each block of a `headers` file that fits.
    fn headers(
        &mut self,
        listed: &ListedChunk,
        manifest: &Manifest,
        bytes: &[u8],
    ) -> Result<Vec<SectionHashes>, String> {
        let (head, sections) = part(Column::Headers, listed, manifest, bytes)?;
        let mut blocks = Vec::new();
        for (height, section) in (head.first..).zip(sections) {
            let section = HeaderSection::decode(section).map_err(|error| error.to_string())?;
            let header = section.header;
            if self
                .before
                .is_some_and(|before| before != header.prev_blockhash)
            {
                return Err(format!("the header of height {height} does not link"));
            }
            let hash = header
                .validate_pow(header.target())
                .map_err(|error| format!("the header of height {height}: {error}"))?;
            self.before = Some(hash);
            if self.heads_from.is_some_and(|first| first <= height) {
                let before = self.head.unwrap_or_default();
                self.head = Some(section.hashes.next_head(&before, &hash));
            }
            blocks.push(section.hashes);
        }
        if self.before != Some(listed.block_hash) {
            return Err("its last header is not that of the last block".to_owned());
        }
        let heads = self.heads_from.is_some();
        if heads && self.head != listed.head {
            return Err("its hashes lead to another head than is listed".to_owned());
        }
        self.reached = Some((listed.block_hash, listed.head));
        Ok(blocks)
    }
}

/// The part that a file is to hold.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn part<'b>(
    column: Column,
    listed: &ListedChunk,
    manifest: &Manifest,
    bytes: &'b [u8],
) -> Result<(PartHead, Vec<&'b [u8]>), String> {
    let (head, sections, rest) = split_part(bytes).map_err(|error| error.to_string())?;
    let (from, to) = chunk_heights(listed.chunk).unwrap_or_default();
    let first = from.max(manifest.first_height);
    let fits = head.network == manifest.network
        && head.column == Some(column)
        && !head.is_selection
        && (head.first, head.last()) == (first, to)
        && head.last_hash == listed.block_hash
        && rest.is_empty();
    match fits {
        true => Ok((head, sections)),
        false => Err("it is not the part that its name says".to_owned()),
    }
}

/// Whether the hashes in the headers are those of the sections in a file.
fn bound(
    column: Column,
    listed: &ListedChunk,
    manifest: &Manifest,
    bytes: &[u8],
    blocks: &[SectionHashes],
) -> Result<(), String> {
    let (head, sections) = part(column, listed, manifest, bytes)?;
    for ((height, section), hashes) in (head.first..).zip(sections).zip(blocks) {
        let expected = match column {
            Column::Headers | Column::Selected => continue,
            Column::Tweaks => hashes.tweaks,
            Column::Prefixes => hashes.prefixes,
            Column::Outputs => hashes.outputs,
            Column::Spent => hashes.spent,
            Column::Spends => hashes.spends,
            Column::NewUtxos => hashes.new_utxos,
        };
        if section_hash(section) != expected {
            return Err(format!(
                "the headers do not bind its section of height {height}"
            ));
        }
    }
    Ok(())
}
