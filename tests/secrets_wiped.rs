//! No memory is given back with a secret in it: an allocator looks into every block that is freed or moved.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};

use bitcoin::secp256k1::rand::SeedableRng;
use bitcoin::secp256k1::rand::rngs::StdRng;
use bitcoin::secp256k1::{PublicKey, SECP256K1, Scalar, SecretKey};
use bitcoin::{OutPoint, Txid, hashes::Hash};
use spindex::bip352::descriptor::DescriptorKey;
use spindex::bip352::hash::{label_scalar, output_tweak};
use spindex::bip352::keys::{ReceiverKeys, ScanKey, SharedSecret, SpendKey};
use spindex::bip352::label::LabelSet;
use spindex::curve::libsecp256k1::LibSecp256k1;
use spindex::curve::{self, Batch, Engine, EngineKind, TweakPoint};
use spindex::private_file::{self, Locked};
use spindex::scan::{Scanner, TaprootOutput};

/// The first and the second 8 bytes of each secret, sorted.
static SECRETS: RwLock<Vec<[u64; 2]>> = RwLock::new(Vec::new());
/// Blocks that were given back with one.
static FOUND: AtomicUsize = AtomicUsize::new(0);
/// Tests watch one after the other.
static WATCHED: Mutex<()> = Mutex::new(());

/// The system's allocator, watched.
struct Watched;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Looks for the secrets at every offset that is a multiple of `step`.
fn look(block: *const u8, bytes: usize, step: usize) {
    // A writer is putting new secrets in place, or this is its own memory.
    let Ok(secrets) = SECRETS.try_read() else {
        return;
    };
    if secrets.is_empty() || bytes < 16 {
        return;
    }
    #[expect(
        unsafe_code,
        reason = "memory that was freed can only be seen by its allocator"
    )]
    // SAFETY: `at + 8 <= bytes`, and the block, all of which was zeroed, is not given back yet.
    let word = |at: usize| u64::from_le(unsafe { block.add(at).cast::<u64>().read_unaligned() });
    for at in (0..=bytes - 16).step_by(step) {
        let first = word(at);
        let start = secrets.partition_point(|secret| secret[0] < first);
        let alike = secrets[start..]
            .iter()
            .take_while(|secret| secret[0] == first);
        if alike.into_iter().any(|secret| secret[1] == word(at + 8)) {
            FOUND.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
}

/// The secrets that are watched for are numbers in words, which lie at multiples of their size and in blocks for words
/// alone; otherwise they are bytes, and lie anywhere.
static ARE_WORDS: AtomicBool = AtomicBool::new(false);

#[expect(unsafe_code, reason = "the interface of allocators")]
// SAFETY: everything is left to the system's allocator. A block that is to grow or shrink is moved, so that it is seen
// what stays behind. Blocks are zeroed before they are handed out: padding and what is never written of one would hold
// what its last owner, perhaps one that nobody watched, left there.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match ARE_WORDS.load(Ordering::Relaxed) {
            true if layout.align() < 8 => {}
            true => look(block, layout.size(), 8),
            false => look(block, layout.size(), 1),
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Blocks given back with one of these secrets while `work` was done.
fn leaks(secrets: &[[u8; 32]], are_words: bool, work: impl FnOnce()) -> usize {
    let _alone = WATCHED.lock().unwrap();
    let words = |secret: &[u8; 32]| {
        let (words, _) = secret.as_chunks();
        [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
    };
    let mut sorted: Vec<_> = secrets.iter().map(words).collect();
    sorted.sort_unstable();
    let nothing = std::mem::replace(&mut *SECRETS.write().unwrap(), sorted);
    ARE_WORDS.store(are_words, Ordering::Relaxed);
    FOUND.store(0, Ordering::Relaxed);
    work();
    let found = FOUND.load(Ordering::Relaxed);
    *SECRETS.write().unwrap() = nothing;
    found
}

fn secret(number: u64) -> SecretKey {
    SecretKey::new(&mut StdRng::seed_from_u64(number))
}

#[test]
fn the_watch_sees_a_secret_that_is_dropped_or_outgrown() {
    let text = [7; 32];
    let dropped = leaks(&[text], false, || drop(text.to_vec()));
    assert_eq!(dropped, 1);
    let outgrown = leaks(&[text], false, || {
        let mut bytes = text.to_vec();
        bytes.reserve(1000);
        bytes.fill(0);
    });
    assert_eq!(outgrown, 1);
    let wiped = leaks(&[text], false, || {
        let mut bytes = text.to_vec();
        bytes.fill(0);
        std::hint::black_box(&bytes);
    });
    assert_eq!(wiped, 0);
}

/// Batches that shrink and grow, with one base and with two, for one wallet and for several.
#[test]
fn scans_leave_no_shared_secret_behind() {
    const TWEAKS: usize = 130;
    let keys = |number: u64| {
        let scan_key = ScanKey::from_bytes(secret(number).secret_bytes()).unwrap();
        let spend_key = SpendKey::from_bytes(secret(number + 1).secret_bytes()).unwrap();
        ReceiverKeys::new(scan_key, spend_key.public_key(), [1])
    };
    let wallets: Vec<ReceiverKeys> = (0..17).map(|number| keys(10 * number)).collect();
    let targets: Vec<_> = wallets.iter().map(ReceiverKeys::scan_target).collect();
    let mut point = secret(1_000).public_key(SECP256K1);
    let points: Vec<PublicKey> = (0..TWEAKS)
        .map(|_| {
            point = point.add_exp_tweak(SECP256K1, &Scalar::ONE).unwrap();
            point
        })
        .collect();
    let tweaks: Vec<TweakPoint> = points
        .iter()
        .map(|point| TweakPoint::from_compressed(&point.serialize()).unwrap())
        .collect();
    // x of b_scan·T for each tweak and for the wallets scanned for, in the byte order of words: little-endian.
    let mut secrets = Vec::with_capacity((wallets.len() + 4) * TWEAKS);
    for (number, wallet) in wallets.iter().enumerate() {
        let tweaks = if number == 0 {
            &tweaks[..]
        } else {
            &tweaks[..40]
        };
        for tweak in tweaks {
            secrets.push(x_of(&wallet.scan_key.shared_secret(tweak).unwrap()));
        }
    }
    // And x of the candidates of those scanned for first and last: they tell what the wallet waits for.
    let first_and_last = [targets[0].clone(), targets[wallets.len() - 1].clone()];
    let mut candidates = Vec::new();
    let exact = LibSecp256k1.scanner(&first_and_last).unwrap();
    exact.candidates(Batch::of(&tweaks), &mut candidates);
    secrets.extend(candidates.iter().flatten().map(|x| {
        let mut x = *x;
        x.reverse();
        x
    }));
    // All batched engines have the same buffers; in those of the portable one secrets are easily told.
    for kind in [EngineKind::Portable, EngineKind::Auto] {
        let engine = curve::engine(kind, |broken| panic!("{broken}")).unwrap();
        let name = engine.name();
        let multiples: Vec<TweakPoint> = engine.multiples(&tweaks).into_iter().flatten().collect();
        let leaked = leaks(&secrets, true, || {
            let mut candidates = Vec::new();
            let scanner = engine.scanner(&targets[..1]).unwrap();
            for count in [64, TWEAKS, 20, 100] {
                scanner.candidates(Batch::of(&tweaks[..count]), &mut candidates);
                let batch = Batch {
                    tweaks: &tweaks[..count],
                    multiples: Some(&multiples[..count]),
                };
                scanner.candidates(batch, &mut candidates);
            }
        });
        assert_eq!(leaked, 0, "{name}, one wallet");
        let leaked = leaks(&secrets, true, || {
            let mut candidates = Vec::new();
            // More than share a pass, so that the second one has fewer.
            let scanner = engine.scanner(&targets).unwrap();
            for count in [24, 40, 32] {
                scanner.candidates(Batch::of(&tweaks[..count]), &mut candidates);
            }
        });
        assert_eq!(leaked, 0, "{name}, {} wallets", targets.len());
    }
}

#[test]
fn scanners_leave_no_scan_key_behind() {
    let key = secret(11);
    let spend_key = SpendKey::from_bytes(secret(12).secret_bytes()).unwrap();
    let engines = [EngineKind::LibSecp256k1, EngineKind::Portable].map(|kind| {
        // The engine's own tables and checks come before.
        let engine = curve::engine(kind, |broken| panic!("{broken}")).unwrap();
        (engine.name(), engine)
    });
    for (name, engine) in engines {
        let leaked = leaks(&[key.secret_bytes()], false, || {
            let scan_key = ScanKey::from_bytes(key.secret_bytes()).unwrap();
            let keys = ReceiverKeys::new(scan_key, spend_key.public_key(), [1]);
            let targets = [keys.scan_target(), keys.scan_target()];
            drop(engine.scanner(&targets[..1]).unwrap());
            drop(engine.scanner(&targets).unwrap());
        });
        assert_eq!(leaked, 0, "{name}");
    }
}

/// x in the byte order of words, as libsecp256k1 keeps it.
fn x_of(shared_secret: &SharedSecret) -> [u8; 32] {
    let mut x = shared_secret.point().x_only_public_key().0.serialize();
    x.reverse();
    x
}

fn scan_key(number: u64) -> ScanKey {
    ScanKey::from_bytes(secret(number).secret_bytes()).unwrap()
}

fn tweak(number: u64) -> TweakPoint {
    let point = secret(number).public_key(SECP256K1);
    TweakPoint::from_compressed(&point.serialize()).unwrap()
}

#[test]
fn keys_are_wiped_as_they_are_dropped() {
    let scan = leaks(&[secret(1).secret_bytes()], false, || {
        drop(Box::new(scan_key(1)));
    });
    assert_eq!(scan, 0, "scan key");
    let spend = leaks(&[secret(2).secret_bytes()], false, || {
        let key = SpendKey::from_bytes(secret(2).secret_bytes()).unwrap();
        drop(Box::new(key));
    });
    assert_eq!(spend, 0, "spend key");
    let (key, tweak) = (scan_key(3), tweak(4));
    let x = x_of(&key.shared_secret(&tweak).unwrap());
    let shared = leaks(&[x], false, || {
        drop(Box::new(key.shared_secret(&tweak).unwrap()));
    });
    assert_eq!(shared, 0, "shared secret");
}

/// More labels than a vector has room for at first.
#[test]
fn labels_are_wiped_as_they_are_dropped() {
    let key = scan_key(5);
    let scalars: Vec<[u8; 32]> = (0..=20)
        .map(|m| label_scalar(&key, m).unwrap().to_be_bytes())
        .collect();
    let leaked = leaks(&scalars, false, || drop(LabelSet::new(&key, 1..=20)));
    assert_eq!(leaked, 0);
}

/// More payments in a transaction than a vector has room for at first.
#[test]
fn finds_are_wiped_as_they_are_dropped() {
    const PAYMENTS: u32 = 20;
    let spend_key = SpendKey::from_bytes(secret(7).secret_bytes()).unwrap();
    let keys = ReceiverKeys::new(scan_key(6), spend_key.public_key(), []);
    let tweak = tweak(8);
    let shared_secret = keys.scan_key.shared_secret(&tweak).unwrap();
    let t: Vec<Scalar> = (0..PAYMENTS)
        .map(|k| output_tweak(&shared_secret, k).unwrap())
        .collect();
    let outputs: Vec<TaprootOutput> = (0..)
        .zip(&t)
        .map(|(vout, t_k)| TaprootOutput {
            outpoint: OutPoint::new(Txid::all_zeros(), vout),
            key: {
                let p_k = keys.spend_pubkey.add_exp_tweak(SECP256K1, t_k).unwrap();
                p_k.x_only_public_key().0.serialize()
            },
            value_sat: 1,
        })
        .collect();
    let secrets: Vec<[u8; 32]> = t.iter().map(|t_k| t_k.to_be_bytes()).collect();
    let scanner = Scanner::new(std::sync::Arc::new(LibSecp256k1), keys).unwrap();
    let leaked = leaks(&secrets, false, || {
        let found = scanner.confirm(&tweak, &outputs).unwrap();
        assert_eq!(found.len(), PAYMENTS as usize);
    });
    assert_eq!(leaked, 0);
}

#[test]
fn keys_as_text_leave_nothing_behind() {
    let scan_key = ScanKey::from_bytes(secret(1).secret_bytes()).unwrap();
    let spend_key = SpendKey::from_bytes(secret(2).secret_bytes()).unwrap();
    let key = DescriptorKey::Spend {
        scan_key,
        spend_key,
        test_network: true,
    };
    // The text behind its prefix, and the keys in it.
    let text = key.to_secret_string();
    let part = |from: usize| <[u8; 32]>::try_from(&text.as_bytes()[from..from + 32]).unwrap();
    let secrets = [
        part(12),
        part(50),
        secret(1).secret_bytes(),
        secret(2).secret_bytes(),
    ];
    let folder = tempfile::tempdir().unwrap();
    let leaked = leaks(&secrets, false, || {
        let text = key.to_secret_string();
        let read: DescriptorKey = text.parse().unwrap();
        let path = folder.path().join("wallet");
        private_file::create(&path, text.as_bytes()).unwrap();
        drop(private_file::read(&path).unwrap());
        let locked = Locked::wait_for(&path).unwrap();
        let content = locked.read().unwrap();
        locked.replace(&content).unwrap();
        drop(read.to_scan().to_secret_string());
    });
    assert_eq!(leaked, 0);
}
