//! A signet of one's own, whose block files begin with bytes that its challenge decides.

use std::path::Path;

use bitcoin::{Network, ScriptBuf};
use serde_json::json;
use spindex::chain::files::{FilesSettings, FilesSource, signet_magic};
use spindex::chain::{BlockSource, ChainError};

use super::folder::blocks_folder;
use super::scene::rest;
use crate::support::node::TestNode;
use crate::support::spindex::{run, stderr};

fn source(folder: &Path, challenge: Option<&str>, url: Option<&str>) -> FilesSource {
    FilesSource::new(FilesSettings {
        signet_challenge: challenge.map(|hex| ScriptBuf::from_hex(hex).unwrap()),
        node: url.map(|url| rest(url) as _),
        ..FilesSettings::new(folder, Network::Signet)
    })
}

/// The challenge of the public signet (BIP325).
#[test]
fn the_public_signet_has_the_magic_that_everybody_knows() {
    let challenge = "512103ad5e0edad18cb1f0fc0d28a3d4f1f3e445640337489abb10404f2d1e086be430210359ef5021964fe22d6f8e05b2463c9540ce96883fe3b278760f048f5189f2e6c452ae";
    let challenge = ScriptBuf::from_hex(challenge).unwrap();
    assert_eq!(signet_magic(&challenge), Network::Signet.magic());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_of_ones_own_is_given_or_asked_for() {
    // Anyone may sign: OP_TRUE.
    let node = TestNode::start_on("-signet", &["-rest", "-signetchallenge=51"]);
    let folder = blocks_folder(&node);
    let to = json!("raw(6a)");
    // A block takes some million hashes there.
    node.call("generatetodescriptor", &[json!(1), to, json!(i32::MAX)]);
    let tip = node.tip();
    assert_eq!(tip.height, 1);
    let url = node.url();
    for source in [
        source(&folder, Some("51"), None),
        source(&folder, Some("51"), Some(&url)),
        source(&folder, None, Some(&url)),
    ] {
        source.check(Network::Signet).await.unwrap();
        assert_eq!(source.tip().await.unwrap(), tip);
        let block = source.block(tip).await.unwrap();
        assert_eq!(block, rest(&url).block(tip).await.unwrap());
    }
    // Without either, and with another one.
    for challenge in [None, Some("52")] {
        let error = source(&folder, challenge, None)
            .check(Network::Signet)
            .await;
        let error = error.unwrap_err();
        assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
        let text = error.to_string();
        let magic = format!(
            "{:x}",
            signet_magic(ScriptBuf::from_hex("51").unwrap().as_script())
        );
        for part in ["blk00000.dat", &magic, "--signet-challenge", "--node-url"] {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }
    let wrong = source(&folder, Some("52"), Some(&url));
    let error = wrong.check(Network::Signet).await.unwrap_err();
    assert!(matches!(error, ChainError::Setup(_)), "{error:?}");
    assert!(error.to_string().contains("--signet-challenge"), "{error}");

    let home = tempfile::tempdir().unwrap();
    let blocks = format!("--blocks-dir={}", folder.display());
    let sync = [
        "sync",
        "--network=signet",
        "--source=files",
        "--wait=0",
        &blocks,
    ];
    let output = run(home.path(), &sync);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("--signet-challenge"),
        "{}",
        stderr(&output)
    );
    let output = run(
        home.path(),
        &[&sync[..], &["--signet-challenge=51"]].concat(),
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let output = run(
        home.path(),
        &[&sync[..], &["--signet-challenge=5"]].concat(),
    );
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}
