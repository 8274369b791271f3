//! Encoded answers, kept by what was asked and the state of the index they are of.
//!
//! An answer is read, encoded, compressed and named once for all who ask for it, however many do so at the same moment. What
//! changes with the tip is asked for under a new stamp after the next commit, what follows from a block alone only after a
//! reorganisation; old answers give way to new ones as room is needed.

mod ranges;

use std::future::Future;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bitcoin::hashes::{Hash, sha256};
use bitcoin::hex::DisplayHex;
use bitcoin::{BlockHash, OutPoint, Txid};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::encoding::gzip;
use crate::BlockId;
use crate::api::desk::{DeskError, Stamp, TweakList};
use crate::filter::FilterKind;
use crate::wire::native::column::Column;
use crate::wire::native::selection::Rule;

/// What an answer of a common size takes, to divide the room by.
const COMMON_BYTES: u64 = 8 << 10;

/// The share of the room that one answer must find room in, if the room is so large: more than any answer takes.
const SHARE_BYTES: u64 = 8 << 20;

/// What an answer takes beside its body, about: 350 were measured with many small ones.
const OVERHEAD_BYTES: u64 = 400;

/// What has been asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Question {
    Info,
    BlockHeight,
    BlockHash(u32),
    Tweaks {
        height: u32,
        list: TweakList,
        dust_limit_sat: u64,
    },
    Utxos(u32),
    Filter(u32, FilterKind),
    SpentIndex(u32),
    Spends(u32),
    Digest(u32),
    Commitments {
        from: u32,
        to: u32,
    },
    Process(OutPoint),
    Proof(BlockId, u32),
    NativeInfo,
    Block(u32),
    BlockOf(BlockHash),
    NativeDigest(u32),
    Outpoint(OutPoint, Option<u32>),
    Transaction(Txid, Option<u32>),
    Birthday(u32),
    /// Columns of the chunk that ends at a height, or what is selected of them.
    Chunk {
        to: u32,
        columns: Columns,
        rule: Option<Rule>,
    },
}

/// Columns in the order in which they were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Columns([Option<Column>; Columns::MOST]);

impl Columns {
    /// With that of selections.
    const MOST: usize = Column::ALL.len() + 1;

    /// Each of them once.
    pub(super) fn of(columns: &[Column]) -> Self {
        let mut own = [None; Self::MOST];
        for (place, column) in own.iter_mut().zip(columns) {
            *place = Some(*column);
        }
        Self(own)
    }

    fn tell_spenders(self) -> bool {
        self.0.into_iter().flatten().any(Column::tells_spenders)
    }
}

impl Question {
    /// The block it is about, if it is about one.
    const fn height(self) -> Option<u32> {
        match self {
            Self::Info
            | Self::BlockHeight
            | Self::Process(_)
            | Self::NativeInfo
            | Self::BlockOf(_)
            | Self::Birthday(_) => None,
            Self::Commitments { to, .. } | Self::Chunk { to, .. } => Some(to),
            Self::Outpoint(_, height) | Self::Transaction(_, height) => height,
            Self::Proof(block, _) => Some(block.height),
            Self::BlockHash(height)
            | Self::Tweaks { height, .. }
            | Self::Utxos(height)
            | Self::Filter(height, _)
            | Self::SpentIndex(height)
            | Self::Spends(height)
            | Self::Digest(height)
            | Self::Block(height)
            | Self::NativeDigest(height) => Some(height),
        }
    }

    /// Whether the answer follows from the block alone, and those below it. Others change as outputs are spent.
    fn is_lasting(self) -> bool {
        match self {
            Self::Info
            | Self::BlockHeight
            | Self::Utxos(_)
            | Self::Process(_)
            | Self::NativeInfo
            | Self::Block(_)
            | Self::BlockOf(_)
            | Self::Outpoint(..)
            | Self::Transaction(..)
            | Self::Birthday(_) => false,
            Self::Tweaks { list, .. } => matches!(list, TweakList::Full),
            // A selection names the tip.
            Self::Chunk { rule, .. } => rule.is_none(),
            Self::BlockHash(_)
            | Self::Filter(..)
            | Self::SpentIndex(_)
            | Self::Spends(_)
            | Self::Digest(_)
            | Self::NativeDigest(_)
            | Self::Proof(..)
            | Self::Commitments { .. } => true,
        }
    }

    /// The part of the stamp that the answer hangs on.
    fn state(self, stamp: Stamp) -> u64 {
        match self {
            Self::Chunk {
                columns,
                rule: None,
                ..
            } if columns.tell_spenders() => stamp.known,
            question if question.is_lasting() => stamp.branch,
            _ => stamp.tip,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    question: Question,
    /// The part of the stamp that the answer hangs on.
    state: u64,
    is_gzip: bool,
}

impl Key {
    fn new(question: Question, stamp: Stamp, is_gzip: bool) -> Self {
        Self {
            question,
            state: question.state(stamp),
            is_gzip,
        }
    }
}

/// What the bytes of a body are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    /// JSON, compressed.
    Gzip,
    /// Parts of columns, of which ranges of bytes can be asked for; may they change though their blocks stay?
    Octets {
        may_change: bool,
    },
}

/// A body ready to be sent.
#[derive(Clone)]
pub(super) struct Encoded {
    body: Bytes,
    form: Form,
    /// Names these very bytes (RFC 9110, 8.8.3), in quotes.
    etag: HeaderValue,
}

/// What stands before the quote at the end of the name of a compressed answer.
const GZIP_SUFFIX: &str = "-gzip";

impl Encoded {
    /// A body, compressed where that is wanted. Takes as long as compression does.
    ///
    /// # Errors
    /// [`DeskError::Internal`]; none at present.
    pub(super) fn new(plain: Vec<u8>, is_gzip: bool) -> Result<Self, DeskError> {
        let name = name_of(&plain);
        let (body, form, suffix) = match is_gzip {
            true => {
                let zipped = gzip(&plain);
                let zipped = zipped.map_err(|error| DeskError::Internal(error.to_string()))?;
                (zipped, Form::Gzip, GZIP_SUFFIX)
            }
            false => (plain, Form::Json, ""),
        };
        // Of what was reserved to write into, no more than the bytes is kept.
        Self::named(
            body.into_boxed_slice().into(),
            form,
            &format!("{name}{suffix}"),
        )
    }

    /// A body of parts, by what names them; whether it can change though its blocks stay.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(super) fn octets(body: Bytes, name: [u8; 32], may_change: bool) -> Result<Self, DeskError> {
        Self::named(body, Form::Octets { may_change }, &shortened(name))
    }

    fn named(body: Bytes, form: Form, name: &str) -> Result<Self, DeskError> {
        let etag = HeaderValue::try_from(format!("\"{name}\""));
        let etag = etag.map_err(|error| DeskError::Internal(error.to_string()))?;
        Ok(Self { body, form, etag })
    }

    /// Whether a client says that it has this answer, in this form or the other (RFC 9110, 13.1.2).
    fn is_known(&self, headers: &HeaderMap) -> bool {
        let bare = |name: &str| -> String {
            let name = name.trim();
            let name = name.strip_prefix("W/").unwrap_or(name).trim_matches('"');
            name.strip_suffix(GZIP_SUFFIX).unwrap_or(name).to_owned()
        };
        let Ok(own) = self.etag.to_str().map(bare) else {
            return false;
        };
        headers
            .get_all(header::IF_NONE_MATCH)
            .into_iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|name| name.trim() == "*" || bare(name) == own)
    }

    fn response(self, headers: &HeaderMap, is_settled: bool) -> Response {
        let (content_type, may_change) = match self.form {
            Form::Json | Form::Gzip => (super::JSON, false),
            Form::Octets { may_change } => (super::OCTETS, may_change),
        };
        let is_known = self.is_known(headers);
        let mut response = match (is_known, self.form) {
            (true, _) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response
            }
            (false, Form::Octets { .. }) => ranges::response(self.body, &self.etag, headers),
            (false, _) => Response::new(Body::from(self.body)),
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, self.etag);
        headers.insert(
            header::CACHE_CONTROL,
            match is_settled && !may_change {
                true => HeaderValue::from_static("public, max-age=31536000, immutable"),
                false => HeaderValue::from_static("no-cache"),
            },
        );
        if !is_known {
            headers.insert(header::CONTENT_TYPE, content_type);
            if self.form == Form::Gzip {
                headers.insert(header::CONTENT_ENCODING, super::GZIP);
            }
        }
        response
    }
}

/// Names these very bytes.
fn name_of(bytes: &[u8]) -> String {
    shortened(sha256::Hash::hash(bytes).to_byte_array())
}

fn shortened(hash: [u8; 32]) -> String {
    hash[..12].to_lower_hex_string()
}

#[derive(Clone)]
struct BySize;

impl Weighter<Key, Encoded> for BySize {
    fn weight(&self, _: &Key, answer: &Encoded) -> u64 {
        answer.body.len() as u64 + OVERHEAD_BYTES
    }
}

/// The answers of one router.
pub(super) struct Answers {
    kept: Cache<Key, Encoded, BySize>,
    /// How many of the last blocks a reorganisation may reach.
    horizon: u32,
}

impl Answers {
    /// Keeps `room_bytes` of answers at most.
    pub(super) fn new(room_bytes: u64, horizon: u32) -> Self {
        let number = usize::try_from(room_bytes / COMMON_BYTES).unwrap_or(usize::MAX);
        // The cache gives each shard its share and would make as many as there are cores.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shares = usize::try_from(room_bytes / SHARE_BYTES).unwrap_or(usize::MAX);
        let shards = 1 << shares.clamp(1, 4 * cores).ilog2();
        let options = OptionsBuilder::new()
            .estimated_items_capacity(number.max(16))
            .weight_capacity(room_bytes)
            .shards(shards)
            .build();
        let (hashes, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        let kept = match options {
            Ok(options) => Cache::with_options(options, BySize, hashes, lifecycle),
            // Only where one of the two is not given.
            Err(_) => Cache::with_weighter(number.max(16), room_bytes, BySize),
        };
        Self { kept, horizon }
    }

    /// The answer as it is kept, if it is; nobody is waited for.
    pub(super) fn kept(
        &self,
        question: Question,
        stamp: Stamp,
        headers: &HeaderMap,
        is_gzip: bool,
    ) -> Option<Response> {
        let answer = self.kept.get(&Key::new(question, stamp, is_gzip))?;
        Some(answer.response(headers, self.is_settled(question, stamp)))
    }

    /// The answer as it is kept, awaited from whoever makes it now, or made.
    ///
    /// # Errors
    /// Those of `make`; nothing is kept then.
    pub(super) async fn get<E>(
        &self,
        question: Question,
        stamp: Stamp,
        headers: &HeaderMap,
        is_gzip: bool,
        make: impl Future<Output = Result<Encoded, E>>,
    ) -> Result<Response, E> {
        let key = Key::new(question, stamp, is_gzip);
        let is_there = question
            .height()
            .is_none_or(|height| height <= stamp.height);
        let answer = match is_there {
            true => self.kept.get_or_insert_async(&key, make).await?,
            // Most probably an error, for which nobody is to wait in line.
            false => make.await?,
        };
        Ok(answer.response(headers, self.is_settled(question, stamp)))
    }

    /// Whether the answer hangs on blocks alone that no reorganisation reaches any more.
    fn is_settled(&self, question: Question, stamp: Stamp) -> bool {
        question.is_lasting()
            && question
                .height()
                .and_then(|height| height.checked_add(self.horizon))
                .is_some_and(|reach| reach <= stamp.height)
    }
}

#[cfg(test)]
mod tests;
