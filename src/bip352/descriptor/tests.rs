use bitcoin::bech32::Bech32;

use super::*;

const ALL_ERRORS: [DescriptorError; 10] = [
    DescriptorError::Form,
    DescriptorError::Checksum,
    DescriptorError::Origin,
    DescriptorError::Encoding,
    DescriptorError::Prefix,
    DescriptorError::Version,
    DescriptorError::Length,
    DescriptorError::Key("scan"),
    DescriptorError::Key("spend"),
    DescriptorError::Network,
];

/// Keys of the examples in BIP380 and BIP392.
const WIF: &str = "L4rK1yDtCWekvXuE6oXD9jCYfFNV2cWRpVuPLBcCU2z8TrisoyY1";
const WIF_UNCOMPRESSED: &str = "5KYZdUEo39z3FPrtuX2QbbwGnNP5zTd7yyr2SC1j299sBCnWjss";
const HEX: &str = "0260b2003c386519fc9eadf2b5cf124dd8eea4c4e68d5e154050a9346ea98ce600";
const XPUB: &str = "xpub6ERApfZwUNrhLCkDtcHTcxd75RbzS1ed54G1LkBUHQVHQKqhMkhgbmJbZRkrgZw4koxb5JaHWkY4ALHY2grBGRjaDMzQLcgJvLJuZZvRcEL";
const XPRV: &str = "xprvA1RpRA33e1JQ7ifknakTFpgNXPmW2YvmhqLQYMmrj4xJXXWYpDPS3xz7iAxn8L39njGVyuoseXzU6rcxFLJ8HFsTjSyQbLYnMpCqE2VbFWc";

fn scan_key() -> ScanKey {
    ScanKey::from_bytes([0x11; 32]).expect("in range")
}

fn spend_key() -> SpendKey {
    SpendKey::from_bytes([0x22; 32]).expect("in range")
}

fn keys() -> Vec<DescriptorKey> {
    [false, true]
        .into_iter()
        .flat_map(|test_network| {
            [
                DescriptorKey::Scan {
                    scan_key: scan_key(),
                    spend_pubkey: spend_key().public_key(),
                    test_network,
                },
                DescriptorKey::Spend {
                    scan_key: scan_key(),
                    spend_key: spend_key(),
                    test_network,
                },
            ]
        })
        .collect()
}

/// Growing would leave copies of the secret keys behind.
#[test]
fn no_key_outgrows_the_room_for_its_text() {
    let texts: Vec<_> = keys().iter().map(DescriptorKey::to_secret_string).collect();
    assert!(texts.iter().all(|text| text.capacity() == LONGEST_KEY));
    // The longest prefix is not that of the longest payload.
    let longest = texts.iter().map(|text| text.len()).max();
    assert_eq!(longest, Some(LONGEST_KEY - 1));
}

fn parse(text: &str) -> Result<DescriptorKey, DescriptorError> {
    text.parse()
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

/// All that tells two keys apart.
fn parts(key: &DescriptorKey) -> (bool, [u8; 32], PublicKey, Option<[u8; 32]>, bool) {
    let spend_secret = match key {
        DescriptorKey::Scan { .. } => None,
        DescriptorKey::Spend { spend_key, .. } => Some(spend_key.secret().secret_bytes()),
    };
    (
        key.fits(Network::Bitcoin),
        key.scan_key().secret().secret_bytes(),
        key.spend_pubkey(),
        spend_secret,
        key.fits(Network::Regtest),
    )
}

#[test]
fn every_form_reads_back_as_the_same_key() {
    for key in keys() {
        let text = key.to_secret_string().to_string();
        for form in [
            text.clone(),
            text.to_uppercase(),
            format!("  {text}\n"),
            format!("sp({text})"),
            format!("sp([deadbeef/352h/0h/0h]{text})"),
            format!("sp([DEADBEEF/352'/0H/0]{text})"),
            format!("sp([deadbeef]{text})"),
            format!("[deadbeef/352h]{text}"),
        ] {
            let read = parse(&form).unwrap_or_else(|error| panic!("{form}: {error}"));
            assert_eq!(parts(&read), parts(&key), "{form}");
        }
    }
}

#[test]
fn text_has_the_layout_of_bip392() {
    let [scan, spend, test_scan, test_spend] = keys().try_into().expect("four keys");
    let mut scan_payload = vec![0x11; 32];
    scan_payload.extend(spend_key().public_key().serialize());
    let mut spend_payload = vec![0x11; 32];
    spend_payload.extend([0x22; 32]);
    for (key, prefix, payload) in [
        (scan, "spscan", &scan_payload),
        (test_scan, "tspscan", &scan_payload),
        (spend, "spspend", &spend_payload),
        (test_spend, "tspspend", &spend_payload),
    ] {
        let text = key.to_secret_string().to_string();
        assert_eq!(text, encode(prefix, Fe32::Q, payload));
        assert!(text.starts_with(&format!("{prefix}1q")), "{text}");
        let test_network = prefix.starts_with('t');
        assert_eq!(key.fits(Network::Bitcoin), !test_network);
        for network in [Network::Testnet, Network::Signet, Network::Regtest] {
            assert_eq!(key.fits(network), test_network, "{network}");
        }
    }
}

#[test]
fn checksum_is_verified_if_present() {
    // Computed with the Python reference in BIP380.
    let with_checksum = format!("sp({WIF},{HEX})#{WIF_PAIR_CHECKSUM}");
    assert!(parse(&with_checksum).is_ok());
    assert!(parse(&format!("sp({WIF},{HEX})")).is_ok());
    for wrong in [
        format!("sp({WIF},{HEX})#"),
        format!("sp({WIF},{HEX})#qqqqqqqq"),
        format!("sp({WIF},{HEX})##{WIF_PAIR_CHECKSUM}"),
        format!("{with_checksum}q"),
        with_checksum.replace("0260b2", "0260b3"),
    ] {
        assert_eq!(
            parse(&wrong).unwrap_err(),
            DescriptorError::Checksum,
            "{wrong}"
        );
    }
}

const WIF_PAIR_CHECKSUM: &str = "sjd9eg3d";

#[test]
fn pairs_of_keys() {
    let wif = PrivateKey::from_wif(WIF).expect("example of BIP380").inner;
    let hex = PublicKey::from_str(HEX).expect("example of BIP380");

    let key = parse(&format!("sp({WIF},{HEX})")).expect("example of BIP392");
    assert!(matches!(key, DescriptorKey::Scan { .. }));
    assert_eq!(key.scan_key().secret(), &wif);
    assert_eq!(key.spend_pubkey(), hex);
    assert!(key.fits(Network::Bitcoin) && !key.fits(Network::Testnet));

    let key = parse(&format!("sp([deadbeef/0h]{WIF},[deadbeef/1h]{WIF})")).expect("two WIF keys");
    assert!(matches!(&key, DescriptorKey::Spend { spend_key, .. } if spend_key.secret() == &wif));

    // xprv and xpub are the same node, so unhardened children of both are the same keys.
    let secret = parse(&format!("sp({XPRV}/3/4,{XPRV}/5)")).expect("two xprv keys");
    let public = parse(&format!("sp([deadbeef/0h/1h/2h]{XPRV}/3/4,{XPUB}/5)")).expect("xpub");
    assert!(matches!(secret, DescriptorKey::Spend { .. }));
    assert!(matches!(public, DescriptorKey::Scan { .. }));
    assert_eq!(
        secret.scan_key().secret(),
        public.scan_key().secret(),
        "3/4"
    );
    assert_eq!(secret.spend_pubkey(), public.spend_pubkey(), "5");
    assert_ne!(secret.spend_pubkey(), secret.scan_key().public_key());
    let hardened = parse(&format!("sp({XPRV}/3h/4,{XPUB}/5)")).expect("hardened step");
    assert_ne!(hardened.scan_key().secret(), public.scan_key().secret());

    let test_wif = PrivateKey::new(wif, NetworkKind::Test).to_wif();
    let key = parse(&format!("sp({test_wif},{HEX})")).expect("test network");
    assert!(!key.fits(Network::Bitcoin) && key.fits(Network::Signet));
    assert_eq!(
        parse(&format!("sp({test_wif},{WIF})")).unwrap_err(),
        DescriptorError::Network
    );
}

#[test]
fn invalid_pairs() {
    let musig = format!("musig({HEX},{HEX})");
    let uncompressed_hex = PublicKey::from_str(HEX)
        .expect("example of BIP380")
        .serialize_uncompressed()
        .map(|byte| format!("{byte:02x}"))
        .concat();
    for (scan, spend, which) in [
        (XPUB, XPUB, "scan"),
        (HEX, HEX, "scan"),
        (WIF_UNCOMPRESSED, HEX, "scan"),
        ("", HEX, "scan"),
        (WIF, "", "spend"),
        (WIF, WIF_UNCOMPRESSED, "spend"),
        (WIF, &uncompressed_hex, "spend"),
        (WIF, &musig, "spend"),
        (WIF, &HEX.replace("02", "05"), "spend"),
        (WIF, &format!("{XPUB}/0h"), "spend"),
        (WIF, &format!("{XPUB}/*"), "spend"),
        (WIF, &format!("{XPUB}/2147483648"), "spend"),
        (WIF, &format!("{XPUB}/+1"), "spend"),
        (WIF, &format!("{XPUB}//1"), "spend"),
        (WIF, &format!("{HEX},{HEX}"), "spend"),
    ] {
        assert_eq!(
            parse(&format!("sp({scan},{spend})")).unwrap_err(),
            DescriptorError::Key(which),
            "{scan},{spend}"
        );
    }
    let spscan = keys()[0].to_secret_string().to_string();
    assert_eq!(
        parse(&format!("sp({spscan},{spscan})")).unwrap_err(),
        DescriptorError::Key("scan")
    );
}

#[test]
fn invalid_single_keys() {
    let spscan = keys()[0].to_secret_string().to_string();
    let scan_payload = {
        let mut payload = vec![0x11; 32];
        payload.extend(spend_key().public_key().serialize());
        payload
    };
    let mut wrong_character = spscan.clone();
    wrong_character.replace_range(20..21, if &spscan[20..21] == "q" { "p" } else { "q" });
    let mut mixed_case = spscan.clone();
    mixed_case.replace_range(0..1, "S");
    let bech32: String = scan_payload
        .iter()
        .copied()
        .bytes_to_fes()
        .with_checksum::<Bech32>(&Hrp::parse_unchecked("spscan"))
        .with_witness_version(Fe32::Q)
        .chars()
        .collect();
    let zero_scan = [&[0; 32], &scan_payload[32..]].concat();
    let bad_point = [&scan_payload[..32], &[5; 33]].concat();
    let spend_above_order = [&[0x11; 32][..], &[0xff; 32]].concat();
    for (text, error) in [
        (String::new(), DescriptorError::Encoding),
        ("sp()".to_owned(), DescriptorError::Encoding),
        (wrong_character, DescriptorError::Encoding),
        (mixed_case, DescriptorError::Encoding),
        (bech32, DescriptorError::Encoding),
        (
            spscan[..spscan.len() - 1].to_owned(),
            DescriptorError::Encoding,
        ),
        (XPUB.to_owned(), DescriptorError::Encoding),
        (format!("sp({XPUB})"), DescriptorError::Encoding),
        (
            encode("sp", Fe32::Q, &scan_payload),
            DescriptorError::Prefix,
        ),
        (
            encode("sprtscan", Fe32::Q, &scan_payload),
            DescriptorError::Prefix,
        ),
        (
            encode("spscan", Fe32::P, &scan_payload),
            DescriptorError::Version,
        ),
        (
            encode("spscan", Fe32::L, &scan_payload),
            DescriptorError::Version,
        ),
        (encode("spscan", Fe32::Q, &[]), DescriptorError::Length),
        (
            encode("spscan", Fe32::Q, &scan_payload[..64]),
            DescriptorError::Length,
        ),
        (encode("spscan", Fe32::Q, &[1; 66]), DescriptorError::Length),
        (
            encode("spspend", Fe32::Q, &scan_payload),
            DescriptorError::Length,
        ),
        (
            encode("spscan", Fe32::Q, &zero_scan),
            DescriptorError::Key("scan"),
        ),
        (
            encode("spscan", Fe32::Q, &bad_point),
            DescriptorError::Key("spend"),
        ),
        (
            encode("spspend", Fe32::Q, &spend_above_order),
            DescriptorError::Key("spend"),
        ),
        (format!("sh(sp({spscan}))"), DescriptorError::Form),
        (format!("wsh(sp({spscan}))"), DescriptorError::Form),
        (format!("tr({spscan})"), DescriptorError::Form),
        (format!("sp({spscan}"), DescriptorError::Form),
        (format!("sp([deadbeef/0h{spscan})"), DescriptorError::Origin),
        (format!("sp([deadbef/0h]{spscan})"), DescriptorError::Origin),
        (
            format!("sp([deadbeeff/0h]{spscan})"),
            DescriptorError::Origin,
        ),
        (
            format!("sp([deadbeeg/0h]{spscan})"),
            DescriptorError::Origin,
        ),
        (
            format!("sp([deadbeef/0h/]{spscan})"),
            DescriptorError::Origin,
        ),
        (format!("sp([deadbeef/]{spscan})"), DescriptorError::Origin),
        (
            format!("sp([deadbeef/0h/*]{spscan})"),
            DescriptorError::Origin,
        ),
        (
            format!("sp([deadbeef/0f]{spscan})"),
            DescriptorError::Origin,
        ),
        (format!("sp([]{spscan})"), DescriptorError::Origin),
    ] {
        assert_eq!(parse(&text).unwrap_err(), error, "{text}");
    }
}

#[test]
fn neither_debug_nor_errors_show_secrets() {
    for key in keys() {
        let shown = format!("{key:?}");
        assert!(
            !shown.contains("1111") && !shown.contains("2222"),
            "{shown}"
        );
        assert!(
            !shown.contains("17, 17") && !shown.contains("34, 34"),
            "{shown}"
        );
    }
    // Errors carry nothing of the text: none but these exist, and all are constant.
    for error in ALL_ERRORS {
        let shown = format!("{error} {error:?}");
        assert!(!shown.is_empty() && shown.lines().count() == 1, "{shown}");
    }
}
