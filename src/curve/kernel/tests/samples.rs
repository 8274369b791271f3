//! Results of every kind are compared, at any place.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::*;

/// A kind of result: what computes some, and what says whether they may be relied on.
struct Kind<'a> {
    name: &'static str,
    compute: Box<dyn Fn() -> Vec<u8> + 'a>,
    by: Rc<dyn Sampled + 'a>,
}

/// An engine as what its own results are by.
struct Itself<'a>(&'a dyn Engine);

impl Sampled for Itself<'_> {
    fn is_broken(&self) -> bool {
        self.0.is_broken()
    }

    fn confirm(&self) -> bool {
        self.0.confirm()
    }
}

fn bytes(points: &[Option<TweakPoint>]) -> Vec<u8> {
    let bytes = |point: &Option<TweakPoint>| point.map_or([0; 64], |point| *point.as_bytes());
    points.iter().flat_map(bytes).collect()
}

fn scan_by<'a>(
    engine: &dyn Engine,
    name: &'static str,
    tweaks: Vec<TweakPoint>,
    multiples: Option<Vec<TweakPoint>>,
) -> Kind<'a> {
    let scanner: Rc<dyn CandidateScanner> = scanner(engine, &target()).into();
    let by: Rc<dyn Sampled> = Rc::clone(&scanner) as _;
    let compute = Box::new(move || {
        let batch = Batch {
            tweaks: &tweaks,
            multiples: multiples.as_deref(),
        };
        suite::candidates(&*scanner, batch).concat()
    });
    Kind { name, compute, by }
}

fn shared_scan_by<'a>(engine: &dyn Engine, name: &'static str, targets: &[ScanTarget]) -> Kind<'a> {
    let scanner = engine.scanner(targets).expect("valid keys");
    let scanner: Rc<dyn CandidateScanner> = scanner.into();
    let by: Rc<dyn Sampled> = Rc::clone(&scanner) as _;
    let compute = Box::new(move || {
        let mut candidates = Vec::new();
        scanner.candidates(Batch::of(&tweaks()), &mut candidates);
        candidates.concat().concat()
    });
    Kind { name, compute, by }
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
    let own = |name, compute| Kind {
        name,
        compute,
        by: Rc::new(Itself(engine)),
    };
    let (multiplied, summed) = (tweaks.clone(), tweaks.clone());
    vec![
        scan_by(engine, "scan", tweaks.clone(), None),
        scan_by(
            engine,
            "scan with multiples",
            tweaks.clone(),
            Some(multiples),
        ),
        shared_scan_by(engine, "shared scan", &[target(), target()]),
        own(
            "products",
            Box::new(move || bytes(&engine.multiply(&products))),
        ),
        own(
            "multiples",
            Box::new(move || bytes(&engine.multiples(&multiplied))),
        ),
        own("points", Box::new(move || bytes(&engine.decompress(&keys)))),
        own(
            "sums",
            Box::new(move || bytes(&engine.sums(&summed, &ends))),
        ),
    ]
}

/// An engine on a backend, of which no sample is due by itself for long.
fn unsampled(backend: Faulty) -> Kernel<Faulty> {
    let kernel = Kernel::unchecked(backend);
    kernel.core.health.set_batches(1);
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
        assert!(kind.by.confirm(), "{}", kind.name);
        backend.fail();
        assert_ne!((kind.compute)(), (exact.compute)(), "{}", kind.name);
        backend.recover();
        assert!(!kernel.status().is_broken && !kind.by.is_broken());
        assert!(!kind.by.confirm(), "{}", kind.name);
        assert!(kernel.status().is_broken && kind.by.is_broken());
        assert_eq!((kind.compute)(), (exact.compute)(), "{}", kind.name);
    }
}

/// A wallet that takes no part in a pass is scanned for before the others.
#[test]
fn what_was_handed_out_for_a_wallet_beside_a_pass_is_compared() {
    let mut alone = target();
    alone.scan_key = [0; 32];
    alone.scan_key[31] = 1;
    let backend = Faulty::new(Fault::Doubled, usize::MAX);
    let kernel = unsampled(backend);
    let exact = shared_scan_by(&LibSecp256k1, "", &[target(), alone.clone(), target()]);
    let kind = shared_scan_by(&kernel, "", &[target(), alone.clone(), target()]);
    suite::candidates(&*scanner(&kernel, &alone), Batch::of(&tweaks()));
    let stores = backend.stored();
    backend.fail_within(stores + 3 * tweaks().len()..2 * stores);
    let candidates = (kind.compute)();
    let expected = (exact.compute)();
    let per_wallet = expected.len() / 3;
    let wrong: Vec<bool> = (candidates
        .chunks(per_wallet)
        .zip(expected.chunks(per_wallet)))
    .map(|(wallet, expected)| wallet != expected)
    .collect();
    assert_eq!(wrong, [false, true, false]);
    assert!(!kind.by.confirm());
}

#[test]
fn what_is_known_is_computed_again_though_the_last_results_were_right() {
    for i in 0..kinds(&LibSecp256k1).len() {
        let backend = Faulty::new(Fault::Doubled, usize::MAX);
        let kernel = unsampled(backend);
        let kind = &kinds(&kernel)[i];
        (kind.compute)();
        backend.fail();
        assert!(!kind.by.confirm(), "{}", kind.name);
    }
}

/// Whether results of a kind are what is known.
type Part = fn(&Kernel<Faulty>, &Known) -> bool;

/// In the order of the self-check; the last three are computed again whenever products, points or sums are confirmed.
const PARTS: [(&str, Part); 5] = [
    ("one wallet", |kernel, known| scans(kernel, known, 1)),
    ("two wallets", |kernel, known| scans(kernel, known, 2)),
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

fn scans(kernel: &Kernel<Faulty>, known: &Known, wallets: usize) -> bool {
    Scanner::agrees_with(known, kernel.backend, &kernel.core, wallets)
}

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
            kernel.check_itself();
            let is_found = kernel.status().is_broken;
            assert!(is_found, "{name}, {wrong:?} of {stores:?}");
        }
    }
    let kernel = unsampled(Faulty::new(Fault::Doubled, usize::MAX));
    kernel.check_itself();
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
fn each_place_is_kept_to_be_compared_in_its_turn() {
    let kernel = Kernel::unchecked(Portable);
    for count in [1, 5, 20, 64] {
        let places = (0..6 * count as u64).map(|batches| {
            kernel.core.health.set_batches(batches);
            kernel.place(count).expect("a place")
        });
        assert!(places.collect::<BTreeSet<_>>().into_iter().eq(0..count));
    }
    assert_eq!(kernel.place(0), None);
}
