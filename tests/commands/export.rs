//! `spindex export`: the bytes of a server as files, of which only what is missing is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::exported::{FaultKind, Place, verify};
use spindex::index::derive_records;
use spindex::store::{BlockRecord, Keep, Store, StoreOptions, TweakForm, Update};
use tempfile::TempDir;

use super::python_decoder::{COLUMNS, FIRST_HEIGHT, SCENE, Scene, TIP, decode};
use super::support::served;
use super::support::spindex::{command, stderr, stdout};

/// A home with an index, and a folder to export to.
pub(crate) struct Home {
    pub(crate) home: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
        }
    }

    fn index(&self, options: &StoreOptions) -> Store {
        let folder = self.home.path().join(".spindex/regtest");
        fs::create_dir_all(&folder).unwrap();
        Store::open(&folder.join("index.redb"), options).unwrap()
    }

    /// Indexes the scene up to a height.
    pub(crate) fn fill(&self, tip: u32) {
        SCENE.fill(&self.index(&Scene::options()), tip);
    }

    /// Another index in the place of the one that is there.
    pub(crate) fn replace(&self, options: &StoreOptions, records: &[BlockRecord]) {
        let _ = fs::remove_file(self.home.path().join(".spindex/regtest/index.redb"));
        let update = Update {
            disconnect: 0,
            connect: records,
        };
        self.index(options).apply(update).unwrap();
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.home.path().join("out")
    }

    pub(crate) fn routes(&self) -> PathBuf {
        self.out().join("spindex/v1")
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.routes().join("manifest.json")
    }

    pub(crate) fn run(&self, out: &str, more: &[&str]) -> Output {
        command_of(self, out).args(more).output().unwrap()
    }

    /// What an export that works says.
    pub(crate) fn export(&self, more: &[&str]) -> Value {
        let out = self.out();
        let output = self.run(out.to_str().unwrap(), &[&["--json"], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_str(&stdout(&output)).unwrap()
    }

    /// What one that does not says.
    fn refusal(&self) -> String {
        let output = self.run(self.out().to_str().unwrap(), &[]);
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    }

    /// Bytes of all files by their names.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let root = self.routes();
        let mut files = BTreeMap::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&root).unwrap();
                    let name = name.to_str().unwrap().to_owned();
                    files.insert(name, fs::read(&path).unwrap());
                }
            }
        }
        files
    }

    pub(crate) async fn faults(&self) -> Vec<(String, FaultKind)> {
        let verified = verify(&Place::Folder(self.out())).await.unwrap();
        let faults = verified.faults.into_iter();
        faults.map(|fault| (fault.name, fault.kind)).collect()
    }
}

/// The command that exports to a place.
pub(crate) fn command_of(home: &Home, out: &str) -> Command {
    let args = [
        "export",
        "--network=regtest",
        "--undo-depth=100",
        "--out",
        out,
    ];
    command(home.home.path(), &args)
}

/// Numbers that do not depend on the file.
fn counts(report: &Value) -> [&Value; 4] {
    ["first_chunk", "last_chunk", "files_written", "files_kept"].map(|name| &report[name])
}

pub(crate) fn assert_same(found: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>) {
    let names = found.keys().chain(expected.keys());
    let differing: BTreeSet<&String> = names
        .filter(|name| found.get(*name) != expected.get(*name))
        .collect();
    assert!(differing.is_empty(), "{differing:?}");
}

/// The one list of an export.
fn list_of(files: &BTreeMap<String, Vec<u8>>) -> String {
    let mut lists = files.keys().filter(|name| name.starts_with("manifest/"));
    let list = lists.next().unwrap().clone();
    assert_eq!(lists.next(), None);
    list
}

#[tokio::test]
async fn files_are_what_a_server_answers_and_grow_with_the_chain() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let home = Home::new();
    home.fill(150);
    let report = home.export(&[]);
    assert_eq!(
        counts(&report),
        [&json!(null), &json!(null), &json!(0), &json!(0)]
    );
    home.fill(200);
    let report = home.export(&[]);
    assert_eq!(
        counts(&report),
        [&json!(0), &json!(0), &json!(7), &json!(0)]
    );
    assert_eq!(report["last_block"]["height"], 63);
    let place = |name: &str| fs::metadata(home.routes().join(name)).unwrap().ino();
    let first = COLUMNS.map(|column| place(&format!("chunk/0/{column}")));

    home.fill(TIP);
    let report = home.export(&[]);
    assert_eq!(
        counts(&report),
        [&json!(0), &json!(1), &json!(7), &json!(7)]
    );
    let same = COLUMNS.map(|column| place(&format!("chunk/0/{column}")));
    assert_eq!(same, first, "nothing was written twice");
    let expected = SCENE.expected(127);
    for (name, value) in [
        ("height", &expected["last"]),
        ("block_hash", &expected["last_block"]),
    ] {
        assert_eq!(&report["last_block"][name], value);
    }
    assert_eq!(report["head"], expected["head"]);

    let address = served::serve(&SCENE.chain, SCENE.index(), |router| router).await;
    let files = home.files();
    let mut bytes = 0;
    for chunk in 0..2 {
        for column in COLUMNS {
            let path = format!("chunk/{chunk}/{column}");
            let url = format!("http://{address}/spindex/v1/{path}");
            let answer = reqwest::get(url).await.unwrap();
            assert_eq!(answer.status(), 200);
            let answer = answer.bytes().await.unwrap();
            assert_eq!(files[&path], answer, "{path}");
            bytes += answer.len();
        }
    }
    // Both lists: the one before may be named by a manifest that somebody has just read.
    assert_eq!(files.len(), 14 + 2 + 1 + 1, "{:?}", files.keys());
    if let Some(found) = decode(&["folder", home.out().to_str().unwrap()]).await {
        assert_eq!(found, Ok(expected));
    }
    let verified = verify(&Place::Folder(home.out())).await.unwrap();
    assert_eq!(verified.faults, []);
    assert_eq!((verified.files, verified.bytes), (14, bytes as u64));

    let report = home.export(&["--verify"]);
    assert_eq!(
        counts(&report),
        [&json!(0), &json!(1), &json!(0), &json!(14)]
    );
    let again = home.files();
    assert_eq!(again.len(), files.len() - 1, "the older list has gone");
    assert!(again.iter().all(|(name, bytes)| files[name] == *bytes));
}

#[tokio::test]
async fn what_is_missing_short_or_broken_is_named_and_written_anew() {
    let home = Home::new();
    home.fill(TIP);
    home.export(&[]);
    let files = home.files();
    let list = list_of(&files);
    let path = |name: &str| home.routes().join(name);
    let flipped = |name: &str, at: usize| {
        let mut bytes = files[name].clone();
        bytes[at] ^= 1;
        fs::write(path(name), bytes).unwrap();
    };

    fs::remove_file(path("chunk/0/tweaks")).unwrap();
    fs::write(path("chunk/1/outputs"), &files["chunk/1/outputs"][..999]).unwrap();
    fs::write(path("chunk/1/spent"), &files["chunk/0/spent"]).unwrap();
    fs::write(path("manifest/9-0123456789abcdef.json"), "{}").unwrap();
    let last = SCENE.records[(63 - FIRST_HEIGHT) as usize].id.hash;
    let of = files["chunk/1/outputs"].len() as u64;
    assert_eq!(
        home.faults().await,
        [
            ("chunk/0/tweaks".to_owned(), FaultKind::Missing),
            (
                "chunk/1/outputs".to_owned(),
                FaultKind::Short { has: 999, of }
            ),
            ("chunk/1/spent".to_owned(), FaultKind::Stale { last }),
        ]
    );
    let report = home.export(&[]);
    assert_eq!(report["files_written"], 3);
    assert_same(&home.files(), &files);

    // With the length that it had, it has to be read.
    let broken = |fault: &(String, FaultKind)| matches!(fault.1, FaultKind::Broken(_));
    for (column, at) in [("headers", 61), ("spends", 1_000), ("new-utxos", 59)] {
        let name = format!("chunk/1/{column}");
        flipped(&name, at);
        let faults = home.faults().await;
        let [fault] = faults.as_slice() else {
            panic!("{name}: {faults:?}");
        };
        assert_eq!(fault.0, name);
        assert!(broken(fault) || column == "new-utxos", "{fault:?}");
        assert_eq!(home.export(&[])["files_written"], 0);
        assert_eq!(home.export(&["--verify"])["files_written"], 1);
        assert_same(&home.files(), &files);
    }

    // Without its list nothing is known of a chunk.
    for spoil in [fs::remove_file as fn(PathBuf) -> _, |path| {
        fs::write(path, "{}")
    }] {
        spoil(path(&list)).unwrap();
        assert_eq!(home.faults().await[0].0, list);
        assert_eq!(home.export(&[])["files_written"], 14);
        assert_same(&home.files(), &files);
        assert_eq!(home.faults().await, []);
    }
    fs::write(path("manifest.json"), "{}").unwrap();
    assert_eq!(home.faults().await[0].0, "manifest.json");
    let refusal = home.refusal();
    assert!(
        refusal.contains("manifest") && refusal.contains("remove it"),
        "{refusal}"
    );
}

/// The same chain in an index that was built later.
#[tokio::test]
async fn spends_whose_spenders_become_known_are_written_anew() {
    let home = Home::new();
    home.fill(TIP);
    home.export(&[]);
    let before = home.files();
    let blocks = SCENE.chain.active_blocks();
    let blocks = blocks[FIRST_HEIGHT as usize..].iter();
    let blocks: Vec<_> = blocks.map(|block| block.with_prevouts().unwrap()).collect();
    let records = derive_records(&LibSecp256k1, &blocks, TweakForm::Point);
    home.replace(&Scene::options(), &records);
    // What names spenders, and nothing else. In the first chunk nothing is spent.
    let report = home.export(&[]);
    assert_eq!(
        (&report["files_written"], &report["files_kept"]),
        (&json!(2), &json!(12))
    );
    let after = home.files();
    for column in COLUMNS {
        let name = format!("chunk/1/{column}");
        let has_grown = ["headers", "spends"].contains(&column);
        assert_eq!(before[&name] != after[&name], has_grown, "{name}");
    }
    assert_eq!(home.faults().await, []);
    if let Some(found) = decode(&["folder", home.out().to_str().unwrap()]).await {
        let found = found.unwrap();
        assert_eq!(found["unknown_spenders"], 0);
        assert_eq!(found["head"], SCENE.expected(127)["head"]);
    }
    assert_eq!(home.export(&[])["files_written"], 0);
}

#[test]
fn what_does_not_go_on_from_an_export_is_refused() {
    let home = Home::new();
    home.fill(TIP);
    home.export(&[]);
    let files = home.files();
    let refused = |texts: &[&str]| {
        let refusal = home.refusal();
        assert!(texts.iter().all(|text| refusal.contains(text)), "{refusal}");
        assert_same(&home.files(), &files);
    };
    home.replace(&Scene::options(), &SCENE.records[..100]);
    refused(&["up to height 127", "sync it first"]);

    let other = served::chain(15, TIP);
    let blocks = other.active_blocks();
    let blocks = blocks[FIRST_HEIGHT as usize..].iter();
    let blocks: Vec<_> = blocks.map(|block| block.with_prevouts().unwrap()).collect();
    let records = derive_records(&LibSecp256k1, &blocks, TweakForm::Point);
    home.replace(&Scene::options(), &records);
    refused(&[
        "127",
        "reorganised by more than 100 blocks",
        "another place or empty this one",
    ]);

    let tweaks = StoreOptions {
        keep: Some(Keep::Tweaks),
        ..Scene::options()
    };
    home.replace(&tweaks, &records);
    refused(&[
        "with all columns",
        "with some columns",
        "export to another place",
    ]);

    let lock = fs::File::open(home.routes().join(".lock")).unwrap();
    lock.lock().unwrap();
    refused(&["another export is writing"]);
    drop(lock);

    for place in ["ftp://host/path", "s3://", "s3:///path", "gs://user@bucket"] {
        let output = home.run(place, &[]);
        assert_eq!(output.status.code(), Some(2), "{place}");
    }
}

/// An index of tweaks has no other columns and no head.
#[tokio::test]
async fn an_index_of_tweaks_is_exported_too() {
    let home = Home::new();
    let tweaks = StoreOptions {
        keep: Some(Keep::Tweaks),
        ..Scene::options()
    };
    home.replace(&tweaks, &SCENE.records);
    let report = home.export(&[]);
    assert_eq!(
        counts(&report),
        [&json!(0), &json!(1), &json!(4), &json!(0)]
    );
    assert_eq!(report["head"], json!(null));
    let names: Vec<String> = home.files().into_keys().collect();
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with("chunk/"))
            .count(),
        4
    );
    assert_eq!(home.faults().await, []);
    assert!(Path::new(&home.routes().join("chunk/1/tweaks")).exists());
}
