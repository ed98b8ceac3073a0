//! An answer that is valid against a JSON schema, without a server. Run it with
//! `cargo run --release -p ossmith-guide --example structured`.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::sync::Arc;

use ossmith::prelude::*;
use ossmith_guide::{Constraint, Guide, Rules, compile};
use ossmith_harmony::{
    Conversation, Message, Role, SystemContent, parse_lenient, render_for_completion,
};
use serde_json::{Value, json};

/// What nano answers on the CPU, where the final answer has to match a constraint.
pub(crate) fn answer(
    question: &str,
    constraint: &Constraint,
) -> Result<String, Box<dyn std::error::Error>> {
    let model = ossmith_models::NANO;
    let weights = Checkpoint::from_bytes("nano", ossmith_models::nano_checkpoint()?, model)?;
    let options = EngineOptions::default().with_device(Device::Cpu);
    let mut engine = Engine::load(model, Arc::new(weights), options, &mut |_| {})?;

    let conversation =
        Conversation::new([Message::system(SystemContent::gpt_oss()), Message::user(question)]);
    let prompt = render_for_completion(&conversation)?;
    // The reasoning is free for 48 tokens; the final answer follows the constraint from its first token to its last.
    let form = Some(Arc::new(compile(constraint)?));
    let rules = Rules { answer: form, thinking: Some(48), ..Rules::default() };
    let request = Request::new(prompt, SamplingParams::greedy().with_max_tokens(256))
        .with_mask(Guide::new(Arc::new(rules), &[]).into_mask());
    let tokens = engine.complete(vec![request])?.remove(0).tokens;
    let messages = parse_lenient(&tokens, Some(Role::Assistant)).messages;
    Ok(messages.last().map(Message::text).unwrap_or_default())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = json!({
        "type": "object",
        "properties": {"sum": {"type": "integer"}},
        "required": ["sum"],
        "additionalProperties": false,
    });
    let text = answer("What is 17 + 25?", &Constraint::Schema { schema, lenient: false })?;
    let value: Value = serde_json::from_str(&text)?;
    println!("{}", value["sum"]);
    Ok(())
}
