//! A proof that the field operations on vectors are right for all inputs, by the shipped code itself.
//!
//! The code is generic over the instructions, and [`Lane`] is one more kind of them. A word of it is not a number, but what is
//! known of all numbers that it may be: an interval, and a polynomial with integer coefficients in *atoms*. Atoms are the
//! limbs that go in, and what instructions round: each quotient of a shift to the right and the upper half of each product
//! is a new one. Bits that a mask takes need none, as they are the word less 2^n times its quotient.
//!
//! An operation is proven by one run on limbs that may be anything its magnitudes allow. No word may leave 64
//! bits, so that words are the integers which the polynomials say; the limbs that come out must be within their
//! magnitude; and all coefficients of their value, less what the formula says of the inputs, must be multiples of p.
//!
//! That proofs can fail is tested as well: [`fault`] lists what may be wrong with an instruction, and each
//! such fault in each instruction of each operation has to be refused.

mod claims;
mod fault;
mod integer;
mod lane;
mod polynomial;
mod run;
mod word;

pub(crate) use claims::{Claim, Form, assert_faults_refused, assert_proven, value_of_words};
pub(crate) use fault::{Alteration, Fault, Kind};
pub(crate) use integer::Integer;
pub(crate) use lane::Lane;
pub(crate) use polynomial::Value;
pub(crate) use run::refuse;
pub(crate) use word::Word;
