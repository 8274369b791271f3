//! AVX-512 IFMA: eight lanes of products of 52 bits (Intel since Ice Lake, AMD since Zen 4).

use std::arch::x86_64::*;

use super::Task;
use super::avx512::Avx512Words;
use crate::curve::field_5x52::Simd52;
use crate::curve::field_9x29::Simd;

/// Proof that this processor has AVX-512 with its products of 52 bits.
#[derive(Clone, Copy)]
pub(crate) struct IfmaWords(Avx512Words);

impl IfmaWords {
    /// The token, if the processor has the instructions.
    pub(crate) fn new() -> Option<Self> {
        let foundation = Avx512Words::new()?;
        is_x86_feature_detected!("avx512ifma").then_some(Self(foundation))
    }
}

impl Simd52 for IfmaWords {
    const NAME: &'static str = "ifma";
    const LANES: usize = Avx512Words::LANES;
    type Words = __m512i;

    #[inline(always)]
    #[expect(unsafe_code, reason = "enters code compiled for AVX-512 IFMA")]
    fn run<T: Task>(self, task: T) -> T::Output {
        // SAFETY: the token exists only where the processor has AVX-512 and IFMA.
        unsafe { run(task) }
    }

    #[inline(always)]
    fn splat(self, word: u64) -> __m512i {
        self.0.splat(word)
    }

    #[inline(always)]
    fn mask(self, lanes: u32) -> __m512i {
        self.0.mask(lanes)
    }

    #[inline(always)]
    fn add(self, a: __m512i, b: __m512i) -> __m512i {
        self.0.add(a, b)
    }

    #[inline(always)]
    fn sub(self, a: __m512i, b: __m512i) -> __m512i {
        self.0.sub(a, b)
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "an instruction of AVX-512 IFMA")]
    fn add_product_low(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the token exists only where the processor has AVX-512 and IFMA.
        unsafe { _mm512_madd52lo_epu64(sum, a, b) }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "an instruction of AVX-512 IFMA")]
    fn add_product_high(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the token exists only where the processor has AVX-512 and IFMA.
        unsafe { _mm512_madd52hi_epu64(sum, a, b) }
    }

    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        self.0.and(a, b)
    }

    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        self.0.xor(a, b)
    }

    #[inline(always)]
    fn shl<const N: u32>(self, a: __m512i) -> __m512i {
        self.0.shl::<N>(a)
    }

    #[inline(always)]
    fn shr<const N: u32>(self, a: __m512i) -> __m512i {
        self.0.shr::<N>(a)
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "an instruction of AVX-512")]
    fn shr_signed<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: the token exists only where the processor has AVX-512.
        unsafe { _mm512_srai_epi64::<N>(a) }
    }

    #[inline(always)]
    fn load_transposed<'a>(self, lane: impl Fn(usize) -> &'a [u64; 4]) -> [__m512i; 4] {
        self.0.load_transposed(lane)
    }

    #[inline(always)]
    fn store_transposed(self, words: [__m512i; 4], lane: impl FnMut(usize, [u64; 4])) {
        self.0.store_transposed(words, lane);
    }
}

/// Kept out of line: each task becomes one function, in which everything below it is inlined.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512ifma")]
fn run<T: Task>(task: T) -> T::Output {
    task.run()
}

#[cfg(test)]
crate::curve::suite::backend_suite!(crate::curve::field_5x52::Field5x52<super::IfmaWords>);
