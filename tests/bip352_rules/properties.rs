//! Random transactions against what their secrets say, and damaged ones against the twin.

use std::ops::Range;

use bitcoin::TxOut;
use proptest::prelude::*;
use proptest::sample::Index;
use secp256k1::{PublicKey, SecretKey};
use spindex::bip352::inputs::{TweakInputs, tweak_inputs};
use spindex::bip352::tweak::tweaks;
use spindex::curve::libsecp256k1::LibSecp256k1;

use crate::spend::*;
use crate::twin::{self, Verdict};
use crate::{computed_tweak, tweak_of};

/// What an input does to its transaction.
#[derive(Clone, Copy, Debug)]
enum Effect {
    Adds(SecretKey),
    Nothing,
    Disqualifies,
}

/// A few secrets and their negatives, so that sums cancel now and then.
fn any_secret() -> impl Strategy<Value = SecretKey> {
    (1u8..4, any::<bool>()).prop_map(|(byte, negated)| {
        let secret = secret(byte);
        if negated { secret.negate() } else { secret }
    })
}

fn bytes(length: Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), length)
}

fn annex() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        bytes(0..80).prop_map(|rest| [&[0x50][..], &rest].concat()),
        Just(nums_annex()),
        bytes(0..40).prop_map(|rest| [&nums_annex()[..], &rest].concat()),
    ]
}

fn some_annex() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(annex())
}

/// Items below the script, at most 3.
fn arguments() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(bytes(0..80), 0..4)
}

fn hashed_key_spend() -> impl Strategy<Value = (Spend, Effect)> {
    let pushes = || {
        prop::collection::vec(bytes(0..40), 0..3)
            .prop_map(|pushes| -> Vec<u8> { pushes.iter().flat_map(|bytes| push(bytes)).collect() })
    };
    prop_oneof![
        (any_secret(), pushes(), pushes()).prop_map(|(secret, before, after)| {
            let key = pubkey(&secret).serialize();
            (p2pkh_around(&key, &before, &after), Effect::Adds(secret))
        }),
        (any_secret(), any::<bool>()).prop_map(|(secret, hybrid)| {
            let mut key = pubkey(&secret).serialize_uncompressed();
            if hybrid {
                key[0] = 6 + (key[64] & 1);
            }
            (p2pkh_around(&key, &[], &[]), Effect::Nothing)
        }),
    ]
}

fn segwit_spend() -> impl Strategy<Value = (Spend, Effect)> {
    (any_secret(), arguments(), 0..3, any::<bool>()).prop_map(|(secret, below, last, nested)| {
        let key = pubkey(&secret).serialize();
        let mut witness = below;
        let effect = match last {
            0 => {
                witness.push(key.to_vec());
                Effect::Adds(secret)
            }
            1 => {
                witness.push(pubkey(&secret).serialize_uncompressed().to_vec());
                Effect::Nothing
            }
            _ => {
                witness.clear();
                Effect::Nothing
            }
        };
        if nested {
            (p2sh_p2wpkh_with(&key, witness), effect)
        } else {
            (p2wpkh_with(&key, witness), effect)
        }
    })
}

fn other_p2sh_spend() -> impl Strategy<Value = (Spend, Effect)> {
    (any_secret(), 0..4).prop_map(|(secret, kind)| {
        let key = pubkey(&secret).serialize();
        let redeem_script = match kind {
            0 => p2wsh_script(),
            1 => script(&[&[0x51], &push(&key), &[0x51, 0xae]]),
            2 => script(&[&[0x52, 0x20], &[7; 32]]),
            _ => p2wpkh_script(&hash160(&key)),
        };
        // The last kind would count without the push before it.
        let script_sig = script(&[&[0x00], &push(&redeem_script)]);
        let witness = vec![signature(), key.to_vec()];
        let spend = Spend::new(p2sh_script(&hash160(&redeem_script)), script_sig, witness);
        (spend, Effect::Nothing)
    })
}

fn taproot_spend() -> impl Strategy<Value = (Spend, Effect)> {
    let key_path = (any_secret(), bytes(0..66), some_annex()).prop_map(|(secret, item, annex)| {
        let witness = [item].into_iter().chain(annex).collect();
        (p2tr_with(&secret, witness), Effect::Adds(even(&secret)))
    });
    let script_path = (any_secret(), arguments(), 0usize..4, 0..3, some_annex()).prop_map(
        |(secret, arguments, steps, kind, annex)| {
            let (control_block, effect) = match kind {
                0 => {
                    let internal_key = x_only(&secret.negate());
                    let control_block = control_block(&internal_key, steps);
                    (control_block, Effect::Adds(even(&secret)))
                }
                1 => {
                    let control_block = control_block(&spindex::bip352::NUMS_POINT, steps);
                    (control_block, Effect::Nothing)
                }
                _ => {
                    let control_block = nums_control_block()[..8 * steps].to_vec();
                    (control_block, Effect::Adds(even(&secret)))
                }
            };
            let witness = arguments
                .into_iter()
                .chain([leaf_script(), control_block])
                .chain(annex)
                .collect();
            (p2tr_with(&secret, witness), effect)
        },
    );
    let keyless = (any_secret(), any::<bool>()).prop_map(|(secret, empty)| {
        let spend = if empty {
            p2tr_with(&secret, Vec::new())
        } else {
            let witness = vec![schnorr_signature()];
            Spend::new(p2tr_script(&[0xff; 32]), Vec::new(), witness)
        };
        (spend, Effect::Nothing)
    });
    prop_oneof![3 => key_path, 3 => script_path, 1 => keyless]
}

fn other_spend() -> impl Strategy<Value = (Spend, Effect)> {
    let scripts = vec![
        bare_multisig(2),
        bare_multisig(3),
        p2wsh_script(),
        vec![0x51, 0x02, 0x4e, 0x73],
        vec![0x52, 0x01, 0xab],
        vec![0x6a, 0x01, 0xab],
        script(&[&push(&pubkey(&secret(9)).serialize()), &[0xac]]),
        script(&[&[0x00], &push(&[7; 21])]),
    ];
    let nothing = prop::sample::select(scripts).prop_map(|script| {
        let key = pubkey(&secret(9)).serialize().to_vec();
        let spend = Spend::new(script, push(&key), vec![signature(), key]);
        (spend, Effect::Nothing)
    });
    let later_version = (2u8..=16, bytes(2..41)).prop_map(|(version, program)| {
        let prevout_script = script(&[&[0x50 + version], &push(&program)]);
        let spend = Spend::new(prevout_script, Vec::new(), vec![vec![1]]);
        (spend, Effect::Disqualifies)
    });
    prop_oneof![9 => nothing, 1 => later_version]
}

fn any_spends() -> impl Strategy<Value = Vec<(Spend, Effect)>> {
    let spend = prop_oneof![
        2 => hashed_key_spend(),
        3 => segwit_spend(),
        1 => other_p2sh_spend(),
        4 => taproot_spend(),
        2 => other_spend(),
    ];
    // Few different bytes, so that outpoints are told apart by vout, too.
    let outpoint = (0u8..3, prop_oneof![0u32..3, 255u32..258, any::<u32>()]);
    prop::collection::vec((spend, outpoint), 1..7).prop_map(|spends| {
        spends
            .into_iter()
            .map(|((spend, effect), (txid, vout))| (spend.at(outpoint_of(txid, vout)), effect))
            .collect()
    })
}

fn outpoint_of(txid: u8, vout: u32) -> bitcoin::OutPoint {
    // Never the null outpoint, which only a coinbase has.
    outpoint(txid + 1, vout)
}

fn split(spends: Vec<(Spend, Effect)>) -> (Vec<Spend>, Vec<Effect>) {
    spends.into_iter().unzip()
}

fn expected_tweak(spends: &[Spend], effects: &[Effect]) -> Option<[u8; 33]> {
    if effects
        .iter()
        .any(|effect| matches!(effect, Effect::Disqualifies))
    {
        return None;
    }
    let counted: Vec<SecretKey> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Adds(secret) => Some(*secret),
            _ => None,
        })
        .collect();
    tweak_of(spends, &counted)
}

/// One change somewhere in an input.
#[derive(Clone, Debug)]
enum Damage {
    Byte(Index, Index, u8),
    Cut(Index, Index),
    Grow(Index, Vec<u8>),
    DropItem(Index),
    CopyItem(Index, Index),
    EmptyScriptSig,
}

fn any_damage() -> impl Strategy<Value = Damage> {
    let interesting = prop_oneof![
        Just(0x00),
        Just(0x02),
        Just(0x03),
        Just(0x14),
        Just(0x20),
        Just(0x50),
        Just(0x51),
        Just(0x52),
        any::<u8>()
    ];
    prop_oneof![
        4 => (any::<Index>(), any::<Index>(), interesting)
            .prop_map(|(field, place, byte)| Damage::Byte(field, place, byte)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(field, place)| Damage::Cut(field, place)),
        1 => (any::<Index>(), bytes(1..35)).prop_map(|(field, bytes)| Damage::Grow(field, bytes)),
        1 => any::<Index>().prop_map(Damage::DropItem),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::CopyItem(from, to)),
        1 => Just(Damage::EmptyScriptSig),
    ]
}

fn apply(spend: &mut Spend, damage: &Damage) {
    /// Some byte string of the input.
    fn field<'a>(spend: &'a mut Spend, index: &Index) -> &'a mut Vec<u8> {
        match index.index(2 + spend.witness.len()) {
            0 => &mut spend.prevout_script,
            1 => &mut spend.script_sig,
            item => &mut spend.witness[item - 2],
        }
    }
    match damage {
        Damage::Byte(index, place, byte) => {
            let field = field(spend, index);
            if !field.is_empty() {
                // The first bytes decide most, so every second change is there.
                let place = place.index(2 * field.len());
                let place = if place < field.len() {
                    place
                } else {
                    place % 3
                };
                let place = place.min(field.len() - 1);
                field[place] = *byte;
            }
        }
        Damage::Cut(index, place) => {
            let field = field(spend, index);
            field.truncate(place.index(field.len() + 1));
        }
        Damage::Grow(index, bytes) => field(spend, index).extend(bytes),
        Damage::DropItem(index) => {
            if !spend.witness.is_empty() {
                let place = index.index(spend.witness.len());
                spend.witness.remove(place);
            }
        }
        Damage::CopyItem(from, to) => {
            if !spend.witness.is_empty() {
                let item = spend.witness[from.index(spend.witness.len())].clone();
                let place = to.index(spend.witness.len() + 1);
                spend.witness.insert(place, item);
            }
        }
        Damage::EmptyScriptSig => spend.script_sig.clear(),
    }
}

/// The library's answer in the twin's words.
fn computed_verdict(tx: &bitcoin::Transaction, prevouts: &[TxOut]) -> Verdict {
    match (
        tweak_inputs(tx, prevouts).is_some_and(|inputs| {
            inputs
                .keys
                .iter()
                .any(|key| PublicKey::from_slice(key).is_ok())
        }),
        computed_tweak(tx, prevouts),
    ) {
        (false, None) => Verdict::NotEligible,
        (true, None) => Verdict::Infinity,
        (true, Some(tweak)) => Verdict::Tweak(tweak),
        (false, Some(_)) => panic!("a tweak without inputs"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn tweak_follows_from_the_secrets(spends in any_spends()) {
        let (spends, effects) = split(spends);
        let (tx, prevouts) = transaction(&spends);
        prop_assert_eq!(computed_tweak(&tx, &prevouts), expected_tweak(&spends, &effects));
        // The twin has to agree, or it would judge nothing.
        let twin = match twin::verdict(&spends, true) {
            Verdict::Tweak(tweak) => Some(tweak),
            Verdict::NotEligible | Verdict::Infinity => None,
        };
        prop_assert_eq!(twin, expected_tweak(&spends, &effects));
    }

    #[test]
    fn order_of_inputs_does_not_matter(spends in any_spends()) {
        let (mut spends, _) = split(spends);
        let (tx, prevouts) = transaction(&spends);
        let tweak = computed_tweak(&tx, &prevouts);
        spends.reverse();
        let (tx, prevouts) = transaction(&spends);
        prop_assert_eq!(computed_tweak(&tx, &prevouts), tweak);
    }

    #[test]
    fn damaged_inputs_are_judged_as_by_the_twin(
        spends in any_spends(),
        damages in prop::collection::vec((any::<Index>(), any_damage()), 1..6),
        output_script in prop_oneof![Just(p2tr_script(&[0x77; 32])), bytes(0..40)],
    ) {
        let (mut spends, _) = split(spends);
        for (index, damage) in &damages {
            let place = index.index(spends.len());
            apply(&mut spends[place], damage);
        }
        let has_taproot_output = output_script.len() == 34 && output_script.starts_with(&[0x51, 0x20]);
        let (tx, prevouts) = transaction_to(&spends, vec![output(output_script)]);
        prop_assert_eq!(computed_verdict(&tx, &prevouts), twin::verdict(&spends, has_taproot_output));
    }

    #[test]
    fn random_bytes_are_judged_as_by_the_twin(
        spends in prop::collection::vec(
            (bytes(0..50), bytes(0..100), prop::collection::vec(bytes(0..70), 0..5)),
            1..4,
        ),
    ) {
        let spends: Vec<Spend> = spends
            .into_iter()
            .map(|(script, script_sig, witness)| Spend::new(script, script_sig, witness))
            .collect();
        let (tx, prevouts) = transaction(&spends);
        prop_assert_eq!(computed_verdict(&tx, &prevouts), twin::verdict(&spends, true));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn batch_equals_one_by_one(transactions in prop::collection::vec(any_spends(), 0..10)) {
        let mut inputs: Vec<TweakInputs> = Vec::new();
        let mut expected = Vec::new();
        for spends in transactions {
            let (spends, _) = split(spends);
            let (tx, prevouts) = transaction(&spends);
            if let Some(found) = tweak_inputs(&tx, &prevouts) {
                inputs.push(found);
                expected.push(computed_tweak(&tx, &prevouts));
            }
        }
        let batch: Vec<Option<[u8; 33]>> = tweaks(&LibSecp256k1, &inputs)
            .into_iter()
            .map(|tweak| tweak.map(|tweak| tweak.to_compressed()))
            .collect();
        prop_assert_eq!(batch, expected);
    }
}
