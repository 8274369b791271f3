use super::*;
use crate::curve::suite::{secret, unusual_scalars};
use secp256k1::SecretKey;

fn scalar(key: &SecretKey) -> Scalar {
    Scalar::from_be_bytes(&key.secret_bytes()).expect("a key is below n")
}

/// Counts steps, and believes everything.
#[derive(Default)]
struct Counter {
    doublings: usize,
    additions: usize,
    both: usize,
}

impl Machine for Counter {
    fn start(&mut self, _: Term) {}

    fn double(&mut self) -> Result<(), Degenerate> {
        self.doublings += 1;
        Ok(())
    }

    fn add(&mut self, _: Term) -> Result<(), Degenerate> {
        self.additions += 1;
        Ok(())
    }

    fn double_add(&mut self, _: Term) -> Result<(), Degenerate> {
        self.both += 1;
        Ok(())
    }
}

#[test]
fn usual_keys_have_proven_schedules_of_the_usual_length() {
    for i in 0..200 {
        let key = scalar(&secret(i));
        for (bases, doublings) in [(Bases::One, 120..=129), (Bases::Two, 58..=65)] {
            let schedule = Schedule::new(&key, bases).expect("no relation holds by chance");
            let mut counter = Counter::default();
            assert_eq!(schedule.run(&mut counter), Ok(()));
            assert!(
                doublings.contains(&(counter.doublings + counter.both)),
                "key {i}"
            );
            assert!(
                (36..=70).contains(&(counter.additions + counter.both)),
                "key {i}"
            );
        }
    }
}

/// They would leave a copy behind.
#[test]
fn steps_never_move_to_a_larger_place() {
    for i in 0..20 {
        for bases in [Bases::One, Bases::Two] {
            let schedule = Schedule::unproven(&scalar(&secret(i)), bases);
            assert_eq!(schedule.steps.capacity(), 2 * bases.count() * WNAF_DIGITS);
        }
    }
}

#[test]
fn unusual_keys_are_proven() {
    for key in unusual_scalars() {
        let key = scalar(&key);
        for bases in [Bases::One, Bases::Two] {
            let schedule = Schedule::new(&key, bases).expect("no step fails");
            let mut integers = Integers::new(bases);
            assert_eq!(schedule.run(&mut integers), Ok(()));
            assert!(integers.value == key);
        }
    }
    for bases in [Bases::One, Bases::Two] {
        assert!(Schedule::new(&Scalar::ZERO, bases).is_none());
    }
}

#[test]
fn a_schedule_for_another_key_is_no_proof() {
    let (a, b) = (scalar(&secret(1)), scalar(&secret(2)));
    let schedule = Schedule::unproven(&a, Bases::One);
    assert!(schedule.proves(&a, Bases::One));
    assert!(!schedule.proves(&b, Bases::One));
    let nothing = Schedule { steps: Vec::new() };
    assert!(!nothing.proves(&Scalar::ZERO, Bases::One));
}

#[test]
fn steps_that_affine_formulas_cannot_do_are_refused() {
    let term = |entry, negative| Term {
        entry,
        endomorphism: false,
        negative,
    };
    let mut start = Integers::new(Bases::One);
    start.start(term(0, false));
    // T + T, T - T, 2T - T by way of T - T, 2T + T by way of T + T.
    for negative in [false, true] {
        let mut integers = Integers::new(Bases::One);
        integers.start(term(0, false));
        assert_eq!(integers.add(term(0, negative)), Err(Degenerate));
        assert_eq!(integers.double_add(term(0, negative)), Err(Degenerate));
    }
    // 2·3T - 7T = -T is possible; 3T + T = 4T, 4T + 3T = 7T, too.
    let mut integers = Integers::new(Bases::One);
    integers.start(term(1, false));
    assert_eq!(integers.double_add(term(0, false)), Ok(()));
    assert!(integers.value == integers.term(term(3, false)));
}

/// Every change of a step, and every step lost, doubled or exchanged with the next one.
#[test]
fn schedules_with_an_error_are_refused() {
    for (bases, entries) in [(Bases::One, 4), (Bases::Two, 8)] {
        let key = scalar(&secret(7));
        let right = Schedule::unproven(&key, bases).steps.clone();
        let refused = |steps: Vec<Step>, what: &str| {
            assert!(!Schedule { steps }.proves(&key, bases), "{bases:?}: {what}");
        };
        assert!(
            Schedule {
                steps: right.clone()
            }
            .proves(&key, bases)
        );
        for at in (0..right.len()).step_by(3).chain([1, right.len() - 1]) {
            let change = |change: &dyn Fn(&mut Step)| {
                let mut steps = right.clone();
                change(&mut steps[at]);
                steps
            };
            let kind = right[at].0 & KIND_BITS;
            if kind != DOUBLE {
                let entry = right[at].0 & ENTRY_BITS;
                let other = (entry + 1) % entries;
                let kept = right[at].0 & !ENTRY_BITS;
                refused(change(&|step| step.0 = kept | other), "another digit");
                refused(change(&|step| step.0 ^= NEGATIVE), "another sign");
                refused(change(&|step| step.0 ^= ENDOMORPHISM), "another half");
            }
            let other_kind = match kind {
                START => None,
                DOUBLE => Some(DOUBLE_ADD),
                ADD => Some(DOUBLE_ADD),
                _ => Some(ADD),
            };
            if let Some(other) = other_kind {
                let kept = right[at].0 & !KIND_BITS;
                refused(change(&|step| step.0 = kept | other), "another kind");
            }
            let mut lost = right.clone();
            lost.remove(at);
            refused(lost, "a step lost");
            let mut repeated = right.clone();
            repeated.insert(at, right[at]);
            if kind != START {
                refused(repeated, "a step repeated");
            }
        }
    }
}

#[test]
fn schedules_with_a_step_that_can_fail_are_refused() {
    let term = |entry, negative| Term {
        entry,
        endomorphism: false,
        negative,
    };
    let one = Step::new(START, term(0, false));
    let two = Scalar::power_of_two(1);
    let three = two.plus(&Scalar::ONE);
    // T + T is 2T, 2T + T is 3T, T - T + .. is whatever it is: but not for affine formulas.
    for (steps, result) in [
        (vec![one, Step::new(ADD, term(0, false))], two),
        (vec![one, Step::new(DOUBLE_ADD, term(0, false))], three),
        (vec![one, Step::new(ADD, term(0, true))], Scalar::ZERO),
        (vec![one, Step::new(DOUBLE_ADD, term(0, true))], Scalar::ONE),
    ] {
        assert!(!Schedule { steps }.proves(&result, Bases::One));
    }
    let before_the_start = Schedule {
        steps: vec![Step(DOUBLE), one],
    };
    assert!(!before_the_start.proves(&Scalar::ONE, Bases::One));
    let doubled = Schedule {
        steps: vec![one, Step(DOUBLE)],
    };
    assert!(doubled.proves(&two, Bases::One));
}

#[test]
fn a_step_is_what_it_was_made_of() {
    for kind in [START, DOUBLE, ADD, DOUBLE_ADD] {
        for entry in 0..Bases::Two.count() * ODD_MULTIPLES {
            for (endomorphism, negative) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let term = Term {
                    entry,
                    endomorphism,
                    negative,
                };
                let step = Step::new(kind, term);
                assert_eq!(step.term(), term);
                assert_eq!(step.0 & KIND_BITS, kind);
            }
        }
    }
}

/// Keys near 0, n, λ and -λ: whatever their steps are, those that can be done end in the key.
#[test]
fn small_keys_fail_or_are_proven() {
    for i in 0..40 {
        let small = Scalar::from_words([i, 0, 0, 0]).expect("below n");
        let near = Scalar::LAMBDA.plus(&small);
        for key in [small, small.negated(), near, near.negated()] {
            for bases in [Bases::One, Bases::Two] {
                let schedule = Schedule::unproven(&key, bases);
                let mut integers = Integers::new(bases);
                let is_possible = schedule.run(&mut integers).is_ok() && !key.is_zero();
                assert!(!is_possible || integers.value == key);
                assert_eq!(Schedule::new(&key, bases).is_some(), is_possible);
            }
        }
    }
}
