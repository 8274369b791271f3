//! Processes: outpoints that each spender passes on with a new state id.

use bitcoin::OutPoint;

use super::{DeskError, Reading};
use crate::process::{Rule, State};
use crate::store::{StateRow, StateSpend};

/// A process as far as the index knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Who spent the tip, and the state id that counts, oldest first.
    pub steps: Vec<(StateSpend, StateRow)>,
    /// The outpoint after the last step; `None` once the process has ended.
    pub tip: Option<OutPoint>,
    /// Whether there are more steps than were asked for.
    pub more: bool,
    /// See [`Snapshot::spenders_from`](crate::store::Snapshot::spenders_from).
    pub known_from: Option<u32>,
}

impl Reading<'_> {
    /// Follows a process from an outpoint on by the plain [`Rule`], for so many steps at most. Steps are known where the tip is
    /// a taproot output.
    ///
    /// # Errors
    /// The index keeps tweaks only, or cannot be read.
    pub fn process(&self, start: OutPoint, most: usize) -> Result<Process, DeskError> {
        let mut process = Process {
            steps: Vec::new(),
            tip: Some(start),
            more: false,
            known_from: self.snapshot.spenders_from(),
        };
        while let Some(tip) = process.tip {
            let Some(spend) = self.snapshot.state_spend(&tip)? else {
                break;
            };
            let Some(state) = spend.states.first().cloned() else {
                break;
            };
            if process.steps.len() == most {
                process.more = true;
                break;
            }
            let rule = Rule::default();
            let step = rule.step(spend.states.iter().map(State::from), None);
            let goes_on = step.end.is_none();
            process.tip = goes_on.then(|| rule.next_tip(state.txid));
            process.steps.push((spend, state));
        }
        Ok(process)
    }
}
