//! What the scripted model writes for agents: it calls the first of a few known tools once for each question, and then answers
//! with what the tool returned.

use ossmith_harmony::{SpecialSet, decode_lossy, encode_with_special};
use ossmith_server::GenerationRequest;
use ossmith_server::stub::Script;

/// Tools that clients bring, and the arguments with which they are called.
const CALLS: [(&str, &str); 2] = [
    ("get_weather", r#"{"city":"Paris"}"#),
    ("Bash", r#"{"command":"cat note.txt","description":"Read the note"}"#),
];

pub(crate) fn script(request: &GenerationRequest) -> Script {
    let prompt = decode_lossy(&request.engine_request.prompt).unwrap_or_default();
    let prefill = prompt.rsplit("<|start|>assistant").next().unwrap_or_default();
    let text = turn(&prompt, prefill);
    let tokens = encode_with_special(&text, &SpecialSet::All, &SpecialSet::NONE);
    Script {
        tokens: tokens.unwrap_or_default(),
        // Each token is a frame of its own, as an engine's is.
        pause: Some(std::time::Duration::ZERO),
        ..Script::default()
    }
}

/// The turn that continues this prompt, whose last part it may have already.
fn turn(prompt: &str, prefill: &str) -> String {
    let question = prompt.rfind("<|start|>user").unwrap_or_default();
    let result = prompt[question..].rsplit_once(" to=assistant<|channel|>commentary<|message|>");
    let called = CALLS.iter().find(|(name, _)| prompt.contains(&format!("type {name} = ")));
    let (reasoning, end) = match (result, called) {
        (Some((_, result)), _) => {
            let result = result.split("<|end|>").next().unwrap_or_default();
            (
                "It came back.",
                format!("<|channel|>final<|message|>The tool returned: {result}<|return|>"),
            )
        }
        (None, Some((name, arguments))) => (
            "A tool knows.",
            format!(
                " to=functions.{name}<|channel|>commentary <|constrain|>json<|message|>{arguments}<|call|>"
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
