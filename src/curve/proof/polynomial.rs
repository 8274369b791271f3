//! Polynomials with integer coefficients: what words and elements are in terms of atoms.

use std::collections::BTreeMap;

use super::integer::Integer;

/// A product of at most two atoms, in order; atom 0 is the number one.
pub(crate) type Monomial = [u32; 2];

/// A word, in terms of atoms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Polynomial(
    /// By monomials in ascending order, without zeros.
    Vec<(Monomial, i128)>,
);

impl Polynomial {
    pub(crate) fn constant(number: i128) -> Self {
        Self::default().plus(number, &Self::atom(0))
    }

    pub(crate) fn atom(atom: u32) -> Self {
        Self(vec![([0, atom], 1)])
    }

    /// a + factor·b.
    pub(crate) fn plus(&self, factor: i128, other: &Self) -> Self {
        let mut sum = Vec::with_capacity(self.0.len() + other.0.len());
        let mut rest = self.0.iter().copied().peekable();
        for (monomial, coefficient) in &other.0 {
            while let Some(before) = rest.next_if(|(before, _)| before < monomial) {
                sum.push(before);
            }
            let same = rest.next_if(|(same, _)| same == monomial);
            let product = factor.checked_mul(*coefficient);
            let coefficient = product
                .and_then(|product| product.checked_add(same.map_or(0, |(_, before)| before)))
                .expect("coefficients of words are far below 2^127");
            if coefficient != 0 {
                sum.push((*monomial, coefficient));
            }
        }
        sum.extend(rest);
        Self(sum)
    }

    /// a·b; `None` where that has a product of three atoms.
    pub(crate) fn times(&self, other: &Self) -> Option<Self> {
        let mut product = Self::default();
        for (a, factor) in &self.0 {
            let mut terms = Vec::with_capacity(other.0.len());
            for (b, coefficient) in &other.0 {
                terms.push((monomial_product(a, b)?, *coefficient));
            }
            terms.sort_unstable();
            product = product.plus(*factor, &Self(terms));
        }
        Some(product)
    }

    /// Its number modulo 2^128 for these numbers of the atoms.
    pub(crate) fn at(&self, atoms: &[i128]) -> i128 {
        self.0.iter().fold(0, |sum: i128, ([a, b], coefficient)| {
            let product = atoms[*a as usize].wrapping_mul(atoms[*b as usize]);
            sum.wrapping_add(product.wrapping_mul(*coefficient))
        })
    }
}

/// The product, if it has two atoms at most.
fn monomial_product(a: &Monomial, b: &Monomial) -> Option<Monomial> {
    let mut atoms = [a[0], a[1], b[0], b[1]];
    atoms.sort_unstable();
    let [0, 0, low, high] = atoms else {
        return None;
    };
    Some([low, high])
}

/// What all limbs of an element stand for together: a polynomial with coefficients of any size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Value(BTreeMap<Monomial, Integer>);

impl Value {
    /// a + 2^place·b, of a word b.
    pub(crate) fn plus_word(mut self, place: u32, word: &Polynomial) -> Self {
        for (monomial, coefficient) in &word.0 {
            self.add(monomial, &Integer::from(*coefficient).shifted(place));
        }
        self
    }

    /// A number of any size.
    pub(crate) fn constant(number: Integer) -> Self {
        Self(BTreeMap::from([([0, 0], number)]))
    }

    pub(crate) fn plus(mut self, other: &Self) -> Self {
        for (monomial, coefficient) in &other.0 {
            self.add(monomial, coefficient);
        }
        self
    }

    pub(crate) fn minus(mut self, other: &Self) -> Self {
        for (monomial, coefficient) in &other.0 {
            self.add(monomial, &coefficient.negated());
        }
        self
    }

    /// a·b, of values without products of atoms.
    pub(crate) fn times(&self, other: &Self) -> Self {
        let mut product = Self::default();
        for (a, factor) in &self.0 {
            for (b, coefficient) in &other.0 {
                let monomial = monomial_product(a, b).expect("values of limbs that were given");
                product.add(&monomial, &factor.times(coefficient));
            }
        }
        product
    }

    fn add(&mut self, monomial: &Monomial, coefficient: &Integer) {
        let sum = self.0.entry(*monomial).or_insert(Integer::ZERO);
        *sum = sum.plus(coefficient);
    }

    /// Whether it is 0 for all numbers of the atoms.
    pub(crate) fn is_zero(&self) -> bool {
        self.0
            .values()
            .all(|coefficient| *coefficient == Integer::ZERO)
    }

    /// Whether p divides each coefficient, and so its number for all numbers of the atoms.
    pub(crate) fn is_multiple_of_p(&self) -> bool {
        self.0.values().all(Integer::is_multiple_of_p)
    }
}
