use bitcoin::opcodes::all::{OP_CHECKSIG, OP_RETURN};
use bitcoin::script::Builder;
use bitcoin::{Script, ScriptBuf};
use proptest::prelude::*;
use secp256k1::{SECP256K1, SecretKey};

use super::*;

/// A spent output: height, whether of a coinbase, amount, script.
type Spent = (u32, bool, u64, ScriptBuf);

/// Written from the formula in `serialize.h` and not from the reader here.
fn var_int_bytes(number: u64) -> Vec<u8> {
    let mut digits = vec![(number & 0x7f) as u8];
    let mut rest = number >> 7;
    while rest > 0 {
        rest -= 1;
        digits.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    digits.reverse();
    digits
}

fn compress_amount(value_sat: u64) -> u64 {
    if value_sat == 0 {
        return 0;
    }
    let (mut rest, mut exponent) = (value_sat, 0);
    while rest % 10 == 0 && exponent < 9 {
        rest /= 10;
        exponent += 1;
    }
    match exponent {
        9 => 1 + (rest - 1) * 10 + 9,
        _ => 1 + (rest / 10 * 9 + rest % 10 - 1) * 10 + exponent,
    }
}

/// The template and its bytes, or the script with its length.
fn compress_script(script: &Script) -> Vec<u8> {
    let bytes = script.as_bytes();
    if script.is_p2pkh() {
        return [&[0], &bytes[3..23]].concat();
    }
    if script.is_p2sh() {
        return [&[1], &bytes[2..22]].concat();
    }
    match (script.p2pk_public_key(), bytes) {
        (Some(_), [33, parity, x @ .., 0xac]) => [&[*parity], x].concat(),
        (Some(_), [65, 4, point @ .., 0xac]) => [&[4 + point[63] % 2], &point[..32]].concat(),
        _ => [var_int_bytes(bytes.len() as u64 + 6), bytes.to_vec()].concat(),
    }
}

fn undo_bytes(transactions: &[Vec<Spent>]) -> Vec<u8> {
    let mut bytes = bitcoin::consensus::serialize(&bitcoin::VarInt::from(transactions.len()));
    for spent in transactions {
        bytes.extend(bitcoin::consensus::serialize(&bitcoin::VarInt::from(
            spent.len(),
        )));
        for (height, is_coinbase, value_sat, script) in spent {
            bytes.extend(var_int_bytes(
                u64::from(*height) * 2 + u64::from(*is_coinbase),
            ));
            if *height > 0 {
                bytes.push(0);
            }
            bytes.extend(var_int_bytes(compress_amount(*value_sat)));
            bytes.extend(compress_script(script));
        }
    }
    bytes
}

fn read_back(prevouts: &Prevouts) -> Vec<Vec<(Option<u32>, u64, ScriptBuf)>> {
    let transactions = 0..prevouts.transactions();
    transactions
        .map(|index| {
            let spent = prevouts.of_transaction(index);
            spent
                .map(|p| (p.created, p.value_sat, p.script_pubkey.to_owned()))
                .collect()
        })
        .collect()
}

/// `varints_bitpatterns` of Bitcoin Core's `src/test/serialize_tests.cpp`.
#[test]
fn numbers_are_read_as_bitcoin_core_writes_them() {
    for (number, bytes) in [
        (0, &[0x00][..]),
        (0x7f, &[0x7f]),
        (0x80, &[0x80, 0x00]),
        (0x1234, &[0xa3, 0x34]),
        (0xffff, &[0x82, 0xfe, 0x7f]),
        (0x12_3456, &[0xc7, 0xe7, 0x56]),
        (0x8012_3456, &[0x86, 0xff, 0xc7, 0xe7, 0x56]),
        (0xffff_ffff, &[0x8e, 0xfe, 0xfe, 0xfe, 0x7f]),
        (
            0xffff_ffff_ffff_ffff,
            &[0x80, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0x7f],
        ),
    ] {
        assert_eq!(var_int(&mut Cursor::new(bytes)), Ok(number));
        assert_eq!(var_int_bytes(number), bytes);
        let short = var_int_u32(&mut Cursor::new(bytes));
        assert_eq!(short.ok(), u32::try_from(number).ok());
    }
    // One more, and one byte more.
    for bytes in [
        [0x80, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xff, 0x00],
        [0xff; 10],
    ] {
        let error = var_int(&mut Cursor::new(&bytes)).unwrap_err();
        assert!(error.what.contains("more than 64 bits"), "{error}");
    }
}

/// The pairs of Bitcoin Core's `src/test/compress_tests.cpp`, and what a test of its own has.
#[test]
fn amounts_are_read_as_bitcoin_core_writes_them() {
    const COIN: u64 = 100_000_000;
    for (value_sat, compressed) in [
        (0, 0),
        (1, 1),
        (COIN / 100, 7),
        (COIN, 9),
        (50 * COIN, 0x32),
        (21_000_000 * COIN, 0x140_6f40),
    ] {
        assert_eq!(decompress_amount(compressed), Some(value_sat));
        assert_eq!(compress_amount(value_sat), compressed);
    }
    for value in 1..10_000 {
        for unit in [1, COIN / 100, COIN, 50 * COIN] {
            let value_sat = value * unit;
            assert_eq!(
                decompress_amount(compress_amount(value_sat)),
                Some(value_sat)
            );
        }
        assert_eq!(compress_amount(decompress_amount(value).unwrap()), value);
    }
    assert_eq!(decompress_amount(u64::MAX), None);
}

fn secret(byte: u8) -> SecretKey {
    SecretKey::from_slice(&[byte; 32]).unwrap()
}

fn p2pk(key: &[u8]) -> ScriptBuf {
    let key = <&bitcoin::script::PushBytes>::try_from(key).unwrap();
    Builder::new()
        .push_slice(key)
        .push_opcode(OP_CHECKSIG)
        .into_script()
}

#[test]
fn scripts_are_what_they_were() {
    let mut scripts = vec![
        ScriptBuf::new(),
        ScriptBuf::from_bytes(vec![OP_RETURN.to_u8()]),
        ScriptBuf::from_bytes(vec![0x51; 121]),
        ScriptBuf::from_bytes(vec![0x51; 122]),
        ScriptBuf::from_bytes(vec![0x51; MAX_SCRIPT_BYTES as usize]),
        ScriptBuf::new_p2a(),
    ];
    let mut parities = [0; 2];
    for byte in 1..20 {
        let key = secret(byte).public_key(SECP256K1);
        let bitcoin_key = bitcoin::PublicKey::new(key);
        parities[usize::from(key.serialize_uncompressed()[64] % 2)] += 1;
        scripts.extend([
            p2pk(&key.serialize()),
            p2pk(&key.serialize_uncompressed()),
            ScriptBuf::new_p2pkh(&bitcoin_key.pubkey_hash()),
            ScriptBuf::new_p2sh(&p2pk(&key.serialize()).script_hash()),
            ScriptBuf::new_p2wpkh(&bitcoin_key.wpubkey_hash().unwrap()),
            ScriptBuf::new_p2tr(SECP256K1, key.x_only_public_key().0, None),
        ]);
    }
    assert!(parities.iter().all(|count| *count > 0), "{parities:?}");
    // An uncompressed key that is no point is written as it is.
    let mut no_point = secret(1).public_key(SECP256K1).serialize_uncompressed();
    no_point[64] ^= 1;
    let no_point = p2pk(&no_point);
    let raw = [&[67 + 6], no_point.as_bytes()].concat();
    let spent = [&[1, 1, 2, 0, 1][..], &raw].concat();
    let prevouts = parse_undo(&spent).unwrap();
    assert_eq!(read_back(&prevouts)[1], [(Some(1), 1, no_point)]);

    for script in scripts {
        let prevouts = parse_undo(&undo_bytes(&[vec![(7, false, 5, script.clone())]])).unwrap();
        assert_eq!(read_back(&prevouts), [vec![], vec![(Some(7), 5, script)]]);
    }
}

/// Up to 0.14: the height is with the last spend of a transaction's outputs only, and beside it that transaction's version.
#[test]
fn records_of_old_versions_lack_heights() {
    let mut bytes = vec![1, 2];
    bytes.extend([0, 9, 6]);
    bytes.extend(var_int_bytes(120_000 * 2 + 1));
    bytes.extend(var_int_bytes(0xffff_ffff));
    bytes.extend([9, 7, 0x51]);
    let prevouts = parse_undo(&bytes).unwrap();
    let spent = [
        (None, 100_000_000, ScriptBuf::new()),
        (
            Some(120_000),
            100_000_000,
            ScriptBuf::from_bytes(vec![0x51]),
        ),
    ];
    assert_eq!(read_back(&prevouts), [vec![], spent.to_vec()]);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_allocated() {
    for (bytes, said) in [
        (&[][..], "cut short"),
        (&[0xff; 9], "18446744073709551615 transactions announced"),
        (
            &[1, 0xfe, 0xff, 0xff, 0xff, 0x7f],
            "2147483647 spent outputs announced",
        ),
        (&[0, 0], "left over"),
        (&[1, 1, 2, 0, 1, 0xfe, 0xfe, 0x7f], "cannot be spent"),
        (
            &[1, 1, 2, 0, 1, 106, 1, 2, 3],
            "cut short: 100 bytes wanted, 3 left",
        ),
        (&[1, 1, 2, 0, 1, 0, 1, 2, 3], "cut short: 20 bytes wanted"),
    ] {
        let error = parse_undo(bytes).unwrap_err();
        assert!(error.to_string().contains(said), "{said:?}: {error}");
    }
    let too_much = var_int_bytes(compress_amount(21_000_001 * 100_000_000));
    let error = parse_undo(&[&[1, 1, 2, 0][..], &too_much, &[6]].concat()).unwrap_err();
    assert_eq!(
        (error.what.as_str(), error.offset),
        ("no amount in satoshi", 4)
    );
    // x = 5 is on no point.
    let mut x = [0; 32];
    x[31] = 5;
    let error = parse_undo(&[&[1, 1, 2, 0, 1, 4][..], &x].concat()).unwrap_err();
    assert!(error.what.contains("no point"), "{error}");
}

#[test]
fn the_checksum_covers_parent_and_payload() {
    let parent = BlockHash::from_byte_array([7; 32]);
    let twice = sha256d::Hash::hash(&[&[7; 32][..], &[1, 2, 3]].concat());
    assert_eq!(undo_checksum(&parent, &[1, 2, 3]), twice.to_byte_array());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(prevouts) = parse_undo(&bytes) {
            prop_assert_eq!(prevouts.transactions(), undo_transactions(&bytes).unwrap() + 1);
        }
    }

    #[test]
    fn any_record_is_read_back_and_no_cut_one_is(
        spent in proptest::collection::vec(
            proptest::collection::vec(
                (1..=u32::MAX >> 1, any::<bool>(), 0..=2_100_000_000_000_000u64,
                 proptest::collection::vec(any::<u8>(), 0..200)),
                0..4),
            0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let spent: Vec<Vec<Spent>> = spent
            .into_iter()
            .map(|tx| tx
                .into_iter()
                .map(|(height, coinbase, value, script)|
                    (height, coinbase, value, ScriptBuf::from_bytes(script)))
                .collect())
            .collect();
        let bytes = undo_bytes(&spent);
        let mut wanted = vec![vec![]];
        wanted.extend(spent.into_iter().map(|tx| tx
            .into_iter()
            .map(|(height, _, value_sat, script)| (Some(height), value_sat, script))
            .collect::<Vec<_>>()));
        prop_assert_eq!(read_back(&parse_undo(&bytes).unwrap()), wanted);
        prop_assert!(parse_undo(&bytes[..cut.index(bytes.len())]).is_err());
    }
}
