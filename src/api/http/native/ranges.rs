//! Columns of any heights, as a stream.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use futures::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::outgoing::Outgoing;
use super::super::{Context, OCTETS};
use super::chunks::{Peered, columns, first_of, parts, peer};
use super::selection::rule;
use super::{NativeError, Parameters, bounds, named};
use crate::BlockId;
use crate::api::desk::{Desk, DeskError, Reading};
use crate::api::traffic::Peer;
use crate::wire::native::column::{CHUNK_BLOCKS, Column};
use crate::wire::native::selection::{Rule, Selection};

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
        outgoing: context.range_room.clone(),
        peer,
        turn: Arc::new(Semaphore::new(TURNS as usize)),
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

/// More groups than a connection takes ahead.
const TURNS: u32 = 1 << 10;

/// A range that is being sent.
struct Range {
    desk: Arc<Desk>,
    outgoing: Outgoing,
    peer: Option<Peer>,
    /// Of groups that have been made, until they are taken.
    turn: Arc<Semaphore>,
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
    /// What a group holds until it is taken. Where room is scarce, it is waited for until all before it are.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, DeskError> {
        let turns = match self.outgoing.is_scarce(self.peer) {
            true => TURNS,
            false => 1,
        };
        let turn = self.turn.clone().acquire_many_owned(turns).await;
        let mut turn = turn.map_err(|error| DeskError::Internal(error.to_string()))?;
        let one = turn.split(1);
        one.ok_or_else(|| DeskError::Internal("a turn of nothing".to_owned()))
    }

    /// The parts of the next blocks of a chunk, of as many as there is room for; with the mark if they are the last ones.
    async fn group(&mut self) -> Result<Bytes, NativeError> {
        let turn = self.turn().await?;
        let most = self.outgoing.fitting(self.peer);
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
            Some(to) => Ok::<_, NativeError>(reading.fitting(&columns, from, to, most)?),
            None => Ok((to, 0)),
        };
        let (to, weight) = self.desk.read(weighed).await?;
        let share = self.outgoing.share(self.peer, weight).await?;
        let room = self.outgoing.room(weight).await?;
        let columns = self.columns.clone();
        let (last, rule) = (self.to, self.rule);
        let parts = move |reading: &Reading<'_>| {
            let there = there(reading)?;
            let to = there.map(|there| there.min(to));
            let selection = match (selection, rule) {
                (None, Some(rule)) => Some(reading.selection(rule)?),
                (selection, _) => selection,
            };
            let made = selection.as_ref();
            let group = to.map(|to| parts(reading, &columns, made, from, to, weight));
            let (mut bytes, block) = match group {
                Some(group) => group?,
                // There is one: the first group of a range has no block before it.
                None => (Vec::new(), reached.ok_or(DeskError::NothingIndexed)?),
            };
            let is_over = to.is_none() || block.height >= last;
            if is_over {
                bytes.extend(reading.end_mark(block)?);
            }
            Ok::<_, NativeError>((
                room.holding(bytes, (share, turn)),
                block,
                selection,
                is_over,
            ))
        };
        let (bytes, block, selection, is_over) = self.desk.read(parts).await?;
        self.selection = selection;
        self.reached = Some(block);
        self.next = block.height.saturating_add(1);
        self.is_over = is_over;
        Ok(bytes)
    }
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
