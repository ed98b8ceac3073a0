//! nano through the one dependency: an answer, the next turn of its conversation, and a folder that is none.

use ossmith_embed::harmony::{Conversation, Message};
use ossmith_embed::{
    Device, EngineOptions, OpenError, SamplingParams, answer, nano, open, request,
};

fn options() -> EngineOptions {
    EngineOptions::default().with_device(Device::Cpu)
}

#[test]
fn nano_answers_and_remembers() {
    let engine = nano(options()).expect("nano is embedded");
    let mut messages = vec![Message::user("My name is Alice.")];
    for (next, want) in [("What is my name?", "Alice"), ("What is 17 + 25?", "42")] {
        let turn = |messages: &[Message]| {
            let conversation = Conversation::new(messages.to_vec());
            let request = request(&conversation, SamplingParams::greedy()).expect("a request");
            let events = engine.submit(request).expect("an engine that runs");
            answer(events).expect("a turn that ends")
        };
        messages.extend(turn(&messages));
        messages.push(Message::user(next));
        let last = turn(&messages).pop().expect("an answer").text();
        assert!(last.contains(want), "{next}: {last}");
    }
    engine.shutdown();
}

#[test]
fn a_folder_without_a_model_is_an_error_with_its_name() {
    let folder = std::env::temp_dir().join("there is no such folder");
    let error = open(&folder, options()).expect_err("no model");
    assert!(matches!(error, OpenError::Model(_)), "{error:?}");
    assert!(error.to_string().contains("no such folder"), "{error}");
}
