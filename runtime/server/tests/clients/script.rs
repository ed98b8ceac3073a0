//! What the scripted model writes for agents: for each question it calls the first of a few known tools, once or more often, and
//! then answers with what the last call returned.

use std::time::Duration;

use ossmith::FinishReason;
use ossmith_harmony::{SpecialSet, decode_lossy, encode_with_special};
use ossmith_server::GenerationRequest;
use ossmith_server::stub::Script;

/// Tools that clients bring, and the calls that are made of each.
const CALLS: [(&str, &[(&str, &str)]); 3] = [
    ("get_weather", &[("functions.get_weather", r#"{"city":"Paris"}"#)]),
    ("Bash", &[("functions.Bash", r#"{"command":"cat note.txt","description":"Read the note"}"#)]),
    ("exec_command", &CODEX),
];

/// What Codex is to do: run a command, apply a patch, see what came of it.
const CODEX: [(&str, &str); 3] = [
    ("functions.exec_command", r#"{"cmd":"cat note.txt"}"#),
    (
        "functions.exec_command",
        r#"{"cmd":"apply_patch <<'EOF'\n*** Begin Patch\n*** Update File: note.txt\n@@\n-the blue book\n+the red book\n*** End Patch\nEOF"}"#,
    ),
    ("functions.exec_command", r#"{"cmd":"cat note.txt"}"#),
];

/// An answer for the chat page: what it shows, and what it must leave out.
const MARKDOWN: &str = r#"# Sorted lists

Two *sorted* lists are **merged** by taking the smaller head, `O(n + m)` in all:

1. compare the heads,
2. take the smaller,
   - or the first, if they are equal,
3. repeat.

```python
def merge(left, right):
    result = []
    while left and right:
        result.append((left if left[0] <= right[0] else right).pop(0))
    return result + left + right  # a line that is long enough to be wider than the screen of a phone
```

| list | length | time |
| --- | --- | --- |
| left | 3 | 0.1 µs |
| right | 5 | 0.2 µs |

> A quotation, with a [link](https://example.com).

<script>document.title = 'broken'</script><img src=x onerror="document.title = 'broken'">

[a bad link](javascript:alert(1)) and AWordThatIsFarTooLongForAnyLineOfAPhoneSoItHasToBeBrokenSomewhereInTheMiddle.
"#;

pub(crate) fn script(request: &GenerationRequest) -> Script {
    let prompt = decode_lossy(&request.engine_request.prompt).unwrap_or_default();
    let prefill = prompt.rsplit("<|start|>assistant").next().unwrap_or_default();
    let text = turn(&prompt, prefill);
    let tokens = encode_with_special(&text, &SpecialSet::All, &SpecialSet::NONE);
    // The chat page's test writes these; an agent's instructions may have the same words.
    let asked = asked(&prompt);
    let failure =
        asked.ends_with(">Fail.").then(|| FinishReason::Failed("the scripted model fails".into()));
    Script {
        tokens: tokens.unwrap_or_default(),
        // Each token is a frame of its own, as an engine's is, and an answer to this can be stopped.
        pause: Some(Duration::from_millis(if is_slow(asked) { 50 } else { 0 })),
        failure,
    }
}

/// The user's last message.
fn asked(prompt: &str) -> &str {
    let question = prompt.rfind("<|start|>user").unwrap_or_default();
    prompt[question..].split("<|end|>").next().unwrap_or_default()
}

/// Whether the answer to this lasts until it is stopped.
fn is_slow(asked: &str) -> bool {
    asked.contains(">Slowly") || asked.contains(">Ponder")
}

/// The turn that continues this prompt, whose last part it may have already.
fn turn(prompt: &str, prefill: &str) -> String {
    let question = prompt.rfind("<|start|>user").unwrap_or_default();
    let results: Vec<&str> =
        prompt[question..].split(" to=assistant<|channel|>commentary<|message|>").skip(1).collect();
    let calls = CALLS.iter().find(|(name, _)| prompt.contains(&format!("type {name} = ")));
    let next = calls.and_then(|(_, calls)| calls.get(results.len()));
    let asked = asked(prompt);
    if is_slow(asked) {
        let channel = if asked.contains(">Ponder") { "analysis" } else { "final" };
        return format!("<|channel|>{channel}<|message|>{}", "word ".repeat(100_000));
    }
    let (reasoning, end) = match (results.last(), next) {
        (None, None) if asked.contains("Markdown") => (
            "They want to see every form of it.",
            format!("<|channel|>final<|message|>{MARKDOWN}<|return|>"),
        ),
        (None, None) if asked.contains("Count") => {
            let numbers: Vec<String> = (1..2000).map(|number| number.to_string()).collect();
            ("One by one.", format!("<|channel|>final<|message|>{}<|return|>", numbers.join(", ")))
        }
        (Some(result), None) => {
            let result = result.split("<|end|>").next().unwrap_or_default();
            (
                "It came back.",
                format!("<|channel|>final<|message|>The tool returned: {result}<|return|>"),
            )
        }
        (_, Some((recipient, arguments))) => (
            "A tool knows.",
            format!(
                " to={recipient}<|channel|>commentary <|constrain|>json<|message|>{arguments}<|call|>"
            ),
        ),
        (None, None) => ("Easy.", "<|channel|>final<|message|>Hello, wörld!<|return|>".to_owned()),
    };
    let whole = format!("<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant{end}");
    match whole.strip_prefix(prefill) {
        Some(rest) => rest.to_owned(),
        // The answer has a header already.
        None => end.rsplit_once("<|message|>").map_or(end.clone(), |(_, text)| text.to_owned()),
    }
}
