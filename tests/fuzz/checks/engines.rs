//! Every operation of a batched engine, held against libsecp256k1 place by place. The engine has to compute by itself:
//! it falls back to libsecp256k1 for no input but those listed here.

use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};

use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::curve::{Engine, EngineKind, Product, engine_in_batches, testable};

use super::input::{Input, P, is_small_combination, ordinary_point, ordinary_secret, unpack};
use super::scans::{scan, scan_for_many};

/// Those that run on this processor, each in batches of every size in turn.
static ENGINES: LazyLock<Vec<Vec<Arc<dyn Engine>>>> = LazyLock::new(|| {
    let kinds = testable().map(|entry| entry.kind);
    let in_batches = |kind: EngineKind| {
        let sizes = BATCHES.iter().filter_map(|size| NonZeroUsize::new(*size));
        sizes
            .map(|size| engine_in_batches(kind, size).ok())
            .collect()
    };
    kinds
        .filter(|kind| *kind != EngineKind::LibSecp256k1)
        .filter_map(in_batches)
        .collect()
});

/// Most points of a batch: those of a group of vectors, one more and one less, and more than an input has.
const BATCHES: [usize; 8] = [7, 8, 15, 16, 17, 32, 33, 1024];

/// Most batches of an operation: small ones take as long as full ones.
const MOST_BATCHES: usize = 6;

/// Fewer points are left to libsecp256k1.
pub(crate) const LEAST_POINTS: usize = 16;

/// Whether the input says enough: an engine, the size of its batches, what it is to do and the number of points (1 byte
/// each), then what the operation reads first, and the points.
pub(crate) fn check(bytes: &[u8]) -> bool {
    run(Input(bytes)).is_some()
}

fn run(mut input: Input<'_>) -> Option<()> {
    let engines = &ENGINES[usize::from(input.byte()?) % ENGINES.len()];
    let size = usize::from(input.byte()?) % BATCHES.len();
    let engine = &engines[size];
    let operation = input.byte()?;
    let count = usize::from(input.byte()?).min(MOST_BATCHES * BATCHES[size]);
    let watched = Watched::new(engine.as_ref(), BATCHES[size]);
    match operation % 5 {
        0 => scan(watched, &mut input, count),
        1 => scan_for_many(watched, &mut input, count),
        2 => multiply(watched, &mut input, count),
        3 => decompress(watched, &mut input, count),
        _ => sum(watched, &mut input, count),
    }
}

/// An engine, and what had happened to it before.
#[derive(Clone, Copy)]
pub(crate) struct Watched<'a> {
    pub(crate) engine: &'a dyn Engine,
    size: usize,
    batches: u64,
    fallback_batches: u64,
}

impl<'a> Watched<'a> {
    fn new(engine: &'a dyn Engine, size: usize) -> Self {
        let status = engine.status();
        Self {
            engine,
            size,
            batches: status.batches,
            fallback_batches: status.fallback_batches,
        }
    }

    /// Batches that so many points make; those of less than [`LEAST_POINTS`] are left to libsecp256k1.
    pub(crate) fn batches(&self, points: usize) -> u64 {
        if points < LEAST_POINTS {
            return 0;
        }
        points.div_ceil(self.size) as u64
    }

    /// Panics if the engine found itself wrong, did not compute so many batches or, unless it may, fell back. Sometimes has
    /// it confirm what it handed out, which takes longer than most inputs.
    pub(crate) fn judge(&self, least_batches: u64, may_fall_back: impl FnOnce() -> bool) {
        let name = self.engine.name();
        let status = self.engine.status();
        assert!(!status.is_broken, "{name}");
        let batches = status.batches - self.batches;
        assert!(
            batches >= least_batches,
            "{name}: {batches} batches, not {least_batches}"
        );
        let fallbacks = status.fallback_batches - self.fallback_batches;
        assert!(
            fallbacks == 0 || may_fall_back(),
            "{name} fell back {fallbacks} times"
        );
        if batches.is_multiple_of(8) {
            assert!(self.engine.confirm(), "{name}");
        }
    }
}

/// Panics at the first place where two lists differ.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, computed: &[T], exact: &[T]) {
    assert_eq!(computed.len(), exact.len(), "{what}");
    for (place, (computed, exact)) in computed.iter().zip(exact).enumerate() {
        assert_eq!(computed, exact, "{what}, place {place}");
    }
}

/// Products. Reads how many scalars are changed (1 byte), and place and value of each.
fn multiply(watched: Watched<'_>, input: &mut Input<'_>, count: usize) -> Option<()> {
    let scalar = |number: u8| ordinary_secret(b"scalar", number).secret_bytes();
    let mut scalars: Vec<[u8; 32]> = (0..=u8::MAX).take(count).map(scalar).collect();
    for _ in 0..input.byte()? {
        let place = usize::from(input.byte()?);
        let scalar = input.scalar()?;
        if let Some(here) = scalars.get_mut(place) {
            *here = scalar;
        }
    }
    let points = input.points(count)?;
    let products = points.iter().zip(&scalars);
    let products: Vec<Product> = products
        .map(|(&point, &scalar)| Product { point, scalar })
        .collect();
    let engine = watched.engine;
    let exact = LibSecp256k1.multiply(&products);
    same("products", &engine.multiply(&products), &exact);
    let exact_multiples = LibSecp256k1.multiples(&points);
    same("multiples", &engine.multiples(&points), &exact_multiples);
    // The last step of a product adds a digit of the second half, the one before two times one of the first: points can
    // meet there alone, for scalars made of few digits of at most 31.
    let can_meet = |scalar| is_small_combination(scalar, 93, 62);
    // Only what has a result makes batches.
    let results = [exact, exact_multiples].map(|results| results.iter().flatten().count());
    let batches = results.map(|valid| valid.div_ceil(watched.size) as u64);
    let batches = if count < LEAST_POINTS {
        0
    } else {
        batches.iter().sum()
    };
    watched.judge(batches, || scalars.iter().any(can_meet));
    Some(())
}

/// Compressed keys: those of ordinary points from a number on (1 byte), of which some are changed. These take all the
/// rest of the input: place, kind (1 byte each) and what that needs.
fn decompress(watched: Watched<'_>, input: &mut Input<'_>, count: usize) -> Option<()> {
    let first = input.byte()?;
    let mut keys: Vec<[u8; 33]> = (0..count)
        .map(|place| ordinary_point(first.wrapping_add(place as u8)).to_compressed())
        .collect();
    while let (Some(place), Some(kind)) = (input.byte(), input.byte()) {
        let mut key = keys.get(usize::from(place)).copied().unwrap_or([2; 33]);
        match kind % 4 {
            0 => key[0] = input.byte()?,
            1 => key = input.point()?.to_compressed(),
            2 => key = input.array()?,
            // p - x or x, for x in a byte and a half.
            _ => {
                let low = u16::from_le_bytes([input.byte()?, kind >> 4]);
                let mut x = [0; 32];
                if kind & 8 != 0 {
                    x = P;
                    let p_low = u16::from_be_bytes([P[30], P[31]]);
                    x[30..].copy_from_slice(&(p_low - low).to_be_bytes());
                } else {
                    x[30..].copy_from_slice(&low.to_be_bytes());
                }
                key[1..].copy_from_slice(&x);
            }
        }
        if let Some(here) = keys.get_mut(usize::from(place)) {
            *here = key;
        }
    }
    let exact = LibSecp256k1.decompress(&keys);
    same("points", &watched.engine.decompress(&keys), &exact);
    watched.judge(1, || false);
    Some(())
}

/// Sums of groups. Reads how many sizes (1 byte) and those, taken in turn until there are no points left.
fn sum(watched: Watched<'_>, input: &mut Input<'_>, count: usize) -> Option<()> {
    let sizes = 1 + input.byte()? % 16;
    let sizes: Vec<u8> = (0..sizes).map(|_| input.byte()).collect::<Option<_>>()?;
    let points = input.points(count)?;
    let mut ends = Vec::new();
    let mut end = 0;
    for size in sizes.iter().cycle().take(count) {
        end += usize::from(size % 64);
        if end > count {
            break;
        }
        ends.push(end);
    }
    let exact = LibSecp256k1.sums(&points, &ends);
    same("sums", &watched.engine.sums(&points, &ends), &exact);
    let are_points = points.iter().all(|point| unpack(point).is_some());
    watched.judge(u64::from(are_points), || false);
    Some(())
}
