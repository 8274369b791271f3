use bitcoin::consensus::deserialize;
use bitcoin::{Amount, TxOut, Witness};
use proptest::prelude::*;

use super::*;
use crate::chain::made::simulated::{SimulatedChain, SimulationSettings};

/// A block with inputs of every kind.
fn block() -> Block {
    let chain = SimulatedChain::new(SimulationSettings::default());
    let id = *chain.mine(140).last().unwrap();
    chain.stored_block(id.hash).unwrap().block.clone()
}

/// Everything the views say is what the `bitcoin` crate reads.
fn assert_same(raw: &RawBlock, block: &Block) {
    assert_eq!(raw.header(), &block.header);
    assert_eq!(raw.hash(), block.block_hash());
    assert_eq!(raw.as_bytes(), serialize(block));
    assert_eq!(raw.transactions().len(), block.txdata.len());
    assert!(raw.transaction(block.txdata.len()).is_none());
    assert_eq!(&raw.decode().unwrap(), block);
    let inputs = block.txdata.iter().map(|tx| tx.input.len());
    assert_eq!(raw.input_count(), inputs.sum::<usize>());
    for (index, (raw, tx)) in raw.transactions().zip(&block.txdata).enumerate() {
        assert_eq!(raw.index(), index);
        assert_eq!(raw.txid(), tx.compute_txid());
        assert_eq!(raw.wtxid(), tx.compute_wtxid());
        assert_eq!(raw.as_bytes(), serialize(tx));
        assert_eq!(&raw.decode().unwrap(), tx);
        assert_eq!(raw.is_coinbase(), tx.is_coinbase());
        let has_witness = tx.input.iter().any(|input| !input.witness.is_empty());
        assert_eq!(raw.has_witness(), has_witness);
        assert_eq!(raw.inputs().len(), tx.input.len());
        for (raw, input) in raw.inputs().zip(&tx.input) {
            assert_eq!(raw.previous_output(), input.previous_output);
            assert_eq!(raw.script_sig(), &*input.script_sig);
            assert!(raw.witness().eq(&input.witness));
        }
        let outputs = raw.outputs().map(|output| TxOut {
            value: Amount::from_sat(output.value_sat()),
            script_pubkey: output.script_pubkey().to_owned(),
        });
        assert!(outputs.eq(tx.output.iter().cloned()));
    }
}

/// Whether the `bitcoin` crate takes bytes and this module should not: amounts beyond all money, and transactions
/// without inputs, which Bitcoin Core has no encoding for.
fn refused_here_alone(block: &Block) -> bool {
    block.txdata.iter().any(|tx| {
        let too_much = |output: &TxOut| output.value > Amount::MAX_MONEY;
        tx.input.is_empty() || tx.output.iter().any(too_much)
    })
}

#[test]
fn a_block_reads_as_the_library_reads_it() {
    let block = block();
    assert!(block.txdata.len() > 4);
    assert_same(&RawBlock::from(&block), &block);
}

#[test]
fn the_genesis_block_has_no_witness() {
    let block = bitcoin::constants::genesis_block(bitcoin::Network::Bitcoin);
    assert_same(&RawBlock::from(&block), &block);
}

#[test]
fn witnesses_of_any_number_and_length() {
    let mut block = block();
    let tx = &mut block.txdata[1];
    let input = tx.input[0].clone();
    tx.input = (0..5)
        .map(|items: usize| {
            let mut input = input.clone();
            // Long enough for each form of a length.
            let lengths = [0, 252, 253, 70_000];
            let items: Vec<Vec<u8>> = lengths[..items].iter().map(|n| vec![0x50; *n]).collect();
            input.witness = Witness::from_slice(&items);
            input
        })
        .collect();
    assert_same(&RawBlock::from(&block), &block);
}

#[test]
fn every_cut_and_surplus_is_refused() {
    let bytes = serialize(&block());
    for length in 0..bytes.len() {
        let error = RawBlock::parse(bytes[..length].to_vec()).unwrap_err();
        assert_eq!(error.total_bytes, length);
        assert!(error.offset <= length, "{error}");
    }
    let error = RawBlock::parse([&bytes[..], &[0]].concat()).unwrap_err();
    assert_eq!(error.offset, bytes.len());
    assert_eq!(error.what, "bytes left over after the block");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Some bytes of a good block changed: both readers refuse, or both read the same.
    #[test]
    fn a_damaged_block_is_read_or_refused_as_by_the_library(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        static BLOCK: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| serialize(&block()));
        let mut bytes = BLOCK.clone();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        match (RawBlock::parse(bytes.clone()), deserialize::<Block>(&bytes)) {
            (Ok(raw), Ok(block)) => assert_same(&raw, &block),
            (Err(_), Err(_)) => {}
            (Err(error), Ok(block)) => prop_assert!(refused_here_alone(&block), "{error}"),
            (Ok(_), Err(error)) => prop_assert!(false, "only the library refuses: {error}"),
        }
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = RawBlock::parse(bytes);
    }
}
