//! What a snapshot says of a height, `None` where nothing is indexed: lists in the forms in which they are compared.

use bitcoin::Txid;
use spindex::curve::TweakPoint;
use spindex::filter::FilterKind;
use spindex::store::{
    Block, BlockRecord, CompressedTweak, OutputPosition, RowFilter, Snapshot, SpendRow, StoreError,
    Utxo,
};

type Answer<T> = Result<Option<T>, StoreError>;

/// Lists by height.
pub(crate) trait ByHeight {
    /// What a block answers, if there is one.
    fn of<T>(
        &self,
        height: u32,
        ask: impl FnOnce(&Block<'_>) -> Result<T, StoreError>,
    ) -> Answer<T>;

    fn tweak_list(&self, height: u32, filter: RowFilter) -> Answer<Vec<CompressedTweak>> {
        self.of(height, |block| block.tweaks(filter))
    }

    fn compressed_tweaks(
        &self,
        height: u32,
        filter: RowFilter,
    ) -> Answer<Vec<(Txid, CompressedTweak)>> {
        self.of(height, |block| block.transactions(filter))
    }

    /// Points with their txids.
    fn tweaks(&self, height: u32, filter: RowFilter) -> Answer<Vec<(Txid, TweakPoint)>> {
        self.of(height, |block| {
            let kept = block.transactions(filter)?;
            let mut kept = kept.into_iter().peekable();
            let all = block.transactions(RowFilter::default())?;
            let all = all.into_iter().zip(block.points()?);
            Ok(all
                .filter_map(|(row, point)| kept.next_if_eq(&row).map(|(txid, _)| (txid, point)))
                .collect())
        })
    }

    fn points(&self, height: u32) -> Answer<Vec<TweakPoint>> {
        self.of(height, |block| block.points())
    }

    fn multiples(&self, height: u32) -> Answer<Vec<TweakPoint>> {
        self.of(height, |block| block.multiples())
    }

    fn utxos(&self, height: u32, filter: RowFilter) -> Answer<Vec<Utxo>> {
        self.of(height, |block| block.utxos(filter))
    }

    fn spends(&self, height: u32) -> Answer<Vec<SpendRow>> {
        self.of(height, |block| block.spends())
    }

    fn spend_creators(&self, height: u32) -> Answer<Vec<Option<u32>>> {
        self.of(height, |block| block.spend_creators())
    }

    fn spent_positions(&self, height: u32) -> Answer<Vec<OutputPosition>> {
        self.of(height, |block| block.spent_positions())
    }

    fn new_utxos_filter(&self, height: u32) -> Answer<Vec<u8>> {
        self.of(height, |block| block.filter(FilterKind::NewUtxos))
    }

    fn spent_filter(&self, height: u32) -> Answer<Vec<u8>> {
        self.of(height, |block| block.filter(FilterKind::Spent))
    }

    fn digest(&self, height: u32) -> Answer<[u8; 32]> {
        self.of(height, |block| block.digest())
    }

    fn record(&self, height: u32) -> Answer<BlockRecord> {
        self.of(height, |block| block.record())
    }
}

impl ByHeight for Snapshot {
    fn of<T>(
        &self,
        height: u32,
        ask: impl FnOnce(&Block<'_>) -> Result<T, StoreError>,
    ) -> Answer<T> {
        self.block(height)?.as_ref().map(ask).transpose()
    }
}
