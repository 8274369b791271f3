//! Which block is the tip where several branches are in the files.

use std::sync::Arc;

use bitcoin::{Block, Network};
use spindex::BlockId;
use spindex::chain::BlockSource;
use spindex::chain::made::simulated::{Orphaned, SimulatedChain, SimulationSettings};

use super::folder::blocks_folder;
use super::scene::{files, files_with, id_of, rest};
use crate::support::index::fresh_content;
use crate::support::node::TestNode;

fn mine(block: &mut Block) {
    while block.header.validate_pow(block.header.target()).is_err() {
        block.header.nonce = block.header.nonce.wrapping_add(1);
    }
}

/// Blocks like these, of which the first gives its miner too much: a node sees that only when it connects it.
fn overpaid(blocks: &[Block]) -> Vec<Block> {
    let mut made: Vec<Block> = Vec::new();
    for block in blocks {
        let mut block = block.clone();
        match made.last() {
            None => {
                let output = &mut block.txdata[0].output[0];
                output.value += bitcoin::Amount::ONE_BTC;
                block.header.merkle_root = block.compute_merkle_root().unwrap();
            }
            Some(parent) => block.header.prev_blockhash = parent.block_hash(),
        }
        mine(&mut block);
        made.push(block);
    }
    made
}

/// A node stores a branch with more work than its own, tries to connect it, and stays where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_heavier_branch_that_the_node_rejects_changes_nothing() {
    let node = TestNode::start(&[]);
    let folder = blocks_folder(&node);
    let chain = SimulatedChain::new(SimulationSettings {
        seed: 11,
        ..SimulationSettings::default()
    });
    chain.mine(110);
    node.submit_above(&chain, 0);
    let (alone, beside) = (files(&folder), files_with(&folder, &node.url()));
    for source in [&alone, &beside] {
        source.check(Network::Regtest).await.unwrap();
    }
    let honest = node.tip();

    let reorg = chain.reorganize(3, 4, Orphaned::Resubmit).unwrap();
    let above = chain.active_blocks().into_iter();
    let above = above.skip(reorg.fork.height as usize + 1);
    let side: Vec<Block> = above.map(|block| block.block.clone()).collect();
    for block in overpaid(&side) {
        // The last one makes the branch the heaviest.
        let _ = node.submit_block(&block);
    }
    assert_eq!(node.tip(), honest);
    let tips = node.call("getchaintips", &[]);
    let invalid = tips.as_array().unwrap().iter();
    let invalid = invalid.filter(|tip| tip["status"] == "invalid").count();
    assert_eq!(invalid, 1, "{tips}");

    for source in [&alone, &files(&folder), &beside] {
        assert_eq!(source.tip().await.unwrap(), honest);
        assert_eq!(source.block_at(honest.height).await, Ok(Some(honest)));
        assert_eq!(source.block_at(honest.height + 1).await, Ok(None));
    }
    let content = fresh_content(rest(&node.url())).await;
    assert_eq!(fresh_content(Arc::new(files(&folder))).await, content);

    // And the honest branch goes on.
    let script = bitcoin::ScriptBuf::new_op_return([]);
    for _ in 0..3 {
        node.mine(1, &script);
        for source in [&alone, &files(&folder), &beside] {
            assert_eq!(source.tip().await.unwrap(), node.tip());
        }
    }
}

/// What the files cannot tell: blocks and undo records stay as they are when a node gives up a branch by command.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_given_up_by_command_stays_until_another_has_more_work() {
    let node = TestNode::start(&[]);
    let folder = blocks_folder(&node);
    let script = |n: u8| bitcoin::ScriptBuf::new_op_return([n]);
    node.mine(20, &script(1));
    let (alone, beside) = (files(&folder), files_with(&folder, &node.url()));
    let old = alone.tip().await.unwrap();
    assert_eq!(old, node.tip());
    let given_up = node.mine(1, &script(2))[0];
    let given_up: BlockId = id_of(&node, given_up);
    node.invalidate_block(given_up.hash);
    assert_eq!(node.tip(), old);
    assert_eq!(beside.tip().await.unwrap(), old);
    for source in [&alone, &files(&folder)] {
        assert_eq!(source.tip().await.unwrap(), given_up);
    }
    // As much work, and then more.
    node.mine(1, &script(3));
    assert_eq!(beside.tip().await.unwrap(), node.tip());
    for source in [&alone, &files(&folder)] {
        assert_eq!(source.tip().await.unwrap(), given_up);
    }
    node.mine(1, &script(3));
    for source in [&alone, &files(&folder), &beside] {
        assert_eq!(source.tip().await.unwrap(), node.tip());
    }
}
