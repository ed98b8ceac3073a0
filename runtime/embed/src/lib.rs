//! What a program that embeds Ossmith depends on. The runtime's own crate ([`ossmith`]) knows token ids alone, and stays free of the
//! rest: text is in [`harmony`], what is built in is in [`models`], and the functions here connect them.

#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

pub use ossmith::*;
#[cfg(feature = "guide")]
pub use ossmith_guide as guide;
pub use ossmith_harmony as harmony;
pub use ossmith_models as models;
#[cfg(feature = "server")]
pub use ossmith_server as server;

use harmony::{Conversation, Message, Role};

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder's `config.json` describes no model that can be run.
    #[error(transparent)]
    Model(#[from] models::Error),
    /// The weights cannot be read, or the engine cannot be started with them.
    #[error(transparent)]
    Engine(#[from] Error),
    /// The embedded weights cannot be unpacked.
    #[cfg(feature = "nano")]
    #[error("nano's embedded weights cannot be unpacked; build the program again: {0}")]
    Embedded(#[from] std::io::Error),
}

/// Starts an engine for the checkpoint in a folder, in Hugging Face's or OpenAI's layout. Its model is compiled from `config.json`.
///
/// # Errors
/// What is wrong with the folder or its files, or why the engine does not start with these options.
pub fn open(
    folder: impl AsRef<Path>,
    options: EngineOptions,
) -> std::result::Result<EngineHandle, OpenError> {
    let folder = folder.as_ref();
    let model = models::from_folder(folder)?;
    Ok(start(model, Checkpoint::open(folder, model)?, options)?)
}

/// Starts an engine for nano, the small model that is a part of the program.
///
/// # Errors
/// Why the engine does not start with these options.
#[cfg(feature = "nano")]
pub fn nano(options: EngineOptions) -> std::result::Result<EngineHandle, OpenError> {
    let weights = Checkpoint::from_bytes("nano", models::nano_checkpoint()?, models::NANO)?;
    Ok(start(models::NANO, weights, options)?)
}

fn start(
    model: &'static Model,
    weights: Checkpoint,
    options: EngineOptions,
) -> Result<EngineHandle> {
    EngineHandle::start(Engine::load(model, Arc::new(weights), options, &mut |_| {})?)
}

/// A request for the assistant's next turn, which ends with its answer or with a call of a tool. Its events have text.
///
/// # Errors
/// What of the conversation the format cannot express.
pub fn request(
    conversation: &Conversation,
    sampling: SamplingParams,
) -> std::result::Result<Request, harmony::RenderError> {
    let prompt = harmony::render_for_completion(conversation)?;
    let stops = [harmony::special::RETURN, harmony::special::CALL];
    let request = Request::new(prompt, sampling.with_stop_token_ids(stops));
    Ok(request.with_detokenizer(harmony::token_bytes))
}

/// Waits for the end of a turn and returns its messages: reasoning, calls, the answer. A turn that a limit cut off has what was
/// written until then.
///
/// # Errors
/// [`Error::RequestFailed`] with the reason for which the engine could not continue it.
pub fn answer(events: impl IntoIterator<Item = TokenEvent>) -> Result<Vec<Message>> {
    let mut tokens = Vec::new();
    for event in events {
        tokens.extend(event.token);
        if let Some(FinishReason::Failed(reason)) = event.finish {
            return Err(Error::RequestFailed { reason: reason.to_string() });
        }
    }
    Ok(harmony::parse_lenient(&tokens, Some(Role::Assistant)).messages)
}
