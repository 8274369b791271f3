//! `spindex scan` and `spindex sync` over exported files: in a folder, with and without somebody behind them, broken off.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use serde_json::Value;
use spindex::chain::made::simulated::SimulatedChain;
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::index::{IndexSettings, Indexer};
use spindex::runtime::Stop;
use spindex::store::{FILE_NAME, Store};
use spindex::wire::native::column::Column;
use spindex::wire::native::manifest::{MANIFEST, Manifest, chunk_file};

use super::export::Home;
use super::export_kills::{CHUNKS, blocks};
use super::python_decoder::{FIRST_HEIGHT, Scene};
use crate::scan::{fails, scan, scan_command};
use crate::support::files::Files;
use crate::support::index::{content, content_of_file, memory_store};
use crate::support::served::{chain, index, serve};
use crate::support::spindex::{command, run, stderr, stdout};

/// Of the chain, and of its files.
const TIP: u32 = 230;
const END: u32 = 191;

/// An index, a server over it, and its files.
pub(crate) struct Source {
    pub(crate) chain: Arc<SimulatedChain>,
    pub(crate) store: Arc<Store>,
    pub(crate) files: Files,
    pub(crate) url: String,
}

impl Source {
    pub(crate) async fn new(seed: u64) -> Self {
        let chain = chain(seed, TIP);
        let store = index(&chain, 0).await;
        let files = Files::of(&store, 0).await;
        assert_eq!(files.manifest().last_block.height, END);
        let address = serve(&chain, store.clone(), |router| router).await;
        Self {
            chain,
            store,
            files,
            url: format!("http://{address}"),
        }
    }

    pub(crate) fn folder(&self) -> &str {
        self.files.path().to_str().unwrap()
    }

    /// What a scan of the server finds up to a height.
    pub(crate) async fn truth(&self, to: u32) -> Value {
        let home = tempfile::tempdir().unwrap();
        let to = format!("--to={to}");
        let output = scan(home.path(), &self.url, true, &["--json", "--from=0", &to]).await;
        found(&stdout(&output))
    }
}

/// What a scan has found, and up to where.
pub(crate) fn found(document: &str) -> Value {
    let document: Value = serde_json::from_str(document).unwrap();
    let found = document["found"].as_array().unwrap();
    assert!(found.len() > 10, "too few payments");
    serde_json::json!({
        "found": found,
        "head": document["head"],
        "scanned_to": document["scanned_to"],
    })
}

/// The content of an index of the chain's blocks up to a height.
pub(crate) async fn content_up_to(chain: &Arc<SimulatedChain>, height: u32) -> [u8; 32] {
    let store = memory_store();
    let indexer = Indexer::new(
        store.clone(),
        chain.clone(),
        Arc::new(LibSecp256k1),
        IndexSettings::default(),
        Stop::new(),
        |_| (),
    );
    indexer.sync(Some(height)).await.unwrap();
    content(&store)
}

/// The arguments that build an index from these.
pub(crate) fn sync_from(upstreams: &[&str]) -> Vec<String> {
    let common = ["sync", "--network=regtest", "--first-height=0", "--wait=0"];
    let mut args: Vec<String> = common.map(str::to_owned).to_vec();
    args.push("--source=spindex".to_owned());
    args.extend(upstreams.iter().map(|from| format!("--upstream={from}")));
    args
}

pub(crate) fn content_in(home: &Path) -> [u8; 32] {
    content_of_file(&home.join(".spindex/regtest").join(FILE_NAME))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_files_is_an_oracle() {
    let source = Source::new(30).await;
    let (to_end, to_tip) = (source.truth(END).await, source.truth(TIP).await);
    let file_url = format!("file://{}", source.folder());
    let live = format!("--oracle={}", source.url);
    let ends = ["exported files up to block", "where the scan ends"];
    let goes_on = ["exported files up to block", "is taken from", &source.url];
    for (oracle, more, expected, said) in [
        (source.folder(), &[][..], &to_end, &ends[..]),
        (&file_url, &["--private"], &to_end, &ends),
        (source.folder(), &[&live[..]], &to_tip, &goes_on),
        (
            source.folder(),
            &[&live[..], "--private"],
            &to_tip,
            &goes_on,
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let more = [&["--json", "--from=0"], more].concat();
        let output = scan(home.path(), oracle, true, &more).await;
        let log = stderr(&output);
        assert!(output.status.success(), "{log}");
        assert_eq!(found(&stdout(&output)), *expected, "{more:?}");
        for part in said {
            assert!(log.contains(part), "no {part:?} in {log}");
        }
    }
    // As those that are asked for what matches need.
    let fetch_from = ["--json", "--from=0", "--fetch-from", source.folder()];
    let home = tempfile::tempdir().unwrap();
    let to = [&fetch_from[..], &["--to=191"]].concat();
    let output = scan(home.path(), &source.url, true, &to).await;
    assert_eq!(found(&stdout(&output)), to_end, "{}", stderr(&output));
    let home = tempfile::tempdir().unwrap();
    let output = scan(home.path(), &source.url, true, &fetch_from).await;
    fails(&output, 1, &["has blocks 0 to 191", source.folder()]);
    let more = [&fetch_from[..], &["--fetch-from", &source.url]].concat();
    let output = scan(home.path(), &source.url, true, &more).await;
    assert_eq!(found(&stdout(&output)), to_tip, "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_ends_a_scan_unless_somebody_else_has_it() {
    let source = Source::new(31).await;
    let to_tip = source.truth(TIP).await;
    let live = format!("--oracle={}", source.url);
    let other = Files::of(&source.store, 0).await;
    let other = format!("--oracle={}", other.path().to_str().unwrap());
    for name in [
        chunk_file(1, Column::Prefixes),
        chunk_file(2, Column::Headers),
        chunk_file(1, Column::Outputs),
        source.files.manifest().lists[0].file(),
        MANIFEST.to_owned(),
    ] {
        let was = source.files.read(&name);
        source.files.write(&name, &was[..was.len() - 7]);
        let home = tempfile::tempdir().unwrap();
        let output = scan(home.path(), source.folder(), true, &["--from=0"]).await;
        fails(&output, 1, &[&name, "spindex export --verify"]);
        // The one in the middle is not there any more.
        for behind in [&[&live[..]][..], &[&other, &live]] {
            let home = tempfile::tempdir().unwrap();
            let more = [&["--json", "--from=0"], behind].concat();
            let output = scan(home.path(), source.folder(), true, &more).await;
            let log = stderr(&output);
            assert!(output.status.success(), "{log}");
            assert_eq!(found(&stdout(&output)), to_tip);
            assert!(log.contains("WARN") && log.contains(&name), "{log}");
        }
        source.files.write(&name, &was);
    }
    // An address without anything is left out if there are others, and one without a manifest is of that kind.
    let server = source.files.serve().await;
    source.files.remove(MANIFEST);
    let home = tempfile::tempdir().unwrap();
    let more = ["--json", "--from=0", &live];
    let output = scan(home.path(), &server.url, true, &more).await;
    let log = stderr(&output);
    assert_eq!(found(&stdout(&output)), to_tip, "{log}");
    assert!(log.contains("manifest.json is missing"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_files_cannot_do_is_said() {
    let source = Source::new(32).await;
    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().to_str().unwrap();
    let shadowed = ["--fetch-from", &source.url, "--fetch-from", source.folder()];
    let proxied = ["--oracle=s3://bucket", "--proxy=socks5://127.0.0.1:1"];
    for (oracle, more, status, why) in [
        (source.folder(), &["--dialect=v1"][..], 1, "--dialect v1"),
        (
            source.folder(),
            &["--ask-spenders"],
            1,
            "name a server behind",
        ),
        (empty, &[], 1, "manifest.json is missing"),
        ("nowhere", &[], 2, "a folder of exported files"),
        (&source.url, &shadowed, 2, "--fetch-from"),
        (source.folder(), &proxied, 2, "--proxy"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let output = scan(home.path(), oracle, true, more).await;
        fails(&output, status, &[why]);
    }
    let home = tempfile::tempdir().unwrap();
    for (upstreams, status, why) in [
        (
            &[&source.url[..], source.folder()][..],
            1,
            "name these first",
        ),
        (&[empty], 1, "manifest.json is missing"),
        (&["nowhere"], 2, "--upstream"),
    ] {
        let args = sync_from(upstreams);
        let path = home.path().to_owned();
        let output = tokio::task::spawn_blocking(move || run(&path, &args)).await;
        fails(&output.unwrap(), status, &[why]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_killed_in_the_middle_goes_on() {
    let source = Source::new(33).await;
    let server = source.files.serve().await;
    let home = tempfile::tempdir().unwrap();
    for column in [Column::Tweaks, Column::Outputs] {
        server.stall_at(&chunk_file(2, column));
        let mut command = scan_command(home.path(), &server.url, true, &["--from=0"]);
        let mut killed = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        server.stalled().await;
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
    let output = scan(home.path(), &server.url, true, &["--json"]).await;
    assert_eq!(
        found(&stdout(&output)),
        source.truth(END).await,
        "{}",
        stderr(&output)
    );

    for column in [Column::Headers, Column::NewUtxos] {
        server.stall_at(&chunk_file(2, column));
        let mut command = command(home.path(), &sync_from(&[&server.url]));
        let mut killed = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        server.stalled().await;
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
    let (path, args) = (home.path().to_owned(), sync_from(&[&server.url]));
    let output = tokio::task::spawn_blocking(move || run(&path, &args))
        .await
        .unwrap();
    let log = stderr(&output);
    assert!(output.status.success(), "{log}");
    assert!(
        log.contains("the head over all columns is that of the upstream"),
        "{log}"
    );
    assert_eq!(
        content_in(home.path()),
        content_up_to(&source.chain, END).await
    );
    // Then it follows the server.
    let (path, args) = (
        home.path().to_owned(),
        sync_from(&[source.folder(), &source.url]),
    );
    let output = tokio::task::spawn_blocking(move || run(&path, &args))
        .await
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(content_in(home.path()), content(&source.store));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_several_lists_are_one_chain() {
    let home = Home::new();
    home.replace(&Scene::options(), &blocks());
    home.export(&[]);
    let folder = home.out();
    let folder = folder.to_str().unwrap();
    let end = CHUNKS * 64 - 1;
    let manifest = Manifest::decode(&std::fs::read(home.manifest()).unwrap()).unwrap();
    assert_eq!((manifest.lists.len(), manifest.last_block.height), (2, end));
    let of_scan = tempfile::tempdir().unwrap();
    let output = scan(of_scan.path(), folder, true, &["--json"]).await;
    let log = stderr(&output);
    assert!(output.status.success(), "{log}");
    let document: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        (&document["from"], &document["scanned_to"]),
        (&FIRST_HEIGHT.into(), &end.into())
    );
    let of_sync = tempfile::tempdir().unwrap();
    let mut args = sync_from(&[folder]);
    args[2] = format!("--first-height={FIRST_HEIGHT}");
    let (path, of_list) = (of_sync.path().to_owned(), args.clone());
    let output = tokio::task::spawn_blocking(move || run(&path, &args))
        .await
        .unwrap();
    let log = stderr(&output);
    assert!(output.status.success(), "{log}");
    let block = manifest.last_block.to_string();
    let same = log
        .lines()
        .find(|line| line.contains("the head over all columns is that of"));
    assert!(same.is_some_and(|line| line.contains(&block)), "{log}");

    // Of a list that is missing nothing below it is: what it would have named is not there.
    let second = manifest.lists[1].file();
    std::fs::remove_file(home.routes().join(&second)).unwrap();
    let output = scan(of_scan.path(), folder, true, &["--rescan"]).await;
    fails(&output, 1, &[&second]);
    let to = format!("--to={}", 64 * 64 - 1);
    let again = tempfile::tempdir().unwrap();
    let output = scan(again.path(), folder, true, &[&to]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let other = tempfile::tempdir().unwrap();
    let path = other.path().to_owned();
    let output = tokio::task::spawn_blocking(move || run(&path, &of_list)).await;
    fails(&output.unwrap(), 1, &[&second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_another_chain_are_a_disagreement() {
    let (source, other) = (Source::new(34).await, Source::new(35).await);
    let live = format!("--oracle={}", source.url);
    let home = tempfile::tempdir().unwrap();
    let output = scan(home.path(), other.folder(), true, &[&live]).await;
    fails(
        &output,
        1,
        &["disagree from block 1 on", &source.url, other.folder()],
    );
    let home = tempfile::tempdir().unwrap();
    let more = [
        "--json",
        "--from=0",
        &live,
        &live,
        "--on-disagreement=majority",
    ];
    let output = scan(home.path(), other.folder(), true, &more).await;
    assert_eq!(
        found(&stdout(&output)),
        source.truth(TIP).await,
        "{}",
        stderr(&output)
    );
    // Of the majority, files are the first here; the others are not asked for what they lack.
    let name = chunk_file(1, Column::Tweaks);
    source.files.remove(&name);
    let other = format!("--oracle={}", other.folder());
    let more = [
        "--json",
        "--from=0",
        &other,
        &live,
        "--on-disagreement=majority",
    ];
    let home = tempfile::tempdir().unwrap();
    let output = scan(home.path(), source.folder(), true, &more).await;
    let log = stderr(&output);
    assert_eq!(found(&stdout(&output)), source.truth(TIP).await, "{log}");
    let mended = log.lines().find(|line| line.contains(&name)).unwrap();
    assert!(mended.contains(&source.url), "{log}");
}
