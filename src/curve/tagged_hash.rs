//! BIP340 tagged hashes of one block, from the midstate of the tag.

use super::arch::Sha256Instructions;
use super::sha256::{BLOCK_BYTES, INITIAL_STATE, State, compress};

/// Longest message that fits a block with its padding: a bit, and 8 bytes of length.
const MAX_MESSAGE_BYTES: usize = BLOCK_BYTES - 9;

/// A hash function that has consumed `SHA256(tag) || SHA256(tag)` already.
#[derive(Clone, Copy)]
pub(crate) struct TaggedHash {
    midstate: State,
    instructions: Option<Sha256Instructions>,
}

impl TaggedHash {
    /// The hash with this tag, on the processor's own SHA instructions if it has them.
    ///
    /// # Panics
    /// If the tag is longer than 55 bytes.
    pub(crate) fn new(tag: &str) -> Self {
        Self::with_instructions(tag, Sha256Instructions::new())
    }

    fn with_instructions(tag: &str, instructions: Option<Sha256Instructions>) -> Self {
        let mut hash = Self {
            midstate: INITIAL_STATE,
            instructions,
        };
        let tag_hash = state_to_bytes(&hash.one_block(tag.as_bytes(), tag.len()));
        let mut block = [0; BLOCK_BYTES];
        block[..32].copy_from_slice(&tag_hash);
        block[32..].copy_from_slice(&tag_hash);
        hash.midstate = hash.compress(&block);
        hash
    }

    /// The hash of a message of at most 55 bytes, as big-endian words.
    #[inline]
    pub(crate) fn hash<const BYTES: usize>(&self, message: &[u8; BYTES]) -> State {
        const { assert!(BYTES <= MAX_MESSAGE_BYTES) }
        self.one_block(message, BLOCK_BYTES + BYTES)
    }

    /// The state after `message` and its padding, if `total_bytes` have been hashed then.
    #[inline]
    fn one_block(&self, message: &[u8], total_bytes: usize) -> State {
        let mut block = [0; BLOCK_BYTES];
        block[..message.len()].copy_from_slice(message);
        block[message.len()] = 0x80;
        block[BLOCK_BYTES - 8..].copy_from_slice(&(8 * total_bytes as u64).to_be_bytes());
        self.compress(&block)
    }

    #[inline]
    fn compress(&self, block: &[u8; BLOCK_BYTES]) -> State {
        match self.instructions {
            Some(instructions) => instructions.compress(&self.midstate, block),
            None => compress(&self.midstate, block),
        }
    }
}

/// 32 bytes of a state: its words, big-endian.
fn state_to_bytes(state: &State) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (chunk, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *chunk = word.to_be_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use secp256k1::hashes::{Hash, sha256};

    /// The definition, on another library.
    fn slow(tag: &str, message: &[u8]) -> [u8; 32] {
        let tag = sha256::Hash::hash(tag.as_bytes()).to_byte_array();
        sha256::Hash::hash(&[&tag, &tag, message].concat()).to_byte_array()
    }

    #[test]
    fn the_longest_message_leaves_room_for_its_padding() {
        assert_eq!(MAX_MESSAGE_BYTES + 1 + 8, 64);
    }

    proptest! {
        #[test]
        fn both_compressions_equal_the_definition(tag in "[ -~]{0,55}", message in any::<[u8; 32]>()) {
            for instructions in [None, Sha256Instructions::new()] {
                let hash = TaggedHash::with_instructions(&tag, instructions);
                prop_assert_eq!(state_to_bytes(&hash.hash(&message)), slow(&tag, &message));
                prop_assert_eq!(state_to_bytes(&hash.hash(&[])), slow(&tag, &[]));
                let longest: [u8; MAX_MESSAGE_BYTES] = std::array::from_fn(|i| message[i % 32]);
                prop_assert_eq!(state_to_bytes(&hash.hash(&longest)), slow(&tag, &longest));
            }
        }
    }
}
