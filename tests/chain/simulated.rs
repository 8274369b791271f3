//! The simulated chain before the judge: a real node takes its blocks one by one and gives them back unchanged.

use bitcoin::consensus::serialize;
use spindex::BlockId;
use spindex::chain::BlockSource;
use spindex::chain::made::simulated::builder::InputKind;
use spindex::chain::made::simulated::{
    Orphaned, PaymentRequest, SimulatedChain, SimulationSettings,
};
use spindex::chain::rest::{RestSettings, RestSource};

use crate::support::node::TestNode;

fn chain_with_payments() -> SimulatedChain {
    let keys = |byte: u8| {
        let scan_key = spindex::bip352::keys::ScanKey::from_bytes([byte; 32]).unwrap();
        let spend_key = spindex::bip352::keys::SpendKey::from_bytes([byte + 1; 32]).unwrap();
        spindex::bip352::keys::ReceiverKeys::new(scan_key, spend_key.public_key(), [1])
    };
    let address = |byte: u8, label| {
        keys(byte)
            .address(label, bitcoin::Network::Regtest)
            .unwrap()
    };
    let chain = SimulatedChain::new(SimulationSettings {
        seed: 352,
        transactions_per_block: 10,
        recipients: vec![address(1, None), address(1, Some(1)), address(3, None)],
        payment_percent: 15,
    });
    chain.mine(101);
    for kind in InputKind::ALL.into_iter().filter(|kind| kind.yields_key()) {
        let request = PaymentRequest {
            recipients: vec![(address(1, None), 10_000), (address(1, None), 20_000)],
            inputs: vec![kind, InputKind::P2wsh],
            keep: vec![(kind, 3_000)],
            op_return: Some(vec![7; 32]),
            ..PaymentRequest::default()
        };
        chain.pay(&request).unwrap();
    }
    chain.mine(129);
    chain
}

fn submit(node: &TestNode, chain: &SimulatedChain, ids: &[BlockId]) -> Vec<Result<(), String>> {
    let block = |id: &BlockId| chain.stored_block(id.hash).unwrap();
    let submitted = ids.iter().map(|id| node.submit_block(&block(id).block));
    submitted.collect()
}

#[tokio::test]
async fn a_real_node_accepts_every_block_and_both_sources_agree() {
    let chain = chain_with_payments();
    let node = TestNode::start(&[]);

    let first: Vec<BlockId> = chain.active_blocks().iter().map(|block| block.id).collect();
    assert_eq!(first.len(), 231);
    for (id, result) in first[1..].iter().zip(submit(&node, &chain, &first[1..])) {
        assert_eq!(result, Ok(()), "block {id}");
    }
    assert_eq!(node.tip(), chain.tip_id());

    // The branch is inconclusive until it is the longer one.
    let fork = chain.reorganize(8, 10, Orphaned::Drop).unwrap();
    for (at, result) in (1..).zip(submit(&node, &chain, &fork.connected)) {
        let wanted = match at {
            1..=8 => Err("inconclusive".to_owned()),
            _ => Ok(()),
        };
        assert_eq!(result, wanted, "block {at} of the new branch");
    }
    assert_eq!(node.tip(), chain.tip_id());

    // Transactions that return to the mempool are mined again, and valid again.
    let fork = chain.reorganize(5, 12, Orphaned::Resubmit).unwrap();
    submit(&node, &chain, &fork.connected);
    assert_eq!(node.tip(), chain.tip_id());
    assert_eq!(node.tip().height, 239);

    let source = RestSource::new(RestSettings::new(node.url())).unwrap();
    source.check(bitcoin::Network::Regtest).await.unwrap();
    assert_eq!(source.tip().await.unwrap(), chain.tip_id());
    for wanted in chain.active_blocks() {
        let height = wanted.id.height;
        let id = source.block_at(height).await.unwrap().unwrap();
        assert_eq!(id, wanted.id);
        let block = source.block(id).await.unwrap();
        assert_eq!(block.block.as_bytes(), serialize(&wanted.block), "{id}");
        assert_eq!(block, wanted.with_prevouts().unwrap(), "{id}");
        assert_eq!(chain.block(id).await, wanted.with_prevouts(), "{id}");
    }
    assert_eq!(source.block_at(240).await.unwrap(), None);

    // A branch that was active once still has its spent outputs.
    let old = first[230];
    assert_eq!(
        source.block(old).await,
        chain.stored_block(old.hash).unwrap().with_prevouts()
    );
}
