//! Serving on a socket, and stopping without cutting requests off.

use std::future::Future;
use std::io::{Error, ErrorKind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::backend::GenerationBackend;
use crate::config::Config;
use crate::memory;
use crate::router;
use crate::state::AppState;

/// How long a connection may take to send the head of a request, and may stay open between two requests.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// Time until a connection is accepted again where that failed, as it does where no descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// What the system may hold of an answer that its client does not read, per connection. The system's own bound is megabytes,
/// and a stream would go on into them and keep its place from those who wait.
const SEND_BYTES: usize = 32 << 10;
/// After so many connections memory is given back: a burst of them leaves many small pieces.
const RELEASE_CONNECTIONS: u64 = 1000;

/// Serves until `stop` is ready. Then no new request is accepted, those in flight get the configured time, and the rest is cut
/// off.
///
/// # Errors
/// None at present: a connection that cannot be accepted is logged, and accepting goes on.
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
    let router = router::with_state(Arc::clone(&app));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    let connections = GracefulShutdown::new();
    let mut stop = pin!(stop);
    for number in 1_u64.. {
        let socket = tokio::select! {
            socket = accept(&listener) => socket,
            () = &mut stop => break,
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = http.serve_connection(TokioIo::new(socket), service);
        let connection = connections.watch(connection);
        if number.is_multiple_of(RELEASE_CONNECTIONS) {
            memory::released();
        }
        tokio::spawn(async move {
            // What a client does to its connection is no concern of ours.
            let _ = connection.await;
        });
    }
    drop(listener);
    app.stop();
    tokio::select! {
        () = connections.shutdown() => {}
        () = sleep(drain) => {
            tracing::warn!("the time to stop is over, so requests that were still in flight are cut off");
        }
    }
    backend.stop();
    Ok(())
}

/// The next connection.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                // A token is a small write, which TCP must not delay. A socket that refuses the option is only slower.
                let _ = socket.set_nodelay(true);
                // One that refuses this only holds more.
                let _ = SockRef::from(&socket).set_send_buffer_size(SEND_BYTES);
                return socket;
            }
            Err(why) if is_of_connection(&why) => {}
            Err(why) => {
                tracing::error!(%why, "no connection can be accepted; too many open files are bounded by `ulimit -n`");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether an error is one of the connection that was to be accepted.
fn is_of_connection(error: &Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    [ConnectionAborted, ConnectionRefused, ConnectionReset].contains(&error.kind())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_holds_little_of_what_is_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = accept(&listener).await;
        // Linux counts its own bookkeeping, too.
        assert!(SockRef::from(&socket).send_buffer_size().unwrap() <= 2 * SEND_BYTES);
    }
}
