//! The first bytes of a block: as much of it as is read to know which blocks there are.

use bitcoin::block::Header;
use bitcoin::consensus::{Decodable, deserialize};
use bitcoin::{Script, Target, VarInt};

use crate::chain::parse::height_at_start;

/// Bytes of a block header.
pub const HEADER_BYTES: usize = 80;

/// First bytes of a block that hold all that [`parse_head`] reads: header, number of transactions (9), and of the
/// coinbase its version (4), segwit marker (2), number of inputs (1), outpoint (36), script length (up to 9) and height
/// (up to 5).
pub const HEAD_BYTES: usize = HEADER_BYTES + 9 + 4 + 2 + 1 + 36 + 9 + 5;

/// What the first bytes of a block tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The header.
    pub header: Header,
    /// Number of transactions, the coinbase among them.
    pub transactions: u32,
    /// The height that the coinbase names (BIP34), in blocks of version 2 or above.
    pub claimed_height: Option<u32>,
}

/// Reads the first bytes of a block. `None` if they are none: cut short, without transactions, or without the proof of
/// work of at most `easiest` that a block of the network has.
pub fn parse_head(bytes: &[u8], easiest: Target) -> Option<Head> {
    let (header, mut rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let header: Header = deserialize(header).ok()?;
    let target = header.target();
    if target > easiest || header.validate_pow(target).is_err() {
        return None;
    }
    let VarInt(transactions) = VarInt::consensus_decode(&mut rest).ok()?;
    let transactions = u32::try_from(transactions)
        .ok()
        .filter(|count| *count > 0)?;
    let names_height = header.version.to_consensus() >= 2;
    Some(Head {
        header,
        transactions,
        claimed_height: names_height.then(|| coinbase_height(rest)).flatten(),
    })
}

/// The height at the start of the coinbase's script; `coinbase` are the transaction's bytes, of which the end may be missing.
fn coinbase_height(coinbase: &[u8]) -> Option<u32> {
    let (_version, rest) = coinbase.split_at_checked(4)?;
    // Marker and flag of a transaction with witnesses.
    let rest = rest.strip_prefix(&[0, 1]).unwrap_or(rest);
    let rest = rest.strip_prefix(&[1])?;
    let (_outpoint, mut rest) = rest.split_at_checked(36)?;
    let VarInt(length) = VarInt::consensus_decode(&mut rest).ok()?;
    let length = rest.len().min(usize::try_from(length).ok()?);
    height_at_start(Script::from_bytes(rest.get(..length)?))
}

#[cfg(test)]
mod tests {
    use bitcoin::Network;
    use bitcoin::consensus::serialize;
    use bitcoin::constants::genesis_block;

    use super::*;
    use crate::chain::made::simulated::{SimulatedChain, SimulationSettings};

    #[test]
    fn heads_are_read_from_the_first_bytes_alone() {
        let easiest = bitcoin::consensus::Params::new(Network::Regtest).max_attainable_target;
        let chain = SimulatedChain::new(SimulationSettings::default());
        chain.mine(300);
        for block in chain.active_blocks() {
            let bytes = serialize(&block.block);
            let head = parse_head(&bytes[..bytes.len().min(HEAD_BYTES)], easiest).unwrap();
            assert_eq!(head.header, block.block.header);
            assert_eq!(head.transactions as usize, block.block.txdata.len());
            // The genesis block is of version 1.
            let wanted = (block.id.height > 0).then_some(block.id.height);
            assert_eq!(head.claimed_height, wanted);
            for length in 0..=HEADER_BYTES {
                assert_eq!(parse_head(&bytes[..length], easiest), None);
            }
        }
        for network in [
            Network::Bitcoin,
            Network::Testnet,
            Network::Testnet4,
            Network::Signet,
            Network::Regtest,
        ] {
            let genesis = genesis_block(network);
            let easiest = bitcoin::consensus::Params::new(network).max_attainable_target;
            let head = parse_head(&serialize(&genesis), easiest).unwrap();
            assert_eq!(head.header, genesis.header, "{network}");
        }
        let block = &chain.active_blocks()[7].block;
        let bytes = serialize(block);
        // Too little work for the network, work that was not done, no transactions.
        assert_eq!(
            parse_head(
                &bytes,
                bitcoin::consensus::Params::new(Network::Bitcoin).max_attainable_target
            ),
            None
        );
        let mut worthless = block.header;
        while worthless.validate_pow(worthless.target()).is_ok() {
            worthless.nonce += 1;
        }
        let worthless = [serialize(&worthless), bytes[80..].to_vec()].concat();
        assert_eq!(parse_head(&worthless, easiest), None);
        let mut empty = bytes.clone();
        empty[80] = 0;
        assert_eq!(parse_head(&empty, easiest), None);
    }
}
