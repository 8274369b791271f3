//! What happens to wallet files and the scan's state: with other files in the way, several commands at once, other
//! users, a crash.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bitcoin::Network;
use serde_json::Value;
use spindex::client::{Identity, State};
use tempfile::TempDir;

use crate::support::spindex::{command, run, stderr, stdout};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A folder with a new wallet in it.
fn wallet(name: &str) -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(name);
    let output = run(home.path(), &["wallet", "new", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    (home, path)
}

fn key_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let key = text.lines().find_map(|line| line.strip_prefix("key = \""));
    key.unwrap().trim_end_matches('"').to_owned()
}

fn labels_of(home: &Path, path: &str) -> Vec<u64> {
    let output = run(home, &["wallet", "address", path, "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let labels = json["labels"].as_array().unwrap().iter();
    labels
        .map(|label| label["label"].as_u64().unwrap())
        .collect()
}

/// Runs the command with a text on stdin.
fn run_with_stdin(home: &Path, args: &[&str], text: &str) -> Output {
    let mut child = command(home, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that has read enough closes it.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn a_new_label_touches_no_other_file_and_keeps_the_wallet_private() {
    let (home, path) = wallet("savings.wallet");
    let file = path.to_str().unwrap();
    // Another wallet under the name that was once used for the fresh file, and a link under another likely one.
    let neighbour = home.path().join("savings.new");
    fs::write(&neighbour, "another wallet").unwrap();
    set_mode(&neighbour, 0o666);
    symlink(&neighbour, home.path().join("savings.tmp")).unwrap();
    let key = key_of(&path);

    let output = run(home.path(), &["wallet", "address", file, "--label=7"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("label 7  sprt1q"));
    assert_eq!(fs::read_to_string(&neighbour).unwrap(), "another wallet");
    assert_eq!(mode(&neighbour), 0o666);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(key_of(&path), key);
    assert_eq!(labels_of(home.path(), file), [7]);
}

#[test]
fn labels_handed_out_at_the_same_time_are_all_remembered() {
    const COMMANDS: usize = 12;
    const LABELS: usize = 4;
    let (home, path) = wallet("my.wallet");
    let file = path.to_str().unwrap();
    let printed: Vec<u64> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..COMMANDS)
            .map(|number| {
                let home = home.path();
                scope.spawn(move || {
                    let labels = (1..=LABELS).map(|label| number * LABELS + label);
                    labels
                        .map(|label| {
                            let flag = format!("--label={label}");
                            let output = run(home, &["wallet", "address", file, &flag]);
                            assert!(output.status.success(), "{}", stderr(&output));
                            assert!(stdout(&output).contains(&format!("label {label}  ")));
                            label as u64
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap())
            .collect()
    });
    assert_eq!(printed.len(), COMMANDS * LABELS);
    assert_eq!(labels_of(home.path(), file), printed);
    let left = fs::read_dir(home.path()).unwrap().count();
    assert_eq!(left, 1, "something lies beside the wallet");
}

#[test]
fn a_wallet_that_cannot_be_written_prints_no_new_address() {
    let (home, path) = wallet("my.wallet");
    let file = path.to_str().unwrap();
    let before = fs::read_to_string(&path).unwrap();
    // A limit on the size of files stands for a full disk.
    let script = "ulimit -f 0; trap '' XFSZ; exec \"$0\" wallet address \"$1\" --label=9";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_spindex"), file])
        .env("HOME", home.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
    assert!(
        stderr(&output).contains("cannot write"),
        "{}",
        stderr(&output)
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn a_wallet_that_others_can_read_is_refused_until_it_is_protected() {
    let (home, path) = wallet("my.wallet");
    let file = path.to_str().unwrap();
    let key = key_of(&path);
    set_mode(&path, 0o640);
    for args in [
        &["wallet", "address", file][..],
        &["wallet", "address", file, "--label=1"],
        &["scan", "--oracle=http://127.0.0.1:1", "--wallet", file],
    ] {
        let output = run(home.path(), args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        assert_eq!(stdout(&output), "", "{args:?}");
        for word in ["mode 640", "chmod 600", "spindex wallet protect"] {
            assert!(text.contains(word), "{args:?}: {text}");
        }
        assert!(!text.contains(&key), "{args:?}: {text}");
    }
    let protected = run(home.path(), &["wallet", "protect", file]);
    assert!(protected.status.success(), "{}", stderr(&protected));
    assert!(stderr(&protected).contains("was open to other users"));
    assert_eq!(mode(&path), 0o600);
    assert_eq!(labels_of(home.path(), file), [] as [u64; 0]);
    let again = run(home.path(), &["wallet", "protect", file]);
    assert!(!stderr(&again).contains("was open"), "{}", stderr(&again));
}

#[test]
fn links_are_not_followed() {
    let (home, path) = wallet("my.wallet");
    let before = fs::read_to_string(&path).unwrap();
    let link = home.path().join("link");
    symlink(&path, &link).unwrap();
    let nowhere = home.path().join("nowhere");
    let dangling = home.path().join("dangling");
    symlink(&nowhere, &dangling).unwrap();
    for (action, link) in [
        ("new", &link),
        ("new", &dangling),
        ("address", &link),
        ("protect", &link),
    ] {
        let output = run(home.path(), &["wallet", action, link.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{action}");
        assert!(
            stderr(&output).contains("symbolic link"),
            "{}",
            stderr(&output)
        );
    }
    assert!(!nowhere.exists());
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
}

#[test]
fn the_state_of_a_scan_is_made_neither_through_a_link_nor_in_a_file_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity {
        network: Network::Regtest,
        wallet: None,
    };
    let target = folder.path().join("target");
    for exists in [false, true] {
        let link = folder.path().join(format!("link {exists}"));
        if exists {
            fs::write(&target, "").unwrap();
            set_mode(&target, 0o600);
        }
        symlink(&target, &link).unwrap();
        let error = State::open(&link, identity).unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
        assert_eq!(target.exists(), exists);
    }
    assert_eq!(fs::read_to_string(&target).unwrap(), "");
    // Empty, as the mode says: it is the state of nobody yet.
    let exposed = folder.path().join("exposed");
    fs::write(&exposed, "").unwrap();
    set_mode(&exposed, 0o666);
    let error = State::open(&exposed, identity).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
    assert_eq!(fs::read_to_string(&exposed).unwrap(), "");
    set_mode(&exposed, 0o600);
    drop(State::open(&exposed, identity).unwrap());
    drop(State::open(&exposed, identity).unwrap());
    assert_eq!(mode(&exposed), 0o600);
}

#[test]
fn an_import_keeps_no_secret_that_spends() {
    let (home, path) = wallet("spending.wallet");
    let spend_key = key_of(&path);
    assert!(spend_key.starts_with("tspspend1q"));
    let imported = home.path().join("imported.wallet");
    let file = imported.to_str().unwrap();
    let args = ["wallet", "import", file, "--network=regtest"];
    // As a descriptor, with a line after it that is not looked at.
    let output = run_with_stdin(home.path(), &args, &format!("sp({spend_key})\nmore\n"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("the secret that spends, which is not kept"),
        "{}",
        stderr(&output)
    );
    let text = fs::read_to_string(&imported).unwrap();
    assert!(key_of(&imported).starts_with("tspscan1q"), "no scan form");
    assert!(!text.contains("spspend"));
    assert_eq!(mode(&imported), 0o600);
    // The same wallet.
    let addresses = |path: &Path| {
        let args = ["wallet", "address", path.to_str().unwrap(), "--label=5"];
        stdout(&run(home.path(), &args))
    };
    assert_eq!(addresses(&imported), addresses(&path));

    // The scan form itself is kept as it is, without a word.
    let scan_key = key_of(&imported);
    let again = home.path().join("again.wallet");
    let args = [
        "wallet",
        "import",
        again.to_str().unwrap(),
        "--network=regtest",
    ];
    let output = run_with_stdin(home.path(), &args, &scan_key);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!stderr(&output).contains("spends"), "{}", stderr(&output));
    assert_eq!(key_of(&again), scan_key);

    for (text, word) in [
        ("x".repeat(5_000), "too long"),
        ("ключ".to_owned(), "not plain text"),
        (String::new(), "not valid bech32m"),
    ] {
        let lost = home.path().join("lost.wallet");
        let args = [
            "wallet",
            "import",
            lost.to_str().unwrap(),
            "--network=regtest",
        ];
        let output = run_with_stdin(home.path(), &args, &text);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
        assert!(!lost.exists());
    }
}

/// The end of a scan that crashes while it waits for a server, with core dumps allowed as far as the machine allows them.
#[test]
fn a_crash_leaves_no_core_dump_of_a_scan() {
    let (home, path) = wallet("my.wallet");
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    let script = "ulimit -c unlimited 2>/dev/null || ulimit -c \"$(ulimit -Hc)\"; exec \"$@\"";
    let mut scan = Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_spindex"), "scan"])
        .arg(format!("--oracle={url}"))
        .args(["--wallet", path.to_str().unwrap()])
        .env("HOME", home.path())
        .env_remove("http_proxy")
        .current_dir(home.path())
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // It has its keys when it asks the server for the first time.
    let (mut request, _) = server.accept().unwrap();
    assert_eq!(request.read(&mut [0]).unwrap(), 1);
    let limits = fs::read_to_string(format!("/proc/{}/limits", scan.id()));
    if let Ok(limits) = limits {
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let core: Vec<&str> = core.unwrap().split_whitespace().collect();
        assert_eq!(core[4..6], ["0", "0"], "{core:?}");
    }
    let pid = scan.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-s", "ABRT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let status = scan.wait().unwrap();
    assert_eq!(status.signal(), Some(6), "{status}");
    assert!(!status.core_dumped(), "{status}");
    let cores = fs::read_dir(home.path()).unwrap();
    let names = cores.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let core = names.into_iter().find(|name| name.starts_with("core"));
    assert_eq!(core, None);
}

/// Its name used to be the process's number, and whatever lay there was used.
#[test]
fn the_folder_of_a_demo_cannot_be_prepared_by_others() {
    let home = tempfile::tempdir().unwrap();
    let temporary = home.path().join("temporary");
    fs::create_dir(&temporary).unwrap();
    let planted = home.path().join("planted");
    fs::create_dir(&planted).unwrap();
    fs::write(planted.join("index.redb"), "no index").unwrap();
    let script = "ln -s \"$1\" \"$TMPDIR/spindex-demo-$$\"; shift; exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(&planted)
        .arg(env!("CARGO_BIN_EXE_spindex"))
        .args(["demo", "--once", "--json", "--blocks=112"])
        .env("HOME", home.path())
        .env("TMPDIR", &temporary)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        fs::read_to_string(planted.join("index.redb")).unwrap(),
        "no index"
    );
    // The link is still there, and nothing else.
    let left: Vec<_> = fs::read_dir(&temporary).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
