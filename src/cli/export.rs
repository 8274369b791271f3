//! `spindex export`: the index as files, for servers of files.

use std::time::Instant;

use anyhow::Result;
use bitcoin::hex::DisplayHex;
use clap::Args;
use serde::Serialize;

use super::config::{self, CommonSettings, ServerSettings, usage, whole};
use super::output::{progress_bar, write_stdout};
use super::server::{block_on, open_store};
use crate::export::{ExportSettings, Exported, export as export_to};
use crate::exported::{Place, PlaceError};
use crate::store::Store;

#[derive(Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    common: CommonSettings,
    #[command(flatten)]
    server: ServerSettings,
    /// Where to write: a folder, or s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH, with credentials from the
    /// environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, ...)
    #[arg(long, env = "SPINDEX_OUT", value_name = "PLACE")]
    out: String,
    /// Read what is there already too, and write anew what is not as it was written
    #[arg(long)]
    verify: bool,
    /// Chunks of 64 blocks that are made and written at a time
    #[arg(
        long,
        env = "SPINDEX_CHUNKS_IN_FLIGHT",
        value_name = "N",
        default_value_t = 8,
        value_parser = whole(1, 1_000)
    )]
    chunks_in_flight: usize,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct BlockReport {
    height: u32,
    block_hash: String,
}

#[derive(Serialize)]
struct Report {
    out: String,
    network: &'static str,
    first_chunk: Option<u32>,
    last_chunk: Option<u32>,
    last_block: Option<BlockReport>,
    head: Option<String>,
    files_written: u64,
    bytes_written: u64,
    files_kept: u64,
    seconds: f64,
}

pub(super) fn export(args: ExportArgs) -> Result<()> {
    let ExportArgs {
        common,
        server,
        out,
        verify,
        chunks_in_flight,
        json,
    } = args;
    let (common, server) = config::complete(common, server)?;
    let place = Place::named(&out).map_err(|error| match error {
        PlaceError::Address(text) => usage!("{text}"),
        error => error.into(),
    })?;
    block_on(&common.compute, async {
        let store = open_store(&common, &server, Store::open_existing)?;
        let begun = Instant::now();
        let settings = ExportSettings {
            horizon: store.horizon(),
            verify,
            in_flight: chunks_in_flight,
        };
        let bar = progress_bar(0, "chunks");
        let snapshot = store.snapshot()?;
        let exported = export_to(&snapshot, &place, settings, |done, of| {
            bar.set_length(of);
            bar.set_position(done);
        });
        let exported = exported.await;
        bar.finish_and_clear();
        let seconds = begun.elapsed().as_secs_f64();
        print(
            &place,
            common.network().to_core_arg(),
            exported?,
            seconds,
            json,
        )
    })
}

fn print(
    place: &Place,
    network: &'static str,
    exported: Exported,
    seconds: f64,
    json: bool,
) -> Result<()> {
    let Exported {
        chunks,
        last_block,
        head,
        files,
        bytes,
        kept,
    } = exported;
    if json {
        let report = Report {
            out: place.to_string(),
            network,
            first_chunk: chunks.map(|(first, _)| first),
            last_chunk: chunks.map(|(_, last)| last),
            last_block: last_block.map(|block| BlockReport {
                height: block.height,
                block_hash: block.hash.to_string(),
            }),
            head: head.map(|head| head.to_lower_hex_string()),
            files_written: files,
            bytes_written: bytes,
            files_kept: kept,
            seconds,
        };
        return write_stdout(|out| {
            serde_json::to_writer(&mut *out, &report)?;
            writeln!(out)
        });
    }
    write_stdout(|out| match (chunks, last_block) {
        (Some((first, last)), Some(block)) => {
            writeln!(
                out,
                "{place}: chunks {first} to {last}, up to block {block}"
            )?;
            writeln!(
                out,
                "{files} files with {bytes} bytes written in {seconds:.1} s, {kept} files were there"
            )
        }
        _ => writeln!(
            out,
            "nothing to export yet: no chunk of 64 blocks lies deeper than a reorganisation may reach"
        ),
    })
}
