//! Events in the bytes of a stream, in pieces of any size, held against a reader of the whole text in its plainest form.

use spindex::BlockId;
use spindex::wire::native::{Event, EventReader, Told, read_cursor};

use super::allocation::bounded;

/// Whether all of it is read, and something is told. The input: bytes of a piece (1 byte, 0 for all), and the stream.
pub(crate) fn check(input: &[u8]) -> bool {
    let Some((size, stream)) = input.split_first() else {
        return false;
    };
    let size = match size {
        0 => stream.len().max(1),
        size => usize::from(*size),
    };
    let (told, taken) = bounded(stream.len(), || {
        let (mut reader, mut told) = (EventReader::default(), Vec::new());
        let mut pieces = stream.chunks(size);
        let taken = pieces.try_for_each(|piece| reader.take(piece, &mut told));
        (told, taken)
    });
    if let Err(error) = &taken {
        assert!(!error.chars().any(char::is_control), "{error:?}");
        assert!(error.chars().count() <= 300 + 200, "{error}");
    }
    let (plainly, is_good) = plainly(stream);
    assert_eq!((&told, taken.is_ok()), (&plainly, is_good));
    for told in &told {
        let written = told.encode().expect("what was read can be written");
        let mut again = Vec::new();
        let taken = EventReader::default().take(written.as_bytes(), &mut again);
        assert_eq!(
            (taken, again.as_slice()),
            (Ok(()), std::slice::from_ref(told))
        );
    }
    taken.is_ok() && !told.is_empty()
}

/// What stands in a stream up to the first thing that is wrong, and whether there is none.
fn plainly(stream: &[u8]) -> (Vec<Told>, bool) {
    let mut told = Vec::new();
    let mut event: Vec<String> = Vec::new();
    for (number, line) in lines(stream).into_iter().enumerate() {
        let line = match line.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) if number == 0 => rest.to_vec(),
            _ => line,
        };
        let Ok(line) = String::from_utf8(line) else {
            return (told, false);
        };
        if !line.is_empty() {
            event.push(line);
            continue;
        }
        match read(&std::mem::take(&mut event)) {
            Ok(event) => told.extend(event),
            Err(()) => return (told, false),
        }
    }
    (told, true)
}

/// Lines that have ended.
fn lines(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = vec![Vec::new()];
    let mut bytes = stream.iter().peekable();
    while let Some(byte) = bytes.next() {
        if *byte == b'\r' {
            bytes.next_if(|byte| **byte == b'\n');
        }
        match byte {
            b'\r' | b'\n' => lines.push(Vec::new()),
            byte => lines.last_mut().expect("the first").push(*byte),
        }
    }
    lines.pop();
    lines
}

/// Of the lines of an event; `None` for one that there is not.
fn read(lines: &[String]) -> Result<Option<Told>, ()> {
    let values = |field: &str| -> Vec<&str> {
        let of_field = |line: &'_ String| -> Option<(usize, usize)> {
            let rest = line.strip_prefix(field)?;
            let value = match rest.strip_prefix(':') {
                Some(value) => value.strip_prefix(' ').unwrap_or(value),
                None if rest.is_empty() => "",
                None => return None,
            };
            Some((line.len() - value.len(), line.len()))
        };
        let values = lines
            .iter()
            .filter_map(|line| Some((line, of_field(line)?)));
        values.map(|(line, (from, to))| &line[from..to]).collect()
    };
    let data = values("data");
    if data.is_empty() {
        return Ok(None);
    }
    let name = values("event").pop().unwrap_or_default();
    let Some(event) = Event::decode(name, &data.join("\n")).map_err(|_| ())? else {
        return Ok(None);
    };
    let cursor: Option<BlockId> = values("id").pop().and_then(read_cursor);
    let cursor = cursor.ok_or(())?;
    match event.cursor() {
        Some(block) if block != cursor => Err(()),
        _ => Ok(Some(Told { event, cursor })),
    }
}
