use bitcoin::Network;

use crate::client::state::Contents;
use crate::client::{Identity, State, StateError};

#[test]
fn a_file_whose_creation_was_cut_short_is_made_anew_and_no_other_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.redb");
    let owner = Identity {
        network: Network::Regtest,
        wallet: None,
    };
    drop(State::open(&path, owner).expect("a state"));
    let whole = std::fs::read(&path).expect("a file");
    let put = |bytes: &[u8]| std::fs::write(&path, bytes).expect("written");
    // The engine makes room, writes the header without its first bytes, and these at last.
    let mut headed = vec![0; whole.len()];
    headed[9..320].copy_from_slice(&whole[9..320]);
    for unfinished in [&[][..], &[0; 4], &vec![0; whole.len()], &headed] {
        put(unfinished);
        let state = State::open(&path, owner).expect("a new state");
        assert_eq!(state.contents, Contents::default());
    }
    // Whatever else has no beginning may have held something.
    let mut overwritten = whole.clone();
    overwritten[..320].fill(0);
    let mut one_byte = headed.clone();
    one_byte[whole.len() - 1] = 1;
    let mut begun = headed;
    begun[0] = b'r';
    for damaged in [overwritten, one_byte, begun] {
        put(&damaged);
        let error = State::open(&path, owner).expect_err("damaged");
        assert!(matches!(error, StateError::Damaged { .. }), "{error}");
        assert_eq!(std::fs::read(&path).expect("a file"), damaged);
    }
    // In use meanwhile.
    put(&whole);
    let state = State::open(&path, owner).expect("a state");
    let error = State::open(&path, owner).expect_err("in use");
    assert!(matches!(error, StateError::InUse { .. }), "{error}");
    drop(state);
}
