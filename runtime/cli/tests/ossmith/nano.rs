//! The weights that nano brings: what they answer, and how often it is right.

use super::common::ossmith;
use serde_json::Value;

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

/// Groups of skills with the right answers that they must keep. A CPU with AVX-512 gives 20, 18, 12 and 36; the floors leave
/// one to sums taken in another order elsewhere.
const FLOORS: [(&[&str], u64); 4] = [
    (&["arithmetic", "follow_up", "larger", "numbers", "story"], 19),
    (&["choose", "count", "letters", "reverse", "sort"], 17),
    (&["call", "no_call", "result"], 11),
    (&["cannot", "capitals", "compare", "date", "facts", "form", "memory", "talk", "unknown"], 35),
];

#[test]
fn the_eval_keeps_its_scores() {
    let report = json(&["eval", "nano", "--limit", "4"]);
    let tally = |skill: &str, field: &str| report["skills"][skill][field].as_u64().unwrap();
    assert_eq!((tally("all", "cases"), tally("all", "well_formed")), (88, 88), "{report}");
    for (skills, floor) in FLOORS {
        let right: u64 = skills.iter().map(|skill| tally(skill, "right")).sum();
        assert!(right >= floor, "{skills:?}: {right} right, the floor is {floor}: {report}");
    }
    for skill in ["arithmetic", "capitals", "compare", "count", "letters", "reverse", "cannot"] {
        assert_eq!(tally(skill, "right"), 4, "{skill}: {report}");
    }
}
