//! What a node publishes: a message is its topic, its body, and what counts the messages of the topic.

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Txid};

use crate::chain::mempool_signal::MempoolChange;

/// A new tip, but not while the node downloads the chain and not when a tip is taken back.
pub(super) const HASHBLOCK: &[u8] = b"hashblock";

/// Every block connected (`C`) or disconnected (`D`), and the mempool's comings (`A`) and goings (`R`).
pub(super) const SEQUENCE: &[u8] = b"sequence";

/// The bytes of every transaction accepted, and of all those of a block connected or disconnected.
pub(super) const RAWTX: &[u8] = b"rawtx";

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    topic: Vec<u8>,
    body: Vec<u8>,
    /// `None` where it is malformed.
    number: Option<u32>,
}

impl Message {
    /// From its frames, of which there is at least one.
    pub(super) fn new(frames: Vec<Vec<u8>>) -> Self {
        let mut frames = frames.into_iter();
        let mut next = || frames.next().unwrap_or_default();
        let (topic, body, number) = (next(), next(), next());
        Self {
            topic,
            body,
            number: number.try_into().ok().map(u32::from_le_bytes),
        }
    }

    /// Whether the tip may have changed.
    pub(super) fn tells_of_tip(&self) -> bool {
        match self.topic.as_slice() {
            HASHBLOCK => true,
            // A hash of 32 bytes and a letter.
            SEQUENCE => matches!(self.body.get(32), Some(b'C' | b'D')),
            _ => false,
        }
    }

    /// The bytes of a transaction, if that is what it has.
    pub(super) fn into_raw_transaction(self) -> Result<Vec<u8>, Self> {
        match self.topic.as_slice() {
            RAWTX => Ok(self.body),
            _ => Err(self),
        }
    }

    /// Number and content of a message of `sequence`; `None` for others.
    pub(super) fn change(&self) -> Option<(u32, MempoolChange)> {
        let body = (self.topic == SEQUENCE).then_some(&self.body)?;
        Some((self.number?, sequence_change(body)?))
    }
}

/// Reads the body of a message of the topic `sequence`: a hash in display order, a letter, and for `A` and `R` the sequence
/// number of the mempool, 8 bytes little-endian. `None` for anything else.
pub fn sequence_change(body: &[u8]) -> Option<MempoolChange> {
    let (hash, rest) = body.split_first_chunk::<32>()?;
    let mut hash = *hash;
    hash.reverse();
    let txid = Txid::from_byte_array(hash);
    let (letter, rest) = rest.split_first()?;
    let sequence = rest.try_into().ok().map(u64::from_le_bytes);
    match (letter, sequence) {
        (b'A', Some(sequence)) => Some(MempoolChange::Accepted {
            txid,
            sequence,
            raw: None,
        }),
        (b'R', Some(sequence)) => Some(MempoolChange::Removed { txid, sequence }),
        (b'C', None) if rest.is_empty() => {
            Some(MempoolChange::Connected(BlockHash::from_byte_array(hash)))
        }
        (b'D', None) if rest.is_empty() => Some(MempoolChange::Disconnected(
            BlockHash::from_byte_array(hash),
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(topic: &[u8], body: &[u8], number: &[u8]) -> Message {
        Message::new(vec![topic.to_vec(), body.to_vec(), number.to_vec()])
    }

    #[test]
    fn changes_of_the_mempool_are_read() {
        let mut hash = [0; 32];
        // Its display order ends with 01.
        hash[31] = 1;
        let shown = format!("{}01", "00".repeat(31));
        let with = |letter: u8, rest: &[u8]| [&hash[..], &[letter], rest].concat();
        let number = 7u32.to_le_bytes();
        let change = |body: &[u8]| of(SEQUENCE, body, &number).change();
        let eight = 0x0102_0304u64.to_le_bytes();
        let (sequence, txid) = (0x0102_0304, shown.parse().unwrap());
        assert_eq!(
            change(&with(b'A', &eight)),
            Some((
                7,
                MempoolChange::Accepted {
                    txid,
                    sequence,
                    raw: None
                }
            ))
        );
        assert_eq!(
            change(&with(b'R', &eight)),
            Some((7, MempoolChange::Removed { txid, sequence }))
        );
        assert_eq!(
            change(&with(b'C', b"")),
            Some((7, MempoolChange::Connected(shown.parse().unwrap())))
        );
        assert_eq!(
            change(&with(b'D', b"")),
            Some((7, MempoolChange::Disconnected(shown.parse().unwrap())))
        );
        for malformed in [
            with(b'A', b""),
            with(b'A', &[0; 7]),
            with(b'R', &[0; 9]),
            with(b'C', &eight),
            with(b'D', &[0]),
            with(b'X', &eight),
            hash.to_vec(),
            Vec::new(),
        ] {
            assert_eq!(change(&malformed), None, "{malformed:?}");
        }
        let body = with(b'A', &eight);
        assert_eq!(of(SEQUENCE, &body, &[0; 3]).change(), None);
        assert_eq!(of(b"hashtx", &body, &number).change(), None);
        assert_eq!(of(RAWTX, &body, &number).into_raw_transaction(), Ok(body));
    }

    #[test]
    fn messages_about_blocks_are_told_from_others() {
        let hash = [7; 32];
        let with = |letter: u8| [&hash[..], &[letter], &[0; 8]].concat();
        for (frames, tells) in [
            (vec![HASHBLOCK, &hash, &[0; 4]], true),
            (vec![SEQUENCE, &with(b'C'), &[0; 4]], true),
            (vec![SEQUENCE, &with(b'D'), &[0; 4]], true),
            (vec![SEQUENCE, &with(b'A'), &[0; 4]], false),
            (vec![SEQUENCE, &with(b'R'), &[0; 4]], false),
            (vec![SEQUENCE, &hash, &[0; 4]], false),
            (vec![SEQUENCE], false),
            (vec![b"hashtx", &hash, &[0; 4]], false),
        ] {
            let message = Message::new(frames.iter().map(|frame| frame.to_vec()).collect());
            assert_eq!(message.tells_of_tip(), tells, "{frames:?}");
        }
    }
}
