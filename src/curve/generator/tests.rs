use secp256k1::Scalar as LibScalar;

use super::*;
use crate::curve::group::CHAINS;
use crate::curve::reference::{self, N};
use crate::curve::suite::{point, secret};

/// `scalar·G` plus the excess, whatever the size of the scalar.
fn with_excess(table: &GeneratorTable, scalar: &[u64; 4]) -> AffinePoint {
    let reduced = reference::reduce(scalar, &N);
    let tweak = LibScalar::from_be_bytes(crate::curve::field::words_to_be_bytes(&reduced));
    let sum = table
        .excess
        .add_exp_tweak(SECP256K1, &tweak.expect("below n"));
    point(&sum.expect("not the negative excess"))
}

#[test]
fn entries_are_multiples_with_the_offset() {
    let table = GeneratorTable::shared().expect("a table");
    for window in 0..WINDOWS {
        let offset = offset(window).expect("a point");
        let entries = &table.entries[window];
        let last = entries.len() - 1;
        assert_eq!(last, if window == WINDOWS - 1 { 15 } else { 4095 });
        assert_eq!(entries[0], point(&offset));
        // One bit each, all of them, and others.
        let bits = (0..WINDOW_BITS).map(|bit| 1 << bit);
        for digit in bits.chain([last, last - 1, 0x5a5, 0xa5a]) {
            let Some(entry) = entries.get(digit) else {
                continue;
            };
            let mut scalar = [0; 4];
            let bit = window * WINDOW_BITS;
            let digits = (digit as u128) << (bit % 64);
            scalar[bit / 64] = digits as u64;
            if bit / 64 < 3 {
                scalar[bit / 64 + 1] = (digits >> 64) as u64;
            }
            let bytes = crate::curve::field::words_to_be_bytes(&reference::reduce(&scalar, &N));
            let tweak = LibScalar::from_be_bytes(bytes).expect("below n");
            let sum = offset.add_exp_tweak(SECP256K1, &tweak).expect("a point");
            assert_eq!(*entry, point(&sum), "digit {digit} of window {window}");
        }
    }
}

#[test]
fn multiples_are_right_for_scalars_of_any_size() {
    let table = GeneratorTable::shared().expect("a table");
    let one = [1, 0, 0, 0];
    let mut scalars = vec![
        [0; 4],
        one,
        [0xfff, 0, 0, 0],
        [0x1000, 0, 0, 0],
        [u64::MAX, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 1 << 63],
        reference::sub(&[0; 4], &one, &N),
        N,
        [N[0] + 1, N[1], N[2], N[3]],
        [u64::MAX; 4],
    ];
    scalars.extend(
        (0..6).map(|i| crate::curve::field::words_from_be_bytes(&secret(i).secret_bytes())),
    );
    let groups = groups_for::<Portable>(scalars.len());
    assert!(!scalars.len().is_multiple_of(CHAINS));
    let mut lockstep = Lockstep::new(Portable, groups);
    let mut sums = Points::new(Portable, groups);
    let mut entries = Points::new(Portable, groups);
    let gather = |window, points: &mut Points<Portable>| {
        Portable.run(Gather {
            backend: Portable,
            table,
            window,
            scalars: &scalars,
            points,
        });
    };
    gather(0, &mut sums);
    for window in 1..WINDOWS {
        gather(window, &mut entries);
        let added = lockstep.add(&mut sums, entries.operand(), false);
        assert_eq!(added, Ok(()), "window {window}");
    }
    let mut out = vec![AffinePoint::generator(); groups * CHAINS];
    sums.store(Portable, &mut out);
    for (i, out) in out.iter().enumerate() {
        // Lanes past the last scalar repeat it.
        let scalar = &scalars[i.min(scalars.len() - 1)];
        assert_eq!(*out, with_excess(table, scalar), "scalar {scalar:x?}");
    }
}
