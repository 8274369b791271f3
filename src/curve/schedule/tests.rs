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

#[test]
fn unusual_keys_fail_or_are_proven() {
    let mut failed = 0;
    for key in unusual_scalars() {
        let key = scalar(&key);
        for bases in [Bases::One, Bases::Two] {
            // The steps always make the key; what may go wrong is a step that affine formulas cannot do.
            let schedule = Schedule::unproven(&key, bases);
            let mut integers = Integers::new(bases);
            if schedule.run(&mut integers).is_ok() {
                assert!(integers.value == key);
            } else {
                failed += 1;
                assert!(Schedule::new(&key, bases).is_none());
            }
        }
    }
    println!("{failed} schedules fail");
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
