use super::*;
use crate::client::Spend;
use bitcoin::Txid;
use redb::ReadableTableMetadata;

fn outpoint(n: u8) -> OutPoint {
    OutPoint::new(Txid::from_byte_array([n; 32]), u32::from(n) * 1000)
}

fn hash(n: u32) -> BlockHash {
    BlockHash::from_byte_array(sha256::Hash::hash(&n.to_le_bytes()).to_byte_array())
}

fn found(height: u32) -> FoundRow {
    FoundRow {
        height,
        block_hash: hash(height),
        value_sat: 21,
        key: [7; 32],
        k: 2,
        label: height.is_multiple_of(2).then_some(4),
        tweak: [3; 33],
        next: None,
    }
}

fn spend(height: u32) -> Spend {
    Spend {
        height,
        block_hash: hash(height),
        spending_txid: Some(Txid::from_byte_array([1; 32])),
        input: Some(3),
        op_return: vec![vec![], vec![0xc0, 0xde]],
    }
}

fn cursor(first: u32, next: u32) -> Cursor {
    Cursor {
        first,
        next,
        coverage: Coverage {
            labels: [0, 4].into_iter().collect(),
            dust_limit_sat: 546,
            cut_through: true,
        },
        unrecorded_below: None,
    }
}

fn identity(wallet: Option<u8>) -> Identity {
    Identity {
        network: Network::Signet,
        wallet: wallet.map(|n| WalletId([n; 32])),
    }
}

/// Heights 100 to 110 scanned, finds at 101, 105 and 110, spends of the first two at 105 and 110, two watched.
fn filled() -> Change {
    Change {
        roll_back_to: None,
        cursor: Some(cursor(100, 111)),
        hashes: (100..=110).map(|height| (height, hash(height))).collect(),
        heads: (103..=110).map(|height| (height, head(height))).collect(),
        found: vec![
            (outpoint(1), found(101)),
            (outpoint(2), found(105)),
            (outpoint(3), found(110)),
        ],
        spends: vec![(outpoint(1), spend(105)), (outpoint(2), spend(110))],
        watched: vec![
            (
                outpoint(8),
                WatchedRow {
                    from: 100,
                    next: None,
                },
            ),
            (
                outpoint(9),
                WatchedRow {
                    from: 90,
                    next: Some(109),
                },
            ),
        ],
        unresolved: vec![
            (104, Some(unresolved(104, None))),
            (107, Some(unresolved(107, Some(110)))),
        ],
        unwatched: Vec::new(),
    }
}

fn head(height: u32) -> HeadRow {
    HeadRow {
        from: 103,
        block_hash: hash(height),
        head: [height as u8; 32],
    }
}

fn unresolved(height: u32, asked_at: Option<u32>) -> UnresolvedRow {
    UnresolvedRow {
        block_hash: hash(height),
        matches: 3,
        asked_at: asked_at.map(|height| (height, hash(height))),
    }
}

#[test]
fn a_reopened_file_holds_what_was_applied() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("wallet.redb");
    let mut state = State::open(&path, identity(Some(1))).expect("a new file");
    assert_eq!(state.contents, Contents::default());
    assert_eq!(state.scanned_to(), None);
    state.apply(filled()).expect("written");
    state
        .apply(Change {
            roll_back_to: Some(105),
            spends: vec![(outpoint(8), spend(104))],
            ..Change::default()
        })
        .expect("written");
    let contents = state.contents.clone();
    drop(state);

    let state = State::open(&path, identity(Some(1))).expect("the same file");
    assert_eq!(state.contents, contents);
    assert_eq!(state.scanned_to(), Some(105));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path)
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "readable by its owner alone");
    }
}

#[test]
fn rolling_back_takes_finds_and_spends_of_higher_blocks() {
    let mut state = State::in_memory(identity(None)).expect("memory");
    state.apply(filled()).expect("applied");
    state
        .apply(Change {
            roll_back_to: Some(105),
            ..Change::default()
        })
        .expect("applied");
    let contents = &state.contents;
    assert_eq!(
        contents.hashes.keys().copied().collect::<Vec<_>>(),
        [100, 101, 102, 103, 104, 105]
    );
    assert_eq!(
        contents.found.keys().copied().collect::<Vec<_>>(),
        [outpoint(1), outpoint(2)]
    );
    assert_eq!(
        contents.spends.keys().copied().collect::<Vec<_>>(),
        [outpoint(1)]
    );
    assert_eq!(contents.cursor, Some(cursor(100, 106)));
    assert_eq!(contents.watched[&outpoint(8)].next, None);
    assert_eq!(contents.watched[&outpoint(9)].next, Some(106));
    let kept: Vec<_> = contents.unresolved.iter().collect();
    assert_eq!(kept, [(&104, &unresolved(104, None))]);

    // To below everything: nothing stays but what to look for, and where to begin.
    state
        .apply(Change {
            roll_back_to: Some(-1),
            ..Change::default()
        })
        .expect("applied");
    let contents = &state.contents;
    assert!(contents.hashes.is_empty() && contents.found.is_empty() && contents.spends.is_empty());
    assert_eq!(contents.cursor, Some(cursor(100, 100)));
    assert_eq!(state.scanned_to(), None);
    assert_eq!(contents.watched[&outpoint(9)].next, Some(90));
}

#[test]
fn only_the_last_hashes_are_kept() {
    let mut state = State::in_memory(identity(None)).expect("memory");
    state
        .apply(Change {
            hashes: (0..1000).map(|height| (height, hash(height))).collect(),
            ..Change::default()
        })
        .expect("applied");
    let kept = &state.contents.hashes;
    assert_eq!(kept.len(), KEPT_HASHES as usize);
    assert_eq!(kept.first_key_value(), Some((&712, &hash(712))));
    let read = state.database.begin_read().expect("a reader");
    let rows = read
        .open_table(HASHES)
        .expect("a table")
        .len()
        .expect("a count");
    assert_eq!(rows, 288);
}

#[test]
fn a_file_has_one_owner_and_one_user() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("wallet.redb");
    let state = State::open(&path, identity(Some(1))).expect("a new file");
    let error = State::open(&path, identity(Some(1))).expect_err("in use");
    assert!(matches!(error, StateError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("in use by another process"));
    drop(state);

    for other in [
        identity(Some(2)),
        identity(None),
        Identity {
            network: Network::Bitcoin,
            ..identity(Some(1))
        },
    ] {
        let error = State::open(&path, other).expect_err("another owner");
        assert!(matches!(error, StateError::Foreign { .. }), "{error}");
    }
    State::open(&path, identity(Some(1))).expect("the owner");
}

/// Writes a row past the types.
fn put(path: &Path, fill: impl FnOnce(&redb::WriteTransaction)) {
    let database = Database::open(path).expect("the file");
    let write = database.begin_write().expect("a writer");
    fill(&write);
    write.commit().expect("written");
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("wallet.redb");
    let owner = identity(Some(1));
    let make = |fill: &dyn Fn(&redb::WriteTransaction)| {
        let _ = std::fs::remove_file(&path);
        let mut state = State::open(&path, owner).expect("a new file");
        state.apply(filled()).expect("written");
        drop(state);
        put(&path, fill);
        State::open(&path, owner)
    };
    let insert_found = |value: &'static [u8]| {
        move |write: &redb::WriteTransaction| {
            let mut table = write.open_table(FOUND).expect("a table");
            table.insert(&[5; 36], value).expect("inserted");
        }
    };
    let insert_meta = |name: &'static str, value: &'static [u8]| {
        move |write: &redb::WriteTransaction| {
            let mut table = write.open_table(META).expect("a table");
            table.insert(name, value).expect("inserted");
        }
    };
    make(&|_| ()).expect("nothing is wrong");
    for error in [
        make(&insert_found(b"")),
        make(&insert_found(b"{}")),
        make(&insert_found(b"\xff\xff")),
        make(&insert_meta("cursor", b"[]")),
        make(&insert_meta(
            "identity",
            br#"{"network":"liquid","wallet":null}"#,
        )),
        make(&insert_meta(
            "identity",
            br#"{"network":"signet","wallet":"00"}"#,
        )),
        make(&|write| {
            let mut table = write.open_table(META).expect("a table");
            table.remove("format").expect("removed");
        }),
    ] {
        let error = error.expect_err("damaged");
        assert!(matches!(error, StateError::Damaged { .. }), "{error}");
    }
    for format in [&b"0"[..], b"4"] {
        make(&insert_meta("format", format)).expect_err("of another format");
    }
    let error = make(&insert_meta("format", b"4")).expect_err("of another format");
    assert!(
        matches!(error, StateError::Format { found: 4, .. }),
        "{error}"
    );

    // Not a database at all, and one with a byte turned over in the middle.
    std::fs::write(&path, vec![b'x'; 5000]).expect("written");
    let error = State::open(&path, owner).expect_err("no database");
    assert!(matches!(error, StateError::Damaged { .. }), "{error}");
    assert_eq!(std::fs::read(&path).expect("the file"), vec![b'x'; 5000]);
}

#[test]
fn an_unusable_place_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = State::open(&folder.path().join("none/wallet.redb"), identity(None));
    let error = error.expect_err("no such folder");
    assert!(matches!(error, StateError::NotPrivate(_)), "{error}");
    assert!(error.to_string().contains("none/wallet.redb"), "{error}");
}

#[test]
fn coverage_knows_what_finds_more() {
    let coverage = cursor(0, 0).coverage;
    let with = |change: fn(&mut Coverage)| {
        let mut other = coverage.clone();
        change(&mut other);
        other
    };
    assert!(coverage.covers(&coverage));
    assert!(coverage.covers(&with(|c| c.labels = [0].into_iter().collect())));
    assert!(coverage.covers(&with(|c| c.dust_limit_sat = 1000)));
    assert!(!coverage.covers(&with(|c| c.labels = [0, 4, 5].into_iter().collect())));
    assert!(!coverage.covers(&with(|c| c.dust_limit_sat = 0)));
    assert!(!coverage.covers(&with(|c| c.cut_through = false)));
    assert!(with(|c| c.cut_through = false).covers(&coverage));
}

#[test]
fn identities_read_well_and_tell_no_key() {
    let text = identity(Some(0xab)).to_string();
    assert_eq!(text, "wallet abababababababab on signet");
    assert_eq!(identity(None).to_string(), "watched outpoints on signet");
}

#[test]
fn labels_are_kept_as_runs() {
    let labels = |numbers: &[u32]| numbers.iter().copied().collect::<Labels>();
    for (numbers, text) in [
        (&[][..], "[]"),
        (&[0], "[0]"),
        (&[5, 1, 0, 2, 2, 9, u32::MAX], "[[0,2],5,9,4294967295]"),
        (&[u32::MAX - 1, u32::MAX, 0], "[0,[4294967294,4294967295]]"),
    ] {
        let labels = labels(numbers);
        assert_eq!(serde_json::to_string(&labels).expect("text"), text);
        let read: Labels = serde_json::from_str(text).expect("labels");
        assert_eq!(read, labels);
    }
    // As format 1 wrote them.
    let read: Labels = serde_json::from_str("[0,1,2,3,7]").expect("labels");
    assert_eq!(read, [0, 1, 2, 3, 7].into_iter().collect());
    let many: Labels = (0..=100_000).collect();
    assert_eq!(serde_json::to_string(&many).expect("text"), "[[0,100000]]");
}

/// A file as format 1 was: no table of what is unresolved, none of heads, and cursor and finds without what came later.
fn file_of_format_1(path: &Path, owner: Identity) {
    let mut state = State::open(path, owner).expect("a new file");
    state
        .apply(Change {
            unresolved: Vec::new(),
            heads: Vec::new(),
            ..filled()
        })
        .expect("written");
    drop(state);
    put(path, |write| {
        write.delete_table(HEADS).expect("deleted");
        write.delete_table(UNRESOLVED).expect("deleted");
        let mut meta = write.open_table(META).expect("a table");
        meta.insert("format", &b"1"[..]).expect("inserted");
        let cursor = br#"{"first":100,"next":111,"coverage":{"labels":[0,4],"dust_limit_sat":546,"cut_through":true}}"#;
        meta.insert("cursor", &cursor[..]).expect("inserted");
    });
}

#[test]
fn a_file_of_format_1_is_kept_and_says_what_it_cannot_know() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("wallet.redb");
    let owner = identity(Some(1));
    file_of_format_1(&path, owner);
    // Somebody else's is not touched.
    State::open(&path, identity(Some(2))).expect_err("another owner");
    for _ in 0..2 {
        let state = State::open(&path, owner).expect("readable");
        let expected = Contents {
            cursor: Some(Cursor {
                unrecorded_below: Some(111),
                ..cursor(100, 111)
            }),
            unresolved: BTreeMap::new(),
            heads: BTreeMap::new(),
            ..filled_contents()
        };
        assert_eq!(state.contents, expected);
    }
    // What is scanned again is known, from the first height on all of it.
    let mut state = State::open(&path, owner).expect("readable");
    let unrecorded = |state: &State| {
        state
            .contents
            .cursor
            .as_ref()
            .expect("a cursor")
            .unrecorded_below
    };
    let roll_back = |to| Change {
        roll_back_to: Some(to),
        ..Change::default()
    };
    state.apply(roll_back(105)).expect("applied");
    assert_eq!(unrecorded(&state), Some(106));
    state.apply(roll_back(99)).expect("applied");
    assert_eq!(unrecorded(&state), None);
}

#[test]
fn where_there_is_no_wallet_nothing_can_be_unresolved() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("outpoints.redb");
    let owner = identity(None);
    file_of_format_1(&path, owner);
    let state = State::open(&path, owner).expect("readable");
    assert_eq!(state.contents.cursor, Some(cursor(100, 111)));
}

#[test]
fn a_file_of_format_2_is_kept_and_has_no_heads() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("wallet.redb");
    let owner = identity(Some(1));
    let mut state = State::open(&path, owner).expect("a new file");
    state.apply(filled()).expect("written");
    drop(state);
    put(&path, |write| {
        write.delete_table(HEADS).expect("deleted");
        let mut meta = write.open_table(META).expect("a table");
        meta.insert("format", &b"2"[..]).expect("inserted");
    });
    for _ in 0..2 {
        let state = State::open(&path, owner).expect("readable");
        let expected = Contents {
            heads: BTreeMap::new(),
            ..filled_contents()
        };
        assert_eq!(state.contents, expected);
    }
}

#[test]
fn what_is_not_watched_any_more_is_forgotten() {
    let mut state = State::in_memory(identity(Some(1))).expect("a state");
    state.apply(filled()).expect("written");
    // One that is the wallet's as well, one that is spent, and one that nobody watched.
    state
        .apply(Change {
            watched: vec![(
                outpoint(1),
                WatchedRow {
                    from: 100,
                    next: None,
                },
            )],
            spends: vec![(outpoint(8), spend(104))],
            ..Change::default()
        })
        .expect("written");
    assert_eq!(state.watched(), [outpoint(1), outpoint(8), outpoint(9)]);
    state
        .unwatch(&[outpoint(1), outpoint(8), outpoint(7)])
        .expect("written");
    assert_eq!(state.watched(), [outpoint(9)]);
    let spends: Vec<_> = state.contents.spends.keys().copied().collect();
    assert_eq!(spends, [outpoint(1), outpoint(2)]);
}

#[test]
fn a_head_counts_while_its_block_does() {
    let mut contents = filled_contents();
    assert_eq!(contents.head(110), Some(&head(110)));
    assert_eq!(contents.head(102), None);
    // Scanned by version 1, on another branch: the hash says so.
    contents.apply(Change {
        hashes: vec![(110, hash(7))],
        ..Change::default()
    });
    assert_eq!(contents.head(110), None);
    contents.apply(Change {
        roll_back_to: Some(105),
        ..Change::default()
    });
    assert_eq!(contents.head(106), None);
    assert_eq!(contents.head(105), Some(&head(105)));
    // As many are kept as hashes are.
    contents.apply(Change {
        heads: (106..500).map(|height| (height, head(height))).collect(),
        ..Change::default()
    });
    assert_eq!(contents.heads.len(), KEPT_HASHES as usize);
}

fn filled_contents() -> Contents {
    let mut contents = Contents::default();
    contents.apply(filled());
    contents
}
