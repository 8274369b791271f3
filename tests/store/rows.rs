//! Rows and items byte by byte.

use bitcoin::block::Header;
use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Network, OutPoint, Txid};
use spindex::store::schema::{
    BlockRow, LocatorHasher, OUTPUTS_MAX, OutputItem, RowError, Span, SpendItem, SpenderItem,
    VALUE_MAX, VOUT_MAX, height_key, height_of_key, locator_key, split_locator_key,
};
use spindex::store::states::{split_state_key, state_key};
use spindex::store::{OutputPosition, SpendRow, Spender};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that count up.
pub(crate) fn bytes<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|index| first.wrapping_add(index as u8))
}

/// The genesis block's header, as everybody knows it.
fn genesis() -> Header {
    bitcoin::constants::genesis_block(Network::Bitcoin).header
}

#[test]
fn block_row() {
    let row = BlockRow {
        header: genesis(),
        hash: genesis().block_hash(),
        transactions: Span {
            first: 0x0102_0304,
            count: 5,
        },
        outputs: Span {
            first: 0x01_0203_0405,
            count: 6,
        },
        spends: Span {
            first: 0x0a,
            count: 0x0b0c,
        },
        foreign: Span {
            first: 0x0e0f,
            count: 0x0b0c,
        },
        new_utxos_filter: Span {
            first: 0x0d0e,
            count: 0x10,
        },
        spent_filter: Span {
            first: 0x0d1e,
            count: 0x11,
        },
    };
    let encoded = row.encode();
    let expected = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "000000003ba3edfd7a7b12b27ac72c3e67768f617fc81bc3888a51323a9fb8aa",
        "4b1e5e4a29ab5f49ffff001d1dac2b7c",
        "6fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000",
        "0403020100000000",
        "05000000",
        "0504030201000000",
        "06000000",
        "0a00000000000000",
        "0c0b0000",
        "0f0e000000000000",
        "0c0b0000",
        "0e0d000000000000",
        "10000000",
        "11000000",
    ];
    assert_eq!(hex(&encoded), expected.concat());
    assert_eq!(BlockRow::decode(&encoded), Ok(row.clone()));
    assert_eq!(row.ends().filter_bytes, 0x0d2f);
    assert_eq!(row.starts().filter_bytes, 0x0d0e);

    for len in [0, 1, encoded.len() - 1] {
        assert_eq!(
            BlockRow::decode(&encoded[..len]),
            Err(RowError::Length {
                found: len,
                expected: 176
            })
        );
    }
    // Counts and positions that no index has: bytes 112.. are the four spans, 160.. the filters. Nor are there more
    // foreign spends than spends.
    for (at, value) in [
        (120, u32::MAX),
        (132, 1 << 16),
        (144, 1 << 21),
        (156, 0x0b0d),
        (168, 1 << 25),
        (172, 1 << 25),
        (116, 0x100),
        (128, 0x100),
        (140, u32::MAX),
        (152, u32::MAX),
        (164, u32::MAX),
    ] {
        let mut odd = encoded;
        odd[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let refused = BlockRow::decode(&odd);
        assert!(
            matches!(refused, Err(RowError::Value(_))),
            "{at}: {refused:?}"
        );
    }
}

#[test]
fn output_item() {
    let item = OutputItem {
        key: bytes(0x40),
        value_sat: 0x0003_0405_0607_0809,
        vout: 0x1b_0c0d,
    };
    // 0x1b0c0d << 51 | 0x3040506070809 = 0xd8606b040506070809... in 72 bits, low byte first.
    let packed: u128 = 0x1b_0c0d << 51 | 0x0003_0405_0607_0809;
    let expected = concat!(
        "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f",
        "0908070605046b60d8"
    );
    assert_eq!(hex(&item.encode()), expected);
    assert_eq!(packed, 0xd8_606b_0405_0607_0809);
    assert_eq!(OutputItem::decode(&item.encode()), Ok(item));
    for (value_sat, vout) in [(0, 0), (VALUE_MAX, 0), (0, VOUT_MAX), (VALUE_MAX, VOUT_MAX)] {
        let item = OutputItem {
            key: bytes(1),
            value_sat,
            vout,
        };
        assert_eq!(OutputItem::decode(&item.encode()), Ok(item));
    }
    // All the bitcoin there will ever be, and more outputs than 4 million weight units hold.
    const { assert!(VALUE_MAX > 21_000_000 * 100_000_000 && VOUT_MAX > 4_000_000 / 4 / 9) };
    assert!(OutputItem::decode(&[0; 40]).is_err());
}

#[test]
fn spend_item() {
    for (item, expected) in [
        (SpendItem::Held(OutputPosition(0)), "0000000000"),
        (
            SpendItem::Held(OutputPosition(0x0a_0b0c_0d0e)),
            "0a0b0c0d0e",
        ),
        (
            SpendItem::Held(OutputPosition(OUTPUTS_MAX - 1)),
            "fffffffffe",
        ),
        (SpendItem::Foreign, "ffffffffff"),
    ] {
        assert_eq!(hex(&item.encode()), expected);
        assert_eq!(SpendItem::decode(item.encode()), item);
    }
}

#[test]
fn height_row() {
    let hash = BlockHash::from_byte_array(bytes(0x40));
    let key = height_key(&hash, 0x0102_0304);
    assert_eq!(hex(&key), "404142434445464701020304");
    assert_eq!(height_of_key(&key), 0x0102_0304);
}

#[test]
fn spend_row() {
    let row = SpendRow {
        outpoint: OutPoint::new(Txid::from_byte_array(bytes(0x40)), 0x0a0b_0c0d),
        key_prefix: bytes(0x80),
        created: None,
        spender: None,
    };
    let expected = concat!(
        "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f",
        "0d0c0b0a",
        "8081828384858687"
    );
    assert_eq!(hex(&row.encode()), expected);
    assert_eq!(SpendRow::decode(&row.encode()), Ok(row));
    assert!(SpendRow::decode(&[0; 45]).is_err());
}

#[test]
fn spender_item() {
    for (spender, bytes) in [
        (Some((0x0102, 0x0304)), "02010403"),
        (Some((0, 0)), "00000000"),
        (Some((u16::MAX - 1, u16::MAX)), "feffffff"),
        (None, "ffffffff"),
    ] {
        let spender = spender.map(|(transaction, input)| Spender { transaction, input });
        let item = SpenderItem(spender);
        assert_eq!(hex(&item.encode()), bytes);
        assert_eq!(SpenderItem::decode(item.encode()), item);
    }
}

#[test]
fn state_row() {
    let key = state_key(0x0102_0304, 0x0506, 0x0708_090a);
    assert_eq!(hex(&key), "0102030405060708090a");
    assert_eq!(split_state_key(&key), (0x0102_0304, 0x0506, 0x0708_090a));
}

#[test]
fn locator_row() {
    let key = locator_key(0x04_0506_0708, OutputPosition(0x0a_0b0c_0d0e));
    assert_eq!(hex(&key), "04050607080a0b0c0d0e");
    let (hash, position) = split_locator_key(&key);
    assert_eq!((hash, position.0), (0x04_0506_0708, 0x0a_0b0c_0d0e));

    // SipHash-2-4 of the bytes 00 01 02 .. 23 under the key 00 01 .. 0f, as in the test vectors of its authors; the
    // low 40 bits of it.
    let hasher = LocatorHasher::new(bytes(0));
    let outpoint = OutPoint::new(Txid::from_byte_array(bytes(0)), 0x2322_2120);
    let hash = SIPHASH_OF_36_BYTES & 0xff_ffff_ffff;
    assert_eq!(hasher.hash(&outpoint), hash);
    let seventh = OutputPosition(7);
    assert_eq!(
        hasher.locate(&outpoint, seventh),
        locator_key(hash, seventh)
    );
    assert_ne!(LocatorHasher::new(bytes(1)).hash(&outpoint), hash);
}

const SIPHASH_OF_36_BYTES: u64 = 0x314d_ffbe_0815_a3b4;
