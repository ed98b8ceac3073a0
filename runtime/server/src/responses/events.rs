//! The events of a response as they go over the wire, numbered as they are said.

use serde::Serialize;

use super::object::{Item, ItemKind};
use crate::sse;

/// Events in the order in which they were said, each whole.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    bytes: Vec<u8>,
    /// Where each event ends.
    ends: Vec<usize>,
}

impl EventLog {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// What they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Their bytes, from this event on.
    pub(super) fn from(&self, event: usize) -> &[u8] {
        let begin = match event.checked_sub(1) {
            None => 0,
            Some(before) => self.ends.get(before).copied().unwrap_or(self.bytes.len()),
        };
        &self.bytes[begin..]
    }

    /// Takes over what another has.
    pub(super) fn append(&mut self, other: &mut EventLog) {
        let begin = self.bytes.len();
        self.bytes.append(&mut other.bytes);
        self.ends.extend(other.ends.drain(..).map(|end| begin + end));
    }

    /// Hands its bytes over and is empty then.
    pub(super) fn drain_to(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.bytes);
        self.ends.clear();
    }
}

/// Says events, unless nobody listens.
#[derive(Debug, Default)]
pub(super) struct Voice {
    silent: bool,
    /// Number of the next event.
    sequence: u64,
    /// What was said and not yet passed on.
    pub(super) log: EventLog,
}

#[derive(Serialize)]
struct Event<T> {
    #[serde(rename = "type")]
    kind: &'static str,
    sequence_number: u64,
    #[serde(flatten)]
    data: T,
}

/// The fields that place an event on an item's text.
#[derive(Serialize)]
struct About<'a, T> {
    item_id: &'a str,
    output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    #[serde(flatten)]
    more: T,
}

impl Voice {
    pub(super) fn silent() -> Voice {
        Voice { silent: true, ..Voice::default() }
    }

    /// Says an event with these fields.
    pub(super) fn say(&mut self, kind: &'static str, data: impl Serialize) {
        if self.silent {
            return;
        }
        let out = &mut self.log.bytes;
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(kind.as_bytes());
        out.push(b'\n');
        sse::data(out, &Event { kind, sequence_number: self.sequence, data });
        self.log.ends.push(out.len());
        self.sequence += 1;
    }

    /// The same about an item, which stands at `output_index`.
    pub(super) fn say_about(
        &mut self,
        kind: &'static str,
        item: &Item,
        output_index: usize,
        more: impl Serialize,
    ) {
        let content_index = (!matches!(item.kind, ItemKind::Call { .. })).then_some(0);
        self.say(kind, About { item_id: &item.id, output_index, content_index, more });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_can_be_read_from_any_of_them_on() {
        let (mut voice, mut all) = (Voice::default(), EventLog::default());
        for name in ["a", "b", "c"] {
            voice.say("x", serde_json::json!({"name": name}));
            all.append(&mut voice.log);
        }
        assert_eq!((voice.log.len(), all.len()), (0, 3));
        let one = |n: usize, name: &str| {
            format!(
                "event: x\ndata: {{\"type\":\"x\",\"sequence_number\":{n},\"name\":\"{name}\"}}\n\n"
            )
        };
        let texts = [one(0, "a"), one(1, "b"), one(2, "c")];
        for from in 0..5 {
            let want = texts.get(from..).unwrap_or_default().concat();
            assert_eq!(String::from_utf8_lossy(all.from(from)), want, "{from}");
        }
    }
}
