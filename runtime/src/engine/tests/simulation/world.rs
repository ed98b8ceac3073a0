//! A run: an engine without its thread, the readers of its requests, and the moves that they make.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::super::super::events::{Command, Events};
use super::super::super::handle::{End, EngineHandle, Worker, parts};
use super::super::super::request::{FinishReason, RequestId, TokenEvent};
use super::super::super::testing::{Fault, Scripted, expected_with};
use super::super::super::{Clock, MaskThreads, Request};
use super::super::random::Random;
use super::super::traffic::adjust;
use super::super::with_policy;
use super::setup::Setup;
use super::{Plant, Tally};
use crate::Error;

/// A request whose reader has not read its end.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) events: Events,
    pub(super) request: Request,
    /// What each sample's solo run yields, and what has been read of it.
    pub(super) samples: Vec<(Vec<u32>, Vec<u32>, Option<FinishReason>)>,
    /// The reader reads one event in so many moves.
    pub(super) pace: usize,
    pub(super) cancelled: bool,
    /// Steps of the engine when it was queued, where waiting has a bound: most steps to its first token.
    pub(super) bound: Option<(u64, u64)>,
}

/// A run.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) setup: Setup,
    pub(super) clock: Clock,
    pub(super) handle: EngineHandle,
    pub(super) worker: Worker,
    pub(super) fault: Option<(Fault, usize)>,
    pub(super) open: BTreeMap<RequestId, Open>,
    /// What each tenant's requests are and yield since the engine started, and so what may be cached for it.
    pub(super) computed: BTreeMap<u64, Vec<(RequestId, Vec<u32>)>>,
    pub(super) tally: Tally,
    pub(super) plant: Option<Plant>,
    /// Private pages that samples had before they were preempted.
    preempted: BTreeMap<RequestId, Vec<u32>>,
    newcomers: u64,
    verbose: bool,
}

impl World {
    pub(super) fn new(seed: u64, plant: Option<Plant>, verbose: bool) -> World {
        let mut random = Random::new(seed);
        let setup = Setup::choose(&mut random);
        let clock = Clock::moved_by_hand();
        let fault = setup.fault(&mut random);
        let (handle, worker) = start(&setup, &clock, fault);
        if verbose {
            eprintln!("{setup:#?}\nfault: {fault:?}");
        }
        World {
            random,
            setup,
            clock,
            handle,
            worker,
            fault,
            open: BTreeMap::new(),
            computed: BTreeMap::new(),
            tally: Tally::default(),
            plant,
            preempted: BTreeMap::new(),
            newcomers: 0,
            verbose,
        }
    }

    /// Makes all moves, then lets every reader read to the end.
    pub(super) fn run(mut self) -> Result<Tally, String> {
        for _ in 0..self.setup.moves {
            self.tally.moves += 1;
            self.make_move()?;
            self.read_some()?;
        }
        self.open.values_mut().for_each(|open| open.pace = 1);
        // Every token takes at most one step, and so does each chunk that is computed again.
        for _ in 0..100_000 {
            if self.open.is_empty() && self.worker.engine.is_idle() {
                return self.end();
            }
            self.turn()?;
            self.read_some()?;
        }
        Err(format!("stuck: {:?} never end", self.open.keys()))
    }

    fn end(mut self) -> Result<Tally, String> {
        self.handle.reset_prefix_cache();
        self.turn()?;
        let metrics = self.worker.engine.metrics();
        let left =
            (metrics.waiting, metrics.running, metrics.pages_used, self.worker.engine.free_pages());
        if left != (0, 0, 0, self.setup.limits.pages) {
            return Err(format!("left behind: {left:?}"));
        }
        self.count_engine();
        Ok(self.tally)
    }

    fn make_move(&mut self) -> Result<(), String> {
        let odds = self.setup.odds;
        let mut at = self.random.below(100);
        let mut is = |weight: usize| {
            let chosen = at < weight;
            at = if chosen { 0 } else { at - weight };
            chosen
        };
        if is(odds.submit) {
            return self.submit();
        }
        if is(odds.cancel) {
            if let Some(id) = self.any_open() {
                self.say(|| format!("cancel {id:?}"));
                if let Some(open) = self.open.get_mut(&id) {
                    open.events.cancel();
                    open.cancelled = true;
                }
            }
        } else if is(odds.discard) {
            if let Some(id) = self.any_open() {
                self.say(|| format!("{id:?} is no longer read"));
                self.open.remove(&id);
                self.tally.cancelled += 1;
            }
        } else if is(odds.reset) {
            self.say(|| "reset the prefix cache".to_owned());
            self.handle.reset_prefix_cache();
        } else if is(odds.pause) {
            let pause = Duration::from_millis(self.random.between(1, 60) as u64);
            self.say(|| format!("{pause:?} pass"));
            self.clock.advance(pause);
        } else if is(odds.shutdown) {
            self.say(|| "shut down".to_owned());
            self.open.values_mut().for_each(|open| open.cancelled = true);
            self.handle.shutdown();
        }
        self.turn()
    }

    fn any_open(&mut self) -> Option<RequestId> {
        let at = self.random.below(self.open.len().max(1));
        self.open.keys().nth(at).copied()
    }

    fn submit(&mut self) -> Result<(), String> {
        if self.open.len() >= self.setup.most_open {
            return self.turn();
        }
        let tenants = self.tenants();
        let newcomer = self.setup.calm && tenants < self.setup.limits.max_sequences;
        let newcomer = (newcomer && self.random.once_in(3)).then(|| {
            self.newcomers += 1;
            100 + self.newcomers
        });
        let request = self.setup.request(&mut self.random, &self.clock, newcomer);
        let mut sent = request.clone();
        if self.plant == Some(Plant::SaltIgnored) {
            sent.cache_salt = 0;
        }
        let events = match self.handle.submit(sent) {
            Ok(events) => events,
            Err(error) => {
                self.say(|| format!("refused: {error}"));
                self.tally.refused += 1;
                return self.check_refusal(&request, &error);
            }
        };
        self.tally.requests += 1;
        let id = events.id();
        self.say(|| {
            let Request { prompt, params, tenant, priority, .. } = &request;
            format!(
                "{id:?}: {} tokens of tenant {tenant}, priority {priority}, {params:?}",
                prompt.len()
            )
        });
        let samples: Vec<_> = (0..request.params.n)
            .map(|sample| {
                let mut adjust =
                    |generated: &[u32], row: &mut [f32]| adjust(&request, generated, row);
                let memory = self.setup.memory;
                let want =
                    expected_with(&request.prompt, &request.params, sample, memory, &mut adjust);
                (want, Vec::new(), None)
            })
            .collect();
        let computed = self.computed.entry(request.cache_salt).or_default();
        computed
            .extend(samples.iter().map(|(want, ..)| (id, [&request.prompt[..], want].concat())));
        let pace = if self.setup.calm { 1 } else { self.random.one_of(&[1, 1, 2, 5, 30]) };
        let steps = self.worker.engine.metrics().steps;
        let bound = newcomer.map(|_| (steps, self.waiting_bound(&request)));
        self.tally.newcomers += u64::from(newcomer.is_some());
        let open = Open { events, request, samples, pace, cancelled: false, bound };
        self.open.insert(id, open);
        self.turn()
    }

    /// What the engine's thread would do now, without waiting for anything.
    pub(super) fn turn(&mut self) -> Result<(), String> {
        let mut end = None;
        while end.is_none()
            && let Some(command) = self.worker.next_command()
        {
            let cancelled = if let Command::Cancel(id) = command { Some(id) } else { None };
            end = self.worker.execute(command);
            self.plant_after_cancel(cancelled);
            self.audit()?;
        }
        let engine = &self.worker.engine;
        let due = engine.next_deadline().is_some_and(|deadline| deadline <= self.clock.now());
        if end.is_none() && (engine.can_step() || due) {
            let before = self.held_pages();
            end = self.worker.step();
            self.plant_after_step(before);
            self.audit()?;
        } else if end.is_none() {
            self.worker.publish_metrics();
            if let Some(deadline) = self.worker.engine.next_deadline() {
                // The thread would sleep until then.
                self.clock.advance(deadline.saturating_duration_since(self.clock.now()));
            }
        }
        self.check_backlogs()?;
        match end {
            Some(end) => self.restart(end),
            None => Ok(()),
        }
    }

    /// The engine ends, all its readers get their ends, and another takes its place.
    fn restart(&mut self, end: End) -> Result<(), String> {
        self.say(|| format!("the engine ends: {end:?}"));
        self.check_end(&end)?;
        self.worker.finish(end);
        self.open.values_mut().for_each(|open| open.pace = 1);
        let ids: Vec<RequestId> = self.open.keys().copied().collect();
        for id in ids {
            while self.read_event(id)? {}
        }
        if !self.open.is_empty() {
            return Err(format!("no end came for {:?} when the engine ended", self.open.keys()));
        }
        let refused = self.handle.submit(Request::new([1], super::super::params(0, 1)));
        if !matches!(refused, Err(Error::ShutDown | Error::Stopped { .. })) {
            return Err(format!("an engine that has ended takes requests: {refused:?}"));
        }
        self.count_engine();
        self.fault = self.setup.fault(&mut self.random);
        (self.handle, self.worker) = start(&self.setup, &self.clock, self.fault);
        self.computed.clear();
        self.preempted.clear();
        self.tally.restarts += 1;
        Ok(())
    }

    fn count_engine(&mut self) {
        let metrics = self.worker.engine.metrics();
        self.tally.preemptions += metrics.preemptions;
        self.tally.drafted += metrics.draft_tokens;
        self.tally.accepted += metrics.accepted_tokens;
        self.tally.forced += metrics.forced_tokens;
        self.tally.late_masks += metrics.late_masks;
    }

    /// Every reader reads as fast as it does.
    fn read_some(&mut self) -> Result<(), String> {
        let ids: Vec<RequestId> = self.open.keys().copied().collect();
        for id in ids {
            let pace = self.open.get(&id).map_or(1, |open| open.pace);
            if pace == 1 {
                while self.read_event(id)? {}
            } else if self.random.once_in(pace) {
                self.read_event(id)?;
            }
        }
        Ok(())
    }

    /// Reads an event of a request, if there is one.
    fn read_event(&mut self, id: RequestId) -> Result<bool, String> {
        let Some(open) = self.open.get_mut(&id) else { return Ok(false) };
        match open.events.poll_event(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => {
                self.check_pending(id)?;
                Ok(false)
            }
            Poll::Ready(None) => {
                self.check_ended(id)?;
                self.open.remove(&id);
                Ok(false)
            }
            Poll::Ready(Some(event)) => {
                self.say(|| format!("read {event:?}"));
                self.fold(&event);
                self.check_event(event)?;
                Ok(true)
            }
        }
    }

    /// Makes what was delivered part of the digest.
    fn fold(&mut self, event: &TokenEvent) {
        let steps = self.worker.engine.metrics().steps;
        for number in [event.request.0, u64::from(event.token.unwrap_or(1 << 20)), steps] {
            self.tally.digest =
                (self.tally.digest ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
        }
    }

    /// The pages that each sample alone uses, if that has to be remembered.
    fn held_pages(&self) -> BTreeMap<RequestId, Vec<u32>> {
        if self.plant != Some(Plant::PageFreedTwice) {
            return BTreeMap::new();
        }
        let samples = self.worker.engine.scheduler.samples.values();
        let mut held: BTreeMap<RequestId, Vec<u32>> = BTreeMap::new();
        for sample in samples.filter(|sample| sample.seq_slot.is_some()) {
            let private = &sample.pages[sample.cached_blocks..];
            held.entry(sample.request.id).or_default().extend(private);
        }
        held
    }

    /// Plants what shows in a step.
    fn plant_after_step(&mut self, before: BTreeMap<RequestId, Vec<u32>>) {
        if self.plant == Some(Plant::EndLost) {
            let slow = self.open.values().filter(|open| open.events.backlog().0);
            slow.for_each(|open| open.events.lose_end());
        }
        let samples = &self.worker.engine.scheduler.samples;
        for (id, pages) in before {
            let of = samples.values().filter(|sample| sample.request.id == id);
            if of.clone().count() > 0 && of.clone().all(|sample| sample.seq_slot.is_none()) {
                self.preempted.insert(id, pages);
            } else {
                self.preempted.remove(&id);
            }
        }
    }

    /// Plants what shows when a request is cancelled.
    fn plant_after_cancel(&mut self, cancelled: Option<RequestId>) {
        let pages = cancelled.and_then(|id| self.preempted.remove(&id)).unwrap_or_default();
        pages.into_iter().for_each(|page| self.worker.engine.scheduler.pages.free(page));
    }

    /// Prints what happens, if anybody wants to know.
    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            let steps = self.worker.engine.metrics().steps;
            eprintln!("move {}, step {steps}: {}", self.tally.moves, what());
        }
    }

    /// The time, for checks of deadlines.
    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }
}

fn start(setup: &Setup, clock: &Clock, fault: Option<(Fault, usize)>) -> (EngineHandle, Worker) {
    let mut backend = Scripted::new(setup.limits, setup.limits.max_step_tokens);
    backend.memory = setup.memory;
    backend.fault = fault;
    let times = [Duration::from_micros(900), Duration::from_micros(20)];
    backend.clock = Some((clock.clone(), times));
    let mut engine = with_policy(backend, setup.pipeline_depth, setup.policy);
    engine.clock = clock.clone();
    engine.scheduler.clock = clock.clone();
    engine.masks = match setup.late_masks {
        None => MaskThreads::none(),
        Some(seed) => MaskThreads::late(seed),
    };
    parts(engine)
}
