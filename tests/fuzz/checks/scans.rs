//! The scans of an engine, for one wallet and for many, held against libsecp256k1's.

use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::curve::{Batch, CandidateScanner, Engine, Match, ScanTarget, ShortKeys, TweakPoint};

use super::engines::{Watched, same};
use super::input::{Input, ordinary_point, unpack};
use super::wallets::Wallet;

/// Most tweaks times wallets of a scan for many: each costs libsecp256k1 some 70 µs.
const MOST_SHARED: usize = 200;

/// Whether a tweak that is a point lacks a candidate: it is at infinity, and the engine's batch had points that met.
fn has_infinity(tweaks: &[TweakPoint], candidates: &[[u8; 32]]) -> bool {
    let per_tweak = (candidates.len() / tweaks.len().max(1)).max(1);
    let mut with_candidates = tweaks.iter().zip(candidates.chunks(per_tweak));
    with_candidates
        .any(|(tweak, candidates)| candidates.contains(&[0; 32]) && unpack(tweak).is_some())
}

/// A scan for one wallet. Reads what else to ask for (1 byte) and the wallet.
pub(crate) fn scan(watched: Watched<'_>, input: &mut Input<'_>, count: usize) -> Option<()> {
    let more = input.byte()?;
    let wallet = Wallet::read(input)?;
    let tweaks = input.points(count)?;
    let target = wallet.target(&tweaks);
    let (scanner, exact) = (
        watched.engine.scanner(std::slice::from_ref(&target)),
        LibSecp256k1.scanner(std::slice::from_ref(&target)),
    );
    let (Ok(scanner), Ok(exact)) = (&scanner, &exact) else {
        assert_eq!(scanner.err(), exact.err());
        return Some(());
    };
    let per_tweak = exact.candidates_per_tweak(0);
    assert_eq!((scanner.wallets(), exact.wallets()), (1, 1));
    assert_eq!(scanner.candidates_per_tweak(0), per_tweak);
    let candidates = |scanner: &dyn CandidateScanner, multiples| {
        let mut candidates = Vec::new();
        let tweaks = &tweaks;
        scanner.candidates(Batch { tweaks, multiples }, &mut candidates);
        candidates.remove(0)
    };
    let expected = candidates(&**exact, None);
    same("candidates", &candidates(&**scanner, None), &expected);
    let mut scans = 1;
    let mut is_bad = false;
    if more & 1 != 0 {
        let multiples;
        (multiples, is_bad) = multiples_of(&tweaks, more);
        let computed = candidates(&**scanner, Some(&multiples));
        same("candidates with multiples", &computed, &expected);
        scans += 1;
    }
    if more & 2 != 0 {
        let mut taken = 0;
        scanner.scan(Batch::of(&tweaks), &mut |chunk| {
            for (tweak, keys) in chunk.by_tweak() {
                let exact = &expected[tweak * per_tweak..][chunk.numbers.clone()];
                same("candidates of a chunk", keys, exact);
                taken += keys.len();
            }
        });
        assert_eq!(taken, expected.len());
        scans += 1;
    }
    if more & 4 != 0 {
        let (keys, ends, expected) = outputs(&expected, tweaks.len(), per_tweak, more);
        let mut found = Vec::new();
        scanner.matches(
            Batch::of(&tweaks),
            &ShortKeys {
                keys: &keys,
                ends: &ends,
            },
            &mut found,
        );
        same("matches", &found, &expected);
        scans += 1;
    }
    let batches = scans * watched.batches(count) * u64::from(wallet.is_ordinary);
    watched.judge(batches, || is_bad || has_infinity(&tweaks, &expected));
    if more & 0x40 != 0 {
        assert!(scanner.confirm());
    }
    Some(())
}

/// 2^64 times each tweak, and whether one of them is wrong on purpose, off the curve.
fn multiples_of(tweaks: &[TweakPoint], how: u8) -> (Vec<TweakPoint>, bool) {
    let exact = LibSecp256k1.multiples(tweaks);
    let some = exact.iter().zip(tweaks);
    // What comes with a tweak that is no point does not matter: itself, or a point.
    let mut multiples: Vec<TweakPoint> = some
        .map(|(multiple, tweak)| {
            multiple.unwrap_or(if how & 8 != 0 {
                *tweak
            } else {
                ordinary_point(how)
            })
        })
        .collect();
    let bad = (how >= 128).then(|| multiples.get_mut(usize::from(how >> 4) % tweaks.len().max(1)));
    let bad = bad
        .flatten()
        .map(|multiple| *multiple = TweakPoint::from_bytes([how; 64]));
    (multiples, bad.is_some())
}

/// Short output keys of each tweak's transaction, none for some, where each ends, and what is to be found of them.
fn outputs(
    candidates: &[[u8; 32]],
    tweaks: usize,
    per_tweak: usize,
    how: u8,
) -> (Vec<u64>, Vec<u32>, Vec<Match>) {
    let (mut keys, mut ends, mut matches) = (Vec::new(), Vec::new(), Vec::new());
    for tweak in 0..tweaks {
        let own = &candidates[tweak * per_tweak..][..per_tweak];
        for (candidate, key) in own.iter().enumerate() {
            if (tweak + candidate + usize::from(how >> 4)).is_multiple_of(3) {
                let (short, _) = key.as_chunks::<8>();
                keys.push(u64::from_be_bytes(short[0]));
                // Zeros are no candidate, even where an output begins like that.
                if *key != [0; 32] {
                    matches.push(Match {
                        tweak,
                        wallet: 0,
                        candidate,
                        key: *key,
                    });
                }
            }
        }
        // A stranger's.
        keys.push(u64::MAX - tweak as u64);
        ends.push(keys.len() as u32);
    }
    // The same candidate twice has both its numbers found.
    for tweak in 0..tweaks {
        let own = &candidates[tweak * per_tweak..][..per_tweak];
        for (candidate, key) in own.iter().enumerate() {
            let twin = Match {
                tweak,
                wallet: 0,
                candidate,
                key: *key,
            };
            let is_found = matches
                .iter()
                .any(|found| found.tweak == tweak && found.key == *key);
            if is_found && !matches.contains(&twin) {
                matches.push(twin);
            }
        }
    }
    matches.sort_unstable_by_key(|found| (found.tweak, found.candidate));
    (keys, ends, matches)
}

/// A scan for several wallets. Reads how many, how many of them are changed (1 byte each), and the place and the keys of
/// each of these.
pub(crate) fn scan_for_many(
    watched: Watched<'_>,
    input: &mut Input<'_>,
    count: usize,
) -> Option<()> {
    let wallets = input.byte()? % 9;
    let mut wallets: Vec<Wallet> = (0..wallets).map(Wallet::ordinary).collect();
    for _ in 0..input.byte()? % 8 {
        let place = usize::from(input.byte()?);
        let wallet = Wallet::read(input)?;
        if let Some(here) = wallets.get_mut(place) {
            *here = wallet;
        }
    }
    let count = count.min(MOST_SHARED / wallets.len().max(1));
    let tweaks = input.points(count)?;
    let targets: Vec<ScanTarget> = wallets
        .iter()
        .map(|wallet| wallet.target(&tweaks))
        .collect();
    let (scanner, exact) = (
        watched.engine.scanner(&targets),
        LibSecp256k1.scanner(&targets),
    );
    let (Ok(scanner), Ok(exact)) = (&scanner, &exact) else {
        assert_eq!(scanner.err(), exact.err());
        return Some(());
    };
    assert_eq!(scanner.wallets(), exact.wallets());
    let (mut computed, mut expected) = (Vec::new(), Vec::new());
    exact.candidates(Batch::of(&tweaks), &mut expected);
    scanner.candidates(Batch::of(&tweaks), &mut computed);
    assert_eq!(computed.len(), expected.len());
    for (wallet, (computed, expected)) in computed.iter().zip(&expected).enumerate() {
        assert_eq!(
            scanner.candidates_per_tweak(wallet),
            exact.candidates_per_tweak(wallet)
        );
        same(&format!("wallet {wallet}"), computed, expected);
    }
    let ordinary = wallets.iter().filter(|wallet| wallet.is_ordinary).count();
    let batches = ordinary as u64 * watched.batches(count);
    watched.judge(batches, || {
        expected.iter().any(|all| has_infinity(&tweaks, all))
    });
    if wallets.len() % 4 == 3 {
        assert!(scanner.confirm());
    }
    Some(())
}
