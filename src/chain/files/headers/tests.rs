use bitcoin::constants::genesis_block;
use bitcoin::{Network, TxMerkleNode};

use super::*;

/// A block of a made-up chain; hashes are those of the headers, which have no proof of work.
#[derive(Debug, Clone)]
struct Made {
    hash: BlockHash,
    head: Head,
    location: Location,
}

fn made(parent: BlockHash, number: u32, bits: u32) -> Made {
    let mut header = genesis_block(Network::Regtest).header;
    header.prev_blockhash = parent;
    header.merkle_root = TxMerkleNode::all_zeros();
    header.nonce = number;
    header.bits = bitcoin::CompactTarget::from_consensus(bits);
    Made {
        hash: header.block_hash(),
        head: Head {
            header,
            transactions: number + 1,
            claimed_height: None,
        },
        location: location(number),
    }
}

fn location(number: u32) -> Location {
    Location {
        file: number / 10,
        offset: 8 + number,
        length: 100,
    }
}

const EASY: u32 = 0x207f_ffff;
const HARD: u32 = 0x201f_ffff;

/// `count` blocks on `parent`, numbered from `first`.
fn branch(parent: BlockHash, first: u32, count: u32, bits: u32) -> Vec<Made> {
    let mut parent = parent;
    (first..first + count)
        .map(|number| {
            let block = made(parent, number, bits);
            parent = block.hash;
            block
        })
        .collect()
}

fn insert(index: &mut HeaderIndex, blocks: &[Made]) {
    for block in blocks {
        index.insert(block.hash, &block.head, block.location);
    }
}

fn hash_at(index: &HeaderIndex, height: u32) -> Option<BlockHash> {
    index.id(index.on_chain(height)?).map(|id| id.hash)
}

#[test]
fn blocks_in_any_order_make_the_same_tree() {
    let genesis = made(BlockHash::all_zeros(), 0, EASY);
    let mut blocks = vec![genesis.clone()];
    blocks.extend(branch(genesis.hash, 1, 50, EASY));
    blocks.extend(branch(blocks[30].hash, 100, 25, EASY));
    // Fewer, but with more work.
    blocks.extend(branch(blocks[40].hash, 200, 8, HARD));
    let best = blocks.last().unwrap().clone();
    for step in [1, 5, 11, 83] {
        let mut index = HeaderIndex::new(genesis.hash);
        for n in 0..blocks.len() {
            insert(&mut index, &blocks[n * step % blocks.len()..][..1]);
        }
        assert_eq!(index.len(), blocks.len());
        let tip = index.best().unwrap();
        let id = BlockId {
            height: 48,
            hash: best.hash,
        };
        assert_eq!(index.id(tip), Some(id));
        for block in &blocks {
            let node = index.find(&block.hash).unwrap();
            let indexed = index.block(node).unwrap();
            assert_eq!(indexed.hash, block.hash);
            assert_eq!(indexed.parent, block.head.header.prev_blockhash);
            assert_eq!(indexed.transactions, block.head.transactions);
            assert_eq!(index.locations(node), [block.location]);
        }
        let fork = index.find(&blocks[31].hash).unwrap();
        assert_eq!(index.siblings(fork).len(), 2);
        assert_eq!(index.siblings(tip), [tip]);

        index.choose_chain(tip);
        assert_eq!(hash_at(&index, 0), Some(genesis.hash));
        assert_eq!(hash_at(&index, 40), Some(blocks[40].hash));
        assert_eq!(hash_at(&index, 48), Some(best.hash));
        assert_eq!(hash_at(&index, 49), None);
        let stale = index.find(&blocks[75].hash).unwrap();
        assert_eq!(index.id(stale).unwrap().height, 55);
        assert!(!index.is_on_chain(stale));
        let at = |height| Some(index.block(index.ancestor(stale, height)?)?.hash);
        assert_eq!(at(55), Some(blocks[75].hash));
        assert_eq!(at(31), Some(blocks[51].hash));
        assert_eq!(at(30), Some(blocks[30].hash));
        assert_eq!(at(56), None);

        // To a shorter branch and back.
        for block in [&blocks[75], &blocks[35], &genesis, &best] {
            index.choose_chain(index.find(&block.hash).unwrap());
            let tip = index.chain_tip().unwrap();
            assert_eq!(index.id(tip).unwrap().hash, block.hash);
            let height = index.id(tip).unwrap().height;
            assert_eq!(index.chain_downwards().count() as u32, height + 1);
            let mut below = index.chain_downwards().skip(1);
            assert_eq!(below.next(), index.parent(tip));
        }
    }
}

#[test]
fn of_equal_branches_the_one_found_first_is_best() {
    let genesis = made(BlockHash::all_zeros(), 0, EASY);
    let mut index = HeaderIndex::new(genesis.hash);
    let first = branch(genesis.hash, 1, 3, EASY);
    let second = branch(genesis.hash, 10, 3, EASY);
    insert(&mut index, &first[..2]);
    insert(&mut index, &second);
    insert(&mut index, &first[2..]);
    insert(&mut index, std::slice::from_ref(&genesis));
    assert_eq!(index.best(), index.find(&second[2].hash));
    insert(&mut index, &branch(first[2].hash, 20, 1, EASY));
    assert_eq!(index.id(index.best().unwrap()).unwrap().height, 4);
}

#[test]
fn a_block_that_is_gone_is_no_tip_until_it_is_found_again() {
    let genesis = made(BlockHash::all_zeros(), 0, EASY);
    let mut index = HeaderIndex::new(genesis.hash);
    let blocks = branch(genesis.hash, 1, 3, EASY);
    insert(&mut index, std::slice::from_ref(&genesis));
    insert(&mut index, &blocks);
    let tip = index.best().unwrap();
    let copy = location(77);
    index.insert(blocks[2].hash, &blocks[2].head, copy);
    index.insert(blocks[2].hash, &blocks[2].head, copy);
    assert_eq!(index.locations(tip), [blocks[2].location, copy]);
    index.forget(tip, blocks[2].location);
    assert_eq!(index.locations(tip), [copy]);
    assert_eq!(index.best(), Some(tip));
    index.forget(tip, copy);
    assert_eq!(index.locations(tip), []);
    assert_eq!(index.best(), index.find(&blocks[1].hash));
    index.insert(blocks[2].hash, &blocks[2].head, copy);
    assert_eq!(index.best(), Some(tip));
    // One below it.
    for (gone, best) in [(1, 0), (0, 4)] {
        let node = index.find(&blocks[gone].hash).unwrap();
        index.forget(node, blocks[gone].location);
        let hash = index.block(index.best().unwrap()).unwrap().hash;
        let wanted = blocks.get(best).unwrap_or(&genesis);
        assert_eq!(hash, wanted.hash);
    }
    insert(&mut index, &blocks[..2]);
    assert_eq!(index.best(), Some(tip));
}

/// A pruned folder: no genesis block, and the first blocks with holes between them.
#[test]
fn without_the_genesis_block_the_coinbases_name_the_heights() {
    let genesis = made(BlockHash::all_zeros(), 0, EASY);
    let mut blocks = branch(genesis.hash, 1, 60, EASY);
    for (height, block) in (1..).zip(&mut blocks) {
        block.head.claimed_height = Some(height);
    }
    let mut index = HeaderIndex::new(genesis.hash);
    insert(&mut index, &blocks[20..22]);
    insert(&mut index, &blocks[25..]);
    assert_eq!(index.best(), None);
    index.trust_claimed_heights();
    let tip = index.best().unwrap();
    assert_eq!(index.id(tip).unwrap().height, 60);
    index.choose_chain(tip);
    assert_eq!(hash_at(&index, 26), Some(blocks[25].hash));
    assert_eq!(hash_at(&index, 25), None);
    assert_eq!(index.ancestor(tip, 25), None);
    assert_eq!(index.chain_downwards().count(), 35);

    // The hole is filled: everything moves onto the longer branch.
    insert(&mut index, &blocks[22..25]);
    index.choose_chain(index.best().unwrap());
    assert_eq!(hash_at(&index, 21), Some(blocks[20].hash));
    assert_eq!(index.chain_downwards().count(), 40);
    let work = |index: &HeaderIndex| index.entry(tip).unwrap().work;
    assert_eq!(work(&index), 40 * 2);
    insert(&mut index, &blocks[..20]);
    insert(&mut index, &[genesis]);
    index.choose_chain(index.best().unwrap());
    assert_eq!(index.chain_downwards().count(), 61);
    assert_eq!(work(&index), 61 * 2);
}

/// A pruned folder with a hole: the part below it has more blocks, and is not the chain's end.
#[test]
fn of_separate_islands_the_one_that_reaches_highest_is_the_end() {
    let genesis = made(BlockHash::all_zeros(), 0, EASY);
    let mut blocks = branch(genesis.hash, 1, 60, EASY);
    // A stale branch of two blocks, on a block that is gone.
    let mut stale = branch(blocks[28].hash, 100, 2, HARD);
    for (height, block) in (1..).zip(&mut blocks).chain((30..).zip(&mut stale)) {
        block.head.claimed_height = Some(height);
    }
    let mut index = HeaderIndex::new(genesis.hash);
    insert(&mut index, &blocks[..20]);
    insert(&mut index, &stale);
    index.trust_claimed_heights();
    assert_eq!(index.best(), index.find(&stale[1].hash));
    insert(&mut index, &blocks[50..]);
    index.trust_claimed_heights();
    let tip = index.find(&blocks[59].hash).unwrap();
    assert_eq!(index.best(), Some(tip));
    assert_eq!(index.id(tip).unwrap().height, 60);
    // By height of the islands' ends, and in each by work.
    let order = index.stronger_than(None);
    let heights = order.iter().map(|node| index.id(*node).unwrap().height);
    let wanted = (51..=60).rev().chain([31, 30]).chain((1..=20).rev());
    assert!(heights.eq(wanted));
    assert!(index.stronger_than(Some(tip)).is_empty());
    let below = index.find(&blocks[57].hash).unwrap();
    assert_eq!(index.stronger_than(Some(below)).len(), 2);

    // One block on the lower part does not change it, and the hole filled neither.
    insert(&mut index, &blocks[20..21]);
    index.trust_claimed_heights();
    assert_eq!(index.best(), Some(tip));
    insert(&mut index, &blocks[21..50]);
    index.trust_claimed_heights();
    assert_eq!(index.best(), Some(tip));
    // The end that is gone is none.
    index.forget(tip, blocks[59].location);
    index.trust_claimed_heights();
    assert_eq!(index.best(), index.find(&blocks[58].hash));
}

#[test]
fn blocks_without_their_parent_are_loose() {
    let genesis = made(BlockHash::all_zeros(), 0, EASY);
    let mut blocks = branch(genesis.hash, 1, 20, EASY);
    for (height, block) in (1..).zip(&mut blocks) {
        block.head.claimed_height = Some(height);
    }
    let mut index = HeaderIndex::new(genesis.hash);
    insert(&mut index, &blocks[12..]);
    insert(&mut index, &[genesis]);
    insert(&mut index, &blocks[..10]);
    let root = index.find(&blocks[12].hash).unwrap();
    assert_eq!(index.loose(), [(root, Some(13))]);
    let above: Vec<_> = index.above(root).map(|(_, distance)| distance).collect();
    assert_eq!(above, (0..8).collect::<Vec<_>>());
    insert(&mut index, &blocks[10..12]);
    assert!(index.loose().is_empty());
    // The file with a block was written over.
    let gone = index.find(&blocks[4].hash).unwrap();
    index.forget(gone, blocks[4].location);
    let child = index.find(&blocks[5].hash).unwrap();
    assert_eq!(index.loose(), [(child, Some(6))]);
    assert_eq!(index.stronger_than(None).len(), 5);
}

/// Blocks below a trusted height, found later, claim none: they have theirs from the block above them.
#[test]
fn a_trusted_height_goes_for_the_blocks_below_too() {
    let mut blocks = branch(BlockHash::all_zeros(), 0, 8, EASY);
    for claimed in [5, 2, 0] {
        blocks[5].head.claimed_height = Some(claimed);
        let mut index = HeaderIndex::new(genesis_block(Network::Regtest).block_hash());
        insert(&mut index, &blocks[5..]);
        index.trust_claimed_heights();
        let tip = index.best().unwrap();
        index.choose_chain(tip);
        assert_eq!(index.id(tip).unwrap().height, claimed + 2);

        // The block in between comes last. Where the claim cannot be true, counting begins at 0.
        insert(&mut index, &[blocks[3].clone(), blocks[4].clone()]);
        let lowest = claimed.saturating_sub(2);
        index.choose_chain(index.best().unwrap());
        assert_eq!(index.chain_tip(), Some(tip));
        let heights = index
            .chain_downwards()
            .map(|node| index.id(node).unwrap().height);
        assert!(heights.eq((lowest..lowest + 5).rev()), "{claimed}");
        assert_eq!(index.entry(tip).unwrap().work, 5 * 2);
    }
}

/// Two hashes that begin alike.
#[test]
fn hashes_with_one_prefix_are_told_apart() {
    let genesis = made(BlockHash::all_zeros(), 0, EASY);
    let mut index = HeaderIndex::new(genesis.hash);
    let mut blocks = branch(genesis.hash, 1, 2, EASY);
    let mut twin = blocks[0].hash.to_byte_array();
    twin[31] ^= 1;
    blocks[1].hash = BlockHash::from_byte_array(twin);
    insert(&mut index, &blocks);
    twin[30] ^= 1;
    assert_eq!(index.find(&BlockHash::from_byte_array(twin)), None);
    for (node, block) in (0..).zip(&blocks) {
        assert_eq!(index.find(&block.hash), Some(node));
    }
}

#[test]
fn a_million_blocks_take_what_the_module_says() {
    assert_eq!(size_of::<Entry>(), 80);
    // A map's slot: key, value and a byte of control, of which 7 in 8 at most are taken.
    assert_eq!(size_of::<([u8; 8], Node)>(), 12);
    let genesis = made(BlockHash::all_zeros(), 0, EASY);
    let mut index = HeaderIndex::new(genesis.hash);
    let blocks = branch(genesis.hash, 1, 10_000, EASY);
    insert(&mut index, &blocks);
    assert!(index.entries.capacity() < 10_000 * 9 / 8 + 4096 * 2);
}

#[test]
fn work_beyond_all_bounds_is_the_most_there_is() {
    assert_eq!(work(Work::from_be_bytes([1; 32])), u128::MAX);
    let mut bytes = [0; 32];
    bytes[16..].copy_from_slice(&77u128.to_be_bytes());
    assert_eq!(work(Work::from_be_bytes(bytes)), 77);
}
