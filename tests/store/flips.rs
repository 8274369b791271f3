//! Bits that flip in an index file, and pages that get lost: what is asked afterwards is answered as before, or with an
//! error.
//!
//! `SPINDEX_FLIPS` says how many files are damaged: half of them before they are opened, half of them after that. In a
//! build with debug assertions the engine looks at every page of a file that it opens.

use std::env;
use std::fmt::Debug;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard};

use bitcoin::OutPoint;
use bitcoin::hashes::Hash;
use bitcoin::secp256k1::rand::{Rng, SeedableRng, rngs::StdRng};
use redb::StorageBackend;
use spindex::store::{RowFilter, ScanColumns, Store, StoreError, StoreOptions, TxPosition, Update};

use crate::by_height::ByHeight as _;
use crate::support::{LARGE, MEDIUM, Model, SMALL, connect, options_with, place, row_filters};

const PAGE: usize = 4096;
/// Files that are damaged unless the environment says otherwise.
const FLIPS: u64 = 16;

/// A file in memory.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(bytes)))
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("no panic while held")
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        let found = bytes.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes();
        let place = bytes.get_mut(offset as usize..offset as usize + data.len());
        place
            .ok_or(io::ErrorKind::UnexpectedEof)?
            .copy_from_slice(data);
        Ok(())
    }
}

/// What a question was answered with: its text and the answer's, `None` for an error.
type Answers = Vec<(String, Option<String>)>;

/// Everything that can be asked of an index of a chain, also of what the chain does not have.
fn ask(store: &Store, model: &Model) -> Answers {
    let Ok(snapshot) = store.snapshot() else {
        return Vec::new();
    };
    let mut answers = Answers::new();
    let mut note = |question: String, answer: Result<&dyn Debug, &StoreError>| {
        if let Err(error) = &answer {
            let is_damage = matches!(
                error,
                StoreError::Damaged { .. } | StoreError::NotLocated { .. }
            );
            assert!(is_damage, "{question}: {error}");
        }
        answers.push((question, answer.ok().map(|answer| format!("{answer:?}"))));
    };
    macro_rules! ask {
        ($question:expr, $answer:expr) => {{
            let answer = $answer;
            note(
                $question,
                answer.as_ref().map(|answer| answer as &dyn Debug),
            );
        }};
    }
    note("tip".to_owned(), Ok(&snapshot.tip()));
    note("locating".to_owned(), Ok(&snapshot.locating()));
    ask!("counts".to_owned(), snapshot.counts());
    ask!("undo".to_owned(), snapshot.undo_from());
    ask!("space".to_owned(), store.space());
    let first = model.chain[0].id.height;
    let last = first + model.chain.len() as u32;
    for height in first - 1..=last {
        ask!(format!("block {height}"), snapshot.block(height));
        ask!(format!("digest {height}"), snapshot.digest(height));
        ask!(format!("spends {height}"), snapshot.spends(height));
        ask!(format!("new {height}"), snapshot.new_utxos_filter(height));
        ask!(format!("spent {height}"), snapshot.spent_filter(height));
        ask!(format!("points {height}"), snapshot.points(height));
        ask!(format!("record {height}"), snapshot.record(height));
        ask!(
            format!("positions {height}"),
            snapshot.spent_positions(height)
        );
        ask!(
            format!("creators {height}"),
            snapshot.spend_creators(height)
        );
        if model.multiples {
            ask!(format!("multiples {height}"), snapshot.multiples(height));
        }
        for filter in row_filters() {
            let name = format!("{height} {filter:?}");
            ask!(format!("utxos {name}"), snapshot.utxos(height, filter));
            ask!(format!("tweaks {name}"), snapshot.tweaks(height, filter));
            ask!(
                format!("compressed {name}"),
                snapshot.compressed_tweaks(height, filter)
            );
            ask!(format!("list {name}"), snapshot.tweak_list(height, filter));
        }
    }
    let unknown = bitcoin::BlockHash::from_byte_array([7; 32]);
    let hashes = model.chain.iter().map(|record| record.id.hash);
    for hash in hashes.chain([unknown]) {
        ask!(format!("height of {hash}"), snapshot.height_of(&hash));
    }
    let unknown = OutPoint::new(bitcoin::Txid::from_byte_array([8; 32]), 1);
    let outpoints = model.outputs().into_iter().map(|(outpoint, _)| outpoint);
    for outpoint in outpoints.chain([unknown]).step_by(5) {
        ask!(format!("{outpoint}"), snapshot.is_unspent(&outpoint));
    }
    let columns = ScanColumns {
        short_keys: true,
        multiples: model.multiples,
        compressed: false,
    };
    match snapshot.scan(first..=last - 1, columns) {
        Ok(Some(scan)) => {
            let positions = scan.positions();
            for (number, batch) in scan.enumerate() {
                match batch {
                    Ok(batch) => note(
                        format!("batch {number}"),
                        Ok(&(batch.tweaks, batch.multiples, batch.keys)),
                    ),
                    Err(error) => {
                        note(format!("batch {number}"), Err(&error));
                        break;
                    }
                }
            }
            let positions = positions.start.0..positions.end.0;
            for position in positions.step_by(7).map(TxPosition) {
                ask!(format!("block of {position}"), snapshot.block_of(position));
                ask!(format!("at {position}"), snapshot.transaction(position));
            }
        }
        Ok(None) => note("scan".to_owned(), Ok(&"none")),
        Err(error) => note("scan".to_owned(), Err(&error)),
    }
    ask!("content".to_owned(), snapshot.content_hash());
    answers
}

/// One or more errors are among them. All others are as they should be.
fn hold_against(answers: &Answers, expected: &Answers, what: &str) -> bool {
    let mut is_refused = answers.is_empty();
    let mut expected = expected.iter();
    for (question, answer) in answers {
        // What is asked by position is not asked where a scan could not begin.
        let (_, right) = expected
            .find(|(name, _)| name == question)
            .unwrap_or_else(|| panic!("{what}: {question} is not asked of a good index"));
        match answer {
            Some(_) if answer == right => {}
            Some(answer) => panic!("{what}: {question} is answered with {answer}, not {right:?}"),
            None => is_refused |= right.is_some(),
        }
    }
    is_refused
}

/// What happens to a file.
fn damage(bytes: &mut [u8], older: &[u8], rng: &mut StdRng) -> String {
    let len = bytes.len();
    let pages = len / PAGE;
    let place = |rng: &mut StdRng| match rng.gen_range(0..10) {
        // The head and the sums, which are few among many pages.
        0 => rng.gen_range(0..PAGE / 8),
        1 => PAGE + rng.gen_range(0..PAGE / 8),
        2 => 2 * PAGE + rng.gen_range(0..4 * pages),
        _ => rng.gen_range(0..len),
    };
    match rng.gen_range(0..8) {
        0 => {
            let page = rng.gen_range(0..pages);
            bytes[page * PAGE..][..PAGE].fill(0);
            format!("page {page} is lost")
        }
        1 => {
            let page = rng.gen_range(0..pages);
            let kept = 512 * rng.gen_range(1..8);
            bytes[page * PAGE..][kept..PAGE].fill(0);
            format!("page {page} is lost from byte {kept} on")
        }
        2 => {
            // A write that never reached the disk.
            let page = rng.gen_range(3..pages);
            let range = page * PAGE..(page + 1) * PAGE;
            let old = older
                .get(range.clone())
                .map_or(vec![0; PAGE], <[u8]>::to_vec);
            bytes[range].copy_from_slice(&old);
            format!("page {page} is an older one")
        }
        3 => {
            let (from, to) = (rng.gen_range(0..pages), rng.gen_range(0..pages));
            let page = bytes[from * PAGE..][..PAGE].to_vec();
            bytes[to * PAGE..][..PAGE].copy_from_slice(&page);
            format!("page {from} stands at {to}")
        }
        _ => {
            let mut flips = Vec::new();
            for _ in 0..rng.gen_range(1..=3) {
                let (at, bit) = (place(rng), rng.gen_range(0..8));
                bytes[at] ^= 1 << bit;
                flips.push((at, bit));
            }
            format!("bits {flips:?} are flipped")
        }
    }
}

/// An index, its bytes and those of a moment before, and what it says of itself.
struct Good {
    model: Model,
    options: StoreOptions,
    bytes: Vec<u8>,
    older: Vec<u8>,
    answers: Answers,
    /// With the next block.
    grown: (Model, Answers),
}

impl Good {
    fn new(multiples: bool, unlocated: bool) -> Self {
        let mut model = Model::new(multiples);
        for seed in 0..8 {
            model.grow(seed, if seed % 3 == 1 { MEDIUM } else { SMALL });
        }
        let options = StoreOptions {
            // No page stays in memory.
            cache_bytes: 0,
            ..options_with(4, multiples)
        };
        let memory = Memory::default();
        let store = Store::open_with_backend(memory.clone(), &options).expect("a new index");
        connect(&store, &model.chain[..4]);
        let mut older = Vec::new();
        for record in 4..model.chain.len() {
            older = memory.bytes().clone();
            match unlocated {
                true => drop(
                    store
                        .extend(&model.with_heights(record)[..1])
                        .expect("fits"),
                ),
                false => connect(&store, &model.chain[record..=record]),
            }
        }
        drop(store);
        let bytes = memory.bytes().clone();
        let reopened = |bytes: &Vec<u8>| {
            Store::open_with_backend(Memory::holding(bytes.clone()), &options).expect("a good file")
        };
        let answers = ask(&reopened(&bytes), &model);
        let mut grown = model.clone();
        grown.grow(99, MEDIUM);
        let store = reopened(&bytes);
        connect(&store, &grown.chain[model.chain.len()..]);
        let after = ask(&store, &grown);
        Self {
            answers,
            model,
            options,
            bytes,
            older,
            grown: (grown, after),
        }
    }

    /// Whether the damage was noticed, which is there when the file is opened or comes later.
    fn survives(&self, bytes: Vec<u8>, later: bool, what: &str) -> bool {
        let memory = match later {
            true => Memory::holding(self.bytes.clone()),
            false => Memory::holding(bytes.clone()),
        };
        let mut store = match Store::open_with_backend(memory.clone(), &self.options) {
            Ok(store) => {
                if later {
                    // Not the head, which is written when a file is opened and of which nothing is read afterwards.
                    let mut held = memory.bytes();
                    let end = held.len().min(bytes.len());
                    held[2 * PAGE..end].copy_from_slice(&bytes[2 * PAGE..end]);
                }
                store
            }
            Err(error) => {
                let is_damage = matches!(
                    error,
                    StoreError::Damaged { .. }
                        | StoreError::Corrupt { .. }
                        | StoreError::NotAnIndex { .. }
                );
                assert!(is_damage, "{what}: {error:?}");
                return true;
            }
        };
        let is_refused = hold_against(&ask(&store, &self.model), &self.answers, what);
        let (grown, after) = &self.grown;
        let update = Update {
            disconnect: 0,
            connect: &grown.chain[self.model.chain.len()..],
        };
        if is_refused {
            // The engine has other pages in memory than those of the file: nothing is built on them.
            assert!(store.apply(update).is_err(), "{what}: taken");
            let pages = store.check_pages();
            assert!(pages.is_err(), "{what}: not found by a check, {pages:?}");
            drop(store);
            let memory = Memory::holding(bytes);
            match Store::open_with_backend(memory, &self.options) {
                Ok(mut store) => {
                    let pages = store.check_pages();
                    assert!(
                        matches!(pages, Err(StoreError::Damaged { .. })),
                        "{what}: not found by a check, {pages:?}"
                    );
                }
                Err(error) => assert!(matches!(error, StoreError::Damaged { .. }), "{what}"),
            }
            return true;
        }
        // What nobody needs for an answer, the engine may need to write.
        match store.apply(update) {
            Ok(_) => hold_against(&ask(&store, grown), after, what),
            Err(error) => {
                assert!(
                    matches!(error, StoreError::Damaged { .. }),
                    "{what}: {error:?}"
                );
                true
            }
        }
    }
}

fn count() -> u64 {
    let count = env::var("SPINDEX_FLIPS").ok();
    count.map_or(FLIPS, |count| count.parse().expect("a number"))
}

#[test]
fn no_damage_changes_an_answer() {
    let goods = [
        Good::new(false, false),
        Good::new(true, false),
        Good::new(false, true),
    ];
    let mut noticed = 0;
    for seed in 0..count() {
        let mut rng = StdRng::seed_from_u64(seed);
        let good = &goods[seed as usize % goods.len()];
        let mut bytes = good.bytes.clone();
        let what = damage(&mut bytes, &good.older, &mut rng);
        let later = rng.gen_bool(0.5);
        let when = if later { "later" } else { "before" };
        let what = format!("file {seed}, where {what} {when}");
        let survived = catch_unwind(AssertUnwindSafe(|| good.survives(bytes, later, &what)));
        match survived {
            Ok(is_noticed) => noticed += u64::from(is_noticed),
            Err(_) => panic!("{what}: a panic"),
        }
    }
    println!(
        "{noticed} of {} damaged files were refused or answered in part",
        count()
    );
    assert!(noticed > count() / 10, "{noticed}");
}

#[test]
fn a_flipped_tweak_is_an_error_and_its_neighbours_are_served() {
    let (_directory, path) = place();
    let options = StoreOptions {
        cache_bytes: 0,
        ..options_with(3, false)
    };
    let mut model = Model::new(false);
    for seed in 0..6 {
        model.grow(seed, LARGE);
    }
    let store = Store::open(&path, &options).expect("new index");
    connect(&store, &model.chain);
    drop(store);
    let damaged = &model.chain[2];
    let tweak = damaged.transactions[0].tweak;
    let mut bytes = std::fs::read(&path).expect("file");
    let at = bytes.windows(64).position(|bytes| bytes == tweak);
    bytes[at.expect("the tweak is in the file") + 40] ^= 0x10;
    let store = Store::open(&path, &options).expect("opens");
    std::fs::write(&path, bytes).expect("write");

    let snapshot = store.snapshot().expect("snapshot");
    let filter = RowFilter::default();
    for _ in 0..2 {
        let error = snapshot.tweaks(damaged.id.height, filter);
        let error = error.expect_err("damaged");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("spindex check"), "{text}");
        assert!(text.contains("sum differs"), "{text}");
        // Other pages of the same column and of others.
        let tweaks = snapshot.tweaks(model.chain[5].id.height, filter);
        let tweaks = tweaks.expect("good").expect("a block");
        assert_eq!(tweaks.len(), model.tweaks(5, filter).len());
        let spends = snapshot.spends(damaged.id.height).expect("good");
        assert_eq!(spends.expect("a block").len(), damaged.spends.len());
    }
    // Nothing is written on top of it.
    let mut grown = model.clone();
    grown.grow(50, SMALL);
    let update = Update {
        disconnect: 0,
        connect: &grown.chain[6..],
    };
    let error = store.apply(update).expect_err("damaged");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    assert_eq!(snapshot.tip(), model.tip());
}
