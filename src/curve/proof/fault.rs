//! Deliberate faults, for the proof to refuse: the lane runs the shipped code with an instruction altered.

/// What is altered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The instruction of this number, counted from the start.
    Instruction(usize, Alteration),
    /// Each use of these constants: the second of a pair takes the place of the first.
    Constants(&'static [(u64, u64)]),
    /// Each shift to the right by the first number of bits; the second takes its place.
    Shift(u32, u32),
}

/// What a faulty instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alteration {
    /// Gives its first operand: a lost addend, carry, product, mask or shift.
    First,
    /// Gives its second operand.
    Second,
    /// Subtracts in place of adding, or the other way round.
    WrongSign,
    /// Subtracts its first operand from the second.
    Swapped,
    /// Multiplies the first factor by itself.
    FirstTwice,
    /// Multiplies the second factor by itself.
    SecondTwice,
    /// Adds the other half of the product.
    OtherHalf,
    /// Shifts by a bit less.
    BitLess,
    /// Shifts by a bit more.
    BitMore,
    /// Takes a constant that is less by one.
    OneLess,
    /// Takes a constant that is more by one.
    OneMore,
    /// Takes half the constant: a mask of a bit less.
    Halved,
    /// Takes twice the constant and one: a mask of a bit more.
    Doubled,
}

/// Instructions by what can be wrong with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Constant,
    Sum,
    Difference,
    Product,
    HalfProduct,
    Bits,
    Shift,
}

impl Kind {
    pub(crate) const fn alterations(self) -> &'static [Alteration] {
        use Alteration::*;
        match self {
            Self::Constant => &[OneLess, OneMore, Halved, Doubled],
            Self::Sum => &[First, Second, WrongSign],
            Self::Difference => &[First, WrongSign, Swapped],
            Self::Product => &[First, FirstTwice, SecondTwice],
            Self::HalfProduct => &[First, FirstTwice, SecondTwice, OtherHalf],
            Self::Bits => &[First, Second],
            Self::Shift => &[First, BitLess, BitMore],
        }
    }
}
