//! The calls of a history, and which of them a result answers. A history comes from a client and may have a hundred
//! thousand of them, so each is found by what it is looked up by, and not by looking at all.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

/// A call in a history.
struct Call {
    id: String,
    /// The full name of the tool.
    recipient: String,
    /// Calls between which no result and no other role's message stands are of one round.
    round: usize,
}

/// An id and a tool's full name; none is any.
type Wanted = (Option<String>, Option<String>);

/// The calls of a history so far.
#[derive(Default)]
pub(super) struct Calls {
    all: Vec<Call>,
    /// The numbers of the calls without a result; those of the latest round come first.
    open: HashMap<Wanted, BTreeSet<(Reverse<usize>, usize)>>,
    last_of_id: HashMap<String, usize>,
}

impl Calls {
    /// Adds a call. `continues`: it is of the last call's round.
    pub(super) fn push(&mut self, id: String, recipient: String, continues: bool) {
        let last = self.all.last().map_or(0, |call| call.round);
        let call = Call { id, recipient, round: if continues { last } else { last + 1 } };
        let number = self.all.len();
        for wanted in keys(&call) {
            self.open.entry(wanted).or_default().insert((Reverse(call.round), number));
        }
        self.last_of_id.insert(call.id.clone(), number);
        self.all.push(call);
    }

    /// The full name of a call's tool.
    pub(super) fn recipient(&self, number: usize) -> &str {
        &self.all[number].recipient
    }

    /// The number of the call that a result answers, which has a result from now on: the one with its id. Where several
    /// calls share an id, or ids are missing, it is the earliest call of the function's name without a result, or else the
    /// earliest without a result. An id may come again in a later round, so the latest round counts first.
    pub(super) fn answer(&mut self, id: &str, function: Option<&str>) -> Option<usize> {
        let (of_id, recipient) = (Some(id.to_owned()), function.map(|f| format!("functions.{f}")));
        // Without an id it may answer any call, with one also a call that has none.
        let no_id = (!id.is_empty()).then(String::new);
        let first = |id: &Option<String>, recipient: &Option<String>| {
            let open = self.open.get(&(id.clone(), recipient.clone()))?;
            open.first().map(|&(_, number)| number)
        };
        let number = first(&of_id, &recipient)
            .or_else(|| first(&of_id, &None))
            // A second result for a call stands with the first.
            .or_else(|| self.last_of_id.get(id).copied().filter(|_| !id.is_empty()))
            .or_else(|| first(&no_id, &recipient))
            .or_else(|| first(&no_id, &None))?;
        let call = &self.all[number];
        for wanted in keys(call) {
            if let Some(open) = self.open.get_mut(&wanted) {
                open.remove(&(Reverse(call.round), number));
            }
        }
        Some(number)
    }
}

/// All that a call is looked up by.
fn keys(call: &Call) -> [Wanted; 4] {
    let (id, recipient) = (Some(call.id.clone()), Some(call.recipient.clone()));
    [(id.clone(), recipient.clone()), (id, None), (None, recipient), (None, None)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same by looking at all calls: id, tool, round, whether it has a result.
    fn by_looking(
        all: &[(String, String, usize, bool)],
        id: &str,
        name: Option<&str>,
    ) -> Option<usize> {
        type Call = (String, String, usize, bool);
        let recipient = name.map(|name| format!("functions.{name}"));
        let of_name = |call: &Call| recipient.as_ref().is_none_or(|wanted| *wanted == call.1);
        let same_id = |call: &Call| call.0 == id;
        let no_id = |call: &Call| id.is_empty() || call.0.is_empty();
        let first = |wanted: &dyn Fn(&Call) -> bool| {
            let open = |call: &&Call| !call.3 && wanted(call);
            let round = all.iter().filter(open).map(|call| call.2).max()?;
            all.iter().position(|call| call.2 == round && open(&call))
        };
        first(&|call| same_id(call) && of_name(call))
            .or_else(|| first(&same_id))
            .or_else(|| all.iter().rposition(|call| !id.is_empty() && same_id(call)))
            .or_else(|| first(&|call| no_id(call) && of_name(call)))
            .or_else(|| first(&no_id))
    }

    #[test]
    fn a_result_answers_the_call_that_looking_at_all_finds() {
        let mut seed = 1_u64;
        let mut below = |end: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % end
        };
        let (ids, names) = (["", "a", "b", "c"], ["f", "g"]);
        for _ in 0..500 {
            let (mut calls, mut all) = (Calls::default(), Vec::new());
            let mut round = 0;
            for _ in 0..40 {
                let (id, name) = (ids[below(4)], names[below(2)]);
                if below(2) == 0 {
                    let continues = below(3) > 0;
                    round += usize::from(!continues);
                    let recipient = format!("functions.{name}");
                    calls.push(id.to_owned(), recipient.clone(), continues);
                    all.push((id.to_owned(), recipient, round, false));
                    continue;
                }
                let name = Some(name).filter(|_| below(2) == 0);
                let want = by_looking(&all, id, name);
                assert_eq!(calls.answer(id, name), want, "{id:?} {name:?} {all:?}");
                if let Some(number) = want {
                    all[number].3 = true;
                }
            }
        }
    }
}
