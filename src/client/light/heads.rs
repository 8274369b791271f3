//! The chain of hashes over everything that a native scan was given, kept so that it can be compared.

use super::super::state::HeadRow;
use super::LightClient;
use super::fetch::FetchedBlock;

impl LightClient {
    /// The heads at these blocks, on top of the stored one below them; or from them on, where there is none.
    pub(super) fn heads(&self, blocks: &[FetchedBlock]) -> Vec<(u32, HeadRow)> {
        let Some(first) = blocks.first() else {
            return Vec::new();
        };
        let contents = &self.state.contents;
        let below = first.height.checked_sub(1);
        let below = below.and_then(|below| contents.head(below));
        let (from, mut head) = match below {
            Some(row) => (row.from, row.head),
            None => (first.height, [0; 32]),
        };
        let native = blocks.iter().filter_map(FetchedBlock::native);
        native
            .map(|block| {
                head = block.header.hashes.next_head(&head, &block.hash);
                let row = HeadRow {
                    from,
                    block_hash: block.hash,
                    head,
                };
                (block.height, row)
            })
            .collect()
    }
}
