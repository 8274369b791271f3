use secp256k1::{SECP256K1, Scalar as LibScalar};

use super::*;
use crate::curve::arch::Portable;
use crate::curve::batch::groups_for;
use crate::curve::field::words_to_be_bytes;
use crate::curve::libsecp256k1;
use crate::curve::reference::N;
use crate::curve::suite::public;

/// A hash with this value.
fn hash_of(words: &[u64; 4]) -> State {
    std::array::from_fn(|i| (words[3 - i / 2] >> (32 * (1 - i % 2))) as u32)
}

/// 0, the order of the group, numbers around them, and the largest.
fn edges() -> Vec<[u64; 4]> {
    let near_order = |offset: i64| [N[0].wrapping_add_signed(offset), N[1], N[2], N[3]];
    let mut edges: Vec<[u64; 4]> = (0..3).map(|small| [small, 0, 0, 0]).collect();
    edges.extend((-2..=2).map(near_order));
    // Above the order, and below, in other words than the lowest.
    edges.extend([
        [0, N[1] + 1, N[2], N[3]],
        [0, 0, N[2] + 1, N[3]],
        [u64::MAX, N[1] - 1, N[2], N[3]],
        [u64::MAX, u64::MAX, N[2] - 1, N[3]],
        [0, 0, 0, 1],
        [u64::MAX; 4],
    ]);
    edges
}

#[test]
fn hashes_are_scalars_from_1_to_the_order() {
    for edge in edges() {
        let (words, is_scalar) = output_scalar(&hash_of(&edge));
        assert_eq!(words, edge);
        let exact = libsecp256k1::nonzero_scalar(words_to_be_bytes(&edge));
        assert_eq!(is_scalar, exact.is_some(), "{edge:x?}");
    }
}

#[test]
fn candidates_of_hashes_that_are_no_scalars_are_zeros() {
    let table = GeneratorTable::shared().expect("a table");
    let spend_key = public(1);
    let labels = [public(2), public(3)];
    let targets = OutputTargets::new(table, &spend_key, &labels).expect("no sum is infinity");
    let edges = edges();
    let groups = groups_for::<Portable>(edges.len());
    let mut lockstep = Lockstep::new(Portable, groups);
    let mut stage = OutputStage::new(Portable);
    stage.resize(edges.len(), groups);
    for (i, edge) in edges.iter().enumerate() {
        (stage.scalars[i], stage.is_scalar[i]) = output_scalar(&hash_of(edge));
    }
    let done = stage.multiply_generator(&mut lockstep, table);
    assert_eq!(done, Ok(()), "an unusual hash spoils the batch");
    let mut candidates = vec![[9; 32]; 3 * edges.len()];
    let done = stage.candidates(&mut lockstep, &targets, 0..3, &mut candidates);
    assert_eq!(done, Ok(()), "an unusual hash spoils the batch");
    let sums = [None, Some(labels[0]), Some(labels[1])];
    for (edge, own) in edges.iter().zip(candidates.chunks(3)) {
        let t_0 = libsecp256k1::nonzero_scalar(words_to_be_bytes(edge));
        let expected = sums.map(|label| {
            let Some(t_0): Option<LibScalar> = t_0 else {
                return [0; 32];
            };
            let first = spend_key.add_exp_tweak(SECP256K1, &t_0).expect("a point");
            let sum = label.map_or(first, |label| first.combine(&label).expect("a point"));
            sum.x_only_public_key().0.serialize()
        });
        assert_eq!(own, expected, "{edge:x?}");
    }
}

#[test]
fn targets_at_infinity_are_refused() {
    let table = GeneratorTable::shared().expect("a table");
    let spend_key = public(1);
    assert!(OutputTargets::new(table, &spend_key, &[]).is_some());
    assert!(OutputTargets::new(table, &table.excess, &[]).is_none());
    // B - excess + L.
    let start = spend_key
        .combine(&table.excess.negate(SECP256K1))
        .expect("a point");
    let label = start.negate(SECP256K1);
    assert!(OutputTargets::new(table, &spend_key, &[public(2), label]).is_none());
}

/// A compressed point and ser32(0).
#[test]
fn messages_have_the_length_that_bip352_gives_them() {
    assert_eq!(MESSAGE_BYTES, 37);
}
