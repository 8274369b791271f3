//! Columns: whole chunks, and ranges as a stream; all transactions of them, or a selection.

use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use futures::stream;

use super::super::answers::{Columns, Encoded, Question};
use super::super::outgoing::{NoRoom, Outgoing};
use super::super::{Context, OCTETS};
use super::selection::rule;
use super::{NativeError, Parameters, bounds, digits, named};
use crate::BlockId;
use crate::api::connection::Traffic;
use crate::api::desk::{Desk, DeskError, Reading};
use crate::api::traffic::Peer;
use crate::wire::native::column::{CHUNK_BLOCKS, Column, chunk_heights};
use crate::wire::native::selection::{Rule, Selection};

impl From<NoRoom> for NativeError {
    fn from(no_room: NoRoom) -> Self {
        match no_room {
            NoRoom::Crowded => Self::Crowded,
            NoRoom::Closed(error) => error.into(),
        }
    }
}

/// Names of columns, joined by commas, each once; that of selections in one alone.
fn columns(names: &str, rule: Option<Rule>) -> Result<Vec<Column>, NativeError> {
    let mut columns = Vec::new();
    for name in names.split(',') {
        let column = Column::by_name(name).ok_or_else(|| {
            let known = Column::ALL.map(Column::name).join(", ");
            NativeError::BadRequest(format!("no column is called {name:?}; there are {known}"))
        })?;
        if columns.contains(&column) {
            return Err(NativeError::BadRequest(format!("{column} is named twice")));
        }
        if column == Column::Selected && rule.is_none() {
            let text = format!("there is {column} only with dust_limit or cut_through");
            return Err(NativeError::BadRequest(text));
        }
        columns.push(column);
    }
    Ok(columns)
}

/// `GET /spindex/v1/chunk/{n}/{columns}?dust_limit=&cut_through=`.
pub(super) async fn chunk(
    State(context): State<Context>,
    path: ChunkPath,
    parameters: Parameters,
    traffic: Peered,
    headers: HeaderMap,
) -> Response {
    let (from, to, columns, rule) = match chunk_asked(path, parameters) {
        Ok(asked) => asked,
        Err(error) => return context.refuse(&headers, &error),
    };
    let question = Question::Chunk {
        to,
        columns: Columns::of(&columns),
        rule,
    };
    let stamp = context.desk.stamp();
    if let Some(kept) = context.answers.kept(question, stamp, &headers, false) {
        return kept;
    }
    let made = async {
        // Not in line with others who ask for the same: each of them might wait, one after the other.
        let (from, weight) = weigh(&context, from, to, columns.clone()).await?;
        let share = context.outgoing.share(peer(traffic), weight).await?;
        let room = context.outgoing.room(weight).await?;
        let parts = move |reading: &Reading<'_>| {
            let selection = rule.map(|rule| reading.selection(rule)).transpose()?;
            let (bytes, _) = parts(reading, &columns, selection.as_ref(), from, to)?;
            let may_grow = columns.iter().any(|column| reading.may_grow(*column, from));
            Ok::<_, NativeError>(Encoded::octets(room.holding(bytes, None), may_grow)?)
        };
        let made = context.desk.read(parts);
        let answer = context
            .answers
            .get(question, stamp, &headers, false, made)
            .await?;
        Ok::<_, NativeError>(match share {
            Some(share) => share.until_taken(answer),
            None => answer,
        })
    };
    let made = made.await;
    made.unwrap_or_else(|error| context.refuse(&headers, &error))
}

/// How a request came.
type Peered = Option<Extension<ConnectInfo<Traffic>>>;

fn peer(traffic: Peered) -> Option<Peer> {
    let Extension(ConnectInfo(Traffic(activity))) = traffic?;
    Some(activity.peer())
}

type ChunkPath = Result<Path<(String, String)>, PathRejection>;

/// First and last height, columns, and which transactions.
type ChunkAsked = (u32, u32, Vec<Column>, Option<Rule>);

fn chunk_asked(path: ChunkPath, parameters: Parameters) -> Result<ChunkAsked, NativeError> {
    let bad = |text: String| NativeError::BadRequest(text);
    let Path((number, names)) = path.map_err(|error| bad(error.body_text()))?;
    let heights = digits(&number).and_then(chunk_heights);
    let (from, to) = heights.ok_or_else(|| bad(format!("{number:?} is no number of a chunk")))?;
    let [dust_limit, cut_through] = named(parameters, ["dust_limit", "cut_through"])?;
    let rule = rule(dust_limit, cut_through)?;
    Ok((from, to, columns(&names, rule)?, rule))
}

/// From which height on there is a chunk, and what these columns of it take.
async fn weigh(
    context: &Context,
    from: u32,
    to: u32,
    columns: Vec<Column>,
) -> Result<(u32, u64), NativeError> {
    let weighed = move |reading: &Reading<'_>| {
        let from = first_of(reading, from, to)?;
        let tip = reading.status()?.tip.height;
        if to > tip {
            return Err(NativeError::AboveTip { height: to, tip });
        }
        Ok::<_, NativeError>((from, reading.weight(&columns, from, to)?))
    };
    context.desk.read(weighed).await
}

/// The first of these heights that there is.
fn first_of(reading: &Reading<'_>, from: u32, to: u32) -> Result<u32, NativeError> {
    let first = reading.first_height();
    if to < first {
        let text = format!("height {to} is below the first one of this server, {first}");
        return Err(NativeError::Never(text));
    }
    Ok(from.max(first))
}

/// `GET /spindex/v1/range/{columns}?from=&to=&dust_limit=&cut_through=`.
pub(super) async fn range(
    State(context): State<Context>,
    path: Result<Path<String>, PathRejection>,
    parameters: Parameters,
    traffic: Peered,
    headers: HeaderMap,
) -> Response {
    let begun = begin(&context, path, parameters, peer(traffic)).await;
    begun.unwrap_or_else(|error| context.refuse(&headers, &error))
}

async fn begin(
    context: &Context,
    path: Result<Path<String>, PathRejection>,
    parameters: Parameters,
    peer: Option<Peer>,
) -> Result<Response, NativeError> {
    let path = path.map_err(|error| NativeError::BadRequest(error.body_text()))?;
    let [from, to, dust_limit, cut_through] =
        named(parameters, ["from", "to", "dust_limit", "cut_through"])?;
    let rule = rule(dust_limit, cut_through)?;
    let columns: Arc<[Column]> = columns(&path.0, rule)?.into();
    let (from, to) = bounds(from, to)?;
    let from = from.ok_or_else(|| NativeError::BadRequest("give from".to_owned()))?;
    let to = context
        .desk
        .read(move |reading| {
            let tip = reading.status()?.tip.height;
            if from > tip {
                return Err(NativeError::AboveTip { height: from, tip });
            }
            first_of(reading, from, from)?;
            Ok::<_, NativeError>(to.map_or(tip, |to| to.min(tip)))
        })
        .await?;
    let mut range = Range {
        desk: context.desk.clone(),
        outgoing: context.outgoing.clone(),
        peer,
        columns,
        rule,
        selection: None,
        next: from,
        to,
        reached: None,
        is_over: false,
    };
    // So that what is wrong with all of it is said by a status.
    let first = range.group().await?;
    let rest = stream::unfold(range, |mut range| async {
        if range.is_over {
            return None;
        }
        let group = range.group().await;
        if let Err(error) = &group {
            range.is_over = true;
            log_cut(error);
        }
        Some((group, range))
    });
    let groups = stream::StreamExt::chain(stream::iter([Ok(first)]), rest);
    let mut response = Response::new(Body::from_stream(groups));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, OCTETS);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn log_cut(error: &NativeError) {
    super::super::Refusal::log(error);
    tracing::debug!("a range was cut off: {error}");
}

/// A range that is being sent.
struct Range {
    desk: Arc<Desk>,
    outgoing: Outgoing,
    peer: Option<Peer>,
    columns: Arc<[Column]>,
    /// Which transactions; `None` for all.
    rule: Option<Rule>,
    /// What the first group was selected at, and all of them are.
    selection: Option<Selection>,
    /// Next height.
    next: u32,
    /// Last height, which was there when it began.
    to: u32,
    /// The last block that was sent.
    reached: Option<BlockId>,
    is_over: bool,
}

impl Range {
    /// The parts of the next aligned chunk, or of as much of it as is asked for; with the mark if it is the last one.
    async fn group(&mut self) -> Result<Bytes, NativeError> {
        let (from, reached, selection) = (self.next, self.reached, self.selection);
        let to = self.to.min(from - from % CHUNK_BLOCKS + (CHUNK_BLOCKS - 1));
        let columns = self.columns.clone();
        let there = move |reading: &Reading<'_>| {
            if !selection.map_or(Ok(true), |made| stands(reading, &made))? {
                return Ok(None);
            }
            last_there(reading, reached, from, to)
        };
        let weighed = move |reading: &Reading<'_>| match there(reading)? {
            Some(to) => Ok::<_, NativeError>(reading.weight(&columns, from, to)?),
            None => Ok(0),
        };
        let weight = self.desk.read(weighed).await?;
        let share = self.outgoing.share(self.peer, weight).await?;
        let room = self.outgoing.room(weight).await?;
        let columns = self.columns.clone();
        let (last, rule) = (self.to, self.rule);
        let parts = move |reading: &Reading<'_>| {
            let to = there(reading)?;
            let selection = match (selection, rule) {
                (None, Some(rule)) => Some(reading.selection(rule)?),
                (selection, _) => selection,
            };
            let group = to.map(|to| parts(reading, &columns, selection.as_ref(), from, to));
            let (mut bytes, block) = match group {
                Some(group) => group?,
                // There is one: the first group of a range has no block before it.
                None => (Vec::new(), reached.ok_or(DeskError::NothingIndexed)?),
            };
            let is_over = to.is_none() || block.height >= last || Some(block.height) != to;
            if is_over {
                bytes.extend(reading.end_mark(block)?);
            }
            Ok::<_, NativeError>((room.holding(bytes, share), block, selection, is_over))
        };
        let (bytes, block, selection, is_over) = self.desk.read(parts).await?;
        self.selection = selection;
        self.reached = Some(block);
        self.next = block.height.saturating_add(1);
        self.is_over = is_over;
        Ok(bytes)
    }
}

fn parts(
    reading: &Reading<'_>,
    columns: &[Column],
    selection: Option<&Selection>,
    from: u32,
    to: u32,
) -> Result<(Vec<u8>, BlockId), NativeError> {
    let mut bytes = Vec::new();
    let mut last = None;
    for column in columns {
        let part = reading.part(*column, selection, from, to)?;
        bytes.extend(part.bytes);
        last = Some(part.last);
    }
    Ok((
        bytes,
        last.ok_or(DeskError::UnknownHeight { height: from })?,
    ))
}

/// Whether more can be selected as it was before: at the same tip, or one on top of it where spends do not count.
fn stands(reading: &Reading<'_>, selection: &Selection) -> Result<bool, NativeError> {
    let tip = selection.tip;
    match selection.rule.cut_through {
        true => Ok(reading.status()?.tip == tip),
        false => is_there(reading, tip),
    }
}

/// Whether a block is in the chain.
fn is_there(reading: &Reading<'_>, block: BlockId) -> Result<bool, NativeError> {
    match reading.block(block.height) {
        Ok(other) => Ok(other.id() == block),
        Err(DeskError::UnknownHeight { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Up to which of these heights there are blocks on top of the one that was reached; `None` if that has left the chain, or
/// there are none.
fn last_there(
    reading: &Reading<'_>,
    reached: Option<BlockId>,
    from: u32,
    to: u32,
) -> Result<Option<u32>, NativeError> {
    let tip = reading.status()?.tip.height;
    if let Some(reached) = reached
        && !is_there(reading, reached)?
    {
        return Ok(None);
    }
    Ok(Some(to.min(tip)).filter(|to| *to >= from))
}

#[cfg(test)]
mod tests;
