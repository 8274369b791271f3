//! What is new, once or as it comes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::table::spend_text;
use crate::chain::TipSignal;
use crate::cli::output::write_stdout;
use crate::client::native::{EventSettings, NativeOracle, follow_events};
use crate::client::{ClientError, Event, OracleError, Reports, WalletEvent, WalletsClient};

/// Prints what has changed: a line each, of JSON or for people.
pub(super) fn print_changes(events: &[WalletEvent], json: bool) -> Result<()> {
    write_stdout(|out| {
        for event in events {
            if json {
                serde_json::to_writer(&mut *out, event)?;
                writeln!(out)?;
            } else if let Some(line) = line(&event.event) {
                match &event.wallet {
                    Some(wallet) => writeln!(out, "{wallet}  {line}")?,
                    None => writeln!(out, "{line}")?,
                }
            }
        }
        out.flush()
    })
}

fn line(event: &Event) -> Option<String> {
    Some(match event {
        Event::Found(found) => format!(
            "found    {}  {} sat at {}{}",
            found.outpoint,
            found.value_sat,
            found.height,
            match found.label {
                None => String::new(),
                Some(0) => ", change".to_owned(),
                Some(m) => format!(", label {m}"),
            }
        ),
        Event::Spent { outpoint, spend } => format!("spent    {outpoint}  {}", spend_text(spend)),
        Event::Unspent { outpoint } => {
            format!("unspent  {outpoint}  its spend was reorganised away")
        }
        Event::Gone { outpoint } => format!("gone     {outpoint}  its block was reorganised away"),
        Event::Scanned { .. } => return None,
    })
}

/// When a server is looked at.
pub(super) struct Looks {
    interval: Duration,
    told: Option<TipSignal>,
}

impl Looks {
    /// After each interval, and when a server that tells of new blocks does so. To be called on a tokio runtime.
    pub(super) fn new(interval: Duration, teller: Option<Arc<NativeOracle>>) -> Self {
        let told = teller.map(|server| {
            TipSignal::new(TipSignal::GATHER, |word| async move {
                follow_events(&server, EventSettings::default(), |_| word.give()).await;
            })
        });
        Self { interval, told }
    }

    /// Waits for the next one.
    async fn next(&self) {
        // Whatever is told, or is not: nothing depends on it.
        let interval = tokio::time::sleep(self.interval);
        match &self.told {
            Some(told) => tokio::select! {
                () = interval => {}
                () = told.changed() => {}
            },
            None => interval.await,
        }
    }
}

/// Scans again and again, and prints what has changed each time.
///
/// # Errors
/// What another scan would not mend.
pub(super) async fn follow(
    client: &mut WalletsClient,
    mut before: Reports,
    looks: Looks,
    json: bool,
) -> Result<()> {
    loop {
        looks.next().await;
        let report = match client.run(&mut |_| ()).await {
            Ok(report) => report,
            Err(ClientError::Oracle(
                error @ (OracleError::Unreachable { .. } | OracleError::Busy { .. }),
            )) => {
                tracing::warn!("{error}");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        print_changes(&report.since(&before), json)?;
        before = report;
    }
}
