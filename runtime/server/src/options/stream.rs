//! Whether an answer is streamed, and what its chunks report.

use crate::error::Result;
use crate::fields::Fields;

/// `stream` and `stream_options`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamOptions {
    pub(crate) stream: bool,
    /// The stream ends with a chunk that has the usage.
    pub(crate) include_usage: bool,
    /// Every chunk has the usage so far.
    pub(crate) continuous_usage: bool,
}

impl StreamOptions {
    pub(crate) fn read(fields: &Fields<'_>) -> Result<StreamOptions> {
        let stream = fields.bool("stream", false)?;
        let Some(options) = fields.object("stream_options")? else {
            return Ok(StreamOptions { stream, ..StreamOptions::default() });
        };
        if !stream {
            return Err(fields.wrong("stream_options", "is only allowed with `stream: true`"));
        }
        Ok(StreamOptions {
            stream,
            include_usage: options.bool("include_usage", false)?,
            continuous_usage: options.bool("continuous_usage_stats", false)?,
        })
    }
}
