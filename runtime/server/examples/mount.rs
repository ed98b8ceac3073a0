//! The server inside another application: its routes are merged into the router of an application that has routes of its
//! own. Run it with `cargo run --release -p ossmith-server --example mount`, then open http://127.0.0.1:3000.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use ossmith::prelude::*;
use ossmith_server::{Config, EngineBackend, api};

/// The application's own page, and every API of the server beside it.
pub(crate) fn application(engine: EngineHandle) -> Router {
    let config = Config::of_engine(&engine);
    Router::new()
        .route("/", get(|| async { "An application with a page of its own." }))
        .merge(api(config, Arc::new(EngineBackend::new(engine))))
}

/// nano on the CPU, on a thread of its own.
pub(crate) fn engine() -> Result<EngineHandle, Box<dyn std::error::Error>> {
    let model = ossmith_models::NANO;
    let weights = Checkpoint::from_bytes("nano", ossmith_models::nano_checkpoint()?, model)?;
    let options = EngineOptions::default().with_device(Device::Cpu);
    let engine = Engine::load(model, Arc::new(weights), options, &mut |_| {})?;
    Ok(EngineHandle::start(engine)?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, application(engine()?)).await?)
}
