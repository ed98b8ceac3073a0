//! Direct sampling: render a conversation with harmony, hand the token ids to the engine, parse the tokens it returns.
//! The same three steps as with any engine that takes `prompt_token_ids`. Run it with
//! `cargo run --release -p ossmith --example harmony`.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::sync::Arc;

use ossmith::prelude::*;
use ossmith_harmony::{
    Conversation, DeveloperContent, Message, Role, SystemContent, parse_lenient,
    render_for_completion, special,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // 1. Render the prompt. Generation ends at <|return|> (an answer) or <|call|> (a tool call).
    let conversation = Conversation::new([
        Message::system(SystemContent::gpt_oss()),
        Message::developer(DeveloperContent::new("Answer the questions of the user.")),
        Message::user("What is the capital of France?"),
    ]);
    let prompt_token_ids = render_for_completion(&conversation)?;
    let sampling = SamplingParams::default()
        .with_temperature(1.0)
        .with_max_tokens(128)
        .with_stop_token_ids([special::RETURN, special::CALL]);

    // 2. Sample, with token ids in and out. For gpt-oss-20b: `ossmith_models::GPT_OSS_20B` and `Checkpoint::open`.
    let model = ossmith_models::NANO;
    let weights = Checkpoint::from_bytes("nano", ossmith_models::nano_checkpoint()?, model)?;
    let mut engine = Engine::load(model, Arc::new(weights), EngineOptions::default(), &mut |_| {})?;
    let outputs = engine.generate(&[prompt_token_ids], &[sampling])?;

    // 3. Parse the answer into messages, to be shown or appended to the conversation.
    let parsed = parse_lenient(&outputs[0].tokens, Some(Role::Assistant));
    for message in parsed.messages {
        println!("{}: {}", message.channel.as_deref().unwrap_or("-"), message.text());
    }
    Ok(())
}
