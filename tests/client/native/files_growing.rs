//! Files that become more while they are read, and scans that are broken off.

use std::sync::Arc;

use bitcoin::Network;
use spindex::client::{LightSettings, NativeOracle, Progress, State};
use spindex::wire::native::column::Column;
use spindex::wire::native::manifest::{MANIFEST, chunk_file};
use tokio::sync::Notify;

use super::files::{END, Exported, behind, client, scan, settings};
use crate::reorgs::scene::{FIRST, state};
use crate::support::log::Log;

#[tokio::test]
async fn a_reader_goes_on_with_what_is_exported_meanwhile() {
    let exported = Exported::new(1120).await;
    let (scene, files) = (&exported.scene, &exported.files);
    let oracle = exported.folder();
    let mut reader = client(&oracle, None, Vec::new(), state(), settings());
    let first = reader.run(&mut |_| ()).await.unwrap();
    assert_eq!(first, exported.truth(END).await);
    // What it has read of the manifest names lists that are not there any more.
    let before = files.manifest();
    for _ in 0..2 {
        scene.chain.mine(64);
        scene.sync().await;
        files.export(&scene.store, 0).await;
    }
    let after = files.manifest();
    assert!(
        !files
            .path()
            .join("spindex/v1")
            .join(before.lists[0].file())
            .exists()
    );
    let end = after.last_block.height;
    assert!(end > END + 64);
    let whole = reader.run(&mut |_| ()).await.unwrap();
    assert_eq!(whole, exported.truth(end).await);
    assert!(whole.found.len() >= first.found.len());

    // A range that began with the manifest before, and asks for a list that only the one after it names.
    let stale = Arc::new(NativeOracle::files(files.place(), Network::Regtest));
    stale.info().await.unwrap();
    scene.chain.mine(64);
    scene.sync().await;
    files.export(&scene.store, 0).await;
    scene.chain.mine(64);
    scene.sync().await;
    files.export(&scene.store, 0).await;
    let hash = stale.block_hash(END).await.unwrap();
    assert_eq!(hash, exported.live.block_hash(END).await.unwrap());
    assert!(hash.is_some());
}

#[tokio::test]
async fn a_manifest_that_is_older_than_the_last_one_is_named_and_not_followed() {
    let exported = Exported::new(1121).await;
    let (scene, files) = (&exported.scene, &exported.files);
    let older = files.read(MANIFEST);
    scene.chain.mine(64);
    scene.sync().await;
    files.export(&scene.store, 0).await;
    let end = files.manifest().last_block.height;
    let server = files.serve().await;
    let oracle = behind(&server);
    assert_eq!(oracle.info().await.unwrap().tip.height, end);
    files.write(MANIFEST, &older);
    let log = Log::catch();
    assert_eq!(oracle.info().await.unwrap().tip.height, end);
    let said = log.lines("is an older one");
    assert!(said.len() == 1 && said[0].contains(MANIFEST), "{said:?}");
    let report = scan(&oracle, None, settings()).await.unwrap();
    assert_eq!(report, exported.truth(end).await);
    // To somebody who has seen no other it is what there is, and with a server behind it nothing is missed.
    let oracle = behind(&server);
    assert_eq!(oracle.info().await.unwrap().tip.height, END);
    let together = Arc::new(oracle.before(exported.live.clone()));
    let report = scan(&together, None, settings()).await.unwrap();
    assert_eq!(report, exported.truth(exported.tip()).await);
}

/// `headers` and `spends` that have learned who spent what are newer than the list that names them, until it is written.
#[tokio::test]
async fn files_that_have_grown_are_taken_before_their_list_says_so() {
    let exported = Exported::new(1122).await;
    let files = &exported.files;
    let truth = exported.truth(END).await;
    let private = LightSettings {
        private: true,
        ..settings()
    };
    // As if what is listed had been shorter.
    for column in [Column::Headers, Column::Spends] {
        files.list_instead(1, column, b"as it was", |manifest| {
            manifest.spenders_from = Some(130);
        });
    }
    let report = scan(&exported.folder(), None, private.clone()).await;
    assert_eq!(report.unwrap(), truth);
    // What no list says they are still has to be what the headers bind, and these what the head does.
    for (column, byte) in [
        (Column::Spends, None),
        (Column::Headers, Some(60 + 4 * 64 + 100)),
    ] {
        let name = chunk_file(1, column);
        let was = files.read(&name);
        let mut bytes = was.clone();
        let at = byte.unwrap_or(bytes.len() - 1);
        bytes[at] ^= 1;
        files.write(&name, &bytes);
        let error = scan(&exported.folder(), None, private.clone()).await;
        let text = error.unwrap_err().to_string();
        assert!(text.contains("/chunk/1/"), "{column}: {text}");
        files.write(&name, &was);
    }
    // Other columns are what is listed, or nothing.
    files.list_instead(1, Column::Tweaks, b"as it was", |_| ());
    let error = scan(&exported.folder(), None, private).await.unwrap_err();
    assert!(error.to_string().contains("chunk/1/tweaks"), "{error}");
}

#[tokio::test]
async fn a_scan_that_is_broken_off_goes_on_from_its_last_window() {
    let exported = Exported::new(1123).await;
    let truth = exported.truth(END).await;
    let server = exported.files.serve().await;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("state.redb");
    let open = || State::open(&path, state().identity()).unwrap();
    let small = LightSettings {
        window_blocks: 1,
        ..settings()
    };
    server.stall_at(&chunk_file(2, Column::Tweaks));
    let oracle = behind(&server);
    let mut cut = client(&oracle, None, Vec::new(), open(), small.clone());
    let stored = Notify::new();
    let mut progress = |progress: Progress| {
        if progress.done.is_some_and(|done| done > FIRST) {
            stored.notify_one();
        }
    };
    tokio::select! {
        report = cut.run(&mut progress) => panic!("{report:?}"),
        ((), ()) = async { tokio::join!(server.stalled(), stored.notified()) } => {}
    }
    drop(cut);
    let oracle = behind(&server);
    let mut again = client(&oracle, None, Vec::new(), open(), small);
    let mut first = None;
    let mut progress = |progress: Progress| first = first.or(Some(progress.first));
    assert_eq!(again.run(&mut progress).await.unwrap(), truth);
    assert!(first > Some(FIRST), "{first:?}");
}
