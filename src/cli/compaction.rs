//! When the index file is compacted, and what a stop does meanwhile.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::runtime::{Stop, detached};
use crate::store::{Slack, Store, StoreError};

/// When to compact, and how long to wait for what.
#[derive(Clone, Copy)]
pub(super) struct Compaction {
    /// A sync of so many blocks leaves slack.
    long_sync_blocks: usize,
    /// Otherwise compaction is worthwhile from this much slack on,
    at_least_bytes: u64,
    /// and from this share of the file on: one in so many bytes.
    one_in: u64,
    /// How long it waits for answers that are being given.
    readers_patience: Duration,
    /// How long a stop waits for it to end.
    stop_patience: Duration,
}

impl Compaction {
    pub(super) const DEFAULT: Self = Self {
        long_sync_blocks: 1_000,
        at_least_bytes: 4 << 20,
        one_in: 16,
        readers_patience: Duration::from_secs(10),
        stop_patience: Duration::from_secs(2),
    };

    fn is_worthwhile(self, synced_blocks: usize, slack: Slack) -> bool {
        let least = (slack.disk_bytes / self.one_in).max(self.at_least_bytes);
        synced_blocks >= self.long_sync_blocks || slack.slack_bytes >= least
    }
}

/// Gives back the slack in the file after a long sync, and whenever there is much: a compaction that did not come to its end
/// leaves it.
///
/// The engine cannot be asked to stop compacting, and takes minutes for a large file. A stop leaves it behind: the
/// process ends in the middle, which the file survives like a crash.
pub(super) async fn compact_if_worthwhile(
    store: &Arc<Store>,
    stop: &Stop,
    synced_blocks: usize,
    when: Compaction,
) -> Result<()> {
    let looking = store.clone();
    let slack = tokio::task::spawn_blocking(move || looking.slack()).await??;
    if !when.is_worthwhile(synced_blocks, slack) {
        return Ok(());
    }
    tracing::info!(
        "compacting the index: about {} of {} MiB are slack",
        slack.slack_bytes >> 20,
        slack.disk_bytes >> 20
    );
    let compacting = store.clone();
    let compacted = detached(move || compacting.compact(when.readers_patience));
    let stopped = async {
        stop.requested().await;
        tokio::time::sleep(when.stop_patience).await;
    };
    tokio::select! {
        compacted = compacted => match compacted {
            Some(Ok(freed)) => tracing::info!("compacted the index: {} MiB given back", freed >> 20),
            Some(Err(error @ StoreError::Busy { .. })) => tracing::warn!("{error}"),
            Some(Err(error)) => return Err(error.into()),
            None => return Err(anyhow!("compacting ended early; this is a bug, please report it")),
        },
        () = stopped => tracing::warn!(
            "stopped in the middle of compacting the index, which the next start makes up for, after it has checked the file"
        ),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bitcoin::Network;

    use super::*;
    use crate::store::StoreOptions;

    fn store(directory: &tempfile::TempDir) -> Arc<Store> {
        let options = StoreOptions {
            network: Network::Regtest,
            first_height: None,
            keep: None,
            tweak_form: None,
            undo_depth: 288,
            cache_bytes: 1 << 20,
        };
        Arc::new(Store::open(&directory.path().join("index.redb"), &options).unwrap())
    }

    /// Always, and waiting for readers for ever.
    const AT_ONCE: Compaction = Compaction {
        long_sync_blocks: 0,
        readers_patience: Duration::MAX,
        stop_patience: Duration::ZERO,
        ..Compaction::DEFAULT
    };

    #[tokio::test]
    async fn a_stop_does_not_wait_for_a_compaction() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        // As long as this lives, the compaction goes on.
        let held = store.snapshot().unwrap();
        let stop = Stop::new();
        let compacting = tokio::spawn({
            let (store, stop) = (store.clone(), stop.clone());
            async move { compact_if_worthwhile(&store, &stop, 0, AT_ONCE).await }
        });
        while store.snapshot().is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!compacting.is_finished());
        stop.request();
        compacting.await.unwrap().unwrap();
        let refused = store.snapshot();
        assert!(matches!(refused, Err(StoreError::Compacting { .. })));

        // Nothing is lost by it.
        drop(held);
        while store.snapshot().is_err() {
            tokio::task::yield_now().await;
        }
        compact_if_worthwhile(&store, &Stop::new(), 0, AT_ONCE)
            .await
            .unwrap();
    }

    #[test]
    fn much_slack_makes_compaction_worthwhile() {
        let mib = |disk_bytes: u64, slack_bytes: u64| Slack {
            disk_bytes: disk_bytes << 20,
            slack_bytes: slack_bytes << 20,
        };
        let when = Compaction::DEFAULT;
        assert!(!when.is_worthwhile(999, mib(3, 3)));
        assert!(when.is_worthwhile(1_000, mib(3, 0)));
        assert!(when.is_worthwhile(0, mib(4, 4)));
        assert!(!when.is_worthwhile(0, mib(33_000, 2_000)));
        assert!(when.is_worthwhile(0, mib(33_000, 3_000)));
    }
}
