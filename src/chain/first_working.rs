//! The first of several sources that works.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bitcoin::{Network, OutPoint, ScriptBuf, Transaction, Txid};
use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use super::{BlockSource, BlockWithPrevouts, BroadcastError, ChainError, MempoolListing, Node};
use crate::BlockId;

/// Several sources of the same blocks, the best first. The first that passes its check is used from then on; until one
/// does, every call looks for it. Several nodes are a node.
pub struct FirstWorking<S: ?Sized> {
    sources: Vec<Arc<S>>,
    network: Network,
    chosen: OnceCell<Arc<S>>,
}

impl<S: BlockSource + ?Sized> FirstWorking<S> {
    /// Sources for `network`, the best first.
    pub fn new(sources: Vec<Arc<S>>, network: Network) -> Self {
        Self {
            sources,
            network,
            chosen: OnceCell::new(),
        }
    }

    async fn source(&self) -> Result<&Arc<S>, ChainError> {
        self.chosen.get_or_try_init(|| self.choose()).await
    }

    /// Checks the sources in their order, and logs which one it is and why those before it do not work.
    ///
    /// # Errors
    /// A transient one if that is what any of them has, since it may work later; [`ChainError::Conflict`] of any of them;
    /// otherwise what all of them say.
    async fn choose(&self) -> Result<Arc<S>, ChainError> {
        let mut failed: Vec<(&Arc<S>, ChainError)> = Vec::new();
        for source in &self.sources {
            match source.check(self.network).await {
                Ok(()) => {}
                // Another source beside it would be no more right.
                Err(error @ ChainError::Conflict(_)) => return Err(error),
                Err(error) => {
                    failed.push((source, error));
                    continue;
                }
            }
            let mut found = source;
            // A node that was still starting a moment ago may serve the better sources too now that it serves this one.
            for (better, error) in failed.iter_mut().filter(|(_, e)| e.is_transient()) {
                match better.check(self.network).await {
                    Ok(()) => {
                        found = better;
                        break;
                    }
                    Err(again @ ChainError::Conflict(_)) => return Err(again),
                    Err(again) => *error = again,
                }
            }
            let better = failed
                .iter()
                .take_while(|(source, _)| !Arc::ptr_eq(source, found));
            for (source, error) in better {
                tracing::info!("not from {}: {error}", source.describe());
            }
            tracing::info!("blocks come from {}", found.describe());
            return Ok(found.clone());
        }
        if let Some((_, error)) = failed.iter().find(|(_, error)| error.is_transient()) {
            return Err(error.clone());
        }
        let mut said = BTreeSet::new();
        let reasons = failed.iter().map(|(_, error)| error.to_string());
        let reasons: Vec<String> = reasons.filter(|text| said.insert(text.clone())).collect();
        Err(ChainError::Setup(match reasons.is_empty() {
            true => "there is no source of blocks; check --source".to_owned(),
            false => reasons.join("; and "),
        }))
    }
}

impl<S: BlockSource + ?Sized> BlockSource for FirstWorking<S> {
    fn describe(&self) -> String {
        match self.chosen.get() {
            Some(source) => source.describe(),
            None => {
                let names: Vec<String> = self.sources.iter().map(|s| s.describe()).collect();
                names.join(", or ")
            }
        }
    }

    fn check(&self, network: Network) -> BoxFuture<'_, Result<(), ChainError>> {
        Box::pin(async move {
            match self.chosen.get() {
                // Checked just now, if that is the network asked for.
                None if network == self.network => self.source().await.map(drop),
                _ => self.source().await?.check(network).await,
            }
        })
    }

    fn tip(&self) -> BoxFuture<'_, Result<BlockId, ChainError>> {
        Box::pin(async { self.source().await?.tip().await })
    }

    fn block_at(&self, height: u32) -> BoxFuture<'_, Result<Option<BlockId>, ChainError>> {
        Box::pin(async move { self.source().await?.block_at(height).await })
    }

    fn blocks_at(
        &self,
        heights: RangeInclusive<u32>,
    ) -> BoxFuture<'_, Result<Vec<BlockId>, ChainError>> {
        Box::pin(async move { self.source().await?.blocks_at(heights).await })
    }

    fn block(&self, id: BlockId) -> BoxFuture<'_, Result<BlockWithPrevouts, ChainError>> {
        Box::pin(async move { self.source().await?.block(id).await })
    }

    fn run_length(&self, ids: &[BlockId]) -> usize {
        self.chosen.get().map_or(1, |source| source.run_length(ids))
    }

    fn blocks<'a>(
        &'a self,
        ids: &'a [BlockId],
    ) -> BoxFuture<'a, Vec<Result<BlockWithPrevouts, ChainError>>> {
        Box::pin(async move {
            match self.source().await {
                Ok(source) => source.blocks(ids).await,
                Err(error) => ids.iter().map(|_| Err(error.clone())).collect(),
            }
        })
    }
}

impl<S: Node + ?Sized> Node for FirstWorking<S> {
    fn signet_challenge(&self) -> BoxFuture<'_, Result<Option<ScriptBuf>, ChainError>> {
        Box::pin(async move { self.source().await?.signet_challenge().await })
    }

    fn rejects(&self, id: BlockId) -> BoxFuture<'_, Result<bool, ChainError>> {
        Box::pin(async move { self.source().await?.rejects(id).await })
    }

    fn broadcast<'a>(&'a self, tx: &'a Transaction) -> BoxFuture<'a, Result<Txid, BroadcastError>> {
        Box::pin(async move { self.source().await?.broadcast(tx).await })
    }

    fn mempool(&self) -> BoxFuture<'_, Result<MempoolListing, ChainError>> {
        Box::pin(async move { self.source().await?.mempool().await })
    }

    fn entered_mempool<'a>(
        &'a self,
        txids: &'a [Txid],
    ) -> BoxFuture<'a, Result<Vec<Option<u64>>, ChainError>> {
        Box::pin(async move { self.source().await?.entered_mempool(txids).await })
    }

    fn raw_unconfirmed<'a>(
        &'a self,
        txids: &'a [Txid],
    ) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, ChainError>> {
        Box::pin(async move { self.source().await?.raw_unconfirmed(txids).await })
    }

    fn unspent_scripts<'a>(
        &'a self,
        outpoints: &'a [OutPoint],
    ) -> BoxFuture<'a, Result<Vec<Option<ScriptBuf>>, ChainError>> {
        Box::pin(async move { self.source().await?.unspent_scripts(outpoints).await })
    }
}
