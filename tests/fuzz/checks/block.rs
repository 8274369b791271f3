//! A block's bytes: read as the `bitcoin` crate reads them, or refused by both. What only one refuses is listed here.

use bitcoin::consensus::deserialize;
use bitcoin::{Amount, Block, Transaction};
use spindex::chain::RawBlock;

/// Whether the bytes are a block.
pub(crate) fn check(bytes: &[u8]) -> bool {
    match (RawBlock::parse(bytes.to_vec()), deserialize::<Block>(bytes)) {
        (Err(_), Err(_)) => false,
        (Ok(raw), Ok(block)) => {
            same(&raw, &block);
            true
        }
        // Amounts beyond all money, and transactions without inputs, which no node can write.
        (Err(error), Ok(block)) => {
            let is_listed = |tx: &Transaction| {
                let mut outputs = tx.output.iter();
                tx.input.is_empty() || outputs.any(|output| output.value > Amount::MAX_MONEY)
            };
            assert!(block.txdata.iter().any(is_listed), "{error}");
            false
        }
        (Ok(_), Err(error)) => panic!("only the library refuses: {error}"),
    }
}

fn same(raw: &RawBlock, block: &Block) {
    assert_eq!(raw.header(), &block.header);
    assert_eq!(raw.transactions().len(), block.txdata.len());
    for (raw, tx) in raw.transactions().zip(&block.txdata) {
        assert_eq!(raw.txid(), tx.compute_txid());
        assert_eq!(raw.wtxid(), tx.compute_wtxid());
        assert_eq!(raw.inputs().len(), tx.input.len());
        for (raw, input) in raw.inputs().zip(&tx.input) {
            assert_eq!(raw.previous_output(), input.previous_output);
            assert_eq!(raw.script_sig(), &*input.script_sig);
            assert!(raw.witness().eq(&input.witness));
        }
        assert_eq!(raw.outputs().len(), tx.output.len());
        for (raw, output) in raw.outputs().zip(&tx.output) {
            assert_eq!(raw.value_sat(), output.value.to_sat());
            assert_eq!(raw.script_pubkey(), &*output.script_pubkey);
        }
    }
}
