//! Slack in the index file is given back whenever there is much of it, and a stop or a kill meanwhile changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::TableDefinition;
use spindex::chain::files::{FilesSettings, FilesSource};
use spindex::chain::made::generated::{ChainLength, ChainParameters, Target, generate};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::{FILE_NAME, Store};
use tempfile::TempDir;

use super::place::tamper;
use crate::support::index::{Contents, options};
use crate::support::spindex::{Spindex, command, run, stderr};

const BLOCKS: u32 = 200;

/// A chain in block files, and an index of it in a file with much slack.
struct Scene {
    home: TempDir,
    expected: Contents,
}

impl Scene {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let target = Target {
            directory: home.path().join("blocks"),
            xor: false,
            most_file_bytes: None,
        };
        let parameters = ChainParameters {
            seed: 1,
            transactions_per_block: 300,
            eligible: 0.9,
            ..ChainParameters::MAINNET
        };
        let length = ChainLength {
            blocks: Some(BLOCKS),
            outputs: None,
        };
        generate(&parameters, length, &target, &LibSecp256k1, |_| ()).unwrap();
        let slack = home.path().join("slack.redb");
        drop(Store::open(&slack, &options()).unwrap());
        tamper(&slack, |write| {
            let mut table = write.open_table(DUMMY).unwrap();
            for key in 0..8_192 {
                table.insert(key, [1; 4_000].as_slice()).unwrap();
            }
        });
        let settings = FilesSettings::new(target.directory, bitcoin::Network::Regtest);
        let indexer = Indexer::new(
            Arc::new(Store::open(&slack, &options()).unwrap()),
            Arc::new(FilesSource::new(settings)),
            Arc::new(LibSecp256k1),
            IndexSettings {
                batch_bytes: 1 << 20,
                ..IndexSettings::default()
            },
            Stop::new(),
            |_| (),
        );
        indexer.sync(None).await.unwrap();
        drop(indexer);
        // The index lies behind what is free now.
        tamper(&slack, |write| {
            assert!(write.delete_table(DUMMY).unwrap());
        });
        let scene = Self {
            expected: Contents::of_file(&slack),
            home,
        };
        fs::create_dir_all(scene.file().parent().unwrap()).unwrap();
        scene.restore();
        scene
    }

    fn file(&self) -> PathBuf {
        self.home.path().join(".spindex/regtest").join(FILE_NAME)
    }

    fn restore(&self) {
        fs::copy(self.home.path().join("slack.redb"), self.file()).unwrap();
    }

    fn arguments(&self) -> [String; 6] {
        [
            "sync".to_owned(),
            "--network=regtest".to_owned(),
            "--first-height=0".to_owned(),
            "--source=files".to_owned(),
            format!("--blocks-dir={}", self.home.path().join("blocks").display()),
            "--engine=libsecp256k1".to_owned(),
        ]
    }

    /// Syncs to the end; the log.
    fn sync(&self) -> String {
        let output = run(self.home.path(), &self.arguments());
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    }
}

/// Takes 32 MiB of the file until it is deleted.
const DUMMY: TableDefinition<'static, u32, &[u8]> = TableDefinition::new("dummy");

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn slack_that_was_left_is_given_back_once() {
    let scene = Scene::new().await;
    let before = len(&scene.file());
    // Nothing is to be indexed.
    let log = scene.sync();
    assert!(log.contains("compacted the index"), "{log}");
    let after = len(&scene.file());
    assert!(after < before, "{before} {after}");
    let store = Store::open_existing(&scene.file(), &options()).unwrap();
    let (slack, space) = (store.slack().unwrap(), store.space().unwrap());
    println!("{before} {after} {slack:?} {space:?}");
    // What is estimated without reading is near to what is counted.
    let needed = slack.disk_bytes - slack.slack_bytes;
    let counted = space.allocated_bytes();
    assert!(
        needed.abs_diff(counted) < counted / 20,
        "{needed} {counted}"
    );
    drop(store);
    assert_eq!(Contents::of_file(&scene.file()), scene.expected);
    let log = scene.sync();
    assert!(!log.contains("compact"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_that_was_interrupted_is_made_up_for() {
    let scene = Scene::new().await;
    for is_asked in [false, true, false, true] {
        scene.restore();
        let mut sync = Spindex::start(command(scene.home.path(), &scene.arguments()));
        sync.wait_for(&["compacting the index"]);
        if is_asked {
            let (status, log) = sync.terminate();
            assert!(status.code().is_some(), "{status} {log:?}");
        } else {
            sync.kill();
        }
        let copy = scene.home.path().join("copy.redb");
        fs::copy(scene.file(), &copy).unwrap();
        assert_eq!(Contents::of_file(&copy), scene.expected);
        // Unless it had come to its end.
        scene.sync();
        let log = scene.sync();
        assert!(!log.contains("compact"), "{log}");
        assert_eq!(Contents::of_file(&scene.file()), scene.expected);
    }
}
