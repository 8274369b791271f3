//! The result of `getblock` with verbosity 3 for a block of the simulated chain.

use std::sync::LazyLock;

use bitcoin::Amount;
use spindex::BlockId;
use spindex::chain::made::simulated::{SimulatedChain, SimulationSettings};
use spindex::chain::rpc_source::block_from_rpc_json;

/// The chain whose last block results are taken to be of.
pub(crate) fn chain() -> SimulatedChain {
    let chain = SimulatedChain::new(SimulationSettings {
        transactions_per_block: 3,
        ..SimulationSettings::default()
    });
    chain.mine(112);
    chain
}

static BLOCK: LazyLock<BlockId> = LazyLock::new(|| chain().tip_id());

/// Whether the result is one for the block.
pub(crate) fn check(result: &[u8]) -> bool {
    let Ok(block) = block_from_rpc_json(*BLOCK, result) else {
        return false;
    };
    assert_eq!(block.block.hash(), BLOCK.hash);
    for (tx, inputs) in block.spending_transactions() {
        assert_eq!(tx.inputs().len(), inputs.len());
        for (_, prevout) in inputs {
            assert!(prevout.value_sat <= Amount::MAX_MONEY.to_sat());
            assert!(prevout.created.is_some_and(|height| height <= BLOCK.height));
        }
    }
    true
}
