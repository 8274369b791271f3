//! The rules of eligibility and the tweak that the test vectors of BIP352 do not reach.
//!
//! What is expected comes from the secrets the inputs are made of: an input either adds its secret to the
//! sum or does not.

mod mainnet;
mod properties;
mod spend;
mod twin;

use bitcoin::{OutPoint, Transaction, TxOut};
use secp256k1::{PublicKey, Scalar, SecretKey};
use spend::*;
use spindex::bip352::inputs::tweak_inputs;
use spindex::bip352::send::{SendError, SenderInput, output_keys};
use spindex::bip352::tweak::transaction_tweak;
use spindex::curve::libsecp256k1::LibSecp256k1;

/// The sum of secrets; `None` if it is zero. Partial sums may be zero.
fn sum_of(secrets: &[SecretKey]) -> Option<SecretKey> {
    secrets
        .iter()
        .fold(None, |sum: Option<SecretKey>, secret| match sum {
            None => Some(*secret),
            Some(sum) => sum.add_tweak(&Scalar::from(*secret)).ok(),
        })
}

/// The tweak that follows from the secrets that count; `None` if there are none or their sum is zero.
fn tweak_of(spends: &[Spend], counted: &[SecretKey]) -> Option<[u8; 33]> {
    let sum = sum_of(counted)?;
    let input_hash = twin::input_hash(spends, &pubkey(&sum));
    let partial_secret = sum
        .mul_tweak(&Scalar::from_be_bytes(input_hash).expect("in range"))
        .expect("not 0");
    Some(pubkey(&partial_secret).serialize())
}

fn computed_tweak(tx: &Transaction, prevouts: &[TxOut]) -> Option<[u8; 33]> {
    transaction_tweak(&LibSecp256k1, tx, prevouts).map(|tweak| tweak.to_compressed())
}

fn keys_of(spends: &[Spend]) -> Option<Vec<PublicKey>> {
    let (tx, prevouts) = transaction(spends);
    let inputs = tweak_inputs(&tx, &prevouts)?;
    let keys = inputs.keys.iter();
    let points: Vec<PublicKey> = keys
        .filter_map(|key| PublicKey::from_slice(key).ok())
        .collect();
    (!points.is_empty()).then_some(points)
}

/// A P2WPKH input that stands beside the input under test.
fn companion() -> (Spend, SecretKey) {
    let secret = secret(0xc0);
    (p2wpkh(&secret).at(outpoint(0xcc, 7)), secret)
}

/// Asserts that an input adds `counted` to the sum, or nothing: alone and beside another input.
#[track_caller]
fn assert_contributes(spend: Spend, counted: Option<SecretKey>) {
    let alone = [spend.clone()];
    let expected: Vec<SecretKey> = counted.into_iter().collect();
    assert_eq!(
        keys_of(&alone),
        counted.map(|secret| vec![pubkey(&secret)]),
        "{spend:02x?}"
    );
    let (tx, prevouts) = transaction(&alone);
    assert_eq!(
        computed_tweak(&tx, &prevouts),
        tweak_of(&alone, &expected),
        "{spend:02x?}"
    );

    let (companion, companion_secret) = companion();
    let beside = [spend.clone(), companion];
    let expected: Vec<SecretKey> = counted.into_iter().chain([companion_secret]).collect();
    let (tx, prevouts) = transaction(&beside);
    assert_eq!(
        computed_tweak(&tx, &prevouts),
        tweak_of(&beside, &expected),
        "{spend:02x?}"
    );
    assert!(tweak_of(&beside, &expected).is_some());
}

/// Asserts that an input disqualifies its transaction, whatever else it spends.
#[track_caller]
fn assert_disqualifies(prevout_script: Vec<u8>) {
    let spend = Spend::new(prevout_script, Vec::new(), vec![vec![1]]);
    let (companion, _) = companion();
    for spends in [
        vec![spend.clone(), companion.clone()],
        vec![companion, spend.clone()],
    ] {
        assert_eq!(keys_of(&spends), None, "{spend:02x?}");
        let (tx, prevouts) = transaction(&spends);
        assert_eq!(computed_tweak(&tx, &prevouts), None);
    }
}

/// An output script that yields no key and disqualifies nothing.
#[track_caller]
fn assert_ignored(prevout_script: Vec<u8>) {
    let key = pubkey(&secret(3)).serialize().to_vec();
    for witness in [Vec::new(), vec![signature(), key.clone()]] {
        for script_sig in [Vec::new(), push(&key)] {
            let spend = Spend::new(prevout_script.clone(), script_sig, witness.clone());
            assert_contributes(spend, None);
        }
    }
}

#[test]
fn common_inputs_contribute() {
    for byte in 1..=20 {
        let secret = secret(byte);
        assert_contributes(p2pkh(&secret), Some(secret));
        assert_contributes(p2wpkh(&secret), Some(secret));
        assert_contributes(p2sh_p2wpkh(&secret), Some(secret));
        assert_contributes(p2tr(&secret), Some(even(&secret)));
    }
}

#[test]
fn p2pkh_key_anywhere_in_the_script_sig() {
    let secret = secret(1);
    let key = pubkey(&secret).serialize();
    let other_key = pubkey(&spend::secret(2)).serialize();
    for (before, after) in [
        (script(&[&push(b"dummy"), &[0x75]]), vec![]),
        (vec![], script(&[&push(b"dummy"), &[0x75]])),
        (vec![0x51], vec![0x02; 200]),
        (vec![0x03; 200], push(&other_key)),
        (push(&key), push(&key)),
    ] {
        let spend = p2pkh_around(&key, &before, &after);
        assert_contributes(spend, Some(secret));
    }
    // The key and nothing else.
    let spend = Spend::new(p2pkh_script(&hash160(&key)), key.to_vec(), Vec::new());
    assert_contributes(spend, Some(secret));
}

#[test]
fn p2pkh_without_a_compressed_key_contributes_nothing() {
    let key = pubkey(&secret(1));
    let uncompressed = key.serialize_uncompressed();
    assert_contributes(p2pkh_around(&uncompressed, &[], &[]), None);
    let mut hybrid = uncompressed;
    hybrid[0] = 6 + (uncompressed[64] & 1);
    assert_contributes(p2pkh_around(&hybrid, &[], &[]), None);
    // Both forms in the scriptSig, but the hash is that of the other one.
    let spend = p2pkh_around(&uncompressed, &push(&key.serialize()), &[]);
    assert_contributes(spend, None);
    // The right hash, but no point: x = 5, or a wrong prefix.
    let mut no_point = [0; 33];
    no_point[0] = 2;
    no_point[32] = 5;
    assert_contributes(p2pkh_around(&no_point, &[], &[]), None);
    let mut prefix = key.serialize();
    prefix[0] = 5;
    assert_contributes(p2pkh_around(&prefix, &[], &[]), None);
    // Too short for a key.
    for bytes in [0, 1, 32] {
        let prevout_script = p2pkh_script(&hash160(&key.serialize()));
        let spend = Spend::new(prevout_script, vec![2; bytes], Vec::new());
        assert_contributes(spend, None);
    }
}

#[test]
fn p2sh_counts_only_with_exactly_one_p2wpkh_push() {
    let secret = secret(1);
    let key = pubkey(&secret).serialize();
    let nested = p2sh_p2wpkh(&secret);
    let with_script_sig = |script_sig: Vec<u8>| Spend {
        script_sig,
        ..nested.clone()
    };
    let redeem_script = p2wpkh_script(&hash160(&key));
    assert_contributes(with_script_sig(push(&redeem_script)), Some(secret));
    for script_sig in [
        Vec::new(),
        redeem_script.clone(),
        script(&[&[0x4c, 0x16], &redeem_script]),
        script(&[&[0x00], &push(&redeem_script)]),
        script(&[&push(&redeem_script), &[0x61]]),
        push(&script(&[&redeem_script, &[0x61]])),
        push(&p2wsh_script()),
        script(&[&[0x00], &push(&signature()), &push(&key)]),
        script(&[&[0x16, 0x51, 0x14], &hash160(&key)]),
        script(&[&[0x16, 0x00, 0x13], &hash160(&key)]),
    ] {
        assert_contributes(with_script_sig(script_sig), None);
    }
}

#[test]
fn p2sh_around_a_later_witness_program_disqualifies_nothing() {
    let redeem_script = script(&[&[0x52, 0x20], &[7; 32]]);
    let spend = Spend::new(
        p2sh_script(&hash160(&redeem_script)),
        push(&redeem_script),
        vec![vec![1]],
    );
    assert_contributes(spend, None);
}

#[test]
fn scripts_like_p2sh_with_a_hash_of_another_length_are_ignored() {
    let key = pubkey(&secret(1)).serialize();
    for length in [0, 19, 21, 32] {
        let spend = Spend {
            prevout_script: p2sh_script(&vec![0xab; length]),
            ..p2sh_p2wpkh(&secret(1))
        };
        assert_eq!(spend.witness.last(), Some(&key.to_vec()));
        assert_contributes(spend, None);
    }
}

#[test]
fn p2wpkh_takes_the_last_item_of_any_number() {
    let secret = secret(1);
    let key = pubkey(&secret).serialize().to_vec();
    type Template = fn(&[u8], Vec<Vec<u8>>) -> Spend;
    for template in [p2wpkh_with as Template, p2sh_p2wpkh_with as Template] {
        for items_before in 0..4 {
            let mut witness = vec![signature(); items_before];
            witness.push(key.clone());
            assert_contributes(template(&key, witness), Some(secret));
        }
        let uncompressed = pubkey(&secret).serialize_uncompressed();
        let mut no_point = [0; 33];
        no_point[0] = 2;
        no_point[32] = 5;
        for last in [
            Vec::new(),
            key[..32].to_vec(),
            [&key[..], &[0]].concat(),
            uncompressed.to_vec(),
            no_point.to_vec(),
            vec![4; 33],
        ] {
            let witness = vec![key.clone(), last];
            assert_contributes(template(&key, witness), None);
        }
    }
}

#[test]
fn empty_witness_contributes_nothing() {
    let secret = secret(1);
    let key = pubkey(&secret).serialize();
    assert_contributes(p2wpkh_with(&key, Vec::new()), None);
    assert_contributes(p2sh_p2wpkh_with(&key, Vec::new()), None);
    assert_contributes(p2tr_with(&secret, Vec::new()), None);
}

#[test]
fn scripts_and_witnesses_that_are_out_of_place_are_ignored() {
    let secret = secret(1);
    let key = pubkey(&secret).serialize().to_vec();
    let with_witness = |spend: Spend| Spend {
        witness: vec![signature(), key.clone()],
        ..spend
    };
    let with_script_sig = |spend: Spend| Spend {
        script_sig: push(&key),
        ..spend
    };
    assert_contributes(with_witness(p2pkh(&secret)), Some(secret));
    assert_contributes(with_script_sig(p2wpkh(&secret)), Some(secret));
    assert_contributes(with_script_sig(p2tr(&secret)), Some(even(&secret)));
}

#[test]
fn taproot_key_path_with_an_annex_of_any_length() {
    let secret = secret(1);
    let counted = Some(even(&secret));
    for length in [1, 2, 32, 33, 34, 100, 600] {
        let mut annex = vec![0xab; length];
        annex[0] = 0x50;
        let witness = vec![schnorr_signature(), annex];
        assert_contributes(p2tr_with(&secret, witness), counted);
    }
    // Not a control block, though bytes 1..33 equal H: the signature before the annex, or the annex itself.
    let signature = [&nums_control_block()[..], &[0xdd; 31]].concat();
    let witness = vec![signature, vec![0x50]];
    assert_contributes(p2tr_with(&secret, witness), counted);
    for annex in [
        nums_annex(),
        [&nums_annex()[..], &[0xdd; 32]].concat(),
        [&nums_annex()[..], &[0xdd]].concat(),
    ] {
        let witness = vec![schnorr_signature(), annex];
        assert_contributes(p2tr_with(&secret, witness), counted);
    }
}

#[test]
fn taproot_single_item_is_no_annex() {
    let secret = secret(1);
    let counted = Some(even(&secret));
    let mut signature = schnorr_signature();
    signature[0] = 0x50;
    for item in [signature, nums_annex(), vec![0x50], Vec::new()] {
        assert_contributes(p2tr_with(&secret, vec![item]), counted);
    }
    // A single item is no control block either.
    assert_contributes(p2tr_with(&secret, vec![nums_control_block()]), counted);
}

#[test]
fn taproot_script_path_counts_by_the_output_key() {
    let secret = secret(1);
    let internal_key = x_only(&spend::secret(2));
    for steps in [0, 1, 5] {
        let control_block = control_block(&internal_key, steps);
        for arguments in 0..3 {
            let mut witness = vec![vec![1]; arguments];
            witness.extend([leaf_script(), control_block.clone()]);
            let counted = Some(even(&secret));
            assert_contributes(p2tr_with(&secret, witness.clone()), counted);
            for annex in [vec![0x50], nums_annex()] {
                let mut witness = witness.clone();
                witness.push(annex);
                assert_contributes(p2tr_with(&secret, witness), counted);
            }
        }
    }
}

#[test]
fn taproot_script_path_with_internal_key_h_contributes_nothing() {
    let secret = secret(1);
    for control_block in [
        nums_control_block(),
        control_block(&spindex::bip352::NUMS_POINT, 0),
        [&nums_control_block()[..], &[0xff]].concat(),
    ] {
        for arguments in 0..3 {
            let mut witness = vec![vec![1]; arguments];
            witness.extend([leaf_script(), control_block.clone()]);
            assert_contributes(p2tr_with(&secret, witness.clone()), None);
            for annex in [vec![0x50], vec![0x50; 2], vec![0x50; 34], nums_annex()] {
                let mut witness = witness.clone();
                witness.push(annex);
                assert_contributes(p2tr_with(&secret, witness), None);
            }
        }
    }
    // Two annexes cannot be: the one before the last would be the control block.
    let witness = vec![leaf_script(), nums_annex(), vec![0x50]];
    assert_contributes(p2tr_with(&secret, witness), None);
    // H is elsewhere than in the control block.
    let witness = vec![
        nums_control_block(),
        nums_control_block(),
        control_block(&x_only(&spend::secret(2)), 0),
    ];
    assert_contributes(p2tr_with(&secret, witness), Some(even(&secret)));
}

#[test]
fn taproot_control_block_too_short_for_a_key_is_not_h() {
    let secret = secret(1);
    let counted = Some(even(&secret));
    for bytes in 0..33 {
        let control_block = nums_control_block()[..bytes].to_vec();
        let witness = vec![leaf_script(), control_block.clone()];
        assert_contributes(p2tr_with(&secret, witness), counted);
        let witness = vec![leaf_script(), control_block, vec![0x50]];
        assert_contributes(p2tr_with(&secret, witness), counted);
    }
}

#[test]
fn taproot_output_key_off_the_curve_contributes_nothing() {
    let mut no_coordinate = [0; 32];
    no_coordinate[31] = 5;
    for key in [no_coordinate, [0; 32], [0xff; 32]] {
        let witness = vec![schnorr_signature()];
        let spend = Spend::new(p2tr_script(&key), Vec::new(), witness);
        assert_contributes(spend, None);
    }
}

#[test]
fn other_outputs_are_ignored() {
    let key = pubkey(&secret(3)).serialize();
    assert_ignored(script(&[&push(&key), &[0xac]]));
    for required in 1..=3 {
        assert_ignored(bare_multisig(required));
    }
    assert_ignored(p2wsh_script());
    assert_ignored(script(&[&[0x6a], &push(b"data")]));
    assert_ignored(Vec::new());
    assert_ignored(vec![0x51]);
    // Pay to anchor, and other programs of version 1 that are not 32 bytes long.
    assert_ignored(vec![0x51, 0x02, 0x4e, 0x73]);
    for bytes in (2..=40).filter(|&bytes| bytes != 32) {
        assert_ignored(script(&[&[0x51], &push(&vec![7; bytes])]));
    }
    // Programs of version 0 that are not 20 bytes long.
    for bytes in (2..=40).filter(|&bytes| bytes != 20) {
        assert_ignored(script(&[&[0x00], &push(&vec![7; bytes])]));
    }
    // One byte more or less than the templates.
    assert_ignored(script(&[&p2pkh_script(&[7; 20]), &[0x61]]));
    assert_ignored(p2pkh_script(&[7; 19]));
    assert_ignored(script(&[&p2sh_script(&[7; 20]), &[0x61]]));
    assert_ignored(p2sh_script(&[7; 21]));
    assert_ignored(script(&[&p2wpkh_script(&[7; 20]), &[0x61]]));
    assert_ignored(script(&[&p2tr_script(&[7; 32]), &[0x61]]));
}

#[test]
fn later_witness_versions_disqualify() {
    for version in 2..=16 {
        for bytes in 2..=40 {
            assert_disqualifies(script(&[&[0x50 + version], &push(&vec![7; bytes])]));
        }
    }
}

#[test]
fn scripts_that_only_look_like_later_witness_programs_do_not() {
    for opcode in [0x52, 0x53, 0x60] {
        // Too short, too long, not one push of all the rest, no direct push.
        assert_ignored(vec![opcode, 0x01, 0xab]);
        assert_ignored(vec![opcode]);
        assert_ignored(vec![opcode, 0x00]);
        assert_ignored(vec![opcode, 0x00, 0x00, 0x00]);
        assert_ignored(script(&[&[opcode], &push(&[7; 41])]));
        assert_ignored(script(&[&[opcode], &push(&[7; 20]), &[0x61]]));
        assert_ignored(script(&[&[opcode, 0x15], &[7; 20]]));
        assert_ignored(script(&[&[opcode, 0x4c, 0x14], &[7; 20]]));
    }
    assert_ignored(script(&[&[0x61], &push(&[7; 32])]));
    assert_ignored(script(&[&[0x50], &push(&[7; 32])]));
    assert_ignored(script(&[&[0x4f], &push(&[7; 32])]));
}

#[test]
fn transaction_needs_a_taproot_output_of_exactly_34_bytes() {
    let secret = secret(1);
    let spends = [p2wpkh(&secret)];
    let key = x_only(&spend::secret(2));
    let eligible = |outputs: Vec<TxOut>| {
        let (tx, prevouts) = transaction_to(&spends, outputs);
        let tweak = computed_tweak(&tx, &prevouts);
        assert_eq!(tweak.is_some(), tweak_inputs(&tx, &prevouts).is_some());
        if let Some(tweak) = tweak {
            assert_eq!(Some(tweak), tweak_of(&spends, &[secret]));
        }
        tweak.is_some()
    };
    let other_outputs = [
        p2wpkh_script(&[7; 20]),
        p2wsh_script(),
        script(&[&p2tr_script(&key), &[0x61]]),
        p2tr_script(&key[..31]),
        script(&[&[0x52, 0x20], &key]),
        script(&[&[0x00, 0x20], &key]),
        script(&[&[0x6a, 0x20], &key]),
        Vec::new(),
    ];
    assert!(!eligible(Vec::new()));
    for other in &other_outputs {
        assert!(!eligible(vec![output(other.clone())]), "{other:02x?}");
    }
    // Later witness versions among the outputs do no harm, and the key need not be on the curve.
    for key in [key, [0xff; 32], [0; 32]] {
        let mut outputs: Vec<TxOut> = other_outputs.iter().cloned().map(output).collect();
        outputs.push(output(p2tr_script(&key)));
        assert!(eligible(outputs));
    }
}

#[test]
fn smallest_outpoint_is_sought_among_all_inputs_by_bytes() {
    let secret = secret(1);
    let no_key = Spend::new(p2wsh_script(), Vec::new(), vec![vec![1]]);
    let smallest = |outpoints: &[OutPoint]| {
        let mut spends = vec![p2wpkh(&secret).at(outpoints[0])];
        spends.extend(outpoints[1..].iter().map(|other| no_key.clone().at(*other)));
        let (tx, prevouts) = transaction(&spends);
        assert_eq!(
            computed_tweak(&tx, &prevouts),
            tweak_of(&spends, &[secret]),
            "{outpoints:?}"
        );
        let inputs = tweak_inputs(&tx, &prevouts).expect("one input with a key");
        inputs.smallest_outpoint
    };
    // On an input without a key.
    let low = outpoint(1, 0);
    assert_eq!(smallest(&[outpoint(2, 0), low]), low);
    assert_eq!(smallest(&[outpoint(2, 0), low, outpoint(3, 0)]), low);
    assert_eq!(smallest(&[low, outpoint(2, 0)]), low);
    // 256 is 00 01 00 00 and comes before 1, which is 01 00 00 00.
    let (one, two_five_six) = (outpoint(1, 1), outpoint(1, 256));
    assert_eq!(smallest(&[one, two_five_six]), two_five_six);
    assert_eq!(smallest(&[outpoint(1, u32::MAX), one]), one);
    // Txids count in internal order, not as they are shown.
    let txid = |first: u8, last: u8| {
        let mut bytes = [0; 32];
        (bytes[0], bytes[31]) = (first, last);
        OutPoint::new(bitcoin::hashes::Hash::from_byte_array(bytes), 0)
    };
    assert_eq!(smallest(&[txid(2, 1), txid(1, 2)]), txid(1, 2));
}

#[test]
fn partial_sums_may_be_infinity_but_not_the_total() {
    let (a, b) = (secret(1), secret(2));
    let spends_of = |secrets: &[SecretKey]| -> Vec<Spend> {
        let spends = secrets.iter().zip(0..);
        spends
            .map(|(secret, vout)| p2wpkh(secret).at(outpoint(1, vout)))
            .collect()
    };
    for secrets in [
        vec![a, a.negate(), b],
        vec![b, a, a.negate()],
        vec![a, a.negate(), b, b.negate(), a],
        vec![a, a, a.negate(), a.negate(), a, a],
        vec![a, a],
    ] {
        let spends = spends_of(&secrets);
        let (tx, prevouts) = transaction(&spends);
        let tweak = computed_tweak(&tx, &prevouts);
        assert!(tweak.is_some());
        assert_eq!(tweak, tweak_of(&spends, &secrets));
        assert_eq!(keys_of(&spends).map(|keys| keys.len()), Some(secrets.len()));
    }
    for secrets in [
        vec![a, a.negate()],
        vec![a, b, a.negate(), b.negate()],
        vec![a, a, a.negate(), a.negate()],
    ] {
        let spends = spends_of(&secrets);
        let (tx, prevouts) = transaction(&spends);
        assert!(tweak_inputs(&tx, &prevouts).is_some());
        assert_eq!(computed_tweak(&tx, &prevouts), None);
        let inputs: Vec<SenderInput> = secrets
            .into_iter()
            .map(|secret| SenderInput {
                secret,
                taproot: false,
            })
            .collect();
        let outpoints: Vec<OutPoint> = spends.iter().map(|spend| spend.outpoint).collect();
        assert_eq!(
            output_keys(&inputs, &outpoints, &[]),
            Err(SendError::ZeroKeySum)
        );
    }
}

#[test]
fn coinbase_never_qualifies() {
    let secret = secret(1);
    let spend = p2pkh(&secret).at(OutPoint::null());
    let (tx, prevouts) = transaction(&[spend]);
    assert!(tx.is_coinbase());
    assert_eq!(tweak_inputs(&tx, &[]), None);
    assert_eq!(tweak_inputs(&tx, &prevouts), None);
}

#[test]
fn wrong_number_of_prevouts_gives_no_tweak() {
    let spends = [p2wpkh(&secret(1)), p2wpkh(&secret(2)).at(outpoint(2, 0))];
    let (tx, prevouts) = transaction(&spends);
    assert!(tweak_inputs(&tx, &prevouts).is_some());
    assert_eq!(tweak_inputs(&tx, &prevouts[..1]), None);
    assert_eq!(tweak_inputs(&tx, &[]), None);
    let too_many = [prevouts.clone(), prevouts].concat();
    assert_eq!(tweak_inputs(&tx, &too_many), None);
    let (no_inputs, none) = transaction(&[]);
    assert_eq!(tweak_inputs(&no_inputs, &none), None);
}
