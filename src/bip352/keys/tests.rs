use bitcoin::hex::DisplayHex;
use proptest::prelude::*;
use secp256k1::{Scalar, XOnlyPublicKey};

use super::*;
use crate::curve::libsecp256k1::LibSecp256k1;
use crate::curve::{Batch, Engine};

fn scan_key() -> ScanKey {
    ScanKey::from_bytes([0x51; 32]).expect("in range")
}

fn spend_key() -> SpendKey {
    SpendKey::from_bytes([0x52; 32]).expect("in range")
}

fn receiver_keys(labels: impl IntoIterator<Item = u32>) -> ReceiverKeys {
    ReceiverKeys::new(scan_key(), spend_key().public_key(), labels)
}

fn tweak() -> TweakPoint {
    let point = scan_key().public_key().serialize();
    TweakPoint::from_compressed(&point).expect("on the curve")
}

#[test]
fn keys_out_of_range_are_refused() {
    let order = secp256k1::constants::CURVE_ORDER;
    let mut greatest = order;
    greatest[31] -= 1;
    for bytes in [[0; 32], order, [0xff; 32]] {
        assert!(ScanKey::from_bytes(bytes).is_none());
        assert!(SpendKey::from_bytes(bytes).is_none());
    }
    assert!(ScanKey::from_bytes(greatest).is_some());
    assert!(SpendKey::from_bytes(greatest).is_some());
}

#[test]
fn debug_shows_no_secret() {
    let scan_key = scan_key();
    let shared_secret = scan_key.shared_secret(&tweak()).expect("on the curve");
    let keys = receiver_keys(1..=3);
    assert_eq!(format!("{scan_key:?}"), "ScanKey(***)");
    assert_eq!(format!("{:?}", spend_key()), "SpendKey(***)");
    assert_eq!(format!("{shared_secret:?}"), "SharedSecret(***)");
    let shown = format!("{keys:?} {keys:#?}");
    let label = keys.labels.get(1).expect("given");
    for secret in [
        scan_key.secret().secret_bytes().to_lower_hex_string(),
        label.scalar.to_be_bytes().to_lower_hex_string(),
        label.point.to_string(),
        shared_secret.point().to_string(),
    ] {
        assert!(!shown.contains(&secret[..16]), "{shown}");
    }
    assert!(shown.contains("ScanKey(***)"), "{shown}");
}

#[test]
fn shared_secret_of_a_bad_tweak_is_none() {
    assert!(
        scan_key()
            .shared_secret(&TweakPoint::from_bytes([1; 64]))
            .is_none()
    );
}

proptest! {
    #[test]
    fn shared_secret_is_the_product(scan in any::<[u8; 32]>(), tweak in any::<[u8; 32]>()) {
        let (Some(scan_key), Ok(tweak)) = (ScanKey::from_bytes(scan), SecretKey::from_slice(&tweak)) else {
            return Ok(());
        };
        let tweak_point = tweak.public_key(SECP256K1);
        let expected = tweak
            .mul_tweak(&Scalar::from(*scan_key.secret()))
            .expect("neither is 0")
            .public_key(SECP256K1);
        let shared_secret = scan_key
            .shared_secret(&crate::curve::point::pack(&tweak_point))
            .expect("on the curve");
        prop_assert_eq!(shared_secret.point(), &expected);
    }
}

#[test]
fn addresses_are_those_of_the_silentpayments_crate() {
    let keys = receiver_keys([1, 7]);
    let receiver = keys.receiver().expect("no sum at infinity");
    assert_eq!(receiver.list_labels().len(), 3);
    let network = Network::Bitcoin;
    let plain = keys.address(None, network).expect("a point");
    assert_eq!(plain.to_string(), receiver.receiving_code().to_string());
    let change = keys.address(Some(0), network).expect("a point");
    assert_eq!(change.to_string(), receiver.change_code().to_string());
    for m in [1, 7] {
        let label = silentpayments::receiving::Label::new(*keys.scan_key.secret(), m);
        let theirs = receiver
            .receiving_code_for_label(&label)
            .expect("was added");
        let ours = keys.address(Some(m), network).expect("a point");
        assert_eq!(ours.to_string(), theirs.to_string(), "{m}");
    }
    // A label that is not in the set has the same address as one that is.
    assert_eq!(
        receiver_keys([]).address(Some(7), network),
        keys.address(Some(7), network)
    );
}

#[test]
fn candidates_follow_the_order_of_labels() {
    let keys = receiver_keys([9, 1]);
    let scanner = LibSecp256k1
        .scanner(&[keys.scan_target()])
        .expect("valid keys");
    let mut candidates = Vec::new();
    scanner.candidates(Batch::of(&[tweak()]), &mut candidates);
    let shared_secret = keys.scan_key.shared_secret(&tweak()).expect("on the curve");
    // The crate computes the same keys, by label in no order.
    let theirs = keys
        .receiver()
        .expect("no sum at infinity")
        .generate_output_keys_from_shared_secret(&(*shared_secret.point()).into())
        .expect("valid shared secret");
    let key_of = |label: Option<&Label>| -> XOnlyPublicKey {
        theirs[&label.map(|label| label.scalar.into())]
    };
    let expected: Vec<[u8; 32]> = [None]
        .into_iter()
        .chain(keys.labels.iter().map(Some))
        .map(|label| key_of(label).serialize())
        .collect();
    assert_eq!(candidates, std::slice::from_ref(&expected));
    assert_eq!(expected.len(), 4);
}

#[test]
fn a_hundred_thousand_labels() {
    let keys = receiver_keys(1..=100_000);
    assert_eq!(keys.labels.len(), 100_001);
    assert_eq!(keys.scan_target().labels.len(), 100_001);
    for m in [0, 1, 50_000, 100_000] {
        let label = keys.labels.get(m).expect("in the set");
        assert_eq!(label, &Label::new(&keys.scan_key, m).expect("valid"));
        assert_eq!(keys.labels.by_point(&label.point), Some(label));
        assert_eq!(keys.labels.by_scalar(&label.scalar), Some(label));
    }
    assert!(keys.labels.get(100_001).is_none());
}
