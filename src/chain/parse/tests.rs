use std::path::PathBuf;

use bitcoin::consensus::serialize;
use bitcoin::constants::genesis_block;
use bitcoin::{Amount, Network, ScriptBuf, TxOut};
use proptest::prelude::*;

use super::*;
use crate::chain::made::simulated::{SimulatedBlock, SimulatedChain, SimulationSettings};

/// Encoded by `bitcoin`'s own code, not by this module.
fn encode_spent(prevouts: &Vec<Vec<TxOut>>) -> Vec<u8> {
    let mut bytes = serialize(&bitcoin::VarInt::from(prevouts.len()));
    for spent in prevouts {
        bytes.extend(serialize(spent));
    }
    bytes
}

fn simulated_block() -> SimulatedBlock {
    let chain = SimulatedChain::new(SimulationSettings::default());
    let id = *chain.mine(130).last().unwrap();
    SimulatedBlock::clone(&chain.stored_block(id.hash).unwrap())
}

#[test]
fn a_block_and_its_spent_outputs_round_trip() {
    let wanted = simulated_block();
    assert!(wanted.block.txdata.len() > 3);
    let (block, spent) = (serialize(&wanted.block), encode_spent(&wanted.prevouts));
    // The height is read from the coinbase.
    assert_eq!(
        block_from_rest_bytes(None, &block, &spent),
        wanted.with_prevouts()
    );
    let given = block_from_rest_bytes(Some(7), &block, &spent).unwrap();
    assert_eq!(
        given.id,
        BlockId {
            height: 7,
            ..wanted.id
        }
    );
}

#[test]
fn heights_are_read_from_coinbases_of_all_sizes() {
    let chain = SimulatedChain::new(SimulationSettings::default());
    chain.mine(300);
    for block in chain.active_blocks() {
        let (bytes, spent) = (serialize(&block.block), encode_spent(&block.prevouts));
        assert_eq!(
            block_from_rest_bytes(None, &bytes, &spent).unwrap().id,
            block.id
        );
    }
    // Mainnet's genesis block says nothing, and is version 1.
    let genesis = serialize(&genesis_block(Network::Bitcoin));
    assert_eq!(
        block_from_rest_bytes(None, &genesis, &[1, 0])
            .unwrap()
            .id
            .height,
        0
    );
}

#[test]
fn every_cut_and_every_surplus_is_an_error_that_says_where() {
    let whole = simulated_block();
    let (block, spent) = (serialize(&whole.block), encode_spent(&whole.prevouts));
    for length in 0..spent.len() {
        let error = parse_spent_outputs(&spent[..length]).unwrap_err();
        assert!(
            error.offset <= length && error.total_bytes == length,
            "{error}"
        );
    }
    for length in 0..block.len() {
        let error = RawBlock::parse(block[..length].to_vec()).unwrap_err();
        assert!(
            error.offset <= length && error.total_bytes == length,
            "{error}"
        );
    }
    let surplus = |bytes: &[u8]| [bytes, &[0]].concat();
    assert_eq!(
        parse_spent_outputs(&surplus(&spent))
            .unwrap_err()
            .to_string(),
        format!(
            "bytes left over after the spent outputs at byte {} of {}",
            spent.len(),
            spent.len() + 1
        )
    );
    assert_eq!(
        RawBlock::parse(surplus(&block)).unwrap_err().offset,
        block.len()
    );
}

#[test]
fn counts_that_cannot_be_true_are_refused_before_anything_is_allocated() {
    let huge = [0xff; 9];
    let text = parse_spent_outputs(&huge).unwrap_err().to_string();
    assert_eq!(
        text,
        "cut short: 18446744073709551615 transactions announced, at most 0 could follow at byte 0 of 9"
    );
    // One transaction with 2^32 - 1 outputs; then one output with a script of 65,535 bytes.
    assert!(parse_spent_outputs(&[1, 0xfe, 0xff, 0xff, 0xff, 0xff]).is_err());
    let script = [&[1, 1][..], &[0; 8], &[0xfd, 0xff, 0xff], &[0; 100]].concat();
    assert!(
        parse_spent_outputs(&script)
            .unwrap_err()
            .to_string()
            .contains("65535 script bytes announced, at most 100 could follow at byte 10")
    );
}

#[test]
fn counts_and_amounts_have_one_form() {
    assert_eq!(parse_spent_outputs(&[0xfd, 1, 0, 0]).unwrap_err().offset, 0);
    assert_eq!(parse_spent_outputs(&[1, 0]).unwrap().decode(), [[]]);
    let too_much = [&[1, 1][..], &(-1i64).to_le_bytes(), &[0]].concat();
    let error = parse_spent_outputs(&too_much).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is no amount in satoshi at byte 2"),
        "{error}"
    );
    let all_money = [&[1, 1][..], &2_100_000_000_000_000u64.to_le_bytes(), &[0]].concat();
    assert_eq!(
        parse_spent_outputs(&all_money).unwrap().decode()[0][0].value,
        Amount::MAX_MONEY
    );
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(spent) = parse_spent_outputs(&bytes) {
            prop_assert_eq!(encode_spent(&spent.decode()), bytes);
        }
    }

    #[test]
    fn any_spent_outputs_round_trip(
        sizes in proptest::collection::vec(
            proptest::collection::vec((0..2_100_000_000_000_000u64, 0..600usize), 0..6), 0..300)
    ) {
        let prevouts: Vec<Vec<TxOut>> = sizes
            .into_iter()
            .map(|outputs| outputs
                .into_iter()
                .map(|(value_sat, length)| TxOut {
                    value: Amount::from_sat(value_sat),
                    script_pubkey: ScriptBuf::from_bytes(vec![0x51; length]),
                })
                .collect())
            .collect();
        let parsed = parse_spent_outputs(&encode_spent(&prevouts)).unwrap();
        prop_assert_eq!(parsed.decode(), prevouts);
    }
}

/// Real data. The numbers were published with it.
#[test]
fn mainnet_block_866342() {
    let folder = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../shared/data/mainnet-866342"
    ));
    if !folder.exists() {
        println!("skipped: ../shared/data is missing");
        return;
    }
    let read = |name: &str| {
        let packed = std::fs::File::open(folder.join(name)).unwrap();
        zstd::decode_all(packed).unwrap()
    };
    let (block, spent) = (read("block.bin.zst"), read("spenttxouts.bin.zst"));
    let joined = block_from_rest_bytes(None, &block, &spent).unwrap();
    assert_eq!(
        joined.id.to_string(),
        "866342 (000000000000000000014ce9ba7c6760053c3c82ce6ab43d60afb101d3c8f1f1)"
    );
    let (block, prevouts) = (joined.block.decode().unwrap(), joined.prevouts.decode());
    assert_eq!(block.txdata.len(), 4_864);
    assert_eq!(prevouts.iter().map(Vec::len).sum::<usize>(), 7_972);
    let outputs = block.txdata.iter().flat_map(|tx| &tx.output);
    let taproot = outputs.filter(|output| output.script_pubkey.is_p2tr());
    assert_eq!(taproot.count(), 2_757);
    let txids = joined.block.transactions().map(|tx| tx.txid());
    assert!(txids.eq(block.txdata.iter().map(|tx| tx.compute_txid())));
    // Paid out is what was put in, the subsidy of 3.125 BTC and no fee lost.
    let values = |outputs: &[TxOut]| {
        outputs
            .iter()
            .map(|output| output.value.to_sat())
            .sum::<u64>()
    };
    let spent: u64 = prevouts.iter().map(|spent| values(spent)).sum();
    let paid: u64 = block.txdata.iter().map(|tx| values(&tx.output)).sum();
    assert_eq!(paid, spent + 312_500_000);
}
