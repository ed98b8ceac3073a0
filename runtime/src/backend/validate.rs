//! What every backend checks of its limits and of a step before it starts anything.

use ossmith_plan::Model;

use super::{
    Input, Limits, LogitRows, MASKS_PER_SLOT, MAX_EDITS, MAX_REPORTED, PAGE_TOKENS, RowSampling,
    Sequence, Step,
};
use crate::sampling::TokenHistory;
use crate::{Error, Result};

/// Refuses limits with which nothing can run.
pub(super) fn limits(limits: &Limits) -> Result<()> {
    let named = [
        ("max_sequences", limits.max_sequences),
        ("max_step_tokens", limits.max_step_tokens),
        ("pages", limits.pages),
    ];
    match named.iter().find(|(_, value)| *value == 0) {
        Some((name, _)) => {
            Err(Error::invalid_option(name, format!("{name} is 0; it must be at least 1")))
        }
        None => Ok(()),
    }
}

/// Refuses a step that breaks the model's bounds or the limits. `has_sampled` reports whether a sequence slot has a
/// sampled token.
pub(super) fn step(
    model: &Model,
    limits: &Limits,
    step: &Step<'_>,
    has_sampled: impl Fn(usize) -> bool,
) -> Result<()> {
    let mut named = vec![false; limits.max_sequences];
    for sequence in step.sequences {
        check(model, limits, sequence, &has_sampled).map_err(Error::invalid_step)?;
        if std::mem::replace(&mut named[sequence.seq_slot], true) {
            return Err(Error::invalid_step(format!(
                "sequence slot {} appears twice in a step",
                sequence.seq_slot
            )));
        }
    }
    let tokens: usize = step.sequences.iter().map(|sequence| sequence.input.len()).sum();
    if tokens == 0 {
        return Err(Error::invalid_step("the step has no tokens"));
    }
    if tokens > limits.max_step_tokens {
        return Err(Error::invalid_step(format!(
            "the step has {tokens} tokens, more than max_step_tokens {}; split it",
            limits.max_step_tokens
        )));
    }
    Ok(())
}

/// Refuses a step that samples from more rows than the backend has room for.
#[cfg(feature = "cuda")]
pub(super) fn sampled_rows(step: &Step<'_>, most: usize) -> Result<()> {
    let rows: usize = step.sequences.iter().map(Sequence::sampled_rows).sum();
    if rows > most {
        return Err(Error::invalid_step(format!(
            "the step samples from {rows} rows, more than {most}; make the drafts shorter"
        )));
    }
    Ok(())
}

/// Refuses a step that names a mask which was never set. `has_mask` reports whether a sequence slot has one.
pub(super) fn masks(
    sequences: &[Sequence<'_>],
    has_mask: impl Fn(usize, usize) -> bool,
) -> Result<()> {
    for sequence in sequences {
        let mask = sequence.sample.and_then(|row| row.mask);
        if let Some(mask) = mask.filter(|&mask| !has_mask(sequence.seq_slot, mask)) {
            return Err(Error::invalid_step(format!(
                "mask {mask} of sequence slot {} was never set",
                sequence.seq_slot
            )));
        }
    }
    Ok(())
}

/// Refuses rows that a step whose layers were submitted cannot be sampled by. `has_mask` reports whether a sequence slot has
/// a mask.
pub(super) fn rows(
    model: &Model,
    sequences: &[Sequence<'_>],
    has_mask: impl Fn(usize, usize) -> bool,
) -> Result<()> {
    for sequence in sequences {
        check_sampling(model.spec.vocab, sequence).map_err(Error::invalid_step)?;
    }
    masks(sequences, has_mask)
}

/// Refuses a history of a sequence slot or a token that does not exist.
pub(super) fn history(
    model: &Model,
    limits: &Limits,
    seq_slot: usize,
    history: &TokenHistory,
) -> Result<()> {
    let bad = history.words().find(|&(token, _)| token as usize >= model.spec.vocab);
    match bad {
        _ if seq_slot >= limits.max_sequences => Err(no_such_slot(seq_slot)),
        Some((token, _)) => Err(Error::Internal(format!(
            "token id {token} of a history is not below the vocabulary's {}",
            model.spec.vocab
        ))),
        None => Ok(()),
    }
}

/// Refuses a mask that does not exist or has another number of words than the vocabulary.
pub(super) fn mask(
    model: &Model,
    limits: &Limits,
    seq_slot: usize,
    mask: usize,
    words: &[u32],
) -> Result<()> {
    let wanted = model.spec.vocab.div_ceil(u32::BITS as usize);
    if seq_slot >= limits.max_sequences || mask >= MASKS_PER_SLOT {
        return Err(no_such_slot(seq_slot));
    }
    if words.len() != wanted {
        let problem = format!("a mask has {} words, the vocabulary {wanted}", words.len());
        return Err(Error::Internal(problem));
    }
    Ok(())
}

fn no_such_slot(seq_slot: usize) -> Error {
    Error::Internal(format!("sequence slot {seq_slot}, or its mask, does not exist"))
}

fn check(
    model: &Model,
    limits: &Limits,
    sequence: &Sequence<'_>,
    has_sampled: impl Fn(usize) -> bool,
) -> std::result::Result<(), String> {
    let (seq_slot, count) = (sequence.seq_slot, sequence.input.len());
    if seq_slot >= limits.max_sequences {
        return Err(format!(
            "sequence slot {seq_slot} is not below max_sequences {}",
            limits.max_sequences
        ));
    }
    if count == 0 {
        return Err(format!("the sequence in slot {seq_slot} appends no tokens"));
    }
    let (context, vocab) = (model.spec.context, model.spec.vocab);
    let end = sequence.start.checked_add(count).filter(|&end| end <= context);
    let end = end.ok_or_else(|| {
        format!(
            "{count} tokens at position {} pass the context of {context} tokens",
            sequence.start
        )
    })?;
    if sequence.pages.len() * PAGE_TOKENS < end {
        return Err(format!(
            "{} pages of {PAGE_TOKENS} tokens do not hold the {end} positions of sequence slot {seq_slot}",
            sequence.pages.len()
        ));
    }
    // The largest of many is found much faster than the first that is too large.
    if let Some(page) =
        sequence.pages.iter().copied().max().filter(|&page| page as usize >= limits.pages)
    {
        return Err(format!(
            "page {page} of sequence slot {seq_slot} is not below the {} pages",
            limits.pages
        ));
    }
    check_sampling(vocab, sequence)?;
    match sequence.input {
        Input::Sampled if !has_sampled(seq_slot) => Err(format!(
            "sequence slot {seq_slot} continues from its sampled token, but its previous step sampled none"
        )),
        Input::Sampled => Ok(()),
        Input::Tokens(tokens) | Input::Draft(tokens) => {
            match tokens.iter().find(|&&token| token as usize >= vocab) {
                Some(bad) => Err(format!("token id {bad} is not below the vocabulary's {vocab}")),
                None => Ok(()),
            }
        }
    }
}

/// Refuses what a sequence's rows cannot be sampled by, or what cannot be reported of them.
fn check_sampling(vocab: usize, sequence: &Sequence<'_>) -> std::result::Result<(), String> {
    let seq_slot = sequence.seq_slot;
    check_reports(sequence)?;
    if let Some(row) = &sequence.sample {
        check_row(row, seq_slot)?;
        if matches!(sequence.input, Input::Draft(_))
            && (row.penalties.is_some() || row.mask.is_some())
        {
            return Err(format!("the draft of sequence slot {seq_slot} has penalties or a mask"));
        }
    }
    let reported = sequence.prompt_report.map_or(&[][..], |report| report.next);
    let of_row = sequence
        .sample
        .iter()
        .flat_map(|row| row.biases.iter().map(|(token, _)| token).chain(row.forbidden));
    if let Some(bad) = reported.iter().chain(of_row).find(|&&token| token as usize >= vocab) {
        return Err(format!(
            "token id {bad}, which sequence slot {seq_slot} changes or reports, is not below the vocabulary's {vocab}"
        ));
    }
    Ok(())
}

/// Refuses more edits or reported tokens than a row can have.
#[cfg(feature = "cuda")]
pub(super) fn row_limits(edits: usize, report: Option<u32>) -> Result<()> {
    if edits > MAX_EDITS || report.is_some_and(|top| top as usize > MAX_REPORTED) {
        let problem =
            format!("a row can have at most {MAX_EDITS} biases and {MAX_REPORTED} reported tokens");
        return Err(Error::invalid_option("sampling", problem));
    }
    Ok(())
}

/// Refuses a row whose settings are out of range.
fn check_row(row: &RowSampling<'_>, seq_slot: usize) -> std::result::Result<(), String> {
    row.config.check().map_err(|error| error.to_string())?;
    let edits = row.biases.len() + row.forbidden.len();
    if edits > MAX_EDITS {
        return Err(format!(
            "the row of sequence slot {seq_slot} changes {edits} tokens; at most {MAX_EDITS} can be"
        ));
    }
    match row.mask.filter(|&mask| mask >= MASKS_PER_SLOT) {
        Some(mask) => Err(format!(
            "mask {mask} of sequence slot {seq_slot} is not below the {MASKS_PER_SLOT} that a slot has"
        )),
        None => Ok(()),
    }
}

/// Refuses reports that are too long or of rows that the sequence does not have.
fn check_reports(sequence: &Sequence<'_>) -> std::result::Result<(), String> {
    let (seq_slot, rows) = (sequence.seq_slot, sequence.input.len());
    let of_sample = sequence.sample.and_then(|row| row.report).unwrap_or(0);
    let top = sequence.prompt_report.map_or(0, |report| report.top).max(of_sample);
    if top as usize > MAX_REPORTED {
        return Err(format!(
            "sequence slot {seq_slot} has {top} tokens reported for a row; at most {MAX_REPORTED} can be"
        ));
    }
    let reported = sequence.prompt_report.map_or(0, |report| report.next.len());
    let returned = match sequence.logits {
        LogitRows::None => 0,
        LogitRows::Last => 1,
        LogitRows::All => rows,
    };
    if reported > 0 && reported + returned.max(sequence.sampled_rows()) > rows {
        return Err(format!(
            "sequence slot {seq_slot} has {reported} of its {rows} rows reported, and some of these are sampled from or \
             returned too"
        ));
    }
    Ok(())
}
