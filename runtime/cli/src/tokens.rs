//! Token ids from the command line: a JSON array, given as it is or in a file.

use std::path::Path;

use anyhow::Context;

use crate::failure::fail;

/// Reads `[1, 2, 3]`, or the file of that name (`-` is standard input).
pub(crate) fn given(text: &str) -> anyhow::Result<Vec<u32>> {
    if text.trim_start().starts_with('[') {
        return parse(text, "--prompt-ids");
    }
    match text {
        "-" => {
            let text =
                std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?;
            parse(&text, "standard input")
        }
        file => from_file(Path::new(file)),
    }
}

/// Reads a file that holds a JSON array of token ids.
pub(crate) fn from_file(file: &Path) -> anyhow::Result<Vec<u32>> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    parse(&text, &name)
}

fn parse(text: &str, place: &str) -> anyhow::Result<Vec<u32>> {
    serde_json::from_str(text).map_err(|error| {
        fail(
            format!("{place} is not a JSON array of token ids: {error}"),
            "write token ids as whole numbers of at least 0: [200006, 1428, 200008]",
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_text_and_files() {
        assert_eq!(given(" [1, 2,3]").unwrap(), [1, 2, 3]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[7]\n").unwrap();
        assert_eq!(given(file.path().to_str().unwrap()).unwrap(), [7]);
    }

    #[test]
    fn a_text_that_is_not_a_list_of_ids_is_refused() {
        for wrong in ["[1, -2]", "[1.5]", "[\"a\"]", "[4294967296]", "[1", "[[1]]"] {
            let error = given(wrong).unwrap_err().to_string();
            assert!(error.contains("not a JSON array of token ids"), "{wrong}: {error}");
        }
        assert!(given("no/such/file").unwrap_err().to_string().contains("no/such/file"));
    }
}
