//! `spindex watch add` and `import`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bitcoin::OutPoint;
use clap::Args;
use serde_json::json;

use super::asked::OneServer;
use crate::cli::config::{ComputeSettings, usage};
use crate::cli::output::write_stdout;
use crate::cli::server::block_on;
use crate::process::Rule;
use crate::wire::native::{Follow, REGISTRATIONS_MAX, Registered, Registration, TAG_BYTES_MAX};

/// Mistakes of a file that are named.
const MISTAKES_SHOWN: usize = 20;

/// Longest list that is read.
const LIST_BYTES: u64 = 1 << 30;

/// What is followed, the same for all that one call registers.
#[derive(Args)]
pub(super) struct How {
    /// Watch the outpoint alone, until it is spent, and not the process of which it is a tip
    #[arg(long, conflicts_with_all = ["state_id", "output"])]
    single: bool,
    /// Which state id of a spender counts, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    state_id: u32,
    /// Which output of a spender is the next tip
    #[arg(long, value_name = "VOUT", default_value_t = 0)]
    output: u32,
    /// Height of the block that created the outpoints: then their spends are found also where they carry no state id
    #[arg(long, value_name = "HEIGHT")]
    created: Option<u32>,
    /// After how many confirmations a spend is called deep; 0 for never
    #[arg(long, value_name = "N", default_value_t = 0)]
    confirmations: u32,
}

impl How {
    fn registration(&self, outpoint: OutPoint, tag: String) -> Registration {
        Registration {
            outpoint,
            follow: match self.single {
                true => Follow::Outpoint,
                false => Follow::Process(Rule {
                    state: self.state_id,
                    carry: self.output,
                }),
            },
            created: self.created,
            confirmations: self.confirmations,
            tag,
        }
    }
}

#[derive(Args)]
pub(super) struct AddArgs {
    #[command(flatten)]
    server: OneServer,
    /// What to watch (may be repeated)
    #[arg(value_name = "TXID:VOUT", required = true)]
    outpoint: Vec<OutPoint>,
    /// A name of your own for it, which each of its events has
    #[arg(long, value_name = "TEXT", default_value = "")]
    tag: String,
    #[command(flatten)]
    how: How,
    /// Print a JSON object a line for each
    #[arg(long)]
    json: bool,
}

pub(super) fn add(args: AddArgs) -> Result<()> {
    if args.tag.len() > TAG_BYTES_MAX {
        let bytes = args.tag.len();
        return Err(usage!(
            "the tag has {bytes} bytes: {TAG_BYTES_MAX} are allowed"
        ));
    }
    let outpoints = args.outpoint.iter();
    let all: Vec<Registration> = outpoints
        .map(|outpoint| args.how.registration(*outpoint, args.tag.clone()))
        .collect();
    register(&args.server, &all, args.json)
}

#[derive(Args)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    server: OneServer,
    /// File with TXID:VOUT and, behind a space, a tag if wanted, one a line; `#` begins a comment. `-` is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    how: How,
    /// Print a JSON object a line for each
    #[arg(long)]
    json: bool,
}

pub(super) fn import(args: ImportArgs) -> Result<()> {
    let text = read(&args.file)?;
    let all = lines(&text, &args.how)?;
    register(&args.server, &all, args.json)
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let cannot = || format!("cannot read {}", path.display());
    let read = match path == Path::new("-") {
        true => std::io::stdin()
            .lock()
            .take(LIST_BYTES)
            .read_to_string(&mut text),
        false => {
            let file = std::fs::File::open(path).with_context(cannot)?;
            file.take(LIST_BYTES).read_to_string(&mut text)
        }
    };
    match read.with_context(cannot)? as u64 {
        LIST_BYTES => bail!("{}: more than {LIST_BYTES} bytes", path.display()),
        _ => Ok(text),
    }
}

/// What stands in a list; each line that cannot be understood is named by its number.
fn lines(text: &str, how: &How) -> Result<Vec<Registration>> {
    let mut all = Vec::new();
    let (mut mistakes, mut more) = (Vec::new(), 0);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (outpoint, tag) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let tag = tag.trim();
        let mistake = match outpoint.parse() {
            Ok(_) if tag.len() > TAG_BYTES_MAX => {
                format!(
                    "the tag has {} bytes: {TAG_BYTES_MAX} are allowed",
                    tag.len()
                )
            }
            Ok(outpoint) => {
                all.push(how.registration(outpoint, tag.to_owned()));
                continue;
            }
            Err(error) => format!("no outpoint: {error}"),
        };
        match mistakes.len() {
            0..MISTAKES_SHOWN => mistakes.push(format!("line {number}: {mistake}")),
            _ => more += 1,
        }
    }
    if mistakes.is_empty() {
        return Ok(all);
    }
    let more = match more {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    bail!("nothing was registered: {}{more}", mistakes.join("; "))
}

/// Registers all in batches, and prints what became of each batch once the server has it.
fn register(server: &OneServer, all: &[Registration], json: bool) -> Result<()> {
    let (server, mut done) = (server.connect()?, 0);
    block_on(&ComputeSettings::default(), async {
        for batch in all.chunks(REGISTRATIONS_MAX) {
            let registered = server.register(batch).await.with_context(|| match done {
                0 => "nothing was registered".to_owned(),
                done => format!(
                    "{done} of {} were registered; the same command registers the rest",
                    all.len()
                ),
            })?;
            done += batch.len();
            write_stdout(|out| {
                let mut both = batch.iter().zip(&registered);
                both.try_for_each(|(asked, registered)| print(out, asked, registered, json))
            })?;
        }
        Ok(())
    })
}

fn print(
    out: &mut dyn Write,
    asked: &Registration,
    registered: &Registered,
    json: bool,
) -> std::io::Result<()> {
    let (outpoint, tag) = (&asked.outpoint, &asked.tag);
    let Registered { watch, is_new } = registered;
    if json {
        let line = json!({"outpoint": outpoint, "tag": tag, "watch": watch, "new": is_new});
        return writeln!(out, "{line}");
    }
    let word = if *is_new { "new" } else { "known" };
    writeln!(out, "{watch}  {outpoint}  {word}  {tag}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how() -> How {
        How {
            single: false,
            state_id: 1,
            output: 2,
            created: None,
            confirmations: 6,
        }
    }

    #[test]
    fn a_list_is_read_as_a_whole_or_not_at_all() {
        let one = format!("{}:7", "ab".repeat(32));
        let text = format!("# tips\n\n {one}\n{one} a name, with spaces \r\n{one}\t#1\n");
        let all = lines(&text, &how()).unwrap();
        let tags: Vec<&str> = all.iter().map(|one| one.tag.as_str()).collect();
        assert_eq!(tags, ["", "a name, with spaces", "#1"]);
        assert!(all.iter().all(|read| read.outpoint.to_string() == one));
        assert_eq!(all[0].follow, Follow::Process(Rule { state: 1, carry: 2 }));
        assert_eq!(all[0].confirmations, 6);

        let long = "x".repeat(TAG_BYTES_MAX + 1);
        let text = format!("{one}\nhello\n{one} {long}\n{}", "no\n".repeat(30));
        let error = lines(&text, &how()).unwrap_err().to_string();
        for part in ["line 2: no outpoint", "line 3: the tag", "and 12 more"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("line 1:"), "{error}");
    }
}
