//! The lane of the proof: instructions on words that may be anything, and their faults.

use super::fault::{Alteration, Fault, Kind};
use super::run::RUN;
use super::word::Word;
use crate::curve::arch::Task;
use crate::curve::field_5x52::Simd52;
use crate::curve::field_9x29::Simd;

/// The lane, for both forms.
#[derive(Clone, Copy)]
pub(crate) struct Lane;

/// The result of an instruction, or of its alteration if the fault is here.
fn instruction(
    kind: Kind,
    right: impl FnOnce() -> Word,
    wrong: impl FnOnce(Alteration) -> Word,
) -> Word {
    let alteration = RUN.with_borrow_mut(|run| {
        run.instructions.push(kind);
        match run.fault {
            Some(Fault::Instruction(at, how)) if at + 1 == run.instructions.len() => Some(how),
            _ => None,
        }
    });
    let right = right();
    alteration.map_or(right, |how| altered(right, wrong(how)))
}

/// The wrong word; that it is wrong is noted, unless it is the same.
fn altered(right: Word, wrong: Word) -> Word {
    let (a, b) = (right.facts(), wrong.facts());
    if a.polynomial != b.polynomial {
        RUN.with_borrow_mut(|run| run.is_faulty = true);
    }
    wrong
}

fn unforeseen(how: Alteration) -> ! {
    unreachable!("{how:?} is none of this kind's alterations")
}

fn constant(word: u64, read: fn(u64) -> i128) -> Word {
    let wrong = |how| {
        let altered = match how {
            Alteration::OneLess => word.wrapping_sub(1),
            Alteration::OneMore => word.wrapping_add(1),
            Alteration::Halved => word >> 1,
            Alteration::Doubled => word << 1 | 1,
            how => unforeseen(how),
        };
        Word::constant(read(altered))
    };
    let right = || Word::constant(read(word));
    match RUN.with_borrow(|run| run.fault) {
        Some(Fault::Constants(others)) => match others.iter().find(|(from, _)| *from == word) {
            Some((_, to)) => altered(right(), Word::constant(read(*to))),
            None => right(),
        },
        _ => instruction(Kind::Constant, right, wrong),
    }
}

fn half_product(half: usize, sum: Word, a: Word, b: Word) -> Word {
    let right = || sum.plus(1, a.halves(b)[half]);
    instruction(Kind::HalfProduct, right, |how| match how {
        Alteration::First => sum,
        Alteration::FirstTwice => sum.plus(1, a.halves(a)[half]),
        Alteration::SecondTwice => sum.plus(1, b.halves(b)[half]),
        Alteration::OtherHalf => sum.plus(1, a.halves(b)[1 - half]),
        how => unforeseen(how),
    })
}

fn shift(a: Word, bits: u32, shifted: fn(Word, u32) -> Word) -> Word {
    let wrong = |how| match how {
        Alteration::First => a,
        Alteration::BitLess => shifted(a, bits - 1),
        Alteration::BitMore => shifted(a, bits + 1),
        how => unforeseen(how),
    };
    instruction(Kind::Shift, || shifted(a, bits), wrong)
}

/// As [`shift`], to the right.
fn shift_right(a: Word, bits: u32, shifted: fn(Word, u32) -> Word) -> Word {
    match RUN.with_borrow(|run| run.fault) {
        Some(Fault::Shift(from, to)) if from == bits => altered(shifted(a, bits), shifted(a, to)),
        _ => shift(a, bits, shifted),
    }
}

/// What both kinds of vectors have; `$read` says which integer a constant is.
macro_rules! instructions_of_both {
    ($read:expr) => {
        const NAME: &'static str = "proof";
        const LANES: usize = 1;
        type Words = Word;

        fn run<T: Task>(self, task: T) -> T::Output {
            task.run()
        }

        fn splat(self, word: u64) -> Word {
            constant(word, $read)
        }

        fn mask(self, lanes: u32) -> Word {
            Word::constant(-i128::from(lanes & 1))
        }

        fn add(self, a: Word, b: Word) -> Word {
            instruction(
                Kind::Sum,
                || a.plus(1, b),
                |how| match how {
                    Alteration::First => a,
                    Alteration::Second => b,
                    Alteration::WrongSign => a.plus(-1, b),
                    how => unforeseen(how),
                },
            )
        }

        fn sub(self, a: Word, b: Word) -> Word {
            instruction(
                Kind::Difference,
                || a.plus(-1, b),
                |how| match how {
                    Alteration::First => a,
                    Alteration::WrongSign => a.plus(1, b),
                    Alteration::Swapped => b.plus(-1, a),
                    how => unforeseen(how),
                },
            )
        }

        fn and(self, a: Word, b: Word) -> Word {
            instruction(
                Kind::Bits,
                || a.and(b),
                |how| match how {
                    Alteration::First => a,
                    Alteration::Second => b,
                    how => unforeseen(how),
                },
            )
        }

        fn xor(self, a: Word, b: Word) -> Word {
            instruction(
                Kind::Bits,
                || a.xor(b),
                |how| match how {
                    Alteration::First => a,
                    Alteration::Second => b,
                    how => unforeseen(how),
                },
            )
        }

        fn shl<const N: u32>(self, a: Word) -> Word {
            shift(a, N, Word::shifted_left)
        }

        fn shr<const N: u32>(self, a: Word) -> Word {
            shift_right(a, N, Word::shifted_right)
        }

        fn load_transposed<'a>(self, _: impl Fn(usize) -> &'a [u64; 4]) -> [Word; 4] {
            let words = [u64::MAX; 4].map(Word::any_up_to);
            RUN.with_borrow_mut(|run| run.loaded = Some(words));
            words
        }

        fn store_transposed(self, words: [Word; 4], mut lane: impl FnMut(usize, [u64; 4])) {
            // The debug checks of the shipped code see the largest words; with a fault the claims say enough.
            let is_right = RUN.with_borrow(|run| run.fault.is_none());
            let seen = words.map(|word| if is_right { word.largest() as u64 } else { 0 });
            lane(0, seen);
        }
    };
}

impl Simd for Lane {
    instructions_of_both!(i128::from);

    fn mul32(self, a: Word, b: Word) -> Word {
        instruction(
            Kind::Product,
            || a.product32(b),
            |how| match how {
                Alteration::First => a,
                Alteration::FirstTwice => a.product32(a),
                Alteration::SecondTwice => b.product32(b),
                how => unforeseen(how),
            },
        )
    }
}

impl Simd52 for Lane {
    instructions_of_both!(|word| word.cast_signed().into());

    fn add_product_low(self, sum: Word, a: Word, b: Word) -> Word {
        half_product(0, sum, a, b)
    }

    fn add_product_high(self, sum: Word, a: Word, b: Word) -> Word {
        half_product(1, sum, a, b)
    }

    fn shr_signed<const N: u32>(self, a: Word) -> Word {
        shift_right(a, N, Word::shifted_right_signed)
    }
}
