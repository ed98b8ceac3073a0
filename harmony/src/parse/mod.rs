//! Tokens to messages.
//!
//! Two parsers with different duties: [`ReferenceParser`] does exactly what the reference library does, failures included;
//! [`StreamParser`] never fails, repairs what it can name, and yields typed events. `header` has the reference's reading of a
//! header, `lenient_header` the other one's.

mod events;
mod header;
mod lenient_header;
mod reference;
mod repair;
mod stream;

pub use events::{Collector, Event, Header, Parsed, Stop, parse_lenient};
pub use reference::{ParseError, ReferenceParser, Strictness, parse};
pub use repair::{Repair, RepairKind};
pub use stream::{LenientOptions, StreamParser};
