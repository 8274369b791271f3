//! Reports as tables, for people.

use std::io::Write;

use bitcoin::Network;
use bitcoin::hex::DisplayHex;

use crate::client::{Reports, ScanReport, Spend, WalletReport, WatchedState};

/// The reports of several wallets, each under its name.
pub(super) fn print_reports(out: &mut dyn Write, reports: &Reports) -> std::io::Result<()> {
    for (number, WalletReport { wallet, report }) in reports.0.iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        if let Some(wallet) = wallet {
            writeln!(out, "{wallet}")?;
        }
        print_report(out, report)?;
    }
    Ok(())
}

/// The report as tables.
fn print_report(out: &mut dyn Write, report: &ScanReport) -> std::io::Result<()> {
    if !report.found.is_empty() {
        writeln!(
            out,
            "{:>8}  {:>14}  {:<8}  {:<70}  spent",
            "height", "sat", "label", "output"
        )?;
        for found in &report.found {
            let label = found.label.map_or_else(String::new, |m| match m {
                0 => "change".to_owned(),
                m => m.to_string(),
            });
            let spent = found
                .spent
                .as_ref()
                .map_or_else(|| "no".to_owned(), spend_text);
            writeln!(
                out,
                "{:>8}  {:>14}  {label:<8}  {:<70}  {spent}",
                found.height,
                found.value_sat,
                found.outpoint.to_string()
            )?;
        }
    }
    for watched in &report.watched {
        let seen = match watched.to {
            Some(to) => format!("no spend in blocks {} to {to}", watched.from),
            None => "no block scanned".to_owned(),
        };
        let spent = match (watched.state, &watched.spend) {
            (_, Some(spend)) => format!("spent {}", spend_text(spend)),
            (WatchedState::Unspent, None) => format!("unspent, {seen}"),
            (WatchedState::Spent, None) => format!("spent, as the server says, {seen}"),
            // Whether the output exists is not known, so it is not said to be unspent.
            (WatchedState::Unknown, None) => format!("unknown, {seen}"),
        };
        writeln!(out, "{}  {spent}", watched.outpoint)?;
    }
    print_unresolved(out, report)?;
    if let Some(to) = report.spends_known_to {
        writeln!(
            out,
            "spends of outputs that were found late were looked for up to {to} alone: a scan without --to goes on"
        )?;
    }
    let unspent = report
        .found
        .iter()
        .filter(|found| found.spent.is_none())
        .count();
    let reached = match report.scanned_to {
        Some(to) if report.oracle_height < to => format!(
            "scanned {} to {to}, beyond the server's last block {}",
            report.from, report.oracle_height
        ),
        Some(to) => format!("scanned {} to {to}", report.from),
        None => "no block to scan".to_owned(),
    };
    writeln!(
        out,
        "{reached} ({}): {} found, {unspent} unspent, {} sat",
        network_name(report.network),
        report.found.len(),
        report.unspent_sat
    )
}

/// Heights named in a line at most.
const HEIGHTS_NAMED: usize = 20;

/// What the scan cannot know, if there is anything.
fn print_unresolved(out: &mut dyn Write, report: &ScanReport) -> std::io::Result<()> {
    if !report.unresolved.is_empty() {
        let matches: u64 = report
            .unresolved
            .iter()
            .map(|block| u64::from(block.matches))
            .sum();
        let named = report.unresolved.iter().take(HEIGHTS_NAMED);
        let mut heights: Vec<String> = named.map(|block| block.height.to_string()).collect();
        if let Some(more @ 1..) = report.unresolved.len().checked_sub(HEIGHTS_NAMED) {
            heights.push(format!("{more} more"));
        }
        writeln!(
            out,
            "{matches} unresolved, at {}: the filters there match, and the server no longer lists the outputs. They are \
             spent, or it is chance; after a reorganisation, or with --ask-again, it is asked again",
            heights.join(", ")
        )?;
    }
    if let Some(below) = report.unresolved_unknown_below {
        writeln!(
            out,
            "what was unresolved below {below} is unknown, since an older program scanned there: --rescan tells"
        )?;
    }
    Ok(())
}

pub(super) fn spend_text(spend: &Spend) -> String {
    let mut text = format!("at {}", spend.height);
    if let Some(txid) = spend.spending_txid {
        text.push_str(&format!(" by {txid}"));
    }
    for state_id in &spend.op_return {
        text.push_str(&format!(", state id {}", state_id.as_hex()));
    }
    text
}

fn network_name(network: Network) -> &'static str {
    network.to_core_arg()
}

#[cfg(test)]
mod tests {
    use bitcoin::BlockHash;
    use bitcoin::hashes::Hash;

    use super::*;
    use crate::client::Unresolved;

    fn table(unresolved: &[(u32, u32)], unknown_below: Option<u32>) -> Vec<String> {
        let unresolved = unresolved.iter().map(|(height, matches)| Unresolved {
            height: *height,
            block_hash: BlockHash::all_zeros(),
            matches: *matches,
        });
        let report = ScanReport {
            network: Network::Regtest,
            from: 1,
            scanned_to: Some(200),
            oracle_height: 200,
            reorganised_above: None,
            unspent_sat: 0,
            found: Vec::new(),
            spends_known_to: None,
            watched: Vec::new(),
            unresolved: unresolved.collect(),
            head: None,
            unresolved_unknown_below: unknown_below,
        };
        let mut out = Vec::new();
        print_report(&mut out, &report).expect("memory");
        let text = String::from_utf8(out).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn one_line_says_what_is_unresolved_and_where() {
        assert_eq!(table(&[], None).len(), 1, "nothing but the sum");
        let lines = table(&[(101, 1), (105, 2), (230, 1)], None);
        assert_eq!(lines.len(), 2);
        let line = &lines[0];
        assert!(
            line.starts_with("4 unresolved, at 101, 105, 230: "),
            "{line}"
        );
        assert!(line.contains("no longer lists") && line.contains("--ask-again"));

        let many: Vec<(u32, u32)> = (0..1000).map(|height| (height, 1)).collect();
        let line = &table(&many, None)[0];
        assert!(line.starts_with("1000 unresolved, at 0, 1, 2, "), "{line}");
        assert!(line.contains(", 19, 980 more: "), "{line}");
        assert_eq!(table(&many[..20], None)[0].matches("more").count(), 0);
    }

    #[test]
    fn a_state_of_an_older_program_says_what_it_cannot_know() {
        let lines = table(&[], Some(150));
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("below 150") && lines[0].contains("--rescan"));
    }
}
