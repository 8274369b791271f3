//! The slow, obvious twin of the field and of the scalars, for tests: schoolbook arithmetic modulo any odd number.

/// A number of 256 bits, least significant word first.
pub(crate) type Number = [u64; 4];

/// p.
pub(crate) const P: Number = [0xffff_fffe_ffff_fc2f, u64::MAX, u64::MAX, u64::MAX];
/// n.
pub(crate) const N: Number = [
    0xbfd2_5e8c_d036_4141,
    0xbaae_dce6_af48_a03b,
    0xffff_ffff_ffff_fffe,
    u64::MAX,
];

fn is_less(a: &Number, b: &Number) -> bool {
    a.iter().rev().lt(b.iter().rev())
}

/// a - b, wrapping.
fn minus(a: &Number, b: &Number) -> Number {
    let mut difference = [0; 4];
    let mut borrow = false;
    for i in 0..4 {
        (difference[i], borrow) = a[i].borrowing_sub(b[i], borrow);
    }
    difference
}

/// a mod m, for m above 2^255.
pub(crate) fn reduce(a: &Number, m: &Number) -> Number {
    if is_less(a, m) { *a } else { minus(a, m) }
}

/// a + b mod m, of reduced numbers.
pub(crate) fn add(a: &Number, b: &Number, m: &Number) -> Number {
    let mut sum = [0; 4];
    let mut carry = false;
    for i in 0..4 {
        (sum[i], carry) = a[i].carrying_add(b[i], carry);
    }
    if carry || !is_less(&sum, m) {
        minus(&sum, m)
    } else {
        sum
    }
}

/// -a mod m, of a reduced number.
pub(crate) fn negate(a: &Number, m: &Number) -> Number {
    if *a == [0; 4] { *a } else { minus(m, a) }
}

/// a - b mod m, of reduced numbers.
pub(crate) fn sub(a: &Number, b: &Number, m: &Number) -> Number {
    add(a, &negate(b, m), m)
}

/// a·b mod m, of reduced numbers, for m above 2^255: whatever exceeds 256 bits is multiplied by 2^256 - m.
pub(crate) fn mul(a: &Number, b: &Number, m: &Number) -> Number {
    let fold = minus(&[0; 4], m);
    let [mut low, mut high] = wide_mul_add(a, b, &[0; 4]);
    while high != [0; 4] {
        [low, high] = wide_mul_add(&high, &fold, &low);
    }
    reduce(&low, m)
}

/// a·b + c: the lower half and the upper half.
fn wide_mul_add(a: &Number, b: &Number, c: &Number) -> [Number; 2] {
    let mut sum = [0; 8];
    sum[..4].copy_from_slice(c);
    for i in 0..4 {
        let mut carry = 0;
        for j in 0..4 {
            (sum[i + j], carry) = a[i].carrying_mul_add(b[j], sum[i + j], carry);
        }
        sum[i + 4] = carry;
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7] = sum;
    [[s0, s1, s2, s3], [s4, s5, s6, s7]]
}

/// `sum of limb[i]·2^(bits·i)` mod m.
pub(crate) fn from_limbs(limbs: &[u64], bits: u32, m: &Number) -> Number {
    limbs.iter().rev().fold([0; 4], |value, limb| {
        let shifted = (0..bits).fold(value, |value, _| add(&value, &value, m));
        add(&shifted, &[*limb, 0, 0, 0], m)
    })
}

/// 0, and numbers around 2^k, p, and the limb boundaries of the backends, below m.
pub(crate) fn edges(m: &Number) -> Vec<Number> {
    let mut edges = vec![[0; 4]];
    for bit in [
        0, 1, 28, 29, 32, 52, 58, 63, 64, 127, 128, 192, 208, 231, 232, 254, 255,
    ] {
        let mut power = [0; 4];
        power[bit / 64] = 1 << (bit % 64);
        for near in [
            sub(&power, &[1, 0, 0, 0], m),
            power,
            add(&power, &[1, 0, 0, 0], m),
        ] {
            edges.push(near);
            edges.push(negate(&near, m));
        }
    }
    // All ones in every other limb.
    for (bits, limbs) in [(29, 9), (52, 4)] {
        let limbs: Vec<u64> = (0..limbs)
            .map(|i| if i % 2 == 0 { (1 << bits) - 1 } else { 0 })
            .collect();
        edges.push(from_limbs(&limbs, bits, m));
    }
    edges.sort_unstable();
    edges.dedup();
    edges
}

mod tests {
    use super::*;

    /// The definition, bit by bit.
    fn slow_mul(a: &Number, b: &Number, m: &Number) -> Number {
        let mut product = [0; 4];
        for bit in (0..256).rev() {
            product = add(&product, &product, m);
            if b[bit / 64] >> (bit % 64) & 1 == 1 {
                product = add(&product, a, m);
            }
        }
        product
    }

    #[test]
    fn products_equal_those_made_bit_by_bit() {
        for m in [P, N] {
            let edges = edges(&m);
            for (i, a) in edges.iter().enumerate() {
                // Each with ten others, itself among them.
                for b in edges.iter().cycle().skip(i).step_by(11).take(10) {
                    assert_eq!(mul(a, b, &m), slow_mul(a, b, &m), "{a:x?}, {b:x?}");
                }
            }
        }
    }
}
