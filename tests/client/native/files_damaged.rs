//! Files that are not what they should be: each is named, and with somebody behind them the report stays what it is.

use std::sync::Arc;

use bitcoin::Network;
use spindex::client::{LightSettings, NativeOracle, ScanReport};
use spindex::wire::native::column::{Column, PartHead};
use spindex::wire::native::manifest::{MANIFEST, chunk_file};

use super::files::{END, Exported, behind, http, scan, settings};
use crate::support::files::Files;
use crate::support::log::Log;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Damage {
    Flipped,
    Cut,
    Longer,
    Empty,
    Missing,
    /// Of other blocks.
    Stale,
    /// Of another network.
    OtherNetwork,
}

const DAMAGES: [Damage; 7] = [
    Damage::Flipped,
    Damage::Cut,
    Damage::Longer,
    Damage::Empty,
    Damage::Missing,
    Damage::Stale,
    Damage::OtherNetwork,
];

impl Damage {
    /// What becomes of a file; `None` if it is to go.
    fn to(self, files: &Files, name: &str) -> Option<Vec<u8>> {
        let mut bytes = files.read(name);
        match self {
            Self::Flipped => {
                let at = bytes.len() / 2;
                bytes[at] ^= 1;
            }
            Self::Cut => bytes.truncate(bytes.len() - 1),
            Self::Longer => bytes.push(0),
            Self::Empty => bytes.clear(),
            Self::Missing => return None,
            Self::Stale => bytes = files.read(&name.replace("chunk/1", "chunk/2")),
            Self::OtherNetwork => bytes[8..12].copy_from_slice(&[0x0a, 3, 0xcf, 0x40]),
        }
        Some(bytes)
    }
}

/// All that is said of blocks, with everything that a match needs.
fn private() -> LightSettings {
    LightSettings {
        private: true,
        ..settings()
    }
}

/// Scans the files with a server behind them; what is logged of a file.
async fn with_somebody_behind(
    files: &Arc<NativeOracle>,
    live: &Arc<NativeOracle>,
    settings: LightSettings,
    file: &str,
) -> (ScanReport, Vec<String>) {
    let log = Log::catch();
    let together = Arc::new(files.before(live.clone()));
    let report = scan(&together, None, settings).await.unwrap();
    (report, log.lines(file))
}

#[tokio::test]
async fn every_kind_of_damage_to_every_file_is_named_and_mended_by_who_is_behind() {
    let exported = Exported::new(1110).await;
    let (files, live) = (&exported.files, &exported.live);
    let truth = exported.truth(END).await;
    let whole = exported.truth(exported.tip()).await;
    let mut names: Vec<String> = Column::ALL
        .iter()
        .map(|column| chunk_file(1, *column))
        .collect();
    names.push(MANIFEST.to_owned());
    names.push(files.manifest().lists[0].file());
    let server = files.serve().await;
    for name in &names {
        for damage in DAMAGES {
            let is_part = name.starts_with("chunk");
            if !is_part && matches!(damage, Damage::Stale | Damage::OtherNetwork) {
                continue;
            }
            let was = files.read(name);
            match damage.to(files, name) {
                Some(bytes) => files.write(name, &bytes),
                None => files.remove(name),
            }
            // The folder and the server by turns.
            let oracle = || match damage {
                Damage::Flipped | Damage::Missing | Damage::Longer => exported.folder(),
                _ => behind(&server),
            };
            let alone = scan(&oracle(), None, private()).await;
            // A manifest that is longer by a byte that ends no JSON, and new-utxos, which no scan asks for.
            let is_asked_for = !name.ends_with("new-utxos");
            match (&alone, is_asked_for) {
                (Err(error), true) => {
                    let text = error.to_string();
                    let is_named = text.contains(name.as_str());
                    // Nobody knows that there are to be files where their manifest is not.
                    let is_unknown = name == MANIFEST && text.contains("/spindex/v1/");
                    assert!(is_named || is_unknown, "{name} {damage:?}: {text}");
                }
                (Ok(report), false) => assert_eq!(*report, truth),
                other => panic!("{name} {damage:?}: {other:?}"),
            }
            let (report, said) =
                with_somebody_behind(&exported.folder(), live, private(), name).await;
            assert_eq!(report, whole, "{name} {damage:?}");
            assert_eq!(
                said.is_empty(),
                !is_asked_for,
                "{name} {damage:?}: {said:?}"
            );
            let is_whole = said.iter().all(|line| line.contains(&live.describe()));
            assert!(is_whole, "{name} {damage:?}: {said:?}");
            files.write(name, &was);
        }
    }
    assert_eq!(
        scan(&exported.folder(), None, private()).await.unwrap(),
        truth
    );
}

#[tokio::test]
async fn a_file_that_a_match_needs_is_mended_by_who_is_behind() {
    let exported = Exported::new(1111).await;
    let (files, live) = (&exported.files, &exported.live);
    let truth = exported.truth(END).await;
    for (column, chunk) in [(Column::Outputs, 1), (Column::Spends, 2)] {
        let name = chunk_file(chunk, column);
        let was = files.read(&name);
        files.write(&name, &was[..was.len() / 2]);
        let error = scan(&exported.folder(), None, settings()).await;
        let text = error.unwrap_err().to_string();
        assert!(text.contains(&name) && text.contains(" of "), "{text}");
        let (report, said) =
            with_somebody_behind(&exported.folder(), live, settings(), &name).await;
        assert_eq!(report, exported.truth(exported.tip()).await);
        assert_eq!(said.len(), 1, "{said:?}");
        // As files that follow-ups are asked of, with other files behind, which go away later.
        let other = Files::of(&exported.scene.store, 0).await;
        let follow_ups = || {
            let other = NativeOracle::files(other.place(), Network::Regtest);
            Arc::new(exported.folder().before(Arc::new(other)))
        };
        let to_end = LightSettings {
            to: Some(END),
            ..settings()
        };
        let report = scan(live, Some(&follow_ups()), to_end.clone()).await;
        assert_eq!(report.unwrap().found, truth.found);
        other.remove(MANIFEST);
        let error = scan(live, Some(&follow_ups()), to_end).await;
        let text = error.unwrap_err().to_string();
        assert!(text.contains("manifest.json is missing"), "{text}");
        files.write(&name, &was);
    }
}

/// Somebody changes a file and lists it as if it were right.
#[tokio::test]
async fn what_contradicts_itself_is_named_though_it_is_listed() {
    let exported = Exported::new(1112).await;
    let (files, live) = (&exported.files, &exported.live);
    let whole = exported.truth(exported.tip()).await;
    let headers = PartHead::BYTES + 4 * 64;
    let of_block = |block: usize, field: usize| headers + 288 * block + field;
    for (column, at, named) in [
        (Column::Tweaks, None, Column::Tweaks),
        (Column::Prefixes, None, Column::Prefixes),
        (Column::Outputs, None, Column::Outputs),
        (Column::Spent, None, Column::Spent),
        (Column::Spends, None, Column::Spends),
        // That it is a selection; its heights, network, column, last block.
        (Column::Headers, Some(6), Column::Headers),
        (Column::Tweaks, Some(12), Column::Tweaks),
        (Column::Spent, Some(8), Column::Spent),
        (Column::Prefixes, Some(5), Column::Prefixes),
        (Column::Headers, Some(28), Column::Headers),
        // A length that moves bytes from one section to the next.
        (Column::Outputs, Some(PartHead::BYTES), Column::Outputs),
        // The parent of the first block, the merkle root of the third, the numbers of tweaks, outputs and spends of the
        // fortieth, the hashes of its tweaks and of its new-utxos.
        (Column::Headers, Some(of_block(0, 4)), Column::Headers),
        (Column::Headers, Some(of_block(2, 40)), Column::Headers),
        (Column::Headers, Some(of_block(39, 80)), Column::Tweaks),
        (Column::Headers, Some(of_block(39, 84)), Column::Prefixes),
        (Column::Headers, Some(of_block(39, 88)), Column::Spent),
        (Column::Headers, Some(of_block(39, 96)), Column::Tweaks),
        (
            Column::Headers,
            Some(of_block(39, 96 + 4 * 32)),
            Column::Headers,
        ),
    ] {
        let name = chunk_file(1, column);
        let was = files.read(&name);
        let mut bytes = was.clone();
        let at = at.unwrap_or(bytes.len() - 1);
        bytes[at] ^= 1;
        files.lie(1, column, &bytes);
        let named = chunk_file(1, named);
        let text = scan(&exported.folder(), None, private()).await.unwrap_err();
        assert!(
            text.to_string().contains(&named),
            "{name}, byte {at}: {text}"
        );
        let (report, said) =
            with_somebody_behind(&exported.folder(), live, private(), &named).await;
        assert_eq!(report, whole, "{name}, byte {at}");
        assert!(!said.is_empty(), "{name}, byte {at}");
        files.lie(1, column, &was);
    }
    assert_eq!(
        scan(&exported.folder(), None, private()).await.unwrap(),
        exported.truth(END).await
    );
}

/// Whatever is wrong with a manifest, it is seen, or does not matter.
#[tokio::test]
async fn no_bit_of_a_manifest_that_matters_can_be_another_one() {
    let runs = match std::env::var("SPINDEX_MANIFEST_BITS") {
        Ok(runs) => runs.parse().unwrap(),
        Err(_) => 40,
    };
    let exported = Exported::new(1113).await;
    let files = &exported.files;
    let truth = exported.truth(END).await;
    let whole = exported.truth(exported.tip()).await;
    let was = files.read(MANIFEST);
    let mut seen = 0;
    for run in 0..runs {
        let mut bytes = was.clone();
        let bit = run * 8 * bytes.len() / runs + run % 8;
        bytes[bit / 8] ^= 1 << (bit % 8);
        files.write(MANIFEST, &bytes);
        match scan(&exported.folder(), None, settings()).await {
            Ok(report) => assert_eq!(report, truth, "bit {bit}"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("spindex/v1/"), "bit {bit}: {text}");
                seen += 1;
            }
        }
        let together = Arc::new(exported.folder().before(exported.live.clone()));
        let report = scan(&together, None, settings()).await.unwrap();
        assert_eq!(report, whole, "bit {bit}");
    }
    assert!(seen > runs / 2, "{seen} of {runs}");
}

#[tokio::test]
async fn a_server_of_files_that_is_away_is_an_error_or_somebody_elses_turn() {
    let exported = Exported::new(1114).await;
    let url = {
        let server = exported.files.serve().await;
        let oracle = behind(&server);
        scan(&oracle, None, settings()).await.unwrap();
        server.url
    };
    // Nobody listens there.
    let away = NativeOracle::at(http("http://127.0.0.1:1"), Network::Regtest);
    let error = scan(&Arc::new(away), None, settings()).await.unwrap_err();
    assert!(error.to_string().contains("http://127.0.0.1:1"), "{error}");
    // In the middle of a scan.
    let server = exported.files.serve().await;
    server.fail_from(&chunk_file(2, Column::Tweaks));
    let error = scan(&behind(&server), None, settings()).await.unwrap_err();
    assert!(error.to_string().contains("502"), "{error}");
    let server = exported.files.serve().await;
    server.fail_from(&chunk_file(2, Column::Tweaks));
    let live = &exported.live;
    let (report, said) = with_somebody_behind(&behind(&server), live, settings(), "502").await;
    assert_eq!(report, exported.truth(exported.tip()).await);
    assert!(!said.is_empty());
    // No files below that address, nor a server of the native protocol.
    let deeper = NativeOracle::at(http(&format!("{url}/deeper")), Network::Regtest);
    let error = scan(&Arc::new(deeper), None, settings()).await.unwrap_err();
    assert!(error.to_string().contains("/deeper/"), "{error}");
}
