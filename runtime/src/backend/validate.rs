//! What every backend checks of its limits and of a step before it starts anything.

use ossmith_plan::Model;

use super::{Input, Limits, PAGE_TOKENS, Sequence, Step};
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
    match sequence.input {
        Input::Sampled if !has_sampled(seq_slot) => Err(format!(
            "sequence slot {seq_slot} continues from its sampled token, but its previous step sampled none"
        )),
        Input::Sampled => Ok(()),
        Input::Tokens(tokens) => match tokens.iter().find(|&&token| token as usize >= vocab) {
            Some(bad) => Err(format!("token id {bad} is not below the vocabulary's {vocab}")),
            None => Ok(()),
        },
    }
}
