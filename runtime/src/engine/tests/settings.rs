//! Single settings: stop strings, masks, logprobs, deadlines, the queue's limit.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use super::super::testing::{expected, expected_with, logits_after};
use super::super::{
    Allowed, Completion, Detokenizer, FinishReason, MaskSource, Request, RequestId, TokenMask,
};
use super::*;
use crate::Error;

fn wide() -> Engine {
    engine(Limits { max_sequences: 4, max_step_tokens: 64, pages: 40 }, 64, 1)
}

fn answer(request: Request) -> Completion {
    wide().complete(vec![request]).unwrap().remove(0)
}

/// Token 10 * i + j is two letters; token 1 is not text.
fn letters() -> Arc<dyn Detokenizer> {
    static TEXT: [[u8; 2]; 97] = {
        let mut text = [[0; 2]; 97];
        let mut id = 0;
        while id < 97 {
            text[id] = [b'a' + (id / 10) as u8, b'a' + (id % 10) as u8];
            id += 1;
        }
        text
    };
    Arc::new(|token: u32| match token {
        1 => None,
        id => TEXT.get(id as usize).map(|text| &text[..]),
    })
}

#[test]
fn stop_strings_end_a_sample_where_they_begin() {
    let base = SamplingParams { ignore_eos: true, ..params(5, 40) };
    let plain =
        Request { detokenizer: Some(letters()), ..Request::new(prompt(6, 0), base.clone()) };
    let whole = answer(plain.clone());
    assert_eq!(whole.finish, FinishReason::Length);
    let bytes = |token: &u32| letters().token_bytes(*token).map(<[u8]>::to_vec).unwrap_or_default();
    let text: String = whole.tokens.iter().flat_map(bytes).map(char::from).collect();
    assert_eq!(whole.text, text);
    // One letter of one token and one of the next, so that the stop lies across their border.
    let at = 21;
    let stop = text[at..at + 2].to_owned();
    let first = text.find(&stop).unwrap();
    for (include_stop, end) in [(false, first), (true, first + 2)] {
        let params =
            SamplingParams { stop: vec!["??".into(), stop.clone()], include_stop, ..base.clone() };
        let stopped = answer(Request { params, ..plain.clone() });
        assert_eq!(stopped.text, text[..end]);
        assert_eq!(stopped.finish, FinishReason::StopString(1));
        assert!(whole.tokens.starts_with(&stopped.tokens) && stopped.tokens.len() < 40);
    }
    let params = SamplingParams { stop: vec![stop], min_tokens: 40, ..base };
    assert_eq!(answer(Request { params, ..plain }).finish, FinishReason::Length);
}

/// Allows only multiples of a number that grows with the sample; the text selects a failure.
struct Multiples(&'static str);
struct MultiplesOf(u32, &'static str);

impl MaskSource for Multiples {
    fn start(&self, sample: usize) -> Box<dyn TokenMask> {
        Box::new(MultiplesOf(sample as u32 + 3, self.0))
    }
}

impl TokenMask for MultiplesOf {
    fn fill(&mut self, generated: &[u32], words: &mut [u32]) -> Result<Allowed, String> {
        match (generated.len(), self.1) {
            (4, "fail") => return Err("the grammar is at its end".to_owned()),
            (4, "panic") => panic!("a bug in the grammar"),
            (4, "nothing") => return Ok(Allowed::Listed),
            (2, "free") => return Ok(Allowed::All),
            _ => {}
        }
        for id in (0..SPEC.vocab as u32).step_by(self.0 as usize) {
            words[id as usize / 32] |= 1 << (id % 32);
        }
        Ok(Allowed::Listed)
    }
}

#[test]
fn masks_constrain_every_token_of_their_sample() {
    let settings = SamplingParams { n: 2, ignore_eos: true, ..params(1, 12) };
    let mut engine = wide();
    for kind in ["bind", "free"] {
        let request = Request::new(prompt(70, 0), settings.clone());
        let masked = Request { mask: Some(Arc::new(Multiples(kind))), ..request.clone() };
        // Beside a request without a mask.
        let answers = engine.complete(vec![masked, request.clone()]).unwrap();
        for (sample, answer) in answers[..2].iter().enumerate() {
            let mut mask = |generated: &[u32], row: &mut [f32]| {
                let free = kind == "free" && generated.len() == 2;
                for (id, logit) in row.iter_mut().enumerate() {
                    if !free && id % (sample + 3) != 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            };
            let want = expected_with(&request.prompt, &settings, sample, usize::MAX, &mut mask);
            assert_eq!(answer.tokens, want);
        }
        assert_eq!(answers[2].tokens, expected(&request.prompt, &settings));
    }
}

/// A grammar whose masks are computed only when the test lets them.
struct Slow(Arc<(Mutex<bool>, Condvar)>);

impl MaskSource for Slow {
    fn start(&self, _sample: usize) -> Box<dyn TokenMask> {
        Box::new(Slow(self.0.clone()))
    }
}

impl TokenMask for Slow {
    fn fill(&mut self, _generated: &[u32], _words: &mut [u32]) -> Result<Allowed, String> {
        let (open, opened) = &*self.0;
        let open = open.lock().unwrap();
        let limit = Duration::from_secs(60);
        let (open, _) = opened.wait_timeout_while(open, limit, |open| !*open).unwrap();
        if *open { Ok(Allowed::All) } else { Err("nobody opened the gate".to_owned()) }
    }
}

#[test]
fn a_late_mask_delays_its_own_sample_only() {
    let settings = SamplingParams { ignore_eos: true, ..params(1, 12) };
    for depth in [0, 1] {
        let mut engine =
            engine(Limits { max_sequences: 4, max_step_tokens: 64, pages: 40 }, 64, depth);
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let free = Request::new(prompt(70, 0), settings.clone());
        let slow = Request::new(prompt(70, 3), settings.clone());
        let slow = Request { mask: Some(Arc::new(Slow(gate.clone()))), ..slow };
        let quick = Request::new(prompt(70, 5), settings.clone());
        let quick = Request { mask: Some(Arc::new(Multiples("free"))), ..quick };
        let ids: Vec<RequestId> =
            [&slow, &free, &quick].map(|request| engine.submit(request.clone()).unwrap()).into();
        let mut tokens = vec![Vec::new(); ids.len()];
        let mut finished = 0;
        while !engine.is_idle() {
            for event in engine.step().unwrap() {
                let at = ids.iter().position(|&id| id == event.request).unwrap();
                tokens[at].extend(event.token);
                finished += usize::from(event.finish.is_some());
                assert!(at > 0 || finished >= 2, "the slow one came first");
            }
            if finished == 2 {
                *gate.0.lock().unwrap() = true;
                gate.1.notify_all();
            }
        }
        assert_eq!(tokens[0], expected(&slow.prompt, &settings), "depth {depth}");
        assert_eq!(tokens[1], expected(&free.prompt, &settings), "depth {depth}");
        assert_eq!((tokens[2].len(), finished), (12, 3), "depth {depth}");
    }
}

/// A grammar that reports the threads on which it is started and freed.
struct Heavy(Sender<(&'static str, ThreadId)>);

impl MaskSource for Heavy {
    fn start(&self, _sample: usize) -> Box<dyn TokenMask> {
        self.0.send(("started", std::thread::current().id())).unwrap();
        Box::new(Heavy(self.0.clone()))
    }
}

impl TokenMask for Heavy {
    fn fill(&mut self, _generated: &[u32], _words: &mut [u32]) -> Result<Allowed, String> {
        Ok(Allowed::All)
    }
}

impl Drop for Heavy {
    fn drop(&mut self) {
        let _ = self.0.send(("freed", std::thread::current().id()));
    }
}

#[test]
fn grammars_are_started_and_freed_beside_the_steps() {
    let settings = SamplingParams { ignore_eos: true, n: 2, ..params(1, 3) };
    let (sender, threads) = channel();
    let mut engine = wide();
    let mask: Arc<dyn MaskSource> = Arc::new(Heavy(sender));
    engine.complete(vec![Request::new(prompt(70, 0), settings.clone()).with_mask(mask)]).unwrap();
    // Two samples, and the source that they had in common, which goes with the last of them.
    for _ in 0..5 {
        let (what, thread) = threads.recv_timeout(Duration::from_secs(120)).unwrap();
        assert_ne!(thread, std::thread::current().id(), "{what} on the thread of the steps");
    }
    assert!(threads.try_recv().is_err());
    assert!(engine.is_idle());
}

#[test]
fn a_sample_that_ends_while_its_mask_is_late_is_gone() {
    let settings = SamplingParams { ignore_eos: true, ..params(1, 12) };
    let mut engine = wide();
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let request = Request::new(prompt(70, 0), settings.clone());
    let slow = Request { mask: Some(Arc::new(Slow(gate.clone()))), ..request.clone() };
    let id = engine.submit(slow).unwrap();
    for _ in 0..20 {
        assert!(engine.step().unwrap().is_empty());
    }
    engine.cancel(id);
    let answer = engine.complete(vec![request.clone()]).unwrap();
    assert_eq!(answer[0].tokens, expected(&request.prompt, &settings));
    assert!(engine.is_idle());
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
}

#[test]
fn a_mask_that_fails_ends_its_sample_and_no_other() {
    for (kind, message) in [
        ("fail", "the grammar is at its end"),
        ("panic", "the mask panicked: a bug in the grammar"),
        ("nothing", "the mask allows no token"),
    ] {
        let settings = SamplingParams { ignore_eos: true, ..params(1, 12) };
        let good = Request::new(prompt(70, 0), settings.clone());
        let bad = Request { mask: Some(Arc::new(Multiples(kind))), ..good.clone() };
        let mut engine = wide();
        let (good_id, bad_id) = (engine.submit(good.clone()).unwrap(), engine.submit(bad).unwrap());
        let (mut tokens, mut end) = (Vec::new(), None);
        while !engine.is_idle() {
            for event in engine.step().unwrap() {
                if event.request == good_id {
                    tokens.extend(event.token);
                } else {
                    assert_eq!(event.request, bad_id);
                    end = event.finish.or(end);
                }
            }
        }
        assert_eq!(tokens, expected(&good.prompt, &settings));
        let reported = matches!(&end, Some(FinishReason::Failed(why)) if why.contains(message));
        assert!(reported, "{kind}: {end:?}");
        assert!(engine.failure().is_none());
    }
}

/// Logarithms of a row's probabilities, in f64.
fn log_softmax(row: &[f32]) -> Vec<f64> {
    let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
    row.iter().map(|&logit| f64::from(logit) - sum.ln()).collect()
}

#[test]
fn logprobs_are_the_models_own_and_complete() {
    let settings = SamplingParams {
        logprobs: Some(3),
        prompt_logprobs: Some(2),
        temperature: 0.5,
        presence_penalty: 1.0,
        ignore_eos: true,
        ..params(8, 10)
    };
    let mut engine = wide();
    let request = Request::new(prompt(150, 1), settings);
    // Once before and once after its prefix is cached.
    for _ in 0..2 {
        let answer = engine.complete(vec![request.clone()]).unwrap().remove(0);
        let tokens = [&request.prompt[..], &answer.tokens].concat();
        assert_eq!((answer.prompt.logprobs.len(), answer.logprobs.len()), (150, 10));
        assert!(answer.prompt.logprobs[0].is_none());
        let of_prompt = answer.prompt.logprobs[1..].iter().flatten();
        for (at, got) in (1..).zip(of_prompt.chain(&answer.logprobs)) {
            let want = log_softmax(&logits_after(&tokens[..at]));
            assert!((f64::from(got.logprob) - want[tokens[at] as usize]).abs() < 1e-5);
            let likelier = want.iter().filter(|&&p| p > want[tokens[at] as usize]).count();
            assert_eq!(got.rank as usize, likelier + 1);
            let mut order: Vec<usize> = (0..want.len()).collect();
            order.sort_by(|&a, &b| want[b].total_cmp(&want[a]).then(a.cmp(&b)));
            assert_eq!(got.top.len(), if at < 150 { 2 } else { 3 });
            for (&(id, logprob), &best) in got.top.iter().zip(&order) {
                assert_eq!(id as usize, best);
                assert!((f64::from(logprob) - want[best]).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn a_deadline_ends_a_request_that_runs_and_one_that_waits() {
    let mut engine = engine(Limits { max_sequences: 1, max_step_tokens: 64, pages: 40 }, 64, 1);
    let settings = SamplingParams { ignore_eos: true, ..params(1, 500) };
    let soon = Some(Instant::now() + Duration::from_millis(30));
    for _ in 0..2 {
        let request = Request::new(prompt(5, 0), settings.clone());
        engine.submit(Request { deadline: soon, ..request }).unwrap();
    }
    assert_eq!(engine.next_deadline(), soon);
    let mut ends = Vec::new();
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            ends.extend(event.finish);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(ends, [FinishReason::Deadline, FinishReason::Deadline]);
    assert_eq!((engine.free_pages(), engine.next_deadline()), (40, None));
}

#[test]
fn a_full_queue_is_refused_with_its_numbers() {
    let policy = Policy { max_waiting: 3, ..Policy::default() };
    let mut engine = with_policy(Scripted::new(LIMITS, 10), 0, policy);
    let request_of = |n| Request::new(prompt(5, 0), SamplingParams { n, ..params(1, 5) });
    engine.submit(request_of(4)).unwrap();
    let error = engine.submit(request_of(3)).unwrap_err();
    assert!(matches!(error, Error::QueueFull { waiting: 4, limit: 3, capacity: 6 }));
    engine.submit(request_of(2)).unwrap();
    while !engine.is_idle() {
        engine.step().unwrap();
    }
    engine.submit(request_of(6)).unwrap();
}

#[test]
fn without_a_queue_runs_what_fits_and_waits_nothing() {
    let policy = Policy { max_waiting: 0, ..Policy::default() };
    let mut engine = with_policy(Scripted::new(LIMITS, 10), 0, policy);
    let request_of = |n| Request::new(prompt(5, 0), SamplingParams { n, ..params(1, 5) });
    for _ in 0..2 {
        let never = engine.submit(request_of(4)).unwrap_err();
        assert!(never.is_bad_request() && never.to_string().contains("at most 3"), "{never}");
        engine.submit(request_of(2)).unwrap();
        engine.submit(request_of(1)).unwrap();
        let later = engine.submit(request_of(1)).unwrap_err();
        assert!(matches!(later, Error::QueueFull { limit: 0, capacity: 3, .. }), "{later}");
        while !engine.is_idle() {
            engine.step().unwrap();
        }
    }
}
