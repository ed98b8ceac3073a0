//! The engine embedded: nano on the best device there is, an engine on a thread of its own, an answer that streams. Run
//! it with `cargo run --release -p ossmith --example embed`.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::sync::Arc;

use ossmith::prelude::*;
use ossmith_harmony::{SpecialSet, encode_with_special, token_bytes};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = ossmith_models::NANO;
    let weights = Checkpoint::from_bytes("nano", ossmith_models::nano_checkpoint()?, model)?;
    let engine = Engine::load(model, Arc::new(weights), EngineOptions::default(), &mut |_| {})?;
    let handle = EngineHandle::start(engine)?; // clone it for as many threads as you like

    let text = "<|start|>user<|message|>What is 17 + 25?<|end|><|start|>assistant";
    let prompt = encode_with_special(text, &SpecialSet::All, &SpecialSet::NONE)?;
    let request = Request::new(prompt, SamplingParams::greedy()).with_detokenizer(token_bytes);
    for event in handle.submit(request)? {
        print!("{}", event.text);
    }
    println!();
    handle.shutdown();
    Ok(())
}
