//! Transactions and outpoints by their names, and heights by times.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use bitcoin::{OutPoint, Txid};

use super::process::step;
use super::{
    Named, NativeError, Parameters, block_at, encoded, in_path, named, number, outpoint_in,
};
use crate::api::desk::{self, CreatedOutput, FoundTransaction, Reading};
use crate::api::http::Context;
use crate::api::http::answers::Question;
use crate::wire::native::{Birthday, Created, Outpoint, OutpointState, Output, Transaction};

/// Why a transaction that may well be there is not found.
const GIVE_HEIGHT: &str = "this server finds a transaction by its txid alone only while one of its taproot outputs is unspent: give \
     the height of its block, as ?height=";

/// `height`, if it is given.
fn height_of(parameters: Parameters) -> Result<Option<u32>, NativeError> {
    let [height] = named(parameters, ["height"])?;
    height.map(|value| number("height", &value)).transpose()
}

/// `GET /spindex/v1/outpoint/{txid}:{vout}?height=`.
pub(super) async fn outpoint(
    State(context): State<Context>,
    path: Named,
    parameters: Parameters,
    headers: HeaderMap,
) -> Response {
    let asked = outpoint_in(path).and_then(|outpoint| Ok((outpoint, height_of(parameters)?)));
    let (outpoint, height) = match asked {
        Ok(asked) => asked,
        Err(error) => return context.refuse(&headers, &error),
    };
    let answer =
        move |reading: &Reading<'_>| encoded(of_outpoint(reading, outpoint, height)?.encode());
    context
        .answer(&headers, Question::Outpoint(outpoint, height), answer)
        .await
}

fn of_outpoint(
    reading: &Reading<'_>,
    outpoint: OutPoint,
    height: Option<u32>,
) -> Result<Outpoint, NativeError> {
    let known_from = reading.status()?.spenders_from;
    if let Some(height) = height {
        // For its refusals.
        block_at(reading, height)?;
    }
    let created = |(block, utxo): CreatedOutput| Created {
        block,
        value_sat: utxo.value_sat,
        key: utxo.key,
    };
    let state = match reading.outpoint(&outpoint, height)? {
        desk::OutpointState::Unspent(output) => OutpointState::Unspent(created(output)),
        desk::OutpointState::Spent { output, spend } => OutpointState::Spent {
            created: output.map(created),
            spent: spend.as_ref().and_then(step),
        },
        desk::OutpointState::Unknown => OutpointState::Unknown,
        desk::OutpointState::SpentOrUnknown => OutpointState::SpentOrUnknown,
    };
    Ok(Outpoint {
        outpoint,
        state,
        known_from,
    })
}

/// `GET /spindex/v1/tx/{txid}?height=`.
pub(super) async fn transaction(
    State(context): State<Context>,
    path: Named,
    parameters: Parameters,
    headers: HeaderMap,
) -> Response {
    let txid = in_path(path, "txid").and_then(|text| {
        let bad = |_| NativeError::BadRequest("no txid: give 64 hex digits".to_owned());
        text.parse::<Txid>().map_err(bad)
    });
    let asked = txid.and_then(|txid| Ok((txid, height_of(parameters)?)));
    let (txid, height) = match asked {
        Ok(asked) => asked,
        Err(error) => return context.refuse(&headers, &error),
    };
    let answer =
        move |reading: &Reading<'_>| encoded(of_transaction(reading, txid, height)?.encode());
    context
        .answer(&headers, Question::Transaction(txid, height), answer)
        .await
}

fn of_transaction(
    reading: &Reading<'_>,
    txid: Txid,
    height: Option<u32>,
) -> Result<Transaction, NativeError> {
    let known_from = reading.status()?.spenders_from;
    if let Some(height) = height {
        // For its refusals.
        block_at(reading, height)?;
    }
    let found = reading.transaction(&txid, height)?;
    let FoundTransaction {
        block,
        transaction,
        spends,
    } = found.ok_or_else(|| match height {
        Some(height) => {
            NativeError::Unknown(format!("block {height} has no eligible transaction {txid}"))
        }
        None => NativeError::NotFindable(GIVE_HEIGHT),
    })?;
    let outputs = transaction.outputs.iter().zip(&spends);
    let outputs = outputs.map(|(utxo, spend)| Output {
        vout: utxo.vout,
        value_sat: utxo.value_sat,
        key: utxo.key,
        is_spent: utxo.spent,
        spent: spend.as_ref().and_then(step),
    });
    Ok(Transaction {
        txid,
        block,
        tweak: transaction.tweak,
        outputs: outputs.collect(),
        known_from,
    })
}

/// `GET /spindex/v1/height?time=`.
pub(super) async fn height(
    State(context): State<Context>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Response {
    let time = named(parameters, ["time"]).and_then(|[time]| {
        let missing = || NativeError::BadRequest("give time, in Unix seconds".to_owned());
        number("time", &time.ok_or_else(missing)?)
    });
    let time = match time {
        Ok(time) => time,
        Err(error) => return context.refuse(&headers, &error),
    };
    let answer = move |reading: &Reading<'_>| {
        let (block, block_time) = reading.birthday(time)?;
        let birthday = Birthday {
            time,
            block,
            block_time,
        };
        encoded(birthday.encode())
    };
    context
        .answer(&headers, Question::Birthday(time), answer)
        .await
}
