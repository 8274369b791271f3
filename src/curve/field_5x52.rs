//! Field elements in five limbs of 52 bits (the top one 48), for processors that multiply and add numbers of 52 bits.
//!
//! The value is `sum of limb[i]·2^(52i)`. Every bound below is on each lane by itself. There are no spare bits below the top
//! limb, and none are needed: a product is given factors of 52 bits *by the instruction*, which ignores what
//! their words have above. An element may therefore keep bits there that were carried already.
//!
//! | form | limbs 0..=3 | limb 4 | value |
//! |---|---|---|---|
//! | tight | < 2^52 | < 2^48 + 2^4 | < 2^256 + 2^212 |
//! | of magnitude 2, 3, 4 | the low 52 bits count; the others are in the next limb already | < 2·(2^48 + 2^4), 3·2^48 + 2^4, 4·2^48 | < 2^258 |
//!
//! Words are signed. A limb of a difference may be negative until its carry is taken, by a shift that keeps the
//! sign: the carry is negative then, and the low 52 bits are what is left of the limb once the carry is taken off.
//! So only the sum of all limbs has to be made positive, not each limb, and a multiple of p is added in two limbs.
//!
//! The code is generic over [`Simd52`], a vector of 64-bit words: it is the same for AVX-512 IFMA (eight lanes) and
//! the lane by which the tests prove it right for all limbs (`docs/kernel.md`, "What is proven").

#![expect(
    clippy::needless_range_loop,
    reason = "limbs are counted through several arrays at once"
)]

use super::backend::{Backend, Difference, NegatedSum, Sum, Task, Tight};
use super::field::{Element, FOLD, FieldElement, MAX_PRODUCT};

/// Limbs of an element.
pub(crate) const LIMBS: usize = 5;
/// Columns of a product: sums of the halves of products.
const COLUMNS: usize = 2 * LIMBS;
/// Bits of a limb, but for the top one.
const LIMB_BITS: u32 = 52;
/// Bits of the top limb: 4·52 + 48 = 256.
const TOP_BITS: u32 = 48;
const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;
const TOP_MASK: u64 = (1 << TOP_BITS) - 1;

/// 2^260 mod p, 37 bits: what column 5 + k counts in column k.
const COLUMN_FOLD: u64 = FOLD << (LIMB_BITS - TOP_BITS);

/// The largest limbs of an element of this magnitude: from 2 upwards, the bits that were carried may be anything.
#[cfg(any(test, debug_assertions))]
pub(crate) const fn largest_limbs(magnitude: u32) -> [u64; LIMBS] {
    let tight = TOP_MASK + (1 << 4);
    let (low, top) = match magnitude {
        1 => (LIMB_MASK, tight),
        // A carry may come from below, or be taken away.
        2 => (u64::MAX, 2 * tight + 1),
        3 => (u64::MAX, (2 << TOP_BITS) + tight),
        _ => (u64::MAX, (4 << TOP_BITS) - 1),
    };
    [low, low, low, low, top]
}

/// 2p, more than any tight element: for a difference, as limbs that may be negative.
const BIAS: [i64; LIMBS] = bias(2, 0);
/// 4p, more than two tight elements. 3p would do.
const WIDE_BIAS: [i64; LIMBS] = bias(4, 0);
/// 2p, of which limbs 3 and 4 remain positive by themselves when a tight element is taken off: see [`reduce`]. Two units
/// would do.
const COLUMN_BIAS: [i64; LIMBS] = bias(2, 3);
/// 4p likewise, for two tight elements. These need all three units; 3p would do.
const WIDE_COLUMN_BIAS: [i64; LIMBS] = bias(4, 3);

/// The limbs of `multiple·p`, with `units·2^52` in limb 3 at the expense of limb 4.
const fn bias(multiple: i64, units: i64) -> [i64; LIMBS] {
    let low = -multiple * FOLD.cast_signed();
    [
        low,
        0,
        0,
        units << LIMB_BITS,
        (multiple << TOP_BITS) - units,
    ]
}

/// A token for instructions on vectors of 64-bit words with products of 52 bits. Sums, differences and left shifts wrap, as
/// the instructions do.
pub(crate) trait Simd52: Copy + Send + Sync + 'static {
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
    /// `sum` and the lower 52 bits of the product of the lower 52 bits of a and b.
    fn add_product_low(self, sum: Self::Words, a: Self::Words, b: Self::Words) -> Self::Words;
    /// `sum` and the upper 52 bits of the product of the lower 52 bits of a and b.
    fn add_product_high(self, sum: Self::Words, a: Self::Words, b: Self::Words) -> Self::Words;
    /// Bitwise and.
    fn and(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// Bitwise exclusive or.
    fn xor(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// a·2^N.
    fn shl<const N: u32>(self, a: Self::Words) -> Self::Words;
    /// a / 2^N, of words without a sign.
    fn shr<const N: u32>(self, a: Self::Words) -> Self::Words;
    /// a / 2^N, rounded down, of words with a sign.
    fn shr_signed<const N: u32>(self, a: Self::Words) -> Self::Words;
    /// Vector w has word w of `lane(i)` in lane i.
    fn load_transposed<'a>(self, lane: impl Fn(usize) -> &'a [u64; 4]) -> [Self::Words; 4];
    /// Calls `lane(i, words)` with the words that lane i has in the four vectors.
    fn store_transposed(self, words: [Self::Words; 4], lane: impl FnMut(usize, [u64; 4]));
}

/// a·b plus `start`, by columns.
#[inline(always)]
fn product<S: Simd52>(
    s: S,
    a: &[S::Words; LIMBS],
    b: &[S::Words; LIMBS],
    start: [S::Words; LIMBS],
) -> [S::Words; COLUMNS] {
    let zero = s.splat(0);
    // The halves apart, so that fewer sums wait for each other: this saves a tenth of the time.
    let (mut low, mut high) = ([zero; COLUMNS], [zero; COLUMNS]);
    low[..LIMBS].copy_from_slice(&start);
    macro_rules! add_products {
        ($($i:literal $j:literal;)*) => {$(
            low[$i + $j] = s.add_product_low(low[$i + $j], a[$i], b[$j]);
            high[$i + $j + 1] = s.add_product_high(high[$i + $j + 1], a[$i], b[$j]);
        )*};
    }
    // The upper columns first, since more is left to do with them.
    add_products!(0 4; 1 3; 2 2; 3 1; 4 0; 1 4; 2 3; 3 2; 4 1; 2 4; 3 3; 4 2; 3 4; 4 3; 4 4;);
    add_products!(0 0; 0 1; 1 0; 0 2; 1 1; 2 0; 0 3; 1 2; 2 1; 3 0;);
    for k in 1..COLUMNS {
        low[k] = s.add(low[k], high[k]);
    }
    low
}

/// a² plus `start`, by columns.
#[inline(always)]
fn squared<S: Simd52>(
    s: S,
    a: &[S::Words; LIMBS],
    start: [S::Words; LIMBS],
) -> [S::Words; COLUMNS] {
    let zero = s.splat(0);
    let (mut cross, mut columns) = ([zero; COLUMNS], [zero; COLUMNS]);
    columns[..LIMBS].copy_from_slice(&start);
    // The products of different limbs, once ...
    macro_rules! add_products {
        ($($i:literal $j:literal;)*) => {$(
            cross[$i + $j] = s.add_product_low(cross[$i + $j], a[$i], a[$j]);
            cross[$i + $j + 1] = s.add_product_high(cross[$i + $j + 1], a[$i], a[$j]);
        )*};
    }
    // ... and the squares, of which each column has one half.
    macro_rules! add_squares {
        ($($i:literal)*) => {$(
            columns[2 * $i] = s.add_product_low(columns[2 * $i], a[$i], a[$i]);
            columns[2 * $i + 1] = s.add_product_high(columns[2 * $i + 1], a[$i], a[$i]);
        )*};
    }
    add_products!(0 4; 1 3; 1 4; 2 3; 2 4; 3 4;);
    add_squares!(2 3 4);
    add_products!(0 1; 0 2; 0 3; 1 2;);
    add_squares!(0 1);
    for k in 1..COLUMNS - 1 {
        columns[k] = s.add(columns[k], s.add(cross[k], cross[k]));
    }
    columns
}

/// Reduces the columns of a product to a tight element.
///
/// A column of a product has at most nine halves of less than 2^52. The upper ones, 5 to 9, have nothing else: factors
/// below 2^258 give them less than 2^(2·258 - 260) in all, and so column 9 is below 2^48 when it has its carry.
///
/// The lower ones may start from a tight element taken off [`COLUMN_BIAS`], or two off [`WIDE_COLUMN_BIAS`]. Columns 0 to 2
/// may be negative then; what they carry is -3 at least. Column 3 has three units of 2^52 by the bias, and one of them at
/// least is left for this. Column 4 starts from 2·2^48 - 3 less a limb, or 4·2^48 - 3 less two. So neither becomes negative.
#[inline(always)]
fn reduce<S: Simd52>(s: S, columns: [S::Words; COLUMNS]) -> [S::Words; LIMBS] {
    let [mut c0, mut c1, mut c2, mut c3, mut c4, h0, h1, h2, h3, h4] = columns;
    // The upper half, to 52 bits in each column: those above are ignored below.
    let h1 = s.add(h1, s.shr::<LIMB_BITS>(h0));
    let h2 = s.add(h2, s.shr::<LIMB_BITS>(h1));
    let h3 = s.add(h3, s.shr::<LIMB_BITS>(h2));
    let h4 = s.add(h4, s.shr::<LIMB_BITS>(h3));

    // Folded into the lower half, and a column 5 of less than 2^37.
    let fold = s.splat(COLUMN_FOLD);
    c4 = s.add_product_low(c4, h4, fold);
    let c5 = s.add_product_high(s.splat(0), h4, fold);
    c0 = s.add_product_low(c0, h0, fold);
    c1 = s.add_product_high(c1, h0, fold);
    c1 = s.add_product_low(c1, h1, fold);
    c2 = s.add_product_high(c2, h1, fold);
    c2 = s.add_product_low(c2, h2, fold);
    c3 = s.add_product_high(c3, h2, fold);
    c3 = s.add_product_low(c3, h3, fold);
    c4 = s.add_product_high(c4, h3, fold);

    // What is above bit 256 before the lower columns are carried: less than 2^42, as column 4 is below 2^56. With it folded
    // now, one round of carries is the last one.
    let top = s.add(s.shr::<TOP_BITS>(c4), s.shl::<{ LIMB_BITS - TOP_BITS }>(c5));
    c4 = s.and(c4, s.splat(TOP_MASK));
    c0 = s.add_product_low(c0, top, s.splat(FOLD));
    c1 = s.add_product_high(c1, top, s.splat(FOLD));

    // Column 3 has seven halves, one fold of 52 bits and one of 37, and a bias of three units: 11 at most is carried into
    // the top limb.
    let mut limbs = [c0, c1, c2, c3, c4];
    carry_up(s, &mut limbs);
    masked(s, limbs)
}

/// Carries from limb to limb, and leaves the bits that were carried where they are.
#[inline(always)]
fn carry_up<S: Simd52>(s: S, limbs: &mut [S::Words; LIMBS]) {
    for i in 0..LIMBS - 1 {
        limbs[i + 1] = s.add(limbs[i + 1], s.shr_signed::<LIMB_BITS>(limbs[i]));
    }
}

/// Without the bits that were carried.
#[inline(always)]
fn masked<S: Simd52>(s: S, mut limbs: [S::Words; LIMBS]) -> [S::Words; LIMBS] {
    let mask = s.splat(LIMB_MASK);
    for limb in &mut limbs[..LIMBS - 1] {
        *limb = s.and(*limb, mask);
    }
    limbs
}

/// The tight form of an element of another: of less than 2^256 + 2^36, as what is above bit 256 is below 2^3.
#[inline(always)]
fn tightened<S: Simd52>(s: S, limbs: &[S::Words; LIMBS]) -> [S::Words; LIMBS] {
    let mut limbs = masked(s, *limbs);
    let top = s.shr::<TOP_BITS>(limbs[4]);
    limbs[4] = s.and(limbs[4], s.splat(TOP_MASK));
    limbs[0] = s.add_product_low(limbs[0], top, s.splat(FOLD));
    carry_up(s, &mut limbs);
    masked(s, limbs)
}

/// The limbs of values that fit 256 bits.
#[inline(always)]
fn split<S: Simd52>(s: S, [w0, w1, w2, w3]: [S::Words; 4]) -> [S::Words; LIMBS] {
    // Of disjoint bits, a sum is a union.
    let limbs = [
        w0,
        s.add(s.shr::<52>(w0), s.shl::<12>(w1)),
        s.add(s.shr::<40>(w1), s.shl::<24>(w2)),
        s.add(s.shr::<28>(w2), s.shl::<36>(w3)),
        s.shr::<16>(w3),
    ];
    masked(s, limbs)
}

/// The inverse of [`split`].
#[inline(always)]
fn join<S: Simd52>(s: S, l: [S::Words; LIMBS]) -> [S::Words; 4] {
    // In each word the parts are disjoint; shifts drop what belongs to the word above.
    [
        s.add(l[0], s.shl::<52>(l[1])),
        s.add(s.shr::<12>(l[1]), s.shl::<40>(l[2])),
        s.add(s.shr::<24>(l[2]), s.shl::<28>(l[3])),
        s.add(s.shr::<36>(l[3]), s.shl::<16>(l[4])),
    ]
}

/// a + 2^256 - p of limbs of 256 bits, less 2^256 if that leaves 256 bits, and a word of ones if it does: exactly if a
/// is at least p. The limbs are a - p then.
#[inline(always)]
fn less_p<S: Simd52>(s: S, limbs: &[S::Words; LIMBS]) -> ([S::Words; LIMBS], S::Words) {
    let mut reduced = *limbs;
    reduced[0] = s.add(reduced[0], s.splat(FOLD));
    carry_up(s, &mut reduced);
    let mut reduced = masked(s, reduced);
    let at_least_p = s.sub(s.splat(0), s.shr::<TOP_BITS>(reduced[4]));
    reduced[4] = s.and(reduced[4], s.splat(TOP_MASK));
    (reduced, at_least_p)
}

/// b where the mask is ones, a where it is zeros.
#[inline(always)]
fn select<S: Simd52>(s: S, mask: S::Words, a: S::Words, b: S::Words) -> S::Words {
    s.xor(a, s.and(mask, s.xor(a, b)))
}

/// The canonical limbs of any element.
#[inline(always)]
fn canonical<S: Simd52>(s: S, limbs: &[S::Words; LIMBS]) -> [S::Words; LIMBS] {
    // After one fold the value is below 2^256 + 2^36, after two below 2^256.
    let mut limbs = tightened(s, &tightened(s, limbs));
    let (reduced, at_least_p) = less_p(s, &limbs);
    for (limb, reduced) in limbs.iter_mut().zip(reduced) {
        *limb = select(s, at_least_p, *limb, reduced);
    }
    limbs
}

/// The backend of five 52-bit limbs on the instructions `S`.
#[derive(Clone, Copy)]
pub(crate) struct Field5x52<S>(pub(crate) S);

impl<S: Simd52> Field5x52<S> {
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

    /// The limbs of `bias`, less those of a tight element.
    #[inline(always)]
    fn bias_minus(self, bias: &[i64; LIMBS], a: &Tight<Self>) -> [S::Words; LIMBS] {
        let s = self.0;
        let mut limbs = a.0;
        for i in 0..LIMBS {
            limbs[i] = s.sub(s.splat(bias[i].cast_unsigned()), limbs[i]);
        }
        limbs
    }

    /// Carried limbs that may be negative, whose sum is not: `limbs` and the multiple of p that `bias` is.
    #[inline(always)]
    fn biased<const A: u32>(
        self,
        mut limbs: [S::Words; LIMBS],
        bias: &[i64; LIMBS],
    ) -> Element<[S::Words; LIMBS], A> {
        let s = self.0;
        for i in 0..LIMBS {
            if bias[i] != 0 {
                limbs[i] = s.add(limbs[i], s.splat(bias[i].cast_unsigned()));
            }
        }
        carry_up(s, &mut limbs);
        self.check(limbs)
    }
}

impl<S: Simd52> Backend for Field5x52<S> {
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
        carry_up(self.0, &mut limbs);
        self.check(limbs)
    }

    #[inline(always)]
    fn sub(self, a: &Tight<Self>, b: &Tight<Self>) -> Difference<Self> {
        let mut limbs = a.0;
        for i in 0..LIMBS {
            limbs[i] = self.0.sub(limbs[i], b.0[i]);
        }
        self.biased(limbs, &BIAS)
    }

    #[inline(always)]
    fn negated_sum(self, a: &Tight<Self>, b: &Tight<Self>) -> NegatedSum<Self> {
        let mut limbs = self.bias_minus(&WIDE_BIAS, a);
        for i in 0..LIMBS {
            limbs[i] = self.0.sub(limbs[i], b.0[i]);
        }
        carry_up(self.0, &mut limbs);
        self.check(limbs)
    }

    #[inline(always)]
    fn tighten<const A: u32>(self, a: &Element<Self::Limbs, A>) -> Tight<Self> {
        const { assert!(A <= 4) }
        self.check(tightened(self.0, &a.0))
    }

    #[inline(always)]
    fn mul<const A: u32, const B: u32>(
        self,
        a: &Element<Self::Limbs, A>,
        b: &Element<Self::Limbs, B>,
    ) -> Tight<Self> {
        const { assert!(A * B <= MAX_PRODUCT) }
        let s = self.0;
        self.check(reduce(s, product(s, &a.0, &b.0, [s.splat(0); LIMBS])))
    }

    #[inline(always)]
    fn square<const A: u32>(self, a: &Element<Self::Limbs, A>) -> Tight<Self> {
        const { assert!(A * A <= MAX_PRODUCT) }
        let s = self.0;
        self.check(reduce(s, squared(s, &a.0, [s.splat(0); LIMBS])))
    }

    #[inline(always)]
    fn mul_sub<const A: u32, const B: u32>(
        self,
        a: &Element<Self::Limbs, A>,
        b: &Element<Self::Limbs, B>,
        c: &Tight<Self>,
    ) -> Tight<Self> {
        const { assert!(A * B <= MAX_PRODUCT) }
        let start = self.bias_minus(&COLUMN_BIAS, c);
        self.check(reduce(self.0, product(self.0, &a.0, &b.0, start)))
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
        let mut start = self.bias_minus(&WIDE_COLUMN_BIAS, b);
        for i in 0..LIMBS {
            start[i] = s.sub(start[i], c.0[i]);
        }
        self.check(reduce(s, squared(s, &a.0, start)))
    }

    #[inline(always)]
    fn negate_lanes(self, a: &Tight<Self>, lanes: u32) -> Tight<Self> {
        let s = self.0;
        let mask = s.mask(lanes);
        let negated = self.bias_minus(&BIAS, a);
        let mut limbs = a.0;
        for (limb, negated) in limbs.iter_mut().zip(negated) {
            *limb = select(s, mask, *limb, negated);
        }
        carry_up(s, &mut limbs);
        self.check(tightened(s, &limbs))
    }
}

#[cfg(test)]
mod proof;
#[cfg(test)]
mod tests;
