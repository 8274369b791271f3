use super::*;
use bitcoin::{Network, constants::genesis_block};

#[test]
fn a_quick_look_sees_what_the_row_says() {
    let block = genesis_block(Network::Regtest);
    let span = |first, count| Span { first, count };
    let row = BlockRow {
        header: block.header,
        hash: block.block_hash(),
        transactions: span(1, 2),
        outputs: span(0x03_0405_0607, 8),
        spends: span(9, 10),
        foreign: span(11, 9),
        new_utxos_filter: span(12, 13),
        spent_filter: span(25, 14),
    };
    let bytes = row.encode();
    assert_eq!(BlockRow::outputs_first(&bytes), row.outputs.first);
    assert_eq!(BlockRow::decode(&bytes), Ok(row));
}

#[test]
fn bounds_are_those_of_the_bytes() {
    assert_eq!(TRANSACTIONS_MAX, 0x100_0000_0000);
    assert_eq!(OUTPUTS_MAX, 0xff_ffff_ffff);
    assert_eq!(BLOCK_ITEMS_MAX, 1_048_576);
    assert_eq!(BLOCK_OUTPUTS_MAX, 65_535);
    assert_eq!(FILTER_BYTES_MAX, 16_777_216);
    assert_eq!(VALUE_MAX, 2_251_799_813_685_247);
    assert_eq!(VOUT_MAX, 2_097_151);
    assert_eq!(SPENT_CHUNK_BITS, 32_640);
    assert_eq!(LOCATOR_HASHES, 0x100_0000_0000);
    assert_eq!(BlockRow::BYTES, 176);
}

#[test]
fn rows_are_read_up_to_their_bounds() {
    let block = genesis_block(Network::Regtest);
    let up_to = |end: u64, count: u32| Span {
        first: end - u64::from(count),
        count,
    };
    let largest = BlockRow {
        header: block.header,
        hash: block.block_hash(),
        transactions: up_to(TRANSACTIONS_MAX, BLOCK_ITEMS_MAX),
        outputs: up_to(OUTPUTS_MAX, BLOCK_OUTPUTS_MAX),
        spends: up_to(OUTPUTS_MAX, BLOCK_ITEMS_MAX),
        foreign: up_to(OUTPUTS_MAX, BLOCK_ITEMS_MAX),
        new_utxos_filter: up_to(OUTPUTS_MAX, FILTER_BYTES_MAX),
        spent_filter: Span {
            first: OUTPUTS_MAX,
            count: FILTER_BYTES_MAX,
        },
    };
    assert_eq!(BlockRow::decode(&largest.encode()), Ok(largest.clone()));
    let spans: [fn(&mut BlockRow) -> &mut Span; 5] = [
        |row| &mut row.transactions,
        |row| &mut row.outputs,
        |row| &mut row.spends,
        |row| &mut row.foreign,
        |row| &mut row.new_utxos_filter,
    ];
    for span in spans {
        let mut beyond = largest.clone();
        span(&mut beyond).first += 1;
        let error = RowError::Value("a range beyond what its column can hold");
        assert_eq!(BlockRow::decode(&beyond.encode()), Err(error));
        let mut more = largest.clone();
        span(&mut more).first = 0;
        span(&mut more).count += 1;
        let error = RowError::Value("more items than a block can have");
        assert_eq!(BlockRow::decode(&more.encode()), Err(error));
    }
    let mut longer = largest;
    longer.spent_filter.count += 1;
    let error = RowError::Value("a filter longer than a block's can be");
    assert_eq!(BlockRow::decode(&longer.encode()), Err(error));
}
