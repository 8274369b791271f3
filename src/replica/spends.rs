//! Who spends what in blocks whose rows came without it, once the server has learnt it.

use super::{Upstream, chain_error, record};
use crate::BlockId;
use crate::chain::{BlockSource, ChainError};
use crate::client::OracleError;
use crate::client::native::{Next, Raw, read_group};
use crate::store::BlockSpends;
use crate::wire::native::column::Column;

/// What is asked for: the headers column has the hash of each section.
const COLUMNS: [Column; 2] = [Column::Headers, Column::Spends];

/// What consecutive blocks spend, oldest first: those from the height on from which the server knows it.
pub(super) async fn of_blocks(
    upstream: &Upstream,
    of: &[BlockId],
) -> Vec<Result<BlockSpends, ChainError>> {
    let known_from = match upstream.server.info().await {
        Ok(info) => info.spenders_from.unwrap_or_default(),
        Err(error) => return all(of, &chain_error(error)),
    };
    let is_unknown = |id: &BlockId| id.height < known_from;
    let (unknown, known) = of.split_at(of.partition_point(is_unknown));
    let error = ChainError::NotAvailable(format!(
        "{} does not know itself who spends what below height {known_from}",
        upstream.describe()
    ));
    let mut spends = all(unknown, &error);
    spends.extend(match known_spends(upstream, known).await {
        Ok(known) => known,
        Err(error) => all(known, &chain_error(error)),
    });
    spends
}

fn all(of: &[BlockId], error: &ChainError) -> Vec<Result<BlockSpends, ChainError>> {
    of.iter().map(|_| Err(error.clone())).collect()
}

async fn known_spends(
    upstream: &Upstream,
    of: &[BlockId],
) -> Result<Vec<Result<BlockSpends, ChainError>>, OracleError> {
    let (Some(first), Some(last)) = (of.first(), of.last()) else {
        return Ok(Vec::new());
    };
    let server = &upstream.server;
    let mut parts = server.range(&COLUMNS, first.height, last.height).await?;
    let (mut spends, mut wanted) = (Vec::with_capacity(of.len()), of);
    while let [next, ..] = wanted {
        let group = match parts.next(&COLUMNS).await? {
            Next::Group(group) => group,
            Next::Cut(reason) => return Err(parts.cut(1, reason)),
            Next::End(reached) => {
                let text = format!("{} ended at block {reached}", parts.url());
                spends.extend(all(wanted, &ChainError::NotAvailable(text)));
                break;
            }
        };
        let url = parts.url();
        for block in read_group(&url, server.network(), &COLUMNS, group, next.height)? {
            let Some((id, rest)) = wanted.split_first() else {
                return Err(parts.malformed("more blocks than were asked for"));
            };
            wanted = rest;
            spends.push(match is_of(&block, *id) {
                true => known(record::spends(&url, &block)?, &url),
                false => Err(ChainError::NotAvailable(format!(
                    "{url} has another block at height {}",
                    id.height
                ))),
            });
        }
    }
    Ok(spends)
}

/// A server that says that it knows may still not say it.
fn known(spends: BlockSpends, url: &str) -> Result<BlockSpends, ChainError> {
    match spends.spends.iter().all(|spend| spend.spender.is_some()) {
        true => Ok(spends),
        false => Err(ChainError::Mismatch(format!(
            "{url} does not say who spends what in block {}",
            spends.id
        ))),
    }
}

fn is_of(block: &Raw, id: BlockId) -> bool {
    (block.height, block.hash) == (id.height, id.hash)
}
