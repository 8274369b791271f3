//! AVX2: four 64-bit lanes (Intel since Haswell, AMD since Excavator).

use std::arch::x86_64::*;

use super::Task;
use crate::curve::field_9x29::Simd;

/// Proof that this processor has AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Words(());

impl Avx2Words {
    /// The token, if the processor has AVX2.
    pub(crate) fn new() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

/// Defines methods of the token as one intrinsic each.
macro_rules! intrinsics {
    ($($name:ident($($argument:ident),+) = $intrinsic:expr;)+) => {$(
        #[inline(always)]
        #[expect(unsafe_code, reason = "an instruction of AVX2")]
        fn $name(self, $($argument: Self::Words),+) -> Self::Words {
            // SAFETY: the token exists only where the processor has AVX2.
            unsafe { $intrinsic($($argument),+) }
        }
    )+};
}

impl Simd for Avx2Words {
    const NAME: &'static str = "avx2";
    const LANES: usize = 4;
    type Words = __m256i;

    #[inline(always)]
    #[expect(unsafe_code, reason = "enters code compiled for AVX2")]
    fn run<T: Task>(self, task: T) -> T::Output {
        // SAFETY: the token exists only where the processor has AVX2.
        unsafe { run(task) }
    }

    intrinsics! {
        add(a, b) = _mm256_add_epi64;
        sub(a, b) = _mm256_sub_epi64;
        mul32(a, b) = _mm256_mul_epu32;
        and(a, b) = _mm256_and_si256;
        xor(a, b) = _mm256_xor_si256;
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "an instruction of AVX2")]
    fn splat(self, word: u64) -> __m256i {
        // SAFETY: the token exists only where the processor has AVX2.
        unsafe { _mm256_set1_epi64x(word.cast_signed()) }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "an instruction of AVX2")]
    fn mask(self, lanes: u32) -> __m256i {
        let [a, b, c, d] = std::array::from_fn(|i| -i64::from(lanes >> i & 1));
        // SAFETY: the token exists only where the processor has AVX2.
        unsafe { _mm256_setr_epi64x(a, b, c, d) }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "an instruction of AVX2")]
    fn shl<const N: u32>(self, a: __m256i) -> __m256i {
        // SAFETY: the token exists only where the processor has AVX2. A count in a register folds to an immediate.
        unsafe { _mm256_sll_epi64(a, _mm_cvtsi64_si128(i64::from(N))) }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "an instruction of AVX2")]
    fn shr<const N: u32>(self, a: __m256i) -> __m256i {
        // SAFETY: the token exists only where the processor has AVX2. A count in a register folds to an immediate.
        unsafe { _mm256_srl_epi64(a, _mm_cvtsi64_si128(i64::from(N))) }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "loads and shuffles of AVX2")]
    fn load_transposed<'a>(self, lane: impl Fn(usize) -> &'a [u64; 4]) -> [__m256i; 4] {
        // SAFETY: the token exists only where the processor has AVX2; each pointer is that of 32 borrowed bytes, of
        // which an unaligned load asks no more.
        unsafe {
            transpose([
                _mm256_loadu_si256(lane(0).as_ptr().cast()),
                _mm256_loadu_si256(lane(1).as_ptr().cast()),
                _mm256_loadu_si256(lane(2).as_ptr().cast()),
                _mm256_loadu_si256(lane(3).as_ptr().cast()),
            ])
        }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "stores and shuffles of AVX2")]
    fn store_transposed(self, words: [__m256i; 4], mut lane: impl FnMut(usize, [u64; 4])) {
        // SAFETY: the token exists only where the processor has AVX2.
        let rows = unsafe { transpose(words) };
        for (i, row) in rows.into_iter().enumerate() {
            let mut out = [0; 4];
            // SAFETY: as above; `out` has the 32 bytes that are written.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), row) };
            lane(i, out);
        }
    }
}

/// Kept out of line: each task becomes one function, in which everything below it is inlined.
#[inline(never)]
#[target_feature(enable = "avx2")]
fn run<T: Task>(task: T) -> T::Output {
    task.run()
}

/// Row i, column j to row j, column i.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    let ab_even = _mm256_unpacklo_epi64(a, b);
    let ab_odd = _mm256_unpackhi_epi64(a, b);
    let cd_even = _mm256_unpacklo_epi64(c, d);
    let cd_odd = _mm256_unpackhi_epi64(c, d);
    [
        _mm256_permute2x128_si256::<0x20>(ab_even, cd_even),
        _mm256_permute2x128_si256::<0x20>(ab_odd, cd_odd),
        _mm256_permute2x128_si256::<0x31>(ab_even, cd_even),
        _mm256_permute2x128_si256::<0x31>(ab_odd, cd_odd),
    ]
}

#[cfg(test)]
crate::curve::suite::backend_suite!(crate::curve::field_9x29::Field9x29<super::Avx2Words>);
