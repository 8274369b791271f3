//! Results of every kind are compared, at any place.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::*;

/// A kind of result: computes some, and asks whether they may be relied on.
struct Kind<'a> {
    name: &'static str,
    compute: Box<dyn Fn() -> Vec<u8> + 'a>,
    confirm: Box<dyn Fn() -> bool + 'a>,
}

fn bytes(points: &[Option<TweakPoint>]) -> Vec<u8> {
    let bytes = |point: &Option<TweakPoint>| point.map_or([0; 64], |point| *point.as_bytes());
    points.iter().flat_map(bytes).collect()
}

fn kinds(engine: &dyn Engine) -> Vec<Kind<'_>> {
    let tweaks = tweaks();
    let multiples: Vec<TweakPoint> = (LibSecp256k1.multiples(&tweaks).into_iter())
        .map(|multiple| multiple.expect("of a point"))
        .collect();
    let keys: Vec<[u8; 33]> = tweaks.iter().map(TweakPoint::to_compressed).collect();
    let products: Vec<Product> = (tweaks.iter().zip(60..))
        .map(|(point, i)| Product {
            point: *point,
            scalar: secret(i).secret_bytes(),
        })
        .collect();
    let ends: Vec<usize> = (2..=tweaks.len()).step_by(2).collect();
    let scanner: Rc<dyn CandidateScanner> = engine.scanner(&target()).expect("valid keys").into();
    let other = Rc::clone(&scanner);
    let (scanner_confirms, other_confirms) = (Rc::clone(&scanner), Rc::clone(&scanner));
    let wallets = engine.wallets_scanner(&[target(), target()]);
    let wallets: Rc<dyn WalletsScanner> = wallets.expect("valid keys").into();
    let wallets_confirm = Rc::clone(&wallets);
    let (scanned, shared) = (tweaks.clone(), tweaks.clone());
    let (with_multiples, multiplied, summed) = (tweaks.clone(), tweaks.clone(), tweaks);
    let kind = |name, compute, confirm| Kind {
        name,
        compute,
        confirm,
    };
    vec![
        kind(
            "scan",
            Box::new(move || {
                let mut candidates = Vec::new();
                scanner.candidates(&scanned, &mut candidates);
                candidates.concat()
            }),
            Box::new(move || scanner_confirms.confirm()),
        ),
        kind(
            "scan with multiples",
            Box::new(move || {
                let mut candidates = Vec::new();
                other.candidates_with_multiples(&with_multiples, &multiples, &mut candidates);
                candidates.concat()
            }),
            Box::new(move || other_confirms.confirm()),
        ),
        kind(
            "shared scan",
            Box::new(move || {
                let mut candidates = Vec::new();
                wallets.candidates(&shared, &mut candidates);
                candidates.concat().concat()
            }),
            Box::new(move || wallets_confirm.confirm()),
        ),
        kind(
            "products",
            Box::new(move || bytes(&engine.multiply(&products))),
            Box::new(|| engine.confirm()),
        ),
        kind(
            "multiples",
            Box::new(move || bytes(&engine.multiples(&multiplied))),
            Box::new(|| engine.confirm()),
        ),
        kind(
            "points",
            Box::new(move || bytes(&engine.decompress(&keys))),
            Box::new(|| engine.confirm()),
        ),
        kind(
            "sums",
            Box::new(move || bytes(&engine.sums(&summed, &ends))),
            Box::new(|| engine.confirm()),
        ),
    ]
}

/// An engine on a backend, of which no sample is due by itself for long.
fn unsampled(backend: Faulty) -> Kernel<Faulty> {
    let kernel = Kernel::unchecked(backend);
    kernel.core.health.batches.store(1, Ordering::Relaxed);
    kernel
}

#[test]
fn one_result_of_any_kind_is_compared_when_its_turn_comes() {
    for (i, exact) in kinds(&LibSecp256k1).iter().enumerate() {
        let kernel = Kernel::unchecked(Faulty::new(Fault::Doubled, 0));
        kernel.sample_after(0);
        assert_eq!(
            (kinds(&kernel)[i].compute)(),
            (exact.compute)(),
            "{}",
            exact.name
        );
        assert!(kernel.status().is_broken, "{}", exact.name);
    }
}

#[test]
fn what_was_handed_out_last_is_compared_though_the_engine_is_right_again() {
    for (i, exact) in kinds(&LibSecp256k1).iter().enumerate() {
        let backend = Faulty::new(Fault::Doubled, usize::MAX);
        let kernel = unsampled(backend);
        let kind = &kinds(&kernel)[i];
        assert_eq!((kind.compute)(), (exact.compute)(), "{}", kind.name);
        assert!((kind.confirm)(), "{}", kind.name);
        backend.fail();
        assert_ne!((kind.compute)(), (exact.compute)(), "{}", kind.name);
        backend.recover();
        assert!(!kernel.status().is_broken);
        assert!(!(kind.confirm)(), "{}", kind.name);
        assert!(kernel.status().is_broken);
        assert_eq!((kind.compute)(), (exact.compute)(), "{}", kind.name);
    }
}

#[test]
fn what_is_known_is_computed_again_though_the_last_results_were_right() {
    for i in 0..kinds(&LibSecp256k1).len() {
        let backend = Faulty::new(Fault::Doubled, usize::MAX);
        let kernel = unsampled(backend);
        let kind = &kinds(&kernel)[i];
        (kind.compute)();
        backend.fail();
        assert!(!(kind.confirm)(), "{}", kind.name);
    }
}

/// Whether results of a kind are what is known.
type Part = fn(&Kernel<Faulty>, &Known) -> bool;

/// In the order of the self-check; the last three are computed again whenever products, points or sums are confirmed.
const PARTS: [(&str, Part); 5] = [
    ("one wallet", |kernel, known| {
        known.one_wallet_agrees(kernel.backend, &kernel.core) == Some(true)
    }),
    ("many wallets", |kernel, known| {
        known.many_wallets_agree(kernel.backend, &kernel.core) == Some(true)
    }),
    ("products", |kernel, known| {
        kernel.products(&known.products) == known.multiplied
    }),
    ("points", |kernel, known| {
        kernel.points(&known.keys) == known.points
    }),
    ("sums", |kernel, known| {
        kernel.groups(&known.tweaks, &known.ends) == known.sums
    }),
];

/// The values that each of these parts stores, counted from their start.
fn stores(parts: &[(&str, Part)], known: &Known) -> Vec<Range<usize>> {
    let backend = Faulty::new(Fault::Doubled, usize::MAX);
    let kernel = unsampled(backend);
    let mut stores = Vec::new();
    for (name, part) in parts {
        let start = backend.stored();
        assert!(part(&kernel, known), "{name}");
        stores.push(start..backend.stored());
    }
    stores
}

/// Two parts of these values: those of the first wallet or scan among them, and those of the last.
fn some(stores: &Range<usize>) -> [Range<usize>; 2] {
    let (start, count) = (stores.start, stores.len());
    [
        start + count * 2 / 5..start + count / 2,
        start + count * 9 / 10..stores.end,
    ]
}

#[test]
fn the_self_check_finds_a_fault_in_any_kind_alone() {
    let known = Known::shared().expect("known results");
    for ((name, _), stores) in PARTS.iter().zip(stores(&PARTS, known)) {
        for wrong in some(&stores) {
            let kernel = unsampled(Faulty::within(Fault::Doubled, wrong.clone()));
            assert_eq!(
                kernel.self_check(),
                Some(false),
                "{name}, {wrong:?} of {stores:?}"
            );
        }
    }
    let kernel = unsampled(Faulty::new(Fault::Doubled, usize::MAX));
    assert_eq!(kernel.self_check(), Some(true));
    assert!(!kernel.status().is_broken);
}

#[test]
fn known_results_of_any_kind_alone_refuse_what_is_to_be_confirmed() {
    let known = Known::shared().expect("known results");
    for ((name, _), stores) in PARTS[2..].iter().zip(stores(&PARTS[2..], known)) {
        for wrong in some(&stores) {
            let backend = Faulty::new(Fault::Doubled, usize::MAX);
            let kernel = unsampled(backend);
            kernel.decompress(&known.keys[..4]);
            let start = backend.stored();
            backend.fail_within(start + wrong.start..start + wrong.end);
            assert!(!kernel.confirm(), "{name}, {wrong:?} of {stores:?}");
        }
    }
}

#[test]
fn each_place_of_a_batch_is_compared_in_its_turn() {
    for count in [1, 5, 20, 64] {
        let health = Health::default();
        let (mut asked, mut places) = (0, BTreeSet::new());
        let batches = CHECK_INTERVAL * 6 * count as u64;
        for _ in 0..batches {
            let is_accepted = health.accept(Ok(()), count, |place| {
                asked += 1;
                places.insert(place);
                true
            });
            assert!(is_accepted);
        }
        assert_eq!(asked, batches / CHECK_INTERVAL);
        assert!(places.iter().copied().eq(0..count), "{count}: {places:?}");

        let kernel = Kernel::unchecked(Portable);
        let places = (0..6 * count as u64).map(|batches| {
            kernel.core.health.batches.store(batches, Ordering::Relaxed);
            kernel.place(count).expect("a place")
        });
        assert!(places.collect::<BTreeSet<_>>().into_iter().eq(0..count));
        assert_eq!(kernel.place(0), None);
    }
}

#[test]
fn batches_that_are_empty_or_failed_are_not_compared() {
    let health = Health::default();
    let unasked = |_| panic!("there is nothing to compare");
    assert!(health.accept(Ok(()), 0, unasked));
    for _ in 0..2 * CHECK_INTERVAL {
        assert!(!health.accept(Err(Degenerate), 3, unasked));
    }
    assert_eq!(health.batches(), 1 + 2 * CHECK_INTERVAL);
    let fallbacks = health.fallback_batches.load(Ordering::Relaxed);
    assert_eq!(fallbacks, 2 * CHECK_INTERVAL);
    assert!(!health.is_broken());
    // One that is wrong is the last that is accepted.
    let accepted = (0..CHECK_INTERVAL).filter(|_| health.accept(Ok(()), 3, |_| false));
    assert!(accepted.count() < CHECK_INTERVAL as usize);
    assert!(health.is_broken());
    assert!(!health.accept(Ok(()), 3, |_| true));
}

#[test]
fn what_is_absent_is_compared_each_time() {
    let kernel = Kernel::unchecked(Portable);
    let results = [Some(1), None, Some(2), None];
    assert!(kernel.absent_agree(&results, |i| i % 2 == 1));
    assert!(!kernel.status().is_broken);
    assert!(!kernel.absent_agree(&results, |i| i == 1));
    assert!(kernel.status().is_broken);
}
