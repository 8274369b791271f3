use std::io::Cursor;

use super::*;

const KEY: ObfuscationKey = ObfuscationKey([5, 0, 7, 1, 2, 3, 9, 8]);

#[test]
fn ranges_come_in_the_order_asked_for() {
    let plain: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let mut file = plain.clone();
    KEY.apply(0, &mut file);
    let length = plain.len() as u64;
    // Neighbours, gaps that are read over and gaps that are not, overlaps, the very end, and beyond it.
    let ranges = [
        (5_000_003, 100),
        (8, 80),
        (88, 1000),
        (1100, 7),
        (1088 + GAP_BYTES + 50, 10),
        (1090 + 3 * GAP_BYTES, 0),
        (50, 9),
        (1_000_000, 9_000_000),
        (1_100_000, 4),
        (length - 5, 5),
        (length - 5, 6),
        (u64::MAX - 1, 9),
    ];
    let read = read_ranges(&mut Cursor::new(&file), KEY, &ranges).unwrap();
    assert_eq!(read.len(), ranges.len());
    for ((start, count), read) in ranges.into_iter().zip(read) {
        let wanted = start
            .checked_add(u64::from(count))
            .and_then(|end| plain.get(start as usize..end as usize));
        assert!(read.as_deref() == wanted, "{start} {count}");
    }
}

#[test]
fn nothing_is_asked_for_and_nothing_comes() {
    assert_eq!(read_ranges(&mut Cursor::new([]), KEY, &[]).unwrap(), []);
}
