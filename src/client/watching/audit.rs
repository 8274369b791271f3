//! A lineage held against the blocks, by proofs that one server gives of what it says.
//!
//! What is proven: that each spender stands in a block with work on it, spends the tip that the one before it has made, and
//! commits to the state id that is told. What no proof can show is that nothing is missing at the end: that the last tip has
//! not been spent since. Other servers can ([`compare`](super::compare())).

use std::collections::HashMap;

use bitcoin::{BlockHash, OutPoint};
use futures::{StreamExt, stream};

use super::super::{NativeOracle, OracleError};
use crate::BlockId;
use crate::process::{End, Rule, State};
use crate::proof::{ProofError, ProvenSpend, SpendClaim};
use crate::wire::native::{Code, OutpointState, Process};

/// Most steps of a lineage: more than 1,000 a day for two years, and a bound on the memory that a server can have us use.
const STEPS_MAX: usize = 1_000_000;

/// Proofs that are asked for at a time.
const PROOFS_AT_ONCE: usize = 4;

/// What is said of one spend of a tip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The tip.
    pub spent: OutPoint,
    /// The block that spends it.
    pub block: BlockId,
    /// Place of the spender in the block.
    pub transaction: u32,
    /// The rest.
    pub spend: SpendClaim,
    /// Whether and why the process is said to have ended with it; `None` where nothing is said.
    pub end: Option<Option<End>>,
}

/// What is said of a lineage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Its spends, oldest first.
    pub steps: Vec<Claim>,
    /// The tip after the last of them; `None` once the process has ended.
    pub tip: Option<OutPoint>,
    /// Below this height steps may be missing.
    pub known_from: Option<u32>,
}

/// A step and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedStep {
    /// What was said.
    pub claim: Claim,
    /// What is proven; `None` where something is wrong with it, or nothing could be proven.
    pub proven: Option<ProvenSpend>,
}

/// What an audit has found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audit {
    /// The steps, oldest first.
    pub steps: Vec<AuditedStep>,
    /// The tip after the last step, as it was said.
    pub tip: Option<OutPoint>,
    /// The server's last block.
    pub chain_tip: Option<BlockId>,
    /// Blocks of the headers that were verified, from that of the first step on.
    pub headers: u32,
    /// What is wrong. Nothing may be believed then.
    pub wrong: Vec<String>,
    /// What could not be verified.
    pub unverified: Vec<String>,
}

/// What a server says of a process by the plain rule, from its index alone; `None` where it cannot tell.
///
/// # Errors
/// As all of [`Oracle`](crate::client::Oracle).
pub async fn told(server: &NativeOracle, start: OutPoint) -> Result<Option<Claims>, OracleError> {
    let rule = Rule::default();
    let mut claims = Claims {
        steps: Vec::new(),
        tip: Some(start),
        known_from: None,
    };
    while let Some(from) = claims.tip {
        let Some(process) = server.process(from).await? else {
            return Ok(None);
        };
        let Process {
            steps, tip, more, ..
        } = process;
        claims.known_from = process.known_from;
        let mut spent = from;
        let mut followed = steps.iter().peekable();
        while let Some(step) = followed.next() {
            let (id, vout) = (step.state_id, step.vout);
            // Of the last one the server says it by itself.
            let next = match followed.peek() {
                Some(_) => Some(rule.next_tip(step.txid)),
                None => tip,
            };
            claims.steps.push(Claim {
                spent,
                block: step.block,
                transaction: step.transaction.into(),
                spend: SpendClaim {
                    txid: Some(step.txid),
                    input: step.input.into(),
                    state: Some(State { vout, id }),
                    next,
                },
                end: None,
            });
            spent = rule.next_tip(step.txid);
        }
        claims.tip = tip;
        if !more || steps.is_empty() {
            break;
        }
        if claims.steps.len() >= STEPS_MAX {
            return Err(OracleError::Malformed {
                url: server.describe(),
                what: format!("a process of more than {STEPS_MAX} steps"),
            });
        }
    }
    Ok(Some(claims))
}

/// Holds what a server says of a lineage against its own proofs and headers.
///
/// # Errors
/// That it does not answer. What it answers wrongly is in the audit.
pub async fn audit(
    server: &NativeOracle,
    start: OutPoint,
    rule: Rule,
    claims: Claims,
) -> Result<Audit, OracleError> {
    let mut audit = Audit {
        tip: claims.tip,
        ..Audit::default()
    };
    let extent = server.info().await?;
    audit.chain_tip = Some(extent.tip);
    if let Some(height) = claims.known_from {
        audit.unverified.push(format!(
            "the server does not know who spends what below height {height}: steps there may be missing"
        ));
    }
    audit.check_order(start, &claims);
    let proven = stream::iter(claims.steps)
        .map(|claim| prove(server, claim, rule))
        .buffered(PROOFS_AT_ONCE);
    let mut proven = std::pin::pin!(proven);
    while let Some((claim, outcome)) = proven.next().await {
        audit.take(claim, outcome)?;
    }
    audit.check_tip(server, rule).await?;
    audit.check_headers(server, extent.tip).await?;
    Ok(audit)
}

/// How a claim comes out.
enum Outcome {
    Proven(ProvenSpend),
    Wrong(String),
    Unproven,
    Failed(OracleError),
}

async fn prove(server: &NativeOracle, claim: Claim, rule: Rule) -> (Claim, Outcome) {
    let outcome = match server.proof(claim.block.hash, claim.transaction).await {
        Ok(None) => Outcome::Unproven,
        Ok(Some(proof)) => {
            let checked = proof.spend(claim.spent, &rule).and_then(|proven| {
                claim.spend.compare(&proven)?;
                check_end(claim.end, proven.end)?;
                Ok(proven)
            });
            match checked {
                _ if proof.block.height != claim.block.height => {
                    let height = proof.block.height;
                    Outcome::Wrong(format!("the proof is for height {height}"))
                }
                Ok(proven) => Outcome::Proven(proven),
                Err(error) => Outcome::Wrong(error.to_string()),
            }
        }
        Err(error) if is_contradiction(&error) => Outcome::Wrong(error.to_string()),
        Err(error) => Outcome::Failed(error),
    };
    (claim, outcome)
}

/// Whether an answer is one that no honest server gives to whoever asks for what it has told.
const fn is_contradiction(error: &OracleError) -> bool {
    matches!(
        error,
        OracleError::Malformed { .. }
            | OracleError::Untrue { .. }
            | OracleError::Declined {
                code: Code::Unknown | Code::ReorganisedAway | Code::NotYetIndexed,
                ..
            }
    )
}

fn check_end(said: Option<Option<End>>, found: Option<End>) -> Result<(), ProofError> {
    let word = |end: Option<End>| match end {
        None => "goes on",
        Some(End::NoState) => "no_state",
        Some(End::EndState) => "end_state",
        Some(End::NoSuccessor) => "no_successor",
    };
    match said {
        Some(said) if said != found => Err(ProofError::Differs {
            what: "why the process ended",
            said: word(said).to_owned(),
            found: word(found).to_owned(),
        }),
        _ => Ok(()),
    }
}

impl Audit {
    /// Whether nothing is wrong.
    pub fn is_right(&self) -> bool {
        self.wrong.is_empty()
    }

    /// Steps that are proven without a gap from the first one on.
    pub fn proven(&self) -> impl Iterator<Item = (&Claim, &ProvenSpend)> {
        let steps = self.steps.iter();
        steps.map_while(|step| Some((&step.claim, step.proven.as_ref()?)))
    }

    /// Each step spends what the one before it made, in a later place of the chain.
    fn check_order(&mut self, start: OutPoint, claims: &Claims) {
        let mut expected = Some(start);
        let mut before: Option<(u32, u32)> = None;
        for (number, claim) in (1..).zip(&claims.steps) {
            if expected != Some(claim.spent) {
                let tip = expected.map_or("nothing".to_owned(), |tip| tip.to_string());
                let text = format!(
                    "step {number} spends {}, where {tip} was the tip",
                    claim.spent
                );
                self.wrong.push(text);
            }
            let place = (claim.block.height, claim.transaction);
            if before.is_some_and(|before| before >= place) {
                let (height, transaction) = place;
                self.wrong.push(format!(
                    "step {number} is said to be transaction {transaction} of block {height}, which is not behind the step before it"
                ));
            }
            before = Some(place);
            expected = claim.spend.next;
        }
        if expected != claims.tip {
            let shown =
                |tip: Option<OutPoint>| tip.map_or("none".to_owned(), |tip| tip.to_string());
            let (said, found) = (shown(claims.tip), shown(expected));
            self.wrong.push(format!(
                "the tip is said to be {said}, and the last step leaves {found}"
            ));
        }
    }

    fn take(&mut self, claim: Claim, outcome: Outcome) -> Result<(), OracleError> {
        let number = self.steps.len() + 1;
        let block = claim.block;
        let mut proven = None;
        match outcome {
            Outcome::Proven(spend) => proven = Some(spend),
            Outcome::Wrong(what) => {
                self.wrong
                    .push(format!("step {number}, in block {block}: {what}"));
            }
            Outcome::Unproven => self.unverified.push(format!(
                "step {number}: the server has no proof for block {block}"
            )),
            Outcome::Failed(error) => return Err(error),
        }
        self.steps.push(AuditedStep { claim, proven });
        Ok(())
    }

    /// What the server itself says of the tip that is left.
    async fn check_tip(&mut self, server: &NativeOracle, rule: Rule) -> Result<(), OracleError> {
        let Some(tip) = self.tip else { return Ok(()) };
        let asked = server.outpoint(tip).await?;
        let spent = match asked.map(|asked| asked.state) {
            Some(OutpointState::Spent { spent, .. }) => spent,
            Some(OutpointState::Unspent(_)) => {
                let text = format!("that {tip} is unspent is the server's word alone");
                self.unverified.push(text);
                return Ok(());
            }
            _ => {
                let text = format!("whether {tip} has been spent the server does not know");
                self.unverified.push(text);
                return Ok(());
            }
        };
        let place = spent.and_then(|spent| Some((spent.block, spent.spender?.transaction)));
        let Some((block, transaction)) = place else {
            self.unverified.push(format!(
                "{tip} is spent, says the server, and not by whom: the process has ended or goes on"
            ));
            return Ok(());
        };
        let proof = match server.proof(block.hash, transaction.into()).await {
            Ok(Some(proof)) => proof,
            Ok(None) => {
                let text = format!("that {tip} is spent in block {block}: the server has no proof");
                self.unverified.push(text);
                return Ok(());
            }
            Err(error) if is_contradiction(&error) => {
                self.wrong.push(error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        match proof.spend(tip, &rule) {
            Ok(proven) if proven.end == Some(End::NoState) => {
                let number = self.steps.len() + 1;
                let claim = Claim {
                    spent: tip,
                    block,
                    transaction: transaction.into(),
                    spend: SpendClaim {
                        txid: Some(proven.txid),
                        input: proven.input,
                        state: None,
                        next: None,
                    },
                    end: Some(Some(End::NoState)),
                };
                tracing::info!("step {number} ends the process: it carries no state id");
                let proven = Some(proven);
                self.steps.push(AuditedStep { claim, proven });
                self.tip = None;
            }
            Ok(_) => self.wrong.push(format!(
                "block {block} spends {tip} and commits to a state id, a step that the server leaves out"
            )),
            Err(error) => self
                .wrong
                .push(format!("the spend of {tip} in block {block}: {error}")),
        }
        Ok(())
    }

    /// The blocks are of one chain up to the server's tip, with the work that their headers claim.
    async fn check_headers(
        &mut self,
        server: &NativeOracle,
        chain_tip: BlockId,
    ) -> Result<(), OracleError> {
        let heights = self.steps.iter().map(|step| step.claim.block.height);
        let Some(first) = heights.min() else {
            return Ok(());
        };
        let mut wanted: HashMap<u32, Option<BlockHash>> = self
            .steps
            .iter()
            .map(|step| (step.claim.block.height, None))
            .collect();
        let mut count = 0;
        let each = |block: BlockId, _: &_| {
            count += 1;
            if let Some(hash) = wanted.get_mut(&block.height) {
                *hash = Some(block.hash);
            }
        };
        let reached = match server.headers(first, chain_tip.height, each).await {
            Ok(reached) => reached,
            Err(error) if is_contradiction(&error) => {
                self.wrong.push(format!("the headers: {error}"));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.headers = count;
        if reached != Some(chain_tip) {
            self.unverified.push(format!(
                "the chain of the server has changed meanwhile, from block {chain_tip} on"
            ));
            self.chain_tip = reached;
        }
        let mut named = Vec::new();
        for (number, step) in (1..).zip(&mut self.steps) {
            let block = step.claim.block;
            match wanted.get(&block.height).copied().flatten() {
                Some(hash) if hash == block.hash => {}
                Some(hash) => {
                    step.proven = None;
                    named.push(format!(
                        "step {number} is said to be in block {block}, and the headers have {hash} at that height"
                    ));
                }
                None => {
                    step.proven = None;
                    named.push(format!(
                        "step {number} is said to be in block {block}, and there is no header at that height"
                    ));
                }
            }
        }
        self.wrong.extend(named);
        Ok(())
    }
}
