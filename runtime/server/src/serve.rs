//! Serving on a socket, and stopping without cutting requests off.

use std::future::Future;
use std::sync::Arc;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::backend::GenerationBackend;
use crate::config::Config;
use crate::router;
use crate::state::AppState;

/// Serves until `stop` is ready. Then no new request is accepted, those in flight get the configured time, and the rest is cut
/// off.
///
/// # Errors
/// What the listener reports.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    backend: Arc<dyn GenerationBackend>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let drain = config.drain;
    let app = AppState::new(config, Arc::clone(&backend));
    // Otherwise the first constrained request would wait for the vocabulary.
    app.compiler.warm();
    let (stopped, mut stopping) = watch::channel(false);
    // A token is a small write, which TCP must not delay. A socket that refuses the option is only slower.
    let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
    let router = router::with_state(Arc::clone(&app));
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        stop.await;
        app.stop();
        // The receiver lives as long as this function.
        let _ = stopped.send(true);
    });
    let late = async move {
        // This also ends when the sender is dropped, with the server.
        let _ = stopping.wait_for(|stopped| *stopped).await;
        tokio::time::sleep(drain).await;
    };
    let served = tokio::select! {
        served = server => served,
        () = late => {
            tracing::warn!("the time to stop is over, so requests that were still in flight are cut off");
            Ok(())
        }
    };
    backend.stop();
    served
}
