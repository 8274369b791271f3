//! Several servers for one scan: compared before and after, and what is done if they disagree.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bitcoin::Network;
use clap::ValueEnum;

use super::connect::{Dialect, Found};
use crate::client::witnesses::{Disagreement, compare};
use crate::client::{HttpSettings, NativeOracle};

/// What is done about a disagreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum OnDisagreement {
    /// The scan ends.
    #[default]
    Stop,
    /// It goes on with what more than half of the servers tell.
    Majority,
}

/// The oracles of a scan, of which one is scanned.
pub(super) struct Witnesses {
    oracles: Vec<Found>,
    /// Positions of the one that is scanned, and of those that tell the same as it does.
    scanned: usize,
    agreed: Vec<usize>,
}

impl Witnesses {
    /// Finds out what speaks at these addresses.
    pub(super) async fn connect(
        addresses: &[String],
        dialect: Dialect,
        settings: &HttpSettings,
        network: Network,
    ) -> Result<Self> {
        let mut oracles = Vec::new();
        for address in addresses {
            let several = addresses.len() > 1;
            oracles.extend(Found::at(address, several, dialect, settings, network).await?);
        }
        Ok(Self {
            scanned: 0,
            agreed: (0..oracles.len()).collect(),
            oracles,
        })
    }

    /// The one that is scanned.
    pub(super) fn scanned(&self) -> Option<&Found> {
        self.oracles.get(self.scanned)
    }

    /// Those that tell the same, in their order.
    pub(super) fn others(&self) -> impl DoubleEndedIterator<Item = Arc<NativeOracle>> {
        let others = self.agreed.iter().filter(|at| **at != self.scanned);
        others.filter_map(|at| self.oracles.get(*at)?.native.clone())
    }

    /// Whether one that is not files is among those.
    pub(super) fn ends_with_a_server(&self) -> bool {
        let mut agreed = self.agreed.iter().filter_map(|at| self.oracles.get(*at));
        agreed.any(|oracle| !oracle.is_files())
    }

    /// Compares them up to the lowest of their last blocks, and chooses which is scanned.
    pub(super) async fn compare(&mut self, on_disagreement: OnDisagreement) -> Result<()> {
        if let Some(found) = self.ask(None).await? {
            let majority = majority(&found, on_disagreement)?;
            if !majority.contains(&self.scanned) {
                self.scanned = majority.first().copied().unwrap_or_default();
            }
            self.agreed = majority;
            tracing::warn!("{found}; going on with the majority");
        }
        Ok(())
    }

    /// Compares them once more, up to the last block that was scanned.
    pub(super) async fn compare_again(
        &self,
        to: u32,
        on_disagreement: OnDisagreement,
    ) -> Result<()> {
        let Some(found) = self.ask(Some(to)).await? else {
            return Ok(());
        };
        if !majority(&found, on_disagreement)?.contains(&self.scanned) {
            bail!(
                "{found}; the one that was scanned is not of the majority: scan another one with --rescan"
            );
        }
        Ok(())
    }

    async fn ask(&self, to: Option<u32>) -> Result<Option<Disagreement>> {
        let servers: Vec<Arc<NativeOracle>> = self
            .oracles
            .iter()
            .filter_map(|oracle| oracle.native.clone())
            .collect();
        if servers.len() < 2 {
            return Ok(None);
        }
        compare(&servers, to)
            .await
            .context("the servers cannot be compared, which takes the native protocol")
    }
}

fn majority(found: &Disagreement, on_disagreement: OnDisagreement) -> Result<Vec<usize>> {
    match (on_disagreement, found.majority()) {
        (OnDisagreement::Majority, Some(majority)) => Ok(majority.to_vec()),
        (OnDisagreement::Majority, None) => bail!("{found}; no majority tells the same"),
        (OnDisagreement::Stop, _) => bail!(
            "{found}; find out who is right, with a node if there is one (spindex check --against), or go on with \
             --on-disagreement majority"
        ),
    }
}
