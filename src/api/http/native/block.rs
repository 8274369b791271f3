//! Blocks by height or hash, and digests.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use bitcoin::BlockHash;

use super::{
    Named, NativeError, Parameters, block_at, commitments, encoded, height, in_path, named, number,
};
use crate::api::desk::{BlockReading, Desk, DeskError, Reading};
use crate::api::http::Context;
use crate::api::http::answers::Question;
use crate::wire::native::{Block, Counts, Digest};

/// Digits of a hash: so many are no height.
const HASH_DIGITS: usize = 64;

/// How a block is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Height(u32),
    Hash(BlockHash),
}

pub(super) fn which(path: Named) -> Result<Which, NativeError> {
    let text = in_path(path, "block")?;
    if text.len() != HASH_DIGITS {
        return number("height", &text).map(Which::Height);
    }
    let bad = |_| NativeError::BadRequest("no hash of a block: give 64 hex digits".to_owned());
    text.parse().map(Which::Hash).map_err(bad)
}

/// `GET /spindex/v1/block/{height|hash}`.
pub(super) async fn block(
    State(context): State<Context>,
    path: Named,
    parameters: Parameters,
    headers: HeaderMap,
) -> Response {
    let which = which(path).and_then(|which| named(parameters, []).map(|[]| which));
    let which = match which {
        Ok(which) => which,
        Err(error) => return context.refuse(&headers, &error),
    };
    let question = match which {
        Which::Height(height) => Question::Block(height),
        Which::Hash(hash) => Question::BlockOf(hash),
    };
    let desk = context.desk.clone();
    let answer = move |reading: &Reading<'_>| {
        let tip = reading.status()?.tip.height;
        let block = find(reading, &desk, which)?;
        let reach = block.id().height.saturating_add(desk.horizon());
        encoded(of_block(&block, reach <= tip)?.encode())
    };
    context.answer(&headers, question, answer).await
}

/// The block that is named.
pub(super) fn find<'s>(
    reading: &Reading<'s>,
    desk: &Desk,
    which: Which,
) -> Result<BlockReading<'s>, NativeError> {
    match which {
        Which::Height(height) => block_at(reading, height),
        Which::Hash(hash) => {
            let block = reading.block_by_hash(&hash)?;
            block.ok_or_else(|| match desk.has_left(&hash) {
                true => NativeError::ReorganisedAway(hash),
                false => NativeError::Unknown(format!("no indexed block has hash {hash}")),
            })
        }
    }
}

fn of_block(block: &BlockReading<'_>, settled: bool) -> Result<Block, NativeError> {
    let counts = match block.counts() {
        Err(DeskError::NotKept(_)) => None,
        counts => Some(counts?),
    };
    Ok(Block {
        block: block.id(),
        header: *block.header(),
        transactions: block.transaction_count(),
        counts: counts.map(|counts| Counts {
            outputs: counts.outputs,
            unspent: counts.unspent,
            spends: counts.spends,
            states: counts.states,
        }),
        digest: block.digest()?,
        links: commitments::of_block(block)?,
        settled,
    })
}

/// `GET /spindex/v1/digest/{height}`.
pub(super) async fn digest(
    State(context): State<Context>,
    path: Named,
    parameters: Parameters,
    headers: HeaderMap,
) -> Response {
    let height = height(path).and_then(|height| named(parameters, []).map(|[]| height));
    let height = match height {
        Ok(height) => height,
        Err(error) => return context.refuse(&headers, &error),
    };
    let answer = move |reading: &Reading<'_>| {
        let block = block_at(reading, height)?;
        let digest = Digest {
            block: block.id(),
            digest: block.digest()?,
        };
        encoded(digest.encode())
    };
    context
        .answer(&headers, Question::NativeDigest(height), answer)
        .await
}

#[cfg(test)]
mod tests {
    use axum::extract::Path;

    use super::*;

    #[test]
    fn blocks_have_heights_or_hashes() {
        let read = |text: &str| which(Ok(Path(text.to_owned()))).ok();
        assert_eq!(read("0"), Some(Which::Height(0)));
        assert_eq!(read("04294967295"), Some(Which::Height(u32::MAX)));
        let hash = "00".repeat(31) + "07";
        let expected = hash.parse().expect("a hash");
        assert_eq!(read(&hash), Some(Which::Hash(expected)));
        for wrong in [
            "",
            "+5",
            "4294967296",
            "tip",
            &"ab".repeat(31),
            &"zz".repeat(32),
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
