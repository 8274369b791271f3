//! What is new, once or as it comes.

use std::time::Duration;

use anyhow::Result;

use super::table::spend_text;
use crate::cli::output::write_stdout;
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

/// Scans again and again, and prints what has changed each time.
///
/// # Errors
/// What another scan would not mend.
pub(super) async fn follow(
    client: &mut WalletsClient,
    mut before: Reports,
    interval: Duration,
    json: bool,
) -> Result<()> {
    loop {
        // Polling: version 1 tells nobody when there is a block.
        tokio::time::sleep(interval).await;
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
