//! Several servers for one scan: compared before and after, and what is done if they disagree.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bitcoin::Network;
use clap::ValueEnum;

use crate::client::witnesses::{Disagreement, compare};
use crate::client::{HttpOracle, HttpSettings, NativeOracle};

/// What is done about a disagreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum OnDisagreement {
    /// The scan ends.
    #[default]
    Stop,
    /// It goes on with what more than half of the servers tell.
    Majority,
}

/// The servers, if there are several.
pub(super) struct Witnesses {
    servers: Vec<Arc<NativeOracle>>,
    /// Which of them is scanned.
    scanned: usize,
}

impl Witnesses {
    /// For these addresses.
    pub(super) fn connect(
        addresses: &[String],
        settings: &HttpSettings,
        network: Network,
    ) -> Result<Self> {
        let several = addresses.iter().filter(|_| addresses.len() > 1);
        let servers = several.map(|address| {
            let http = Arc::new(HttpOracle::new(address, settings.clone())?);
            Ok(Arc::new(NativeOracle::new(http, network)))
        });
        Ok(Self {
            servers: servers.collect::<Result<_>>()?,
            scanned: 0,
        })
    }

    /// The address that is scanned.
    pub(super) fn first<'a>(&self, addresses: &'a [String]) -> &'a str {
        addresses.get(self.scanned).map_or("", String::as_str)
    }

    /// Compares them up to the lowest of their last blocks, and chooses which is scanned.
    pub(super) async fn compare(&mut self, on_disagreement: OnDisagreement) -> Result<()> {
        if let Some(found) = self.ask(None).await? {
            let majority = majority(&found, on_disagreement)?;
            if !majority.contains(&self.scanned) {
                self.scanned = majority.first().copied().unwrap_or_default();
            }
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
        if self.servers.is_empty() {
            return Ok(None);
        }
        compare(&self.servers, to)
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
