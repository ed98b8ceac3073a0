//! The events of a response's stream, kept so that a client can read them again from any event on.

use std::collections::VecDeque;

use bytes::Bytes;

/// Events in order, each as it goes over the wire.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    bytes: Vec<u8>,
    /// Where each event ends.
    ends: Vec<usize>,
}

impl EventLog {
    /// The number of events.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes from this event on.
    pub(crate) fn from(&self, event: usize) -> &[u8] {
        let begin = match event.checked_sub(1) {
            None => 0,
            Some(before) => self.ends.get(before).copied().unwrap_or(self.bytes.len()),
        };
        &self.bytes[begin..]
    }

    /// Appends an event, which `write` writes.
    pub(crate) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// Moves the events of another log to the end of this one.
    pub(crate) fn append(&mut self, other: &mut EventLog) {
        let begin = self.bytes.len();
        self.bytes.append(&mut other.bytes);
        self.ends.extend(other.ends.drain(..).map(|end| begin + end));
    }

    /// Moves its bytes to `out`. The log is empty then.
    pub(crate) fn drain_to(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.bytes);
        self.ends.clear();
    }
}

/// Bytes of a piece of a [`SharedLog`]; one that ends with a long event has more.
const PIECE_BYTES: usize = 16 << 10;

/// Events that any number of readers follow at their own pace. What they are given is shared, and only the last events, less
/// than a piece, are copied: a reader that takes nothing holds no log of its own.
#[derive(Debug, Default)]
pub(crate) struct SharedLog {
    /// In order, without gaps.
    pieces: VecDeque<Piece>,
    /// The events after them.
    last: EventLog,
    /// The number of events before those.
    before_last: usize,
    /// Bytes of the pieces.
    bytes: usize,
}

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    /// Which event it begins with, and where each of its events ends.
    first: usize,
    ends: Box<[usize]>,
}

impl Piece {
    /// The number of the event after it.
    fn end(&self) -> usize {
        self.first + self.ends.len()
    }
}

impl SharedLog {
    /// The number of events.
    pub(crate) fn len(&self) -> usize {
        self.before_last + self.last.len()
    }

    /// The bytes that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.last.bytes()
    }

    /// Moves the events of a log to the end of this one.
    pub(crate) fn append(&mut self, other: &mut EventLog) {
        self.last.append(other);
        if self.last.bytes() < PIECE_BYTES {
            return;
        }
        let EventLog { bytes, ends } = std::mem::take(&mut self.last);
        let (first, bytes) = (self.before_last, Bytes::from(bytes.into_boxed_slice()));
        self.before_last += ends.len();
        self.bytes += bytes.len();
        self.pieces.push_back(Piece { bytes, first, ends: ends.into() });
    }

    /// Some of the events from this one on, and the number of the event after them.
    pub(crate) fn from(&self, event: usize) -> (Bytes, usize) {
        let Some(piece) = self.pieces.get(self.pieces.partition_point(|p| p.end() <= event)) else {
            let last = self.last.from(event.saturating_sub(self.before_last));
            return (Bytes::copy_from_slice(last), event.max(self.len()));
        };
        let before = event.saturating_sub(piece.first).checked_sub(1);
        let begin = before.map_or(0, |before| piece.ends[before]);
        (piece.bytes.slice(begin..), piece.end())
    }

    /// Frees the pieces with nothing but events before this one.
    pub(crate) fn forget_before(&mut self, event: usize) {
        while self.pieces.front().is_some_and(|piece| piece.end() <= event) {
            self.bytes -= self.pieces.pop_front().map_or(0, |gone| gone.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_can_be_read_from_any_event_on() {
        let (mut new, mut all) = (EventLog::default(), EventLog::default());
        for event in ["a", "bc", "d"] {
            new.push(|out| out.extend_from_slice(event.as_bytes()));
            all.append(&mut new);
        }
        assert_eq!((new.len(), all.len(), all.bytes()), (0, 3, 4));
        for (from, want) in ["abcd", "bcd", "d", "", ""].into_iter().enumerate() {
            assert_eq!(String::from_utf8_lossy(all.from(from)), want, "{from}");
        }
    }

    /// All events from this one on, as a reader gets them.
    fn read(log: &SharedLog, mut from: usize) -> String {
        let mut text = String::new();
        loop {
            let (bytes, next) = log.from(from);
            if bytes.is_empty() {
                return text;
            }
            text.push_str(&String::from_utf8_lossy(&bytes));
            from = next;
        }
    }

    #[test]
    fn readers_of_a_shared_log_hold_no_copies_of_it() {
        let (mut new, mut all, mut events) =
            (EventLog::default(), SharedLog::default(), Vec::new());
        for event in 0..100 {
            let text = format!("{event};").repeat([1, 300, 4000, 20_000][event % 4]);
            new.push(|out| out.extend_from_slice(text.as_bytes()));
            if event % 3 == 0 {
                all.append(&mut new);
            }
            events.push(text);
        }
        all.append(&mut new);
        assert_eq!((all.len(), all.bytes()), (100, events.concat().len()));
        for from in 0..102 {
            assert_eq!(read(&all, from), events.get(from..).unwrap_or_default().concat(), "{from}");
        }
        let (one, other) = (all.from(0).0, all.from(0).0);
        assert_eq!(one.as_ptr(), other.as_ptr());
        // The one reader of a stream needs no more than what it has not read.
        all.forget_before(60);
        assert_eq!(read(&all, 60), events[60..].concat());
        assert!(all.bytes() < events[57..].concat().len() && all.len() == 100);
        all.forget_before(100);
        assert!(all.bytes() < PIECE_BYTES, "{}", all.bytes());
    }
}
