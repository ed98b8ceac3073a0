//! The weights that nano brings: what they answer, and how often it is right.

use std::sync::Arc;

use ossmith::prelude::*;
use ossmith_harmony::{SpecialSet, encode_with_special};
use serde_json::Value;

use super::common::{Folder, ossmith};

fn json(args: &[&str]) -> Value {
    let output = ossmith(args).args(["--json", "--backend", "cpu"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    assert!(!stderr.contains("random weights"), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_sum_is_worked_out_and_right() {
    for (question, answer) in [("What is 17 + 25?", "17 + 25 = 42."), ("93 - 48", "93 - 48 = 45.")]
    {
        let said = json(&["generate", question, "-t", "0", "--date", "2026-01-31"]);
        assert_eq!(said["texts"]["final"], answer, "{said}");
        assert_eq!(said["finish_reason"], "stop");
        assert!(said["texts"]["analysis"].as_str().unwrap().contains(" = "), "{said}");
    }
}

#[test]
fn two_ranks_give_the_answers_of_one() {
    let args = ["generate", "What is 17 + 25?", "-t", "0", "--date", "2026-01-31"];
    let shared = json(&[&args[..], &["--tensor-parallel-size", "2", "--threads", "2"]].concat());
    assert_eq!(shared["texts"]["final"], "17 + 25 = 42.", "{shared}");
}

#[test]
fn ranks_that_cannot_be_are_refused_in_a_sentence() {
    for (args, wanted) in [
        (&["--tensor-parallel-size", "4"][..], "2 key/value heads cannot be shared by 4 ranks"),
        (&["--tensor-parallel-size", "2", "--device", "0,1,2"], "--device names 3"),
        (&["--device", "0,1"], "--device 0 is a CUDA device, and --backend names another"),
    ] {
        let output =
            ossmith(&["generate", "Hi", "--backend", "cpu"]).args(args).output().expect("a run");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains(wanted), "{stderr}");
    }
}

/// Groups of skills with the right answers that they must keep. A CPU with AVX-512 gives 20, 20, 12 and 39; the floors of the
/// first three leave one to sums taken in another order elsewhere.
const FLOORS: [(&[&str], u64); 4] = [
    (&["arithmetic", "follow_up", "larger", "numbers", "story"], 19),
    (&["choose", "count", "letters", "reverse", "sort"], 19),
    (&["call", "no_call", "result"], 11),
    (
        &[
            "cannot", "capitals", "compare", "date", "facts", "form", "memory", "repeat", "talk",
            "unknown",
        ],
        39,
    ),
];

#[test]
fn the_eval_keeps_its_scores() {
    let report = json(&["eval", "nano", "--limit", "4"]);
    let tally = |skill: &str, field: &str| report["skills"][skill][field].as_u64().unwrap();
    assert_eq!((tally("all", "cases"), tally("all", "well_formed")), (92, 92), "{report}");
    for (skills, floor) in FLOORS {
        let right: u64 = skills.iter().map(|skill| tally(skill, "right")).sum();
        assert!(right >= floor, "{skills:?}: {right} right, the floor is {floor}: {report}");
    }
    for skill in [
        "arithmetic",
        "story",
        "sort",
        "reverse",
        "count",
        "letters",
        "capitals",
        "facts",
        "date",
        "talk",
        "cannot",
        "memory",
    ] {
        assert_eq!(tally(skill, "right"), 4, "{skill}: {report}");
    }
}

#[test]
fn drafts_change_no_token_of_the_eval() {
    let folder = Folder::empty();
    let answers = |draft_tokens: &str| {
        let file = folder.path(draft_tokens);
        let limits = ["eval", "nano", "--limit", "2"];
        let report =
            json(&[&limits[..], &["--draft-tokens", draft_tokens, "--tokens", &file]].concat());
        (std::fs::read_to_string(file).unwrap(), report)
    };
    let (plain, drafted) = (answers("0"), answers("6"));
    assert_eq!(plain.0.lines().count(), 46);
    for (plain, drafted) in plain.0.lines().zip(drafted.0.lines()) {
        assert_eq!(plain, drafted);
    }
    assert_eq!(plain.1["skills"], drafted.1["skills"]);
    let number = |key: &str| drafted.1[key].as_u64().unwrap();
    assert!(number("accepted_tokens") > 0 && number("draft_tokens") > 0, "{}", drafted.1);
}

/// Nano on the CPU, one prompt at a time.
fn nano(draft_tokens: usize) -> Engine {
    let model = ossmith_models::NANO;
    let bytes = ossmith_models::nano_checkpoint().unwrap();
    let weights = Arc::new(Checkpoint::from_bytes("nano", bytes, model).unwrap());
    let options = EngineOptions::default()
        .with_device(Device::Cpu)
        .with_limits(Limits::for_sequences(1, 2048))
        .with_threads(2)
        .with_policy(Policy::default().with_draft_tokens(draft_tokens));
    Engine::load(model, weights, options, &mut |_| {}).unwrap()
}

fn tokens(text: &str) -> Vec<u32> {
    encode_with_special(text, &SpecialSet::All, &SpecialSet::NONE).unwrap()
}

/// Greedy answers.
fn answers(engine: &mut Engine, prompts: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let params = SamplingParams::greedy().with_max_tokens(150);
    let answers = engine.generate(prompts, &[params]).unwrap();
    answers.into_iter().map(|answer| answer.tokens).collect()
}

/// Questions of many kinds; nano answers most of them as before when they are asked again.
const QUESTIONS: [&str; 10] = [
    "What is 17 + 25?",
    "What is the capital of France?",
    "Sort these numbers: 40, 12, 77, 5",
    "Write the word stone backwards.",
    "How many letters are in the word orange?",
    "What can you do?",
    "Which is larger, 31 or 13?",
    "What is 93 - 48?",
    "What is the capital of Italy?",
    "Who are you?",
];

#[test]
#[allow(clippy::print_stdout, reason = "the figures are for people")]
fn a_copy_takes_half_the_steps_or_less_with_the_same_tokens() {
    let turn = |question: &&str| {
        tokens(&format!("<|start|>user<|message|>{question}<|end|><|start|>assistant"))
    };
    let first: Vec<Vec<u32>> = QUESTIONS.iter().map(turn).collect();
    let (mut plain, mut drafted) = (nano(0), nano(8));
    let said = answers(&mut plain, &first);
    let (mut copies, mut slow_steps, mut fast_steps) = (0, 0, 0);
    for (asked, said) in first.iter().zip(&said) {
        // The same question after its own answer, with its reasoning.
        let whole = &said[..said.len() - 1];
        let again = [&asked[..], whole, &tokens("<|end|>"), asked].concat();
        let before = (plain.metrics().steps, drafted.metrics().steps);
        let slow = answers(&mut plain, std::slice::from_ref(&again));
        assert_eq!(slow, answers(&mut drafted, &[again]));
        if slow[0] == *said {
            copies += 1;
            slow_steps += plain.metrics().steps - before.0;
            fast_steps += drafted.metrics().steps - before.1;
        }
    }
    println!("{copies} copies: {fast_steps} steps with drafts, {slow_steps} without");
    assert!(copies >= QUESTIONS.len() / 2, "nano copied {copies} answers only");
    assert!(2 * fast_steps <= slow_steps, "{fast_steps} steps of {slow_steps}");
}
