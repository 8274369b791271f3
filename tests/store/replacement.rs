//! A migration puts a file in the place of another: links, owners, modes, and what is unfinished. Options of an index
//! without a block.

use std::fs;
use std::path::{Path, PathBuf};

use spindex::store::{Keep, Store, StoreError, StoreOptions, TweakForm};

use crate::support::{
    FIRST_HEIGHT, Model, assert_equal, connect, content, memory_store_with, options, place,
    released_chain,
};

/// A file of format 1 with the blocks of [`released_chain`].
const FORMAT_1: &[u8] = include_bytes!("../../fixtures/store/format-1-chain.redb.zst");

fn unpack(path: &Path) {
    let file = zstd::decode_all(FORMAT_1).expect("zstd");
    fs::write(path, file).expect("write");
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().expect("a name").to_str().expect("text");
    path.with_file_name(format!("{name}.{ending}"))
}

fn check_migrated(path: &Path) {
    let model = released_chain(false).without_spenders();
    let store = Store::open_existing(path, &options(3)).expect("migrated");
    assert_equal(&store.snapshot().expect("snapshot"), &model);
    let fresh = memory_store_with(3, false);
    connect(&fresh, &model.chain);
    assert_eq!(content(&store), content(&fresh));
}

/// A new file of the first half of the chain.
fn half(path: &Path) {
    let store = Store::open(path, &options(3)).expect("new");
    let chain = released_chain(false).without_spenders().chain;
    connect(&store, &chain[..chain.len() / 2]);
}

#[cfg(unix)]
#[test]
fn a_migration_leaves_links_owners_and_modes() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    let (directory, path) = place();
    let folder = directory.path().join("large disk");
    fs::create_dir(&folder).expect("directory");
    let target = folder.join("index");
    unpack(&target);
    symlink("large disk/index", &path).expect("symlink");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o604)).expect("mode");
    // Only root may give files away.
    let _ = chown(&target, Some(12_345), Some(54_321));
    let before = fs::metadata(&target).expect("file");
    check_migrated(&path);
    let after = fs::symlink_metadata(&target).expect("file");
    assert!(after.is_file());
    assert_ne!(after.ino(), before.ino());
    assert_eq!(
        (after.mode(), after.uid(), after.gid()),
        (before.mode(), before.uid(), before.gid())
    );
    let kept = fs::metadata(beside(&target, "format1")).expect("kept");
    assert_eq!(kept.ino(), before.ino());
    assert!(fs::symlink_metadata(&path).expect("link").is_symlink());
    let names = fs::read_dir(directory.path()).expect("directory");
    assert_eq!(names.count(), 2);
    check_migrated(&path);
    assert!(!beside(&target, "format1").exists());
}

/// The machine stops in the middle of a swap, or before it has come to that.
#[test]
fn an_unfinished_migration_is_never_taken_for_a_finished_one() {
    // Old file under its own name, under the name of an old one, under both; a new file that is half done.
    for (is_own, is_kept) in [(true, false), (false, true), (true, true)] {
        let (_directory, path) = place();
        let old = if is_own {
            path.clone()
        } else {
            beside(&path, "format1")
        };
        unpack(&old);
        if is_own && is_kept {
            fs::hard_link(&path, beside(&path, "format1")).expect("link");
        }
        half(&beside(&path, "migrating"));
        check_migrated(&path);
        assert!(!beside(&path, "migrating").exists());
        assert!(beside(&path, "format1").exists());
        check_migrated(&path);
    }
    // Without the old file it is nothing.
    let (_directory, path) = place();
    half(&beside(&path, "migrating"));
    let missing = Store::open_existing(&path, &options(3));
    assert!(matches!(missing, Err(StoreError::Missing { .. })));
}

#[cfg(unix)]
#[test]
fn a_link_may_lead_to_a_file_that_is_not_there_yet_but_not_in_a_circle() {
    use std::os::unix::fs::symlink;
    let (directory, path) = place();
    symlink("new", &path).expect("symlink");
    let store = Store::open(&path, &options(3)).expect("new");
    connect(&store, &released_chain(false).without_spenders().chain);
    drop(store);
    assert!(fs::symlink_metadata(&path).expect("link").is_symlink());
    check_migrated(&directory.path().join("new"));

    let circle = directory.path().join("circle");
    symlink("circle", &circle).expect("symlink");
    let refused = Store::open(&circle, &options(3)).expect_err("a circle");
    let text = refused.to_string();
    assert!(
        text.contains("circle") && text.contains(&circle.display().to_string()),
        "{text}"
    );
}

#[test]
fn an_index_without_a_block_takes_the_options_given_next() {
    let (_directory, path) = place();
    let unsaid = StoreOptions {
        first_height: None,
        tweak_form: None,
        ..options(3)
    };
    let others = [
        StoreOptions {
            first_height: Some(5_000),
            ..unsaid.clone()
        },
        StoreOptions {
            keep: Some(Keep::Tweaks),
            ..unsaid.clone()
        },
        StoreOptions {
            tweak_form: Some(TweakForm::Compressed),
            ..unsaid.clone()
        },
        StoreOptions {
            tweak_form: Some(TweakForm::PointAndMultiple),
            ..unsaid.clone()
        },
        unsaid.clone(),
    ];
    for wanted in others.iter().chain(others.iter().rev()) {
        let store = Store::open(&path, wanted).expect("empty");
        let snapshot = store.snapshot().expect("snapshot");
        assert_eq!(snapshot.first_height(), wanted.first_height.unwrap_or(1));
        assert_eq!(snapshot.keep(), wanted.keep.unwrap_or_default());
        assert_eq!(snapshot.tweak_form(), wanted.tweak_form.unwrap_or_default());
        assert_eq!(snapshot.content_hash().expect("sound").len(), 32);
        drop(snapshot);
        drop(store);
        // A look changes nothing.
        let (looked, wrong) = Store::open_to_check(&path, &unsaid).expect("empty");
        assert!(wrong.is_empty());
        let snapshot = looked.snapshot().expect("snapshot");
        assert_eq!(snapshot.first_height(), wanted.first_height.unwrap_or(1));
        assert_eq!(snapshot.keep(), wanted.keep.unwrap_or_default());
    }

    // From the first block on they bind.
    let mut model = Model::new(false);
    model.grow(1, crate::support::SMALL);
    connect(
        &Store::open(&path, &options(3)).expect("empty"),
        &model.chain,
    );
    let store = Store::open(&path, &unsaid).expect("index");
    assert_eq!(
        store.snapshot().expect("snapshot").first_height(),
        FIRST_HEIGHT
    );
    drop(store);
    for wanted in &others[..4] {
        assert!(Store::open(&path, wanted).is_err(), "{wanted:?}");
    }
}

/// A file of format 4 with the blocks of [`released_chain`].
const FORMAT_4: &[u8] = include_bytes!("../../fixtures/store/format-4-chain.redb.zst");

/// Files can grow to so many bytes only: the old one is not larger, its copy with sums is.
#[cfg(unix)]
#[test]
fn a_copy_for_which_there_is_no_room_takes_none() {
    let (directory, _) = place();
    let folder = directory.path().join("regtest");
    fs::create_dir(&folder).expect("directory");
    let path = folder.join("index.redb");
    let file = zstd::decode_all(FORMAT_4).expect("zstd");
    fs::write(&path, &file).expect("write");
    // The shell counts in blocks of 512 bytes. No machine has this address, so the server ends once the index is open.
    let script = format!(
        "trap '' XFSZ; ulimit -c 0; ulimit -f {}; exec \"$@\"",
        file.len() / 512
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_spindex")])
        .args(["serve", "--network=regtest", "--http-bind=192.0.2.1:9"])
        .arg("--data-dir")
        .arg(directory.path())
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("free some space"), "{text}");
    assert!(text.contains("left as it was"), "{text}");
    let names = fs::read_dir(&folder).expect("directory");
    let names: Vec<_> = names
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    assert_eq!(names, ["index.redb"]);
    check_migrated(&path);
}
