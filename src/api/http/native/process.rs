//! Processes: outpoints that each spender passes on with a new state id.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use bitcoin::OutPoint;

use super::{Named, NativeError, Parameters, encoded, named, outpoint_in};
use crate::api::desk::Reading;
use crate::api::http::Context;
use crate::api::http::answers::Question;
use crate::store::StateSpend;
use crate::wire::native::{Process, Step};

/// Most steps of one answer.
const STEPS_MAX: usize = 1_000;

/// `GET /spindex/v1/process/{txid}:{vout}`.
pub(super) async fn process(
    State(context): State<Context>,
    path: Named,
    parameters: Parameters,
    headers: HeaderMap,
) -> Response {
    let start = outpoint_in(path).and_then(|start| named(parameters, []).map(|[]| start));
    let start = match start {
        Ok(start) => start,
        Err(error) => return context.refuse(&headers, &error),
    };
    let answer = move |reading: &Reading<'_>| {
        // Before there is a block, nothing can be said of any outpoint.
        reading.status()?;
        encoded(of_process(reading, start)?.encode())
    };
    context
        .answer(&headers, Question::Process(start), answer)
        .await
}

fn of_process(reading: &Reading<'_>, start: OutPoint) -> Result<Process, NativeError> {
    let process = reading.process(start, STEPS_MAX)?;
    let steps = process.steps.iter();
    let steps = steps.filter_map(|(spend, _)| step(spend));
    Ok(Process {
        start,
        steps: steps.collect(),
        tip: process.tip,
        more: process.more,
        known_from: process.known_from,
    })
}

/// The step that a spend is: its first state id counts.
pub(super) fn step(spend: &StateSpend) -> Option<Step> {
    let state = spend.states.first()?;
    Some(Step {
        block: spend.block,
        txid: state.txid,
        transaction: state.transaction,
        input: spend.spend.spender.map_or(0, |spender| spender.input),
        vout: state.vout,
        state_id: state.state_id,
    })
}
