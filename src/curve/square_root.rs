//! Square roots of field elements.

use super::backend::{Backend, Tight};

/// The chain of [`square_root`]: power `from`, squared so many times, times power `by`. Power 0 is a itself.
///
/// p is 3 mod 4, and (p+1)/4 in binary is 223 ones, a zero, 22 ones, and 00001100. The ones are built in runs of the
/// length that the comments say; two zeros are left at the end.
const ROOT_CHAIN: [(usize, u32, usize); 13] = [
    (0, 1, 0),   // 1: 2 ones
    (1, 1, 0),   // 2: 3
    (2, 3, 2),   // 3: 6
    (3, 3, 2),   // 4: 9
    (4, 2, 1),   // 5: 11
    (5, 11, 5),  // 6: 22
    (6, 22, 6),  // 7: 44
    (7, 44, 7),  // 8: 88
    (8, 88, 8),  // 9: 176
    (9, 44, 7),  // 10: 220
    (10, 3, 2),  // 11: 223
    (11, 23, 6), // 12: a zero and 22 ones more
    (12, 6, 1),  // 13: 0000 and two ones more
];

/// a^((p+1)/4) for each of several independent elements: a square root if there is one, else a root of -a.
///
/// 253 squarings and 13 products; several elements at once because each chain waits for its own last result.
#[inline(always)]
pub(crate) fn square_root<B: Backend, const N: usize>(
    backend: B,
    a: &[Tight<B>; N],
) -> [Tight<B>; N] {
    let mut powers = [*a; ROOT_CHAIN.len() + 1];
    for (step, (from, squarings, by)) in ROOT_CHAIN.into_iter().enumerate() {
        let mut power = powers[from];
        for _ in 0..squarings {
            for element in &mut power {
                *element = backend.square(element);
            }
        }
        for (element, factor) in power.iter_mut().zip(&powers[by]) {
            *element = backend.mul(element, factor);
        }
        powers[step + 1] = power;
    }
    let mut root = powers[ROOT_CHAIN.len()];
    for element in &mut root {
        *element = backend.square(&backend.square(element));
    }
    root
}
