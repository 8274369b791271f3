//! What a scan for several wallets reports.

use serde::Serialize;

use super::{Event, ScanReport};

/// The report of one of several wallets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalletReport {
    /// Its name, if it was given one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wallet: Option<String>,
    /// The report.
    #[serde(flatten)]
    pub report: ScanReport,
}

/// Something that has changed for one of several wallets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalletEvent {
    /// Its name, if it was given one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wallet: Option<String>,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// The reports of all wallets, in the order in which they were given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Reports(
    /// One for each.
    pub Vec<WalletReport>,
);

impl Reports {
    /// What has changed since earlier reports of the same wallets in the same order ([`ScanReport::since`]).
    pub fn since(&self, before: &Self) -> Vec<WalletEvent> {
        let wallets = self.0.iter().zip(&before.0);
        let events = wallets.flat_map(|(now, before)| {
            let events = now.report.since(&before.report).into_iter();
            events.map(|event| WalletEvent {
                wallet: now.wallet.clone(),
                event,
            })
        });
        events.collect()
    }

    /// The last height that was scanned for any of them, `None` if there was no block to scan.
    pub fn scanned_to(&self) -> Option<u32> {
        let reports = self.0.iter();
        reports.filter_map(|of| of.report.scanned_to).max()
    }
}
