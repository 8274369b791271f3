//! Parts of columns: what is read is written back to the same bytes, and an answer is taken by a client if, and only if,
//! everything in it fits, in the plainest form of the rules.

use bitcoin::block::Header;
use bitcoin::hashes::{Hash, sha256};
use bitcoin::{BlockHash, Network};
use spindex::BlockId;
use spindex::client::native::check_answer;
use spindex::filter::{Elements, element_count, matches, spent_filter, spent_item};
use spindex::wire::native::column::{Column, PartHead, split_part};
use spindex::wire::native::section::{
    HeaderSection, Output, SectionHashes, Spends, read_outputs, read_prefixes, read_tweaks,
    write_prefixes, write_transaction, write_tweaks,
};
use spindex::wire::native::selection::{Selection, read_selected, write_selected};

use super::allocation::bounded;

/// Columns that are asked for: those of scans with and without follow-ups, of tweaks and of spends alone, of an index that
/// follows another, and of chunks.
pub(crate) const ASKED: [&[Column]; 8] = [
    &[Column::Headers],
    &[
        Column::Headers,
        Column::Tweaks,
        Column::Prefixes,
        Column::Spent,
    ],
    &[
        Column::Headers,
        Column::Tweaks,
        Column::Prefixes,
        Column::Spent,
        Column::Outputs,
        Column::Spends,
    ],
    &[Column::Headers, Column::Spent],
    &[Column::Headers, Column::Spent, Column::Spends],
    &[
        Column::Headers,
        Column::Tweaks,
        Column::Outputs,
        Column::Spends,
        Column::NewUtxos,
    ],
    &[Column::Headers, Column::Outputs],
    &[Column::Headers, Column::NewUtxos],
];

/// In the first byte of an input: the headers are made to fit, so that what lies behind their hashes is reached.
pub(crate) const MENDED: u8 = 8;

const NETWORK: Network = Network::Regtest;

/// Blocks above the first one that were asked for.
const MORE: u32 = 100;

/// The target of regtest.
const EASY: u32 = 0x207f_ffff;

/// Whether the answer is taken. The input: which columns were asked for and whether headers are made to fit (1 byte), and the
/// answer to a request for the blocks from that on which it begins with, to 100 blocks above.
pub(crate) fn check(input: &[u8]) -> bool {
    let Some((flags, answer)) = input.split_first() else {
        return false;
    };
    let columns = ASKED[usize::from(*flags) % ASKED.len()];
    let answer = match flags & MENDED {
        0 => answer.to_vec(),
        _ => mended(columns, answer),
    };
    read_parts(&answer);

    let first = answer.get(12..16).and_then(|first| first.try_into().ok());
    let first = first.map_or(0, u32::from_le_bytes);
    let heights = first..=first.saturating_add(MORE);
    let taken = bounded(answer.len(), || {
        check_answer("a", NETWORK, columns, heights.clone(), answer.clone())
    });
    match (taken, plainly(columns, first, &answer)) {
        (Ok(blocks), Some(expected)) => {
            assert_eq!(blocks, expected);
            true
        }
        (Err(_), None) => false,
        (taken, expected) => panic!("{taken:?} instead of {expected:?}"),
    }
}

/// A part that can be read.
struct Part<'b> {
    head: PartHead,
    selection: Option<Selection>,
    sections: Vec<&'b [u8]>,
}

/// All parts, up to the first that is none.
fn parts(mut bytes: &[u8]) -> (Vec<Part<'_>>, &[u8]) {
    let mut parts = Vec::new();
    while let Ok((head, sections, rest)) = split_part(bytes) {
        let body = &bytes[PartHead::BYTES..bytes.len() - rest.len()];
        let selection = Selection::of_part(&head, body).expect("the part could be read");
        parts.push(Part {
            head,
            selection,
            sections,
        });
        bytes = rest;
    }
    (parts, bytes)
}

/// Parts, and every section with the decoder of its column, whether anything beside it fits or not.
fn read_parts(bytes: &[u8]) {
    let (parts, rest) = bounded(bytes.len(), || parts(bytes));
    let mut again = Vec::new();
    for part in &parts {
        write_part(&part.head, part.selection, &part.sections, &mut again);
        for section in &part.sections {
            if let Some(column) = part.head.column {
                bounded(section.len(), || read_section(column, section));
            }
        }
    }
    again.extend_from_slice(rest);
    assert_eq!(again, bytes);
}

/// A section: what is read is written back to the same bytes.
fn read_section(column: Column, section: &[u8]) {
    let mut again = Vec::with_capacity(section.len());
    match column {
        Column::Headers => match HeaderSection::decode(section) {
            Ok(row) => row.encode(&mut again),
            Err(_) => return,
        },
        Column::Tweaks => match read_tweaks(section) {
            Ok(tweaks) => write_tweaks(&tweaks, &mut again),
            Err(_) => return,
        },
        Column::Prefixes => match read_prefixes(section) {
            Ok(prefixes) => {
                let key = |prefix: &[u8; 3]| {
                    let mut key = [0; 32];
                    key[..3].copy_from_slice(prefix);
                    key
                };
                let keys: Vec<[u8; 32]> = prefixes.keys.iter().map(key).collect();
                let transaction = |output: u32| prefixes.ends.partition_point(|end| *end <= output);
                write_prefixes((0..).map(transaction).zip(&keys), &mut again);
            }
            Err(_) => return,
        },
        Column::Outputs => match read_outputs(section) {
            Ok(rows) => {
                for (txid, outputs) in &rows {
                    write_transaction(txid, outputs, &mut again);
                }
            }
            Err(_) => return,
        },
        Column::Spends => match Spends::decode(section) {
            Ok(spends) => spends.encode(&mut again),
            Err(_) => return,
        },
        Column::Spent | Column::NewUtxos => return read_filter(section),
        Column::Selected => return read_bits(section),
    }
    assert_eq!(again, section, "{column}");
}

/// Bits: they are of as many transactions as fill their bytes, and of fewer where the others are zeros.
fn read_bits(section: &[u8]) {
    let most = 8 * section.len();
    for count in most.saturating_sub(8)..=most + 1 {
        let is_long_enough = count.div_ceil(8) == section.len();
        let zeros = (count..most).all(|bit| section[bit / 8] >> (bit % 8) & 1 == 0);
        match read_selected(section, count as u32) {
            Ok(flags) => {
                assert!(is_long_enough && zeros && flags.len() == count);
                let mut again = Vec::new();
                write_selected(flags.into_iter(), &mut again);
                assert_eq!(again, section);
            }
            Err(_) => assert!(!is_long_enough || !zeros),
        }
    }
}

/// A filter: all ways to read it agree.
fn read_filter(filter: &[u8]) {
    let block = BlockHash::all_zeros();
    let query = [[7; 8]];
    let matches_query = matches(filter, &block, &query);
    match Elements::read(filter, &block) {
        Ok(elements) => {
            assert!(element_count(filter).is_ok());
            let is_held = elements.contains(&query[0]);
            assert_eq!(matches_query, Ok(if is_held { vec![0] } else { vec![] }));
        }
        Err(error) => assert_eq!(matches_query, Err(error)),
    }
}

/// The blocks of an answer in which everything fits.
fn plainly(columns: &[Column], first: u32, answer: &[u8]) -> Option<Vec<BlockId>> {
    let (mut parts, rest) = parts(answer);
    let end = parts.pop()?.head;
    let is_whole = rest.is_empty() && parts.len().is_multiple_of(columns.len());
    if !is_whole || end.column.is_some() {
        return None;
    }
    let mut blocks: Vec<BlockId> = Vec::new();
    let mut headers: Vec<Header> = Vec::new();
    for group in parts.chunks(columns.len()) {
        let Part {
            head,
            sections: rows,
            ..
        } = &group[0];
        let next = first.checked_add(blocks.len() as u32)?;
        let of = |head: &PartHead| (head.network, head.first, head.blocks, head.last_hash);
        let is_group = group
            .iter()
            .zip(columns)
            .all(|(Part { head: other, .. }, column)| {
                !other.is_selection
                    && of(other) == (NETWORK, next, head.blocks, head.last_hash)
                    && other.column == Some(*column)
            });
        if !is_group || next / 64 != (next + (head.blocks - 1)) / 64 {
            return None;
        }
        for (at, row) in rows.iter().enumerate() {
            let row = HeaderSection::decode(row).ok()?;
            let height = next + at as u32;
            if height - first > MORE || !has_work(&row.header) || !follows(&headers, &row.header) {
                return None;
            }
            let hash = row.header.block_hash();
            blocks.push(BlockId { height, hash });
            headers.push(row.header);
            let section = |column: Column| {
                let place = columns.iter().position(|other| *other == column)?;
                Some(group[place].sections[at])
            };
            fits(&row, &hash, section)?;
        }
        if blocks.last()?.hash != head.last_hash {
            return None;
        }
    }
    let last = blocks.last()?;
    (last.height == end.first && last.hash == end.last_hash).then_some(blocks)
}

/// Whether a header has the work it claims, by a target in its only form: a number of up to 32 bytes, of which it has the
/// first three, the first of all bits not set.
fn has_work(header: &Header) -> bool {
    let [bytes, digits @ ..] = header.bits.to_consensus().to_be_bytes();
    let is_shortest = digits[0] > 0 || digits[1] >= 0x80;
    if !(4..=32).contains(&bytes) || digits[0] >= 0x80 || !is_shortest {
        return false;
    }
    let mut target = [0; 32];
    target[32 - usize::from(bytes)..][..3].copy_from_slice(&digits);
    let mut hash = header.block_hash().to_byte_array();
    hash.reverse();
    hash <= target
}

/// Whether a header is on top of others, with their target, and after the median of the last times.
fn follows(before: &[Header], header: &Header) -> bool {
    let mut times: Vec<u32> = before
        .iter()
        .rev()
        .take(11)
        .map(|other| other.time)
        .collect();
    times.sort_unstable();
    let is_later = times.len() < 11 || times[5] < header.time;
    before.last().is_none_or(|last| {
        is_later && header.prev_blockhash == last.block_hash() && header.bits == last.bits
    })
}

/// Holds the sections of a block that there are against its row in `headers`, and against each other.
fn fits<'b>(
    row: &HeaderSection,
    block: &BlockHash,
    section: impl Fn(Column) -> Option<&'b [u8]>,
) -> Option<()> {
    let hold = |holds: bool| holds.then_some(());
    for column in Column::ALL {
        let mut hashes = row.hashes;
        if let (Some(section), Some(hash)) = (section(column), hash_of(&mut hashes, column)) {
            hold(*hash == sha256::Hash::hash(section).to_byte_array())?;
        }
    }
    if let Some(tweaks) = section(Column::Tweaks) {
        hold(read_tweaks(tweaks).ok()?.len() == row.transactions as usize)?;
    }
    if let Some(prefixes) = section(Column::Prefixes) {
        let read = read_prefixes(prefixes).ok()?;
        let counts = (read.ends.len(), read.keys.len());
        hold(counts == (row.transactions as usize, row.outputs as usize))?;
        if let Some(outputs) = section(Column::Outputs) {
            let rows = read_outputs(outputs).ok()?;
            let own = |(index, (_, outputs)): (usize, &'_ (_, Vec<Output>))| {
                let keys = outputs.iter().map(move |output| (index, output.key));
                keys.collect::<Vec<_>>()
            };
            let keys: Vec<_> = rows.iter().enumerate().flat_map(own).collect();
            let mut again = Vec::new();
            write_prefixes(keys.iter().map(|(index, key)| (*index, key)), &mut again);
            hold(again == prefixes)?;
        }
    }
    if let Some(spent) = section(Column::Spent) {
        hold(element_count(spent).ok()? == u64::from(row.spends))?;
        if let Some(spends) = section(Column::Spends) {
            let spends = Spends::decode(spends).ok()?;
            let outpoints = spends.spent.iter().map(|spent| &spent.outpoint);
            let items: Vec<_> = outpoints.map(|spent| spent_item(spent, block)).collect();
            hold(spent_filter(block, &items) == spent)?;
            hold(spends.states.len() == row.states as usize)?;
            let spenders: Vec<_> = spends.spent.iter().map(|spent| spent.spender).collect();
            let is_spender = |index: u16| {
                let known = spenders.iter().flatten();
                known.clone().count() < spenders.len()
                    || known.clone().any(|(spender, _)| *spender == index)
            };
            hold(
                spends
                    .states
                    .iter()
                    .all(|state| is_spender(state.transaction)),
            )?;
        }
    }
    Some(())
}

/// Where `headers` has the hash of a section.
fn hash_of(hashes: &mut SectionHashes, column: Column) -> Option<&mut [u8; 32]> {
    match column {
        Column::Headers | Column::Selected => None,
        Column::Tweaks => Some(&mut hashes.tweaks),
        Column::Prefixes => Some(&mut hashes.prefixes),
        Column::Outputs => Some(&mut hashes.outputs),
        Column::Spent => Some(&mut hashes.spent),
        Column::Spends => Some(&mut hashes.spends),
        Column::NewUtxos => Some(&mut hashes.new_utxos),
    }
}

/// The answer with headers that link, have work, and the hashes of the sections beside them, as far as it has parts; heads and
/// the end mark name the last block.
fn mended(columns: &[Column], answer: &[u8]) -> Vec<u8> {
    let (parts, rest) = parts(answer);
    let mut again = Vec::with_capacity(answer.len());
    let mut last = None;
    for group in parts.chunks(columns.len()) {
        let mut rows = Vec::new();
        for (at, row) in group[0].sections.iter().enumerate() {
            let Ok(mut row) = HeaderSection::decode(row) else {
                rows.push(row.to_vec());
                continue;
            };
            for (column, part) in columns.iter().zip(group).skip(1) {
                let section = part.sections.get(at).copied().unwrap_or_default();
                if let Some(hash) = hash_of(&mut row.hashes, *column) {
                    *hash = sha256::Hash::hash(section).to_byte_array();
                }
            }
            row.header.prev_blockhash = last.unwrap_or(row.header.prev_blockhash);
            // Half of all hashes meet the target.
            while !has_work(&row.header) && row.header.bits.to_consensus() == EASY {
                row.header.nonce = row.header.nonce.wrapping_add(1);
            }
            last = Some(row.header.block_hash());
            let mut section = Vec::new();
            row.encode(&mut section);
            rows.push(section);
        }
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        for (index, part) in group.iter().enumerate() {
            let mut head = part.head;
            head.last_hash = last.unwrap_or(head.last_hash);
            let sections = if index == 0 { &rows } else { &part.sections };
            write_part(&head, part.selection, sections, &mut again);
        }
    }
    again.extend_from_slice(rest);
    again
}

fn write_part(
    head: &PartHead,
    selection: Option<Selection>,
    sections: &[&[u8]],
    out: &mut Vec<u8>,
) {
    out.extend(head.encode());
    out.extend(selection.iter().flat_map(Selection::encode));
    for section in sections {
        out.extend((section.len() as u32).to_le_bytes());
    }
    out.extend(sections.concat());
}
