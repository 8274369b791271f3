//! AVX-512: eight 64-bit lanes (Intel server processors since Skylake, AMD since Zen 4).

use std::arch::x86_64::*;

use super::Task;
use crate::curve::field_9x29::Simd;

/// Proof that this processor has the foundation of AVX-512.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Words(());

impl Avx512Words {
    /// The token, if the processor has the instructions.
    pub(crate) fn new() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }
}

/// Defines methods of the token as one intrinsic each.
macro_rules! intrinsics {
    ($($name:ident($($argument:ident),+) = $intrinsic:expr;)+) => {$(
        #[inline(always)]
        #[expect(unsafe_code, reason = "an instruction of AVX-512")]
        fn $name(self, $($argument: Self::Words),+) -> Self::Words {
            // SAFETY: the token exists only where the processor has AVX-512.
            unsafe { $intrinsic($($argument),+) }
        }
    )+};
}

impl Simd for Avx512Words {
    const NAME: &'static str = "avx512";
    const LANES: usize = 8;
    type Words = __m512i;

    #[inline(always)]
    #[expect(unsafe_code, reason = "enters code compiled for AVX-512")]
    fn run<T: Task>(self, task: T) -> T::Output {
        // SAFETY: the token exists only where the processor has AVX-512.
        unsafe { run(task) }
    }

    intrinsics! {
        add(a, b) = _mm512_add_epi64;
        sub(a, b) = _mm512_sub_epi64;
        mul32(a, b) = _mm512_mul_epu32;
        and(a, b) = _mm512_and_si512;
        xor(a, b) = _mm512_xor_si512;
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "an instruction of AVX-512")]
    fn splat(self, word: u64) -> __m512i {
        // SAFETY: the token exists only where the processor has AVX-512.
        unsafe { _mm512_set1_epi64(word.cast_signed()) }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "an instruction of AVX-512")]
    fn mask(self, lanes: u32) -> __m512i {
        let [a, b, c, d, e, f, g, h] = std::array::from_fn(|i| -i64::from(lanes >> i & 1));
        // SAFETY: the token exists only where the processor has AVX-512.
        unsafe { _mm512_setr_epi64(a, b, c, d, e, f, g, h) }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "an instruction of AVX-512")]
    fn shl<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: the token exists only where the processor has AVX-512.
        unsafe { _mm512_slli_epi64::<N>(a) }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "an instruction of AVX-512")]
    fn shr<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: the token exists only where the processor has AVX-512.
        unsafe { _mm512_srli_epi64::<N>(a) }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "loads and shuffles of AVX-512")]
    fn load_transposed<'a>(self, lane: impl Fn(usize) -> &'a [u64; 4]) -> [__m512i; 4] {
        // SAFETY: the token exists only where the processor has AVX-512.
        unsafe {
            transpose_halves([
                pair(lane(0), lane(4)),
                pair(lane(1), lane(5)),
                pair(lane(2), lane(6)),
                pair(lane(3), lane(7)),
            ])
        }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "stores and shuffles of AVX-512")]
    fn store_transposed(self, words: [__m512i; 4], mut lane: impl FnMut(usize, [u64; 4])) {
        // SAFETY: the token exists only where the processor has AVX-512.
        let rows = unsafe { transpose_halves(words) };
        for (i, row) in rows.into_iter().enumerate() {
            let mut out = [0; 8];
            // SAFETY: as above; `out` has the 64 bytes that are written.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), row) };
            let [a, b, c, d, e, f, g, h] = out;
            lane(i, [a, b, c, d]);
            lane(i + 4, [e, f, g, h]);
        }
    }
}

/// Kept out of line: each task becomes one function, in which everything below it is inlined.
#[inline(never)]
#[target_feature(enable = "avx512f")]
fn run<T: Task>(task: T) -> T::Output {
    task.run()
}

/// Two rows of four words, the first in the lower half.
#[inline]
#[target_feature(enable = "avx512f")]
#[expect(unsafe_code, reason = "loads through pointers")]
fn pair(low: &[u64; 4], high: &[u64; 4]) -> __m512i {
    // SAFETY: each pointer is that of 32 borrowed bytes, of which an unaligned load asks no more.
    let (low, high) = unsafe {
        (
            _mm256_loadu_si256(low.as_ptr().cast()),
            _mm256_loadu_si256(high.as_ptr().cast()),
        )
    };
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// Rows i and i + 4 in the halves of vector i, to column i in vector i; its own inverse.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_halves([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let ab_even = _mm512_unpacklo_epi64(a, b);
    let ab_odd = _mm512_unpackhi_epi64(a, b);
    let cd_even = _mm512_unpacklo_epi64(c, d);
    let cd_odd = _mm512_unpackhi_epi64(c, d);
    // Words 0, 1 of the first and 0, 1 of the second in each half; then words 2, 3 of both.
    let low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    let high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    [
        _mm512_permutex2var_epi64(ab_even, low, cd_even),
        _mm512_permutex2var_epi64(ab_odd, low, cd_odd),
        _mm512_permutex2var_epi64(ab_even, high, cd_even),
        _mm512_permutex2var_epi64(ab_odd, high, cd_odd),
    ]
}

#[cfg(test)]
crate::curve::suite::backend_suite!(crate::curve::field_9x29::Field9x29<super::Avx512Words>);
