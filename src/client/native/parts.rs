//! Parts of columns, as they come.

use super::super::OracleError;
use super::super::http::Incoming;
use super::files::FileRange;
use super::group::Group;
use crate::BlockId;
use crate::wire::native::column::{Column, PartHead};

/// Longest part that is read. Of 64 blocks of 4 million weight units, `outputs` takes some 80 MB at most.
pub(super) const PART_BYTES_MAX: u64 = 128 << 20;

/// One column of consecutive blocks.
pub(crate) struct Part {
    pub(crate) head: PartHead,
    /// What follows the head.
    pub(super) body: Vec<u8>,
}

/// What comes next.
pub(crate) enum Next {
    /// One part for each column.
    Group(Group),
    /// The mark at the end: the block that the answer reached.
    End(BlockId),
    /// Nothing more, and no mark: why.
    Cut(String),
}

/// An answer made of parts.
pub(crate) struct Parts {
    /// What was asked.
    url: String,
    origin: Origin,
}

/// Where parts come from.
enum Origin {
    Bytes(Bytes),
    Files(Box<FileRange>),
}

/// The bytes of an answer.
struct Bytes {
    /// `None` where all of it was there from the beginning.
    incoming: Option<Incoming>,
    /// Read, and not used yet.
    buffer: Vec<u8>,
}

/// Why bytes are not there.
enum Lacking {
    /// The answer ended before the first of them.
    All,
    /// It broke off.
    Some(String),
}

impl Parts {
    pub(super) fn new(incoming: Incoming) -> Self {
        Self {
            url: incoming.url.clone(),
            origin: Origin::Bytes(Bytes {
                incoming: Some(incoming),
                buffer: Vec::new(),
            }),
        }
    }

    /// Of an answer that is there as a whole.
    pub(super) fn of_bytes(url: &str, bytes: Vec<u8>) -> Self {
        Self {
            url: url.to_owned(),
            origin: Origin::Bytes(Bytes {
                incoming: None,
                buffer: bytes,
            }),
        }
    }

    /// Of files, one group for each chunk.
    pub(super) fn of_files(url: String, range: FileRange) -> Self {
        Self {
            url,
            origin: Origin::Files(Box::new(range)),
        }
    }

    /// What was asked, or which files the last parts are of.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    pub(crate) fn malformed(&self, what: impl Into<String>) -> OracleError {
        OracleError::Malformed {
            url: self.url(),
            what: what.into(),
        }
    }

    /// That it broke off so many times.
    pub(crate) fn cut(&self, attempts: u32, reason: String) -> OracleError {
        OracleError::Unreachable {
            url: self.url(),
            attempts,
            reason,
        }
    }

    /// The parts of the next blocks.
    ///
    /// # Errors
    /// Bytes that are no such parts; files that nobody else has either.
    pub(crate) async fn next(&mut self, columns: &[Column]) -> Result<Next, OracleError> {
        if let Origin::Files(range) = &mut self.origin {
            let (url, next) = range.next().await?;
            self.url = url;
            return Ok(next);
        }
        let mut parts: Vec<Part> = Vec::with_capacity(columns.len());
        for column in columns {
            let head = match self.take(PartHead::BYTES).await {
                Ok(head) => head,
                Err(Lacking::All) => return Ok(Next::Cut("it ends without a mark".to_owned())),
                Err(Lacking::Some(reason)) => return Ok(Next::Cut(reason)),
            };
            let head = head.first_chunk().map(PartHead::decode);
            let head = head
                .unwrap_or_else(|| unreachable!("as long as a head"))
                .map_err(|error| self.malformed(error.to_string()))?;
            if head.column.is_none() && parts.is_empty() {
                return self.end(&head).await;
            }
            if head.column != Some(*column) {
                let has = head.column.map_or("the end mark", Column::name);
                return Err(self.malformed(format!("{has} where {column} is to be")));
            }
            if head.is_selection {
                return Err(self.malformed(format!("a selection of {column} where all is to be")));
            }
            let of = |head: &PartHead| (head.network, head.first, head.blocks, head.last_hash);
            if parts
                .first()
                .is_some_and(|first| of(&first.head) != of(&head))
            {
                return Err(self.malformed(format!("{column} of other blocks than headers")));
            }
            if head.bytes > PART_BYTES_MAX {
                let (first, bytes) = (head.first, head.bytes);
                return Err(self.malformed(format!(
                    "{column} from block {first} on with {bytes} bytes, more than blocks can fill"
                )));
            }
            let body = match self.take(head.bytes as usize).await {
                Ok(body) => body,
                Err(Lacking::All) => return Ok(Next::Cut("it ends within a part".to_owned())),
                Err(Lacking::Some(reason)) => return Ok(Next::Cut(reason)),
            };
            parts.push(Part { head, body });
        }
        Ok(Next::Group(Group::Parts(parts)))
    }

    /// Reads the end of an answer of one group, whose last block this is: a mark that names it, or that nothing is left where
    /// there is to be none. The reason, if it broke off.
    ///
    /// # Errors
    /// Another end.
    pub(super) async fn finish(
        &mut self,
        columns: &[Column],
        last: Option<BlockId>,
    ) -> Result<Option<String>, OracleError> {
        let Some(last) = last else {
            return match self.take(1).await {
                Err(Lacking::All) => Ok(None),
                Err(Lacking::Some(reason)) => Ok(Some(reason)),
                Ok(_) => Err(self.malformed("more behind its last part")),
            };
        };
        match self.next(columns).await? {
            Next::End(mark) if mark == last => Ok(None),
            Next::End(_) => Err(self.malformed("an end mark of another block than its last")),
            Next::Group(_) => Err(self.malformed("more blocks than were asked for")),
            Next::Cut(reason) => Ok(Some(reason)),
        }
    }

    async fn end(&mut self, head: &PartHead) -> Result<Next, OracleError> {
        match self.take(1).await {
            Err(Lacking::All) => Ok(Next::End(BlockId {
                height: head.first,
                hash: head.last_hash,
            })),
            Err(Lacking::Some(reason)) => Ok(Next::Cut(reason)),
            Ok(_) => Err(self.malformed("more behind its end mark")),
        }
    }

    /// The next bytes.
    async fn take(&mut self, bytes: usize) -> Result<Vec<u8>, Lacking> {
        match &mut self.origin {
            Origin::Bytes(origin) => origin.take(bytes).await,
            // They have no bytes but those of their groups.
            Origin::Files(_) => Err(Lacking::All),
        }
    }
}

impl Bytes {
    async fn take(&mut self, bytes: usize) -> Result<Vec<u8>, Lacking> {
        while self.buffer.len() < bytes {
            let piece = match &mut self.incoming {
                Some(incoming) => incoming.read(&mut self.buffer).await,
                None => Ok(false),
            };
            match piece {
                Ok(true) => {}
                Ok(false) if self.buffer.is_empty() => return Err(Lacking::All),
                Ok(false) => return Err(Lacking::Some("it ends within a part".to_owned())),
                Err(reason) => return Err(Lacking::Some(reason)),
            }
        }
        let rest = self.buffer.split_off(bytes);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }
}
