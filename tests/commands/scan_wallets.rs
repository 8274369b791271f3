//! `spindex scan` for several wallets: what names them, where their states are, what is said of each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::SystemTime;

use secp256k1::rand::rngs::StdRng;
use secp256k1::rand::{Rng, SeedableRng};
use serde_json::Value;
use spindex::bip352::address::Address;
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use tempfile::TempDir;

use crate::scan::{fails, scan, scan_command};
use crate::support::index::fresh_store;
use crate::support::random_seed;
use crate::support::served::serve;
use crate::support::spindex::{Spindex, run, stderr, stdout};

const BLOCKS: u32 = 130;

/// A folder with wallet files, and a server of a chain that pays them.
struct Scene {
    home: TempDir,
    wallets: Vec<PathBuf>,
    addresses: Vec<Address>,
    chain: Arc<SimulatedChain>,
    url: String,
}

impl Scene {
    async fn new(wallets: usize) -> Self {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("wallets");
        fs::create_dir(&folder).unwrap();
        let wallets: Vec<PathBuf> = (0..wallets)
            .map(|number| folder.join(format!("{number:02}.wallet")))
            .collect();
        let addresses: Vec<Address> = wallets
            .iter()
            .map(|path| {
                let new = run(home.path(), &["wallet", "new", path.to_str().unwrap()]);
                assert!(new.status.success(), "{}", stderr(&new));
                let shown = stdout(&new);
                let address = shown.strip_prefix("address  ").unwrap();
                address.trim().parse().unwrap()
            })
            .collect();
        let chain = SimulatedChain::new(SimulationSettings {
            seed: 11,
            recipients: addresses.clone(),
            payment_percent: 40,
            ..SimulationSettings::default()
        });
        chain.mine(BLOCKS);
        let chain = Arc::new(chain);
        let store = fresh_store(chain.clone()).await;
        let url = format!("http://{}", serve(&chain, store, |router| router).await);
        Self {
            home,
            wallets,
            addresses,
            chain,
            url,
        }
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("wallets")
    }

    fn path(&self, number: usize) -> &str {
        self.wallets[number].to_str().unwrap()
    }

    /// What the chain pays a wallet: outpoints and values.
    fn paid(&self, number: usize) -> BTreeMap<String, u64> {
        let paid = self.chain.paid_outputs().into_iter();
        let own = paid.filter(|paid| {
            paid.address.scan_pubkey == self.addresses[number].scan_pubkey && paid.block.is_some()
        });
        own.map(|paid| (paid.outpoint.to_string(), paid.value_sat))
            .collect()
    }

    async fn scan(&self, more: &[&str]) -> Output {
        scan(self.home.path(), &self.url, false, more).await
    }

    #[track_caller]
    fn assert_paid(&self, number: usize, report: &Value) {
        let found = report["found"].as_array().unwrap().iter();
        let found: BTreeMap<String, u64> = found
            .map(|found| {
                let outpoint = found["outpoint"].as_str().unwrap().to_owned();
                (outpoint, found["value_sat"].as_u64().unwrap())
            })
            .collect();
        assert_eq!(found, self.paid(number), "wallet {number}");
        assert_eq!(report["scanned_to"], BLOCKS);
    }

    /// Nothing printed or logged has a key of a wallet in it.
    #[track_caller]
    fn assert_keeps_secrets(&self, output: &Output) {
        for path in &self.wallets {
            let text = fs::read_to_string(path).unwrap();
            let key = text.lines().find_map(|line| line.strip_prefix("key = \""));
            let key = key.unwrap().trim_end_matches('"');
            assert!(!stdout(output).contains(key) && !stderr(output).contains(key));
        }
    }
}

fn document(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn wallets_are_named_one_by_one_or_by_their_folder() {
    let scene = Scene::new(3).await;
    let [a, b, c] = [0, 1, 2].map(|number| scene.path(number).to_owned());
    let folder = scene.folder();
    let folder = folder.to_str().unwrap();
    // One alone, as ever.
    let states = scene.home.path().join("one by one");
    let state = format!("--state={}", states.join("0").to_str().unwrap());
    let output = scene
        .scan(&["--wallet", &a, "--json", "--from=1", &state])
        .await;
    let single = document(&output);
    scene.assert_paid(0, &single);
    assert_eq!(single.get("wallet"), None);

    for (more, expected) in [
        (&["--wallet", &a, "--wallet", &c][..], &[0, 2][..]),
        (&["--wallet", folder], &[0, 1, 2]),
        (
            &["--wallet", folder, "--dialect=v1", "--rescan"],
            &[0, 1, 2],
        ),
    ] {
        let all = [&["--json", "--from=1"], more].concat();
        let output = scene.scan(&all).await;
        scene.assert_keeps_secrets(&output);
        let document = document(&output);
        let reports = document["wallets"].as_array().unwrap();
        assert_eq!(reports.len(), expected.len());
        for (number, report) in expected.iter().zip(reports) {
            scene.assert_paid(*number, report);
            assert_eq!(report["wallet"], scene.path(*number));
        }
        // But for its name, and who spent what, which version 1 tells, a report is that of a scan for one.
        if !more.contains(&"--dialect=v1") {
            let mut first = reports[0].clone();
            first.as_object_mut().unwrap().remove("wallet");
            assert_eq!(first, single);
        }
    }

    // For people a heading each.
    let output = scene.scan(&["--wallet", &b, "--wallet", &c]).await;
    let text = stdout(&output);
    let headings: Vec<&str> = text.lines().filter(|l| l.starts_with('/')).collect();
    assert_eq!(headings, [&b, &c]);
    assert_eq!(text.matches("scanned 1 to 130 (regtest)").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_of_what_is_new_names_its_wallet() {
    let scene = Scene::new(2).await;
    let folder = scene.folder();
    let folder = folder.to_str().unwrap();
    let outpoint = scene.paid(0).into_keys().next().unwrap();
    let more = [
        "--wallet",
        folder,
        "--changes",
        "--from=1",
        "--outpoint",
        &outpoint,
    ];
    let output = scene.scan(&[&more[..], &["--json"]].concat()).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for number in [0, 1] {
        let own = events.iter().filter(|e| e["wallet"] == scene.path(number));
        let found = own.clone().filter(|event| event["event"] == "found");
        let found: BTreeSet<&str> = found.map(|e| e["outpoint"].as_str().unwrap()).collect();
        let paid = scene.paid(number);
        assert_eq!(found, paid.keys().map(String::as_str).collect());
        assert_eq!(own.filter(|event| event["to"] == BLOCKS).count(), 1);
    }
    // What is watched beside them has a state of its own.
    let watched = events.iter().filter(|e| e["wallet"] == "outpoints");
    assert_eq!(watched.filter(|event| event["to"] == BLOCKS).count(), 1);
    let output = scene.scan(&more).await;
    assert_eq!(stdout(&output), "", "{}", stderr(&output));
    let output = scene.scan(&["--outpoint", &outpoint, "--json"]).await;
    assert_eq!(document(&output)["watched"][0]["outpoint"], outpoint);
    let unwatch = [
        "--wallet",
        folder,
        "--unwatch",
        &outpoint,
        "--watched",
        "--json",
    ];
    let document = document(&scene.scan(&unwatch).await);
    assert_eq!(document["wallets"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_wallet_or_one_named_twice_ends_the_scan_before_it_begins() {
    let scene = Scene::new(2).await;
    let home = scene.home.path();
    let folder = scene.folder();
    let (a, folder_text) = (
        scene.path(0).to_owned(),
        folder.to_str().unwrap().to_owned(),
    );
    let refused = |output: Output, status, parts: &[&str]| {
        fails(&output, status, parts);
        scene.assert_keeps_secrets(&output);
        assert!(!has_state(home), "a state was made");
    };

    // Left alone, and named.
    fs::create_dir(folder.join("old")).unwrap();
    fs::write(folder.join(".hidden"), "").unwrap();
    let junk = [folder.join("notes.txt"), folder.join("zz.wallet")];
    private(&junk[0], "buy milk");
    let text = fs::read_to_string(&a).unwrap();
    private(&junk[1], &text[..text.len() / 2]);
    let output = scene.scan(&["--wallet", &folder_text]).await;
    let names = junk.each_ref().map(|path| path.to_str().unwrap());
    refused(
        output,
        1,
        &[names[0], names[1], "old is not looked into", "one by one"],
    );
    for path in &junk {
        fs::remove_file(path).unwrap();
    }

    let copy = home.join("copy.wallet");
    fs::copy(&a, &copy).unwrap();
    let copy = copy.to_str().unwrap();
    let output = scene
        .scan(&["--wallet", &folder_text, "--wallet", copy])
        .await;
    refused(output, 1, &[&a, copy, "are one wallet"]);
    let output = scene.scan(&["--wallet", &a, "--wallet", &a]).await;
    refused(output, 1, &["are one wallet"]);

    let signet = home.join("signet.wallet");
    let signet = signet.to_str().unwrap();
    run(home, &["wallet", "new", signet, "--network=signet"]);
    let output = scene.scan(&["--wallet", &a, "--wallet", signet]).await;
    refused(output, 1, &[signet, "is for signet, not for regtest"]);
    let output = run(home, &["scan", "--wallet", &a, "--wallet", signet]);
    refused(
        output,
        1,
        &[&a, "is for regtest, and", signet, "for signet"],
    );

    let empty = home.join("empty");
    fs::create_dir(&empty).unwrap();
    let output = scene.scan(&["--wallet", empty.to_str().unwrap()]).await;
    refused(
        output,
        1,
        &["no wallet file in the folder", "spindex wallet new"],
    );

    let open = folder.join("open.wallet");
    fs::write(&open, &text).unwrap();
    let output = scene.scan(&["--wallet", &folder_text]).await;
    refused(output, 1, &["open.wallet", "spindex wallet protect"]);
    fs::remove_file(&open).unwrap();

    let file = home.join("a file");
    fs::write(&file, "").unwrap();
    let state = format!("--state={}", file.to_str().unwrap());
    let output = scene.scan(&["--wallet", &folder_text, &state]).await;
    refused(output, 2, &["--state", "a file", "folder"]);

    // A broken state of one keeps the others from beginning, and is named.
    let states = home.join("states");
    let state = format!("--state={}", states.to_str().unwrap());
    let all = ["--wallet", &folder_text, "--from=1", &state];
    assert!(
        scene
            .scan(&[&all[..], &["--to=50"]].concat())
            .await
            .status
            .success()
    );
    let mut files: Vec<PathBuf> = fs::read_dir(&states)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let last = files.pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    fs::write(&last, vec![7; bytes.len()]).unwrap();
    let output = scene.scan(&all).await;
    fails(&output, 1, &[last.to_str().unwrap()]);
    fs::write(&last, bytes).unwrap();
    for number in [0, 1] {
        let alone = ["--wallet", scene.path(number), "--to=10", "--json", &state];
        let report = document(&scene.scan(&alone).await);
        assert_eq!(report["scanned_to"], 50, "{number}");
    }
    let output = scene.scan(&[&all[..], &["--json"]].concat()).await;
    let document = document(&output);
    for (number, report) in document["wallets"].as_array().unwrap().iter().enumerate() {
        scene.assert_paid(number, report);
    }
}

/// Writes a file that is its owner's alone.
fn private(path: &Path, content: impl AsRef<[u8]>) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Whether there is a state file below a folder.
fn has_state(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return false;
    };
    entries
        .map(|entry| entry.unwrap().path())
        .any(|path| path.extension().is_some_and(|of| of == "redb") || has_state(&path))
}

/// A scan that is killed while it commits: some states have the window, others do not.
#[tokio::test(flavor = "multi_thread")]
async fn a_scan_for_many_that_is_killed_at_any_moment_goes_on() {
    const WALLETS: usize = 20;
    let kills = std::env::var("SPINDEX_WALLET_KILLS").map_or(3, |kills| kills.parse().unwrap());
    let scene = Scene::new(WALLETS).await;
    let folder = scene.folder();
    let folder = folder.to_str().unwrap().to_owned();
    let mut rng = StdRng::seed_from_u64(random_seed());
    let states = scene.home.path().join("states");
    let state = format!("--state={}", states.to_str().unwrap());
    let (mut kills_left, mut to) = (kills, 20);
    while kills_left > 0 && to < BLOCKS {
        let until = format!("--to={to}");
        let all = ["--wallet", &folder, "--from=1", &state, &until];
        let command = scan_command(scene.home.path(), &scene.url, false, &all);
        let before = written(&states);
        let mut process = Spindex::start(command);
        // Each state is written to when it is opened, when the scan begins, and when a window is stored.
        let wanted = rng.gen_range(1..=3 * WALLETS);
        tokio::task::block_in_place(|| {
            let mut seen = before.clone();
            while !process.is_over() && seen.len() < before.len() + wanted {
                seen.extend(written(&states));
                std::thread::yield_now();
            }
            process.kill_or_end();
        });
        kills_left -= 1;
        to += rng.gen_range(1..40);
    }
    let output = scene
        .scan(&["--wallet", &folder, "--from=1", &state, "--json"])
        .await;
    let document = document(&output);
    let reports = document["wallets"].as_array().unwrap();
    assert_eq!(reports.len(), WALLETS);
    for (number, report) in reports.iter().enumerate() {
        scene.assert_paid(number, report);
    }
}

/// When each state file was written to last.
fn written(states: &Path) -> BTreeSet<(PathBuf, SystemTime)> {
    let Ok(entries) = fs::read_dir(states) else {
        return BTreeSet::new();
    };
    let entries = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let at = fs::metadata(&path).ok()?.modified().ok()?;
        Some((path, at))
    });
    entries.collect()
}
