//! Which tokens go into the next step, and what a step's result means for its requests.
//! It knows no backend: [`Scheduler::schedule`] gives a [`Plan`] and [`Scheduler::postprocess`] takes that plan's
//! output back. Several plans may be under way at once; they come back in order.
//!
//! A request waits in order of arrival until a slot and pages for its whole life are free, so a running request
//! never has to give way. Running requests come first in a step, one token each; prompts share what is left.

use std::collections::VecDeque;

use super::accept::Accepted;
use super::pages::{PageAllocator, Pages};
use super::request::{FinishReason, RequestId, TokenEvent};
use crate::backend::{Input, LogitRows, Output, Sequence};
use crate::{Error, Limits, Result};

/// One step's work. Entries name slots: a slot keeps its request until no plan names it any more.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) entries: Vec<Entry>,
}

/// One sequence's share of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) slot: usize,
    /// Position of the first token.
    pub(super) start: usize,
    pub(super) tokens: usize,
    /// Whether a token is drawn after the last one.
    pub(super) draw: bool,
}

/// A request that has a slot.
#[derive(Debug)]
struct Running {
    id: RequestId,
    request: Accepted,
    pages: Pages,
    /// Positions planned so far.
    planned: usize,
    /// Draws planned so far.
    draws: usize,
    /// Draws that came back.
    drawn: usize,
    /// Plans under way that name the slot.
    under_way: usize,
    /// Finished or cancelled: what still comes back is dropped.
    over: bool,
}

impl Running {
    fn new(id: RequestId, request: Accepted, pages: Pages) -> Running {
        Running { id, request, pages, planned: 0, draws: 0, drawn: 0, under_way: 0, over: false }
    }

    fn reading(&self) -> bool {
        self.planned < self.request.prompt.len()
    }

    /// Takes note of one token and says whether it is the last.
    fn record(&mut self, token: u32) -> Option<FinishReason> {
        self.drawn += 1;
        let finish = if self.request.stops.binary_search(&token).is_ok() {
            Some(FinishReason::Stop)
        } else {
            (self.drawn == self.request.max_tokens).then_some(FinishReason::Length)
        };
        self.over = finish.is_some();
        finish
    }
}

/// Requests, slots and pages.
#[derive(Debug)]
pub(super) struct Scheduler {
    waiting: VecDeque<(RequestId, Accepted)>,
    /// By slot.
    slots: Vec<Option<Running>>,
    /// Slots in use, longest running first.
    order: Vec<usize>,
    pages: PageAllocator,
    step_tokens: usize,
    max_append: usize,
}

impl Scheduler {
    /// For a backend with these limits; `max_append` bounds one sequence's share of a step.
    pub(super) fn new(limits: &Limits, max_append: usize) -> Scheduler {
        Scheduler {
            waiting: VecDeque::new(),
            slots: (0..limits.max_sequences).map(|_| None).collect(),
            order: Vec::new(),
            pages: PageAllocator::new(limits.pages),
            step_tokens: limits.max_step_tokens,
            max_append,
        }
    }

    /// Queues a request that was checked against the limits.
    pub(super) fn push(&mut self, id: RequestId, request: Accepted) {
        self.waiting.push_back((id, request));
    }

    /// Whether nothing waits or runs.
    pub(super) fn idle(&self) -> bool {
        self.waiting.is_empty() && self.order.is_empty()
    }

    /// Forgets a request; no event of it comes any more. Unknown and finished ones are ignored.
    pub(super) fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|(waiting, _)| *waiting != id);
        let of_id = |slot: &&usize| self.slots[**slot].as_ref().is_some_and(|run| run.id == id);
        if let Some(slot) = self.order.iter().find(of_id).copied() {
            if let Some(running) = self.slots[slot].as_mut() {
                running.over = true;
            }
            self.release_if_over(slot);
        }
    }

    /// What runs next: nothing if all running requests wait for results.
    pub(super) fn schedule(&mut self) -> Plan {
        self.admit();
        let mut plan = Plan::default();
        let mut budget = self.step_tokens;
        for reading in [false, true] {
            for &slot in &self.order {
                let Some(running) = self.slots[slot].as_mut() else { continue };
                if budget > 0 && running.reading() == reading {
                    let room = budget.min(self.max_append);
                    if let Some(entry) = next_entry(slot, running, room) {
                        budget -= entry.tokens;
                        plan.entries.push(entry);
                    }
                }
            }
        }
        plan
    }

    /// Gives slots and pages to waiting requests, strictly in order so that none is passed over for ever.
    fn admit(&mut self) {
        while let Some(slot) = self.slots.iter().position(Option::is_none)
            && let Some((_, request)) = self.waiting.front()
            && let Some(pages) = self.pages.take(request.prompt.len() + request.max_tokens - 1)
            && let Some((id, request)) = self.waiting.pop_front()
        {
            self.slots[slot] = Some(Running::new(id, request, pages));
            self.order.push(slot);
        }
    }

    /// The plan as the backend wants it.
    pub(super) fn sequences(&self, plan: &Plan) -> Vec<Sequence<'_>> {
        let sequence = |entry: &Entry| {
            let running = self.slots[entry.slot].as_ref()?;
            let end = entry.start + entry.tokens;
            Some(Sequence {
                slot: entry.slot,
                start: entry.start,
                input: running
                    .request
                    .prompt
                    .get(entry.start..end)
                    .map_or(Input::Sampled, Input::Tokens),
                pages: running.pages.holding(end),
                sample: entry.draw.then(|| running.request.params.sampling(0)),
                logits: LogitRows::None,
            })
        };
        plan.entries.iter().filter_map(sequence).collect()
    }

    /// Hands a plan's output to its requests, in plan order; those that end free their slot and pages.
    ///
    /// # Errors
    /// [`Error::Internal`] if a token is missing from the output.
    pub(super) fn postprocess(&mut self, plan: &Plan, output: &Output) -> Result<Vec<TokenEvent>> {
        let mut events = Vec::new();
        for (index, entry) in plan.entries.iter().enumerate() {
            let Some(running) = self.slots[entry.slot].as_mut() else { continue };
            running.under_way -= 1;
            if entry.draw && !running.over {
                let token = output.sampled.get(index).copied().flatten().ok_or_else(|| {
                    Error::Internal(format!("the backend drew no token for slot {}", entry.slot))
                })?;
                let finish = running.record(token);
                events.push(TokenEvent {
                    request: running.id,
                    sample: 0,
                    token: Some(token),
                    text: String::new(),
                    logprobs: None,
                    prompt: (running.drawn == 1).then(Box::default),
                    finish,
                });
            }
            self.release_if_over(entry.slot);
        }
        Ok(events)
    }

    fn release_if_over(&mut self, slot: usize) {
        let done = self.slots[slot].take_if(|running| running.over && running.under_way == 0);
        if let Some(running) = done {
            self.order.retain(|&other| other != slot);
            self.pages.give(running.pages);
        }
    }

    /// Pages that no request holds.
    pub(super) fn free_pages(&self) -> usize {
        self.pages.free()
    }
}

/// The next tokens of a running request, at most `room`; `None` if all that can be planned is.
fn next_entry(slot: usize, running: &mut Running, room: usize) -> Option<Entry> {
    if running.over || running.draws == running.request.max_tokens {
        return None;
    }
    let unread = running.request.prompt.len().saturating_sub(running.planned);
    let tokens = unread.clamp(1, room.max(1));
    let draw = tokens >= unread;
    let entry = Entry { slot, start: running.planned, tokens, draw };
    running.planned += tokens;
    running.draws += usize::from(draw);
    running.under_way += 1;
    Some(entry)
}
