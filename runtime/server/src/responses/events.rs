//! The events of a response's stream as they go over the wire, numbered in order.

use serde::Serialize;

use super::object::Item;
use crate::sse;
use crate::store::EventLog;

/// Numbers and writes events, unless nobody reads them.
#[derive(Debug, Default)]
pub(super) struct EventEmitter {
    silent: bool,
    /// Number of the next event.
    sequence: u64,
    /// Events that were not passed on.
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

/// The fields that say which item's text an event is about.
#[derive(Serialize)]
struct About<'a, T> {
    item_id: &'a str,
    output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary_index: Option<usize>,
    #[serde(flatten)]
    more: T,
}

impl EventEmitter {
    pub(super) fn silent() -> EventEmitter {
        EventEmitter { silent: true, ..EventEmitter::default() }
    }

    /// Emits an event with these fields.
    pub(super) fn emit(&mut self, kind: &'static str, data: impl Serialize) {
        if self.silent {
            return;
        }
        let sequence_number = self.sequence;
        self.log.push(|out| {
            sse::named(out, kind, &Event { kind, sequence_number, data });
        });
        self.sequence += 1;
    }

    /// Emits an event about the item at `output_index`.
    pub(super) fn emit_about(
        &mut self,
        kind: &'static str,
        item: &Item,
        output_index: usize,
        more: impl Serialize,
    ) {
        let content_index = item.kind.has_parts().then_some(0);
        let about =
            About { item_id: &item.id, output_index, content_index, summary_index: None, more };
        self.emit(kind, about);
    }

    /// Emits an event about the summary of the item at `output_index`.
    pub(super) fn emit_about_summary(
        &mut self,
        kind: &'static str,
        item: &Item,
        output_index: usize,
        more: impl Serialize,
    ) {
        let summary_index = Some(0);
        let about =
            About { item_id: &item.id, output_index, content_index: None, summary_index, more };
        self.emit(kind, about);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_numbered_and_a_silent_emitter_writes_none() {
        let mut emitter = EventEmitter::default();
        for name in ["a", "b"] {
            emitter.emit("x", json!({"name": name}));
        }
        let want = "event: x\ndata: {\"type\":\"x\",\"sequence_number\":0,\"name\":\"a\"}\n\n\
                    event: x\ndata: {\"type\":\"x\",\"sequence_number\":1,\"name\":\"b\"}\n\n";
        assert_eq!(String::from_utf8_lossy(emitter.log.from(0)), want);
        let mut silent = EventEmitter::silent();
        silent.emit("x", json!({}));
        assert_eq!(silent.log.len(), 0);
    }
}
