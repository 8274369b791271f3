//! What the terminal shows: log, progress, errors. Results go to stdout, everything else to stderr.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::config::usage;
use crate::index::BatchReport;

/// Starts logging to stderr.
pub(super) fn start_log(filter: &str) -> Result<()> {
    let filter = log_filter(filter)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogWriter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    Ok(())
}

/// A level, or levels of modules beside one for the rest, which is info if there is none: a mistyped word would
/// otherwise be a module that nobody has, and the log empty.
fn log_filter(text: &str) -> Result<EnvFilter> {
    let mut filter = String::new();
    let parts = text.split(',').map(str::trim);
    for part in parts.filter(|part| !part.is_empty()) {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if level.is_empty() || level.parse::<LevelFilter>().is_err() || part.starts_with('=') {
            return Err(usage!(
                "bad value {text:?} for --log: {part:?} is neither a level (error, warn, info, debug, trace, off) nor a \
                 module's, such as spindex::index=debug"
            ));
        }
        filter.push(',');
        filter.push_str(part);
    }
    // Of two directives for the same, the last one counts.
    EnvFilter::try_new(format!("info{filter}"))
        .map_err(|error| usage!("bad value {text:?} for --log: {error}"))
}

/// All bars of the process, so that log lines can be written between them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// stderr, with the bars out of the way while a line is written.
struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        BARS.suspend(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Prints an error with its causes on one line.
pub(super) fn print_error(error: &anyhow::Error) {
    // Nothing is left to do if stderr is closed too.
    let _ = writeln!(std::io::stderr(), "error: {}", one_line(error));
}

/// The error and its causes, without those that the texts before already quote.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string().replace('\n', " ");
        if !line.contains(&text) {
            line.push_str(if line.is_empty() { "" } else { ": " });
            line.push_str(&text);
        }
    }
    line
}

/// Writes a result to stdout; a reader that has gone away (`| head`) is no failure.
pub(super) fn write_stdout(
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let mut stdout = std::io::BufWriter::new(std::io::stdout().lock());
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// A bar on a terminal, nothing elsewhere.
pub(super) fn progress_bar(length: u64, unit: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = format!("{{msg}} {{wide_bar}} {{pos}}/{{len}} {unit}, {{eta}} left");
    let style =
        ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    BARS.add(ProgressBar::new(length).with_style(style))
}

/// Shows how a sync goes: a log line for each commit, and a bar on a terminal while it is far from the tip.
#[derive(Default)]
pub(super) struct SyncProgress {
    bar: Mutex<Option<ProgressBar>>,
    blocks: AtomicUsize,
}

impl SyncProgress {
    /// Fewer blocks than this are over before anybody has read a bar.
    const BLOCKS_FOR_A_BAR: u32 = 100;

    /// To be called after each commit.
    pub(super) fn report(&self, report: &BatchReport) {
        log_batch(report);
        let applied = &report.applied;
        let blocks = applied.connected.len();
        self.blocks.fetch_add(blocks, Ordering::Relaxed);
        let height = applied.tip.map_or(0, |tip| tip.height);
        let mut shown = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if height >= report.target {
            if let Some(bar) = shown.take() {
                bar.finish_and_clear();
            }
        } else if shown.is_some() || report.target - height >= Self::BLOCKS_FOR_A_BAR {
            let bar = shown.get_or_insert_with(|| {
                let bar = progress_bar(u64::from(report.target), "blocks");
                // The time left follows from what happens from here on.
                bar.set_position(u64::from(height));
                bar.reset_eta();
                bar
            });
            bar.set_length(u64::from(report.target));
            bar.set_position(u64::from(height));
            bar.set_message(format!("{}-bound", report.limit));
        }
    }

    /// Blocks connected so far.
    pub(super) fn blocks(&self) -> usize {
        self.blocks.load(Ordering::Relaxed)
    }
}

/// One log line per commit: where it stands, how fast it goes, how long it will take.
fn log_batch(report: &BatchReport) {
    let seconds = report.elapsed.as_secs_f64().max(1e-6);
    let applied = &report.applied;
    let (disconnected, connected) = (applied.disconnected.len(), applied.connected.len());
    let Some(tip) = applied.tip else {
        tracing::warn!(disconnected, "the index is empty again");
        return;
    };
    if disconnected > 0 {
        tracing::warn!(disconnected, connected, %tip, "reorg");
    }
    let left = report.target.saturating_sub(tip.height);
    let eta = Duration::from_secs_f64(f64::from(left) * seconds / (connected.max(1) as f64));
    tracing::info!(
        height = tip.height,
        target = report.target,
        blocks_per_s = format_args!("{:.1}", connected as f64 / seconds),
        tweaks_per_s = format_args!("{:.0}", report.tweaks as f64 / seconds),
        mb_per_s = format_args!("{:.1}", report.bytes as f64 / 1e6 / seconds),
        deriving = format_args!("{:.2}", report.deriving.as_secs_f64() / seconds),
        committing = format_args!("{:.2}", report.committing.as_secs_f64() / seconds),
        limit = %report.limit,
        eta_s = eta.as_secs(),
        "indexed"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_never_empty_by_mistake() {
        let shown = |text: &str| log_filter(text).unwrap().to_string();
        for (text, most) in [
            ("info", "info"),
            ("TRACE", "trace"),
            ("off", "off"),
            ("", "info"),
        ] {
            assert_eq!(shown(text), most);
        }
        for modules in ["spindex::index=debug", "spindex::index=debug,warn"] {
            let filter = shown(modules);
            assert!(filter.contains("spindex::index=debug"), "{filter}");
            let rest = if modules.contains("warn") {
                "warn"
            } else {
                "info"
            };
            assert!(filter.split(',').any(|part| part == rest), "{filter}");
        }
        for wrong in [
            "inof",
            "spindex",
            "info,inof",
            "spindex=inof",
            "spindex=",
            "=debug",
            "a[=debug",
        ] {
            let error = log_filter(wrong).unwrap_err();
            assert!(error.is::<super::super::config::UsageError>());
            assert!(error.to_string().contains("--log"), "{error}");
        }
    }

    #[test]
    fn an_error_is_one_line_that_repeats_nothing() {
        let disk = std::io::Error::other("no room\nleft");
        let quoting = anyhow::Error::new(disk).context("cannot write x (no room left)");
        assert_eq!(one_line(&quoting), "cannot write x (no room left)");
        let plain = anyhow::Error::new(std::io::Error::other("no room")).context("cannot write x");
        assert_eq!(one_line(&plain), "cannot write x: no room");
    }
}
