//! What a node says of its mempool: the body of a ZMQ message of `sequence`, and the results of calls.
//!
//! The first byte of an input, modulo 4, says what the rest is: a body, or the result of `getrawmempool` with the sequence
//! number, of `gettxout`, of `getmempoolentry`.

use std::fmt::Write;

use bitcoin::hashes::Hash;
use spindex::chain::mempool_signal::MempoolChange;
use spindex::chain::rpc::mempool::{
    RawMempool, entry_time_from_json, raw_mempool_from_json, unspent_script_from_json,
};
use spindex::chain::zmq::sequence_change;

use super::answers::comes_back;

/// Whether the input is read.
pub(crate) fn check(input: &[u8]) -> bool {
    let Some((kind, rest)) = input.split_first() else {
        return false;
    };
    match kind % 4 {
        0 => body(rest),
        1 => comes_back(
            rest,
            |bytes| raw_mempool_from_json(bytes).map_err(|e| e.to_string()),
            |listed| Ok(list(listed)),
        ),
        2 => comes_back(
            rest,
            |bytes| unspent_script_from_json(bytes).map_err(|e| e.to_string()),
            |script| {
                Ok(match script {
                    Some(script) => {
                        format!("{{\"scriptPubKey\":{{\"hex\":\"{script:x}\"}}}}").into_bytes()
                    }
                    None => b"null".to_vec(),
                })
            },
        ),
        _ => comes_back(
            rest,
            |bytes| entry_time_from_json(bytes).map_err(|e| e.to_string()),
            |time| Ok(format!("{{\"time\":{time}}}").into_bytes()),
        ),
    }
}

/// What is read of a body is written back to the same bytes.
fn body(bytes: &[u8]) -> bool {
    let Some(change) = sequence_change(bytes) else {
        return false;
    };
    let (mut written, letter, sequence) = match change {
        MempoolChange::Accepted {
            txid,
            sequence,
            raw,
        } => {
            assert_eq!(raw, None);
            (txid.to_byte_array(), b'A', Some(sequence))
        }
        MempoolChange::Removed { txid, sequence } => (txid.to_byte_array(), b'R', Some(sequence)),
        MempoolChange::Connected(hash) => (hash.to_byte_array(), b'C', None),
        MempoolChange::Disconnected(hash) => (hash.to_byte_array(), b'D', None),
    };
    written.reverse();
    let mut written = [&written[..], &[letter]].concat();
    written.extend(sequence.into_iter().flat_map(u64::to_le_bytes));
    assert_eq!(written, bytes);
    true
}

fn list(listed: &RawMempool) -> Vec<u8> {
    let mut text = String::from("{\"txids\":[");
    for (at, txid) in listed.txids.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(text, "{comma}\"{txid}\"");
    }
    let _ = write!(text, "],\"mempool_sequence\":{}}}", listed.mempool_sequence);
    text.into_bytes()
}
