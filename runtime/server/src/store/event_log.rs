//! The events of a response's stream, kept so that a client can read them again from any event on.

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
}
