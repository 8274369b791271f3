//! What a transaction that spends a process tip makes of the process.
//!
//! A *process* is a chain of outpoints. Whoever spends its *tip* commits to the next state by a *state id*, 32 bytes in an
//! output `6a20…`, and one of the outputs is the next tip. The rule stands here alone, for answers, watches and clients.

use bitcoin::opcodes::all::{OP_PUSHBYTES_32, OP_RETURN};
use bitcoin::{OutPoint, Script, Txid};

/// The state id that ends a process for good.
pub const END_STATE: [u8; 32] = [0; 32];

/// A state id where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    /// Index of the output that carries it.
    pub vout: u32,
    /// The 32 bytes.
    pub id: [u8; 32],
}

/// The state id that an output carries: the 32 bytes of a script `OP_RETURN <32 bytes>`, pushed in the shortest way (`6a20…`),
/// and nothing else. Fewer bytes, or more, are no state id.
pub fn state_id(script: &Script) -> Option<[u8; 32]> {
    let (start, state_id) = script.as_bytes().split_first_chunk::<2>()?;
    if *start != [OP_RETURN.to_u8(), OP_PUSHBYTES_32.to_u8()] {
        return None;
    }
    state_id.try_into().ok()
}

/// Which of a spender's outputs count for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rule {
    /// Which of the state ids that the spender carries, by vout: 0 is the first.
    pub state: u32,
    /// Index of the output that is the next tip.
    pub carry: u32,
}

/// Why a process goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The spender carries no state id, or not as many as the rule counts.
    NoState,
    /// The state id is [`END_STATE`].
    EndState,
    /// The spender has no output where the rule has the next tip, or a state id in its place, which nobody can spend.
    NoSuccessor,
}

/// What one spend of the tip makes of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The state id that counts, if there is one.
    pub state: Option<State>,
    /// Whether the process goes on.
    pub end: Option<End>,
}

impl Rule {
    /// What a spender does that carries these state ids, ascending by vout, and has so many outputs; where their number is not
    /// known, the next tip is taken to be there.
    pub fn step(&self, states: impl IntoIterator<Item = State>, outputs: Option<u32>) -> Step {
        let mut counted = None;
        let mut is_taken = false;
        for (number, state) in (0..).zip(states) {
            if number == self.state {
                counted = Some(state);
            }
            is_taken |= state.vout == self.carry;
        }
        let is_missing = is_taken || outputs.is_some_and(|outputs| outputs <= self.carry);
        Step {
            state: counted,
            end: match counted {
                None => Some(End::NoState),
                Some(state) if state.id == END_STATE => Some(End::EndState),
                Some(_) if is_missing => Some(End::NoSuccessor),
                Some(_) => None,
            },
        }
    }

    /// The next tip, of a spender after which the process goes on.
    pub fn next_tip(&self, spender: Txid) -> OutPoint {
        OutPoint::new(spender, self.carry)
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::ScriptBuf;

    use super::*;

    fn state(vout: u32, byte: u8) -> State {
        let id = [byte; 32];
        State { vout, id }
    }

    #[test]
    fn thirty_two_bytes_in_the_shortest_push_are_a_state_id() {
        let script = |hex: &str| ScriptBuf::from_hex(hex).unwrap();
        let bytes = "ab".repeat(32);
        assert_eq!(state_id(&script(&format!("6a20{bytes}"))), Some([0xab; 32]));
        for other in [
            format!("6a1f{}", "ab".repeat(31)),
            format!("6a21{}", "ab".repeat(33)),
            format!("6a20{}", "ab".repeat(31)),
            format!("6a20{bytes}00"),
            format!("6a4c20{bytes}"),
            format!("5120{bytes}"),
            format!("6a0020{bytes}"),
            "6a20".to_owned(),
            "6a".to_owned(),
            String::new(),
        ] {
            assert_eq!(state_id(&script(&other)), None, "{other}");
        }
    }

    #[test]
    fn the_first_state_id_counts_unless_the_rule_says_otherwise() {
        let states = [state(1, 7), state(3, 8)];
        let step = Rule::default().step(states, Some(4));
        assert_eq!((step.state, step.end), (Some(states[0]), None));
        let second = Rule { state: 1, carry: 2 };
        let step = second.step(states, Some(4));
        assert_eq!((step.state, step.end), (Some(states[1]), None));
        let third = Rule { state: 2, carry: 0 };
        let step = third.step(states, Some(4));
        assert_eq!((step.state, step.end), (None, Some(End::NoState)));
    }

    #[test]
    fn every_way_to_end() {
        let rule = Rule::default();
        assert_eq!(rule.step([], Some(2)).end, Some(End::NoState));
        let zero = rule.step([state(1, 0)], Some(2));
        assert_eq!(
            (zero.state, zero.end),
            (Some(state(1, 0)), Some(End::EndState))
        );
        // Only of the one that counts.
        assert_eq!(rule.step([state(1, 5), state(2, 0)], Some(3)).end, None);
        // Nobody can spend a state id.
        let taken = rule.step([state(0, 5)], Some(2));
        assert_eq!(
            (taken.state, taken.end),
            (Some(state(0, 5)), Some(End::NoSuccessor))
        );
        let taken = rule.step([state(0, 5), state(1, 6)], Some(2));
        assert_eq!(taken.end, Some(End::NoSuccessor));
        let far = Rule { state: 0, carry: 2 };
        assert_eq!(far.step([state(1, 5)], Some(2)).end, Some(End::NoSuccessor));
        assert_eq!(far.step([state(1, 5)], Some(3)).end, None);
        assert_eq!(far.step([state(1, 5)], None).end, None);
    }
}
