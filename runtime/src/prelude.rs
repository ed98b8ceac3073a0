//! The names that most embedding programs use: `use ossmith::prelude::*;`.

pub use crate::{
    Checkpoint, Device, Engine, EngineHandle, EngineOptions, Error, Events, FinishReason, Limits,
    Model, Policy, Request, SamplingParams, TokenEvent,
};
