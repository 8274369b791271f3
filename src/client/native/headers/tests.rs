use bitcoin::TxMerkleNode;
use bitcoin::block::Version;
use bitcoin::hashes::Hash;

use super::*;

fn header(before: BlockHash, time: u32, bits: u32) -> Header {
    Header {
        version: Version::ONE,
        prev_blockhash: before,
        merkle_root: TxMerkleNode::all_zeros(),
        time,
        bits: CompactTarget::from_consensus(bits),
        nonce: 0,
    }
}

/// A period of mainnet whose first and last block have these times, up to its last block.
fn period(first_height: u32, times: [u32; 2], bits: u32, from: u32) -> HeaderChain {
    let mut chain = HeaderChain::new(Network::Bitcoin);
    let mut before = BlockHash::all_zeros();
    for height in from..first_height + 2016 {
        let time = match height - first_height {
            2015 => times[1],
            since => times[0] + since,
        };
        let header = header(before, time, bits);
        assert_eq!(chain.take(height, &header), Ok(()), "{height}");
        before = header.block_hash();
    }
    chain
}

/// Periods of mainnet, as the tests of Bitcoin Core have them (`pow_tests.cpp`): first height, times of the first and the
/// last block, bits, and those of the next period.
const PERIODS: [(u32, [u32; 2], u32, u32); 3] = [
    (
        30_240,
        [1_261_130_161, 1_262_152_739],
        0x1d00_ffff,
        0x1d00_d86a,
    ),
    // As far down, and up, as one change goes.
    (
        66_528,
        [1_279_008_237, 1_279_297_671],
        0x1c05_a3f4,
        0x1c01_68fd,
    ),
    (
        46_368,
        [1_263_163_443, 1_269_211_443],
        0x1c38_7f6f,
        0x1d00_e1fd,
    ),
];

fn next(chain: &HeaderChain, height: u32, bits: u32) -> Result<(), Broken> {
    let last = chain.last.unwrap();
    let mut chain = chain.clone();
    chain.take(height, &header(last.hash, last.time + 600, bits))
}

#[test]
fn the_target_changes_by_the_time_of_its_period() {
    for (first, times, bits, expected) in PERIODS {
        let next_height = first + 2016;
        let chain = period(first, times, bits, first);
        assert_eq!(next(&chain, next_height, expected), Ok(()));
        for wrong in [bits, expected + 1, expected - 1] {
            let broken = next(&chain, next_height, wrong);
            assert!(matches!(broken, Err(Broken::Rule(_))), "{wrong:x}");
        }
        // Without the first block only the bounds of a change are known.
        let chain = period(first, times, bits, first + 1);
        assert_eq!(next(&chain, next_height, expected), Ok(()));
        assert_eq!(next(&chain, next_height, bits), Ok(()));
        for wrong in [bits - (2 << 24), bits + (2 << 24)] {
            let broken = next(&chain, next_height, wrong);
            assert!(matches!(broken, Err(Broken::Rule(_))), "{wrong:x}");
        }
    }
}

#[test]
fn within_a_period_and_on_regtest_the_target_stays() {
    for network in [Network::Bitcoin, Network::Signet, Network::Regtest] {
        let mut chain = HeaderChain::new(network);
        let first = header(BlockHash::all_zeros(), 1000, 0x1c05_a3f4);
        assert_eq!(chain.take(2014, &first), Ok(()));
        let broken = next(&chain, 2015, 0x1c05_a3f3);
        assert!(matches!(broken, Err(Broken::Rule(_))), "{network}");
        assert_eq!(next(&chain, 2015, 0x1c05_a3f4), Ok(()));
    }
    // Where a block may have the least difficulty after some time, no rule is known.
    let mut chain = HeaderChain::new(Network::Testnet);
    let first = header(BlockHash::all_zeros(), 1000, 0x1c05_a3f4);
    assert_eq!(chain.take(2014, &first), Ok(()));
    assert_eq!(next(&chain, 2015, 0x1d00_ffff), Ok(()));
}

#[test]
fn a_header_is_on_top_of_the_last_one_and_later_than_most_before_it() {
    let mut chain = HeaderChain::new(Network::Regtest);
    let mut before = BlockHash::all_zeros();
    // Not in order, as it may be.
    for (height, time) in (0..).zip([50, 10, 20, 30, 40, 60, 70, 80, 90, 100, 110]) {
        let header = header(before, time, 0x207f_ffff);
        assert_eq!(chain.take(height, &header), Ok(()));
        before = header.block_hash();
    }
    let other = header(BlockHash::all_zeros(), 200, 0x207f_ffff);
    assert_eq!(chain.take(11, &other), Err(Broken::Link));
    let early = chain.take(11, &header(before, 60, 0x207f_ffff));
    assert!(matches!(early, Err(Broken::Rule(what)) if what.contains("60")));
    assert_eq!(chain.take(11, &header(before, 61, 0x207f_ffff)), Ok(()));
}
