use bitcoin::bech32::primitives::iter::{ByteIterExt, Fe32IterExt};
use bitcoin::bech32::{Bech32, Hrp};
use proptest::prelude::*;
use secp256k1::{SECP256K1, SecretKey};

use super::*;

fn pubkey(byte: u8) -> PublicKey {
    SecretKey::from_slice(&[byte; 32])
        .expect("in range")
        .public_key(SECP256K1)
}

fn address(network: Network) -> Address {
    Address {
        scan_pubkey: pubkey(1),
        spend_pubkey: pubkey(2),
        network,
    }
}

fn payload() -> Vec<u8> {
    [pubkey(1).serialize(), pubkey(2).serialize()].concat()
}

fn encode(prefix: &str, version: Fe32, payload: &[u8]) -> String {
    payload
        .iter()
        .copied()
        .bytes_to_fes()
        .with_checksum::<Bech32m>(&Hrp::parse_unchecked(prefix))
        .with_witness_version(version)
        .chars()
        .collect()
}

/// Any symbols, as no encoder would put them.
fn encode_symbols(prefix: &str, symbols: &[Fe32]) -> String {
    symbols
        .iter()
        .copied()
        .with_checksum::<Bech32m>(&Hrp::parse_unchecked(prefix))
        .chars()
        .collect()
}

fn payload_symbols() -> Vec<Fe32> {
    payload().into_iter().bytes_to_fes().collect()
}

fn parse(text: &str) -> Result<Address, AddressError> {
    text.parse()
}

#[test]
fn prefix_and_length_by_network() {
    for (network, prefix, length, read_as) in [
        (Network::Bitcoin, "sp", 116, Network::Bitcoin),
        (Network::Testnet, "tsp", 117, Network::Testnet),
        (Network::Testnet4, "tsp", 117, Network::Testnet),
        (Network::Signet, "tsp", 117, Network::Testnet),
        (Network::Regtest, "sprt", 118, Network::Regtest),
    ] {
        let text = address(network).to_string();
        assert_eq!(text.len(), length, "{network}");
        assert_eq!(text, encode(prefix, Fe32::Q, &payload()), "{network}");
        assert_eq!(parse(&text), Ok(address(read_as)), "{network}");
        assert_eq!(parse(&text.to_uppercase()), Ok(address(read_as)));
    }
}

#[test]
fn regtest_can_be_written_with_the_prefix_of_the_bip() {
    let text = address(Network::Regtest).to_bip352_string();
    assert_eq!(text, address(Network::Testnet).to_string());
    let text = address(Network::Bitcoin).to_bip352_string();
    assert_eq!(text, address(Network::Bitcoin).to_string());
}

#[test]
fn fits_by_prefix() {
    let networks = [
        Network::Bitcoin,
        Network::Testnet,
        Network::Testnet4,
        Network::Signet,
        Network::Regtest,
    ];
    let fitting = |written_for| networks.map(|network| address(written_for).fits(network));
    assert_eq!(
        fitting(Network::Bitcoin),
        [true, false, false, false, false]
    );
    for network in [Network::Testnet, Network::Testnet4, Network::Signet] {
        assert_eq!(fitting(network), [false, true, true, true, true]);
    }
    assert_eq!(
        fitting(Network::Regtest),
        [false, false, false, false, true]
    );
}

#[test]
fn later_versions_are_read_by_their_first_two_keys() {
    for version in 1..=30 {
        let version = Fe32::try_from(version as u8).expect("below 32");
        for extra in [0, 1, 33, 500] {
            let mut longer = payload();
            longer.resize(66 + extra, 0xee);
            assert_eq!(
                parse(&encode("sp", version, &longer)),
                Ok(address(Network::Bitcoin)),
                "version {version}, {extra} more bytes"
            );
        }
        assert_eq!(
            parse(&encode("sp", version, &payload()[..65])),
            Err(AddressError::Length)
        );
    }
    for bytes in [65, 66, 67] {
        let mut payload = payload();
        payload.resize(bytes, 0xee);
        assert_eq!(
            parse(&encode("sp", Fe32::L, &payload)),
            Err(AddressError::Version)
        );
    }
}

#[test]
fn version_0_is_two_keys_exactly() {
    for bytes in [0, 1, 33, 65, 67, 132] {
        let mut payload = payload();
        payload.resize(bytes, 0xee);
        assert_eq!(
            parse(&encode("sp", Fe32::Q, &payload)),
            Err(AddressError::Length),
            "{bytes}"
        );
    }
    assert_eq!(parse(&encode_symbols("sp", &[])), Err(AddressError::Length));
}

#[test]
fn length_limit_is_1023_characters() {
    let text_of_length = |length: usize| {
        let mut symbols = vec![Fe32::P];
        symbols.extend(payload_symbols());
        symbols.resize(length - "sp1".len() - 6, Fe32::Q);
        encode_symbols("sp", &symbols)
    };
    for length in 1018..=1023 {
        let padding_bits = (length - "sp1".len() - 6 - 1) * 5 % 8;
        let expected = if padding_bits < 5 {
            Ok(address(Network::Bitcoin))
        } else {
            Err(AddressError::Length)
        };
        assert_eq!(parse(&text_of_length(length)), expected, "{length}");
    }
    for length in [1024, 1025, 1026, 4000] {
        let text = text_of_length(length);
        assert_eq!(text.len(), length);
        assert!(
            matches!(parse(&text), Err(AddressError::Encoding(_))),
            "{length}"
        );
    }
}

#[test]
fn padding_must_be_short_and_zero() {
    // 66 bytes fill 105 symbols and 3 bits of the last, whose other 2 bits are padding.
    for version in [Fe32::Q, Fe32::P] {
        let symbols: Vec<Fe32> = [version].into_iter().chain(payload_symbols()).collect();
        assert_eq!(symbols.len(), 107);
        assert!(parse(&encode_symbols("sp", &symbols)).is_ok());
        for bits in 1..=3 {
            let mut symbols = symbols.clone();
            let last = symbols.pop().expect("not empty").to_u8();
            symbols.push(Fe32::try_from(last | bits).expect("below 32"));
            assert_eq!(
                parse(&encode_symbols("sp", &symbols)),
                Err(AddressError::Length)
            );
        }
        let mut symbols = symbols;
        symbols.push(Fe32::Q);
        assert_eq!(
            parse(&encode_symbols("sp", &symbols)),
            Err(AddressError::Length)
        );
    }
}

#[test]
fn other_texts_are_refused() {
    let text = address(Network::Bitcoin).to_string();
    let mut mixed_case = text.clone();
    mixed_case.replace_range(10..11, &text[10..11].to_uppercase());
    if mixed_case == text {
        mixed_case.replace_range(0..1, "S");
    }
    let bech32: String = payload()
        .into_iter()
        .bytes_to_fes()
        .with_checksum::<Bech32>(&Hrp::parse_unchecked("sp"))
        .with_witness_version(Fe32::Q)
        .chars()
        .collect();
    for text in [
        "",
        "sp1",
        "sp",
        "not an address",
        "sp1ü",
        &mixed_case,
        &bech32,
        &text[..115],
        &format!("{text}q"),
        &format!(" {text}"),
    ] {
        assert!(
            matches!(parse(text), Err(AddressError::Encoding(_))),
            "{text}"
        );
    }
    for prefix in ["bc", "spscan", "ssp", "tsprt"] {
        assert_eq!(
            parse(&encode(prefix, Fe32::Q, &payload())),
            Err(AddressError::Prefix(prefix.to_owned()))
        );
    }
    for (place, name) in [(0, "scan"), (33, "spend")] {
        for first_byte in [0, 4, 5] {
            let mut payload = payload();
            payload[place] = first_byte;
            assert_eq!(
                parse(&encode("sp", Fe32::Q, &payload)),
                Err(AddressError::Key(name))
            );
        }
    }
}

proptest! {
    #[test]
    fn both_libraries_read_what_the_other_writes(
        scan in 1u8..=0xfe, spend in 1u8..=0xfe, network in 0usize..3,
    ) {
        let (ours, theirs) = [
            (Network::Bitcoin, silentpayments::Network::Mainnet),
            (Network::Testnet, silentpayments::Network::Testnet),
            (Network::Regtest, silentpayments::Network::Regtest),
        ][network];
        let ours = Address {
            scan_pubkey: pubkey(scan),
            spend_pubkey: pubkey(spend),
            network: ours,
        };
        let theirs = SilentPaymentCode::new_v0(pubkey(scan), pubkey(spend), theirs);
        prop_assert_eq!(parse(&theirs.to_string()), Ok(ours));
        let read = SilentPaymentCode::try_from(ours.to_string());
        prop_assert_eq!(read.expect("an address"), theirs);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}", changed in any::<(prop::sample::Index, char)>()) {
        let _ = parse(&text);
        let valid = address(Network::Bitcoin).to_string();
        let mut characters: Vec<char> = valid.chars().collect();
        let place = changed.0.index(characters.len());
        characters[place] = changed.1;
        let text: String = characters.into_iter().collect();
        prop_assert!(text == valid || parse(&text).is_err());
    }
}
