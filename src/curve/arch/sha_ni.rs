//! The SHA-256 instructions of x86 (Intel since Goldmont and Ice Lake, AMD since Zen).

use std::arch::x86_64::*;

use crate::curve::sha256::{ROUND_CONSTANTS, State};

/// Proof that this processor has the SHA instructions.
#[derive(Clone, Copy)]
pub(crate) struct Sha256Instructions(());

impl Sha256Instructions {
    /// The token, if the processor has the instructions.
    pub(crate) fn new() -> Option<Self> {
        let available = is_x86_feature_detected!("sha")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1");
        available.then_some(Self(()))
    }

    /// The compression function.
    ///
    /// The instructions have no form that clears the upper halves of the vector registers. While those are dirty, each
    /// one waits for them, and the function takes many times as long: call it from code that is not compiled
    /// for AVX, so that the compiler has cleared them before.
    #[inline]
    #[expect(unsafe_code, reason = "enters code compiled for the SHA instructions")]
    pub(crate) fn compress(self, state: &State, block: &[u8; 64]) -> State {
        // SAFETY: the token exists only where the processor has these instructions.
        unsafe { compress(state, block) }
    }
}

#[inline(never)]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn compress(state: &State, block: &[u8; 64]) -> State {
    // Words 0 to 3 of the result are those of `words`, the first in the lowest lane.
    let vector = |words: &[u32; 4]| {
        let [a, b, c, d] = words.map(u32::cast_signed);
        _mm_setr_epi32(a, b, c, d)
    };
    let [a, b, c, d, e, f, g, h] = *state;
    // The instructions keep the state as (f, e, b, a) and (h, g, d, c).
    let mut feba = vector(&[f, e, b, a]);
    let mut hgdc = vector(&[h, g, d, c]);
    let mut w: [__m128i; 4] = [_mm_setzero_si128(); 4];
    for (words, bytes) in w.iter_mut().zip(block.as_chunks::<16>().0) {
        *words = vector(&std::array::from_fn(|i| {
            u32::from_be_bytes([
                bytes[4 * i],
                bytes[4 * i + 1],
                bytes[4 * i + 2],
                bytes[4 * i + 3],
            ])
        }));
    }
    let (start_feba, start_hgdc) = (feba, hgdc);
    for (group, constants) in ROUND_CONSTANTS.as_chunks::<4>().0.iter().enumerate() {
        // w holds the message words of this group and the three after it.
        let input = _mm_add_epi32(w[0], vector(constants));
        hgdc = _mm_sha256rnds2_epu32(hgdc, feba, input);
        feba = _mm_sha256rnds2_epu32(feba, hgdc, _mm_shuffle_epi32::<0x0e>(input));
        if group < 12 {
            // w[t] = s1(w[t-2]) + w[t-7] + s0(w[t-15]) + w[t-16], four t at a time.
            let seventh = _mm_alignr_epi8::<4>(w[3], w[2]);
            let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[0], w[1]), seventh);
            let next = _mm_sha256msg2_epu32(sum, w[3]);
            w = [w[1], w[2], w[3], next];
        } else {
            w = [w[1], w[2], w[3], w[3]];
        }
    }
    feba = _mm_add_epi32(feba, start_feba);
    hgdc = _mm_add_epi32(hgdc, start_hgdc);
    [
        _mm_extract_epi32::<3>(feba),
        _mm_extract_epi32::<2>(feba),
        _mm_extract_epi32::<3>(hgdc),
        _mm_extract_epi32::<2>(hgdc),
        _mm_extract_epi32::<1>(feba),
        _mm_extract_epi32::<0>(feba),
        _mm_extract_epi32::<1>(hgdc),
        _mm_extract_epi32::<0>(hgdc),
    ]
    .map(i32::cast_unsigned)
}
