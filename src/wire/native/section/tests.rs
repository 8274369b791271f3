use bitcoin::blockdata::constants::genesis_block;
use bitcoin::hex::FromHex;
use bitcoin::{BlockHash, Network};
use proptest::prelude::*;

use super::super::column::{Column, PartHead, PartWriter, split_part};
use super::*;
use crate::BlockId;

fn txid(byte: u8) -> Txid {
    Txid::from_byte_array([byte; 32])
}

#[test]
fn tweaks_are_x_coordinates_and_parities() {
    let tweaks: Vec<[u8; 33]> = (0..9)
        .map(|number| {
            let mut tweak = [number; 33];
            tweak[0] = if [1, 2, 8].contains(&number) { 3 } else { 2 };
            tweak
        })
        .collect();
    let mut section = Vec::new();
    write_tweaks(&tweaks, &mut section);
    assert_eq!(section.len(), 9 * 32 + 2);
    assert_eq!(&section[32..64], &[1; 32]);
    assert_eq!(&section[288..], &[0b0000_0110, 0b1]);
    assert_eq!(read_tweaks(&section), Ok(tweaks));

    section[289] |= 0b10;
    assert!(
        read_tweaks(&section).is_err(),
        "a parity behind the last tweak"
    );
    assert!(read_tweaks(&section[..289]).is_err());
    assert_eq!(read_tweaks(&[]), Ok(vec![]));
}

#[test]
fn prefixes_say_where_a_transaction_ends() {
    let keys: Vec<[u8; 32]> = (1..=4).map(|byte| [byte; 32]).collect();
    let mut section = Vec::new();
    write_prefixes([0, 0, 1, 2].into_iter().zip(&keys), &mut section);
    assert_eq!(section, [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 0b1110]);
    let prefixes = read_prefixes(&section).unwrap();
    assert_eq!(prefixes.keys, [[1; 3], [2; 3], [3; 3], [4; 3]]);
    assert_eq!(prefixes.ends, [2, 3, 4]);
    section[12] = 0b0110;
    assert!(read_prefixes(&section).is_err(), "an output left over");
}

#[test]
fn outputs_have_their_shortest_form() {
    let output = Output {
        vout: 300,
        value_sat: 546,
        key: [7; 32],
    };
    let mut section = Vec::new();
    write_transaction(&txid(9), &[output], &mut section);
    let expected = [
        &[9; 32][..],
        &[1],
        &[0xac, 0x02],
        &[0xa2, 0x04],
        &[7; 32][..],
    ]
    .concat();
    assert_eq!(section, expected);
    assert_eq!(read_outputs(&section), Ok(vec![(txid(9), vec![output])]));

    let longer = [
        &[9; 32][..],
        &[1],
        &[0xac, 0x82, 0x00],
        &[0xa2, 0x04],
        &[7; 32][..],
    ]
    .concat();
    assert!(read_outputs(&longer).is_err());
    let none = [&[9; 32][..], &[0]].concat();
    assert!(read_outputs(&none).is_err());
    let mut twice = Vec::new();
    write_transaction(&txid(9), &[output, output], &mut twice);
    assert!(read_outputs(&twice).is_err());
}

#[test]
fn varints_are_those_of_leb128() {
    for (number, bytes) in [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (16_384, "808001"),
        (u64::MAX, "ffffffffffffffffff01"),
    ] {
        let bytes = Vec::from_hex(bytes).unwrap();
        let mut written = Vec::new();
        write_varint(number, &mut written);
        assert_eq!(written, bytes);
        let mut reader = Reader(&bytes);
        assert_eq!(reader.varint(), Ok(number));
        assert!(reader.end().is_ok());
    }
    for wrong in [
        "8000",
        "80",
        "ffffffffffffffffff02",
        "ffffffffffffffffffff01",
    ] {
        let bytes = Vec::from_hex(wrong).unwrap();
        assert!(Reader(&bytes).varint().is_err(), "{wrong}");
    }
}

/// A number of rows that the bytes cannot hold takes no memory.
#[test]
fn counts_are_bounded_by_the_bytes() {
    let mut section = Vec::new();
    write_varint(u64::MAX, &mut section);
    section.extend([0; 100]);
    assert!(Spends::decode(&section).is_err());
    let mut section = vec![9; 32];
    write_varint(1 << 40, &mut section);
    section.extend([0; 100]);
    assert!(read_outputs(&section).is_err());
}

#[test]
fn a_head_rolls_over_what_never_changes() {
    let hashes = |spends| SectionHashes {
        tweaks: [1; 32],
        prefixes: [2; 32],
        outputs: [3; 32],
        spent: [4; 32],
        new_utxos: [5; 32],
        spends,
    };
    let block = BlockHash::from_byte_array([6; 32]);
    let head = hashes([7; 32]).next_head(&[0; 32], &block);
    let hashed = [
        [0; 32], [6; 32], [1; 32], [2; 32], [3; 32], [4; 32], [5; 32],
    ]
    .concat();
    assert_eq!(head, sha256::Hash::hash(&hashed).to_byte_array());
    assert_eq!(hashes([8; 32]).next_head(&[0; 32], &block), head);
    assert_ne!(hashes([7; 32]).next_head(&head, &block), head);
}

fn spends() -> impl Strategy<Value = Spends> {
    let spender = proptest::option::of((0..u16::MAX, any::<u16>()));
    let spent = (any::<[u8; 32]>(), any::<u32>(), any::<[u8; 8]>(), spender);
    let spent = spent.prop_map(|(txid, vout, key_prefix, spender)| SpentOutput {
        outpoint: OutPoint::new(Txid::from_byte_array(txid), vout),
        key_prefix,
        spender,
    });
    let state = (
        any::<u16>(),
        any::<u32>(),
        any::<[u8; 32]>(),
        any::<[u8; 32]>(),
    );
    let state = state.prop_map(|(transaction, vout, txid, state_id)| State {
        transaction,
        vout,
        txid: Txid::from_byte_array(txid),
        state_id,
    });
    let lists = (
        proptest::collection::vec(spent, 0..20),
        proptest::collection::vec(state, 0..5),
    );
    lists.prop_map(|(spent, states)| Spends { spent, states })
}

proptest! {
    #[test]
    fn spends_come_back(spends in spends()) {
        let mut section = Vec::new();
        spends.encode(&mut section);
        prop_assert_eq!(Spends::decode(&section), Ok(spends));
        section.push(0);
        prop_assert!(Spends::decode(&section).is_err());
    }

    /// Whatever is read is written so: no two sections are the same rows.
    #[test]
    fn what_is_read_is_written_so(section in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(tweaks) = read_tweaks(&section) {
            let mut again = Vec::new();
            write_tweaks(&tweaks, &mut again);
            prop_assert_eq!(&again, &section);
        }
        if let Ok(spends) = Spends::decode(&section) {
            let mut again = Vec::new();
            spends.encode(&mut again);
            prop_assert_eq!(&again, &section);
        }
    }

    #[test]
    fn parts_come_back(sections in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 1..64), first in 0..1_000_000u32) {
        let mut writer = PartWriter::default();
        for section in &sections {
            writer.section(|out| out.extend_from_slice(section));
        }
        let last_hash = BlockHash::from_byte_array([3; 32]);
        let part = writer.finish(Network::Signet, Column::Spends, first, last_hash);
        let end = PartHead::end(Network::Signet, BlockId { height: first, hash: last_hash });
        let bytes = [&part[..], &end.encode()].concat();
        let (head, found, rest) = split_part(&bytes).unwrap();
        prop_assert_eq!(head.column, Some(Column::Spends));
        prop_assert_eq!((head.first, head.last_hash, head.network), (first, last_hash, Network::Signet));
        prop_assert_eq!(head.last(), first + sections.len() as u32 - 1);
        prop_assert_eq!(found, sections.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let (mark, none, rest) = split_part(rest).unwrap();
        prop_assert_eq!(mark, end);
        prop_assert!(none.is_empty() && rest.is_empty());
        for cut in [1, part.len() / 2, part.len() - 1] {
            prop_assert!(split_part(&part[..cut]).is_err());
        }
    }

    /// No byte of a head can change unseen but those that say what is asked for: heights, and the hash.
    #[test]
    fn heads_are_strict(at in 0..28usize, flip in 1..=255u8) {
        let mut writer = PartWriter::default();
        writer.section(|out| out.extend([1, 2, 3]));
        let mut part = writer.finish(Network::Regtest, Column::Tweaks, 7, BlockHash::all_zeros());
        let before = split_part(&part).unwrap().0;
        part[at] ^= flip;
        if let Ok((head, ..)) = split_part(&part) {
            prop_assert_ne!(head, before);
        }
    }
}

#[test]
fn headers_have_their_places() {
    let row = HeaderSection {
        header: genesis_block(Network::Regtest).header,
        transactions: 1,
        outputs: 2,
        spends: 3,
        states: 4,
        hashes: SectionHashes {
            tweaks: [1; 32],
            spends: [6; 32],
            ..SectionHashes::default()
        },
    };
    let mut section = Vec::new();
    row.encode(&mut section);
    assert_eq!(section.len(), HeaderSection::BYTES);
    assert_eq!(
        &section[80..96],
        &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0]
    );
    assert_eq!(&section[96..128], &[1; 32]);
    assert_eq!(&section[256..], &[6; 32]);
    assert_eq!(HeaderSection::decode(&section), Ok(row));
    assert!(HeaderSection::decode(&section[..287]).is_err());
    section.push(0);
    assert!(HeaderSection::decode(&section).is_err());
}
