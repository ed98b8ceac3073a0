//! Random traffic: requests that wait, share prefixes, are held, cancelled and preempted, with any settings. Whatever
//! happens around it, each sample gets the tokens of its solo run, and in the end nothing is in use.

use std::collections::BTreeMap;

use proptest::prelude::*;

use std::sync::Arc;
use std::time::Duration;

use super::super::testing::expected_with;
use super::super::{
    Allowed, Clock, MaskSource, MaskThreads, Policy, Request, RequestId, TokenMask,
};
use super::*;
use crate::backend::StepTime;

/// A grammar that forces runs of tokens; between them every third token is allowed, or all are.
#[derive(Clone, Copy)]
pub(super) struct Runs;

impl Runs {
    /// The token that is forced after `generated` others.
    fn forced(generated: usize) -> Option<usize> {
        (generated % 7 > 2).then_some(generated * 13 % SPEC.vocab)
    }

    fn allows(generated: usize, id: usize) -> bool {
        let free = generated % 7 == 1 || id.is_multiple_of(3);
        Runs::forced(generated).map_or(free, |forced| forced == id)
    }
}

impl MaskSource for Runs {
    fn start(&self, _sample: usize) -> Box<dyn TokenMask> {
        Box::new(*self)
    }
}

impl TokenMask for Runs {
    fn fill(&mut self, generated: &[u32], words: &mut [u32]) -> Result<Allowed, String> {
        if generated.len() % 7 == 1 {
            return Ok(Allowed::All);
        }
        for id in (0..SPEC.vocab).filter(|&id| Runs::allows(generated.len(), id)) {
            words[id / 32] |= 1 << (id % 32);
        }
        Ok(Allowed::Listed)
    }
}

/// A request: prompt length and salt, tokens, kind of settings, samples, priority.
type Case = (usize, usize, usize, u8, usize, i32);

fn cases() -> impl Strategy<Value = Case> {
    (1_usize..300, 0_usize..3, 1_usize..90, 0_u8..12, 1_usize..4, -1_i32..2)
}

fn request(&(length, salt, max_tokens, kind, n, priority): &Case) -> Request {
    let base = SamplingParams { n, ignore_eos: kind == 7, ..params(salt as u64, max_tokens) };
    let params = match kind {
        0 => SamplingParams { temperature: 0.0, ..base },
        1 => SamplingParams { repetition_penalty: 1.4, ..base },
        2 => SamplingParams { presence_penalty: 0.7, frequency_penalty: 0.4, ..base },
        3 => SamplingParams { logit_bias: vec![(7, 3.0), (8, f32::NEG_INFINITY)], ..base },
        4 => SamplingParams { min_tokens: max_tokens / 2, logprobs: Some(2), ..base },
        5 => SamplingParams { prompt_logprobs: Some(1), ..base },
        10 => SamplingParams { presence_penalty: 0.7, logprobs: Some(1), ..base },
        11 => SamplingParams { prompt_logprobs: Some(1), temperature: 0.0, ..base },
        _ => base,
    };
    let mask = (kind >= 8).then(|| Arc::new(Runs) as Arc<dyn MaskSource>);
    Request { priority, mask, ..Request::new(prompt(length, salt), params) }
}

/// The simplest form of bias, penalties and `min_tokens` as [`SamplingParams`] documents them.
pub(super) fn adjust(request: &Request, generated: &[u32], row: &mut [f32]) {
    let params = &request.params;
    for &(token, bias) in &params.logit_bias {
        row[token as usize] += bias;
    }
    for (id, logit) in row.iter_mut().enumerate() {
        let count = generated.iter().filter(|&&token| token as usize == id).count() as f32;
        if count > 0.0 || request.prompt.contains(&(id as u32)) {
            let penalty = params.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        if count > 0.0 {
            *logit -= params.frequency_penalty * count + params.presence_penalty;
        }
        if request.mask.is_some() && !Runs::allows(generated.len(), id) {
            *logit = f32::NEG_INFINITY;
        }
        if generated.len() < params.min_tokens && SPEC.stop_tokens.contains(&(id as u32)) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// The expected answer of each sample of each request, and the tokens so far.
#[derive(Default)]
struct Live(BTreeMap<(RequestId, usize), (Vec<u32>, Vec<u32>)>);

impl Live {
    fn add(&mut self, id: RequestId, request: &Request, memory: usize) {
        for sample in 0..request.params.n {
            let mut adjust = |generated: &[u32], row: &mut [f32]| adjust(request, generated, row);
            let want = expected_with(&request.prompt, &request.params, sample, memory, &mut adjust);
            self.0.insert((id, sample), (want, Vec::new()));
        }
    }

    fn step(&mut self, engine: &mut Engine) -> Result<(), TestCaseError> {
        for event in engine.step().unwrap() {
            let key = (event.request, event.sample);
            let (want, got) = self.0.get_mut(&key).expect("an event of a live sample");
            if got.is_empty() {
                prop_assert!(event.prompt.is_some());
            }
            got.extend(event.token);
            prop_assert!(want.starts_with(got), "{:?} is not the start of {:?}", got, want);
            prop_assert_eq!(event.finish.is_some(), got.len() == want.len(), "{:?}", event);
            if event.finish.is_some() {
                self.0.remove(&key);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn every_sample_gets_the_tokens_of_its_solo_run(
        moves in prop::collection::vec((0_u8..9, cases()), 1..70),
        max_sequences in 1_usize..6,
        max_step_tokens in 1_usize..80,
        pages in 8_usize..30,
        pipeline_depth in 0_usize..3,
        prefix_cache in any::<bool>(),
        draft_tokens in 0_usize..4,
        memory in prop::sample::select(vec![1, 2, usize::MAX]),
        late_masks in prop::option::of(any::<u64>()),
    ) {
        let limits = Limits { max_sequences, max_step_tokens, pages };
        let policy = Policy { prefix_cache, draft_tokens, ..Policy::default() };
        let mut backend = Scripted::new(limits, max_step_tokens);
        backend.memory = memory;
        let mut engine = with_policy(backend, pipeline_depth, policy);
        if let Some(seed) = late_masks {
            engine.masks = MaskThreads::late(seed);
        }
        let (mut live, mut held) = (Live::default(), Vec::new());
        for (kind, case) in &moves {
            let of = |index: usize| live.0.keys().nth(index % live.0.len().max(1)).map(|key| key.0);
            match (kind, of(case.0)) {
                (0..3, _) => {
                    let request = request(case);
                    if let Ok(id) = engine.submit(request.clone()) {
                        live.add(id, &request, memory);
                    }
                }
                (3, Some(id)) => {
                    live.0.retain(|key, _| key.0 != id);
                    engine.cancel(id);
                }
                (4, Some(id)) => {
                    engine.hold(id);
                    held.push(id);
                }
                _ => live.step(&mut engine)?,
            }
        }
        held.into_iter().for_each(|id| engine.resume(id));
        // Every token takes at most one step, and so does each chunk that is computed again.
        for _ in 0..200_000 {
            if engine.is_idle() {
                break;
            }
            live.step(&mut engine)?;
        }
        prop_assert!(live.0.is_empty() && engine.is_idle(), "stuck: {:?}", live.0.keys());
        prop_assert_eq!(engine.free_pages(), pages);
        engine.reset_prefix_cache();
        let metrics = engine.metrics();
        prop_assert_eq!((metrics.pages_used, metrics.running, metrics.waiting), (0, 0, 0));
    }
}

#[test]
fn a_prompt_takes_a_bounded_part_of_a_step_in_which_others_generate() {
    let limits = Limits { max_sequences: 2, max_step_tokens: 256, pages: 40 };
    let settings = SamplingParams { ignore_eos: true, ..params(1, 60) };
    let prompts = [prompt(40, 0), prompt(600, 1)];
    let mut largest = Vec::new();
    let second = Duration::from_secs(1);
    let policies = [
        Policy::default(),
        Policy::default().with_prompt_time(second),
        // As long as one such step and the same again for prompts.
        Policy::default().with_step_time(2 * second),
    ];
    for policy in policies {
        let mut backend = Scripted::new(limits, 256);
        // The first prompt shows that a second is enough for 40 tokens.
        backend.time = Some(StepTime { busy: 1.0, idle: 0.0 });
        let log = backend.log.clone();
        let mut engine = with_policy(backend, 0, policy);
        let mut answers: BTreeMap<RequestId, Vec<u32>> = BTreeMap::new();
        for prompt in &prompts {
            let id = engine.submit(Request::new(&prompt[..], settings.clone())).unwrap();
            answers.insert(id, Vec::new());
            for event in engine.step().unwrap() {
                answers.entry(event.request).or_default().extend(event.token);
            }
        }
        while !engine.is_idle() {
            for event in engine.step().unwrap() {
                answers.entry(event.request).or_default().extend(event.token);
            }
        }
        for (answer, prompt) in answers.values().zip(&prompts) {
            assert_eq!(*answer, super::super::testing::expected(prompt, &settings));
        }
        let steps = &log.lock().unwrap().steps;
        largest.push(steps.iter().map(|step| step.iter().sum::<usize>()).max().unwrap());
    }
    assert!(largest[0] == 256 && largest[1] < 200 && largest[2] < 200, "{largest:?}");
}

#[test]
fn a_reported_prompt_takes_few_tokens_in_each_step_even_alone() {
    let limits = Limits { max_sequences: 2, max_step_tokens: 256, pages: 40 };
    let prompt = prompt(600, 1);
    for (prompt_time, most) in [(None, 256), (Some(Duration::from_secs(1)), 4)] {
        let mut backend = Scripted::new(limits, 256);
        backend.time = Some(StepTime { busy: 1.0, idle: 0.0 });
        let log = backend.log.clone();
        let mut engine = with_policy(backend, 0, Policy { prompt_time, ..Policy::default() });
        let settings = params(1, 1).with_prompt_logprobs(2);
        engine.submit(Request::new(&prompt[..], settings)).unwrap();
        let mut reported = 0;
        while !engine.is_idle() {
            for event in engine.step().unwrap() {
                reported += event.prompt.map_or(0, |prompt| prompt.logprobs.len());
            }
        }
        assert_eq!(reported, 600);
        let steps = &log.lock().unwrap().steps;
        let largest = steps.iter().map(|step| step.iter().sum::<usize>()).max().unwrap();
        assert_eq!(largest, most);
    }
}

#[test]
fn a_shared_prefix_is_computed_once() {
    let limits = Limits { max_sequences: 4, max_step_tokens: 64, pages: 40 };
    let backend = Scripted::new(limits, 64);
    let log = backend.log.clone();
    let mut engine = over(backend, 0);
    let request_of = |length| Request::new(prompt(length, 1), params(0, 1));
    for (length, cached) in [(640, 0), (640, 576), (650, 640), (700, 640), (300, 256), (64, 0)] {
        let answer = engine.complete(vec![request_of(length)]).unwrap().remove(0);
        assert_eq!(answer.prompt.cached_tokens, cached, "{length} tokens");
    }
    let run: usize = log.lock().unwrap().steps.iter().flatten().sum();
    assert_eq!(run, 640 + 64 + 10 + 60 + 44 + 64);
    let salted = Request { cache_salt: 1, ..request_of(640) };
    assert_eq!(engine.complete(vec![salted]).unwrap()[0].prompt.cached_tokens, 0);
    engine.reset_prefix_cache();
    assert_eq!(engine.complete(vec![request_of(640)]).unwrap()[0].prompt.cached_tokens, 0);
}

#[test]
fn prompts_can_be_resumed_where_earlier_ones_diverged() {
    let limits = Limits { max_sequences: 2, max_step_tokens: 64, pages: 64 };
    let mut engine = over(Scripted::new(limits, 64), 0);
    // They diverge after 5 pages, where there is no snapshot at first: only every second page has one.
    let request_of = |salt: usize| {
        let tokens = [prompt(320, 1), prompt(400, salt)].concat();
        Request::new(tokens, params(0, 1))
    };
    let cached: Vec<usize> = (2..5)
        .map(|salt| engine.complete(vec![request_of(salt)]).unwrap()[0].prompt.cached_tokens)
        .collect();
    assert_eq!(cached, [0, 256, 320]);
}

#[test]
fn samples_share_their_prompt() {
    let limits = Limits { max_sequences: 8, max_step_tokens: 64, pages: 40 };
    let backend = Scripted::new(limits, 64);
    let log = backend.log.clone();
    let mut engine = over(backend, 0);
    let settings = SamplingParams { n: 5, ignore_eos: true, ..params(3, 4) };
    let request = Request::new(prompt(500, 0), settings.clone());
    let answers = engine.complete(vec![request.clone()]).unwrap();
    for (sample, answer) in answers.iter().enumerate() {
        let want = expected_with(&request.prompt, &settings, sample, usize::MAX, &mut |_, _| {});
        assert_eq!(answer.tokens, want, "sample {sample}");
        assert_eq!(answer.prompt.cached_tokens, if sample == 0 { 0 } else { 448 });
    }
    let run: usize = log.lock().unwrap().steps.iter().flatten().sum();
    assert_eq!(run, 500 + 4 * 52 + 5 * 3);
}

#[test]
fn the_last_is_preempted_when_pages_run_out_and_no_token_changes() {
    let limits = Limits { max_sequences: 3, max_step_tokens: 64, pages: 8 };
    let mut engine = over(Scripted::new(limits, 64), 0);
    let settings = SamplingParams { ignore_eos: true, ..params(1, 250) };
    let prompts = [prompt(60, 0), prompt(60, 1), prompt(60, 2)];
    let mut ends = Vec::new();
    let mut answers = [Vec::new(), Vec::new(), Vec::new()];
    for event in engine.stream(&prompts, std::slice::from_ref(&settings)).unwrap() {
        let (index, event) = event.unwrap();
        answers[index].extend(event.token);
        ends.extend(event.finish.map(|_| index));
    }
    for (answer, prompt) in answers.iter().zip(&prompts) {
        assert_eq!(*answer, super::super::testing::expected(prompt, &settings));
    }
    assert_eq!(ends[0], 0, "the first in order is never preempted");
    assert!(engine.metrics().preemptions > 0);
}

#[test]
fn a_higher_priority_runs_first_and_preempts_a_lower_one() {
    let limits = Limits { max_sequences: 1, max_step_tokens: 64, pages: 8 };
    let mut engine = over(Scripted::new(limits, 64), 0);
    let settings = SamplingParams { ignore_eos: true, ..params(1, 6) };
    let submit = |engine: &mut Engine, salt: usize, priority| {
        let request = Request::new(prompt(20, salt), settings.clone());
        engine.submit(Request { priority, ..request }).unwrap()
    };
    let ids = [(0, 1), (1, 0), (2, 0)].map(|(salt, p)| submit(&mut engine, salt, p));
    engine.step().unwrap();
    let urgent = submit(&mut engine, 3, -1);
    let mut order = Vec::new();
    while !engine.is_idle() {
        let events = engine.step().unwrap();
        order.extend(events.iter().filter(|e| e.finish.is_some()).map(|e| e.request));
    }
    assert_eq!(order, [urgent, ids[1], ids[2], ids[0]]);
    assert_eq!(engine.metrics().preemptions, 1);
}

#[test]
fn forced_tokens_take_no_steps_and_change_no_token() {
    for (pipeline_depth, draft_tokens) in [(0, 0), (1, 0), (2, 3)] {
        for temperature in [0.0, 0.8] {
            let limits = Limits { max_sequences: 2, max_step_tokens: 64, pages: 40 };
            let backend = Scripted::new(limits, 64);
            let log = backend.log.clone();
            let policy = Policy { draft_tokens, ..Policy::default() };
            let mut engine = with_policy(backend, pipeline_depth, policy);
            // On a slow machine threads would be late, and tokens would run again.
            engine.masks = MaskThreads::none();
            let settings = SamplingParams { ignore_eos: true, temperature, ..params(4, 70) };
            let request = |settings: &SamplingParams| Request {
                mask: Some(Arc::new(Runs)),
                ..Request::new(prompt(9, 0), settings.clone())
            };
            let jumped = request(&settings);
            let want =
                expected_with(&jumped.prompt, &settings, 0, usize::MAX, &mut |generated, row| {
                    adjust(&jumped, generated, row);
                });
            let answer = engine.complete(vec![jumped]).unwrap().remove(0);
            assert_eq!(answer.tokens, want);
            // Four tokens of seven are forced; the last run ends the answer.
            assert_eq!(engine.metrics().forced_tokens, 40);
            // The prompt may be read without its last token, while the first mask is computed.
            // With one step in flight, the layers of a token run before it is known that tokens are forced after it: one
            // step more for each of the ten runs.
            let more = if pipeline_depth == 1 { 10 } else { 0 };
            let steps = log.lock().unwrap().steps.len();
            assert!(
                (30..=31 + more).contains(&steps),
                "{steps} steps for 30 tokens that are sampled"
            );
            // Tokens whose logprobs are reported are sampled one by one.
            let reported = SamplingParams { logprobs: Some(0), ..settings };
            let answer = engine.complete(vec![request(&reported)]).unwrap().remove(0);
            assert_eq!((answer.tokens, answer.logprobs.len()), (want, 70));
            assert_eq!(engine.metrics().forced_tokens, 40);
        }
    }
}

/// A grammar that always leaves a choice.
struct Thirds;

impl MaskSource for Thirds {
    fn start(&self, _sample: usize) -> Box<dyn TokenMask> {
        Box::new(Thirds)
    }
}

impl TokenMask for Thirds {
    fn fill(&mut self, _: &[u32], words: &mut [u32]) -> Result<Allowed, String> {
        (0..SPEC.vocab).step_by(3).for_each(|id| words[id / 32] |= 1 << (id % 32));
        Ok(Allowed::Listed)
    }
}

#[test]
fn samples_with_masks_are_pipelined_and_a_late_mask_costs_a_token_that_runs_again() {
    let limits = Limits { max_sequences: 2, max_step_tokens: 64, pages: 40 };
    // Across several edges of pages, at which a token that runs again must not be in a cached block.
    let settings = SamplingParams { ignore_eos: true, presence_penalty: 0.5, ..params(4, 200) };
    let mut steps = Vec::new();
    for late in [false, true] {
        let backend = Scripted::new(limits, 64);
        let log = backend.log.clone();
        let mut engine = with_policy(backend, 1, Policy::default());
        engine.masks = if late { MaskThreads::late(3) } else { MaskThreads::none() };
        // On a slow machine no mask would seem to keep up.
        engine.clock = Clock::moved_by_hand();
        let requests: Vec<Request> = [0, 2]
            .map(|salt| Request {
                mask: Some(Arc::new(Thirds)),
                ..Request::new(prompt(9, salt), settings.clone())
            })
            .into();
        let answers = engine.complete(requests.clone()).unwrap();
        for (request, answer) in requests.iter().zip(&answers) {
            let mut thirds = |generated: &[u32], row: &mut [f32]| {
                let unmasked = Request { mask: None, ..request.clone() };
                adjust(&unmasked, generated, row);
                let others = row.iter_mut().enumerate().filter(|(id, _)| id % 3 > 0);
                others.for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
            };
            let want = expected_with(&request.prompt, &settings, 0, usize::MAX, &mut thirds);
            assert_eq!(answer.tokens, want, "late: {late}");
        }
        let log = log.lock().unwrap();
        assert_eq!(log.max_in_flight, 2, "late: {late}");
        assert_eq!(engine.metrics().late_masks > 0, late);
        steps.push(log.steps.len());
    }
    assert!(steps[0] <= 202 && steps[1] > steps[0], "{steps:?} steps for 200 tokens");
}

#[test]
fn drafts_change_no_token_and_save_steps() {
    let run = |pipeline_depth, draft_tokens, memory, temperature| {
        let limits = Limits { max_sequences: 2, max_step_tokens: 64, pages: 40 };
        let mut backend = Scripted::new(limits, 64);
        backend.memory = memory;
        let mut engine =
            with_policy(backend, pipeline_depth, Policy { draft_tokens, ..Policy::default() });
        let settings = SamplingParams { ignore_eos: true, temperature, ..params(4, 200) };
        let answers = engine.generate(&[prompt(9, 0), prompt(30, 2)], &[settings]).unwrap();
        let tokens: Vec<Vec<u32>> = answers.into_iter().map(|answer| answer.tokens).collect();
        (tokens, engine.metrics().clone())
    };
    let kinds = [(1, 0.0), (2, 0.0), (1, 0.6), (usize::MAX, 1.0)];
    for (pipeline_depth, (memory, temperature)) in kinds.map(|kind| [(0, kind), (1, kind)]).concat()
    {
        let (plain, without) = run(pipeline_depth, 0, memory, temperature);
        let (drafted, with) = run(pipeline_depth, 5, memory, temperature);
        assert_eq!(plain, drafted, "memory {memory}, temperature {temperature}");
        assert_eq!(with.accepted_by_position.iter().sum::<u64>(), with.accepted_tokens);
        assert!(with.accepted_tokens <= with.draft_tokens);
        if (memory, temperature) == (1, 0.0) {
            assert!(with.steps * 2 < without.steps, "{} steps of {}", with.steps, without.steps);
        }
    }
}

#[test]
fn rejected_drafts_cost_next_to_nothing() {
    let run = |pipeline_depth, draft_tokens| {
        let limits = Limits { max_sequences: 2, max_step_tokens: 64, pages: 40 };
        let backend = Scripted::new(limits, 64);
        let log = backend.log.clone();
        let mut engine =
            with_policy(backend, pipeline_depth, Policy { draft_tokens, ..Policy::default() });
        // Every token depends on all before it, so that only chance makes text repeat.
        let settings = SamplingParams { ignore_eos: true, ..params(4, 900) };
        engine.generate(&[prompt(30, 0), prompt(30, 2)], &[settings]).unwrap();
        assert_eq!(log.lock().unwrap().max_in_flight, pipeline_depth + 1);
        engine.metrics().clone()
    };
    for pipeline_depth in [0, 1] {
        let (without, with) = (run(pipeline_depth, 0), run(pipeline_depth, 8));
        assert!(
            with.draft_tokens * 20 < with.generated_tokens,
            "{} draft tokens",
            with.draft_tokens
        );
        assert!(with.steps * 20 < without.steps * 21, "{} steps of {}", with.steps, without.steps);
        // Where a draft makes the device wait, none is made for a chance repetition.
        assert!(pipeline_depth > 0 || with.drafts > 4, "{} drafts", with.drafts);
    }
}
