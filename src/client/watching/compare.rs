//! Audits of one lineage by several servers: what one proves and another leaves out.

use super::super::{NativeOracle, OracleError};
use super::audit::Audit;

/// Holds the audits of several servers against each other: all know of the same spends, as far as their chains go, in the same
/// blocks. What is found is added to the audit of the server that is wrong, or of those of which one must be.
///
/// # Errors
/// That a server does not answer.
pub async fn compare(audits: &mut [(&NativeOracle, Audit)]) -> Result<(), OracleError> {
    let names: Vec<String> = audits.iter().map(|(server, _)| server.describe()).collect();
    let proven: Vec<Vec<_>> = audits
        .iter()
        .map(|(_, audit)| {
            let proven = audit.proven();
            proven
                .map(|(claim, spend)| (claim.spent, claim.block, spend.txid))
                .collect()
        })
        .collect();
    for (at, (server, audit)) in audits.iter_mut().enumerate() {
        let own = proven.get(at).map_or(&[][..], Vec::as_slice);
        let Some(tip) = audit.chain_tip else { continue };
        let others = proven.iter().zip(&names).enumerate();
        for (_, (steps, name)) in others.filter(|(other, _)| *other != at) {
            // Up to where both say the same. What comes behind a difference differs for that.
            let mut both = (1..).zip(steps.iter().zip(own));
            let difference = both.find(|(_, (theirs, own))| theirs != own);
            let missing = || (1..).zip(steps).nth(own.len());
            let (number, (spent, block, txid)) = match (difference, missing()) {
                (Some((number, (theirs, _))), _) => (number, *theirs),
                (None, Some((number, theirs))) => (number, *theirs),
                (None, None) => continue,
            };
            if block.height > tip.height {
                audit.unverified.push(format!(
                    "step {number}, which {name} proves in block {block}: this server's chain ends at {}",
                    tip.height
                ));
                continue;
            }
            let what = match server.block_hash(block.height).await? {
                Some(hash) if hash == block.hash => format!(
                    "step {number} is another one or left out: {name} proves that {txid} spends {spent} in block {block}, which this server has too"
                ),
                Some(hash) => format!(
                    "{name} has a block {block}, in which {txid} spends {spent}, and this server has {hash} at that height: compare their chains, or ask again later"
                ),
                None => format!(
                    "no block at height {}, where {name} has {block}",
                    block.height
                ),
            };
            audit.wrong.push(what);
        }
    }
    Ok(())
}
