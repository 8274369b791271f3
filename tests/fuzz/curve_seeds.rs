//! What fuzzing begins with where curve work is its subject: ordinary and unusual inputs of every operation.

use super::seeds::Seed;

/// Engines to choose from, where a processor runs all.
const ENGINES: u8 = 4;

/// Scalars as `checks/input.rs` reads them: ordinary ones, small ones, λ and others that make a step fail, powers of two,
/// the group order and its neighbours.
const SCALARS: [&[u8]; 14] = [
    &[0, 9],
    &[3, 1, 0],
    &[3, 2, 0],
    &[3, -1i8 as u8, 0],
    &[3, 0, 1],
    &[3, 0, -1i8 as u8],
    &[3, -1i8 as u8, -1i8 as u8],
    &[3, 93, 31],
    &[3, 0, 62],
    &[5, 64, 0],
    &[5, 128, -3i8 as u8],
    &[13, 127, 1],
    &[7, 0],
    &[7, -1i8 as u8],
];

/// Points alike: ordinary ones, λ times one, multiples of G, coordinates that are none, a flipped bit, x alone, x at and
/// above p.
const POINTS: [&[u8]; 12] = [
    &[0, 7],
    &[1, 7, 128],
    &[1, 7, 1],
    &[1, 7, 2],
    &[3, 3, 1, 0],
    &[3, 3, 0, -1i8 as u8],
    &[4, 0],
    &[5, 7, 0],
    &[133, 7, 255],
    &[6],
    &[7, 1],
    &[135, 1],
];

/// Places with the points of a list, filled up to what 64 bytes of coordinates take.
fn changes(points: &[&[u8]], step: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (place, point) in (0..).step_by(usize::from(step)).zip(points) {
        bytes.push(place);
        bytes.extend_from_slice(point);
        match point {
            [4, ..] => bytes.extend([5; 63]),
            [6] => bytes.extend([6; 32]),
            _ => {}
        }
    }
    bytes
}

/// A scan, a scan for many, products, keys and sums, ordinary and with all that is unusual, on every engine.
pub(crate) fn engines() -> Vec<Seed> {
    let bad = changes(&POINTS, 3);
    let mut seeds: Vec<Seed> = Vec::new();
    for engine in 0..ENGINES {
        let mut seed = |name: &str, operation: u8, count: u8, parts: &[&[u8]]| {
            // Batches of another size each time.
            let size = seeds.len() as u8;
            let bytes = [&[engine, size, operation, count], parts.concat().as_slice()].concat();
            seeds.push((format!("{engine}-{name}"), bytes));
        };
        // What else to ask for, the scan key, the spend key, the number of labels and each, the first point.
        seed(
            "scan",
            0,
            18,
            &[&[0x07], SCALARS[0], &[0, 1, 2, 0, 2, 0, 3, 0]],
        );
        // Unusual scalars are shared out, those of schedules and of products.
        let scalars = SCALARS.iter().enumerate();
        let scalars =
            scalars.filter(|(number, _)| number % usize::from(ENGINES) == usize::from(engine));
        for (number, scalar) in scalars.clone() {
            let name = format!("scan-key-{number}");
            seed(&name, 0, 17, &[&[0x01], scalar, &[0, 1, 1, 0, 2, 50]]);
        }
        seed(
            "scan-bad-points",
            0,
            36,
            &[&[0x08], SCALARS[0], &[0, 1, 1, 0, 2, 0], &bad],
        );
        seed(
            "scan-bad-multiple",
            0,
            17,
            &[&[0x91], SCALARS[0], &[0, 1, 0, 0]],
        );
        seed(
            "scan-infinity",
            0,
            19,
            &[&[0x01], SCALARS[0], &[133, 5, 1, 0, 2, 0]],
        );
        seed(
            "scan-infinite-label",
            0,
            20,
            &[&[0x03], SCALARS[0], &[0, 1, 3, 133, 5, 5, 6, 0, 2, 0]],
        );
        seed(
            "scan-label-minus-spend-key",
            0,
            20,
            &[&[0x06], SCALARS[0], &[0, 1, 2, 135, 7, 0]],
        );
        seed(
            "scan-no-key",
            0,
            20,
            &[&[0], SCALARS[0], &[4], &[9; 33], &[0, 0]],
        );
        seed("many-passes", 1, 17, &[&[5, 0, 0]]);
        let changed = [
            &[1],
            SCALARS[4],
            &[0, 1, 0, 3],
            SCALARS[1],
            &[133, 2, 1, 0, 9],
        ]
        .concat();
        seed("many-unusual", 1, 17, &[&[4, 2], &changed, &[0], &bad]);
        seed("products", 2, 20, &[&[0, 0]]);
        seed("products-bad-points", 2, 36, &[&[0, 0], &bad]);
        for (number, scalar) in scalars {
            seed(
                &format!("product-{number}"),
                2,
                18,
                &[&[1, 4], scalar, &[0]],
            );
        }
        seed("keys", 3, 70, &[&[0]]);
        let keys = [
            &[0, 0, 4, 1, 0, 0, 2, 1][..],
            POINTS[1],
            &[3, 2],
            &[3; 33],
            &[9, 3, 1, 8, 0x0b, 5],
        ]
        .concat();
        seed("keys-unusual", 3, 40, &[&[0], &keys]);
        seed("sums", 4, 90, &[&[3, 1, 2, 3, 9, 0]]);
        seed("sums-one", 4, 63, &[&[0, 63, 0]]);
        let meeting = changes(
            &[
                &[0, 7],
                &[0, 7],
                &[1, 7, 128],
                &[1, 7, 1],
                &[1, 7, 2],
                &[1, 7, 0],
                &[0, 7],
                &[0, 7],
            ],
            1,
        );
        seed("sums-meeting", 4, 40, &[&[2, 2, 3, 8, 0], &meeting]);
        seed("sums-bad-points", 4, 40, &[&[1, 2, 3, 0], &bad]);
    }
    seeds
}

/// Payments in and out of turn, with few and with many labels, and wallets made for sums at infinity.
pub(crate) fn confirm() -> Vec<Seed> {
    let payments: [(&str, &[u8]); 7] = [
        ("none", &[]),
        ("in-turn", &[0, 1, 2, 0, 1, 0, 1, 1]),
        ("backwards", &[0x12, 255, 0x0a, 1, 0x02, 255]),
        ("a-gap", &[0x12, 255, 0x02, 255]),
        ("one-k-twice", &[0x02, 1, 0x02, 255, 0x02, 0, 0x0a, 255]),
        ("repeats", &[0, 0, 4, 0, 4, 1, 7, 3, 4, 3]),
        ("strangers", &[3, 5, 0, 7, 9, 6, 0, 4, 11, 2, 1]),
    ];
    // Scan key, tweak, spend key; the number of labels and the first.
    let wallets: [(&str, &[u8]); 9] = [
        ("ordinary", &[0, 9, 0, 7, 0, 1, 3, 1]),
        ("many-labels", &[0, 9, 0, 7, 0, 1, 39, 1]),
        ("last-labels", &[0, 9, 0, 7, 0, 1, 5, 200]),
        ("unusual-scan-key", &[3, 0, 1, 3, 3, 1, 0, 4, 1, 3, 1]),
        ("infinite-first", &[0, 9, 0, 7, 5, 0, 3, 1]),
        ("infinite-second", &[0, 9, 0, 7, 5, 1, 39, 1]),
        ("infinite-label", &[0, 9, 0, 7, 6, 4, 3, 1]),
        ("minus-label", &[0, 9, 0, 7, 7, 1, 3, 1]),
        ("bad-tweak", &[0, 9, 5, 7, 0, 0, 1, 3, 1]),
    ];
    let mut seeds = Vec::new();
    for (wallet, keys) in wallets {
        for (name, outputs) in payments {
            seeds.push((format!("{wallet}-{name}"), [keys, outputs].concat()));
        }
    }
    seeds
}
