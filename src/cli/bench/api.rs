//! `spindex bench api`: requests a second of the version 1 routes, and of chunks, over loopback, beside nginx with the same bytes in files.

mod cores;
mod load;
mod nginx;
mod subject;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::super::config::whole;
use super::super::engine::engine;
use super::super::output::{progress_bar, write_stdout};
use super::{cpu_name, median};
use crate::curve::EngineKind;
use crate::wire::native::column::CHUNK_BLOCKS;
use cores::Cores;
use load::{Load, Measured};
use nginx::Nginx;
use subject::Server;

/// What is asked for, `{}` for the number.
#[derive(Debug, Clone, Copy)]
struct Route {
    template: &'static str,
    /// The number is that of a chunk, and the answer is not compressed; else it is a height.
    is_of_chunk: bool,
}

impl Route {
    const fn of_block(template: &'static str) -> Self {
        Self {
            template,
            is_of_chunk: false,
        }
    }

    const fn of_chunk(template: &'static str) -> Self {
        Self {
            template,
            is_of_chunk: true,
        }
    }

    fn path(self, number: u32) -> String {
        self.template.replace("{}", &number.to_string())
    }

    /// The number that `hot` is asked for, about a height of an index of so many blocks; `None` where it has no whole chunk.
    fn number(self, height: u32, blocks: u32) -> Option<u32> {
        match self.is_of_chunk {
            true => whole_chunks(blocks)
                .checked_sub(1)
                .map(|last| last.min(height / CHUNK_BLOCKS)),
            false => Some(height),
        }
    }

    /// The numbers that `cold` is asked for.
    fn numbers(self, blocks: u32) -> Range<u32> {
        match self.is_of_chunk {
            true => 0..whole_chunks(blocks),
            false => 1..blocks + 1,
        }
    }
}

/// Chunks of an index with blocks 1 to `blocks`.
const fn whole_chunks(blocks: u32) -> u32 {
    (blocks + 1) / CHUNK_BLOCKS
}

/// Routes that are measured.
const ROUTES: [Route; 7] = [
    Route::of_block("/tweaks/{}"),
    Route::of_block("/tweak-index/{}"),
    Route::of_block("/utxos/{}"),
    Route::of_block("/filter/new-utxos/{}"),
    Route::of_chunk("/spindex/v1/chunk/{}/tweaks"),
    Route::of_chunk("/spindex/v1/chunk/{}/prefixes"),
    Route::of_chunk("/spindex/v1/chunk/{}/outputs"),
];

#[derive(Args)]
pub(super) struct ApiBenchArgs {
    /// Rounds; medians over them are reported
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Length of one measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Connections that ask at the same time, from one thread
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = whole(1, 700))]
    connections: usize,
    /// Blocks of the index that is made up
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    blocks: u32,
    /// Eligible transactions of each block
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    transactions: u32,
    /// Threads that serve, here and in nginx
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(1, 256))]
    serving_threads: usize,
    /// Only routes with this in their path, such as /chunk/
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Write the index to this folder and leave it there, for another server
    #[arg(long, value_name = "DIR")]
    index: Option<PathBuf>,
    /// Another server over the same index, such as an older version of this one, to be measured beside
    #[arg(long, value_name = "URL", requires = "index")]
    beside: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A route of a server, and what it gave.
#[derive(Debug, Serialize)]
struct Row {
    /// `hot`: one block, asked for again and again. `cold`: another block each time, and nothing kept. `nginx`, `beside`: the
    /// block of `hot`.
    server: &'static str,
    route: &'static str,
    gzip: bool,
    body_bytes: usize,
    requests_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    /// Requests a second as a share of nginx's in the same rounds, where there is one.
    of_nginx: Option<f64>,
    /// The same, of the server beside.
    of_beside: Option<f64>,
}

/// Who is asked, and for which heights.
struct Subject {
    name: &'static str,
    address: String,
    is_cold: bool,
}

pub(super) fn bench_api(args: ApiBenchArgs) -> Result<()> {
    let engine = engine(EngineKind::Auto)?;
    let index = subject::index(args.index.as_deref(), args.blocks, args.transactions)?;
    let cores = Cores::split(args.serving_threads);
    let serving = cores.as_ref().map(|cores| cores.serving.as_slice());
    let start = |kept| {
        Server::start(
            &index,
            Arc::clone(&engine),
            args.serving_threads,
            serving,
            kept,
        )
    };
    let (hot, cold) = (start(None)?, start(Some(0))?);
    let mut subjects = vec![
        Subject {
            name: "hot",
            address: hot.address(),
            is_cold: false,
        },
        Subject {
            name: "cold",
            address: cold.address(),
            is_cold: true,
        },
    ];
    let height = args.blocks / 2 + 1;
    let nginx = Nginx::start(
        &hot.address(),
        ROUTES
            .iter()
            .filter_map(|route| Some(route.path(route.number(height, args.blocks)?))),
        args.serving_threads,
        serving,
    )?;
    if let Some(nginx) = &nginx {
        subjects.push(Subject {
            name: "nginx",
            address: nginx.address(),
            is_cold: false,
        });
    }
    if let Some(url) = &args.beside {
        subjects.push(Subject {
            name: "beside",
            address: load::address_of(url)?,
            is_cold: false,
        });
    }
    // All servers run by now, on their own.
    if let Some(cores) = &cores {
        cores::pin(&cores.asking);
    }
    let rows = measure(&args, &subjects, height)?;
    print(&args, cores.as_ref(), nginx.is_some(), &rows)
}

/// Every route of every subject in turn, round after round, after one round that does not count.
fn measure(args: &ApiBenchArgs, subjects: &[Subject], height: u32) -> Result<Vec<Row>> {
    let mut kinds = Vec::new();
    let asked = |route: &Route| route.template.contains(&args.only);
    for route in ROUTES.into_iter().filter(asked) {
        if let Some(number) = route.number(height, args.blocks) {
            kinds.push((route, number, false));
            if !route.is_of_chunk {
                kinds.push((route, number, true));
            }
        }
    }
    let mut rows = Vec::new();
    let bar = progress_bar(
        u64::from(args.rounds + 1) * (kinds.len() * subjects.len()) as u64,
        "measurements",
    );
    for (route, number, gzip) in kinds {
        let mut measured: Vec<Vec<Measured>> = subjects.iter().map(|_| Vec::new()).collect();
        for round in 0..=args.rounds {
            for (subject, measured) in subjects.iter().zip(&mut measured) {
                let numbers = match subject.is_cold {
                    true => route.numbers(args.blocks),
                    false => number..number + 1,
                };
                let load = Load {
                    address: subject.address.clone(),
                    paths: numbers.map(|number| route.path(number)).collect(),
                    is_gzip: gzip,
                    connections: args.connections,
                    seconds: args.seconds,
                };
                let result = load
                    .run()
                    .with_context(|| format!("{} of {}", route.template, subject.name))?;
                if round > 0 {
                    measured.push(result);
                }
                bar.inc(1);
            }
        }
        let rate = |name: &str| {
            let position = subjects.iter().position(|subject| subject.name == name)?;
            let measured = measured.get(position)?.iter();
            Some(measured.map(|one| one.requests_per_s).collect::<Vec<f64>>())
        };
        for (subject, measured) in subjects.iter().zip(&measured) {
            let share_of = |name: &str| {
                let others = rate(name)?.into_iter();
                let shares = measured.iter().zip(others);
                Some(median(
                    shares
                        .map(|(own, other)| own.requests_per_s / other)
                        .collect(),
                ))
            };
            let of = |value: fn(&Measured) -> f64| median(measured.iter().map(value).collect());
            rows.push(Row {
                server: subject.name,
                route: route.template,
                gzip,
                body_bytes: measured.first().map_or(0, |one| one.body_bytes),
                requests_per_s: of(|one| one.requests_per_s),
                p50_us: of(|one| one.p50_us),
                p99_us: of(|one| one.p99_us),
                of_nginx: share_of("nginx"),
                of_beside: share_of("beside"),
            });
        }
    }
    bar.finish_and_clear();
    Ok(rows)
}

fn print(args: &ApiBenchArgs, cores: Option<&Cores>, has_nginx: bool, rows: &[Row]) -> Result<()> {
    let cpu = cpu_name();
    write_stdout(|out| {
        if args.json {
            let report = serde_json::json!({
                "job": "api",
                "cpu": cpu,
                "rounds": args.rounds,
                "connections": args.connections,
                "serving_threads": args.serving_threads,
                "serving_cores": cores.map(|cores| &cores.serving),
                "transactions": args.transactions,
                "rows": rows,
            });
            return writeln!(out, "{report}");
        }
        writeln!(
            out,
            "api on {cpu}, {} connections, {} serving threads{}, blocks of {} transactions, medians of {} rounds",
            args.connections,
            args.serving_threads,
            match cores {
                Some(_) => " on cores of their own",
                None => "",
            },
            args.transactions,
            args.rounds
        )?;
        writeln!(
            out,
            "{:<29} {:<5} {:<7} {:>10} {:>11} {:>8} {:>8}  {:>8} {:>9}",
            "route",
            "gzip",
            "server",
            "bytes",
            "requests/s",
            "p50 µs",
            "p99 µs",
            "of nginx",
            "of beside"
        )?;
        let share = |share: Option<f64>| {
            share.map_or_else(|| "-".to_owned(), |share| format!("{share:.2}"))
        };
        for row in rows {
            writeln!(
                out,
                "{:<29} {:<5} {:<7} {:>10} {:>11.0} {:>8.0} {:>8.0}  {:>8} {:>9}",
                row.route,
                if row.gzip { "gzip" } else { "plain" },
                row.server,
                row.body_bytes,
                row.requests_per_s,
                row.p50_us,
                row.p99_us,
                share(row.of_nginx),
                share(row.of_beside)
            )?;
        }
        writeln!(
            out,
            "hot: one block or chunk again and again; cold: another one each time, nothing kept; nginx: the answers of hot as files,\n\
             compressed before{}",
            if has_nginx {
                ""
            } else {
                " (it is not installed here)"
            }
        )
    })
}
