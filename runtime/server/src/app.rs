//! The router and what its handlers share; [`serve`] runs it on a listener until it is told to stop.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::access;
use crate::config::Config;
use crate::engine::{Ask, Source};
use crate::error::{ApiError, Result};
use crate::generation::Generation;
use crate::metrics::Metrics;
use crate::responses::store::Store;
use crate::routes;

/// What handlers share.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) store: Store,
    /// When the server started, in seconds since 1970.
    pub(crate) created: u64,
    stopping: AtomicBool,
}

impl App {
    pub(crate) fn new(config: Config, source: Arc<dyn Source>) -> Arc<App> {
        let store = Store::new(config.store);
        Arc::new(App {
            config,
            source,
            metrics: Arc::new(Metrics::new()),
            store,
            created: now(),
            stopping: AtomicBool::new(false),
        })
    }

    /// Starts generations, each with the configured time, unless the server is stopping.
    pub(crate) fn generate(&self, mut asks: Vec<Ask>) -> Result<Generation> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(ApiError::unavailable("the server is stopping"));
        }
        asks.iter_mut().for_each(|ask| ask.timeout = self.config.timeout);
        Generation::start(self.source.as_ref(), &self.metrics, asks)
    }

    /// An error unless the name is that of the model that is served; no name means that one.
    pub(crate) fn check_model(&self, name: Option<&str>) -> Result<()> {
        match name {
            Some(name) if !self.config.serves(name) => {
                Err(ApiError::no_model(name, &self.config.names))
            }
            _ => Ok(()),
        }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The server's routes over a source of tokens.
pub fn router(config: Config, source: Arc<dyn Source>) -> Router {
    routes_of(App::new(config, source))
}

fn routes_of(app: Arc<App>) -> Router {
    let limit = app.config.body_bytes;
    let mut router = Router::new()
        .route("/v1/models", get(routes::models::list))
        .route("/v1/models/{*id}", get(routes::models::one))
        .route("/v1/chat/completions", post(crate::chat::handle))
        .route("/v1/completions", post(crate::completions::handle))
        .route("/v1/responses", post(crate::responses::create))
        .route(
            "/v1/responses/{id}",
            get(crate::responses::retrieve).delete(crate::responses::delete),
        )
        .route("/v1/responses/{id}/cancel", post(crate::responses::cancel))
        .route("/v1/responses/{id}/input_items", get(crate::responses::input_items))
        .route("/inference/v1/generate", post(crate::completions::tokens::handle))
        .route("/tokenize", post(routes::tokens::tokenize))
        .route("/detokenize", post(routes::tokens::detokenize))
        .route("/health", get(routes::status::health))
        .route("/ping", get(routes::status::health).post(routes::status::health))
        .route("/version", get(routes::status::version))
        .route("/load", get(routes::status::load))
        .route("/metrics", get(routes::status::metrics))
        .route("/openapi.json", get(routes::openapi::document))
        .route("/", get(routes::page::page));
    if app.config.development {
        router = router
            .route("/reset_prefix_cache", post(routes::status::reset_prefix_cache))
            .route("/start_profile", post(routes::status::no_profile))
            .route("/stop_profile", post(routes::status::no_profile));
    }
    router
        .fallback(|uri: Uri| async move {
            ApiError::not_found(None, format!("there is no {}; see /openapi.json", uri.path()))
        })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            ApiError::method(method.as_str(), uri.path())
        })
        .layer(DefaultBodyLimit::max(limit))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), access::around))
        .with_state(app)
}

/// Serves until `stop` is ready; then no request is taken any more, those under way get the configured time, and what is
/// left is cut off.
///
/// # Errors
/// What the listener reports.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    source: Arc<dyn Source>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let drain = config.drain;
    let app = App::new(config, Arc::clone(&source));
    // The first constrained request shall not wait for the vocabulary.
    tokio::task::spawn_blocking(crate::guide::warm);
    let (asked, mut waiting) = watch::channel(false);
    let stopping = Arc::clone(&app);
    // A token is a small write: TCP must not wait for more to go with it. A socket that refuses is only slower.
    let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
    let server = axum::serve(listener, routes_of(app)).with_graceful_shutdown(async move {
        stop.await;
        stopping.stopping.store(true, Ordering::Relaxed);
        // The receiver lives as long as this function; if it is gone, nobody waits.
        let _ = asked.send(true);
    });
    let late = async move {
        // The sender is kept by the shutdown future, so this ends when it was asked or dropped.
        let _ = waiting.wait_for(|asked| *asked).await;
        tokio::time::sleep(drain).await;
    };
    let served = tokio::select! {
        served = server => served,
        () = late => {
            tracing::warn!("requests were still under way when the time to stop was over");
            Ok(())
        }
    };
    source.stop();
    served
}
