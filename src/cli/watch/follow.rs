//! `spindex watch follow`: the log, from where an earlier call ended.

use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bitcoin::hex::DisplayHex;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::asked::OneServer;
use crate::cli::config::ComputeSettings;
use crate::cli::server::block_on;
use crate::client::watching::FollowSettings;
use crate::private_file::{self, Locked, PrivateFileError};
use crate::runtime::Stop;
use crate::wire::native::{WatchEvent, WatchHappening};

#[derive(Args)]
pub(super) struct FollowArgs {
    #[command(flatten)]
    server: OneServer,
    /// File that keeps the cursor of the last event that was printed, and from which a later call goes on; it is made if it is not
    /// there. Without it the log is printed from --after on
    #[arg(long, value_name = "FILE")]
    cursor: Option<PathBuf>,
    /// Print the events behind this one; with a file, only when that is made
    #[arg(long, value_name = "CURSOR", default_value_t = 0)]
    after: u64,
    /// Only events of this watch
    #[arg(long, value_name = "NUMBER")]
    watch: Option<u64>,
    /// End with the log, instead of waiting for what comes
    #[arg(long)]
    once: bool,
    /// How long to wait between two looks at the server, in seconds; it tells of events, and is looked at then too
    #[arg(
        long,
        env = "SPINDEX_FOLLOW_INTERVAL",
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    follow_interval: u64,
    /// Print each event as a JSON object in a line
    #[arg(long)]
    json: bool,
}

pub(super) fn follow(args: FollowArgs) -> Result<()> {
    let server = args.server.connect()?;
    let mut kept = match &args.cursor {
        Some(path) => Some(Kept::open(
            path,
            &server.describe(),
            args.watch,
            args.after,
        )?),
        None => None,
    };
    let mut after = kept.as_ref().map_or(args.after, |kept| kept.content.cursor);
    let mut take = |events: &[WatchEvent], cursor: u64| -> Result<bool> {
        if !print(events, args.json)? {
            return Ok(false);
        }
        if let Some(kept) = &mut kept {
            kept.keep(cursor)?;
        }
        Ok(true)
    };
    block_on(&ComputeSettings::default(), async {
        let stop = Stop::new();
        stop.on_signal()?;
        if args.once {
            loop {
                let page = server.page_behind(after, args.watch).await?;
                let is_end = page.cursor >= page.last;
                after = page.cursor;
                if !take(&page.events, after)? || is_end {
                    return Ok(());
                }
            }
        }
        let settings = FollowSettings {
            watch: args.watch,
            interval: Duration::from_secs(args.follow_interval),
            ..FollowSettings::default()
        };
        let mut ended = Ok(());
        let following = server.follow(after, &settings, |events, cursor| {
            match take(&events, cursor) {
                Ok(true) => ControlFlow::Continue(()),
                Ok(false) => ControlFlow::Break(()),
                Err(error) => {
                    ended = Err(error);
                    ControlFlow::Break(())
                }
            }
        });
        // What is printed and kept is so whenever the stop comes.
        if let Some(followed) = stop.unless(following).await {
            followed?;
        }
        ended
    })
}

/// What stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    server: String,
    watch: Option<u64>,
    cursor: u64,
}

/// The cursor in its file.
struct Kept {
    path: PathBuf,
    content: Content,
}

impl Kept {
    /// Reads it, or makes it.
    ///
    /// # Errors
    /// A file that others can read, that is no such file, or of another server or watch.
    fn open(path: &Path, server: &str, watch: Option<u64>, after: u64) -> Result<Self> {
        let path = path.to_owned();
        let bytes = match private_file::read(&path) {
            Err(PrivateFileError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                let content = Content {
                    server: server.to_owned(),
                    watch,
                    cursor: after,
                };
                private_file::create(&path, &serde_json::to_vec(&content)?)?;
                return Ok(Self { path, content });
            }
            read => read?,
        };
        let content: Content = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no file with a cursor", path.display()))?;
        if content.server != server || content.watch != watch {
            let of = match content.watch {
                Some(watch) => format!("watch {watch} of {}", content.server),
                None => format!("all watches of {}", content.server),
            };
            bail!(
                "{} has the cursor of {of}: take another file",
                path.display()
            );
        }
        Ok(Self { path, content })
    }

    /// Notes that everything up to a cursor was printed.
    fn keep(&mut self, cursor: u64) -> Result<()> {
        if cursor == self.content.cursor {
            return Ok(());
        }
        self.content.cursor = cursor;
        let bytes = serde_json::to_vec(&self.content)?;
        Ok(Locked::wait_for(&self.path)?.replace(&bytes)?)
    }
}

/// Prints events, all of them before it returns; `false` once nobody reads any more.
fn print(events: &[WatchEvent], json: bool) -> Result<bool> {
    let mut text = String::new();
    for event in events {
        match json {
            true => text.push_str(&event.encode().map_err(anyhow::Error::msg)?),
            false => text.push_str(&line(event)),
        }
        text.push('\n');
    }
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => Ok(written.map(|()| true)?),
    }
}

fn line(event: &WatchEvent) -> String {
    let (cursor, watch, name) = (event.cursor, event.watch, event.what.name());
    let detail = match &event.what {
        WatchHappening::Confirmed(spend) => {
            let state = spend.state.map(|state| state.id.to_lower_hex_string());
            let state = state.unwrap_or_else(|| "no state id".to_owned());
            let next = spend
                .next_tip
                .map_or("none".to_owned(), |tip| tip.to_string());
            format!(
                "{} in block {}: {state}, next tip {next}",
                spend.spent, spend.block
            )
        }
        WatchHappening::Seen(spend) => format!("{} by {}", spend.spent, spend.txid),
        WatchHappening::Ended { of, .. }
        | WatchHappening::Deep { of, .. }
        | WatchHappening::Reorged { of }
        | WatchHappening::Replaced { of, .. }
        | WatchHappening::Evicted { of, .. }
        | WatchHappening::Conflict { of, .. } => format!("event {of}"),
    };
    let tag = event.tag.as_deref().unwrap_or_default();
    format!("{cursor}  watch {watch}  {name}  {detail}  {tag}")
}
