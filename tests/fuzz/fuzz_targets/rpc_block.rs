//! The result of `getblock` with verbosity 3 for a block of the simulated chain.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spindex::BlockId;
use spindex::chain::rpc_source::block_from_rpc_json;
use spindex::chain::simulated::{SimulatedChain, SimulationSettings};

/// The block that results are taken to be of.
static BLOCK: LazyLock<BlockId> = LazyLock::new(|| {
    let chain = SimulatedChain::new(SimulationSettings {
        transactions_per_block: 3,
        ..SimulationSettings::default()
    });
    *chain.mine(112).last().expect("a block")
});

fuzz_target!(|result: &[u8]| {
    if let Ok(block) = block_from_rpc_json(*BLOCK, result) {
        assert_eq!(block.block.hash(), BLOCK.hash);
        for (tx, inputs) in block.spending_transactions() {
            assert_eq!(tx.inputs().len(), inputs.len());
            for (_, prevout) in inputs {
                assert!(prevout.created.is_none_or(|height| height <= BLOCK.height));
            }
        }
    }
});
