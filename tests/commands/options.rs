//! Odd values of options, as flags and in the configuration file: each is taken or refused in words, and none panics,
//! overflows or changes the result.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::store::FILE_NAME;
use tokio::runtime::Runtime;

use crate::support::fake_node::FakeNode;
use crate::support::index::Contents;
use crate::support::spindex::{command, run, stderr};

const HUGE: &str = "18446744073709551615";
const HUGE_U32: &str = "4294967295";

fn flag(name: &str, value: &str) -> String {
    format!("--{name}={value}")
}

/// Nobody but a node that answers by RPC tells of a mempool.
#[test]
fn a_mempool_needs_a_node() {
    let home = tempfile::tempdir().unwrap();
    let args = [
        "run",
        "--network=regtest",
        "--node-url=http://192.0.2.1:1",
        "--http-bind=127.0.0.1:0",
        "--mempool",
    ];
    let output = run(home.path(), &args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("--mempool") && text.contains("--rpc-cookie"),
        "{text}"
    );
    assert!(!text.contains("serving"), "{text}");
}

#[test]
fn huge_numbers_are_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    for (args, names) in [
        (
            &["sync"][..],
            &[
                "threads",
                "in-flight",
                "fetch-mib",
                "batch-mib",
                "cache-mib",
                "poll-ms",
                "wait",
                "undo-depth",
                "until",
            ][..],
        ),
        (&["run"], &["cache-mib", "first-height", "long-sync-blocks"]),
        (&["check"], &["blocks", "threads"]),
        (&["scan"], &["timeout", "from", "to", "threads"]),
        (&["demo", "--once"], &["transactions", "blocks"]),
        (&["bench", "scan"], &["rounds", "threads", "tweaks"]),
        (&["bench", "tweak"], &["rounds", "threads", "tweaks"]),
        (
            &["bench", "index"],
            &["rounds", "threads", "blocks", "transactions"],
        ),
        (
            &["bench", "generate"],
            &["threads", "blocks", "transactions-per-block"],
        ),
    ] {
        for name in names {
            // One more than fits and as much as fits; `sync --undo-depth 4294967295` and the like are good numbers.
            let huge = flag(name, HUGE);
            let output = run(home.path(), &[args, &[huge.as_str()]].concat());
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{args:?} {huge}: {text}");
            assert!(
                text.contains(&format!("--{name}")),
                "{args:?} {huge}: {text}"
            );
            assert!(!text.contains("panicked"), "{args:?} {huge}: {text}");
        }
    }
    for (name, value) in [
        ("threads", "0"),
        ("in-flight", "0"),
        ("in-flight", "1001"),
        ("batch-mib", "0"),
        ("poll-ms", "0"),
        // A shift would make it 0.
        ("cache-mib", "17592186044416"),
        ("fetch-mib", "17592186044416"),
        ("batch-mib", "1048577"),
        ("wait", "31536001"),
    ] {
        let output = run(home.path(), &["sync", &flag(name, value)]);
        assert_eq!(output.status.code(), Some(2), "{name} {value}");
        assert!(stderr(&output).contains(&format!("--{name}")));
    }
    // Nothing was begun.
    assert!(!home.path().join(".spindex").exists());
}

#[test]
fn the_largest_numbers_that_are_taken_change_no_result() {
    let runtime = Runtime::new().unwrap();
    let chain = Arc::new(SimulatedChain::new(SimulationSettings::default()));
    chain.mine(130);
    let node = runtime.block_on(FakeNode::start(chain));
    let sync = |home: &Path, more: &[String]| {
        let mut args = vec![
            "sync".to_owned(),
            "--network=regtest".to_owned(),
            "--first-height=0".to_owned(),
            "--source=rest".to_owned(),
            "--engine=libsecp256k1".to_owned(),
            format!("--node-url={}", node.url()),
        ];
        args.extend_from_slice(more);
        let output = run(home, &args);
        assert!(output.status.success(), "{more:?}: {}", stderr(&output));
        Contents::of_file(&home.join(".spindex/regtest").join(FILE_NAME))
    };
    let home = tempfile::tempdir().unwrap();
    let expected = sync(home.path(), &[]);
    for more in [
        vec![flag("cache-mib", "1048576"), flag("undo-depth", HUGE_U32)],
        vec![
            flag("cache-mib", "0"),
            flag("fetch-mib", "0"),
            flag("undo-depth", "0"),
        ],
        vec![flag("fetch-mib", "1048576"), flag("batch-mib", "1048576")],
        vec![flag("in-flight", "1000"), flag("until", HUGE_U32)],
        vec![flag("long-sync-blocks", HUGE_U32), flag("wait", "31536000")],
        vec![flag("long-sync-blocks", "0"), flag("poll-ms", "86400000")],
    ] {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(sync(home.path(), &more), expected, "{more:?}");
    }
    let check = ["check", "--network=regtest", "--json", "--blocks", HUGE_U32];
    let check = run(
        home.path(),
        &[&check[..], &["--source=rest", "--node-url", &node.url()]].concat(),
    );
    assert!(check.status.success(), "{}", stderr(&check));
    let report: Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!(report["ok"], true, "{report}");
}

#[test]
fn a_bad_value_in_the_configuration_file_is_named_with_its_line_and_key() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("my.toml");
    for (line, words) in [
        ("threads = \"two\"", &["`threads`", "invalid digit"][..]),
        ("threads = 0", &["`threads`", "0 is not in 1..=4096"]),
        ("threads = 2.5", &["`threads`", "whole number"]),
        (
            "cache_mib = 18446744073709551615",
            &["`cache_mib`", "not in 0..=1048576"],
        ),
        ("in_flight = -1", &["`in_flight`"]),
        (
            "first_height = 4294967296",
            &["`first_height`", "4294967296"],
        ),
        (
            "network = \"mainet\"",
            &["`network`", "mainet", "choose main"],
        ),
        ("engine = \"abacus\"", &["`engine`", "abacus"]),
        ("source = \"tape\"", &["`source`", "auto, files, rest, rpc"]),
        ("keep = 'all'", &["`keep`", "choose full or tweaks"]),
        (
            "tweak_form = 'round'",
            &[
                "`tweak_form`",
                "choose compressed, point or point-and-multiple",
            ],
        ),
        ("zmq = 'http://h:1'", &["`zmq`", "tcp://"]),
        ("http_bind = 'nowhere'", &["`http_bind`"]),
        ("data_dir = ''", &["`data_dir`", "empty"]),
        ("node_url = ['http://h']", &["`node_url`", "neither a text"]),
        ("node_url.host = 'h'", &["`node_url`", "neither a text"]),
        (
            "nodeurl = 'http://h'",
            &["`nodeurl`", "unknown key", "node_url"],
        ),
        ("config = 'other.toml'", &["`config`", "unknown key"]),
        ("rpc_password = 1234567", &["`rpc_password`", "no text"]),
        ("rpc_password = hunter2", &["no valid TOML"]),
    ] {
        let text =
            format!("# settings\nundo_depth = 0x10\nrpc_url = \"http://u:hunter2@h\"\n{line}\n");
        std::fs::write(&path, text).unwrap();
        let output = run(home.path(), &["sync", "--config", path.to_str().unwrap()]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{line}: {text}");
        let place = format!("{}, line 4: ", path.display());
        for word in [&[place.as_str()], words].concat() {
            assert!(text.contains(word), "{line}: no {word:?} in {text}");
        }
        for secret in ["hunter2", "1234567"] {
            assert!(!text.contains(secret), "{line}: {text}");
        }
    }
}

#[test]
fn a_file_with_a_password_that_others_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("my.toml");
    std::fs::write(&path, "rpc_user = 'me'\nrpc_password = 'hunter2'").unwrap();
    for (mode, is_open) in [(0o644, true), (0o600, false)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let args = [
            "sync",
            "--network=regtest",
            "--wait=0",
            "--node-url=http://127.0.0.1:1",
            "--config",
        ];
        let output = run(
            home.path(),
            &[&args[..], &[path.to_str().unwrap()]].concat(),
        );
        let text = stderr(&output);
        assert_eq!(text.contains("chmod 600"), is_open, "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_word_that_is_no_level_is_refused_by_the_log() {
    let home = tempfile::tempdir().unwrap();
    let args = [
        "sync",
        "--network=regtest",
        "--wait=0",
        "--node-url=http://127.0.0.1:1",
    ];
    for filter in ["inof", "spindex", "spindex=inof"] {
        let output = run(home.path(), &[&args[..], &["--log", filter]].concat());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{filter}: {text}");
        assert!(text.contains(filter) && text.contains("--log"), "{text}");
        let from_environment = command(home.path(), &args)
            .env("SPINDEX_LOG", filter)
            .output();
        assert_eq!(from_environment.unwrap().status.code(), Some(2), "{filter}");
    }
    for filter in ["info", "", "spindxe=debug", "spindex::inedx=debug"] {
        let output = run(home.path(), &[&args[..], &["--log", filter]].concat());
        let text = stderr(&output);
        assert!(text.contains("INFO index "), "{filter}: {text}");
    }
}
