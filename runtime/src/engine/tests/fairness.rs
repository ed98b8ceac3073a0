//! Requests that compete. Bounds are in steps, because the scheduler decides about steps; how long one takes is the
//! backend's.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::audit::{self, Claim};
use super::super::sample::{Key, PRIORITY_STEPS};
use super::super::validate::{Claimant, Group};
use super::super::waiting::WaitingQueue;
use super::super::{Request, RequestId};
use super::*;
use crate::backend::PAGE_TOKENS;

/// An engine that counts its steps.
struct Counted {
    engine: Engine,
    step: usize,
    /// The steps in which each request arrived and got its first token.
    first: BTreeMap<RequestId, (usize, Option<usize>)>,
    ended: BTreeMap<RequestId, usize>,
}

impl Counted {
    fn new(max_sequences: usize, max_step_tokens: usize, pages: usize) -> Counted {
        let limits = Limits { max_sequences, max_step_tokens, pages };
        let engine = engine(limits, max_step_tokens, 0);
        Counted { engine, step: 0, first: BTreeMap::new(), ended: BTreeMap::new() }
    }

    fn submit(&mut self, request: Request) -> RequestId {
        let id = self.engine.submit(request).unwrap();
        self.first.insert(id, (self.step, None));
        id
    }

    fn step(&mut self) {
        self.step += 1;
        for event in self.engine.step().unwrap() {
            if event.token.is_some()
                && let Some((_, first)) = self.first.get_mut(&event.request)
            {
                first.get_or_insert(self.step);
            }
            if event.finish.is_some() {
                *self.ended.entry(event.request).or_default() += 1;
            }
        }
    }

    fn steps(&mut self, count: usize) {
        (0..count).for_each(|_| self.step());
    }

    fn finish(&mut self) {
        while !self.engine.is_idle() {
            self.step();
        }
    }

    /// Steps from a request's arrival to its first token.
    fn waited(&self, id: RequestId) -> usize {
        let (arrived, first) = self.first[&id];
        first.expect("it got a token") - arrived
    }
}

fn long(n: usize, max_tokens: usize) -> SamplingParams {
    SamplingParams { n, ignore_eos: true, ..params(1, max_tokens) }
}

/// What happens to a queue.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A request of so many samples arrives.
    Arrives {
        tenant: u64,
        group: u64,
        priority: i32,
        samples: usize,
    },
    /// One sample may start, or may not.
    Toggles(usize),
    /// The first in order start.
    Start(usize),
    /// One that runs waits again.
    Preempted(usize),
    /// One that runs ends, or one that waits.
    Ends(usize),
    Steps(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let arrives = (0_u64..3, 0_u64..12, -2_i32..3, 1_usize..5).prop_map(
        |(tenant, group, priority, samples)| Event::Arrives { tenant, group, priority, samples },
    );
    prop_oneof![
        4 => arrives,
        2 => (0_usize..99).prop_map(Event::Toggles),
        2 => (1_usize..6).prop_map(Event::Start),
        1 => (0_usize..99).prop_map(Event::Preempted),
        1 => (0_usize..99).prop_map(Event::Ends),
        1 => (1_u64..2000).prop_map(Event::Steps),
    ]
}

proptest! {
    /// The order that is kept is the one that sorting everything gives.
    #[test]
    fn the_queue_has_the_order_of_the_definition(
        events in prop::collection::vec(event(), 1..60),
    ) {
        let (mut queue, mut now, mut requests) = (WaitingQueue::default(), 0_u64, 0_u64);
        let mut blocked: Vec<Claim> = Vec::new();
        let (mut startable, mut running): (Vec<Claim>, Vec<Claim>) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Arrives { tenant, group, priority, samples } => {
                    requests += 1;
                    let group = match group {
                        0..4 => Group::Shared(group),
                        _ => Group::Alone(RequestId(requests)),
                    };
                    let of = Claimant { tenant, group };
                    let order = now as i64 + i64::from(priority) * PRIORITY_STEPS;
                    for index in 0..samples {
                        let key = Key { order, request: requests, index };
                        queue.insert(key, of, priority);
                        queue.set_may_start(key, true);
                        startable.push(Claim { key, of, priority });
                    }
                }
                Event::Toggles(at) if at % 2 == 0 && !startable.is_empty() => {
                    let claim = startable.swap_remove(at % startable.len());
                    queue.set_may_start(claim.key, false);
                    blocked.push(claim);
                }
                Event::Toggles(at) if !blocked.is_empty() => {
                    let claim = blocked.swap_remove(at % blocked.len());
                    queue.set_may_start(claim.key, true);
                    startable.push(claim);
                }
                Event::Toggles(_) => {}
                Event::Start(count) => {
                    let first: Vec<Key> = queue.order(now).take(count).collect();
                    for key in first {
                        let at = startable.iter().position(|claim| claim.key == key).unwrap();
                        let claim = startable.swap_remove(at);
                        prop_assert_eq!(queue.claimant(key), Some(claim.of));
                        queue.remove(key);
                        queue.add_running(claim.of);
                        running.push(claim);
                    }
                }
                Event::Preempted(at) if !running.is_empty() => {
                    let claim = running.swap_remove(at % running.len());
                    queue.remove_running(claim.of);
                    queue.insert(claim.key, claim.of, claim.priority);
                    blocked.push(claim);
                }
                Event::Ends(at) if at % 2 == 0 && !running.is_empty() => {
                    let claim = running.swap_remove(at % running.len());
                    queue.remove_running(claim.of);
                }
                Event::Ends(at) if !startable.is_empty() => {
                    queue.remove(startable.swap_remove(at % startable.len()).key);
                }
                Event::Preempted(_) | Event::Ends(_) => {}
                Event::Steps(steps) => now += steps,
            }
            let kept: Vec<Key> = queue.order(now).collect();
            prop_assert_eq!(kept, audit::order(now, startable.clone(), &running));
            prop_assert_eq!(queue.len(), startable.len() + blocked.len());
            for claim in startable.iter().chain(&running) {
                let Claimant { tenant, .. } = claim.of;
                let same = running.iter().filter(|other| other.of == claim.of).count();
                prop_assert_eq!(queue.running_of(claim.of), same);
                let of_tenant = running.iter().filter(|other| other.of.tenant == tenant);
                prop_assert_eq!(queue.running_of_tenant(tenant), of_tenant.clone().count());
                let most = of_tenant.map(|other| queue.running_of(other.of)).max();
                prop_assert_eq!(queue.heaviest_group(tenant), most.unwrap_or(0));
            }
        }
    }

    /// Whoever has the fewest prompt tokens left gets half of them at least, and so does the first in order.
    #[test]
    fn neither_a_long_prompt_nor_short_ones_delay_the_others(
        length in 400_usize..900,
        shorts in prop::collection::vec((1_usize..50, 0_usize..6), 1..8),
        step_tokens in 16_usize..200,
    ) {
        let mut counted = Counted::new(9, step_tokens, 80);
        let first = counted.submit(Request::new(prompt(length, 0), params(0, 1)));
        let mut ids = Vec::new();
        for (salt, &(length, pause)) in shorts.iter().enumerate() {
            counted.steps(pause);
            ids.push(counted.submit(Request::new(prompt(length, salt + 1), params(0, 1))));
        }
        counted.finish();
        let bound = |tokens: usize| 2 + (2 * tokens + PAGE_TOKENS).div_ceil(step_tokens);
        let short_tokens: usize = shorts.iter().map(|(length, _)| length).sum();
        for id in ids {
            prop_assert!(counted.waited(id) <= bound(short_tokens), "{} steps", counted.waited(id));
        }
        prop_assert!(counted.waited(first) <= bound(length), "{} steps", counted.waited(first));
    }

    /// Tenants read prompts at the same rate, however many prompts each has.
    #[test]
    fn tenants_share_prompt_tokens_equally(
        many in 2_usize..7,
        length in 200_usize..500,
        step_tokens in 32_usize..200,
    ) {
        let mut counted = Counted::new(8, step_tokens, 80);
        for salt in 0..many {
            counted.submit(Request::new(prompt(length, salt), params(0, 1)).with_tenant(1));
        }
        let one = Request::new(prompt(length, 90), params(0, 1)).with_tenant(2);
        let one = counted.submit(one);
        counted.finish();
        let bound = 2 + (2 * length + PAGE_TOKENS).div_ceil(step_tokens);
        prop_assert!(counted.waited(one) <= bound, "{} of {bound} steps", counted.waited(one));
    }
}

#[test]
fn many_samples_leave_room_for_a_newcomer() {
    let alone = |salt| Request::new(prompt(9, salt), long(1, 60));
    let floods: [(&str, Vec<Request>); 3] = [
        ("samples of a request", vec![Request::new(prompt(9, 0), long(12, 60))]),
        ("requests of a group", (0..12).map(|salt| alone(salt).with_group(7)).collect()),
        ("requests of a tenant", (0..12).map(|salt| alone(salt).with_tenant(7)).collect()),
    ];
    for (name, flood) in floods {
        let mut counted = Counted::new(4, 64, 40);
        let flooded: Vec<RequestId> =
            flood.into_iter().map(|request| counted.submit(request)).collect();
        counted.steps(10);
        let newcomer = counted.submit(Request::new(prompt(20, 50), params(0, 5)));
        counted.finish();
        assert!(counted.waited(newcomer) <= 2, "{name}: {} steps", counted.waited(newcomer));
        assert!(counted.engine.metrics().preemptions <= 1, "{name}");
        let ended: usize = flooded.iter().map(|id| counted.ended[id]).sum();
        assert_eq!(ended, 12, "{name}");
    }
}

#[test]
fn equal_requests_do_not_preempt_each_other() {
    let mut counted = Counted::new(4, 64, 40);
    for salt in 0..9 {
        counted.submit(Request::new(prompt(9, salt), long(1 + salt % 2, 30)));
    }
    counted.finish();
    assert_eq!(counted.engine.metrics().preemptions, 0);
}

#[test]
fn a_low_priority_waits_for_a_while_but_not_for_ever() {
    let mut counted = Counted::new(1, 64, 40);
    let urgent = |salt| Request::new(prompt(3, salt), long(1, 2)).with_priority(-1);
    counted.submit(urgent(0));
    let patient = counted.submit(Request::new(prompt(3, 1), long(1, 2)));
    let steps = usize::try_from(PRIORITY_STEPS).unwrap();
    for salt in 0..steps {
        counted.submit(urgent(salt % 90));
        counted.steps(2);
    }
    let waited = counted.waited(patient);
    assert!((steps..steps + 8).contains(&waited), "{waited} steps");
}

#[test]
fn a_prefix_that_several_prompts_share_is_read_once_though_they_arrive_together() {
    let backend = Scripted::new(Limits { max_sequences: 6, max_step_tokens: 256, pages: 90 }, 256);
    let log = backend.log.clone();
    let mut engine = over(backend, 0);
    let request_of = |salt| {
        let tokens = [prompt(640, 0), prompt(40, salt)].concat();
        Request::new(tokens, params(0, 1))
    };
    engine.complete((1..7).map(request_of).collect()).unwrap();
    let run: usize = log.lock().unwrap().steps.iter().flatten().sum();
    // The others start once the first has fewer than four pages of the prefix left to read.
    assert_eq!(run, 640 + 40 + 5 * (2 * PAGE_TOKENS + 40));
    assert!(log.lock().unwrap().steps.len() <= 7);
}
