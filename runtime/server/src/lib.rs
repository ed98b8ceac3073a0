//! Ossmith's HTTP server: what the SDKs of OpenAI, Anthropic and Ollama, load generators and dashboards made for vLLM expect, over the engine.
//!
//! [`router`] is the whole surface over any [`GenerationBackend`], [`api`] its routes for another application's router, and [`serve`] runs it on a socket. [`EngineBackend`] is the real
//! engine, [`stub`] a scripted one. Imports go one way: `router` and `routes`; the APIs `chat`, `completions`, `responses`, `messages`
//! and `ollama`; `answer`, which writes answers with choices; `turn`, which prepares and parses one assistant turn; `options`, `guide` and
//! `mask`, which are what a request allows; `generation`; `backend`. Not here: tokenizing and the harmony format
//! (`ossmith-harmony`), batching and sampling (`ossmith`), what a grammar allows (`ossmith-guide`), flags
//! (the command).

#![forbid(unsafe_code)]

mod adapters;
mod alive;
mod answer;
mod arrivals;
mod backend;
mod batch;
mod bodies;
mod calendar;
mod chat;
mod clock;
mod completions;
mod config;
mod conversations;
mod error;
mod error_form;
mod extract;
mod fields;
mod files;
mod generation;
mod guide;
mod ids;
mod ignored;
mod logprobs;
mod mask;
mod memory;
mod messages;
mod metrics;
mod middleware;
mod ollama;
mod options;
mod origins;
mod page;
mod reading;
mod responses;
mod router;
mod routes;
mod seal;
mod serve;
#[cfg(test)]
mod simulation;
mod sse;
mod state;
mod stop_strings;
mod store;
pub mod stub;
mod tenant;
mod tenant_slots;
mod tokens;
mod tool_servers;
mod turn;
mod usage;

pub use adapters::{AdapterLimits, AdapterRefusal, Adapters};
pub use arrivals::{Arrival, ArrivalSink};
pub use backend::{
    EngineBackend, EngineControl, EngineState, GenerationBackend, GenerationRequest,
    GenerationStream, PoolBackend,
};
pub use batch::{BatchCounts, BatchError, run_batch};
pub use calendar::date_of_day;
pub use config::Config;
pub use error::ApiError;
pub use files::FileLimits;
#[doc(hidden)]
pub use guide::{GrammarFuzzer, hostile_request};
pub use ossmith_guide::{GrammarHelper, grammar_helper};
pub use reading::reading_threads;
pub use router::{api, router};
pub use serve::serve;
pub use store::{SharedStore, StoreLimits};
pub use tenant::new_salt;
pub use tool_servers::{ToolLimits, ToolServer, ToolServerAddress};
