//! Columns of whole chunks: all transactions of them, or a selection.

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::HeaderMap;
use axum::response::Response;

use super::super::Context;
use super::super::answers::{Columns, Encoded, Question};
use super::super::outgoing::NoRoom;
use super::selection::rule;
use super::{NativeError, Parameters, digits, named};
use crate::BlockId;
use crate::api::connection::Traffic;
use crate::api::desk::{DeskError, Reading};
use crate::api::traffic::Peer;
use crate::wire::native::column::{Column, chunk_heights};
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
pub(super) fn columns(names: &str, rule: Option<Rule>) -> Result<Vec<Column>, NativeError> {
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
        let share = context.chunk_room.share(peer(traffic), weight).await?;
        let room = context.chunk_room.room(weight).await?;
        let parts = move |reading: &Reading<'_>| {
            let selection = rule.map(|rule| reading.selection(rule)).transpose()?;
            let selection = selection.as_ref();
            let (bytes, _) = parts(reading, &columns, selection, from, to, weight)?;
            let name = reading.name_parts(&columns, selection, from, to)?;
            let may_grow = columns.iter().any(|column| reading.may_grow(*column, from));
            Ok::<_, NativeError>(Encoded::octets(room.holding(bytes, ()), name, may_grow)?)
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
pub(super) type Peered = Option<Extension<ConnectInfo<Traffic>>>;

pub(super) fn peer(traffic: Peered) -> Option<Peer> {
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
pub(super) fn first_of(reading: &Reading<'_>, from: u32, to: u32) -> Result<u32, NativeError> {
    let first = reading.first_height();
    if to < first {
        let text = format!("height {to} is below the first one of this server, {first}");
        return Err(NativeError::Never(text));
    }
    Ok(from.max(first))
}

/// The parts of these columns over these heights, which take about so much, and the last block.
pub(super) fn parts(
    reading: &Reading<'_>,
    columns: &[Column],
    selection: Option<&Selection>,
    from: u32,
    to: u32,
    weight: u64,
) -> Result<(Vec<u8>, BlockId), NativeError> {
    // All of it is written where it stays.
    let mut bytes = Vec::with_capacity(usize::try_from(weight).unwrap_or_default());
    let mut last = None;
    for column in columns {
        last = Some(reading.append_part(*column, selection, from, to, &mut bytes)?);
    }
    Ok((
        bytes,
        last.ok_or(DeskError::UnknownHeight { height: from })?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_named_once() {
        let named = columns("headers,tweaks,new-utxos", None).ok();
        let expected = vec![Column::Headers, Column::Tweaks, Column::NewUtxos];
        assert_eq!(named, Some(expected));
        for wrong in ["", "tweaks,", "Tweaks", "tweaks,tweaks", "tweaks headers"] {
            assert!(columns(wrong, None).is_err(), "{wrong:?}");
        }
        let rule = Rule {
            dust_limit_sat: 0,
            cut_through: true,
        };
        let expected = vec![Column::Selected, Column::Spent];
        assert_eq!(columns("selected,spent", Some(rule)).ok(), Some(expected));
        assert!(columns("selected,spent", None).is_err());
    }
}
