//! The same points times many secret scalars: 2^i·T is computed once for all of them.
//!
//! (Yao 1976.) Each wallet adds ±2^i·T, or λ times it, to one of four buckets where its key has a digit: bucket d
//! collects what is to be multiplied by d. In the end 1·B1 + 3·B3 + 5·B5 + 7·B7 takes six additions. A further
//! wallet so costs its additions and no doublings.
//!
//! The steps of a wallet are proven as in [`super::schedule`], by running the same program on integers.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::arch::Backend;
use super::batch::{Column, Degenerate, Lockstep, Negate, Points, Scale, column, resize, wipe};
use super::field::FieldElement;
use super::group::{AffinePoint, Each};
use super::scalar::{Half, Scalar, WNAF_DIGITS};

/// Buckets of a wallet: for the digits 1, 3, 5, 7.
const BUCKETS: usize = 4;
/// Registers of a wallet: its buckets, and the result.
const REGISTERS: usize = BUCKETS + 1;
const RESULT: usize = BUCKETS;

/// The digits of the halves of one wallet's key: on the heap, so that moving them leaves no copy. Wiped on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct BucketDigits(Vec<[i8; WNAF_DIGITS]>);

impl BucketDigits {
    /// The digits of a key; `None` if a step can fail or a bucket stays empty, which is so for few small keys.
    pub(crate) fn new(key: &Scalar) -> Option<Self> {
        let digits = Self::unproven(key);
        digits.prove(key).then_some(digits)
    }

    fn unproven(key: &Scalar) -> Self {
        let mut halves = key.split();
        let digits = Self(halves.iter().map(Half::wnaf).collect());
        halves.zeroize();
        digits
    }

    /// Whether the program, on integers, ends in the key without failing.
    fn prove(&self, key: &Scalar) -> bool {
        let mut integers = Integers {
            power: Scalar::ONE,
            registers: [const { None }; REGISTERS],
        };
        run(std::slice::from_ref(self), &mut integers).is_ok()
            && integers.registers[RESULT] == Some(*key)
    }
}

/// What runs the program: points, or integers.
trait Machine {
    /// Before the digits of 2^i are used.
    fn prepare_power(&mut self);
    /// Goes on from 2^i·T to 2^(i+1)·T.
    fn double_power(&mut self) -> Result<(), Degenerate>;
    /// Adds ±2^i·T, or λ times it, to a register, or sets it.
    fn collect(&mut self, register: usize, lambda: bool, negative: bool) -> Result<(), Degenerate>;
    /// Sets a register from another one.
    fn copy(&mut self, to: usize, from: usize) -> Result<(), Degenerate>;
    /// Adds a register to another one.
    fn add(&mut self, to: usize, from: usize) -> Result<(), Degenerate>;
    /// Doubles a register and adds another one.
    fn double_add(&mut self, to: usize, from: usize) -> Result<(), Degenerate>;
}

/// The program for some wallets: register r of wallet w is `w·REGISTERS + r`.
fn run(wallets: &[BucketDigits], machine: &mut impl Machine) -> Result<(), Degenerate> {
    for position in 0..WNAF_DIGITS {
        machine.prepare_power();
        for (wallet, digits) in wallets.iter().enumerate() {
            for (half, digits) in digits.0.iter().enumerate() {
                let digit = digits[position];
                if digit != 0 {
                    let bucket = usize::from(digit.unsigned_abs() / 2);
                    machine.collect(wallet * REGISTERS + bucket, half == 1, digit < 0)?;
                }
            }
        }
        if position + 1 < WNAF_DIGITS {
            machine.double_power()?;
        }
    }
    for wallet in 0..wallets.len() {
        let [b1, b3, b5, b7, result] = std::array::from_fn(|r| wallet * REGISTERS + r);
        // B7 runs through B7, B7 + B5, B7 + B5 + B3 and the sum of all; the result through B7, 2·B7 + B5,
        // 3·B7 + 2·B5 + B3, and twice that with the sum of all.
        machine.copy(result, b7)?;
        for bucket in [b5, b3] {
            machine.add(b7, bucket)?;
            machine.add(result, b7)?;
        }
        machine.add(b7, b1)?;
        machine.double_add(result, b7)?;
    }
    Ok(())
}

/// Coefficients of T modulo n.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Integers {
    power: Scalar,
    registers: [Option<Scalar>; REGISTERS],
}

impl Integers {
    fn register(&self, register: usize) -> Result<Scalar, Degenerate> {
        self.registers[register].ok_or(Degenerate)
    }
}

impl Machine for Integers {
    fn prepare_power(&mut self) {}

    fn double_power(&mut self) -> Result<(), Degenerate> {
        // Never zero, as n is odd.
        self.power = self.power.plus(&self.power);
        Ok(())
    }

    fn collect(&mut self, register: usize, lambda: bool, negative: bool) -> Result<(), Degenerate> {
        let mut term = self.power;
        if lambda {
            term = term.times(&Scalar::LAMBDA);
        }
        if negative {
            term = term.negated();
        }
        self.registers[register] = Some(match self.registers[register] {
            None => term,
            Some(sum) => sum.plus_affine(&term).ok_or(Degenerate)?,
        });
        Ok(())
    }

    fn copy(&mut self, to: usize, from: usize) -> Result<(), Degenerate> {
        self.registers[to] = Some(self.register(from)?);
        Ok(())
    }

    fn add(&mut self, to: usize, from: usize) -> Result<(), Degenerate> {
        let sum = self.register(to)?.plus_affine(&self.register(from)?);
        self.registers[to] = Some(sum.ok_or(Degenerate)?);
        Ok(())
    }

    fn double_add(&mut self, to: usize, from: usize) -> Result<(), Degenerate> {
        let value = self.register(to)?;
        let middle = value.plus_affine(&self.register(from)?).ok_or(Degenerate)?;
        self.registers[to] = Some(middle.plus_affine(&value).ok_or(Degenerate)?);
        Ok(())
    }
}

/// Room for one batch of points and all wallets.
pub(crate) struct WalletsStage<B: Backend> {
    backend: B,
    /// 2^i·T.
    power: Points<B>,
    /// x of λ·2^i·T.
    beta_x: Column<B>,
    registers: Vec<Points<B>>,
    /// Whether a register holds something.
    is_set: Vec<bool>,
}

impl<B: Backend> WalletsStage<B> {
    pub(crate) fn new(backend: B) -> Self {
        Self {
            backend,
            power: Points::new(backend, 0),
            beta_x: column(backend, 0),
            registers: Vec::new(),
            is_set: Vec::new(),
        }
    }

    /// Makes room for a batch in `groups` groups.
    pub(crate) fn resize(&mut self, groups: usize, wallets: usize) {
        let backend = self.backend;
        self.power.resize(backend, groups);
        resize(backend, &mut self.beta_x, groups);
        for register in self.registers.iter_mut().skip(wallets * REGISTERS) {
            register.wipe(backend);
        }
        self.registers
            .resize_with(wallets * REGISTERS, || Points::new(backend, 0));
        for register in &mut self.registers {
            register.resize(backend, groups);
        }
    }

    /// Computes each wallet's key times each point, for [`Self::product`]. Lanes past the last point repeat it.
    ///
    /// # Errors
    /// [`Degenerate`] if a point is off the curve in a way that makes a denominator zero.
    pub(crate) fn multiply(
        &mut self,
        lockstep: &mut Lockstep<B>,
        wallets: &[BucketDigits],
        points: &[AffinePoint],
    ) -> Result<(), Degenerate> {
        let last = points.len().saturating_sub(1);
        self.power.load(self.backend, |i| &points[i.min(last)]);
        self.is_set.clear();
        self.is_set.resize(self.registers.len(), false);
        run(
            wallets,
            &mut PointMachine {
                lockstep,
                stage: self,
            },
        )
    }

    /// The products of a wallet.
    pub(crate) fn product(&self, wallet: usize) -> &Points<B> {
        &self.registers[wallet * REGISTERS + RESULT]
    }
}

impl<B: Backend> Drop for WalletsStage<B> {
    fn drop(&mut self) {
        for register in &mut self.registers {
            register.wipe(self.backend);
        }
        wipe(self.backend, &mut self.beta_x);
    }
}

/// Runs the program on the points of a stage.
struct PointMachine<'a, B: Backend> {
    lockstep: &'a mut Lockstep<B>,
    stage: &'a mut WalletsStage<B>,
}

/// Two different registers, of which the first is to be changed.
fn pair<B: Backend>(
    registers: &mut [Points<B>],
    to: usize,
    from: usize,
) -> Result<[&mut Points<B>; 2], Degenerate> {
    registers
        .get_disjoint_mut([to, from])
        .map_err(|_| Degenerate)
}

impl<B: Backend> Machine for PointMachine<'_, B> {
    fn prepare_power(&mut self) {
        let stage = &mut *self.stage;
        stage.backend.run(Scale {
            backend: stage.backend,
            column: &stage.power.x,
            factor: &FieldElement::BETA,
            out: &mut stage.beta_x,
        });
    }

    fn double_power(&mut self) -> Result<(), Degenerate> {
        self.lockstep.double(&mut self.stage.power)
    }

    fn collect(&mut self, register: usize, lambda: bool, negative: bool) -> Result<(), Degenerate> {
        let stage = &mut *self.stage;
        let term = Each {
            x: if lambda {
                &stage.beta_x
            } else {
                &stage.power.x
            },
            y: &stage.power.y,
        };
        let sum = &mut stage.registers[register];
        if std::mem::replace(&mut stage.is_set[register], true) {
            return self.lockstep.add(sum, term, negative);
        }
        sum.x.copy_from_slice(term.x);
        sum.y.copy_from_slice(term.y);
        if negative {
            stage.backend.run(Negate {
                backend: stage.backend,
                column: &mut sum.y,
            });
        }
        Ok(())
    }

    fn copy(&mut self, to: usize, from: usize) -> Result<(), Degenerate> {
        let [to, from] = pair(&mut self.stage.registers, to, from)?;
        to.copy_from(from);
        Ok(())
    }

    fn add(&mut self, to: usize, from: usize) -> Result<(), Degenerate> {
        let [to, from] = pair(&mut self.stage.registers, to, from)?;
        self.lockstep.add(to, from.operand(), false)
    }

    fn double_add(&mut self, to: usize, from: usize) -> Result<(), Degenerate> {
        let [to, from] = pair(&mut self.stage.registers, to, from)?;
        self.lockstep.double_add(to, from.operand(), false)
    }
}

#[cfg(test)]
mod tests;
