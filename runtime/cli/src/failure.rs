//! How errors reach the user: one sentence, then what to do next.

use std::fmt;
use std::io::{ErrorKind, Write};

/// An error with advice that is printed on a line of its own.
#[derive(Debug)]
pub(crate) struct Failure {
    sentence: String,
    hint: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Failure {}

/// What went wrong, and what to do about it.
pub(crate) fn fail(sentence: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Failure { sentence: sentence.into(), hint: hint.into() }.into()
}

/// Prints an error and gives the exit code. A reader that went away (`ossmith … | head`) is no error.
pub(crate) fn report(error: &anyhow::Error) -> u8 {
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == ErrorKind::BrokenPipe)
    };
    if error.chain().any(closed) {
        return 0;
    }
    let mut stderr = std::io::stderr().lock();
    // Nothing is left to try when standard error is closed too.
    let _ = writeln!(stderr, "error: {}", sentence(error));
    if let Some(failure) = error.chain().find_map(|cause| cause.downcast_ref::<Failure>()) {
        let _ = writeln!(stderr, "hint: {}", failure.hint);
    }
    1
}

/// An error and its advice as one text.
pub(crate) fn text(error: &anyhow::Error) -> String {
    let hint = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
    let sentence = sentence(error);
    hint.map_or_else(|| sentence.clone(), |failure| format!("{sentence}; {}", failure.hint))
}

/// The error with its causes, leaving out causes that are already in the sentence.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn causes_are_printed_once() {
        let io = || std::io::Error::other("disk on fire");
        let text = ossmith::Error::File { action: "read", path: "x".into(), source: io() };
        assert_eq!(sentence(&text.into()), "cannot read x: disk on fire");
        let wrapped = Err::<(), _>(io()).context("cannot write y").expect_err("an error");
        assert_eq!(sentence(&wrapped), "cannot write y: disk on fire");
    }
}
