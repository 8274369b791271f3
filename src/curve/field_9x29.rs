//! Field elements in nine limbs of 29 bits (the top one 24), for processors that multiply many 32-bit numbers at once.
//!
//! The value is `sum of limb[i]·2^(29i)`. Every bound below is on each lane by itself.
//!
//! | limb | tight | |
//! |---|---|---|
//! | 0 | < 2^29 + 2^25 | the last carry, times 977, lands here |
//! | 1 | < 2^29 + 2^18 | the last carry, times 8, lands here |
//! | 2..=7 | < 2^29 | |
//! | 8 | < 2^24 | |
//!
//! The code is generic over [`Simd`], a vector of 64-bit words: it is the same for AVX2 (four lanes), AVX-512
//! (eight), and the lane by which the tests prove it right for all limbs (`docs/kernel.md`, "What is proven").

#![expect(
    clippy::needless_range_loop,
    reason = "chains and limbs are counted through several arrays at once"
)]

use super::backend::{Backend, Difference, NegatedSum, Sum, Task, Tight};
use super::field::{Element, FieldElement, MAX_PRODUCT};

/// Limbs of an element.
pub(crate) const LIMBS: usize = 9;
/// Bits of a limb, but for the top one.
const LIMB_BITS: u32 = 29;
/// Bits of the top limb: 8·29 + 24 = 256.
const TOP_BITS: u32 = 24;
const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;
const TOP_MASK: u64 = (1 << TOP_BITS) - 1;

/// 2^261 = 2^37 + 31264 mod p: column 9 + k counts 31264 times in column k, and 2^8 times in column k + 1.
const FOLD_LOW: u64 = 977 << 5;
/// See [`FOLD_LOW`]; as a shift.
const FOLD_HIGH_SHIFT: u32 = 8;
/// 2^256 = 2^32 + 977 mod p: a carry out of the top limb counts 977 times in limb 0, and 2^3 times in limb 1.
const CARRY_LOW: u64 = 977;
/// See [`CARRY_LOW`]; as a shift.
const CARRY_HIGH_SHIFT: u32 = 3;

/// The largest limbs of an element of this magnitude, by the operation that makes it.
#[cfg(any(test, debug_assertions))]
pub(crate) const fn largest_limbs(magnitude: u32) -> [u64; LIMBS] {
    let mut limbs = [LIMB_MASK; LIMBS];
    limbs[0] += 1 << 25;
    limbs[1] += 1 << 18;
    limbs[8] = TOP_MASK;
    let mut i = 0;
    while i < LIMBS {
        limbs[i] = match magnitude {
            1 => limbs[i],
            2 => 2 * limbs[i],
            3 => BIAS[i] + limbs[i],
            _ => 2 * BIAS[i],
        };
        i += 1;
    }
    limbs
}

/// 4p with a unit of each limb moved down to the one below, so that no limb of `BIAS - tight` is negative. 2p would do.
///
/// Limbs 0..=7 are in 2^29 + 2^25 .. 2^30, limb 8 in 2^24 .. 2^26.
const BIAS: [u64; LIMBS] = bias(4, 1);
/// 8p likewise with three units: for two tight elements subtracted from a product. 3p with two units would do.
const WIDE_BIAS: [u64; LIMBS] = bias(8, 3);

/// The limbs of `multiple·p`, with `units·2^29` added to each limb at the expense of the next.
const fn bias(multiple: u64, units: u64) -> [u64; LIMBS] {
    // 2^256·multiple - (2^32 + 977)·multiple, digit by digit.
    let low = 977 * multiple;
    let high = 8 * multiple;
    let mut limbs = [LIMB_MASK; LIMBS];
    limbs[0] = (1 << LIMB_BITS) - low;
    limbs[1] = LIMB_MASK - high;
    limbs[8] = (multiple << TOP_BITS) - 1;
    let mut i = 0;
    while i < LIMBS - 1 {
        limbs[i] += units << LIMB_BITS;
        limbs[i + 1] -= units;
        i += 1;
    }
    limbs
}

/// A token for instructions on vectors of 64-bit words. All operations wrap, as the instructions do.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Short name of the instruction set.
    const NAME: &'static str;
    /// Words in a vector, at most 8.
    const LANES: usize;
    /// A vector.
    type Words: Copy + Send + Sync + 'static;

    /// Runs a task compiled for these instructions.
    fn run<T: Task>(self, task: T) -> T::Output;
    /// The same word in each lane.
    fn splat(self, word: u64) -> Self::Words;
    /// Bit i of `lanes`, as a word of zeros or ones in lane i.
    fn mask(self, lanes: u32) -> Self::Words;
    /// a + b.
    fn add(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// a - b.
    fn sub(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// The product of the low halves.
    fn mul32(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// Bitwise and.
    fn and(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// Bitwise exclusive or.
    fn xor(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// a·2^N.
    fn shl<const N: u32>(self, a: Self::Words) -> Self::Words;
    /// a / 2^N.
    fn shr<const N: u32>(self, a: Self::Words) -> Self::Words;
    /// Vector w has word w of `lane(i)` in lane i.
    fn load_transposed<'a>(self, lane: impl Fn(usize) -> &'a [u64; 4]) -> [Self::Words; 4];
    /// Calls `lane(i, words)` with the words that lane i has in the four vectors.
    fn store_transposed(self, words: [Self::Words; 4], lane: impl FnMut(usize, [u64; 4]));
}

/// The columns of a product of polynomials: column k is the sum of all `a[i]·b[k-i]`.
trait Product<S: Simd> {
    fn column<const K: usize>(&self, simd: S) -> S::Words;
}

/// `$s.mul32(a, b)` of each pair, summed.
macro_rules! sum {
    ($s:ident: $first_a:expr, $first_b:expr $(; $a:expr, $b:expr)*) => {{
        let sum = $s.mul32($first_a, $first_b);
        $( let sum = $s.add(sum, $s.mul32($a, $b)); )*
        sum
    }};
}

struct Factors<'a, V>(&'a [V; LIMBS], &'a [V; LIMBS]);

impl<S: Simd> Product<S> for Factors<'_, S::Words> {
    #[rustfmt::skip]
    #[inline(always)]
    fn column<const K: usize>(&self, s: S) -> S::Words {
        let Self(a, b) = self;
        match K {
            0 => sum!(s: a[0], b[0]),
            1 => sum!(s: a[0], b[1]; a[1], b[0]),
            2 => sum!(s: a[0], b[2]; a[1], b[1]; a[2], b[0]),
            3 => sum!(s: a[0], b[3]; a[1], b[2]; a[2], b[1]; a[3], b[0]),
            4 => sum!(s: a[0], b[4]; a[1], b[3]; a[2], b[2]; a[3], b[1]; a[4], b[0]),
            5 => sum!(s: a[0], b[5]; a[1], b[4]; a[2], b[3]; a[3], b[2]; a[4], b[1]; a[5], b[0]),
            6 => sum!(s: a[0], b[6]; a[1], b[5]; a[2], b[4]; a[3], b[3]; a[4], b[2]; a[5], b[1]; a[6], b[0]),
            7 => sum!(s: a[0], b[7]; a[1], b[6]; a[2], b[5]; a[3], b[4]; a[4], b[3]; a[5], b[2]; a[6], b[1]; a[7], b[0]),
            8 => sum!(s: a[0], b[8]; a[1], b[7]; a[2], b[6]; a[3], b[5]; a[4], b[4]; a[5], b[3]; a[6], b[2]; a[7], b[1]; a[8], b[0]),
            9 => sum!(s: a[1], b[8]; a[2], b[7]; a[3], b[6]; a[4], b[5]; a[5], b[4]; a[6], b[3]; a[7], b[2]; a[8], b[1]),
            10 => sum!(s: a[2], b[8]; a[3], b[7]; a[4], b[6]; a[5], b[5]; a[6], b[4]; a[7], b[3]; a[8], b[2]),
            11 => sum!(s: a[3], b[8]; a[4], b[7]; a[5], b[6]; a[6], b[5]; a[7], b[4]; a[8], b[3]),
            12 => sum!(s: a[4], b[8]; a[5], b[7]; a[6], b[6]; a[7], b[5]; a[8], b[4]),
            13 => sum!(s: a[5], b[8]; a[6], b[7]; a[7], b[6]; a[8], b[5]),
            14 => sum!(s: a[6], b[8]; a[7], b[7]; a[8], b[6]),
            15 => sum!(s: a[7], b[8]; a[8], b[7]),
            _ => sum!(s: a[8], b[8]),
        }
    }
}

/// 2a.
#[inline(always)]
fn twice<S: Simd>(s: S, limbs: &[S::Words; LIMBS]) -> [S::Words; LIMBS] {
    let mut doubled = *limbs;
    for limb in &mut doubled {
        *limb = s.add(*limb, *limb);
    }
    doubled
}

/// The limbs of a, and of 2a.
struct Squared<'a, V>(&'a [V; LIMBS], [V; LIMBS]);

impl<S: Simd> Product<S> for Squared<'_, S::Words> {
    #[rustfmt::skip]
    #[inline(always)]
    fn column<const K: usize>(&self, s: S) -> S::Words {
        let Self(a, d) = self;
        match K {
            0 => sum!(s: a[0], a[0]),
            1 => sum!(s: d[0], a[1]),
            2 => sum!(s: d[0], a[2]; a[1], a[1]),
            3 => sum!(s: d[0], a[3]; d[1], a[2]),
            4 => sum!(s: d[0], a[4]; d[1], a[3]; a[2], a[2]),
            5 => sum!(s: d[0], a[5]; d[1], a[4]; d[2], a[3]),
            6 => sum!(s: d[0], a[6]; d[1], a[5]; d[2], a[4]; a[3], a[3]),
            7 => sum!(s: d[0], a[7]; d[1], a[6]; d[2], a[5]; d[3], a[4]),
            8 => sum!(s: d[0], a[8]; d[1], a[7]; d[2], a[6]; d[3], a[5]; a[4], a[4]),
            9 => sum!(s: d[1], a[8]; d[2], a[7]; d[3], a[6]; d[4], a[5]),
            10 => sum!(s: d[2], a[8]; d[3], a[7]; d[4], a[6]; a[5], a[5]),
            11 => sum!(s: d[3], a[8]; d[4], a[7]; d[5], a[6]),
            12 => sum!(s: d[4], a[8]; d[5], a[7]; a[6], a[6]),
            13 => sum!(s: d[5], a[8]; d[6], a[7]),
            14 => sum!(s: d[6], a[8]; a[7], a[7]),
            15 => sum!(s: d[7], a[8]),
            _ => sum!(s: a[8], a[8]),
        }
    }
}

/// Reduces a product to a tight element. `minus(k, column)` may take something off column k on the way: what it gives
/// must neither be negative nor exceed the column by more than 2^32.
///
/// Columns fit 64 bits: column 7 has eight products of full limbs, and MAX_PRODUCT·8·2^58·(1 + 2^-4)^2 with the
/// small terms added is below 2^64; column 8 has seven of them and two with a top limb, which are smaller by 2^5.
/// Its products are summed before the carry is added, which keeps the carry off the critical path.
#[inline(always)]
fn reduce<S: Simd>(
    s: S,
    product: impl Product<S>,
    minus: impl Fn(usize, S::Words) -> S::Words,
) -> [S::Words; LIMBS] {
    let mask = s.splat(LIMB_MASK);
    let fold = s.splat(FOLD_LOW);

    // The upper half first: columns 8 to 16 as limbs of 29 bits, and what is left over as limb 17.
    macro_rules! upper {
        ($k:literal, $carry:ident) => {{
            let column = s.add(product.column::<$k>(s), $carry);
            (s.and(column, mask), s.shr::<LIMB_BITS>(column))
        }};
    }
    let column = product.column::<8>(s);
    let (h8, carry) = (s.and(column, mask), s.shr::<LIMB_BITS>(column));
    let (h9, carry) = upper!(9, carry);
    let (h10, carry) = upper!(10, carry);
    let (h11, carry) = upper!(11, carry);
    let (h12, carry) = upper!(12, carry);
    let (h13, carry) = upper!(13, carry);
    let (h14, carry) = upper!(14, carry);
    let (h15, carry) = upper!(15, carry);
    let (h16, h17) = upper!(16, carry);

    // The lower half, with the upper one folded in. h17 folds into columns 8 and 9, and from 9 into 0 and 1.
    macro_rules! lower {
        ($k:literal, $fold:ident, $shifted:ident, $carry:ident) => {{
            let column = s.add(product.column::<$k>(s), s.mul32($fold, fold));
            let column = s.add(column, s.shl::<FOLD_HIGH_SHIFT>($shifted));
            let column = minus($k, s.add(column, $carry));
            (s.and(column, mask), s.shr::<LIMB_BITS>(column))
        }};
    }
    let column = s.add(product.column::<0>(s), s.mul32(h9, fold));
    let column = s.add(column, s.mul32(h17, s.splat(FOLD_LOW << FOLD_HIGH_SHIFT)));
    let column = minus(0, column);
    let (l0, carry) = (s.and(column, mask), s.shr::<LIMB_BITS>(column));
    let carry = s.add(carry, s.shl::<{ 2 * FOLD_HIGH_SHIFT }>(h17));
    let (l1, carry) = lower!(1, h10, h9, carry);
    let (l2, carry) = lower!(2, h11, h10, carry);
    let (l3, carry) = lower!(3, h12, h11, carry);
    let (l4, carry) = lower!(4, h13, h12, carry);
    let (l5, carry) = lower!(5, h14, h13, carry);
    let (l6, carry) = lower!(6, h15, h14, carry);
    let (l7, carry) = lower!(7, h16, h15, carry);
    let column = s.add(h8, s.mul32(h17, fold));
    let column = s.add(column, s.shl::<FOLD_HIGH_SHIFT>(h16));
    let column = minus(8, s.add(column, carry));

    // The column reaches 1.193·2^38, so 19,550 at most is carried out of 256 bits: 977·19,550 < 2^25, 8·19,550 < 2^18.
    let carry = s.shr::<TOP_BITS>(column);
    let l8 = s.and(column, s.splat(TOP_MASK));
    let l0 = s.add(l0, s.mul32(carry, s.splat(CARRY_LOW)));
    let l1 = s.add(l1, s.shl::<CARRY_HIGH_SHIFT>(carry));
    [l0, l1, l2, l3, l4, l5, l6, l7, l8]
}

/// Carries from limb to limb; what the top limb has beyond its 24 bits stays in it.
#[inline(always)]
fn carry_up<S: Simd>(s: S, limbs: &mut [S::Words; LIMBS]) {
    let mask = s.splat(LIMB_MASK);
    for i in 0..LIMBS - 1 {
        limbs[i + 1] = s.add(limbs[i + 1], s.shr::<LIMB_BITS>(limbs[i]));
        limbs[i] = s.and(limbs[i], mask);
    }
}

/// Folds what the top limb has beyond its 24 bits into limbs 0 and 1.
#[inline(always)]
fn fold_top<S: Simd>(s: S, limbs: &mut [S::Words; LIMBS]) {
    let carry = s.shr::<TOP_BITS>(limbs[8]);
    limbs[8] = s.and(limbs[8], s.splat(TOP_MASK));
    limbs[0] = s.add(limbs[0], s.mul32(carry, s.splat(CARRY_LOW)));
    limbs[1] = s.add(limbs[1], s.shl::<CARRY_HIGH_SHIFT>(carry));
}

/// The limbs of values that fit 256 bits.
#[inline(always)]
fn split<S: Simd>(s: S, [w0, w1, w2, w3]: [S::Words; 4]) -> [S::Words; LIMBS] {
    let mask = s.splat(LIMB_MASK);
    // Of disjoint bits, a sum is a union.
    let low = |a| s.and(a, mask);
    [
        low(w0),
        low(s.shr::<29>(w0)),
        low(s.add(s.shr::<58>(w0), s.shl::<6>(w1))),
        low(s.shr::<23>(w1)),
        low(s.add(s.shr::<52>(w1), s.shl::<12>(w2))),
        low(s.shr::<17>(w2)),
        low(s.add(s.shr::<46>(w2), s.shl::<18>(w3))),
        low(s.shr::<11>(w3)),
        s.shr::<40>(w3),
    ]
}

/// The inverse of [`split`], for limbs without spare bits.
#[inline(always)]
fn join<S: Simd>(s: S, l: [S::Words; LIMBS]) -> [S::Words; 4] {
    // In each word the parts are disjoint; shifts drop what belongs to the word above.
    let join = |a, b, c| s.add(s.add(a, b), c);
    [
        join(l[0], s.shl::<29>(l[1]), s.shl::<58>(l[2])),
        join(s.shr::<6>(l[2]), s.shl::<23>(l[3]), s.shl::<52>(l[4])),
        join(s.shr::<12>(l[4]), s.shl::<17>(l[5]), s.shl::<46>(l[6])),
        join(s.shr::<18>(l[6]), s.shl::<11>(l[7]), s.shl::<40>(l[8])),
    ]
}

/// The same value modulo p in limbs without spare bits, for an element of any magnitude.
#[inline(always)]
fn folded<S: Simd>(s: S, limbs: &[S::Words; LIMBS]) -> [S::Words; LIMBS] {
    let mut limbs = *limbs;
    // After one fold the value is below 2^256 + 2^36, after two below 2^256.
    carry_up(s, &mut limbs);
    fold_top(s, &mut limbs);
    carry_up(s, &mut limbs);
    fold_top(s, &mut limbs);
    carry_up(s, &mut limbs);
    limbs
}

/// a + 2^256 - p of limbs without spare bits, less 2^256 if that leaves 256 bits, and a word of ones if it does: exactly
/// if a is at least p. The limbs are a - p then.
#[inline(always)]
fn less_p<S: Simd>(s: S, limbs: &[S::Words; LIMBS]) -> ([S::Words; LIMBS], S::Words) {
    let mut reduced = *limbs;
    reduced[0] = s.add(reduced[0], s.splat(CARRY_LOW));
    reduced[1] = s.add(reduced[1], s.splat(1 << CARRY_HIGH_SHIFT));
    carry_up(s, &mut reduced);
    let at_least_p = s.sub(s.splat(0), s.shr::<TOP_BITS>(reduced[8]));
    reduced[8] = s.and(reduced[8], s.splat(TOP_MASK));
    (reduced, at_least_p)
}

/// b where the mask is ones, a where it is zeros.
#[inline(always)]
fn select<S: Simd>(s: S, mask: S::Words, a: S::Words, b: S::Words) -> S::Words {
    s.xor(a, s.and(mask, s.xor(a, b)))
}

/// The canonical limbs of an element of any magnitude.
#[inline(always)]
fn canonical<S: Simd>(s: S, limbs: &[S::Words; LIMBS]) -> [S::Words; LIMBS] {
    let mut limbs = folded(s, limbs);
    let (reduced, at_least_p) = less_p(s, &limbs);
    for (limb, reduced) in limbs.iter_mut().zip(reduced) {
        *limb = select(s, at_least_p, *limb, reduced);
    }
    limbs
}

/// The backend of nine 29-bit limbs on the instructions `S`.
#[derive(Clone, Copy)]
pub(crate) struct Field9x29<S>(pub(crate) S);

impl<S: Simd> Field9x29<S> {
    /// In debug builds, panics unless each lane keeps the bounds of a magnitude.
    #[inline(always)]
    fn check<const A: u32>(self, limbs: [S::Words; LIMBS]) -> Element<[S::Words; LIMBS], A> {
        #[cfg(debug_assertions)]
        self.check_bounds(&limbs, &const { largest_limbs(A) });
        Element(limbs)
    }

    #[cfg(debug_assertions)]
    fn check_bounds(self, limbs: &[S::Words; LIMBS], largest: &[u64; LIMBS]) {
        for (i, (limb, largest)) in limbs.iter().zip(largest).enumerate() {
            self.0.store_transposed([*limb; 4], |lane, [limb, ..]| {
                assert!(
                    limb <= *largest,
                    "limb {i} of lane {lane} is {limb:#x}, above {largest:#x}"
                );
            });
        }
    }
}

impl<S: Simd> Backend for Field9x29<S> {
    const NAME: &'static str = S::NAME;
    const LANES: usize = S::LANES;
    type Limbs = [S::Words; LIMBS];

    #[inline(always)]
    fn run<T: Task>(self, task: T) -> T::Output {
        self.0.run(task)
    }

    #[inline(always)]
    fn splat(self, value: &FieldElement) -> Tight<Self> {
        self.load(|_| value)
    }

    #[inline(always)]
    fn load<'a>(self, lane: impl Fn(usize) -> &'a FieldElement) -> Tight<Self> {
        self.check(split(self.0, self.0.load_transposed(|i| lane(i).words())))
    }

    #[inline(always)]
    fn store<const A: u32>(self, a: &Element<Self::Limbs, A>, out: &mut [FieldElement]) {
        const { assert!(A <= 4) }
        let words = join(self.0, canonical(self.0, &a.0));
        self.0.store_transposed(words, |i, words| {
            if let Some(out) = out.get_mut(i) {
                *out = FieldElement::from_canonical_words(words);
            }
        });
    }

    #[inline(always)]
    fn add(self, a: &Tight<Self>, b: &Tight<Self>) -> Sum<Self> {
        let mut limbs = a.0;
        for i in 0..LIMBS {
            limbs[i] = self.0.add(limbs[i], b.0[i]);
        }
        self.check(limbs)
    }

    #[inline(always)]
    fn sub(self, a: &Tight<Self>, b: &Tight<Self>) -> Difference<Self> {
        let s = self.0;
        let mut limbs = a.0;
        for i in 0..LIMBS {
            limbs[i] = s.sub(s.add(limbs[i], s.splat(BIAS[i])), b.0[i]);
        }
        self.check(limbs)
    }

    #[inline(always)]
    fn negated_sum(self, a: &Tight<Self>, b: &Tight<Self>) -> NegatedSum<Self> {
        let s = self.0;
        let mut limbs = a.0;
        for i in 0..LIMBS {
            limbs[i] = s.sub(s.sub(s.splat(2 * BIAS[i]), limbs[i]), b.0[i]);
        }
        self.check(limbs)
    }

    #[inline(always)]
    fn tighten<const A: u32>(self, a: &Element<Self::Limbs, A>) -> Tight<Self> {
        const { assert!(A <= 4) }
        let mut limbs = a.0;
        carry_up(self.0, &mut limbs);
        fold_top(self.0, &mut limbs);
        self.check(limbs)
    }

    #[inline(always)]
    fn mul<const A: u32, const B: u32>(
        self,
        a: &Element<Self::Limbs, A>,
        b: &Element<Self::Limbs, B>,
    ) -> Tight<Self> {
        const { assert!(A * B <= MAX_PRODUCT) }
        self.check(reduce(self.0, Factors(&a.0, &b.0), |_, column| column))
    }

    #[inline(always)]
    fn square<const A: u32>(self, a: &Element<Self::Limbs, A>) -> Tight<Self> {
        const { assert!(A * A <= MAX_PRODUCT) }
        let doubled = twice(self.0, &a.0);
        self.check(reduce(self.0, Squared(&a.0, doubled), |_, column| column))
    }

    #[inline(always)]
    fn mul_sub<const A: u32, const B: u32>(
        self,
        a: &Element<Self::Limbs, A>,
        b: &Element<Self::Limbs, B>,
        c: &Tight<Self>,
    ) -> Tight<Self> {
        const { assert!(A * B <= MAX_PRODUCT) }
        let s = self.0;
        self.check(reduce(s, Factors(&a.0, &b.0), |k, column| {
            s.sub(s.add(column, s.splat(BIAS[k])), c.0[k])
        }))
    }

    #[inline(always)]
    fn square_sub2<const A: u32>(
        self,
        a: &Element<Self::Limbs, A>,
        b: &Tight<Self>,
        c: &Tight<Self>,
    ) -> Tight<Self> {
        const { assert!(A * A <= MAX_PRODUCT) }
        let s = self.0;
        let doubled = twice(s, &a.0);
        self.check(reduce(s, Squared(&a.0, doubled), |k, column| {
            s.sub(s.sub(s.add(column, s.splat(WIDE_BIAS[k])), b.0[k]), c.0[k])
        }))
    }

    #[inline(always)]
    fn negate_lanes(self, a: &Tight<Self>, lanes: u32) -> Tight<Self> {
        let s = self.0;
        let mask = s.mask(lanes);
        let mut limbs = a.0;
        for (limb, bias) in limbs.iter_mut().zip(BIAS) {
            let negated = s.sub(s.splat(bias), *limb);
            *limb = select(s, mask, *limb, negated);
        }
        carry_up(s, &mut limbs);
        fold_top(s, &mut limbs);
        self.check(limbs)
    }
}

#[cfg(test)]
mod proof;
#[cfg(test)]
mod tests;
