//! Events in the bytes of a stream: server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>) as far
//! as this protocol uses them.

use super::events::{Event, read_cursor, write_cursor};
use crate::BlockId;
use crate::wire::text::excerpt;

/// Longest event that is read, and longest line: a reorganisation of all the 4,096 blocks that a server remembers takes some
/// 450 kB.
pub const EVENT_BYTES_MAX: usize = 1 << 20;

/// The mark that may stand in front of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// An event, and the cursor from which its reader goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What happened.
    pub event: Event,
    /// The block at which whoever has taken it is.
    pub cursor: BlockId,
}

impl Told {
    /// Its lines, with the empty one that ends it.
    ///
    /// # Errors
    /// None at present.
    pub fn encode(&self) -> Result<String, String> {
        let (name, data) = (self.event.name(), self.event.encode()?);
        let id = write_cursor(&self.cursor);
        Ok(format!("event: {name}\ndata: {data}\nid: {id}\n\n"))
    }
}

/// Reads events out of bytes that come in any pieces.
#[derive(Debug, Default)]
pub struct EventReader {
    /// Of the line that has begun.
    line: Vec<u8>,
    /// Whether the last byte was a carriage return, which a line feed may belong to.
    is_after_return: bool,
    /// Whether the first line has been read.
    has_begun: bool,
    /// What the lines of the event that has begun say.
    name: String,
    data: Option<String>,
    id: Option<String>,
}

impl EventReader {
    /// Takes bytes, and appends the events that are whole with them to `told`. Comments, fields and events that are not known
    /// are passed over.
    ///
    /// # Errors
    /// What is wrong: an event that cannot be read, whose cursor is not the block that it leads to, or longer than
    /// [`EVENT_BYTES_MAX`]. Nothing more is to be read then; what came before it is good.
    pub fn take(&mut self, bytes: &[u8], told: &mut Vec<Told>) -> Result<(), String> {
        let mut rest = bytes;
        while let [first, after @ ..] = rest {
            if std::mem::take(&mut self.is_after_return) && *first == b'\n' {
                rest = after;
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (piece, after) = rest.split_at(end.unwrap_or(rest.len()));
            if self.line.len() + self.held() + piece.len() > EVENT_BYTES_MAX {
                return Err(format!("an event of more than {EVENT_BYTES_MAX} bytes"));
            }
            self.line.extend_from_slice(piece);
            let [end, after @ ..] = after else {
                break;
            };
            self.is_after_return = *end == b'\r';
            rest = after;
            told.extend(self.line_ended()?);
        }
        Ok(())
    }

    /// Bytes of the event's lines before this one.
    fn held(&self) -> usize {
        let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.name.len() + of(&self.data) + of(&self.id)
    }

    fn line_ended(&mut self) -> Result<Option<Told>, String> {
        let line = std::mem::take(&mut self.line);
        let line = match std::mem::replace(&mut self.has_begun, true) {
            false => line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line),
            true => &line,
        };
        if line.is_empty() {
            return self.event_ended();
        }
        let text = std::str::from_utf8(line).map_err(|_| "a line that is no text".to_owned())?;
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" => self.id = Some(value.to_owned()),
            // Comments have no name at all.
            _ => {}
        }
        Ok(None)
    }

    fn event_ended(&mut self) -> Result<Option<Told>, String> {
        let (name, data, id) = (
            std::mem::take(&mut self.name),
            self.data.take(),
            self.id.take(),
        );
        let Some(data) = data else {
            return Ok(None);
        };
        let Some(event) = Event::decode(&name, &data)
            .map_err(|error| format!("an event {} that is none: {error}", excerpt(&name)))?
        else {
            return Ok(None);
        };
        let cursor = id.as_deref().and_then(read_cursor);
        let cursor = cursor.ok_or_else(|| format!("an event {name} without cursor"))?;
        match event.cursor() {
            Some(block) if block != cursor => Err(format!(
                "an event {name} with the cursor {cursor} that leads to block {block}"
            )),
            _ => Ok(Some(Told { event, cursor })),
        }
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::BlockHash;
    use bitcoin::hashes::Hash;

    use super::*;

    fn block(height: u32) -> BlockId {
        let hash = BlockHash::from_byte_array([height as u8; 32]);
        BlockId { height, hash }
    }

    fn tip(height: u32) -> Told {
        Told {
            event: Event::Tip {
                block: block(height),
                skipped: 0,
            },
            cursor: block(height),
        }
    }

    /// In one piece, and in all other sizes of pieces: what was told, and whether that was all.
    fn read_all(bytes: &[u8]) -> (Vec<Told>, Result<(), String>) {
        let read = |size| {
            let (mut reader, mut told) = (EventReader::default(), Vec::new());
            let mut pieces = bytes.chunks(size);
            let taken = pieces.try_for_each(|piece| reader.take(piece, &mut told));
            (told, taken)
        };
        let whole = read(bytes.len());
        for size in 1..bytes.len().min(200) {
            assert_eq!(read(size), whole, "{size}");
        }
        whole
    }

    fn read(bytes: &[u8]) -> Result<Vec<Told>, String> {
        let (told, taken) = read_all(bytes);
        taken.map(|()| told)
    }

    #[test]
    fn events_are_read_whatever_ends_their_lines() {
        let reorg = Told {
            event: Event::Reorg {
                fork: Some(block(3)),
                disconnected: vec![block(5), block(4)],
                connected: vec![block(14)],
            },
            cursor: block(14),
        };
        let lagged = Told {
            event: Event::Lagged { missed: 7 },
            cursor: block(2),
        };
        let all = [tip(1), reorg, tip(300), lagged];
        let text: String = all.iter().map(|told| told.encode().unwrap()).collect();
        for end in ["\n", "\r", "\r\n"] {
            let text = text.replace('\n', end);
            assert_eq!(read(text.as_bytes()).unwrap(), all, "{end:?}");
            let with_mark = ["\u{feff}", &text].concat();
            assert_eq!(read(with_mark.as_bytes()).unwrap(), all);
        }
        // Without a blank, without an end, and with what nobody knows in between.
        let bare = text.replace(": ", ":");
        assert_eq!(read(bare.as_bytes()).unwrap(), all);
        let (cut, _) = text.rsplit_once('\n').unwrap();
        assert_eq!(read(cut.as_bytes()).unwrap(), all[..3]);
        let more = ":\n\n\nretry: 5\n: word\ndata\nevent\n\nevent: later\ndata: {}\n\nid: 5\n\n";
        let text = text.replace("event: tip", &format!("{more}event: tip"));
        // An event without a name and with empty data is none of ours.
        assert_eq!(read(text.as_bytes()).unwrap(), all);
    }

    #[test]
    fn data_of_many_lines_is_one() {
        let text = tip(9).encode().unwrap();
        let text = text.replace(',', ",\ndata: ");
        assert_eq!(read(text.as_bytes()).unwrap(), [tip(9)]);
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        let text = tip(9).encode().unwrap();
        for (from, to, why) in [
            ("id: 9", "id: 8", "leads to block 9"),
            ("id: 9", "id: x", "without cursor"),
            ("id: 9", "is: 9", "without cursor"),
            ("\"height\":9", "\"height\":-9", "that is none"),
            ("event: tip", "event: reset", "that is none"),
        ] {
            let error = read(text.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(error.contains(why), "{to}: {error}");
        }
        let error = read(b"event: \xff\n").unwrap_err();
        assert!(error.contains("no text"), "{error}");
        // What came before it was told.
        let (told, taken) = read_all(&[text.as_bytes(), b"\xff\n"].concat());
        assert!(told == [tip(9)] && taken.is_err());
    }

    #[test]
    fn nothing_is_held_of_a_line_or_an_event_without_end() {
        let piece = [b'a'; 1 << 16];
        let lines = [b"data: ", &piece[..], b"\n"].concat();
        for piece in [&piece[..], &lines] {
            let mut reader = EventReader::default();
            let mut told = Vec::new();
            let taken = (0..100).take_while(|_| reader.take(piece, &mut told).is_ok());
            let taken = taken.count();
            assert!((15..=16).contains(&taken), "{taken}");
            assert!(reader.line.capacity() + reader.held() < 4 << 20);
        }
        // Comments are nothing.
        let mut reader = EventReader::default();
        let comment = [b":", &piece[..], b"\n"].concat();
        let mut told = Vec::new();
        assert!((0..100).all(|_| reader.take(&comment, &mut told).is_ok()));
        assert!(told.is_empty());
    }
}
