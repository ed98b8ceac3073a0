//! The results that the repository keeps: every build in its order, those that predictions are calibrated on, and the
//! figures of other programs that were measured beside them. All of it is embedded, so a program reads no files for it.

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::records::Record;

/// `benches/results/builds.toml`.
const BUILDS: &str = include_str!("../../../benches/results/builds.toml");
/// `benches/results/peers.toml`.
const PEERS: &str = include_str!("../../../benches/results/peers.toml");

macro_rules! results {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../benches/results/", $path)))),*]
    };
}

/// The results that predictions are calibrated on: of each profile the newest build with every kind of step.
const CALIBRATION: &[(&str, &str)] = results![
    "2026-11-22-h100/large-steps/decode-gpt-oss-20b.json",
    "2026-11-22-h100/large-steps/decode-gpt-oss-20b-contexts.json",
    "2026-11-22-h100/large-steps/decode-gpt-oss-120b.json",
    "2026-11-22-h100/large-steps/decode-gpt-oss-120b-contexts.json",
    "2026-11-22-h100/large-steps/prefill-gpt-oss-20b.json",
    "2026-11-22-h100/large-steps/prefill-gpt-oss-20b-chunk8192.json",
    "2026-11-22-h100/large-steps/prefill-gpt-oss-120b.json",
    "2026-11-30-h200/one-pipeline/decode-gpt-oss-20b.json",
    "2026-11-30-h200/one-pipeline/decode-gpt-oss-20b-contexts.json",
    "2026-11-30-h200/one-pipeline/decode-gpt-oss-120b.json",
    "2026-11-30-h200/one-pipeline/prefill-gpt-oss-20b.json",
    "2026-11-30-h200/one-pipeline/prefill-gpt-oss-20b-chunk8192.json",
    "2026-11-30-h200/one-pipeline/prefill-gpt-oss-120b.json",
];

/// The results that predictions are calibrated on.
///
/// # Errors
/// [`Error::Content`] if an embedded file is no result, which a test rules out.
pub fn calibration() -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for (file, text) in CALIBRATION {
        let missing = || Error::content(file, "it is no result of a bench");
        records.push(Record::parse(file, text)?.ok_or_else(missing)?);
    }
    Ok(records)
}

/// One build that was measured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// Its folder below `benches/results/`.
    pub folder: String,
    /// Commit.
    pub commit: String,
    /// What changed, in a few words.
    pub what: String,
}

/// A figure of another program.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Program and version.
    pub program: String,
    /// Profile of the card.
    pub profile: String,
    /// Model.
    pub model: String,
    /// Sequences of a decode step, of about 1,024 keys each.
    pub batch: Option<usize>,
    /// Milliseconds per decode step.
    pub step_ms: Option<f64>,
    /// Tokens of one prompt.
    pub prompt: Option<usize>,
    /// Tokens per second of prompts.
    pub prompt_tokens_per_s: Option<f64>,
    /// Where and how it was measured.
    pub note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Builds {
    build: Vec<Build>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Peers {
    peer: Vec<Peer>,
}

/// Every build whose results are kept, oldest first.
///
/// # Errors
/// [`Error::Content`] if the embedded file is not what this crate reads, which a test rules out.
pub fn builds() -> Result<Vec<Build>> {
    let wrong =
        |why: toml::de::Error| Error::content("benches/results/builds.toml", why.to_string());
    Ok(toml::from_str::<Builds>(BUILDS).map_err(wrong)?.build)
}

/// Figures of other programs.
///
/// # Errors
/// As [`builds`].
pub fn peers() -> Result<Vec<Peer>> {
    let wrong =
        |why: toml::de::Error| Error::content("benches/results/peers.toml", why.to_string());
    Ok(toml::from_str::<Peers>(PEERS).map_err(wrong)?.peer)
}

/// Where a build stands among those that are kept; a build that is not kept comes last.
#[must_use]
pub fn rank(builds: &[Build], folder: &str) -> usize {
    builds.iter().position(|build| build.folder == folder).unwrap_or(builds.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::records;

    /// Every folder with results of a bench is in the list of builds, and nothing else is.
    #[test]
    fn the_list_of_builds_is_complete() {
        let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/results");
        let records = records::read(&[results]).expect("the repository's results are readable");
        let found: BTreeSet<&str> = records.iter().map(|record| record.build.as_str()).collect();
        let builds = builds().expect("a list of builds");
        let listed: BTreeSet<&str> = builds.iter().map(|build| build.folder.as_str()).collect();
        assert_eq!(found, listed);
        let dates: Vec<&str> = builds.iter().map(|build| &build.folder[..10]).collect();
        assert!(dates.is_sorted(), "builds are listed oldest first: {dates:?}");
    }

    #[test]
    fn peers_have_a_figure_and_a_place_where_it_was_measured() {
        for peer in peers().expect("a list of peers") {
            let step = peer.batch.is_some() && peer.step_ms.is_some();
            let prompt = peer.prompt.is_some() && peer.prompt_tokens_per_s.is_some();
            assert!(step != prompt && !peer.note.is_empty(), "{peer:?}");
            assert!(ossmith_plan::Arch::named(&peer.profile).is_some(), "{peer:?}");
            assert!(ossmith_models::find(&peer.model).is_some(), "{peer:?}");
        }
    }
}
