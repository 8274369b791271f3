//! What a folder of exported files says of itself: chunks of columns under the paths that a server has for them, lists of these
//! with lengths and hashes, and a manifest that names the lists.
//!
//! Files of chunks keep their names and, below the depth that reorganisations reach, their bytes. A list is named after what it
//! says, so that a manifest that was read a moment ago goes on to fit what it names.

use bitcoin::hashes::{Hash, sha256};
use bitcoin::hex::DisplayHex;
use bitcoin::{BlockHash, Network};
use serde::{Deserialize, Serialize};

use super::column::{CHUNK_BLOCKS, Column, chunk_heights};
use super::info::BlockIdBody;
use crate::BlockId;
use crate::wire::hex::Hex;
use crate::wire::text::{excerpt, parse};

/// Name of the manifest, beside the folder `chunk` in that of the routes ([`PREFIX`](super::PREFIX)).
pub const MANIFEST: &str = "manifest.json";

/// The folder of lists.
pub const LISTS: &str = "manifest";

/// Chunks of a list: list n has the chunks from `n · LIST_CHUNKS` on.
pub const LIST_CHUNKS: u32 = 64;

const FORMAT: u32 = 1;

/// Name of the file of a column of a chunk.
pub fn chunk_file(chunk: u32, column: Column) -> String {
    format!("chunk/{chunk}/{column}")
}

/// What has been exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The chain.
    pub network: Network,
    /// First height of the index, which its first chunk begins with.
    pub first_height: u32,
    /// Columns of each chunk, `headers` among them.
    pub columns: Vec<Column>,
    /// The height from which on it is known who spends what; `None` if in all blocks.
    pub spenders_from: Option<u32>,
    /// The last block of the last chunk.
    pub last_block: BlockId,
    /// The head of the chain of section hashes at that block; `None` without one.
    pub head: Option<[u8; 32]>,
    /// The lists, in order, without a gap between their chunks.
    pub lists: Vec<ListName>,
}

/// A list, as the manifest names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListName {
    /// Its first chunk.
    pub first: u32,
    /// Its last chunk.
    pub last: u32,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

impl ListName {
    /// The name of a list of these chunks with these bytes.
    pub fn of(first: u32, last: u32, bytes: &[u8]) -> Self {
        Self {
            first,
            last,
            sha256: sha256::Hash::hash(bytes).to_byte_array(),
        }
    }

    /// The name of its file.
    pub fn file(&self) -> String {
        let short = &self.sha256[..8];
        format!(
            "{LISTS}/{}-{}.json",
            self.first,
            short.to_lower_hex_string()
        )
    }
}

/// Files of consecutive chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// In order.
    pub chunks: Vec<ListedChunk>,
}

/// Files of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedChunk {
    /// Its number.
    pub chunk: u32,
    /// Hash of its last block.
    pub block_hash: BlockHash,
    /// The head of the chain of section hashes there; `None` without one.
    pub head: Option<[u8; 32]>,
    /// Its files, in the order of the manifest's columns.
    pub files: Vec<FileSum>,
}

/// What a file is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSum {
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

impl FileSum {
    /// Of a file of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            sha256: sha256::Hash::hash(bytes).to_byte_array(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct ListNameBody {
    first: u32,
    last: u32,
    name: String,
    sha256: Hex<32>,
}

#[derive(Serialize, Deserialize)]
struct ManifestBody {
    format: u32,
    network: String,
    first_height: u32,
    chunk_blocks: u32,
    columns: Vec<String>,
    spenders_from: Option<u32>,
    last_block: BlockIdBody,
    head: Option<Hex<32>>,
    lists: Vec<ListNameBody>,
}

impl Manifest {
    /// Its first chunk.
    pub const fn first_chunk(&self) -> u32 {
        self.first_height / CHUNK_BLOCKS
    }

    /// Its last chunk.
    pub const fn last_chunk(&self) -> u32 {
        self.last_block.height / CHUNK_BLOCKS
    }

    /// Writes it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let lists = self.lists.iter().map(|list| ListNameBody {
            first: list.first,
            last: list.last,
            name: list.file(),
            sha256: Hex(list.sha256),
        });
        let body = ManifestBody {
            format: FORMAT,
            network: self.network.to_core_arg().to_owned(),
            first_height: self.first_height,
            chunk_blocks: CHUNK_BLOCKS,
            columns: self.columns.iter().map(Column::to_string).collect(),
            spenders_from: self.spenders_from,
            last_block: self.last_block.into(),
            head: self.head.map(Hex),
            lists: lists.collect(),
        };
        serde_json::to_vec_pretty(&body).map_err(|error| error.to_string())
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the bytes: another format, unknown columns, chunks that no list has.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let body: ManifestBody = parse(bytes)?;
        if (body.format, body.chunk_blocks) != (FORMAT, CHUNK_BLOCKS) {
            return Err(format!(
                "a manifest of format {} with chunks of {} blocks, and this program reads format {FORMAT} with {CHUNK_BLOCKS}",
                body.format, body.chunk_blocks
            ));
        }
        let network =
            Network::from_core_arg(&body.network).map_err(|error| excerpt(&error.to_string()))?;
        let column = |name: &String| {
            let column = Column::by_name(name).filter(|column| *column != Column::Selected);
            column.ok_or_else(|| format!("no column is called {:?}", excerpt(name)))
        };
        let columns: Vec<Column> = body.columns.iter().map(column).collect::<Result<_, _>>()?;
        if !columns.is_sorted_by(|a, b| a < b) || columns.first() != Some(&Column::Headers) {
            return Err("columns in another order, or without headers".to_owned());
        }
        let lists = body.lists.into_iter().map(|list| {
            let name = ListName {
                first: list.first,
                last: list.last,
                sha256: list.sha256.0,
            };
            match name.file() == list.name {
                true => Ok(name),
                false => {
                    let other = excerpt(&list.name);
                    Err(format!("a list with the name of another, {other:?}"))
                }
            }
        });
        let manifest = Self {
            network,
            first_height: body.first_height,
            columns,
            spenders_from: body.spenders_from,
            last_block: body.last_block.into(),
            head: body.head.map(|head| head.0),
            lists: lists.collect::<Result<_, _>>()?,
        };
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        let mut next = Some(self.first_chunk());
        for list in &self.lists {
            let is_whole = list.last / LIST_CHUNKS == list.first / LIST_CHUNKS;
            if Some(list.first) != next || list.last < list.first || !is_whole {
                let ListName { first, last, .. } = list;
                return Err(format!("a list of chunks {first} to {last}, out of order"));
            }
            next = list.last.checked_add(1);
        }
        let last = chunk_heights(self.last_chunk()).map(|(_, last)| last);
        if next != self.last_chunk().checked_add(1) || last != Some(self.last_block.height) {
            return Err("lists that do not reach to the last block".to_owned());
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct FileBody {
    bytes: u64,
    sha256: Hex<32>,
}

#[derive(Serialize, Deserialize)]
struct ListedChunkBody {
    chunk: u32,
    block_hash: BlockHash,
    head: Option<Hex<32>>,
    files: Vec<FileBody>,
}

#[derive(Serialize, Deserialize)]
struct ListBody {
    chunks: Vec<ListedChunkBody>,
}

impl List {
    /// Writes it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let file = |sum: &FileSum| FileBody {
            bytes: sum.bytes,
            sha256: Hex(sum.sha256),
        };
        let chunks = self.chunks.iter().map(|listed| ListedChunkBody {
            chunk: listed.chunk,
            block_hash: listed.block_hash,
            head: listed.head.map(Hex),
            files: listed.files.iter().map(file).collect(),
        });
        let chunks = chunks.collect();
        serde_json::to_vec(&ListBody { chunks }).map_err(|error| error.to_string())
    }

    /// Reads the list that a manifest names.
    ///
    /// # Errors
    /// What is wrong with the bytes: not those that it names, other chunks, not a file for each column.
    pub fn decode(bytes: &[u8], name: &ListName, columns: usize) -> Result<Self, String> {
        if ListName::of(name.first, name.last, bytes) != *name {
            return Err("other bytes than the manifest names".to_owned());
        }
        let body: ListBody = parse(bytes)?;
        let chunks = body.chunks.iter().map(|listed| listed.chunk);
        if !chunks.eq(name.first..=name.last) {
            return Err("not the chunks that the manifest names".to_owned());
        }
        if body
            .chunks
            .iter()
            .any(|listed| listed.files.len() != columns)
        {
            return Err("not a file for each column".to_owned());
        }
        let sum = |file: FileBody| FileSum {
            bytes: file.bytes,
            sha256: file.sha256.0,
        };
        let chunks = body.chunks.into_iter().map(|listed| ListedChunk {
            chunk: listed.chunk,
            block_hash: listed.block_hash,
            head: listed.head.map(|head| head.0),
            files: listed.files.into_iter().map(sum).collect(),
        });
        Ok(Self {
            chunks: chunks.collect(),
        })
    }
}

#[cfg(test)]
mod tests;
