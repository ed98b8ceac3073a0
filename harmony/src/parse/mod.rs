//! Tokens to messages.
//!
//! Two parsers with different duties: [`ReferenceParser`] does exactly what the reference library does, failures included;
//! [`StreamParser`] never fails, repairs what it can name, and yields typed events. `header` reads a header as the
//! reference does, `lenient_header` reads one that may be malformed.

mod events;
mod header;
mod lenient_header;
mod reference;
mod repair;
mod stream;

pub use events::{Collector, Event, Header, Parsed, Stop};
pub use header::ParseError;
pub use reference::{ReferenceParser, Strictness, parse};
pub use repair::{Repair, RepairKind};
pub use stream::{LenientOptions, StreamParser, parse_lenient};
